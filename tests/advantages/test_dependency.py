"""VPPO's weights: the worked ones, what S measures, and when nothing changes."""

import functools
import math

import pytest
import torch

from payoff.advantages.dependency import context_dependency
from payoff.advantages.group import mean_baseline
from payoff.credit.returns import total
from payoff.exact import compare, exact_gradient, expected_gradient
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64
ONES = Channel(torch.ones(4, 1, dtype=F64), torch.ones(4, 1, dtype=torch.bool))


def distance_of(s: float) -> float:
    """The d >= 0 at which exp(d) - d - 1 = s, by bisection."""
    low, high = 0.0, 20.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(middle) - middle < s else (low, middle)
    return low


def seen(*rows: list[float], **fields):
    """Three or fewer actions each, with these S."""
    traj = four_answers().select(torch.arange(len(rows)))
    distance = torch.tensor([[distance_of(s) for s in row] + [0.0] * (traj.width - len(row)) for row in rows], dtype=F64)
    old = torch.where(traj.exists, -2.0, torch.nan).to(F64)
    return traj.replace(logp={"old": old, "corrupted": old + distance}, **fields)


def test_rollouts_have_the_worked_weights_whose_mean_is_one():
    # mean S .2, .5, 1.1: z 0, 1/3, 1 of mean 4/9; weights .9 + z .1 / (4/9)
    traj = seen([0.2] * 3, [0.5] * 2, [1.1] * 3)
    found = context_dependency(Channel(ONES.value[:3], ONES.valid[:3]), traj, share=1.0).value
    wanted = torch.tensor([0.9, 0.975, 1.125], dtype=F64)
    torch.testing.assert_close(found[:, 0], wanted, rtol=0, atol=1e-9)


def test_the_largest_share_of_each_rollout_is_kept_and_ties_keep_the_first():
    traj = seen([0.1, 0.9, 0.5], [0.3, 0.3], [0.2, 0.2, 0.2], [0.7])
    kept = lambda share: (context_dependency(ONES, traj, share=share, least=1.0).value != 0).int().tolist()
    assert kept(0.4) == [[0, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert kept(1 / 3) == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    out = context_dependency(ONES, traj, share=1 / 3, rest="unknown").valid
    assert (out & traj.exists).int().tolist() == kept(1 / 3)


@pytest.mark.parametrize("width", [1, 2, 12])
def test_it_keeps_what_sorting_each_rollout_keeps_with_ties_and_text_of_others_between(width):
    rng = torch.Generator().manual_seed(width)
    n = 80
    length = torch.randint(1, width + 1, (n,), generator=rng)
    exists = torch.arange(width) < length[:, None]
    mask = exists & (torch.rand(n, width, generator=rng) < 0.8)
    distance = (torch.randn(n, width, generator=rng) * 2).round() / 2
    old = torch.where(exists, -1.0, torch.nan)
    fields = {name: torch.zeros(n, dtype=torch.int64) for name in ("group", "stop")}
    step, actions = torch.where(exists, 0, -1).int(), torch.zeros(n, width, dtype=torch.int64)
    traj = Trajectories(
        mask=mask, length=length, step=step, actions=actions, logp={"old": old, "corrupted": old + distance}, **fields
    )
    ones = Channel(torch.ones(n, 1), torch.ones(n, 1, dtype=torch.bool))
    for share in (0.4, 1.0):
        found = context_dependency(ones, traj, share=share, least=1.0).value
        for row in range(n):
            own = mask[row].nonzero().squeeze(1).tolist()
            s = {t: math.expm1(float(distance[row, t])) - float(distance[row, t]) for t in own}
            kept = sorted(own, key=lambda t: (-min(s[t], 10), t))[: math.ceil(share * len(own) - 1e-9)]
            assert found[row].nonzero().squeeze(1).tolist() == sorted(kept)


def test_a_context_that_changes_nothing_changes_no_weight():
    found = context_dependency(ONES, seen([0.0] * 3, [0.0] * 2, [0.0] * 3, [0.0]), share=0.5)
    assert found.value.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_whoever_has_no_advantage_takes_no_part_in_the_weights():
    traj = seen([0.2] * 3, [0.5] * 2, [1.1] * 3, [9.0])
    valid = torch.tensor([[True], [True], [True], [False]])
    found = context_dependency(Channel(ONES.value, valid), traj, share=1.0)
    torch.testing.assert_close(found.value[:, 0], torch.tensor([0.9, 0.975, 1.125, 0.0], dtype=F64), rtol=0, atol=1e-9)


def test_it_measures_the_divergence_from_the_policy_with_a_corrupted_context():
    policy, other = Tabular(5, 1, spread=0.5, seed=1), Tabular(5, 1, spread=0.5, seed=2)
    traj = policy.sequences()
    traj = traj.replace(group=torch.arange(5), logp={"corrupted": other.evaluate(traj).logp.detach()})
    p, q = policy.probabilities().detach(), other.probabilities().detach()
    # with least = 0 the weights are S itself, shifted and scaled to mean 1
    d = traj.logp["corrupted"] - traj.logp["old"]
    weights = context_dependency(
        Channel(torch.ones(5, 1, dtype=F64), torch.ones(5, 1, dtype=torch.bool)), traj, share=1.0, least=0.0
    )
    s = (d.exp() - d - 1)[:, 0]
    assert float(p @ s) == pytest.approx(float(kl_divergence(p, q)))
    torch.testing.assert_close(weights.value[:, 0], (s - s.min()) / (s - s.min()).mean())


def climbed(**options) -> torch.Tensor:
    policy, other = Tabular(2, 2, spread=1.0, seed=1), Tabular(2, 2, spread=1.0, seed=2)
    part = functools.partial(context_dependency, corrupted="ref", **options)
    term = Term(weigh({"x": [total, mean_baseline, part]}), policy_gradient, sequence_sum)
    reward = {"x": torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=F64)}
    return expected_gradient(policy, [term], reward, group_size=3, reference=other)


def test_with_all_actions_and_weight_one_it_climbs_the_reward_and_otherwise_another_way():
    exact = exact_gradient(Tabular(2, 2, spread=1.0, seed=1), torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=F64))
    assert compare(climbed(share=1.0, least=1.0), exact).residual < 1e-9
    assert compare(climbed(share=0.5, least=1.0), exact).residual > 0.05
    assert compare(climbed(share=1.0, least=0.0), exact).residual > 0.01


def test_numbers_and_log_probabilities_are_checked():
    with pytest.raises(ValueError, match=r"needs traj.logp\['corrupted'\]; there are \['old', 'ref'\]"):
        context_dependency(ONES, four_answers())
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\] and least in \[0, 1\], got 0.0 and 0.9"):
        context_dependency(ONES, four_answers(), share=0.0)
