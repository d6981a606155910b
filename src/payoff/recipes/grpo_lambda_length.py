"""GRPO-lambda (length): is a length penalty safe when only the prompts that are solved best have to bear it?

payoff reproduce grpo-lambda-length
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.shaping.right_and_short import efficient_groups
from payoff.trajectories import Trajectories, constant, outcome, place_outcome

EASY, HARD, LONGEST, GROUP = 5, 5, 8, 16
SHARES = {"outcome": 0.0, "everyone": 1.0, "grpo-lambda": 0.2}


def run(arm: str, seed: int, *, updates: int = 500) -> Mapping[str, float]:
    """A table of logits chooses a length from 1 to 8 for each prompt; whether the answer is right is drawn given the length."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.arange(1, LONGEST + 1, dtype=torch.float64)
    right = torch.cat([torch.full((EASY, LONGEST), 0.95, dtype=torch.float64), (0.5 + 0.05 * lengths).expand(HARD, -1)])
    logits = torch.zeros(EASY + HARD, LONGEST, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.02)
    n = (EASY + HARD) * GROUP
    sure, zeros = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.int64)
    for _ in range(updates):
        # Equally good groups go by their ids, so the prompts come in a fresh order every time.
        prompt = torch.randperm(EASY + HARD, generator=rng).repeat_interleave(GROUP)
        logp = logits.log_softmax(1)
        chosen = torch.multinomial(logp.detach().exp()[prompt], 1, generator=rng)[:, 0]
        reward = torch.bernoulli(right[prompt, chosen], generator=rng)
        mask = torch.arange(LONGEST) <= chosen[:, None]
        traj = Trajectories(mask, chosen + 1, prompt, torch.where(mask, 0, -1).int(), zeros, mask.long(), id=torch.arange(n))
        paid = place_outcome(reward, sure, traj)
        shaped, _ = outcome(efficient_groups(paid, traj, share=SHARES[arm]), traj)
        advantage = grpo(constant(shaped, sure), traj).value[:, 0]
        optimiser.zero_grad()
        (-(advantage * logp[prompt, chosen]).mean()).backward()
        optimiser.step()
    p = logits.detach().softmax(1)
    accuracy, length = (p * right).sum(1), p @ lengths
    return {
        "accuracy": float(accuracy.mean()),
        "hard_accuracy": float(accuracy[EASY:].mean()),
        "length": float(length.mean()),
        "easy_length": float(length[:EASY].mean()),
    }


RECIPE = Recipe(
    name="grpo-lambda-length",
    claim=(
        "A length penalty on everyone collapses accuracy; on the groups that are solved best alone it shortens answers by about "
        "half and costs no accuracy."
    ),
    paper="arXiv:2505.18086",
    test=(
        f"{EASY} easy prompts, right with 0.95 at any length, and {HARD} hard ones, right with 0.5 + 0.05 per unit of length; a "
        f"table of logits chooses the length, 1 to {LONGEST}. Groups of {GROUP} of every prompt, GRPO, Adam, one pass, strength "
        "0.6. All that a length can do is to help hard prompts, and the table tells prompts apart. The number of updates was "
        "sized on seed 99, which is not among those reported. Not tested: what a penalty on one prompt does to another through "
        "shared weights, and language models."
    ),
    arms={
        "outcome": "1 for a right answer",
        "everyone": "the same with the length penalty in every group (share 1)",
        "grpo-lambda": "the same with it in the best solved fifth of the groups (share 0.2)",
    },
    measures={
        "accuracy": "probability of a right answer under the final policy, mean over all prompts (exact)",
        "hard_accuracy": "the same over the hard prompts",
        "length": "expected length, mean over all prompts (exact), in units",
        "easy_length": "the same over the easy prompts",
    },
    effects=(
        Effect("hard_accuracy", "grpo-lambda", "everyone", "higher", delta=0.05),
        Effect("accuracy", "grpo-lambda", "outcome", "not lower", delta=0.01),
        Effect("length", "grpo-lambda", "outcome", "lower", delta=0.5),
    ),
    run=run,
    methods=("shaping:grpo-lambda-length", "advantage:grpo"),
)
