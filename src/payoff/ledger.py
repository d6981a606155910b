"""The ledger: stored results of recipes as pages for people. Every word and number comes from the stored results alone.

Whether the code has changed since is the one thing looked up: such results are shown as stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from payoff.intervals import mean_interval
from payoff.ledger_plot import plot
from payoff.report_page.wording import decimals, duration, fixed, plural, short
from payoff.runs import write_text

WORDS = {"higher": "higher", "lower": "lower", "not lower": "no lower"}


def write_ledger(folder: Path) -> list[Path]:
    """Write `reproductions.md` and a page with a plot per recipe into a folder of docs; what no recipe has any more is removed.

    Raises FileNotFoundError where the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such folder to write the ledger into", str(folder))
    pages = ledger()
    for name, text in pages.items():
        write_text(folder / name, text)
    for path in (folder / "reproductions").iterdir() if (folder / "reproductions").is_dir() else ():
        if path.suffix in (".md", ".svg") and f"reproductions/{path.name}" not in pages:
            path.unlink()
    return [folder / name for name in pages]


def ledger() -> dict[str, str]:
    """The ledger of the stored results: relative path -> text."""
    from payoff.recipe_code import code_hash
    from payoff.recipes import find_recipe, names
    from payoff.reproduction import stored_results

    stored = stored_results()
    current = {name: code_hash(find_recipe(name)) for name in names()}
    pages = {"reproductions.md": index_page(stored, current)}
    for name, results in stored.items():
        if name in current:
            pages[f"reproductions/{name}.md"] = recipe_page(results, stale=current[name] != results["code"])
            pages[f"reproductions/{name}.svg"] = plot(results)
    return pages


