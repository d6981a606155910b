"""Plain Python graders as signals: arguments by name, one reading of whatever they answer, workers, deadlines and a cache.

`signal` lifts a grader; `load_callable` finds one by "package.module:function" or "file.py:function". What an answer means is in
`worker_process`, how time limits are kept in `workers`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import os
import pickle
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from payoff.arguments import Arguments, MissingFieldError, UnfitGraderError, units_of
from payoff.loading import CallableImportError, CallableNotFoundError, load_callable
from payoff.trajectories import Channel, Rewards, Trajectories, place_outcome, place_steps
from payoff.worker_process import GraderError, Packed, Work, grade, unpack, visible
from payoff.workers import PicklingError, WorkerError, Workers, pack

__all__ = [
    "CallableImportError",
    "CallableNotFoundError",
    "GraderError",
    "GraderSignal",
    "MissingFieldError",
    "PicklingError",
    "UnfitGraderError",
    "WorkerError",
    "load_callable",
    "signal",
]

REMEMBERED = 1_000_000  # verdicts in a cache; the least recently used goes first


def signal(
    grader: Callable[..., Any],
    *,
    name: str | None = None,
    sees: Literal["item", "group", "batch"] = "item",
    workers: int = 0,
    deadline: float | None = None,
    cache: bool = False,
) -> GraderSignal:
    """Lift a plain function into a signal; an answer that is no number is an invalid verdict with its reason, never a 0.

    The grader's arguments are filled by name from `traj.items`: `prompt`, `response`, `reference`, `steps` or any other field of
    the row; `item` is the whole row and `id` the trajectory's id. An argument with a default is filled where the row has that
    field, `**kwargs` gets all fields that are left, and what `functools.partial` binds stays bound.

    It answers with a number; a sequence of numbers, one for each step; a mapping from channel to either; or a `Verdict` of these.
    None, NaN, infinity, text, a wrong count, an exception: invalid, with the reason in `Channel.reasons`. None or NaN in a sequence
    makes that step invalid; a failed row is unknown at its end, or at every step where its channel has step numbers. What is no
    mapping goes into the channel called `name` (by default the grader's name). The channels are those of any row of this batch or
    of an earlier one; a row that lacks one has no verdict there.

    sees:     "group" or "batch": every argument is a list over the members, in row order, and the answer a sequence as long.
    workers:  0 grades in process; more start that many processes at the first batch, which need a grader that can be pickled.
    deadline: seconds for one call, kept by killing its worker; what is left goes on in a new one. Loading is not counted.
    cache:    answers are remembered by the values of the arguments (not exceptions, deadlines and deaths).

    Raises TypeError for a grader with positional-only, `*` or unreadable arguments, or a coroutine function; ValueError for
    options out of range; at the first batch MissingFieldError for an argument that no row has, TypeError for a grader that workers
    cannot load.

    >>> from payoff.examples import four_answers
    >>> def correct(response, reference):
    ...     return float(response) == float(reference)
    >>> reward = signal(correct)(four_answers())["correct"]
    >>> reward.value.sum(1)
    tensor([1., 0., 1., 0.])
    >>> reward.reasons
    {3: "ValueError: could not convert string to float: ''"}
    """
    return GraderSignal(grader, name=name, sees=sees, workers=workers, deadline=deadline, cache=cache)


class GraderSignal:
    """What `signal` gives: rewards for trajectories; its worker processes end with `close`, with the object, or with this process.

    Copies and pickles carry the grader, its options and the channels seen so far, not the workers, the cache and the counters.
    """

    def __init__(
        self,
        grader: Callable[..., Any],
        *,
        name: str | None = None,
        sees: Literal["item", "group", "batch"] = "item",
        workers: int = 0,
        deadline: float | None = None,
        cache: bool = False,
    ) -> None:
        self.name = self.__name__ = name or _name_of(grader)
        self.sees, self.workers, self.deadline, self.cache = sees, workers, deadline, cache
        self.__wrapped__ = grader
        self.__doc__ = grader.__doc__
        self._arguments = Arguments(grader, self.name)
        self._check_options()
        self._channels: dict[str, bool] = {}  # channels ever given, and whether with a number per step
        self._pool: Workers | None = None
        self._known: OrderedDict[bytes | int, Any] = OrderedDict()  # readings of answers, by the hash of the arguments
        self._counts: dict[str, int | float] = {"graded": 0, "cached": 0, "invalid": 0, "seconds": 0.0}
        self._lock = threading.Lock()

    def _check_options(self) -> None:
        if self.sees not in ("item", "group", "batch"):
            raise ValueError(f'signal: sees must be "item", "group" or "batch", got {self.sees!r}')
        if self.workers < 0:
            raise ValueError(f"signal: workers must be >= 0, got {self.workers}")
        if self.workers and not hasattr(os, "fork"):
            raise ValueError("signal: worker processes need a POSIX system; use workers=0 here")
        if self.deadline is not None:
            if not 0 < self.deadline < float("inf"):
                raise ValueError(f"signal: deadline must be a number of seconds > 0, got {self.deadline}")
            if not self.workers:
                raise ValueError("signal: a deadline is kept by killing the process that grades, so it needs workers >= 1")
            self.deadline = float(self.deadline)

    @property
    def stats(self) -> dict[str, int | float]:
        """So far: trajectories `graded` by a call, `cached` (an equal one was), left `invalid` anywhere; and `seconds` in all."""
        return dict(self._counts)

    def __call__(self, traj: Trajectories) -> Rewards:
        started = time.perf_counter()
        units = units_of(traj, self.sees)
        work, chosen, forms = self._arguments.bind(traj, units)
        numbers, odd, fresh = self._remembered(work) if self.cache else (*self._run(work), range(len(chosen)))
        if units is None:
            values = np.asarray(numbers)
            if len(chosen) < len(traj):
                values = np.full(len(traj), np.nan)
                values[chosen] = numbers
            forms |= {chosen[i]: form for i, (form, _) in odd.items()}
            graded, asked = len(fresh), len(chosen)
        else:
            values = np.full(len(traj), np.nan)
            answers = forms | {chosen[i]: form for i, (form, _) in odd.items()}
            of_member = lambda form, k: form if isinstance(form, str) else form[k]
            forms = {row: of_member(form, k) for unit, form in answers.items() for k, row in enumerate(units[unit])}
            graded, asked = (sum(len(units[chosen[i]]) for i in which) for which in (fresh, range(len(chosen))))
        self._tell_of_odd_responses(forms, traj)
        rewards = _place(values, forms, traj, self.name, self._channels)
        with self._lock:
            invalid = len(set().union(*(channel.reasons for channel in rewards.values())))
            spent = time.perf_counter() - started
            for key, count in (("graded", graded), ("cached", asked - graded), ("invalid", invalid), ("seconds", spent)):
                self._counts[key] += count
        return rewards

    def _tell_of_odd_responses(self, forms: dict[int, Any], traj: Trajectories) -> None:
        """Add to the reason of a row without verdict that what it has for a response is no text, which graders seldom say."""
        if "response" in self._arguments.names and traj.items:
            for row, form in forms.items():
                said = traj.items[row].get("response", "")
                if isinstance(form, str) and isinstance(said, int | float | list | dict | None):
                    forms[row] = f"the response is {'null' if said is None else type(said).__name__}, not text ({form})"

    def close(self) -> None:
        """End the worker processes; the next batch starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _run(self, work: Work) -> tuple[array, dict[int, tuple[Any, bool]]]:
        """A number per unit, NaN where there is none; there the reading of the answer, and whether it was one."""
        if self.workers:
            with self._lock:
                pool = self._pool = self._pool or Workers(self.__wrapped__, self.workers, self.deadline, self.name)
            return pool.run(work)
        numbers, odd = array("d", [np.nan]) * len(work.columns[0]), {}
        keep = lambda unit, form, answered: odd.update({unit: (form, answered)})
        grade(self.__wrapped__, work, numbers, keep, [0], (KeyboardInterrupt,))
        return numbers, odd

    def _remembered(self, work: Work) -> tuple[array, dict[int, tuple[Any, bool]], Sequence[int]]:
        """The same, and which units had to be graded: of those with equal arguments the first, unless it is known from before."""
        labels = [unit if (key := _key(arguments)) is None else key for unit, arguments in enumerate(zip(*work.columns))]
        with self._lock:
            known = {label: self._known[label] for label in labels if label in self._known}
            for label in known:
                self._known.move_to_end(label)
        first: dict[bytes | int, int] = {}
        for unit, label in enumerate(labels):
            if label not in known:
                first.setdefault(label, unit)
        fresh = list(first.values())
        pick = lambda column: [column[unit] for unit in fresh]
        numbers, odd = self._run(Work([pick(c) for c in work.columns], work.by_keyword, work.members and pick(work.members)))
        answers = {label: odd.get(k, (numbers[k], True)) for k, label in enumerate(first)}
        with self._lock:
            self._known.update(
                {label: form for label, (form, answered) in answers.items() if answered and isinstance(label, bytes)}
            )
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        answers |= {label: (form, True) for label, form in known.items()}
        all_numbers, all_odd = array("d", [np.nan]) * len(labels), {}
        for unit, label in enumerate(labels):
            form, answered = answers[label]
            if isinstance(form, float):
                all_numbers[unit] = form
            else:
                all_odd[unit] = (form, answered)
        return all_numbers, all_odd, fresh

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": tuple(pack(self.__wrapped__, self.name)), "options": self._options(), "channels": dict(self._channels)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(unpack(Packed(*state["packed"])), **state["options"])  # type: ignore[misc]
        self._channels = state["channels"]

    def __deepcopy__(self, memo: dict[int, Any]) -> GraderSignal:
        twin = GraderSignal(copy.deepcopy(self.__wrapped__, memo), **self._options())
        twin._channels = dict(self._channels)
        return twin

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "sees", "workers", "deadline", "cache")}


