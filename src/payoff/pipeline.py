"""How the parts fit together: the protocols of the whole library, and `chain`, `join`, `on` and `weigh`, which compose them.

What carries a number is never checked by the methods themselves but here, after every part, so that an error names the part.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.contents import outermost_modules, part_name
from payoff.trajectories import Channel, Pairs, Rewards, StopReason, Trajectories, constant, outcome

log = logging.getLogger("payoff")


class Verdict(NamedTuple):
    """A grader's answer: a number, one per step, or one per channel; or none, and why."""

    value: float | Sequence[float] | Mapping[str, float]
    valid: bool = True
    reason: str = ""


class Start(NamedTuple):
    """Where trajectories begin: a stable id, the row's own fields, and for interactive tasks the environment's side."""

    id: str
    fields: Mapping[str, Any]
    environment: Environment | None = None


class Response(NamedTuple):
    """What an interactive environment answers to one action (or turn); its own `reward` is recorded, used only if a signal asks."""

    observation: Any
    reward: float
    stop: StopReason | None


@runtime_checkable
class Environment(Protocol):
    """The other side of an interactive task."""

    def respond(self, action: Any) -> Response:
        """Advance by one action or turn."""

    def snapshot(self) -> bytes | None:
        """The state, for `resume`; None means: replay the recorded actions."""


class Evaluation(NamedTuple):
    """A policy's view of given actions, with gradient unless asked without.

    more: what was wanted: entropy [N, T], values [N, T+1], flow [N, T+1], mean [N, T, D], mean_logp [N, T], hidden ...
    """

    logp: Float[Tensor, "N T"]
    more: Mapping[str, Tensor]


class LossOutput(NamedTuple):
    """One number per action, trajectory or pair, not yet a scalar; detached metrics by name."""

    terms: Tensor
    metrics: Mapping[str, float]


@runtime_checkable
class Policy(Protocol):
    """What acts: a language model, a flow, a controller, a constructor, a table. Nothing downstream asks which."""

    offers: frozenset[str]  # what `evaluate` can give: "values", "entropy", "mean", "hidden" ...

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n trajectories from every start; one group per start."""

    def resume(
        self,
        traj: Trajectories,
        rows: Int[Tensor, " R"],
        at: Int[Tensor, " R"],
        n: int,
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """n continuations of each prefix traj[rows, :at], parent and fork set.

        `horizon` more actions (None: to the end), the first `noisy` of them sampled (None: all) and the rest deterministic.
        """

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of the recorded actions, and what else was wanted."""


