"""PAV: must progress be a prover's other than the policy, and weigh its own step, to help?

payoff reproduce pav
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import immediate, return_to_go
from payoff.exact import credit_gradient, exact_gradient
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe, expected
from payoff.recipes.worlds.writing import climb
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories, place_outcome, prefix_gains

LETTERS, STEPS, ALPHA, BEST_OF = 3, 6, 3.0, 4


class World:
    """A tree of texts, few of them right, and what each prover is worth at every prefix."""

    def __init__(self, seed: int) -> None:
        self.worth = Tree(LETTERS, STEPS, density=0.02, seed=seed).leaves()
        self.policy = Tabular(LETTERS, STEPS, spread=1.0, seed=seed)
        with torch.no_grad():
            own = self.policy.state_values(self.worth)
            self.provers = {
                "weak": self.policy.uniform().state_values(self.worth),
                "best-of-4": 1 - (1 - own) ** BEST_OF,
                "strong": (self.policy.uniform().state_values(self.worth) > 0).double(),
            }
        self.provers["reward"] = self.provers["best-of-4"]

    def right(self, traj: Trajectories) -> Channel:
        """1 at the end of a right text."""
        weight = LETTERS ** torch.arange(STEPS - 1, -1, -1)
        value = self.worth[(traj.actions * weight).sum(1)]
        return place_outcome(value, torch.ones_like(value, dtype=torch.bool), traj)

    def weights(self, arm: str, traj: Trajectories) -> Channel:
        """The weight of every action: the return, and for the arms with progress its mean with that, ALPHA to 1."""
        right = self.right(traj)
        whole = return_to_go(right, traj)
        if arm == "outcome":
            return whole
        with torch.no_grad():
            table = self.policy.state_values(self.worth) if arm == "own" else self.provers[arm]
        state, alive = self.policy.tree.states(traj.actions, traj.length)
        gains = prefix_gains(torch.where(alive, table[state], right.value.sum(1, keepdim=True)), traj)
        progress = Channel(gains, right.valid)
        credit = return_to_go(progress, traj) if arm == "reward" else immediate(progress, traj)
        return whole._replace(value=(whole.value + ALPHA * credit.value) / (1 + ALPHA))

    def baselined(self, arm: str, traj: Trajectories) -> Channel:
        """The weights less the mean of the others' at the same step."""
        return leave_one_out(self.weights(arm, traj), traj, over="step")


def run(arm: str, seed: int, *, updates: int = 100, rollouts: int = 16) -> Mapping[str, float]:
    """A tabular policy learns by policy gradients from samples; provers' values are exact, and so is what it is judged by."""
    world, rng = World(seed), torch.Generator().manual_seed(seed)
    truth = exact_gradient(world.policy, world.worth)
    climbed = credit_gradient(world.policy, lambda traj: world.weights(arm, traj))
    cosine = float(torch.nn.functional.cosine_similarity(climbed, truth, dim=0))
    optimiser = torch.optim.SGD(world.policy.parameters(), lr=3.0)
    chances = []
    for update in range(updates):
        texts = world.policy.rollout([Start("tree", {})], rollouts, rng)
        climb(world.policy, optimiser, texts, world.baselined(arm, texts))
        if update % 5 == 4 or update + 1 == updates:
            chances.append(expected(world.policy, lambda _: world.worth, 1))
    return {"truth": chances[-1], "speed": sum(chances) / len(chances), "cosine": cosine}


RECIPE = Recipe(
    name="pav",
    claim=(
        "Progress of a prover other than the policy, such as the best of four of the policy it began as or even a weak one, makes "
        "learning faster than the policy's own progress does when it weighs the step that made it; the same progress paid as a "
        "reward, each step weighed by the sum from there on, changes nothing."
    ),
    paper="arXiv:2410.08146",
    test=(
        f"Texts of {STEPS} letters out of {LETTERS}, 2 % of them right, a tabular policy that begins at random, sixteen rollouts "
        f"an update, a leave-one-out baseline at every step, plain gradient steps of one rate. Weights are (return + {ALPHA:g} x "
        f"progress) / {1 + ALPHA:g}, so that a change of length alone does not count as help. Values of every prover are exact: "
        "the own policy's as it is at the time, of provers that stay as they are. That almost all arms end near 1 was seen on "
        "two other seeds of 150 updates before `speed` was made the measure and updates were cut to 100. Not tested: "
        "estimated values, which cost rollouts and favour whoever needs few; language models; and beam search with progress."
    ),
    arms={
        "outcome": "the outcome alone",
        "own": "and the progress of the policy itself, as it is",
        "weak": "and the progress of a policy that takes every letter evenly",
        "best-of-4": "and the progress of the best of four continuations by the policy as it began",
        "strong": "and the progress of a prover that is right wherever it is still possible",
        "reward": "the outcome and the progress of best-of-4, paid as a reward: each step weighed by the sum from there on",
    },
    measures={
        "truth": "probability of a right text after the last update (exact)",
        "speed": "the same, mean of every fifth update",
        "cosine": "of the angle between the expected gradient and the true one, before the first update (exact)",
    },
    effects=(
        Effect("speed", "best-of-4", "own", "higher", delta=0.05),
        Effect("speed", "weak", "own", "higher", delta=0.05),
        Effect("cosine", "reward", "outcome", "not lower", delta=0.001),
        Effect("speed", "reward", "outcome", "not lower", delta=0.05),
        Effect("speed", "outcome", "reward", "not lower", delta=0.05),
    ),
    run=run,
    methods=("credit:immediate", "credit:return-to-go", "advantage:rloo", "loss:policy-gradient", "model:pav"),
    seeds=8,
)
