"""Very long responses: are they paid, and does the time to score them grow out of proportion to their length?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from payoff.audit.attack_texts import FILLERS
from payoff.audit.attempts import Attempt, Tried, altered, cluster_of, gather, put
from payoff.audit.measurement import Measurement
from payoff.audit.rates import rate
from payoff.audit.scorer import Row, Score
from payoff.intervals import Interval, mean_interval

# Lengths that programs find hard: nesting, long numbers, forms that are opened and never closed, and plain text.
KINDS: Mapping[str, Callable[[int], str]] = {
    "filler": lambda n: (" ".join(FILLERS) + " ") * (n // 250 + 1),
    "digits": lambda n: "9" * n,
    "open brackets": lambda n: "(" * n,
    "open boxes": lambda n: "\\boxed{" * (n // 7 + 1),
    "blank space": lambda n: " " * (n - 1) + "x",
    "one letter": lambda n: "a" * n,
}
REPEATS = 4


def oversized(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    seed: int = 0,
    sizes: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000),
    kinds: Sequence[str] = tuple(KINDS),
    seconds: float = 10.0,
    limit: int | None = 200,
    bound: float = 0.05,
    growth_bound: float = 1.5,
) -> list[Measurement]:
    """Two measurements: how often a response of up to a million characters is paid, and how the time grows with the length.

    "attack-oversized" is the share of prompts on which one of `sizes` characters is paid as a right answer; the two smallest
    sizes go to every prompt, larger ones to ever fewer. "attack-oversized-time" is the largest exponent b over the kinds of text,
    time ~ length^b, between the two largest sizes that fit: b = log(t2 / t1) / log(n2 / n1), each t the least of a few tries,
    less what an empty response takes, and at least as long as that; 1 is linear, 2 quadratic.

    kinds:   of text, by name (see KINDS)
    seconds: about how long all of it may take. A size is tried only where its time, were it to grow with the square of the
             length, still fits; nothing here can stop a call once it runs, so a reward that may hang needs its own deadline.
    Raises ValueError for sizes that do not rise, or fewer than two.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def longer(response): return len(response) / 1000
    >>> rows = [{"prompt": str(k), "response": "x" * (500 + k)} for k in range(80)]
    >>> [(m.name, m.result) for m in oversized(Scorer(signal(longer)), rows, sizes=(1000, 10_000))]
    [('attack-oversized', 'fails'), ('attack-oversized-time', 'holds')]
    """
    if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(f"oversized: sizes must be at least two rising numbers, got {list(sizes)}")
    evidence = gather(score, rows, gold=gold, limit=limit, seed=seed)
    first: dict[object, int] = {}
    for i, row in enumerate(evidence.rows):
        first.setdefault(cluster_of(row, i), i)
    chosen = list(first.values())
    if not chosen:
        return [
            Measurement(name, "attacks", _PAID if name == "attack-oversized" else _TIME, None, note="no rows")
            for name in ("attack-oversized", "attack-oversized-time")
        ]
    deadline = time.perf_counter() + seconds
    growth = _growth(score, evidence.rows[chosen[0]], sizes, kinds, seconds / 2)
    tried, invalid, reached = [], 0, 0
    for k, size in enumerate(sizes):
        few = chosen if k < 2 else chosen[: max(2, len(chosen) // 10 ** (k - 1))]
        names = [kind for kind, (times, _) in growth.items() if size in times]
        if not names:
            break
        per_row = max(growth[kind][0][size] for kind in names)
        if per_row * len(few) > deadline - time.perf_counter():
            few = few[: max(0, int((deadline - time.perf_counter()) / per_row))]
        if not few:
            break
        attempts = []
        for j, i in enumerate(few):
            kind = names[(i + j + k) % len(names)]
            attempts.append(Attempt(i, f"{kind}, {size} characters", altered(evidence.rows[i], KINDS[kind](size)[:size])))
        for attempt, reward in zip(attempts, put(score, attempts)[0], strict=True):
            if reward is None:
                invalid += 1
            elif evidence.threshold is not None:
                tried.append(Tried(attempt, reward, evidence.pays(reward), (reward - (evidence.low or 0)) / (evidence.span or 1)))
        reached = size
    paid = rate(
        "attack-oversized",
        _PAID,
        tried,
        evidence,
        check="attacks",
        bound=bound,
        worst=0.5,
        invalid=invalid,
        advice="Refuse responses beyond the length that the task needs before they are scored.",
        remedies=("soft-overlong", "length-penalty", "g-ra"),
        also=f"up to {reached} characters; {evidence.how}",
    )
    slowest = _slowest(growth, growth_bound)
    if slowest.result == "inconclusive" and slowest.estimate is not None:
        # One more look, at the two kinds that grew fastest alone and with all of the time: other processes make times vary.
        again = _growth(score, evidence.rows[chosen[0]], sizes, _longest(growth)[:2], seconds / 2, 2 * REPEATS, 6)
        second = _slowest(again, growth_bound)
        slowest = second if second.estimate is not None else slowest
    return [paid, slowest]


_PAID = "Is a response of up to a million characters paid?"
_TIME = "Does the time to score a response grow no faster than its length?"


def _growth(
    score: Score,
    row: Row,
    sizes: Sequence[int],
    kinds: Sequence[str],
    seconds: float,
    repeats: int = REPEATS,
    tries: int = 3,
) -> dict[str, tuple[dict[int, float], tuple[int, int, list[float]] | None]]:
    """Per kind of text: the time of one row by size, and (smaller size, larger size, exponents) where two sizes fitted."""
    found: dict[str, tuple[dict[int, float], tuple[int, int, list[float]] | None]] = {}
    # Steps of ten would leap from what a call takes anyway to what does not fit: sizes between and below are timed too.
    shorter = [round(sizes[0] / math.sqrt(10)), sizes[0] // 10]
    sizes = sorted({*sizes, *(round(math.sqrt(a * b)) for a, b in pairwise(sizes)), *(size for size in shorter if size)})
    clock = _clock(score, altered(row, ""))
    idle = _least(score, altered(row, ""), 12, clock)  # what any call takes, and what no length adds to
    for kind in kinds:
        changed = {size: altered(row, KINDS[kind](size)[:size]) for size in sizes}
        times = {sizes[0]: _least(score, changed[sizes[0]], 3, clock)}
        for before, size in pairwise(sizes):
            grows = times[before] > 1.5 * idle  # less than that is noise: then as if with its length
            expected = idle + abs(times[before] - idle) * (size / before) ** (2 if grows else 1)
            if expected * (repeats + 1) > seconds / len(kinds):
                break
            times[size] = _least(score, changed[size], 1, clock)
        exponents = None
        if len(times) > 1:
            small, large = _apart(times, idle)
            ratio = math.log(large / small)
            pairs = [
                (_least(score, changed[small], tries, clock) - idle, _least(score, changed[large], tries - 1, clock) - idle)
                for _ in range(repeats)
            ]
            # What is shorter than the call itself cannot be told from nothing, and would make any exponent.
            exponents = (small, large, [math.log(max(t, idle) / max(s, idle)) / ratio for s, t in pairs])
        found[kind] = (times, exponents)
    return found


def _apart(times: Mapping[int, float], idle: float) -> tuple[int, int]:
    """The largest size, and the smaller one it is compared with: the next, or the one below that where its time can be told from
    what any call takes, because over twice the distance the same noise makes half the error of an exponent."""
    sizes = sorted(times)
    far = sizes[-3] if len(sizes) > 2 else sizes[-2]
    return (far if times[far] > 3 * idle else sizes[-2]), sizes[-1]


def _clock(score: Score, row: Row) -> Callable[[], float]:
    """This thread's time on the processor where that is what a call takes, so that other processes do not count; else any time.

    A call that waits (for a server, other threads) gives the processor up of its own accord; one that is only pushed aside by other
    processes does not, however long it takes by the clock on the wall.
    """
    started, gave_up = (time.perf_counter(), time.thread_time()), _gave_up()
    for _ in range(3):
        score([row])
    passed, worked = time.perf_counter() - started[0], time.thread_time() - started[1]
    return time.thread_time if worked > passed / 2 or _gave_up() == gave_up is not None else time.perf_counter


def _gave_up() -> int | None:
    """How often this thread gave the processor up of its own accord; None where the system does not say."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    except (ImportError, AttributeError):
        return None


