"""TP-GRPO: the closed forms of the advantages, merging, and what it climbs."""

import functools

import pytest
import torch

from payoff.advantages.group import grpo
from payoff.credit.returns import return_to_go, total
from payoff.enumeration import paid
from payoff.exact import compare, expected_gradient
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.thoughts import thought_rewards
from payoff.trajectories import Channel, Trajectories, place_outcome

F64 = torch.float64


def solutions(right: list[float], labels: list[list[float]], known: list[bool] | None = None) -> tuple[dict, Trajectories]:
    """One group; a step per label."""
    n, width = len(labels), max(map(len, labels))
    length = torch.tensor([len(row) for row in labels])
    exists = torch.arange(width) < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(exists, torch.arange(width), -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, width, dtype=torch.int64),
    )
    value = torch.tensor([row + [float("nan")] * (width - len(row)) for row in labels], dtype=F64)
    settled = torch.tensor(known or [True] * n)
    correct = place_outcome(torch.tensor(right, dtype=F64), settled, traj)
    return {"correct": correct, "labels": Channel(value, ~value.isnan() | ~exists)}, traj


def advantages(right, labels, **options) -> list[list[float]]:
    rewards, traj = solutions(right, labels)
    credit = return_to_go(thought_rewards(rewards, traj, **options)["thoughts"], traj)
    return [row[:k] for row, k in zip(credit.value.tolist(), traj.length.tolist(), strict=True)]


def test_good_thoughts_of_right_solutions_get_the_outcome_and_bad_ones_less():
    # outcomes 1, 0: o = +-1, mean 1/2, r_c = 0.4 / 2
    found = advantages([1.0, 0.0], [[0, 1, 0], [1, 0, 1]], alpha=0.4)
    assert found[0] == pytest.approx([1, 0.8, 1])
    assert found[1] == pytest.approx([-1, 0, -1])


def test_a_last_thought_of_the_other_label_moves_what_comes_before_it():
    found = advantages([1.0, 0.0], [[0, 1], [1, 0]], alpha=0.4)
    assert found[0] == pytest.approx([1.2, 1])
    assert found[1] == pytest.approx([-2, -1])


def test_writing_a_thought_in_two_steps_changes_nothing_for_thoughts_and_something_for_steps():
    once, twice = [[0, 1, 0], [1, 0, 1]], [[0, 1, 1, 0], [1, 0, 0, 1]]
    a, b = advantages([1.0, 0.0], once, alpha=0.4), advantages([1.0, 0.0], twice, alpha=0.4)
    assert [row[:2] + row[3:] for row in b] == [pytest.approx(row) for row in a]
    assert b[0][2] == pytest.approx(b[0][1])
    # two penalties: the good step before them is charged 2 r_c, and gets r_c for itself
    assert advantages([1.0, 0.0], twice, alpha=0.4, unit="step")[0] == pytest.approx([1 - 0.2, 1 - 0.4, 1 - 0.2, 1])


def test_without_alpha_right_solutions_get_the_outcome_alone_and_equal_outcomes_leave_the_penalty():
    assert advantages([1.0, 0.0], [[0, 1, 0], [1]], alpha=0.0)[0] == pytest.approx([1, 1, 1])
    assert advantages([1.0, 1.0], [[0, 1, 0], [0]], alpha=0.4) == [pytest.approx([0, -0.4, 0]), [0]]
    assert advantages([0.0, 0.0], [[1, 0, 1], [0]]) == [[0, 0, 0], [0]]


def test_a_step_without_a_label_or_no_outcome_makes_a_solution_unknown_and_no_other():
    rewards, traj = solutions([1.0, 0.0, 1.0], [[0, float("nan")], [1, 0], [0, 1]], known=[True, True, False])
    found = thought_rewards(rewards, traj)["thoughts"]
    assert found.valid.any(1).tolist() == [False, True, False]
    assert found.value[1].tolist() == [-1, -1]
    assert found.value.isfinite().all()


def climbed(labels: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    policy = Tabular(3, 2, spread=1.0, seed=1)
    rewards = {"correct": right, "labels": labels}

    def signal(traj):
        return thought_rewards(paid(rewards)(traj), traj, alpha=1.0)

    signal.sees = "group"
    return expected_gradient(policy, [Term(weigh({"thoughts": [return_to_go]}), policy_gradient, sequence_sum)], signal)


def test_solutions_of_one_thought_climb_what_grpo_climbs_and_labels_turn_it():
    right = (torch.arange(9) % 4 == 1).to(F64)
    policy = Tabular(3, 2, spread=1.0, seed=1)
    plain = Term(weigh({"x": [total, functools.partial(grpo, convention="paper")]}), policy_gradient, sequence_sum)
    wanted = expected_gradient(policy, [plain], {"x": right})
    torch.testing.assert_close(climbed(torch.zeros(9, 2, dtype=F64), right), wanted, rtol=0, atol=1e-9)
    judged = torch.zeros(9, 2, dtype=F64)
    judged[:, 0] = (torch.arange(9) // 3 == 0).to(F64)
    assert compare(climbed(judged, right), wanted).residual > 0.05


def test_labels_and_channels_are_checked():
    rewards, traj = solutions([1.0], [[0.5]])
    with pytest.raises(ValueError, match=r"1 for a wrong step and 0 for another, got 0.5"):
        thought_rewards(rewards, traj)
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        thought_rewards(rewards, traj, alpha=-1.0)
    with pytest.raises(KeyError, match="no reward channel 'labels'"):
        thought_rewards({"correct": rewards["correct"]}, traj)
