"""Constrained RLHF: rewards that mislead beyond a point, held at that point by learned weights, against weights that are fixed.

payoff reproduce constrained-rlhf
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.pipeline import Start
from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, POINT, TIED = 4, 0.6, 0.5
KL = 0.2  # the weight of the divergence beside fixed weights, as in the paper
FIXED = 0.5
TUNED = (0.05, 0.15, 0.5)


class Judged:
    """Prompts with 64 answers each, scored by two rewards that go together; best are those where both are at POINT."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @cached_property
    def scores(self) -> Float[Tensor, "2 P L"]:
        """What the two rewards give every answer: mean 0, standard deviation 1 over the answers of a prompt."""
        rng = torch.Generator().manual_seed(self.seed)
        own, other = torch.randn(2, PROMPTS, 64, generator=rng, dtype=torch.float64)
        both = torch.stack([own, TIED * own + (1 - TIED**2) ** 0.5 * other])
        return (both - both.mean(2, keepdim=True)) / both.std(2, keepdim=True)

    @cached_property
    def tree(self) -> Tree:
        worth = -(self.scores - POINT).square().sum(0)
        return Tree(vocabulary=4, horizon=3, prompts=PROMPTS, leaf_rewards=[self._table(row) for row in worth])

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts drawn evenly from the prompts, with what each reward gives every answer."""
        first, second = ([self._table(row) for row in table] for table in self.scores)
        drawn = self.tree.starts(n, rng)
        return [Start(s.id, {**s.fields, "first": first[k], "second": second[k]}) for s in drawn for k in [s.fields["table"]]]

    def truth(self, traj: Trajectories) -> Channel:
        """How near an answer is to the point, in both rewards."""
        return self.tree.truth(traj)

    def _table(self, row: Float[Tensor, " L"]) -> dict[str, float]:
        return dict(zip(Tree(vocabulary=4, horizon=3).responses, row.tolist(), strict=True))


def first(response: str, first: Mapping[str, float]) -> float:
    """The first reward."""
    return first[response]


def second(response: str, second: Mapping[str, float]) -> float:
    """The second reward."""
    return second[response]


def trained(terms: Mapping[str, Any], seed: int, updates: int) -> dict[str, float]:
    """A tabular policy, uniform at first, trained on one mixture of the two rewards and the divergence, and judged exactly."""
    file = {
        "task": {"name": "payoff.recipes.constrained_rlhf:Judged", "seed": seed},
        "policy": {"name": "tabular", "vocabulary": 4, "horizon": 3, "starts": PROMPTS},
        "reward": {
            "first": "payoff.recipes.constrained_rlhf:first",
            "second": "payoff.recipes.constrained_rlhf:second",
            "kl": {"name": "kl-penalty", "estimator": "k1"},
        },
        "terms": {"policy": {**terms, "loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}},
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    policy = train_arm(file, "", seed).policy
    task = Judged(seed=seed)
    means = [expected(policy, table.__getitem__, PROMPTS) for table in task.scores]
    return {
        "truth": expected(policy, task.tree.leaves, PROMPTS),
        "miss": sum(abs(mean - POINT) for mean in means) / 2,
        "overshoot": sum(mean - POINT for mean in means) / 2,
    }


def run(arm: str, seed: int, *, updates: int = 200) -> Mapping[str, float]:
    """Learned weights of normalised advantages, or fixed weights of rewards; the tuned ones are the best of three by the truth."""
    if arm in ("at-least", "equal"):
        scaled = ["total", "rloo", "rms"]
        point = {"first": POINT, "second": POINT}
        mix = {"name": "constrained-rlhf", "thresholds": point, "constraint": arm}
        return trained({"paths": dict.fromkeys(("first", "second", "kl"), scaled), "mix": mix}, seed, updates)

    def fixed(weight: float) -> dict[str, float]:
        mix = {"first": weight, "second": weight, "kl": KL}
        return trained({"paths": {name: ["total", "rloo"] for name in mix}, "mix": mix}, seed, updates)

    if arm == "fixed":
        return fixed(FIXED)
    return max((fixed(weight) for weight in TUNED), key=lambda numbers: numbers["truth"])


RECIPE = Recipe(
    name="constrained-rlhf",
    claim=(
        "Where rewards stop telling what is wanted beyond a point, weights learned as multipliers hold each reward at its point, "
        "and end with truly better answers than fixed weights, tuned ones included."
    ),
    paper="arXiv:2310.04373",
    test=(
        f"{PROMPTS} prompts with 64 answers, each scored by two rewards (standard normal, correlation {TIED:g}); an answer is "
        f"worth minus its squared distance from {POINT:g} in both. A tabular policy, uniform at first, Adam, 8 starts "
        "of 8 rollouts per "
        "update, leave-one-out baselines; the divergence from the start is a reward. The points are given to the constrained arms "
        "as exactly the best of an answer's scores, which flatters them; the tuned arm sees the truth instead, three times. "
        "Multipliers take one step per step of the policy, with the paper's rate and momentum. A rate ten times that was tried on "
        "two seeds before, and swung far around the points. Not tested: finding the points (Nelder-Mead), value heads, language models."  # noqa: E501
    ),
    arms={
        "fixed": f"rewards weighed {FIXED:g} each, the divergence {KL:g}",
        "tuned": f"the same, of the weights {', '.join(f'{w:g}' for w in TUNED)} the one that ends with the best truth",
        "at-least": "normalised advantages weighed by sigmoid multipliers: rewards at or above their points (mu-PPO)",
        "equal": "normalised advantages weighed by tanh multipliers: rewards at their points (xi-PPO)",
    },
    measures={
        "truth": "expected worth of the final policy's answer (exact); 0 is the best there could be",
        "miss": "mean distance of a reward's expected value from its point, in standard deviations of the answers (exact)",
        "overshoot": "the same with its sign: above 0 is beyond the point (exact)",
    },
    effects=(
        Effect("truth", "equal", "fixed", "higher", delta=0.1),
        Effect("truth", "equal", "tuned", "higher", delta=0.1),
        Effect("miss", "equal", "tuned", "lower", delta=0.05),
    ),
    run=run,
    methods=("mixing:constrained-rlhf", "signal:kl-penalty", "advantage:rloo", "advantage:rms", "task:tree"),
)
