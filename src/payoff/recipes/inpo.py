"""INPO: where preferences go in circles, does self-play find a policy that nothing beats, and Bradley-Terry not?

payoff reproduce inpo
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from payoff.losses.nash_preferences import inpo
from payoff.losses.pair_aggregation import pair_mean
from payoff.losses.preferences import dpo
from payoff.pipeline import LossOutput
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.trajectories import Pairs

ANSWERS = 5


def game(seed: int) -> Tensor:
    """P(row beats column) of three answers in a circle, of uneven strength, and two more that lose to all of them [K, K]."""
    rng = torch.Generator().manual_seed(seed)
    logit = torch.zeros(ANSWERS, ANSWERS, dtype=torch.float64)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        logit[a, b] = 0.5 + 2.5 * torch.rand((), generator=rng, dtype=torch.float64)
    logit[:3, 3:] = 1 + 2 * torch.rand(3, ANSWERS - 3, generator=rng, dtype=torch.float64)
    return torch.sigmoid(logit - logit.T)


def fit(
    policy: Tabular,
    loss: Callable[..., LossOutput],
    label: Tensor,
    *,
    reference: Tabular,
    acting: Tabular,
    steps: int,
) -> None:
    """Minimise a loss on pairs over all pairs of independent answers of `acting`, exactly: none is sampled. In place."""
    traj = policy.sequences()
    with torch.no_grad():
        traj = traj.replace(logp={"ref": reference.evaluate(traj).logp, "old": acting.evaluate(traj).logp})
        p = acting.probabilities()
    index = torch.cartesian_prod(torch.arange(len(p)), torch.arange(len(p)))
    pairs = Pairs(index, label.flatten(), (p[:, None] * p).flatten())
    share = pair_mean(pairs, traj)
    optimiser = torch.optim.LBFGS(
        policy.parameters(), max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = (loss(policy.evaluate(traj), traj, pairs).terms * share).sum()
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]


def gap(policy: Tensor, preference: Tensor) -> float:
    """How often the best reply beats the policy, less 1/2: 0 exactly for a Nash policy."""
    return float((preference @ policy).max()) - 0.5


def run(arm: str, seed: int, *, updates: int = 40) -> Mapping[str, float]:
    """Rounds of exact fits; every arm is tried with four strengths of the pull to the reference and judged by its best."""
    preference, ways = game(seed), []
    for strength in (0.02, 0.1, 0.3, 1.0):
        reference = Tabular(ANSWERS, 1)
        policy = Tabular(ANSWERS, 1)
        rounds = 1 if arm == "dpo" else updates
        for _ in range(rounds):
            acting = Tabular(ANSWERS, 1, logits=policy.logits.detach())

            def loss(*given, strength=strength):
                return inpo(*given, eta=3 * strength, tau=strength) if arm == "inpo" else dpo(*given, beta=strength)

            fit(policy, loss, preference, reference=reference, acting=acting, steps=5 * updates if rounds == 1 else 30)
        p = policy.probabilities().detach()
        ways.append((gap(p, preference), float(p[3:].sum())))
    least, dominated = min(ways)
    return {"gap": least, "dominated": dominated}


RECIPE = Recipe(
    name="inpo",
    claim=(
        "Self-play by INPO's loss finds a policy that no answer beats by much where preferences are cyclic, where fitting pairs by "
        "a reward (DPO, offline or iterated) finds one that some answer beats."
    ),
    paper="arXiv:2407.00617",
    test=(
        f"{ANSWERS} answers: three in a circle whose strengths the seed draws, and two that lose to all three. Tabular policies, "
        "uniform reference, the losses minimised over all pairs with their probabilities as labels, 40 rounds for the iterated "
        "arms. Each arm has the best of the same four strengths of the pull to the reference; INPO's eta is three times it. Not "
        "tested: sampled pairs, best-against-worst selection, learned preference models, language models."
    ),
    arms={
        "dpo": "DPO once, on pairs of the reference",
        "dpo-online": "DPO against the same reference, on pairs of the policy of the last round",
        "inpo": "INPO, on pairs of the policy of the last round",
    },
    measures={
        "gap": "how often the best reply beats the policy, less one half (exact)",
        "dominated": "probability of the answers that lose to all others of the circle (exact)",
    },
    effects=(
        Effect("gap", "inpo", "dpo", "lower", delta=0.02),
        Effect("gap", "inpo", "dpo-online", "lower", delta=0.02),
    ),
    run=run,
    methods=("loss:inpo", "loss:dpo", "aggregation:pair-mean", "policy:tabular"),
)
