"""The one loop: rollout, annotate, score, shape, select, weigh, update, learn, evaluate; the same for every kind of policy.

It is handed everything it works with and imports no method, no policy and no task.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from payoff.checkpoints import load_checkpoint, save_checkpoint
from payoff.measures import Metrics, describe, mean_of_known
from payoff.pipeline import (
    Learner,
    NonFiniteError,
    Policy,
    Selection,
    Shaping,
    Signal,
    Start,
    Task,
    Term,
    checked,
    checked_rewards,
    learners,
    needs,
    part_name,
    sees,
)
from payoff.trajectories import Channel, Pairs, Rewards, Trajectories, constant, log_ratio, outcome

KL_ROLLOUTS = 64  # of an evaluation, on which the distance from the start is measured: its own forward pass is not free
GIVEN = frozenset({"old", "ref"})  # log-probabilities the loop itself provides; everything else the policy must offer


class TrainingError(Exception):
    """Training cannot go on, and why, in words for the person who started it."""


@dataclass(frozen=True)
class Settings:
    """How long and how training runs; nothing here is about rewards.

    starts, rollouts:  starts per update and rollouts of each (the group size)
    epochs, minibatches: passes over a batch, and optimiser steps in a pass; gradients of a step are exact however large
    microbatch:        rollouts in one forward and backward pass (0: all of the minibatch)
    max_invalid:       the run stops when a larger share of a batch has no verdict
    """

    updates: int = 100
    starts: int = 4
    rollouts: int = 4
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

    @cached_property
    def read_before(self) -> frozenset[str]:
        """What is read before any loss: by signals, shapings, selections and targets."""
        return needs([self.signal, *self.shapings, *self.selections, *(term.target for term in self.terms.values())])

    @cached_property
    def read_by_losses(self) -> frozenset[str]:
        """What the losses read."""
        return needs([term.loss for term in self.terms.values()])

    @cached_property
    def learners(self) -> Sequence[Learner]:
        """The reward parts that learn."""
        return learners([self.signal, *self.shapings])


class Batch(NamedTuple):
    """What one update was trained on: the selected rollouts, their shaped rewards, what was collected, and each term's target."""

    traj: Trajectories
    rewards: Rewards
    own: Channel
    targets: Mapping[str, Channel | Pairs]
    update: int


@dataclass
class Progress:
    """Everything that changes while training and must survive being killed."""

    update: int = 0
    rollouts: int = 0
    seconds: float = 0.0
    rng: torch.Generator = field(default_factory=torch.Generator)
    optimiser: torch.optim.Optimizer = None  # type: ignore[assignment]  # made by `train`
    history: list[Metrics] = field(default_factory=list)


