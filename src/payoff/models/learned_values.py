"""A process reward model whose labels nobody wrote: a head that learns what continuations of each step come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from payoff.catalogue import method
from payoff.models.continuations import draws, named_reward, prefix_values, step_labels
from payoff.models.process import ProcessRewardModel
from payoff.trajectories import Rewards, Trajectories


@method("math-shepherd", kind="model", paper="arXiv:2312.08935")
class LearnedValues(ProcessRewardModel):
    """Pay each step the chance that it still ends well, by a head that learns from continuations of rollouts (Math-Shepherd).

    The model is `process-reward-model`, p_k = sigmoid(w . h_k + b); its labels are what n continuations of step k come to: whether
    any is right ("hard"), or their share ("soft", for which the cross-entropy is least at V itself). The last step's label is the
    rollout's own outcome. Channel "process".

    policy:  continues, and gives the hidden states; a run hands over a copy of the policy as it starts, which stays as it is
    reward:  a registered grader or signal of finished rollouts, right above 1/2, by name; "module:function", a grader; or a signal
    n:       continuations of each step
    rollouts: of each batch so many are labelled, evenly spread over its rows (None: all)
    batches: so many batches are labelled and learned from, then the head stays as it is (None: every one)
    signed, learning_rate, epochs, batch_size, weights: as of `process-reward-model`
    seed:    of the order in which rollouts are seen, and with the actions of the batch of what is drawn

    It learns from a batch before that is scored, from the first one on; a head that has seen nothing says 1/2. It costs n
    continuations for every step that is labelled, and none where it only scores.
    Raises LookupError for an unknown reward and ValueError for numbers that make no sense.

    >>> from payoff.pipeline import Start
    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4, stop=["."], step_separator=";")
    >>> traj = policy.rollout([Start("a", {"prompt": "1+2=", "reference": "3"})], 4, torch.Generator().manual_seed(0))
    >>> model = LearnedValues(policy=policy, reward="chain-answer", n=2)
    >>> model.learn(traj, {})["math-shepherd/continuations"] >= 2, model(traj)["process"].value.shape == traj.mask.shape
    (True, True)
    """

    learns_first = True

    def __init__(
        self,
        *,
        policy: Any,
        reward: str | Callable[..., Any],
        n: int = 8,
        labels: Literal["hard", "soft"] = "hard",
        rollouts: int | None = None,
        batches: int | None = None,
        weights: str | None = None,
        signed: bool = False,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        how: dict[str, Any] = {"learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size, "seed": seed}
        super().__init__(policy=policy, weights=weights, signed=signed, **how)
        if n < 1 or labels not in ("soft", "hard") or min(1 if x is None else x for x in (rollouts, batches)) < 1:
            raise ValueError(
                f'math-shepherd: n, rollouts and batches must be at least 1 and labels "hard" or "soft", '
                f"got {n}, {rollouts}, {batches} and {labels!r}"
            )
        self.fitted.fill_(True)  # a head of zeros says 1/2 of every step, as one must that has seen nothing
        self.reward, self.n, self.labels = named_reward(reward), n, labels
        self.rollouts, self.batches = rollouts, batches
        self.seen: Tensor
        self.register_buffer("seen", torch.tensor(0))

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | int | None]:
        """Label some of these rollouts and fit the head to them; nothing once `batches` were seen.

        Metrics: those of `fit`, and math-shepherd/continuations, how many were drawn. A batch without a single known label teaches
        nothing.
        """
        if self.batches is not None and int(self.seen) >= self.batches:
            return {"math-shepherd/continuations": 0}
        self.seen += 1
        some = traj
        if self.rollouts is not None and self.rollouts < len(traj):
            some = traj.select(torch.linspace(0, len(traj) - 1, self.rollouts, device=traj.device).round().long())
        found = prefix_values(self.backbone, self.reward, some, n=self.n, rng=draws(self.seed, some))
        label, known = step_labels(found, self.labels)
        cost: dict[str, float | int | None] = {"math-shepherd/continuations": found.drawn}
        return {**self.fit(some, label.float(), known), **cost} if known.any() else cost
