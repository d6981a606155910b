"""Which groups are trained on, by how much their rewards differ against what has been usual."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.sets import SetStatistics, sets, statistics
from payoff.trajectories import Rewards, Trajectories, outcome


@method("rlpr", kind="selection", paper="arXiv:2506.18254", sees="batch")
class SpreadFilter(nn.Module):
    """Keep the groups whose outcomes spread at least `fraction` times the usual standard deviation (RLPR).

    usual <- decay usual + (1 - decay) mean over the update's groups of std(outcome in `by`), from update `collect` on, the first of
    them as it is; groups are kept if std >= fraction usual, from update `filter_from` on, and all before. Rewards without a fixed
    scale have no fixed threshold either: too easy and too hard prompts are told by what little they can differ.

    Groups with fewer than two known outcomes have no spread: they do not count, and are left out once it filters (fraction above
    0). std divides by n - 1. fraction 0 keeps everything. `train.rounds` samples further for what is left out.
    Metric of `learn`: rlpr/usual_std, None before it collects. Raises ValueError for numbers out of range, KeyError for a channel
    nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> keep = SpreadFilter(by="probability", collect=1, filter_from=2, fraction=1.0)
    >>> rewards = {"probability": place_outcome(torch.tensor([0.1, 0.2, 0.0, 0.9]), torch.ones(4) > 0, four_answers())}
    >>> round(keep.learn(four_answers(), rewards)["rlpr/usual_std"], 4), keep(rewards, four_answers()).tolist()
    (0.3536, [2, 3])
    """

    usual: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        by: str = "probability",
        fraction: float = 0.5,
        decay: float = 0.99,
        collect: int = 6,
        filter_from: int = 11,
    ) -> None:
        super().__init__()
        if not fraction >= 0 or not 0 <= decay < 1 or not 1 <= collect < filter_from:
            raise ValueError(
                "rlpr: fraction must be at least 0, decay in [0, 1), and 1 <= collect < filter_from, "
                f"got {fraction}, {decay}, {collect} and {filter_from}"
            )
        self.by, self.fraction, self.decay, self.collect, self.filter_from = by, fraction, decay, collect, filter_from
        self.register_buffer("usual", torch.full((), torch.nan, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, rewards: Rewards, traj: Trajectories) -> Int[Tensor, " M"]:
        """The rows to keep, in order."""
        found, _ = self._spread(rewards, traj)
        early = int(self.updates) + 1 < self.filter_from or bool(self.usual.isnan()) or self.fraction == 0
        keep = (found.count >= 2) & (found.std >= self.fraction * self.usual.to(found.std.device))
        return (keep | early).nonzero().squeeze(1)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Count an update, with the spreads of all its groups, the ones left out too."""
        found, group = self._spread(rewards, traj)
        self.updates += 1
        some = found.count >= 2
        if int(self.updates) >= self.collect and bool(some.any()):
            # Each group once, however many rollouts it has.
            mean = float((found.std / group)[some].sum() / (1 / group)[some].sum())
            now = mean if bool(self.usual.isnan()) else self.decay * float(self.usual) + (1 - self.decay) * mean
            self.usual.fill_(now)
        return {"rlpr/usual_std": None if bool(self.usual.isnan()) else float(self.usual)}

    def _spread(self, rewards: Rewards, traj: Trajectories) -> tuple[SetStatistics, Float[Tensor, " N"]]:
        """Statistics of each row's group, and how many rows it has."""
        if self.by not in rewards:
            raise KeyError(f"rlpr: no reward channel {self.by!r}; there are {sorted(rewards)}")
        score, known = outcome(rewards[self.by], traj)
        key = sets(traj, "group")[:, 0]
        return statistics(score, key, known), statistics(score, key, torch.ones_like(known)).count
