"""Commands that train: one policy, a comparison of rewards, and the small transformer they start from."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from payoff.commands import Fresh, Json, Out, Overrides, PrintConfig, Quiet, app
from payoff.terminal import Answer, console, run_command, say

if TYPE_CHECKING:
    from payoff.runs import Request


@app.command()
def train(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="the run file, or a shipped one by name")],
    overrides: Overrides = None,
    out: Out = None,
    arm: Annotated[str, typer.Option("--arm", help="one of the run file's arms")] = "",
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    show_config: PrintConfig = False,
) -> None:
    """Train a policy on one reward; the same command again continues."""

    def work() -> Answer:
        from payoff.config import ConfigError, load_run, print_config

        loaded = load_run(_located(run_file), overrides or [])
        if show_config:
            return Answer(text=print_config(loaded))
        if arm and arm not in loaded.run.arms:
            raise ConfigError([f"{run_file}: has no arm {arm!r}; its arms: {', '.join(loaded.run.arms) or 'none'}"])
        if loaded.run.arms and not arm and not loaded.run.terms:
            raise ConfigError([f"{run_file}: has arms; choose one with --arm ({', '.join(loaded.run.arms)}), or payoff compare"])
        return _run(loaded, [arm], [loaded.run.train.seed], out, fresh=fresh, quiet=quiet or as_json, processes=1)

    run_command("train", work, as_json)


@app.command()
def compare(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="a run file with arms, or a shipped one (default: chain)")
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="paired seeds, as compare.seeds")] = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    show_config: PrintConfig = False,
) -> None:
    """Several rewards under one budget, with paired seeds; ends with a table and a report."""

    def work() -> Answer:
        from payoff.config import ConfigError, load_run, print_config
        from payoff.runs import available_cores

        chosen, given = run_file, list(overrides or [])
        if chosen is not None and "=" in str(chosen) and not chosen.exists():  # an override, and no run file
            chosen, given = None, [str(chosen), *given]
        if seeds is not None:
            given.append(f"compare.seeds={seeds}")
        loaded = load_run(_located(chosen or Path("chain")), given)
        if show_config:
            return Answer(text=print_config(loaded))
        if not loaded.run.arms:
            raise ConfigError([f"{chosen}: has no arms to compare; add a section `arms`, or use payoff train"])
        baseline = loaded.run.compare.baseline
        if baseline is not None and baseline not in loaded.run.arms:
            raise ConfigError([loaded.fault(("compare", "baseline"), f"no arm {baseline!r}; there are {list(loaded.run.arms)}")])
        processes = loaded.run.compare.processes or min(available_cores(), 8)
        arms, numbers = list(loaded.run.arms), list(range(loaded.run.compare.seeds))
        return _run(loaded, arms, numbers, out, fresh=fresh, quiet=quiet or as_json, processes=processes)

    run_command("compare", work, as_json)


@app.command()
def pretrain(
    task: Annotated[str, typer.Argument(help="the task whose traces are learnt: chain")],
    out: Annotated[Path, typer.Option("--out", help="where to write the checkpoint")] = Path("chain.pt"),
    seed: Annotated[int, typer.Option("--seed", help="of the initial weights and of the traces")] = 0,
    scale: Annotated[float, typer.Option("--scale", help="share of the training steps, for a quick try")] = 1.0,
    quiet: Quiet = False,
) -> None:
    """Train the small transformer on a noisy teacher's traces: how the shipped checkpoint was made."""

    def work() -> Answer:
        from payoff.pretrain import Progress, pretrain_chain

        if task != "chain":
            raise LookupError(f"unknown task {task!r} to pretrain on; allowed: chain")
        if out.exists():
            raise FileExistsError(f"{out}: exists already; choose another --out")
        said = time.monotonic()
        began: dict[str, float] = {}  # when each stage had its first step behind it

        def progress(done: Progress) -> None:
            nonlocal said
            now = time.monotonic()
            since = now - began.setdefault(done.stage, now)
            if not quiet and now - said > 2:
                said = now
                seconds = since / max(done.step - 1, 1) * (done.steps - done.step)
                left = f", about {seconds:.0f} s left in this stage" if done.step > 1 else ""
                say(f"{done.stage}: step {done.step}/{done.steps}, loss {done.loss:.3f}{left}")

        results = pretrain_chain(seed=seed, out=out, steps_scale=scale, progress=progress)
        return Answer(text=f"wrote {out}\n", results=results._asdict())

    run_command("pretrain", work, False)


