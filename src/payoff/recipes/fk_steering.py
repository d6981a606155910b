"""FK steering: do particles that are drawn again while they are denoised find better samples than the best of as many?

payoff reproduce fk-steering
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from payoff.policies.flow_models import flow
from payoff.recipes import Effect, Recipe
from payoff.search.steering import steer
from payoff.tasks.mixture import Mixture, mixture_distance
from payoff.trajectories import Trajectories, outcome

MODES, PARTICLES, STRENGTH = 8, 4, 10.0


def run(arm: str, seed: int, *, starts: int = 500) -> Mapping[str, float]:
    """A flow model fitted from scratch, and of every start the particle with the highest reward, in all arms."""
    task = Mixture(modes=MODES)
    policy = flow("mixture", data_options={"modes": MODES}, pretrain_steps=600, seed=seed)
    goal = task.distribution.means[0].float()

    def promise(traj: Trajectories, at: Tensor) -> Tensor:
        """The reward of the data that the network expects, which costs no call but that of the next step."""
        with torch.no_grad():
            clean = policy.evaluate(traj, frozenset({"clean"})).more["clean"]
        return -(clean[torch.arange(len(traj)), at].float() - goal).norm(dim=1)

    ways: dict[str, dict[str, Any]] = {
        "best": {"every": None},
        "max": {"potential": "max"},
        "difference": {"potential": "difference"},
    }
    options: dict[str, Any] = {"every": 2, "first": 2, "value": promise, **ways[arm]}
    rng = torch.Generator().manual_seed(seed)
    found = steer(policy, task.held_out_starts(starts), mixture_distance, rng, particles=PARTICLES, strength=STRENGTH, **options)
    pay = outcome(mixture_distance(found.traj)["mixture-distance"], found.traj)[0].reshape(starts, PARTICLES)
    good = outcome(task.truth(found.traj), found.traj)[0].reshape(starts, PARTICLES)
    return {"reward": float(pay.amax(1).mean()), "truth": float(good.gather(1, pay.argmax(1, keepdim=True)).mean())}


RECIPE = Recipe(
    name="fk-steering",
    claim=(
        "Steered by what the half-denoised samples promise, a few particles end with a higher reward than the best of as many "
        "independent samples."
    ),
    paper="arXiv:2501.06848",
    test=(
        f"A flow model of {MODES} modes in the plane, fitted from scratch, ten noisy steps; the reward is minus the distance "
        f"to one mode. {PARTICLES} particles, strength {STRENGTH:g}, drawn again after every second step; the promise is the "
        "reward of the data that the network expects there; of every start the particle with the highest reward is kept, in "
        "all arms. A seed draws the network and the noise. Not tested: images, text, learned rewards, equal wall time, and "
        "how different the samples remain."
    ),
    arms={
        "best": f"the best of {PARTICLES} independent samples",
        "max": "particles weighed by the greatest promise so far, the paper's choice for images",
        "difference": "particles weighed by how much the promise grew, the paper's choice for text",
    },
    measures={
        "reward": "mean reward of the sample that is kept, minus the distance to the wanted mode",
        "truth": "share of the samples kept that lie within three spreads of the wanted mode",
    },
    effects=(
        Effect("reward", "max", "best", "higher", delta=0.1),
        Effect("reward", "difference", "best", "higher", delta=0.1),
    ),
    run=run,
    methods=("search:fk-steering", "policy:flow", "task:mixture"),
)
