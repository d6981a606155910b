"""The one loop: update after update, evaluation, checkpoints; the same for every kind of policy.

It is handed everything it works with and imports no method, no policy and no task.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from payoff.checkpoints import load_checkpoint, save_checkpoint
from payoff.measures import Metrics, mean_of_known
from payoff.parts import Parts, Progress, Settings, check_needs, check_settings
from payoff.pipeline import Start, Task
from payoff.trajectories import log_ratio, outcome
from payoff.update import Batch, update

KL_ROLLOUTS = 64  # of an evaluation, on which the distance from the start is measured: its own forward pass is not free


def train(
    parts: Parts,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_rollouts: Callable[[str, Batch], Metrics] = lambda phase, batch: {},
    on_resume: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train `parts.policy` until `settings.updates`, continuing from `checkpoint` where that file exists.

    on_update gets the metrics of every update (index 0 is the untouched policy, evaluated); on_rollouts gets the batches at
    the start, the middle and the end before anything learns from them, and may add metrics; stop is asked after every update.
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
        look = [functools.partial(on_rollouts, sampled[number])] if number in sampled else []
        _, metrics = update(parts, settings, progress, *look)
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


def _state_of(parts: Parts) -> list[nn.Module]:
    """The policy, then every other part that carries state, in a fixed order."""
    asked = [parts.curriculum, parts.sampler, parts.replay]
    others = [
        parts.signal,
        *parts.shapings,
        *parts.selections,
        *(x for t in parts.terms.values() for x in t[:3]),
        parts.task,
        *asked,
    ]
    return [parts.policy, *(part for part in others if isinstance(part, nn.Module))]


def _record(progress: Progress, metrics: Metrics, on_update: Callable[[Metrics], None]) -> None:
    progress.history.append(metrics)
    on_update(metrics)


def _held_out(task: Task, n: int) -> Sequence[Start]:
    """The task's held-out starts, or where it keeps none, starts from a generator of their own."""
    held_out = getattr(task, "held_out_starts", None)
    return held_out(n) if held_out is not None else task.starts(n, torch.Generator().manual_seed(2**31 - 1))
