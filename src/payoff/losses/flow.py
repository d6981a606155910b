"""Losses for Gaussian actions of a known noise, which read the action's mean as well as its log-probability."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Channel, Trajectories

_FARTHEST = 20.0  # nats; beyond it exp overflows in half precision and its gradient is useless in any
Reweight = Literal["gain", "span", "none"]


@method("grpo-guard", kind="loss", paper="arXiv:2510.22319", needs=("mean",))
def grpo_guard(
    evaluation: Evaluation,
    traj: Trajectories,
    target: Channel,
    *,
    low: float = 1e-5,
    high: float = 1e-5,
    reweight: Reweight = "gain",
    reduce: Literal["mean", "sum"] = "mean",
) -> LossOutput:
    """The clipped surrogate with a ratio that is centred, and as wide at every step (GRPO-Guard, RatioNorm and reweighting).

    With mu and mu_old the means of action x under the policy and the one that acted, and xi = (x - mu_old) / std its noise:
        log rho      = mean_d((mu - mu_old) xi) / std - mean_d((mu - mu_old)^2) / (2 std^2)     the plain ratio: below 0 on average,
                                                                                              and wide where std is small
        log rho_norm = std (log rho + mean_d((mu - mu_old)^2) / (2 std^2)) = mean_d((mu - mu_old) xi)
        term_t       = max(-A rho_norm, -A clip(rho_norm, 1 - low, 1 + high)) / g_t
    so that good actions are clipped as often as bad ones, early steps as often as late ones.

    reweight: g_t is how far the mean moves for a unit of velocity ("gain": the gradient with respect to the velocity is then the
              same at every step), the time that the step takes ("span", as published: the same but for a constant and for the first
              step, if the noise is Flow-GRPO's), or 1 ("none")
    reduce:   mean or sum over the dimensions
    low, high: rho_norm - 1 is of the size of mu - mu_old, whatever the scale of log-probabilities: they need choosing anew

    Reads evaluation.more["mean"] and extras "old_mean" [N, T, D], "std", and "gain" [N, T] or "times" [N, T+1].
    0 where the action is not the policy's own, has no noise, or no verdict. Metrics: clip_fraction, ratio (of rho_norm), and
    plain_ratio where traj.logp["old"] is there: the mean of rho, which falls below 1 as the policy moves.
    Raises ValueError without what it reads, or for bounds that do not allow 1: low in [0, 1], high >= 0.

    >>> from payoff.examples import four_answers
    >>> zeros = torch.zeros(4, 3, 2)
    >>> traj = four_answers().replace(actions=zeros + 1, extras={"old_mean": zeros, "std": torch.full((4, 3), 0.5)})
    >>> advantage = Channel(torch.tensor([[1.0], [-1.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> moved = Evaluation(traj.logp["old"], {"mean": zeros + 0.01})  # xi = 2, so log rho_norm = 0.02
    >>> grpo_guard(moved, traj, advantage, low=0.01, high=0.01, reweight="none").terms
    tensor([[-1.0100, -1.0100, -1.0100],
            [ 1.0202,  1.0202,  0.0000],
            [-1.0100, -1.0100, -1.0100],
            [-1.0100,  0.0000,  0.0000]])
    """
    if not 0 <= low <= 1 or high < 0:
        raise ValueError(f"grpo_guard: low must lie in [0, 1] and high be at least 0, got low {low} and high {high}")
    if "mean" not in evaluation.more:
        raise ValueError('grpo_guard: needs evaluation.more["mean"] [N, T, D]')
    old, std = _extra(traj, "old_mean"), _extra(traj, "std")
    counts = traj.own & target.valid & (torch.where(traj.own, std, 0) > 0)
    advantage = torch.where(counts, target.value, 0)
    noise = torch.where(counts[..., None], (traj.actions - old) / std[..., None], 0)
    product = torch.where(counts[..., None], evaluation.more["mean"] - old, 0) * noise
    far = (product.mean(2) if reduce == "mean" else product.sum(2)).clamp(-_FARTHEST, _FARTHEST)
    ratio = far.exp()
    free, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high)
    terms = torch.where(counts, torch.maximum(free, clipped) / torch.where(counts, _weight(traj, reweight), 1), 0)
    numbers = {"clip_fraction": clipped > free, "ratio": ratio}
    if "old" in traj.logp:
        numbers["plain_ratio"] = torch.where(counts, evaluation.logp - traj.logp["old"], 0).clamp(max=_FARTHEST).exp()
    size = counts.sum().clamp(min=1)
    means = torch.stack([torch.where(counts, x.detach(), 0).double().sum() / size for x in numbers.values()])
    return LossOutput(terms, dict(zip(numbers, means.tolist(), strict=True)))


def _weight(traj: Trajectories, reweight: str) -> Float[Tensor, "N T"]:
    if reweight == "gain":
        return _extra(traj, "gain")
    if reweight == "span":
        times = _extra(traj, "times")
        return times[:, :-1] - times[:, 1:]
    if reweight != "none":
        raise ValueError(f'grpo_guard: reweight must be "gain", "span" or "none", got {reweight!r}')
    return torch.ones(traj.mask.shape, device=traj.device)


def _extra(traj: Trajectories, name: str) -> Tensor:
    if name not in traj.extras:
        raise ValueError(f"grpo_guard: needs traj.extras[{name!r}], as a denoising policy records it")
    return traj.extras[name]