def _key(arguments: tuple[Any, ...]) -> bytes | None:
    """A hash of the arguments' values, the same wherever equal values lie in memory; None for what has no bytes."""
    pickler = pickle.Pickler(file := io.BytesIO(), protocol=5)
    pickler.fast = True  # no memo, so that two references to one string look like two equal strings
    try:
        pickler.dump(arguments)
    except Exception:
        return None
    return hashlib.blake2b(file.getbuffer(), digest_size=16).digest()


def _name_of(grader: Any) -> str:
    while isinstance(grader, functools.partial):
        grader = grader.func
    return getattr(grader, "__name__", type(grader).__name__)


# --- readings as channels


def _place(values: np.ndarray, forms: dict[int, Any], traj: Trajectories, name: str, channels: dict[str, bool]) -> Rewards:
    """Numbers per row, and readings where a row has none, as channels; `channels` remembers those given, and if by step."""
    failed = {row: form for row, form in forms.items() if isinstance(form, str)}
    given: dict[str, dict[int, Any]] = {}
    mapped = [(row, forms[row]) for row in sorted(forms) if isinstance(forms[row], dict)]
    if len(failed) + len(mapped) < len(traj):
        given[name] = {row: form for row, form in forms.items() if not isinstance(form, str | dict)}
    for row, form in mapped:
        for channel, part in form.items():
            given.setdefault(channel, {})[row] = part
    for channel, parts in given.items():
        channels[channel] = channels.get(channel, False) or any(isinstance(part, list) for part in parts.values())
    nothing = np.full_like(values, np.nan)
    return {
        channel: _channel(values.copy() if channel == name else nothing.copy(), {**given.get(channel, {}), **failed}, traj, by_step)
        for channel, by_step in (channels or {name: True}).items()
    }


