"""What an audit is made of: a reward, the rows that speak about it, and everything of both that several checks need."""

from __future__ import annotations

import itertools
import operator
import random
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.attempts import number, text_of
from payoff.audit.estimators import quantile_bins
from payoff.audit.measurement import Measurement
from payoff.audit.scorer import Row, Score, Scorer, Scores, together
from payoff.audit.stored_rows import Responses, column, prompt_name
from payoff.contents import sees

MOST = 65_536  # responses that statistics rest on; of more, whole prompts are drawn
READ = 1024  # rows that are read together
ASKED_OF = 20_000  # responses among which those are drawn that are changed and put before the reward again


@dataclass(frozen=True)
class Case:
    """A reward and the rows it is audited on; what several checks need is computed once.

    rows:    as they were read; a pair of `chosen` and `rejected` counts as two responses
    gold:    the field with the true score of a response, where there is one
    truth:   a scorer of what the reward stands for, where there is one
    budget:  rewards that the black-box search may ask for
    most:    responses that statistics rest on. Of more rows than that, whole prompts are drawn at random, which every such measure
             says: at 65 536 responses to 4 096 prompts an interval of a share is at most 3.1 % wide, and a bound is passed or not.
             What is counted and not estimated (verdicts, reasons, times) is of all rows.
    members: other rewards for the same responses, which with this one make an ensemble
    served:  another path to this reward (a server, another precision), to be compared with it
    prices:  by what the reward counts (`calls`, or what a judge or a server counts: requests, prompt_tokens ...), the price of one
    discount: of returns, where the rows are transitions
    seconds: that very long responses may take in all
    difficulty: the field that says how hard a row is, a number or a word; None: how seldom its prompt is answered well, by gold
    """

    score: Scorer
    rows: Sequence[Row]
    gold: str | None = None
    truth: Score | None = None
    seed: int = 0
    budget: int = 4000
    most: int = MOST
    members: Sequence[Scorer] = ()
    served: Scorer | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    discount: float = 0.99
    seconds: float = 5.0
    difficulty: str | None = None

    @cached_property
    def moves(self) -> bool:
        """Whether the rows are transitions and not responses."""
        first = next(iter(self.rows), {})
        return "next_state" in first and "state" in first and first.get("response") is None

    @cached_property
    def singles(self) -> Responses:
        """Rows of one response each, with pairs labelled under `label`."""
        return Responses.of(self.rows, self.gold or "gold")

    @cached_property
    def label(self) -> str | None:
        """The gold field; pairs carry their own label under "gold"."""
        return self.gold or ("gold" if len(self.singles) and self.singles.paired else None)

    @cached_property
    def scores(self) -> Scores:
        """What the reward gives the responses as they are."""
        if "columns" in self.__dict__ or sees(self.score.signal) != "item":
            return self.score(self.singles)
        columns, several = Columns(self.label, self.difficulty), []
        for first in range(0, len(self.singles), self.score.batch):  # rows that are read once are used twice
            some = self.singles[first : first + self.score.batch]
            columns.take(some)
            several.append(self.score(some))
        self.__dict__["columns"] = columns
        return together(several)

    @cached_property
    def columns(self) -> Columns:
        """What is read of the responses besides the reward."""
        columns = Columns(self.label, self.difficulty)
        for first in range(0, len(self.singles), READ):
            columns.take(self.singles[first : first + READ])
        return columns

    @cached_property
    def group(self) -> Int64[Tensor, " N"]:
        """Which responses answer the same prompt."""
        return torch.from_numpy(np.array(self.columns.group, dtype=np.int64))

    @cached_property
    def drawn(self) -> Int64[Tensor, " M"] | None:
        """The places of the responses that statistics rest on, whole prompts in the order of the rows; None where it is all."""
        return None if len(self.singles) <= self.most else _drawn(self.group, self.most, self.seed)

    @cached_property
    def few(self) -> Sequence[Row]:
        """The rows that are changed and put before the reward again: all, or those of prompts drawn at random."""
        if self.moves and len(self.rows) > ASKED_OF:
            return [self.rows[k] for k in sorted(random.Random(self.seed).sample(range(len(self.rows)), ASKED_OF))]
        if len(self.singles) <= ASKED_OF:
            return self.rows
        places = dict.fromkeys(self.singles.source(k) for k in self.few_places)
        return [self.rows[k] for k in places]

    @cached_property
    def few_places(self) -> list[int]:
        """The places, among all responses, of those in `few`, where these are not all."""
        return _drawn(self.group, ASKED_OF, self.seed).tolist()

    @cached_property
    def member_scores(self) -> list[Scores]:
        """What the other rewards of an ensemble give the responses that statistics rest on."""
        return [member(self.responses) for member in self.members]

    @cached_property
    def responses(self) -> Responses:
        """The responses that statistics rest on."""
        return self.singles if self.drawn is None else self.singles.only(self.drawn.tolist())

    @cached_property
    def value(self) -> Float64[Tensor, " M"]:
        """Their rewards."""
        return self.of_drawn(self.scores.value)

    @cached_property
    def valid(self) -> Bool[Tensor, " M"]:
        """Which of them have a verdict."""
        return self.of_drawn(self.scores.valid)

    @cached_property
    def prompt(self) -> Int64[Tensor, " M"]:
        """Which of them answer the same prompt."""
        return self.of_drawn(self.group)

    def of_drawn(self, x: Tensor) -> Tensor:
        """A number per response, of those that statistics rest on."""
        return x if self.drawn is None else x[self.drawn]

    @cached_property
    def length(self) -> Float64[Tensor, " M"]:
        """Characters of each."""
        return self.of_drawn(torch.from_numpy(np.array(self.columns.length, dtype=np.float64)))

    @cached_property
    def source(self) -> tuple[Int64[Tensor, " M"], list[str]]:
        """The number of the source of each, and the names of all sources; "(none)" where a row has none."""
        return self.of_drawn(torch.from_numpy(np.array(self.columns.source, dtype=np.int64))), list(self.columns.sources)

    @cached_property
    def parts(self) -> dict[str, Float64[Tensor, " M"]]:
        """What the reward said of them besides the audited number, by channel; NaN where there is no verdict."""
        found = {name: part for name, part in self.scores.parts.items() if name not in self.score.audited}
        return {name: self.of_drawn(torch.where(valid, value, nan)) for name, (value, valid) in found.items()}

    @cached_property
    def slices(self) -> dict[str, tuple[Int64[Tensor, " M"], list[str]]]:
        """By length, difficulty and source, where there are several: the slice of each response, and the names of the slices."""
        found = {"length": binned(self.length, "characters"), "difficulty": self._by_difficulty, "source": self.source}
        known = lambda names: [name for name in names if name != "(none)"]
        return {by: sliced for by, sliced in found.items() if sliced is not None and (by == "length" or len(known(sliced[1])) > 1)}

    @property
    def _by_difficulty(self) -> tuple[Int64[Tensor, " M"], list[str]] | None:
        if self.difficulty is not None:
            told = self.columns.hard if self.drawn is None else [self.columns.hard[k] for k in self.drawn.tolist()]
            if all(value is None or number(value) is not None for value in told):
                known = [nan if (x := number(value)) is None else x for value in told]
                return binned(torch.tensor(known, dtype=torch.float64), self.difficulty)
            names = list(dict.fromkeys("(none)" if value is None else str(value) for value in told))
            place = {name: k for k, name in enumerate(names)}
            return torch.tensor([place["(none)" if value is None else str(value)] for value in told]), names
        if self._gold is None:
            return None
        gold, known_gold = self._gold
        sizes = torch.zeros(int(self.prompt.max()) + 1, dtype=torch.float64).index_add(0, self.prompt, known_gold.double())
        mean = torch.zeros_like(sizes).index_add(0, self.prompt, gold) / sizes
        return binned(mean[self.prompt], "mean gold of the prompt")

    @cached_property
    def _gold(self) -> tuple[Float64[Tensor, " M"], Bool[Tensor, " M"]] | None:
        known = self.of_drawn(torch.from_numpy(np.array(self.columns.gold, dtype=np.float64)))
        valid = known.isfinite()
        return (torch.where(valid, known, 0.0), valid) if bool(valid.any()) else None

    @property
    def gold_value(self) -> Float64[Tensor, " M"] | None:
        """The true scores, None where no row has one."""
        return None if self._gold is None else self._gold[0]

    @property
    def gold_valid(self) -> Bool[Tensor, " M"] | None:
        """Which rows have a true score."""
        return None if self._gold is None else self._gold[1]

    @cached_property
    def scope(self) -> str:
        """What statistics rest on, where that is not everything."""
        if self.drawn is None:
            return ""
        prompts = len(self.prompt.unique())
        return f"Of {len(self.drawn)} responses to {prompts} prompts, drawn at random from {len(self.singles)}."

    def told(self, found: Sequence[Measurement]) -> list[Measurement]:
        """Measurements of drawn rows with what they rest on, and with the places that their examples have among all responses."""
        if self.drawn is None:
            return list(found)
        place = lambda example: {**example, "row": int(self.drawn[example["row"]])} if "row" in example else example  # type: ignore[index]
        return [
            replace(m, note=f"{m.note} {self.scope}".strip(), examples=tuple(map(place, m.examples))) if m.estimate else m
            for m in found
        ]

    def by_gold(self, measure: Callable[..., list[Measurement]], **options: Any) -> list[Measurement]:
        """A measure of scores against gold on these rows."""
        given: Mapping[str, Any] = {"gold_valid": self.gold_valid, "rows": self.responses, **options}
        return self.told(measure(self.value, self.valid, self.gold_value, self.prompt, **given))

    def by_rows(self, measure: Callable[..., list[Measurement]], **options: Any) -> list[Measurement]:
        """A measure that changes rows and asks the reward again."""
        return measure(self.score, self.few, gold=self.label, seed=self.seed, **options)


