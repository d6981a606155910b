"""DLER: does cutting off what is too long, with batch-wise advantages and resampling, beat length penalties of other shapes?

payoff reproduce dler
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from payoff.advantages.batch import reinforce_plus_plus_baseline
from payoff.advantages.group import grpo
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.sampling.filters import drop_equal_groups
from payoff.shaping.right_and_short import cosine_length, efficient_groups, truncate
from payoff.trajectories import Channel, Trajectories, concatenate, constant, place_outcome

PROMPTS, LONGEST, LIMIT, STARTS, GROUP, ROUNDS = 20, 16, 8, 8, 8, 4
CAN = (0.9, 0.2)  # how often a prompt of each half is answered rightly once its response is long enough


class Arm(NamedTuple):
    """How an arm pays and learns; strength and learning rate are the ones chosen for it."""

    pay: str = "outcome"
    batch: bool = False  # advantages normalised over the batch rather than the group
    higher: bool = False  # clip higher
    resample: bool = False  # groups of equal rewards are replaced
    strength: float = 0.0
    learning_rate: float = 0.05


ARMS = {
    "outcome": Arm(learning_rate=0.2),
    "linear": Arm("linear", strength=0.05, learning_rate=0.1),
    "cosine": Arm("cosine", strength=0.9, learning_rate=0.1),
    "relative": Arm("relative", strength=0.9, learning_rate=0.1),
    "linear-dler": Arm("linear", True, True, True, strength=0.1, learning_rate=0.1),
    "cut-grpo": Arm("cut", learning_rate=0.1),
    "dler": Arm("cut", True, True, True, learning_rate=0.2),
}


def paid(how: Arm, verdict: Channel, traj: Trajectories) -> Channel:
    """The arm's reward, at the end of every rollout."""
    if how.pay == "cut":
        return truncate(verdict, traj, limit=LIMIT)
    if how.pay == "cosine":
        return cosine_length(verdict, traj, limit=LONGEST, right=(1.0, 1 - how.strength), wrong=(0.0, 0.0))
    if how.pay == "relative":
        return efficient_groups(verdict, traj, share=1.0, strength=how.strength)
    length = traj.mask.sum(1).double() / LONGEST
    charge = place_outcome(how.strength * length, torch.ones(len(traj), dtype=torch.bool), traj)
    return Channel(verdict.value - charge.value, verdict.valid) if how.pay == "linear" else verdict


