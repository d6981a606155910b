"""Run folders: one run of one arm with one seed, many of them side by side, and `results.json`, from which reports are made.

Every file is written atomically or by appending whole lines; the same command again continues what an earlier one left.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import multiprocessing
import os
import platform
import signal as signals
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from payoff import __version__
from payoff.config import ConfigError, Loaded, RunFile, print_config
from payoff.files import replacing

SCHEMA = "https://payoff.dev/schemas/results-1.json"
_stop_event: Any = None  # set in the processes of a comparison: everyone ends after the update in hand


class Request(NamedTuple):
    """One run: an arm ("" for a run file without arms), a seed, and the folder it lives in."""

    arm: str
    seed: int
    folder: Path


class RunFailedError(Exception):
    """Every run of a command failed; carries the first reason."""


def requests_of(loaded: Loaded, folder: Path, arms: Sequence[str], seeds: Sequence[int]) -> list[Request]:
    """All runs of a comparison, seed by seed, so that what is finished early can be compared."""
    return [Request(arm, seed, folder / "arms" / (arm or "run") / f"seed-{seed}") for seed in seeds for arm in arms]


def claim(folder: Path, loaded: Loaded, *, fresh: bool) -> int:
    """Make a run folder ours: new, or made by the same run file and to be continued; returns how many runs are finished.

    Raises ConfigError when another run file made it, naming what differs. fresh: an earlier folder is kept under another name.
    """
    results = folder / "results.json"
    if results.exists() and not fresh:
        try:
            before = json.loads(results.read_text(encoding="utf-8"))
            theirs, hash_before = before["config"], before["config_hash"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError([f"{results}: is not a results file; choose another folder with --out, or --fresh"]) from None
        if hash_before != loaded.hash:
            changed = _differences(theirs, loaded.run.model_dump(mode="json"))
            told = "; ".join(changed[:3]) or "the code of a reward"
            raise ConfigError([f"{folder}: was made by another run file: {told}; use --fresh to start again, or --out FOLDER"])
    elif folder.exists() and any(folder.iterdir()):
        if not fresh:
            raise ConfigError([f"{folder}: exists and is not a run folder; choose another with --out, or --fresh to set it aside"])
        aside = folder.with_name(f"{folder.name}-until-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        folder.rename(aside)
    folder.mkdir(parents=True, exist_ok=True)
    return sum(1 for _ in folder.glob("arms/*/seed-*/result.json"))


def run_one(data: Mapping[str, Any], source: str, request: Request, stop: Callable[[], bool] | None = None, **hooks: Any) -> dict:
    """Train one arm with one seed in its folder, continuing from its checkpoint; returns its line of `results.json`.

    A failure ends as a result with its reason, never as an exception; hooks: on_update(metrics) for a display.
    """
    import torch

    from payoff.audit.alarms import Alarms
    from payoff.audit.credit import credit_metrics
    from payoff.build import build
    from payoff.parts import TrainingError
    from payoff.pipeline import NonFiniteError
    from payoff.train import train
    from payoff.trajectories import Channel

    loaded = Loaded(RunFile.model_validate(data), {}, source, [])
    folder, result = request.folder, request.folder / "result.json"
    folder.mkdir(parents=True, exist_ok=True)
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    stop = stop or (lambda: _stop_event is not None and _stop_event.is_set())
    outcome: dict[str, Any] = {"status": "failed", "error": None, "seconds": 0.0, "alarms": []}
    last: dict[str, Any] = {}
    try:
        parts, settings = build(loaded, request.arm, request.seed)
        write_text(folder / "run.yaml", print_config(loaded))
        checkpoint = folder / "checkpoint.pt"
        log = _MetricsLog(folder, loaded.run.loggers, request)
        log.rewind(update=-1 if not checkpoint.exists() else sys.maxsize)
        alarms = Alarms()

        def on_update(metrics: dict[str, Any]) -> None:
            last.update(metrics)
            log.write(metrics)
            outcome["alarms"] += [alarm.as_json() for alarm in alarms.update(metrics)]
            hooks.get("on_update", lambda _: None)(metrics)

        def on_resume(progress: Any) -> None:
            log.rewind(progress.update)
            for metrics in progress.history:  # so that what was seen before the break is known after it
                outcome["alarms"] += [alarm.as_json() for alarm in alarms.update(metrics)]

        def on_rollouts(phase: str, batch: Any) -> dict[str, Any]:
            records = list(rollout_records(phase, batch, parts.task, settings.sampled_rollouts, parts.policy))
            append_lines(folder / "rollouts.jsonl", records)
            credit = next(iter(batch.targets.values()), None)
            if not settings.continuations or phase == "middle" or not isinstance(credit, Channel):
                return {}
            kept = torch.arange(min(settings.sampled_rollouts, len(batch.traj)))
            traj = batch.traj.select(kept)
            credit = Channel(credit.value[kept][:, : traj.width], credit.valid[kept][:, : traj.width])
            rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + 500_000 + batch.update)  # training draws none of these
            return credit_metrics(parts.policy, parts.task.truth, credit, traj, n=settings.continuations, rng=rng)

        progress = train(
            parts,
            settings,
            checkpoint=checkpoint,
            on_update=on_update,
            on_rollouts=on_rollouts,
            on_resume=on_resume,
            stop=stop,
        )
        log.close()
        finished = progress.update >= settings.updates
        outcome |= {"status": "finished" if finished else "interrupted", "seconds": progress.seconds}
    except (TrainingError, NonFiniteError, ConfigError, OSError, ValueError, LookupError, ImportError) as error:
        outcome["error"] = f"update {last.get('update', 0) + 1 if last else 0}: {error}" if last else str(error)
        outcome["seconds"] = last.get("seconds", 0.0)
    outcome |= {"metrics": str(folder / "metrics.jsonl"), "rollouts": str(folder / "rollouts.jsonl")}
    if outcome["status"] == "finished":
        write_text(result, json.dumps(outcome))
    return outcome


def run_all(
    loaded: Loaded, requests: Sequence[Request], *, processes: int, on_tick: Callable[[dict[Request, dict]], None]
) -> dict[Request, dict]:
    """Run everything that is not finished, `processes` at a time with one thread each; on_tick is called four times a second.

    The first interrupt lets every run in hand finish its update and write its checkpoint; a second one kills.
    """
    done: dict[Request, dict] = {}
    context = multiprocessing.get_context("spawn")
    event = context.Event()
    data = loaded.run.model_dump(mode="json")
    with (
        interrupts(event.set, _kill_children),
        concurrent.futures.ProcessPoolExecutor(
            max_workers=min(processes, len(requests)), mp_context=context, initializer=_start_process, initargs=(event,)
        ) as pool,
    ):
        futures = {pool.submit(run_one, data, loaded.source, request): request for request in requests}
        waiting = set(futures)
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.25)
            for future in finished:
                try:
                    done[futures[future]] = future.result()
                except concurrent.futures.CancelledError:
                    done[futures[future]] = {"status": "interrupted", "error": None, "seconds": 0.0}
                except Exception as error:  # the process died; the run says so, and the others go on
                    done[futures[future]] = {"status": "failed", "error": f"{type(error).__name__}: {error}", "seconds": 0.0}
            if event.is_set():
                for future in waiting:
                    future.cancel()
            on_tick(done)
    return done


def write_results(
    folder: Path, loaded: Loaded, outcomes: Mapping[Request, dict], *, command: str, seconds: float, started: str
) -> Path:
    """Write `results.json`, all that a report is made from but the metrics and rollouts beside it."""
    run = loaded.run
    arms: dict[str, Any] = {}
    for request, outcome in outcomes.items():
        name = request.arm or "run"
        settings = run.arms[name].model_dump(mode="json", exclude_none=True, exclude={"description"}) if request.arm else {}
        description = run.arms[name].description if request.arm else run.title
        arm = arms.setdefault(name, {"description": description, "settings": settings, "seeds": {}})
        relative = {key: f"arms/{name}/seed-{request.seed}/{key}.jsonl" for key in ("metrics", "rollouts")}
        arm["seeds"][str(request.seed)] = {**outcome, **relative}
    statuses = [outcome["status"] for outcome in outcomes.values()]
    status = "finished" if all(s == "finished" for s in statuses) else "interrupted" if "interrupted" in statuses else "failed"
    order = [name for name in (run.arms or ["run"]) if name in arms]
    per_run = run.train.updates * run.train.starts * run.train.rollouts
    results = {
        "schema": SCHEMA,
        "payoff": __version__,
        "command": command,
        "created": started,
        "status": status,
        "seconds": seconds,
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": available_cores()},
        "versions": _versions(),
        "git": _git(),
        "config": run.model_dump(mode="json"),
        "config_hash": loaded.hash,
        "task": run.task.name,
        "title": run.title or Path(loaded.source).stem,
        "baseline": run.compare.baseline or (order[0] if len(order) > 1 else None),
        "delta": run.compare.delta,
        "truth_unit": f"mean truth on {run.evaluate.starts} held-out starts, one sampled rollout each",
        "budget": {"rollouts": per_run, "updates": run.train.updates, "seeds": sorted({r.seed for r in outcomes})},
        "arms": {name: arms[name] for name in order},
    }
    path = folder / "results.json"
    write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path


def rollout_records(phase: str, batch: Any, task: Any, limit: int, policy: Any = None) -> Iterator[dict[str, Any]]:
    """The first rollouts of a batch with what each token was rewarded and weighed, and the pictures a task offers, for people."""
    import torch

    from payoff.sets import statistics
    from payoff.trajectories import Channel, outcome, per_step

    traj = batch.traj.select(torch.arange(min(limit, len(batch.traj))))
    if not len(traj):
        return
    n, width = len(traj), traj.width
    target = next(iter(batch.targets.values()), None)
    credit = target if isinstance(target, Channel) else None
    cut = {name: Channel(c.value[:n, :width], c.valid[:n, :width], c.reasons) for name, c in batch.rewards.items()}
    paid = {name: outcome(channel, traj) for name, channel in cut.items()}
    steps = {name: per_step(channel, traj) for name, channel in cut.items()}
    total, known = batch.own.value[:n, 0], batch.own.valid[:n, 0]
    group_mean = statistics(total, traj.group, known).mean
    truth, truth_known = outcome(task.truth(traj), traj)
    for row in range(n):
        length = int(traj.length[row])
        item = traj.items[row] if traj.items else {}
        mask = traj.mask[row, :length].tolist()
        weight = None
        if credit is not None:
            value, valid = (x[row].expand(width)[:length] if x.shape[1] == 1 else x[row, :length] for x in credit[:2])
            weight = [_number(v) if ok and acted else None for v, ok, acted in zip(value.tolist(), valid.tolist(), mask)]
        yield {
            "update": batch.update,
            "phase": phase,
            "id": int(traj.id[row]),
            "start": str(item.get("start", int(traj.group[row]))),
            **{name: item.get(name) for name in ("prompt", "response", "reference")},
            "tokens": list(item.get("tokens") or [str(a) for a in traj.actions[row, :length].tolist()]),
            "mask": mask,
            "step": traj.step[row, :length].tolist(),
            "reward": {name: _number(value[row]) if valid[row] else None for name, (value, valid) in paid.items()},
            "step_reward": {
                name: [_number(v) if ok else None for v, here, ok in zip(*(x[row].tolist() for x in columns)) if here]
                for name, columns in steps.items()
            },
            "credit": weight,
            "logp": [_number(v) for v in traj.logp["old"][row, :length].tolist()] if "old" in traj.logp else None,
            "truth": _number(truth[row]) if truth_known[row] else None,
            "total": _number(total[row]) if known[row] else None,
            "group_mean": _number(group_mean[row]),
            "stop": _stop_name(traj, row),
            "reason": {name: c.reasons[int(traj.id[row])] for name, c in cut.items() if int(traj.id[row]) in c.reasons},
            **({"picture": task.picture(traj, row)} if hasattr(task, "picture") else {}),
            **({"overview": task.overview(batch.traj, policy)} if not row and hasattr(task, "overview") else {}),
        }


@contextmanager
def interrupts(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C (or SIGTERM) calls `first`, later ones `second`; the old behaviour returns afterwards."""
    calls = [first]

    def handle(number: int, frame: Any) -> None:
        (calls.pop() if calls else second)()

    before = {number: signals.signal(number, handle) for number in (signals.SIGINT, signals.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signals.signal(number, handler)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as whole lines, in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records))


