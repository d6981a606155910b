"""Where credits are compared: a tree on which everything is enumerated, and solutions of a scripted teacher whose values are known.

The comparison itself is `payoff.credit_table`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from payoff.policies.tabular import Tabular
from payoff.tasks.chain import chain_answer, chain_needed_steps, chain_result, chain_steps
from payoff.tasks.chain_teacher import Noise, write_solution
from payoff.tasks.chain_values import pieces, teacher_advantages, teacher_values
from payoff.tasks.tree import Tree, tree_filler
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, place_outcome, place_steps

TREE = Tree(
    2,
    4,
    leaf_rewards={"baba": 1.0, "babb": 1.0, "bbba": 1.0, "bbbb": 1.0},  # `b` first and `b` third; the others are free
    step_rewards={"b": 0.5, "bab": 0.5, "bbb": 0.5},
)
_CHANCE_OF_B = (
    0.45,
    0.4,
    0.55,
    0.3,
    0.5,
    0.4,
    0.4,
    0.4,
    0.6,
    0.5,
    0.3,
    0.45,
    0.65,
    0.5,
    0.35,
)  # at "", a, b, aa, ab, ba, bb, aaa ...
TEACHER = Noise(wrong_result=0.15, superfluous=0.3, wrong_answer=0.05)
PROMPTS, SOLUTIONS, TERMS = 150, 8, 5
SEED = 11


class Place(NamedTuple):
    """Where a credit is made, and what it can ask there; each raises ValueError where the place has no answer.

    values:    of every prefix [N, T+1], under the policy and the reward that is paid: a perfect critic
    prover:    the chance that another policy, named, ends rightly from every prefix [N, T+1]
    continued: the share of n continuations that end rightly from every prefix [N, T+1], drawn anew at every call
    learned:   what learned here, given who makes it
    blamed:    1 in every step that the channel should have paid and does not, 0 elsewhere: a judge of steps
    """

    values: Callable[[Trajectories], Tensor]
    prover: Callable[[Trajectories, str], Tensor]
    continued: Callable[[Trajectories, int], Tensor]
    learned: Callable[[Callable[[], Any]], Any]
    blamed: Callable[[Channel, Trajectories], Channel]


class Solutions(NamedTuple):
    """Solutions of the teacher, one action for each piece of text, and what is true of them.

    state: how many operations are done and whether all is right so far, as a number. value: P(right answer), [N, T+1]
    """

    traj: Trajectories
    advantage: Float[Tensor, "N T"]
    state: Int[Tensor, "N T"]
    value: Float[Tensor, "N T1"]
    rewards: Rewards


def reference_policy() -> Tabular:
    """The tree's policy: two letters, four actions, right in 18 of 100 rollouts; the second and fourth change nothing.

    >>> policy = reference_policy()
    >>> round(float(policy.probabilities().detach() @ TREE.leaves()), 4)
    0.18
    """
    b = torch.tensor(_CHANCE_OF_B, dtype=torch.float64)
    return Tabular(2, 4, logits=torch.stack([1 - b, b], 1).log(), critic=True)


def tree_rewards() -> dict[str, Float[Tensor, "L T"]]:
    """What each reward pays every response at every action."""
    leaves = TREE.leaves()
    end = torch.zeros(len(leaves), TREE.horizon, dtype=torch.float64)
    end[:, -1] = leaves
    known = TREE.step_rewards or {}
    steps = torch.tensor([[known.get(r[: t + 1], 0.0) for t in range(TREE.horizon)] for r in TREE.responses], dtype=torch.float64)
    filler = torch.tensor([tree_filler(list(r), pay=0.5).value for r in TREE.responses], dtype=torch.float64)
    return {"outcome": end, "right steps": steps, "gameable steps": torch.maximum(steps, filler)}


def tree_place(policy: Tabular, title: str) -> Place:
    """What can be asked on the tree; the policy's critic is set to the true values of that reward."""
    with torch.no_grad():
        policy.critic[0] = policy.state_values(tree_rewards()[title])  # type: ignore[index]  # it was asked for
    provers = {"uniform": policy.uniform(), "best of 4": policy.matching(policy.best_of_n(TREE.leaves(), 4).detach())}

    def values(traj: Trajectories) -> Tensor:
        return policy.evaluate(traj, frozenset({"values"})).more["values"].detach()

    def prover(traj: Trajectories, name: str) -> Tensor:
        state, alive = policy.tree.states(traj.actions, traj.length)
        worth = provers[name].state_values(TREE.leaves()).detach()[state]
        return torch.where(alive, worth, TREE.leaves()[traj.extras["leaf"]][:, None])

    def continued(traj: Trajectories, n: int) -> Tensor:
        raise ValueError("continuations are drawn, and here everything is enumerated")

    def blamed(paid: Channel, traj: Trajectories) -> Channel:
        needed = torch.tensor([True, False, True, False])
        return Channel((needed & (paid.value == 0)).double(), torch.ones(len(traj), 1, dtype=torch.bool))

    return Place(values, prover, continued, lambda make: make(), blamed)


