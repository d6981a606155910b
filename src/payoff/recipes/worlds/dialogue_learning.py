"""Learning any task of turns with a small transformer: first from scripted texts, then by reinforcement within a budget of tokens.

A world says what the task is, what the scripts say and with which words; what its recipes share is here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.value import value_loss
from payoff.pipeline import Start
from payoff.policies.lm import LanguageModel
from payoff.trajectories import Channel, Trajectories, outcome

_VALUES = frozenset({"values"})
Script = Sequence[tuple[str, bool]]  # pieces of text in their order, the prompt first, and whether the policy is to write them


def imitate(
    policy: LanguageModel,
    script: Callable[[random.Random], Script],
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> None:
    """Teach a policy to write what scripts write, by supervised learning with a learning rate that falls to 0.

    script: draws a rollout. Each of its pieces is encoded by itself, as in a rollout; the policy learns those that are its own
    """
    draw, pad = random.Random(seed), policy.tokenizer.pad
    optimiser = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        rows: list[list[int]] = []
        flags: list[list[bool]] = []
        for _ in range(batch):
            pieces = [(policy.tokenizer.encode(text), own) for text, own in script(draw)]
            rows.append([id for ids, _ in pieces for id in ids])
            flags.append([own for ids, own in pieces for _ in ids])
        width = max(map(len, rows))
        tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        own = torch.tensor([row + [False] * (width - len(row)) for row in flags])[:, 1:]
        logits = policy.model(tokens[:, :-1])
        loss = cross_entropy(logits[own], tokens[:, 1:][own])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()


def with_critic(policy: LanguageModel) -> LanguageModel:
    """The same model under a head for values, which are 0 at first."""
    return LanguageModel(
        policy.model,
        policy.tokenizer,
        max_tokens=policy.max_tokens,
        temperature=policy.temperature,
        stop=policy.stop,
        step_separator=None,
        critic=True,
    )


class Learned(NamedTuple):
    """What training came to.

    success: share of rollouts that were right in the last quarter of the tokens; over: in all of them
    turns:   of a rollout, in the last quarter
    silent:  share of rollouts none of whose actions had a weight, over all tokens
    """

    success: float
    over: float
    turns: float
    silent: float


def learn(
    task: Any,
    policy: LanguageModel,
    target: Callable[[Trajectories], Channel | tuple[Channel, Channel]],
    seed: int,
    *,
    tokens: int,
    starts: int = 8,
    rollouts: int = 8,
    learning_rate: float = 1e-3,
    sample: Callable[[LanguageModel, Sequence[Start], torch.Generator], Trajectories] | None = None,
) -> Learned:
    """Train by `ppo-clip` on the weights that `target` gives every batch of rollouts, until so many tokens have been written.

    task:   gives `starts(n, rng)` and `truth(traj)`, 1 where a rollout is right
    policy: is trained itself, so hand in a copy
    target: or weights and returns, for a policy with a critic, whose values the rollouts then carry: half of `value` is added
    sample: in place of so many rollouts of every start; tokens that rows share count once, and rows that branch off others are
            trained on and not counted among the right or wrong ones
    Raises RuntimeError, with the reason, where the truth of a rollout is not known.
    """
    rng = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    spent, history = 0, []
    while spent < tokens:
        asked = task.starts(starts, rng)
        with torch.no_grad():
            traj = policy.rollout(asked, rollouts, rng) if sample is None else sample(policy, asked, rng)
            if "values" in policy.offers:
                traj = traj.replace(extras={**traj.extras, "values": policy.evaluate(traj, _VALUES).more["values"]})
        written = int(traj.own.sum())
        truth = task.truth(traj)
        right, known = outcome(truth, traj)
        if not bool(known.all()):
            raise RuntimeError(f"the truth of a rollout is not known: {next(iter(truth.reasons.values()), 'no reason was given')}")
        trunk = torch.ones_like(known) if traj.parent is None else traj.parent < 0  # the policy's own mixture
        given = target(traj)
        weights, returns = (given, None) if isinstance(given, Channel) else given
        silent = 1.0 - float((torch.where(traj.own, weights.value.abs(), 0).sum(1) > 0).double().mean())
        turns = float((traj.step.max(1).values + 1)[trunk].double().mean())
        history.append((spent, min(written, tokens - spent), float(right[trunk].double().mean()), turns, silent))
        spent += written
        optimiser.zero_grad()
        evaluation = policy.evaluate(traj, _VALUES & policy.offers)
        terms = ppo_clip(evaluation, traj, weights).terms
        if returns is not None:
            terms = terms + value_loss(evaluation, traj, returns).terms / 2
        (terms * token_mean(weights, traj)).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    late = [line for line in history if line[0] >= 0.75 * tokens] or history[-1:]
    mean = lambda lines, place: sum(line[1] * line[place] for line in lines) / sum(line[1] for line in lines)
    return Learned(mean(late, 2), mean(history, 2), mean(late, 3), mean(history, 4))