@runtime_checkable
class Task(Protocol):
    """Where trajectories start, and what is truly wanted of them."""

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts; those that belong together (paired views) come together. A curriculum is a Task around a Task."""

    def truth(self, traj: Trajectories) -> Channel:
        """The true objective, what the reward stands for; never trained on, and invalid where it is unknown."""


Grader = Callable[..., "float | Verdict | None"]
Signal = Callable[[Trajectories], Rewards]
Shaping = Callable[[Rewards, Trajectories], Rewards]
Transform = Callable[[Channel, Trajectories], Channel]  # every credit and every advantage; also a shaping of one channel
Selection = Callable[[Rewards, Trajectories], Tensor]  # rows to train on (repeats = resampling); before any statistic
Target = Callable[[Rewards, Trajectories], "Channel | Pairs"]  # what one loss is given
Loss = Callable[[Evaluation, Trajectories, "Channel | Pairs"], LossOutput]
Aggregation = Callable[["Channel | Pairs", Trajectories], Tensor]  # weights of the loss terms, over the WHOLE batch
Mixing = Callable[[Rewards, Trajectories], Channel]  # several channels to one, where plain weights will not do
Pairing = Callable[[Channel, Trajectories], Pairs]  # which rows of a batch are compared, and which is the better
Curriculum = Callable[[Task, int, torch.Generator], Sequence[Start]]  # n starts of a task: which come next
Sampler = Callable[[Policy, Sequence[Start], int, torch.Generator], Trajectories]  # n rollouts of each start, in one group a start
Replay = Callable[[Trajectories, Rewards, torch.Generator], tuple[Trajectories, Rewards]]  # fresh rows in, those to train on out


class Term(NamedTuple):
    """One summand of the objective: loss on target, times weight. PPO with a critic is two, DPO with a likelihood term is two."""

    target: Target
    loss: Loss
    aggregation: Aggregation
    weight: float = 1.0


class NonFiniteError(ArithmeticError):
    """A part gave NaN or infinity where it claimed to know: names the part and the trajectory."""

    def __init__(self, part: str, id: int, value: float) -> None:
        super().__init__(f"{part}: gave {value} for trajectory {id}, marked as valid")
        self.part, self.id, self.value = part, id, value


class _Composed(nn.Module):
    """Parts in a composition; the modules inside them become submodules, so that state, device and training reach them."""

    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.parts = parts
        self._inside = nn.ModuleList(unique for unique in outermost_modules(parts))


class Chain(_Composed):
    """What `chain` makes: a signal, and shapings one after the other."""

    def forward(self, traj: Trajectories) -> Rewards:
        signal, *shapings = self.parts
        rewards = signal(traj)
        if not isinstance(signal, Chain | Join):  # these have looked at every channel themselves
            rewards = checked_rewards(part_name(signal), rewards, traj)
        for shaping in shapings:
            rewards = checked_rewards(part_name(shaping), shaping(rewards, traj), traj, passed=rewards)
        return rewards


class Join(_Composed):
    """What `join` makes: signals by name."""

    def forward(self, traj: Trajectories) -> Rewards:
        rewards: Rewards = {}
        for name, signal in self.parts.items():
            channels = checked_rewards(f"{name} ({part_name(signal)})", signal(traj), traj)
            for inner, channel in channels.items():
                full = name if len(channels) == 1 else f"{name}/{inner}"
                if full in rewards:
                    raise ValueError(f"join: two signals give the channel {full!r}")
                rewards[full] = channel
        return rewards


class _Weigh(_Composed):
    def __init__(self, paths, mix, then, missing) -> None:
        super().__init__([paths, mix, then])
        self.paths, self.mix, self.then, self.missing = paths, mix, then, missing

    def forward(self, rewards: Rewards, traj: Trajectories) -> Channel:
        ends = {name: _along(name, self._given(rewards, name), path, traj) for name, path in self.paths.items()}
        return _along("then", self._mixed(ends, traj), self.then, traj)

    def own_reward(self, rewards: Rewards, traj: Trajectories) -> Channel:
        """What this target asks the policy to collect: each path as far as it still pays, mixed, one number per trajectory."""
        paid = {}
        for name, path in self.paths.items():
            pays = itertools.takewhile(_pays, path)
            channel = _along(name, self._given(rewards, name), list(pays), traj)
            paid[name] = constant(*outcome(channel, traj), channel.reasons)
        return self._mixed(paid, traj)

    def _given(self, rewards: Rewards, name: str) -> Channel:
        if name not in rewards:
            raise KeyError(f"weigh: no reward channel {name!r}; there are {sorted(rewards)}")
        return rewards[name]

    def _mixed(self, ends: Rewards, traj: Trajectories) -> Channel:
        if callable(self.mix):
            return checked(part_name(self.mix), self.mix(ends, traj), traj)
        return weighted_sum(ends, self.mix or dict.fromkeys(ends, 1.0), missing=self.missing)


class _Pair(_Composed):
    def forward(self, rewards: Rewards, traj: Trajectories) -> Pairs:
        target, pairing = self.parts
        name = part_name(pairing)
        pairs = pairing(checked(f"target before {name}", target(rewards, traj), traj), traj)
        if not isinstance(pairs, Pairs):
            raise TypeError(f"{name}: must give Pairs, gave {type(pairs).__name__}")
        if len(pairs.index) and not 0 <= int(pairs.index.min()) <= int(pairs.index.max()) < len(traj):
            raise ValueError(f"{name}: pairs must name rows 0 to {len(traj) - 1}, gave {pairs.index.tolist()[:4]} ...")
        return pairs

    def own_reward(self, rewards: Rewards, traj: Trajectories) -> Channel:
        return self.parts[0].own_reward(rewards, traj)


class _On(_Composed):
    def __init__(self, names: Sequence[str], transforms: Sequence[Transform]) -> None:
        super().__init__(list(transforms))
        self.names = list(names)

    def forward(self, rewards: Rewards, traj: Trajectories) -> Rewards:
        lost = [name for name in self.names if name not in rewards]
        if lost:
            raise KeyError(f"on: no reward channel {lost[0]!r}; there are {sorted(rewards)}")
        return {**rewards, **{name: _along(name, rewards[name], self.parts, traj) for name in self.names}}


def chain(signal: Signal, *shapings: Shaping) -> Signal:
    """A signal, then each shaping in turn: rollout to shaped rewards, as one signal."""
    return Chain([signal, *shapings])


def join(signals: Mapping[str, Signal]) -> Signal:
    """Signals side by side. One that gives a single channel gives it under its name here, others under "name/channel"."""
    return Join(dict(signals))


def on(names: str | Sequence[str], *transforms: Transform) -> Shaping:
    """Transforms of one channel as a shaping of the named channels; the others pass unchanged."""
    return _On([names] if isinstance(names, str) else names, transforms)


def weigh(
    paths: Mapping[str, Sequence[Transform]],
    *,
    mix: Mapping[str, float] | Mixing | None = None,
    then: Sequence[Transform] = (),
    missing: Literal["drop", "skip"] = "drop",
) -> Target:
    """Each named channel down its own path, then one weighted sum, then common transforms: the weight of every action.

    A channel without a path is reported and not trained on. mix: weights by channel (default 1 each), or a function.
    missing: an action that any channel leaves without verdict has none ("drop"), or the channels that know decide ("skip").
    Adding before or after normalising are two methods: put the normalisation into `then`, or into every path.
    Raises ValueError for weights of channels that have no path, KeyError at the first batch for a channel nobody gives.
    """
    if not paths:
        raise ValueError("weigh: no paths, so nothing would be trained on")
    if missing not in ("drop", "skip"):
        raise ValueError(f'weigh: missing must be "drop" or "skip", got {missing!r}')
    if isinstance(mix, Mapping) and set(mix) != set(paths):
        odd = sorted(set(mix) ^ set(paths))
        raise ValueError(f"weigh: mix and paths must name the same channels; {odd} are only in one of them")
    return _Weigh({name: list(path) for name, path in paths.items()}, mix, list(then), missing)


def pair(target: Target, pairing: Pairing) -> Target:
    """What a loss over preferences is given: the rows that `pairing` compares by the channel of `target` (a `weigh`)."""
    return _Pair([target, pairing])


def everywhere(rewards: Rewards, traj: Trajectories) -> Channel:
    """The target of a regulariser: 1 at every action, whatever the verdicts."""
    one = torch.ones(len(traj), 1, device=traj.device)
    return Channel(one, one > 0)


def weighted_sum(
    channels: Mapping[str, Channel], weights: Mapping[str, float], *, missing: Literal["drop", "skip"] = "drop"
) -> Channel:
    """sum_k weights[k] * channels[k]; invalid where any channel is ("drop"), or only where all are ("skip")."""
    parts = [(channels[name], weight) for name, weight in weights.items()]
    value = functools.reduce(torch.add, (w * torch.where(c.valid, c.value, 0) for c, w in parts))
    valid = functools.reduce(torch.logical_and if missing == "drop" else torch.logical_or, (c.valid for c, _ in parts))
    return Channel(torch.where(valid, value, 0), valid, merge_reasons([c for c, _ in parts]))


def concatenate_rewards(parts: Sequence[Rewards], trajectories: Sequence[Trajectories]) -> Rewards:
    """The rewards of all parts' rows, as `concatenate` joins the rows themselves; ValueError where channels differ.

    >>> from payoff.examples import four_answers
    >>> both = concatenate_rewards([{"correct": constant(torch.ones(4), torch.ones(4) > 0)}] * 2, [four_answers(), four_answers()])
    >>> both["correct"].value.shape
    torch.Size([8, 1])
    """
    if any(set(part) != set(parts[0]) for part in parts):
        odd = sorted(set().union(*parts) - set(parts[0]).intersection(*parts))
        raise ValueError(f"concatenate_rewards: the channels {odd} are in some parts and missing in others")
    width = max(traj.width for traj in trajectories)

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        if all(tensor.shape[1] == 1 for tensor in tensors):
            return torch.cat(list(tensors))
        wide = [x.expand(-1, width) if x.shape[1] == 1 else nn.functional.pad(x, (0, width - x.shape[1])) for x in tensors]
        return torch.cat(wide)

    channels = {name: [part[name] for part in parts] for name in parts[0]}
    return {
        name: Channel(joined([c.value for c in given]), joined([c.valid for c in given]), merge_reasons(given))
        for name, given in channels.items()
    }


def merge_reasons(channels: Sequence[Channel]) -> dict[int, str]:
    """The reasons of several channels by trajectory id, each said once."""
    merged: dict[int, str] = {}
    for channel in channels:
        for id, reason in channel.reasons.items():
            known = merged.get(id)
            merged[id] = reason if known is None or known == reason else f"{known}; {reason}"
    return merged


def checked_rewards(part: str, rewards: Any, traj: Trajectories, *, passed: Rewards | None = None) -> Rewards:
    """The rewards that `part` gave, or an error that names the part; what is in `passed` was checked before, and is not again."""
    if not isinstance(rewards, dict):
        raise TypeError(f"{part}: must give rewards as a dict of channels, gave {type(rewards).__name__}")
    for name, channel in rewards.items():
        if passed is None or passed.get(name) is not channel:
            checked(part, channel, traj, name)
    return dict(rewards)


def checked(part: str, channel: Any, traj: Trajectories, name: str | None = None) -> Channel:
    """The channel that `part` gave; TypeError or ValueError for wrong types or shapes, NonFiniteError for NaN where valid."""
    # Wrappers of environments come here at every step, with a few rows: what is right is seen to be right in a few operations.
    if isinstance(channel, Channel):
        value, valid = channel.value, channel.valid
        (n, width), given, known = traj.mask.shape, value.shape, valid.shape
        right = len(given) == len(known) == 2 and given[0] == known[0] == n and given[1] in (1, width) and known[1] in (1, width)
        if right and value.is_floating_point() and valid.dtype == torch.bool and math.isfinite(value.detach().sum().item()):
            return channel
    part = part if name is None else f"{part}, channel {name!r}"
    if not isinstance(channel, Channel):
        raise TypeError(f"{part}: must give a Channel, gave {type(channel).__name__}")
    value, valid = channel.value, channel.valid
    shapes = ((len(traj), 1), (len(traj), traj.width))
    if tuple(value.shape) not in shapes or tuple(valid.shape) not in shapes:
        raise ValueError(
            f"{part}: value and valid must be [N, T] = {list(shapes[1])} or [N, 1], "
            f"gave {list(value.shape)} and {list(valid.shape)}"
        )
    if not value.is_floating_point() or valid.dtype != torch.bool:
        raise TypeError(f"{part}: value must be floating and valid bool, gave {value.dtype} and {valid.dtype}")
    bad = ~torch.isfinite(value) & valid & (traj.exists if max(value.shape[1], valid.shape[1]) > 1 else True)
    if bad.any():
        row, position = bad.nonzero()[0].tolist()
        raise NonFiniteError(part, int(traj.id[row]), float(value[row, min(position, value.shape[1] - 1)]))
    return channel


def _along(name: str, channel: Channel, path: Sequence[Transform], traj: Trajectories) -> Channel:
    for transform in path:
        channel = checked(f"{name}: {part_name(transform)}", transform(channel, traj), traj)
    return channel


def _pays(transform: Transform) -> bool:
    """Whether what a transform gives is still a reward: shapings do, and credits that say so."""
    record = getattr(transform.func if isinstance(transform, functools.partial) else transform, "__method__", None)
    return record is not None and (record.pays or record.kind == "shaping")
