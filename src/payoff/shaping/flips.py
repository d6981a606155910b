"""Verdicts made wrong on purpose, a whole group at a time or one by one: how much noise can learning bear?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome


@method("flip-verdicts", kind="shaping", paper="arXiv:2505.22653", sees="group")
class FlippedVerdicts(nn.Module):
    """Turn verdicts of 0 and 1 round at random, for a study of noise (the flipped rewards of reasoning pattern rewards).

    r' = 1 - r where a uniform draw u lies below the rate: `false_positive` for a verdict of 0, `false_negative` for one of 1.

    unit: "group": one u for all rollouts of a start, drawn anew at every update. At equal rates p a group is then turned round as a
          whole or not at all: its advantages under `grpo` change sign exactly, and are (1 - 2 p) times the clean ones on average.
          "rollout": one u for each, as a verifier that errs now and then: on average the same factor under a mean baseline, and
          noise within the group besides
    seed: u depends on it, on the number of calls and on the order of the ids, not on that of the rows

    Nothing is turned round in evaluation, and what is unknown stays unknown. Learn from the flipped channel and watch a clean one,
    which needs another name. At 1/2 nothing is left to learn, beyond it the policy learns to be wrong. Paid at the end; the number
    of calls is in the checkpoint. Raises ValueError for rates outside 0..1, another unit, and verdicts other than 0 and 1.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> verdicts = place_outcome(torch.tensor([1.0, 0.0, 1.0, 1.0]), sure, traj)
    >>> flips = FlippedVerdicts(false_positive=0.6, false_negative=0.6, seed=1)
    >>> outcome(flips(verdicts, traj), traj)[0], outcome(flips.eval()(verdicts, traj), traj)[0]
    (tensor([0., 1., 0., 0.]), tensor([1., 0., 1., 1.]))
    """

    calls: Tensor

    def __init__(
        self,
        *,
        false_positive: float = 0.4,
        false_negative: float = 0.4,
        unit: Literal["group", "rollout"] = "group",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= false_positive <= 1 or not 0 <= false_negative <= 1 or unit not in ("group", "rollout"):
            raise ValueError(
                'flip-verdicts: rates in 0..1 and unit "group" or "rollout" are needed, '
                f"got {false_positive}, {false_negative} and {unit!r}"
            )
        self.false_positive, self.false_negative, self.unit, self.seed = false_positive, false_negative, unit, seed
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        """The verdicts, some of them turned round."""
        verdict, valid = outcome(channel, traj)
        odd = valid & (verdict != 0) & (verdict != 1)
        if odd.any():
            row = int(odd.nonzero()[0, 0])
            raise ValueError(f"flip-verdicts: verdicts must be 0 or 1, trajectory {int(traj.id[row])} has {float(verdict[row])}")
        if not self.training:
            return place_outcome(torch.where(valid, verdict, 0), valid, traj, channel.reasons)
        self.calls += 1
        rate = torch.where(verdict == 1, self.false_negative, self.false_positive)
        turned = valid & (self._draws(traj).to(verdict.device) < rate)
        return place_outcome(torch.where(turned, 1 - verdict, torch.where(valid, verdict, 0)), valid, traj, channel.reasons)

    def _draws(self, traj: Trajectories) -> Tensor:
        """u of every row; groups, or rows, are drawn for in the order of their least id."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.calls))
        id = traj.id.cpu()
        of = traj.group.cpu().unique(return_inverse=True)[1] if self.unit == "group" else torch.arange(len(id))
        first = torch.full((len(id),), torch.iinfo(torch.int64).max).scatter_reduce(0, of, id, "amin")
        return torch.rand(len(id), generator=rng, dtype=torch.float64)[first.argsort(stable=True).argsort()][of]
