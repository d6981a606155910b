"""JEPO's advantage: the worked numbers, what it climbs, and credits far apart."""

import math

import pytest
import torch

from payoff.advantages.marginal import without_it
from payoff.credit.returns import total
from payoff.exact import expected_gradient
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
TRAJ = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))


def found(*logp: float, dtype=F64, valid=None) -> torch.Tensor:
    known = torch.ones(4, 1, dtype=torch.bool) if valid is None else torch.tensor(valid)[:, None]
    return without_it(Channel(torch.tensor(logp, dtype=dtype)[:, None], known), TRAJ).value[:, 0]


def test_the_worked_numbers_and_that_a_common_factor_changes_nothing():
    logp = [math.log(p) for p in (0.1, 0.2, 0.4, 0.8)]
    wanted = torch.tensor([-0.218689, -0.144581, 0.022473, 0.474458], dtype=F64)
    torch.testing.assert_close(found(*logp), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(found(*(x - 700 for x in logp)), wanted, rtol=0, atol=1e-6)


def test_of_credits_far_apart_each_is_compared_with_the_others_that_there_are():
    # log-mean-exp of (-1000, 0, -900, -900) is -log 4; without the second: -900 + log(2/3)
    value = found(-1000.0, 0.0, -900.0, -900.0)
    assert value[1].item() == pytest.approx(-math.log(4) + 900 - math.log(2 / 3))
    assert value[0].item() == pytest.approx(-math.log(4) + math.log(3))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_credits_get_exactly_nothing_and_so_does_one_alone(dtype):
    assert found(*[-0.97] * 4, dtype=dtype).tolist() == [0.0] * 4
    assert found(-1.0, -2.0, -3.0, -4.0, dtype=dtype, valid=[False, False, True, False]).tolist() == [0.0] * 4


@pytest.mark.parametrize("size", [2, 3])
def test_it_climbs_the_expected_log_of_the_groups_mean(size):
    policy = Tabular(2, 2, spread=1.0, seed=1)
    logp = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=F64) * 2
    term = Term(weigh({"x": [total, without_it]}), policy_gradient, sequence_sum)
    p, drawn = policy.probabilities(), torch.cartesian_prod(*[torch.arange(4)] * size)
    bound = (p[drawn].prod(1) * (logp[drawn].logsumexp(1) - math.log(size))).sum()
    wanted = torch.autograd.grad(bound, policy.logits)[0].flatten()
    # the aggregation is the mean over rollouts
    torch.testing.assert_close(size * expected_gradient(policy, [term], {"x": logp}, group_size=size), wanted, rtol=0, atol=1e-9)
