"""What each alarm asks of a window of training metrics: a condition takes the window and returns an alarm, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from payoff.audit.trends import FEWEST, NOISE, Shape, polynomials, stands_out
from payoff.intervals import t_two_sided

FINDINGS = ("reward-truth-part", "checker-part")  # reward against truth; the others are signals until one of these confirms
NAMES = (
    *FINDINGS,
    *("length-drift", "entropy-collapse", "groups-flat", "invalid-rising", "saturation", "component-dominance", "kl-runaway"),
)
COUPLED = 16  # degrees in which one series is asked to follow another


@dataclass(frozen=True)
class Alarm:
    """One alarm.

    name:     one of `NAMES`
    update:   when it was raised
    since:    the first update of the window in which it shows
    says:     what was seen, in one sentence
    evidence: the numbers it rests on: changes along the fitted line, levels, p of each part of the test, and `level`, which every p
              had to reach
    severity: how grave, 0 to 1: the share of truth lost, of entropy lost, of groups without spread ...
    """

    name: str
    update: int
    since: int
    says: str
    evidence: Mapping[str, float]
    severity: float

    @property
    def kind(self) -> Literal["finding", "signal"]:
        """A finding contradicts the reward by truth or a checker; a signal may as well come from a run that is well."""
        return "finding" if self.name in FINDINGS else "signal"

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the kind."""
        return {**asdict(self), "evidence": dict(self.evidence), "kind": self.kind}


