"""Steering a policy while it samples: particles that are weighed by what they promise, and drawn again.

For any policy that can `resume`: denoising steps, tokens, tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Policy, Signal, Start
from payoff.trajectories import Trajectories, concatenate, outcome

Potential = Literal["difference", "max", "sum", "last"]
Value = Callable[[Trajectories, Tensor], Tensor]  # (trajectories, at [N]) -> what each prefix [:at] promises [N]


class Steered(NamedTuple):
    """Finished particles with their weights.

    log_weight:     [starts * particles], normalised within each start; -inf for a particle without verdict
    log_normaliser: [starts], an estimate of log E_p[exp(strength r)]; its exponential is unbiased, whatever the number of particles
    resampled:      how often a start's particles were drawn again, summed over starts
    """

    traj: Trajectories
    log_weight: Float[Tensor, " N"]
    log_normaliser: Float[Tensor, " B"]
    resampled: int

    def draw(self, rng: torch.Generator) -> Trajectories:
        """As many particles of each start, equally weighted, drawn by their weights."""
        weight = self.log_weight.reshape(len(self.log_normaliser), -1)
        return self.traj.select(_ancestors(weight, rng))


@method("fk-steering", kind="search", paper="arXiv:2501.06848")
def steer(
    policy: Policy,
    starts: Sequence[Start],
    reward: Signal,
    rng: torch.Generator,
    *,
    particles: int = 4,
    strength: float = 10.0,
    potential: Potential = "difference",
    every: int | None = 1,
    first: int = 0,
    adaptive: bool = False,
    value: Value | None = None,
) -> Steered:
    """Sample from p(x) exp(strength r(x)) / Z by particles (Feynman-Kac steering, sec. 3.2, alg. 1).

    Every `every` actions each particle's prefix k gets a promise r_k and a potential G_k, and the particles of a start are drawn
    again by their weights; the last potential corrects, so that along every surviving path prod_k G_k = exp(strength r(x)):
        "difference"  exp(strength (r_k - r_(k-1))), r before the first 0      "max"   exp(strength max_(j <= k) r_j)
        "last"        exp(strength r_k)                                        "sum"   exp(strength sum_(j <= k) r_j)
    The law is the tilted one as the number of particles grows, with any potential and any promise; they decide how many it takes.
    "max" was published for images and "difference" for text; where promises come true, few particles do best with "difference".

    reward:   a signal; a rollout's number is the sum of its channels' outcomes. A particle without verdict has weight 0; where
              none of a start's has weight, all are alike. A promise without verdict is the one before it (0 at first)
    every:    None: never before the end, which is importance sampling (and best-of-n, if the largest weight is taken)
    first:    the action before which nothing is drawn again
    adaptive: draw again only where the effective number of particles 1 / sum w^2 is below half of them; weights that are not yet
              used are carried on
    value:    what a prefix promises, value(traj, at) [N]; None: the reward of the policy's own deterministic continuation

    particles=1 is plain sampling; strength 0 leaves the law as it is. Noise is what makes particles of one ancestor differ: a
    deterministic sampler cannot be steered. Beside the actions of each particle and one that is taken twice at
    every look, each promise costs a continuation. The particles of a start form one group, in the order of the starts.
    Raises ValueError for particles or every below 1, a negative first, a strength that is not finite, another potential.

    >>> from payoff.catalogue import find
    >>> from payoff.tasks.tree import Tree, tree_leaf
    >>> from payoff.grading import signal
    >>> task, rng = Tree(vocabulary=2, horizon=2, leaf_rewards={"bb": 1.0}), torch.Generator().manual_seed(0)
    >>> found = steer(find("tabular", "policy")(2, 2), task.starts(1, rng), signal(tree_leaf), rng, particles=64, strength=5.0)
    >>> sum(item["response"] == "bb" for item in found.draw(rng).items) > 55  # of 64; 16 without steering
    True
    """
    _check(particles, strength, potential, every, first)
    traj = policy.rollout(starts, particles, rng)
    if not (traj.group.reshape(len(starts), particles) == traj.group[::particles, None]).all():
        raise ValueError("steer: the policy must give the rollouts of a start together, in the order of the starts")
    promise = value or (lambda some, at: _completed(policy, some, at, reward, rng))
    zeros = torch.zeros(len(starts), particles, dtype=torch.float64, device=traj.device)
    weight, paid, before, running = zeros, zeros, zeros, zeros - (math.inf if potential == "max" else 0)
    normaliser, resampled, at = zeros[:, 0], 0, torch.zeros_like(traj.length)
    while every is not None:
        at = torch.minimum(at + (every if int(at.max()) or not first else first), traj.length)
        open_ = at < traj.length
        if not open_.any():
            break
        here = promise(traj, at).double().reshape(zeros.shape)
        here = torch.where(here.isfinite(), here, before)
        running = {"max": torch.maximum(running, here), "sum": running + here}.get(potential, here)
        gain = strength * (here - before if potential == "difference" else running)
        weight, paid, before = weight + gain, paid + gain, here
        again = _effective(weight) < particles / 2 if adaptive else torch.ones_like(normaliser, dtype=torch.bool)
        rows = torch.where(again.repeat_interleave(particles), _ancestors(weight, rng), torch.arange(len(at), device=at.device))
        normaliser = torch.where(again, normaliser + _log_mean(weight), normaliser)
        weight = torch.where(again[:, None], 0, weight)
        paid, before, running = (x.reshape(-1)[rows].reshape(zeros.shape) for x in (paid, before, running))
        resampled += int(again.sum())
        traj, at = _onwards(policy, traj, rows, at[rows], open_[rows], every, rng)
    worth = _outcomes(reward, traj).reshape(zeros.shape)
    weight = torch.where(worth.isfinite(), weight + strength * worth - paid, -math.inf)
    return Steered(traj, _normalised(weight).reshape(-1), normaliser + _log_mean(weight), resampled)


def _onwards(
    policy: Policy,
    traj: Trajectories,
    rows: Int[Tensor, " N"],
    at: Int[Tensor, " N"],
    open_: Bool[Tensor, " N"],
    horizon: int,
    rng: torch.Generator,
) -> tuple[Trajectories, Int[Tensor, " N"]]:
    """The chosen particles, those that have not ended carried `horizon` actions on; and where each has been looked at.

    One action more is taken, and taken anew when the particle goes on: so whoever is seen to end has really ended.
    """
    if open_.all():
        return policy.resume(traj, rows, at, 1, rng, horizon=horizon + 1), at
    going, done = open_.nonzero().squeeze(1), (~open_).nonzero().squeeze(1)
    parts = [policy.resume(traj, rows[going], at[going], 1, rng, horizon=horizon + 1), traj.select(rows[done])]
    return concatenate(parts).select(torch.cat([going, done]).argsort()), at


def _completed(
    policy: Policy, traj: Trajectories, at: Int[Tensor, " N"], reward: Signal, rng: torch.Generator
) -> Float[Tensor, " N"]:
    """The reward of each prefix's deterministic continuation; of a trajectory that has ended, its own."""
    open_ = at < traj.length
    rows = open_.nonzero().squeeze(1)
    result = _outcomes(reward, policy.resume(traj, rows, at[rows], 1, rng, noisy=0)) if len(rows) else torch.zeros(0)
    if open_.all():
        return result
    over = (~open_).nonzero().squeeze(1)
    ended = _outcomes(reward, traj.select(over))
    return torch.cat([result.to(ended), ended])[torch.cat([rows, over]).argsort()]


