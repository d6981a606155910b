"""A scorer of tokens that learns from the outcomes of whole answers, beside the rollouts that it scores."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import Rewards, Trajectories, outcome

_HIDDEN = frozenset({"hidden"})


@method("oreal", kind="sampler", paper="arXiv:2502.06781")
class TokenScorer(nn.Module):
    """Free rollouts with the score of every own action, what the advantage `oreal` weighs it by (OREAL): extras["token_scores"].

    [N, T], w_t = v . h_t, h_t the hidden state behind token t in a model of its own that begins as the policy, v a vector that
    begins as 0. It minimises the cross-entropy of sigmoid(mean_t w_t) against the outcome, by Adam, a step on every batch after it
    was scored. So the mean over a beginning of an answer says how right it looks so far.

    policy:   what the model is made from; it must offer "hidden". A run hands over a copy, which is trained
    by:       the channel whose outcome is learned from, right above 1/2; unknown outcomes are left out
    warm_up:  batches at first whose scores are 0: `oreal` then weighs everything 0, and the policy waits
    learning_rate, train_backbone: of Adam; False: v alone, on the states of the initial policy

    Scores carry no gradient, and none of the policy's loss reaches the scorer. Metrics: oreal/loss, oreal/accuracy (None without a
    known outcome). Costs a pass, and a training step. Raises ValueError for options that make no sense and a policy without hidden
    states, KeyError for a channel that is not there.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> sampler = TokenScorer(policy=policy, warm_up=0)
    >>> traj = sampler(policy, [Start("a", {"prompt": "1+2="})], 2, torch.Generator().manual_seed(0))
    >>> bool((traj.extras["token_scores"] == 0).all())  # nothing was learned yet
    True
    """

    seen: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        by: str = "correct",
        warm_up: int = 10,
        learning_rate: float = 2e-6,
        train_backbone: bool = True,
    ) -> None:
        super().__init__()
        if warm_up < 0 or not learning_rate > 0:
            raise ValueError(f"oreal: warm_up must be at least 0 and learning_rate positive, got {warm_up} and {learning_rate}")
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError("oreal: the policy offers no hidden states to score tokens by")
        self.by, self.warm_up = by, warm_up
        self.backbone: Any = copy.deepcopy(policy).requires_grad_(train_backbone)
        self.head = nn.Linear(policy.width, 1, bias=False, device=policy.device)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("seen", torch.tensor(0))
        self.optimiser = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=learning_rate)

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n rollouts of each start, and their scores."""
        traj = policy.rollout(starts, n, rng)
        scores = (
            self.scores(traj).to(traj.device) if int(self.seen) >= self.warm_up else torch.zeros(traj.mask.shape).to(traj.device)
        )
        return traj.replace(extras={"token_scores": scores})

    def scores(self, traj: Trajectories) -> Float[Tensor, "N T"]:
        """w_t of every own action, 0 elsewhere."""
        states = self.backbone.evaluate(traj, _HIDDEN).more["hidden"][:, 1:].to(self.head.weight)
        own = traj.own.to(states.device)
        return torch.where(own, self.head(torch.where(own[..., None], states, 0))[..., 0], 0)

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """One step on the rollouts whose outcome is known."""
        if self.by not in rewards:
            raise KeyError(f"oreal: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        self.seen += 1
        value, known = outcome(rewards[self.by], traj)
        rows = (known & traj.own.any(1)).nonzero()[:, 0]
        if not len(rows):
            return {"oreal/loss": None, "oreal/accuracy": None}
        right: Bool[Tensor, " M"] = value[rows] > 0.5
        some = traj.select(rows)
        with torch.enable_grad():
            said = self.scores(some)
            logit = said.sum(1) / some.own.sum(1).to(said)
            loss = binary_cross_entropy_with_logits(logit, right.to(logit))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        told = ((logit.detach() > 0) == right.to(logit.device)).double().mean()
        return {"oreal/loss": float(loss.detach()), "oreal/accuracy": float(told)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser: for checkpoints."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.optimiser.load_state_dict(copy.deepcopy(state))
