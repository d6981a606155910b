"""CAPO: do judged steps help beyond the outcome, and does voting make up for a judge who errs?

payoff reproduce capo
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from payoff.advantages.action_level import standardised_actions
from payoff.credit.returns import immediate, total
from payoff.pipeline import Start, weigh
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.writing import climb
from payoff.shaping.judged_steps import vote
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories, place_outcome

PROMPTS, CHOICES, STEPS, ROLLOUTS, LEAN = 4, 4, 5, 8, 0.8
JUDGES: dict[str, tuple[int, float]] = {  # how many critiques of a solution, and how often each errs about a step
    "outcome": (0, 0.0),
    "right": (1, 0.0),
    "one-tenth": (1, 0.1),
    "three-tenths": (1, 0.3),
    "four-tenth": (4, 0.1),
    "four-three-tenths": (4, 0.3),
}


class Chains:
    """Each prompt has one right choice at every step, and is answered rightly where all are; a policy that leans towards them."""

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.right = torch.randint(CHOICES, (PROMPTS, STEPS), generator=rng)
        tree = Tree(CHOICES, STEPS)
        self.letters = torch.tensor([[ord(letter) - ord("a") for letter in response] for response in tree.responses])
        before = [(CHOICES**t - 1) // (CHOICES - 1) for t in range(STEPS + 1)]
        logits = 0.3 * torch.randn(PROMPTS, before[-1], CHOICES, generator=rng, dtype=torch.float64)
        for t in range(STEPS):
            rows = torch.arange(before[t], before[t + 1])
            for prompt in range(PROMPTS):
                logits[prompt, rows, self.right[prompt, t]] += LEAN
        self.policy = Tabular(CHOICES, STEPS, starts=PROMPTS, logits=logits)

    def accuracy(self) -> tuple[float, float]:
        """(share of right steps, share of right answers) of what the policy writes, exact."""
        steps, answers = 0.0, 0.0
        for prompt in range(PROMPTS):
            chance, good = self.policy.probabilities(prompt).detach(), (self.letters == self.right[prompt]).double()
            steps += float(chance @ good.mean(1)) / PROMPTS
            answers += float(chance @ good.prod(1)) / PROMPTS
        return steps, answers


def critiques(wrong: Tensor, judges: int, error: float, rng: torch.Generator) -> dict[str, Channel]:
    """What judges say of every step, each with errors of its own."""
    sure = torch.ones(len(wrong), 1, dtype=torch.bool)
    flips = torch.rand(judges, *wrong.shape, generator=rng) < error
    return {f"critique/{k}": Channel((wrong ^ flip).double(), sure) for k, flip in enumerate(flips)}


def run(arm: str, seed: int, *, updates: int = 60) -> Mapping[str, float]:
    """The same solutions a step; the outcome weighs 2 and a wrong step 1, as published."""
    judges, error = JUDGES[arm]
    world, rng = Chains(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(world.policy.parameters(), lr=0.05)
    paths = {"correct": [total], "flaws": [immediate]} if judges else {"correct": [total]}
    weights = {"correct": 2.0, "flaws": 1.0} if judges else {"correct": 2.0}
    target = weigh(paths, mix=weights, then=[standardised_actions])  # type: ignore[arg-type]  # credits and an advantage
    along = [world.accuracy()]
    for _ in range(updates):
        traj = sampled(world.policy, rng)
        wrong = traj.actions != world.right[traj.extras["table"]]
        rewards = {"correct": place_outcome((~wrong).all(1).double(), torch.ones(len(traj), dtype=torch.bool), traj)}
        if judges:
            rewards = vote({**rewards, **critiques(wrong, judges, error, rng)}, traj, voting="majority")
        climb(world.policy, optimiser, traj, target(rewards, traj))  # type: ignore[arg-type]  # a channel, not pairs
        along.append(world.accuracy())
    return {"steps": along[-1][0], "answers": along[-1][1], "area": sum(answers for _, answers in along) / len(along)}


def sampled(policy: Tabular, rng: torch.Generator) -> Trajectories:
    """A group of solutions for every prompt."""
    return policy.rollout([Start(str(prompt), {"table": prompt}) for prompt in range(PROMPTS)], ROLLOUTS, rng)


RECIPE = Recipe(
    name="capo",
    claim=(
        "Step verdicts of a judging model beside the outcome give better solutions than the outcome alone, and voting among "
        "several critiques makes up for a judge's errors."
    ),
    paper="arXiv:2508.02298",
    test=(
        f"{PROMPTS} prompts with one right choice out of {CHOICES} at each of {STEPS} steps; an answer is right where all "
        f"steps are. A tabular policy that leans towards the right choices (by {LEAN:g} in the logits, and noise), groups "
        f"of {ROLLOUTS}, Adam with one learning rate for all arms, outcome 2 and flaw 1, the majority of four critiques or "
        "one critique. A judge errs about each step of each solution by itself. Not tested: errors that critiques have in "
        "common, which no vote removes; judging models, which were the paper's; and what critiques cost. The paper's "
        "levels are a reconstruction."
    ),
    arms={
        "outcome": "GRPO on the outcome alone",
        "right": "one critique that is never wrong",
        "one-tenth": "one critique, wrong about a step with probability 0.1",
        "three-tenths": "one critique, wrong with probability 0.3",
        "four-tenth": "the majority of four such critiques at 0.1 each",
        "four-three-tenths": "the majority of four such critiques at 0.3 each",
    },
    measures={
        "steps": "share of right steps under the final policy (exact)",
        "answers": "share of right answers under the final policy (exact)",
        "area": "share of right answers, mean over all updates (exact)",
    },
    effects=(
        Effect("steps", "one-tenth", "outcome", "higher", delta=0.02),
        Effect("answers", "four-tenth", "outcome", "higher", delta=0.05),
        Effect("steps", "four-three-tenths", "three-tenths", "higher", delta=0.02),
    ),
    run=run,
    methods=("shaping:capo", "advantage:capo", "credit:immediate", "credit:total", "loss:policy-gradient"),
)
