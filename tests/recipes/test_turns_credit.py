"""Recipes of credit on the search task: what the judge says, how candidates are weighed, what a reader knows, by hand."""

import pytest
import torch

from payoff.policies.embedded import transformer
from payoff.recipes import calm, g_ra_turns, slate_turns, spa_rl_turns
from payoff.recipes.worlds.turns import task
from payoff.signals.subgoals import Transition


def turn(said, observed="c", over=False):
    return {"said": said, "observed": observed, "over": over}


@pytest.fixture(scope="module")
def policy():
    """Random weights that write any two characters a turn."""
    return transformer(alphabet="abcd12?=!", context=20, width=8, layers=1, heads=1, max_tokens=8, stop=(), step_separator=None)


def test_a_judge_without_errors_knows_what_is_needed_new_and_right(monkeypatch):
    monkeypatch.setattr(slate_turns, "ERROR", 0.0)
    item = {"solution": ["a1", "c2", "=b"]}
    turns = [turn("c2"), turn("c2"), turn("zz", "!"), turn("d1"), turn("=b", "", True)]
    rng = torch.Generator().manual_seed(0)
    assert slate_turns.verdicts({**item, "turns": turns}, rng) == [1.0, -1.0, -1.0, 0.0, 1.0]
    assert slate_turns.verdicts({**item, "turns": [turn("=a", "", True)]}, rng) == [-1.0]


def test_a_judge_errs_as_often_as_is_said_and_never_about_answers():
    rng = torch.Generator().manual_seed(0)
    item = {"solution": ["a1", "=b"], "turns": [turn("a1"), turn("=b", "", True)]}
    said = [slate_turns.verdicts(item, rng) for _ in range(600)]
    assert {last for _, last in said} == {1.0}
    assert sum(first != 1.0 for first, _ in said) / 600 == pytest.approx(0.1 * 2 / 3, abs=0.03)  # one of three draws is right


def test_candidates_are_weighed_within_their_turn_and_only_what_was_drawn_goes_on(policy):
    starts = task().held_out_starts(3)
    with torch.no_grad():
        traj, weights = slate_turns.candidates(policy, starts, torch.Generator().manual_seed(0))
    traj.check()
    first = traj.parent < 0
    assert int(first.sum()) == 3 * slate_turns.CANDIDATES
    assert torch.equal(traj.own.sum(1), torch.full((len(traj),), slate_turns.TURN_TOKENS))  # nothing is written twice
    sets = torch.stack([traj.group, torch.where(first, -1, traj.parent)], 1).unique(dim=0, return_inverse=True)[1]
    for k in range(int(sets.max()) + 1):
        own = weights.value[sets == k, 0]
        assert len(own) == slate_turns.CANDIDATES
        assert float(own.mean()) == pytest.approx(0, abs=1e-6)
    gone_on = traj.parent[~first].unique()
    assert len({int(traj.group[traj.id == parent]) for parent in gone_on if (traj.id == parent).any()}) <= 3


def test_what_is_paid_for_look_ups_counts_behind_the_gate_alone(policy):
    traj = policy.rollout(task().held_out_starts(4), 4, torch.Generator().manual_seed(1))
    told = g_ra_turns.rewards(traj)
    by_hand = [sum(t["observed"] not in (None, "", "!") and not t["over"] for t in item["turns"]) for item in traj.items]
    assert told["steps"].value.sum(1).tolist() == pytest.approx([g_ra_turns.PAY * n for n in by_hand])
    gated = g_ra_turns.gate(told, traj, by="answered", channels=["steps"])["steps"].value.sum(1)
    answered = torch.tensor([item["turns"][-1]["over"] for item in traj.items])
    assert torch.equal(gated, torch.where(answered, told["steps"].value.sum(1), 0))


def test_a_reader_knows_how_likely_an_answer_is_and_no_more():
    start = task().held_out_starts(1)[0]
    way = start.fields["solution"]
    item, table = start.fields, task().question(start.fields["seed"]).table
    letter = lambda said: "abcd"[table[int(said[1]) - 1]["abcd".index(said[0])]]
    turns = [turn(said, letter(said)) for said in way[:-1]]
    wrong = next(f"={name}" for name in "abcd" if f"={name}" != way[-1])
    assert spa_rl_turns.chance({**item, "turns": [*turns, turn(way[-1], "", True)]}) == 1.0
    assert spa_rl_turns.chance({**item, "turns": [*turns, turn(wrong, "", True)]}) == 0.0
    assert spa_rl_turns.chance({**item, "turns": [*turns[:1], turn(wrong, "", True)]}) == 0.25  # the second relation is unknown
    assert spa_rl_turns.chance({**item, "turns": turns}) == 0.0


def test_a_judge_of_subgoals_errs_only_as_it_is_told_and_alike_on_the_same_question():
    asked = [Transition("a1", "?", said, "c", {"seed": seed}) for said in ("a1", "b2") for seed in range(400)]
    exact, yes, no = (calm.Judge(arm, 0)(asked) for arm in ("exact", "false-yes", "false-no"))
    assert exact == [True] * 400 + [False] * 400
    assert yes[:400] == exact[:400]
    assert sum(yes[400:]) / 400 == pytest.approx(0.2, abs=0.06)
    assert no[400:] == exact[400:]
    assert sum(no[:400]) / 400 == pytest.approx(0.8, abs=0.06)
    assert calm.Judge("false-yes", 0)(asked) == yes
