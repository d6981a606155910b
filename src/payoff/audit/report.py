"""An audit as a whole: the checks run one after another, kept as they finish, judged by the worst, and told in words."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from payoff import __version__
from payoff.audit.case import ASKED_OF
from payoff.audit.checks import CHECKS, Case
from payoff.audit.effects import effect_told, remedies_of, with_effects
from payoff.audit.measurement import Measurement, worst_first
from payoff.audit.replay import Memory
from payoff.audit.scorer import Scorer
from payoff.catalogue import nearest
from payoff.files import replacing
from payoff.intervals import Interval

SIGNS = {"fails": "✗", "inconclusive": "?", "holds": "✓", "not applicable": "–"}
_GATE = re.compile(r"\s*([\w-]+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)


class AuditError(ValueError):
    """What was asked of an audit makes no sense, in one line."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    measurements: worst first; part_of: the check of CHECKS that each came from; skipped: checks that were not run
    invalid:      rows without a verdict; asked: rewards asked for, all checks together; seconds: by check
    """

    reward: str
    measurements: Sequence[Measurement]
    part_of: Mapping[str, str]
    skipped: Sequence[str]
    rows: int
    prompts: int
    invalid: int
    asked: int
    seconds: Mapping[str, float]

    @property
    def findings(self) -> list[Measurement]:
        """What fails, worst first."""
        return [m for m in self.measurements if m.result == "fails"]

    @property
    def verdict(self) -> str:
        """The worst of all results, for an average would hide what breaks; nothing holds where most rows have no verdict."""
        results = {m.result for m in self.measurements}
        if 2 * self.invalid > self.rows and "fails" not in results:
            return "inconclusive"
        return next((word for word in ("fails", "inconclusive", "holds") if word in results), "inconclusive")

    def as_json(self) -> dict[str, Any]:
        """Plain data: the verdict, `findings` worst first, every measurement, and what was not tried."""
        return {
            "schema": "https://payoff.dev/schemas/audit-1.json",
            "payoff": __version__,
            "reward": self.reward,
            "verdict": self.verdict,
            "findings": [_finding(m) for m in self.findings],
            "remedies": remedies_of(self.findings),
            "measurements": [{"part_of": self.part_of[m.name], **m.as_json()} for m in self.measurements],
            "not_run": list(self.skipped),
            "rows": self.rows,
            "invalid": self.invalid,
            "prompts": self.prompts,
            "rewards_asked_for": self.asked,
            "seconds": dict(self.seconds),
        }


def audit(
    case: Case,
    *,
    reward: str = "reward",
    only: Iterable[str] = (),
    folder: Path | None = None,
    key: str = "",
    effects: bool = True,
    progress: Callable[[str, int, int], None] = lambda name, number, of: None,
) -> Audit:
    """Run the checks of `only` (none: all) on a case.

    folder: where each check's measurements are kept as soon as it is done; a check that is there under the same `key` (whatever
    could change its result: rows, reward, options) is read back instead of run.
    effects: whether every remedy of what fails is tried on the same scored rows (`effects.with_effects`).
    Raises AuditError for a check that does not exist, or rows without a single response.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def lenient(response, reference): return float(reference in response)
    >>> rows = [{"prompt": f"{k}+1=", "response": str(k + 1), "reference": str(k + 1), "ok": 1} for k in range(90)]
    >>> found = audit(Case(Scorer(signal(lenient)), rows, gold="ok"), only=["attacks"])
    >>> found.verdict, "attack-many-answers" in [m.name for m in found.findings]
    ('fails', True)
    """
    chosen = list(only) or (["distance"] if case.moves else [name for name in CHECKS if name != "distance"])
    for name in chosen:
        if name not in CHECKS:
            like = nearest(name, list(CHECKS))
            raise AuditError(
                f"audit: there is no check {name!r}"
                + (f"; did you mean {like[0]!r}?" if like else f"; there are {', '.join(CHECKS)}")
            )
    if not case.moves and not len(case.singles):
        raise AuditError("audit: no row has a response, nor a pair of chosen and rejected")
    odd = [name for name in chosen if (name == "distance") != case.moves]
    if odd:
        kind = "transitions" if case.moves else "responses"
        raise AuditError(f"audit: the rows are {kind}, which {', '.join(odd)} cannot be asked of")
    found: list[Measurement] = []
    invalid = 0
    part_of: dict[str, str] = {}
    seconds = {}
    memory = Memory() if effects and not case.moves else None
    for number, name in enumerate(chosen, 1):
        progress(name, number, len(chosen))
        start = time.perf_counter()
        kept = None if folder is None else folder / f"{name}.json"
        read = _kept(kept, key)
        if read is None:
            read = _run(case, name, memory), sum(case.score.invalid.values()) if case.moves else int((~case.scores.valid).sum())
            if kept is not None:
                _keep(kept, key, *read)
        made, invalid = read
        found += made
        part_of |= {m.name: name for m in made}
        seconds[name] = time.perf_counter() - start
    skipped = [name for name in CHECKS if name not in chosen and (name == "distance") == case.moves]
    rows, prompts = (len(case.rows), 0) if case.moves else (len(case.singles), int(case.group.max()) + 1)
    return Audit(reward, worst_first(found), part_of, skipped, rows, prompts, invalid, case.score.rows, seconds)


def _run(case: Case, name: str, memory: Memory | None) -> list[Measurement]:
    """A check's measurements; with a memory, which hears what the reward says, also what remedies are expected to change."""
    if memory is None:
        return CHECKS[name].run(case)
    if len(case.singles) > ASKED_OF:
        _ = case.scores  # of so many responses no rewards of steps are kept
    memory.truth = memory.truth or Memory()
    listening = [(case.score, memory), *([(case.truth, memory.truth)] if isinstance(case.truth, Scorer) else [])]
    for score, heard in listening:
        score.listener = heard.listen
    try:
        return with_effects(case, name, CHECKS[name].run(case), memory)
    finally:
        for score, _ in listening:
            score.listener = None