def _channel(values: np.ndarray, parts: dict[int, Any], traj: Trajectories, by_step: bool) -> Channel:
    """One channel from numbers per row and, elsewhere, numbers, lists or reasons.

    A row without verdict is unknown at its end; where the channel has numbers per step, at the end of each of its steps.
    """
    dtype = torch.get_default_dtype()
    reasons = {row: part for row, part in parts.items() if isinstance(part, str)}
    for row, part in parts.items():
        if isinstance(part, float):
            values[row] = part
    lists = {row: part for row, part in parts.items() if isinstance(part, list)}
    numbers = torch.from_numpy(values).to(dtype)
    for row in (np.isfinite(values) & ~torch.isfinite(numbers).numpy()).nonzero()[0].tolist():
        reasons[row] = str(_within(float(values[row]), dtype))
    known = torch.isfinite(numbers)
    unsaid = ~known.numpy()
    unsaid[list(parts)] = False
    for row in unsaid.nonzero()[0].tolist():
        reasons.setdefault(row, "no verdict for this channel")
    numbers = torch.where(known, numbers, 0)
    if lists or (by_step and reasons):
        has = (traj.step.amax(1) + 1).tolist()
        grid = np.full((len(traj), max(has, default=1)), np.nan)
        grid[known.numpy()] = 0.0
        for row, entries in lists.items():
            if len(entries) != has[row]:
                reasons[row] = f"gave {len(entries)} step values for {has[row]} steps"
                continue
            said = [_within(entry, dtype) for entry in entries]
            grid[row, : has[row]] = [part if isinstance(part, float) else np.nan for part in said]
            if faults := [f"step {k}: {part}" for k, part in enumerate(said) if isinstance(part, str)]:
                reasons[row] = visible("; ".join(faults), 1000)
        dense = torch.from_numpy(grid).to(dtype)
        inner = place_steps(torch.nan_to_num(dense, 0, 0, 0).to(traj.device), torch.isfinite(dense).to(traj.device), traj)
    else:
        inner = None
    ends = known if inner is None else torch.ones_like(known)
    ids = traj.id.tolist() if reasons else []
    named = {ids[row]: reasons[row] for row in sorted(reasons)}
    channel = place_outcome(numbers.to(traj.device), ends.to(traj.device), traj, named)
    return channel if inner is None else Channel(channel.value + inner.value, channel.valid & inner.valid, named)


def _within(part: float | str, dtype: torch.dtype) -> float | str:
    """A number that the type can hold, or why it is none."""
    if isinstance(part, float) and abs(part) > torch.finfo(dtype).max:
        return f"gave {part:g}, beyond the range of {dtype}"
    return part
