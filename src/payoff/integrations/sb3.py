"""Stable-Baselines3 trains on rewards and credits of payoff, itself unchanged.

`RewardVecEnv` pays what a signal says, `RewardLog` writes it to SB3's logger, `CreditBuffer` weighs actions by any credit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from payoff.advantages.baselines import subtract_values
from payoff.contents import part_name, sees
from payoff.credit.returns import lambda_return
from payoff.integrations.gymnasium import OnlineReward, Pay, Payment, RewardWrapper, anyone_owes
from payoff.pipeline import Signal, Transform, checked
from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids


class RewardVecEnv(VecEnvWrapper):
    """SB3's environments, paid by a signal or chain; see `OnlineReward` for the options.

    What the environments pay themselves is recorded, not paid: wrap them in a `Monitor` first, and `rollout/ep_rew_mean` goes on
    telling their own return. Each info carries "rewards" by channel and "environment_reward", at an episode's end also
    "episode_rewards" with their sums, and "rewards_unknown" where a channel had no verdict.
    The state an episode ended in is SB3's "terminal_observation", never the first of the next episode.
    With pay="rollout" nothing of this is in the infos, and the model needs a `CreditBuffer` that is connected (`connect`).
    """

    def __init__(
        self,
        venv: VecEnv,
        signal: Signal,
        *,
        weights: Mapping[str, float] | None = None,
        pay: Pay = "step",
        learn_every: int = 0,
    ) -> None:
        super().__init__(venv)
        self.online = OnlineReward(
            signal, venv.observation_space, venv.action_space, venv.num_envs, weights=weights, pay=pay, learn_every=learn_every
        )
        self._taken = np.zeros(0)
        self._sums: dict[str, list[float]] = {}

    def reset(self) -> Any:
        """As the wrapped environments' own."""
        observations = self.venv.reset()
        self.online.begin(slice(None), _rows(observations, self.num_envs))
        self._sums = {}
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions and pass them on."""
        self._taken = actions
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        """As the wrapped environments' own, with other rewards."""
        first, rewards, dones, infos = self.venv.step_wait()
        true, finished, cut = _rows(first, self.num_envs), dones, dones
        ended: list[int] = dones.nonzero()[0].tolist()
        if ended:
            true, cut = list(true), np.zeros_like(dones)
            for i in ended:
                true[i], cut[i] = infos[i]["terminal_observation"], infos[i].get("TimeLimit.truncated", False)
            finished = dones & ~cut
        paid = self.online.step(self._taken, true, rewards, finished, cut)
        if ended:
            self.online.begin(ended, [_rows(first, self.num_envs)[i] for i in ended])
        if self.online.pay != "rollout":
            self._tell(paid, rewards, infos, ended)
        return first, paid.total, dones, infos

    def _tell(self, paid: Payment, rewards: np.ndarray, infos: Sequence[dict[str, Any]], ended: Sequence[int]) -> None:
        """Write what was paid into the infos."""
        told = {name: value.tolist() for name, value in paid.channels.items()}
        own = rewards.tolist()
        names = tuple(told)
        told["environment_reward"] = own
        for info, *of_channels, of_environment in zip(infos, *told.values()):
            info["rewards"] = dict(zip(names, of_channels))
            info["environment_reward"] = of_environment
        for name, values in told.items():
            self._sums[name] = [*map(add, self._sums[name], values)] if name in self._sums else values
        for name, lanes in paid.unknown.items():
            for i in lanes.nonzero()[0].tolist():
                infos[i].setdefault("rewards_unknown", []).append(name)
        for i in ended:
            infos[i]["episode_rewards"] = {name: values[i] for name, values in self._sums.items()}
            for values in self._sums.values():
                values[i] = 0.0


class Payer(NamedTuple):
    """Who pays in SB3's environments: with which weights, when, and how to ask what is owed where it pays by the rollout."""

    weights: Mapping[str, float] | None
    pay: Pay
    settle: Callable[[], Payment]


def payer(env: VecEnv) -> Payer | None:
    """The `RewardVecEnv` among these wrappers, or the `RewardWrapper`s inside every environment; None where there is neither.

    Raises ValueError where only some of the environments pay by the rollout.
    """
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, RewardVecEnv):
            return Payer(env.online.weights, env.online.pay, env.online.settle)
        env = env.venv
    wrapped = [i for i, inside in enumerate(env.env_is_wrapped(RewardWrapper)) if inside]
    if not wrapped:
        return None
    pays = env.get_attr("pay", wrapped)
    if "rollout" in pays and (len(wrapped) < env.num_envs or len(set(pays)) > 1):
        raise ValueError("payer: some of the environments pay by the rollout and some do not")
    return Payer(env.get_attr("weights", wrapped[0])[0], pays[0], partial(_settled_lanes, env))


