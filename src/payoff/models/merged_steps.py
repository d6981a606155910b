"""A process reward model that looks at steps one by one and two at a time, so that a mistake can be put right."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from payoff.catalogue import method
from payoff.models.hidden_states import HIDDEN, step_ends
from payoff.models.process import ProcessRewardModel
from payoff.trajectories import Trajectories


class Spans(NamedTuple):
    """Stretches of rollouts with a label in [0, 1] each: actions begin to end - 1 of a row."""

    row: Int[Tensor, " M"]
    begin: Int[Tensor, " M"]
    end: Int[Tensor, " M"]
    label: Float[Tensor, " M"]


@method("hrm-hnc", kind="model", paper="arXiv:2503.13551")
class HierarchicalProcessModel(ProcessRewardModel):
    """Pay each step the probability that it is good, by a head that learned from single steps and from steps merged in twos (HRM).

    p(b, e) = sigmoid(w . [h_b, h_e] + c), with h_b and h_e the hidden states before and after the stretch that is judged. A single
    step and the same step merged with the one before it end alike and have the label of where they end: so a mistake in step k - 1
    that step k puts right may count against step k - 1 alone. Channel "process", at the end of every step.

    policy: whose hidden states are read; it must offer "hidden". A run hands over a copy
    level:  what a step is judged as: "single"; "merged" with the step before it (the first one alone); "both": the mean
    merged: learn from merged steps as well as from single ones; False: an ordinary process reward model, but for what it reads
    weights, labelled, signed, learning_rate, epochs, batch_size, train_backbone, seed: as of `process-reward-model`

    `fit` takes labels of steps, `fit_spans` any stretches: those of a search tree come from `payoff.search.tree_labels`.
    Raises as `process-reward-model` does, and ValueError for another level.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}, {"prompt": "3-7=", "response": "3-7=5;#5."}])
    >>> model = HierarchicalProcessModel(policy=policy, epochs=200, learning_rate=0.1)
    >>> model.fit(traj, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool))["process/steps"]
    6
    >>> (model.score(traj)[0] > 0.5).tolist()
    [[True, True], [False, False]]
    """

    name = "hrm-hnc"

    def __init__(
        self,
        *,
        policy: Any,
        level: Literal["single", "merged", "both"] = "single",
        merged: bool = True,
        weights: str | None = None,
        labelled: str | None = None,
        signed: bool = False,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 32,
        train_backbone: bool = False,
        seed: int = 0,
    ) -> None:
        if level not in ("single", "merged", "both"):
            raise ValueError(f'hrm-hnc: level must be "single", "merged" or "both", got {level!r}')
        if weights is not None and labelled is not None:
            raise ValueError("hrm-hnc: give weights or labelled, not both")
        how: dict[str, Any] = {"signed": signed, "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
        super().__init__(policy=policy, train_backbone=train_backbone, seed=seed, **how)
        self.level, self.merged = level, merged
        self.head = nn.Linear(2 * self.backbone.width, 1, device=self.backbone.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if weights is not None:
            self.load(weights)
        if labelled is not None:
            self.fit(*self._read(labelled))

    def fit(self, traj: Trajectories, labels: Float[Tensor, "N S"], known: Bool[Tensor, "N S"]) -> dict[str, float | int | None]:
        """`fit_spans` on the known steps and, if `merged`, on each merged with the step before it; errors as of the parent's."""
        exists = step_ends(traj)[1]
        steps = exists.shape[1]
        if labels.shape[1] < steps or labels.shape != known.shape or len(labels) != len(traj):
            raise ValueError(
                f"hrm-hnc: labels and known must be [N, S] with N = {len(traj)} and S at least {steps}, "
                f"got {list(labels.shape)} and {list(known.shape)}"
            )
        known = known[:, :steps] & exists
        single = _spans(traj, labels[:, :steps], known, 1)
        if self.merged:
            double = _spans(traj, labels[:, :steps], known, 2)
            single = Spans(*(torch.cat(pair) for pair in zip(single, double, strict=True)))
        return self.fit_spans(traj, single)

    def fit_spans(self, traj: Trajectories, spans: Any) -> dict[str, float | int | None]:
        """Minimise the cross-entropy of p(begin, end) against the labels of stretches; goes on from what is there.

        spans: row, begin, end and label, of one length. Gives process/loss, the mean of the last epoch, and process/accuracy and
        process/steps over the stretches. Raises ValueError for none and for labels outside [0, 1].
        """
        label = spans.label.to(self.head.weight)
        if not len(label):
            raise ValueError("hrm-hnc: no step is labelled, so there is nothing to fit")
        if not ((label >= 0) & (label <= 1)).all():
            raise ValueError(f"hrm-hnc: labels must lie in [0, 1], got {label.min():g} to {label.max():g}")
        row, begin, end = (part.to(traj.device) for part in (spans.row, spans.begin, spans.end))
        spans = Spans(row, begin, end, label)
        rng = torch.Generator().manual_seed(self.seed)
        cached = None
        if not self.train_backbone:
            with torch.no_grad():
                cached = self._ends_of(traj, spans)
        optimiser = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
        for _ in range(self.epochs):
            total = 0.0
            for some in torch.randperm(len(label), generator=rng).to(traj.device).split(self.batch_size):
                part = Spans(*(column[some] for column in spans))
                states = self._ends_of(traj, part) if cached is None else cached[some]
                loss = functional.binary_cross_entropy_with_logits(self._item_logits(states), label[some])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(some)
        self.fitted.fill_(True)
        with torch.no_grad():
            right = (self._item_logits(self._ends_of(traj, spans)) > 0) == (label > 0.5)
        return {
            "process/loss": total / len(label),
            "process/accuracy": float(right.double().mean()),
            "process/steps": len(label),
        }

    @torch.no_grad()
    def score(self, traj: Trajectories) -> tuple[Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """(the probability of each step at this level, whether there is such a step); ValueError before anything was fitted."""
        if not self.fitted:
            raise ValueError(
                "hrm-hnc: nothing has been fitted, so its numbers would mean nothing; give labelled or weights, or call fit"
            )
        exists = step_ends(traj)[1]
        looked = [1] if self.level == "single" else [2] if self.level == "merged" else [1, 2]
        found = []
        for size in looked:
            spans = _spans(traj, torch.zeros(exists.shape, device=traj.device), exists, size, first_alone=True)
            probability = self._item_logits(self._ends_of(traj, spans)).sigmoid().to(traj.device)
            found.append(probability.new_zeros(exists.shape).masked_scatter(exists, probability))
        return torch.stack(found).mean(0), exists

    def _item_logits(self, states: Float[Tensor, "M D"]) -> Float[Tensor, " M"]:
        return self.head(states.to(self.head.weight))[:, 0]

    def _ends_of(self, traj: Trajectories, spans: Spans) -> Float[Tensor, "M D"]:
        """The states before and after every stretch, side by side; rows are read once each."""
        rows, which = spans.row.unique(return_inverse=True)
        parts: list[Tensor] = []
        order: list[Tensor] = []
        for some in torch.arange(len(rows), device=traj.device).split(self.batch_size):
            hidden = self.backbone.evaluate(traj.select(rows[some]), HIDDEN).more["hidden"]
            here = ((which >= some[0]) & (which <= some[-1])).nonzero()[:, 0]
            row = (which[here] - some[0]).to(hidden.device)
            begin, end = spans.begin[here].to(hidden.device), spans.end[here].to(hidden.device)
            parts.append(torch.cat([hidden[row, begin], hidden[row, end]], 1))
            order.append(here)
        return torch.cat(parts)[torch.cat(order).argsort().to(parts[0].device)]


def _spans(
    traj: Trajectories, labels: Float[Tensor, "N S"], known: Bool[Tensor, "N S"], size: int, *, first_alone: bool = False
) -> Spans:
    """The known steps, each with the `size` - 1 before it; those without enough before them are left out, or begin at the start."""
    end, exists = step_ends(traj)
    after = functional.pad(end + 1, (1, 0))  # where step k begins is where step k - 1 ends; step 0 begins at 0
    number = torch.arange(exists.shape[1], device=traj.device)
    begin = after[:, (number + 1 - size).clamp(min=0)]
    use = known & exists & ((number >= size - 1) | first_alone)
    row = torch.arange(len(traj), device=traj.device)[:, None].expand(use.shape)
    return Spans(row[use], begin[use], (end + 1)[use], labels[use])
