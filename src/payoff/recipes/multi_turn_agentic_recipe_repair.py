"""Multi-turn agentic recipe, file repair: do rewards for tests that newly pass speed up learning to repair files?

payoff reproduce multi-turn-agentic-recipe-repair
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.recipes import Recipe
from payoff.recipes.worlds import dense_turns
from payoff.recipes.worlds.dialogue_learning import learn
from payoff.recipes.worlds.repair_turns import SETTING, events, sub_goals, task, taught


def run(arm: str, seed: int, *, tokens: int = 26_000) -> Mapping[str, float]:
    """File repair by a small transformer that has seen scripted repairs; all arms write as many tokens."""
    torch.set_num_threads(1)
    policy = taught(critic=arm.startswith("ppo"))
    found = learn(task(), policy, dense_turns.weigher(arm, sub_goals, events), seed, tokens=tokens, learning_rate=1.5e-3)
    return {"success": found.success, "over": found.over, "turns": found.turns}


RECIPE = Recipe(
    name="multi-turn-agentic-recipe-repair",
    claim=(
        "Rewards for sub-goals speed up learning in turns, for PPO with a critic as for GRPO and RLOO without one: in the "
        "repair of files."
    ),
    paper="arXiv:2510.01132",
    test=(
        f"{SETTING} 8 files an update, 8 rollouts of each. A sub-goal is an edit after which more hidden tests pass than ever "
        f"before, or handing in a file that passes all; there are as many as tests fail at first, and one. {dense_turns.SETTING} "
        "Budget, learning rate, temperature and the scripts' errors were set on GRPO with the outcome alone, seed 0, which is "
        "among those reported. The number of turns was added to the measures after a first run of all arms, whose other numbers "
        "are these. Not tested: that PPO gains the most (a difference of differences), files that were not seen in teaching, "
        "longer files, trying examples (no script does), transfer, shares of supervised learning, and pretrained models."
    ),
    arms=dense_turns.ARMS,
    measures={**dense_turns.MEASURES, "turns": "turns of a rollout in the last quarter of the tokens"},
    effects=dense_turns.EFFECTS,
    run=run,
    methods=(*dense_turns.METHODS, "task:turns-repair"),
)