def train(
    parts: Parts,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_rollouts: Callable[[str, Batch], None] = lambda phase, batch: None,
    on_resume: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train `parts.policy` until `settings.updates`, continuing from `checkpoint` where that file exists.

    on_update gets the metrics of every update (index 0 is the untouched policy, evaluated); on_rollouts gets the batches at
    the start, the middle and the end; stop is asked after every update.
    On a CPU a run that is killed and resumed ends bit for bit where an unbroken one ends.

    Raises ValueError before the first rollout for a part that needs what nobody offers, or settings that make no sense;
    TrainingError for a batch mostly without verdict; NonFiniteError for NaN or infinity, before it reaches the weights.
    """
    check_settings(settings, parts)
    check_needs(parts)
    torch.manual_seed(settings.seed)
    progress = Progress()
    progress.rng.manual_seed(settings.seed)
    trained = [p for p in parts.policy.parameters() if p.requires_grad]
    progress.optimiser = torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, _state_of(parts), progress)
        on_resume(progress)
    else:
        start = time.perf_counter()
        first = {"update": 0, "rollouts": 0, **evaluate(parts, settings, 0)}
        progress.seconds += time.perf_counter() - start
        _record(progress, {**first, "seconds": progress.seconds}, on_update)
    sampled = {1: "start", (settings.updates + 1) // 2: "middle", settings.updates: "end"}
    while progress.update < settings.updates and not stop():
        start = time.perf_counter()
        number = progress.update + 1
        batch, metrics = update(parts, settings, progress)
        if number in sampled:
            on_rollouts(sampled[number], batch)
        progress.update = number
        last = number == settings.updates
        if last or (settings.evaluate_every and number % settings.evaluate_every == 0):
            metrics |= evaluate(parts, settings, number)
        progress.seconds += time.perf_counter() - start
        metrics = {"update": number, "rollouts": progress.rollouts, "seconds": progress.seconds, **metrics}
        _record(progress, metrics, on_update)
        if checkpoint is not None and (last or number % settings.checkpoint_every == 0 or stop()):
            save_checkpoint(checkpoint, _state_of(parts), progress)
    return progress


def update(parts: Parts, settings: Settings, progress: Progress) -> tuple[Batch, Metrics]:
    """One batch: rollouts, rewards, targets, optimiser steps, learning parts."""
    seconds = _Clock()
    starts = parts.task.starts(settings.starts, progress.rng)
    traj = parts.policy.rollout(starts, settings.rollouts, progress.rng).check()
    traj = annotate(traj, parts)
    progress.rollouts += len(traj)
    seconds("rollout")
    scored = checked_rewards(part_name(parts.signal), parts.signal(traj), traj)
    metrics: Metrics = {}
    learning = [part for part in parts.learners if part.training]
    if first := [part for part in learning if getattr(part, "learns_first", False)]:
        for part in first:
            metrics |= part.learn(traj, scored)
        scored = checked_rewards(part_name(parts.signal), parts.signal(traj), traj)
    rewards = scored
    for shaping in parts.shapings:
        rewards = checked_rewards(part_name(shaping), shaping(rewards, traj), traj)
    own = own_reward(parts, rewards, traj)
    truth = parts.task.truth(traj)
    metrics |= describe(traj, rewards, own, truth)
    _stop_if_invalid(own, traj, settings)
    seconds("score")
    kept, kept_rewards = traj, rewards
    for selection in parts.selections:
        rows = selection(kept_rewards, kept)
        kept, kept_rewards = kept.select(rows), select_rewards(kept_rewards, rows, kept)
    metrics["selected"] = len(kept)
    targets: dict[str, Channel | Pairs] = {}
    if len(kept):
        targets = {name: _target(name, term, kept_rewards, kept) for name, term in parts.terms.items()}
        seconds("weigh")
        metrics |= optimise(parts, settings, progress, kept, targets)
        seconds("optimise")
    for part in learning:
        if not getattr(part, "learns_first", False):
            metrics |= part.learn(traj, scored)
    seconds("learn")
    metrics |= {f"seconds/{name}": value for name, value in seconds.spent.items()}
    kept_own = own if kept is traj else own_reward(parts, kept_rewards, kept)
    return Batch(kept, kept_rewards, kept_own, targets, progress.update + 1), metrics


def optimise(
    parts: Parts, settings: Settings, progress: Progress, traj: Trajectories, targets: Mapping[str, Channel | Pairs]
) -> Metrics:
    """Epochs of minibatch steps. Targets and weights are those of the whole batch, so that how it is cut changes no gradient."""
    weights = {name: term.aggregation(targets[name], traj) for name, term in parts.terms.items()}
    want = parts.read_by_losses - GIVEN
    together = any(isinstance(t, Pairs) for t in targets.values()) or any(sees(t.loss) != "item" for t in parts.terms.values())
    trained = [p for group in progress.optimiser.param_groups for p in group["params"]]
    totals: defaultdict[str, float] = defaultdict(float)
    steps = 0
    for _ in range(settings.epochs):
        cuts = list(_cuts(traj, settings.minibatches, together, progress.rng))
        for rows in cuts:
            progress.optimiser.zero_grad(set_to_none=True)
            size = settings.microbatch if settings.microbatch and not together else len(rows)
            for some in rows.split(size):
                part = traj.select(some)
                evaluation = parts.policy.evaluate(part, want)
                loss = torch.zeros((), device=part.device)
                for name, term in parts.terms.items():
                    target, weight = _cut_target(targets[name], weights[name], some, part, len(traj))
                    output = term.loss(evaluation, part, target)
                    value = (output.terms * weight).sum() * len(cuts)
                    _finite(f"loss {name!r}", value, output.terms, part)
                    loss = loss + term.weight * value
                    totals[f"loss/{name}"] += float(value.detach())
                    for metric, number in output.metrics.items():
                        totals[f"{name}/{metric}"] += number * len(some) / len(rows)
                loss.backward()
                totals["loss"] += float(loss.detach())
            norm = nn.utils.clip_grad_norm_(trained, settings.gradient_clip or math.inf)
            if not torch.isfinite(norm):
                raise TrainingError(f"the gradient is {float(norm)} at update {progress.update + 1}; the weights are untouched")
            progress.optimiser.step()
            totals["gradient_norm"] += float(norm)
            steps += 1
    return {name: value / steps for name, value in totals.items()}


def evaluate(parts: Parts, settings: Settings, number: int) -> Metrics:
    """Truth on held-out starts, one rollout each, and how far the policy has gone from where it started (nats per rollout)."""
    if not settings.evaluation_starts:
        return {}
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    starts = _held_out(parts.task, settings.evaluation_starts)
    with torch.no_grad():
        traj = parts.policy.rollout(starts, 1, rng)
        value, valid = outcome(parts.task.truth(traj), traj)
        metrics: Metrics = {"truth": mean_of_known(value, valid), "evaluation_length": float(traj.mask.sum(1).double().mean())}
        if parts.reference is not None:
            some = traj.select(torch.arange(min(KL_ROLLOUTS, len(traj))))
            away = log_ratio(some.logp["old"], parts.reference.evaluate(some).logp, some).double()
            metrics["kl"] = float(away.sum(1).mean())
        if (measure := getattr(parts.task, "measure", None)) is not None:
            metrics |= {f"truth/{name}": value for name, value in measure(parts.policy).items()}
    return metrics


def annotate(traj: Trajectories, parts: Parts) -> Trajectories:
    """Add what signals, selections and targets read: the reference's log-probabilities, and what the policy offers."""
    with torch.no_grad():
        if "ref" in parts.read_before | parts.read_by_losses:
            traj = traj.replace(logp={"ref": parts.reference.evaluate(traj).logp})  # type: ignore[union-attr]
        if mine := parts.read_before - GIVEN - set(traj.extras):
            more = parts.policy.evaluate(traj, mine).more
            traj = traj.replace(extras={name: more[name].detach() for name in mine})
    return traj


def own_reward(parts: Parts, rewards: Rewards, traj: Trajectories) -> Channel:
    """What the first term asks the policy to collect, one number per trajectory; the sum of all channels where it does not say."""
    asks = getattr(next(iter(parts.terms.values())).target, "own_reward", None)
    if asks is not None:
        return checked("own reward", asks(rewards, traj), traj)
    paid = [outcome(channel, traj) for channel in rewards.values()]
    valid = torch.stack([v for _, v in paid]).all(0)
    return constant(torch.where(valid, torch.stack([x for x, _ in paid]).sum(0), 0), valid)


def check_needs(parts: Parts) -> None:
    """Raise ValueError naming every part that needs what no policy here offers; nothing has been spent yet."""
    offered = parts.policy.offers | {"old"} | ({"ref"} if parts.reference is not None else set())
    named = {f"term {name!r}": [t.target, t.loss, t.aggregation] for name, t in parts.terms.items()}
    named |= {"reward": [parts.signal], "shaping": list(parts.shapings), "selection": list(parts.selections)}
    faults = [f"{place} needs {sorted(lacking)}" for place, some in named.items() if (lacking := needs(some) - offered)]
    if faults:
        hint = '; add critic: true to the policy for "values"' if any("values" in fault for fault in faults) else ""
        raise ValueError(f"{'; '.join(faults)}, and this policy offers {sorted(offered)}{hint}")


def check_settings(settings: Settings, parts: Parts) -> None:
    """Raise ValueError for numbers that make no sense together."""
    for name in ("updates", "starts", "rollouts", "epochs", "minibatches"):
        if getattr(settings, name) < 1:
            raise ValueError(f"train.{name} must be at least 1, got {getattr(settings, name)}")
    if settings.minibatches > settings.starts * settings.rollouts:
        batch = settings.starts * settings.rollouts
        raise ValueError(f"train.minibatches is {settings.minibatches}, more than the {batch} rollouts of an update")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"train.learning_rate must be positive, got {settings.learning_rate}")
    if settings.rollouts < 2:
        grouped = [t.target for t in parts.terms.values() if sees(t.target) == "group"]
        if grouped:
            raise ValueError("train.rollouts is 1, and a part of `terms` compares rollouts of the same start; it needs at least 2")


