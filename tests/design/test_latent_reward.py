"""A scripted language model writes factors: answers are joined, tried, and mended until they run or there is no try left."""

import pytest

from payoff.design.latent_reward import tried, write_factors
from payoff.sandbox import Sandbox

SANDBOX = Sandbox(level="process")
STEPS = [([0.0, 1.0], [0.5]), ([1.0, -1.0], [0.0]), ([2.0, 0.0], [1.0])]
GOOD = "Here:\n```python\nimport math\ndef factors(state, action):\n    return [math.cos(state[0]), action[0] ** 2]\n```\nIt holds."
ASKED = {"task": "Swing up.", "state": "angle, speed", "action": "torque", "tried_on": STEPS, "sandbox": SANDBOX}


def scripted(*answers):
    """A model that gives these answers in turn, and what it was told."""
    told, left = [], iter(answers)

    def ask(prompt):
        told.append(prompt)
        return next(left)

    return ask, told


def test_answers_are_joined_and_what_comes_out_runs():
    ask, told = scripted("no code", GOOD, "```\ndef factors(state, action):\n    return [state[0]]\n```", GOOD)
    found = write_factors(ask, candidates=3, **ASKED)
    assert (found.size, found.asked, len(found.problems)) == (2, 4, 1)
    assert found.source.startswith("import math\ndef factors(")
    assert "Swing up." in told[0]
    assert "angle, speed" in told[0]
    assert "return [state[0]]" in told[3]  # the choice is among those that could be read


def test_what_went_wrong_is_sent_back_until_it_runs():
    wrong = "```python\ndef factors(state, action):\n    return [state[7]]\n```"
    ask, told = scripted(wrong, wrong.replace("state[7]", "'a'"), GOOD)
    found = write_factors(ask, candidates=1, **ASKED)
    assert found.asked == 3
    assert "IndexError" in told[1]
    assert "no list of finite numbers" in told[2]
    with pytest.raises(ValueError, match="no code that works after 2 answers; the last: IndexError"):
        write_factors(scripted(wrong, wrong)[0], candidates=1, mends=1, **ASKED)
    with pytest.raises(ValueError, match="some steps tried"):
        write_factors(ask, **{**ASKED, "tried_on": []})


def test_shapes_that_change_and_numbers_that_differ_are_found():
    for body, problem in (
        ("return [1.0] * (1 + int(state[0]))", "gave 1 numbers for one step and 2 for another"),
        ("return []", "gave no numbers"),
        ("return [float('nan')]", "no list of finite numbers"),
        ("seen.append(1); return [len(seen)]", "other numbers for the same step"),
    ):
        assert problem in tried(f"seen = []\ndef factors(state, action):\n    {body}\n", STEPS, SANDBOX)[1]