def _outcomes(reward: Signal, traj: Trajectories) -> Float[Tensor, " N"]:
    """The sum of all channels' outcomes in float64; -inf where one is unknown."""
    worth = torch.zeros(len(traj), dtype=torch.float64, device=traj.device)
    for channel in reward(traj).values():
        value, valid = outcome(channel, traj)
        worth = worth + torch.where(valid, value.double(), -math.inf)
    return worth


def _normalised(log_weight: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Log-weights that sum to 1 in each row; equal ones where nothing has weight."""
    none = (log_weight == -math.inf).all(1, keepdim=True)
    return torch.where(none, 0, log_weight).log_softmax(1)


def _log_mean(log_weight: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    return log_weight.logsumexp(1) - math.log(log_weight.shape[1])


def _effective(log_weight: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """1 / sum w^2, between 1 and the number of particles."""
    return 1 / _normalised(log_weight).exp().square().sum(1)


def _ancestors(log_weight: Float[Tensor, "B K"], rng: torch.Generator) -> Int[Tensor, " N"]:
    """Row numbers drawn with replacement by the weights of each start's particles."""
    count = log_weight.shape[1]
    drawn = torch.multinomial(_normalised(log_weight).exp().to(rng.device), count, replacement=True, generator=rng)
    return (drawn.to(log_weight.device) + count * torch.arange(len(drawn), device=log_weight.device)[:, None]).reshape(-1)


def _check(particles: int, strength: float, potential: str, every: int | None, first: int) -> None:
    if particles < 1 or (every is not None and every < 1) or first < 0:
        raise ValueError(
            f"steer: particles and every must be at least 1 and first at least 0, got {particles}, {every} and {first}"
        )
    if not math.isfinite(strength):
        raise ValueError(f"steer: strength must be finite, got {strength}")
    if potential not in get_args(Potential):
        raise ValueError(f"steer: potential must be one of {', '.join(get_args(Potential))}, got {potential!r}")
