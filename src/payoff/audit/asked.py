"""What is fixed about a measure before any number is seen: its question, its bound and why, and what to do when it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from payoff.audit.measurement import Measurement
from payoff.intervals import Interval


@dataclass(frozen=True)
class Asked:
    """The standing part of one measure; the fields are those of a Measurement, and `why` says where the bound comes from."""

    question: str
    unit: str = ""
    bound: float | None = None
    why: str = ""
    bad: Literal["above", "below"] = "above"
    worst: float = 1.0
    advice: str = ""
    remedies: tuple[str, ...] = ()
    needs: int = 3


@dataclass(frozen=True)
class Family:
    """The measures of one check, by name, and the two ways in which one of them ends: with a number or without.

    >>> from payoff.intervals import wilson
    >>> family = Family("health", {"invalid": Asked("How often is there no verdict?", bound=0.01)})
    >>> family.found("invalid", wilson(30, 40)).result, family.found("invalid", wilson(30, 40), {"invalid": 0.9}).result
    ('fails', 'holds')
    >>> family.missing("invalid", "nothing was asked").result
    'not applicable'
    """

    check: str
    asked: Mapping[str, Asked]

    def found(
        self,
        name: str,
        estimate: Interval | None,
        bounds: Mapping[str, float] | None = None,
        *,
        standing: str | None = None,
        **rest: Any,
    ) -> Measurement:
        """The measurement `name`; `bounds` replaces bounds by name, `standing` names the entry where a measure has many names.

        rest: further fields of the Measurement, before what stands.
        """
        asked = self.asked[standing or name]
        bound = (bounds or {}).get(name, (bounds or {}).get(standing or name, asked.bound))
        fields = {"unit": asked.unit, "bad": asked.bad, "worst": asked.worst, "advice": asked.advice}
        fields |= {"remedies": asked.remedies, "needs": asked.needs, "bound": bound}
        found = Measurement(name, self.check, asked.question, estimate, note="-", **fields)  # type: ignore[arg-type]
        return replace(found, **({"note": "" if estimate else "could not be measured"} | rest))

    def missing(self, name: str, why: str, *, standing: str | None = None) -> Measurement:
        """The measurement `name` without a number, and why."""
        return self.found(name, None, standing=standing, note=why)

    def all_missing(self, why: str) -> list[Measurement]:
        """Every measure of the family without a number."""
        return [self.missing(name, why) for name in self.asked]