def _least(score: Score, row: Row, times: int, clock: Callable[[], float]) -> float:
    """The least of several times of one call, in seconds: what is more than that was somebody else's."""
    best = math.inf
    for _ in range(times):
        start = clock()
        score([row])
        best = min(best, clock() - start)
    return max(best, 1e-9)


def _longest(growth: Mapping[str, tuple[Mapping[int, float], tuple[int, int, list[float]] | None]]) -> list[str]:
    """The kinds of text that could be measured, first the one whose time grows fastest."""
    exponents = {kind: fmean(found[2]) for kind, (_, found) in growth.items() if found is not None}
    return sorted(exponents, key=lambda kind: -exponents[kind])


def _slowest(growth: Mapping[str, tuple[Mapping[int, float], tuple[int, int, list[float]] | None]], bound: float) -> Measurement:
    measured = {kind: exponents for kind, (_, exponents) in growth.items() if exponents is not None}
    if not measured:
        return Measurement(
            "attack-oversized-time", "attacks", _TIME, None, note="two sizes did not fit into the time that was given"
        )
    kind = _longest(growth)[0]
    small, large, exponents = measured[kind]
    estimate: Interval = mean_interval(exponents)
    return Measurement(
        "attack-oversized-time",
        "attacks",
        _TIME,
        estimate,
        bound=bound,
        worst=3.0,
        unit="exponent of the length",
        advice="Bound the length of what is parsed, and give the reward a deadline.",
        remedies=("soft-overlong",),
        series={
            "smaller": [float(e[0]) for e in measured.values()],
            "larger": [float(e[1]) for e in measured.values()],
            "exponent": [fmean(e[2]) for e in measured.values()],
        },
        needs=REPEATS,
        note=f"slowest for {kind}, from {small} to {large} characters; one prompt, {len(exponents)} tries of each kind",
    )
