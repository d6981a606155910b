"""Run files: typed models, line numbers in every error, overrides, and where each value came from.

A part of a run is a registered name, or a mapping with `name` and the part's options; a file of your own is FILE.py:FUNCTION.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_serializer

from payoff.yaml_marks import Mark, Marked, Path_, YamlError, parse_value, read_yaml


class ConfigError(ValueError):
    """One or more mistakes in a run file, each a line that names the place, what was found and what is allowed."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


class Part(BaseModel):
    """A registered method by name, with its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(description="a name that `payoff methods` lists, or FILE.py:FUNCTION, or package.module:function")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    @model_serializer
    def _short(self) -> Any:
        return {"name": self.name, **self.options} if self.options else self.name


def _part(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


PartLike = Annotated[Part, BeforeValidator(_part)]


class Strict(BaseModel):
    """No unknown keys, at any level."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OnPart(Strict):
    """Transforms of named channels as a shaping; the other channels pass unchanged."""

    on: str | list[str]
    do: list[PartLike]


def _shaping(value: Any) -> Any:
    return OnPart.model_validate(value) if isinstance(value, Mapping) and "on" in value else Part.model_validate(_part(value))


ShapingLike = Annotated[Any, BeforeValidator(_shaping)]


def _mix(value: Any) -> Any:
    named = isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("name"), str))
    return Part.model_validate(_part(value)) if named else value


MixLike = Annotated[dict[str, float] | Part, BeforeValidator(_mix)]


class TermFile(Strict):
    """One summand of the objective: reward channels down their paths, mixed, then a loss and how its numbers are weighed."""

    paths: dict[str, list[PartLike]] = Field(
        {}, description="channel -> credit and advantage transforms, in order; empty: a regulariser"
    )
    mix: MixLike | None = Field(None, description="channel -> weight in the sum (default 1 each), or the name of a mixing")
    then: list[PartLike] = Field([], description="transforms of the mixed channel")
    pairs: PartLike | None = Field(None, description="a pairing: for losses over preferences between rollouts")
    missing: Literal["drop", "skip"] = "drop"
    loss: PartLike
    aggregation: PartLike = Part(name="token-mean")
    weight: float = 1.0


class TrainFile(Strict):
    """How long and how training runs."""

    updates: int = Field(100, ge=1, le=10_000_000)
    starts: int = Field(4, ge=1, description="starts (prompts) per update")
    rollouts: int = Field(4, ge=1, description="rollouts of each start: the group size")
    rounds: int = Field(1, ge=1, description="rounds of rollouts at most, while selections leave fewer groups than `starts`")
    epochs: int = Field(1, ge=1)
    minibatches: int = Field(1, ge=1, description="optimiser steps in one pass over a batch")
    microbatch: int = Field(0, ge=0, description="rollouts in one forward and backward pass; 0: all of a minibatch")
    learning_rate: float = Field(2e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(1.0, ge=0, description="norm the gradient is clipped to; 0: not at all")
    seed: int = Field(0, ge=0, lt=2**31)
    checkpoint_every: int = Field(10, ge=1, description="updates between checkpoints")
    max_invalid: float = Field(0.5, ge=0, le=1, description="the run stops when a larger share of a batch has no verdict")
    device: str = "cpu"


class EvaluateFile(Strict):
    """Held-out evaluation against the truth."""

    every: int = Field(10, ge=0, description="updates between evaluations; 0: at the end only")
    starts: int = Field(256, ge=0)
    sampled_rollouts: int = Field(16, ge=0, description="rollouts kept for the report at the start, middle and end")
    continuations: int = Field(
        0,
        ge=0,
        description="of every step of the kept rollouts, first and last, to hold credit against what steps were worth; 0: none",
    )


class ScoringFile(Strict):
    """How graders run."""

    workers: int = Field(0, ge=0, le=256, description="worker processes; 0: in this process, without deadlines")
    deadline: float | None = Field(None, gt=0, description="seconds an answer may take; kept by killing, so it needs workers")
    cache: bool = False


class CompareFile(Strict):
    """How arms are compared."""

    seeds: int = Field(5, ge=1, le=1000, description="paired seeds: 0 to seeds - 1")
    baseline: str | None = None
    delta: float = Field(0.05, gt=0, description="the smallest difference in truth that matters")
    processes: int = Field(0, ge=0, description="runs side by side; 0: one per core, at most 8")


class ArmFile(Strict):
    """One reward design: what it changes in the run file."""

    description: str = ""
    reward: dict[str, PartLike] | None = None
    shaping: list[ShapingLike] | None = None
    selection: list[PartLike] | None = None
    curriculum: PartLike | None = None
    sampler: PartLike | None = None
    replay: PartLike | None = None
    terms: dict[str, TermFile] | None = None


class RunFile(Strict):
    """A whole run: task, policy, reward, how the reward becomes a loss, and how training runs."""

    title: str = ""
    task: PartLike
    policy: PartLike
    reward: dict[str, PartLike] = Field({}, description="channel -> signal or grader")
    shaping: list[ShapingLike] = Field([], description="applied in order; {on: channel, do: [...]} for transforms of one channel")
    selection: list[PartLike] = Field([], description="which rollouts are trained on, before any statistic of the terms")
    curriculum: PartLike | None = Field(None, description="which starts come next; without one the task chooses")
    sampler: PartLike | None = Field(None, description="how rollouts of a start are made; without one the policy rolls out freely")
    replay: PartLike | None = Field(None, description="earlier rollouts trained on again")
    terms: dict[str, TermFile] = {}
    arms: dict[str, ArmFile] = Field({}, description="reward designs to compare; each replaces what it names of the run")
    train: TrainFile = TrainFile()
    evaluate: EvaluateFile = EvaluateFile()
    scoring: ScoringFile = ScoringFile()
    compare: CompareFile = CompareFile()
    loggers: list[Literal["tensorboard", "wandb", "trackio"]] = []

    def arm(self, name: str) -> RunFile:
        """The run file of one arm alone."""
        changes = self.arms[name].model_dump(exclude_none=True, exclude={"description"}) if name else {}
        base = {**self.model_dump(exclude={"arms"}), **changes}
        return RunFile.model_validate(base)


class Loaded:
    """A validated run file with the origin of every value."""

    def __init__(self, run: RunFile, marks: dict[Path_, Mark], source: str, lines: Sequence[str]) -> None:
        self.run, self.marks, self.source, self.lines = run, marks, source, list(lines)

    @property
    def hash(self) -> str:
        """Of everything that can change a result."""
        data = self.run.model_dump(mode="json")
        for cosmetic in ("title", "loggers"):
            data.pop(cosmetic)
        data["compare"].pop("processes")
        data["scoring"].pop("workers")
        data["code"] = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in _code_files(data)}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def fault(self, path: Path_, message: str) -> str:
        """One error line for the value at `path`: place, key, message, and the line itself with a pointer under it."""
        return _fault(Marked(None, self.marks, self.lines), self.source, path, message)


