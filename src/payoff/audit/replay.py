"""A reward as it was heard: what it gave is kept by row, so that the same rows can be scored otherwise without asking again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from payoff.audit.scorer import Row, Scorer, Scores
from payoff.rows import from_rows
from payoff.trajectories import Channel, Trajectories, outcome, per_step, place_outcome, place_steps

MOST = 100_000  # rows that are kept


class NotHeard(LookupError):
    """What a changed reward would give cannot be told from what was asked."""


class Heard(NamedTuple):
    """What a row got: the sum, whether it is a verdict, and what each of its steps got, where it had several."""

    value: float
    valid: bool
    steps: tuple[float, ...] = ()


class Memory(dict[bytes, Heard]):
    """What rows got, by their content; of a row that is asked twice the first time counts.

    truth: the same of the scorer of the truth, where an audit has one

    >>> from payoff.grading import signal
    >>> memory, row = Memory(), {"response": "4"}
    >>> score = Scorer(signal(lambda response: float(response)), listener=memory.listen)
    >>> score([row]).value.tolist(), Replayed.of(score, memory)([row]).value.tolist(), score.rows
    ([4.0], [4.0], 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.truth: Memory | None = None

    def listen(self, rows: Sequence[Row], scores: Scores, channel: Channel | None, traj: Trajectories) -> None:
        """Keep what rows got, as long as there is room; a `Scorer.listener`."""
        if len(self) + len(rows) > MOST:
            return
        steps: list[tuple[float, ...]] = [()] * len(rows)
        if channel is not None and channel.value.shape[1] > 1:
            paid, exists, _ = per_step(channel, traj)
            steps = [tuple(row[: int(n)]) if n > 1 else () for row, n in zip(paid.tolist(), exists.sum(1).tolist(), strict=True)]
        for row, value, valid, of in zip(rows, scores.value.tolist(), scores.valid.tolist(), steps, strict=True):
            key = key_of_row(row)
            if key not in self or len(of) > len(self[key].steps):
                self[key] = Heard(value, valid, of)


def key_of_row(row: Row) -> bytes:
    """A row's content in sixteen bytes."""
    try:
        text = json.dumps(row, sort_keys=True, default=str)
    except TypeError:  # keys of several kinds, which have no order
        text = repr(row)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


Paid = Callable[[], Channel]
Changed = Callable[[Trajectories, Paid], Channel]


def _as_heard(traj: Trajectories, paid: Paid) -> Channel:
    return paid()


@dataclass
class Replayed(Scorer):
    """A scorer that answers from memory, after `changed` has been applied: changed(traj, paid), where paid() is what was heard.

    Raises NotHeard for a row that nobody asked for, if `changed` wants to know what it got.
    """

    memory: Memory = field(default_factory=Memory)
    changed: Changed = _as_heard

    @classmethod
    def of(cls, score: Scorer, memory: Memory, changed: Changed | None = None) -> Replayed:
        """The same scorer from memory."""
        plain = cls(score.signal, score.channel, score.batch, memory=memory)
        if changed is not None:
            plain.changed = changed
        return plain

    def _score(self, rows: Sequence[Row]) -> Scores:
        traj = from_rows(rows)
        value, valid = outcome(self.changed(traj, lambda: self._paid(rows, traj)), traj)
        value = value.double()
        return Scores(torch.where(valid, value, 0.0), valid, {})

    def _paid(self, rows: Sequence[Row], traj: Trajectories) -> Channel:
        heard = [self.memory.get(key_of_row(row)) for row in rows]
        known = [one for one in heard if one is not None]
        if len(known) < len(rows):
            raise NotHeard("it asks for responses that the reward was not asked for")
        valid = torch.tensor([one.valid for one in known], dtype=torch.bool)
        most = max((len(one.steps) for one in known), default=0)
        if most < 2:
            return place_outcome(torch.tensor([one.value for one in known], dtype=torch.float64), valid, traj)
        steps = [one.steps or (one.value,) for one in known]
        values: Tensor = torch.tensor([[*of, *[0.0] * (most - len(of))] for of in steps], dtype=torch.float64)
        return place_steps(values, valid[:, None].expand_as(values), traj)
