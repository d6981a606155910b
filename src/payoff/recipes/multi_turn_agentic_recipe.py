"""Multi-turn agentic recipe: do rewards for sub-goals speed up learning in turns, and for whom the most?

payoff reproduce multi-turn-agentic-recipe
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.advantages.baselines import subtract_values
from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import lambda_return, total
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import HOPS, ROLLOUTS, SETTING, learn, taught
from payoff.tasks.turns.dialogue import turn_dense
from payoff.trajectories import Channel, StopReason, Trajectories, place_steps


def sub_goals(item: Mapping[str, Any]) -> list[dict[str, float]]:
    """1 for every turn that looked up what was needed and not yet known, or gave the right answer.

    >>> turn = lambda said: {"said": said, "reward": 0.0}
    >>> [t["reward"] for t in sub_goals({"solution": ["a1", "c2", "=b"], "turns": [turn("a1"), turn("a1"), turn("=b")]})]
    [1.0, 0.0, 1.0]
    """
    wanted, paid = list(item["solution"]), []
    for turn in item["turns"]:
        hit = turn["said"] in wanted
        if hit:
            wanted.remove(turn["said"])
        paid.append({"reward": float(hit)})
    return paid


def rewards(traj: Trajectories, pay: str) -> Channel:
    """The published reward of turns: all at the end, or a share for every sub-goal."""
    said = [turn_dense(sub_goals(item), item["outcome"], HOPS + 1, dense=pay == "dense").value for item in traj.items]
    steps = max(len(row) for row in said)  # type: ignore[arg-type]  # one number for every turn
    value = torch.tensor([[*row, *[0.0] * (steps - len(row))] for row in said])  # type: ignore[misc,arg-type]
    return place_steps(value, torch.ones_like(value, dtype=torch.bool), traj)


def run(arm: str, seed: int, *, tokens: int = 14_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    algorithm, pay = arm.split("-")

    def target(traj: Trajectories) -> Channel | tuple[Channel, Channel]:
        paid = rewards(traj, pay)
        if algorithm != "ppo":
            return (grpo if algorithm == "grpo" else leave_one_out)(total(paid, traj), traj)
        over = traj.replace(stop=torch.full_like(traj.stop, int(StopReason.finished)))
        returns = lambda_return(paid, over, trace=0.95)
        return subtract_values(returns, traj), returns

    found = learn(target, seed, tokens=tokens, policy=taught(critic=algorithm == "ppo"))
    return {"success": found.success, "over": found.over}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe",
    claim=("Rewards for sub-goals speed up learning in turns, for PPO with a critic as for GRPO and RLOO without one."),
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question. A sub-goal is a look-up that the question needs, the first time, or the "
        "right answer; a won search is paid 1 in all, divided among its sub-goals, a lost one the share that it reached. PPO: "
        "lambda-returns with trace 0.95 over tokens, discount 1, a linear critic on the policy's own states, half its loss. No KL "
        "in the reward. A search that runs into its limit of turns is over, and nothing is expected after it: in an earlier form, "
        "tried on seed 99, which is not reported, the critic's value stood in there, and PPO on sub-goals learned not to answer. "
        "Not tested: that PPO gains the most (a difference of differences), sizes of environments, transfer from small to large "
        "ones, shares of supervised learning, and games."
    ),
    arms={
        f"{short}-{pay}": f"{algorithm}, paid {what}"
        for short, algorithm in (("ppo", "PPO with a critic"), ("grpo", "GRPO"), ("rloo", "RLOO"))
        for pay, what in (("single", "the outcome at the end"), ("dense", "for sub-goals"))
    },
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
    },
    effects=tuple(
        Effect("over", f"{algorithm}-dense", f"{algorithm}-single", "higher", delta=0.03) for algorithm in ("ppo", "grpo", "rloo")
    ),
    run=run,
    methods=(
        *("grader:turn-dense", "advantage:grpo", "advantage:rloo", "advantage:subtract-values", "credit:lambda-return"),
        *("loss:ppo-clip", "loss:value", "task:turns-search"),
    ),
)
