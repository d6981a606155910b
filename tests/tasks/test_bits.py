"""Bit sequences: how near is near, and how they are written."""

import pytest
import torch

from payoff.policies.gflownet import Gflownet
from payoff.tasks.bits import Bits
from payoff.trajectories import outcome

ORDERS = pytest.mark.parametrize("order", ["append", "any"])


@ORDERS
def test_the_reward_counts_bits_that_differ_from_the_nearest_mode(order):
    task = Bits(6, 2, order, modes=3, exponent=0.5, seed=4)
    graph_states = task.state(torch.arange(task.state_count))
    full = graph_states[task.complete(graph_states)]
    modes = ["".join(format(w, "02b") for w in mode) for mode in task.mode_words.tolist()]
    for state, log_reward in zip(full.tolist(), task.log_reward(full).tolist(), strict=True):
        bits = task.written(state)
        assert log_reward == -0.5 * min(sum(a != b for a, b in zip(bits, mode, strict=True)) for mode in modes)
    assert task.log_reward(task.initial(1)).tolist() == [0.0]


@ORDERS
def test_writing_more_never_raises_what_a_part_is_worth(order):
    task = Bits(8, 2, order)
    policy = Gflownet(task, hidden=8)
    traj = policy.rollout(task.starts(1, torch.Generator()), 32, torch.Generator().manual_seed(0))
    worth = traj.extras["log_reward"]
    assert (worth[:, 1:] <= worth[:, :-1] + 1e-6).all()
    assert (traj.length == 4).all()


def test_modes_are_different_and_drawn_by_the_seed():
    assert len(Bits(4, modes=16).mode_words.unique(dim=0)) == 16
    assert torch.equal(Bits(32, seed=1).mode_words, Bits(32, seed=1).mode_words)
    assert not torch.equal(Bits(32, seed=1).mode_words, Bits(32, seed=2).mode_words)


def test_truth_is_the_reward_or_being_near_a_mode():
    for options in ({}, {"truth_of": "mode", "near": 1}):
        task = Bits(6, modes=2, **options)
        policy = Gflownet(task, hidden=8)
        traj = policy.rollout(task.starts(1, torch.Generator()), 64, torch.Generator().manual_seed(0))
        far = task.distance(torch.tensor([item["object"] for item in traj.items]))
        value, known = outcome(task.truth(traj), traj)
        assert known.all()
        assert torch.allclose(value, (far <= 1).double() if options else (-far.double()).exp())


def test_the_distance_of_the_exact_policy_is_zero_and_large_spaces_have_no_distance():
    task = Bits(4, order="any", modes=2)
    policy = Gflownet(task, network="table", dtype="float64")
    with torch.no_grad():
        logits = policy.graph.log_policy()
        policy.net.rows.copy_(torch.where(logits > -torch.inf, logits, 0))
    assert task.measure(policy)["l1"] < 1e-12
    large = Bits(64)
    assert large.measure(Gflownet(large, hidden=8)) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 5, "word": 2}, "length must be a multiple of word"),
        ({"word": 9, "length": 9}, r"word in 1..8"),
        ({"length": 2, "modes": 5}, r"modes must lie in 1..2\^length, got 5"),
        ({"exponent": -1.0}, "exponent must be finite and at least 0, got -1.0"),
    ],
)
def test_sequences_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Bits(**options)
