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
from payoff.trajectories import Channel, Trajectories, fresh_ids, outcome

Row = Mapping[str, Any]


ON_THE_WAY = "on-the-way"
Part = tuple[Float64[Tensor, " N"], Bool[Tensor, " N"]]


class Scores(NamedTuple):
    """One number per row. `valid` is False where the reward gave no verdict; the value there is 0 and means nothing.

    reasons: by position in the rows that were asked for
    parts:   what else the reward said of the same rows: every channel by its name, where there are several, and as "on-the-way"
             what the audited channel pays before the end of a response, where it pays anything there
    """

    value: Float64[Tensor, " N"]
    valid: Bool[Tensor, " N"]
    reasons: Mapping[int, str]
    parts: Mapping[str, Part] = {}


Score = Callable[[Sequence[Row]], Scores]
Listener = Callable[[Sequence[Row], Scores, Channel | None, Trajectories], None]


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
    listener: Listener | None = None  # told of every call: the rows, what they got, the channel if it was one, the trajectories

    def __call__(self, rows: Sequence[Row]) -> Scores:
        size = self.batch if sees(self.signal) == "item" else max(len(rows), 1)
        return together([self._score(rows[first : first + size]) for first in range(0, len(rows), size)])

    def _score(self, rows: Sequence[Row]) -> Scores:
        traj = from_rows(rows)
        traj = traj.replace(id=fresh_ids(len(traj)))  # the same row may be asked twice; reasons are told apart by id
        start = time.perf_counter()
        rewards = self.signal(traj)
        took = time.perf_counter() - start
        position = {int(i): row for row, i in enumerate(traj.id.tolist())}
        values, valids = [], []
        reasons: dict[int, str] = {}
        parts: dict[str, Part] = {}
        named = self._named(rewards)
        for name in named:
            value, valid = outcome(rewards[name], traj)
            values.append(value.double())
            valids.append(valid)
            reasons |= {position[i]: text for i, text in rewards[name].reasons.items() if i in position and not valid[position[i]]}
            if len(rewards) > 1:
                parts[name] = value.double(), valid
        for name in rewards.keys() - set(named):
            value, valid = outcome(rewards[name], traj)
            parts[name] = value.double(), valid
        if len(named) == 1 and rewards[named[0]].value.shape[1] > 1:
            last = rewards[named[0]].value.gather(1, (traj.length.long() - 1).clamp(min=0)[:, None])[:, 0]
            early = torch.where(valids[0], values[0] - last, 0.0)
            if bool((early != 0).any()):
                parts[ON_THE_WAY] = early, valids[0]
        value, valid = torch.stack(values).mean(0), torch.stack(valids).all(0)
        self.calls += 1
        self.rows += len(rows)
        self.seconds += took
        self.latencies.append(took / len(rows))
        self.invalid.update(reasons.values())
        found = Scores(torch.where(valid, value, 0.0), valid, reasons, parts)
        if self.listener is not None:
            self.listener(rows, found, rewards[named[0]] if len(named) == 1 else None, traj)
        return found

    @property
    def audited(self) -> set[str]:
        """The channels that the number is made of, as far as they are named."""
        return {*self.members, *([self.channel] if self.channel else [])}

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


def together(several: Sequence[Scores]) -> Scores:
    """Scores of rows that follow one another, as one; a part that some of them lack has no verdict there.

    >>> one, two = torch.ones(1).double(), torch.ones(2).double()
    >>> found = together([Scores(one, one.bool(), {0: "why"}), Scores(two, two.bool(), {1: "so"}, {"x": (two, two.bool())})])
    >>> found.reasons, found.parts["x"][1].tolist()
    ({0: 'why', 2: 'so'}, [False, True, True])
    """
    if not several:
        return Scores(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool), {})
    reasons: dict[int, str] = {}
    parts: dict[str, Part] = {}
    first = 0
    for one in several:
        reasons |= {first + k: why for k, why in one.reasons.items()}
        first += len(one.value)
    for name in dict.fromkeys(name for one in several for name in one.parts):
        each = [one.parts.get(name, (torch.zeros_like(one.value), torch.zeros_like(one.valid))) for one in several]
        parts[name] = torch.cat([value for value, _ in each]), torch.cat([valid for _, valid in each])
    return Scores(torch.cat([one.value for one in several]), torch.cat([one.valid for one in several]), reasons, parts)
