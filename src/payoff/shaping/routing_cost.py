"""Form before outcome before cost: a reward for answers that may be bought (Router-R1), with costs on the scale of recent ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import merge_reasons
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


@method("router-r1", kind="shaping", paper="arXiv:2506.09033", sees="batch")
class RoutingCost(nn.Module):
    """Add a channel that pays the form, then the outcome, and being cheap only where that is at least partly right (Router-R1).

    R = -1 where form < 0; else 0 where s = 0; else (1 - a) s + a c, with s the outcome, a = `alpha` and c how cheap it was:
    x = sqrt(cost), c = 1 - clip((x - lo) / (hi - lo), 0, 1), where lo and hi are the 5th and 95th percentile (linear between
    neighbours) of the last `window` x; c = 0.5 where hi - lo < 1e-8. Prices may be multiplied by any constant.

    form, outcome, cost: channels; `router-r1-format` (-1 or 0), `answer-match` or `token-f1`, and `cost`, at least 0
    alpha: 0, as released, ignores the cost; the paper sweeps it up to 0.9
    into:  the new channel; the others stay, for reports

    In training mode a batch's known costs enter the memory first, in row order, and then all are judged on one scale (the paper's
    code judges each as it enters). In evaluation mode nothing enters; before anything has, c = 0.5. The memory is in the
    checkpoint. The scale moves with the policy, so one and the same answer is not paid the same twice.
    Range: -1, or 0..1 for s in 0..1. With an outcome such as F1 the least overlap earns the whole of a c: prefer exact match.

    Unknown where the form is; where it is fine, where the outcome is; where that is above 0 and alpha too, where the cost is.
    Raises ValueError for alpha outside 0..1, a window < 2, a taken name and negative costs or outcomes; KeyError for a channel
    nobody gives.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> values = {"form": [0.0, 0.0, 0.0, -1.0], "outcome": [1.0, 1.0, 0.0, 1.0], "cost": [0.0, 4.0, 9.0, 1.0]}
    >>> rewards = {name: place_outcome(torch.tensor(x), sure, traj) for name, x in values.items()}
    >>> outcome(RoutingCost(alpha=0.5)(rewards, traj)["router-r1"], traj)[0]
    tensor([ 1.0000,  0.6574,  0.0000, -1.0000])
    """

    recent: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        form: str = "form",
        outcome: str = "outcome",
        cost: str = "cost",
        alpha: float = 0.0,
        window: int = 1000,
        into: str = "router-r1",
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or window < 2:
            raise ValueError(f"router-r1: alpha must lie in 0..1 and window be at least 2, got {alpha} and {window}")
        self.channels, self.alpha, self.window, self.into = (form, outcome, cost), alpha, window, into
        self.register_buffer("recent", torch.zeros(window, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, rewards: Rewards, traj: Trajectories) -> Rewards:
        """The rewards with one more channel."""
        if lost := [name for name in self.channels if name not in rewards]:
            raise KeyError(f"router-r1: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
        if self.into in rewards:
            raise ValueError(f"router-r1: there already is a reward channel {self.into!r}; choose another name with `into`")
        parts = [rewards[name] for name in self.channels]
        (form, formed), (score, judged), (cost, counted) = (outcome(part, traj) for part in parts)
        for name, value in zip(self.channels[1:], (score, cost), strict=True):
            if (value < 0).any():
                raise ValueError(f"router-r1: {name!r} must be at least 0, got {float(value.min()):g}")
        root = cost.double().sqrt()
        if self.training:
            self._remember(root[counted])
        broken, wrong = formed & (form < 0), judged & (score <= 0)
        paid = (1 - self.alpha) * score.double() + self.alpha * self._cheap(root)
        paid = torch.where(broken, -1, torch.where(score > 0, paid, 0))
        known: Bool[Tensor, " N"] = broken | (formed & (wrong | (judged & (counted | (self.alpha == 0)))))
        return {**rewards, self.into: place_outcome(paid.to(score.dtype), known, traj, merge_reasons(parts))}

    def _remember(self, x: Float[Tensor, " M"]) -> None:
        kept = torch.cat([self.recent[: int(self.count)], x])[-self.window :]
        self.recent[: len(kept)] = kept
        self.count.fill_(len(kept))

    def _cheap(self, x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        if not self.count:
            return torch.full_like(x, 0.5)
        low, high = torch.quantile(self.recent[: int(self.count)], torch.tensor([0.05, 0.95], dtype=torch.float64, device=x.device))
        if high - low < 1e-8:
            return torch.full_like(x, 0.5)
        return 1 - ((x - low) / (high - low)).clamp(0, 1)
