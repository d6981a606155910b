"""Running a recipe and judging it: arms and seeds side by side, resumable; effects with intervals; one of three verdicts.

What comes out is one mapping, written as JSON: every number of every run, and all that is needed to read it later.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import multiprocessing
import os
import platform
import signal as signals
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from payoff import __version__
from payoff._extras import MissingExtraError
from payoff.intervals import FEWEST, Interval, paired_difference, seeds_needed, skewed
from payoff.recipe_code import code_hash
from payoff.recipes import HERE, Effect, Recipe
from payoff.runs import available_cores, interrupts, now, write_text

SCHEMA = "https://payoff.dev/schemas/reproduction-1.json"
STORED = HERE / "results"
VERDICTS = ("reproduced", "not reproduced", "inconclusive")
Word = Literal["reproduced", "not reproduced", "inconclusive"]


class RecipeRun(NamedTuple):
    """One arm with one seed."""

    arm: str
    seed: int


Outcome = dict[str, Any]  # {"status": finished | failed | interrupted, "numbers": {...}, "seconds": ..., "error": ...}


def reproduce(
    recipe: Recipe,
    *,
    folder: Path,
    seeds: int | None = None,
    processes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    command: str = "",
    on_run: Callable[[RecipeRun, Outcome], None] = lambda run, outcome: None,
) -> dict[str, Any]:
    """Run what is not finished, judge, write `results.json` into `folder`, and return what it holds.

    arguments: replace keyword defaults of the recipe's `run`
    processes: how many runs side by side (None: one per core, at most 8)

    A finished run is kept in `folder` under a key of the recipe's code, payoff's version and the arguments, and never run again.
    on_run hears of every run that ends, and first of those that are reused (outcome["reused"] is True).
    The first Ctrl-C lets the runs in hand end and keeps them; a second one kills.

    Raises ConfigError for arguments that `run` does not have, and MissingExtraError where a recipe needs what is not installed.
    """
    chosen = resolve_arguments(recipe, arguments or {})
    code = code_hash(recipe)
    key = run_key(recipe, code, chosen)
    numbers = range(recipe.seeds if seeds is None else seeds)
    wanted = [RecipeRun(arm, seed) for seed in numbers for arm in recipe.arms]  # seed by seed: an early end leaves whole pairs
    started, clock = now(), time.perf_counter()
    outcomes: dict[RecipeRun, Outcome] = {}
    for run in wanted:
        kept = _read(_place(folder, key, run))
        if kept is not None:
            outcomes[run] = kept
            on_run(run, {**kept, "reused": True})
    todo = [run for run in wanted if run not in outcomes]
    for run, outcome in run_side_by_side(recipe, todo, chosen, processes or min(available_cores(), 8)):
        outcomes[run] = outcome
        if outcome["status"] == "finished":
            write_text(_place(folder, key, run), json.dumps({"key": key, **outcome}))
        on_run(run, outcome)
    results = describe(recipe, outcomes, numbers, chosen, code)
    results |= {"command": command, "created": started, "seconds": round(time.perf_counter() - clock, 1)}
    write_results(folder / "results.json", results)
    return results


def run_side_by_side(
    recipe: Recipe, todo: Sequence[RecipeRun], arguments: Mapping[str, Any], processes: int
) -> Iterator[tuple[RecipeRun, Outcome]]:
    """Every run with what came of it, as it ends; one thread each. A run that fails, or whose process dies, says why.

    Raises MissingExtraError: what one run lacks, none has.
    """
    if not todo:
        return
    stop: list[bool] = []
    queue = list(todo)
    with (
        interrupts(lambda: stop.append(True), _kill_children),
        ProcessPoolExecutor(
            max_workers=min(processes, len(todo)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_process
        ) as pool,
    ):
        running: dict[concurrent.futures.Future[Outcome], RecipeRun] = {}
        while queue or running:
            while queue and len(running) < processes and not stop:  # no more than can run: what waits in a pool cannot be stopped
                try:
                    running[pool.submit(_run_one, recipe.run, queue[0], dict(arguments), tuple(recipe.measures))] = queue[0]
                    queue.pop(0)
                except BrokenExecutor as error:
                    yield queue.pop(0), _failed(error)
            if stop:
                yield from ((run, {"status": "interrupted", "numbers": {}, "seconds": 0.0, "error": None}) for run in queue)
                queue.clear()
            done, _ = concurrent.futures.wait(running, timeout=0.25, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                try:
                    outcome = future.result()
                except MissingExtraError:
                    queue.clear()
                    raise
                except Exception as error:  # the process died, or the recipe could not be sent to it; the others go on
                    outcome = _failed(error)
                yield running.pop(future), outcome


def describe(
    recipe: Recipe, outcomes: Mapping[RecipeRun, Outcome], seeds: Sequence[int], arguments: Mapping[str, Any], code: str
) -> dict[str, Any]:
    """The results of a recipe as they are stored, but for the command and the times."""
    arms = {
        arm: {"description": text, "seeds": {str(s): _shown(outcomes[RecipeRun(arm, s)]) for s in seeds}}
        for arm, text in recipe.arms.items()
    }
    effects = [measure_effect(recipe, effect, outcomes, seeds) for effect in recipe.effects]
    statuses = {outcome["status"] for outcome in outcomes.values()}
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "claim": recipe.claim,
        "paper": recipe.paper,
        "test": recipe.test,
        "methods": list(recipe.methods),
        "measures": dict(recipe.measures),
        "status": next((s for s in ("interrupted", "failed") if s in statuses), "finished"),
        "verdict": conclude([effect["verdict"] for effect in effects]),
        "effects": effects,
        "arms": arms,
        "arguments": dict(arguments),
        "own_budget": dict(arguments) == recipe.budget and len(seeds) >= recipe.seeds,
        "code": code,
        "payoff": __version__,
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "machine": {
            "system": platform.system(),
            "processor": platform.processor() or platform.machine() or "unknown",
            "cores": available_cores(),
        },
    }


def measure_effect(recipe: Recipe, effect: Effect, outcomes: Mapping[RecipeRun, Outcome], seeds: Sequence[int]) -> dict[str, Any]:
    """One effect with its paired interval and verdict. A seed that is missing in either arm makes it inconclusive."""

    def of(arm: str) -> dict[int, float]:
        finished = {s: outcomes[RecipeRun(arm, s)] for s in seeds if outcomes[RecipeRun(arm, s)]["status"] == "finished"}
        return {s: outcome["numbers"][effect.measure] for s, outcome in finished.items()}

    arm, baseline = of(effect.arm), of(effect.baseline)
    shared = [s for s in seeds if s in arm and s in baseline]
    interval = paired_difference(arm, baseline)
    word: Word = judge(effect, interval)
    notes = []
    if len(shared) < len(seeds):
        word = "inconclusive"
        notes.append(f"{len(seeds) - len(shared)} of {len(seeds)} seeds have no pair, and no seed is left out of a verdict")
    elif len(shared) < FEWEST:
        notes.append(f"an interval needs {FEWEST} seeds")
    elif word == "inconclusive" and interval is not None and interval.sd:
        notes.append(f"about {seeds_needed(interval.sd, effect.delta)} seeds would narrow it to {effect.delta:g} either way")
    differences = {s: arm[s] - baseline[s] for s in shared}
    if skewed(list(differences.values())):
        notes.append("the seeds look lopsided, so the interval may be too narrow")
    return {
        "measure": effect.measure,
        "arm": effect.arm,
        "baseline": effect.baseline,
        "claims": effect.claims,
        "delta": effect.delta,
        "size": effect.size,
        "value": interval.value if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "level": interval.level if interval else None,
        "method": "paired t",
        "unit": recipe.measures[effect.measure],
        "n": len(shared),
        "by_seed": {str(s): difference for s, difference in differences.items()},
        "verdict": word,
        "note": "; ".join(notes),
    }


def judge(effect: Effect, difference: Interval | None) -> Word:
    """Where the interval of arm minus baseline lies decides; towards the claimed side counts as up.

    higher, lower: `not reproduced` when all of it stays below delta (or below the claimed size): on the wrong side, or too small to
                   matter; `reproduced` when all of it lies above 0 (or above the claimed size)
    not lower:     `reproduced` when all of it lies above -delta; `not reproduced` when none of it does
    Else, and without an interval, `inconclusive`.

    >>> effect = Effect("truth", "new", "old", "higher", delta=0.05)
    >>> judge(effect, Interval(0.1, 0.02, 0.18, 5)), judge(effect, Interval(0.0, -0.04, 0.04, 5))
    ('reproduced', 'not reproduced')
    >>> judge(effect, Interval(0.1, -0.02, 0.22, 5))
    'inconclusive'
    """
    if difference is None or difference.low is None or difference.high is None:
        return "inconclusive"
    low, high = difference.low, difference.high
    if effect.claims == "not lower":
        return "reproduced" if low > -effect.delta else "not reproduced" if high < -effect.delta else "inconclusive"
    if effect.claims == "lower":
        low, high = -high, -low
    if high < max(effect.delta, effect.size):
        return "not reproduced"
    return "reproduced" if low > effect.size else "inconclusive"


def conclude(words: Sequence[Word]) -> Word:
    """The verdict on a claim of several effects: the worst of them.

    >>> conclude(["reproduced", "inconclusive"]), conclude(["reproduced", "not reproduced", "inconclusive"])
    ('inconclusive', 'not reproduced')
    """
    return next(word for word in ("not reproduced", "inconclusive", "reproduced") if word in words)  # type: ignore[return-value]


def resolve_arguments(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's budget with what was given in its place; ConfigError for an unknown name or another type."""
    from payoff.build import OptionError, check_options
    from payoff.config import ConfigError

    try:
        return recipe.budget | check_options(recipe.run, given, all_parameters=False)
    except OptionError as error:
        options = ", ".join(recipe.budget) or "none"
        raise ConfigError([f"recipe {recipe.name!r}: {error.args[0]}    its budget: {options}"]) from None


