"""CANON: halves by a trait, what the two comparisons add up to, and what becomes of the gradient."""

import functools
import itertools

import pytest
import torch

from payoff.advantages.group import dr_grpo, leave_one_out
from payoff.advantages.regrouped import entropy_halves, length_halves
from payoff.credit.returns import total
from payoff.exact import bias
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64


def rollouts(groups: list[int], entropy: list[float], width: int = 2) -> Trajectories:
    n = sum(groups)
    return Trajectories(
        mask=torch.ones(n, width, dtype=torch.bool),
        length=torch.full((n,), width),
        group=torch.arange(len(groups)).repeat_interleave(torch.tensor(groups)),
        step=torch.zeros(n, width, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, width, dtype=torch.int64),
        id=torch.arange(n),
        extras={"entropy": torch.tensor(entropy)[:, None].repeat(1, width)},
    )


def column(*value: float, dtype=F64) -> Channel:
    return Channel(torch.tensor(value, dtype=dtype)[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def canon(*value: float, entropy: list[float], **options) -> list[float]:
    return entropy_halves(column(*value), rollouts([len(value)], entropy), **options).value[:, 0].tolist()


ENTROPY = [0.9, 0.1, 0.8, 0.2]  # rollouts 0 and 2 are the upper half


def test_between_within_and_half_way():
    # upper (1, 0) mean 1/2, lower (0.5, 0.1) mean 0.3
    assert canon(1, 0.5, 0, 0.1, entropy=ENTROPY) == pytest.approx([0.7, 0.0, -0.3, -0.4])
    assert canon(1, 0.5, 0, 0.1, entropy=ENTROPY, between=0.0) == pytest.approx([0.5, 0.2, -0.5, -0.2])
    assert canon(1, 0.5, 0, 0.1, entropy=ENTROPY, between=0.5) == pytest.approx([0.6, 0.1, -0.4, -0.3])  # less the mean 0.4


def test_half_way_is_dr_grpo_in_groups_of_even_size():
    rng = torch.Generator().manual_seed(0)
    reward, entropy = torch.rand(14, generator=rng).tolist(), torch.rand(14, generator=rng).tolist()
    traj = rollouts([4, 2, 8], entropy)
    found = entropy_halves(column(*reward), traj, between=0.5).value
    torch.testing.assert_close(found, dr_grpo(column(*reward), traj).value, rtol=0, atol=1e-12)


def test_over_all_ways_to_split_the_comparison_with_the_other_half_is_leave_one_out():
    reward = (1.0, 0.3, -2.0, 0.7)
    orders = list(itertools.permutations([0.1, 0.2, 0.3, 0.4]))
    mean = torch.tensor([canon(*reward, entropy=list(order)) for order in orders]).mean(0)
    alone = leave_one_out(column(*reward), rollouts([4], [0.0] * 4)).value[:, 0]
    torch.testing.assert_close(mean.double(), alone, rtol=0, atol=1e-6)


def test_of_an_odd_group_the_upper_half_is_the_larger_and_equal_traits_go_by_id():
    # entropies 1, 2, 3: lower (5), upper (2, 4)
    assert canon(5, 2, 4, entropy=[1.0, 2.0, 3.0]) == pytest.approx([2.0, -3.0, -1.0])
    assert canon(5, 2, 4, 1, entropy=[1.0] * 4) == pytest.approx([2.5, -0.5, 0.5, -2.5])  # ids 0 and 1 count as more


def test_less_than_one_leans_towards_high_entropy_or_towards_the_short():
    # upper (1, 0), lower (0.5, 0.1), alpha = 1/2: C - 0.15 above, C / 2 - 0.5 below
    found = canon(1, 0.5, 0, 0.1, entropy=ENTROPY, asymmetry=0.5)
    assert found == pytest.approx([0.85, -0.25, -0.15, -0.45])
    length = torch.tensor([4, 1, 3, 2])
    exists = torch.arange(4) < length[:, None]
    traj = rollouts([4], ENTROPY, width=4).replace(mask=exists, step=torch.where(exists, 0, -1).int())
    traj = traj.replace(length=length)
    # long (1, 0), short (0.5, 0.1): long C / 2 - 0.3, short C - 0.25
    found = length_halves(column(1, 0.5, 0, 0.1), traj, asymmetry=0.5).value[:, 0].tolist()
    assert found == pytest.approx([0.2, 0.25, -0.3, -0.15])


def test_the_schedule_follows_the_success_rate_of_the_batch():
    reward = (1.0, 0.0, 0.0, 0.0)
    for schedule, share in (("accuracy", 0.25), ("inaccuracy", 0.75)):
        found, plain = (canon(*reward, entropy=ENTROPY, between=between) for between in (schedule, share))
        assert found == pytest.approx(plain)
    with pytest.raises(ValueError, match=r"needs credits in 0\.\.1"):
        canon(2, 0, 0, 0, entropy=ENTROPY, between="accuracy")


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_credits_and_rollouts_without_another_half_get_exactly_zero(dtype):
    traj = rollouts([5, 4, 1], [0.1 * i for i in range(10)])
    credit = column(*[0.97] * 5, *[1e6 / 3] * 4, 0.5, dtype=dtype)
    for between in (0.0, 0.3, 1.0):
        assert entropy_halves(credit, traj, between=between).value.abs().max() == 0


def test_the_unknown_belong_to_no_half():
    credit = column(1, 0.5, 0, 0.1, 9)
    credit.valid[4] = False
    found = entropy_halves(credit, rollouts([5], [*ENTROPY, 5.0])).value[:, 0].tolist()
    assert found == pytest.approx([0.7, 0.0, -0.3, -0.4, 0.0])


def test_the_gradient_turns_unless_half_way():
    policy = Tabular(3, 2, stop=2, spread=1.0, seed=1)
    reward = torch.tensor([0.3, -0.5, 1.0, 0.0, 0.8, 0.3, 0.6], dtype=F64)

    def of(**options):
        path = [total, functools.partial(length_halves, **options)]
        return bias(policy, [Term(weigh({"x": path}), policy_gradient, sequence_sum)], {"x": reward}, reward, group_size=2)

    half_way = of(between=0.5)
    assert half_way.residual < 1e-9
    assert half_way.scale == pytest.approx(0.5)  # of two rollouts
    assert of(between=1.0, asymmetry=0.8).residual > 0.02


def test_what_makes_no_sense_is_refused():
    for options, message in (
        ({"between": 1.5}, r"between must lie in 0\.\.1"),
        ({"asymmetry": -0.1}, r"asymmetry must lie in 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            entropy_halves(column(1, 0), rollouts([2], [0.1, 0.2]), **options)
    with pytest.raises(ValueError, match=r"needs extras\['entropy'\]"):
        entropy_halves(column(1, 0), rollouts([2], [0.1, 0.2], width=3).replace(extras={"entropy": torch.ones(2)}))
