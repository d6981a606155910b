"""The checks of an audit by name: what each asks, and how it is run on a reward and the rows that speak about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from payoff.audit.attack_search import attack_search
from payoff.audit.attacks import attacks
from payoff.audit.bias import bias
from payoff.audit.calibration import calibration
from payoff.audit.case import Case
from payoff.audit.consistency import consistency
from payoff.audit.correlated import correlated_proxies
from payoff.audit.discrimination import discrimination, discrimination_by
from payoff.audit.ensembles import ensemble
from payoff.audit.estimators import quantile_bins
from payoff.audit.health import constant_groups, counted_cost, invalid_verdicts, latency, parity
from payoff.audit.invariances import invariances
from payoff.audit.learnability import learnability, stability
from payoff.audit.measurement import Measurement
from payoff.audit.noise import noise
from payoff.audit.optimisation import over_optimisation
from payoff.audit.oversized import oversized
from payoff.audit.reward_hacks import reward_hacks
from payoff.audit.transitions import transition_distances


class Check(NamedTuple):
    """A family of measurements. asks: whether it puts changed rows before the reward, and so costs calls."""

    question: str
    run: Callable[[Case], list[Measurement]]
    asks: bool = False


def _discrimination(case: Case) -> list[Measurement]:
    found = case.by_gold(discrimination)
    if case.gold_value is None:
        return found
    found += case.by_gold(discrimination_by, part=quantile_bins(case.length, 4), by="length")
    part, names = case.source
    if len({name for name in names if name != "(none)"}) > 1:
        found += case.by_gold(discrimination_by, part=part, by="source", names=names)
    return found


def _attacks(case: Case) -> list[Measurement]:
    found = case.by_rows(attacks, truth=case.truth) + case.by_rows(oversized, seconds=case.seconds)
    recorded = any("school_of_reward_hacks" in row for row in case.few)
    return found + (case.by_rows(reward_hacks) if recorded else [])


def _noise(case: Case) -> list[Measurement]:
    return case.by_gold(calibration) + case.by_gold(noise)


def _ensembles(case: Case) -> list[Measurement]:
    # Several channels of one signal: asked again one by one, for the scorer keeps their mean alone.
    channels = [replace(case.score, channel=name) for name in case.score.members]
    each = [member(case.responses) for member in (*channels, *case.members)]
    own = [] if channels or not case.members else [(case.value, case.valid)]
    both = own + [(s.value, s.valid) for s in each]
    none = torch.zeros(0, len(case.responses))
    scores = torch.stack([value for value, _ in both]) if both else none.double()
    valid = torch.stack([valid for _, valid in both]) if both else none.bool()
    return case.told(ensemble(scores, valid, case.gold_value, case.prompt, gold_valid=case.gold_valid, rows=case.responses))


def _health(case: Case) -> list[Measurement]:
    scores = case.scores
    found = invalid_verdicts(scores.valid, scores.reasons, case.group, rows=case.singles)
    found += case.by_gold(constant_groups)
    if case.served is not None:
        other = case.served(case.responses)
        rows = case.responses
        found += case.told(parity(other.value, other.valid, case.value, case.valid, case.prompt, rows=rows))
    found += [counted_cost(dict(getattr(case.score.signal, "stats", {})), case.prices, case.score.rows)] if case.prices else []
    return found + latency(case.score.latencies, total=case.score.seconds, rows=case.score.rows)


def _distance(case: Case) -> list[Measurement]:
    return transition_distances(case.score, case.few, gold=case.gold, truth=case.truth, discount=case.discount, seed=case.seed)


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
        lambda c: c.told(learnability(c.value, c.valid, c.prompt)) + c.by_gold(stability),
    ),
    "ensembles": Check("Where several rewards are averaged: what do they all get wrong?", _ensembles),
    "health": Check("What does it cost, and how often is there no verdict?", _health),
    "distance": Check("Transitions: how far is it from the true reward, and what does that lose?", _distance, asks=True),
}
