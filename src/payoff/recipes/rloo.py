"""RLOO: is it better to learn from all samples against each other than to imitate the best of them?

payoff reproduce rloo
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, VOCABULARY, HORIZON = 8, 4, 4


def imitate(channel: Channel, traj: Trajectories) -> Channel:
    """Weigh every action by 1, whatever it was paid: with the plain policy gradient this is supervised learning of these rows."""
    return Channel(torch.where(channel.valid, torch.ones_like(channel.value), 0), channel.valid, channel.reasons)


def run(arm: str, seed: int, *, updates: int = 300) -> Mapping[str, float]:
    """A tabular policy, four samples of each of eight starts per update in either arm; the final policy is judged exactly."""
    responses = Tree(vocabulary=VOCABULARY, horizon=HORIZON).responses
    worth = torch.randn(PROMPTS, len(responses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tables = [dict(zip(responses, row.tolist(), strict=True)) for row in worth]
    loss = {"loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}
    file = {
        "task": {"name": "tree", "vocabulary": VOCABULARY, "horizon": HORIZON, "prompts": PROMPTS, "leaf_rewards": tables},
        "policy": {"name": "tabular", "vocabulary": VOCABULARY, "horizon": HORIZON, "starts": PROMPTS},
        "reward": {"score": "tree-leaf"},
        "arms": {
            "raft": {
                "selection": [{"name": "top-k", "k": 1, "by": "score"}],
                "terms": {"policy": {"paths": {"score": ["payoff.recipes.rloo:imitate"]}, **loss}},
            },
            "rloo": {"terms": {"policy": {"paths": {"score": ["total", "rloo"]}, **loss}}},
        },
        "train": {"updates": updates, "starts": 8, "rollouts": 4, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(file, arm, seed)
    policy, task = trained.policy, trained.task
    return {"truth": expected(policy, task.leaves, PROMPTS), "entropy": trained.end("entropy")}


RECIPE = Recipe(
    name="rloo",
    claim=(
        "With the same samples, REINFORCE with a leave-one-out baseline optimises the reward better than fine-tuning on the best "
        "of the samples (RAFT), which throws the others away."
    ),
    paper="arXiv:2402.14740",
    test=(
        f"{PROMPTS} prompts with {VOCABULARY**HORIZON} answers each, whose worth is standard normal and is the reward. A tabular "
        "policy, uniform at first, sees four answers of each of eight prompts per update in either arm, with the same Adam and "
        "learning rate, and is judged exactly. Not tested: language models, a KL penalty, rewards with noise, and PPO."
    ),
    arms={
        "raft": "supervised learning of the best of four answers",
        "rloo": "policy gradient of all four, each against the mean of the other three",
    },
    measures={
        "truth": "expected worth of the final policy's answer, in standard deviations of the answers (exact)",
        "entropy": "surprise per action at the end, in nats",
    },
    effects=(Effect("truth", "rloo", "raft", "higher", delta=0.1),),
    run=run,
    methods=("advantage:rloo", "selection:top-k", "loss:policy-gradient", "task:tree"),
)
