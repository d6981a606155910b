"""What the surrogates descend on average, to 1e-9, on and off policy, by enumeration."""

import functools

import pytest
import torch

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import total
from payoff.exact import bias, exact_gradient, expected_gradient
from payoff.losses.aggregation import sequence_mean, sequence_sum
from payoff.losses.covariance_clipping import clip_cov, kl_cov
from payoff.losses.divergence_clipping import dppo_kl, dppo_tv
from payoff.losses.entropy_smoothing import entropy_smoothing
from payoff.losses.policy_gradient import policy_gradient, ppo_clip
from payoff.losses.pre_clip import stable_reinforce
from payoff.losses.regularisers import entropy_bonus
from payoff.losses.sequence_ratio import gmpo, gspo, gspo_token, off_policy_mask
from payoff.losses.soft_gates import sapo, vespo
from payoff.losses.truncated_weights import cispo, truncated_importance
from payoff.losses.unbounded import dro, strict_on_policy
from payoff.pipeline import Term, everywhere, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel

F64 = torch.float64
POLICY = Tabular(2, 3, stop=1, spread=1.0, seed=1)
OTHER = Tabular(2, 3, stop=1, spread=1.0, seed=2)
ACTOR = Tabular(2, 3, stop=1, logits=POLICY.logits.detach() + 0.3 * OTHER.logits.detach())
REWARD = torch.randn(len(POLICY.tree), generator=torch.Generator().manual_seed(0), dtype=F64)
PATH = weigh({"x": [total, leave_one_out]})
WIDE = {"bound": 1e8}
SURROGATES = {
    "gspo": gspo,
    "gspo-token": gspo_token,
    "gmpo": gmpo,
    "off-policy-mask": off_policy_mask,
    "sapo": sapo,
    "vespo": vespo,
    "cispo": cispo,
    "truncated-importance": truncated_importance,
    "dppo-tv": dppo_tv,
    "dppo-kl": dppo_kl,
    "r1-reward": stable_reinforce,
    "strict-on-policy": strict_on_policy,
    "dro": functools.partial(dro, beta=0.5),
    "kl-cov": functools.partial(kl_cov, share=0.2),
    "clip-cov": functools.partial(clip_cov, least=50.0, most=60.0),
}


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SURROGATES)
def test_on_policy_every_surrogate_climbs_the_exact_gradient(name):
    """Summed over a sequence, the surrogate with a leave-one-out advantage is unbiased for E[reward] itself."""
    found = expected_gradient(POLICY, [Term(PATH, SURROGATES[name], sequence_sum)], {"x": REWARD})
    close(found, exact_gradient(POLICY, REWARD))


def test_off_policy_the_weight_of_the_whole_sequence_is_unbiased_and_a_bound_is_not():
    whole = functools.partial(truncated_importance, level="sequence")
    exact = bias(POLICY, [Term(PATH, functools.partial(whole, **WIDE), sequence_sum)], {"x": REWARD}, REWARD, actor=ACTOR)
    assert exact.difference.abs().max() < 1e-9
    held = bias(POLICY, [Term(PATH, functools.partial(whole, bound=1.0), sequence_sum)], {"x": REWARD}, REWARD, actor=ACTOR)
    ignored = bias(POLICY, [Term(PATH, policy_gradient, sequence_sum)], {"x": REWARD}, REWARD, actor=ACTOR)
    assert 0.01 < held.residual < ignored.residual


def test_without_bounds_a_weight_and_a_ratio_are_the_same_gradient():
    """-sg(rho) A log pi and -rho A differ in value alone: what the weighted losses and PPO disagree on are their bounds."""
    losses = (
        functools.partial(truncated_importance, **WIDE),
        functools.partial(cispo, low=1.0, high=1e8),
        functools.partial(dppo_tv, low=1.0, high=1.0, **WIDE),
        functools.partial(ppo_clip, low=1.0, high=1e8),
        functools.partial(stable_reinforce, low=1.0, high=1e8),
    )
    found = [expected_gradient(POLICY, [Term(PATH, loss, sequence_sum)], {"x": REWARD}, actor=ACTOR) for loss in losses]
    for other in found[1:]:
        close(other, found[0])


def test_for_one_advantage_a_sequence_gspo_and_gspo_token_are_one_gradient_off_policy_too():
    wide = {"low": 1.0, "high": 1e8}
    for options in (wide, {"low": 0.1, "high": 0.1}):
        found = [
            expected_gradient(POLICY, [Term(PATH, functools.partial(loss, **options), sequence_mean)], {"x": REWARD}, actor=ACTOR)
            for loss in (gspo, gspo_token)
        ]
        close(found[0], found[1])
    unclipped = [
        expected_gradient(POLICY, [Term(PATH, functools.partial(loss, **options), sequence_mean)], {"x": REWARD}, actor=ACTOR)
        for loss, options in ((gspo, wide), (gmpo, {"low": 1e8, "high": 1e8}))
    ]
    close(unclipped[1], unclipped[0])  # and without bounds the geometric mean of clipped ratios is that of ratios


def test_dro_rests_at_the_regularised_optimum_when_the_advantage_is_over_the_soft_value():
    beta = 0.7
    old = Tabular(4, 1, spread=1.0, seed=3)
    reward = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=F64)
    soft_value = beta * (old.probabilities().detach() * (reward / beta).exp()).sum().log()
    loss = functools.partial(dro, beta=beta)
    resting, beside = (
        expected_gradient(
            old.optimum(reward, beta), [Term(weigh({"x": [total]}), loss, sequence_sum)], {"x": reward - v}, actor=old, group_size=1
        )
        for v in (soft_value, torch.tensor(0.0, dtype=F64))
    )
    assert resting.abs().max() < 1e-9
    assert beside.abs().max() > 1e-3


def test_a_small_temperature_takes_the_gate_away():
    near = functools.partial(sapo, temperature=1e-6, negative_temperature=1e-6)
    free = functools.partial(cispo, low=1.0, high=1e8)
    found, wanted = (
        expected_gradient(POLICY, [Term(PATH, loss, sequence_sum)], {"x": REWARD}, actor=ACTOR) for loss in (near, free)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_penalty_of_kl_cov_acts_off_policy_and_batch_by_batch():
    """That batches are enumerated together, and each alone gives the same, is checked by `expected_gradient` itself."""
    losses = [functools.partial(kl_cov, share=0.2, coefficient=c) for c in (0.0, 1.0, 2.0)]
    found = [expected_gradient(POLICY, [Term(PATH, loss, sequence_sum)], {"x": REWARD}, actor=ACTOR) for loss in losses]
    assert (found[1] - found[0]).abs().max() > 1e-3
    close(found[2] - found[1], found[1] - found[0])


def past(rewards, traj) -> Channel:
    """Entropies of past updates that leave some turns inside the band and others outside it on either side."""
    turn = torch.tensor([0.3, 0.6, 1.2], dtype=F64)
    return Channel(turn[traj.step.clamp(min=0)], torch.ones(len(traj), 1, dtype=torch.bool))


def test_a_constant_penalty_outside_the_band_is_the_entropy_bonus_and_a_distance_is_not():
    plain = expected_gradient(POLICY, [Term(everywhere, entropy_bonus, sequence_sum)], {})
    constant, band = (
        expected_gradient(POLICY, [Term(past, functools.partial(entropy_smoothing, penalty=kind), sequence_sum)], {"x": REWARD})
        for kind in ("constant", "distance")
    )
    close(constant, plain)
    assert (band - plain).abs().max() > 1e-2
