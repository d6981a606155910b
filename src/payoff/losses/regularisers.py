"""Losses that hold a policy back, whatever the rewards say: divergence from a reference, and entropy.

They take the target `everywhere` (1 at every action, always valid): its value multiplies each term and its validity switches it.
Terms are per action, 0 where the action is not the policy's own. The loss is the divergence (or minus the entropy), to be
minimised, with its coefficient as the term's weight.

Which divergence is descended is decided by the *gradient* of an estimator and not by what it estimates. With
d = log pi(a) - log pi_ref(a) of actions sampled from pi, in expectation:

    estimator        value          its gradient as a loss descends
    k1  d            KL(pi, ref)    nothing: grad log pi is 0 on average. Never use it as a loss; as a reward it is right
    k2  d^2 / 2      (about it)     KL(pi, ref), the reverse KL, exactly
    k3  e^-d - 1 + d KL(pi, ref)    KL(ref, pi), the forward KL: bounded where pi grows, unbounded where it shrinks
    rho k3           KL(pi, ref)    KL(pi, ref), also when the actions come from an older policy (rho = pi / pi_old)

All of them are the divergences of single actions: what an action does to the divergence of later ones is only in the reward form,
`kl_penalty` followed by a return.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories, log_ratio

_FARTHEST = 20.0  # nats; beyond it exp(-d) overflows or drowns everything else


@method("kl-k1", kind="loss", needs=("ref",))
def kl_k1(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """The log-ratio itself: term_t = d_t = log pi(a_t) - log pi_ref(a_t). For measuring: its gradient is pure noise.

    Metric kl: the mean of d, an unbiased estimate of KL(pi, ref) per action that may come out negative.
    Raises ValueError without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> kl_k1(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj)).terms
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.5000],
            [0.5000, 0.0000, 0.0000]])
    """
    return _weighed("kl", _distance("kl_k1", evaluation, traj), traj, target)


@method("kl-k2", kind="loss", needs=("ref",))
def kl_k2(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """Half the squared log-ratio: term_t = d_t^2 / 2, d_t = log pi(a_t) - log pi_ref(a_t).

    As a loss on the policy's own samples its expected gradient is exactly that of KL(pi, ref): the right choice for holding a
    policy at its reference with on-policy data. Its value is a biased estimate (close while the policies are).

    Metric kl: the mean of d^2 / 2. Raises ValueError without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> kl_k2(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj)).terms
    tensor([[0.1250, 0.1250, 0.1250],
            [0.1250, 0.1250, 0.0000],
            [0.1250, 0.1250, 0.1250],
            [0.1250, 0.0000, 0.0000]])
    """
    return _weighed("kl", _distance("kl_k2", evaluation, traj).square() / 2, traj, target)


@method("kl-k3", kind="loss", paper="arXiv:2402.03300", needs=("ref",))
def kl_k3(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """The non-negative, low-variance estimator (GRPO, eq. 4): term_t = exp(-d_t) - 1 + d_t, d_t = log pi(a_t) - log pi_ref(a_t).

    Its value is an unbiased estimate of KL(pi, ref) on the policy's own samples. Its expected gradient as a loss is that of
    KL(ref, pi) instead: the policy is made to cover what the reference does. d is cut at -20 nats, with no gradient below.

    Metric kl: its mean. Raises ValueError without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> kl_k3(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj)).terms
    tensor([[0.1065, 0.1065, 0.1065],
            [0.1065, 0.1065, 0.0000],
            [0.1065, 0.1065, 0.1065],
            [0.1065, 0.0000, 0.0000]])
    """
    return _weighed("kl", _k3(_distance("kl_k3", evaluation, traj)), traj, target)


@method("kl-unbiased", kind="loss", paper="arXiv:2512.02556", needs=("ref", "old"))
def kl_unbiased(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """k3 times the ratio to the policy that acted: term_t = rho_t k3_t, rho_t = pi(a_t) / pi_old(a_t), both with gradient.

    Value and gradient are unbiased for KL(pi, ref) of each action, for whatever policy acted; the states are those it visited.
    At rho = 1 the gradient differs from that of k2 only in variance. The ratio is not bounded: a few steps off policy, no more.

    Metric kl: its mean. Raises ValueError without traj.logp["ref"] and ["old"].

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> kl_unbiased(Evaluation(traj.logp["old"] + torch.tensor(2.0).log(), {}), traj, everywhere({}, traj)).terms
    tensor([[0.9928, 0.9928, 0.9928],
            [0.9928, 0.9928, 0.0000],
            [0.9928, 0.9928, 0.9928],
            [0.9928, 0.0000, 0.0000]])
    """
    distance = _distance("kl_unbiased", evaluation, traj)
    if "old" not in traj.logp:
        raise ValueError('kl_unbiased: needs traj.logp["old"], the log-probabilities of the policy that acted')
    ratio = log_ratio(evaluation.logp, traj.logp["old"], traj).clamp(-_FARTHEST, _FARTHEST).exp()
    return _weighed("kl", ratio * _k3(distance), traj, target)


@method("entropy-bonus", kind="loss", needs=("entropy",))
def entropy_bonus(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """Minus the entropy of each action's distribution: term_t = -H(pi(. | s_t)), H = evaluation.more["entropy"] [N, T] in nats.

    Minimised with a positive weight it keeps the policy spread out; the entropy is exact, so the gradient has no sampling noise.
    Metric entropy: its mean over the terms. Raises ValueError without evaluation.more["entropy"].

    >>> from payoff.examples import four_answers
    >>> from payoff.pipeline import everywhere
    >>> traj = four_answers()
    >>> entropy_bonus(Evaluation(traj.logp["old"], {"entropy": torch.full((4, 3), 0.5)}), traj, everywhere({}, traj)).terms
    tensor([[-0.5000, -0.5000, -0.5000],
            [-0.5000, -0.5000,  0.0000],
            [-0.5000, -0.5000, -0.5000],
            [-0.5000,  0.0000,  0.0000]])
    """
    if "entropy" not in evaluation.more:
        raise ValueError('entropy_bonus: needs evaluation.more["entropy"] [N, T]')
    entropy = torch.where(traj.own, evaluation.more["entropy"], 0)
    output = _weighed("entropy", -entropy, traj, target)
    return LossOutput(output.terms, {"entropy": -output.metrics["entropy"]})


def _distance(name: str, evaluation: Evaluation, traj: Trajectories) -> Float[Tensor, "N T"]:
    if "ref" not in traj.logp:
        raise ValueError(f'{name}: needs traj.logp["ref"], the log-probabilities of a reference policy')
    return log_ratio(evaluation.logp, traj.logp["ref"], traj)


def _k3(distance: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    distance = distance.clamp(min=-_FARTHEST)
    # expm1, because near the reference exp(-d) - 1 + d is the small difference of numbers near 1.
    return torch.expm1(-distance) + distance


def _weighed(name: str, number: Float[Tensor, "N T"], traj: Trajectories, target: Channel) -> LossOutput:
    """The numbers times the target where they count, and their plain mean there as a metric."""
    counts: Bool[Tensor, "N T"] = traj.own & target.valid
    number = torch.where(counts, number, 0)
    terms = number * torch.where(counts, target.value, 0)
    return LossOutput(terms, {name: float(number.detach().double().sum() / counts.sum().clamp(min=1))})
