"""Rewards for stored rows, and whether a reward holds what it promises: `score_rows` and `validate`.

Plain data in and out. A mistake in what is asked for is a `RewardError`, one in the rows a `RowError`, each of one line.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from payoff.contents import needs, part_name, sees
from payoff.grading import GraderError, MissingFieldError
from payoff.pipeline import Signal, checked_rewards
from payoff.probes import PROBES, Case, probes_of, same_answer
from payoff.rewards import RewardError, as_signal, one_line, resolve_reward
from payoff.rows import RECORDED, Row, RowError, from_rows, group_key
from payoff.trajectories import Channel, Trajectories, fresh_ids, outcome, per_step
from payoff.validation import GOLD, Attempt, Bounds, ValidationReport, judge

# --- scores


class Scores(NamedTuple):
    """What one row was given, by channel: a number or None where there is no verdict, why not, and the numbers of its steps."""

    reward: dict[str, float | None]
    reason: dict[str, str]
    steps: dict[str, list[float | None]]


def score_rows(
    rows: Iterable[Mapping[str, Any]], signal: Signal, *, batch_size: int = 4096, adjacent: bool = False, source: str = ""
) -> Iterator[Row]:
    """Every row with what the signal gives it, in the order they came.

    `reward` is {channel: number}, the sum of all that is paid, None where there is no verdict; `reason` is {channel: why not};
    where a channel pays elsewhere than at the end, `reward_steps` is {channel: [number of each step]}. A `reward` that a row has
    already is kept beside the new ones: channels by their names, a single number as the channel "reward".

    adjacent: rows of a group stand together. A signal that sees groups finds them by the field `group`, else by the prompt; unless
              they are adjacent it needs all rows in memory, as one that sees the batch always does. Others stream.
    source:   what errors call the rows

    Raises RowError for a row that cannot be read or lacks what the signal reads, for a group that is not adjacent after all.

    >>> def length(response): return len(response)
    >>> from payoff.grading import signal
    >>> next(score_rows([{"response": "abc"}], signal(length)))
    {'response': 'abc', 'reward': {'length': 3.0}, 'reason': {}}
    """
    if batch_size < 1:
        raise ValueError(f"score_rows: batch_size must be at least 1, got {batch_size}")
    by_steps: set[str] = set()
    scope = sees(signal)
    if scope == "item" or (scope == "group" and adjacent):
        for first, batch in _batches(rows, batch_size, scope, source):
            traj = from_rows(batch, source=source, first=first + 1)
            yield from map(_scored, batch, _score(traj, signal, by_steps, source))
        return
    kept = list(rows)
    if not kept:
        return
    traj = from_rows(kept, source=source)
    results: dict[int, Scores] = {}
    for numbers in _whole_groups(kept, batch_size) if scope == "group" else [list(range(len(kept)))]:
        results.update(zip(numbers, _score(traj.select(torch.tensor(numbers)), signal, by_steps, source), strict=True))
    yield from (_scored(row, results[k]) for k, row in enumerate(kept))


def _batches(
    rows: Iterable[Mapping[str, Any]], size: int, scope: str, source: str
) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """Rows in batches with the number of the first (from 0), cut anywhere or only between groups."""
    batch: list[Mapping[str, Any]] = []
    first, last, seen = 0, object(), set()
    for number, row in enumerate(rows):
        key = (group_key(row) or number) if scope == "group" else number
        if len(batch) >= size and key != last:
            yield first, batch
            batch, first = [], number
        if scope == "group" and key != last:
            if key in seen:
                raise RowError(f"{source} row {number + 1}: its group was met before, so groups are not adjacent".strip())
            seen.add(key)
        last = key
        batch.append(row)
    if batch:
        yield first, batch


def _whole_groups(rows: Sequence[Mapping[str, Any]], size: int) -> Iterator[list[int]]:
    """Row numbers, in batches of whole groups."""
    members: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        members.setdefault(group_key(row) or number, []).append(number)
    batch: list[int] = []
    for numbers in members.values():
        if batch and len(batch) + len(numbers) > size:
            yield batch
            batch = []
        batch += numbers
    if batch:
        yield batch


def _score(traj: Trajectories, signal: Signal, by_steps: set[str], source: str) -> list[Scores]:
    """What each trajectory is given; `by_steps` collects the channels that pay elsewhere than at the end."""
    if traj.parent is None and len(traj.id.unique()) < len(traj):  # rows of several runs: reasons are told apart by id
        traj = traj.replace(id=fresh_ids(len(traj)))
    lost = sorted(needs(signal) - set(traj.logp) - set(traj.extras))
    if lost:
        raise RowError(f"{source or 'rows'}: reward {part_name(signal)!r} reads {', '.join(lost)}, which these rows do not record")
    try:
        rewards = checked_rewards(part_name(signal), signal(traj), traj)
    except MissingFieldError as error:
        raise RowError(f"{source or 'rows'}: {error}") from None
    except (RewardError, RowError):
        raise
    except (GraderError, ValueError) as error:  # what signals raise where they cannot be asked this way, or of rows
        raise RewardError(f"reward {part_name(signal)!r}: {one_line(error)}") from error
    by_steps |= {name for name, channel in rewards.items() if _pays_before_end(channel, traj)}
    numbers = {name: _numbers(*outcome(channel, traj)) for name, channel in rewards.items()}
    steps = {name: _steps(rewards[name], traj) for name in by_steps & set(rewards)}
    reasons: list[dict[str, str]] = [{} for _ in range(len(traj))]
    for name, channel in rewards.items():
        if channel.reasons:
            for why, id in zip(reasons, traj.id.tolist(), strict=True):
                if id in channel.reasons:
                    why[name] = channel.reasons[id]
    return [
        Scores(dict(zip(numbers, row, strict=True)), why, dict(zip(steps, by_step, strict=True)))
        for row, why, by_step in zip(_across(numbers, len(traj)), reasons, _across(steps, len(traj)), strict=True)
    ]


def _across(columns: Mapping[str, Sequence[Any]], n: int) -> Iterable[tuple[Any, ...]]:
    """The n rows of some columns, also of none."""
    return zip(*columns.values(), strict=True) if columns else itertools.repeat((), n)


def _pays_before_end(channel: Channel, traj: Trajectories) -> bool:
    before = traj.exists & (torch.arange(traj.width, device=traj.device) < traj.length[:, None] - 1)
    return bool((before & (~channel.valid | (channel.value != 0))).any())


def _steps(channel: Channel, traj: Trajectories) -> list[list[float | None]]:
    value, exists, valid = per_step(channel, traj)
    rows = zip(_numbers(value.flatten(), valid.flatten(), value.shape[1]), exists.sum(1).tolist(), strict=True)
    return [numbers[:count] for numbers, count in rows]


def _numbers(value: torch.Tensor, valid: torch.Tensor, width: int | None = None) -> list[Any]:
    """Plain numbers, None where invalid; those of float32 with the fewest digits that mean the same float32."""
    array = value.detach().cpu().numpy()
    plain = array.tolist() if array.dtype == np.float64 else [float(text) for text in array.astype(str).tolist()]
    known = [number if ok else None for number, ok in zip(plain, valid.tolist(), strict=True)]
    return known if width is None else [known[a : a + width] for a in range(0, len(known), width)]


def _scored(row: Mapping[str, Any], scores: Scores) -> Row:
    before = row.get("reward")
    kept = before if isinstance(before, Mapping) else {} if before is None else {"reward": before}
    told = row.get("reason")
    reasons = {name: why for name, why in told.items() if name not in scores.reward} if isinstance(told, Mapping) else {}
    scored = {**row, "reward": {**kept, **scores.reward}, "reason": {**reasons, **scores.reason}}
    if scores.steps:
        scored["reward_steps"] = {**(row.get("reward_steps") or {}), **scores.steps}
    return scored


# --- whether a reward can be trusted with right answers and junk


def validate(
    signal: Signal,
    rows: Iterable[Mapping[str, Any]],
    *,
    gold_field: str = "reference",
    template: str | Callable[[str, Mapping[str, Any]], str] = "{reference}",
    channel: str | None = None,
    bounds: Bounds | None = None,
    limit: int = 200,
    seed: int = 0,
    source: str = "",
) -> ValidationReport:
    """Put right answers and answers that deserve nothing before a reward: the right ones must score 1, all others 0.

    For each of the first `limit` rows: its right answer, from `gold_field` (of a list, the first), and every probe of
    `payoff.probes.PROBES` that can be made from it: nothing, junk, the prompt, wrong answers, the right answer among wrong ones ...
    They form one group, for signals that see groups.

    template: how an answer is phrased as a response: text in which {reference} stands for the answer and {field} for a field of the
              row, such as "\\boxed{{reference}}"; or a function of answer and row
    channel:  which channel is meant, where the signal gives several
    bounds:   other scores and shares to ask for

    Raises RowError where no row has the gold field, RewardError where the channel is missing or not named.

    >>> from payoff.grading import signal
    >>> def contains(response, reference): return reference in response
    >>> rows = [{"prompt": f"{k}+1=", "reference": str(k + 1)} for k in range(20)]
    >>> report = validate(signal(contains), rows)
    >>> report.verdict, report.refused.value, report.paid.value
    ('fails', 0.0, 1.0)
    """
    kept = list(itertools.islice(rows, limit))
    if not kept:
        raise RowError(f"{source or 'validate'}: no rows")
    golds = [_text(row.get(gold_field)) for row in kept]
    if not any(gold is not None for gold in golds):
        has = ", ".join(name for name in kept[0] if name not in RECORDED)
        raise RowError(f"{source or 'rows'}: no row has a right answer under {gold_field!r}; the first row has: {has}")
    put, asked = [], []
    for k, row in enumerate(kept):
        for probe, text in _answers(row, k, golds, template, seed):
            reference, prompt = golds[k], _text(row.get("prompt")) or ""
            put.append(Attempt(k + 1, probe, prompt, reference, text, None))
            own = {name: value for name, value in row.items() if name not in (*RECORDED, "reward", "reason")}
            asked.append({**own, "response": text, "group": k} | ({"steps": [text]} if "steps" in row else {}))
    name = part_name(signal)
    attempts = []
    for attempt, row in zip(put, score_rows(asked, signal, adjacent=True, source=source), strict=True):
        chosen = _chosen(channel, list(row["reward"]), name)
        attempts.append(attempt._replace(reward=row["reward"].get(chosen), reason=row["reason"].get(chosen, "")))
    what = {GOLD: "the right answer"} | {probe.name: probe.what for probe in PROBES}
    return judge(name, chosen, attempts, bounds or Bounds(), what=what)


def _answers(row: Mapping[str, Any], k: int, golds: Sequence[str | None], template: Any, seed: int) -> Iterator[tuple[str, str]]:
    """(probe, response) for one row, the right answer first where there is one."""
    gold = golds[k]
    others = dict.fromkeys(g for g in (*golds[k + 1 :], *golds[:k]) if g is not None and not (gold and same_answer(g, gold)))
    phrase = functools.partial(_phrase, template, row)
    case = Case(_text(row.get("prompt")) or "", gold, list(itertools.islice(others, 9)), phrase, random.Random(f"{seed} {k}"))
    if gold is not None:
        yield GOLD, phrase(gold)
    yield from ((probe.name, text) for probe, text in probes_of(case))


def _phrase(template: Any, row: Mapping[str, Any], answer: str) -> str:
    if callable(template):
        return template(answer, row)
    fill = lambda match: answer if match[1] == "reference" else _text(row.get(match[1])) or match[0]
    return re.sub(r"\{(\w+)\}", fill, template)


def _text(value: Any) -> str | None:
    """A field as the text of an answer or a prompt; of a list its first answer, of a conversation its last message."""
    if isinstance(value, list | tuple) and value:
        value = value[-1].get("content") if isinstance(value[-1], Mapping) else value[0]
    if value is None or value == "" or value == []:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _chosen(channel: str | None, there: Sequence[str], name: str) -> str:
    if channel is None and len(there) == 1:
        return there[0]
    if channel is None:
        raise RewardError(f"reward {name!r} gives several channels, {', '.join(there)}: say which one is validated")
    if channel not in there:
        raise RewardError(f"reward {name!r} gives no channel {channel!r}; it gives: {', '.join(there)}")
    return channel


__all__ = ["RewardError", "Scores", "as_signal", "resolve_reward", "score_rows", "validate"]
