"""Dynamic reward weighting: do weights that move reach more of the front of several objectives than weights that stay?

payoff reproduce dynamic-reward-weighting
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from payoff.pipeline import Start, weigh
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe, expected
from payoff.shaping.dynamic_weights import GradientMixing
from payoff.shaping.hypervolume import hypervolume
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, LETTERS = 4, 4
OBJECTIVES = ("right", "short", "form")


class Answered:
    """Prompts of which few answers are right; short answers, and such as begin with "a", are wanted too."""

    def __init__(self, *, seed: int = 0) -> None:
        self.tree = Tree(vocabulary=4, horizon=LETTERS, stop=3, prompts=PROMPTS, density=0.1, seed=seed)

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts drawn evenly from the prompts."""
        return self.tree.starts(n, rng)

    def truth(self, traj: Trajectories) -> Channel:
        """Whether the answer is right."""
        return self.tree.truth(traj)

    @cached_property
    def tables(self) -> dict[str, torch.Tensor]:
        """What every objective gives every answer of every prompt, 0 to 1."""
        same = {"short": [short(x) for x in self.tree.responses], "form": [form(x) for x in self.tree.responses]}
        return {
            "right": torch.stack([self.tree.leaves(k) for k in range(PROMPTS)]),
            **{name: torch.tensor([row] * PROMPTS, dtype=torch.float64) for name, row in same.items()},
        }

    def measure(self, policy: Tabular) -> dict[str, float]:
        """The mean of every objective under the policy, exactly."""
        return {name: expected(policy, table.__getitem__, PROMPTS) for name, table in self.tables.items()}


def short(response: str) -> float:
    """1 for no letter at all, 0 for as many as there may be."""
    return 1 - len(response) / LETTERS


def form(response: str) -> float:
    """Whether the answer begins with "a"."""
    return float(response.startswith("a"))


def run(arm: str, seed: int, *, updates: int = 100) -> Mapping[str, float]:
    """A tabular policy trained on the sum of three objectives; the arms differ in the weights alone."""
    from payoff.build import build
    from payoff.config import Loaded, RunFile
    from payoff.train import train

    even = dict.fromkeys(OBJECTIVES, 1 / len(OBJECTIVES))
    mix: Any = {"name": "dynamic-reward-weighting-hypervolume", "weights": even} if arm == "hypervolume" else even
    term = {"paths": {name: ["total"] for name in OBJECTIVES}, "mix": mix, "then": ["rloo"], "loss": "policy-gradient"}
    file = {
        "task": {"name": "payoff.recipes.dynamic_reward_weighting:Answered", "seed": seed},
        "policy": {"name": "tabular", "vocabulary": 4, "horizon": LETTERS, "stop": 3, "starts": PROMPTS},
        "reward": {
            "right": "tree-leaf",
            "short": "payoff.recipes.dynamic_reward_weighting:short",
            "form": "payoff.recipes.dynamic_reward_weighting:form",
        },
        "terms": {"policy": {**term, "aggregation": "sequence-mean-token-sum"}},
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.05},
        "evaluate": {"every": 5, "starts": 4},
    }
    parts, settings = build(Loaded(RunFile.model_validate(file), {}, "recipe", []), "", seed)
    if arm == "gradient":
        # The gradients are wanted where the policy is: the mixing is handed the very policy that is trained.
        target = weigh(
            {name: list(path) for name, path in parts.terms["policy"].target.paths.items()},  # type: ignore[attr-defined]
            mix=GradientMixing(parts.policy, even),
            then=parts.terms["policy"].target.then,  # type: ignore[attr-defined]
        )
        parts = dataclasses.replace(parts, terms={"policy": parts.terms["policy"]._replace(target=target)})
    history = train(parts, settings).history
    visited = [[float(line[f"truth/{name}"] or 0) for name in OBJECTIVES] for line in history if f"truth/{OBJECTIVES[0]}" in line]
    points, zero = torch.tensor(visited, dtype=torch.float64), torch.zeros(len(OBJECTIVES), dtype=torch.float64)
    half = next((i for i in range(len(points)) if hypervolume(points[: i + 1], zero) >= 0.1), len(points))
    return {
        "volume": hypervolume(points, zero),
        "slow": 5.0 * half,
        **dict(zip(OBJECTIVES, visited[-1], strict=True)),
    }


RECIPE = Recipe(
    name="dynamic-reward-weighting",
    claim=(
        "Weights of several objectives that follow the hypervolume gained, or the objectives' gradients, reach points that "
        "dominate more than fixed weights do, with the same rollouts."
    ),
    paper="arXiv:2509.11452",
    test=(
        f"{PROMPTS} prompts with answers of at most {LETTERS} letters, a tenth of them right; brevity and beginning with a letter "
        "are the other two objectives, each from 0 to 1. A tabular policy, uniform at first, 8 starts of 8 rollouts "
        "per update, the "
        "sum of the three with an undivided leave-one-out baseline, Adam. Weights are a third each at first; "
        "hypervolume multiplies "
        "them all by a factor, from the update's own means where the paper validates; gradient moves them every update "
        "with rate 1. "
        "Measured exactly every five updates: the hypervolume, from 0, of all points that the policy passed. Not tested: language "
        "models, other fixed weights, advantages divided by their spread (there a common factor does nothing)."
    ),
    arms={
        "fixed": "a third each throughout",
        "hypervolume": "a third each, times 0.5 + 1.5 tanh(what the last update added to the front)",
        "gradient": "multiplicative weights, by each objective's gradient times the sum of all",
    },
    measures={
        "volume": "hypervolume of the expected objectives that the policy passed, from 0 (exact); 1 is all there could be",
        "slow": "updates until the volume reached 0.1, in fives",
        "right": "probability of a right answer at the end (exact)",
        "short": "expected share of letters left out at the end (exact)",
        "form": "probability of beginning with the letter at the end (exact)",
    },
    effects=(
        Effect("volume", "hypervolume", "fixed", "higher", delta=0.02),
        Effect("volume", "gradient", "fixed", "higher", delta=0.02),
    ),
    run=run,
    methods=(
        "mixing:dynamic-reward-weighting-hypervolume",
        "mixing:dynamic-reward-weighting",
        "advantage:rloo",
        "loss:policy-gradient",
        "task:tree",
    ),
)