def select_rewards(rewards: Rewards, rows: Tensor, traj: Trajectories) -> Rewards:
    """The rewards of the selected rows, trimmed as `Trajectories.select` trims."""
    width = int(traj.length[rows].max()) if len(rows) else 1
    return {name: Channel(c.value[rows, :width], c.valid[rows, :width], c.reasons) for name, c in rewards.items()}


# --- pieces of an update


def _state_of(parts: Parts) -> list[nn.Module]:
    """The policy, then every other part that carries state, in a fixed order."""
    others = [parts.signal, *parts.shapings, *parts.selections, *(x for t in parts.terms.values() for x in t[:3]), parts.task]
    return [parts.policy, *(part for part in others if isinstance(part, nn.Module))]


class _Clock:
    """Seconds spent between one call and the next, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.spent[name], self.last = self.spent.get(name, 0.0) + now - self.last, now


def _record(progress: Progress, metrics: Metrics, on_update: Callable[[Metrics], None]) -> None:
    progress.history.append(metrics)
    on_update(metrics)


def _held_out(task: Task, n: int) -> Sequence[Start]:
    """The task's held-out starts, or where it keeps none, starts from a generator of their own."""
    held_out = getattr(task, "held_out_starts", None)
    return held_out(n) if held_out is not None else task.starts(n, torch.Generator().manual_seed(2**31 - 1))


