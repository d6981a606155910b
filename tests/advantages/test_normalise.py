"""The one normalisation: units, sets, epsilons, and the combinations that would be wrong."""

import math

import pytest
import torch

from payoff.advantages.actions import action_statistics
from payoff.advantages.normalise import standardise
from payoff.examples import four_answers
from payoff.sets import statistics
from payoff.trajectories import Channel, Trajectories

KNOWN = torch.ones(4, 1, dtype=torch.bool)


def column(*numbers: float) -> Channel:
    return Channel(torch.tensor(numbers)[:, None], torch.ones(len(numbers), 1, dtype=torch.bool))


def test_units_count_rollouts_steps_or_actions():
    # lengths 3, 2, 3, 1, every action a step; the same number at every action of a rollout
    credit, traj = column(1.0, 0.0, 1.0, -8.0), four_answers()
    mean = lambda unit: 1.0 - standardise(credit, traj, over="batch", unit=unit, scale="none").value[0, 0].item()
    assert mean("rollout") == pytest.approx((1 + 0 + 1 - 8) / 4)
    assert mean("step") == pytest.approx((3 + 0 + 3 - 8) / 9)
    assert mean("action") == pytest.approx((3 + 0 + 3 - 8) / 9)


def test_a_step_counts_once_by_its_first_action_and_an_action_counts_each_time():
    traj = four_answers().select(torch.tensor([0, 1])).replace(step=torch.tensor([[0, 0, 1], [0, 0, -1]], dtype=torch.int32))
    credit = Channel(torch.tensor([[3.0, 9.0, 6.0], [0.0, 5.0, float("nan")]]), torch.ones(2, 1, dtype=torch.bool))
    mean = lambda unit: 3.0 - standardise(credit, traj, unit=unit, scale="none").value[0, 0].item()
    assert mean("rollout") == pytest.approx((3 + 0) / 2)
    assert mean("step") == pytest.approx((3 + 6 + 0) / 3)
    assert mean("action") == pytest.approx((3 + 9 + 6 + 0 + 5) / 5)


def test_where_epsilon_goes():
    # rewards 1 and -1: mean 0, std (n) 1
    credit, traj = column(1.0, -1.0), four_answers().select(torch.tensor([0, 1]))
    first = lambda **options: standardise(credit, traj, **options).value[0, 0].item()
    assert first(eps=1.0) == pytest.approx(1 / 2)
    assert first(eps=1.0, eps_where="inside") == pytest.approx(1 / math.sqrt(2))
    assert first(eps=4.0, eps_where="floor") == pytest.approx(1 / 2)
    assert first(eps=0.25, eps_where="floor") == pytest.approx(1)
    assert first(ddof=1) == pytest.approx(1 / math.sqrt(2))


def test_root_mean_square_subtracts_nothing():
    credit = standardise(column(3.0, 4.0, 0.0, 0.0), four_answers(), over="batch", baseline="none", scale="rms")
    assert credit.value.squeeze(1).tolist() == pytest.approx([3 / 2.5, 4 / 2.5, 0, 0])  # sqrt(25 / 4)


def test_the_scale_may_come_from_another_set_than_the_baseline():
    credit = standardise(column(1.0, 0.0, 5.0, 5.0), four_answers(), scale_over="batch")
    # group means 1/2 and 5; batch mean 11/4, variance (49 + 121 + 81 + 81) / 16 / 4
    assert credit.value.squeeze(1).tolist() == pytest.approx([0.5 / math.sqrt(332 / 64), -0.5 / math.sqrt(332 / 64), 0, 0])


@pytest.mark.parametrize("single", ["zero", "raw"])
def test_nobody_to_be_compared_with(single):
    traj = four_answers().replace(group=torch.tensor([0, 1, 2, 2]))
    valid = torch.tensor([[True], [True], [True], [False]])
    credit = Channel(torch.tensor([[3.0], [0.0], [5.0], [7.0]]), valid)
    for baseline in ("mean", "leave-one-out"):
        for scale in ("none", "std", "leave-one-out-std"):
            value = standardise(credit, traj, baseline=baseline, scale=scale, single=single).value.squeeze(1).tolist()
            assert value == ([0.0] * 4 if single == "zero" else [3.0, 0.0, 5.0, 0.0])


def test_equal_members_of_a_set_are_not_divided_even_where_their_actions_differ():
    traj = four_answers().select(torch.tensor([0, 2])).replace(group=torch.tensor([0, 0]))
    credit = Channel(torch.tensor([[0.3, 0.1, 0.5], [0.3, 0.2, 0.7]]), torch.ones(2, 1, dtype=torch.bool))
    value = standardise(credit, traj, eps=1e-9).value
    torch.testing.assert_close(value, credit.value - 0.3)


