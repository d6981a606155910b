"""Why did a reward give what it gave? A sentence for every row, of any reward, judged or not."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from payoff.arguments import units_of
from payoff.contents import sees
from payoff.grading import GraderSignal
from payoff.pipeline import Signal, Verdict
from payoff.rewards import as_signal, resolve_reward
from payoff.rows import Row, from_rows
from payoff.signals.reasons import what_was_read
from payoff.trajectories import Trajectories, outcome
from payoff.worker_process import explain as as_reason
from payoff.worker_process import reading, readings, visible

Number = float | None
_SHOWN = 60  # characters of a field


class Explained(NamedTuple):
    """What a row was given, None where there is no verdict, one per step or channel where it gives several; and why."""

    value: Number | list[Number] | dict[str, Any]
    reason: str


def explain(reward: str | Callable[..., Any], rows: Sequence[Mapping[str, Any]]) -> list[Explained]:
    """What a reward gives to each row, with a reason that a person can read: of what it judged as of what it did not.

    reward: the name of a registered grader or signal, a grader with its options bound by `functools.partial`, or one of your own
    rows:   as `payoff score` takes them; those of one `group`, or prompt, are seen together by what compares rollouts

    The reason is the reward's own where it gives one (the first test that failed, the instructions that are not followed, the parts
    of a sum); else its first line of explanation, what came out, the fields it has, and what it took from them. In this process,
    without deadlines: for looking at single rows, not for training. Raises RewardError for a reward that cannot be had.

    >>> explain("ifeval", [{"response": "a, b", "instructions": [{"id": "punctuation:no_comma"}]}])
    [Explained(value=0.0, reason='not followed: punctuation:no_comma')]
    >>> explain("cost", [{"cost": 3}])[0].reason[:56]
    '3 by "What the row says its rollout cost, as it is: a nu'
    >>> explain("answer-match", [{"response": "It is 8", "reference": None}])
    [Explained(value=None, reason='no reference to compare the answer with')]
    >>> explain("answer-match", [{"response": "Half of 14: the answer is 7 apples", "reference": "7"}])[0].reason[-36:]
    "read as the final answer: '7 apples'"
    """
    traj = from_rows(rows)
    signal = resolve_reward(reward) if isinstance(reward, str) else as_signal(reward, getattr(reward, "__name__", "reward"))
    if not isinstance(signal, GraderSignal):
        return _of_signal(signal, traj)
    plain = grader = signal.__wrapped__
    while isinstance(plain, functools.partial):
        plain = plain.func
    record = getattr(plain, "__method__", None)
    names = [
        p.name
        for p in inspect.signature(grader).parameters.values()
        if not (p.kind is p.KEYWORD_ONLY and p.default is not p.empty and record is not None)
    ]
    summary = record.summary if record is not None else (inspect.getdoc(plain) or "").split("\n")[0]
    options = signal.__wrapped__.keywords if isinstance(signal.__wrapped__, functools.partial) else {}
    found: list[Explained] = [Explained(None, "")] * len(traj)
    units = units_of(traj, signal.sees) if signal.sees != "item" else None
    for unit in units if units is not None else [[row] for row in range(len(traj))]:
        items = [_fields(traj, row, names) for row in unit]
        given = {name: [item.get(name) for item in items] for name in items[0]} if units is not None else items[0]
        for row, item, one in zip(unit, items, _answers(grader, given, None if units is None else len(unit)), strict=True):
            read = what_was_read(record.name, item, options) if record is not None else ""
            found[row] = _explained(one, item, summary, read)
    return found


def with_explanations(rows: Iterable[Row], reward: str, signal: Signal, *, batch_size: int = 512) -> Iterator[Row]:
    """Scored rows with `explain`'s reason in the field `explanation`; those of a reward that compares rows are held in memory.

    >>> from payoff.scoring import score_rows
    >>> signal = resolve_reward("ifeval")
    >>> rows = score_rows([{"response": "a, b", "instructions": [{"id": "punctuation:no_comma"}]}], signal)
    >>> [row["explanation"] for row in with_explanations(rows, "ifeval", signal)]
    ['not followed: punctuation:no_comma']
    """
    coming = iter(rows)
    while batch := list(itertools.islice(coming, batch_size if sees(signal) == "item" else None)):
        bare = [{name: value for name, value in row.items() if name not in ("reward", "reason", "reward_steps")} for row in batch]
        for row, found in zip(batch, explain(reward, bare), strict=True):
            yield {**row, "explanation": found.reason}


def _fields(traj: Trajectories, row: int, names: Sequence[str]) -> dict[str, Any]:
    item = {**traj.items[row], "item": traj.items[row], "id": int(traj.id[row])}
    return {name: item[name] for name in names if name in item}


def _answers(grader: Callable[..., Any], given: Mapping[str, Any], members: int | None) -> list[Any]:
    """One answer per row: as it came, or the reason why there is none."""
    try:
        said = grader(**given)
    except Exception as error:  # what a row makes a grader do is what there is to say about it
        return [as_reason(error)] * (members or 1)
    if members is None:
        return [said]
    several = readings(said, members)
    return [several] * members if isinstance(several, str) else several


def _explained(said: Any, item: Mapping[str, Any], summary: str, read: str) -> Explained:
    form = said if isinstance(said, str) else reading(said)
    if isinstance(form, str) and form != "no verdict":
        return Explained(None, form)
    if isinstance(said, Verdict) and said.reason:
        return Explained(_cleaned(form), said.reason)
    told = ", ".join(f"{name} {_shown(value)}" for name, value in item.items() if name not in ("item", "id"))
    return Explained(_cleaned(form), "; ".join(filter(None, [f'{_written(form)} by "{summary}"', told, read])))


def _cleaned(form: Any) -> Any:
    """Numbers, with None for whatever is none."""
    if isinstance(form, dict):
        return {name: _cleaned(one) for name, one in form.items()}
    if isinstance(form, list):
        return [_cleaned(one) for one in form]
    return form if isinstance(form, float) else None


def _written(form: Any) -> str:
    if isinstance(form, dict):
        return ", ".join(f"{name} {_written(one)}" for name, one in form.items())
    if isinstance(form, list):
        return "[" + ", ".join(map(_written, form)) + "]"
    return f"{form:.6g}" if isinstance(form, float) else "no verdict"


def _shown(value: Any) -> str:
    return visible(repr(value[:_SHOWN] if isinstance(value, str) else value), _SHOWN)


def _of_signal(signal: Any, traj: Trajectories) -> list[Explained]:
    """Of a signal of whole batches: each channel's outcome, its reason, or its first line."""
    rewards = signal(traj)
    ends = {name: outcome(channel, traj) for name, channel in rewards.items()}
    plain = signal.func if isinstance(signal, functools.partial) else signal
    summary = getattr(getattr(plain, "__method__", None), "summary", "") or (inspect.getdoc(plain) or "").split("\n")[0]
    found = []
    for row, id in enumerate(traj.id.tolist()):
        values = {name: float(value[row]) if bool(valid[row]) else None for name, (value, valid) in ends.items()}
        whys = [channel.reasons[id] for channel in rewards.values() if id in channel.reasons]
        told = "; ".join(dict.fromkeys(whys)) or f'{_written(values)} by "{summary}"'
        found.append(Explained(next(iter(values.values())) if len(values) == 1 else values, told))
    return found
