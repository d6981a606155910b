"""SubPO: where visits are worth less the more was covered before, must the gains be paid and not each visit's own worth?

payoff reproduce subpo
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from payoff.recipes import Effect, Recipe, expected, train_arm
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories

ITEMS, VISITS, PLACES = 6, 4, 24


class SoFar:
    """What was paid up to every action and at it: gains become the score that they are the gains of."""

    pays = True

    def __call__(self, channel: Channel, traj: Trajectories) -> Channel:
        """The running sum."""
        return channel._replace(value=torch.where(traj.exists, channel.value.cumsum(1), 0))


class Alone:
    """What every visit would cover if it were the only one, whatever was covered before.

    worth: of every item
    """

    pays = True

    def __init__(self, worth: Sequence[float]) -> None:
        self.worth = torch.tensor(worth)

    def __call__(self, channel: Channel, traj: Trajectories) -> Channel:
        """The worth of the item that was visited."""
        return channel._replace(value=torch.where(traj.exists, self.worth[torch.where(traj.exists, traj.actions, 0).long()], 0))


def run(arm: str, seed: int, *, updates: int = 150) -> Mapping[str, float]:
    """A tabular policy that sees all its earlier visits chooses what to visit next; the final policy is judged exactly."""
    rng = torch.Generator().manual_seed(seed)
    table = (torch.rand(ITEMS, PLACES, generator=rng) < 0.3).double()
    weights = torch.rand(PLACES, generator=rng, dtype=torch.float64)
    shape: dict[str, Any] = {"vocabulary": ITEMS, "horizon": VISITS}

    def worth(visits: Sequence[int]) -> float:
        return float(table[list(visits)].amax(0) @ weights)

    leaves = {response: worth([ord(letter) - ord("a") for letter in response]) for response in Tree(**shape).responses}
    greedy: list[int] = []
    for _ in range(VISITS):
        greedy.append(max(range(ITEMS), key=lambda item: worth([*greedy, item])))
    options = {"covers": table.int().tolist(), "weights": weights.tolist()}
    alone = {"name": "payoff.recipes.subpo:Alone", "worth": (table @ weights).tolist()}
    ways: dict[str, list[Any]] = {"modular": [alone, "return-to-go"], "subpo": ["payoff.recipes.subpo:SoFar", "subpo"]}
    term = {"paths": {"pay": [*ways[arm], {"name": "rloo", "over": "step"}]}, "loss": "policy-gradient"}
    file = {
        "task": {"name": "tree", **shape, "leaf_rewards": leaves},
        "policy": {"name": "tabular", **shape},
        "reward": {"pay": {"name": "coverage", **options}},
        "terms": {"policy": {**term, "aggregation": "sequence-mean-token-sum"}},
        "train": {"updates": updates, "starts": 1, "rollouts": 16, "learning_rate": 0.05},
        "evaluate": {"every": 0, "starts": 0},
    }
    _, policy, task = train_arm(file, "", seed)
    return {"truth": expected(policy, task.leaves, 1) / worth(greedy)}


RECIPE = Recipe(
    name="subpo",
    claim=(
        "Where the worth of visits diminishes with what was covered before, policy gradients on the gains cover more than the "
        "same with every visit paid its own worth, which goes to the best place again and again, and come near to greedy "
        "choice."
    ),
    paper="arXiv:2307.13372",
    test=(
        f"{VISITS} visits to {ITEMS} items, each of which covers about a third of {PLACES} weighted places, drawn by the seed. "
        "A tabular policy that sees its earlier visits, 16 rollouts per update, leave-one-out baselines per step and the same "
        "Adam in both arms; judged exactly, as a share of what greedy choice with full knowledge covers. Not tested: policies "
        "that see the last place alone, large state spaces, and the approximation factors."
    ),
    arms={"modular": "every visit is paid what it covers by itself", "subpo": "every visit is credited what is still gained"},
    measures={"truth": "expected weight covered by the final policy, as a share of what greedy choice covers (exact)"},
    effects=(Effect("truth", "subpo", "modular", "higher", delta=0.1),),
    run=run,
    methods=("credit:subpo", "signal:coverage", "advantage:rloo", "task:tree"),
)
