"""Rewards whose scale moves while the policy learns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories


@method("scale-schedule", kind="shaping", paper="arXiv:2504.13958")
class ScaleSchedule(nn.Module):
    """Multiply a reward by a number that moves from `start` to `end` with the updates (ToolRL's dynamic reward scales).

    After k updates: r' = r (start + (end - start) min(k / over, 1)), or, with shape "step", r' = r start before `over` updates and
    r end from then on. ToolRL: the form 2 to 1 and the calls (of -3..3) 2/3 to 1 over 150 updates; or the form 1 to 1/2 and the
    calls 1 to 3 in one step after 30.

    Means something only beside another channel, in a sum: `grpo` on one channel alone takes any scale away. The number of updates
    is in the checkpoint; metric of `learn`: scale-schedule/factor, what the next batch is multiplied by. Unknown stays unknown.
    Raises ValueError for `over` < 1, an unknown shape, and numbers that are not finite.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import outcome, place_outcome
    >>> traj = four_answers()
    >>> reward = place_outcome(torch.ones(4), torch.ones(4, dtype=torch.bool), traj)
    >>> shape = ScaleSchedule(start=2.0, end=1.0, over=2)
    >>> for _ in range(3):
    ...     print(outcome(shape(reward, traj), traj)[0][0].item(), shape.learn(traj, {})["scale-schedule/factor"])
    2.0 1.5
    1.5 1.0
    1.0 1.0
    """

    updates: Tensor

    def __init__(self, *, start: float, end: float, over: int = 150, shape: Literal["linear", "step"] = "linear") -> None:
        super().__init__()
        if over < 1 or shape not in ("linear", "step") or not abs(start) + abs(end) < float("inf"):
            raise ValueError(
                'scale-schedule: start and end must be finite, over at least 1 and shape "linear" or "step", '
                f"got {start}, {end}, {over} and {shape!r}"
            )
        self.start, self.end, self.over, self.shape = float(start), float(end), over, shape
        self.register_buffer("updates", torch.tensor(0))

    @property
    def factor(self) -> float:
        """What the next batch is multiplied by."""
        done = min(int(self.updates) / self.over, 1.0)
        if self.shape == "step":
            done = float(done == 1)
        return self.start + (self.end - self.start) * done

    def forward(self, channel: Channel, traj: Trajectories) -> Channel:
        """The scaled channel."""
        return Channel(torch.where(channel.valid, channel.value * self.factor, 0), channel.valid, channel.reasons)

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float]:
        """Count an update."""
        self.updates += 1
        return {"scale-schedule/factor": self.factor}
