"""What each remedy is expected to change: the measure that failed, taken again on the same scored rows with the remedy applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from payoff.audit.attacks import FAMILIES as ATTACKS
from payoff.audit.attacks import attacks
from payoff.audit.case import ASKED_OF, Case
from payoff.audit.checks import CHECKS
from payoff.audit.health import constant_groups
from payoff.audit.invariances import FAMILIES as INVARIANCES
from payoff.audit.invariances import invariances
from payoff.audit.measurement import Measurement
from payoff.audit.remedies import REMEDIES, Change, Choice, Direct, Trial
from payoff.audit.replay import Heard, Memory, NotHeard, Replayed, key_of_row
from payoff.audit.scorer import Scorer
from payoff.contents import sees

Taken = Mapping[str, Measurement]


def _families(
    case: Case, names: Iterable[str], prefix: str, known: Mapping[str, Any], measure: Callable[..., Any]
) -> list[Measurement]:
    chosen = [name.removeprefix(prefix) for name in names if name.removeprefix(prefix) in known]
    return case.by_rows(measure, truth=case.truth, families=chosen) if chosen else []


def _whole(check: str) -> Callable[[Case, Sequence[str]], list[Measurement]]:
    return lambda case, names: CHECKS[check].run(case)


# How the measures of a check are taken again. Those that ask for other rows with every reward (the search, very long responses,
# repeats) are not among them, nor those of several rewards.
AGAIN: Mapping[str, Callable[[Case, Sequence[str]], list[Measurement]]] = {
    **{
        name: _whole(name)
        for name in ("discrimination", "over-optimisation", "correlated-proxies", "noise", "learnability", "bias")
    },
    "attacks": lambda case, names: _families(case, names, "attack-", ATTACKS, attacks),
    "invariances": lambda case, names: _families(case, names, "invariance-", INVARIANCES, invariances),
    "health": lambda case, names: case.by_gold(constant_groups),
}


@dataclass(frozen=True)
class _Again:
    """A case that answers from memory: its rows are those that the checks which change responses draw from."""

    check: str
    case: Case
    memory: Memory
    names: Sequence[str]

    def take(self, case: Case) -> Taken:
        return {m.name: m for m in AGAIN[self.check](case, self.names)}

    def changed(self, change: Change) -> Taken:
        return self.take(replace(self.case, score=Replayed.of(self.case.score, self.memory, change.of)))

    def chosen(self, keep: Any) -> Taken:
        rows = [self.case.responses[k] for k in keep.nonzero().squeeze(1).tolist()]
        return self.take(replace(self.case, rows=rows, gold=self.case.label))


def with_effects(case: Case, check: str, found: Sequence[Measurement], memory: Memory) -> list[Measurement]:
    """The measurements of a check, each failing one with what its remedies are expected to change (`Measurement.effects`).

    An effect has `remedy` and `setting`, what the measure was (`before`) and would be (`after`, `low`, `high`: its interval), and
    `gain`: the share of what lies beyond the bound that is gone, times how grave it was (`distance`, at most 1); below 0 where it
    gets worse. Where nothing can be told `why` says so. Remedies of a measurement stand in the order of their gains, those without
    one last. memory: what the reward was heard to give; it is not asked again. Of more rows than `ASKED_OF`, both numbers are of
    prompts drawn until there are so many.
    """
    failing = [m for m in found if m.result == "fails" and m.remedies]
    if not failing:
        return list(found)
    names = [m.name for m in failing]
    wanted = list(dict.fromkeys(remedy for m in failing for remedy in m.remedies))
    effects: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in names}
    why = _no_way(case, check)
    again = None if why else _again(case, check, names, memory)
    before: Taken = {m.name: m for m in failing}
    if again is not None and len(case.singles) > ASKED_OF and not CHECKS[check].asks:
        before = again.take(again.case)
    for remedy in wanted:
        tried = why or (_tried(again, remedy) if again is not None else "")
        for m in failing:
            if remedy in m.remedies:
                effects[m.name][remedy] = _effect(m, remedy, before, tried)
    ordered = []
    for m in found:
        of = sorted(effects.get(m.name, {}).values(), key=lambda e: (-1, -e["gain"]) if "gain" in e else (0, 0.0))
        ordered.append(replace(m, effects=tuple(of), remedies=tuple(e["remedy"] for e in of)) if of else m)
    return ordered


def _no_way(case: Case, check: str) -> str:
    if check not in AGAIN:
        return "this measure would have to ask the reward again"
    if CHECKS[check].asks and sees(case.score.signal) != "item":
        return "the reward sees more than one response at a time, and would have to be asked again"
    return ""


def _again(case: Case, check: str, names: Sequence[str], memory: Memory) -> _Again:
    few = case if len(case.singles) <= ASKED_OF else replace(case, rows=case.few)
    value, valid = (x.tolist() for x in (case.scores.value, case.scores.valid))
    for place, row in zip(range(len(value)) if few is case else case.few_places, few.singles, strict=True):
        memory.setdefault(key_of_row(row), Heard(value[place], valid[place]))
    truth = Replayed.of(case.truth, memory.truth) if isinstance(case.truth, Scorer) and memory.truth is not None else case.truth
    return _Again(check, replace(few, score=Replayed.of(case.score, memory), truth=truth), memory, names)


Tried = tuple[Taken, Taken | None, str] | str


def _tried(again: _Again, remedy: str) -> Tried:
    """The measures with a remedy, without it where that is not what they were, and the remedy's setting; or why not."""
    make = REMEDIES.get(remedy)
    if make is None:
        return "nothing is known of how to try it on rows"
    try:
        if not bool(again.case.valid.any()):
            return "no row has a verdict"
        trial: Trial = make(again.case)
        if isinstance(trial, Change):
            return again.changed(trial), None, trial.setting
        if isinstance(trial, Choice):
            return again.chosen(trial.keep & trial.measured), again.chosen(trial.measured), trial.setting
        if isinstance(trial, Direct):
            return {m.name: m for m in trial.of(again.case)}, None, trial.setting
        return trial
    except NotHeard as why:
        return str(why)


