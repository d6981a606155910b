"""The reward under audit, as one callable from rows to numbers, which counts what it costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from payoff.contents import sees
from payoff.pipeline import Signal
from payoff.rewards import RewardError
from payoff.rows import from_rows
from payoff.trajectories import fresh_ids, outcome

Row = Mapping[str, Any]


class Scores(NamedTuple):
    """One number per row. `valid` is False where the reward gave no verdict; the value there is 0 and means nothing."""

    value: Float64[Tensor, " N"]
    valid: Bool[Tensor, " N"]
    reasons: Mapping[int, str]  # by position in the rows that were asked for


Score = Callable[[Sequence[Row]], Scores]


@dataclass
class Scorer:
    """A signal as `score(rows) -> Scores`: the sum of one channel over each row's trajectory.

    channel: which of the signal's channels; None where it has but one; several with commas between: an ensemble, whose mean counts
    batch:   rows per call of a signal that sees one item; one that sees groups or batches is given all rows in one call
    calls, rows, seconds, invalid: what was asked so far, what it took, and how often and why there was no verdict

    Raises RewardError, naming the channels there are, where `channel` is needed and not given or not among them.

    >>> from payoff.grading import signal
    >>> def right(response, reference): return float(response == reference)
    >>> score = Scorer(signal(right))
    >>> score([{"response": "4", "reference": "4"}, {"response": "5", "reference": "4"}]).value.tolist()
    [1.0, 0.0]
    """

    signal: Signal
    channel: str | None = None
    batch: int = 1024
    calls: int = 0
    rows: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds per row of every call
    invalid: Counter[str] = field(default_factory=Counter)

    def __call__(self, rows: Sequence[Row]) -> Scores:
        values, valids = [], []
        reasons: dict[int, str] = {}
        size = self.batch if sees(self.signal) == "item" else max(len(rows), 1)
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            value, valid, why = self._score(part)
            values.append(value)
            valids.append(valid)
            reasons |= {first + row: text for row, text in why.items()}
        if not values:
            return Scores(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool), {})
        return Scores(torch.cat(values), torch.cat(valids), reasons)

    def _score(self, rows: Sequence[Row]) -> Scores:
        traj = from_rows(rows)
        traj = traj.replace(id=fresh_ids(len(traj)))  # the same row may be asked twice; reasons are told apart by id
        start = time.perf_counter()
        rewards = self.signal(traj)
        took = time.perf_counter() - start
        position = {int(i): row for row, i in enumerate(traj.id.tolist())}
        values, valids = [], []
        reasons: dict[int, str] = {}
        for name in self._named(rewards):
            value, valid = outcome(rewards[name], traj)
            values.append(value.double())
            valids.append(valid)
            reasons |= {position[i]: text for i, text in rewards[name].reasons.items() if i in position and not valid[position[i]]}
        value, valid = torch.stack(values).mean(0), torch.stack(valids).all(0)
        self.calls += 1
        self.rows += len(rows)
        self.seconds += took
        self.latencies.append(took / len(rows))
        self.invalid.update(reasons.values())
        return Scores(torch.where(valid, value, 0.0), valid, reasons)

    @property
    def members(self) -> list[str]:
        """The channels of an ensemble; none where one channel is audited."""
        several = [name.strip() for name in (self.channel or "").split(",") if name.strip()]
        return several if len(several) > 1 else []

    def _named(self, names: Mapping[str, Any]) -> list[str]:
        if self.channel is None and len(names) == 1:
            return list(names)
        if self.channel in names:
            return [str(self.channel)]
        if self.members and set(self.members) <= set(names):
            return self.members
        found = "none was named" if self.channel is None else f"found {self.channel!r}"
        raise RewardError(f"the reward has the channels {', '.join(sorted(names))}; {found}: choose one of them")
