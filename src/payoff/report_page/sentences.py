"""What a run shows, in words and as the plain-text table: the same words for the same state in the page, the terminal and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from payoff.intervals import FEWEST
from payoff.report_page.runs import Run
from payoff.report_page.wording import decimals, fixed, listed, percent, plain, plural, short, whole

Row = dict[str, Any]
Columns = dict[str, list[str]]


def places(rows: Sequence[Row]) -> int:
    """Decimal places of truth and differences in this run: one number for the whole table, from the usual interval."""
    estimates = [row[key] for row in rows for key in ("truth", "difference") if row[key]]
    widths = [e["high"] - e["low"] for e in estimates if e["low"] is not None]
    return decimals(widths, [e["value"] for e in estimates])


def cells(run: Run, rows: Sequence[Row]) -> Columns:
    """The summary table by column, as text; in the page and in the terminal."""
    n = places(rows)
    table: Columns = {"reward": [row["arm"] + (" (base)" if row["baseline"] else "") for row in rows]}
    table["truth"] = [bracketed(row["truth"], n, run) for row in rows]
    if run.baseline:
        table[f"vs {run.baseline}"] = ["–" if row["baseline"] else bracketed(row["difference"], n, run, sign=True) for row in rows]
        table["verdict"] = ["–" if row["baseline"] else row["verdict"] or "none" for row in rows]
    table["own reward"] = [f"{short(row['reward']['start'])} → {short(row['reward']['end'])}" for row in rows]
    table["reward-truth r"] = [fixed(row["reward_truth"], 2, sign=True) for row in rows]
    if any(row["credit"] for row in rows):
        credit = [row["credit"] or {"start": None, "end": None} for row in rows]
        table["credit"] = [f"{fixed(of['start'], 2, sign=True)} → {fixed(of['end'], 2, sign=True)}" for of in credit]
    table["invalid"] = [percent(row["invalid"]) for row in rows]
    table["parted"] = [parted(row["parted"]) for row in rows]
    return table


def bracketed(estimate: Row | None, n: int, run: Run, *, sign: bool = False) -> str:
    """An estimate as "0.79 [0.75, 0.83]"; without brackets where there is no interval, in words where it has no width."""
    if estimate is None:
        return "–"
    if sign and estimate["low"] is not None:
        n = _enough(n, estimate["low"], estimate["high"])
    text = fixed(estimate["value"], n, sign=sign)
    if estimate["low"] is None:
        return f"{text} ({plural(estimate['n'], 'seed')})"
    if estimate["low"] == estimate["high"]:
        return f"{text} (all {estimate['n']} seeds)"
    low, high = estimate["low"], estimate["high"]
    if not sign and run.truth_unit.startswith("share"):  # a t interval knows nothing of the ends of a share
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{text} [{fixed(low, n, sign=sign)}, {fixed(high, n, sign=sign)}]"


def parted(found: Row) -> str:
    """Where reward and truth part, as a cell."""
    if found["state"] == "unknown":
        return "–"
    if found["state"] == "no":
        return "no"
    share = f"{found['seeds']} of {found['of']} seeds"
    return f"update {_interval(found['update'])} ({found['seeds']}/{found['of']})" if found["state"] == "yes" else f"in {share}"


def headline(run: Run, rows: Sequence[Row]) -> str:
    """The answer of a run in one line."""
    gamed = [row["arm"] for row in rows if row["parted"]["state"] == "yes" and row["parted"]["of"] >= FEWEST]
    tail = f"{listed(gamed)} {'is' if len(gamed) == 1 else 'are'} gamed" if gamed else ""
    if not any(row["truth_latest"] is not None for row in rows):
        return "No truth was measured, so this run cannot say whether its reward is right"
    if not run.baseline:
        row = rows[0]
        if len(rows) > 1:
            return tail or "No baseline was named: truth by arm, without comparison"
        if row["truth_start"] is None or row["truth_latest"] == row["truth_start"]:
            return f"Truth stands at {_value(row['truth_latest'], rows)}" + (f"; {tail}" if tail else "")
        change = "rose" if row["truth_latest"] > row["truth_start"] else "fell"
        moved = f"Truth {change} from {_value(row['truth_start'], rows)} to {_value(row['truth_latest'], rows)}"
        return moved + (f"; {tail}" if tail else "")
    said = []
    for word in ("better", "equivalent", "worse", "inconclusive"):
        arms = [row["arm"] for row in rows if row["verdict"] == word]
        if arms:
            said.append(f"{listed(arms)} {'is' if len(arms) == 1 else 'are'} {word}")
    text = ", ".join(said) or "no verdict: it takes three paired seeds"
    return f"Against {run.baseline}: {text}" + (f"; {tail}" if tail else "")


def sentences(run: Run, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(word, sentence) per finding: subject, comparison, size, interval, scope; then what took part in no number."""
    found = [(_word(run, row), _compared(run, row, rows)) for row in rows]
    for row in rows:
        said = _parting(row)
        if said:
            found.append(("gamed" if row["parted"]["state"] == "yes" and row["parted"]["of"] >= FEWEST else "signal", said))
    found += [(alarm["kind"], _alarm(row["arm"], alarm)) for row in rows for alarm in row["alarms"]]
    for row in rows:
        if row["invalid"]:
            share = percent(row["invalid"])
            found.append(
                ("invalid", f"{share} of the rollouts of {row['arm']} got no verdict; they took no part in any number above.")
            )
    return found


