"""Alarms over the metrics of a training run: the reward goes up, and truth, a checker, length, entropy or the groups say otherwise.

No trainer in here: the state of an alarm is its window of metrics. The tests are in `trends`, what each alarm asks in
`alarm_conditions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from payoff.audit.alarm_conditions import (
    Alarm,
    Window,
    collapse,
    dominance,
    length_drift,
    parting,
    runaway,
    saturation,
    share_rising,
)

SCALES = 4  # windows of 1, 2, 4 and 8 times the shortest
READ = ("reward", "length", "entropy", "zero_spread", "invalid", "kl")


@dataclass(frozen=True)
class Thresholds:
    """Sizes below which a change is no alarm, however surely it is there.

    fall:      of truth or of the checker, in its own unit
    explained: share of the reward's rise that goes with length
    collapse:  entropy at most this share of its start
    flat:      share of groups without spread
    invalid:   share of rollouts without verdict
    near:      distance from the reward's upper bound, as a share of its range
    dominance: share of all channels' rises that one of them makes
    runaway:   how many times faster sqrt(KL) grows in the later half of the window
    """

    fall: float = 0.05
    explained: float = 0.5
    collapse: float = 0.1
    flat: float = 0.9
    invalid: float = 0.05
    near: float = 0.02
    dominance: float = 0.9
    runaway: float = 2.0


def watch(
    history: Iterable[Mapping[str, Any]],
    *,
    window: int = 32,
    run_length: int = 5000,
    truth: Sequence[str] = ("truth_train", "truth"),
    checker: str = "checker",
    bound: tuple[float, float] | None = None,
    weights: Mapping[str, float] | None = None,
    thresholds: Thresholds = Thresholds(),
) -> list[Alarm]:
    """Every alarm of a stored history, one mapping per update as training writes them, in the order they would have been raised.

    The options are those of `Alarms`, and so is the result: the same whether a run is watched while it trains or afterwards.

    >>> import random
    >>> draw = random.Random(0)
    >>> noise = lambda sd: draw.gauss(0, sd)
    >>> gamed = [{"update": k, "reward": k / 20 + noise(0.2), "truth": 0.8 - k / 80 + noise(0.05)} for k in range(64)]
    >>> [(a.name, a.kind, a.since, a.update) for a in watch(gamed)]
    [('reward-truth-part', 'finding', 0, 31)]
    >>> flat = [{"update": k, "reward": noise(0.2), "truth": 0.8 + noise(0.05)} for k in range(64)]
    >>> watch(flat)
    []
    """
    alarms = Alarms(
        window=window, run_length=run_length, truth=truth, checker=checker, bound=bound, weights=weights, thresholds=thresholds
    )
    return [alarm for metrics in history for alarm in alarms.update(metrics)]


class Alarms:
    """The alarms of a run as it goes: `update(metrics)` returns those that this update raises.

    window:     rows of the shortest window, a multiple of 4, at least 16; the others are 2, 4 and 8 times as long
    run_length: a run without any change raises each kind falsely at most once in this many updates, on average
    truth:      keys of the truth; in each window the one with most values there is read
    checker:    key of a held-out checker's score
    bound:      (lowest, highest) reward; without it saturation is not watched
    weights:    of the channels in the reward, by name; 1 where none is given
    unit:       what an update is called in sentences

    A window of W * 2^j rows is looked at every W/4 * 2^j rows, each test at the level p that makes

        sum over j of p / (W/4 * 2^j) = 1 / run_length,

    so that the expected number of looks that fire falsely is the number of updates / run_length, whatever the dependence between
    overlapping windows. An alarm with several conditions asks for p of each one, so its own rate is at most that of the
    condition that does not hold. What is raised is not raised again before the longest window has passed.
    An update not after the last one seen (a run that continues from a checkpoint) takes back all from that update on.

    Values that are missing, None, NaN or infinite are left out; a test with too few values says nothing. Picklable.
    Raises ValueError for options out of range.

    >>> alarms = Alarms()
    >>> for k in range(40):
    ...     for alarm in alarms.update({"update": k, "reward": 0.02 * k + 0.1 * (-1) ** k, "truth": 0.9 - 0.02 * k}):
    ...         print(alarm.says)
    Over updates 0 to 31 the reward rises by 0.602 while truth falls by 0.62.
    >>> sorted(alarms.unwatched())[:2]
    ['checker-part', 'component-dominance']
    """

    def __init__(
        self,
        *,
        window: int = 32,
        run_length: int = 5000,
        truth: Sequence[str] = ("truth_train", "truth"),
        checker: str = "checker",
        bound: tuple[float, float] | None = None,
        weights: Mapping[str, float] | None = None,
        thresholds: Thresholds = Thresholds(),
        unit: str = "update",
    ) -> None:
        if window < 16 or window % 4:
            raise ValueError(f"Alarms: window must be a multiple of 4, at least 16, got {window}")
        if bound is not None and not bound[0] < bound[1]:
            raise ValueError(f"Alarms: bound must be (lowest, highest), got {bound}")
        self.level = window / 4 / run_length / (2 - 2 ** (1 - SCALES)) if run_length > 0 else math.inf
        if not self.level < 0.5:
            raise ValueError(f"Alarms: run_length must be above {window / 4 / 0.5 / (2 - 2 ** (1 - SCALES)):.3g}, got {run_length}")
        self.window, self.truth, self.checker, self.bound = window, tuple(truth), checker, bound
        self.weights, self.thresholds, self.unit = dict(weights or {}), thresholds, unit
        self.rows: list[dict[str, float]] = []
        self.seen = 0
        self.raised: list[Alarm] = []
        self._raised_at: list[int] = []
        self._longest = window * 2 ** (SCALES - 1)
        self._entropy: list[tuple[float, float]] = []
        self._keys: set[str] = set()
        self._read: dict[str, bool] = {}  # of every key ever seen, whether any alarm reads it

    def update(self, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Take in the metrics of one update and return the alarms it raises, findings first."""
        row = {}
        for key, value in metrics.items():
            read = self._read.get(key)
            if read is None:
                read = self._read[key] = self._reads(key)
            if read and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                row[key] = float(value)
        at = metrics.get("update")
        row["update"] = float(at) if _finite(at) else self.rows[-1]["update"] + 1 if self.rows else 0.0  # type: ignore[arg-type]
        if self.rows and row["update"] <= self.rows[-1]["update"]:
            self._rewind(row["update"])
        self.rows.append(row)
        self.seen += 1
        self._keys |= row.keys()
        if "entropy" in row and len(self._entropy) < self.window // 4:
            self._entropy.append((row["update"], row["entropy"]))
        before = len(self.raised)
        for alarm in self._look():
            told = [seen for seen, earlier in zip(self._raised_at, self.raised) if earlier.name == alarm.name]
            if not told or self.seen - told[-1] >= self._longest:
                self.raised.append(alarm)
                self._raised_at.append(self.seen)
        del self.rows[: -2 * self._longest]  # twice what is looked at: a run may go back to a checkpoint
        return self.raised[before:]

    def unwatched(self) -> dict[str, str]:
        """Alarms that nothing seen so far could raise, each with what it lacks."""
        lacks = {
            "reward-truth-part": (not self._keys & set(self.truth), f"no {' or '.join(self.truth)}"),
            "checker-part": (self.checker not in self._keys, f"no {self.checker}"),
            "length-drift": ("length" not in self._keys, "no length"),
            "entropy-collapse": (not self._start_entropy > 0, "no entropy that starts above 0"),
            "groups-flat": ("zero_spread" not in self._keys, "no zero_spread"),
            "invalid-rising": ("invalid" not in self._keys, "no invalid"),
            "saturation": (self.bound is None, "no bound of the reward given"),
            "component-dominance": (len(self._channels) < 2, "fewer than two channels reward/NAME"),
            "kl-runaway": ("kl" not in self._keys, "no kl"),
        }
        return {name: why for name, (lacking, why) in lacks.items() if lacking}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` of an object with the same options needs to go on as this one would: plain data."""
        return {
            "rows": [dict(row) for row in self.rows],
            "seen": self.seen,
            "raised": [alarm.as_json() for alarm in self.raised],
            "raised_at": list(self._raised_at),
            "entropy": [list(pair) for pair in self._entropy],
            "keys": sorted(self._keys),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.rows, self.seen = [dict(row) for row in state["rows"]], state["seen"]
        self.raised = [Alarm(**{key: a[key] for key in Alarm.__dataclass_fields__}) for a in state["raised"]]
        self._raised_at, self._keys = list(state["raised_at"]), set(state["keys"])
        self._entropy = [(at, value) for at, value in state["entropy"]]

    def _reads(self, key: str) -> bool:
        return key in READ or key == self.checker or key in self.truth or key.startswith("reward/")

    @property
    def _channels(self) -> list[str]:
        """What the reward is made of, as far as is told."""
        return sorted(key for key in self._keys if key.startswith("reward/") and key not in (self.checker, *self.truth))

    @property
    def _start_entropy(self) -> float:
        return sum(value for _, value in self._entropy) / len(self._entropy) if self._entropy else 0.0

    def _look(self) -> Iterator[Alarm]:
        """Every window that is due, the shortest first, so that `since` is as late as it can be."""
        for j in range(SCALES):
            width = self.window << j
            if self.seen % (width // 4) == 0 and len(self.rows) >= width:
                rows = self.rows[-width:]
                limits, level = self.thresholds, self.level
                seen = Window(rows, level, self.unit)
                truth = max(self.truth, key=lambda key: len(seen.known(key)), default="truth")
                found = (
                    parting(seen, "reward-truth-part", truth, limits.fall),
                    parting(seen, "checker-part", self.checker, limits.fall),
                    length_drift(seen, limits.explained),
                    collapse(seen, self._start_entropy, limits.collapse),
                    share_rising(seen, "groups-flat", "zero_spread", limits.flat, "groups without spread"),
                    share_rising(seen, "invalid-rising", "invalid", limits.invalid, "rollouts without verdict"),
                    saturation(seen, self.bound, limits.near),
                    dominance(seen, self._channels, self.weights, limits.dominance),
                    runaway(seen, limits.runaway),
                )
                yield from filter(None, found)

    def _rewind(self, update: float) -> None:
        kept = [row for row in self.rows if row["update"] < update]
        self.seen -= len(self.rows) - len(kept)
        self.rows = kept
        self._entropy = [pair for pair in self._entropy if pair[0] < update]
        self.raised = [alarm for alarm in self.raised if alarm.update < update]
        del self._raised_at[len(self.raised) :]


def watching(alarms: Alarms, tell: Callable[[Alarm], None]) -> Callable[[Mapping[str, Any]], None]:
    """An `on_update` for `payoff.train.train` (and for any loop with such a hook): every alarm that is raised goes to `tell`.

    >>> on_update = watching(Alarms(), lambda alarm: print(alarm.name))
    >>> for k in range(32):
    ...     on_update({"update": k, "reward": k + k % 2, "truth": -k + k % 3})
    reward-truth-part
    """

    def on_update(metrics: Mapping[str, Any]) -> None:
        for alarm in alarms.update(metrics):
            tell(alarm)

    return on_update


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
