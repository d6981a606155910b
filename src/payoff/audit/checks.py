"""The checks of an audit by name: what each asks, and how it is run on a reward and the rows that speak about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.attack_search import attack_search
from payoff.audit.attacks import attacks
from payoff.audit.attempts import cluster_of, number, responses_of, text_of
from payoff.audit.bias import bias
from payoff.audit.calibration import calibration
from payoff.audit.consistency import consistency
from payoff.audit.correlated import correlated_proxies
from payoff.audit.discrimination import discrimination, discrimination_by
from payoff.audit.ensembles import ensemble
from payoff.audit.estimators import quantile_bins
from payoff.audit.health import constant_groups, invalid_verdicts, latency
from payoff.audit.invariances import invariances
from payoff.audit.learnability import learnability, stability
from payoff.audit.measurement import Measurement
from payoff.audit.noise import noise
from payoff.audit.optimisation import over_optimisation
from payoff.audit.oversized import oversized
from payoff.audit.reward_hacks import reward_hacks
from payoff.audit.scorer import Row, Score, Scorer, Scores


@dataclass(frozen=True)
class Case:
    """A reward and the rows it is audited on; what several checks need is computed once.

    rows:   as they were read; a pair of `chosen` and `rejected` counts as two responses
    gold:   the field with the true score of a response, where there is one
    truth:  a scorer of what the reward stands for, where there is one
    budget: rewards that the black-box search may ask for
    """

    score: Scorer
    rows: Sequence[Row]
    gold: str | None = None
    truth: Score | None = None
    seed: int = 0
    budget: int = 4000

    @cached_property
    def singles(self) -> list[Row]:
        """Rows of one response each, with pairs labelled under `label`."""
        return [row for row in responses_of(self.rows, self.label) if row.get("response") is not None]

    @cached_property
    def label(self) -> str | None:
        """The gold field; pairs carry their own label under "gold"."""
        pairs = any(row.get("response") is None and row.get("chosen") is not None for row in self.rows)
        return self.gold or ("gold" if pairs else None)

    @cached_property
    def scores(self) -> Scores:
        """What the reward gives the responses as they are."""
        return self.score(self.singles)

    @cached_property
    def group(self) -> Int64[Tensor, " N"]:
        """Which rows answer the same prompt."""
        names: dict[Any, int] = {}
        return torch.tensor([names.setdefault(cluster_of(row, i), len(names)) for i, row in enumerate(self.singles)])

    @cached_property
    def _gold(self) -> tuple[Float64[Tensor, " N"], Bool[Tensor, " N"]] | None:
        known = [None if self.label is None else number(row.get(self.label)) for row in self.singles]
        if all(value is None for value in known):
            return None
        valid = torch.tensor([value is not None for value in known])
        return torch.tensor([value or 0.0 for value in known], dtype=torch.float64), valid

    @property
    def gold_value(self) -> Float64[Tensor, " N"] | None:
        """The true scores, None where no row has one."""
        return None if self._gold is None else self._gold[0]

    @property
    def gold_valid(self) -> Bool[Tensor, " N"] | None:
        """Which rows have a true score."""
        return None if self._gold is None else self._gold[1]

    def by_gold(self, measure: Callable[..., list[Measurement]], **options: Any) -> list[Measurement]:
        """A measure of scores against gold on these rows."""
        return measure(
            self.scores.value,
            self.scores.valid,
            self.gold_value,
            self.group,
            gold_valid=self.gold_valid,
            rows=self.singles,
            **options,
        )

    def by_rows(self, measure: Callable[..., list[Measurement]], **options: Any) -> list[Measurement]:
        """A measure that changes rows and asks the reward again."""
        return measure(self.score, self.rows, gold=self.label, seed=self.seed, **options)


class Check(NamedTuple):
    """A family of measurements. asks: whether it puts changed rows before the reward, and so costs calls."""

    question: str
    run: Callable[[Case], list[Measurement]]
    asks: bool = False


def _discrimination(case: Case) -> list[Measurement]:
    found = case.by_gold(discrimination)
    if case.gold_value is None:
        return found
    lengths = torch.tensor([len(text_of(row["response"])) for row in case.singles], dtype=torch.float64)
    found += case.by_gold(discrimination_by, part=quantile_bins(lengths, 4), by="length")
    sources = [str(row["source"]) if row.get("source") is not None else None for row in case.singles]
    if len({source for source in sources if source is not None}) > 1:
        names = sorted({source or "(none)" for source in sources})
        part = torch.tensor([names.index(source or "(none)") for source in sources])
        found += case.by_gold(discrimination_by, part=part, by="source", names=names)
    return found


def _attacks(case: Case) -> list[Measurement]:
    found = case.by_rows(attacks, truth=case.truth) + case.by_rows(oversized, seconds=5.0)
    recorded = any("school_of_reward_hacks" in row for row in case.rows)
    return found + (case.by_rows(reward_hacks) if recorded else [])


def _noise(case: Case) -> list[Measurement]:
    return case.by_gold(calibration) + case.by_gold(noise)


def _ensembles(case: Case) -> list[Measurement]:
    names = getattr(case.score, "members", [])
    # Several channels of one signal: asked again one by one, for the scorer keeps their mean alone.
    each = [replace(case.score, channel=name)(case.singles) for name in names]
    none = torch.zeros(0, len(case.singles))
    scores = torch.stack([s.value for s in each]) if each else none.double()
    valid = torch.stack([s.valid for s in each]) if each else none.bool()
    return ensemble(scores, valid, case.gold_value, case.group, gold_valid=case.gold_valid, rows=case.singles)


def _health(case: Case) -> list[Measurement]:
    scores = case.scores
    found = invalid_verdicts(scores.valid, scores.reasons, case.group, rows=case.singles)
    found += case.by_gold(constant_groups)
    return found + latency(case.score.latencies, total=case.score.seconds, rows=case.score.rows)


CHECKS: Mapping[str, Check] = {
    "discrimination": Check("Does it tell better answers from worse ones?", _discrimination),
    "over-optimisation": Check("What happens to the truth when the reward is optimised?", lambda c: c.by_gold(over_optimisation)),
    "correlated-proxies": Check(
        "Does it go on agreeing with the truth where a policy will go?", lambda c: c.by_gold(correlated_proxies)
    ),
    "attacks": Check("Does it pay responses without merit?", _attacks, asks=True),
    "attack-search": Check(
        "Does a search find responses without merit that it pays?",
        lambda c: c.by_rows(attack_search, truth=c.truth, budget=c.budget),
        asks=True,
    ),
    "invariances": Check(
        "Does it keep paying a right answer that is written otherwise?", lambda c: c.by_rows(invariances, truth=c.truth), asks=True
    ),
    "bias": Check("Does it pay for what is not merit?", lambda c: c.by_rows(bias), asks=True),
    "noise": Check("How often is it wrong, and does it know?", _noise),
    "consistency": Check("Does it say the same when asked the same?", lambda c: c.by_rows(consistency), asks=True),
    "learnability": Check(
        "Can a policy learn from it?",
        lambda c: learnability(c.scores.value, c.scores.valid, c.group) + c.by_gold(stability),
    ),
    "ensembles": Check("Where several rewards are averaged: what do they all get wrong?", _ensembles),
    "health": Check("What does it cost, and how often is there no verdict?", _health),
}
