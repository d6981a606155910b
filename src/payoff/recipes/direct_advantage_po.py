"""Direct Advantage PO: does fitting log-ratios of steps to their advantages beat a policy gradient, and never go down?

payoff reproduce direct-advantage-po
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from payoff.advantages.group import grpo
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.step_regression import direct_advantage, step_mean
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe, expected
from payoff.tasks.tree import Tree
from payoff.trajectories import Channel, Trajectories, constant

PROMPTS, LETTERS, HORIZON, ROLLOUTS, COMPLETIONS, FITS = 4, 3, 5, 8, 4, 30
RATES = {"exact": 0.3, "sampled": 0.3, "grpo": 0.3}
BETAS = {"exact": 0.1, "sampled": 0.1}


def leaf(actions: Tensor) -> Tensor:
    """The number of each complete sequence [..., HORIZON].

    >>> leaf(torch.tensor([[0, 0, 0, 0, 2], [0, 0, 0, 1, 0]])).tolist()
    [2, 3]
    """
    return (actions.long() * LETTERS ** torch.arange(HORIZON - 1, -1, -1)).sum(-1)


def sampled_advantages(policy: Tabular, traj: Trajectories, worth: Tensor, rng: torch.Generator) -> tuple[Tensor, int]:
    """What each action adds to the value by completions of its place, the outcome at the end; and how many actions that took."""
    table = traj.extras["table"]
    rows = torch.arange(len(traj)).repeat_interleave(HORIZON)
    at = torch.arange(HORIZON).repeat(len(traj))
    on = policy.resume(traj, rows, at, COMPLETIONS, rng)
    right = worth[table.repeat_interleave(HORIZON * COMPLETIONS), leaf(on.actions)]
    value = right.view(len(traj), HORIZON, COMPLETIONS).mean(2)
    value = torch.cat([value, worth[table, leaf(traj.actions)][:, None]], 1)
    return value[:, 1:] - value[:, :-1], int(on.own.sum())


def exact_advantages(policy: Tabular, traj: Trajectories, worth: Tensor) -> Tensor:
    """The same with the reference's true values."""
    with torch.no_grad():
        gain = torch.stack([policy.q_values(row, k) - policy.state_values(row, k)[:, None] for k, row in enumerate(worth)])
    return gain[traj.extras["table"][:, None], policy.prefixes(traj), traj.actions]


def run(arm: str, seed: int, *, updates: int = 20) -> Mapping[str, float]:
    """As many generated actions for "sampled" and "grpo"; "exact" has the rounds of "sampled", and its values for nothing."""
    return learned(arm, seed, updates, RATES[arm], BETAS.get(arm, 0.0))


def learned(arm: str, seed: int, updates: int, rate: float, beta: float) -> dict[str, float]:
    """Success along the way, at one learning rate and one beta."""
    task = Tree(vocabulary=LETTERS, horizon=HORIZON, prompts=PROMPTS, density=0.05, seed=seed)
    worth = torch.stack([task.leaves(k) for k in range(PROMPTS)])
    policy = Tabular(LETTERS, HORIZON, starts=PROMPTS, spread=0.5, seed=seed)
    optimiser, rng, starts = (
        torch.optim.Adam(policy.parameters(), lr=rate),
        torch.Generator().manual_seed(seed),
        task.held_out_starts(),
    )
    share = ROLLOUTS * PROMPTS * (HORIZON + COMPLETIONS * HORIZON * (HORIZON + 1) // 2)  # actions of a round with completions
    judge = lambda: expected(policy, lambda k: worth[k], PROMPTS)
    found, spent = [judge()], 0
    for k in range(updates):
        while spent < (k + 1) * share:
            with torch.no_grad():
                traj = policy.rollout(starts, ROLLOUTS, rng)
            right = constant(worth[traj.extras["table"], leaf(traj.actions)], torch.ones(len(traj), dtype=torch.bool))
            if arm == "grpo":
                spent += int(traj.own.sum())
                weight = grpo(right, traj)
                _descend(optimiser, (ppo_clip(policy.evaluate(traj), traj, weight).terms * token_mean(weight, traj)).sum())
                continue
            with torch.no_grad():
                advantage, drawn = sampled_advantages(policy, traj, worth, rng)
            gain = Channel(exact_advantages(policy, traj, worth) if arm == "exact" else advantage, torch.ones_like(traj.mask))
            spent += drawn + int(traj.own.sum())
            fixed = traj.replace(logp={"ref": traj.logp["old"]})
            for _ in range(FITS):
                terms = direct_advantage(policy.evaluate(fixed), fixed, gain, beta=beta).terms
                _descend(optimiser, (terms * step_mean(gain, fixed)).sum())
        found.append(judge())
    falls = max(before - after for before, after in itertools.pairwise(found))
    return {"truth": found[-1], "over": sum(found) / len(found), "fall": max(falls, 0.0)}


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


RECIPE = Recipe(
    name="direct-advantage-po",
    claim=(
        "Fitting the log-ratio of every step to its advantage under the policy it began with, round by round, makes a policy right "
        "more often than a policy gradient of the outcome does on as many generated tokens, and with exact advantages no round "
        "makes it worse."
    ),
    paper="arXiv:2412.18279",
    test=(
        f"{PROMPTS} prompts with {LETTERS**HORIZON} answers of {HORIZON} letters, one in 20 of them right; a step is a letter. "
        f"Tabular policies. A round has {ROLLOUTS} rollouts of every prompt by the policy as it is, the round's reference, with "
        f"{COMPLETIONS} completions of every place of theirs, {FITS} steps of Adam on the loss, and no critic between: a table "
        "has nothing to generalise by, so values are the completions' means. GRPO makes an update of as many rollouts until it has "
        "generated as much. Learning rates of both from 0.03, 0.1 and 0.3 and beta from 0.1, 0.3 and 1 by success over all rounds "
        "on two other trees (the greatest rate, the least beta); `exact` has those of `sampled`. Success is exact and read after "
        "every round. Not tested: the critic, several steps of Adam on a batch of GRPO, offline data, language models."
    ),
    arms={
        "grpo": "GRPO on the right answer",
        "sampled": "the loss on advantages by completions, whose tokens count",
        "exact": "the loss on the reference's exact advantages, as many rounds as `sampled`: a bound",
    },
    measures={
        "truth": "probability of a right answer under the final policy (exact)",
        "over": "its mean over all rounds, the first policy included",
        "fall": "the most that it fell in a round",
    },
    effects=(
        Effect("over", "sampled", "grpo", "higher", delta=0.03),
        Effect("truth", "sampled", "grpo", "not lower", delta=0.03),
        Effect("fall", "exact", "sampled", "lower", delta=0.01),
    ),
    run=run,
    methods=("loss:direct-advantage-po", "aggregation:step-mean", "advantage:grpo", "loss:ppo-clip", "task:tree", "policy:tabular"),
)
