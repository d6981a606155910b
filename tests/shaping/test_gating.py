import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.shaping.gating import gate
from payoff.trajectories import Channel, outcome, place_outcome, place_steps

TRAJ = four_answers()
SURE = torch.ones(4, dtype=torch.bool)
dense_rewards = st.lists(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3), min_size=4, max_size=4)


def at_end(values: list[float], valid: list[bool] | None = None) -> Channel:
    return place_outcome(torch.tensor(values), torch.tensor(valid) if valid else SURE, TRAJ)


def dense(values: list[list[float]]) -> Channel:
    return place_steps(torch.tensor(values), torch.ones(4, 3, dtype=torch.bool), TRAJ)


def total(rewards: dict[str, Channel]) -> torch.Tensor:
    return sum(outcome(channel, TRAJ)[0] for channel in rewards.values())


@settings(deadline=None)
@given(dense_rewards)
def test_an_open_gate_is_plain_accumulation_and_a_shut_one_outcome_only(values):
    rewards = {"correct": at_end([1.0, 0.0, -1.0, 0.3]), "style": dense(values)}
    torch.testing.assert_close(total(gate(rewards, TRAJ, threshold=-math.inf)), total(rewards))
    torch.testing.assert_close(total(gate(rewards, TRAJ, threshold=math.inf)), outcome(rewards["correct"], TRAJ)[0])


@settings(deadline=None)
@given(dense_rewards, dense_rewards)
def test_the_return_of_a_failing_trajectory_does_not_depend_on_its_dense_rewards(one, other):
    correct = at_end([1.0, 0.0, 1.0, 0.0])
    results = [gate({"correct": correct, "style": dense(values)}, TRAJ)["style"] for values in (one, other)]
    for row in (1, 3):
        assert torch.equal(results[0].value[row], results[1].value[row])
        assert not results[0].value[row].any()
    torch.testing.assert_close(results[0].value[0], dense(one).value[0])


def test_a_failing_trajectory_is_known_to_earn_nothing_even_where_its_grader_broke():
    style = place_outcome(torch.ones(4), torch.tensor([False, False, True, True]), TRAJ)
    value, valid = outcome(gate({"correct": at_end([1.0, 0.0, 1.0, 0.0]), "style": style}, TRAJ)["style"], TRAJ)
    assert valid.tolist() == [False, True, True, True]
    assert value.tolist() == [0.0, 0.0, 1.0, 0.0]


def test_reaching_the_threshold_exactly_opens_the_gate():
    rewards = {"correct": at_end([0.5, 0.49, 0.51, -0.5]), "style": at_end([1.0] * 4)}
    assert outcome(gate(rewards, TRAJ, threshold=0.5)["style"], TRAJ)[0].tolist() == [1, 0, 1, 0]


def test_the_gating_channel_and_the_channels_not_named_are_left_as_they_are():
    rewards = {"correct": at_end([0.0] * 4), "style": at_end([1.0] * 4), "length": at_end([7.0] * 4)}
    result = gate(rewards, TRAJ, channels=["style"])
    assert result["correct"] is rewards["correct"]
    assert result["length"] is rewards["length"]
    assert not result["style"].value.any()
    assert list(result) == list(rewards)


def test_a_constant_bonus_keeps_the_order_of_the_trajectories_that_pass():
    correct = at_end([0.9, 0.6, 0.7, 0.2])
    result = total(gate({"correct": correct, "style": at_end([0.25] * 4)}, TRAJ))
    assert result.argsort().tolist() == outcome(correct, TRAJ)[0].argsort().tolist()


def test_an_unknown_gate_leaves_what_it_gates_unknown():
    rewards = {"correct": at_end([1.0] * 4, [True, False, True, True]), "style": at_end([1.0] * 4)}
    rewards["correct"] = rewards["correct"]._replace(reasons={1: "no reference"})
    result = gate(rewards, TRAJ)["style"]
    assert outcome(result, TRAJ)[1].tolist() == [True, False, True, True]
    assert not result.value[1].any()
    assert result.reasons == {1: "no reference"}


def test_levels_nest_for_every_combination_of_passing_failing_and_unknown():
    # Product of the gates above, in three-valued logic: a 0 decides, an unknown factor otherwise makes the product unknown.
    for first, second in itertools.product((1.0, 0.0, None), repeat=2):
        rewards = {
            name: at_end([value or 0.0] * 4, [value is not None] * 4)
            for name, value in (("patch", first), ("tests", second), ("style", 1.0))
        }
        result = gate(rewards, TRAJ, by=["patch", "tests"], threshold=[1.0, 1.0])
        tests, style = (outcome(result[name], TRAJ) for name in ("tests", "style"))
        assert result["patch"] is rewards["patch"]
        if first == 0:
            assert (float(tests[0][0]), bool(tests[1][0])) == (0, True)
        else:
            assert bool(tests[1][0]) == (first is not None and second is not None)
        if 0 in (first, second):
            assert (float(style[0][0]), bool(style[1][0])) == (0, True)
        else:
            assert bool(style[1][0]) == (None not in (first, second))
            assert float(style[0][0]) == float(None not in (first, second))


@settings(deadline=None)
@given(dense_rewards)
def test_two_levels_are_two_gates_one_after_the_other(values):
    rewards = {
        "patch": at_end([1.0, 1.0, 0.0, 0.0]),
        "tests": at_end([1.0, 0.0, 1.0, 0.0]),
        "style": dense(values),
    }
    once = gate(rewards, TRAJ, by=["patch", "tests"], threshold=0.5)
    twice = gate(gate(rewards, TRAJ, by="tests", channels=["style"]), TRAJ, by="patch")
    for name in rewards:
        torch.testing.assert_close(once[name].value, twice[name].value)


def test_a_one_column_channel_stays_one_column():
    column = Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
    result = gate({"correct": at_end([1.0, 0.0, 1.0, 0.0]), "style": column}, TRAJ)["style"]
    assert result.value[:, 0].tolist() == [1, 0, 1, 0]


def test_mistakes_are_named():
    rewards = {"correct": at_end([1.0] * 4), "style": at_end([1.0] * 4)}
    with pytest.raises(KeyError, match="no reward channel 'right'"):
        gate(rewards, TRAJ, by="right")
    with pytest.raises(KeyError, match="no reward channel 'manners'"):
        gate(rewards, TRAJ, channels=["manners"])
    with pytest.raises(ValueError, match="'correct' is a gate"):
        gate(rewards, TRAJ, channels=["correct"])
    with pytest.raises(ValueError, match="one threshold for each"):
        gate(rewards, TRAJ, by=["correct"], threshold=[1.0, 2.0])
    with pytest.raises(ValueError, match="one threshold for each"):
        gate(rewards, TRAJ, by=[])
