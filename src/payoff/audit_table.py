"""The tables of docs/audit.md, each made by its own command, because some take minutes.

    python -m payoff.audit_table measures docs/audit.md      # seconds
    python -m payoff.audit_table flaws docs/audit.md         # minutes, as the others are
    python -m payoff.audit_table prediction docs/audit.md
    python -m payoff.audit_table rewards docs/audit.md
    python -m payoff.audit_table scorers docs/audit.md

Without the page a table is printed. What a run has finished is kept in the folder audits/table, and the same command goes on there;
remove the folder to begin again. The table of costs is made by benchmarks/audit.py.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from payoff.audit.case import Case
from payoff.audit.checks import CHECKS
from payoff.audit.measurement import Measurement
from payoff.audit.planted import CLEAN, FLAWED, evidence
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer
from payoff.made_pages import begin, make
from payoff.rewards import as_signal

PAGE = "docs/audit.md"
KEPT = Path("audits") / "table"


def mark(part: str) -> str:
    """The mark that opens a part's table.

    >>> mark("flaws")
    '<!-- made by: python -m payoff.audit_table flaws docs/audit.md -->'
    """
    return begin(f"payoff.audit_table {part}", PAGE)


def measures(progress: Callable[[str], None]) -> str:
    """Every measure that an audit of sums gives, with its question and its bounds, from one run of every check."""
    lines = ["| check | measure | question | good | worst |", "|---|---|---|---|---|"]
    for check, m in _every_measure(progress):
        good = "told only" if m.bound is None else f"at {'most' if m.bad == 'above' else 'least'} {m.bound:g}"
        worst = "" if m.bound is None else f"{m.worst:g}"
        lines.append(f"| {check} | `{m.name}` | {m.question} | {good} | {worst} |")
    return "\n".join(lines)


def _every_measure(progress: Callable[[str], None]) -> Iterator[tuple[str, Measurement]]:
    rows = evidence(12, 4)
    three = FLAWED["shared error in an ensemble"]
    case = Case(Scorer(as_signal(three.reward, "reward"), three.channel), rows, gold="gold", budget=50, seconds=0.2)
    moves = [{"state": 0, "action": a, "next_state": a, "gold": float(a)} for a in (0, 1)] * 3
    pairs = [{"prompt": str(k), "chosen": "1", "rejected": "2", "reference": "1"} for k in range(12)]
    others = {
        "distance": Case(Scorer(as_signal(lambda action: float(action), "reward")), moves, gold="gold"),
        "health": Case(case.score, rows, gold="gold", served=case.score, prices={"calls": 0.0}),
        "learnability": Case(Scorer(as_signal(_in_parts, "reward"), "PART"), rows, gold="gold"),
        "ensembles": Case(Scorer(as_signal(three.reward, "reward"), three.channel), pairs),
        "noise": Case(Scorer(as_signal(three.reward, "reward"), ",".join((three.channel or "").split(",")[:2])), rows, gold="gold"),
    }
    for name, check in CHECKS.items():
        progress(name)
        every: dict[str, Measurement] = {}
        for one in [others[name]] if name in ("distance", "health") else [case, *([others[name]] if name in others else [])]:
            every |= {m.name: m for m in check.run(one) if m.name not in every}
        yield from ((name, every[measure]) for measure in sorted(every))


def _in_parts(response: str) -> dict[str, float]:
    return {"PART": float(len(response) % 7), "CHANNEL": float(len(response) % 5)}


def flaws(progress: Callable[[str], None], *, folder: Path | None = KEPT) -> str:
    """The planted flaws and the clean rewards: what the audit names first, and whether that says what is wrong."""
    rows = evidence(100, 6)
    lines = ["| reward | first finding | says what is wrong | findings |", "|---|---|---|---:|"]
    for name, (reward, channel, named_by) in _planted().items():
        progress(name)
        names = _kept(folder, name, functools.partial(_findings, reward, channel, rows))
        first = f"`{names[0]}`" if names else "none"
        right = "yes" if (names[:1] and names[0] in named_by) or (not names and not named_by) else "no"
        lines.append(f"| {name} | {first} | {right} | {len(names)} |")
    return "\n".join(lines)


def _planted() -> Mapping[str, tuple[Any, str | None, Sequence[str]]]:
    flawed = {name: (flaw.reward, flaw.channel, flaw.named_by) for name, flaw in FLAWED.items()}
    return flawed | {f"{name} (clean)": (reward, None, ()) for name, reward in CLEAN.items()}


def _findings(reward: Any, channel: str | None, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all findings, worst first."""
    found = audit(Case(Scorer(as_signal(reward, "reward"), channel), rows, gold="gold", budget=500), effects=False)
    return [m.name for m in found.findings]


def _kept(folder: Path | None, name: str, make_it: Callable[[], list[str]]) -> list[str]:
    path = None if folder is None else folder / "flaws" / f"{name.replace(' ', '-')}.json"
    if path is not None and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = make_it()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _prediction(progress: Callable[[str], None]) -> str:
    from payoff.audit_prediction import tables

    return tables(progress, folder=KEPT / "prediction")


def _rewards(progress: Callable[[str], None]) -> str:
    from payoff.audit_rewards import real_tables

    return real_tables(progress, folder=KEPT / "rewards")


def _scorers(progress: Callable[[str], None]) -> str:
    from payoff.audit_rewards import scorer_tables

    return scorer_tables(progress, folder=KEPT / "rewards")


PARTS: Mapping[str, Callable[[Callable[[str], None]], str]] = {
    "measures": measures,
    "flaws": flaws,
    "prediction": _prediction,
    "rewards": _rewards,
    "scorers": _scorers,
}


def main(arguments: Sequence[str]) -> None:
    """Make one part's table; SystemExit with the names of the parts where none of them is named."""
    if not arguments or arguments[0] not in PARTS:
        raise SystemExit(f"python -m payoff.audit_table PART [PAGE]; PART is one of {', '.join(PARTS)}")
    import torch

    torch.set_num_threads(1)
    make(PARTS[arguments[0]], mark(arguments[0]), arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
