"""The grid's rewards, and what is true of a walk."""

import math

import pytest
import torch

from payoff.policies.gflownet import Gflownet
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import outcome


def test_the_original_reward_has_two_to_the_dimensions_peaks():
    for dimensions in (1, 2, 3):
        task = Hypergrid(dimensions, 8)
        cells = task.state(torch.arange(task.state_count))
        assert int(task.modes(cells).sum()) == 2**dimensions
        assert task.log_reward(cells[task.modes(cells)]).exp().tolist() == pytest.approx([2.6] * 2**dimensions)


def test_borders_of_the_bands_belong_to_neither_side():
    # side 16: 3 / 15 is 0.3 from the middle and 1.5 / 15 = 0.4; 0.3 itself is outside the band, so only 2 and 13 are peaks
    task = Hypergrid(1, 16)
    values = task.log_reward(torch.arange(16)[:, None]).exp()
    assert (values > 2).nonzero().flatten().tolist() == [2, 13]
    assert (values > 0.3).nonzero().flatten().tolist() == [0, 1, 2, 3, 12, 13, 14, 15]


def test_the_cosine_reward_is_highest_in_the_middle_of_its_waves():
    task = Hypergrid(1, 101, reward="cosine")
    values = task.log_reward(torch.arange(101)[:, None]).exp()
    # at the middle x = 0: 0.1 + 0.5 (1 + 1) / sqrt(2 pi)
    assert float(values[50]) == pytest.approx(0.1 + 1 / math.sqrt(2 * math.pi))
    assert int(values.argmax()) == 50


def test_truth_is_the_reward_of_the_cell_or_whether_it_is_a_mode():
    for truth_of, wanted in (
        ("reward", lambda t, cells: t.log_reward(cells).exp()),
        ("mode", lambda t, cells: t.modes(cells).double()),
    ):
        task = Hypergrid(2, 8, truth_of=truth_of)
        policy = Gflownet(task, hidden=8)
        traj = policy.rollout(task.starts(1, torch.Generator()), 64, torch.Generator().manual_seed(0))
        cells = torch.tensor([item["object"] for item in traj.items])
        value, known = outcome(task.truth(traj), traj)
        assert known.all()
        assert torch.allclose(value, wanted(task, cells))
        cut = policy.resume(traj, torch.arange(4), torch.zeros(4).long(), 1, torch.Generator().manual_seed(0), horizon=1)
        channel = task.truth(cut)
        assert torch.equal(channel.valid.all(1), cut.stop == 0)
        assert set(channel.reasons) == set(cut.id[cut.stop != 0].tolist())


def test_the_distance_of_the_exact_policy_is_zero_and_others_have_no_distribution():
    task = Hypergrid(2, 5)
    policy = Gflownet(task, network="table", dtype="float64")
    with torch.no_grad():
        logits = policy.graph.log_policy()
        policy.net.rows.copy_(torch.where(logits > -torch.inf, logits, 0))
    assert task.measure(policy)["l1"] < 1e-12
    assert task.measure(object()) == {}


def test_held_out_starts_are_not_explored():
    task = Hypergrid()
    assert all(start.fields["explore"] is False for start in task.held_out_starts(3))
    assert all("explore" not in start.fields for start in task.starts(3, torch.Generator()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"side": 1}, "side must be at least 2, got 1"),
        ({"base": 0.0}, "base must be > 0"),
        ({"plateau": -1.0}, "plateau and peak at least 0"),
    ],
)
def test_grids_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Hypergrid(**options)
