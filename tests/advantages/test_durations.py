"""Weights by duration: the count model summed exactly, the drift of two arms, and what the method refuses."""

import pytest
import torch

from payoff.advantages.durations import duration_weighted
from payoff.examples import four_answers
from payoff.trajectories import Channel, Trajectories


def bandit(arms, durations):
    """One action per trajectory."""
    n = len(arms)
    one = torch.ones(n, 1, dtype=torch.int64)
    return Trajectories(
        mask=one > 0, length=one[:, 0], group=torch.arange(n), step=0 * one.int(), stop=0 * one[:, 0],
        actions=torch.tensor(arms)[:, None],
        extras={"durations": torch.tensor([[durations[arm]] for arm in arms])},
    )  # fmt: skip


def test_a_window_counts_quick_actions_too_often_and_the_weights_undo_it_exactly():
    """pi (1/2, 1/3, 1/6) and durations 1, 2, 4: of a window of 24 units come 12, 4 and 1 actions; advantages 1, -2, 3."""
    counts, durations, advantages = (12, 4, 1), (1.0, 2.0, 4.0), (1.0, -2.0, 3.0)
    arms = [arm for arm, count in enumerate(counts) for _ in range(count)]
    traj = bandit(arms, durations)
    given = Channel(torch.tensor([[advantages[arm]] for arm in arms]), torch.ones(17, 1, dtype=torch.bool))
    weighed = duration_weighted(given, traj).value[:, 0]
    sums = [float(weighed[[k for k, a in enumerate(arms) if a == arm]].sum()) for arm in range(3)]
    pi = (1 / 2, 1 / 3, 1 / 6)
    scale = sums[0] / (pi[0] * advantages[0])
    assert sums == pytest.approx([scale * p * a for p, a in zip(pi, advantages, strict=True)])
    mean = (12 * 1 + 4 * 2 + 1 * 4) / 17
    assert scale == pytest.approx(24 / mean)  # W / mean(d)


def test_equal_durations_and_another_unit_change_nothing():
    traj = four_answers()
    given = Channel(torch.tensor([[1.0], [-1.0], [0.5], [0.0]]), torch.tensor([[True], [True], [False], [True]]))
    alike = duration_weighted(given, traj.replace(extras={"durations": torch.full((4, 3), 7.0)}))
    torch.testing.assert_close(alike.value, torch.where(traj.exists & given.valid, given.value, 0))
    assert torch.equal(alike.valid, given.valid)
    taken = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    one, other = (duration_weighted(given, traj.replace(extras={"durations": taken * unit})).value for unit in (1.0, 60.0))
    torch.testing.assert_close(one, other)


def test_padding_is_not_read_and_durations_must_be_positive():
    traj = four_answers()
    given = Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
    taken = torch.where(traj.exists, 2.0, torch.nan)
    assert torch.equal(duration_weighted(given, traj.replace(extras={"durations": taken})).value, traj.exists.float())
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be positive and finite"):
            duration_weighted(given, traj.replace(extras={"durations": torch.where(traj.exists, bad, 1.0)}))
    with pytest.raises(ValueError, match=r"needs traj\.extras"):
        duration_weighted(given, traj)