def _located(run_file: Path) -> Path:
    """The run file itself, or the shipped one that a name without an ending means."""
    from payoff.config import ConfigError

    if run_file.exists() or run_file.suffix:
        return run_file
    shipped = {path.stem: path for path in sorted((Path(str(resources.files("payoff"))) / "run_files").glob("*.yaml"))}
    if str(run_file) not in shipped:
        raise ConfigError([f"{run_file}: there is no such file, nor a shipped one of that name; there are {', '.join(shipped)}"])
    return shipped[str(run_file)]


def _run(loaded: Any, arms: list[str], seeds: list[int], out: Path | None, *, fresh: bool, quiet: bool, processes: int) -> Answer:
    """Check everything, run what is not finished, write results and report, and say what came out."""
    from payoff.build import build
    from payoff.display import RunsDisplay
    from payoff.report import render_summary, write_report
    from payoff.runs import claim, interrupts, now, requests_of, run_all, run_one, write_results

    for arm in arms:
        build(loaded, arm)
    folder = out or Path("runs") / (loaded.run.title or Path(loaded.source).stem)
    reused = claim(folder, loaded, fresh=fresh)
    requests = requests_of(loaded, folder, arms, seeds)
    if reused and not quiet:
        say(f"{reused} of {len(requests)} runs are finished already and are kept")
    command = "payoff " + shlex.join(sys.argv[1:])
    started, clock = now(), time.perf_counter()
    write_results(folder, loaded, {}, command=command, seconds=0.0, started=started)
    title = f"{'compare' if len(requests) > 1 else 'train'} {folder.name}"
    display = RunsDisplay(title, requests, loaded.run.train.updates, console(), quiet=quiet)
    with display.showing():
        if len(requests) == 1:
            stop: list[bool] = []
            with interrupts(lambda: stop.append(True), lambda: os._exit(130)):
                data = loaded.run.model_dump(mode="json")
                outcomes = {requests[0]: run_one(data, loaded.source, requests[0], lambda: bool(stop))}
            display.tick(outcomes)
        else:
            outcomes = run_all(loaded, requests, processes=processes, on_tick=display.tick)
    seconds = time.perf_counter() - clock
    results = write_results(folder, loaded, outcomes, command=command, seconds=seconds, started=started)
    errors = [f"{r.arm or 'run'} seed {r.seed}: {o['error']}" for r, o in outcomes.items() if o["status"] == "failed"]
    interrupted = any(outcome["status"] == "interrupted" for outcome in outcomes.values())
    try:
        report = write_report(folder)
        summary = render_summary(folder)
    except Exception as error:  # the results are safe; say what is wrong with the picture of them
        if not interrupted and not errors:
            raise
        report, summary = None, f"no report: {error}\n"
    alarms = [(r, alarm) for r, outcome in outcomes.items() for alarm in outcome.get("alarms", ())]
    return Answer(
        text="\n".join([summary.rstrip("\n"), *_alarms_told(alarms)]) + "\n",
        results={
            "folder": str(folder),
            "results": str(results),
            "alarms": [{"arm": r.arm, "seed": r.seed, **a} for r, a in alarms],
        },
        artifacts=[str(path) for path in (results, report) if path is not None],
        errors=errors,
        exit_code=130 if interrupted else 2 if len(errors) == len(outcomes) else 0,
        next=f"{command}    continues" if interrupted else None,
        report=str(report) if report is not None else None,
        config_hash=loaded.hash,
    )


def _alarms_told(alarms: Sequence[tuple[Request, Mapping[str, Any]]]) -> list[str]:
    """A line for every kind of alarm that training raised, with the seeds and the update of the first."""
    kinds: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for request, alarm in alarms:
        kinds.setdefault((request.arm or "run", alarm["kind"], alarm["name"]), []).append((alarm["update"], request.seed))
    return [
        f"alarm while training: {arm}, {kind} {name}, from update {min(found)[0]} on, seeds {sorted({seed for _, seed in found})}"
        for (arm, kind, name), found in kinds.items()
    ]
