"""OP-GFN: does learning from the order of rewards alone bring out the best cells, and all of them?

payoff reproduce op-gfn
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.recipes import Effect, Recipe, train_arm
from payoff.trajectories import Channel, Trajectories


class Power:
    """A log-reward times an exponent: the reward to that power, as a GFlowNet with a tuned temperature is paid."""

    pays = True

    def __init__(self, exponent: float = 5.0) -> None:
        self.exponent = exponent

    def __call__(self, channel: Channel, traj: Trajectories) -> Channel:
        """Every payment times the exponent."""
        return channel._replace(value=channel.value * self.exponent)


def run(arm: str, seed: int, *, updates: int = 300) -> Mapping[str, float]:
    """A table of logits walks a grid with four peaks; what it ends with is known exactly."""

    def terms(loss: str, *path: object) -> dict[str, object]:
        return {"balance": {"paths": {"reward": list(path)}, "loss": loss, "aggregation": "trajectory-mean"}}

    task = {"name": "hypergrid", "dimensions": 2, "side": 8}
    file = {
        "task": task,
        "policy": {"name": "gflownet", "task": task, "network": "table", "log_z_rate": 2.0, "exploration": 0.01},
        "reward": {"reward": "log-reward"},
        "arms": {
            "balance": {"terms": terms("trajectory-balance")},
            "power": {"terms": terms("trajectory-balance", "payoff.recipes.op_gfn:Power")},
            "order": {"terms": terms("op-gfn")},
        },
        "train": {"updates": updates, "starts": 1, "rollouts": 32, "learning_rate": 0.05, "gradient_clip": 0.0},
        "evaluate": {"every": 0, "starts": 1},
    }
    policy, grid = (found := train_arm(file, arm, seed)).policy, found.task
    with torch.no_grad():
        p = policy.object_distribution().double()
    reward = grid.log_reward(grid.state(torch.arange(grid.state_count))).exp()
    peaks = p[reward >= grid.base + grid.plateau + grid.peak - 1e-9]
    share = peaks / peaks.sum().clamp(min=1e-300)
    return {"truth": float(peaks.sum()), "peaks": float((-share * share.clamp(min=1e-300).log()).sum().exp())}


RECIPE = Recipe(
    name="op-gfn",
    claim=(
        "Trained on the order of rewards alone, with no exponent to tune, a GFlowNet puts more of its mass on the best "
        "objects than one trained on the rewards, and finds no fewer of them than one trained on the rewards to a high power."
    ),
    paper="arXiv:2310.00386",
    test=(
        "The standard reward on an 8 x 8 grid, with four peaks. A table of logits, uniform backward policy, one action in a "
        "hundred drawn evenly, 32 walks per update and the same Adam in all arms. Judged exactly. A seed draws the walks; the "
        "start is the same. Not tested: networks, several objectives, learned backward policies, other exponents than 5, and "
        "what follows after: the loss has no minimum, so that training for ever ends with fewer peaks."
    ),
    arms={
        "balance": "trajectory balance on the reward",
        "power": "trajectory balance on the reward to the fifth power",
        "order": "pairwise cross-entropy on which of two walks ended better",
    },
    measures={
        "truth": "probability of ending on one of the four peaks (exact)",
        "peaks": "peaks that are found: exp of the entropy of the distribution over peaks, 1 to 4 (exact)",
    },
    effects=(
        Effect("truth", "order", "balance", "higher", delta=0.05),
        Effect("peaks", "order", "power", "not lower", delta=0.25),
    ),
    run=run,
    methods=("loss:op-gfn", "loss:trajectory-balance", "policy:gflownet", "task:hypergrid"),
)
