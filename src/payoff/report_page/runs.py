"""Reading a run folder: results.json and the metrics and rollouts it names, and nothing else.

A run that was killed leaves files cut short: what is whole is read, what is not is noted and shown. Rollouts are indexed, not
held: `Rollout` keeps what choosing needs, `read` fetches the chosen ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from payoff.report_page.wording import cut

SCHEMA = "https://payoff.dev/schemas/results-1.json"
PHASES = ("start", "middle", "end")
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Rollout:
    """Where one stored rollout lies, and the little that choosing examples needs of it."""

    arm: str
    seed: int
    phase: str
    update: int
    id: str
    start: str  # "" where it is not stored
    response: str  # a digest: equal for responses that differ in case and white space alone
    total: float | None
    truth: float | None
    path: Path
    offset: int
    shown: str = ""  # the picture stored with it: "overview", "picture" or none


@dataclass(frozen=True)
class Seed:
    """One run of one arm: its state, its metrics by update, its stored rollouts."""

    number: int
    status: str
    error: str | None
    seconds: float | None
    metrics: list[dict[str, Any]]
    rollouts: list[Rollout]
    reasons: Counter[tuple[str, str]]
    files: dict[str, str]
    _columns: dict[str, list[float | None]] = field(default_factory=dict, repr=False, compare=False)

    def curve(self, key: str, *, x: str = "rollouts") -> Curve:
        """(x, number) of every update that has both, in the order of x."""
        for name in (x, key):
            if name not in self._columns:
                self._columns[name] = [number(row.get(name)) for row in self.metrics]
        pairs = zip(self._columns[x], self._columns[key])
        return sorted(((at, value) for at, value in pairs if at is not None and value is not None), key=lambda point: point[0])


@dataclass(frozen=True)
class Arm:
    """One reward design: what it is, what differs from the first arm, its seeds."""

    name: str
    description: str
    settings: dict[str, Any]
    seeds: dict[int, Seed]

    @property
    def finished(self) -> list[Seed]:
        """The seeds that used their whole budget: only these enter a table."""
        return [seed for seed in self.seeds.values() if seed.status == "finished"]

    @property
    def counted(self) -> list[Seed]:
        """The seeds that a mean curve is made of: the finished ones, or all where none is."""
        return self.finished or list(self.seeds.values())


@dataclass(frozen=True)
class Run:
    """A loaded run folder. `raw` is results.json as stored, `notes` what could not be read."""

    folder: Path
    raw: dict[str, Any]
    sha256: str
    arms: dict[str, Arm]
    notes: list[str] = field(default_factory=list)

    @property
    def baseline(self) -> str | None:
        """The arm that the others are compared with, if there is one."""
        name = self.raw.get("baseline")
        return name if name in self.arms and len(self.arms) > 1 else None

    @property
    def delta(self) -> float:
        """The smallest difference in truth that matters."""
        value = number(self.raw.get("delta"))
        return 0.05 if value is None or value < 0 else value

    @property
    def title(self) -> str:
        return str(self.raw.get("title") or self.raw.get("task") or "this task")

    @property
    def truth_unit(self) -> str:
        return str(self.raw.get("truth_unit") or "truth")

    @property
    def budget(self) -> dict[str, Any]:
        found = self.raw.get("budget")
        return found if isinstance(found, dict) else {}

    @property
    def planned(self) -> list[int]:
        """The seeds that were asked for; those that ran where this is not stored."""
        seeds = self.budget.get("seeds")
        if isinstance(seeds, list) and all(isinstance(s, int) for s in seeds):
            return seeds
        return sorted({seed for arm in self.arms.values() for seed in arm.seeds})


def number(value: object) -> float | None:
    """The value where it is a finite number; anything else is unknown."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def load_run(folder: Path) -> Run:
    """Load a run folder; metrics and rollouts that are missing or cut short become notes.

    Raises FileNotFoundError without results.json, ValueError where it is not what this version of payoff writes.
    """
    folder = Path(folder)
    path = folder / "results.json"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{folder} is not a run folder: it has no results.json") from None
    try:
        raw = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("arms"), dict) or not raw["arms"]:
        raise ValueError(f'{path} has no "arms": it is not the results of a train or compare run')
    if raw.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(f"{path} has the schema {raw['schema']!r}; this version of payoff reads {SCHEMA}")
    notes: list[str] = []
    arms = {name: _arm(folder, name, entry, notes) for name, entry in raw["arms"].items()}
    return Run(folder, raw, hashlib.sha256(data).hexdigest(), arms, notes)