def _effect(m: Measurement, remedy: str, before: Taken, tried: Tried) -> dict[str, Any]:
    if isinstance(tried, str):
        return {"remedy": remedy, "why": tried}
    after, other, setting = tried
    old, new = (other or before).get(m.name, m), after.get(m.name)
    if old.estimate is None or new is None or new.estimate is None:
        asks = CHECKS[m.check].asks if m.check in CHECKS else False
        other_rows, later = "this measure would have to ask the reward again", "only training can show what it does to this measure"
        why = (other_rows if asks else later) if new is None else new.note
        return {"remedy": remedy, "setting": setting, "why": why or "it could not be measured again"}
    old_distance, new_distance = distance(m, old.estimate.value), distance(m, new.estimate.value)
    gain = max(-1.0, min(1.0, old_distance) * (1 - new_distance / old_distance)) if old_distance > 0 else -min(1.0, new_distance)
    ends = {"low": new.estimate.low, "high": new.estimate.high}
    return {"remedy": remedy, "setting": setting, "before": old.estimate.value, "after": new.estimate.value, **ends, "gain": gain}


def distance(m: Measurement, value: float) -> float:
    """How far beyond the bound of a measure a value lies, 1 at what is as grave as can be; 0 on the good side."""
    assert m.bound is not None
    beyond = value - m.bound if m.bad == "above" else m.bound - value
    return max(0.0, beyond) / abs(m.worst - m.bound)


def remedies_of(findings: Iterable[Measurement]) -> list[dict[str, Any]]:
    """All remedies of the findings, by the sum of what they are expected to gain over all findings that ask for them.

    Each has `remedy`, `place` (the function), `gain` (None where none could be estimated) and `effects`, each with its `measure`;
    remedies without an estimate stand last, by the severity of what asks for them.

    >>> from payoff.intervals import wilson
    >>> m = Measurement("attack-empty", "attacks", "?", wilson(30, 40), bound=0.01, remedies=("par", "g-ra"))
    >>> told = ({"remedy": "g-ra", "before": 0.75, "after": 0.0, "low": 0, "high": 0.1, "gain": 0.7}, {"remedy": "par", "why": "?"})
    >>> [(one["remedy"], one["gain"], one["place"]) for one in remedies_of([replace(m, effects=told)])]
    [('g-ra', 0.7, ['payoff.shaping.gating:gate']), ('par', None, ['payoff.shaping.squashing:par'])]
    """
    from payoff.catalogue import index

    asked: dict[str, list[dict[str, Any]]] = {}
    severity: dict[str, float] = {}
    for m in findings:
        known = {effect["remedy"]: effect for effect in m.effects}
        for remedy in m.remedies:
            effect = known.get(remedy, {"remedy": remedy, "why": "it was not tried"})
            asked.setdefault(remedy, []).append({"measure": m.name, **effect})
            severity[remedy] = severity.get(remedy, 0.0) + m.severity
    places: dict[str, list[str]] = {}
    for (_, name), method in index().items():
        places.setdefault(name, []).append(method.place)
    listed = []
    for remedy, effects in asked.items():
        gains = [effect["gain"] for effect in effects if "gain" in effect]
        gain = sum(gains) if gains else None
        listed.append({"remedy": remedy, "place": places.get(remedy, []), "gain": gain, "effects": effects})
    return sorted(listed, key=lambda r: (r["gain"] is None, -(r["gain"] or 0.0), -severity[r["remedy"]]))


def effect_told(effect: Mapping[str, Any]) -> str:
    """What a remedy is expected to change, in a few words.

    >>> effect_told({"remedy": "g-ra", "before": 0.75, "after": 0.0, "low": 0.0, "high": 0.1, "gain": 0.7})
    '0.75 -> 0 [0, 0.1]'
    """
    if "gain" not in effect:
        return f"no estimate: {effect.get('why', '')}"
    ends = "" if effect.get("low") is None or effect.get("high") is None else f" [{effect['low']:.2g}, {effect['high']:.2g}]"
    before, after = (round(effect[end], 9) + 0.0 for end in ("before", "after"))
    return f"{before:.3g} -> {after:.3g}{ends}"
