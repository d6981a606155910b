"""A reward model of whole answers, learned from right against wrong, and again from the wrong ones that it holds for right."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from payoff.catalogue import find, method
from payoff.models.hidden_states import NARROWEST, load_heads, save_heads, states_after, stored_pairs
from payoff.trajectories import Pairs, Rewards, Trajectories, constant, outcome, place_outcome


@method("reward-ranker", kind="model", paper="arXiv:2504.09643")
class AnswerRanker(nn.Module):
    """Score whole answers by what was learned from right and wrong ones of the same start, with hard negatives (RewardRanker).

    s = w . h + b, with h the standardised hidden state behind the answer, fitted by -log sigmoid(s_right - s_wrong) to all pairs
    seen so far. Channel "rank": s at the end of the rollout. `best-of-n` on it is the inference of the paper; trained on, it is the
    reward of the generator.

    policy:    whose states are read; it must offer "hidden". A run hands over a copy, which stays as it is
    weights, labelled: a file that `save` wrote; or rows of prompt, chosen and rejected, fitted at once
    by:        the channel whose outcome says what is right (above 1/2). In each batch `learn` looks, for every right rollout, for
               the `negatives` wrong ones of its start that score highest, adds these pairs and fits anew. One of the run's rewards,
               which need not be trained on
    every:     it learns from every such batch (0: never: it stays as it was fitted)
    negatives: wrong answers for a right one; None: all there are, which is what hard negatives are compared with
    remembered: pairs that are kept, the newest
    learning_rate, epochs, batch_size, seed: of Adam on the head, anew at each fit from where the head is

    Learn from starts to train on only: what scores held-out answers must not have seen them. After a round the paper starts the
    generator again from where it began, so that what was learned against the old ranker is forgotten; within one run it goes on
    with the same policy. A number added to all answers of a start changes no pair and no choice.
    Before anything was fitted all scores are 0. Metrics: rank/loss, rank/accuracy (over all pairs kept), rank/pairs, and rank/gap:
    mean score of wrong answers above that of right ones in the newest pairs before fitting, at most 0 where none fools it.

    Raises ValueError for options that make no sense and files that do not fit, KeyError for a channel that is not there.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": text} for text in ("#6.", "#5.", "#66.")])
    >>> right = constant(torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, dtype=torch.bool))
    >>> model = AnswerRanker(policy=policy, every=1, epochs=100, learning_rate=0.1)
    >>> model.learn(traj, {"correct": right})["rank/accuracy"], int(model(traj)["rank"].value.sum(1).argmax())
    (1.0, 0)
    """

    fitted: Tensor
    middle: Tensor
    spread: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        weights: str | None = None,
        labelled: str | None = None,
        by: str = "correct",
        every: int = 0,
        negatives: int | None = 1,
        remembered: int = 4096,
        learning_rate: float = 1e-2,
        epochs: int = 20,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (
            every < 0
            or min(remembered, epochs, batch_size) < 1
            or not learning_rate > 0
            or (negatives is not None and negatives < 1)
        ):
            raise ValueError(
                "reward-ranker: every must be at least 0, negatives, remembered, epochs and batch_size at least 1, learning_rate "
                f"positive, got {every}, {negatives}, {remembered}, {epochs}, {batch_size} and {learning_rate}"
            )
        if weights is not None and labelled is not None:
            raise ValueError("reward-ranker: give weights or labelled, not both")
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError("reward-ranker: the policy offers no hidden states to read answers from")
        self.backbone: Any = policy.requires_grad_(False)
        self.by, self.every, self.negatives, self.remembered = by, every, negatives, remembered
        self.learning_rate, self.epochs, self.batch_size, self.seed = learning_rate, epochs, batch_size, seed
        width, device = self.backbone.width, self.backbone.device
        self.head = nn.Linear(width, 1, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for name, first in (("fitted", torch.tensor(False)), ("seen", torch.tensor(0))):
            self.register_buffer(name, first)
        self.register_buffer("middle", torch.zeros(width, device=device))
        self.register_buffer("spread", torch.ones(width, device=device))
        self.pool = torch.zeros(0, 2, width, device=device)
        if weights is not None:
            self.load(weights)
        if labelled is not None:
            self.fit(*stored_pairs(self.backbone, labelled, "reward-ranker"))

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "rank"."""
        score = self._score(self._states(traj)).to(traj.device)
        return {"rank": place_outcome(score, torch.ones_like(score, dtype=torch.bool), traj)}

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | int | None]:
        """Add the pairs of this batch and fit anew; nothing where it is not this batch's turn, or no start has right and wrong."""
        if self.by not in rewards:
            raise KeyError(f"reward-ranker: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        self.seen += 1
        if not self.every or int(self.seen) % self.every:
            return {}
        value, known = outcome(rewards[self.by], traj)
        hardest = find("reward-ranker", "pairing")
        pairs = hardest(self(traj)["rank"], traj, constant(value, known), negatives=self.negatives)
        return self.fit(traj, pairs) if len(pairs.index) else {"rank/pairs": len(self.pool)}

    def fit(self, traj: Trajectories, pairs: Pairs) -> dict[str, float | int | None]:
        """Add these pairs, better answers first, and minimise the mean loss over all that are kept; ValueError for none."""
        if not len(pairs.index):
            raise ValueError("reward-ranker: no pairs, so there is nothing to fit")
        index = torch.where((pairs.label >= 0.5)[:, None], pairs.index, pairs.index.flip(1))
        with torch.no_grad():
            newest = self._states(traj)[index.to(self.pool.device)]
            gap = self._score(newest)
        self.pool = torch.cat([self.pool, newest])[-self.remembered :]
        if not self.fitted:
            self.middle.copy_(self.pool.flatten(0, 1).mean(0))
            self.spread.copy_(self.pool.flatten(0, 1).std(0, correction=0).clamp(min=NARROWEST))
        rng, optimiser = torch.Generator().manual_seed(self.seed), torch.optim.Adam(self.head.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for some in torch.randperm(len(self.pool), generator=rng).to(self.pool.device).split(self.batch_size):
                    loss = self._loss(self.pool[some])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
        self.fitted.fill_(True)
        with torch.no_grad():
            score = self._score(self.pool)
            ahead = score[:, 0] - score[:, 1]
            right = (ahead > 0).double() + (ahead == 0).double() / 2
            told = {"rank/loss": float(self._loss(self.pool)), "rank/accuracy": float(right.mean()), "rank/pairs": len(self.pool)}
        return {**told, "rank/gap": float((gap[:, 1] - gap[:, 0]).mean())}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write head and scales to one file, whole or not at all; ValueError before anything was fitted."""
        if not self.fitted:
            raise ValueError("reward-ranker: nothing has been fitted, so there is nothing to save")
        save_heads(path, "reward-ranker", self._kept(), self.backbone)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote; ValueError in one line where there is no such file or it does not fit."""
        self.load_state_dict(load_heads(path, "reward-ranker", self._kept(), self.backbone), strict=False)
        self.fitted.fill_(True)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The pairs that are kept."""
        return {"pool": self.pool}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Go on with the pairs that were kept."""
        self.pool = copy.deepcopy(state["pool"])

    def _kept(self) -> dict[str, Tensor]:
        state = {"middle": self.middle, "spread": self.spread}
        return {**state, "head.weight": self.head.weight.detach(), "head.bias": self.head.bias.detach()}

    def _loss(self, states: Float[Tensor, "P 2 D"]) -> Float[Tensor, ""]:
        score = self._score(states)
        return softplus(score[:, 1] - score[:, 0]).mean()

    def _score(self, states: Float[Tensor, "*P D"]) -> Float[Tensor, "*P"]:
        return self.head((states - self.middle) / self.spread)[..., 0]

    @torch.no_grad()
    def _states(self, traj: Trajectories) -> Float[Tensor, "N D"]:
        """The hidden state behind each answer."""
        return states_after(self.backbone, traj, traj.length[:, None])[:, 0].to(self.head.weight)
