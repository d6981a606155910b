"""The generated tasks of the `reasoning-gym` package by name, with their own scorers as truth and as a grader.

A scorer is not above suspicion. The one that most data sets inherit pays any answer that contains the right one by the ratio of
their lengths, so a list of guesses earns a share of the reward (the right number among ten of two digits: 2/29) and a wrong sign
costs little (`-14` for `14`: 2/3). Several pay a hundredth or a twentieth for anything. That of `game_of_life_halting` pays every
answer in full, that of `puzzle24` one fixed answer, `4*6*1*1`, on every puzzle. `payoff.scoring.validate` shows it for each. Those
in `EVALUATES` hand the answer to Python's `eval`, directly or through sympy: they belong in a process that may be lost.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from payoff._extras import require
from payoff.catalogue import method
from payoff.grading import signal
from payoff.pipeline import Start
from payoff.tasks.dataset import Epochs
from payoff.trajectories import Channel, Trajectories

EVALUATES = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
_SHARES = 1 << 32
_log = logging.getLogger("payoff")


@method("reasoning-gym", kind="task")
class ReasoningGym(nn.Module):
    """A generated task of `reasoning-gym`: its questions as prompts, its own scorer as the truth.

    dataset:    the name of the data set, `chain_sum` ...; all names: `payoff.tasks.reasoning_gym.names()`
    options:    of the data set's own configuration, such as {"min_terms": 2}
    size, seed: how many entries make an epoch, and which they are
    held_out:   the share of all questions kept for evaluation. A question is held out or not by a digest of its text, so the same
                one is never on both sides, whatever the seed
    answer_tag: the answer is what stands in the last <answer_tag>...</answer_tag>; without it, the whole response
    deadline:   seconds for one scoring of the truth, kept by a worker process; None scores in this process without a limit

    A start's fields: prompt, reference (None where the data set names no single right answer), and `entry`, which the scorer reads.
    Raises ValueError for an unknown name or option, with the nearest.

    >>> task = ReasoningGym("chain_sum", options={"max_terms": 2, "max_digits": 1})
    >>> start = task.starts(1, torch.Generator().manual_seed(0))[0]
    >>> start.fields["prompt"], start.fields["reference"]
    ('State the final answer to the following arithmetic problem: 9 + 5 =', '14')
    """

    def __init__(
        self,
        dataset: str,
        *,
        options: Mapping[str, Any] | None = None,
        size: int = 1000,
        seed: int = 0,
        held_out: float = 0.1,
        answer_tag: str | None = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or not 0 <= held_out < 1:
            raise ValueError(f"reasoning-gym: size must be at least 1 and held_out in [0, 1), got {size} and {held_out}")
        self.dataset = known(dataset)
        self.options, self.seed, self.held_out = dict(options or {}), seed, held_out
        self._data = _create(self.dataset, self.options, seed=seed, size=size)
        self._entries: dict[int, Mapping[str, Any]] = {}
        self.epochs = Epochs(size, f"{self.dataset} {seed} {sorted(self.options.items())}")
        scorer = partial(reasoning_gym_score, dataset=self.dataset, options=self.options, answer_tag=answer_tag)
        self._truth = signal(scorer, name="truth", workers=int(deadline is not None), deadline=deadline)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """The next n entries of the epoch that are not held out; a new epoch, in a new order, begins where one ends."""
        starts: list[Start] = []
        passed = 0
        while len(starts) < n:
            (k,) = self.epochs.draw(1, rng)
            start = self._start(k, self._entry(k), self.seed)
            if not self._is_held_out(start):
                starts.append(start)
                passed = 0
            elif (passed := passed + 1) > 2 * self.epochs.size:
                raise ValueError(f"reasoning-gym:{self.dataset}: all {self.epochs.size} questions fall into the held-out share")
        return starts

    def held_out_starts(self, n: int = 256) -> Sequence[Start]:
        """The first n held-out questions, each once, always the same; fewer where a long search finds no more."""
        if not self.held_out:
            raise ValueError(f"reasoning-gym:{self.dataset}: nothing is held out (held_out is 0)")
        found: dict[str, Start] = {}
        seed = (self.seed + _SHARES // 2) % _SHARES  # entries are drawn from seed + number: far from those of the epoch
        size = int(4 * (n + 25) / self.held_out)
        entries = _create(self.dataset, self.options, seed=seed, size=size)
        for k in range(size):
            with _quiet():
                start = self._start(k, entries[k], seed)
            if self._is_held_out(start):
                found.setdefault(start.fields["prompt"], start)
            if len(found) == n:
                break
        if not found:
            raise ValueError(f"reasoning-gym:{self.dataset}: has too few different questions to hold out {self.held_out} of them")
        return list(found.values())

    def truth(self, traj: Trajectories) -> Channel:
        """What the data set's own scorer gives, paid at the end; invalid, with its reason, where the scorer fails."""
        return self._truth(traj)["truth"]

    def _entry(self, k: int) -> Mapping[str, Any]:
        if k not in self._entries:
            with _quiet():
                self._entries[k] = self._data[k]
        return self._entries[k]

    def _start(self, k: int, entry: Mapping[str, Any], seed: int) -> Start:
        fields = {"prompt": entry["question"], "reference": entry["answer"], "entry": entry}
        return Start(f"reasoning-gym:{self.dataset}:{seed}:{k}", fields)

    def _is_held_out(self, start: Start) -> bool:
        digest = hashlib.blake2b(start.fields["prompt"].encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < self.held_out * _SHARES


@method("reasoning-gym-score", kind="grader")
def reasoning_gym_score(
    response: str,
    entry: Mapping[str, Any] | None = None,
    reference: str | None = None,
    prompt: str | None = None,
    *,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    answer_tag: str | None = None,
) -> float:
    """What the scorer of a `reasoning-gym` data set gives a response, stripped of blank space around it.

    entry:      the row's entry, which names its data set; without it, an entry is made of prompt and reference, which is enough for
                scorers that read no more, and `dataset` must be given
    options:    of the data set, for the few scorers that read their configuration
    answer_tag: score what stands in the last <answer_tag>...</answer_tag>; 0 where there is none

    Loophole of the inherited scorer: an answer that contains the right one is paid len(right) / len(answer).

    >>> entry = {"question": "4 - 1 - 7 =", "answer": "-4", "metadata": {"source_dataset": "chain_sum"}}
    >>> reasoning_gym_score("-4", entry), reasoning_gym_score("-3 -4 -5", entry)
    (1.0, 0.25)
    """
    if entry is None:
        entry = {"question": prompt, "answer": reference, "metadata": {}}
    source = entry.get("metadata", {}).get("source_dataset") or dataset
    if source is None:
        raise ValueError("reasoning-gym-score: the row has no entry, so the data set must be named: reasoning-gym:NAME")
    if source in _TUPLES:
        entry = _with_tuples(entry)
    answer = response.strip()
    if answer_tag is not None:
        answer = require("reasoning_gym.utils", "reading an answer tag").extract_answer(response, tag_name=answer_tag)
    settings = repr(dict(options)) if options and source == dataset else "{}"
    with _quiet():
        return float(_scorer(source, settings)(answer, entry))


def names() -> list[str]:
    """The names of all data sets of the installed `reasoning-gym`.

    >>> "chain_sum" in names()
    True
    """
    factory = require("reasoning_gym.factory", "the task reasoning-gym")
    return sorted(factory.DATASETS)


def known(dataset: str) -> str:
    """The name of a data set as the package writes it (hyphens are underscores); ValueError with the nearest for an unknown one."""
    name = dataset.removeprefix("reasoning-gym:").replace("-", "_")
    if name not in names():
        like = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {like[0]}?" if like else "; all names: payoff.tasks.reasoning_gym.names()"
        raise ValueError(f"reasoning-gym has no data set {dataset!r}{hint}")
    return name


_TUPLES = frozenset({"arc_agi", "rearc"})  # compared with nested tuples, which a row read from a file holds as lists


def _with_tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "metadata": {name: _tupled(value) for name, value in entry["metadata"].items()}}


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def _create(dataset: str, options: Mapping[str, Any], *, seed: int, size: int) -> Any:
    """The data set, or ValueError for an option that it does not have or take."""
    factory = require("reasoning_gym.factory", "the task reasoning-gym")
    allowed = [field.name for field in dataclasses.fields(factory.DATASETS[dataset][1]) if field.name not in ("seed", "size")]
    for option in options:
        if option not in allowed:
            like = difflib.get_close_matches(option, allowed, n=1)
            hint = f"; did you mean {like[0]!r}?" if like else ""
            raise ValueError(f"reasoning-gym:{dataset} has no option {option!r}{hint}; its options: {', '.join(allowed)}")
    try:
        with _quiet():
            return factory.create_dataset(dataset, seed=seed, size=size, **options)
    except Exception as error:  # the package checks options by assertions, type errors and its own
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"reasoning-gym:{dataset}: {why} (options: {dict(options)})") from None


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Some generators and scorers print; standard output is for results."""
    return contextlib.redirect_stdout(io.StringIO())


@cache
def _scorer(dataset: str, options: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    if known(dataset) in EVALUATES:
        _log.warning("reasoning-gym:%s: its scorer evaluates answers as Python code; score in worker processes", dataset)
    return _create(known(dataset), ast.literal_eval(options), seed=0, size=1).score_answer
