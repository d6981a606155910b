"""PF-PPO: does it help to train on the best and worst answers of a reward model that knows least in the middle of its range?

payoff reproduce pf-ppo
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from payoff.pipeline import Start
from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.sampling.policy_filtration import choose_filtration
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, NOISE = 8, 0.5
STRATEGIES = {"none": "all", "best": "best", "best-random": "best-random", "best-worst": "best-worst"}


class Unsure:
    """Prompts with 49 answers whose worth is even in -1..1; the proxy's error has standard deviation NOISE (1 - worth^2)."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @cached_property
    def tree(self) -> Tree:
        rng = torch.Generator().manual_seed(self.seed)
        worth = 2 * torch.rand(PROMPTS, 49, generator=rng, dtype=torch.float64) - 1
        return Tree(vocabulary=7, horizon=2, prompts=PROMPTS, leaf_rewards=[self._table(row) for row in worth])

    @cached_property
    def proxies(self) -> list[dict[str, float]]:
        rng = torch.Generator().manual_seed(self.seed + 1_000_000)
        worth = torch.stack([self.tree.leaves(k) for k in range(PROMPTS)])
        error = torch.randn(worth.shape, generator=rng, dtype=torch.float64)
        return [self._table(row) for row in worth + NOISE * (1 - worth.square()) * error]

    def starts(self, n: int, rng: torch.Generator) -> list[Start]:
        """n starts drawn evenly from the prompts."""
        drawn = self.tree.starts(n, rng)
        return [Start(s.id, {**s.fields, "proxy_rewards": self.proxies[s.fields["table"]]}) for s in drawn]

    def truth(self, traj: Trajectories) -> Channel:
        """What each answer is truly worth."""
        return self.tree.truth(traj)

    def _table(self, row: torch.Tensor) -> dict[str, float]:
        return dict(zip(Tree(vocabulary=7, horizon=2).responses, row.tolist(), strict=True))


def explained(task: Unsure, strategy: str, seed: int) -> float:
    """R^2 of truth on proxy among what the strategy would draw of fives that the untrained (uniform) policy answers."""
    rng = torch.Generator().manual_seed(seed)
    answer = torch.randint(49, (PROMPTS, 200), generator=rng)
    truth = torch.stack([task.tree.leaves(k)[answer[k]] for k in range(PROMPTS)]).flatten()
    table = torch.tensor([list(task.proxies[k].values()) for k in range(PROMPTS)], dtype=torch.float64)
    proxy = table.gather(1, answer).flatten()
    group = torch.arange(len(truth)) // 5
    found = choose_filtration(proxy, truth, torch.ones_like(group) > 0, group, strategies=[strategy])  # type: ignore[list-item]
    return found.explained[strategy] or 0.0


def run(arm: str, seed: int, *, updates: int = 120) -> Mapping[str, float]:
    """PPO with a critic by a tabular policy, five rollouts of each start; the arms differ in which of the five are trained on."""
    ppo: dict[str, Any] = {
        "policy": {"paths": {"correct": ["lambda-return", "subtract-values"]}, "then": ["whiten"], "loss": "ppo-clip"},
        "value": {"paths": {"correct": ["lambda-return"]}, "loss": "clipped-value", "weight": 0.5},
    }
    file = {
        "task": {"name": "payoff.recipes.pf_ppo:Unsure", "seed": seed},
        "policy": {"name": "tabular", "vocabulary": 7, "horizon": 2, "starts": PROMPTS, "critic": True},
        "reward": {"correct": "tree-proxy"},
        "selection": [{"name": "pf-ppo", "strategy": STRATEGIES[arm], "how": "filter" if arm == "none" else "resample"}],
        "terms": ppo,
        "train": {"updates": updates, "starts": 8, "rollouts": 5, "epochs": 2, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    policy = train_arm(file, "", seed).policy
    task = Unsure(seed=seed)
    proxy = [torch.tensor(list(table.values()), dtype=torch.float64) for table in task.proxies]
    return {
        "truth": expected(policy, task.tree.leaves, PROMPTS),
        "proxy": expected(policy, lambda k: proxy[k], PROMPTS),
        "explained": explained(task, STRATEGIES[arm], seed),
    }


RECIPE = Recipe(
    name="pf-ppo",
    claim=(
        "With a reward model that knows least in the middle of its range, PPO on the best and a random, or the best and the worst, of "  # noqa: E501
        "several answers ends with truly better ones than PPO on all of them, and PPO on the best alone with worse; and how well "
        "proxy explains truth among what is drawn foretells it."
    ),
    paper="arXiv:2409.06957",
    test=(
        f"{PROMPTS} prompts with 49 answers worth evenly -1 to 1; the proxy's error, drawn once for each answer, has standard deviation "  # noqa: E501
        f"{NOISE:g} (1 - worth^2). A tabular policy, uniform at first, PPO with a critic's table, whitened advantages and Adam, two "  # noqa: E501
        "epochs; five rollouts of each of eight starts per update in every arm, and as many rows trained on. The final policy is "
        "judged exactly. Not tested: code, a KL penalty, larger groups, and the variants that filter without repeats."
    ),
    arms={
        "none": "all five answers",
        "best": "five draws that all are the best answer",
        "best-random": "five draws, each the best answer or, as often, one of the others",
        "best-worst": "five draws, each the best or the worst",
    },
    measures={
        "truth": "expected worth of the final policy's answer, from -1 to 1 (exact)",
        "proxy": "expected proxy score of it (exact)",
        "explained": "R^2 of truth on proxy among what is drawn of the untrained policy's answers",
    },
    effects=(
        Effect("truth", "best-random", "none", "higher", delta=0.02),
        Effect("truth", "best-worst", "none", "higher", delta=0.02),
        Effect("truth", "best", "none", "lower", delta=0.02),
        Effect("explained", "best-worst", "none", "higher", delta=0.02),
    ),
    run=run,
    methods=("selection:pf-ppo", "loss:ppo-clip", "loss:clipped-value", "advantage:whiten", "credit:lambda-return", "task:tree"),
)
