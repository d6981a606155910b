"""Pay at the end against pay for sub-goals, for PPO, GRPO and RLOO: the six arms that are compared in several worlds of turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from payoff.advantages.baselines import subtract_values
from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import lambda_return, total
from payoff.recipes import Effect
from payoff.tasks.turns.dialogue import turn_dense
from payoff.trajectories import Channel, StopReason, Trajectories, place_steps

SubGoals = Callable[[Mapping[str, Any]], Sequence[float]]
ARMS = {
    f"{short}-{pay}": f"{algorithm}, paid {what}"
    for short, algorithm in (("ppo", "PPO with a critic"), ("grpo", "GRPO"), ("rloo", "RLOO"))
    for pay, what in (("single", "the outcome at the end"), ("dense", "for sub-goals"))
}
MEASURES = {
    "success": "share of rollouts that were right in the last quarter of the tokens",
    "over": "share of rollouts that were right over all tokens",
}
EFFECTS = tuple(
    Effect("over", f"{algorithm}-dense", f"{algorithm}-single", "higher", delta=0.03) for algorithm in ("ppo", "grpo", "rloo")
)
METHODS = (
    *("grader:turn-dense", "advantage:grpo", "advantage:rloo", "advantage:subtract-values", "credit:lambda-return"),
    *("loss:ppo-clip", "loss:value"),
)
SETTING = (
    "What is won is paid 1 in all, divided among its sub-goals, what is lost the share of sub-goals that it reached. ppo-clip, "
    "token mean and the same Adam in all arms, which begin with the same policy and stop after the same number of written "
    "tokens. PPO: lambda-returns with trace 0.95 over tokens, discount 1, a linear critic on the policy's own states, half its "
    "loss; a rollout that runs into its limit of turns is over, and nothing is expected after it. No KL penalty, in the reward or "
    "elsewhere."
)


def paid(traj: Trajectories, pay: str, sub_goals: SubGoals, events: Callable[[Mapping[str, Any]], int]) -> Channel:
    """The published reward of turns: all at the end, or a share for every sub-goal.

    pay: "single" or "dense"; sub_goals: of an item, 1 for every turn that reached one, else 0; events: how many an item has
    """
    rows: list[list[float]] = []
    for item in traj.items:
        turns = [{"reward": reached} for reached in sub_goals(item)]
        rows.append(turn_dense(turns, item["outcome"], events(item), dense=pay == "dense").value)  # type: ignore[arg-type]
    steps = max(map(len, rows))
    value = torch.tensor([[*row, *[0.0] * (steps - len(row))] for row in rows])
    return place_steps(value, torch.ones_like(value, dtype=torch.bool), traj)


def weigher(
    arm: str, sub_goals: SubGoals, events: Callable[[Mapping[str, Any]], int]
) -> Callable[[Trajectories], Channel | tuple[Channel, Channel]]:
    """What an arm of `ARMS` makes of a batch: weights, for PPO with the returns that its critic is to learn."""
    algorithm, pay = arm.split("-")

    def target(traj: Trajectories) -> Channel | tuple[Channel, Channel]:
        reward = paid(traj, pay, sub_goals, events)
        if algorithm != "ppo":
            return (grpo if algorithm == "grpo" else leave_one_out)(total(reward, traj), traj)
        over = traj.replace(stop=torch.full_like(traj.stop, int(StopReason.finished)))
        returns = lambda_return(reward, over, trace=0.95)
        return subtract_values(returns, traj), returns

    return target
