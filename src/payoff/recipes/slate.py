"""SLATE: how much quieter is the gradient when every step is compared with siblings of its own, not with whole rollouts?

payoff reproduce slate
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import total
from payoff.exact import compare, exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.trajectories import Channel, Rewards, Trajectories

STEPS, ACTIONS = 4, 2


def weighed(rewards: Rewards, traj: Trajectories) -> Channel:
    """All that a trajectory is paid, against the others of its group."""
    return leave_one_out(total(rewards["reward"], traj), traj)


def whole(policy: Tabular, paid: Tensor, rollouts: int) -> tuple[Tensor, float]:
    """Expected gradient of whole rollouts compared with one another, and its variance (trace of the covariance)."""
    terms, reward = [Term(weighed, policy_gradient, sequence_sum)], {"reward": paid}  # type: ignore[arg-type]  # channels, not pairs
    covariance = gradient_covariance(policy, terms, reward, group_size=rollouts)
    return expected_gradient(policy, terms, reward, group_size=rollouts), float(covariance.trace())


def stepwise(policy: Tabular, worth: Tensor, rollouts: int) -> tuple[Tensor, float]:
    """The same of one group of candidates for every step, one of them drawn evenly to go on from.

    Whether a prefix is passed does not depend on the candidates drawn at it, and prefixes have logits of their own: so the second
    moments add up, each times the probability of passing.
    """
    passed, directions, second = policy.occupancy().detach(), [], 0.0
    for prefix, chance in enumerate(passed.tolist()):
        step = Tabular(ACTIONS, 1, logits=policy.logits.detach()[0, prefix : prefix + 1])
        depth = int(math.log2(prefix + 1))
        direction, variance = whole(step, worth[depth], rollouts)
        directions.append(chance * direction)
        second += chance * (variance + float(direction.square().sum()))
    expected = torch.cat(directions)
    return expected, second - float(expected.square().sum())


def run(arm: str, seed: int, *, rollouts: int = 4) -> Mapping[str, float]:
    """Every batch that either way of sampling can draw is enumerated: there is no noise but that of rewards and policy."""
    worth = torch.randn(STEPS, ACTIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = torch.randn(STEPS, ACTIONS, generator=torch.Generator().manual_seed(seed + 1_000_000), dtype=torch.float64) / 2
    policy = Tabular(ACTIONS, STEPS, logits=logits.repeat_interleave(2 ** torch.arange(STEPS), 0))
    paid = worth[torch.arange(STEPS), policy.sequences().actions]
    expected, variance = stepwise(policy, worth, rollouts) if arm == "steps" else whole(policy, paid, rollouts)
    found = compare(expected, exact_gradient(policy, paid))
    return {"variance": math.log2(variance), "cosine": found.cosine, "scale": found.scale}


RECIPE = Recipe(
    name="slate",
    claim=(
        "Where the rewards of the steps do not depend on one another, comparing candidates for one step at a time, rather "
        "than whole rollouts, lowers the variance by up to as many times as there are steps."
    ),
    paper="arXiv:2602.23440",
    test=(
        f"Sequences of {STEPS} steps with {ACTIONS} actions each; what a step is paid is standard normal and depends on its "
        "position and action alone, and what the policy does on the position alone, without which the rewards of two steps "
        "are not independent: that is the theorem's premise. Four rollouts of all steps against four candidates for every "
        "step, hence as many generated steps; leave-one-out baselines in both; the variance is that of the gradient (the "
        "paper's theorem is about the advantage). All batches are enumerated. A seed draws rewards and logits. Not tested: "
        "drawing the candidate to go on from by reward (here evenly), step rewards that depend on what came before, for which "
        "a step's own reward is myopic, and search agents."
    ),
    arms={"rollouts": "whole rollouts, each paid its sum, compared with one another", "steps": "candidates of one step compared"},
    measures={
        "variance": "log2 of the gradient's variance, summed over the logits (exact); 1 less is half of it",
        "cosine": "of the angle between the expected and the true gradient (exact)",
        "scale": "length of the expected gradient along the true one, as a share of it (exact)",
    },
    effects=(
        Effect("variance", "steps", "rollouts", "lower", delta=0.5),
        Effect("cosine", "steps", "rollouts", "not lower", delta=0.01),
    ),
    run=run,
    methods=("advantage:rloo", "credit:total", "loss:policy-gradient", "selection:slate"),
)
