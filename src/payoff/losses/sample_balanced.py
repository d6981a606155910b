"""PPO's clip in which each sample pulls by how likely and how good it is, and is held to who wrote it by the lesser of the two."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from payoff.catalogue import method
from payoff.losses.ratios import FARTHEST, acted, check_bounds, clipped, mean_over, means
from payoff.pipeline import Evaluation, LossOutput
from payoff.sets import statistics
from payoff.trajectories import Channel, Trajectories, at_start


@method("verirl", kind="loss", paper="arXiv:2508.18462", needs=("old",), sees="batch")
def sample_balanced(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    score: str | None = None,
    low: float = 0.2,
    high: float = 0.2,
) -> LossOutput:
    """PPO's clip times a weight for each sample, and a divergence from who wrote it times another (VeriRL's sample-balanced loss).

    term_t = h (rho_t log rho_t - rho_t + 1) - w min(rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t), rho_t = pi(a_t) / old(a_t).
    The first bracket is an estimate, never below 0, of KL(pi, old). With u = P / mean P and v = R / mean R over the rollouts: w
    = max(u, v), h = min(u, v), constants. P = exp(mean over its actions of log old(a)) says how likely a rollout was, length
    apart, to the policy that wrote it; R > 0 how good a reward model finds it. Likely or good samples pull more; only those
    that are both are held back.

    target: R, one number for each rollout (the path [`total`]); A is then R standardised over all actions (`reinforce-plus-plus`)
    score:  None; or the name of traj.extras [N] that holds R, and then the target is A, whatever made it

    P, which the paper does not spell out for long texts, is per token here: the product underflows. Where u = v = 1 for all it is
    `ppo-clip` and that divergence. Scores must be positive, or the ratio to their mean means nothing: squash them first. Equal
    scores, or one rollout: A = 0. With minibatches the means are those of each. Log-ratios are cut at +-20 nats.
    Metrics: pull (mean of w), hold (mean of h), kl (mean of the bracket); clip_fraction, approx_kl and ratio as of `ppo-clip`.
    Raises ValueError without traj.logp["old"] or the extra, for a score that is not positive, and for bounds that do not allow 1.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()  # all equally likely per token: u = 1
    >>> scores = Channel(torch.tensor([[0.5], [1.0], [1.5], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> sample_balanced(Evaluation(traj.logp["old"], {}), traj, scores).terms
    tensor([[ 1.2247,  1.2247,  1.2247],
            [ 0.0000,  0.0000,  0.0000],
            [-1.8371, -1.8371, -1.8371],
            [ 0.0000,  0.0000,  0.0000]])
    """
    check_bounds("sample_balanced", low, high)
    counts, value, _, far = acted("sample_balanced", evaluation, traj, target)
    worth, known = at_start(target, traj)
    if score is not None:
        worth, known = _scores(score, traj), counts.any(1)
    counts = counts & known[:, None]
    here = counts.any(1)
    if bool((here & ~(worth > 0)).any()):
        row = int((here & ~(worth > 0)).nonzero()[0, 0])
        raise ValueError(
            f"sample_balanced: scores must be > 0, trajectory {int(traj.id[row])} has {float(worth[row]):g}; squash them first"
        )
    advantage = value if score is not None else _standardised(worth, counts)
    likely = mean_over(counts, traj.logp["old"]).double().exp()[:, 0]
    u, v = _over_mean(likely, here), _over_mean(worth.double(), here)
    pull, hold = (torch.where(here, how(u, v), 0)[:, None].to(value.dtype) for how in (torch.maximum, torch.minimum))
    found = clipped(counts, pull * torch.where(counts, advantage, 0), far, low, high)
    held = far.clamp(-FARTHEST, FARTHEST)
    divergence = held.exp() * held - torch.expm1(held)
    metrics = {"clip_fraction": found.took, "approx_kl": found.kl, "ratio": found.ratio, "kl": divergence}
    terms = torch.where(counts, hold * divergence + found.terms, 0)
    return LossOutput(terms, means(counts, {**metrics, "pull": pull, "hold": hold}))


def _scores(name: str, traj: Trajectories) -> Float[Tensor, " N"]:
    given = traj.extras.get(name)
    if given is None or given.ndim != 1:
        there = sorted(traj.extras) or "nothing"
        raise ValueError(f"sample_balanced: needs traj.extras[{name!r}] [N], the scores; there is {there}")
    return given


def _standardised(worth: Float[Tensor, " N"], counts: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """(R - mean) / std over all actions that count; exactly 0 where all are equal."""
    number = worth[:, None].expand(counts.shape)
    stats = statistics(number, torch.zeros_like(counts, dtype=torch.int64), counts, ddof=0)
    return ((number.double() - stats.mean) / torch.where(stats.std > 0, stats.std, 1)).to(worth.dtype)


def _over_mean(number: Float[Tensor, " N"], here: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    kept = torch.where(here, number, 0)
    return torch.where(here, kept / (kept.sum() / here.sum().clamp(min=1)).clamp(min=1e-300), 0)
