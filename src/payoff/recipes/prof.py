"""PROF: is a fallible step judge better used to choose which rollouts are trained on than added to the reward?

payoff reproduce prof
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Rewards, Trajectories

PROMPTS, STEPS, KEPT = 6, 5, 4
SOUND = "a"  # a: a sound step, b: a flawed one, c: the answer


class Judge:
    """Scores every step 1 if it is sound, else 0, each verdict turned round with a fixed chance; the answer is not looked at.

    error: that chance; seed: of the verdicts, which are the same at every look at the same text
    """

    def __init__(self, error: float, seed: int) -> None:
        self.error, self.seed = error, seed

    def __call__(self, traj: Trajectories) -> Rewards:
        """The channel "process": a step's score; 1/2 for the answer, which says nothing."""
        paid = torch.full(traj.mask.shape, 0.5)
        for row, item in enumerate(traj.items):
            for k, step in enumerate(item["response"]):
                wrong = random.Random(f"{self.seed} {item['table']} {item['response'][: k + 1]}").random() < self.error
                paid[row, k] = float((step == SOUND) != wrong)
        return {"process": Channel(paid, torch.ones(len(traj), 1, dtype=torch.bool))}


def mean_step(channel: Channel, traj: Trajectories) -> Channel:
    """What the steps are paid on average, at every action."""
    value = torch.where(traj.exists, channel.value, 0).sum(1, keepdim=True) / traj.length[:, None]
    return Channel(value, channel.valid)


def outcomes(prompt: int, seed: int) -> dict[str, float]:
    """Which texts end in a right answer: drawn once, likelier the more steps are sound, and possible with flawed ones."""
    shape: dict[str, Any] = {"vocabulary": 3, "horizon": STEPS, "stop": 2}
    draw = random.Random(f"prof {seed} {prompt}")
    chance = lambda text: min(0.2 + 0.25 * text.count("a"), 0.95) * 0.75 ** text.count("b")
    return {text: float(draw.random() < chance(text)) for text in Tree(**shape).responses}


def run(arm: str, seed: int, *, updates: int = 80, error: float = 0.2) -> Mapping[str, float]:
    """A tabular policy learns from the same rollouts in every arm; the final policy is judged exactly."""
    shape: dict[str, Any] = {"vocabulary": 3, "horizon": STEPS, "stop": 2}
    paths: dict[str, Any] = {"correct": ["total", "grpo"]}
    selections: dict[str, list[Any]] = {
        "grpo": [],
        "balanced": [{"name": "prof", "keep": KEPT, "rank_wrong": "random", "process": "noise"}],
        "blend": [],
        "prof": [{"name": "prof", "keep": KEPT}],
    }
    if arm == "blend":
        blended = {"correct": ["total"], "process": ["payoff.recipes.prof:mean_step"]}
        term: dict[str, Any] = {"paths": blended, "then": ["grpo"]}
    else:
        term = {"paths": paths}
    judge = "payoff.recipes.prof:Judge"
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": [outcomes(k, seed) for k in range(PROMPTS)]},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS, "spread": 0.5, "seed": seed},
        "reward": {
            "correct": "tree-leaf",
            "process": {"name": judge, "error": error, "seed": seed},
            "noise": {"name": judge, "error": 0.5, "seed": seed + 1},
        },
        "selection": selections[arm],
        "terms": {"policy": {**term, "loss": "ppo-clip", "aggregation": "sequence-mean-token-mean"}},
        "train": {"updates": updates, "starts": PROMPTS, "rollouts": 2 * KEPT, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, "", seed)
    truth = sound = turns = 0.0
    share = torch.tensor([text.count("a") / max(len(text), 1) for text in task.responses], dtype=torch.float64)
    for prompt in range(PROMPTS):
        chance = policy.probabilities(prompt).detach()
        right = chance * task.leaves(prompt)
        truth += float(right.sum()) / PROMPTS
        sound += float((right * share).sum() / right.sum().clamp(min=1e-12)) / PROMPTS
        turns += float(chance @ policy.tree.length.double()) / PROMPTS
    return {"truth": truth, "sound": sound, "steps": turns}


RECIPE = Recipe(
    name="prof",
    claim=(
        "Keeping right rollouts whose steps a process model likes and wrong ones whose steps it dislikes, and training on the "
        "outcome alone, gives better steps and no worse answers than the outcome on all rollouts, and better answers than a "
        "reward into which step scores are blended."
    ),
    paper="arXiv:2509.03403",
    test=(
        f"{PROMPTS} prompts, texts of up to {STEPS} sound or flawed steps closed by an answer (or by the fifth step). Which texts "
        "are right is drawn once: likelier the more steps are sound, possible with flawed ones. A judge of steps errs in one of "
        "five. GRPO from eight rollouts of every prompt; the two arms that choose train on four of them, the others on all "
        "eight, which favours these. Judged exactly. Not tested: a learned process model, language models, penalties for step "
        "counts."
    ),
    arms={
        "grpo": "the outcome, all eight rollouts",
        "blend": "the outcome plus the mean step score, all eight",
        "balanced": "the outcome, four in balance, chosen by a judge that tosses coins",
        "prof": "the outcome, four in balance, chosen by the judge",
    },
    measures={
        "truth": "probability of a right text under the final policy (exact)",
        "sound": "sound steps, as a share of the steps of right texts under the final policy (exact, mean over prompts)",
        "steps": "actions of the final policy on average, the answer included (exact)",
    },
    effects=(
        Effect("sound", "prof", "grpo", "higher", delta=0.02),
        Effect("truth", "prof", "grpo", "not lower", delta=0.03),
        Effect("truth", "prof", "blend", "higher", delta=0.02),
        Effect("steps", "blend", "grpo", "higher", delta=0.1),
    ),
    run=run,
    methods=("selection:prof", "advantage:grpo", "loss:ppo-clip", "task:tree"),
)
