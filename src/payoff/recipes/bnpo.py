"""BNPO: is the density of a fitted Beta distribution the scale with the least noise, and does it learn best?

payoff reproduce bnpo
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.advantages.beta_normalised import beta_normalised
from payoff.advantages.group import grpo, mean_baseline
from payoff.pipeline import Transform
from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.trajectories import Trajectories, constant

SPREADS = ((0.5, 0.5), (1.0, 3.0), (6.0, 2.0), (2.0, 2.0))  # of pass rates: a, b of a Beta distribution
PROMPTS, GROUP, BATCHES = 200, 16, 200
ADVANTAGES: dict[str, Transform] = {"reinforce": mean_baseline, "grpo": grpo, "bnpo": beta_normalised}
NAMES = {"reinforce": "mean-baseline", "grpo": "grpo", "bnpo": "bnpo"}


def noise(advantage: Transform, rates: Float[Tensor, " M"], rng: torch.Generator) -> float:
    """Total variance of a batch's gradient over the squared size of its mean, which no factor changes.

    Every prompt has one parameter, the logit of its pass rate p, so that grad log pi of an answer is R - p.
    """
    group = torch.arange(len(rates)).repeat_interleave(GROUP)
    n = len(group)
    traj = Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=group,
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, 1, dtype=torch.int64),
        id=torch.arange(n),
    )
    p = rates.repeat_interleave(GROUP)
    drawn = []
    for _ in range(BATCHES):
        reward = torch.bernoulli(p, generator=rng)
        weight = advantage(constant(reward, torch.ones(n, dtype=torch.bool)), traj).value[:, 0]
        drawn.append((weight * (reward - p)).view(-1, GROUP).mean(1))
    gradient = torch.stack(drawn)
    return float(gradient.var(0).sum() / gradient.mean(0).square().sum())


def run(arm: str, seed: int, *, updates: int = 60) -> Mapping[str, float]:
    """Noise at fixed pass rates of four kinds; and a tabular policy trained on prompts of very different difficulty."""
    rng = torch.Generator().manual_seed(seed)
    noises = []
    for a, b in SPREADS:
        uniform = torch.rand(PROMPTS, generator=rng, dtype=torch.float64)
        grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
        mass = (grid ** (a - 1) * (1 - grid) ** (b - 1)).cumsum(0)
        rates = grid[torch.searchsorted(mass / mass[-1], uniform).clamp(max=999)]
        noises.append(noise(ADVANTAGES[arm], rates, rng))
    shape: dict[str, Any] = {"vocabulary": 4, "horizon": 2}
    term = {"paths": {"correct": ["total", NAMES[arm]]}, "loss": "ppo-clip", "aggregation": "sequence-mean-token-sum"}
    file = {
        "task": {"name": "tree", **shape, "prompts": 32, "density": 0.2, "seed": seed},
        "policy": {"name": "tabular", **shape, "starts": 32, "spread": 2.0, "seed": seed},
        "reward": {"correct": "tree-leaf"},
        "arms": {arm: {"terms": {"policy": term}}},
        "train": {"updates": updates, "starts": 16, "rollouts": GROUP, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, arm, seed)
    log_noise = torch.tensor(noises, dtype=torch.float64).log().mean()
    return {"noise": float(log_noise.exp()), "truth": expected(policy, task.leaves, 32)}


RECIPE = Recipe(
    name="bnpo",
    claim=(
        "Dividing a group's centred rewards by a Beta density fitted to the batch's pass rates gives "
        "gradients of less variance than "
        "no scale or GRPO's, and ends with higher accuracy."
    ),
    paper="arXiv:2506.02864",
    test=(
        f"Noise: {PROMPTS} prompts with one logit each and pass rates drawn from four Beta distributions, {GROUP} answers each, "
        f"over {BATCHES} batches. Truth: 32 prompts with 16 answers, a fifth of them right, and a tabular policy that prefers some "
        "answers of each at random, so that pass rates lie between nearly 0 and nearly 1; 16 groups of 16 per update, Adam and "
        "learning rate the same. Not tested: language models, several rewards."
    ),
    arms={
        "reinforce": "less the mean of the group",
        "grpo": "the same over the group's spread",
        "bnpo": "the same over a Beta density fitted to the batch",
    },
    measures={
        "noise": "total variance of a batch's gradient over the squared size of its mean, geometric mean of four kinds of prompts",
        "truth": "probability of a right answer under the final policy (exact)",
    },
    effects=(
        Effect("noise", "bnpo", "reinforce", "lower", delta=0.005),
        Effect("noise", "bnpo", "grpo", "lower", delta=0.005),
        Effect("truth", "bnpo", "grpo", "higher", delta=0.01),
    ),
    run=run,
    methods=("advantage:bnpo", "advantage:grpo", "advantage:mean-baseline", "loss:ppo-clip", "task:tree"),
)
