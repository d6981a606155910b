"""Outcome rewards on a scale fitted to every outcome seen so far: the shapers with a memory that PAR is compared with.

Each is a module whose memory lies in buffers: it is saved and moved with the rest. Training mode: a batch's known outcomes enter
the memory first and are then shaped. Evaluation mode: nothing enters. The scale drifts while the policy improves, so the reward
of one and the same answer is not constant; and a per-group scale afterwards erases all three but for the clipping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


class _Running(nn.Module, ABC):
    """Count, mean, sum of squared deviations, least and greatest of all known outcomes, in float64."""

    count: Tensor
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, start in (("count", 0.0), ("mean", 0.0), ("squares", 0.0), ("low", torch.inf), ("high", -torch.inf)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        """The shaped outcome, paid at the end; unknown where it was."""
        score, known = outcome(channel, traj)
        x = score.detach().double()
        if self.training:
            self._observe(x[known])
        value = torch.where(known, self._shape(x), 0).to(score.dtype)
        return place_outcome(value, known, traj, channel.reasons)

    @property
    def std(self) -> Float[Tensor, ""]:
        """The population's standard deviation; 0 before there are two outcomes."""
        return (self.squares / self.count.clamp(min=1)).sqrt()

    def _observe(self, x: Float[Tensor, " M"]) -> None:
        if not len(x):
            return
        # Two sets of numbers joined by their moments: no past outcome is kept, and the order of batches does not matter.
        total, gap = self.count + len(x), x.mean() - self.mean
        self.squares += (x - x.mean()).square().sum() + gap.square() * self.count * len(x) / total
        self.mean += gap * len(x) / total
        self.count.copy_(total)
        self.low.copy_(torch.minimum(self.low, x.min()))
        self.high.copy_(torch.maximum(self.high, x.max()))

    @abstractmethod
    def _shape(self, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """The outcomes on the scale of what was seen."""


@method("par-mean-std", kind="shaping", paper="arXiv:2502.18770", sees="batch")
class RunningMeanStd(_Running):
    """Standardise by everything seen: r' = (r - mean) / std, the population's; undivided while all outcomes seen are equal.

    Not bounded. Unknown outcomes do not enter the memory and stay unknown.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([1.0, 3.0, 1.0, 3.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(RunningMeanStd()(scores, traj), traj)[0]
    tensor([-1.,  1., -1.,  1.])
    """

    def _shape(self, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        # Decided by the bounds, which are exact: the moments of equal numbers may be a rounding error apart.
        return (x - self.mean) / torch.where(self.low < self.high, self.std, 1.0)


@method("par-min-max", kind="shaping", paper="arXiv:2502.18770", sees="batch")
class RunningMinMax(_Running):
    """Stretch everything seen onto [0, 1]: r' = (r - low) / (high - low); 0.5 while all outcomes seen are equal.

    In evaluation mode an outcome beyond what was seen leaves [0, 1]. Before anything was seen r' = 0.5.
    Unknown outcomes do not enter the memory and stay unknown.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(RunningMinMax()(scores, traj), traj)[0]
    tensor([0.0000, 0.5000, 0.2500, 1.0000])
    """

    def _shape(self, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        some = self.low < self.high
        low, width = torch.where(some, self.low, 0), torch.where(some, self.high - self.low, 1)
        return torch.where(some, (x - low) / width, 0.5)


@method("par-clip", kind="shaping", paper="arXiv:2502.18770", sees="batch")
class RunningClip(_Running):
    """Cut outcomes at one standard deviation: r' = min(max(r, mean - std), mean + std) of everything seen.

    All outcomes seen are equal: that value. Before anything was seen (evaluation mode) r' = r.
    Unknown outcomes do not enter the memory and stay unknown.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> scores = place_outcome(torch.tensor([0.0, 0.0, 0.0, 4.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> outcome(RunningClip()(scores, traj), traj)[0]
    tensor([0.0000, 0.0000, 0.0000, 2.7321])
    """

    def _shape(self, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        if not self.count:
            return x
        return torch.minimum(torch.maximum(x, self.mean - self.std), self.mean + self.std)
