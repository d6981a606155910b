"""TempFlow-GRPO: does it speed up a flow model's learning to sample one step at a time and weigh it by its noise?

payoff reproduce tempflow-grpo
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.recipes import Effect, Recipe, train_arm
from payoff.tasks.mixture import mixture_distance
from payoff.trajectories import outcome

MODES = 4


def run(arm: str, seed: int, *, updates: int = 15, judged: int = 1024) -> Mapping[str, float]:
    """A flow model of four modes is paid for nearness to one; judged by deterministic sampling, which no arm trains on."""
    path = ["total", "flow-grpo"] + ([] if arm == "uniform" else ["tempflow-grpo"])
    term = {"paths": {"pay": path}, "loss": {"name": "ppo-clip", "low": 0.01, "high": 0.01}, "aggregation": "token-mean"}
    policy = {"name": "flow", "data": "mixture", "data_options": {"modes": MODES}, "pretrain_steps": 600, "seed": seed}
    file = {
        "task": {"name": "mixture", "modes": MODES},
        "policy": {**policy, "acts": "one" if arm == "branching" else "all"},
        "reward": {"pay": "mixture-distance"},
        "terms": {"policy": term},
        "train": {"updates": updates, "starts": 8, "rollouts": 16, "learning_rate": 1e-3},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, trained, task = train_arm(file, "", seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        noise = trained.rollout(task.held_out_starts(judged), 1, rng)
        at = torch.zeros(judged, dtype=torch.int64)
        ends = trained.resume(noise, torch.arange(judged), at, 1, rng, noisy=0)
    pay, truth = outcome(mixture_distance(ends)["mixture-distance"], ends)[0], outcome(task.truth(ends), ends)[0]
    return {"reward": float(pay.mean()), "truth": float(truth.mean())}


RECIPE = Recipe(
    name="tempflow-grpo",
    claim=(
        "Flow-GRPO credits all denoising steps alike; weighing them by their noise reaches a higher reward with the same "
        "samples, and so does, more still, sampling a single step of a group whose other steps are deterministic."
    ),
    paper="arXiv:2508.04324",
    test=(
        f"A flow model of {MODES} modes in the plane, fitted from scratch, is paid minus the distance to one of them: ten "
        "steps, eight groups of 16 per update, one pass, the same Adam. In the branching arm the step that is sampled is "
        "drawn for each group. The means are those of deterministic samples after a number of updates at which no arm has "
        "converged. Not tested: images, learned rewards, a KL penalty."
    ),
    arms={
        "uniform": "Flow-GRPO: all steps sampled, all weighed alike",
        "weights": "the same, each step weighed by its noise",
        "branching": "one sampled step for each group, weighed by its noise",
    },
    measures={
        "reward": "mean reward of 1024 deterministic samples, minus the distance to the wanted mode",
        "truth": "share of these samples that lie within three spreads of the wanted mode",
    },
    effects=(
        Effect("reward", "weights", "uniform", "higher", delta=0.05),
        Effect("reward", "branching", "weights", "higher", delta=0.05),
    ),
    run=run,
    methods=("advantage:tempflow-grpo", "advantage:flow-grpo", "loss:ppo-clip", "policy:flow", "task:mixture"),
)