class Columns:
    """Of every response, in compact arrays: the number of its prompt, gold (NaN: none), its characters and its source.

    difficulty: a field to be kept as it is, in `hard`
    """

    def __init__(self, label: str | None, difficulty: str | None = None) -> None:
        self.label, self.difficulty = label, difficulty
        self.hard: list[Any] = []
        self.group, self.gold, self.length, self.source = array("q"), array("d"), array("q"), array("q")
        self.sources: dict[str, int] = {}
        self._places: dict[str | None, int] = {}  # the sources, by the name as rows have it
        self._names: dict[Any, int] = {}

    def take(self, rows: Sequence[Row]) -> None:
        """Those of more responses; what every row of a kind has is taken without a look at each."""
        if not rows:
            return
        self._take_groups(rows)
        if self.difficulty is not None:
            self.hard.extend(column(rows, self.difficulty))
        known: list[Any] = [None] * len(rows) if self.label is None else column(rows, self.label)
        try:
            self.gold.extend(array("d", known))
        except (TypeError, OverflowError):  # words, or nothing
            self.gold.extend(nan if (x := number(value)) is None else x for value in known)
        said = column(rows, "response")
        self.length.extend(array("q", list(map(len, said if set(map(type, said)) == {str} else map(text_of, said)))))
        names = column(rows, "source")
        try:
            self.source.extend(array("q", list(map(self._places.__getitem__, names))))
        except (KeyError, TypeError):
            told = ["(none)" if name is None else str(name) for name in names]
            places = [self.sources.setdefault(name, len(self.sources)) for name in told]
            self.source.extend(places)
            self._places |= {name: place for name, place in zip(names, places, strict=True) if name is None or type(name) is str}

    def _take_groups(self, rows: Sequence[Row]) -> None:
        """Rows of one prompt mostly follow one another, and need one look at the table of prompts."""
        keys = column(rows, "prompt")
        groups = column(rows, "group")
        if groups.count(None) < len(groups):
            keys = list(zip(groups, keys, strict=True))
        first = 0
        for last in [*itertools.compress(itertools.count(1), map(operator.ne, keys, keys[1:])), len(rows)]:
            row = rows[first]
            if row.get("group") is None and not row.get("prompt"):  # rows that name nothing stand alone
                names: list[Hashable] = [prompt_name(row, len(self.group) + k) for k in range(last - first)]
                self.group.extend([self._names.setdefault(name, len(self._names)) for name in names])
            else:
                number_of = self._names.setdefault(prompt_name(row, -1), len(self._names))
                self.group.extend(array("q", [number_of]) * (last - first))
            first = last


