"""PORTool: does an agent learn in fewer tokens from a tree of rollouts, each step against the other ways to go on?

payoff reproduce portool
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from payoff.advantages.group import grpo
from payoff.advantages.siblings import against_siblings
from payoff.credit.returns import total
from payoff.credit.tree_values import node_values
from payoff.pipeline import Start
from payoff.policies.lm import LanguageModel
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, learn, task
from payoff.trajectories import Channel, Trajectories, concatenate

TRUNKS, DISCOUNT = 4, 0.95


def tree(policy: LanguageModel, starts: Sequence[Start], rng: torch.Generator) -> Trajectories:
    """Four rollouts of every start, and four more ways to go on after turns of theirs, drawn evenly, where there are so many."""
    traj = policy.rollout(starts, TRUNKS, rng)
    rows: list[int] = []
    at: list[int] = []
    for group in traj.group.unique().tolist():
        places = []
        for row in (traj.group == group).nonzero()[:, 0].tolist():
            last = int(traj.step[row].max())
            places += [(row, int((traj.step[row] == k).nonzero().min())) for k in range(1, last + 1)]
        order = torch.randperm(len(places), generator=rng).tolist()[: ROLLOUTS - TRUNKS]
        rows, at = rows + [places[k][0] for k in order], at + [places[k][1] for k in order]
    if not rows:
        return traj
    return concatenate([traj, policy.resume(traj, torch.tensor(rows), torch.tensor(at), 1, rng)])


def paid(traj: Trajectories) -> Channel:
    """The right answer."""
    truth = task().truth(traj)
    return Channel(truth.value.float(), truth.valid)


def independent(traj: Trajectories) -> Channel:
    """GRPO on rollouts that share nothing."""
    return grpo(total(paid(traj), traj), traj)


def forked(traj: Trajectories, rollout: float) -> Channel:
    """Each step against its siblings, and with `rollout` each rollout against its group."""
    return against_siblings(node_values(paid(traj), traj, discount=DISCOUNT), traj, rollout=rollout)


def run(arm: str, seed: int, *, tokens: int = 20_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    if arm == "independent":
        found = learn(independent, seed, tokens=tokens)
    else:
        found = learn(lambda traj: forked(traj, float(arm == "both")), seed, tokens=tokens, sample=tree)
    return {"success": found.success, "over": found.over, "turns": found.turns}


RECIPE = Recipe(
    name="portool",
    claim=(
        "Rollouts that branch, with each step compared with the other ways to go on from its place and each rollout with its "
        "group, make an agent right more often than GRPO on independent rollouts, in no more turns."
    ),
    paper="arXiv:2510.26020",
    test=(
        f"{SETTING} Independent: {ROLLOUTS} rollouts of a question. Tree: {TRUNKS} rollouts, and up to {ROLLOUTS - TRUNKS} "
        "more ways to go on after turns of theirs, drawn evenly; tokens that are shared are written once, so that the tree "
        f"arms make more updates; only the first {TRUNKS} are judged. Step rewards as the mean of discounted outcomes below "
        f"(discount {DISCOUNT:g}), weights 1 and 1; the paper publishes neither numbers nor its rule of branching, which is "
        "ours. Not tested: merging steps of the same text, rewards of tools that ran, and language models with many tools."
    ),
    arms={
        "independent": "GRPO on independent rollouts",
        "forks": "a tree, steps against their siblings alone",
        "both": "a tree, steps against their siblings and rollouts against their group",
    },
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
        "turns": "turns of a rollout in the last quarter of the tokens",
    },
    effects=(
        Effect("over", "both", "independent", "higher", delta=0.03),
        Effect("success", "both", "independent", "not lower", delta=0.05),
        Effect("turns", "both", "independent", "lower", delta=0.1),
    ),
    run=run,
    methods=("credit:portool", "advantage:portool", "advantage:grpo", "loss:ppo-clip", "task:turns-search"),
)
