"""Rewards of payoff inside a gymnasium environment: `RewardWrapper` pays what a signal or chain says, in place of the environment.

`OnlineReward` does the work for any number of lanes at once and knows nothing of wrappers: SB3's is made of it too.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from payoff.contents import learners
from payoff.integrations.transitions import Given, Transitions, as_trajectories, asked_by_transition, many_transitions
from payoff.pipeline import Signal
from payoff.policies.spaces import ObservationVector
from payoff.trajectories import Trajectories, concatenate, outcome

Pay = Literal["step", "episode", "rollout"]
MOST_OWED = 1 << 17  # steps of every lane that may wait to be settled
_OWING: weakref.WeakSet[OnlineReward] = weakref.WeakSet()  # all that pay by the rollout


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
                 everything is paid 0. For trainers that look at rewards once a rollout: it costs hardly anything. After
                 `MOST_OWED` steps that nobody settled `step` raises RuntimeError: somebody trains on rewards of 0
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
        self._seen: list[Trajectories] = []  # whole episodes
        self._open: list[tuple[np.ndarray, ...]] = []  # transitions
        self._steps = 0
        self._now = np.zeros((lanes, self.vector.size), dtype=np.float32)
        self._action = np.asarray(action_space.sample())
        self._transitions = Transitions(lanes, self.vector.size, self._action)
        self._ask = asked_by_transition(signal)
        self._history: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(lanes)]
        if pay == "rollout":
            _OWING.add(self)

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
        if self.pay == "rollout":
            self.owe(actions, observations, rewards, terminated)
            return Payment(np.zeros(self.count, dtype=np.float32), {}, {})
        before, self._now = self._now, self.vector(observations)
        reward = np.asarray(rewards, dtype=np.float32)
        if self.pay == "step":
            payment = self._pay(self._ask(self._transitions.happen(before, self._now, actions, reward, terminated)))
            if self._learning:
                self._open.append((before, self._now, actions.copy(), reward.copy(), terminated.copy()))
        else:
            payment = self._pay_episodes(before, actions, reward, terminated, truncated)
        self._steps += 1
        if self._learning and self._steps % self.learn_every == 0:
            self._learn()
        return payment

    def owe(self, actions: Any, observations: Any, rewards: Any, finished: Any) -> None:
        """With pay "rollout": remember what every lane did; of one lane its action, reward and end may be given bare."""
        if len(self._open) == MOST_OWED:
            raise RuntimeError(
                f'OnlineReward: pay is "rollout", and {MOST_OWED} steps were not settled; in Stable-Baselines3 that takes '
                "rollout_buffer_class=CreditBuffer and connect(model), elsewhere a call of settle() after every rollout"
            )
        before, self._now = self._now, self.vector(observations)
        self._open.append((before, self._now, actions, rewards, finished))

    @property
    def owed(self) -> int:
        """Steps of every lane that wait to be settled."""
        return len(self._open) if self.pay == "rollout" else 0

    def settle(self) -> Payment:
        """With pay "rollout": what every step since the last call is paid, [steps * lanes], step by step; learning parts learn."""
        return self.settle_with([])

    def settle_with(self, others: Sequence[OnlineReward]) -> Payment:
        """What this one's lanes and then those of others with the same signal are paid; it is asked, and learns, once for all.

        Raises ValueError where nothing is owed, or by some for more steps than by others.
        """
        everyone = [self, *others]
        steps = {online.owed for online in everyone}
        if len(steps) > 1:
            raise ValueError(f"OnlineReward.settle_with: some lanes owe {min(steps)} steps and some {max(steps)}")
        if steps == {0}:
            raise ValueError("OnlineReward.settle: there is nothing to settle")
        seen = [transition for at_once in zip(*(online._open for online in everyone)) for transition in at_once]
        traj = many_transitions(seen, self._action.shape)
        for online in everyone:
            online._open = []
        rewards = self.signal(traj)
        payment = self._pay(rewards, traj)
        for part in self._learning:
            part.learn(traj, rewards)
        return payment

    def _pay_episodes(
        self, before: np.ndarray, actions: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> Payment:
        for i, history in enumerate(self._history):
            history.append((before[i].copy(), np.array(actions[i]), float(reward[i])))
        ended = np.flatnonzero(terminated | truncated)
        if not len(ended):
            return Payment(np.zeros(self.count, dtype=np.float32), {}, {})
        length = np.array([len(self._history[i]) for i in ended])
        shape = (len(ended), int(length.max()))
        observations = np.zeros((shape[0], shape[1] + 1, self.vector.size), dtype=np.float32)
        taken = np.zeros((*shape, *self._action.shape), dtype=self._action.dtype)
        paid = np.zeros(shape, dtype=np.float32)
        for row, i in enumerate(ended.tolist()):
            for t, (seen, action, own) in enumerate(self._history[i]):
                observations[row, t], taken[row, t], paid[row, t] = seen, action, own
            observations[row, length[row]] = self._now[i]
            self._history[i].clear()
        traj = as_trajectories(observations, taken, paid, (~terminated[ended]).astype(np.int64), length)
        if self._learning:
            self._seen.append(traj)
        return self._pay(self.signal(traj), traj, ended)

    def _pay(self, given: Mapping[str, Given], traj: Trajectories | None = None, lanes: np.ndarray | None = None) -> Payment:
        """What these rewards pay; traj None: of transitions; `lanes`: where the rows belong, None: one row for each, in order."""
        if self.weights is not None and (lost := [name for name in self.weights if name not in given]):
            raise KeyError(f"OnlineReward: there is a weight for {lost[0]!r}, and the signal gives {sorted(given)}")
        total: np.ndarray | None = None
        channels, unknown = {}, {}
        for name, numbers in given.items():
            if isinstance(numbers, np.ndarray):
                told = numbers if numbers.dtype == np.float32 else numbers.astype(np.float32)
            else:
                if traj is None or traj.width == 1:  # the transition exists, so there is nothing to leave out
                    value, valid = numbers.value.detach().numpy()[:, 0], numbers.valid.numpy()[:, 0]
                else:
                    value, valid = (x.detach().numpy() for x in outcome(numbers, traj))
                told = value.astype(np.float32)
                if 0 in valid.tobytes():  # many times faster than `all` on the few lanes that there are at every step
                    told[~valid] = 0
                    unknown[name] = ~valid if lanes is None else _spread(~valid, lanes, self.count)
            channels[name] = told = told if lanes is None else _spread(told, lanes, self.count)
            weight = 1.0 if self.weights is None else self.weights.get(name, 0.0)
            if weight:
                part = told if weight == 1 else weight * told
                total = part if total is None else total + part
        if total is None:
            total = np.zeros(self.count if traj is None or lanes is not None else len(traj), dtype=np.float32)
        elif any(total is told for told in channels.values()):  # the trainer may change what is paid
            total = total.copy()
        return Payment(total, channels, unknown)

    def _learn(self) -> None:
        if not (self._open or self._seen):
            return
        traj = many_transitions(self._open, self._action.shape) if self.pay == "step" else concatenate(self._seen)
        self._open, self._seen = [], []
        rewards = self.signal(traj)
        for part in self._learning:
            part.learn(traj, rewards)


def anyone_owes(steps: int) -> bool:
    """Whether something in this process that pays by the rollout owes just so many steps."""
    return any(online.owed == steps for online in _OWING)


class RewardWrapper(gymnasium.Wrapper):
    """An environment that pays what a signal, or a chain of one and shapings, says; see `OnlineReward` for the options.

    info["rewards"] is what each channel paid for this action, info["environment_reward"] what the environment would have paid,
    info["rewards_unknown"] names the channels without verdict. With the last action of an episode info["episode_rewards"] has the
    sums of both.
    Observations, termination and truncation pass unchanged.
    With pay="rollout" nothing of this is in info, and whoever trains calls `settle` after every rollout: in Stable-Baselines3
    a connected `CreditBuffer` does.

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
        options = {"weights": weights, "pay": pay, "learn_every": learn_every}
        self.online = OnlineReward(signal, env.observation_space, env.action_space, 1, **options)  # type: ignore[arg-type]
        self._sums: dict[str, float] = {}

    @property
    def pay(self) -> Pay:
        """When this environment pays."""
        return self.online.pay

    @property
    def weights(self) -> Mapping[str, float] | None:
        """How much of each channel is paid; None: every channel once."""
        return self.online.weights

    def settle(self) -> Payment:
        """With pay "rollout": what every step since the last call is paid, [steps]; learning parts learn."""
        return self.online.settle()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.online.begin(slice(None), [observation])
        self._sums = {}
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """As the environment's own, with another reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.online.pay == "rollout":
            self.online.owe(np.array(action), [observation], reward, terminated)
            return observation, 0.0, terminated, truncated, info
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


def _spread(x: np.ndarray, lanes: np.ndarray, count: int) -> np.ndarray:
    """These numbers at their lanes, 0 in the others."""
    every = np.zeros(count, dtype=x.dtype)
    every[lanes] = x
    return every