def table_text(run: Run, rows: Sequence[Row], *, width: int | None = None) -> str:
    """The summary as plain text. Too narrow a `width` drops the agreement, then the own reward; the words stay."""
    columns = {plain(name): [plain(cell) for cell in column] for name, column in cells(run, rows).items()}
    columns.pop("verdict", None)  # the sentences below say it
    for spare in ("reward-truth r", "credit", "own reward"):
        if width is not None and len(_lines(columns)[0]) > width:
            columns.pop(spare, None)
    return "\n".join([plain(scope(run, rows)), *_lines(columns), *(plain(text) for _, text in sentences(run, rows))])


def scope(run: Run, rows: Sequence[Row]) -> str:
    """Unit, budget, seeds and method, as they stand above the table."""
    rollouts = run.budget.get("rollouts")
    budget = (
        f"Truth {'at equal budget:' if len(rows) > 1 else 'after'} {whole(rollouts)} rollouts per run"
        if isinstance(rollouts, int)
        else "Truth at the end of each run"
    )
    counts = [row["truth"]["n"] for row in rows if row["truth"]]
    paired = "paired " if run.baseline else ""
    if not counts:
        return f"{budget}; no seed is finished"
    seeds = plural(counts[0], f"{paired}seed") if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} {paired}seeds"
    method = ", brackets = 95 % interval of the mean (t)" if max(counts) >= FEWEST else ", no interval below 3 seeds"
    return f"{budget}, {seeds}{method}"


def _lines(columns: Columns) -> list[str]:
    widths = [max(len(name), *map(len, column)) for name, column in columns.items()]
    table = [list(columns), *zip(*columns.values())]
    return ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]


def _word(run: Run, row: Row) -> str:
    return row["verdict"] or ("baseline" if row["baseline"] else "no verdict" if run.baseline else "truth")


