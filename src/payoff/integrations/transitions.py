"""A signal or chain asked about one transition in every lane, as wrappers of environments do at every step.

A few numbers at a time, what costs is the number of operations. So a signal is taken apart once, and each part that knows how is
asked in plain arrays; every other part gets trajectories of one action, as it would from a whole batch. What is paid is the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from payoff.contents import part_name
from payoff.pipeline import Chain, Join, Shaping, Signal, checked, checked_rewards
from payoff.shaping.potentials import StatePotential, potential_shaping
from payoff.signals.environment import environment_reward
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids

Given = np.ndarray | Channel  # what one channel pays each lane: numbers [n], all of them known, or a channel [n, 1]
Ask = Callable[["Transitions"], dict[str, Given]]
Shape = Callable[[dict[str, Given], "Transitions"], dict[str, Given]]


class Transitions:
    """What every lane just did, n at a time.

    before, after: observations [n, D]; reward: the environment's own [n]; finished: where the episode ended for good [n]
    traj:          the same as trajectories of one action, "truncated" unless finished; written when first asked for, in memory
                   that the next transition is written into
    """

    before: np.ndarray
    after: np.ndarray
    actions: np.ndarray
    reward: np.ndarray
    finished: np.ndarray

    def __init__(self, lanes: int, size: int, action: np.ndarray) -> None:
        # One transition per lane, in tensors that share the memory of these arrays: writing an array is writing the trajectory.
        self._observations = np.zeros((lanes, 2, size), dtype=np.float32)
        self._actions = np.zeros((lanes, 1, *action.shape), dtype=action.dtype)
        self._reward, self._stop = np.zeros((lanes, 1), dtype=np.float32), np.zeros(lanes, dtype=np.int64)
        self._memory = (self._observations[:, 0], self._observations[:, 1], self._actions[:, 0], self._reward[:, 0], self._stop)
        ones = np.ones(lanes, dtype=np.int64)
        self._traj = as_trajectories(self._observations, self._actions, self._reward, self._stop, ones)
        self._written = self._all_open = False

    def happen(
        self, before: np.ndarray, after: np.ndarray, actions: np.ndarray, reward: np.ndarray, finished: np.ndarray
    ) -> Transitions:
        """These transitions instead of the last ones."""
        self.before, self.after, self.actions, self.reward, self.finished = before, after, actions, reward, finished
        self._written = False
        return self

    @property
    def some_finished(self) -> bool:
        return 1 in self.finished.tobytes()  # many times faster than `any` on a few lanes

    @property
    def traj(self) -> Trajectories:
        if not self._written:
            before, after, actions, reward, stop = self._memory
            before[...], after[...], actions[...], reward[...] = self.before, self.after, self.actions, self.reward
            if self.some_finished or not self._all_open:
                np.logical_not(self.finished, out=stop)  # StopReason: finished is 0, truncated 1
                self._all_open = not self.some_finished
            self._written = True
        return self._traj


@runtime_checkable
class OfTransitions(Protocol):
    """A part that can be asked about transitions in plain arrays, to the same effect as about trajectories of one action."""

    def of_transitions(self) -> Callable[[Any], dict[str, np.ndarray]] | None:
        """From `Transitions` to numbers [n] by channel, all known; None where these options have no such form."""


def asked_by_transition(signal: Signal) -> Ask:
    """The signal as a function of `Transitions`: of the parts of chains and joins, those that can are asked in plain arrays.

    A channel is an array where all of it is known. Raises what the signal itself would.
    """
    ask, known = _asked(signal, watched=True)
    if not known or type(signal) not in (Chain, Join):
        return ask
    quick, _ = _asked(signal, watched=False)

    def watching_the_end(now: Transitions) -> dict[str, Given]:
        # No part that is known here makes a number finite that was not, nor does it harm to ask it twice.
        given = quick(now)
        for numbers in given.values():
            if not math.isfinite(sum(numbers.tolist())):  # type: ignore[union-attr]  # on a few lanes the quickest way to look
                return ask(now)
        return given

    return watching_the_end


def _asked(signal: Signal, watched: bool) -> tuple[Ask, bool]:
    """How to ask, what each part gives being looked at at once where `watched`; and whether everything inside is known here."""
    if type(signal) is Chain:
        return _chain(*signal.parts, watched=watched)
    if type(signal) is Join:
        return _join(signal.parts, watched)
    function, options = _taken_apart(signal)
    if function is environment_reward and set(options) <= {"scale"}:
        return functools.partial(_environment_reward, **options), True
    if isinstance(signal, OfTransitions) and (form := signal.of_transitions()) is not None:
        return form, True
    return lambda now: signal(now.traj), False  # type: ignore[return-value]


def _chain(signal: Signal, *shapings: Shaping, watched: bool) -> tuple[Ask, bool]:
    first, known = _asked(signal, watched)
    bare = type(signal) not in (Chain, Join)  # those have looked at every channel
    rest = [(shaping, *_shaping(shaping)) for shaping in shapings]

    def ask(now: Transitions) -> dict[str, Given]:
        given = first(now)
        if bare and watched:
            _check(signal, given, now)
        for shaping, shape, _ in rest:
            before, given = given, shape(given, now)
            if watched:
                _check(shaping, given, now, passed=before)
        return given

    return ask, known and all(simple for _, _, simple in rest)


def _join(signals: Mapping[str, Signal], watched: bool) -> tuple[Ask, bool]:
    asks = [(name, signal, *_asked(signal, watched)) for name, signal in signals.items()]

    def ask(now: Transitions) -> dict[str, Given]:
        every: dict[str, Given] = {}
        for name, signal, asked, _ in asks:
            given = asked(now)
            if watched:
                _check(signal, given, now, name=name)
            for inner, numbers in given.items():
                full = name if len(given) == 1 else f"{name}/{inner}"
                if full in every:
                    raise ValueError(f"join: two signals give the channel {full!r}")
                every[full] = numbers
        return every

    return ask, all(known for *_, known in asks)


def _check(part: Any, given: Any, now: Transitions, *, name: str = "", passed: Mapping[str, Given] | None = None) -> None:
    """What `checked_rewards` refuses is refused, in its words."""
    label = lambda: f"{name} ({part_name(part)})" if name else part_name(part)
    if type(given) is not dict:
        given = checked_rewards(label(), given, now.traj)
    for channel, numbers in given.items():
        if passed is not None and passed.get(channel) is numbers:
            continue
        if type(numbers) is np.ndarray:
            if math.isfinite(sum(numbers.tolist())):
                continue
            numbers = as_channel(numbers, now.traj)
        checked(label(), numbers, now.traj, channel)


def _environment_reward(now: Transitions, *, scale: float = 1.0) -> dict[str, Given]:
    return {"environment": now.reward if scale == 1 else scale * now.reward}


def _shaping(shaping: Shaping) -> tuple[Shape, bool]:
    """How to apply it, and whether it is known here."""
    function, options = _taken_apart(shaping)
    if function is potential_shaping and set(options) <= {"potential", "discount", "weight", "into"}:
        potential, discount = options.get("potential"), options.get("discount", 1.0)
        if isinstance(potential, StatePotential) and potential.of == "observations" and 0 <= discount <= 1:
            return functools.partial(_state_potential, _Remembered(potential), **options), True
        if callable(potential) and 0 <= discount <= 1:
            return functools.partial(_potential, **options), True
    return functools.partial(_through_channels, shaping), False


def _potential(
    given: dict[str, Given],
    now: Transitions,
    *,
    potential: Callable[[Trajectories], torch.Tensor],
    discount: float = 1.0,
    weight: float = 1.0,
    into: str | None = None,
) -> dict[str, Given]:
    score = potential(now.traj)
    score = score.detach() if score.requires_grad else score
    old = None if into is None else given.get(into)
    plain = score.shape == (len(now.after), 2) and score.dtype in (torch.float32, torch.float64)
    if not plain or (into is not None and type(old) is not np.ndarray):
        shaping = functools.partial(potential_shaping, potential=lambda traj: score, discount=discount, weight=weight, into=into)
        return _through_channels(shaping, given, now)
    numbers = score.numpy()
    return _with_gain(given, now, numbers[:, 0], numbers[:, 1], discount, weight, into)


class _Remembered:
    """The potentials of the states before a transition: mostly those after the last one."""

    def __init__(self, potential: StatePotential) -> None:
        self.potential = potential
        self.states, self.scores = np.zeros(0), np.zeros(0)

    def __call__(self, now: Transitions) -> tuple[np.ndarray, np.ndarray]:
        before = self.scores if now.before is self.states else self.potential.of_rows(now.before)
        self.states, self.scores = now.after, self.potential.of_rows(now.after)
        return before, self.scores


def _state_potential(
    remembered: _Remembered,
    given: dict[str, Given],
    now: Transitions,
    *,
    potential: StatePotential,
    discount: float = 1.0,
    weight: float = 1.0,
    into: str | None = None,
) -> dict[str, Given]:
    if into is not None and type(given.get(into)) is not np.ndarray:
        return _potential(given, now, potential=potential, discount=discount, weight=weight, into=into)
    return _with_gain(given, now, *remembered(now), discount, weight, into)


def _with_gain(
    given: dict[str, Given],
    now: Transitions,
    before: np.ndarray,
    after: np.ndarray,
    discount: float,
    weight: float,
    into: str | None,
) -> dict[str, Given]:
    gain = discount * after
    if now.some_finished:
        gain[now.finished] = 0
    gain -= before
    if weight != 1:
        gain *= weight
    if into is None:
        return {**given, "potential": gain}
    old = given[into]
    return {**given, into: old + gain.astype(old.dtype, copy=False)}  # type: ignore[union-attr,operator]


def _through_channels(shaping: Shaping, given: dict[str, Given], now: Transitions) -> dict[str, Given]:
    """Any shaping; what it passes on as it was stays an array."""
    traj = now.traj
    rewards = {name: as_channel(numbers, traj) for name, numbers in given.items()}
    shaped: Any = shaping(dict(rewards), traj)
    if not isinstance(shaped, dict):
        return shaped  # refused by who asked
    return {name: given[name] if rewards.get(name) is channel else channel for name, channel in shaped.items()}


def as_channel(given: Given, traj: Trajectories) -> Channel:
    """These numbers as a channel of trajectories of one action."""
    return Channel(torch.from_numpy(given)[:, None], traj.exists) if isinstance(given, np.ndarray) else given


def _taken_apart(part: Any) -> tuple[Any, dict[str, Any]]:
    """The function and its options; a partial with positional arguments is nothing that is known here."""
    if isinstance(part, functools.partial):
        return (None, {}) if part.args else (part.func, part.keywords)
    return part, {}


class _Items(Sequence[Mapping[str, Any]]):
    """The arrays of each trajectory under the names that graders ask for, made only when one does."""

    def __init__(self, observations: np.ndarray, actions: np.ndarray, reward: np.ndarray, length: np.ndarray) -> None:
        self.observations, self.actions, self.reward, self.length = observations, actions, reward, length

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        n = int(self.length[i])
        return {
            "observations": self.observations[i, : n + 1].copy(),
            "actions": self.actions[i, :n].copy(),
            "environment_rewards": self.reward[i, :n].copy(),
        }

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[i] for i in range(len(self)))


def as_trajectories(
    observations: np.ndarray, actions: np.ndarray, reward: np.ndarray, stop: np.ndarray, length: np.ndarray
) -> Trajectories:
    """Arrays as trajectories that share their memory; every action was the policy's, and a step of its own."""
    n, width = reward.shape
    position, ends = torch.arange(width).expand(n, width), torch.from_numpy(length)
    here = position < ends[:, None]
    return Trajectories(
        mask=here,
        length=ends,
        group=fresh_ids(n),
        step=torch.where(here, position, -1).int(),
        stop=torch.from_numpy(stop),
        actions=torch.from_numpy(actions),
        items=_Items(observations, actions, reward, length),
        extras={"observations": torch.from_numpy(observations), "environment_reward": torch.from_numpy(reward)},
    )


def many_transitions(seen: Sequence[tuple[Any, ...]], action: tuple[int, ...]) -> Trajectories:
    """What happened in many steps, each (before, after, actions, reward, finished), as one batch: step by step, lane by lane.

    action: the shape of one; of a single lane actions, reward and finished may stand without a dimension for it
    """
    before, after, actions, reward, finished = zip(*seen)
    observations = np.stack([np.concatenate(before), np.concatenate(after)], 1)
    stop = np.where(np.asarray(finished).reshape(-1), StopReason.finished, StopReason.truncated).astype(np.int64)
    taken, paid = np.asarray(actions).reshape(-1, 1, *action), np.asarray(reward, dtype=np.float32).reshape(-1, 1)
    return as_trajectories(observations, taken, paid, stop, np.ones(len(stop), dtype=np.int64))