def test_whole_batches_named_in_extras_are_sets_of_their_own():
    traj = four_answers().replace(extras={"batch": torch.tensor([0, 0, 1, 1])}, group=torch.zeros(4, dtype=torch.int64))
    for over in ("batch", "group"):
        value = standardise(column(1.0, 0.0, 9.0, 5.0), traj, over=over, scale="none").value
        assert value.squeeze(1).tolist() == [0.5, -0.5, 2.0, -2.0]


@pytest.mark.parametrize("over", ["batch", "group"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_statistics_over_actions_agree_with_statistics_over_the_flat_list_of_actions(over, ddof):
    rng = torch.Generator().manual_seed(4)
    n, t = 40, 9
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    traj = Trajectories(
        mask=exists & (torch.rand(n, t, generator=rng) > 0.3),
        length=length,
        group=torch.randint(0, 7, (n,), generator=rng),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
    )
    dense = Channel(torch.randn(n, t, generator=rng), torch.rand(n, t, generator=rng) > 0.2)
    uniform = Channel(dense.value[:, :1], dense.valid[:, :1])
    others = [Channel(x, dense.valid) for x in (dense.value.double(), dense.value * 1e25, dense.value * 1e-25)]
    # Short rows of single precision are summed up in it, but for numbers whose squares it does not hold.
    for channel, near in ((dense, 3e-7), (uniform, 1e-12), *((other, 1e-12) for other in others)):
        counts = traj.own & channel.valid
        key = (torch.zeros(n, dtype=torch.int64) if over == "batch" else traj.group)[:, None].expand(n, t)
        flat = statistics(channel.value.expand(n, t)[counts], key[counts], counts[counts], ddof=ddof)
        ours = action_statistics(channel, traj, over, ddof=ddof)
        for name in ("count", "mean", "std"):
            spread = getattr(ours, name).expand(n, t)[counts]
            torch.testing.assert_close(spread, getattr(flat, name), rtol=near, atol=near * float(flat.std.max()))


def test_large_batches_of_actions_are_reduced_in_blocks_without_a_seam():
    n, t = 1500, 700  # two blocks
    traj = Trajectories(
        mask=torch.ones(n, t, dtype=torch.bool),
        length=torch.full((n,), t),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, t, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int8),
    )
    ramp = torch.arange(n * t, dtype=torch.float64).reshape(n, t)
    found = action_statistics(Channel(ramp, torch.ones(n, t, dtype=torch.bool)), traj, "batch", ddof=0)
    assert found.mean[0, 0].item() == pytest.approx((n * t - 1) / 2, rel=1e-12)
    assert found.std[0, 0].item() == pytest.approx(math.sqrt(((n * t) ** 2 - 1) / 12), rel=1e-12)
    assert (found.equal[0, 0], found.count[0, 0]) == (False, n * t)


def test_gradients_flow_to_the_credit_and_are_finite_beside_padding_and_unknowns():
    value = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, float("nan")], [5.0, 5.0, 5.0], [float("inf")] * 3], requires_grad=True)
    valid = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [False] * 3])
    for unit in ("rollout", "action"):
        advantage = standardise(Channel(value, valid), four_answers(), unit=unit).value
        (grad,) = torch.autograd.grad((advantage * torch.arange(12.0).reshape(4, 3)).sum(), value)
        assert grad.isfinite().all()
        assert grad[0].abs().sum() > 0


def test_combinations_that_would_compare_a_rollout_with_itself_are_refused():
    credit, traj = column(1.0, 0.0, 1.0, 0.0), four_answers()
    for unit, over in (("action", "group"), ("action", "batch"), ("action", "step"), ("step", "group"), ("step", "batch")):
        with pytest.raises(ValueError, match="would compare a rollout with itself"):
            standardise(credit, traj, over=over, unit=unit, baseline="leave-one-out")
        with pytest.raises(ValueError, match="would compare a rollout with itself"):
            standardise(credit, traj, over=over, unit=unit, scale="leave-one-out-std")
    with pytest.raises(ValueError, match='over="step" compares steps'):
        standardise(credit, traj, over="step")


@pytest.mark.parametrize("option", ["unit", "baseline", "scale", "eps_where", "single", "ended"])
def test_an_unknown_option_is_named_with_those_allowed(option):
    plain = standardise.__wrapped__  # without the type checks that tests switch on
    with pytest.raises(ValueError, match=f"standardise: {option} must be one of .*, got 'nonsense'"):
        plain(column(1.0, 0.0, 1.0, 0.0), four_answers(), **{option: "nonsense"})


def test_no_rollouts_have_no_advantage():
    nobody = four_answers().select(torch.tensor([], dtype=torch.int64))
    for unit, over in (("rollout", "group"), ("step", "step"), ("action", "batch")):
        assert (
            len(standardise(Channel(torch.zeros(0, 1), torch.ones(0, 1, dtype=torch.bool)), nobody, unit=unit, over=over).value)
            == 0
        )
