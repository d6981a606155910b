"""Tables and folded sections of the page: summary, settings that differ, what was not done, configuration, files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import yaml

from payoff.intervals import FEWEST
from payoff.report_page.examples import Examples
from payoff.report_page.findings import Row
from payoff.report_page.runs import Run
from payoff.report_page.sentences import cells
from payoff.report_page.wording import attribute, cut, duration, fixed, listed, markup, percent, plural, whole

METHODS = """
The unit is one run (a seed). Truth is that of the last evaluation of a finished run, never of its best one.

Intervals are Student's t over seeds, from three on. Differences are paired by seed: same starts, same initial weights.

better or worse: the interval leaves 0 out, Holm-adjusted over the arms compared. equivalent: it lies inside ±{delta}. Else
inconclusive.

Reward and truth part where truth stands highest, if each of the last two evaluations then lies lower by at least the difference
that matters (from eight evaluations on the peak is judged on means of three neighbours) while own reward rises by more than twice
the standard error of that rise. An arm is gamed where that holds in more than half of its seeds, with three seeds at least.

Examples are compared by order, since reward and truth share no unit: the gap is the share of the arm's truer rollouts that a
rollout is paid more than, equal pay counting half.

What got no verdict is in no mean, no interval and no curve.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """A table with scoped headers; on a phone every row becomes a card of label and value."""
    head = "".join(f'<th scope="col">{markup(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{markup(row[0])}</th>'
        + "".join(f'<td data-label="{attribute(name)}">{markup(cell)}</td>' for name, cell in zip(header[1:], row[1:]))
        + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def fold(title: str, body: str) -> str:
    """A part that opens when asked for."""
    return f'<details class="fold"><summary>{markup(title)}</summary>{body}</details>'


def summary(run: Run, rows: Sequence[Row]) -> str:
    """The table of the verdict, with the adjusted p-values folded beneath."""
    columns = cells(run, rows)
    made = table(list(columns), zip(*columns.values()), kind="summary")
    compared = [row for row in rows if row["p"] is not None]
    if not compared:
        return made
    detail = [[row["arm"], f"{row['p']:.2g}", f"{row['p_adjusted']:.2g}", fixed(row["difference"]["sd"], 3)] for row in compared]
    header = ["reward", f"p of no difference from {run.baseline} (paired t)", "p after Holm", "SD of the differences over seeds"]
    return made + fold(f"Adjusted for {plural(len(compared), 'comparison')}", table(header, detail))


def descriptions(run: Run) -> str:
    """What every arm is, in the words of the run file."""
    told = "".join(f"<li><b>{markup(arm.name)}</b>: {markup(arm.description)}</li>" for arm in run.arms.values() if arm.description)
    return f"<ul>{told}</ul>" if told else ""


def settings(run: Run) -> str:
    """The settings that differ between arms, one row each; the first arm's value where the resolved run file tells it."""
    flat = {name: dict(_flatten(arm.settings)) for name, arm in run.arms.items()}
    keys = list(dict.fromkeys(key for found in flat.values() for key in found))
    if not keys:
        return (
            "<p>No setting differs: there is one arm.</p>" if len(run.arms) == 1 else "<p>No setting differs between the arms.</p>"
        )
    first = next(iter(run.arms))
    rows = []
    for key in keys:
        base = flat[first].get(key, _lookup(run.raw.get("config"), first, key))
        rows.append([key, *(flat[name].get(key, base if name == first else "as the first") for name in run.arms)])
    return table(["setting", *run.arms], rows, kind="settings")


def not_done(run: Run, rows: Sequence[Row], examples: Examples) -> str:
    """What failed, was left out, was not measured or was not tried. Never empty: no run tries everything."""
    told = list(run.notes)
    if run.raw.get("status") != "finished":
        told.append(f"The run is {run.raw.get('status') or 'unfinished'}: what is shown is what there was when it ended.")
    for arm in run.arms.values():
        missing = [str(seed) for seed in run.planned if seed not in arm.seeds]
        if missing:
            told.append(
                f"{arm.name}: seed {listed(missing)} was not run."
                if len(missing) == 1
                else f"{arm.name}: seeds {listed(missing)} were not run."
            )
        for seed in arm.seeds.values():
            if seed.status != "finished":
                at = next((row["update"] for row in reversed(seed.metrics) if isinstance(row.get("update"), int)), None)
                where = f" after update {at}" if at is not None else " before its first update"
                why = f": {cut(seed.error, 500)}" if seed.error else ""
                told.append(
                    f"{arm.name}, seed {seed.number}, {seed.status}{where}{why}. It enters no estimate; its curves are drawn."
                )
    for row in rows:
        if row["invalid"]:
            told.append(
                f"{row['arm']}: {percent(row['invalid'])} of the rollouts got no verdict{_why(run, row['arm'])}; in no number."
            )
    fewest = min((row["truth"]["n"] if row["truth"] else 0) for row in rows)
    if fewest < FEWEST:
        told.append(f"Intervals and verdicts where fewer than {FEWEST} seeds are finished: they need at least {FEWEST}.")
    measured = {
        key
        for arm in run.arms.values()
        for seed in arm.seeds.values()
        for row in seed.metrics
        for key, v in row.items()
        if v is not None
    }
    wanted = {"truth": "truth", "kl": "KL from the start policy", "truth_train": "truth on training rollouts", "entropy": "entropy"}
    absent = [name for key, name in wanted.items() if key not in measured]
    if absent:
        told.append(f"Not measured: {listed(absent)}.")
    if not examples.stored:
        told.append("No rollout was stored, so there are no examples.")
    told.append(
        "No attack on a reward was tried: a reward that was not gamed here was not gamed by these policies within this budget."
    )
    told.append("One task, one start policy, one budget: the differences need not hold on others.")
    return f"<ul>{''.join(f'<li>{markup(text)}</li>' for text in told)}</ul>"


def made_by(run: Run) -> str:
    """The line under the title: when, with what, how much."""
    raw, facts = run.raw, []
    for key, name in (("created", ""), ("payoff", "payoff "), ("git", "git ")):
        if raw.get(key):
            facts.append(f"{name}{raw[key]}")
    if run.planned:
        facts.append(f"{plural(len(run.arms), 'reward')} × {plural(len(run.planned), 'seed')}")
    rollouts, updates = run.budget.get("rollouts"), run.budget.get("updates")
    if isinstance(rollouts, int):
        facts.append(
            f"{whole(rollouts)} rollouts" + (f" in {plural(updates, 'update')}" if isinstance(updates, int) else "") + " per run"
        )
    if isinstance(raw.get("seconds"), int | float):
        facts.append(f"took {duration(raw['seconds'])}")
    machine = raw.get("machine")
    if isinstance(machine, dict) and machine:
        facts.append(", ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    facts.append(f"results.json {run.sha256[:12]}")
    return "".join(f"<span>{markup(fact)}</span> " for fact in facts)


def repeat(run: Run) -> str:
    """The command, how the numbers are made, the resolved configuration, the versions and the files."""
    command = markup(str(run.raw.get("command") or ""))
    button = '<p class="js"><button type="button" data-copy>Copy the command</button></p>'
    shown = f'<pre class="cmd">{command}</pre>{button}' if command else ""
    methods = "".join(f"<li>{markup(' '.join(text.split()))}</li>" for text in METHODS.format(delta=f"{run.delta:g}").split("\n\n"))
    return shown + fold("How the numbers are made", f"<ul>{methods}</ul>") + _configuration(run) + _files(run)


def _configuration(run: Run) -> str:
    """The resolved run file as YAML and the versions, folded."""
    config = yaml.safe_dump(run.raw.get("config") or {}, sort_keys=False, allow_unicode=True, width=100)
    versions = run.raw.get("versions")
    known = [[str(k), str(v)] for k, v in versions.items()] if isinstance(versions, dict) else []
    kept = f" ({run.raw['config_hash']})" if run.raw.get("config_hash") else ""
    return fold(f"Resolved configuration{kept}", f'<pre class="code">{markup(config)}</pre>') + fold(
        "Versions", table(["package", "version"], known)
    )


def _files(run: Run) -> str:
    """The files the page was made from, by relative path and hash."""
    rows = [("results.json", run.sha256)]
    rows += [(name, digest) for arm in run.arms.values() for seed in arm.seeds.values() for name, digest in seed.files.items()]
    links = "".join(
        f'<li><a href="./{quote(name)}">{markup(name)}</a> <code>sha256 {digest[:16]}</code></li>' for name, digest in rows
    )
    return fold("Files beside this page", f'<ul class="files">{links}</ul>')


def _why(run: Run, arm: str) -> str:
    """The commonest reasons for a missing verdict among an arm's stored rollouts."""
    counted: Counter[tuple[str, str]] = Counter()
    for seed in run.arms[arm].seeds.values():
        counted.update(seed.reasons)
    said = [
        f"{count} × {channel}: {cut(reason, 80)}"
        for (channel, reason), count in sorted(counted.items(), key=lambda c: (-c[1], c[0]))[:4]
    ]
    return f" (among its stored rollouts {'; '.join(said)})" if said else ""


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def _lookup(config: object, first: str, key: str) -> str:
    """A dotted key of the first arm, or of the run file itself; a dash where neither has it."""
    arms = config.get("arms") if isinstance(config, dict) else None
    for root in (arms.get(first) if isinstance(arms, dict) else None, config):
        found: Any = root
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return "–"
