"""How much of the space of objectives a set of points dominates, and a mixing that weighs batches by the ground gained there."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import weighted_sum
from payoff.trajectories import Channel, Rewards, Trajectories, outcome


def hypervolume(points: Float[Tensor, "M K"], reference: Float[Tensor, " K"]) -> float:
    """The volume of all that lies above `reference` and below at least one of the points; every objective is to be raised.

    A point that is not above the reference in EVERY objective dominates nothing of that and counts for nothing (a sum of slices
    that lets it in may come out negative). No point: 0. Exact, by slices; meant for tens of points in few dimensions: with K > 2
    the work grows as M^(K - 1). Units: the product of the objectives' units, so rescaling one rescales it.
    Raises ValueError for coordinates that are not finite.

    >>> hypervolume(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.zeros(2))
    3.0
    """
    excess = points.double() - reference.double()
    if not torch.isfinite(excess).all():
        raise ValueError("hypervolume: points and reference must be finite")
    return float(_volume(_front(excess[(excess > 0).all(1)])))


@method("dynamic-reward-weighting-hypervolume", kind="mixing", paper="arXiv:2509.11452")
class HypervolumeMixing(nn.Module):
    """Mix rewards by fixed weights, times 0.5 + 1.5 tanh(what the last update added to the front) (hypervolume-guided weights).

    mixed = m sum_k w_k R_k. After every update, with v_k the mean of reward k:
    gain = HV(front and v) - HV(front),  m = 0.5 + 1.5 tanh(gain) in [0.5, 2), and v joins the front where gain > 0.

    weights: reward -> w_k; one with a negative weight is to be lowered, and counts negated in v
    reference: the point that volumes are measured from, by reward; None: v of the first update, which is the untouched policy's
    window:  v is the mean over so many updates. The paper validates after every update; here v is of the update's own rollouts, as
             scored, so it is noisy and one step older, and noise adds to the front too: the greatest of many draws. A larger
             window has less of that
    missing: as of `weigh`

    m = 1 until there is a v to compare with the reference; an update in which nothing is known of some reward changes nothing.
    Where v is not above the reference in EVERY reward the gain is 0, so a reward that only falls keeps m at 0.5.
    A factor common to a batch is a NO-OP under any advantage divided by its own spread (grpo, whiten, batch-standardise): let
    paths pay ([total]), mix, and put an undivided advantage into `then` ([rloo]); or mix normalised advantages. An optimiser that
    divides by the gradient's size (Adam) leaves of m what changes from one update to the next.

    `observe` takes validation scores from elsewhere. Raises ValueError for no weights, window < 1, and ends or a reference of other
    rewards; KeyError in `learn` for a reward that no signal gives.

    >>> mixing = HypervolumeMixing({"right": 1.0, "short": 1.0})
    >>> mixing.observe({"right": 0.0, "short": 0.0}), round(mixing.observe({"right": 1.0, "short": 0.5}), 4)
    (1.0, 1.1932)
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        reference: Mapping[str, float] | None = None,
        window: int = 1,
        missing: Literal["drop", "skip"] = "drop",
    ) -> None:
        super().__init__()
        if not weights:
            raise ValueError("dynamic-reward-weighting-hypervolume: no weights, so nothing to add up")
        if window < 1:
            raise ValueError(f"dynamic-reward-weighting-hypervolume: window must be at least 1, got {window}")
        if reference is not None and set(reference) != set(weights):
            odd = sorted(set(reference) ^ set(weights))
            raise ValueError(f"dynamic-reward-weighting-hypervolume: weights and reference must name the same; odd: {odd}")
        self.weights, self.missing, self.factor = dict(weights), missing, 1.0
        self.reference: list[float] | None = None if reference is None else self._point(reference)
        self.front: list[list[float]] = []
        self.recent: deque[list[float]] = deque(maxlen=window)

    @property
    def volume(self) -> float:
        """What the front dominates so far."""
        return 0.0 if self.reference is None else self._volume(self.front)

    def forward(self, ends: Rewards, traj: Trajectories) -> Channel:
        """m times the weighted sum of the ends of all paths."""
        if set(ends) != set(self.weights):
            odd = sorted(set(ends) ^ set(self.weights))
            raise ValueError(f"dynamic-reward-weighting-hypervolume: weights and paths must name the same channels; odd: {odd}")
        return weighted_sum(ends, {name: self.factor * w for name, w in self.weights.items()}, missing=self.missing)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """The factor of the next batch, from what this one's rewards were."""
        scores = {}
        for name in self.weights:
            if name not in rewards:
                raise KeyError(f"dynamic-reward-weighting-hypervolume: no reward channel {name!r}; there are {sorted(rewards)}")
            total, known = outcome(rewards[name], traj)
            if known.any():
                scores[name] = float(total[known].double().mean())
        if len(scores) == len(self.weights):
            self.observe(scores)
        return {"meta_reward": self.factor, "hypervolume": self.volume}

    def observe(self, scores: Mapping[str, float]) -> float:
        """Take in the scores of the policy as it is now, by reward; the factor of what is weighed next."""
        self.recent.append(self._point(scores))
        v = [sum(column) / len(self.recent) for column in zip(*self.recent, strict=True)]
        if self.reference is None:
            self.reference = v
            return self.factor
        gain = max(0.0, self._volume([*self.front, v]) - self._volume(self.front))
        if gain > 0:
            kept = _front(torch.tensor([*self.front, v], dtype=torch.float64))
            self.front = kept.tolist()
        self.factor = 0.5 + 1.5 * math.tanh(gain)
        return self.factor

    def get_extra_state(self) -> dict[str, Any]:
        """The front, the reference, the last scores and the factor."""
        return {
            "front": self.front,
            "reference": self.reference,
            "recent": list(self.recent),
            "factor": self.factor,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """As it was when `get_extra_state` was asked."""
        self.front, self.reference, self.factor = state["front"], state["reference"], state["factor"]
        self.recent = deque(state["recent"], maxlen=self.recent.maxlen)

    def _point(self, scores: Mapping[str, float]) -> list[float]:
        return [math.copysign(1.0, weight) * float(scores[name]) for name, weight in self.weights.items()]

    def _volume(self, points: list[list[float]]) -> float:
        shape = (len(points), len(self.weights))
        return hypervolume(torch.tensor(points, dtype=torch.float64).view(shape), torch.tensor(self.reference, dtype=torch.float64))


def _front(points: Float[Tensor, "M K"]) -> Float[Tensor, "P K"]:
    """The points that no other is at least as good as everywhere, each once."""
    if not len(points):
        return points
    points = points.unique(dim=0)
    above = (points[None] >= points[:, None]).all(2)
    return points[above.sum(1) == 1]


def _volume(points: Float[Tensor, "M K"]) -> Float[Tensor, ""]:
    """Of the union of the boxes from 0 to each of the points, none of which dominates another; all coordinates > 0."""
    if not len(points):
        return points.new_zeros(())
    points = points[points[:, -1].argsort(descending=True)]
    depth = points[:, -1] - torch.cat([points[1:, -1], points.new_zeros(1)])
    if points.shape[1] == 1:
        return points[0, 0]
    if points.shape[1] == 2:
        return (depth * points[:, 0].cummax(0).values).sum()
    slices = [_volume(_front(points[: i + 1, :-1])) for i in range(len(points))]
    return (depth * torch.stack(slices)).sum()