def _drawn(group: Int64[Tensor, " N"], most: int, seed: int) -> Int64[Tensor, " M"]:
    """The places of the rows of whole prompts, drawn at random until there are `most` rows; at least one prompt."""
    sizes = torch.bincount(group)
    order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(seed))
    kept = order[: max(1, int((sizes[order].cumsum(0) <= most).sum()))]
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    chosen[kept] = True
    return chosen[group].nonzero().squeeze(1)


def binned(x: Float64[Tensor, " N"], what: str, count: int = 4) -> tuple[Int64[Tensor, " N"], list[str]]:
    """Numbers in at most `count` bins of about equal mass, and the bins by name; NaN is a bin "(none)" of its own.

    >>> binned(torch.tensor([1.0, 1.0, 5.0]).double(), "steps")
    (tensor([0, 0, 1]), ['1 steps', '5 steps'])
    """
    known = ~x.isnan()
    place = torch.zeros(len(x), dtype=torch.int64)
    place[known] = quantile_bins(x[known], count)
    bins = int(place[known].max()) + 1 if bool(known.any()) else 0
    names = []
    for k in range(bins):
        inside = x[known & (place == k)]
        low, high = float(inside.min()), float(inside.max())
        names.append(f"{low:.4g} {what}" if low == high else f"{low:.4g} to {high:.4g} {what}")
    place[~known] = bins
    return place, [*names, *(["(none)"] if bool((~known).any()) else [])]
