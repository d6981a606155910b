"""The implicit process reward: a model trained on outcomes alone, whose log-ratio to where it began pays every action."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from payoff.catalogue import method
from payoff.pipeline import NonFiniteError
from payoff.trajectories import Channel, Rewards, Trajectories, log_ratio, outcome


@method("prime", kind="model", paper="arXiv:2502.01456")
class ImplicitReward(nn.Module):
    """Pay each action beta * (log model - log reference), of a model that learns from the outcome of whole rollouts (PRIME).

    r_t = beta q_t with q_t = log model(a_t | s_t) - log reference(a_t | s_t); the model minimises the cross-entropy of
    sigmoid(beta sum_t q_t) against the outcome, by Adam. Both begin as `policy`, so the first rewards are exactly 0. At an optimum
    the payments up to t are V(s_t) - V(s_0), with V the soft value beta log E_reference exp(outcome / beta).

    policy:        what the model and the reference are made from. A run hands over a copy; in Python give one: it is trained
    by:            the channel whose outcome, in [0, 1], is learned from; unknown outcomes are left out
    beta:          above 0; it cancels where `prime-scale` follows, but not in how the model learns
    gradient_clip: the largest norm of a step's gradient; 0: any
    update:        "after": a batch is paid by the model as it was before it learned from that batch; "before": as it is after

    Payments lie on every action of the policy, also those a branched rollout shares with its parent, and are 0 elsewhere; no
    gradient goes through them. The model's and the optimiser's state are part of `state_dict`.
    Few labels an update make the payments noise: the policy must not learn much faster than this model.
    Raises ValueError for options that make no sense.

    >>> from payoff.policies.embedded import transformer
    >>> from payoff.pipeline import Start
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> traj = policy.rollout([Start("a", {"prompt": "1+2="})], 2, torch.Generator().manual_seed(0))
    >>> model = ImplicitReward(policy=policy, by="correct")
    >>> bool((model(traj)["implicit"].value == 0).all())
    True
    """

    def __init__(
        self,
        *,
        policy: Any,
        by: str = "correct",
        beta: float = 0.05,
        learning_rate: float = 1e-6,
        gradient_clip: float = 10.0,
        update: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__()
        for name, value, ok, allowed in (
            ("beta", beta, 0 < beta < math.inf, "positive"),
            ("learning_rate", learning_rate, 0 < learning_rate < math.inf, "positive"),
            ("gradient_clip", gradient_clip, gradient_clip >= 0, "at least 0 (0: no clipping)"),
        ):
            if not ok:
                raise ValueError(f"prime: {name} must be {allowed}, got {value}")
        self.by, self.beta, self.gradient_clip = by, beta, gradient_clip
        self.learns_first = update == "before"
        self.model = policy
        self.reference = _frozen(policy)
        self._trained = [p for p in policy.parameters() if p.requires_grad]
        if not self._trained:
            raise ValueError("prime: the policy has no parameters that learn")
        self.optimiser = torch.optim.Adam(self._trained, lr=learning_rate)

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "implicit": the payments [N, T], known everywhere."""
        with torch.no_grad():
            paid = self._paid(traj)
        return {"implicit": Channel(paid, torch.ones(len(traj), 1, dtype=torch.bool, device=paid.device))}

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | int | None]:
        """One step of Adam on the rollouts whose outcome is known; without any, nothing changes and the metrics are None.

        prime/loss: the cross-entropy before the step; prime/accuracy: how many outcomes beta sum_t q_t > 0 tells from those below
        one half. Raises KeyError for a channel that is not there, ValueError for an outcome outside [0, 1], NonFiniteError or
        ArithmeticError for a loss or a gradient that is not finite, before any weight has moved.
        """
        if self.by not in rewards:
            raise KeyError(f"prime: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        label, known = outcome(rewards[self.by], traj)
        rows = known.nonzero()[:, 0]
        if not len(rows):
            return {"prime/loss": None, "prime/accuracy": None}
        traj, label = traj.select(rows), label[rows]
        odd = ((label < 0) | (label > 1)).nonzero()[:, 0]
        if len(odd):
            raise ValueError(
                f"prime: channel {self.by!r} must pay an outcome in [0, 1], pays {float(label[odd[0]])} for trajectory "
                f"{int(traj.id[odd[0]])}"
            )
        logit = self._paid(traj).sum(1)
        label = label.to(logit)
        terms = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
        bad = (~torch.isfinite(terms.detach())).nonzero()[:, 0]
        if len(bad):
            raise NonFiniteError("prime: the loss", int(traj.id[bad[0]]), float(terms[bad[0]].detach()))
        loss = terms.mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._trained, self.gradient_clip or math.inf)
        if not torch.isfinite(norm):
            raise ArithmeticError(f"prime: the gradient is {float(norm)}; the weights are untouched")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        right = (logit.detach() > 0) == (label > 0.5)
        return {"prime/loss": float(loss.detach()), "prime/accuracy": float(right.double().mean())}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser's state, in tensors, dicts, lists and numbers."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from an optimiser's state; it is copied."""
        self.optimiser.load_state_dict(copy.deepcopy(state))

    def _paid(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """beta q_t, with gradient where there is any to be had."""
        whole = traj.replace(parent=None, fork=None)  # an outcome is that of all actions, the shared ones too
        with torch.no_grad():
            behind = self.reference.evaluate(whole).logp
        return self.beta * log_ratio(self.model.evaluate(whole).logp, behind, whole.to(behind.device))


def _frozen(policy: Any) -> Any:
    """The policy as it is now, as something that never learns."""
    own = getattr(policy, "reference", None)
    return own() if callable(own) else copy.deepcopy(policy).requires_grad_(False)
