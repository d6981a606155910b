"""Multi-turn agentic recipe: do rewards for sub-goals speed up learning in turns, and for whom the most?

payoff reproduce multi-turn-agentic-recipe
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Recipe
from payoff.recipes.worlds import dense_turns
from payoff.recipes.worlds.turns import HOPS, ROLLOUTS, SETTING, learn, taught


def sub_goals(item: Mapping[str, Any]) -> list[float]:
    """1 for every turn that looked up what was needed and not yet known, or gave the right answer.

    >>> turn = lambda said: {"said": said, "reward": 0.0}
    >>> sub_goals({"solution": ["a1", "c2", "=b"], "turns": [turn("a1"), turn("a1"), turn("=b")]})
    [1.0, 0.0, 1.0]
    """
    wanted, reached = list(item["solution"]), []
    for turn in item["turns"]:
        hit = turn["said"] in wanted
        if hit:
            wanted.remove(turn["said"])
        reached.append(float(hit))
    return reached


def events(item: Mapping[str, Any]) -> int:
    """How many sub-goals a question has: its look-ups and its answer."""
    return HOPS + 1


def run(arm: str, seed: int, *, tokens: int = 14_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    policy = taught(critic=arm.startswith("ppo"))
    found = learn(dense_turns.weigher(arm, sub_goals, events), seed, tokens=tokens, policy=policy)
    return {"success": found.success, "over": found.over}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe",
    claim="Rewards for sub-goals speed up learning in turns, for PPO with a critic as for GRPO and RLOO without one.",
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question. A sub-goal is a look-up that the question needs, the first time, or the "
        "right answer; a won search is paid 1 in all, divided among its sub-goals, a lost one the share that it reached. PPO: "
        "lambda-returns with trace 0.95 over tokens, discount 1, a linear critic on the policy's own states, half its loss. No KL "
        "in the reward. A search that runs into its limit of turns is over, and nothing is expected after it: in an earlier form, "
        "tried on seed 99, which is not reported, the critic's value stood in there, and PPO on sub-goals learned not to answer. "
        "Not tested: that PPO gains the most (a difference of differences). Tools, repair, games, transfer from small to large "
        "environments and shares of supervised learning have recipes of their own, whose names begin with this one's."
    ),
    arms=dense_turns.ARMS,
    measures=dense_turns.MEASURES,
    effects=dense_turns.EFFECTS,
    run=run,
    methods=(*dense_turns.METHODS, "task:turns-search"),
)