def _settled_lanes(env: VecEnv) -> Payment:
    """What every environment owes for its own steps, as `OnlineReward.settle` has it: step by step, environment by environment.

    Those of this process that share one signal ask it once.
    """
    if isinstance(env, DummyVecEnv):
        first, *others = env.get_attr("online")
        if all(online.signal is first.signal and online.weights == first.weights for online in others):
            return first.settle_with(others)
    lanes: list[Payment] = env.env_method("settle")
    together = lambda columns: np.stack(columns, 1).ravel()
    channels = {name: together([lane.channels[name] for lane in lanes]) for name in lanes[0].channels}
    known = lambda lane: np.zeros(len(lane.total), dtype=bool)
    names = dict.fromkeys(name for lane in lanes for name in lane.unknown)
    unknown = {name: together([lane.unknown.get(name, known(lane)) for lane in lanes]) for name in names}
    return Payment(together([lane.total for lane in lanes]), channels, unknown)


def connect(model: BaseAlgorithm) -> Payer | None:
    """Who pays in the model's environments; where that is by the rollout, its `CreditBuffer` is told whom to ask.

    Our callbacks do this whenever training starts; without any of them it is called once, and again after loading or `set_env`.
    Raises ValueError where the environments pay by the rollout and the model has no such buffer: it would train on rewards of 0.
    """
    env, buffer = model.get_env(), getattr(model, "rollout_buffer", None)
    paying = None if env is None else payer(env)
    by_rollout = paying is not None and paying.pay == "rollout"
    if by_rollout and not isinstance(buffer, _Credited):
        allowed = "let them pay by the step"
        if buffer is not None:
            allowed = f"give it rollout_buffer_class=CreditBuffer (DictCreditBuffer for dict observations), or {allowed}"
        raise ValueError(
            f"the environments pay by the rollout, and {type(model).__name__} has no buffer that asks for it: {allowed}"
        )
    if isinstance(buffer, _Credited):
        buffer.settle = paying.settle if paying is not None and by_rollout else None
    return paying


class RewardLog(BaseCallback):
    """Write to SB3's logger what each channel paid in the episodes that ended, as reward/CHANNEL, and how often one was unknown.

    Of environments that pay by the rollout, to which it connects the model: the mean over the rollout's steps, as
    reward_per_step/CHANNEL.
    """

    _told = _unknown = 0  # steps of this rollout, one for each environment

    def _on_training_start(self) -> None:
        connect(self.model)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        if "rewards" in infos[0]:
            self._told += len(infos)
            self._unknown += sum("rewards_unknown" in info for info in infos)
        for info in infos:
            if "episode_rewards" in info:
                for name, value in info["episode_rewards"].items():
                    self.logger.record_mean(f"reward/{name}", value)
        return True

    def _on_rollout_end(self) -> None:
        if self._told:
            self.logger.record_mean("reward/unknown", self._unknown / self._told)
            self._told = self._unknown = 0
        for name, value in getattr(self.locals.get("rollout_buffer"), "paid", {}).items():
            self.logger.record(f"reward_per_step/{name}", value)


