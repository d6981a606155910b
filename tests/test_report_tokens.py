"""How the report lays out what a policy wrote or did: a row per step, and many actions of an episode to a row."""

import re
from pathlib import Path

from payoff.report_page.examples import Example
from payoff.report_page.runs import Rollout
from payoff.report_page.tokens import example_html, record


def rows(tokens, steps, paid):
    """(number of the first step, its tokens as they are laid out, what it was paid) of every row."""
    rollout = Rollout("arm", 0, "end", 1, "a", "start", "a", 1.0, 1.0, Path("rollouts.jsonl"), 0)
    row = {"tokens": tokens, "step": steps, "credit": [0.0] * len(tokens), "step_reward": {"pay": paid}}
    page = example_html(Example(rollout), record(Example(rollout), row), 0, 1.0, opened=True)
    found = re.findall(
        r'<div class="st"><span class="sn">(\d+)</span><span class="tk">(.*?)</span><span class="pd">(.*?)</span></div>', page
    )
    return [(int(at), re.sub("<.*?>", "", line), re.sub("<.*?>", "", pay)) for at, line, pay in found]


def test_the_actions_of_an_episode_share_rows_that_say_what_all_were_paid():
    found = rows([str(i % 2) for i in range(40)], list(range(40)), [1.0] * 40)
    assert [at for at, _, _ in found] == [1, 17, 33]
    assert found[0][1:] == (" ".join("01" * 8), "pay +16")
    assert found[2][2] == "pay +8"


def test_a_verdict_that_is_missing_among_them_is_said():
    found = rows(["0"] * 40, list(range(40)), [1.0] * 16 + [None] + [1.0] * 23)
    assert [pay for _, _, pay in found] == ["pay +16", "pay no verdict", "pay +8"]


def test_a_few_steps_or_steps_of_several_tokens_keep_a_row_each():
    assert [at for at, _, _ in rows(["0"] * 5, list(range(5)), [0.0] * 5)] == [1, 2, 3, 4, 5]
    twice = rows(["x", "y"] * 30, [i // 2 for i in range(60)], [0.5] * 30)
    assert len(twice) == 30
    assert twice[0] == (1, "xy", "pay +0.5")
