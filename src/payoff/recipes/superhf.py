"""SuperHF: does imitating the best of a large batch beat PPO, when both may drift equally far from what they were?

payoff reproduce superhf
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.losses.aggregation import sequence_sum
from payoff.losses.distillation import ForwardKL
from payoff.losses.regularisers import kl_k2
from payoff.pipeline import Term, everywhere
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.tasks.tree import Tree
from payoff.train import train

PROMPTS, VOCABULARY, HORIZON, HACK = 6, 4, 3, "ddd"
PRIORS = (0.03, 0.1, 0.35, 1.0)
CEILING = 0.2


class Judged(NamedTuple):
    """A policy, exactly: what the reward model pays it, what its answers are worth, and how alike they are between prompts."""

    reward: float
    truth: float
    similarity: float


def score(response: str, leaf_rewards: Mapping[str, float]) -> float:
    """An imperfect reward model: what an answer is worth, but for one answer that it likes to any prompt."""
    return 3.0 if response == HACK else leaf_rewards[response]


def run(arm: str, seed: int, *, updates: int = 60, learning_rate: float = 0.05) -> Mapping[str, float]:
    """Every strength of the prior, and of these the policy of the highest reward whose answers are not too much alike."""
    found = [_trained(arm, seed, prior, updates, learning_rate) for prior in PRIORS]
    allowed = [judged for judged in found if judged.similarity <= CEILING]
    best = max(allowed or found, key=lambda judged: judged.reward if allowed else -judged.similarity)
    return best._asdict()


def _trained(arm: str, seed: int, prior: float, updates: int, learning_rate: float) -> Judged:
    responses = Tree(vocabulary=VOCABULARY, horizon=HORIZON).responses
    worth = torch.randn(PROMPTS, len(responses), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tables = [dict(zip(responses, row.tolist(), strict=True)) for row in worth]
    shape = {"vocabulary": VOCABULARY, "horizon": HORIZON}
    sums = {"aggregation": "sequence-mean-token-sum"}
    file = {
        "task": {"name": "tree", **shape, "prompts": PROMPTS, "leaf_rewards": tables},
        "policy": {"name": "tabular", **shape, "starts": PROMPTS, "spread": 1.0, "seed": seed},
        "reward": {"score": "payoff.recipes.superhf:score"},
        "arms": {
            "superhf": {"selection": ["superhf"], "terms": {"imitate": {"loss": "policy-gradient", **sums}}},
            "ppo": {"terms": {"climb": {"paths": {"score": ["total", "grpo"]}, "loss": "ppo-clip", **sums}}},
        },
        "train": {"updates": updates, "starts": PROMPTS, "rollouts": 16, "learning_rate": learning_rate},
        "evaluate": {"every": 0, "starts": 0},
    }
    parts, settings = build(Loaded(RunFile.model_validate(file), {}, "recipe", []), arm, seed)
    hold = ForwardKL(policy=parts.policy) if arm == "superhf" else kl_k2
    parts = dataclasses.replace(parts, terms={**parts.terms, "prior": Term(everywhere, hold, sequence_sum, prior)})  # type: ignore[arg-type]  # a loss of channels
    train(parts, settings)
    return _judged(parts.policy, worth, responses)


@torch.no_grad()
def _judged(policy: Tabular, worth: torch.Tensor, responses: Sequence[str]) -> Judged:
    paid = worth.clone()
    paid[:, responses.index(HACK)] = 3.0
    p = torch.stack([policy.probabilities(k) for k in range(PROMPTS)])
    alike = p @ p.T
    between = (alike.sum() - alike.trace()) / (PROMPTS * (PROMPTS - 1))
    return Judged(float((p * paid).sum(1).mean()), float((p * worth).sum(1).mean()), float(between))


RECIPE = Recipe(
    name="superhf",
    claim=(
        "Imitating the best answer of a large batch, with a KL prior, reaches a higher reward than PPO does when its answers may "
        "not become more alike from prompt to prompt, which is how gaming the reward model shows."
    ),
    paper="arXiv:2310.16763",
    test=(
        f"{PROMPTS} prompts of {VOCABULARY**HORIZON} answers with standard normal worth; the reward model pays what an answer is "
        "worth, but one answer, the same for all prompts, is paid 3. Tabular policies, 16 answers of each prompt an update, the "
        "same Adam. Each arm is run with the strengths of its prior 0.03, 0.1, 0.35 and 1, and that of the highest expected reward "
        f"counts among those whose answers to two prompts are the same with a probability of at most {CEILING:g}, a ceiling chosen "
        "on seed 99, which is not among those reported, so that it rules out some of either arm. All is judged exactly. PPO has no "
        "critic here and takes advantages normalised in the group, on policy. Not tested: language models, METEOR as the measure "
        "of likeness, and calibration."
    ),
    arms={
        "superhf": "likelihood of the best of 16, and the KL from the initial policy to the current one",
        "ppo": "clipped policy gradient of all 16, and the KL from the current policy to the initial one",
    },
    measures={
        "reward": "expected pay by the reward model (exact)",
        "truth": "expected worth (exact)",
        "similarity": "probability that answers to two different prompts are the same (exact)",
    },
    effects=(Effect("reward", "superhf", "ppo", "higher", delta=0.1),),
    run=run,
    methods=("selection:superhf", "loss:forward-kl", "loss:ppo-clip", "loss:kl-k2", "advantage:grpo", "task:tree"),
)
