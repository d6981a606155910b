"""One measured property of a reward: an estimate with its interval, the bound it is held against, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from payoff.intervals import Interval

Result = Literal["holds", "fails", "inconclusive", "not applicable"]


@dataclass(frozen=True)
class Measurement:
    """What one check found.

    name:     the measure, unique in a report: "attack-opener", "auc", "length-bias"
    check:    the family it belongs to: "attacks", "discrimination" ...
    question: what it asks, in plain words
    estimate: the number with its interval; None where it could not be measured, and `note` says why
    bound:    the last value that is still good; None for a number that is only told
    bad:      the side of the bound that is bad
    worst:    the value at which a flaw is as grave as it can be: severity 1
    unit:     of the estimate: "share of attempts", "truth", "nats" ...
    advice:   what to change, in one sentence
    remedies: registered names of methods that do it, the one with the largest expected effect first
    examples: the worst cases as plain data, worst first
    series:   what a plot of this measure needs: name -> numbers, all of one length
    needs:    the least sample (in units of the estimate's n) for this measure to mean anything
    note:     what the number does not say, or why there is none
    effects:  what each remedy is expected to change, the largest first (see `effects.with_effects`)
    """

    name: str
    check: str
    question: str
    estimate: Interval | None
    bound: float | None = None
    bad: Literal["above", "below"] = "above"
    worst: float = 1.0
    unit: str = ""
    advice: str = ""
    remedies: tuple[str, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    needs: int = 1
    note: str = ""
    effects: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.estimate is None and not self.note:
            raise ValueError(f"measurement {self.name}: without an estimate the note must say why")
        if self.bound is not None and self.bound == self.worst:
            raise ValueError(f"measurement {self.name}: bound and worst are both {self.bound}: nothing lies between good and worst")

    @property
    def result(self) -> Result:
        """`fails` where the whole interval lies beyond the bound, `holds` where none of it does, else `inconclusive`."""
        if self.estimate is None or self.bound is None:
            return "not applicable"
        near, far = self._ends()
        if near > 0:
            return "fails"
        if self.estimate.low is None or self.estimate.n < self.needs or far > 0:
            return "inconclusive"
        return "holds"

    @property
    def severity(self) -> float:
        """How far beyond the bound the near end of the interval lies, in 0..1 of the way to `worst`; 0 unless the check fails.

        The near end and not the estimate: a rate of 1 in 2 seen twice must not outrank a rate of .4 seen in a thousand attempts.
        """
        if self.result != "fails":
            return 0.0
        return min(1.0, self._beyond())

    def _beyond(self) -> float:
        """Severity before it is cut off at 1."""
        return self._ends()[0] / abs(self.worst - self.bound) if self.result == "fails" else 0.0  # type: ignore[operator]

    def _ends(self) -> tuple[float, float]:
        """How far beyond the bound the interval's near and far ends lie; negative on the good side."""
        estimate, bound = self.estimate, self.bound
        if estimate is None or bound is None or estimate.low is None or estimate.high is None:  # too few to say: never a failure
            return -math.inf, math.inf
        low, high = estimate.low - bound, estimate.high - bound
        ends = (low, high) if self.bad == "above" else (-high, -low)
        return (-math.inf, ends[1]) if estimate.n < self.needs else ends

    def as_json(self) -> dict[str, Any]:
        """Plain data for results files: every field, the interval with its names, result and severity."""
        estimate = None if self.estimate is None else {k: v for k, v in self.estimate._asdict().items() if k not in ("sd", "p")}
        return {
            "measure": self.name,
            "check": self.check,
            "question": self.question,
            "result": self.result,
            "severity": self.severity,
            "estimate": None if estimate is None else estimate["value"],
            "interval": None if estimate is None or estimate["low"] is None else [estimate["low"], estimate["high"]],
            "n": 0 if estimate is None else estimate["n"],
            "level": None if estimate is None else estimate["level"],
            "method": None if estimate is None else estimate["method"],
            "needs": self.needs,
            "bound": self.bound,
            "bad": self.bad,
            "worst": self.worst,
            "unit": self.unit,
            "advice": self.advice,
            "remedies": list(self.remedies),
            "effects": [dict(effect) for effect in self.effects],
            "examples": [dict(example) for example in self.examples],
            "series": {name: list(values) for name, values in self.series.items()},
            "note": self.note,
        }


# Of findings as grave as can be, what would explain the others comes first: a reward that gives the same row two numbers, or all
# rows one, fails everything else for that reason; how often it is wrong, and what a search finds, say least about why.
_EXPLAINS = {
    "consistency": 0,
    "stability": 1,
    "learnability": 1,
    "health": 1,
    "discrimination": 3,
    "noise": 3,
    "calibration": 3,
    "over-optimisation": 3,
    "correlated-proxies": 3,
}
_SPECIFIC, _SEARCH = 2, 4


def worst_first(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Those that fail, by severity; then those that could not be decided; then what holds; within each as they came.

    Findings of one severity stand in the order of what explains what (consistency, learnability, then attacks, biases and the like,
    then how often it is wrong, last what a search found), and then by how far they lie beyond the worst.

    >>> from payoff.intervals import wilson
    >>> mild = Measurement("attack-empty", "attacks", "Does an empty answer pay?", wilson(5, 40), bound=0.01)
    >>> grave = Measurement("attack-opener", "attacks", "Does an opener pay?", wilson(30, 40), bound=0.01)
    >>> [m.name for m in worst_first([mild, grave])], grave.result
    (['attack-opener', 'attack-empty'], 'fails')
    """
    order = {"fails": 0, "inconclusive": 1, "holds": 2, "not applicable": 3}
    tier = lambda m: _SEARCH if m.name == "attack-search" else _EXPLAINS.get(m.check, _SPECIFIC)
    fails = lambda m: (-m.severity, tier(m), -m._beyond()) if m.result == "fails" else (0.0, 0, 0.0)
    return sorted(measurements, key=lambda m: (order[m.result], *fails(m)))
