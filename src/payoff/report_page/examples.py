"""Which stored rollouts the report shows: where the reward misleads, where arms disagree, and a plain random sample.

A reward has no unit that it shares with truth, so the two are compared by order. The gap of a rollout is the share of its arm's
truer rollouts that it is paid more than (gamed), or of the less true ones that are paid more than it (missed); equal pay counts
half. 0: the reward ranks it as truth does; 1: it is paid more than every rollout that is truer.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import NamedTuple, TypeVar

from payoff.report_page.runs import PHASES, Rollout, Run

T = TypeVar("T")
LISTED, PROMPTS, PER_START = 10, 5, 2
COUNTS = 0.5  # the gap above which a rollout is counted as gamed or missed: more than paying at random would give


class Example(NamedTuple):
    """A chosen rollout; its gap, the truest other of its group where that is truer, how many more gave the same response."""

    rollout: Rollout
    gap: float | None = None
    best: Rollout | None = None
    alike: int = 0


@dataclass(frozen=True)
class Examples:
    """The lists of the report and what they were chosen from. `disagree` holds one rollout per arm for each prompt."""

    gamed: list[Example] = field(default_factory=list)
    missed: list[Example] = field(default_factory=list)
    disagree: list[list[Example]] = field(default_factory=list)
    sample: list[Example] = field(default_factory=list)
    gamed_of: int = 0
    missed_of: int = 0
    disagree_of: int = 0
    compared: int = 0
    stored: int = 0

    def flat(self) -> list[Example]:
        """Every example that is shown, in the order of the page."""
        return [*self.gamed, *self.missed, *(example for prompt in self.disagree for example in prompt), *self.sample]


def choose(run: Run, *, per_phase: int = 2) -> Examples:
    """The examples of a run, `per_phase` random ones for each arm and phase: always the same ones for the same files."""
    arms = {name: [r for seed in arm.seeds.values() for r in seed.rollouts] for name, arm in run.arms.items()}
    everything = [r for rollouts in arms.values() for r in rollouts]
    groups: dict[Hashable, list[Rollout]] = {}
    for r in everything:
        groups.setdefault((r.arm, r.seed, r.update, r.start), []).append(r)
    gamed: list[tuple[float, Rollout]] = []
    missed: list[tuple[float, Rollout]] = []
    compared = 0
    for rollouts in arms.values():
        known = [r for r in rollouts if r.total is not None and r.truth is not None]
        compared += len(known)
        gamed += gaps(known, sign=1)
        missed += gaps(known, sign=-1)
    prompts = _disagreements(everything)
    return Examples(
        [_beside(example, groups) for example in _listed(gamed)],
        _listed(missed),
        [[Example(r) for r in prompt] for prompt in _spread(prompts, PROMPTS, lambda p: p[0].phase, lambda p: p[0].seed)],
        _sampled(everything, per_phase),
        len(gamed),
        len(missed),
        len(prompts),
        compared,
        len(everything),
    )


def gaps(known: Sequence[Rollout], *, sign: int) -> list[tuple[float, Rollout]]:
    """(gap, rollout) of one arm's rollouts whose gap counts, largest first: sign 1 for gamed, -1 for missed.

    Equal gaps are ordered by pay, the most misleading first.
    """
    found = []
    paid: list[float] = []  # what the rollouts that are truer (for sign -1: less true) are paid, in the order of pay
    ordered = sorted(known, key=lambda r: -sign * _truth(r))
    for _, same in groupby(ordered, key=_truth):
        equals = list(same)
        for r in equals if paid else []:
            pay = sign * _total(r)
            below, upto = bisect.bisect_left(paid, pay), bisect.bisect_right(paid, pay)
            gap = (below + upto) / 2 / len(paid)
            if gap > COUNTS:
                found.append((gap, r))
        for r in equals:
            bisect.insort(paid, sign * _total(r))
    return sorted(found, key=lambda item: (-item[0], -sign * _total(item[1]), item[1].seed, item[1].update, item[1].id))


def _listed(found: Sequence[tuple[float, Rollout]]) -> list[Example]:
    """The first of a list: at most two per prompt, one of each response with how many more gave it, every arm and phase seen."""
    alike: dict[Hashable, int] = {}
    starts: dict[Hashable, int] = {}
    kept: list[tuple[float, Rollout]] = []
    for gap, r in sorted(found, key=lambda item: -item[0]):
        alike[r.arm, r.response] = alike.get((r.arm, r.response), 0) + 1
        start = r.start or r
        if alike[r.arm, r.response] == 1 and starts.get(start, 0) < PER_START:
            starts[start] = starts.get(start, 0) + 1
            kept.append((gap, r))
    shown = _spread(
        kept, LISTED, lambda item: (item[1].arm, item[1].phase), lambda item: (item[1].arm, item[1].phase, item[1].seed)
    )
    return [Example(r, gap, None, alike[r.arm, r.response] - 1) for gap, r in shown]


def _spread(items: Sequence[T], most: int, *kinds: Callable[[T], Hashable]) -> list[T]:
    """At most so many, in the order given: the first of every kind before the second of any, by one sort of kind, then the next."""
    chosen: list[int] = []
    for kind in kinds:
        seen = {kind(items[i]) for i in chosen}
        for i, item in enumerate(items):
            if len(chosen) < most and kind(item) not in seen:
                seen.add(kind(item))
                chosen.append(i)
    chosen += [i for i in range(len(items)) if i not in chosen][: most - len(chosen)]
    return [items[i] for i in sorted(chosen)]


def _beside(example: Example, groups: dict[Hashable, list[Rollout]]) -> Example:
    r = example.rollout
    group = groups[r.arm, r.seed, r.update, r.start] if r.start else []
    others = [o for o in group if o.truth is not None and o.truth > _truth(r)]
    return example._replace(best=max(others, key=lambda o: (_truth(o), o.total or 0.0))) if others else example


def _disagreements(everything: Iterable[Rollout]) -> list[list[Rollout]]:
    """Per prompt that several arms met at the same seed and update, one rollout of each arm: widest apart in mean truth first."""
    met: dict[Hashable, dict[str, list[Rollout]]] = {}
    for r in everything:
        if r.truth is not None and r.start:
            met.setdefault((r.seed, r.update, r.start), {}).setdefault(r.arm, []).append(r)
    found = []
    for arms in met.values():
        means = {arm: fmean(_truth(r) for r in rollouts) for arm, rollouts in arms.items()}
        apart = max(means.values()) - min(means.values())
        if apart > 0:
            usual = [min(rollouts, key=lambda r: abs(_truth(r) - means[arm])) for arm, rollouts in arms.items()]
            found.append((apart, usual))
    found.sort(key=lambda item: -item[0])
    first = {usual[0].start: usual for _, usual in reversed(found)}  # of each prompt the widest
    return [usual for _, usual in found if first[usual[0].start] is usual]


def _sampled(everything: Sequence[Rollout], per_phase: int) -> list[Example]:
    """So many of each arm and phase, drawn with a fixed seed, by arm and from start to end."""
    kinds: dict[tuple[str, str], list[Rollout]] = {}
    for r in everything:
        kinds.setdefault((r.arm, r.phase), []).append(r)
    drawn = []
    for (arm, phase), rollouts in kinds.items():
        chosen = random.Random(ascii((arm, phase))).sample(range(len(rollouts)), min(per_phase, len(rollouts)))
        drawn += [Example(rollouts[i]) for i in sorted(chosen)]
    order = list(dict.fromkeys(r.arm for r in everything))
    return sorted(drawn, key=lambda e: (order.index(e.rollout.arm), PHASES.index(e.rollout.phase)))


def _truth(r: Rollout) -> float:
    return 0.0 if r.truth is None else r.truth


def _total(r: Rollout) -> float:
    return 0.0 if r.total is None else r.total
