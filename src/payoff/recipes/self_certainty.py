"""Self-certainty: does a model's own certainty choose better among its answers than their likelihood, and improve on voting?

payoff reproduce self-certainty
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from payoff.policies.embedded import transformer
from payoff.recipes import Effect, Recipe
from payoff.search.best_of_n import best_of_n
from payoff.search.voting import borda, majority
from payoff.signals.self_certainty import self_certainty
from payoff.tasks.chain import Chain, read_solution
from payoff.trajectories import Channel, Trajectories, place_outcome

TERMS, MANY, FEW = 6, 32, 8


@lru_cache(maxsize=1)
def answered(seed: int, starts: int) -> Trajectories:
    """MANY answers of the shipped model to each prompt, with what it says of every token; the same for all arms of a seed."""
    rng = torch.Generator().manual_seed(seed)
    policy = transformer(checkpoint="chain")
    with torch.no_grad():
        traj = policy.rollout(Chain(terms=TERMS).starts(starts, rng), MANY, rng)
        more = {"mean_logp": torch.zeros(traj.mask.shape), "entropy": torch.zeros(traj.mask.shape)}
        for rows in torch.arange(len(traj)).split(512):
            for name, said in policy.evaluate(traj.select(rows), frozenset(more)).more.items():
                more[name][rows, : said.shape[1]] = said
    return traj.replace(extras=more)


def digit(item: Mapping[str, Any]) -> str | None:
    """What a response answers."""
    return read_solution(item["prompt"], item["response"]).answer


def mean_of(number: torch.Tensor, traj: Trajectories) -> Channel:
    """The mean over each response's own tokens."""
    mean = torch.where(traj.own, number, 0).sum(1) / traj.own.sum(1)
    return place_outcome(mean, torch.ones_like(mean, dtype=torch.bool), traj)


def run(arm: str, seed: int, *, starts: int = 64) -> Mapping[str, float]:
    """One answer is chosen of MANY, and of each of the MANY / FEW parts of them; how often it is right, judged exactly."""
    traj = answered(seed, starts)
    number = torch.arange(len(traj)) % MANY
    parts = traj.replace(group=traj.group * MANY + number // FEW)
    numbers = {}
    for size, some in ((MANY, traj), (FEW, parts)):
        certain = self_certainty(some)["self-certainty"]
        has = torch.tensor([digit(item) is not None for item in some.items])[:, None]
        if arm == "majority":
            chosen = majority(some, answer=digit)
        elif arm == "borda":
            chosen = borda(certain, some, answer=digit)
        else:
            scores = {
                "certainty": certain,
                "likelihood": mean_of(some.logp["old"], some),
                "entropy": mean_of(-some.extras["entropy"], some),
            }
            chosen = best_of_n(scores[arm]._replace(valid=scores[arm].valid & has), some)
        right = Chain(terms=TERMS).truth(some.select(chosen.row)).value.sum(1)
        numbers[f"right@{size}"] = float(right.double().mean())
    return numbers


RECIPE = Recipe(
    name="self-certainty",
    claim=(
        "Among many answers of a model, its own certainty (the mean divergence of its choices from even odds) chooses better than "
        "their likelihood; and votes weighed by the rank of that certainty choose better than plain majority voting."
    ),
    paper="arXiv:2502.18581",
    test=(
        f"The shipped transformer of 0.4 million weights answers 64 prompts of chained arithmetic of {TERMS} terms, {MANY} times "
        "each at temperature 1, step by step; about a third of its answers are right. From the very same answers every arm chooses "
        f"one of {MANY}, and one of {FEW} (four times). Borda votes with the power 0.5 of the authors' script; nothing was tuned. "
        "Prompts and terms were sized on seed 99 by the plain accuracy. Not tested: large models, answers that cannot be compared, "
        "powers that grow with the number of answers."
    ),
    arms={
        "majority": "the most frequent answer",
        "likelihood": "the answer with the highest mean log-probability of its tokens (lowest perplexity)",
        "entropy": "the answer written with the lowest mean entropy",
        "certainty": "the answer written with the highest self-certainty",
        "borda": "votes that are powers of the rank by self-certainty",
    },
    measures={f"right@{n}": f"share of prompts whose answer chosen of {n} is right" for n in (MANY, FEW)},
    effects=(
        Effect(f"right@{MANY}", "certainty", "likelihood", "higher", delta=0.02),
        Effect(f"right@{MANY}", "borda", "majority", "higher", delta=0.02),
        Effect(f"right@{FEW}", "borda", "majority", "higher", delta=0.02),
    ),
    run=run,
    methods=("signal:self-certainty", "search:borda", "search:majority", "search:best-of-n", "task:chain"),
)