def gates(text: str) -> list[tuple[str, str, float]]:
    """The conditions of `--fail-on`, such as "attack_fpr>0.01,auc<0.9", as (name, comparison, number).

    Raises AuditError for one that cannot be read.

    >>> gates("attack_fpr>0.01, auc<0.9")
    [('attack-fpr', '>', 0.01), ('auc', '<', 0.9)]
    """
    made = []
    for part in filter(str.strip, text.split(",")):
        match = _GATE.fullmatch(part)
        if match is None:
            raise AuditError(f'--fail-on: "{part.strip()}" is not NAME>NUMBER or NAME<NUMBER, such as auc<0.9')
        made.append((match[1].replace("_", "-"), match[2], float(match[3])))
    if not made:
        raise AuditError("--fail-on: no condition; write such as auc<0.9")
    return made


def hit(gate: tuple[str, str, float], found: Audit) -> str | None:
    """Why a condition holds, in words; None where it does not. It is put to the estimate and not to an end of its interval.

    "attack-fpr" is the largest of all attacks' rates, "invariance-fnr" that of all invariances.
    Raises AuditError for a measure that this audit does not have, or could not take.
    """
    name, comparison, bound = gate
    families = {"attack-fpr": "attack-", "invariance-fnr": "invariance-"}
    prefix = families.get(name)
    some = [m for m in found.measurements if (m.name.startswith(prefix) if prefix else m.name == name)]
    some = [m for m in some if m.unit != "exponent"]
    if not some:
        like = nearest(name, [*families, *(m.name for m in found.measurements)])
        raise AuditError(f"--fail-on: this audit has no measure {name!r}" + (f"; did you mean {like[0]!r}?" if like else ""))
    taken = [m for m in some if m.estimate is not None]
    if not taken:
        raise AuditError(f"--fail-on: {name} could not be measured: {some[0].note}")
    holds = {">": float.__gt__, "<": float.__lt__, ">=": float.__ge__, "<=": float.__le__}[comparison]
    hits = [m for m in taken if holds(float(m.estimate.value), bound)]  # type: ignore[union-attr]
    if not hits:
        return None
    worst = max(hits, key=lambda m: abs(m.estimate.value - bound))  # type: ignore[union-attr]
    return f"{worst.name} is {worst.estimate.value:.3g} ({comparison} {bound:g})"  # type: ignore[union-attr]


def told(found: Audit, *, shown: int = 3) -> str:
    """The audit for a terminal: the verdict and its scope, what breaks first and what to do, then a line per measurement."""
    held = sum(m.result == "holds" for m in found.measurements)
    open_ = sum(m.result == "inconclusive" for m in found.measurements)
    lines = [
        f"audit {found.reward}   {found.verdict.upper()}   {len(found.findings)} of {len(found.measurements)} measures fail, "
        f"{held} hold, {open_} undecided",
        f"  {f'{found.rows} responses to {found.prompts} prompts' if found.prompts else f'{found.rows} transitions'}, "
        f"{found.invalid} without verdict; {found.asked} rewards asked for",
        "",
    ]
    for m in found.findings[:shown]:
        lines += [
            f"  {SIGNS['fails']} {m.name}: {m.question} {number_told(m)}",
            f"      do: {m.advice or 'see the report'}{_untried(m)}",
            *(f"      {effect['remedy']}: estimated effect {effect_told(effect)}" for effect in m.effects if "gain" in effect),
        ]
    if found.findings:
        lines.append("")
    lines += _what_to_change(found)
    width = max((len(m.name) for m in found.measurements), default=0)
    for m in found.measurements:
        text = number_told(m) if m.estimate is not None else m.note
        lines.append(f"  {SIGNS[m.result]} {m.name:<{width}}  {text}")
    if found.skipped:
        lines += ["", f"not tried: {', '.join(found.skipped)}"]
    return "\n".join(lines) + "\n"


