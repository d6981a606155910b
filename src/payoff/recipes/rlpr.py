"""RLPR: which likelihood of a reference answer still says which reasoning was good when the answer is long?

payoff reproduce rlpr
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import total
from payoff.pipeline import Start
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.writing import climb
from payoff.signals.reference_likelihood import ReasonedProbability, ReferenceLikelihood
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome

PROMPTS, CHOICES, STEPS, ROLLOUTS, SHORT, LONG = 8, 4, 3, 4, 1, 16
WORTH, ROUGH, LEVEL = 0.7, 0.5, -0.5


class Answers(NamedTuple):
    """How likely every token of the reference is: after each reasoning [P, Z, A], and without any [P, A]; natural logarithms."""

    reasoned: Tensor
    base: Tensor


def answers(seed: int, length: int) -> Answers:
    """Each choice of a reasoning adds a normal number to the logit of all tokens; tokens are rough besides."""
    rng = torch.Generator().manual_seed(seed)
    choice = WORTH * torch.randn(PROMPTS, STEPS, CHOICES, generator=rng, dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.arange(CHOICES)] * STEPS)
    worth = sum(choice[:, step, every[:, step]] for step in range(STEPS))
    rough = ROUGH * torch.randn(PROMPTS, CHOICES**STEPS, LONG, generator=rng, dtype=torch.float64)[:, :, :length]
    base = ROUGH * torch.randn(PROMPTS, LONG, generator=rng, dtype=torch.float64)[:, :length]
    return Answers(logsigmoid(LEVEL + worth[..., None] + rough), logsigmoid(LEVEL + base))  # type: ignore[index]  # a tensor


def rewarded(arm: str, traj: Trajectories, rng: torch.Generator) -> Channel:
    """What the arm pays each reasoning, at its end."""
    if arm == "binary":
        chance = outcome(ReferenceLikelihood(form="probability")(traj)["likelihood"], traj)[0]
        right = torch.rand(len(traj), generator=rng, dtype=torch.float64) < chance
        return place_outcome(right.double(), torch.ones(len(traj), dtype=torch.bool), traj)
    if arm == "rlpr":
        return ReasonedProbability()(traj)["probability"]
    return ReferenceLikelihood(form="log" if arm == "log" else "probability")(traj)["likelihood"]


def run(arm: str, seed: int, *, updates: int = 100) -> Mapping[str, float]:
    """The same reasoning to be learned with references of one token and of many; policies are judged exactly."""
    short, long = (learned(arm, seed, length, updates) for length in (SHORT, LONG))
    return {"short": short[0], "short_success": short[1], "long": long[0], "long_success": long[1]}


def learned(arm: str, seed: int, length: int, updates: int) -> tuple[float, float]:
    """How far the reasoning has come from random to the best: in log-likelihood a token; and its success as a share of the best."""
    known, rng = answers(seed, length), torch.Generator().manual_seed(seed)
    policy = Tabular(CHOICES, STEPS, starts=PROMPTS)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.05)
    place = CHOICES ** torch.arange(STEPS - 1, -1, -1)
    starts = [Start(str(prompt), {"table": prompt}) for prompt in range(PROMPTS)]
    for _ in range(updates):
        traj = policy.rollout(starts, ROLLOUTS, rng)
        prompt, reasoning = traj.extras["table"], (traj.actions * place).sum(1)
        rows = zip(traj.items, known.reasoned[prompt, reasoning].tolist(), known.base[prompt].tolist(), strict=True)
        traj = traj.replace(items=[{**item, "reference_logp": said, "base_logp": bare} for item, said, bare in rows])
        climb(policy, optimiser, traj, leave_one_out(total(rewarded(arm, traj, rng), traj), traj))
    quality, success = [], []
    for prompt in range(PROMPTS):  # type: ignore[assignment]  # a number from here on
        chance = policy.probabilities(prompt).detach()  # type: ignore[arg-type]
        per_token, whole = known.reasoned[prompt].mean(1), known.reasoned[prompt].sum(1).exp()
        quality.append(float((chance @ per_token - per_token.mean()) / (per_token.max() - per_token.mean())))
        success.append(float(chance @ whole / whole.max()))
    return sum(quality) / PROMPTS, sum(success) / PROMPTS


RECIPE = Recipe(
    name="rlpr",
    claim=(
        "The mean probability of a reference's tokens, and its log-probability, stay useful rewards for reasoning when references "
        "are long, where the probability of the whole and a sampled right-or-wrong lose their signal; on short ones all do."
    ),
    paper="arXiv:2506.18254",
    test=(
        f"{PROMPTS} prompts with {CHOICES**STEPS} ways of reasoning of {STEPS} choices each; a choice adds to the logit of "
        f"every token of the reference, which has {SHORT} or {LONG}; tokens also differ by chance. A tabular policy of the "
        f"reasoning, uniform at first, groups of {ROLLOUTS} with a leave-one-out baseline and no scale, Adam with one "
        "learning rate, which itself undoes a small scale; answers are those of a frozen model. Not tested: answers that "
        "are learned too, the term of the gradient that goes through the reward, standardised advantages, language "
        "models, and the filter of RLPR. The claim on log-probabilities is that of Likelihood-Based Reward Designs for "
        "General LLM Reasoning (2026)."
    ),
    arms={
        "binary": "1 for an answer, sampled after the reasoning, that is the reference",
        "probability": "the probability of the reference (VeriFree)",
        "rlpr": "the mean probability of its tokens above that without reasoning",
        "log": "the log-probability of the reference",
    },
    measures={
        "short": "log-likelihood of a one-token reference, 0 under random reasoning and 1 under the best (exact)",
        "short_success": "its probability, as a share of that after the best reasoning (exact)",
        "long": f"log-likelihood per token of a reference of {LONG}, 0 under random reasoning and 1 under the best (exact)",
        "long_success": "its probability, as a share of that after the best reasoning (exact)",
    },
    effects=(
        Effect("long", "rlpr", "probability", "higher", delta=0.05),
        Effect("long", "log", "probability", "higher", delta=0.05),
        Effect("long", "probability", "binary", "higher", delta=0.05),
        Effect("short", "rlpr", "binary", "not lower", delta=0.05),
    ),
    run=run,
    methods=("signal:rlpr", "signal:likelihood-rewards", "advantage:rloo", "credit:total", "loss:policy-gradient"),
)
