"""DNO: where preferences go in circles, does soft policy iteration on win rates do what fitting a reward cannot?

payoff reproduce dno
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from payoff.losses.nash_preferences import dno
from payoff.losses.preferences import dpo
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.recipes.inpo import ANSWERS, fit, game, gap


def run(arm: str, seed: int, *, updates: int = 40) -> Mapping[str, float]:
    """Rounds of exact fits; either arm is tried with four strengths and judged by its best."""
    preference, ways = game(seed), []
    for strength in (0.02, 0.1, 0.3, 1.0):
        reference, policy = Tabular(ANSWERS, 1), Tabular(ANSWERS, 1)
        loss = functools.partial(dpo, beta=strength) if arm == "dpo" else functools.partial(dno, eta=strength)
        trail, worst = [], 1.0
        for _ in range(1 if arm == "dpo" else updates):
            acting = Tabular(ANSWERS, 1, logits=policy.logits.detach())
            before = acting.probabilities().detach()
            rate = preference @ before
            label = preference if arm == "dpo" else torch.sigmoid(rate[:, None] - rate)
            fit(policy, loss, label, reference=reference, acting=acting, steps=5 * updates if arm == "dpo" else 30)
            trail.append(policy.probabilities().detach())
            worst = min(worst, float(trail[-1] @ preference @ before))
        average = torch.stack(trail).mean(0)
        ways.append((gap(average, preference), gap(trail[-1], preference), worst - 0.5))
    least, last, step = min(ways)
    return {"gap": least, "gap_last": last, "worst_step": step}


RECIPE = Recipe(
    name="dno",
    claim=(
        "Regression on win rates against one's own last policy improves round by round under general preferences and goes to a "
        "policy that nothing beats, which fitting pairs by a reward (DPO) does not where preferences are cyclic."
    ),
    paper="arXiv:2404.03715",
    test=(
        f"The game of the recipe `inpo`: {ANSWERS} answers, three in a circle of uneven strength. Tabular policies from uniform, "
        "the soft-label loss minimised over all pairs, 40 rounds, judged by the mean of the rounds' policies, which is what theory "
        "speaks of; the last round's is reported. Each arm has the best of the same four strengths. Not tested: sampled pairs, "
        "hard labels from large margins, a teacher's answers, language models."
    ),
    arms={
        "dpo": "DPO once, on pairs of the reference with the preferences as labels",
        "dno": "DNO with soft labels from the win rates against the last round's policy",
    },
    measures={
        "gap": "how often the best reply beats the mean of the rounds' policies, less one half (exact)",
        "gap_last": "the same of the last round's policy",
        "worst_step": "how often a round's policy beats the one before, less one half, in the worst round",
    },
    effects=(Effect("gap", "dno", "dpo", "lower", delta=0.02),),
    run=run,
    methods=("loss:dno", "loss:dpo", "aggregation:pair-mean", "policy:tabular"),
)
