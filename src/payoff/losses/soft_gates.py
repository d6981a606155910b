"""Surrogates in which trust in an action fades smoothly with its ratio, instead of ending at a bound."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, acted, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories

_LEAST_WEIGHT = 1e-8  # of a sequence's ratio, below which a weight that vanishes with it is not worth telling apart


@method("sapo", kind="loss", paper="arXiv:2511.20347", needs=("old",))
def sapo(
    evaluation: Evaluation, traj: Trajectories, target: Channel, *, temperature: float = 1.0, negative_temperature: float = 1.05
) -> LossOutput:
    """The surrogate with a soft gate in place of the clip (SAPO): term_t = -A_t (4 / tau) sigmoid(tau (rho_t - 1)).

    rho_t = pi(a_t) / old(a_t). The gradient is -A_t w(rho_t) rho_t d log pi(a_t) with w = 4 s (1 - s) = sech^2(tau (rho - 1) /
    2), s the sigmoid: 1 at rho = 1, where it is `policy_gradient`, and falling off on both sides alike, so that no action is ever
    quite silent. Unlike a clip the gate also weakens what would bring the policy back. tau -> 0 is the ratio without any bound.
    The *value* at rho = 1 is -2 A / tau, which means nothing by itself.

    temperature:          tau where A > 0
    negative_temperature: tau elsewhere; larger, as making one action unlikely spreads over all the others of a vocabulary
    Aggregate by `sequence-mean-token-mean`. log rho is cut at +-20 nats.
    Metrics: gate (mean of w), ratio (mean of rho), approx_kl (mean of rho - 1 - log rho).
    Raises ValueError without traj.logp["old"], and for temperatures that are not positive.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> twice_as_likely = Evaluation(traj.logp["old"] + torch.tensor(2.0).log(), {})
    >>> sapo(twice_as_likely, traj, advantage).terms
    tensor([[-2.9242, -2.9242, -2.9242],
            [ 2.8220,  2.8220,  0.0000],
            [-2.9242, -2.9242, -2.9242],
            [ 1.4110,  0.0000,  0.0000]])
    """
    if not (temperature > 0 and negative_temperature > 0):
        raise ValueError(f"sapo: temperatures must be > 0, got {temperature} and {negative_temperature}")
    counts, advantage, _, far = acted("sapo", evaluation, traj, target)
    far = far.clamp(-FARTHEST, FARTHEST)
    ratio = far.exp()
    tau = _by_sign(advantage > 0, temperature, negative_temperature, ratio)
    gate = (tau * (ratio - 1)).sigmoid()
    metrics = {"gate": 4 * gate * (1 - gate), "ratio": ratio, "approx_kl": ratio - 1 - far}
    return LossOutput(torch.where(counts, -advantage * gate * 4 / tau, 0), means(counts, metrics))


@method("vespo", kind="loss", paper="arXiv:2602.10693", needs=("old",))
def vespo(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    power: float = 2.0,
    decay: float = 3.0,
    negative_power: float = 3.0,
    negative_decay: float = 2.0,
) -> LossOutput:
    """The policy gradient times a smooth weight of the whole sequence's ratio (VESPO): term_t = -sg(phi(w)) A_t log pi(a_t).

    w = prod_t pi(a_t) / old(a_t), over all own actions of the trajectory. phi(w) = w^k exp(lambda (1 - w)), a constant: 1 at w =
    1, where the loss is `policy_gradient`; 0 at w = 0 and as w -> infinity; largest at w = k / lambda. So sequences far from the
    policy that acted say little, on either side.

    power, decay:                   k and lambda where A >= 0
    negative_power, negative_decay: k and lambda where A < 0
    Aggregate by `token-mean`. Every log-ratio is cut at +-20 nats, their sum at log 1e-8 and 20.
    Metrics: weight (mean of phi), sequence_log_ratio (mean of log w). Raises ValueError without traj.logp["old"], and for a
    negative option.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [-0.5]]), torch.ones(4, 1, dtype=torch.bool))
    >>> vespo(Evaluation(traj.logp["old"] + 0.1, {}), traj, advantage).terms
    tensor([[ 0.5741,  0.5741,  0.5741],
            [-1.0532, -1.0532,  0.0000],
            [ 0.5741,  0.5741,  0.5741],
            [-0.4922,  0.0000,  0.0000]])
    """
    options = {"power": power, "decay": decay, "negative_power": negative_power, "negative_decay": negative_decay}
    for name, number in options.items():
        if number < 0:
            raise ValueError(f"vespo: {name} must be at least 0, got {number}")
    counts, advantage, logp, far = acted("vespo", evaluation, traj, target)
    total = far.detach().clamp(-FARTHEST, FARTHEST).sum(1, keepdim=True).clamp(math.log(_LEAST_WEIGHT), FARTHEST)
    good = advantage >= 0
    k, strength = _by_sign(good, power, negative_power, far), _by_sign(good, decay, negative_decay, far)
    weight = (k * total - strength * torch.expm1(total)).exp()
    metrics = {"weight": weight, "sequence_log_ratio": total.expand_as(weight)}
    return LossOutput(torch.where(counts, -weight * advantage * logp, 0), means(counts, metrics))


def _by_sign(good: Bool[Tensor, "N #T"], one: float, other: float, like: Float[Tensor, "N T"]) -> Float[Tensor, "N #T"]:
    """One number where `good` and another elsewhere, in the precision of `like`."""
    return torch.where(good, like.new_tensor(one), like.new_tensor(other))
