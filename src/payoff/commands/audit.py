"""The command that asks whether a reward can be trusted."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from payoff.commands import Quiet, app
from payoff.commands.rows import Deadline, Mapped, Reward, Workers, reward_named, rows_of
from payoff.terminal import Answer, run_command, say

IN_MEMORY = 20_000  # rows; more are kept on disk while the audit runs

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="rows with responses, or with `chosen` and `rejected` as RewardBench has them: JSONL, CSV (also .gz), Parquet, "
        "a data set's folder or name on the hub, or reasoning-gym:NAME",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="instead of --data: a run file, a run folder, or with --task a model folder or '{name: POLICY, OPTION: VALUE}'",
    ),
]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        help="with --policy: a registered task, as NAME, reasoning-gym:NAME or '{name: NAME, OPTION: VALUE}' (else the run's own)",
    ),
]
Arm = Annotated[str, typer.Option("--arm", help="with --policy: which arm of the run")]
Prompts = Annotated[int, typer.Option("--prompts", min=1, help="with --policy: prompts that are sampled")]
Samples = Annotated[int, typer.Option("--samples", min=1, help="with --policy: responses to each")]
Transitions = Annotated[
    str | None, typer.Option("--transitions", help="instead of --data: rows with `state`, `action` and `next_state`")
]
Discount = Annotated[float, typer.Option("--discount", min=0.0, max=0.9999, help="with --transitions: of the returns")]
Gold = Annotated[str | None, typer.Option("--gold", help="the field with the true score or label of a response")]
Hard = Annotated[
    str | None,
    typer.Option("--difficulty", help="the field that says how hard a row is (default: how seldom its prompt is answered well)"),
]
Truth = Annotated[str | None, typer.Option("--truth", help="a reward that knows the truth: what it calls right is no attack")]
Channel = Annotated[
    str | None,
    typer.Option("--channel", help="which channel, where the reward gives several; ONE,TWO: an ensemble; the others are its parts"),
]
Only = Annotated[str, typer.Option("--only", help="checks to run, such as attacks,bias (default: all)")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="rows that are read at most")]
Budget = Annotated[int, typer.Option("--budget", min=1, help="rewards the black-box search may ask for")]
Seed = Annotated[int, typer.Option("--seed", help="of everything that is drawn")]
FailOn = Annotated[str | None, typer.Option("--fail-on", help="for CI: exit 1 if one holds, such as attack_fpr>0.01,auc<0.9")]
Against = Annotated[str | None, typer.Option("--against", help="another reward, audited on the same rows and compared")]
Member = Annotated[
    list[str] | None, typer.Option("--member", help="another reward of an ensemble with this one; may be given several times")
]
Parity = Annotated[
    str | None, typer.Option("--parity", help="another path to the same reward, such as its server, that must agree with it")
]
Price = Annotated[
    list[str] | None,
    typer.Option("--price", metavar="COUNT=PRICE", help="of one of calls, requests, prompt_tokens ...; may be given several times"),
]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the report (default: audits/REWARD)")]
AsJson = Annotated[
    str | None, typer.Option("--json", metavar="[FILE]", help="write the findings as JSON to FILE, or to standard output")
]
Show = Annotated[int, typer.Option("--show", min=0, help="findings told with their remedy")]
Fresh = Annotated[bool, typer.Option("--fresh", help="run again what an earlier audit of the same reward and rows has finished")]
Cached = Annotated[bool, typer.Option("--cache", help="grade equal rows once; leave it off where drift matters")]


@app.command()
def audit(
    reward: Reward,
    data: Data = None,
    policy: Policy = None,
    task: Task = "",
    arm: Arm = "",
    prompts: Prompts = 100,
    samples: Samples = 8,
    transitions: Transitions = None,
    discount: Discount = 0.99,
    gold: Gold = None,
    difficulty: Hard = None,
    truth: Truth = None,
    channel: Channel = None,
    only: Only = "",
    limit: Limit = 100_000,
    budget: Budget = 4000,
    seed: Seed = 0,
    fail_on: FailOn = None,
    against: Against = None,
    member: Member = None,
    parity: Parity = None,
    price: Price = None,
    out: Out = None,
    as_json: AsJson = None,
    show: Show = 3,
    fresh: Fresh = False,
    workers: Workers = 0,
    deadline: Deadline = None,
    cache: Cached = False,
    mapped: Mapped = None,
    quiet: Quiet = False,
) -> None:
    """Measure whether a reward can be trusted: what breaks first, how badly, and what to change. Exit code 1 when it fails."""
    to_stdout = as_json == "-"

    def work() -> Answer:
        from payoff.audit.report import gates

        conditions = gates(fail_on) if fail_on else []
        sampled = {"task": task, "arm": arm, "prompts": prompts, "samples": samples, "seed": seed}
        evidence = _evidence(data, policy, transitions, gold, difficulty, sampled, mapped, limit)
        settings: dict[str, Any] = {"gold": evidence.gold, "truth": truth, "channel": channel, "seed": seed, "budget": budget}
        settings |= {"discount": discount, "member": member, "parity": parity, "price": _prices(price or []) or None}
        settings |= {"difficulty": difficulty}
        asked = _Asked(workers, deadline, cache, [part.strip() for part in only.split(",") if part.strip()], fresh)
        folder = out or Path("audits") / re.sub(r"[^\w.-]+", "-", reward).strip("-")
        found, invalid = [], []
        for name, place in [(reward, "checks"), *([(against, "checks-against")] if against else [])]:
            tell = lambda check, k, of, name=name: None if quiet or to_stdout else say(f"{name}: {check} ({k} of {of})")
            one, reasons = _audited(name, evidence, settings, asked, folder / place, tell)
            found.append(one)
            invalid.append(reasons)
        copy = None if as_json is None or to_stdout else Path(as_json)
        told = {"reward": reward, **evidence.named, **settings}
        answer = _answer(found, conditions, folder, copy, told, len(evidence.damaged), show)
        answer.counts = {"valid": found[0].asked - sum(invalid[0].values()), "by_reason": dict(invalid[0].most_common(20))}
        answer.warnings = _warnings(evidence, limit)
        return answer

    run_command("audit", work, to_stdout)


class _Evidence(NamedTuple):
    """Rows, the field of their gold and of their difficulty, what they came from, and what was wrong with lines not read."""

    rows: Any
    gold: str | None
    difficulty: str | None
    named: dict[str, Any]
    damaged: list[str]


class _Asked(NamedTuple):
    """How a reward is asked: worker processes, a deadline, a cache; the checks that were chosen; whether to begin again."""

    workers: int
    deadline: float | None
    cache: bool
    only: list[str]
    fresh: bool


def _evidence(
    data: str | None,
    policy: str | None,
    transitions: str | None,
    gold: str | None,
    difficulty: str | None,
    sampled: dict[str, Any],
    mapped: list[str] | None,
    limit: int,
) -> _Evidence:
    """Rows of a file, or of a policy that is sampled; LookupError unless exactly one place is named."""
    named: dict[str, Any] = {
        name: place for name, place in (("data", data), ("policy", policy), ("transitions", transitions)) if place
    }
    if len(named) != 1:
        raise LookupError(f"one of --data, --policy and --transitions says what to audit on; given: {', '.join(named) or 'none'}")
    damaged: list[str] = []
    if policy:
        from payoff.audit.sampled import GOLD, sampled_rows

        rows: Any = sampled_rows(policy, **sampled)
        gold = gold or (GOLD if any(GOLD in row for row in rows) else None)
        named |= {name: value for name, value in sampled.items() if name != "seed"}
    else:
        rows = _rows(data or transitions or "", mapped, gold, limit, damaged)
    if difficulty is not None and not any(row.get(difficulty) is not None for row in rows):
        raise LookupError(f"--difficulty {difficulty}: no row has such a field; the rows have {', '.join(sorted(rows[0]))}")
    return _Evidence(rows, gold, difficulty, named, damaged)


def _audited(name: str, evidence: _Evidence, settings: dict[str, Any], asked: _Asked, folder: Path, tell: Any) -> tuple[Any, Any]:
    """The audit of one reward, and how often and why it gave no verdict."""
    from payoff.audit.case import Case
    from payoff.audit.report import audit as audited
    from payoff.audit.report import key_of
    from payoff.audit.scorer import Scorer

    truth, members, parity = settings["truth"], settings["member"] or [], settings["parity"]
    of = lambda spec, channel=None: Scorer(reward_named(spec, asked.workers, asked.deadline, asked.cache), channel)
    case = Case(
        of(name, settings["channel"]),
        evidence.rows,
        gold=evidence.gold,
        truth=None if truth is None else of(truth),
        seed=settings["seed"],
        budget=settings["budget"],
        members=[of(other) for other in members],
        served=None if parity is None else of(parity),
        prices=settings["price"] or {},
        discount=settings["discount"],
        difficulty=evidence.difficulty,
    )
    codes = [_code_of(other) for other in (name, truth or "", *members, parity or "")]
    key = "" if asked.fresh else key_of(name, codes, getattr(evidence.rows, "digest", evidence.rows), settings)
    found = audited(case, reward=name, only=asked.only, folder=folder, key=key, progress=tell)
    return found, case.score.invalid


def _warnings(evidence: _Evidence, limit: int) -> list[str]:
    """What was wrong with the rows that were read, and whether there may be more."""
    damaged = evidence.damaged
    said = [f"{len(damaged)} rows could not be read and were left out; the first: {damaged[0]}"] if damaged else []
    if "policy" not in evidence.named and len(evidence.rows) == limit:
        said.append(f"{limit} rows were read, and there may be more; --limit says how many to read")
    return said


def _rows(data: str, mapped: list[str] | None, gold: str | None, limit: int, damaged: list[str]) -> Any:
    """Up to `limit` rows, on disk where they are many; what is wrong with lines that cannot be read goes to `damaged`."""
    from payoff.audit.pair_rows import expanded
    from payoff.audit.stored_rows import StoredRows

    kept = _Damage(damaged)
    source = expanded(itertools.islice(rows_of(data, mapped, kept), limit), gold or "gold")
    rows: Any = list(itertools.islice(source, IN_MEMORY))
    labels = sum(row.get(gold) is not None for row in rows) if gold else 1
    if len(rows) == IN_MEMORY:
        rows = StoredRows(itertools.chain(rows, source))
        labels = labels or sum(row.get(gold) is not None for row in rows)
    if not len(rows):
        raise LookupError(f"{data}: no rows")
    pairs = rows[0].get("response") is None and rows[0].get("chosen") is not None
    if not labels and not pairs:
        raise LookupError(f"--gold {gold}: no row of {data} has such a field; the rows have {', '.join(sorted(rows[0]))}")
    return rows


class _Damage:
    """Counts lines that could not be read, and remembers what was wrong with the first hundred."""

    def __init__(self, kept: list[str]) -> None:
        self.kept = kept

    def __call__(self, fault: str) -> None:
        self.kept.append(fault if len(self.kept) < 100 else "")


def _prices(given: list[str]) -> dict[str, float]:
    """COUNT=PRICE as a mapping; a number alone is the price of a call."""
    prices = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        try:
            prices[name if equals else "calls"] = float(value)
        except ValueError:
            raise LookupError(
                f"--price {text!r}: write COUNT=PRICE, such as prompt_tokens=0.0000002, or the price of a call"
            ) from None
    return prices


def _answer(
    found: list[Any],
    conditions: list[tuple[str, str, float]],
    folder: Path,
    copy: Path | None,
    settings: dict[str, Any],
    damaged: int,
    show: int,
) -> Answer:
    """The report and the results of one audit, or of two that are compared, and how the command ends."""
    from payoff.audit.page import write_page
    from payoff.audit.report import differences, hit, told, write_json

    first = found[0]
    reasons = [reason for gate in conditions if (reason := hit(gate, first))]
    results = {**first.as_json(), "failed_on": reasons, "damaged_rows": damaged}
    text = told(first, shown=show)
    if len(found) > 1:
        results["against"] = found[1].as_json()
        text += "\n" + differences(*found)
    text += "".join(f"gate: {reason}\n" for reason in reasons)
    page = write_page(folder / "report.html", first, command=f"payoff {shlex.join(sys.argv[1:])}", settings=settings)
    written = [write_json(path, results) for path in (folder / "audit.json", copy) if path is not None]
    code = int(bool(reasons)) if conditions else {"holds": 0, "fails": 1, "inconclusive": 3}[first.verdict]
    artifacts = [str(page), *(str(path) for path in written)]
    return Answer(text=text, results=results, artifacts=artifacts, exit_code=code, verdict=first.verdict, report=str(page))


def _code_of(name: str) -> Any:
    """What a reward in a file or a run file is made of, so that a change of it is a change of the audit."""
    from payoff.foreign import files_of, is_foreign

    if is_foreign(name):
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(name)]
    path = Path(name.partition(":")[0]) if ".py" in name else Path(name)
    return (
        path.read_text(encoding="utf-8", errors="replace") if path.suffix in (".py", ".yaml", ".yml") and path.is_file() else None
    )
