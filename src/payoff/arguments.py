"""A grader's arguments, filled by name from the rows of a batch: one row, one group or the whole batch at a time."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

from payoff.catalogue import nearest
from payoff.sets import sets
from payoff.trajectories import Trajectories
from payoff.worker_process import GraderError, Work

_ABSENT: Any = type("_Absent", (), {"__repr__": lambda self: "absent"})()


class MissingFieldError(GraderError, LookupError):
    """A grader reads a field that no row has; names the grader, the field and the fields there are."""


class UnfitGraderError(GraderError, TypeError):
    """Not something whose arguments can be filled by name and whose answer comes at once."""


class Arguments:
    """What a grader's signature asks for, and how a batch fills it.

    An argument without default must be somewhere in the batch: MissingFieldError. What `functools.partial` binds stays bound. The
    keyword-only arguments of a registered grader that have a default are its options, and no field of the rows fills them.
    """

    def __init__(self, grader: Callable[..., Any], name: str) -> None:
        self.name, bound, inner = name, set(), grader
        while isinstance(inner, functools.partial):
            bound |= set(inner.keywords)
            inner = inner.func
        if not callable(grader) or isinstance(getattr(grader, "_arguments", None), Arguments):
            raise UnfitGraderError(f"signal: {name} is a {type(grader).__name__}, not a plain grader")
        if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None)):  # noqa: B004
            raise UnfitGraderError(f"signal: {name} is a coroutine function; wrap it in a plain one that runs it to its end")
        try:
            parameters = list(inspect.signature(grader).parameters.values())
        except (TypeError, ValueError):
            raise UnfitGraderError(
                f"signal: the arguments of {name} cannot be read; wrap it in a function that names them"
            ) from None
        for p in parameters:
            if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
                raise UnfitGraderError(f"signal: {name}{inspect.signature(grader)}: {p} cannot be filled by name")
        self.rest = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if hasattr(inner, "__method__"):
            bound |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        named = [p for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in bound]
        self.names = [p.name for p in named]
        self.required = {p.name for p in named if p.default is p.empty}
        self.in_order = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.taken = bound | set(self.names)

    def bind(self, traj: Trajectories, units: list[list[int]] | None) -> tuple[Work, Sequence[int], dict[int, Any]]:
        """(arguments of the units that can be graded, which those are, why the others cannot)."""
        table, holes = {}, {}
        for name in self.names:
            column, complete = _field(name, traj)
            if not complete and all(x is _ABSENT for x in column):
                if name in self.required:
                    raise MissingFieldError(_no_field(self.name, name, traj))
                continue
            if units is not None:
                column = [[column[row] for row in rows] for rows in units]
            table[name] = column
            if not complete:
                holes[name] = dict(_holes(column, units))
        lost = {
            unit: f"there is no {name!r}, which {self.name} reads"
            + ("" if units is None else _which(units[unit], row, int(traj.id[row])))
            for name in reversed(self.names)
            if name in self.required and name in holes
            for unit, row in holes[name].items()
        }
        count = len(traj) if units is None else len(units)
        chosen: Sequence[int] = range(count) if not lost else [u for u in range(count) if u not in lost]
        columns = list(table.values()) if not lost else [[column[u] for u in chosen] for column in table.values()]
        members = None if units is None else [len(units[u]) for u in chosen]
        gaps = {name: holes[name] for name in holes if name not in self.required}
        if table and not gaps and not self.rest and list(table) == self.in_order[: len(table)]:
            return Work(columns, False, members), chosen, lost
        filled = [dict(zip(table, row)) for row in zip(*columns)] if columns else [{} for _ in chosen]
        for name, without in gaps.items():
            for k, unit in enumerate(chosen):
                if unit in without:
                    del filled[k][name]
        if self.rest:
            filled = [{**given, **self._left(traj, unit if units is None else units[unit])} for given, unit in zip(filled, chosen)]
        return Work([filled], True, members), chosen, lost

    def _left(self, traj: Trajectories, rows: int | list[int]) -> dict[str, Any]:
        """For `**kwargs`: every field that no argument takes; of several rows, those that all of them have."""
        items = [traj.items[row] for row in ([rows] if isinstance(rows, int) else rows)] if traj.items else []
        shared = [k for k in (items[0] if items else ()) if isinstance(k, str) and all(k in item for item in items)]
        free = [k for k in shared if k not in self.taken]
        return {k: items[0][k] if isinstance(rows, int) else [item[k] for item in items] for k in free}


def _field(name: str, traj: Trajectories) -> tuple[list[Any], bool]:
    """One value per trajectory, and whether all have it."""
    if name == "id":
        return traj.id.tolist(), True
    if name == "item":
        return list(traj.items) or [{} for _ in range(len(traj))], True
    if not traj.items:
        return [_ABSENT] * len(traj), not len(traj)
    try:
        return list(map(operator.itemgetter(name), traj.items)), True
    except KeyError:
        return [item.get(name, _ABSENT) for item in traj.items], False


def _holes(column: list[Any], units: list[list[int]] | None) -> list[tuple[int, int]]:
    """(unit, row) where a value is absent."""
    if units is None:
        return [(row, row) for row, x in enumerate(column) if x is _ABSENT]
    absent = [[k for k, x in enumerate(values) if x is _ABSENT] for values in column]
    return [(u, units[u][where[0]]) for u, where in enumerate(absent) if where]


def _which(rows: list[int], row: int, id: int) -> str:
    return f", in number {rows.index(row) + 1} of the {len(rows)} graded together (trajectory {id})"


def _no_field(grader: str, field: str, traj: Trajectories) -> str:
    fields = sorted({str(key) for item in traj.items for key in item})
    like = nearest(field, fields)
    there = f"the rows have {', '.join(fields)}" if fields else "the rows have no fields"
    return f"{grader} reads {field!r}, which no row has; {there}" + (f"; did you mean {like[0]!r}?" if like else "")


def units_of(traj: Trajectories, seen: Literal["item", "group", "batch"]) -> list[list[int]] | None:
    """The rows that one call sees, in row order, sets in order of their first member; None where each is alone."""
    if seen == "item":
        return None
    members: dict[int, list[int]] = {}
    for row, key in enumerate(sets(traj, seen)[:, 0].tolist()):
        members.setdefault(key, []).append(row)
    return list(members.values())
