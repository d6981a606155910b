"""What a person sees in the terminal while runs go on: a table that redraws itself, or plain lines where there is no terminal."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from payoff.runs import Request
from payoff.terminal import event, events_wanted

PLAIN_EVERY = 30.0  # seconds between plain lines when nothing else is to be said


class RunsDisplay:
    """The state of many runs, read from their metrics files, drawn at most four times a second."""

    def __init__(self, title: str, requests: Sequence[Request], updates: int, console: Console, *, quiet: bool = False) -> None:
        self.title, self.requests, self.updates, self.console, self.quiet = title, requests, updates, console, quiet
        self.started = self.said = time.monotonic()
        self.reused = sum((request.folder / "result.json").exists() for request in requests)
        self.done: dict[Request, dict] = {}
        self.announced: set[Request] = set()
        self.evaluated: dict[Request, int] = {}  # the update of the newest evaluation that was told as an event
        self.ended: set[Request] = set()
        self.live: Live | None = None

    @contextmanager
    def showing(self) -> Iterator[RunsDisplay]:
        """Draw, or tell events, while inside; what is finished stays on the screen."""
        if events_wanted():
            stop = threading.Event()
            teller = threading.Thread(target=self._keep_telling, args=(stop,), daemon=True)
            teller.start()
            try:
                yield self
            finally:
                stop.set()
                teller.join()
                self._tell()
            return
        if self.quiet or not self.console.is_terminal:
            yield self
            return
        with Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self.table) as self.live:
            yield self

    def tick(self, done: Mapping[Request, dict]) -> None:
        """Take in what is finished; without a terminal, say a plain line for each run, or every half minute."""
        self.done = dict(done)
        if self.quiet or self.live is not None:
            return
        for request, outcome in self.done.items():
            if request not in self.announced:
                self.announced.add(request)
                last = last_metrics(request.folder)
                error = f"  {outcome['error']}" if outcome.get("error") else ""
                self._say(f"{request.arm or 'run'} seed {request.seed}: {outcome['status']}  {numbers(last)}{error}")
        if time.monotonic() - self.said > PLAIN_EVERY:
            self._say(f"{len(self.done)}/{len(self.requests)} runs, {_clock(time.monotonic() - self.started)} elapsed")

    def table(self) -> Table:
        """One line per arm: seeds finished, the newest numbers averaged over seeds, progress of what is running."""
        elapsed = time.monotonic() - self.started
        progress = {request: self._progress(request) for request in self.requests}
        share = sum(progress.values()) / max(len(progress), 1)
        spent = share - self.reused / max(len(progress), 1)
        left = f", about {_clock(elapsed * (1 - share) / spent)} left" if spent > 0.02 else ""
        table = Table.grid(padding=(0, 2))
        table.title = Text(f"{self.title}   {len(self.done)}/{len(self.requests)} runs   {_clock(elapsed)} elapsed{left}")
        table.title_justify = "left"
        for arm in dict.fromkeys(request.arm for request in self.requests):
            mine = [request for request in self.requests if request.arm == arm]
            lines = [line for line in (last_metrics(request.folder) for request in mine) if line]
            finished = sum(request in self.done or (request.folder / "result.json").exists() for request in mine)
            mean = {key: _mean([line.get(key) for line in lines]) for key in ("truth", "reward", "invalid", "kl", "length")}
            filled = int(10 * sum(progress[request] for request in mine) / len(mine))
            bar = Text(f"[{'#' * filled}{'-' * (10 - filled)}]")
            state = Text(numbers(mean) if lines else "waiting")
            table.add_row(Text(f"  {arm or 'run'}"), Text(f"{finished}/{len(mine)}"), bar, state)
        return table

    def _tell(self) -> None:
        """Events for programs: what every evaluation found, and how every run ended."""
        for request in self.requests:
            who, line = {"arm": request.arm or None, "seed": request.seed}, last_metrics(request.folder)
            if line.get("truth") is not None and self.evaluated.get(request) != line["evaluated"]:
                self.evaluated[request] = line["evaluated"]
                event("evaluation", **who, update=line["evaluated"], truth=line["truth"], kl=line["kl"])
            if request in self.done and request not in self.ended:
                self.ended.add(request)
                event("run", **who, status=self.done[request]["status"], error=self.done[request].get("error"))

    def _keep_telling(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            self._tell()

    def _progress(self, request: Request) -> float:
        if request in self.done or (request.folder / "result.json").exists():
            return 1.0
        line = last_metrics(request.folder)
        return line["update"] / self.updates if line else 0.0

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(Text(text), soft_wrap=True)


def numbers(metrics: Mapping[str, Any]) -> str:
    """The few numbers worth a line: truth, reward, invalid verdicts, KL, length."""
    shown = [f"{key} {metrics[key]:.2f}" for key in ("truth", "reward") if metrics.get(key) is not None]
    if metrics.get("invalid") is not None:
        shown.append(f"invalid {100 * metrics['invalid']:.1f} %")
    if metrics.get("kl") is not None:
        shown.append(f"KL {metrics['kl']:.1f}")
    if metrics.get("length") is not None:
        shown.append(f"length {metrics['length']:.0f}")
    return "   ".join(shown)


def last_metrics(folder: Path) -> dict[str, Any]:
    """The newest whole line of a run's metrics, with the newest evaluation filled in; empty where there is none yet."""
    path = folder / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            lines = file.read().split(b"\n")[:-1]
        rows = [json.loads(line) for line in lines[-24:] if line.startswith(b"{")]
    except (OSError, ValueError):
        return {}
    if not rows:
        return {}
    evaluated: dict[str, Any] = next((row for row in reversed(rows) if row.get("truth") is not None), {})
    return {**rows[-1], "truth": evaluated.get("truth"), "kl": evaluated.get("kl"), "evaluated": evaluated.get("update")}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
