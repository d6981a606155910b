"""Parts of a run file in somebody else's trainer: its reward for single rows, its terms as paths and losses.

A trainer brings its own task and policy, so the file needs neither; where it has them they are not made.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from payoff.build import REWARDS, TRANSFORMS, resolve
from payoff.catalogue import nearest
from payoff.config import ConfigError, OnPart, Part, PartLike, RunFile, ScoringFile, ShapingLike, TermFile, code_beside
from payoff.contents import part_name, sees
from payoff.integrations.token_batches import cut_behind
from payoff.pipeline import Loss, Shaping, Signal, Target, checked_rewards, on, weigh
from payoff.rewards import RewardError, as_signal, resolve_reward
from payoff.rows import from_rows
from payoff.trajectories import Channel, Rewards, Trajectories, outcome
from payoff.yaml_marks import read_yaml

REWARD = "PAYOFF_REWARD"  # the environment's reward, by name or as a run file, where a trainer's configuration names none


class _HostedFile(BaseModel):
    """The sections of a run file that make sense where another trainer trains."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    reward: dict[str, PartLike] = {}
    shaping: list[ShapingLike] = Field([])
    terms: dict[str, TermFile] = {}
    scoring: ScoringFile = ScoringFile()


class HostedRun:
    """What a run file, or FILE.yaml#ARM, says about rewards and about what becomes of them.

    Parts that need the policy or the task cannot be had here; the error says so. Raises ConfigError, one line for each mistake.
    """

    def __init__(self, path: str | Path) -> None:
        file, _, arm = str(path).partition("#")
        self.path = Path(file)
        data = read_yaml(self.path).data
        if not isinstance(data, dict):
            raise ConfigError([f"{path}: must be a mapping of sections, is a {type(data).__name__}"])
        odd = sorted(set(data) - set(RunFile.model_fields))
        if odd:
            like = nearest(odd[0], list(RunFile.model_fields))
            raise ConfigError([f"{path}: unknown key {odd[0]!r}" + (f"; did you mean {like[0]}?" if like else "")])
        if arm:
            arms = data.get("arms") or {}
            if arm not in arms:
                raise ConfigError([f"{path}: no arm {arm!r}; there are {', '.join(arms) or 'none'}"])
            data = data | arms[arm]
        try:
            self.file = _HostedFile.model_validate(code_beside(data, self.path.parent))
        except ValidationError as error:
            faults = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
            raise ConfigError([f"{path}: {where}: {what[0].lower()}{what[1:]}" for where, what in faults]) from None

    @functools.cached_property
    def signals(self) -> dict[str, Signal]:
        """Every reward channel's signal, by the channel's name."""
        how = self.file.scoring
        lift = {"workers": how.workers, "deadline": how.deadline, "cache": how.cache}
        return {
            channel: as_signal(self._made(("reward", channel), part, REWARDS), channel, **lift)
            for channel, part in self.file.reward.items()
        }

    @functools.cached_property
    def shapings(self) -> list[Shaping]:
        return [
            on(part.on, *(self._made(("shaping", i, "do"), p, TRANSFORMS) for p in part.do))
            if isinstance(part, OnPart)
            else self._made(("shaping", i), part, ("shaping",))
            for i, part in enumerate(self.file.shaping)
        ]

    def term(self, name: str = "") -> tuple[str, TermFile]:
        """The named term, else the only one that has paths."""
        if name:
            if name not in self.file.terms:
                raise ConfigError([f"{self.path}: no term {name!r}; there are {', '.join(self.file.terms) or 'none'}"])
            return name, self.file.terms[name]
        found = [(name, term) for name, term in self.file.terms.items() if term.paths]
        if len(found) != 1:
            names = ", ".join(name for name, _ in found) or "none"
            raise ConfigError([f"{self.path}: a trainer takes one term with paths; there are {names}: say which"])
        return found[0]

    def target(self, name: str = "") -> Target:
        """What a term makes of the rewards: the weight of every action."""
        name, term = self.term(name)
        if getattr(term, "pairs", None) is not None:
            raise ConfigError([f"{self.path}: terms.{name}.pairs: a trainer of policies takes weights of actions, not pairs"])
        at = ("terms", name)
        paths = {
            channel: [self._made((*at, "paths", channel), part, TRANSFORMS) for part in parts]
            for channel, parts in term.paths.items()
        }
        then = [self._made((*at, "then"), part, TRANSFORMS) for part in term.then]
        mix = self._made((*at, "mix"), term.mix, ("mixing",)) if isinstance(term.mix, Part) else term.mix
        return weigh(paths, mix=mix, then=then, missing=term.missing)

    def loss(self, name: str = "") -> Loss:
        name, term = self.term(name)
        return self._made(("terms", name, "loss"), term.loss, ("loss",))

    def weights(self, name: str = "") -> dict[str, float]:
        """How the channels of a row add up to one number: the term's `mix`, 1 each without, and without terms all channels."""
        if not self.file.terms:
            return dict.fromkeys(self.file.reward, 1.0)
        _, term = self.term(name)
        return dict(term.mix) if isinstance(term.mix, Mapping) else dict.fromkeys(term.paths, 1.0)

    def _made(self, at: Sequence[str | int], part: Part, kinds: Sequence[str]) -> Any:
        try:
            return resolve(part, kinds)
        except (LookupError, ImportError, ValueError, TypeError, OSError) as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
            raise ConfigError([f"{self.path}: {'.'.join(map(str, at))}: {message}"]) from error


