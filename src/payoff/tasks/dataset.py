"""The user's own task: prompts, with or without references, from a file or a data set, and a truth of the user's choice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import method
from payoff.pipeline import Start
from payoff.rewards import as_signal, resolve_reward
from payoff.rows import RowError, read_rows
from payoff.trajectories import Channel, Trajectories, constant


class Epochs(nn.Module):
    """The numbers 0 to size - 1 in a fresh random order every epoch, each once. Where it stands is its state.

    An epoch's order is drawn from the generator that `draw` is handed when the epoch begins; the state is that order's seed and
    how many numbers are taken, so a run continued from a checkpoint goes on where it was. `mark` names what is numbered.

    >>> epochs = Epochs(3, "three things")
    >>> sorted(epochs.draw(3, torch.Generator().manual_seed(0)))
    [0, 1, 2]
    """

    mark: torch.Tensor
    seed: torch.Tensor
    taken: torch.Tensor

    def __init__(self, size: int, mark: str) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"Epochs: size must be at least 1, got {size}")
        self.size = size
        self._mark = int.from_bytes(_digest(f"{size} {mark}")[:7], "big")
        for name, value in (("mark", self._mark), ("seed", -1), ("taken", size)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64))
        self._order: tuple[int, list[int]] = (-1, [])

    def draw(self, n: int, rng: torch.Generator) -> list[int]:
        """The next n numbers. Raises ValueError where the state was saved for other data."""
        if int(self.mark) != self._mark:
            raise ValueError("the task's data has changed since the checkpoint was written; its order cannot be continued")
        drawn: list[int] = []
        while len(drawn) < n:
            if int(self.taken) >= self.size:
                self.seed.fill_(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
                self.taken.zero_()
            if self._order[0] != int(self.seed):
                order = torch.randperm(self.size, generator=torch.Generator().manual_seed(int(self.seed)))
                self._order = (int(self.seed), order.tolist())
            taken = int(self.taken)
            piece = self._order[1][taken : taken + n - len(drawn)]
            drawn += piece
            self.taken.fill_(taken + len(piece))
        return drawn


@method("dataset", kind="task")
class Dataset(nn.Module):
    """Starts from rows: every epoch in a new order, some prompts held out, and the truth that the user names.

    data:      a file, a saved data set or a name on the hub, as `payoff.rows.read_rows` takes it; or the rows themselves
    prompt, reference: the fields that hold them; the reference may be missing unless it is named
    split:     of a data set that has several
    held_out:  a share of the prompts (0 to 1), a number of prompts, or a file of their own. Rows with one prompt stay together,
               and which prompts are held out depends on their text alone, not on the order of the rows
    truth:     what is truly wanted: a registered grader or signal by name, FILE.py:FUNCTION, or a callable. Without it the truth
               is unknown everywhere
    limit:     read only the first rows

    Raises RowError for what cannot be read, ValueError where nothing is left to train on.

    >>> task = Dataset([{"prompt": f"{k}+1=", "reference": str(k + 1)} for k in range(10)], held_out=0.2)
    >>> len(task), [start.fields["reference"] for start in task.held_out_starts()]
    (8, ['9', '7'])
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
        *,
        prompt: str = "prompt",
        reference: str = "",
        split: str | None = None,
        held_out: float | int | str = 0.1,
        truth: Callable[..., Any] | str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        fields = {"prompt": prompt} | ({"reference": reference} if reference else {})
        rows = _load(data, fields, split, limit)
        if isinstance(held_out, str):
            kept = _load(held_out, fields, split, None)
            seen = {_key(start) for start in kept}
            rows = [start for start in rows if _key(start) not in seen]
        else:
            rows, kept = _part(rows, held_out)
        if not rows:
            raise ValueError(f"dataset: all {len(kept)} rows are held out, so there is nothing to train on")
        self._starts, self._held_out = rows, kept
        self.epochs = Epochs(len(rows), "\n".join(_key(start) for start in rows))
        self._truth = _truth_of(truth)

    def __len__(self) -> int:
        return len(self._starts)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """The next n starts of the epoch; a new epoch, in a new order, begins where one ends."""
        return [self._starts[k] for k in self.epochs.draw(n, rng)]

    def held_out_starts(self, n: int | None = None) -> Sequence[Start]:
        """The first n held-out starts (None: all; fewer where there are fewer), always the same and in the same order."""
        if not self._held_out:
            raise ValueError("dataset: nothing is held out (held_out is 0), so there is nothing to evaluate on")
        return self._held_out[:n]

    def truth(self, traj: Trajectories) -> Channel:
        """What the chosen truth says; invalid everywhere where none was chosen."""
        if self._truth is None:
            nothing = torch.zeros(len(traj), device=traj.device)
            return constant(nothing, nothing > 0, dict.fromkeys(traj.id.tolist(), "the data set has no truth"))
        channels = self._truth(traj)
        if len(channels) != 1:
            raise ValueError(f"dataset: the truth must be one channel, gives {sorted(channels)}")
        return next(iter(channels.values()))


def _load(data: Any, fields: Mapping[str, str], split: str | None, limit: int | None) -> list[Start]:
    if isinstance(data, str | os.PathLike):
        source, name = read_rows(data, fields=fields, split=split), os.fspath(data)
    else:
        source, name = _renamed(data, fields), "rows"
    starts = []
    for number, row in enumerate(source, 1):
        if limit is not None and number > limit:
            break
        if not row["prompt"]:
            raise RowError(f"{name} row {number}: its prompt is empty")
        starts.append(Start(f"{os.path.basename(name)}:{number}", row))
    if not starts:
        raise RowError(f"{name}: holds no rows")
    return starts


def _renamed(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, str]):
    for number, row in enumerate(rows, 1):
        lost = [found for found in fields.values() if found not in row]
        if lost:
            raise RowError(f"rows row {number}: has no field {lost[0]!r}; it has: {', '.join(row)}")
        yield dict(row) | {wanted: row[found] for wanted, found in fields.items()}


def _part(starts: Sequence[Start], held_out: float | int) -> tuple[list[Start], list[Start]]:
    """Those to train on, and those held out: the prompts whose digests come first."""
    prompts = sorted({_key(start) for start in starts}, key=_digest)
    if isinstance(held_out, float) and not 0 <= held_out < 1:
        raise ValueError(f"dataset: held_out must be a share from 0 to below 1, a whole number, or a file, got {held_out}")
    count = held_out if isinstance(held_out, int) else max(round(held_out * len(prompts)), 1 if held_out else 0)
    if not 0 <= count < len(prompts):
        raise ValueError(f"dataset: held_out must leave prompts to train on: {count} of {len(prompts)} are asked for")
    rank = {prompt: k for k, prompt in enumerate(prompts[:count])}
    kept = sorted((start for start in starts if _key(start) in rank), key=lambda start: rank[_key(start)])
    return [start for start in starts if _key(start) not in rank], kept


def _truth_of(truth: Callable[..., Any] | str | None) -> Callable[[Trajectories], Mapping[str, Channel]] | None:
    if truth is None:
        return None
    return resolve_reward(truth) if isinstance(truth, str) else as_signal(truth, "truth")


def _key(start: Start) -> str:
    prompt = start.fields["prompt"]
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