def load_run(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a run file, override keys and validate; ConfigError lists every mistake at once.

    A key is overridden by `key.path=value`, and before that by the environment: PAYOFF_TRAIN__UPDATES=50 is train.updates=50.
    """
    marked = read_yaml(path)
    data, marks = marked.data, dict(marked.marks)
    if not isinstance(data, dict):
        raise ConfigError(
            [f"{path}: must be a mapping of sections ({', '.join(RunFile.model_fields)}), is a {type(data).__name__}"]
        )
    for name in sorted(name for name in os.environ if name.startswith("PAYOFF_") and "__" in name):
        path_in_file = name.removeprefix("PAYOFF_").lower().replace("__", ".")
        _override(data, marks, f"{path_in_file}={os.environ[name]}", origin=f"environment {name}")
    for override in overrides:
        _override(data, marks, override)
    data = code_beside(data, path.parent)
    try:
        run = RunFile.model_validate(data)
    except ValidationError as error:
        merged = Marked(data, marks, marked.lines)
        raise ConfigError(_unique(_explain(merged, str(path), e) for e in error.errors())) from None
    return Loaded(run, marks, str(path), marked.lines)


def _code_files(data: Any) -> list[str]:
    """The files of one's own code that a run file names and that exist, in order."""
    if isinstance(data, dict | list):
        inner = data.values() if isinstance(data, dict) else data
        return sorted({file for value in inner for file in _code_files(value)})
    file = data.rpartition(":")[0] if isinstance(data, str) and ".py:" in data else ""
    return [file] if file and Path(file).is_file() else []


def code_beside(data: Any, folder: Path) -> Any:
    """FILE.py:FUNCTION as it can be found from here: in the current folder, or else beside the run file."""
    if isinstance(data, dict):
        return {key: code_beside(value, folder) for key, value in data.items()}
    if isinstance(data, list):
        return [code_beside(value, folder) for value in data]
    if isinstance(data, str) and ".py:" in data:
        file, _, function = data.rpartition(":")
        if not Path(file).exists() and (folder / file).exists():
            return f"{folder / file}:{function}"
    return data


def print_config(loaded: Loaded) -> str:
    """The resolved run file as YAML that runs again as it is, with the origin of every value as a comment."""
    lines: list[str] = []

    def origin(path: Path_) -> str:
        if path not in loaded.marks and path[-1:] == ("name",):
            path = path[:-1]
        return f"  # {loaded.marks[path]}" if path in loaded.marks else "  # default"

    def write(value: Any, path: Path_, indent: int, lead: str) -> None:
        pad = " " * indent
        if isinstance(value, dict) and value:
            if lead:
                lines.append(lead)
            for key, inner in value.items():
                write(inner, (*path, key), indent + 2, f"{pad}{_scalar(key)}:")
        elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
            lines.append(lead)
            for i, inner in enumerate(value):
                flow = yaml.safe_dump(inner, default_flow_style=True, sort_keys=False, width=10**9).strip()
                lines.append(f"{pad}- {flow.removesuffix('...').strip()}{origin((*path, i))}")
        else:
            flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9).strip()
            lines.append(f"{lead} {flow.removesuffix('...').strip()}{origin(path)}")

    write(loaded.run.model_dump(mode="json"), (), 0, "")
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of run files for editors, with the registered names where a name is expected."""
    from payoff.catalogue import index

    schema = RunFile.model_json_schema()
    names = sorted({name for _, name in index()})
    schema["$defs"]["Part"] = {
        "description": "a registered method, by name or with options; or FILE.py:FUNCTION",
        "anyOf": [
            {"type": "string", "examples": names},
            {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "examples": names}}},
        ],
    }
    shaping = {"anyOf": [{"$ref": "#/$defs/Part"}, OnPart.model_json_schema(ref_template="#/$defs/{model}")]}
    for model, key in (("RunFile", None), ("ArmFile", "ArmFile")):
        properties = schema["properties"] if key is None else schema["$defs"][model]["properties"]
        properties["shaping"] = {"type": "array", "items": shaping, "description": "shapings, applied in order"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "payoff run file", **schema}


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """ "; did you mean X?" or nothing."""
    like = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.6)
    return f"; did you mean {like[0]}?" if like else ""


# --- from a validation error to a line a person can act on


def _explain(marked: Marked, source: str, error: Any) -> str:
    path = tuple(error["loc"])
    path = tuple(step for step in path if not (isinstance(step, str) and step.startswith(("function-", "dict[", "list["))))
    kind, context = error["type"], error.get("ctx", {})
    key = path[-1] if path else ""
    if kind == "extra_forbidden":
        allowed = _allowed(path[:-1])
        home = [section for section, fields in _sections().items() if key in fields]
        hint = did_you_mean(str(key), allowed) or (f"; this key belongs under {home[0]!r}" if home else "")
        return _fault(marked, source, (*path, ""), f"unknown key {str(key)!r}{hint or f'; allowed: {chr(44).join(allowed)}'}")
    if kind == "missing":
        return _fault(marked, source, path[:-1], f"the key {str(key)!r} is missing")
    found = error.get("input")
    shown = json.dumps(found, default=str)[:80]
    if kind == "literal_error":
        allowed_values = str(context.get("expected", "")).replace("'", "")
        return _fault(
            marked, source, path, f"is {shown}; allowed: {allowed_values}{did_you_mean(str(found), allowed_values.split(' or '))}"
        )
    message = error["msg"][0].lower() + error["msg"][1:]
    return _fault(marked, source, path, f"{message.replace('input should', 'should')}, is {shown}")


def _fault(marked: Marked, source: str, path: Path_, message: str) -> str:
    name = ".".join(str(step) for step in path if step != "")
    known = path
    while known and known not in marked.marks:
        known = known[:-1]
    mark = marked.marks.get(known)
    if mark is None or not mark.line or not known:
        where = str(mark) if mark is not None and not mark.line else source
        return f"{where}: {name + ': ' if name else ''}{message}"
    line = marked.lines[mark.line - 1] if mark.line <= len(marked.lines) else ""
    return f"{mark}: {name}: {message}\n   {mark.line:>4} | {line}\n        | {' ' * (mark.column - 1)}^"


def _sections() -> dict[str, list[str]]:
    return {
        name: list(field.annotation.model_fields)
        for name, field in RunFile.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and field.annotation is not Part
    }


def _allowed(path: Path_) -> list[str]:
    if not path:
        return list(RunFile.model_fields)
    if path[0] in _sections() and len(path) == 1:
        return _sections()[str(path[0])]
    if "terms" in path[-2:-1] or path[0] == "terms":
        return list(TermFile.model_fields)
    return list(ArmFile.model_fields) if path[0] == "arms" else []


def _override(data: dict[str, Any], marks: dict[Path_, Mark], text: str, origin: str = "command line") -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError([f"{origin}: {text!r} is not an override; write key=value, such as train.updates=50"])
    try:
        parsed = parse_value(value)
    except YamlError as error:
        raise ConfigError([f"{origin}: {text!r}: {error}"]) from None
    here: Any = data
    path: Path_ = ()
    steps = key.strip().split(".")
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(here, list):
            if not step.isdigit() or int(step) >= len(here):
                raise ConfigError([f"{origin}: {text!r}: {'.'.join(steps[:i])} has items 0 to {len(here) - 1}, not {step!r}"])
            index: str | int = int(step)
        elif isinstance(here, dict):
            index = step
        else:
            raise ConfigError([f"{origin}: {text!r}: {'.'.join(steps[:i])} is {here!r} and has no keys"])
        path = (*path, index)
        if last:
            for stale in [p for p in marks if p[: len(path)] == path]:
                del marks[stale]
            here[index] = parsed
            marks[path] = marks[(*path, "")] = Mark(origin, 0, 0)
        else:
            if isinstance(here, dict) and isinstance(here.get(index), str):
                here[index] = {"name": here[index]}
            here = here.setdefault(index, {}) if isinstance(here, dict) else here[int(index)]


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("...").strip()


def _unique(lines: Any) -> list[str]:
    return list(dict.fromkeys(lines))