def _target(name: str, term: Term, rewards: Rewards, traj: Trajectories) -> Channel | Pairs:
    target = term.target(rewards, traj)
    return target if isinstance(target, Pairs) else checked(f"target of {name!r}", target, traj)


def _cuts(traj: Trajectories, count: int, together: bool, rng: torch.Generator) -> Iterator[Tensor]:
    """Rows of each minibatch, in a fresh random order; whole groups where a loss compares rows."""
    if count == 1:
        yield torch.arange(len(traj))
    elif not together:
        yield from torch.randperm(len(traj), generator=rng).tensor_split(count)
    else:
        groups = traj.group.unique()
        for some in groups[torch.randperm(len(groups), generator=rng)].tensor_split(count):
            if len(some):
                yield torch.isin(traj.group, some).nonzero().squeeze(1)


def _cut_target(
    target: Channel | Pairs, weight: Tensor, rows: Tensor, part: Trajectories, size: int
) -> tuple[Channel | Pairs, Tensor]:
    """A target and its weights for some rows of the batch."""
    if isinstance(target, Channel):
        cut = Channel(target.value[rows, : part.width], target.valid[rows, : part.width], target.reasons)
        return cut, weight[rows] if weight.ndim == 1 else weight[rows, : part.width]
    place = torch.full((size,), -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    index = place[target.index]
    here = (index >= 0).all(1)
    return Pairs(index[here], target.label[here], target.weight[here]), weight[here]


def _finite(name: str, value: Tensor, terms: Tensor, traj: Trajectories) -> None:
    if torch.isfinite(value):
        return
    bad = (~torch.isfinite(terms.detach())).reshape(len(terms), -1).any(1).nonzero()
    row = int(bad[0]) if len(bad) and len(terms) == len(traj) else 0
    raise NonFiniteError(name, int(traj.id[row]), float(value.detach()))


def _stop_if_invalid(own: Channel, traj: Trajectories, settings: Settings) -> None:
    invalid = int((~own.valid).sum())
    if invalid > settings.max_invalid * len(traj):
        reasons = Counter(own.reasons.get(id, "no reason given") for id in traj.id[~own.valid[:, 0]].tolist())
        told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise TrainingError(
            f"{invalid} of {len(traj)} rollouts have no verdict ({told}); the run stops past a share of "
            f"train.max_invalid = {settings.max_invalid}"
        )