def number_told(m: Measurement) -> str:
    """The estimate with its interval, its bound and how many it rests on."""
    e = m.estimate
    if e is None:
        return "not measured"
    around = "" if e.low is None or e.high is None else f" [{_short(e.low)}, {_short(e.high)}]"
    bound = "" if m.bound is None else f"; at {'most' if m.bad == 'above' else 'least'} {m.bound:g} is good"
    return f"{_short(e.value)}{around} {m.unit} (n = {e.n}{bound})".replace("  ", " ")


def key_of(*parts: Any) -> str:
    """A short name for everything that could change a result."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_json(data: Mapping[str, Any]) -> Measurement:
    """A measurement as `Measurement.as_json` wrote it."""
    low, high = data["interval"] or (None, None)
    estimate = None
    if data["estimate"] is not None:
        estimate = Interval(data["estimate"], low, high, data["n"], data["level"], None, None, data["method"])
    same = ("check", "question", "bound", "bad", "worst", "unit", "advice", "needs", "note", "series")
    return Measurement(
        name=data["measure"],
        estimate=estimate,
        remedies=tuple(data["remedies"]),
        examples=tuple(data["examples"]),
        effects=tuple(data["effects"]),
        **{name: data[name] for name in same},
    )


def _finding(m: Measurement) -> dict[str, Any]:
    whole = m.as_json()
    first = (
        "measure",
        "severity",
        "estimate",
        "interval",
        "advice",
        "examples",
        "remedies",
        "effects",
        "check",
        "question",
        "n",
        "bound",
        "unit",
        "note",
    )
    return {name: whole[name] for name in first}


def _untried(m: Measurement) -> str:
    """The remedies of a finding of which nothing could be estimated."""
    names = [name for name in m.remedies if not any(e["remedy"] == name and "gain" in e for e in m.effects)]
    return f" ({', '.join(names)})" if names else ""


def _what_to_change(found: Audit, shown: int = 5) -> list[str]:
    """The remedies of all findings, what is expected of them over all; those that could not be tried are one line."""
    every = remedies_of(found.findings)
    tried = [one for one in every if one["gain"] is not None]
    lines = []
    for one in tried[:shown]:
        best = sorted((e for e in one["effects"] if "gain" in e), key=lambda e: -e["gain"])
        helps = sum(e["gain"] > 0.005 for e in best)
        lines.append(
            f"  {one['remedy']} ({', '.join(one['place'])}): lessens {helps} of {len(one['effects'])} findings that ask for it; "
            f"{best[0]['measure']} {effect_told(best[0])}"
        )
    if rest := [one["remedy"] for one in every if one["gain"] is None]:
        lines.append(f"  without an estimate: {', '.join(rest)}")
    return ["what to change, by the estimated effect on these rows:", *lines, ""] if lines else []


def _short(x: float) -> str:
    return f"{x:.3g}"


def _keep(path: Path, key: str, made: Sequence[Measurement], invalid: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"key": key, "invalid": invalid, "measurements": [m.as_json() for m in made]}
    content = json.dumps(data, ensure_ascii=False, default=str)
    with replacing(path) as file:
        file.write(content.encode())


def _kept(path: Path | None, key: str) -> tuple[list[Measurement], int] | None:
    """The measurements of a finished check, and how many rows had no verdict, if they were made with the same key."""
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = bool(key) and content["key"] == key
        return ([from_json(data) for data in content["measurements"]], int(content["invalid"])) if same else None
    except (ValueError, KeyError, TypeError):
        return None


def differences(first: Audit, second: Audit) -> str:
    """A table of two audits on the same rows: where one fails and the other does not, then where both have a number."""
    other = {m.name: m for m in second.measurements}
    both = [(m, other[m.name]) for m in first.measurements if m.name in other and (m.estimate or other[m.name].estimate)]
    lines = [f"{first.reward} against {second.reward}, on the same {first.rows} responses:"]
    width = max((len(m.name) for m, _ in both), default=0)
    for m, o in both:
        if m.result != o.result:
            lines.append(f"  {m.name:<{width}}  {SIGNS[m.result]} {number_told(m)}   |   {SIGNS[o.result]} {number_told(o)}")
    same = sum(m.result == o.result for m, o in both)
    lines.append(f"  {same} other measures end alike in both")
    return "\n".join(lines) + "\n"


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write results as JSON, whole or not at all; what is not finite is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, indent=1, default=str) + "\n").encode())
    return path


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
