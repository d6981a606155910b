"""From noise to data in steps: the path between them, the grid of times, and the Gaussian kernel of every step.

Time t runs from 1 (noise) to 0 (data): x_t = alpha(t) x_data + sigma(t) eps. A network estimates the velocity v = eps - x_data,
from which both ends follow: x_data = (x - sigma v) / (alpha + sigma) and eps = (x + alpha v) / (alpha + sigma). Every sampler here
has a mean that is linear in state and velocity, mean_k = keep_k x - gain_k v, so that a schedule is a table of numbers a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Path = Literal["rectified", "ddpm"]
Noise = Literal["growing", "constant", "ancestral"]
Reduce = Literal["mean", "sum"]
_BETA = (0.1, 20.0)  # the linear noise rates of DDPM, as those of its limit in continuous time


class Schedule(NamedTuple):
    """What step k does with a state x and a velocity v, in float64: x_(k+1) = keep_k x - gain_k v + std_k xi.

    times, signal, noise: t, alpha(t) and sigma(t) at the T + 1 states
    keep, gain, std:      of the stochastic step; gain is also how far the mean moves for a unit of velocity
    still_keep, still_gain: of the deterministic one (an Euler step of the flow; DDIM)
    """

    times: Float[Tensor, " T1"]
    signal: Float[Tensor, " T1"]
    noise: Float[Tensor, " T1"]
    keep: Float[Tensor, " T"]
    gain: Float[Tensor, " T"]
    std: Float[Tensor, " T"]
    still_keep: Float[Tensor, " T"]
    still_gain: Float[Tensor, " T"]


def schedule(
    steps: int = 10,
    *,
    path: Path = "rectified",
    noise: Noise | None = None,
    level: float | Sequence[float] | None = None,
    shift: float = 1.0,
    last_clean: bool = False,
) -> Schedule:
    """The table of a sampler of `steps` steps on a grid that is uniform in t but for `shift`: t <- shift t / (1 + (shift - 1) t).

    path "rectified" (alpha = 1 - t, sigma = t), with D the time that a step takes and s_k its noise:
        mean_k = x - D (v + s_k^2 / (2 t) (x + (1 - t) v)),  std_k = s_k sqrt(D)
        noise "growing":  s_k = level sqrt(t / (1 - t)), at t = 1 with the next time in the denominator (Flow-GRPO); level 0.7.
                          At level sqrt(2) the end forgets where it started (memoryless, arXiv:2409.08861).
        noise "constant": s_k = level (DanceGRPO); level 0.3
    path "ddpm" (alpha^2 + sigma^2 = 1, noise rates linear in t), noise "ancestral", with ' for the next time:
        std_k = level (sigma' / sigma) sqrt(1 - alpha^2 / alpha'^2),  mean_k = alpha' x_data + sqrt(sigma'^2 - std_k^2) eps
        level 1 is DDPM, 0 is DDIM. The last step has no noise.

    level:      one number, or one for each step (a sequence with "constant" is a calibrated noise, as in DenseGRPO)
    last_clean: the last step is deterministic, so that the end is the estimate of the data there

    Raises ValueError for steps below 1, a shift that is not positive, a level out of range (below 0; above 1 if "ancestral"), a
    noise that the path does not have, and "growing" with a single step, which has no next time before the data.

    >>> table = schedule(2, noise="constant", level=0.5)
    >>> table.keep.tolist(), table.gain.tolist(), [round(std, 4) for std in table.std.tolist()]
    ([0.9375, 0.875], [0.5, 0.5625], [0.3536, 0.3536])
    """
    noise = noise or ("ancestral" if path == "ddpm" else "growing")
    levels = _levels(steps, path, noise, level, shift)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    times = shift * grid / (1 + (shift - 1) * grid)
    a, s = signal_and_noise(times, path)
    if path == "ddpm":
        std = levels * s[1:] / s[:-1] * (1 - (a[:-1] / a[1:]).square()).clamp(min=0).sqrt()
        keep, gain = _ancestral(a, s, std)
        still = _ancestral(a, s, torch.zeros_like(std))
    else:
        t, span = times[:-1], times[:-1] - times[1:]
        rate = levels * (t / torch.cat([1 - times[1:2], 1 - t[1:]])).sqrt() if noise == "growing" else levels
        drift = rate.square() / (2 * t)
        keep, gain, std = 1 - span * drift, span * (1 + drift * (1 - t)), rate * span.sqrt()
        still = torch.ones_like(span), span
    if last_clean:
        end = torch.arange(steps) == steps - 1
        keep, gain = torch.where(end, still[0], keep), torch.where(end, still[1], gain)
        std = torch.where(end, 0, std)
    return Schedule(times, a, s, keep, gain, std, *still)


def signal_and_noise(t: Float[Tensor, "*shape"], path: Path) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """(alpha, sigma): how much data and how much noise there is at time t.

    >>> [x.tolist() for x in signal_and_noise(torch.tensor([0.0, 0.25, 1.0]), "rectified")]
    [[1.0, 0.75, 0.0], [0.0, 0.25, 1.0]]
    """
    if path == "rectified":
        return 1 - t, t
    log_alpha = -(t.square() * (_BETA[1] - _BETA[0]) / 4 + t * _BETA[0] / 2)
    return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()


def gaussian_logp(
    action: Float[Tensor, "*shape D"], mean: Float[Tensor, "*shape D"], std: Float[Tensor, "*shape"], reduce: Reduce
) -> Float[Tensor, "*shape"]:
    """log N(action; mean, std^2 I), summed or averaged over the D dimensions; densities, so they may be positive.

    >>> gaussian_logp(torch.tensor([0.0, 2.0]), torch.zeros(2), torch.tensor(1.0), "sum")
    tensor(-3.8379)
    """
    per_dimension = -((action - mean) / std[..., None]).square() / 2
    constant = std.log() + math.log(2 * math.pi) / 2
    if reduce == "mean":
        return per_dimension.mean(-1) - constant
    return per_dimension.sum(-1) - action.shape[-1] * constant


def _ancestral(
    a: Float[Tensor, " T1"], s: Float[Tensor, " T1"], std: Float[Tensor, " T"]
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """(keep, gain) of alpha' x_data + sqrt(sigma'^2 - std^2) eps, with both ends written in x and v."""
    left = (s[1:].square() - std.square()).clamp(min=0).sqrt()
    whole = a[:-1] + s[:-1]
    return (a[1:] + left) / whole, (a[1:] * s[:-1] - left * a[:-1]) / whole


def _levels(steps: int, path: str, noise: str, level: float | Sequence[float] | None, shift: float) -> Float[Tensor, " T"]:
    """The noise level of every step; the checks of `schedule`."""
    known = {"rectified": ("growing", "constant"), "ddpm": ("ancestral",)}
    if path not in known:
        raise ValueError(f'schedule: path must be "rectified" or "ddpm", got {path!r}')
    if noise not in known[path]:
        raise ValueError(f"schedule: on the path {path!r} noise must be one of {', '.join(known[path])}, got {noise!r}")
    if steps < (2 if noise == "growing" else 1):
        raise ValueError(f"schedule: steps must be at least {2 if noise == 'growing' else 1} with {noise} noise, got {steps}")
    if not 0 < shift < math.inf:
        raise ValueError(f"schedule: shift must be > 0, got {shift}")
    level = {"growing": 0.7, "constant": 0.3, "ancestral": 1.0}[noise] if level is None else level
    levels = torch.as_tensor(level, dtype=torch.float64)
    if levels.ndim and levels.shape != (steps,):
        raise ValueError(f"schedule: level must be one number or one for each of the {steps} steps, got {levels.numel()}")
    top = 1.0 if noise == "ancestral" else math.inf
    if not ((levels >= 0) & (levels <= top) & levels.isfinite()).all():
        raise ValueError(f"schedule: level must lie in 0..{top:g} with {noise} noise, got {level}")
    return levels.expand(steps)
