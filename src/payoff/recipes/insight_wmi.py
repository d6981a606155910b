"""InSight: does it pay to choose prompts by what their rollouts would teach, and not by their difficulty alone?

payoff reproduce insight-wmi
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from payoff.pipeline import Start, Task
from payoff.recipes import Effect, Recipe
from payoff.recipes.pcl import ENOUGH, SKILLS, practise, rollouts_until
from payoff.sampling.beliefs import WeightedMutualInformation
from payoff.sampling.candidates import best, draw_pool


class ThompsonDifficulty(WeightedMutualInformation):
    """The rival by difficulty alone (MoPPS): a rate is drawn from each belief, and those nearest to one half are taken."""

    def forward(self, task: Task, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts, the nearest to one half first."""
        starts = draw_pool(task, n, self.pool, rng)
        a, b = self._belief([start.id for start in starts]).T
        gamma = torch.stack([torch._standard_gamma(x, generator=rng) for x in (a, b)])
        return best(starts, -(gamma[0] / gamma.sum(0) - 0.5).abs(), n)


POOL = 500
ARMS: Mapping[str, Mapping[str, Any]] = {
    "even": {},
    "difficulty": {"curriculum": "payoff.recipes.insight_wmi:ThompsonDifficulty"},
    "insight": {"curriculum": "insight-wmi"},
}


def run(arm: str, seed: int, *, updates: int = 220, learning_rate: float = 0.05) -> Mapping[str, float]:
    """The exercises of the recipe pcl; every arm until `updates` updates are over."""
    history = practise(ARMS[arm], seed, POOL, updates, learning_rate).history
    until = next((line["update"] for line in history if line["truth/success"] >= ENOUGH), updates)
    useful = [1 - line["zero_spread"] for line in history[1 : until + 1]]
    errors = [line["insight/error"] for line in history[1 : until + 1] if line.get("insight/error") is not None]
    return {
        "rollouts": rollouts_until(history),
        "useful": math.fsum(useful) / len(useful),
        "error": math.fsum(errors) / max(len(errors), 1),
    }


RECIPE = Recipe(
    name="insight-wmi",
    claim=(
        "Prompts chosen by how much their rollouts would teach about their success rate, weighed by difficulty, bring the policy "
        "to a level of success with fewer rollouts than prompts drawn evenly, and than prompts chosen by difficulty alone."
    ),
    paper="arXiv:2603.01907",
    test=(
        f"The exercises of the recipe pcl, {POOL} of them, so that each is met several times: {SKILLS} skills, difficulties spread "
        "evenly over twelve units of log-odds, 16 exercises of 8 rollouts an update, chosen from 256 drawn (the paper's 16 for "
        "each) in both arms that choose. Beliefs start flat and forget nothing; mu = 0.3, since the 3.0 that the paper prints is "
        "no rate. Success is judged exactly after every update. A first look, at seed 99 which is not among those reported, had "
        "2000 exercises, each met about once, and no arm could learn much about any. Not tested: language models, and forgetting."
    ),
    arms={
        "even": "exercises drawn evenly",
        "difficulty": "success rates drawn from the beliefs; the 16 of 256 nearest to one half",
        "insight": "the 16 of 256 of the greatest weighted mutual information",
    },
    measures={
        "rollouts": f"thousands of rollouts until the mean success is {ENOUGH:g} (exact success)",
        "useful": "share of the groups of rollouts, until then, whose rewards differ",
        "error": "mean squared difference of what was believed of a prompt and its pass rate, until then (0 without beliefs)",
    },
    effects=(
        Effect("rollouts", "insight", "even", "lower", delta=1.0),
        Effect("rollouts", "insight", "difficulty", "lower", delta=1.0),
    ),
    run=run,
    methods=("curriculum:insight-wmi", "advantage:dr-grpo"),
)
