"""One update: rollout, annotate, score, shape, select, weigh, optimise, learn; the same for every kind of policy."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from payoff.contents import part_name, sees
from payoff.measures import Metrics, describe
from payoff.parts import GIVEN, Parts, Progress, Settings, TrainingError
from payoff.pipeline import NonFiniteError, Term, checked, checked_rewards, concatenate_rewards
from payoff.trajectories import Channel, Pairs, Rewards, Trajectories, concatenate, constant, outcome


class Batch(NamedTuple):
    """What one update was trained on: the selected rollouts, their shaped rewards, what was collected, and each term's target."""

    traj: Trajectories
    rewards: Rewards
    own: Channel
    targets: Mapping[str, Channel | Pairs]
    update: int


class Round(NamedTuple):
    """Rollouts from one set of starts: what the signals said, what shaping made of it, and the rows that selections kept."""

    traj: Trajectories
    scored: Rewards
    rewards: Rewards
    kept: Trajectories
    kept_rewards: Rewards

    @property
    def groups(self) -> int:
        return len(self.kept.group.unique())


def update(
    parts: Parts, settings: Settings, progress: Progress, look: Callable[[Batch], Metrics] = lambda batch: {}
) -> tuple[Batch, Metrics]:
    """One batch: rollouts, rewards, targets, a `look` before anything learns from it, optimiser steps, learning parts."""
    seconds, metrics = _Clock(), Metrics()
    rounds = [roll_out(parts, settings, progress, metrics, seconds)]
    while len(rounds) < settings.rounds and sum(r.groups for r in rounds) < settings.starts:
        rounds.append(roll_out(parts, settings, progress, metrics, seconds))
    traj, scored, rewards, kept, kept_rewards = rounds[0] if len(rounds) == 1 else _joined(rounds, settings.starts)
    if settings.rounds > 1:
        metrics["rounds"] = len(rounds)
    own = own_reward(parts, rewards, traj)
    metrics |= describe(traj, rewards, own, parts.task.truth(traj))
    _stop_if_invalid(own, traj, settings)
    seconds("score")
    metrics["selected"] = len(kept)
    if parts.replay is not None:
        fresh = len(kept)
        kept, kept_rewards = parts.replay(kept, kept_rewards, progress.rng)
        kept_rewards = checked_rewards(part_name(parts.replay), kept_rewards, kept.check())
        metrics["replayed"] = len(kept) - fresh
    targets: dict[str, Channel | Pairs] = {}
    if len(kept):
        targets = {name: _target(name, term, kept_rewards, kept) for name, term in parts.terms.items()}
        seconds("weigh")
    kept_own = own if kept is traj else own_reward(parts, kept_rewards, kept)
    batch = Batch(kept, kept_rewards, kept_own, targets, progress.update + 1)
    metrics |= look(batch)
    seconds("look")
    if targets:
        metrics |= optimise(parts, settings, progress, kept, targets)
        seconds("optimise")
    for part in parts.learners:
        if part.training and not getattr(part, "learns_first", False):
            metrics |= part.learn(traj, scored)
    seconds("learn")
    metrics |= {f"seconds/{name}": value for name, value in seconds.spent.items()}
    return batch, metrics


def roll_out(parts: Parts, settings: Settings, progress: Progress, metrics: Metrics, seconds: _Clock) -> Round:
    """Rollouts of a new set of starts, annotated, scored (parts that learn first have learnt from them), shaped and selected."""
    choose = parts.task.starts if parts.curriculum is None else functools.partial(parts.curriculum, parts.task)
    starts = choose(settings.starts, progress.rng)
    rollout = parts.policy.rollout if parts.sampler is None else functools.partial(parts.sampler, parts.policy)
    traj = annotate(rollout(starts, settings.rollouts, progress.rng).check(), parts)
    progress.rollouts += len(traj)
    seconds("rollout")
    scored = checked_rewards(part_name(parts.signal), parts.signal(traj), traj)
    if first := [part for part in parts.learners if part.training and getattr(part, "learns_first", False)]:
        for part in first:
            metrics |= part.learn(traj, scored)
        scored = checked_rewards(part_name(parts.signal), parts.signal(traj), traj)
    rewards = scored
    for shaping in parts.shapings:
        rewards = checked_rewards(part_name(shaping), shaping(rewards, traj), traj)
    kept, kept_rewards, kept_scored = traj, rewards, scored
    for selection in parts.selections:
        rows = selection({**kept_rewards, **kept_scored}, kept)  # by what was scored: shaping must not decide what is informative
        kept_rewards, kept_scored = (select_rewards(given, rows, kept) for given in (kept_rewards, kept_scored))
        kept = kept.select(rows)
    seconds("score")
    return Round(traj, scored, rewards, kept, kept_rewards)


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
                part = traj if len(cuts) == 1 and len(some) == len(traj) else traj.select(some)
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


def select_rewards(rewards: Rewards, rows: Tensor, traj: Trajectories) -> Rewards:
    """The rewards of the selected rows, trimmed as `Trajectories.select` trims."""
    width = int(traj.length[rows].max()) if len(rows) else 1
    return {name: Channel(c.value[rows, :width], c.valid[rows, :width], c.reasons) for name, c in rewards.items()}


# --- pieces of an update


def _joined(rounds: Sequence[Round], starts: int) -> Round:
    """All rounds as one; of what was kept, as many groups as an update has starts, the earliest."""
    kept = [r.kept for r in rounds if len(r.kept)] or [rounds[0].kept]
    kept_rewards = [r.kept_rewards for r in rounds if len(r.kept)] or [rounds[0].kept_rewards]
    rows, chosen = concatenate(kept), concatenate_rewards(kept_rewards, kept)
    groups = list(dict.fromkeys(rows.group.tolist()))[:starts]
    first = torch.isin(rows.group, torch.tensor(groups, dtype=rows.group.dtype, device=rows.device)).nonzero()
    trajectories = [r.traj for r in rounds]
    return Round(
        concatenate(trajectories),
        concatenate_rewards([r.scored for r in rounds], trajectories),
        concatenate_rewards([r.rewards for r in rounds], trajectories),
        rows.select(first.squeeze(1)),
        select_rewards(chosen, first.squeeze(1), rows),
    )


class _Clock:
    """Seconds spent between one call and the next, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.spent[name], self.last = self.spent.get(name, 0.0) + now - self.last, now


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