def run(arm: str, seed: int, *, updates: int = 60, learning_rate: float = 0.0, strength: float = -1.0) -> Mapping[str, float]:
    """A policy that goes on or stops after every token, a table for each prompt; all arms write the same number of tokens.

    learning_rate 0, strength -1: those chosen for the arm.
    """
    how = ARMS[arm]
    how = how._replace(learning_rate=learning_rate or how.learning_rate, strength=how.strength if strength < 0 else strength)
    rng = torch.Generator().manual_seed(seed)
    needed = torch.randint(1, LIMIT + 1, (PROMPTS,), generator=rng)
    right = torch.where(
        torch.arange(1, LONGEST + 1) >= needed[:, None],
        torch.tensor(CAN, dtype=torch.float64).repeat_interleave(PROMPTS // 2)[:, None],
        0.0,
    )
    policy = Tabular(2, LONGEST, stop=1, starts=PROMPTS, logits=even_lengths())
    optimiser = torch.optim.Adam(policy.parameters(), lr=how.learning_rate)
    written, budget = 0, updates * STARTS * GROUP * (LONGEST + 1) // 2
    while written < budget:
        kept: list[tuple[Trajectories, Tensor]] = []
        for _ in range(ROUNDS if how.resample else 1):
            starts = [Start(str(k), {"table": k}) for k in torch.randperm(PROMPTS, generator=rng)[:STARTS].tolist()]
            traj = policy.rollout(starts, GROUP, rng)
            table = torch.tensor([item["table"] for item in traj.items])
            verdict = torch.bernoulli(right[table, traj.length - 1], generator=rng)
            reward = paid(how, place_outcome(verdict, torch.ones(len(traj), dtype=torch.bool), traj), traj)
            written += int(traj.length.clamp(max=LIMIT if how.pay == "cut" else LONGEST).sum())
            rows = drop_equal_groups({"correct": reward}, traj) if how.resample else torch.arange(len(traj))
            rows = rows[: (STARTS - sum(len(t) for t, _ in kept) // GROUP) * GROUP]
            if len(rows):
                kept.append((traj.select(rows), reward.value[rows].sum(1)))
            if sum(len(t) for t, _ in kept) >= STARTS * GROUP or written >= budget:
                break
        if kept:
            improve(policy, optimiser, how, kept)
    return judged(policy, right)


def improve(policy: Tabular, optimiser: torch.optim.Optimizer, how: Arm, kept: list[tuple[Trajectories, Tensor]]) -> None:
    """Two passes over a batch."""
    traj = concatenate([t for t, _ in kept])
    credit = constant(torch.cat([reward for _, reward in kept]), torch.ones(len(traj), dtype=torch.bool))
    target = (reinforce_plus_plus_baseline if how.batch else grpo)(credit, traj)
    for _ in range(2):
        terms = ppo_clip(policy.evaluate(traj), traj, target, low=0.2, high=0.28 if how.higher else 0.2).terms
        optimiser.zero_grad()
        (terms * token_mean(target, traj)).sum().backward()
        optimiser.step()


def even_lengths() -> Tensor:
    """Logits [T, 2] of going on and stopping under which all lengths are equally likely."""
    left = torch.arange(LONGEST, 0, -1, dtype=torch.float64)
    return torch.stack([(left - 1).clamp(min=0.5).log(), torch.zeros(LONGEST, dtype=torch.float64)], 1)


@torch.no_grad()
def judged(policy: Tabular, right: Tensor) -> dict[str, float]:
    """Accuracy and length of the policy as it writes without any limit (exact)."""
    stop = policy.logits.softmax(2)[:, :, 1]
    stop = torch.cat([stop[:, :-1], torch.ones_like(stop[:, :1])], 1)
    alive = torch.cat([torch.ones_like(stop[:, :1]), (1 - stop[:, :-1]).cumprod(1)], 1)
    chance = alive * stop  # of every length
    accuracy = (chance * right).sum(1)
    half = PROMPTS // 2
    return {
        "accuracy": float(accuracy.mean()),
        "hard_accuracy": float(accuracy[half:].mean()),
        "length": float((chance @ torch.arange(1, LONGEST + 1, dtype=torch.float64)).mean()),
    }


RECIPE = Recipe(
    name="dler",
    claim=(
        "Cutting off what is longer than a limit, with advantages normalised over the batch, clip-higher and resampling, shortens "
        "responses at no loss of accuracy, further than other penalties do, and is more accurate than the same cut under GRPO."
    ),
    paper="arXiv:2510.15110",
    test=(
        f"{PROMPTS} prompts; a policy with a table for each goes on or stops after every token, at most {LONGEST}, all lengths "
        f"equally likely at first. A response that is at least as long as its prompt needs (1 to {LIMIT}, drawn by the seed) is "
        f"right with {CAN[0]} for half of the prompts and {CAN[1]} for the others, a shorter one never; the limit is {LIMIT}, so "
        f"that half of the first responses are cut and none need be. {STARTS} prompts an update, groups of {GROUP}, PPO's clip, "
        "token mean, two passes, Adam; every arm stops after the same number of written tokens, resampled ones included. Strengths "
        "(linear 0.005 to 0.2, cosine 0.1 to 0.9, relative 0.3 to 0.9) and learning rates (0.1, 0.2) are on seed 99, which is not "
        "among those reported, the ones with the shortest responses of those whose accuracy rounds to the arm's best percent. Not "
        "tested: the phase with limits by difficulty, the merge of weights, weights that prompts share, language models."
    ),
    arms={
        "outcome": "1 for a right answer, GRPO",
        "linear": "the same less 0.05 for the greatest length, in proportion, GRPO",
        "cosine": "1 for a short right answer down to 0.1 for the longest along a cosine, GRPO",
        "relative": "right answers charged by their length within the group, strength 0.9, GRPO",
        "linear-dler": "linear, strength 0.1, with batch-wise advantages, clip-higher and resampling",
        "cut-grpo": "nothing for what is longer than the limit, GRPO",
        "dler": "nothing for what is longer than the limit, batch-wise advantages, clip-higher and resampling",
    },
    measures={
        "accuracy": "probability of a right answer as the final policy writes without a limit, mean over prompts (exact)",
        "hard_accuracy": f"the same over the prompts that are right with {CAN[1]} at most",
        "length": "expected length of a response, in tokens (exact)",
    },
    effects=(
        Effect("length", "dler", "outcome", "lower", delta=1.0),
        Effect("accuracy", "dler", "outcome", "not lower", delta=0.02),
        Effect("accuracy", "dler", "linear", "higher", delta=0.02),
        Effect("accuracy", "dler", "cosine", "not lower", delta=0.02),
        Effect("accuracy", "dler", "relative", "not lower", delta=0.02),
        Effect("length", "dler", "cosine", "lower", delta=0.5),
        Effect("length", "dler", "relative", "lower", delta=0.5),
        Effect("accuracy", "dler", "cut-grpo", "higher", delta=0.02),
    ),
    run=run,
    methods=(
        "shaping:dler",
        "shaping:cosine-length",
        "shaping:grpo-lambda-length",
        "selection:drop-equal-groups",
        "advantage:reinforce-plus-plus-baseline",
        "advantage:grpo",
        "loss:ppo-clip",
    ),
    seeds=8,
)