def available_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _MetricsLog:
    """metrics.jsonl of one run, and the loggers a run file asks for."""

    def __init__(self, folder: Path, loggers: Sequence[str], request: Request) -> None:
        from payoff.loggers import open_logger

        self.folder = folder
        self.loggers = [open_logger(name, folder, f"{request.arm or 'run'}-seed-{request.seed}") for name in loggers]

    def rewind(self, update: int) -> None:
        """Take back what a killed run wrote after its last checkpoint; it will happen again."""
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            kept = [line for line in read_lines(self.folder / name) if line["update"] <= update]
            write_text(self.folder / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def write(self, metrics: Mapping[str, Any]) -> None:
        clean = {name: _number(value) for name, value in metrics.items()}
        append_lines(self.folder / "metrics.jsonl", [clean])
        for logger in self.loggers:
            logger.log(clean, int(metrics["update"]))

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def _start_process(event: Any) -> None:
    global _stop_event
    import torch

    _stop_event = event
    signals.signal(signals.SIGINT, signals.SIG_IGN)  # the parent tells us through the event
    torch.set_num_threads(1)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(130)


def _number(value: Any) -> Any:
    """A JSON number; null for NaN and infinity."""
    if value is None or isinstance(value, bool | str):
        return value
    value = float(value) if not isinstance(value, int) else value
    return value if isinstance(value, int) or math.isfinite(value) else None


def _stop_name(traj: Any, row: int) -> str:
    from payoff.trajectories import StopReason

    return StopReason(int(traj.stop[row])).name


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [d for key in keys for d in _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)]
    return [] if before == after else [f"{path} was {json.dumps(before)}, is {json.dumps(after)}"]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "transformers", "peft", "reasoning-gym"):
        if package.replace("-", "_") in sys.modules or package in ("torch", "numpy"):
            versions[package] = metadata.version(package)
    return versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _git() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """The time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
