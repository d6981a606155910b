"""Implicit rewards of steps, from a model that learns which of two rollouts of a start came out better."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.pipeline import NonFiniteError
from payoff.trajectories import Channel, Rewards, Trajectories, log_ratio, outcome, per_step, place_steps


@method("istar", kind="model", paper="arXiv:2509.19199", needs=("old",))
class PairedImplicitReward(nn.Module):
    """Pay each step beta * (log model - log old) of its actions, of a model that learns from better against worse (OPRL, iStar).

    r_k = beta sum over the own actions t of step k of log model(a_t) - log old(a_t), "old" being who acted: the policy as it was
    for this very batch, in what is learned and in what is paid. The model minimises the mean over pairs of one start, the better
    outcome first, of -log sigmoid(q_better - q_worse), q = beta times the whole log-ratio, by Adam. A rollout's steps add up to q.

    policy: what the model is made from. A run hands over a copy; in Python give one: it is trained
    by:     the channel whose outcome is compared: any numbers; unknown and equal ones are in no pair
    per:    "step": paid at its end; "action": each action by itself, which PRIME does, with more noise; "rollout": all at the end
    margin: by how much outcomes must differ
    update: "before": a batch is paid by the model once it has learned from it, as in the paper; "after": as it was
    gradient_clip: the largest norm of a step's gradient; 0: any

    Channel "implicit". The paper's advantage is that of the outcome by `grpo`, plus this channel down [`immediate`, `standardise`
    with unit "step" over "group"]. At the optimum q is the utility by which pairs were decided, up to a constant of each start.
    Where the better outcome always wins there is no finite optimum: q grows, which `standardise` takes out again.
    Payments lie on every action of the policy, also those a branched rollout shares with its parent. Equal models pay exactly 0;
    detached. Without a pair nothing is learned. Costs a pass, and a training step.
    Raises ValueError for options that make no sense and without traj.logp["old"], KeyError for a channel that is not there.

    >>> from payoff.policies.embedded import transformer
    >>> from payoff.pipeline import Start
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> traj = policy.rollout([Start("a", {"prompt": "1+2="})], 2, torch.Generator().manual_seed(0))
    >>> model = PairedImplicitReward(policy=policy)
    >>> bool((model(traj)["implicit"].value.abs() < 1e-6).all())
    True
    """

    def __init__(
        self,
        *,
        policy: Any,
        by: str = "correct",
        beta: float = 0.05,
        per: Literal["step", "action", "rollout"] = "step",
        margin: float = 0.0,
        learning_rate: float = 1e-6,
        gradient_clip: float = 1.0,
        update: Literal["before", "after"] = "before",
    ) -> None:
        super().__init__()
        if not 0 < beta < math.inf or not 0 < learning_rate < math.inf or not min(margin, gradient_clip) >= 0:
            raise ValueError(
                "istar: beta and learning_rate must be positive, margin and gradient_clip at least 0, "
                f"got {beta}, {learning_rate}, {margin} and {gradient_clip}"
            )
        if per not in ("step", "action", "rollout") or update not in ("before", "after"):
            raise ValueError(
                f'istar: per must be "step", "action" or "rollout" and update "before" or "after", got {per!r}, {update!r}'
            )
        self.by, self.beta, self.per, self.margin, self.gradient_clip = by, beta, per, margin, gradient_clip
        self.learns_first = update == "before"
        self.model = policy
        self._trained = [p for p in policy.parameters() if p.requires_grad]
        if not self._trained:
            raise ValueError("istar: the policy has no parameters that learn")
        self.optimiser = torch.optim.Adam(self._trained, lr=learning_rate)

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "implicit", known everywhere."""
        ratio = self._ratio(traj)
        if self.per == "rollout":
            end = torch.arange(traj.width, device=traj.device) == traj.length[:, None] - 1
            return {"implicit": Channel(torch.where(end, ratio.sum(1, keepdim=True), 0), torch.ones_like(end[:, :1]))}
        dense = Channel(ratio, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))
        if self.per == "action":
            return {"implicit": dense}
        earned, here, _ = per_step(dense, traj)
        return {"implicit": place_steps(earned, here, traj)}

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | int | None]:
        """One step of Adam on the pairs of this batch; metrics: loss before it, accuracy (of the larger q), and how many pairs.

        Raises NonFiniteError or ArithmeticError for a loss or a gradient that is not finite, before any weight has moved.
        """
        if self.by not in rewards:
            raise KeyError(f"istar: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        value, known = outcome(rewards[self.by], traj)
        same = (traj.group[:, None] == traj.group) & known[:, None] & known
        better, worse = (same & (value[:, None] > value + self.margin)).nonzero(as_tuple=True)
        if not len(better):
            return {"istar/loss": None, "istar/accuracy": None, "istar/pairs": 0}
        with torch.enable_grad():
            score = self._ratio(traj).sum(1)
            ahead = score[better] - score[worse]
            loss = softplus(-ahead).mean()
            if not torch.isfinite(loss):
                bad = (~torch.isfinite(score.detach())).nonzero()
                raise NonFiniteError("istar", int(traj.id[bad[0, 0]]) if len(bad) else int(traj.id[0]), float(loss.detach()))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._trained, self.gradient_clip or math.inf)
            if not torch.isfinite(norm):
                raise ArithmeticError(f"istar: the gradient is {float(norm)}; the weights are untouched")
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        right = (ahead.detach() > 0).double() + (ahead.detach() == 0).double() / 2
        return {"istar/loss": float(loss.detach()), "istar/accuracy": float(right.mean()), "istar/pairs": len(better)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser: for checkpoints."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state))

    def _ratio(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """beta (log model - log old) of every own action, 0 elsewhere."""
        if "old" not in traj.logp:
            raise ValueError('istar: needs traj.logp["old"]')
        whole = traj.replace(parent=None, fork=None)  # an outcome is that of all actions, the shared ones too
        return self.beta * log_ratio(self.model.evaluate(whole).logp, whole.logp["old"], whole)
