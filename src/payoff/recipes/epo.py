"""EPO: does a band around past entropies hold entropy steadier than a bonus alone, and does that help where reward is rare?

payoff reproduce epo
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import Any

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, VOCABULARY, HORIZON = 8, 3, 6
STRENGTH = 0.05


def run(arm: str, seed: int, *, updates: int = 60) -> Mapping[str, float]:
    """A tabular policy whose every action is a turn, and a rare reward at the end; the final policy is judged exactly."""
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    policy_term = {"paths": {"correct": ["total", "grpo"]}, "loss": "ppo-clip", "aggregation": "token-mean"}
    bonus = {"loss": "entropy-bonus", "aggregation": "token-mean", "weight": STRENGTH}
    remembered = {"paths": {"correct": ["turn-entropy"]}, "aggregation": "token-mean", "weight": STRENGTH}
    constant = {"name": "epo", "penalty": "constant"}
    arms: dict[str, dict[str, Any]] = {
        "grpo": {"policy": policy_term},
        "bonus": {"policy": policy_term, "entropy": bonus},
        "epo": {"policy": policy_term, "entropy": {**remembered, "loss": "epo"}},
        "epo-constant": {"policy": policy_term, "entropy": {**remembered, "loss": constant}},
    }
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "density": 0.01, "seed": seed},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf"},
        "arms": {name: {"terms": terms} for name, terms in arms.items()},
        "train": {"updates": updates, "starts": 8, "rollouts": 16, "epochs": 2, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    history, policy, task = train_arm(file, arm, seed)
    entropy = [line["entropy"] for line in history if line.get("entropy") is not None]
    late = entropy[len(entropy) // 2 :]
    return {
        "truth": expected(policy, task.leaves, PROMPTS),
        "entropy": statistics.fmean(late),
        "swing": statistics.fmean([abs(b - a) for a, b in itertools.pairwise(late)] or [0.0]),
    }


RECIPE = Recipe(
    name="epo",
    claim=(
        "Agents that act for many turns before a sparse reward first lose their entropy too early and then, under an entropy "
        "bonus, wander; held in a band around the mean of past updates, entropy moves less and more tasks are solved."
    ),
    paper="arXiv:2509.22576",
    test=(
        f"{PROMPTS} prompts with {VOCABULARY**HORIZON} answers of {HORIZON} turns each, 7 of them right. A tabular policy, uniform "
        "at first, learns from eight groups of sixteen per update in two passes, with the same Adam and learning rate, and with "
        f"the same weight {STRENGTH} of the entropy term where there is one. The penalty outside the band is a distance, as the "
        "authors' constant has no gradient; with that constant it is one more arm, which must come out as the bonus alone. Updates "
        "and learning rate were sized with GRPO alone on seed 99, which is not among those reported, so that its entropy falls "
        "within the run. Not tested: language models, environments that answer, and the schedule of the penalty over a run."
    ),
    arms={
        "grpo": "GRPO without any entropy term",
        "bonus": "the same and an entropy bonus",
        "epo": "the same and the bonus with a band of 0.8 to 1.2 times the past entropy of the turn",
        "epo-constant": "the same with a constant penalty outside the band",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "entropy": "surprise per action of the training rollouts in nats, mean of the second half of the run",
        "swing": "mean change of that surprise from one update to the next, second half of the run, in nats",
    },
    effects=(
        Effect("truth", "epo", "grpo", "higher", delta=0.02),
        Effect("truth", "epo", "bonus", "higher", delta=0.02),
        Effect("swing", "epo", "bonus", "lower", delta=0.002),
    ),
    run=run,
    methods=("loss:epo", "credit:turn-entropy", "loss:entropy-bonus", "loss:ppo-clip", "advantage:grpo", "task:tree"),
)
