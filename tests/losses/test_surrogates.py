"""What must hold for every surrogate of the policy gradient: what it is at ratio 1, and what it never reads."""

import functools
import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.covariance_clipping import clip_cov, kl_cov
from payoff.losses.divergence_clipping import dppo_kl, dppo_tv
from payoff.losses.policy_gradient import dual_clip, policy_gradient, ppo_clip
from payoff.losses.pre_clip import stable_reinforce
from payoff.losses.sequence_ratio import gmpo, gspo, gspo_token, off_policy_mask
from payoff.losses.soft_gates import sapo, vespo
from payoff.losses.truncated_weights import cispo, truncated_importance
from payoff.losses.unbounded import dro, strict_on_policy
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

F64 = torch.float64
RATIO = {  # at ratio 1 the term is -A
    "ppo-clip": ppo_clip,
    "dual-clip": dual_clip,
    "gspo": gspo,
    "gspo-token": gspo_token,
    "gmpo": gmpo,
    "off-policy-mask": off_policy_mask,
    "r1-reward": stable_reinforce,
    "kl-cov": functools.partial(kl_cov, share=0.3),
    "clip-cov": functools.partial(clip_cov, least=1e6, most=1e7),  # with nothing eligible
    "strict-on-policy": strict_on_policy,
}
LIKELIHOOD = {  # at ratio 1 the term is -A log pi
    "policy-gradient": policy_gradient,
    "cispo": cispo,
    "truncated-importance": truncated_importance,
    "truncated-importance, dropped": functools.partial(truncated_importance, least=0.5),
    "truncated-importance, sequence": functools.partial(truncated_importance, level="sequence"),
    "truncated-importance, step": functools.partial(truncated_importance, level="step"),
    "vespo": vespo,
    "dppo-tv": dppo_tv,
    "dppo-kl": dppo_kl,
    "dro": functools.partial(dro, beta=0.7),
}
ALL = {**RATIO, **LIKELIHOOD, "sapo": sapo}
AVERAGED = {"gspo", "gmpo"}  # advantages that differ along a sequence are averaged over it
WHOLE = {"clip-cov", "kl-cov"}  # what one row says may change which actions of another are held back
AGGREGATIONS = {
    "token-mean": token_mean,
    "sequence-mean": sequence_mean,
    "sequence-sum": sequence_sum,
    "constant-length": functools.partial(constant_length, max_length=9),
}
every_loss = pytest.mark.parametrize("name", ALL)


def batch(seed: int = 0, *, known: float = 0.8) -> tuple[Trajectories, torch.Tensor, torch.Tensor]:
    """Trajectories with holes, forks and padding; advantages by sequence; and which of them are known, action by action."""
    rng = torch.Generator().manual_seed(seed)
    n, t = 7, 5
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    traj = Trajectories(
        mask=exists & (torch.rand(n, t, generator=rng) < 0.8),
        length=length,
        group=torch.arange(n) // 2,
        step=torch.where(exists, torch.arange(t) // 2, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={"old": -2 * torch.rand(n, t, generator=rng, dtype=F64) - 0.05},
        id=torch.randperm(50, generator=rng)[:n],
        parent=torch.full((n,), -1),
        fork=torch.minimum(torch.randint(0, 2, (n,), generator=rng), length - 1),
    )
    valid = torch.rand(n, t, generator=rng) < known
    valid[1] = False
    return traj, torch.randn(n, 1, generator=rng, dtype=F64), valid


def moved(traj: Trajectories, nats: float, seed: int = 0) -> Evaluation:
    drift = nats * torch.randn(traj.mask.shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return Evaluation((traj.logp["old"] + drift).clamp(max=-1e-3).requires_grad_(), {})


def slope(loss, evaluation: Evaluation, traj: Trajectories, target: Channel, aggregation=None) -> torch.Tensor:
    terms = loss(evaluation, traj, target).terms
    weight = torch.ones_like(terms) if aggregation is None else aggregation(target, traj)
    return torch.autograd.grad((terms * weight).sum(), evaluation.logp)[0]


@every_loss
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_at_ratio_one_the_gradient_is_the_policy_gradient(name, aggregation):
    traj, advantage, valid = batch()
    target, here = Channel(advantage, valid), moved(traj, 0.0)
    found, plain = (slope(loss, here, traj, target, AGGREGATIONS[aggregation]) for loss in (ALL[name], policy_gradient))
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if name not in AVERAGED])
def test_at_ratio_one_every_action_keeps_an_advantage_of_its_own(name):
    traj, _, valid = batch()
    advantage = torch.randn(traj.mask.shape, generator=torch.Generator().manual_seed(5), dtype=F64)
    target, here = Channel(advantage, valid), moved(traj, 0.0)
    torch.testing.assert_close(slope(ALL[name], here, traj, target), slope(policy_gradient, here, traj, target))


