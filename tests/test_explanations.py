"""Reasons for what rewards give: their own where they have one, and something to read everywhere."""

import functools

import pytest

from payoff.explanations import explain
from payoff.rewards import RewardError
from payoff.signals.choices import label_set


def shouting(response):
    """1 for capitals."""
    return float(response.isupper())


def test_of_ones_own_graders_and_of_bound_options():
    assert explain(shouting, [{"response": "A"}])[0] == (1.0, "1 by \"1 for capitals.\"; response 'A'")
    rows = [{"response": "a, b", "reference": ["a", "c"]}]
    assert explain(functools.partial(label_set, measure="recall"), rows)[0].value == 0.5


def test_of_a_group_each_member_has_its_reason():
    rows = [{"prompt": "p", "response": said} for said in ("7", "8", "7", "no idea")] + [{"prompt": "q", "response": "1"}]
    found = explain("majority-agreement", rows)
    assert [one.value for one in found] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert "response '8'" in found[1].reason
    assert "response '1'" in found[4].reason


def test_of_steps_channels_signals_and_exceptions():
    assert explain("chain-steps", [{"prompt": "", "steps": ["1+1=2;", "1+1=3;"]}])[0].value == [1.0, 0.0]

    def both(response):
        return {"long": float(len(response)), "odd": None}

    assert explain(both, [{"response": "ab"}])[0] == ({"long": 2.0, "odd": None}, "long 2, odd no verdict by \"\"; response 'ab'")
    assert explain("length", [{"response": "ab"}])[0].value == 1.0
    assert "as the channel" in explain("length", [{"response": "ab"}])[0].reason
    found = explain("tulu3-rlvr", [{"response": "ab", "verifier": "unheard-of"}])[0]
    assert found == (None, "unknown verifier 'unheard-of'")

    def broken(response):
        raise RuntimeError("the parser broke")

    assert explain(broken, [{"response": "ab"}])[0] == (None, "RuntimeError: the parser broke")
    with pytest.raises(RewardError, match="unknown reward"):
        explain("no-such-reward", [{"response": ""}])
