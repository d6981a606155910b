"""What each loss descends on average, to 1e-9: on and off policy, divergences, entropy, critics."""

import functools

import pytest
import torch

from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.enumeration import paid
from payoff.exact import bias, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_mean, sequence_sum
from payoff.losses.policy_gradient import dual_clip, policy_gradient, ppo_clip
from payoff.losses.regularisers import entropy_bonus, kl_k1, kl_k2, kl_k3, kl_unbiased
from payoff.losses.value import value_loss
from payoff.pipeline import Term, everywhere, weigh
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.signals.likelihood import kl_penalty

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)
REFERENCE = Tabular(3, 3, stop=2, spread=1.0, seed=2)
ACTOR = Tabular(3, 3, stop=2, logits=POLICY.logits.detach() + 0.1 * REFERENCE.logits.detach())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


REWARD = normal(len(POLICY.tree))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def descends(value: torch.Tensor, policy: Tabular = POLICY) -> torch.Tensor:
    return -torch.autograd.grad(value, policy.logits)[0].flatten()


def at_every_prefix(number: torch.Tensor, actor: Tabular = POLICY) -> torch.Tensor:
    """sum over prefixes of a number of each, by how often the actor comes there, which is held fixed."""
    return (actor.occupancy().detach() * number).sum()


def reverse_kl() -> torch.Tensor:
    """KL(pi, ref) of the action at every prefix."""
    logp, ref = POLICY.logits[0].log_softmax(1), REFERENCE.logits[0].log_softmax(1).detach()
    return (logp.exp() * (logp - ref)).sum(1)


def forward_kl() -> torch.Tensor:
    """KL(ref, pi) of the action at every prefix."""
    logp, ref = POLICY.logits[0].log_softmax(1), REFERENCE.logits[0].log_softmax(1).detach()
    return (ref.exp() * (ref - logp)).sum(1)


def regularised(loss, **options) -> torch.Tensor:
    return expected_gradient(POLICY, [Term(everywhere, loss, sequence_sum)], {}, reference=REFERENCE, **options)


# --- divergences


def test_k1_as_a_loss_is_nothing_but_noise():
    term = Term(everywhere, kl_k1, sequence_sum)
    assert regularised(kl_k1).abs().max() < 1e-12
    assert gradient_covariance(POLICY, [term], {}, reference=REFERENCE).trace() > 0.1


def test_k2_as_a_loss_descends_the_reverse_kl_of_every_action():
    close(regularised(kl_k2), descends(at_every_prefix(reverse_kl())))


def test_k3_as_a_loss_descends_the_forward_kl_of_every_action():
    close(regularised(kl_k3), descends(at_every_prefix(forward_kl())))


@pytest.mark.parametrize("actor", [None, ACTOR])
def test_k3_times_the_ratio_descends_the_reverse_kl_whoever_acted(actor):
    found = regularised(kl_unbiased, actor=actor)
    close(found, descends(at_every_prefix(reverse_kl(), actor or POLICY)))


def test_no_loss_form_descends_the_kl_of_whole_sequences_and_the_reward_form_does():
    whole = descends(kl_divergence(POLICY.probabilities(), REFERENCE.probabilities().detach()))
    term = Term(weigh({"kl": [return_to_go, leave_one_out]}), policy_gradient, sequence_sum)
    close(expected_gradient(POLICY, [term], kl_penalty, reference=REFERENCE), whole)
    assert (regularised(kl_k2) - whole).abs().max() > 1e-2


def test_reward_minus_beta_kl_vanishes_at_the_regularised_optimum():
    beta = 0.7
    best = REFERENCE.optimum(REWARD, beta)

    def both(traj):
        return paid({"reward": REWARD})(traj) | kl_penalty(traj)

    both.needs = frozenset({"ref"})
    target = weigh({"reward": [total], "kl": [total]}, mix={"reward": 1.0, "kl": beta}, then=[leave_one_out])
    term = Term(target, policy_gradient, sequence_sum)
    assert expected_gradient(best, [term], both, reference=REFERENCE).abs().max() < 1e-12
    # not only on average: at the optimum reward - beta log-ratio is the same for every sequence
    assert gradient_covariance(best, [term], both, reference=REFERENCE).abs().max() < 1e-12


def test_k3_as_a_reward_descends_the_reverse_minus_the_forward_kl():
    policy, reference = Tabular(4, 1, spread=1.0, seed=3), Tabular(4, 1, spread=1.0, seed=4)
    term = Term(weigh({"kl": [total]}), policy_gradient, sequence_sum)
    found = expected_gradient(policy, [term], functools.partial(kl_penalty, estimator="k3"), reference=reference)
    p, q = policy.probabilities(), reference.probabilities().detach()
    close(found, descends(kl_divergence(p, q) - kl_divergence(q, p), policy))


