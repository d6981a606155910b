"""PRIME: does a reward model that learns from outcomes alone, and pays every token, beat the outcomes it learned from?

payoff reproduce prime
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.contents import learners
from payoff.recipes import Effect, Recipe, Trained
from payoff.tasks.chain import read_solution
from payoff.train import train
from payoff.trajectories import Trajectories, per_step


def term(paths: Mapping[str, Any]) -> dict[str, Any]:
    return {"policy": {"paths": paths, "then": ["rms"], "loss": "ppo-clip", "aggregation": "token-mean"}}


def run(arm: str, seed: int, *, updates: int = 30, held_out: int = 256) -> Mapping[str, float]:
    """The shipped transformer trains on chained arithmetic; both arms have the same rollouts to learn from."""
    outcome = {"correct": ["total", "rloo"]}
    process = {"process": ["prime-scale", "prime-rloo", "return-to-go"]}
    file = {
        "task": {"name": "chain", "terms": 6},
        "policy": {"name": "transformer", "checkpoint": "chain", "max_tokens": 72, "stop": ["."], "step_separator": ";"},
        "reward": {"correct": "chain-answer"},
        "arms": {
            "outcome": {"terms": term(outcome)},
            "prime": {
                "terms": term({**outcome, **process}),
                "reward": {"correct": "chain-answer", "process": {"name": "prime", "learning_rate": 4e-4}},
            },
        },
        "train": {"updates": updates, "starts": 4, "rollouts": 4, "learning_rate": 2e-4},
        "evaluate": {"every": 0, "starts": held_out},
    }
    parts, settings = build(Loaded(RunFile.model_validate(file), {}, "recipe", []), arm, seed)
    trained = Trained(train(parts, settings).history, parts.policy, parts.task)
    told = 0.5
    for model in learners(parts.signal):
        traj = parts.policy.rollout(parts.task.held_out_starts(64), 2, torch.Generator().manual_seed(seed))  # type: ignore[attr-defined]
        told = step_auc(per_step(model(traj)["implicit"], traj)[0], traj)  # type: ignore[operator]
    return {"truth": trained.last("truth"), "auc": told}


def step_auc(score: Tensor, traj: Trajectories) -> float:
    """The chance that a right and needed step of some rollout has a higher score than another step; 1/2 where one kind is "
    "missing."""
    right: list[float] = []
    other: list[float] = []
    for item, row in zip(traj.items, score.tolist(), strict=True):
        for k, step in enumerate(read_solution(item["prompt"], item["response"]).steps):
            (right if step.needed and step.correct else other).append(row[k])
    if not right or not other:
        return 0.5
    gap = torch.tensor(right)[:, None] - torch.tensor(other)
    return float((gap > 0).double().mean() + (gap == 0).double().mean() / 2)


RECIPE = Recipe(
    name="prime",
    claim=(
        "A model that learns online from the outcomes of whole rollouts, and pays each token its log-ratio to where it began, "
        "added to these outcomes, learns to tell right steps from wrong ones and makes the policy better at the same number of "
        "rollouts."
    ),
    paper="arXiv:2502.01456",
    test=(
        "Chained arithmetic with a small pretrained transformer, 30 updates of four prompts with four rollouts; the implicit "
        "model has the policy's own weights to begin with, beta 0.05 and, as in the paper, twice its learning rate. "
        "Leave-one-out baselines in both arms, weights divided by their root mean square in place of whitening. Equal rollouts, "
        "not equal seconds: the model costs two passes and a step more for every batch. Updates were cut from 40 to 30 after a "
        "look at four updates of another seed, to save time. Not tested: filtering of prompts by their share of right answers, "
        "thousands of updates, and an offline model that is over-optimised later."
    ),
    arms={"outcome": "the answer alone", "prime": "the answer, and what the implicit model pays every token"},
    measures={
        "truth": "share of 256 held-out prompts answered rightly at the end, one sampled rollout each",
        "auc": "chance that the model pays a right and needed step more than another step, on 128 rollouts (1/2 without a model)",
    },
    effects=(
        Effect("truth", "prime", "outcome", "higher", delta=0.03),
        Effect("auc", "prime", "outcome", "higher", delta=0.05, size=0.2),
    ),
    run=run,
    methods=("model:prime", "advantage:prime-rloo", "advantage:prime-scale", "advantage:rloo", "task:chain"),
)
