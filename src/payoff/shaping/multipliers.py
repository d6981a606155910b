"""Rewards that are held at thresholds instead of being maximised: the weights of their advantages are multipliers, and learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import weighted_sum
from payoff.trajectories import Channel, Rewards, Trajectories, outcome

Constraint = Literal["at-least", "equal", "unsquashed"]


@method("constrained-rlhf", kind="mixing", paper="arXiv:2310.04373")
class ConstrainedMixing(nn.Module):
    """Mix normalised advantages by multipliers that hold each reward at its threshold (constrained RLHF, mu-PPO and xi-PPO).

    Of K rewards with thresholds, and of the `objective` that is maximised under them, with s_k = s(l_k):

    at-least:   A = (K - sum_k s_k) A_objective + sum_k s_k A_k,  s = sigmoid: maximise subject to E[R_k] >= threshold_k (mu-PPO)
    equal:      the same with s = tanh: subject to E[R_k] = threshold_k (xi-PPO). A negative s_k pushes the reward down
    unsquashed: A = A_objective + sum_k l_k A_k, l_k >= 0: the plain Lagrangian of "at-least"

    `learn` takes one step of dual ascent, SGD with momentum on sum_k s(l_k) v_k, where v_k is the mean known return of reward k
    over the update, as scored, minus its threshold: above the threshold the weight falls, below it grows, at it nothing moves.
    With weights that add up to K the objective may lose all of its weight; where K = 1 and s = 1 there is none left.

    thresholds: reward -> the return, in its own unit, beyond which it stops telling what is truly wanted (its proxy point)
    objective:  the channel that is maximised; in the paper minus the divergence from the reference, `kl-penalty`
    learning_rate, momentum: of the multipliers. spread: standard deviation of l at the start, drawn by `seed`
    missing:    as of `weigh`

    Each path must end in advantages of one scale ([lambda-return, subtract-values, whiten], [total, batch-standardise]), or the
    weights mean nothing. A squashed s is at most 1, so among advantages that are not normalised a reward never weighs more than
    s_k / (K - sum_j s_j) times the objective, which for one binding reward among slack ones is 1 / (K - 1): a threshold that asks
    for more is not reached ("unsquashed" knows no such bound).
    A reward without one known return in an update leaves its multiplier where it was; the objective's returns are not looked at.
    Multipliers that learn faster than the policy swing about the thresholds.

    Raises ValueError for no threshold, for a threshold on the objective, numbers out of range and ends that are not exactly the
    thresholds' rewards and the objective; KeyError in `learn` for a threshold on a channel that no signal gives.

    >>> from payoff.examples import four_answers
    >>> sure = torch.ones(4, 1, dtype=torch.bool)
    >>> ends = {"kl": Channel(torch.full((4, 1), 1.0), sure), "wit": Channel(torch.full((4, 1), 10.0), sure)}
    >>> mixing = ConstrainedMixing({"wit": 0.5}, spread=0.0)
    >>> mixing(ends, four_answers()).value.T  # half of each
    tensor([[5.5000, 5.5000, 5.5000, 5.5000]])
    """

    multiplier: Tensor
    velocity: Tensor
    threshold: Tensor

    def __init__(
        self,
        thresholds: Mapping[str, float],
        *,
        objective: str = "kl",
        constraint: Constraint = "at-least",
        learning_rate: float = 0.1,
        momentum: float = 0.1,
        spread: float = 0.01,
        seed: int = 0,
        missing: Literal["drop", "skip"] = "drop",
    ) -> None:
        super().__init__()
        if not thresholds:
            raise ValueError("constrained-rlhf: no thresholds, so nothing is constrained")
        if objective in thresholds:
            raise ValueError(f"constrained-rlhf: {objective!r} is the objective and cannot have a threshold as well")
        if constraint not in get_args(Constraint):
            raise ValueError(f"constrained-rlhf: constraint must be one of {', '.join(get_args(Constraint))}, got {constraint!r}")
        if not learning_rate > 0 or not 0 <= momentum < 1 or not spread >= 0:
            raise ValueError(
                "constrained-rlhf: needs learning_rate > 0, 0 <= momentum < 1 and spread >= 0, "
                f"got {learning_rate}, {momentum} and {spread}"
            )
        self.names, self.objective, self.constraint, self.missing = list(thresholds), objective, constraint, missing
        self.learning_rate, self.momentum = learning_rate, momentum
        first = spread * torch.randn(len(thresholds), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("multiplier", first.clamp(min=0) if constraint == "unsquashed" else first)
        self.register_buffer("velocity", torch.zeros_like(first))
        self.register_buffer("threshold", torch.tensor(list(thresholds.values()), dtype=torch.float64))

    @property
    def weights(self) -> dict[str, float]:
        """What each channel's advantage is multiplied by now: the objective, then the constrained rewards."""
        squashed = self._squashed()
        rest = 1.0 if self.constraint == "unsquashed" else len(self.names) - float(squashed.sum())
        return {self.objective: rest, **dict(zip(self.names, squashed.tolist(), strict=True))}

    def forward(self, ends: Rewards, traj: Trajectories) -> Channel:
        """The weighted sum of the ends of all paths."""
        weights = self.weights
        if set(ends) != set(weights):
            odd = sorted(set(ends) ^ set(weights))
            raise ValueError(f"constrained-rlhf: paths and thresholds with the objective must name the same channels; odd: {odd}")
        return weighted_sum(ends, weights, missing=self.missing)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """One step of the multipliers, and how far each reward was above its threshold (None: nothing known of it)."""
        above: dict[str, float | None] = {}
        for name, threshold in zip(self.names, self.threshold.tolist(), strict=True):
            if name not in rewards:
                raise KeyError(f"constrained-rlhf: no reward channel {name!r} among what the signals gave: {sorted(rewards)}")
            total, known = outcome(rewards[name], traj)
            above[name] = float(total[known].double().mean()) - threshold if known.any() else None
        self.ascend(above)
        metrics = {f"weight/{name}": weight for name, weight in self.weights.items()}
        return {**metrics, **{f"above_threshold/{name}": v for name, v in above.items()}}

    def ascend(self, above: Mapping[str, float | None]) -> None:
        """One step of the multipliers, where each mean return lies this far above its threshold; None leaves one as it is."""
        distance = [above[name] for name in self.names]
        known = torch.tensor([v is not None for v in distance], device=self.multiplier.device)
        v = torch.tensor([v or 0.0 for v in distance], dtype=torch.float64, device=self.multiplier.device)
        velocity = self.momentum * self.velocity + self._slope() * v
        moved = self.multiplier - self.learning_rate * velocity
        if self.constraint == "unsquashed":
            moved = moved.clamp(min=0)
        self.velocity.copy_(torch.where(known, velocity, self.velocity))
        self.multiplier.copy_(torch.where(known, moved, self.multiplier))

    def hold(self, thresholds: Mapping[str, float]) -> None:
        """Other thresholds for the same rewards from here on; ValueError where they name others."""
        if set(thresholds) != set(self.names):
            raise ValueError(f"constrained-rlhf: thresholds must be of {self.names}, got {sorted(thresholds)}")
        self.threshold.copy_(self.threshold.new_tensor([thresholds[name] for name in self.names]))

    def _squashed(self) -> Float[Tensor, " K"]:
        if self.constraint == "at-least":
            return self.multiplier.sigmoid()
        return self.multiplier.tanh() if self.constraint == "equal" else self.multiplier

    def _slope(self) -> Float[Tensor, " K"]:
        """ds / dl."""
        s = self._squashed()
        if self.constraint == "at-least":
            return s * (1 - s)
        return 1 - s.square() if self.constraint == "equal" else torch.ones_like(s)
