"""Points from a mixture of Gaussians: data with a closed-form velocity, a closed-form optimum, and rewards that can be gamed.

A start asks for one mode. Truth is whether the sample is a plausible sample of that mode. Rewards read the end of a trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Start
from payoff.trajectories import Channel, Rewards, Trajectories, place_outcome

_SHOWN = 256  # points of a batch that the report draws


@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weights_k N(means_k, spreads_k^2 I), in float64, with what a perfectly trained denoiser of it would know.

    >>> one = GaussianMixture(torch.tensor([[1.0]]), torch.tensor([0.5]), torch.tensor([1.0]))
    >>> tilted = one.tilted(torch.tensor([0.0]), 4.0)  # precision 4 becomes 8, and the mean moves half way
    >>> tilted.means.tolist(), round(float(tilted.spreads[0]) ** 2, 6)
    ([[0.5]], 0.125)
    """

    means: Float[Tensor, "K D"]
    spreads: Float[Tensor, " K"]
    weights: Float[Tensor, " K"]

    def sample(self, n: int, rng: torch.Generator) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
        """n samples and the component of each."""
        part = torch.multinomial(self.weights.to(rng.device), n, replacement=True, generator=rng).to(self.means.device)
        normal = torch.randn(n, self.means.shape[1], generator=rng, dtype=self.means.dtype, device=rng.device)
        return self.means[part] + self.spreads[part, None] * normal.to(self.means.device), part

    def velocity(self, x: Float[Tensor, "B D"], signal: Float[Tensor, " B"], noise: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """E[eps - x_data | signal x_data + noise eps = x]: what a network of velocities converges to.

        Of one component: x is N(a m, a^2 s^2 + b^2), so E[x_data | x] = m + a s^2 / (a^2 s^2 + b^2) (x - a m) and
        E[eps | x] = b / (a^2 s^2 + b^2) (x - a m); components count by their posterior probability.
        """
        away = x[:, None] - signal[:, None, None] * self.means
        variance = (signal[:, None] * self.spreads).square() + noise[:, None].square()
        size = self.means.shape[1]
        chance = (self.weights.log() - size / 2 * variance.log() - away.square().sum(2) / (2 * variance)).softmax(1)
        slope = (noise[:, None] - signal[:, None] * self.spreads.square()) / variance
        return (chance[..., None] * (slope[..., None] * away - self.means)).sum(1)

    def tilted(self, goal: Float[Tensor, " D"], strength: float) -> GaussianMixture:
        """The mixture proportional to this one times exp(-strength |x - goal|^2 / 2): the optimum of a quadratic reward with KL.

        Each component's precision grows by the strength, its mean is the average weighed by precision, and its weight is
        multiplied by (1 + q s^2)^(-D/2) exp(-q |m - goal|^2 / (2 (1 + q s^2))). Raises ValueError for a negative strength.
        """
        if strength < 0:
            raise ValueError(f"GaussianMixture.tilted: strength must be at least 0, got {strength}")
        variance = self.spreads.square()
        growth = 1 + strength * variance
        means = (self.means + strength * variance[:, None] * goal) / growth[:, None]
        gap = (self.means - goal).square().sum(1)
        weight = self.weights.log() - self.means.shape[1] / 2 * growth.log() - strength * gap / (2 * growth)
        return GaussianMixture(means, self.spreads / growth.sqrt(), weight.softmax(0))


@method("mixture", kind="task")
@dataclass(frozen=True)
class Mixture:
    """Modes on a circle, of which a start asks for one: known data, known velocity, known optimum.

    modes:  how many, evenly on a circle of this radius in the plane, the first on the right; 1: a single Gaussian at (radius, 0)
    spread: the standard deviation of each
    wanted: the mode that every start asks for; None: any, drawn for each start, with `condition` its number
    reach:  truth is 1 within this many spreads of the centre that is asked for, and 0 beyond

    Start fields: "goal" (that centre), "condition" and "prompt". The rewards are `mixture-distance`, greatest at the goal;
    `mixture-direction`, which pays for going that way and has no end: the planted exploit; and `mixture-quadratic`, whose optimum
    under a KL penalty is `data.tilted`. Raises ValueError for sizes out of range.

    >>> task = Mixture(modes=4, wanted=1)
    >>> [round(x, 6) for x in task.starts(1, torch.Generator())[0].fields["goal"]]
    [0.0, 2.0]
    """

    modes: int = 8
    radius: float = 2.0
    spread: float = 0.2
    wanted: int | None = 0
    reach: float = 3.0

    def __post_init__(self) -> None:
        if self.modes < 1:
            raise ValueError(f"mixture: modes must be at least 1, got {self.modes}")
        for name in ("spread", "reach"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"mixture: {name} must be > 0, got {getattr(self, name)}")
        if not math.isfinite(self.radius):
            raise ValueError(f"mixture: radius must be finite, got {self.radius}")
        if self.wanted is not None and not 0 <= self.wanted < self.modes:
            raise ValueError(f"mixture: wanted must be a mode, 0 to {self.modes - 1}, got {self.wanted}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return (2,)

    @property
    def classes(self) -> int:
        """How many conditions there are."""
        return self.modes

    @cached_property
    def distribution(self) -> GaussianMixture:
        """The data."""
        angle = 2 * math.pi * torch.arange(self.modes, dtype=torch.float64) / self.modes
        means = self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        one = torch.ones(self.modes, dtype=torch.float64)
        return GaussianMixture(means, self.spread * one, one / self.modes)

    def data(self, n: int, rng: torch.Generator) -> tuple[Float[Tensor, "n D"], Int[Tensor, " n"]]:
        """n points and the mode of each, to fit a network to."""
        return self.distribution.sample(n, rng)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts; which mode each asks for is `wanted`, or drawn evenly."""
        drawn = torch.randint(self.modes, (n,), generator=rng, device=rng.device).tolist()
        return [self._start(mode if self.wanted is None else self.wanted) for mode in drawn]

    def held_out_starts(self, n: int | None = None) -> Sequence[Start]:
        """n starts that ask for the modes in turn (or for the wanted one). Nothing is held out: noise is always new."""
        count = self.modes if n is None else n
        return [self._start(i % self.modes if self.wanted is None else self.wanted) for i in range(count)]

    def truth(self, traj: Trajectories) -> Channel:
        """1 for a sample within `reach` spreads of the centre that was asked for, else 0."""
        sample, known = final_sample(traj)
        near = (sample - _goals(traj, sample)).norm(dim=1) <= self.reach * self.spread
        return place_outcome(near.to(sample.dtype), known, traj)

    def picture(self, traj: Trajectories, row: int) -> dict[str, Any] | None:
        """The way of one point, for the report; None where it does not stay finite."""
        way = traj.extras["latents"][row, : int(traj.length[row]) + 1].double()
        if not way.isfinite().all():
            return None
        steps = _rounded(way)
        return {"kind": "points", "points": steps[-1:], "path": steps, "goal": traj.items[row]["goal"], **self._backdrop}

    def overview(self, traj: Trajectories, policy: Any) -> dict[str, Any]:
        """Where the points of a batch end, over the density of the data, for the report."""
        sample, known = final_sample(traj)
        points = _rounded(sample[known][:_SHOWN].double())
        goals = {tuple(item["goal"]) for item in traj.items}
        aim: dict[str, Any] = {"goal": list(*goals)} if len(goals) == 1 else {}
        return {"kind": "points", "points": points, **aim, **self._backdrop}

    @cached_property
    def _backdrop(self) -> dict[str, Any]:
        """The density of the data in a square that holds it, in 32 rows from the highest y to the lowest."""
        data, reach = self.distribution, abs(self.radius) + 4 * self.spread
        at = torch.linspace(-reach, reach, 65, dtype=torch.float64)[1::2]
        places = torch.stack(torch.meshgrid(at.flip(0), at, indexing="ij"), 2).flip(2)
        away = (places[:, :, None] - data.means).square().sum(3) / (2 * data.spreads.square())
        density = (data.weights * (-away).exp() / data.spreads.square()).sum(2)
        return {"density": (density / density.max()).mul(1000).round().div(1000).tolist(), "extent": [-reach, reach] * 2}

    def _start(self, mode: int) -> Start:
        goal = self.distribution.means[mode].tolist()
        return Start(f"mixture-{mode}", {"prompt": f"mode {mode}", "condition": mode, "goal": goal})


@method("mixture-distance", kind="signal")
def mixture_distance(traj: Trajectories) -> Rewards:
    """Minus the distance from the sample to the goal, paid at the end: at most 0, and that at the goal.

    >>> from payoff.tasks.mixture import _example
    >>> mixture_distance(_example())["mixture-distance"].value
    tensor([[ 0., -5.],
            [ 0.,  0.]])
    """
    sample, known = final_sample(traj)
    return {"mixture-distance": place_outcome(0 - (sample - _goals(traj, sample)).norm(dim=1), known, traj)}


@method("mixture-direction", kind="signal")
def mixture_direction(traj: Trajectories) -> Rewards:
    """How far the sample lies in the direction of the goal, x . goal / |goal|: without end, so it can be gamed by leaving the data.

    A goal at the origin has no direction: no verdict.

    >>> from payoff.tasks.mixture import _example
    >>> mixture_direction(_example())["mixture-direction"].value
    tensor([[0., 0.],
            [0., 5.]])
    """
    sample, known = final_sample(traj)
    goal = _goals(traj, sample)
    size = goal.norm(dim=1)
    along = (sample * goal).sum(1) / torch.where(size > 0, size, 1)
    lost = dict.fromkeys(traj.id[size == 0].tolist(), "the goal is the origin")
    return {"mixture-direction": place_outcome(along, known & (size > 0), traj, lost)}


@method("mixture-quadratic", kind="signal")
def mixture_quadratic(traj: Trajectories, *, strength: float = 1.0, goal: tuple[float, ...] | None = None) -> Rewards:
    """-strength |x - goal|^2 / 2, paid at the end; goal: None for each start's own.

    Under a penalty beta KL the optimum is the data times exp(reward / beta), `GaussianMixture.tilted(goal, strength / beta)`.

    >>> from payoff.tasks.mixture import _example
    >>> mixture_quadratic(_example(), strength=2.0)["mixture-quadratic"].value
    tensor([[  0., -25.],
            [  0.,   0.]])
    """
    sample, known = final_sample(traj)
    aim = _goals(traj, sample) if goal is None else torch.tensor(goal, dtype=sample.dtype, device=sample.device)
    return {"mixture-quadratic": place_outcome(0 - strength / 2 * (sample - aim).square().sum(1), known, traj)}


def final_sample(traj: Trajectories) -> tuple[Float[Tensor, "N D"], Bool[Tensor, " N"]]:
    """The state each trajectory ends in, from extras["latents"] [N, T+1, D], and whether it is finite (0 where it is not).

    Raises ValueError without latents.

    >>> final_sample(_example())[0].tolist()
    [[0.0, 0.0], [3.0, 4.0]]
    """
    if "latents" not in traj.extras:
        raise ValueError('final_sample: needs traj.extras["latents"] [N, T+1, D], the states of a denoising policy')
    latents = traj.extras["latents"]
    end = latents.gather(1, traj.length[:, None, None].expand(-1, 1, latents.shape[2]))[:, 0]
    known = end.isfinite().all(1)
    return torch.where(known[:, None], end, 0), known


def _rounded(points: Float[Tensor, "n D"]) -> list[list[float]]:
    return [[float(f"{x:.4g}") for x in point] for point in points.tolist()]


def _goals(traj: Trajectories, sample: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return torch.tensor([item["goal"] for item in traj.items], dtype=sample.dtype, device=sample.device).reshape(sample.shape)


def _example() -> Trajectories:
    """Two points, (0, 0) and (3, 4), that were asked for (3, 4)."""
    latents = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 0.0]], [[9.0, 9.0], [1.0, 0.0], [3.0, 4.0]]])
    return Trajectories(
        mask=torch.ones(2, 2, dtype=torch.bool),
        length=torch.tensor([2, 2]),
        group=torch.zeros(2, dtype=torch.int64),
        step=torch.tensor([[0, 1], [0, 1]], dtype=torch.int32),
        stop=torch.zeros(2, dtype=torch.int64),
        actions=latents[:, 1:],
        id=torch.arange(2),
        items=[{"goal": [3.0, 4.0]}] * 2,
        extras={"latents": latents},
    )