Payments = list[tuple[int, float | None]]  # (position, number or None), in order


@dataclass(frozen=True)
class Graded:
    """What one row was given.

    reward:   one number, 0 where it is not valid
    channels: of each, (all that it pays, whether that is known)
    payments: of the channels that pay before the end, as they were before any shaping
    """

    reward: float
    valid: bool
    channels: Mapping[str, tuple[float, bool]]
    reason: str = ""
    payments: Mapping[str, Payments] = field(default_factory=dict)


class RowReward:
    """One number for a row, from a reward by name or from the rewards of a run file, with the channels it is made of.

    reward:  what `payoff score --reward` takes: a registered grader or signal, FILE.py:FUNCTION, FILE.yaml or FILE.yaml#ARM ...
    weights: channel -> weight in the number; default: a run file's mix, else the reward's only channel
    term:    which term of the run file says so

    The channels are the same for every row, whatever happened to it: those of `weights` and the run file's others, which count
    nothing. A weighted one without verdict, and the row has none. A reward that sees a group cannot be had from one row: in a run
    file it is left out here (`left_out` has it, for whoever has the group), and by itself it is refused.

    Raises RewardError or ConfigError for a reward that cannot be had.

    >>> RowReward("answer-match")([{"response": "2", "reference": "2"}])[0].reward
    1.0
    """

    def __init__(self, reward: str, *, weights: Mapping[str, float | int] | None = None, term: str = "") -> None:
        self.name = reward
        self.left_out: dict[str, Signal] = {}
        self.shapings: list[Shaping] = []
        if reward.partition("#")[0].endswith((".yaml", ".yml")):
            run = HostedRun(reward)
            self.signals = {name: s for name, s in run.signals.items() if sees(s) == "item"}
            self.left_out = {name: s for name, s in run.signals.items() if name not in self.signals}
            self.shapings = [s for s in run.shapings if sees(s) == "item"] if not self.left_out else []
            self.weights = {k: float(w) for k, w in (weights or run.weights(term)).items() if k.split("/")[0] not in self.left_out}
        else:
            signal = resolve_reward(reward)
            if sees(signal) != "item":
                raise RewardError(f"reward {reward!r} sees a whole {sees(signal)}, and this trainer hands over single rows")
            self.signals = {part_name(signal): signal}
            self.weights = {k: float(w) for k, w in (weights or {part_name(signal): 1.0}).items()}
        if not self.weights:
            raise RewardError(f"reward {reward!r}: no channel can be had from one row")
        inner = {k.split("/")[0] for k in self.weights if "/" in k}
        self.channels = list(dict.fromkeys([*self.weights, *(name for name in self.signals if name not in inner)]))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Graded]:
        """Every row's reward; rows are what `from_rows` takes."""
        return self.of(from_rows(rows))

    def of(self, traj: Trajectories) -> list[Graded]:
        """Every trajectory's reward."""
        raw = signalled(self.signals, traj)
        shaped = raw
        for shaping in self.shapings:
            shaped = checked_rewards(part_name(shaping), shaping(shaped, traj), traj)
        columns = {name: self._ends(shaped, name, traj) for name in self.channels}
        paid = {name: found for name, channel in raw.items() if (found := _payments(channel, traj)) is not None}
        ids = traj.id.tolist()
        graded = []
        for i, id in enumerate(ids):
            channels = {name: (values[i], known[i]) for name, (values, known) in columns.items()}
            total = sum(weight * channels[name][0] for name, weight in self.weights.items())
            why = "; ".join(dict.fromkeys(c.reasons[id] for c in shaped.values() if id in c.reasons))
            lost = [name for name in self.weights if not channels[name][1]]
            reason = why or (f"no verdict: {', '.join(lost)}" if lost else "")
            payments = {name: rows[i] for name, rows in paid.items()}
            graded.append(Graded(0.0 if lost else total, not lost, channels, reason, payments))
        return graded

    def _ends(self, rewards: Rewards, name: str, traj: Trajectories) -> tuple[list[float], list[bool]]:
        if name in rewards:
            value, valid = outcome(rewards[name], traj)
            return value.tolist(), valid.tolist()
        inner = [k for k in rewards if k.startswith(f"{name}/")]
        if inner:
            raise RewardError(f"reward {name!r} gives several channels, {', '.join(inner)}: say the weight of each")
        return [0.0] * len(traj), [False] * len(traj)  # a grader that has only failed so far has not shown its channels


