"""RLCR: does pay for a proper score beside being right make confidence honest, and cost no right answers?

payoff reproduce rlcr
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.signals.calibration import calibration, rlcr

PROMPTS, ANSWERS = 40, 4
LEVELS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
ARMS = {
    "correct": "1 for a right answer, whatever the confidence",
    "rlcr": "being right and the Brier score, the paper's reward",
    "spherical": "being right and the spherical score, which is bounded too",
    "log": "being right and the logarithm of the probability given to what happened, which is not bounded",
}


def pay(arm: str, q: float, right: bool) -> float:
    """What one answer with a confidence earns."""
    if arm == "correct":
        return float(right)
    if arm == "log":
        return right + math.log(q if right else 1 - q)
    said = f"<answer>{'yes' if right else 'no'}</answer><confidence>{q}</confidence>"
    return float(rlcr(said, "yes", rule={"rlcr": "brier"}.get(arm, arm)))  # type: ignore[arg-type]  # there is a reference


def run(arm: str, seed: int, *, updates: int = 1500) -> Mapping[str, float]:
    """Exact gradient ascent on the expected pay over all answers with all confidences."""
    rng = torch.Generator().manual_seed(seed)
    chance = (1.5 * torch.randn(PROMPTS, ANSWERS, generator=rng, dtype=torch.float64)).softmax(1)  # that an answer is right
    p = chance[:, :, None].expand(PROMPTS, ANSWERS, len(LEVELS)).flatten(1)
    q = torch.tensor(LEVELS, dtype=torch.float64).repeat(ANSWERS).expand_as(p)
    paid = [torch.tensor([pay(arm, level, right) for level in LEVELS]).double().repeat(ANSWERS) for right in (True, False)]
    worth = p * paid[0] + (1 - p) * paid[1]
    policy = Tabular(p.shape[1], 1, starts=PROMPTS, spread=1.0, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(updates):
        optimiser.zero_grad()
        chosen = policy.logits[:, 0].softmax(1)  # of all prompts in one go
        (-(chosen * worth).sum(1).mean()).backward()
        optimiser.step()
    chosen = chosen.detach()
    found = calibration(q.flatten(), p.flatten(), weight=chosen.flatten())
    doubtful = chance.amax(1) < 0.5
    worst = (p == chance.amin(1)[:, None]) & doubtful[:, None]
    return {
        "accuracy": found.accuracy,
        "error": found.error,
        "brier": found.brier,
        "gives_up": float((chosen * worst).sum() / doubtful.sum().clamp(min=1)),
    }


RECIPE = Recipe(
    name="rlcr",
    claim=(
        "Paying the Brier score of a stated confidence beside being right makes confidence honest and costs no accuracy, where "
        "paying for being right alone leaves it wrong; with a score that has no bound, such as the logarithm, wrong answers on "
        "purpose become worth while."
    ),
    paper="arXiv:2507.16806",
    test=(
        f"{PROMPTS} prompts with {ANSWERS} answers, whose chances to be right the seed draws; an output is an answer with one of "
        f"{len(LEVELS)} confidences from {LEVELS[0]} to {LEVELS[-1]}, chosen together by a tabular policy. Exact gradients of the "
        "expected pay, the same Adam and updates in every arm; what the paper's grader pays comes from the library's own. Not "
        "tested: language models, reasoning about doubt, how far calibration carries over to other prompts."
    ),
    arms=ARMS,
    measures={
        "accuracy": "chance that the answer is right (exact)",
        "error": "expected calibration error with 10 bins, 0 to 1 (exact)",
        "brier": "mean squared gap of confidence and outcome (exact)",
        "gives_up": "probability of the least likely answer where none is right with 1/2 (exact)",
    },
    effects=(
        Effect("error", "rlcr", "correct", "lower", delta=0.05),
        Effect("accuracy", "rlcr", "correct", "not lower", delta=0.01),
        Effect("gives_up", "log", "rlcr", "higher", delta=0.05),
        Effect("accuracy", "log", "rlcr", "lower", delta=0.02),
    ),
    run=run,
    methods=("grader:rlcr", "policy:tabular"),
)
