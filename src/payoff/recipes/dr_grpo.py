"""Dr. GRPO: do GRPO's two normalisations make wrong answers grow, and does leaving them out stop it?

payoff reproduce dr-grpo
"""

from __future__ import annotations

from collections.abc import Mapping

from payoff.recipes import Effect, Recipe, expected, train_arm

PROMPTS, HORIZON = 16, 10
SHAPE = {"vocabulary": 3, "horizon": HORIZON, "stop": 2}


def run(arm: str, seed: int, *, updates: int = 300) -> Mapping[str, float]:
    """A tabular policy that may stop at any time; rightness has nothing to do with length. The final policy is enumerated."""
    file = {
        "task": {"name": "tree", **SHAPE, "prompts": PROMPTS, "density": 0.2, "seed": seed},
        "policy": {"name": "tabular", **SHAPE, "starts": PROMPTS},
        "reward": {"correct": "tree-leaf"},
        "arms": {
            "grpo": {
                "terms": {
                    "policy": {
                        "paths": {"correct": ["total", "grpo"]},
                        "loss": "ppo-clip",
                        "aggregation": "sequence-mean-token-mean",
                    }
                }
            },
            "dr-grpo": {
                "terms": {
                    "policy": {
                        "paths": {"correct": ["total", "dr-grpo"]},
                        "loss": "ppo-clip",
                        "aggregation": {"name": "constant-length", "max_length": HORIZON},
                    }
                }
            },
        },
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.03},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)
    length = policy.sequences().length.double()
    wrong_length = []
    for prompt in range(PROMPTS):
        wrong = policy.probabilities(prompt).detach() * (1 - task.leaves(prompt))
        wrong_length.append(float(wrong @ length / wrong.sum()))
    return {
        "wrong_length": sum(wrong_length) / PROMPTS,
        "length": expected(policy, lambda _: length, PROMPTS),
        "truth": expected(policy, task.leaves, PROMPTS),
    }


RECIPE = Recipe(
    name="dr-grpo",
    claim=(
        "Dividing by each answer's own length and by the group's spread makes wrong answers needlessly long; without both "
        "divisions they stay shorter and nothing is lost in accuracy."
    ),
    paper="arXiv:2503.20783",
    test=(
        f"{PROMPTS} prompts with 2 047 answers each of 1 to {HORIZON} actions; a fifth of the answers, drawn at random, is right, "
        "so length says nothing about rightness. A tabular policy, at first as likely to stop as to go on in either of two ways, "
        "learns from eight groups of eight per update. The final policy is enumerated, so that the length of its wrong answers is "
        "exact even where they have become rare. Not tested: language models, whose answers share parameters across lengths."
    ),
    arms={
        "grpo": "group mean and spread; every answer's terms averaged over its own length",
        "dr-grpo": "group mean alone; every answer's terms summed over the same constant",
    },
    measures={
        "wrong_length": "expected actions of a wrong answer of the final policy, mean over prompts (exact)",
        "length": "expected actions of any answer of the final policy (exact)",
        "truth": "probability of a right answer under the final policy (exact)",
    },
    effects=(
        Effect("wrong_length", "dr-grpo", "grpo", "lower", delta=0.25),
        Effect("truth", "dr-grpo", "grpo", "not lower", delta=0.05),
    ),
    run=run,
    methods=(
        *("advantage:dr-grpo", "advantage:grpo", "aggregation:constant-length", "aggregation:sequence-mean-token-mean"),
        *("loss:ppo-clip", "task:tree"),
    ),
)
