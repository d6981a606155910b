"""Correlated proxies: is a policy that climbs a learned reward better held by chi-squared than by KL?

payoff reproduce correlated-proxies
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe, expected
from payoff.signals.chi2 import chi2_penalty
from payoff.signals.likelihood import kl_penalty
from payoff.trajectories import Rewards, Trajectories, concatenate, outcome

PROMPTS, ANSWERS, LABELS = 4, 64, 128
GRID = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # coefficients of either penalty, in standard deviations of the proxy


def chi2(traj: Trajectories) -> Rewards:
    """Minus (ratio - 1) of whole answers, undivided: over all coefficients it has the optima that its square root has."""
    return chi2_penalty(traj, form="chi2")


def run(arm: str, seed: int, *, updates: int = 250) -> Mapping[str, float]:
    """Exact gradient ascent on proxy and penalty by a tabular policy; of all coefficients the one with the best truth counts."""
    rng = torch.Generator().manual_seed(seed)
    base = Tabular(4, 3, starts=PROMPTS, spread=1.0, seed=seed)
    p = torch.stack([base.probabilities(k).detach() for k in range(PROMPTS)])
    worth, error = torch.randn(2, PROMPTS, ANSWERS, generator=rng, dtype=torch.float64)
    proxy = worth + error / (LABELS * p).sqrt()
    every = concatenate([base.sequences(k) for k in range(PROMPTS)])
    every = every.replace(logp={"ref": every.logp["old"]}, extras={"table": torch.arange(PROMPTS).repeat_interleave(ANSWERS)})
    within = lambda x: x - (p * x).sum(1, keepdim=True)
    spread = float((p * within(proxy).square()).sum(1).mean().sqrt())
    penalty = {"kl": kl_penalty, "chi2": chi2}.get(arm)

    def gain(coefficient: float) -> dict[str, float]:
        policy = Tabular(4, 3, starts=PROMPTS, logits=base.logits.detach())
        optimiser = torch.optim.Adam(policy.parameters(), lr=0.05)
        for _ in range(updates):
            logp = policy.evaluate(every).logp
            paid = proxy.flatten()
            if penalty is not None:
                (channel,) = penalty(every.replace(logp={"old": logp.detach()})).values()
                paid = paid + coefficient * spread * outcome(channel, every)[0]
            optimiser.zero_grad()
            (-(logp.sum(1).exp() * paid).sum() / PROMPTS).backward()
            optimiser.step()
        better = lambda table: expected(policy, lambda k: table[k], PROMPTS) - expected(base, lambda k: table[k], PROMPTS)
        return {"gain": better(worth), "proxy_gain": better(proxy)}

    found = [gain(coefficient) for coefficient in (GRID if penalty else (0.0,))]
    best = max(range(len(found)), key=lambda i: found[i]["gain"])
    covariance = (p * within(proxy) * within(worth)).sum(1).mean()
    correlation = covariance / spread / (p * within(worth).square()).sum(1).mean().sqrt()
    return {**found[best], "correlation": float(correlation), "edge": float(penalty is not None and best in (0, len(GRID) - 1))}


RECIPE = Recipe(
    name="correlated-proxies",
    claim=(
        "A policy that maximises a proxy which correlates with the truth where it started ends with more truth when it is held "
        "near its start by the chi-squared divergence than by KL, each at its best coefficient, and than by nothing."
    ),
    paper="arXiv:2403.03185",
    test=(
        f"{PROMPTS} prompts with {ANSWERS} answers of standard normal worth; the starting policy is a softmax of standard normal "
        f"logits in three actions. The proxy is what averaging {LABELS} noisy labels (standard deviation 1) of that policy's own "
        "answers gives: the truth plus an error of variance 1 / (labels x probability), so it knows least where the policy seldom "
        f"goes. Exact gradients of proxy and penalty, Adam, {len(GRID)} coefficients from {GRID[-1]:g} to {GRID[0]:g} for either "
        "penalty. Over whole answers, as in the paper's RLHF experiment, where KL of actions and of answers are the same. Not "
        "tested: occupancies of states, discriminators, estimates from samples, the square root (its optima over all coefficients are "  # noqa: E501
        "those of chi-squared)."
    ),
    arms={
        "none": "the proxy alone",
        "kl": "minus a coefficient times the divergence, at its best",
        "chi2": "minus a coefficient times chi-squared of whole answers, at its best",
    },
    measures={
        "gain": "expected worth of the final policy's answer less that of the start's, in standard deviations of the answers (exact)",  # noqa: E501
        "proxy_gain": "the same of the proxy (exact)",
        "correlation": "of proxy and worth within prompts, among the answers of the start (exact)",
        "edge": "1 where the best coefficient is the largest or the least that was tried",
    },
    effects=(
        Effect("gain", "chi2", "kl", "higher", delta=0.05),
        Effect("gain", "chi2", "none", "higher", delta=0.05),
    ),
    run=run,
    methods=("signal:correlated-proxies", "signal:kl-penalty"),
)