def read(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """The stored rows of these rollouts, in their order."""
    rows = []
    for rollout in rollouts:
        with rollout.path.open("rb") as file:
            file.seek(rollout.offset)
            rows.append(json.loads(file.readline()))
    return rows


def _arm(folder: Path, name: str, entry: Mapping[str, Any], notes: list[str]) -> Arm:
    if not isinstance(entry, dict) or not isinstance(entry.get("seeds"), dict):
        raise ValueError(f'{folder / "results.json"}: arm {name!r} has no "seeds"')
    seeds = {}
    for label, seed in entry["seeds"].items():
        try:
            seeds[int(label)] = _seed(folder, name, int(label), seed, notes)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{folder / 'results.json'}: seed {label!r} of arm {name!r} cannot be read: {error}") from None
    settings = entry.get("settings")
    return Arm(
        name, str(entry.get("description") or ""), settings if isinstance(settings, dict) else {}, dict(sorted(seeds.items()))
    )


def _seed(folder: Path, arm: str, label: int, entry: Mapping[str, Any], notes: list[str]) -> Seed:
    metrics, rollouts, reasons, files = [], [], Counter[tuple[str, str]](), {}
    for kind in ("metrics", "rollouts"):
        if not entry.get(kind):
            continue
        path = _inside(folder, str(entry[kind]))
        if not path.is_file():
            if entry.get("status") == "finished":
                notes.append(f"{entry[kind]} is missing: {arm}, seed {label}, has no {kind}")
            continue
        files[str(entry[kind])] = _hash(path)
        for offset, row in _rows(path, str(entry[kind]), notes):
            if kind == "metrics":
                metrics.append(row)
            else:
                rollouts.append(_index(row, arm, label, path, offset))
                reasons.update(_reasons(row))
    metrics.sort(key=lambda row: number(row.get("update")) or 0)
    error = entry.get("error")
    status = str(entry.get("status") or "interrupted")
    seconds = number(entry.get("seconds"))
    return Seed(label, status, None if error is None else str(error), seconds, metrics, rollouts, reasons, files)


def _rows(path: Path, name: str, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every whole JSON object of a file of lines, with where it begins."""
    broken, offset = 0, 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError):
                    row = None
                if isinstance(row, dict):
                    yield offset, row
                else:
                    broken += 1
            offset += len(line)
    if broken:
        notes.append(f"{name}: {broken} of its lines could not be read and {'is' if broken == 1 else 'are'} left out")


def _index(row: Mapping[str, Any], arm: str, seed: int, path: Path, offset: int) -> Rollout:
    update = number(row.get("update"))
    phase = str(row.get("phase"))
    return Rollout(
        arm,
        seed,
        phase if phase in PHASES else "end",
        int(update) if update is not None else 0,
        str(row.get("id")),
        "" if row.get("start") is None else str(row["start"]),
        _digest(str(row.get("response"))),
        number(row.get("total")),
        number(row.get("truth")),
        path,
        offset,
        next((name for name in ("overview", "picture") if row.get(name)), ""),
    )


def _reasons(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(channel, reason) of every channel without a verdict in a rollout."""
    reward, reason = row.get("reward"), row.get("reason")
    if not isinstance(reward, dict):
        return []
    reason = reason if isinstance(reason, dict) else {}
    return [(str(k), cut(str(reason.get(k) or "no reason stored"), 200)) for k, v in reward.items() if number(v) is None]


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.casefold().split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; a results.json from elsewhere must not make the report quote this machine's other files."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{folder / 'results.json'} names a file outside its folder: {name!r}")
    return path


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