@pytest.mark.parametrize("name", sorted(AVERAGED))
def test_one_ratio_for_all_actions_averages_their_advantages(name):
    traj = four_answers()
    here = Evaluation(traj.logp["old"].clone().requires_grad_(), {})
    target = Channel(torch.tensor([[3.0, 0.5, -2.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    found = slope(ALL[name], here, traj, target)
    # sums 1.5 over three actions, 3.5 over two, 3 over one; gmpo and gspo spread them evenly
    torch.testing.assert_close(found, torch.tensor([[-0.5] * 3, [-1.75, -1.75, 0.0], [-0.5] * 3, [-3.0, 0.0, 0.0]]))


@every_loss
def test_at_ratio_one_the_value_is_one_of_three(name):
    traj, advantage, valid = batch()
    terms = ALL[name](moved(traj, 0.0), traj, Channel(advantage, valid)).terms
    wanted = -advantage.expand_as(terms)
    if name in LIKELIHOOD:
        wanted = wanted * traj.logp["old"]
    if name == "sapo":
        wanted = 2 * wanted / torch.where(advantage > 0, 1.0, 1.05).to(F64)
    torch.testing.assert_close(terms, torch.where(traj.own & valid, wanted, 0), rtol=1e-7, atol=1e-12)


@every_loss
@pytest.mark.parametrize("nats", [0.0, 0.5])
def test_terms_and_gradients_are_zero_where_no_action_is_or_nothing_is_known_of_it(name, nats):
    traj, advantage, valid = batch()
    counts = traj.own & valid
    value = torch.where(valid, advantage, torch.nan)
    evaluation = moved(traj, nats)
    output = ALL[name](evaluation, traj, Channel(value, valid))
    assert output.terms.isfinite().all()
    assert not output.terms[~counts].any()
    grad = slope(ALL[name], evaluation, traj, Channel(value, valid))
    assert grad.isfinite().all()
    assert not grad[~counts].any()
    assert all(math.isfinite(number) for number in output.metrics.values())


@every_loss
def test_padding_is_never_read(name):
    traj, advantage, valid = batch()
    evaluation = moved(traj, 0.5)
    spoil = lambda x: torch.where(traj.exists, x.detach(), torch.nan)
    junk = traj.replace(logp={"old": spoil(traj.logp["old"])})
    again = Evaluation(spoil(evaluation.logp).requires_grad_(), {})
    target = Channel(advantage.expand_as(valid), valid)
    spoilt = Channel(spoil(target.value), valid | ~traj.exists)
    one, other = ALL[name](evaluation, traj, target), ALL[name](again, junk, spoilt)
    assert torch.equal(one.terms, other.terms)
    assert one.metrics == other.metrics
    assert torch.equal(slope(ALL[name], evaluation, traj, target), slope(ALL[name], again, junk, spoilt))


@every_loss
def test_rows_may_lie_in_any_order_and_groups_bear_any_number(name):
    traj, advantage, valid = batch()
    evaluation = moved(traj, 0.5)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    other = traj.select(order).replace(group=10**12 - traj.group[order])
    found = ALL[name](evaluation, traj, Channel(advantage, valid))
    again = ALL[name](Evaluation(evaluation.logp[order], {}), other, Channel(advantage[order], valid[order]))
    torch.testing.assert_close(again.terms, found.terms[order])
    assert again.metrics == pytest.approx(found.metrics)


@pytest.mark.parametrize("name", [name for name in ALL if name not in WHOLE])
def test_what_is_unknown_of_one_trajectory_changes_no_other(name):
    traj, advantage, valid = batch(known=1.0)
    evaluation = moved(traj, 0.5)
    fewer = valid.clone()
    fewer[0] = False
    one, other = (ALL[name](evaluation, traj, Channel(advantage, v)).terms for v in (valid, fewer))
    assert torch.equal(one[1:], other[1:])
    assert not other[0].any()


@every_loss
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("nats", [-300.0, 300.0])
def test_ratios_beyond_all_bounds_stay_finite(name, advantage, nats):
    traj = four_answers()
    evaluation = Evaluation((traj.logp["old"] + nats).requires_grad_(), {})
    target = Channel(torch.full((4, 1), advantage), torch.ones(4, 1, dtype=torch.bool))
    assert ALL[name](evaluation, traj, target).terms.isfinite().all()
    assert slope(ALL[name], evaluation, traj, target).isfinite().all()


@every_loss
def test_equal_rewards_give_exactly_nothing(name):
    traj, advantage, valid = batch()
    target = Channel(torch.zeros_like(advantage), valid)
    evaluation = moved(traj, 0.5)
    output = ALL[name](evaluation, traj, target)
    penalised = name in ("dro", "kl-cov")  # a penalty on the ratio asks for something without an advantage too
    assert bool(output.terms.any()) == penalised
    assert bool(slope(ALL[name], evaluation, traj, target).any()) == penalised


@every_loss
def test_a_batch_in_which_nothing_counts_gives_zeros(name):
    traj = four_answers()
    evaluation = Evaluation((traj.logp["old"] + 0.3).requires_grad_(), {})
    for none in (traj, traj.replace(mask=torch.zeros_like(traj.mask))):
        valid = torch.full((4, 1), none is not traj)
        output = ALL[name](evaluation, none, Channel(torch.ones(4, 1), valid))
        assert not output.terms.any()
        assert set(output.metrics.values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_loss
def test_terms_keep_the_precision_of_the_log_probabilities(name, dtype):
    traj, advantage, valid = batch()
    traj = traj.replace(logp={"old": traj.logp["old"].to(dtype)})
    output = ALL[name](Evaluation(traj.logp["old"] + 0.2, {}), traj, Channel(advantage.to(dtype), valid))
    assert output.terms.dtype == dtype


@every_loss
def test_it_says_when_the_policy_that_acted_left_no_log_probabilities(name):
    traj = four_answers()
    without = Trajectories(traj.mask, traj.length, traj.group, traj.step, traj.stop, traj.actions)
    target = Channel(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
    if name in ("policy-gradient", "strict-on-policy"):
        assert ALL[name](Evaluation(traj.logp["old"], {}), without, target).terms.any()
    else:
        with pytest.raises(ValueError, match=r'needs traj.logp\["old"\]'):
            ALL[name](Evaluation(traj.logp["old"], {}), without, target)
