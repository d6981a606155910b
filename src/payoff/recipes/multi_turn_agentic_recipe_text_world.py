"""Multi-turn agentic recipe in a text world: do rewards for the steps of a quest speed up learning, and for whom?

payoff reproduce multi-turn-agentic-recipe-text-world
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Recipe
from payoff.recipes.worlds import dense_turns
from payoff.recipes.worlds.dialogue_learning import learn, with_critic
from payoff.recipes.worlds.games import GAMES, SETTING, task, taught


def sub_goals(item: Mapping[str, Any]) -> list[float]:
    """1 for every turn that left a step of the quest behind for the first time.

    >>> sub_goals({"turns": [{"said": ">2", "reward": 1.0}, {"said": ">1", "reward": 0.0}, {"said": ">", "reward": None}]})
    [1.0, 0.0, 0.0]
    """
    return [float((turn["reward"] or 0.0) > 0) for turn in item["turns"]]


def run(arm: str, seed: int, *, tokens: int = 14_000) -> Mapping[str, float]:
    """Games of textworld, played by a small transformer that has seen scripted plays; all arms write as many tokens."""
    torch.set_num_threads(1)
    policy = with_critic(taught()) if arm.startswith("ppo") else taught()
    target = dense_turns.weigher(arm, sub_goals, lambda item: item["events"])
    found = learn(task(), policy, target, seed, tokens=tokens, learning_rate=2.5e-4)
    return {"success": found.success, "over": found.over}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-text-world",
    claim=(
        "Rewards for the steps of a quest speed up learning to play text games, for PPO with a critic as for GRPO and RLOO "
        "without one."
    ),
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} Trained on {GAMES} games, 8 games an update, 8 rollouts of each. A sub-goal is a step of the quest that is "
        f"left behind for the first time, as the package counts how many are left. {dense_turns.SETTING} Budget and learning rate "
        "were set on GRPO with the outcome alone, seed 0, which is among those reported: of 2e-3, 1e-3, 5e-4 and 2.5e-4 the last "
        "did best. Not tested: language models and the interpreter's own words, commands that must be found without knowing the "
        "quest's steps, that PPO gains the most (a difference of differences), longer quests, KL in the reward, and how the "
        "trained policies play games that they were not trained on."
    ),
    arms=dense_turns.ARMS,
    measures=dense_turns.MEASURES,
    effects=dense_turns.EFFECTS,
    run=run,
    methods=(*dense_turns.METHODS, "task:turns-textworld"),
)