@dataclass(frozen=True)
class Window:
    """Rows that are looked at together, and the level of the tests on them."""

    rows: Sequence[Mapping[str, float | int]]
    level: float
    unit: str = "update"
    _trends: dict[str, Shape | None] = field(default_factory=dict, repr=False)

    def known(self, *keys: str) -> list[tuple[float | int, ...]]:
        """(update, value of each key) of the rows that have them all."""
        return [(row["update"], *(row[key] for key in keys)) for row in self.rows if all(key in row for key in keys)]

    def trend(self, key: str) -> Shape | None:
        """The trend of a metric, computed once."""
        if key not in self._trends:
            points = self.known(key)
            self._trends[key] = stands_out([x for x, _ in points], [y for _, y in points])
        return self._trends[key]

    def end(self, key: str) -> float:
        """The mean over the last quarter of a metric's values."""
        values = [y for _, y in self.known(key)]
        last = values[-max(1, len(values) // 4) :]
        return sum(last) / len(last)

    @cached_property
    def span(self) -> str:
        """The window in words."""
        return f"Over {self.unit}s {self.rows[0]['update']:g} to {self.rows[-1]['update']:g}"

    def alarm(self, name: str, says: str, severity: float, **evidence: float) -> Alarm:
        """An alarm that this window raises."""
        at, since = int(self.rows[-1]["update"]), int(self.rows[0]["update"])
        numbers = {**evidence, "level": self.level, "rows": float(len(self.rows))}
        return Alarm(name, at, since, f"{self.span} {says}.", numbers, min(1.0, max(0.0, severity)))


def parting(seen: Window, name: str, key: str, fall: float) -> Alarm | None:
    """The reward rises, and truth or the checker falls, by at least `fall`. Severity: the share of it that is lost.

    >>> rows = [{"update": k, "reward": k + k % 2, "truth": 0.9 - 0.02 * k + 0.01 * (k % 3)} for k in range(32)]
    >>> seen = Window(rows, level=0.001)
    >>> found = parting(seen, "reward-truth-part", "truth", fall=0.05)
    >>> round(found.severity, 2), found.kind
    (0.68, 'finding')
    """
    reward, other = seen.trend("reward"), seen.trend(key)
    if reward is None or other is None or max(reward.p_rise, other.p_fall) > seen.level or -other.change < fall:
        return None
    values = [y for _, y in seen.known(key)]
    before = sum(values) / len(values) - other.change / 2
    what = "truth" if name == FINDINGS[0] else f"the checker {key}"
    says = f"the reward rises by {reward.change:.3g} while {what} falls by {-other.change:.3g}"
    return seen.alarm(
        name,
        says,
        -other.change / before if before > 0 else 1.0,
        reward_change=reward.change,
        reward_p=reward.p_rise,
        other_change=other.change,
        other_p=other.p_fall,
    )


def length_drift(seen: Window, explained: float) -> Alarm | None:
    """The reward rises, length drifts, and from batch to batch the reward follows length so much that the drift makes most of it.

    The slope is that of the coefficients of degrees 2 to 17 on one another: the common trend that is to be explained takes no part.
    """
    points = seen.known("reward", "length")
    reward, length = seen.trend("reward"), seen.trend("length")
    if reward is None or length is None or reward.p_rise > seen.level or 2 * min(length.p_rise, length.p_fall) > seen.level:
        return None
    count = min(COUPLED, len(points) - 2)
    if count < FEWEST + 1 or not reward.change > 0:
        return None
    basis = polynomials(tuple(p[0] - points[0][0] for p in points), 2 + COUPLED)[:, 2 : 2 + count]
    paid, long = (np.asarray([p[i] for p in points]) @ basis for i in (1, 2))
    if not long @ long > 0:
        return None
    slope = float(paid @ long / (long @ long))
    error = math.sqrt(float(np.sum((paid - slope * long) ** 2)) / (count - 1) / float(long @ long))
    p = t_two_sided(slope / max(error, 1e-300), count - 1.0)
    share = slope * length.change / reward.change
    if p > seen.level or share < explained:
        return None
    says = f"length goes with {min(share, 1):.0%} of the reward's rise of {reward.change:.3g}: it changes by {length.change:.3g}"
    return seen.alarm(
        "length-drift", says, share, share=share, reward_p=reward.p_rise, length_change=length.change, slope=slope, slope_p=p
    )


def collapse(seen: Window, start: float, share: float) -> Alarm | None:
    """Entropy falls and ends at no more than `share` of where the run began. Severity: the share that is gone."""
    trend = seen.trend("entropy")
    if trend is None or not start > 0 or trend.p_fall > seen.level or seen.end("entropy") > share * start:
        return None
    end = seen.end("entropy")
    says = f"entropy falls to {end:.3g}, {max(end, 0) / start:.1%} of its start"
    return seen.alarm("entropy-collapse", says, 1 - end / start, end=end, start=start, p=trend.p_fall)


def share_rising(seen: Window, name: str, key: str, bound: float, what: str) -> Alarm | None:
    """A share rises and ends above a bound."""
    trend = seen.trend(key)
    if trend is None or trend.p_rise > seen.level or seen.end(key) < bound:
        return None
    end = seen.end(key)
    return seen.alarm(name, f"{what} rise to {end:.1%}", end, end=end, change=trend.change, p=trend.p_rise)


def saturation(seen: Window, bound: tuple[float, float] | None, near: float) -> Alarm | None:
    """The mean reward of the window lies within `near` of its range from its upper bound."""
    if bound is None:
        return None
    edge = bound[1] - near * (bound[1] - bound[0])
    points = seen.known("reward")
    level = stands_out([x for x, _ in points], [y - edge for _, y in points], degree=0)
    if level is None or level.p_rise > seen.level:
        return None
    mean = sum(y for _, y in points) / len(points)
    says = f"the reward stands at {mean:.4g} of at most {bound[1]:.4g}: it tells good from better no longer"
    return seen.alarm("saturation", says, (mean - bound[0]) / (bound[1] - bound[0]), mean=mean, p=level.p_rise)


def dominance(seen: Window, channels: Sequence[str], weights: Mapping[str, float], share: float) -> Alarm | None:
    """One channel makes nearly all of the rise of a rising reward while another falls; each tested at level / channels."""
    reward = seen.trend("reward")
    if len(channels) < 2 or reward is None or reward.p_rise > seen.level:
        return None
    weight = {key: weights.get(key.removeprefix("reward/"), 1.0) for key in channels}
    moved = {key: weight[key] * trend.change for key in channels if (trend := seen.trend(key)) is not None}
    p = {key: (t.p_rise, t.p_fall)[:: 1 if weight[key] > 0 else -1] for key in moved if (t := seen.trend(key)) is not None}
    rises = sum(change for change in moved.values() if change > 0)
    falling = {key: moved[key] for key in moved if weight[key] and p[key][1] <= seen.level / len(channels)}
    if not falling or not rises > 0:
        return None
    top = max(moved, key=lambda key: moved[key])
    if p[top][0] > seen.level / len(channels) or moved[top] < share * rises:
        return None
    worst = min(falling, key=lambda key: falling[key])
    says = f"{top} makes {moved[top] / rises:.0%} of what rises, while {worst} falls by {-falling[worst]:.3g}"
    return seen.alarm(
        "component-dominance", says, moved[top] / rises, rise=moved[top], fall=falling[worst], rise_p=p[top][0], fall_p=p[worst][1]
    )


def runaway(seen: Window, times: float) -> Alarm | None:
    """The distance from the start grows, and ever faster: sqrt(KL) is curved upwards. At a constant speed it is a straight line."""
    points = [(x, math.sqrt(max(kl, 0.0))) for x, kl in seen.known("kl")]
    xs, roots = [x for x, _ in points], [y for _, y in points]
    trend, curve = stands_out(xs, roots), stands_out(xs, roots, degree=2)
    if trend is None or curve is None or max(curve.p_rise, trend.p_rise) > seen.level:
        return None
    middle = polynomials(tuple(x - xs[0] for x in xs), 3 + NOISE)
    fitted = middle[:, 1:3] @ np.array([trend.coefficient, curve.coefficient])
    half = fitted[len(fitted) // 2]
    early, late = float(half - fitted[0]), float(fitted[-1] - half)
    if late < times * max(early, 0.0):
        return None
    says = f"the KL from the start grows from {seen.known('kl')[0][1]:.3g} to {seen.known('kl')[-1][1]:.3g}, ever faster"
    return seen.alarm(
        "kl-runaway", says, 1 - max(early, 0) / late, early=early, late=late, rise_p=trend.p_rise, curve_p=curve.p_rise
    )
