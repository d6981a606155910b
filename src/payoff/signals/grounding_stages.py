"""Localisation on rules that grow stricter while the policy learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.signals.grounding import localisation
from payoff.trajectories import Rewards, Trajectories, place_outcome


@method("vision-r1-progressive", kind="signal", paper="arXiv:2503.18013")
class ProgressiveLocalisation(nn.Module):
    """`vision-r1` in its stage 1 for the first `switch` updates and in stage 2 from then on, as the channel "vision-r1".

    Items hold what `vision-r1` reads: `response`, `reference`, and `shown` and `image` where the frames differ; without the first
    two there is no verdict. The number of updates is in the checkpoint; metric of `learn`: vision-r1/stage, that of the next batch.
    The switch lowers every reward at once: curves before and after it are not of one scale. Range 0..3.
    Raises ValueError for a negative `switch`.

    >>> from payoff.rows import from_rows
    >>> traj = from_rows([{"response": "[[0, 0, 10, 8]]", "reference": [0, 0, 10, 10]}])
    >>> signal = ProgressiveLocalisation(switch=1)
    >>> signal(traj)["vision-r1"].value.item(), signal.learn(traj, {}), round(signal(traj)["vision-r1"].value.item(), 4)
    (3.0, {'vision-r1/stage': 2.0}, 2.8)
    """

    updates: Tensor

    def __init__(self, *, switch: int = 1500) -> None:
        super().__init__()
        if switch < 0:
            raise ValueError(f"vision-r1-progressive: switch must be at least 0, got {switch}")
        self.switch = switch
        self.register_buffer("updates", torch.tensor(0))

    @property
    def stage(self) -> int:
        """Whose rules the next batch is judged by."""
        return 1 if int(self.updates) < self.switch else 2

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "vision-r1"."""
        paid, reasons, stage = [0.0] * len(traj), {}, self.stage
        for row, id in enumerate(traj.id.tolist()):
            item = traj.items[row] if traj.items else {}
            if not isinstance(item.get("response"), str) or "reference" not in item:
                reasons[id] = "no response or no reference"
                continue
            try:
                verdict = localisation(item["response"], item["reference"], item.get("shown"), item.get("image"), stage=stage)
            except ValueError as error:  # frames without a size
                reasons[id] = str(error)
                continue
            if verdict.valid:
                paid[row] = float(verdict.value)  # type: ignore[arg-type]
            else:
                reasons[id] = verdict.reason
        known = torch.tensor([id not in reasons for id in traj.id.tolist()], dtype=torch.bool, device=traj.device)
        value = torch.tensor(paid, dtype=torch.get_default_dtype(), device=traj.device)
        return {"vision-r1": place_outcome(value, known, traj, reasons)}

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float]:
        """Count an update."""
        self.updates += 1
        return {"vision-r1/stage": float(self.stage)}
