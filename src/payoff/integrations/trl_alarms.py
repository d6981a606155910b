"""TRL: alarms while `GRPOTrainer` (or another trainer that logs as it does) trains, from what it logs anyway."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from transformers import TrainerCallback

from payoff.audit.alarm_conditions import NAMES, Alarm
from payoff.audit.alarms import Alarms, Thresholds

READ = {
    "reward": "reward",
    "frac_reward_zero_std": "zero_spread",
    "completions/mean_length": "length",
    "entropy": "entropy",
    "kl": "kl",
}
STANDARD = Thresholds()
_log = logging.getLogger(__name__)


class AlarmCallback(TrainerCallback):
    """Watches what the trainer logs: `GRPOTrainer(..., callbacks=[AlarmCallback(checker="exact_answer")])`.

    checker, truth: names of reward functions as TRL logs them (`rewards/NAME/mean`). Give them weight 0 in `reward_weights`: they
                    are scored and logged, and paid nothing. `truth` is also read from evaluations, where there are any.
    bound:          (lowest, highest) possible reward; without it saturation is not watched
    weights:        of the paid reward functions by name, where they are not all 1, as in `reward_weights`
    stop_on:        names of alarms that end training
    tell:           called with every alarm, on the main process; default: a warning of this module's logger

    An alarm is added to that entry of `trainer.state.log_history` as alarm/NAME with its severity, and kept in `alarms.raised`.
    Every log is one row, so set `logging_steps=1`; with more, windows are as many logs long and alarms come later. KL is logged
    where beta > 0. TRL does not log how many completions had no verdict: invalid-rising is not watched. A run that continues
    from a checkpoint takes what was logged before from its state. Raises ValueError for a name in stop_on that is no alarm.
    """

    def __init__(
        self,
        *,
        checker: str = "",
        truth: str = "",
        bound: tuple[float, float] | None = None,
        weights: Mapping[str, float] | None = None,
        window: int = 32,
        run_length: int = 5000,
        thresholds: Thresholds = STANDARD,
        stop_on: Collection[str] = (),
        tell: Callable[[Alarm], None] | None = None,
    ) -> None:
        if unknown := sorted(set(stop_on) - set(NAMES)):
            raise ValueError(f"AlarmCallback: {unknown[0]!r} is no alarm; there are {', '.join(NAMES)}")
        self.alarms = Alarms(
            window=window,
            run_length=run_length,
            truth=(f"reward/{truth}", "truth") if truth else ("truth",),
            checker=f"reward/{checker}" if checker else "checker",
            bound=bound,
            weights=weights,
            thresholds=thresholds,
            unit="step",
        )
        self.truth, self.stop_on, self.tell = truth, frozenset(stop_on), tell or _warn
        self._evaluated: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take in what a run that continues has logged before; alarms raised then are not told again."""
        if not self.alarms.seen:
            for logs in state.log_history:
                self._take(logs, logs.get("step", 0))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Look at what was logged."""
        for alarm in self._take(logs or {}, state.global_step):
            for record in (logs, state.log_history[-1] if state.log_history else None):
                if record is not None:
                    record[f"alarm/{alarm.name}"] = alarm.severity
            if state.is_world_process_zero:
                self.tell(alarm)
            if alarm.name in self.stop_on:
                control.should_training_stop = True

    def _take(self, logs: Mapping[str, Any], step: int) -> list[Alarm]:
        evaluated = logs.get(f"eval_rewards/{self.truth}/mean")
        if self.truth and evaluated is not None:
            self._evaluated = {"truth": evaluated}  # goes with the next step's row: a step has one row
        metrics = metrics_from_trl(logs)
        rows = self.alarms.rows
        if not metrics or "train_runtime" in logs or (rows and step <= rows[-1]["update"]):
            return []
        metrics, self._evaluated = {"update": step, **metrics, **self._evaluated}, {}
        return self.alarms.update(metrics)


def metrics_from_trl(logs: Mapping[str, Any]) -> dict[str, Any]:
    """What TRL logs, under the names of our loop; empty for an evaluation.

    >>> metrics_from_trl({"loss": 0.1, "reward": 0.5, "rewards/exact/mean": 0.25, "frac_reward_zero_std": 0.0})
    {'reward': 0.5, 'zero_spread': 0.0, 'reward/exact': 0.25}
    """
    metrics = {ours: logs[theirs] for theirs, ours in READ.items() if theirs in logs}
    for name, value in logs.items():
        if name.startswith("rewards/") and name.endswith("/mean"):
            metrics[f"reward/{name.removeprefix('rewards/').removesuffix('/mean')}"] = value
    return metrics


def _warn(alarm: Alarm) -> None:
    _log.warning("%s %s: %s", alarm.kind, alarm.name, alarm.says)
