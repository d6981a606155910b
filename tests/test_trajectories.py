"""What a trajectory is, where numbers sit on it, and that rows keep their identity."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.trajectories import (
    Channel,
    StopReason,
    Trajectories,
    at_start,
    concatenate,
    constant,
    fresh_ids,
    log_ratio,
    outcome,
    per_step,
    place_outcome,
    place_steps,
    prefix_gains,
    reserve_ids,
    spread_steps,
)

NAN = float("nan")


def rows(step, mask=None, **more) -> Trajectories:
    """Trajectories from step numbers, -1 beyond the end."""
    step = torch.tensor(step, dtype=torch.int32)
    exists = step >= 0
    return Trajectories(
        mask=exists if mask is None else torch.tensor(mask, dtype=torch.bool),
        length=exists.sum(1),
        step=step,
        **{
            "group": torch.zeros(len(step), dtype=torch.int64),
            "stop": torch.full((len(step),), StopReason.finished),
            "actions": torch.zeros(step.shape, dtype=torch.int64),
            **more,
        },
    )


def fill_padding(channel: Channel, traj: Trajectories) -> Channel:
    return Channel(torch.where(traj.exists, channel.value.expand(traj.mask.shape), NAN), channel.valid, channel.reasons)


def test_an_outcome_is_paid_at_the_end_even_where_nothing_was_acted():
    traj = rows([[0, 0, 0], [0, -1, -1]], mask=[[1, 1, 0], [0, 0, 0]])  # a tool's text ends the first, an ODE step is the second
    channel = place_outcome(torch.tensor([2.0, 3.0]), torch.tensor([True, True]), traj)
    assert channel.value.tolist() == [[0, 0, 2], [3, 0, 0]]
    assert outcome(channel, traj)[0].tolist() == [2, 3]


def test_an_unknown_outcome_leaves_a_zero_and_an_invalid_end():
    traj = rows([[0, 0, -1], [0, 0, 0]])
    channel = place_outcome(torch.tensor([NAN, 1.0]), torch.tensor([False, True]), traj, {int(traj.id[0]): "judge failed"})
    value, valid = outcome(channel, traj)
    assert (value.tolist(), valid.tolist()) == ([0, 1], [False, True])
    assert channel.valid[0].tolist() == [True, False, True]
    assert channel.reasons == {int(traj.id[0]): "judge failed"}


def test_steps_are_paid_at_their_last_position_and_read_back():
    traj = rows([[0, 0, 1, 2, 2], [0, 1, 1, -1, -1]])
    value = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, NAN]])
    valid = torch.tensor([[True, False, True], [True, True, False]])
    channel = place_steps(value, valid, traj)
    assert channel.value.tolist() == [[0, 1, 0, 0, 3], [4, 0, 5, 0, 0]]
    assert (~channel.valid).nonzero().tolist() == [[0, 2]]
    back, exists, known = per_step(fill_padding(channel, traj), traj)
    assert back.tolist() == [[1, 0, 3], [4, 5, 0]]
    assert exists.tolist() == [[True, True, True], [True, True, False]]
    assert known.tolist() == [[True, False, True], [True, True, False]]


@pytest.mark.parametrize(
    ("reduce", "expected"), [("sum", [3.0, 7.0]), ("mean", [1.5, 3.5]), ("min", [1.0, 3.0]), ("last", [2.0, 4.0])]
)
def test_a_step_can_be_summed_averaged_or_read_at_its_least_or_last_position(reduce, expected):
    traj = rows([[0, 0, 1, 1]])
    channel = Channel(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert per_step(channel, traj, reduce)[0].tolist() == [expected]


def test_spread_gives_every_action_its_steps_number_and_nothing_beyond_the_end():
    traj = rows([[0, 0, 1, -1]])
    assert spread_steps(torch.tensor([[5.0, 7.0]]), traj).tolist() == [[5, 5, 7, 0]]


def test_a_credits_number_for_the_rollout_lies_on_its_first_own_action():
    traj = rows([[0, 0, 0], [0, 0, 0], [0, 0, 0]], mask=[[0, 1, 1], [1, 1, 1], [0, 0, 0]])
    traj = traj.replace(parent=torch.tensor([-1, int(traj.id[0]), -1]), fork=torch.tensor([0, 2, 0]))
    credit = Channel(torch.arange(9.0).reshape(3, 3), torch.ones(3, 3, dtype=torch.bool))
    assert at_start(credit, traj)[0].tolist() == [1.0, 5.0, 6.0]


def test_one_column_means_the_same_number_everywhere():
    traj = rows([[0, 0, -1], [0, 0, 0]])
    channel = constant(torch.tensor([2.0, 3.0]), torch.tensor([True, False]))
    assert at_start(channel, traj)[0].tolist() == [2.0, 0.0]
    assert outcome(channel, traj)[0].tolist() == [4.0, 0.0]


def test_log_ratio_is_zero_off_the_own_actions_and_lets_no_nan_in_forward_or_backward():
    traj = rows([[0, 0, 1, -1]], mask=[[1, 0, 1, 0]])
    a = torch.tensor([[-1.0, NAN, -2.0, NAN]], requires_grad=True)
    b = torch.tensor([[-3.0, NAN, -1.0, NAN]])
    assert log_ratio(a, b, traj).tolist() == [[2, 0, -1, 0]]
    assert log_ratio(a, b, traj, level="sequence").tolist() == [[1, 0, 1, 0]]
    assert log_ratio(a, b, traj, level="step").tolist() == [[2, 0, -1, 0]]
    log_ratio(a, b, traj, level="sequence").exp().sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad[0, 1] == a.grad[0, 3] == 0


def test_prefix_gains_telescope_to_the_last_score_minus_the_first():
    traj = rows([[0, 0, 0, -1], [0, 0, 0, 0]])
    score = torch.tensor([[1.0, 4.0, 2.0, 7.0, NAN], [0.0, 1.0, 2.0, 3.0, 9.0]])
    gains = prefix_gains(score, traj)
    assert gains.tolist() == [[3, -2, 5, 0], [1, 1, 1, 6]]
    # with a discount, sum_t d^t (d s[t+1] - s[t]) = d^T s[T] - s[0]
    discounted = prefix_gains(score, traj, discount=0.5)[0, :3]
    assert float((discounted * torch.tensor([1.0, 0.5, 0.25])).sum()) == pytest.approx(0.125 * 7 - 1)
    with pytest.raises(ValueError, match=r"\[N, T\+1\] = \[2, 5\]"):
        prefix_gains(score[:, :4], traj)


def test_select_trims_keeps_ids_and_repeats():
    traj = four_answers()
    picked = traj.select(torch.tensor([3, 1, 1]))
    assert picked.id.tolist() == [3, 1, 1]
    assert picked.mask.shape == (3, 2)
    assert [item["response"] for item in picked.items] == ["", "3", "3"]
    assert len(traj.select(torch.tensor([], dtype=torch.int64))) == 0
    with pytest.raises(TypeError, match=r"row numbers|Type-check"):
        traj.select(traj.mask[:, 0])


def test_extras_of_actions_and_of_states_are_trimmed_alike():
    traj = four_answers().replace(
        extras={"values": torch.arange(16.0).reshape(4, 4), "agent": torch.arange(4), "x": torch.zeros(4, 3, 7)}
    )
    picked = traj.select(torch.tensor([1]))
    assert picked.extras["values"].tolist() == [[4, 5, 6]]
    assert picked.extras["agent"].tolist() == [1]
    assert picked.extras["x"].shape == (1, 2, 7)


def test_concatenate_pads_and_keeps_ids_groups_and_branches():
    traj = four_answers()
    short = traj.select(torch.tensor([3])).replace(id=torch.tensor([9]), parent=torch.tensor([2]), fork=torch.tensor([0]))
    both = concatenate([short, traj])
    assert both.id.tolist() == [9, 0, 1, 2, 3]
    assert both.group.tolist() == [1, 0, 0, 1, 1]
    assert both.parent.tolist() == [2, -1, -1, -1, -1]
    assert both.step[0].tolist() == [0, -1, -1]
    both.check()
    again = concatenate([both.select(torch.tensor([1, 2])), both.select(torch.tensor([3, 4]))])
    assert torch.equal(again.actions, traj.actions)


def test_concatenate_names_what_only_some_parts_have():
    traj = four_answers()
    with pytest.raises(ValueError, match=r"logp \['ref'\]"):
        concatenate([traj, dataclasses.replace(traj, logp={"old": traj.logp["old"]})])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": torch.tensor([3, 2, 3, 0])}, "length must lie in 1..T"),
        ({"length": torch.tensor([3, 2, 3, 4])}, "length must lie in 1..T"),
        ({"group": torch.zeros(3, dtype=torch.int64)}, "group must be"),
        ({"logp": {"old": torch.zeros(4, 2)}}, "logp"),
        ({"fork": torch.zeros(4, dtype=torch.int64)}, "parent and fork"),
        ({"items": [{}]}, "items"),
        ({"extras": {"prompt": torch.zeros(4, 9)}}, "goes into items"),
    ],
)
def test_trajectories_refuse_shapes_that_disagree(change, message):
    with pytest.raises((ValueError, TypeError), match=f"{message}|typechecking"):
        four_answers().replace(**change)


def test_check_names_the_trajectory_that_contradicts_itself():
    traj = four_answers()
    with pytest.raises(ValueError, match="trajectory 1 acts beyond its length"):
        traj.replace(mask=torch.ones(4, 3, dtype=torch.bool)).check()
    with pytest.raises(ValueError, match="trajectory 0 has a 'old' log-probability"):
        traj.replace(logp={"old": torch.full((4, 3), NAN)}).check()
    with pytest.raises(ValueError, match="step numbers"):
        traj.replace(step=torch.zeros(4, 3, dtype=torch.int32)).check()


def test_ids_are_never_given_twice_even_after_a_resume():
    first = fresh_ids(3)
    resumed = reserve_ids(int(first[-1]) + 100)
    assert fresh_ids(1).item() >= resumed >= int(first[-1]) + 100
    assert reserve_ids(0) > resumed


def test_a_trajectory_of_length_one_with_nothing_acted_is_legal():
    traj = rows([[0]], mask=[[0]]).check()
    channel = place_outcome(torch.tensor([1.5]), torch.tensor([True]), traj)
    assert outcome(channel, traj)[0].tolist() == [1.5]
    assert at_start(constant(*outcome(channel, traj)), traj)[0].tolist() == [1.5]


def test_own_actions_are_own_exactly_once():
    traj = rows([[0, 0, 0], [0, 0, 0]])
    traj = traj.replace(parent=torch.tensor([-1, int(traj.id[0])]), fork=torch.tensor([0, 1]))
    assert traj.own.int().tolist() == [[1, 1, 1], [0, 1, 1]]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_placing_and_reading_commute_with_row_order_and_ignore_padding(data):
    n, t = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    lengths = data.draw(st.lists(st.integers(1, t), min_size=n, max_size=n))
    step = [[min(i, data.draw(st.integers(0, i))) if i == 0 else 0 for i in range(t)] for _ in range(n)]
    for row in range(n):
        now = 0
        for i in range(t):
            now += data.draw(st.integers(0, 1)) if i else 0
            step[row][i] = now if i < lengths[row] else -1
    traj = rows(step)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    value = torch.randn(n, t, generator=generator)
    valid = torch.rand(n, t, generator=generator) > 0.2
    channel = Channel(value, valid)
    order = torch.randperm(n, generator=generator)
    shuffled = traj.replace(**{f: getattr(traj, f)[order] for f in ("mask", "length", "group", "step", "stop", "actions", "id")})
    total, known = outcome(channel, traj)
    for row in range(n):
        inside = slice(0, lengths[row])
        assert bool(known[row]) == bool(valid[row, inside].all())
        if known[row]:
            assert float(total[row]) == pytest.approx(float(value[row, inside].sum()), abs=1e-5)
    moved, moved_known = outcome(fill_padding(Channel(value[order], valid[order]), shuffled), shuffled)
    assert torch.equal(moved_known, known[order])
    assert torch.allclose(moved, total[order])
    per, exists, ok = per_step(channel, traj)
    assert torch.allclose(torch.where(ok, per, 0).sum(1)[known], total[known], atol=1e-5)
    back = place_steps(per, ok, traj)
    again = per_step(back, traj)
    assert torch.equal(again[1], exists)
    assert torch.equal(again[2], ok)
    assert torch.allclose(again[0], per)
