"""CANON: does comparing the long half of a group with the short one help, whichever of the two is the better one?

payoff reproduce canon
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, HORIZON, LONG = 8, 6, 4
SHAPE: dict[str, Any] = {"vocabulary": 3, "horizon": HORIZON, "stop": 2}
MANY, FEW, BONUS = 0.3, 0.06, 0.2


def with_bonus(channel: Channel, traj: Trajectories) -> Channel:
    """A credit and a fixed pull towards length: BONUS for an answer of full length, less in proportion for shorter ones."""
    return channel._replace(value=channel.value + BONUS * traj.length[:, None].to(channel.value.dtype) / HORIZON)


def solving(seed: int, *, long: bool) -> list[dict[str, float]]:
    """Right answers of each prompt: many among the long (or the short), few among the others."""
    rng = torch.Generator().manual_seed(seed)
    responses = Tree(**SHAPE).responses
    tables = []
    for _ in range(PROMPTS):
        draw = torch.rand(len(responses), generator=rng).tolist()
        # a response of n letters has n + 1 actions, the last of which ends it, unless it goes to the horizon
        share = [MANY if (len(r) >= LONG) == long else FEW for r in responses]
        tables.append({r: 1.0 for r, x, s in zip(responses, draw, share, strict=True) if x < s} or {responses[0]: 1.0})
    return tables


def run(arm: str, seed: int, *, updates: int = 40) -> Mapping[str, float]:
    """Two tasks, one where long answers are right more often, one where short ones are; the final policies are judged exactly."""
    paths: dict[str, list[Any]] = {
        "dr-grpo": ["total", "dr-grpo"],
        "bonus": ["total", "payoff.recipes.canon:with_bonus", "dr-grpo"],
        "canon": ["total", {"name": "canon-length", "between": 1.0}],
    }
    term = {"paths": {"correct": paths[arm]}, "loss": "ppo-clip"}
    found = {}
    for kind in ("long", "short"):
        file = {
            "task": {"name": "tree", **SHAPE, "prompts": PROMPTS, "leaf_rewards": solving(seed, long=kind == "long")},
            "policy": {"name": "tabular", **SHAPE, "starts": PROMPTS},
            "reward": {"correct": "tree-leaf"},
            "arms": {arm: {"terms": {"policy": {**term, "aggregation": {"name": "constant-length", "max_length": HORIZON}}}}},
            "train": {"updates": updates, "starts": 8, "rollouts": 16, "learning_rate": 0.03},
            "evaluate": {"every": 0, "starts": 0},
        }
        _, policy, task = train_arm(file, arm, seed)
        found[f"{kind}_truth"] = expected(policy, task.leaves, PROMPTS)
        length = policy.tree.length.double()
        found[f"{kind}_length"] = sum(float(policy.probabilities(k).detach() @ length) for k in range(PROMPTS)) / PROMPTS
    return found


RECIPE = Recipe(
    name="canon",
    claim=(
        "Comparing rollouts with the other half of their group by some trait finds out by itself which "
        "direction of the trait pays: "
        "it learns better than a plain group baseline whichever it is, where a bonus on the trait helps in one case and harms in "
        "the other."
    ),
    paper="arXiv:2509.23962",
    test=(
        f"{PROMPTS} prompts with answers of 1 to {HORIZON} actions; of those with at least {LONG} letters {MANY:.0%} are right and "
        f"of the others {FEW:.0%}, or the reverse. The trait is length. A tabular policy, at first as likely "
        f"to stop as to go on in "
        "either of two ways, 16 rollouts of eight starts per update, Adam and learning rate the same; the bonus is "
        f"{BONUS:g} at full length. Not tested: entropy as the trait, language models, the schedules."
    ),
    arms={
        "dr-grpo": "less the mean of the group",
        "bonus": "the same, of the reward plus a bonus on length",
        "canon": "less the mean of the other half by length",
    },
    measures={
        "long_truth": "probability of a right answer where long ones are right more often (exact)",
        "short_truth": "probability of a right answer where short ones are right more often (exact)",
        "long_length": "expected actions of an answer where long ones are right more often (exact)",
        "short_length": "expected actions of an answer where short ones are right more often (exact)",
    },
    effects=(
        Effect("long_truth", "canon", "dr-grpo", "higher", delta=0.02),
        Effect("short_truth", "canon", "dr-grpo", "higher", delta=0.02),
        Effect("short_truth", "canon", "bonus", "higher", delta=0.02),
    ),
    run=run,
    methods=("advantage:canon-length", "advantage:dr-grpo", "aggregation:constant-length", "loss:ppo-clip", "task:tree"),
)