def chain_place(title: str) -> Place:
    """What can be asked about the teacher's solutions; values are known of the outcome alone."""
    value = solutions().value

    def values(traj: Trajectories) -> Tensor:
        if title != "outcome":
            raise ValueError("values of this reward are not known here")
        return value

    def prover(traj: Trajectories, name: str) -> Tensor:
        raise ValueError("there is no prover here")

    def continued(traj: Trajectories, n: int) -> Tensor:
        rng = torch.Generator().manual_seed(SEED)
        drawn = torch.binomial(torch.full_like(value, n), value.clamp(0, 1), generator=rng) / n
        return torch.where(torch.arange(value.shape[1]) == traj.length[:, None], value, drawn)

    def learned(make: Callable[[], Any]) -> Any:
        raise ValueError("nothing has learned here")

    def blamed(paid: Channel, traj: Trajectories) -> Channel:
        raise ValueError("there is no judge of steps here")

    return Place(values, prover, continued, learned, blamed)


@functools.cache
def solutions() -> Solutions:
    """The teacher's solutions to some prompts, in groups of one prompt, with true advantages and every reward.

    >>> found = solutions()
    >>> bool((found.value[:, :-1] + found.advantage - found.value[:, 1:]).abs().max() < 1e-12)
    True
    """
    rng = random.Random(SEED)
    prompts: list[str] = []
    texts: list[str] = []
    group: list[int] = []
    while len(texts) < PROMPTS * SOLUTIONS:
        operations = [(rng.choice("+-"), str(rng.randint(1, 9))) for _ in range(TERMS - 1)]
        if any(a == b for a, b in pairwise(operations)):
            continue
        prompt = str(rng.randint(0, 9)) + "".join(map("".join, operations)) + "="
        prompts += [prompt] * SOLUTIONS
        group += [len(group) // SOLUTIONS] * SOLUTIONS
        texts += [write_solution(prompt, TEACHER, rng) for _ in range(SOLUTIONS)]
    steps = [pieces(text) for text in texts]
    length = torch.tensor([len(s) for s in steps])
    position = torch.arange(int(length.max())).repeat(len(texts), 1)
    exists = position < length[:, None]
    traj = Trajectories(
        mask=exists,
        length=length,
        group=torch.tensor(group),
        step=torch.where(exists, position, -1).int(),
        stop=torch.full_like(length, int(StopReason.finished)),
        actions=torch.zeros_like(position),
        id=torch.arange(len(texts)),
    )
    worth = {p: teacher_values(p, TEACHER) for p in dict.fromkeys(prompts)}
    moved = _table([teacher_advantages(p, t, TEACHER, value=worth[p]) for p, t in zip(prompts, texts, strict=True)], position)
    first = torch.stack([worth[p][0, int(p[0])] for p in prompts])
    before = torch.cat([first[:, None], first[:, None] + moved.cumsum(1)], 1)  # advantages are gains of value
    # The teacher's state is how many operations are done and whether all is still right; values tell these apart.
    state = (before[:, :-1] * 1e6).round().long()
    answer = [chain_answer(t, chain_result(p)) for p, t in zip(prompts, texts, strict=True)]
    needed = [chain_needed_steps(p, s).value for p, s in zip(prompts, steps, strict=True)]
    looked = [chain_steps(s).value for s in steps]
    sure = torch.ones(len(texts), dtype=torch.bool)
    rewards = {"outcome": place_outcome(torch.tensor(answer, dtype=torch.float64), sure, traj)}
    for name, paid in (("right steps", needed), ("gameable steps", looked)):
        rewards[name] = place_steps(_table(paid, position), exists, traj)
    return Solutions(traj, moved, state, before, rewards)


def _table(rows: Sequence[Any], position: Tensor) -> Float[Tensor, "N T"]:
    width = position.shape[1]
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)