def index_page(stored: Mapping[str, Mapping[str, Any]], current: Mapping[str, str]) -> str:
    """The table of all recipes; those that were never run say so."""
    lines = [
        "# Reproductions",
        "",
        "Published claims, each put to the test by the smallest experiment that could refute it. The page is generated from",
        "stored runs by `payoff reproduce --ledger`; no number on it is typed. A claim is **reproduced** when every effect it",
        "foretells has its whole 95 % interval on the claimed side, **not reproduced** when an interval leaves out any effect",
        "that matters, and **inconclusive** else. A small test that does not reproduce a claim says nothing of the claim at the",
        "paper's own scale; each page says what its test leaves out. *Stale*: the code under test has changed since the run.",
        "",
        "| recipe | claim | verdict | effects (arm minus baseline) | seeds | payoff | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, code in current.items():
        results = stored.get(name)
        if results is None:
            lines.append(f"| `{name}` | | not run yet | | | | |")
            continue
        verdict = f"**{results['verdict']}**" + ("" if results["code"] == code else " (stale)")
        effects = "<br>".join(_cell(effect_text(effect)) for effect in results["effects"])
        seeds = len(next(iter(results["arms"].values()))["seeds"])
        row = [f"[{name}](reproductions/{name}.md)", _cell(results["claim"]), verdict, effects, str(seeds)]
        lines.append(f"| {' | '.join([*row, results['payoff'], results['created'][:10]])} |")
    lines += ["", "Run one yourself: `payoff reproduce NAME`; list them: `payoff reproduce --list`.", ""]
    return "\n".join(lines)


def recipe_page(results: Mapping[str, Any], *, stale: bool) -> str:
    """The page of one recipe."""
    name, machine = results["recipe"], results["machine"]
    seeds = list(next(iter(results["arms"].values()))["seeds"])
    lines = [
        f"# {name}: {results['verdict']}",
        "",
        *(["> **Stale.** The code that these runs tested has changed since; run the command below again.", ""] if stale else []),
        f"**Claim** ([{results['paper']}]({_link(results['paper'])})). {results['claim']}",
        "",
        f"**Test.** {results['test']}",
        "",
        "## What came out",
        "",
        *(f"- {effect_sentence(effect)}" for effect in results["effects"]),
        "",
        f"![{'; '.join(effect_text(effect) for effect in results['effects'])}]({name}.svg)",
        "",
        plot_caption(results),
        "",
        "## Arms",
        "",
        "| arm | what it does |",
        "|---|---|",
        *(f"| `{arm}` | {_cell(of['description'])} |" for arm, of in results["arms"].items()),
        "",
    ]
    for measure, text in results["measures"].items():
        lines += [
            f"## {measure}",
            "",
            f"{text[0].upper()}{text[1:]}.",
            "",
            f"| arm | mean and 95 % interval | {' | '.join(f'seed {seed}' for seed in seeds)} |",
            f"|---|---|{'---|' * len(seeds)}",
        ]
        for arm, of in results["arms"].items():
            values = [run["numbers"].get(measure) for run in of["seeds"].values()]
            row = [f"`{arm}`", mean_text([v for v in values if v is not None]), *(short(v) for v in values)]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    spent = sum(run["seconds"] for of in results["arms"].values() for run in of["seeds"].values())
    lines += [
        "## How to get this again",
        "",
        f"    {results['command']}",
        "",
        f"Budget of every run: {_budget(results)}. Run on {results['created'][:10]} with payoff "
        f"{results['payoff']}, torch {results['versions']['torch']}, Python {results['versions']['python']}, on "
        f"{machine['system']} ({machine['processor']}, {plural(machine['cores'], 'core')}); all runs together took "
        f"{duration(spent)} of one core. Methods under test: {', '.join(f'`{method}`' for method in results['methods'])}. "
        f"Code: `{results['code']}`.",
        "",
    ]
    return "\n".join(lines)


def summary(results: Mapping[str, Any]) -> str:
    """What a person reads in the terminal: claim, effects, a table of means, the verdict as the last line."""
    measures = list(results["measures"])
    rows = [["arm", *measures]]
    for arm, of in results["arms"].items():
        columns = [[run["numbers"][m] for run in of["seeds"].values() if m in run["numbers"]] for m in measures]
        rows.append([arm, *(mean_text(values) for values in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            f"{results['recipe']} ({results['paper']}): {results['claim']}",
            "",
            *table,
            "brackets: 95 % t interval of the mean over seeds",
            "",
            *(effect_sentence(effect).replace("**", "").replace("`", "") for effect in results["effects"]),
            *([] if results["own_budget"] else [f"not the recipe's own budget ({_budget(results)}), so no verdict on the claim"]),
            f"verdict: {results['verdict']}",
            "",
        ]
    )


def effect_sentence(effect: Mapping[str, Any]) -> str:
    """One effect with its size, interval, number of seeds, what was claimed, and its verdict."""
    claimed = f"claimed {WORDS[effect['claims']]}" + (f" by at least {effect['size']:g}" if effect["size"] else "")
    pair = f"{effect['measure']} of `{effect['arm']}` minus `{effect['baseline']}`"
    text = (
        f"{pair}: {_estimate(effect)} ({plural(effect['n'], 'paired seed')}; {claimed}, {effect['delta']:g} matters): "
        f"**{effect['verdict']}**"
    )
    return f"{text}; {effect['note']}." if effect["note"] else f"{text}."


def effect_text(effect: Mapping[str, Any]) -> str:
    """One effect for a cell of a table."""
    return f"{effect['measure']}, {effect['arm']} − {effect['baseline']}: {_estimate(effect)}"


def mean_text(values: Sequence[float]) -> str:
    """The mean of the seeds of an arm, with its interval where there is one."""
    if not values:
        return "–"
    interval = mean_interval(values)
    if interval.low is None or interval.high is None:
        return short(interval.value)
    if interval.low == interval.high:
        return f"{short(interval.value)} (all {interval.n} seeds)"
    n = decimals([interval.high - interval.low])
    return f"{fixed(interval.value, n)} [{fixed(interval.low, n)}, {fixed(interval.high, n)}]"


def plot_caption(results: Mapping[str, Any]) -> str:
    """What the plot shows, in a sentence that repeats level, method, unit and n."""
    n = len(next(iter(results["arms"].values()))["seeds"])
    measures = dict.fromkeys(effect["measure"] for effect in results["effects"])
    units = "; ".join(f"{measure}: {results['measures'][measure]}" for measure in measures)
    return (
        f"Dot: mean; line: 95 % t interval over {plural(n, 'seed')} (paired in the differences); ticks: single seeds; shaded: "
        f"differences too small to matter. {units[0].upper()}{units[1:]}."
    )


def _estimate(effect: Mapping[str, Any]) -> str:
    value, low, high = effect["value"], effect["low"], effect["high"]
    if value is None or low is None:
        return short(value, sign=True)
    if low == high:
        return f"{short(value, sign=True)} in every seed"
    n = decimals([high - low])
    return f"{fixed(value, n, sign=True)} [{fixed(low, n, sign=True)}, {fixed(high, n, sign=True)}]"


def _budget(results: Mapping[str, Any]) -> str:
    seeds = next(iter(results["arms"].values()))["seeds"]
    return ", ".join([*(f"{key} = {value}" for key, value in results["arguments"].items()), plural(len(seeds), "paired seed")])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _link(paper: str) -> str:
    kind, _, number = paper.partition(":")
    return {"arXiv": f"https://arxiv.org/abs/{number}", "doi": f"https://doi.org/{number}"}.get(kind, paper)
