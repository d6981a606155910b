"""A process reward model: a linear head that reads, after each step, how likely that step is to be right."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from payoff.catalogue import method
from payoff.models.hidden_states import load_heads, read_rollouts, save_heads, states_after, step_ends
from payoff.row_files import read_rows
from payoff.trajectories import Rewards, Trajectories, place_steps


@method("process-reward-model", kind="model", paper="arXiv:2305.20050")
class ProcessRewardModel(nn.Module):
    """Pay each step the probability that it is right, as a head on the state after the step reads it (Lightman et al.).

    p_k = sigmoid(w . h_k + b), with h_k the hidden state behind the last token of step k; p_k is paid there, 0 elsewhere.

    policy:         whose hidden states are read; it must offer "hidden". A run hands over a copy
    weights:        a file that `save` wrote
    labelled:       rows of prompt, response and `step_labels` (one of 0, 1 or null per step, null: not known), fitted at once;
                    a file that `payoff.row_files.read_rows` reads
    signed:         pay 2 p - 1, in [-1, 1], instead of p
    learning_rate, epochs, batch_size: of Adam, passes over the labelled rollouts, and rollouts in one of its steps
    train_backbone: the policy's own weights learn too, not only the head
    seed:           of the order in which rollouts are seen

    Made with neither `weights` nor `labelled` it has to be given labels by `fit`; scoring before raises ValueError. Fitting the
    head alone is cheap, since the states are computed once.
    Raises ValueError for options that make no sense, files that do not fit this policy, and labels that do not fit their steps.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}, {"prompt": "3-7=", "response": "3-7=5;#5."}])
    >>> model = ProcessRewardModel(policy=policy, epochs=200, learning_rate=0.1)
    >>> model.fit(traj, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool))["process/accuracy"]
    1.0
    >>> (model.score(traj)[0] > 0.5).tolist()
    [[True, True], [False, False]]
    """

    name = "process-reward-model"  # as it is registered: in messages and saved files
    fitted: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        weights: str | None = None,
        labelled: str | None = None,
        signed: bool = False,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 32,
        train_backbone: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not learning_rate > 0 or epochs < 1 or batch_size < 1:
            raise ValueError(
                f"{self.name}: learning_rate must be positive, epochs and batch_size at least 1, "
                f"got {learning_rate}, {epochs} and {batch_size}"
            )
        if weights is not None and labelled is not None:
            raise ValueError(f"{self.name}: give weights or labelled, not both")
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError(f"{self.name}: the policy offers no hidden states to read steps from")
        self.signed, self.learning_rate, self.epochs, self.batch_size = signed, learning_rate, epochs, batch_size
        self.train_backbone, self.seed = train_backbone, seed
        self.backbone: Any = policy if train_backbone else policy.requires_grad_(False)
        self.head = nn.Linear(self.backbone.width, 1, device=self.backbone.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("fitted", torch.tensor(False))
        if weights is not None:
            self.load(weights)
        if labelled is not None:
            self.fit(*self._read(labelled))

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "process": p_k, or 2 p_k - 1, at the end of every step."""
        probability, exists = self.score(traj)
        return {"process": place_steps(2 * probability - 1 if self.signed else probability, exists, traj)}

    @torch.no_grad()
    def score(self, traj: Trajectories) -> tuple[Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """(p_k, whether there is a step k), 0 where there is none; ValueError before the model has been fitted or loaded."""
        if not self.fitted:
            raise ValueError(
                f"{self.name}: nothing has been fitted, so its numbers would mean nothing; give labelled (rows with "
                "step_labels) or weights (a saved model), or call fit"
            )
        states, exists = self._states(traj)
        probability = self._logits(states).sigmoid().to(traj.device)
        return torch.where(exists, probability, 0), exists

    def fit(self, traj: Trajectories, labels: Float[Tensor, "N S"], known: Bool[Tensor, "N S"]) -> dict[str, float | int | None]:
        """Minimise the cross-entropy of p_k against labels in [0, 1], over the known steps that exist; goes on from what is there.

        S is at least the most steps of a trajectory. Gives process/loss, the mean of the last epoch, and process/accuracy and
        process/steps, over what was fitted. The same seed gives the same weights.
        Raises ValueError when no step is known, for labels outside [0, 1], and for fewer columns than steps.
        """
        exists = step_ends(traj)[1]
        steps = exists.shape[1]
        if labels.shape[1] < steps or labels.shape != known.shape or len(labels) != len(traj):
            raise ValueError(
                f"{self.name}: labels and known must be [N, S] with N = {len(traj)} and S at least {steps}, "
                f"got {list(labels.shape)} and {list(known.shape)}"
            )
        known = (known[:, :steps] & exists).to(self.head.weight.device)
        labels = torch.where(known, labels[:, :steps].to(self.head.weight), 0)
        if not known.any():
            raise ValueError(f"{self.name}: no step is labelled, so there is nothing to fit")
        if not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError(f"{self.name}: labels must lie in [0, 1], got {labels.min():g} to {labels.max():g}")
        rows = known.any(1).nonzero()[:, 0]
        rng = torch.Generator().manual_seed(self.seed)
        cached = None
        if not self.train_backbone:
            with torch.no_grad():
                cached = self._states(traj)[0]
        optimiser = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
        for _ in range(self.epochs):
            total = 0.0
            for some in rows[torch.randperm(len(rows), generator=rng).to(rows.device)].split(self.batch_size):
                states = self._states(traj.select(some))[0] if cached is None else cached[some]
                here = known[some, : states.shape[1]]
                logits, wanted = self._logits(states)[here], labels[some, : states.shape[1]][here]
                loss = functional.binary_cross_entropy_with_logits(logits, wanted)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(wanted)
        self.fitted.fill_(True)
        count = int(known.sum())
        right = (self.score(traj)[0].to(known.device) > 0.5) == (labels > 0.5)
        return {"process/loss": total / count, "process/accuracy": float(right[known].double().mean()), "process/steps": count}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head, and the backbone where it was trained, to one file, whole or not at all; ValueError before `fit`."""
        if not self.fitted:
            raise ValueError(f"{self.name}: nothing has been fitted, so there is nothing to save")
        save_heads(path, self.name, self._kept(), self.backbone, trained=self.train_backbone)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote; ValueError in one line where there is no such file or it belongs to another policy."""
        self.load_state_dict(load_heads(path, self.name, self._kept(), self.backbone), strict=False)
        self.fitted.fill_(True)

    def _kept(self) -> dict[str, Tensor]:
        kept = ("head.", "backbone.") if self.train_backbone else "head."
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(kept)}

    def _logits(self, states: Float[Tensor, "N S D"]) -> Float[Tensor, "N S"]:
        return self.head(states.to(self.head.weight))[..., 0]

    def _states(self, traj: Trajectories) -> tuple[Float[Tensor, "N S D"], Bool[Tensor, "N S"]]:
        """The hidden state after the last token of every step, 0 where there is no step, and which steps there are."""
        end, exists = step_ends(traj)
        states = states_after(self.backbone, traj, end + 1, batch_size=self.batch_size)
        return torch.where(exists.to(states.device)[..., None], states, 0), exists

    def _read(self, path: str) -> tuple[Trajectories, Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """Labelled rows as trajectories, labels and which of them are known."""
        rows = list(read_rows(path, required=("prompt", "response", "step_labels")))
        if not rows:
            raise ValueError(f"{self.name}: {path}: holds no rows")
        traj = read_rollouts(self.backbone, path, rows, self.name)
        exists = step_ends(traj)[1]
        labels = torch.zeros(exists.shape)
        known = torch.zeros(exists.shape, dtype=torch.bool)
        for number, (row, steps) in enumerate(zip(rows, exists.sum(1).tolist(), strict=True), 1):
            given = _labels(row, f"{self.name}: {path}: row {number}")
            if len(given) != steps:
                raise ValueError(f"{self.name}: {path}: row {number} has {len(given)} step_labels and {steps} steps")
            labels[number - 1, :steps] = torch.tensor([float(label or 0) for label in given])
            known[number - 1, :steps] = torch.tensor([label is not None for label in given])
        return traj, labels.to(traj.device), known.to(traj.device)


def _labels(row: Mapping[str, Any], place: str) -> list[float | int | None]:
    given = row["step_labels"]
    if not isinstance(given, list) or not all(label in (0, 1, None) for label in given):
        raise ValueError(f"{place}: step_labels must be a list of 0, 1 or null, got {str(given)[:60]!r}")
    return given
