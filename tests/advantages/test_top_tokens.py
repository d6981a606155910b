"""OREAL's weights by rank: how many count, what they come to, ties, sides and refusals."""

import pytest
import torch

from payoff.advantages.top_tokens import top_tokens
from payoff.examples import four_answers
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64


def row(*scores: float, own: str = "") -> Trajectories:
    """One rollout with these scores; `own` has a 0 where another wrote."""
    t = len(scores)
    mask = torch.tensor([[mark == "1" for mark in own or "1" * t]])
    zero = torch.zeros(1, dtype=torch.int64)
    number = torch.arange(t)[None]
    return Trajectories(
        mask, zero + t, zero, number.int(), zero, number, extras={"token_scores": torch.tensor([scores], dtype=F64)}
    )


def weights(traj: Trajectories, advantage: float = 1.0, **options) -> list[float]:
    channel = Channel(torch.tensor([[advantage]], dtype=F64), torch.ones(1, 1, dtype=torch.bool))
    return top_tokens(channel, traj, **options).value[0].tolist()


def test_the_largest_are_scaled_between_their_least_and_greatest_and_the_others_are_nothing():
    traj = row(0.0, 4.0, 1.0, -5.0)  # running means 0, 2, 5/3, 0
    c = torch.tensor([0.0, 2.0, 5 / 3, 0.0], dtype=F64).sigmoid().tolist()
    assert weights(traj, share=0.75) == pytest.approx([0.0, 1.0, (c[2] - c[0]) / (c[1] - c[0]), 0.0])
    assert weights(traj, share=0.5) == [0.0, 1.0, 0.0, 0.0]  # of two the least has nothing
    assert weights(traj, share=0.25) == [0.0, 1.0, 0.0, 0.0]
    assert weights(traj, share=0.1) == [0.0, 1.0, 0.0, 0.0]  # at least one
    falls = row(0.0, -4.0, -1.0, 5.0)
    assert weights(falls, -2.0, share=0.75) == pytest.approx([-2 * x for x in weights(traj, share=0.75)])


def test_equal_ones_count_whole_and_the_first_of_them():
    assert weights(row(1.0, 1.0, 1.0, 1.0), share=0.5) == [1.0, 1.0, 0.0, 0.0]
    assert weights(row(0.0, 0.0), -1.0, share=1.0) == [-1.0, -1.0]
    assert weights(row(1.0), 3.0) == [3.0]
    assert weights(row(1.0, 2.0), 0.0) == [0.0, 0.0]


def test_what_others_wrote_is_neither_counted_nor_scored():
    nan = float("nan")
    traj = row(0.0, nan, 4.0, 1.0, nan, -5.0, own="101101")
    assert weights(traj, share=0.5) == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert weights(traj, share=0.75)[2:4] == pytest.approx(weights(row(0.0, 4.0, 1.0, -5.0), share=0.75)[1:3])
    assert weights(row(1.0, 2.0, own="00")) == [0.0, 0.0]


def test_sides_split_the_advantage_and_what_is_unknown_stays_so():
    traj = four_answers().replace(extras={"token_scores": torch.tensor([1.0, -3.0, 1.0]).repeat(4, 1)})
    known = torch.tensor([True, True, True, False])[:, None]
    channel = Channel(torch.tensor([[1.0], [-1.0], [0.0], [1.0]]), known)
    both, up, down = (top_tokens(channel, traj, share=0.7, side=side) for side in ("both", "positive", "negative"))
    torch.testing.assert_close(up.value + down.value, both.value)
    assert up.valid.any(1).tolist() == [True, False, False, False]
    assert down.valid.any(1).tolist() == [False, True, False, False]
    assert torch.equal(both.valid, known)
    assert (both.value[3] == 0).all()


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        weights(row(1.0), share=0.0)
    with pytest.raises(ValueError, match="needs extras"):
        weights(row(1.0), scores="others")
