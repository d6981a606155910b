"""PAR: does a bounded, centred reward keep a policy from running into a proxy's one absurdly paid answer?

payoff reproduce par
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from payoff.pipeline import Start
from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

PROMPTS, REFERENCES, BONUS = 8, 4, 12.0


class Answers:
    """Prompts with 216 answers each, of normally distributed worth; the proxy pays the worst one BONUS more than the best.

    Every start carries what the proxy gives to a few answers of the untrained (uniform) policy: PAR's references.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @cached_property
    def tree(self) -> Tree:
        rng = torch.Generator().manual_seed(self.seed)
        responses = Tree(vocabulary=6, horizon=3).responses
        worth = torch.randn(PROMPTS, len(responses), generator=rng, dtype=torch.float64)
        tables = [dict(zip(responses, row.tolist(), strict=True)) for row in worth]
        return Tree(vocabulary=6, horizon=3, prompts=PROMPTS, leaf_rewards=tables, loophole="leaf", loophole_reward=BONUS)

    @cached_property
    def references(self) -> list[list[float]]:
        rng = torch.Generator().manual_seed(self.seed + 1_000_000)
        n = len(self.tree.responses)
        return [self.tree.proxy(k)[torch.randint(n, (REFERENCES,), generator=rng)].tolist() for k in range(PROMPTS)]

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n starts drawn evenly from the prompts."""
        drawn = self.tree.starts(n, rng)
        return [Start(s.id, {**s.fields, "reference_rewards": self.references[s.fields["table"]]}) for s in drawn]

    def truth(self, traj: Trajectories) -> Channel:
        """What each answer is truly worth."""
        return self.tree.truth(traj)


def run(arm: str, seed: int, *, updates: int = 300) -> Mapping[str, float]:
    """A tabular policy learns one table per prompt; the arms differ in how the proxy's score is shaped and nothing else."""

    def terms(shaping: str) -> dict[str, object]:
        path = [shaping, "total", "rloo"]
        return {"policy": {"paths": {"score": path}, "loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}}

    file = {
        "task": {"name": "payoff.recipes.par:Answers", "seed": seed},
        "policy": {"name": "tabular", "vocabulary": 6, "horizon": 3, "starts": PROMPTS},
        "reward": {"score": "tree-proxy"},
        "arms": {
            "centred": {"terms": terms("par-centred")},
            "mean-std": {"terms": terms("par-mean-std")},
            "par": {"terms": terms("par")},
        },
        "train": {"updates": updates, "starts": 8, "rollouts": 8, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    policy = train_arm(file, arm, seed).policy
    tree = Answers(seed=seed).tree
    return {
        "truth": expected(policy, tree.leaves, PROMPTS),
        "proxy": expected(policy, tree.proxy, PROMPTS),
        "hacked": expected(policy, lambda k: (tree.proxy(k) != tree.leaves(k)).double(), PROMPTS),
    }


RECIPE = Recipe(
    name="par",
    claim=(
        "A reward that is bounded, steep at the start, and centred on the scores of reference answers mitigates the hacking of a "
        "flawed reward model: the policy ends with truly better answers than under linear shapings of the same scores."
    ),
    paper="arXiv:2502.18770",
    test=(
        f"{PROMPTS} prompts with 216 answers each, whose worth is standard normal. The proxy tells the truth but for the worst "
        f"answer of a prompt, which it pays {BONUS:g} more than the best. A tabular policy, uniform at first, learns by policy "
        f"gradients with a leave-one-out baseline and Adam; {REFERENCES} answers of the uniform policy are the references. There "
        "is no KL penalty to help either arm. The final policy is judged exactly. Not tested: reward models that are learned, and "
        "that err in more than one answer."
    ),
    arms={
        "centred": "proxy minus the mean of the references' scores: centred, not bounded",
        "mean-std": "proxy standardised by the running mean and deviation: linear as well",
        "par": "the probability of beating a reference, averaged over the references: bounded and centred",
    },
    measures={
        "truth": "expected worth of the final policy's answer, in standard deviations of the answers (exact)",
        "proxy": "expected proxy score of the final policy's answer, same unit (exact)",
        "hacked": "probability that the final policy gives the overpaid answer (exact)",
    },
    effects=(
        Effect("truth", "par", "centred", "higher", delta=0.25),
        Effect("truth", "par", "mean-std", "higher", delta=0.25),
    ),
    run=run,
    methods=("shaping:par", "shaping:par-centred", "shaping:par-mean-std", "advantage:rloo", "task:tree"),
)