def signalled(signals: Mapping[str, Signal], traj: Trajectories) -> Rewards:
    """The rewards of several signals, named as `join` names them."""
    rewards: Rewards = {}
    for name, signal in signals.items():
        found = checked_rewards(f"{name} ({part_name(signal)})", signal(traj), traj)
        rewards |= {name if len(found) == 1 else f"{name}/{inner}": channel for inner, channel in found.items()}
    return rewards


def _payments(channel: Channel, traj: Trajectories) -> list[Payments] | None:
    """What each row is paid where, if the channel pays any row before its end."""
    value, known = channel.value.expand(traj.mask.shape), channel.valid.expand(traj.mask.shape)
    paid = traj.exists & (~known | (value != 0))
    if not bool((paid & (torch.arange(traj.width, device=traj.device) < traj.length[:, None] - 1)).any()):
        return None
    rows: list[Payments] = [[] for _ in range(len(traj))]
    for row, position in paid.nonzero().tolist():
        rows[row].append((position, float(value[row, position]) if bool(known[row, position]) else None))
    return rows


@functools.cache
def row_reward(reward: str = "", weights: tuple[tuple[str, float], ...] = (), term: str = "") -> RowReward:
    """The reward of this process, made once: its worker processes and its cache are shared by all rows.

    Raises RewardError where neither the argument nor the environment's PAYOFF_REWARD names one.
    """
    spec = reward or os.environ.get(REWARD, "")
    if not spec:
        raise RewardError(f"no reward: name one as `reward`, or in the environment as {REWARD}")
    return RowReward(spec, weights=dict(weights) or None, term=term)


def pairs_of(weights: Mapping[str, float | int] | None) -> tuple[tuple[str, float], ...]:
    """Weights as `row_reward` takes them."""
    return tuple(sorted((str(k), float(w)) for k, w in dict(weights or {}).items()))


def text_row(response: str, reference: Any, fields: Mapping[str, Any], *, separator: str | None = None) -> dict[str, Any]:
    """A row for graders: the fields, without those that would make a stored rollout of it, then response, reference and steps.

    steps: the fields' own where they are texts that the response has one after the other (a tool's may stand between); those of
           anything else, such as a solution in the data set, are not what was written: then the response, cut behind every
           `separator` (None: one step)

    >>> text_row("a;b", None, {"steps": ["x"]}, separator=";")["steps"], text_row("a;b", None, {"steps": ["a", "b"]})["steps"]
    (['a;', 'b'], ['a', 'b'])
    """
    kept = {name: value for name, value in fields.items() if name not in ("tokens", "actions", "group")}
    steps = _steps_of(fields.get("steps"), response) or cut_behind(response, separator)
    return {**kept, "response": response, "reference": reference, "steps": steps}


def _steps_of(steps: Any, response: str) -> list[str]:
    """These, where they are texts that a response has one after the other; else none."""
    if not isinstance(steps, list | tuple) or not any(steps) or not all(isinstance(step, str) for step in steps):
        return []
    at = 0
    for step in steps:
        found = response.find(step, at)
        if found < 0:
            return []
        at = found + len(step)
    return list(steps)
