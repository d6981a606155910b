"""The signal that every reward from elsewhere becomes: many rows a call, and what cannot be graded is known to be unknown."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.grading import signal
from payoff.pipeline import Verdict
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome
from payoff.worker_process import explain, reading

Row = Mapping[str, Any]
Graded = float | Verdict


@runtime_checkable
class RowGrader(Protocol):
    """Someone else's reward: what it reads of a trajectory, and what it says of many such rows."""

    name: str
    sees: Literal["item", "group", "batch"]
    batch: int | None  # rows a call is given, whole groups where it sees groups; None: all there are

    def rows(self, traj: Trajectories) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """One row per trajectory, and which of them cannot be graded and why. Raises MissingFieldError where none can be."""

    def __call__(self, item: Sequence[Row]) -> Sequence[Graded]:
        """A number for each of these rows, or why there is none."""


class RowBatches:
    """A reward from elsewhere as a signal: one outcome per trajectory, in a channel with the grader's name.

    workers, deadline: processes that call the grader, and the seconds one call may take, kept by killing
    cache:             verdicts are remembered by what the grader reads of a row; failures are asked again
    """

    def __init__(self, grader: RowGrader, *, workers: int = 0, deadline: float | None = None, cache: bool = False) -> None:
        if grader.batch is not None and grader.batch < 1:
            raise ValueError(f"batch must be at least 1, got {grader.batch}")
        if cache and grader.sees != "item":
            raise ValueError(f"a verdict that depends on the {grader.sees} cannot be remembered by the row")
        self.name = self.__name__ = grader.name
        self.sees, self.cache = grader.sees, cache
        self._calls = signal(grader, name=grader.name, sees="group", workers=workers, deadline=deadline)
        self._known: dict[bytes, float] = {}

    @property
    def grader(self) -> RowGrader:
        """Someone else's reward, as it is called."""
        return self._calls.__wrapped__  # type: ignore[return-value]

    @property
    def stats(self) -> dict[str, int | float]:
        """So far: trajectories graded and left invalid, seconds; and what the grader itself counts, such as calls and tokens."""
        return {**self._calls.stats, **getattr(self.grader, "counts", {})}

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._calls.close()

    def __call__(self, traj: Trajectories) -> Rewards:
        rows, lost = self.grader.rows(traj)
        keys = [_key(row) if self.cache else b"" for row in rows]
        asked: dict[Any, int] = {}  # what tells a row -> the first such row
        for k, key in enumerate(keys):
            if k not in lost and key not in self._known:
                asked.setdefault(key or k, k)
        numbers = [0.0] * len(traj)
        known = [False] * len(traj)
        if asked:
            chosen = list(asked.values())
            value, valid, reasons = self._ask([rows[k] for k in chosen], traj.group[chosen])
            for place, k in enumerate(chosen):
                numbers[k], known[k] = value[place], valid[place]
                if not valid[place]:
                    lost[k] = reasons.get(place, "no verdict")
        for k, key in enumerate(keys if self.cache else ()):
            first = asked.get(key, k)
            if key in self._known:
                numbers[k], known[k] = self._known[key], True
            elif first != k:
                numbers[k], known[k] = numbers[first], known[first]
                if first in lost:
                    lost[k] = lost[first]
        if self.cache:
            self._known |= {key: numbers[k] for k, key in enumerate(keys) if known[k]}
        ids = traj.id.tolist()
        named = {ids[k]: lost[k] for k in sorted(lost)}
        dtype, device = torch.get_default_dtype(), traj.device
        given, certain = torch.tensor(numbers, dtype=dtype, device=device), torch.tensor(known, dtype=torch.bool, device=device)
        return {self.name: place_outcome(given, certain, traj, named)}

    def _ask(self, rows: list[dict[str, Any]], group: Int[Tensor, " M"]) -> tuple[list[float], list[bool], dict[int, str]]:
        """Numbers, whether they are any, and why not by place."""
        n = len(rows)
        units = _units(group.tolist(), self.grader.sees, self.grader.batch)
        traj = Trajectories(
            mask=torch.ones(n, 1, dtype=torch.bool),
            length=torch.ones(n, dtype=torch.int64),
            group=torch.tensor(units, dtype=torch.int64),
            step=torch.zeros(n, 1, dtype=torch.int32),
            stop=torch.zeros(n, dtype=torch.int64),
            actions=torch.zeros(n, 1, dtype=torch.int64),
            items=rows,
        )
        channel = self._calls(traj)[self.name]
        value, valid = outcome(channel, traj)
        place = {id: k for k, id in enumerate(traj.id.tolist())}
        return value.tolist(), valid.tolist(), {place[id]: why for id, why in channel.reasons.items()}


def _units(groups: Sequence[int], sees: str, batch: int | None) -> list[int]:
    """Which call each row goes into: `batch` rows to a call, or as many as whole groups need; one call for a batch."""
    if sees == "batch" or batch is None:
        return [0] * len(groups)
    if sees == "item":
        return [k // batch for k in range(len(groups))]
    sizes: dict[int, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    unit, filled, of = 0, 0, {}
    for group, size in sizes.items():
        if filled and filled + size > batch:
            unit, filled = unit + 1, 0
        of[group], filled = unit, filled + size
    return [of[group] for group in groups]


def verdict(answer: Any) -> Graded:
    """What a grader has said of one row: a number, or why it is none."""
    return as_verdict(reading(answer))


def as_verdict(form: float | str | list | dict) -> Graded:
    """The same for an answer that was read by `worker_process.reading`, where text is a reason."""
    if isinstance(form, float):
        return form
    return no_verdict(form if isinstance(form, str) else f"gave a {type(form).__name__}, not one number")


def no_verdict(why: str) -> Verdict:
    """No number, and why."""
    return Verdict(0.0, False, why)


def isolated(call: Callable[[Sequence[Row]], Sequence[Graded]], rows: Sequence[Row], calls: int = 64) -> list[Graded]:
    """What `call` says of the rows; where it raises, of each half, and so on, so that a row it cannot bear costs that row.

    calls: how often more it may be called; what is left then has the reason of its part.

    >>> def inverse(rows): return [1 / row["x"] for row in rows]
    >>> isolated(inverse, [{"x": 1}, {"x": 2}, {"x": 0}])
    [1.0, 0.5, Verdict(value=0.0, valid=False, reason='ZeroDivisionError: division by zero')]
    """
    answers: list[Graded] = [0.0] * len(rows)
    parts = deque([(0, len(rows))])
    while parts:
        a, b = parts.popleft()
        try:
            answers[a:b] = call(rows[a:b])
        except Exception as error:
            if b - a < 2 or calls < 2:
                answers[a:b] = [no_verdict(explain(error))] * (b - a)
                continue
            calls -= 2
            parts += [(a, (a + b) // 2), ((a + b) // 2, b)]
    return answers


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, also where an event loop is already running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def said(response: Any) -> str | None:
    """A response as text: of messages the last one's content; None where there is none."""
    if isinstance(response, list | tuple) and response and isinstance(response[-1], Mapping):
        response = response[-1].get("content")
    return response if isinstance(response, str) else None


def is_conversation(value: Any) -> bool:
    """Whether this is a list of messages with a role."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def items_of(traj: Trajectories) -> list[Row]:
    """The items, empty ones where there are none."""
    return list(traj.items) or [{} for _ in range(len(traj))]


def _key(row: Row) -> bytes:
    text = json.dumps(row, sort_keys=True, default=repr, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