def _compared(run: Run, row: Row, rows: Sequence[Row]) -> str:
    arm, base, n = row["arm"], run.baseline, places(rows)
    if row["truth"] is None:
        latest = row["truth_latest"]
        stand = f"; truth stood at {fixed(latest, n)} in the last evaluation" if latest is not None else ""
        return f"{arm} has no finished seed with a truth, so nothing is said about it{stand}."
    if row["baseline"] or not base:
        return f"{arm}{' (the baseline)' if row['baseline'] else ''} ends at {bracketed(row['truth'], n, run)}: {run.truth_unit}."
    if row["difference"] is None:
        return f"{arm} shares no finished seed with {base}, so they are not compared."
    value, low, high = (row["difference"][key] for key in ("value", "low", "high"))
    seeds = plural(row["difference"]["n"], "paired seed")
    if row["verdict"] is None:
        return f"{arm} against {base}: {fixed(value, n, sign=True)} truth in {seeds}; too few for an interval or a verdict."
    n = _enough(n, low, high)
    interval = f"95 % interval {fixed(low, n, sign=True)} to {fixed(high, n, sign=True)}, {seeds}"
    skew = " The seeds lie lopsided: read the interval with care." if row["skewed"] else ""
    alone = f" Its interval alone leaves 0 out, but not after allowing for {row['comparisons']} comparisons (Holm)." * row["alone"]
    if row["verdict"] in ("better", "worse"):
        side = {"by less than matters": "less", "": ""}.get(row["note"], "more")
        note = f", {side} than the {run.delta:g} that matters" if side else ""
        return f"On {run.title}, {arm} is {row['verdict']} than {base} by {fixed(abs(value), n)} truth{note} ({interval}).{skew}"
    if row["verdict"] == "equivalent":
        within = f"they differ by less than {run.delta:g} either way ({interval})"
        return f"On {run.title}, {arm} is equivalent to {base}: {within}.{alone}{skew}"
    most = fixed(max(abs(low), abs(high)), n)
    more = f"; about {row['seeds_needed']} seeds would narrow this to ±{run.delta:g}" if row["seeds_needed"] else ""
    return f"{arm} against {base} is inconclusive: differences up to {most} remain possible ({interval}){more}.{alone}{skew}"


def _parting(row: Row) -> str:
    found, arm, reward = row["parted"], row["arm"], row["reward"]
    if found["state"] not in ("yes", "some"):
        return ""
    paid = f"{short(reward['start'])} at the start, {short(reward['end'])} at the end"
    what = f"its own reward goes on rising ({paid}) while truth falls by {fixed(found['fall'], 2)}"
    seeds = f"in {found['seeds']} of {plural(found['of'], 'seed')}" if found["of"] > 1 else "in its only seed"
    update = found["update"]
    where = f"update {fixed(update['value'], 0)}" if round(update["value"]) else "the start"
    if found["state"] == "some" or found["of"] < FEWEST:
        return f"{arm}: from {where} on {what}, {seeds}; a signal, not yet a finding."
    bounds = f" (95 % interval {fixed(max(0, update['low']), 0)} to {fixed(update['high'], 0)})" if _wide(update) else ""
    return f"{arm} is gamed: from {where} on{bounds} {what}, {seeds}."


def _alarm(arm: str, alarm: Row) -> str:
    """An alarm that training raised, with the seeds that raised it and what the first of them saw."""
    seeds = f"in {len(alarm['seeds'])} of {plural(alarm['of'], 'seed')}" if alarm["of"] > 1 else "in its only seed"
    said = f": {alarm['says'][:1].lower()}{alarm['says'][1:]}" if alarm["says"] else "."
    return f"{arm}: alarm {alarm['name']} while training, first at update {alarm['update']:.0f}, {seeds}{said}"


def _interval(estimate: Row) -> str:
    text = fixed(estimate["value"], 0)
    return f"{text} [{fixed(max(0, estimate['low']), 0)}, {fixed(estimate['high'], 0)}]" if _wide(estimate) else text


def _enough(n: int, low: float, high: float) -> int:
    """The places at which no end of an interval reads as 0 unless it is: whether 0 is left out must be seen."""
    return next((m for m in range(n, 5) if all(bound == 0 or float(f"{bound:.{m}f}") for bound in (low, high))), n)


def _wide(estimate: Row) -> bool:
    return estimate["low"] is not None and round(estimate["low"]) != round(estimate["high"])


def _value(value: float | None, rows: Sequence[Row]) -> str:
    return fixed(value, places(rows))
