"""What training works with: its settings, its parts, and how far it has come; checked before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from payoff.contents import Learner, learners, needs, read_now, recorded, sees
from payoff.measures import Metrics
from payoff.pipeline import Curriculum, Policy, Replay, Sampler, Selection, Shaping, Signal, Task, Term

GIVEN = frozenset({"old", "ref"})  # log-probabilities the loop itself provides; everything else the policy must offer


class TrainingError(Exception):
    """Training cannot go on, and why, in words for the person who started it."""


@dataclass(frozen=True)
class Settings:
    """How long and how training runs; nothing here is about rewards.

    starts, rollouts:  starts per update and rollouts of each (the group size)
    epochs, minibatches: passes over a batch, and optimiser steps in a pass; gradients of a step are exact however large
    rounds:            while selections leave fewer groups than `starts`, so many rounds of rollouts at most (dynamic sampling)
    microbatch:        rollouts in one forward and backward pass (0: all of the minibatch)
    max_invalid:       the run stops when a larger share of a batch has no verdict
    """

    updates: int = 100
    starts: int = 4
    rollouts: int = 4
    rounds: int = 1
    epochs: int = 1
    minibatches: int = 1
    microbatch: int = 0
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    seed: int = 0
    evaluate_every: int = 10
    evaluation_starts: int = 256
    checkpoint_every: int = 10
    sampled_rollouts: int = 16
    continuations: int = 0
    max_invalid: float = 0.5


@dataclass(frozen=True)
class Parts:
    """What is trained and on what: the whole of a run but its settings."""

    policy: Any
    task: Task
    signal: Signal
    terms: Mapping[str, Term]
    shapings: Sequence[Shaping] = ()
    selections: Sequence[Selection] = ()
    reference: Policy | None = None
    curriculum: Curriculum | None = None
    sampler: Sampler | None = None
    replay: Replay | None = None

    @property
    def before_terms(self) -> Sequence[Any]:
        """Everything that works on rollouts before the terms do."""
        asked = [part for part in (self.curriculum, self.sampler, self.replay) if part is not None]
        return [self.signal, *self.shapings, *self.selections, *asked]

    @cached_property
    def read_before(self) -> frozenset[str]:
        """What is recorded of every rollout: what is read before any loss, and what losses want kept of the policy that acted.

        A curriculum and a sampler work before there is a rollout to record anything of, and ask the policy themselves.
        """
        targets = [term.target for term in self.terms.values()]
        return needs([self.signal, *self.shapings, *self.selections, self.replay, *targets]) | recorded(needs(self._losses))

    @cached_property
    def read_by_losses(self) -> frozenset[str]:
        """What the losses read of the policy as it is when they are computed."""
        return read_now(needs(self._losses))

    @property
    def _losses(self) -> Sequence[Any]:
        return [term.loss for term in self.terms.values()]

    @cached_property
    def learners(self) -> Sequence[Learner]:
        """The parts that learn from every batch, besides the policy."""
        return learners([*self.before_terms, *(term.target for term in self.terms.values()), *self._losses])


@dataclass
class Progress:
    """Everything that changes while training and must survive being killed."""

    update: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    rng: torch.Generator = field(default_factory=torch.Generator)
    optimiser: torch.optim.Optimizer = None  # type: ignore[assignment]  # made by `train`
    history: list[Metrics] = field(default_factory=list)


def check_needs(parts: Parts) -> None:
    """Raise ValueError naming every part that needs what no policy here offers; nothing has been spent yet."""
    offered = parts.policy.offers | {"old"} | ({"ref"} if parts.reference is not None else set())
    named: dict[str, list[Any]] = {f"term {name!r}": [t.target, t.loss, t.aggregation] for name, t in parts.terms.items()}
    named |= {"reward": [parts.signal], "shaping": list(parts.shapings), "selection": list(parts.selections)}
    named |= {"curriculum": [parts.curriculum], "sampler": [parts.sampler], "replay": [parts.replay]}
    wanted = {place: read_now(names) | recorded(names) for place, names in ((p, needs(some)) for p, some in named.items())}
    faults = [f"{place} needs {sorted(lacking)}" for place, names in wanted.items() if (lacking := names - offered)]
    if faults:
        hint = '; add critic: true to the policy for "values"' if any("values" in fault for fault in faults) else ""
        raise ValueError(f"{'; '.join(faults)}, and this policy offers {sorted(offered)}{hint}")


def check_settings(settings: Settings, parts: Parts) -> None:
    """Raise ValueError for numbers that make no sense together."""
    for name in ("updates", "starts", "rollouts", "rounds", "epochs", "minibatches"):
        if getattr(settings, name) < 1:
            raise ValueError(f"train.{name} must be at least 1, got {getattr(settings, name)}")
    if settings.minibatches > settings.starts * settings.rollouts:
        batch = settings.starts * settings.rollouts
        raise ValueError(f"train.minibatches is {settings.minibatches}, more than the {batch} rollouts of an update")
    if settings.continuations == 1:
        raise ValueError("evaluate.continuations is 1, and one continuation has no error to state; 0 for none, or at least 2")
    if settings.continuations and not hasattr(parts.policy, "resume"):
        raise ValueError("evaluate.continuations: this policy cannot go on from the middle of a rollout; set it to 0")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"train.learning_rate must be positive, got {settings.learning_rate}")
    if settings.rollouts < 2:
        grouped = [t.target for t in parts.terms.values() if sees(t.target) == "group"]
        if grouped:
            raise ValueError("train.rollouts is 1, and a part of `terms` compares rollouts of the same start; it needs at least 2")
