"""Rewards of payoff inside a gymnasium environment: `RewardWrapper` pays what a signal or chain says, in place of the environment.

`OnlineReward` does the work for any number of lanes at once and knows nothing of wrappers: SB3's is made of it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch

from payoff.contents import learners
from payoff.pipeline import Signal
from payoff.policies.spaces import ObservationVector
from payoff.trajectories import Rewards, StopReason, Trajectories, concatenate, fresh_ids, outcome

Pay = Literal["step", "episode", "rollout"]


class Payment(NamedTuple):
    """What n lanes are paid for one action: in all, by channel (0 where unknown), and where a channel was unknown; each [n]."""

    total: np.ndarray
    channels: Mapping[str, np.ndarray]
    unknown: Mapping[str, np.ndarray]


class OnlineReward:
    """A signal that pays n environments while they run.

    weights:     how much of each channel is paid; a channel without a weight is only told. None: every channel once
    pay:         "step": after every action the signal sees that transition alone, a trajectory of one action for each lane (its
                 last state is truncated unless the episode finished, so potentials telescope). Right for whatever pays an action
                 by its state, action and next state.
                 "episode": when an episode ends the signal sees it whole and all that it says is paid with the last action: right
                 for every signal, and what comes before the end is paid nothing
                 "rollout": as "step", but the signal sees the transitions of many steps at once when `settle` is called; until then
                 everything is paid 0. For trainers that look at rewards once a rollout: it costs hardly anything
    learn_every: after so many actions in every lane, the learning parts of the signal learn from what was seen since (0: never)

    What is unknown pays 0 and is told as unknown. In "step" mode the tensors of the trajectories are written over at the next
    action: a signal that remembers them must copy. Observations are as of `ObservationVector`, in extras["observations"]; the
    environment's own reward is in extras["environment_reward"].

    Raises ValueError for another `pay`, and at the first payment KeyError for a weight of a channel that the signal does not give.
    """

    def __init__(
        self,
        signal: Signal,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        lanes: int,
        *,
        weights: Mapping[str, float] | None = None,
        pay: Pay = "step",
        learn_every: int = 0,
    ) -> None:
        if pay not in ("step", "episode", "rollout"):
            raise ValueError(f'OnlineReward: pay must be "step", "episode" or "rollout", got {pay!r}')
        self.signal, self.weights, self.pay, self.learn_every = signal, weights, pay, learn_every
        self.vector, self.count = ObservationVector(observation_space), lanes
        self._learning = learners(signal) if learn_every else []
        self._seen: list[Trajectories] = []
        self._open: list[tuple[np.ndarray, ...]] = []
        self._steps = 0
        action = np.asarray(action_space.sample())
        # One transition per lane, in tensors that share the memory of these arrays: writing an array is writing the trajectory.
        self._now = np.zeros((lanes, self.vector.size), dtype=np.float32)
        self._observations = np.zeros((lanes, 2, self.vector.size), dtype=np.float32)
        self._actions = np.zeros((lanes, 1, *action.shape), dtype=action.dtype)
        self._reward = np.zeros((lanes, 1), dtype=np.float32)
        self._stop = np.zeros(lanes, dtype=np.int64)
        self._before, self._after = self._observations[:, 0], self._observations[:, 1]
        self._taken, self._paid = self._actions[:, 0], self._reward[:, 0]
        self._transition = _as_trajectories(
            self._observations, self._actions, self._reward, self._stop, np.ones(lanes, dtype=np.int64)
        )
        self._history: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(lanes)]

    def begin(self, lanes: Sequence[int] | slice, observations: Any) -> None:
        """Episodes begin in these lanes with these observations."""
        first = self.vector(observations)
        if isinstance(lanes, slice):
            self._now = first.copy()
        else:
            self._now = self._now.copy()  # what is still open refers to the old one
            self._now[lanes] = first
        for history in self._history[lanes] if isinstance(lanes, slice) else (self._history[i] for i in lanes):
            history.clear()

    def step(
        self, actions: np.ndarray, observations: Any, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> Payment:
        """What every lane is paid for the action it took; `observations` are the true next ones, before any reset."""
        before, self._now = self._now, self.vector(observations)
        if self.pay == "rollout":
            self._open.append((before, self._now, actions, rewards, terminated))
            return Payment(np.zeros(self.count, dtype=np.float32), {}, {})
        self._before[...], self._after[...] = before, self._now
        self._taken[...], self._paid[...] = actions, rewards
        self._stop[...] = ~terminated  # StopReason: finished is 0, truncated 1
        if self.pay == "step":
            payment = self._pay(self.signal(self._transition), self._transition, None)
            if self._learning:
                self._seen.append(_copied(self._transition))
        else:
            payment = self._pay_episodes(terminated | truncated)
        self._steps += 1
        if self._learning and self._steps % self.learn_every == 0 and self._seen:
            self._learn()
        return payment

    def settle(self) -> Payment:
        """With pay "rollout": what every step since the last call is paid, [steps * lanes], step by step; learning parts learn."""
        if not self._open:
            raise ValueError("OnlineReward.settle: there is nothing to settle")
        before, after, actions, reward, terminated = (np.concatenate(column) for column in zip(*self._open))
        self._open = []
        stop = np.where(terminated, StopReason.finished, StopReason.truncated).astype(np.int64)
        reward = reward.astype(np.float32)[:, None]
        traj = _as_trajectories(np.stack([before, after], 1), actions[:, None], reward, stop, np.ones(len(stop), dtype=np.int64))
        rewards = self.signal(traj)
        payment = self._pay(rewards, traj, None)
        for part in self._learning:
            part.learn(traj, rewards)
        return payment

    def _pay_episodes(self, over: np.ndarray) -> Payment:
        for i, history in enumerate(self._history):
            history.append((self._observations[i, 0].copy(), self._actions[i, 0].copy(), float(self._reward[i, 0])))
        ended = np.flatnonzero(over)
        if not len(ended):
            return Payment(np.zeros(self.count, dtype=np.float32), {}, {})
        length = np.array([len(self._history[i]) for i in ended])
        shape = (len(ended), int(length.max()))
        observations = np.zeros((shape[0], shape[1] + 1, self.vector.size), dtype=np.float32)
        actions, reward = np.zeros((*shape, *self._actions.shape[2:]), dtype=self._actions.dtype), np.zeros(shape, dtype=np.float32)
        for row, i in enumerate(ended.tolist()):
            for t, (seen, action, paid) in enumerate(self._history[i]):
                observations[row, t], actions[row, t], reward[row, t] = seen, action, paid
            observations[row, length[row]] = self._observations[i, 1]
            self._history[i].clear()
        traj = _as_trajectories(observations, actions, reward, self._stop[ended].copy(), length)
        if self._learning:
            self._seen.append(traj)
        return self._pay(self.signal(traj), traj, ended)

    def _pay(self, rewards: Rewards, traj: Trajectories, lanes: np.ndarray | None) -> Payment:
        """What these rewards pay; `lanes`: where the rows belong, None: one row for each, in order."""
        if self.weights is not None and (lost := [name for name in self.weights if name not in rewards]):
            raise KeyError(f"OnlineReward: there is a weight for {lost[0]!r}, and the signal gives {sorted(rewards)}")
        total: np.ndarray | None = None
        channels, unknown = {}, {}
        for name, channel in rewards.items():
            if traj.width == 1:  # the transition exists, so there is nothing to leave out
                value, valid = channel.value.detach().numpy()[:, 0], channel.valid.numpy()[:, 0]
            else:
                value, valid = (x.detach().numpy() for x in outcome(channel, traj))
            told = value.astype(np.float32)
            # The bytes are many times faster than `all` on the few lanes that there are at every step.
            if channel.valid is not traj.exists and 0 in valid.tobytes():
                told[~valid] = 0
                unknown[name] = ~valid if lanes is None else _spread(~valid, lanes, self.count)
            channels[name] = told = told if lanes is None else _spread(told, lanes, self.count)
            weight = 1.0 if self.weights is None else self.weights.get(name, 0.0)
            if weight:
                part = weight * told  # a copy: what is paid may be changed by the trainer
                total = part if total is None else total + part
        if total is None:
            total = np.zeros(len(traj) if lanes is None else self.count, dtype=np.float32)
        return Payment(total, channels, unknown)

    def _learn(self) -> None:
        traj = concatenate(self._seen)
        self._seen = []
        rewards = self.signal(traj)
        for part in self._learning:
            part.learn(traj, rewards)


class RewardWrapper(gymnasium.Wrapper):
    """An environment that pays what a signal, or a chain of one and shapings, says; see `OnlineReward` for the options.

    info["rewards"] is what each channel paid for this action, info["environment_reward"] what the environment would have paid,
    info["rewards_unknown"] names the channels without verdict. With the last action of an episode info["episode_rewards"] has the
    sums of both.
    Observations, termination and truncation pass unchanged.

    >>> from payoff.signals.environment import environment_reward
    >>> env = RewardWrapper(gymnasium.make("CartPole-v1"), environment_reward, weights={"environment": 0.5})
    >>> _ = env.reset(seed=0)
    >>> env.step(0)[1], env.step(1)[4]["rewards"]
    (0.5, {'environment': 1.0})
    """

    def __init__(
        self,
        env: gymnasium.Env,
        signal: Signal,
        *,
        weights: Mapping[str, float] | None = None,
        pay: Pay = "step",
        learn_every: int = 0,
    ) -> None:
        super().__init__(env)
        if pay == "rollout":
            raise ValueError('RewardWrapper: pay "rollout" needs a trainer that settles, as SB3 with a CreditBuffer does')
        options = {"weights": weights, "pay": pay, "learn_every": learn_every}
        self.online = OnlineReward(signal, env.observation_space, env.action_space, 1, **options)  # type: ignore[arg-type]
        self._sums: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.online.begin(slice(None), [observation])
        self._sums = {}
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """As the environment's own, with another reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        paid = self.online.step(
            np.asarray(action)[None], [observation], np.array([reward]), np.array([terminated]), np.array([truncated])
        )
        told = {name: float(value[0]) for name, value in paid.channels.items()}
        info = {**info, "rewards": told, "environment_reward": float(reward)}
        if unknown := [name for name, lanes in paid.unknown.items() if lanes[0]]:
            info["rewards_unknown"] = unknown
        for name, value in (*told.items(), ("environment_reward", float(reward))):
            self._sums[name] = self._sums.get(name, 0.0) + value
        if terminated or truncated:
            info["episode_rewards"] = dict(self._sums)
        return observation, float(paid.total[0]), terminated, truncated, info


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


def _as_trajectories(
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


def _spread(x: np.ndarray, lanes: np.ndarray, count: int) -> np.ndarray:
    """These numbers at their lanes, 0 in the others."""
    every = np.zeros(count, dtype=x.dtype)
    every[lanes] = x
    return every


def _copied(traj: Trajectories) -> Trajectories:
    """These trajectories with memory of their own."""
    arrays = (traj.extras["observations"], traj.actions, traj.extras["environment_reward"], traj.stop, traj.length)
    return _as_trajectories(*(tensor.numpy().copy() for tensor in arrays))