class _Credited:
    """The part of a rollout buffer that turns rewards into advantages and returns."""

    def __init__(
        self,
        *positional: Any,
        credit: Sequence[Transform] | None = None,
        returns: Sequence[Transform] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*positional, **options)
        mixture = partial(lambda_return, discount=self.gamma, trace=self.gae_lambda)  # type: ignore[attr-defined]
        self.credit: list[Transform] = [mixture, subtract_values] if credit is None else list(credit)
        self.settle: Callable[[], Payment] | None = None
        self.paid = dict[str, float]()
        self.critic_target = None if returns is None else list(returns)
        if grouped := [part_name(part) for part in (*self.credit, *(self.critic_target or ())) if sees(part) == "group"]:
            raise ValueError(
                f"CreditBuffer: {grouped[0]} compares rollouts of the same start, and SB3's episodes have no common start"
            )

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Advantages along `credit`; the critic's targets along `returns`, or as SB3 has them: advantage + value."""
        if self.settle is not None:
            settled = self.settle()
            if len(settled.total) != self.rewards.size:  # type: ignore[attr-defined,has-type]
                raise ValueError(
                    f"CreditBuffer: the buffer holds {self.rewards.size} steps, and its environment was stepped "  # type: ignore[attr-defined,has-type]
                    f"{len(settled.total)} times since; evaluate on another one"
                )
            self.rewards += settled.total.reshape(self.rewards.shape)  # type: ignore[attr-defined,has-type]
            self.paid = {name: float(value.mean()) for name, value in settled.channels.items()}
        elif anyone_owes(self.buffer_size):  # type: ignore[attr-defined]
            raise ValueError(
                "CreditBuffer: environments pay by the rollout and nobody is told to ask them; call connect(model), or give "
                "learn a RewardLog as a callback"
            )
        traj, place = self.trajectories(last_values, dones)
        known = torch.ones(len(traj), 1, dtype=torch.bool)
        paid = Channel(traj.extras["environment_reward"], known)
        self.advantages = self._along(self.credit, paid, traj, place)
        if self.critic_target is None:
            self.returns = self.advantages + self.values  # type: ignore[attr-defined]
        else:
            self.returns = self._along(self.critic_target, paid, traj, place)

    def trajectories(self, last_values: torch.Tensor, dones: np.ndarray) -> tuple[Trajectories, tuple[torch.Tensor, torch.Tensor]]:
        """What the buffer holds, one row per episode or part of one; and the row and position of each entry, as [envs, steps].

        extras["environment_reward"] is what SB3 stored, extras["values"] the critic's. Where a time limit cut an episode within the
        buffer SB3 has already added discount * value to its last reward, so such a row counts as finished; a row that the
        buffer's own end cuts is truncated and has the value of the state it stands in.
        """
        size, count = self.rewards.shape  # type: ignore[attr-defined,has-type]
        first = torch.from_numpy(self.episode_starts).T > 0  # type: ignore[attr-defined]
        first = torch.cat([torch.ones(count, 1, dtype=torch.bool), first[:, 1:]], 1)
        row = first.flatten().cumsum(0).reshape(count, size) - 1
        length = torch.bincount(row.flatten())
        at = torch.arange(size).expand(count, size)
        at = at - torch.where(first, at, 0).cummax(1).values
        n, width = len(length), int(length.max())

        def laid(x: np.ndarray, extra: int = 0) -> torch.Tensor:
            entries = torch.from_numpy(x).swapaxes(0, 1)
            return entries.new_zeros(n, width + extra, *entries.shape[2:]).index_put((row, at), entries)

        last, over = row[:, -1], torch.from_numpy(np.asarray(dones).astype(bool))
        values = laid(self.values, 1)  # type: ignore[attr-defined]
        values[last, length[last]] = torch.where(over, 0, last_values.detach().cpu().flatten().to(values.dtype))
        stop = torch.full((n,), int(StopReason.finished)).index_put((last,), torch.where(over, 0, int(StopReason.truncated)))
        position = torch.arange(width).expand(n, width)
        here = position < length[:, None]
        traj = Trajectories(
            mask=here,
            length=length,
            group=fresh_ids(n),
            step=torch.where(here, position, -1).int(),
            stop=stop,
            actions=laid(self.actions),  # type: ignore[attr-defined]
            logp={"old": laid(self.log_probs)},  # type: ignore[attr-defined]
            extras={"environment_reward": laid(self.rewards), "values": values},  # type: ignore[attr-defined,has-type]
        )
        return traj, (row, at)

    def _along(
        self, path: Sequence[Transform], channel: Channel, traj: Trajectories, place: tuple[torch.Tensor, torch.Tensor]
    ) -> Any:
        for transform in path:
            channel = checked(part_name(transform), transform(channel, traj), traj)
        weight = torch.where(channel.valid, channel.value, 0).expand(traj.mask.shape)
        return weight[place].T.contiguous().numpy().astype(np.float32)


class CreditBuffer(_Credited, RolloutBuffer):
    """A rollout buffer with another credit: `rollout_buffer_class=CreditBuffer, rollout_buffer_kwargs={"credit": [...]}`.

    credit:  transforms from rewards to advantages, in order; None: SB3's own (lambda-return, then less the values)
    returns: transforms to the critic's target; None: advantage + value, which is right only for credits less the values

    Where the environments pay by the rollout, its steps are paid here, all at once (see `connect`).

    An action without verdict gets advantage 0. Raises ValueError for a part that compares rollouts of the same start.
    """


class DictCreditBuffer(_Credited, DictRolloutBuffer):
    """`CreditBuffer` for environments whose observations are dicts."""


def _rows(observations: Any, count: int) -> Any:
    """One observation per lane: SB3 stacks the parts of a dict instead."""
    if isinstance(observations, np.ndarray) or not isinstance(observations, Mapping):  # the first is known at once
        return observations
    return [{key: part[i] for key, part in observations.items()} for i in range(count)]
