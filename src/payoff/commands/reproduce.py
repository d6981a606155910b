"""The command that puts published claims to the test, and writes the ledger of what came out."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from payoff.commands import Json, Quiet, app
from payoff.terminal import Answer, event, run_command, say


def _complete_recipes(incomplete: str) -> list[str]:
    from payoff.recipes import names

    return [name for name in names() if name.startswith(incomplete)]


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="a recipe", autocompletion=_complete_recipes)] = "",
    budget: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="another budget, such as updates=5")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="paired seeds (default: the recipe's own, usually 5)")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder (default: runs/reproduce-NAME; of the ledger: docs)")] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="runs side by side (default: one per core)")] = None,
    expect: Annotated[str, typer.Option("--expect", metavar="VERDICT", help="end with code 1 on any other verdict")] = "",
    every: Annotated[bool, typer.Option("--all", help="all recipes, one after the other")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="list the recipes and what they claim")] = False,
    ledger: Annotated[bool, typer.Option("--ledger", help="write the pages of the ledger from the stored results")] = False,
    store: Annotated[bool, typer.Option("--store", help="keep the results as those the ledger shows (for developers)")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put a published claim to the test; the same command again continues."""

    def work() -> Answer:
        from payoff._extras import MissingExtraError
        from payoff.config import ConfigError
        from payoff.recipes import find_recipe, names
        from payoff.reproduction import VERDICTS

        if expect and expect not in VERDICTS:
            raise ConfigError([f"--expect must be one of {', '.join(VERDICTS)}, is {expect!r}"])
        if sum(map(bool, (name, every, show_list, ledger))) != 1:
            raise ConfigError([f"say which recipe, or one of --all, --list and --ledger; there are {', '.join(names())}"])
        if show_list:
            return _listed()
        if ledger:
            return _ledger(out or Path("docs"))
        recipes = [find_recipe(n) for n in (names() if every else [name])]
        given = dict(_pair(text) for text in budget or [])
        options: dict[str, Any] = {
            "seeds": seeds,
            "processes": processes,
            "arguments": given,
            "quiet": quiet or as_json,
            "store": store,
        }
        all_results, left_out = [], []
        for recipe in recipes:
            folder = (out or Path("runs")) / f"reproduce-{recipe.name}" if every or out is None else out
            try:
                all_results.append((folder, _run(recipe, folder, **options)))
            except MissingExtraError as error:
                if not every:
                    raise
                left_out.append(f"{recipe.name}: {error}")
                continue
            if all_results[-1][1]["status"] == "interrupted":
                break
        return _answer(all_results, expect, every, left_out)

    run_command("reproduce", work, as_json)


def _run(recipe: Any, folder: Path, *, quiet: bool, store: bool, **options: Any) -> dict[str, Any]:
    """One recipe, with a line of talk for every run that ends."""
    from payoff.report_page.wording import duration, short
    from payoff.reproduction import RecipeRun, reproduce, store_results

    total = len(recipe.arms) * (options["seeds"] or recipe.seeds)
    done, reused, started = 0, 0, time.monotonic()

    def on_run(run: RecipeRun, outcome: dict[str, Any]) -> None:
        nonlocal done, reused
        done += 1
        if outcome.get("reused"):
            reused += 1
            if reused == total and not quiet:
                say(f"{recipe.name}: all {total} runs are finished already")
            return
        event("run", recipe=recipe.name, arm=run.arm, seed=run.seed, status=outcome["status"], numbers=outcome.get("numbers"))
        if quiet or outcome["status"] == "interrupted":
            return
        elapsed = time.monotonic() - started
        left = elapsed / max(done - reused, 1) * (total - done)
        if outcome["status"] == "finished":
            told = "  ".join(f"{measure} {short(value)}" for measure, value in outcome["numbers"].items())
        else:
            told = f"{outcome['status']}  {outcome['error'] or ''}"
        rest = f", about {duration(left)} left" if done < total else ""
        kept = f" ({reused} kept from before)" if reused and done == reused + 1 else ""
        say(f"{recipe.name} {done}/{total}{kept}  {run.arm} seed {run.seed}: {told.strip()}{rest}")

    command = f"payoff {shlex.join(sys.argv[1:])}"
    results = reproduce(recipe, folder=folder, command=command, on_run=on_run, **options)
    if store:
        canonical = {**results, "command": f"payoff reproduce {recipe.name}"}
        say(f"stored as {store_results(canonical).name}")
    return results


def _answer(all_results: list[tuple[Path, dict[str, Any]]], expect: str, every: bool, left_out: list[str]) -> Answer:
    from payoff.ledger import summary

    failed = left_out + [
        f"{results['recipe']} {arm} seed {seed}: {run['error']}"
        for _, results in all_results
        for arm, of in results["arms"].items()
        for seed, run in of["seeds"].items()
        if run["status"] == "failed"
    ]
    interrupted = any(results["status"] == "interrupted" for _, results in all_results)
    surprised = [results["recipe"] for _, results in all_results if expect and results["verdict"] != expect]
    text = "\n".join(summary(results) for _, results in all_results)
    if every:
        wide = max((len(results["recipe"]) for _, results in all_results), default=0)
        text += "\n" + "".join(f"{results['recipe']:<{wide}}  {results['verdict']}\n" for _, results in all_results)
    runs = [run for _, results in all_results for of in results["arms"].values() for run in of["seeds"].values()]
    return Answer(
        text=text,
        results={"recipes": [results for _, results in all_results]},
        counts={"runs": len(runs), "finished": sum(run["status"] == "finished" for run in runs)},
        errors=failed + [f"{recipe}: the verdict is not {expect!r}, as --expect wants it" for recipe in surprised],
        artifacts=[str(folder / "results.json") for folder, _ in all_results],
        exit_code=130 if interrupted else 4 if failed else 1 if surprised else 0,
        verdict=all_results[0][1]["verdict"] if len(all_results) == 1 else None,
        next=f"payoff {shlex.join(sys.argv[1:])}    continues" if interrupted else None,
    )


def _listed() -> Answer:
    from payoff.recipes import find_recipe, names
    from payoff.reproduction import stored_results

    recipes, stored = [find_recipe(name) for name in names()], stored_results()
    wide = max(len(recipe.name) for recipe in recipes)
    rows = [
        {
            "name": recipe.name,
            "paper": recipe.paper,
            "claim": recipe.claim,
            "stored_verdict": stored[recipe.name]["verdict"] if recipe.name in stored else None,
        }
        for recipe in recipes
    ]
    lines = [
        f"{row['name']:<{wide}}  {row['stored_verdict'] or 'not run yet':<14}  {row['claim']}  [{row['paper']}]" for row in rows
    ]
    return Answer(text="\n".join([*lines, f"{len(rows)} recipes"]) + "\n", results={"recipes": rows})


def _ledger(folder: Path) -> Answer:
    from payoff.ledger import write_ledger

    paths = [str(path) for path in write_ledger(folder)]
    return Answer(text=f"wrote {paths[0]} and {len(paths) - 1} files beside it\n", results={"files": paths}, artifacts=paths)


def _pair(text: str) -> tuple[str, Any]:
    from payoff.config import ConfigError
    from payoff.yaml_marks import parse_value

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError([f"command line: {text!r} is no argument; write KEY=VALUE, such as updates=5"])
    return key, parse_value(value)