def run_key(recipe: Recipe, code: str, arguments: Mapping[str, Any]) -> str:
    """What a kept run belongs to: everything but arm and seed that can change its numbers."""
    parts = [recipe.name, code, __version__, metadata.version("torch"), dict(sorted(arguments.items()))]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def stored_results(folder: Path = STORED) -> dict[str, dict[str, Any]]:
    """The stored results of all recipes that have any, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def store_results(results: Mapping[str, Any], folder: Path = STORED) -> Path:
    """Keep results as those of their recipe; ConfigError unless they are complete and of the recipe's own budget."""
    from payoff.config import ConfigError

    if results["status"] != "finished" or not results["own_budget"]:
        why = "its budget or seeds were changed" if results["status"] == "finished" else f"it is {results['status']}"
        raise ConfigError([f"recipe {results['recipe']!r}: this run is not stored, {why}"])
    return write_results(folder / f"{results['recipe']}.json", results)


def write_results(path: Path, results: Mapping[str, Any]) -> Path:
    """Write results as JSON, atomically."""
    write_text(path, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _place(folder: Path, key: str, run: RecipeRun) -> Path:
    return folder / "runs" / key / f"{run.arm}-seed-{run.seed}.json"


def _read(path: Path) -> Outcome | None:
    """A kept run, or None where there is none that can be read."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {name: kept[name] for name in ("status", "numbers", "seconds", "error")} if kept.get("status") == "finished" else None


def _shown(outcome: Outcome) -> Outcome:
    return {**outcome, "seconds": round(outcome["seconds"], 2)}


def _failed(error: BaseException) -> Outcome:
    return {"status": "failed", "numbers": {}, "seconds": 0.0, "error": f"{type(error).__name__}: {error}"}


def _run_one(
    run: Callable[..., Mapping[str, float]], which: RecipeRun, arguments: dict[str, Any], measures: tuple[str, ...]
) -> Outcome:
    start = time.perf_counter()
    try:
        numbers = {name: float(value) for name, value in run(which.arm, which.seed, **arguments).items()}
        if set(numbers) != set(measures):
            raise ValueError(f"the run gave {sorted(numbers)}, its measures are {sorted(measures)}")
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"measure {name!r} is {value}")
    except MissingExtraError:
        raise
    except Exception as error:
        return {**_failed(error), "seconds": time.perf_counter() - start}
    return {"status": "finished", "numbers": numbers, "seconds": time.perf_counter() - start, "error": None}


def _start_process() -> None:
    import torch

    signals.signal(signals.SIGINT, signals.SIG_IGN)  # the parent stops handing out runs; those in hand end
    torch.set_num_threads(1)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(130)
