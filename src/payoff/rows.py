"""Rows as trajectories and back: stored prompts and responses, or whole recorded rollouts. `row_files` has the files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from payoff.row_files import Row, RowError, read_rows, write_rows
from payoff.trajectories import StopReason, Trajectories, fresh_ids, reserve_ids

RECORDED = ("tokens", "actions", "mask", "step", "logp", "extras", "stop", "parent", "fork", "id", "group", "own")


def from_rows(rows: Sequence[Mapping[str, Any]], *, source: str = "", first: int = 1) -> Trajectories:
    """Stored rows as trajectories.

    A row without `tokens` is text: one action, or one per entry of its list `steps`; nothing is recorded of these actions (they
    are -1). A row with `tokens` (or `actions`, where they are no ids) is a recorded trajectory, restored exactly: `mask`, `step`,
    `stop`, `id`, `group`, `parent`, `fork`, `logp` (by name, or one list meaning "old") and `extras` where they are given; else
    every action is the policy's own, in one step, finished. All other fields, and those under `own`, are the item.

    group: rows with the same `group` belong together; without it, rows with the same prompt. A whole number is kept as it is.
    source, first: what errors call the rows, and the number of the first. Raises RowError for fields that contradict one another.

    >>> traj = from_rows([{"prompt": "1+1=", "response": "2"}, {"prompt": "1+1=", "response": "a;b", "steps": ["a;", "b"]}])
    >>> traj.length.tolist(), bool(traj.group[0] == traj.group[1])
    ([1, 2], True)
    """
    read = [_Record(row, f"{source} row {first + i}".strip()) for i, row in enumerate(rows)]
    t = max((r.length for r in read), default=1)
    length = torch.tensor([r.length for r in read], dtype=torch.int64)
    position = torch.arange(t)
    exists = position < length[:, None]
    text = torch.tensor([r.actions is None for r in read], dtype=torch.bool)[:, None]
    mask, step = exists.clone(), torch.where(exists, torch.where(text, position, 0), -1).int()
    for i, r in enumerate(read):
        if r.mask is not None:
            mask[i, : r.length] = r.mask
        if r.step is not None:
            step[i, : r.length] = r.step
    logp = _named(read, "logp", lambda name: _padded([r.logp[name] for r in read], t))
    for name, values in logp.items():
        bad = (mask & ~(values <= 1e-6)).any(1).nonzero()
        if len(bad):
            raise RowError(f"{read[int(bad[0])].place}: a log-probability {name!r} of an action is missing or positive")
    extras = _named(read, "extras", lambda name: _extra(name, read, t))
    group = _groups(read)
    branched = any(r.parent is not None for r in read)
    return Trajectories(
        mask=mask,
        length=length,
        group=group,
        step=step,
        stop=torch.tensor([r.stop for r in read], dtype=torch.int64),
        actions=_actions_of(read, exists, text),
        logp=logp,
        id=_filled([r.id for r in read]),
        parent=torch.tensor([-1 if r.parent is None else r.parent for r in read]) if branched else None,
        fork=torch.tensor([r.fork for r in read]) if branched else None,
        items=[r.item for r in read],
        extras=extras,
    )


def to_rows(traj: Trajectories) -> list[Row]:
    """Every trajectory as one row of plain values: what `from_rows` restores, tokens and log-probabilities included.

    Fields of an item whose names a recorded row needs (`id`, `tokens` ...) go under `own`. A number that is not finite becomes
    None, and comes back as not-a-number: it can only stand where the policy did not act.
    """
    traj = traj.to("cpu")
    columns: dict[str, Any] = {name: getattr(traj, name).tolist() for name in ("id", "group", "stop", "mask", "step")}
    acted = "tokens" if traj.actions.ndim == 2 and not traj.actions.is_floating_point() else "actions"
    rows = []
    for i, length in enumerate(traj.length.tolist()):
        item = dict(traj.items[i]) if traj.items else {}
        actions = traj.actions[i, :length]
        if acted == "tokens" and bool((actions == -1).all()) and all(columns["mask"][i][:length]) and _text_length(item) == length:
            rows.append(item)
            continue
        row: Row = {name: value for name, value in item.items() if name not in RECORDED}
        own = {name: value for name, value in item.items() if name in RECORDED}
        row |= {"id": columns["id"][i], "group": columns["group"][i], "stop": StopReason(columns["stop"][i]).name}
        row[acted] = _plain(actions.tolist())
        if not all(columns["mask"][i][:length]):
            row["mask"] = [int(m) for m in columns["mask"][i][:length]]
        if any(columns["step"][i][:length]):
            row["step"] = columns["step"][i][:length]
        if traj.logp:
            row["logp"] = {name: _plain(values[i, :length].tolist()) for name, values in traj.logp.items()}
        if traj.extras:
            ends = {name: length + x.shape[1] - traj.width if x.ndim > 1 else None for name, x in traj.extras.items()}
            row["extras"] = {
                name: _plain((x[i] if x.ndim == 1 else x[i, : ends[name]]).tolist()) for name, x in traj.extras.items()
            }
        if traj.parent is not None and traj.fork is not None:
            row |= {"parent": int(traj.parent[i]), "fork": int(traj.fork[i])}
        rows.append(row | ({"own": own} if own else {}))
    return rows


# --- one row


class _Record:
    """One row, its recorded fields checked and apart from its item."""

    actions: Tensor | None = None
    mask: Tensor | None = None
    step: Tensor | None = None
    id: int | None = None
    parent: int | None = None
    fork = 0
    stop = StopReason.finished
    logp: Mapping[str, Tensor] = MappingProxyType({})
    extras: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, row: Mapping[str, Any], place: str) -> None:
        self.place, self.row = place, row
        acted = next((name for name in ("tokens", "actions") if self._given(name)), None)
        group = row.get("group")
        self.group = group if isinstance(group, int) and not isinstance(group, bool) and abs(group) < 2**62 else None
        if acted is None:
            self.item, self.length = dict(row), _text_length(row)
        else:
            self._restore(row, acted)

    def _restore(self, row: Mapping[str, Any], acted: str) -> None:
        self.actions = self._numbers(acted, row[acted])
        if self.actions.ndim and not len(self.actions):
            self._fail(acted, "is empty; a trajectory has at least one action")
        if not self.actions.ndim or (acted == "tokens" and (self.actions.is_floating_point() or self.actions.ndim > 1)):
            self._fail(acted, "must be a list of token ids, whole numbers" if acted == "tokens" else "must be a list")
        self.length = len(self.actions)
        if self._given("mask"):
            self.mask = self._per_action("mask", row["mask"]).bool()
        if self._given("step"):
            step = self._per_action("step", row["step"])
            if step.is_floating_point() or step.min() < 0:
                self._fail("step", "must be whole numbers from 0")
            self.step = step
        given = row.get("logp") or {}
        given = given if isinstance(given, Mapping) else {"old": given}
        self.logp = {name: self._per_action("logp", v).float() for name, v in given.items() if v is not None}
        self.extras = {name: self._numbers("extras", v) for name, v in (row.get("extras") or {}).items() if v is not None}
        self.id, self.parent = self._integer("id"), self._integer("parent")
        self.fork = self._integer("fork") or 0
        if self._given("stop"):
            self.stop = self._stop(row["stop"])
        own = row.get("own")
        self.item = {name: value for name, value in row.items() if name not in RECORDED} | dict(own or {})

    def _given(self, name: str) -> bool:
        value = self.row.get(name)
        return value is not None and not (isinstance(value, str) and value == "")

    def _fail(self, name: str, message: str) -> None:
        raise RowError(f"{self.place}: {name} {message}")

    def _integer(self, name: str) -> int | None:
        if not self._given(name):
            return None
        value = self.row[name]
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**62:
            self._fail(
                name, f"of a recorded trajectory must be a whole number, is {_short(value)}; put a name of your own under `own`"
            )
        return value

    def _numbers(self, name: str, value: Any) -> Tensor:
        try:
            tensor = torch.as_tensor(_as_numbers(value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            self._fail(name, f"must be numbers in lists of equal length, is {_short(value)}")
        return tensor.float() if tensor.dtype == torch.float64 else tensor

    def _per_action(self, name: str, value: Any) -> Tensor:
        tensor = self._numbers(name, value)
        if tensor.shape != (self.length,):
            self._fail(name, f"must hold {self.length} numbers, one per action, has shape {list(tensor.shape)}")
        return tensor

    def _stop(self, value: Any) -> StopReason:
        try:
            return StopReason[value] if isinstance(value, str) else StopReason(value)
        except (KeyError, ValueError):
            self._fail("stop", f"must be one of {', '.join(reason.name for reason in StopReason)}, is {_short(value)}")
            raise


def _text_length(row: Mapping[str, Any]) -> int:
    steps = row.get("steps")
    return max(len(steps), 1) if isinstance(steps, list | tuple) else 1


def _actions_of(read: Sequence[_Record], exists: Tensor, text: Tensor) -> Tensor:
    known = [r.actions for r in read if r.actions is not None]
    for r in read:
        if r.actions is not None and r.actions.shape[1:] != known[0].shape[1:]:
            raise RowError(f"{r.place}: its actions have shape {list(r.actions.shape[1:])} each, others {list(known[0].shape[1:])}")
    dtype = torch.int64 if all(a.dtype == torch.int64 for a in known) else torch.float32
    actions = torch.zeros(*exists.shape, *(known[0].shape[1:] if known else ()), dtype=dtype)
    actions[exists & text] = -1
    for i, r in enumerate(read):
        if r.actions is not None:
            actions[i, : r.length] = r.actions.to(dtype)
    return actions


def _named(read: Sequence[_Record], field: str, make: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """One tensor per name that the rows give under `field`; all rows give the same names."""
    names = getattr(read[0], field).keys() if read else dict[str, Tensor]().keys()
    for r in read:
        if getattr(r, field).keys() != names:
            odd = sorted(getattr(r, field).keys() ^ names)
            raise RowError(f"{r.place}: {field} {odd} is in some rows and missing in others")
    return {name: make(name) for name in names}


def _padded(values: Sequence[Tensor], width: int) -> Tensor:
    dtype = torch.float32 if any(v.is_floating_point() for v in values) else values[0].dtype
    result = torch.zeros(len(values), width, *values[0].shape[1:], dtype=dtype)
    for i, v in enumerate(values):
        result[i, : len(v)] = v
    return result


def _extra(name: str, read: Sequence[_Record], t: int) -> Tensor:
    values = [r.extras[name] for r in read]
    if all(v.ndim == 0 for v in values):
        return torch.stack([v.float() for v in values] if any(v.is_floating_point() for v in values) else values)
    surplus = {v.shape[0] - r.length if v.ndim else -1 for v, r in zip(values, read, strict=True)}
    if len(surplus) > 1 or not surplus <= {0, 1} or len({v.shape[1:] for v in values}) > 1:
        raise RowError(
            f"{read[0].place}: extras {name!r} must be one number, or as many as actions, or one more, in every row alike"
        )
    return _padded(values, t + surplus.pop())


def _groups(read: Sequence[_Record]) -> Tensor:
    """Whole numbers as they are; every other name, and every prompt of rows without a name, gets a number of its own."""
    given = [number for r in read for number in (r.id, r.group, r.parent) if number is not None]
    if given:
        reserve_ids(max(given) + 1)
    keys = [r.group if r.group is not None else group_key(r.row) or ("row", i) for i, r in enumerate(read)]
    named = list(dict.fromkeys(key for key in keys if not isinstance(key, int)))
    numbers = dict(zip(named, fresh_ids(len(named)).tolist(), strict=True))
    return torch.tensor([key if isinstance(key, int) else numbers[key] for key in keys], dtype=torch.int64)


def group_key(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """What tells which rows belong together: the `group`, else the `prompt`, else nothing (None)."""
    for name in ("group", "prompt"):
        value = row.get(name)
        if value is not None and value != "":
            return name, value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return None


def _filled(ids: Sequence[int | None]) -> Tensor:
    fresh = iter(fresh_ids(sum(id is None for id in ids)).tolist())
    return torch.tensor([next(fresh) if id is None else id for id in ids], dtype=torch.int64)


def _as_numbers(value: Any) -> Any:
    """Lists with None as not-a-number; TypeError for text."""
    if value is None:
        return float("nan")
    if isinstance(value, list | tuple):
        return [_as_numbers(v) for v in value]
    if isinstance(value, str | bytes | Mapping):
        raise TypeError
    return value


def _plain(value: Any) -> Any:
    """Lists of numbers with None where one is not finite."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["RECORDED", "Row", "RowError", "from_rows", "group_key", "read_rows", "to_rows", "write_rows"]
