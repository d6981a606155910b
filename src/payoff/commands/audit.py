"""The command that asks whether a reward can be trusted."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from payoff.commands import Quiet, app
from payoff.commands.rows import Deadline, Mapped, Reward, Workers, reward_named, rows_of
from payoff.terminal import Answer, run_command, say

IN_MEMORY = 20_000  # rows; more are kept on disk while the audit runs


@app.command()
def audit(
    reward: Reward,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="rows with responses, or with `chosen` and `rejected` as RewardBench has them: JSONL, CSV (also .gz), Parquet, "
            "a data set's folder or name on the hub, or reasoning-gym:NAME",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="instead of --data: a run file or run folder, whose policy is sampled")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="with --policy: a registered task instead of the run's own")] = "",
    arm: Annotated[str, typer.Option("--arm", help="with --policy: which arm of the run")] = "",
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="with --policy: prompts that are sampled")] = 100,
    samples: Annotated[int, typer.Option("--samples", min=1, help="with --policy: responses to each")] = 8,
    transitions: Annotated[
        str | None, typer.Option("--transitions", help="instead of --data: rows with `state`, `action` and `next_state`")
    ] = None,
    discount: Annotated[float, typer.Option("--discount", min=0.0, max=0.9999, help="with --transitions: of the returns")] = 0.99,
    gold: Annotated[str | None, typer.Option("--gold", help="the field with the true score or label of a response")] = None,
    truth: Annotated[
        str | None, typer.Option("--truth", help="a reward that knows the truth: what it calls right is no attack")
    ] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="which channel, where the reward gives several")] = None,
    only: Annotated[str, typer.Option("--only", help="checks to run, such as attacks,bias (default: all)")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="rows that are read at most")] = 100_000,
    budget: Annotated[int, typer.Option("--budget", min=1, help="rewards the black-box search may ask for")] = 4000,
    seed: Annotated[int, typer.Option("--seed", help="of everything that is drawn")] = 0,
    fail_on: Annotated[
        str | None, typer.Option("--fail-on", help="for CI: exit 1 if one holds, such as attack_fpr>0.01,auc<0.9")
    ] = None,
    against: Annotated[str | None, typer.Option("--against", help="another reward, audited on the same rows and compared")] = None,
    member: Annotated[
        list[str] | None, typer.Option("--member", help="another reward of an ensemble with this one; may be given several times")
    ] = None,
    parity: Annotated[
        str | None, typer.Option("--parity", help="another path to the same reward, such as its server, that must agree with it")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="COUNT=PRICE", help="of one of calls, requests, prompt_tokens ...; may be given several times"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder of the report (default: audits/REWARD)")] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", metavar="[FILE]", help="write the findings as JSON to FILE, or to standard output")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="findings told with their remedy")] = 3,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="run again what an earlier audit of the same reward and rows has finished")
    ] = False,
    workers: Workers = 0,
    deadline: Deadline = None,
    cache: Annotated[bool, typer.Option("--cache", help="grade equal rows once; leave it off where drift matters")] = False,
    mapped: Mapped = None,
    quiet: Quiet = False,
) -> None:
    """Measure whether a reward can be trusted: what breaks first, how badly, and what to change. Exit code 1 when it fails."""
    to_stdout = as_json == "-"

    def work() -> Answer:
        from payoff.audit.case import Case
        from payoff.audit.report import audit as audited
        from payoff.audit.report import gates, key_of
        from payoff.audit.scorer import Scorer

        conditions = gates(fail_on) if fail_on else []
        damaged: list[str] = []
        named = {name: place for name, place in (("data", data), ("policy", policy), ("transitions", transitions)) if place}
        if len(named) != 1:
            raise LookupError(
                f"one of --data, --policy and --transitions says what to audit on; given: {', '.join(named) or 'none'}"
            )
        evidence: dict[str, Any] = dict(named)
        label = gold
        if policy:
            from payoff.audit.sampled import GOLD, sampled_rows

            rows: Any = sampled_rows(policy, arm=arm, prompts=prompts, samples=samples, seed=seed, task=task)
            label = gold or (GOLD if any(GOLD in row for row in rows) else None)
            evidence |= {"task": task, "arm": arm, "prompts": prompts, "samples": samples}
        else:
            rows = _rows(data or transitions or "", mapped, gold, limit, damaged)
        of = lambda name: Scorer(reward_named(name, workers, deadline, cache))
        judge = None if truth is None else of(truth)
        prices = _prices(price or [])
        settings: dict[str, Any] = {
            "gold": label,
            "truth": truth,
            "channel": channel,
            "seed": seed,
            "budget": budget,
            "discount": discount,
        }
        settings |= {"member": member, "parity": parity, "price": prices or None}
        folder = out or Path("audits") / re.sub(r"[^\w.-]+", "-", reward).strip("-")
        chosen = [part.strip() for part in only.split(",") if part.strip()]
        cases, found = [], []
        for name, place in [(reward, "checks"), *([(against, "checks-against")] if against else [])]:
            score = Scorer(reward_named(name, workers, deadline, cache), channel)
            more: dict[str, Any] = {
                "members": [of(other) for other in member or []],
                "served": None if parity is None else of(parity),
            }
            more |= {"budget": budget, "prices": prices, "discount": discount}
            cases.append(Case(score, rows, gold=label, truth=judge, seed=seed, **more))
            codes = [_code_of(other) for other in (name, truth or "", *(member or []), parity or "")]
            key = "" if fresh else key_of(name, codes, getattr(rows, "digest", rows), settings)
            tell = lambda check, k, of, name=name: None if quiet or to_stdout else say(f"{name}: {check} ({k} of {of})")
            found.append(audited(cases[-1], reward=name, only=chosen, folder=folder / place, key=key, progress=tell))
        copy = None if as_json is None or to_stdout else Path(as_json)
        answer = _answer(found, conditions, folder, copy, {"reward": reward, **evidence, **settings}, len(damaged), show)
        invalid = cases[0].score.invalid
        answer.counts = {"valid": found[0].asked - sum(invalid.values()), "by_reason": dict(invalid.most_common(20))}
        answer.warnings = [f"{len(damaged)} rows could not be read and were left out; the first: {damaged[0]}"] if damaged else []
        if not policy and len(rows) == limit:
            answer.warnings.append(f"{limit} rows were read, and there may be more; --limit says how many to read")
        return answer

    run_command("audit", work, to_stdout)


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
