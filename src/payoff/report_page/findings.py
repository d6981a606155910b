"""What a run shows, as numbers: one row per arm for the page, the terminal and JSON. Only finished seeds enter an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import StatisticsError, correlation, fmean, median
from typing import Any

from payoff.intervals import (
    FEWEST,
    Interval,
    Parting,
    holm,
    mean_interval,
    paired_difference,
    parting_point,
    seeds_needed,
    skewed,
    verdict,
)
from payoff.report_page.runs import Arm, Curve, Run, Seed, number

Row = dict[str, Any]


def rows(run: Run) -> list[Row]:
    """One JSON-ready row per arm: truth, difference from the baseline with its verdict, own reward, invalid share, parting."""
    base = run.arms.get(run.baseline or "")
    found = [_row(run, arm, base) for arm in run.arms.values()]
    compared = [row for row in found if row["p"] is not None]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared])):
        row["p_adjusted"] = adjusted
        row["comparisons"] = len(compared)
        difference = as_interval(row["difference"])
        word = verdict(difference, run.delta, p=adjusted)
        row["verdict"], row["note"] = (word.word, word.note) if word else (None, "")
        low, high = row["difference"]["low"], row["difference"]["high"]
        row["alone"] = row["verdict"] in ("inconclusive", "equivalent") and (low > 0 or high < 0)
        if run.delta > 0 and row["verdict"] == "inconclusive":
            needed = seeds_needed(difference.sd or 0.0, run.delta)
            row["seeds_needed"] = needed if needed > difference.n else None
    return found


def final_truth(arm: Arm) -> dict[int, float]:
    """Truth at the end of the budget by seed: the last evaluation of every finished seed, never the best one."""
    last = {seed.number: seed.curve("truth") for seed in arm.finished}
    return {number: curve[-1][1] for number, curve in last.items() if curve}


def partings(arm: Arm, fall: float) -> dict[int, Parting | None]:
    """The parting point of every seed with at least three evaluations; of unfinished seeds only where no seed is finished."""
    return {
        seed.number: parting_point(seed.curve("reward"), seed.curve("truth"), fall=fall)
        for seed in arm.counted
        if len(seed.curve("truth")) >= FEWEST and seed.curve("reward")
    }


def as_interval(estimate: Row) -> Interval:
    """The interval an estimate of a row was made from."""
    return Interval(*(estimate[key] for key in ("value", "low", "high", "n", "level", "sd", "p", "method")))


def around_evaluations(seed: Seed) -> list[tuple[float, float, float]]:
    """(x, own reward, truth) at every evaluation, the reward averaged over the updates nearer to it than to any other."""
    truth, reward = seed.curve("truth"), seed.curve("reward")
    if len(truth) < 2:
        return []
    reach = median(b[0] - a[0] for a, b in pairwise(truth)) / 2
    near = [(x, [r for at, r in reward if abs(at - x) <= reach], y) for x, y in truth]
    return [(x, fmean(values), y) for x, values, y in near if values]


def _row(run: Run, arm: Arm, base: Arm | None) -> Row:
    truth = final_truth(arm)
    difference = None if base is None or arm is base else paired_difference(truth, final_truth(base))
    shown = arm.counted
    starts, ends = _ends(shown, "reward")
    first, latest = _ends(shown, "truth", share=0.0)
    pairs = {} if base is None or arm is base else final_truth(base)
    row: Row = {
        "arm": arm.name,
        "description": arm.description,
        "baseline": arm is base,
        "seeds": {
            state: [s.number for s in arm.seeds.values() if s.status == state] for state in ("finished", "interrupted", "failed")
        },
        "truth": _estimate(mean_interval(list(truth.values())), run.truth_unit) if truth else None,
        "truth_by_seed": truth,
        "truth_start": fmean(first) if first else None,
        "truth_latest": fmean(latest) if latest else None,
        "difference": _estimate(difference, run.truth_unit) if difference else None,
        "difference_by_seed": {seed: truth[seed] - pairs[seed] for seed in truth if seed in pairs},
        "p": difference.p if difference else None,
        "p_adjusted": None,
        "comparisons": 0,
        "verdict": None,
        "note": "",
        "alone": False,
        "seeds_needed": None,
        "reward": {"start": fmean(starts) if starts else None, "end": fmean(ends) if ends else None},
        "reward_truth": _agreement(shown),
        "credit": _credit(shown),
        "invalid": _mean([value for seed in arm.seeds.values() for _, value in seed.curve("invalid")]),
        "parted": _parted(arm, run.delta or 0.05),
        "alarms": alarms(run, arm),
        "seconds": _mean([seed.seconds for seed in shown if seed.seconds is not None]),
    }
    row["skewed"] = skewed(list(row["difference_by_seed"].values() or truth.values()))
    return row


def _estimate(interval: Interval, unit: str) -> Row:
    return {**interval._asdict(), "unit": unit}


def _ends(seeds: Sequence[Seed], key: str, share: float = 0.05) -> tuple[list[float], list[float]]:
    """Per seed the mean over the first and over the last `share` of the points of a curve, at least one point each."""
    starts, ends = [], []
    for seed in seeds:
        values = [value for _, value in seed.curve(key)]
        if values:
            few = max(1, round(share * len(values)))
            starts.append(fmean(values[:few]))
            ends.append(fmean(values[-few:]))
    return starts, ends


def _credit(seeds: Sequence[Seed]) -> Row | None:
    """How well credit fell on the steps that mattered, in the first and the last rollouts that were kept; None where not asked."""
    starts, ends = _ends(seeds, "credit/cosine", share=0.0)
    return {"start": fmean(starts), "end": fmean(ends)} if starts else None


def _agreement(seeds: Sequence[Seed]) -> float | None:
    """The correlation of own reward and truth over the evaluations of a seed, averaged over seeds; None where it has no meaning."""
    found = []
    for seed in seeds:
        points = around_evaluations(seed)
        try:
            found.append(correlation([r for _, r, _ in points], [t for _, _, t in points]))
        except StatisticsError:  # fewer than two evaluations, or one of the two never changes
            continue
    return _mean(found)


def _parted(arm: Arm, fall: float) -> Row:
    """Whether reward and truth part: "yes" in more than half of the seeds, "some", "no", or "unknown" with too few evaluations."""
    found = partings(arm, fall)
    there = {number: point for number, point in found.items() if point}
    state = "unknown" if not found else "no" if not there else "yes" if 2 * len(there) > len(found) else "some"
    places: dict[str, Row | None] = {"rollouts": None, "update": None}
    if there:
        places["rollouts"] = _estimate(mean_interval([p.at for p in there.values()]), "rollouts")
        updates = [_update_at(arm.seeds[number].curve("update"), p.at) for number, p in there.items()]
        places["update"] = _estimate(mean_interval(updates), "updates")
    return {
        "state": state,
        "seeds": len(there),
        "of": len(found),
        **places,
        "fall": _mean([p.fall for p in there.values()]),
        "rise": _mean([p.rise for p in there.values()]),
    }


def alarms(run: Run, arm: Arm) -> list[Row]:
    """What training itself raised for an arm, a row per kind: findings first, then by severity; the earliest speaks for its seeds.

    name, kind ("finding" or "signal"), seeds with how many there are (`of`), update and rollouts of the first, what it said, and
    how grave the gravest was. Results that an older version wrote have none.
    """
    stored = run.raw["arms"].get(arm.name) or {}
    kinds: dict[tuple[str, str], list[tuple[int, Row]]] = {}
    for label, entry in (stored.get("seeds") or {}).items():
        found = entry.get("alarms") if isinstance(entry, dict) else None
        for alarm in found if isinstance(found, list) else []:
            if isinstance(alarm, dict) and number(alarm.get("update")) is not None and int(label) in arm.seeds:
                kinds.setdefault((str(alarm.get("kind")), str(alarm.get("name"))), []).append((int(label), alarm))
    made = []
    for (kind, name), raised in kinds.items():
        seed, first = min(raised, key=lambda pair: (number(pair[1]["update"]), pair[0]))
        update = float(number(first["update"]) or 0.0)
        made.append(
            {
                "name": name,
                "kind": kind,
                "seeds": sorted({label for label, _ in raised}),
                "of": len(arm.seeds),
                "update": update,
                "rollouts": _rollouts_at(arm.seeds[seed].curve("update"), update),
                "says": str(first.get("says") or ""),
                "severity": max(number(alarm.get("severity")) or 0.0 for _, alarm in raised),
            }
        )
    return sorted(made, key=lambda row: (row["kind"] != "finding", -row["severity"], row["name"]))


def _rollouts_at(updates: Curve, update: float) -> float | None:
    """The rollouts used when an update was over; None where no metrics are stored."""
    return min(updates, key=lambda point: abs(point[1] - update))[0] if updates else None


def _update_at(updates: Curve, x: float) -> float:
    return min(updates, key=lambda point: abs(point[0] - x))[1] if updates else x


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
