"""Surrogates without a bound: for data that is still on policy, or held near the policy that acted by a penalty."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.losses.ratios import acted, counted, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories


@method("strict-on-policy", kind="loss")
def strict_on_policy(evaluation: Evaluation, traj: Trajectories, target: Channel) -> LossOutput:
    """The surrogate of data that is on policy by decree: term_t = -A_t exp(log pi(a_t) - sg(log pi(a_t))).

    Its ratio is 1 whatever the policy, so the gradient is always `policy_gradient`'s and the value always -A, that of the ratio
    losses at ratio 1, where `policy_gradient` shows -A log pi. It asks for no log-probabilities of the policy that acted; where
    they are there and differ, nothing is corrected.

    Any aggregation. Metric logp: mean of log pi.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [0.5], [2.0]]), torch.tensor([[True], [True], [False], [True]]))
    >>> strict_on_policy(Evaluation(traj.logp["old"], {}), traj, advantage).terms
    tensor([[-1., -1., -1.],
            [ 1.,  1.,  0.],
            [ 0.,  0.,  0.],
            [-2.,  0.,  0.]])
    """
    counts, advantage = counted(traj, target)
    logp = torch.where(counts, evaluation.logp, 0)  # before exp, whose gradient of a NaN is one, masked or not
    return LossOutput(torch.where(counts, -advantage * (logp - logp.detach()).exp(), 0), means(counts, {"logp": logp}))


@method("dro", kind="loss", paper="arXiv:2405.19107", needs=("old",))
def dro(evaluation: Evaluation, traj: Trajectories, target: Channel, *, beta: float) -> LossOutput:
    """The policy gradient with a quadratic penalty on the log-ratio (DRO): term_t = -A_t log pi(a_t) + beta / 2 d_t^2.

    d_t = log pi(a_t) - log old(a_t). The gradient -(A_t - beta d_t) d log pi(a_t) is `policy_gradient`'s at d = 0 and vanishes
    where d_t = A_t / beta. Every action is there at once exactly when A is a reward minus its soft value beta log E_old
    exp(reward / beta), and then that policy is the optimum of reward minus beta KL(pi, old); with another baseline it settles
    beside it. No bound and no ratio: for data that somebody else has made, old is who made it.

    beta: nats of reward per nat of distance; there is no usual value. Any aggregation.
    Metrics: distance (mean of d), penalty (mean of beta / 2 d^2).
    Raises ValueError without traj.logp["old"], and for beta <= 0.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> dro(Evaluation(traj.logp["old"] + 0.5, {}), traj, advantage, beta=2.0).terms
    tensor([[ 0.7500,  0.7500,  0.7500],
            [-0.2500, -0.2500,  0.0000],
            [ 0.7500,  0.7500,  0.7500],
            [ 0.0000,  0.0000,  0.0000]])
    """
    if not beta > 0:
        raise ValueError(f"dro: beta must be > 0, got {beta}")
    counts, advantage, logp, far = acted("dro", evaluation, traj, target)
    penalty = beta / 2 * far.square()
    terms = torch.where(counts, penalty - advantage * logp, 0)
    return LossOutput(terms, means(counts, {"distance": far, "penalty": penalty}))
