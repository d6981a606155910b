"""Stable-Baselines3: alarms while any of its algorithms trains, from the episodes that end and what the algorithm logs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from payoff.audit.alarm_conditions import NAMES, Alarm
from payoff.audit.alarms import Alarms, Thresholds
from payoff.integrations.sb3 import connect

ANY_FALL = Thresholds(fall=0.0)
_log = logging.getLogger(__name__)


class AlarmCallback(BaseCallback):
    """Watches the episodes: `model.learn(..., callback=AlarmCallback(truth="truth"))`.

    truth, checker: keys of `info`; their numbers are summed over an episode. An episode in which the key never stands, or stands
                    with NaN, is left out. Of a `RewardVecEnv`, "environment_reward" is what the environment itself would pay.
    bound:          (lowest, highest) possible reward of an episode; without it saturation is not watched
    episodes:       a row is made when a rollout ends and this many episodes have ended since the last row
    thresholds:     `fall` is 0 by default: returns have no common unit, so any fall that is sure counts
    stop_on:        names of alarms that end training
    tell:           called with every alarm; default: a warning of this module's logger

    A row is the mean over the episodes that ended since the row before. SB3's own `ep_info_buffer` averages over the last hundred
    episodes, and so repeats itself from row to row: a trend test would see trends everywhere. Entropy is that of the latest
    `train/entropy_loss`. There are no groups and no KL from the start here: these alarms are not watched (`alarms.unwatched()`).
    An alarm is logged as alarm/NAME with its severity and kept in `alarms.raised`; its update counts time steps.
    Raises ValueError for episodes below 1 and for a name in stop_on that is no alarm.
    """

    def __init__(
        self,
        *,
        truth: str = "truth",
        checker: str = "checker",
        bound: tuple[float, float] | None = None,
        episodes: int = 4,
        window: int = 32,
        run_length: int = 5000,
        thresholds: Thresholds = ANY_FALL,
        stop_on: Collection[str] = (),
        tell: Callable[[Alarm], None] | None = None,
    ) -> None:
        super().__init__()
        if unknown := sorted(set(stop_on) - set(NAMES)):
            raise ValueError(f"AlarmCallback: {unknown[0]!r} is no alarm; there are {', '.join(NAMES)}")
        if episodes < 1:
            raise ValueError(f"AlarmCallback: episodes must be at least 1, got {episodes}")
        self.alarms = Alarms(
            window=window,
            run_length=run_length,
            truth=("truth",),
            bound=bound,
            thresholds=thresholds,
            unit="time step",
        )
        self.summed = {"truth": truth, "checker": checker}
        self.episodes, self.stop_on, self.tell = episodes, frozenset(stop_on), tell or _warn
        self._lanes: list[dict[str, float]] = []
        self._ended: list[dict[str, float]] = []
        self._stop = False
        self._weights: Mapping[str, float] | None = None

    def _on_training_start(self) -> None:
        self._stop = False
        paying = connect(self.model)
        self._weights = None if paying is None else paying.weights
        if self.num_timesteps == 0 or len(self._lanes) != self.training_env.num_envs:  # else the episodes go on
            self._lanes = [{} for _ in range(self.training_env.num_envs)]
            self._ended = []

    def _on_step(self) -> bool:
        for i, (reward, done, info) in enumerate(zip(self.locals["rewards"], self.locals["dones"], self.locals["infos"])):
            lane = self._lanes[i]
            lane["reward"] = lane.get("reward", 0.0) + float(reward)
            lane["length"] = lane.get("length", 0.0) + 1
            lane["invalid"] = max(lane.get("invalid", 0.0), float("rewards_unknown" in info))
            for name, key in self.summed.items():
                if key in info:
                    lane[name] = lane.get(name, 0.0) + float(info[key])
            if done:
                paid = info.get("episode_rewards", {})
                self._ended.append(lane | {f"reward/{name}": v for name, v in paid.items() if name != "environment_reward"})
                self._lanes[i] = {}
        return not self._stop

    def _on_rollout_end(self) -> None:
        if len(self._ended) < self.episodes:
            return
        metrics: dict[str, Any] = {"update": self.num_timesteps, **means(self._ended)}
        paid: Mapping[str, float] = getattr(self.locals.get("rollout_buffer"), "paid", {})  # of a whole rollout at once, per step
        for name in (*paid, *(key.removeprefix("reward/") for key in metrics if key.startswith("reward/"))):
            self.alarms.weights[name] = 1.0 if self._weights is None else self._weights.get(name, 0.0)
        if paid:
            metrics["reward"] = sum(self.alarms.weights[name] * value for name, value in paid.items())
            metrics |= {f"reward/{name}": value for name, value in paid.items()}
        entropy_loss = self.logger.name_to_value.get("train/entropy_loss")
        if entropy_loss is not None:
            metrics["entropy"] = -float(entropy_loss)
        self._ended = []
        for alarm in self.alarms.update(metrics):
            self.logger.record(f"alarm/{alarm.name}", alarm.severity)
            self.tell(alarm)
            self._stop |= alarm.name in self.stop_on


def means(episodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over the episodes that have it, as a finite one.

    >>> means([{"reward": 1.0, "truth": 2.0}, {"reward": 3.0, "truth": float("nan")}])
    {'reward': 2.0, 'truth': 2.0}
    """
    names = dict.fromkeys(name for episode in episodes for name in episode)
    known = {name: [e[name] for e in episodes if math.isfinite(e.get(name, math.nan))] for name in names}
    return {name: fmean(values) for name, values in known.items() if values}


def _warn(alarm: Alarm) -> None:
    _log.warning("%s %s: %s", alarm.kind, alarm.name, alarm.says)
