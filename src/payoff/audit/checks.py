"""The checks of an audit by name: what each asks, and how it is run on a reward and the rows that speak about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from payoff.audit.attack_search import attack_search
from payoff.audit.attacks import attacks
from payoff.audit.attempts import text_of
from payoff.audit.bias import FEATURES, bias
from payoff.audit.calibration import calibration
from payoff.audit.case import Case
from payoff.audit.consistency import consistency
from payoff.audit.correlated import correlated_proxies
from payoff.audit.discrimination import discrimination, discrimination_by
from payoff.audit.ensemble_slices import disagreement_by
from payoff.audit.ensembles import doubtful_labels, ensemble
from payoff.audit.health import constant_groups, counted_cost, invalid_verdicts, latency, parity
from payoff.audit.invariances import invariances
from payoff.audit.learnability import dense_agreement, learnability, stability
from payoff.audit.measurement import Measurement
from payoff.audit.noise import noise
from payoff.audit.noise_without_gold import other_graders
from payoff.audit.optimisation import over_optimisation
from payoff.audit.oversized import oversized
from payoff.audit.reward_hacks import reward_hacks
from payoff.audit.scorer import ON_THE_WAY
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
    for by, (part, names) in case.slices.items():
        found += case.by_gold(discrimination_by, part=part, by=by, names=names)
    return found


def _attacks(case: Case) -> list[Measurement]:
    found = case.by_rows(attacks, truth=case.truth) + case.by_rows(oversized, seconds=case.seconds)
    recorded = any("school_of_reward_hacks" in row for row in case.few)
    return found + (case.by_rows(reward_hacks) if recorded else [])


def _noise(case: Case) -> list[Measurement]:
    return case.by_gold(calibration) + case.by_gold(noise) + other_graders(case)


def _learnability(case: Case) -> list[Measurement]:
    found = case.told(learnability(case.value, case.valid, case.prompt)) + case.by_gold(stability)
    outcome = torch.where(case.valid, case.value, nan)
    if case.gold_value is not None and case.gold_valid is not None:
        outcome = torch.where(case.gold_valid, case.gold_value, nan)
    elif ON_THE_WAY in case.parts:  # what is paid at the end is all there is to know of the outcome
        outcome = outcome - case.parts[ON_THE_WAY]
    return found + case.told(dense_agreement(case.parts, outcome, outcome.isfinite(), case.prompt, rows=case.responses))


def _ensembles(case: Case) -> list[Measurement]:
    own = [case.scores.parts[name] for name in case.score.members if name in case.scores.parts]
    own = [(case.of_drawn(value), case.of_drawn(valid)) for value, valid in own]
    if not own and case.members:
        own = [(case.value, case.valid)]
    both = own + [(s.value, s.valid) for s in case.member_scores]
    none = torch.zeros(0, len(case.responses))
    scores = torch.stack([value for value, _ in both]) if both else none.double()
    valid = torch.stack([valid for _, valid in both]) if both else none.bool()
    features = {}
    if len(both) > 1:
        texts = [text_of(row.get("response")) for row in case.responses]
        features = {name: torch.tensor([f.of(text) for text in texts], dtype=torch.float64) for name, f in FEATURES.items()}
    found = ensemble(
        scores, valid, case.gold_value, case.prompt, gold_valid=case.gold_valid, features=features, rows=case.responses
    )
    if len(both) < 2:
        return found[:1]  # which says so; the others would say the same
    for by, (part, names) in case.slices.items():
        found += disagreement_by(scores, valid, case.prompt, part, by=by, names=names, rows=case.responses)
    return case.told(found + _labels(case, scores, valid))


def _labels(case: Case, scores: Float64[Tensor, "M N"], valid: Bool[Tensor, "M N"]) -> list[Measurement]:
    """Of preferences as they were given: which the rewards agree to turn round."""
    better, worse = case.responses.pairs
    if not len(better):
        return []
    every = valid.all(0)
    return doubtful_labels(scores[:, better], scores[:, worse], every[better] & every[worse], case.prompt[better])


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
    "learnability": Check("Can a policy learn from it?", _learnability),
    "ensembles": Check("Where several rewards are averaged: what do they all get wrong?", _ensembles),
    "health": Check("What does it cost, and how often is there no verdict?", _health),
    "distance": Check("Transitions: how far is it from the true reward, and what does that lose?", _distance, asks=True),
}
