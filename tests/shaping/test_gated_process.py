"""The reasoning counts only where the outcome is right."""

import itertools

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.examples import four_answers
from payoff.shaping.gated_process import gated_process
from payoff.trajectories import constant, outcome, place_outcome


def channels(form, correct, process, known=None):
    traj = four_answers()
    sure = torch.ones(4, dtype=torch.bool)
    known = known or {}
    parts = {"form": form, "correct": correct, "process": process}
    give = lambda name, x: place_outcome(torch.tensor(x, dtype=torch.float64), torch.tensor(known.get(name, sure.tolist())), traj)
    return {name: give(name, x) for name, x in parts.items()}, traj


def paid(*parts, **options):
    rewards, traj = channels(*parts, **options)
    value, valid = outcome(gated_process(rewards, traj)["p-grpo"], traj)
    return [v if k else None for v, k in zip(value.tolist(), valid.tolist(), strict=True)]


def test_every_well_formed_right_answer_is_above_every_wrong_one_whatever_its_reasoning():
    grid = list(itertools.product((0.0, 1.0), (0.0, 1.0), (0.0, 0.5, 1.0)))
    scores = {row: paid([row[0]] * 4, [row[1]] * 4, [row[2]] * 4)[0] for row in grid}
    right = [r for (f, c, _), r in scores.items() if f and c]
    wrong = [r for (_, c, _), r in scores.items() if not c]
    assert min(right) == 2
    assert max(right) == 3
    assert max(wrong) == 1


def test_reasoning_of_a_wrong_answer_changes_nothing_and_need_not_be_known():
    known = {"process": [False, True, False, True]}
    assert paid([1.0] * 4, [0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 0.9, 0.4], known=known) == [1, 1, None, 2.4]


def test_reasoning_that_is_alike_gives_the_outcomes_advantages_and_ranks_a_group_that_is_all_right():
    sure = torch.ones(4, dtype=torch.bool)
    traj = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    right = [1.0, 0.0, 0.0, 1.0]
    standardised = lambda x: grpo(constant(torch.tensor(x, dtype=torch.float64), sure), traj).value
    torch.testing.assert_close(standardised(paid([1.0] * 4, right, [0.7] * 4)), standardised(right), atol=1e-5, rtol=0)
    among = standardised(paid([1.0] * 4, [1.0] * 4, [0.1, 0.2, 0.9, 0.4]))[:, 0]
    assert among.argsort().tolist() == [0, 1, 3, 2]
    assert among.unique().numel() == 4


def test_unknown_form_or_outcome_is_unknown():
    known = {"form": [False, True, True, True], "correct": [True, False, True, True]}
    assert paid([1.0] * 4, [1.0] * 4, [0.5] * 4, known=known) == [None, None, 2.5, 2.5]


def test_mistakes_are_named():
    rewards, traj = channels([1.0] * 4, [1.0] * 4, [-0.5] * 4)
    with pytest.raises(ValueError, match="'process' must lie"):
        gated_process(rewards, traj)
    with pytest.raises(KeyError, match="no reward channel 'style'"):
        gated_process(rewards, traj, process="style")
    with pytest.raises(ValueError, match="already is"):
        gated_process(rewards, traj, into="form")