def test_entropy_bonus_climbs_the_entropy_of_every_action_without_noise_in_its_value():
    logp = POLICY.logits[0].log_softmax(1)
    entropy = -(logp.exp() * logp).sum(1)
    close(regularised(entropy_bonus), -descends(at_every_prefix(entropy)))


# --- surrogates


@pytest.mark.parametrize("loss", [ppo_clip, dual_clip, functools.partial(ppo_clip, low=0.0, high=0.0)])
def test_on_policy_the_surrogates_are_the_policy_gradient(loss):
    path = weigh({"x": [total, grpo]})
    found, plain = (
        expected_gradient(POLICY, [Term(path, some, sequence_mean)], {"x": REWARD}, group_size=3)
        for some in (loss, policy_gradient)
    )
    close(found, plain)


def test_off_policy_the_ratio_of_the_sequence_is_unbiased_and_that_of_each_action_is_not():
    path = weigh({"x": [total, leave_one_out]})
    wide = functools.partial(ppo_clip, low=1.0, high=1e6)
    by_sequence = Term(path, functools.partial(wide, level="sequence"), sequence_mean)
    exact = bias(POLICY, [by_sequence], {"x": REWARD}, REWARD, actor=ACTOR, group_size=3)
    assert exact.difference.abs().max() < 1e-9
    by_action = bias(POLICY, [Term(path, wide, sequence_sum)], {"x": REWARD}, REWARD, actor=ACTOR, group_size=3)
    ignored = bias(POLICY, [Term(path, policy_gradient, sequence_sum)], {"x": REWARD}, REWARD, actor=ACTOR, group_size=3)
    assert 1e-4 < by_action.residual < ignored.residual


def test_a_far_bound_makes_dual_clip_the_clip():
    path = weigh({"x": [total, leave_one_out]})
    far = Tabular(3, 3, stop=2, logits=POLICY.logits.detach() + REFERENCE.logits.detach())
    found = [
        expected_gradient(POLICY, [Term(path, loss, sequence_sum)], {"x": REWARD}, actor=far)
        for loss in (ppo_clip, functools.partial(dual_clip, bound=1e6), functools.partial(dual_clip, bound=1.3))
    ]
    close(found[1], found[0])
    assert (found[2] - found[0]).abs().max() > 1e-3


def test_clipping_turns_the_gradient_once_ratios_leave_the_bounds():
    path = weigh({"x": [total, leave_one_out]})
    far = Tabular(3, 3, stop=2, logits=POLICY.logits.detach() + REFERENCE.logits.detach())
    found = [
        bias(POLICY, [Term(path, functools.partial(ppo_clip, low=low, high=high), sequence_sum)], {"x": REWARD}, REWARD, actor=far)
        for low, high in ((0.2, 0.2), (1.0, 1e6))
    ]
    assert found[0].residual > found[1].residual > 0.01


# --- critics


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
def test_the_true_values_are_where_the_critics_loss_rests(trace):
    policy = Tabular(3, 3, stop=2, logits=POLICY.logits.detach(), critic=True)
    term = Term(weigh({"x": [functools.partial(lambda_return, trace=trace)]}), value_loss, sequence_sum)
    away = expected_gradient(policy, [term], {"x": REWARD}, group_size=2)
    with torch.no_grad():
        policy.critic[0] = POLICY.state_values(REWARD)
    resting = expected_gradient(policy, [term], {"x": REWARD}, group_size=2)
    assert resting.abs().max() < 1e-12
    assert away.abs().max() > 1e-2
    if trace == 1:  # the step towards a Monte Carlo return: how often a prefix is passed, times the error there
        pull = POLICY.occupancy() * POLICY.state_values(REWARD)
        close(away[POLICY.logits.numel() :], pull.detach())


def test_policy_and_critic_terms_do_not_mix_their_gradients():
    policy = Tabular(3, 3, stop=2, logits=POLICY.logits.detach(), critic=True)
    actor_term = Term(weigh({"x": [total, leave_one_out]}), policy_gradient, sequence_sum)
    critic_term = Term(weigh({"x": [functools.partial(lambda_return, trace=1.0)]}), value_loss, sequence_sum, 0.5)
    found = expected_gradient(policy, [actor_term, critic_term], {"x": REWARD}, group_size=2)
    parts = [expected_gradient(policy, [term], {"x": REWARD}, group_size=2) for term in (actor_term, critic_term)]
    close(found, parts[0] + parts[1])
    close(parts[0][: POLICY.logits.numel()], exact_gradient(POLICY, REWARD))
    assert parts[1][: POLICY.logits.numel()].abs().max() == 0
