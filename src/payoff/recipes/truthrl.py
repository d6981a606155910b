"""TruthRL: does pay between right and wrong for "I don't know" lower the share of wrong answers by more than that of right ones?

payoff reproduce truthrl
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.signals.calibration import truthrl
from payoff.trajectories import Trajectories, place_outcome

PROMPTS, GROUP = 200, 8
ABSTAINING = {"binary": -1.0, "lower": -0.5, "ternary": 0.0, "higher": 0.5}
SAID = ("Paris", "Rome", "I don't know")  # right, wrong, abstaining


@lru_cache(maxsize=8)
def advantages(abstain: float) -> tuple[Tensor, Tensor]:
    """Every group there can be, as counts of right, wrong and abstaining [M, 3], and GRPO's advantage of each kind in it [M, 3]."""
    counts = [(r, w, GROUP - r - w) for r in range(GROUP + 1) for w in range(GROUP + 1 - r)]
    kinds = torch.tensor([kind for count in counts for kind, n in enumerate(count) for _ in range(n)])
    size = len(kinds)
    traj = Trajectories(
        mask=torch.ones(size, 1, dtype=torch.bool),
        length=torch.ones(size, dtype=torch.int64),
        group=torch.arange(len(counts)).repeat_interleave(GROUP),
        step=torch.zeros(size, 1, dtype=torch.int32),
        stop=torch.zeros(size, dtype=torch.int64),
        actions=kinds[:, None],
        logp={},
        id=torch.arange(size),
        items=[{} for _ in range(size)],
    )
    pay = torch.tensor([truthrl(said, SAID[0], abstain=abstain) for said in SAID], dtype=torch.float64)
    value = grpo(place_outcome(pay[kinds], torch.ones(size, dtype=torch.bool), traj), traj).value[:, 0]
    table = torch.zeros(len(counts), 3, dtype=torch.float64)
    table[traj.group, kinds] = value  # members of a kind have the same
    return torch.tensor(counts, dtype=torch.float64), table


def run(arm: str, seed: int, *, updates: int = 600) -> Mapping[str, float]:
    """The expected GRPO update, by the chances of all groups; the policy says of each prompt whether to answer it."""
    chance = torch.rand(PROMPTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)  # to be right if it answers
    counts, advantage = advantages(ABSTAINING[arm])
    ways = torch.tensor(
        [math.factorial(GROUP) / math.prod(math.factorial(int(n)) for n in row) for row in counts.tolist()]
    ).double()
    logit = torch.full((PROMPTS,), 1.0, dtype=torch.float64)
    for _ in range(updates):
        answers = logit.sigmoid()
        kinds = torch.stack([answers * chance, answers * (1 - chance), 1 - answers], 1)
        groups = ways * (kinds[:, None] ** counts).prod(2)
        slope = torch.stack([1 - answers, 1 - answers, -answers], 1)  # of the log-probability of each kind
        logit = logit + 0.2 * (groups @ (counts / GROUP * advantage) * slope).sum(1)
    answers = logit.sigmoid()
    right, wrong = float((answers * chance).mean()), float((answers * (1 - chance)).mean())
    return {"right": right, "wrong": wrong, "abstains": float(1 - answers.mean()), "truthfulness": right - wrong}


RECIPE = Recipe(
    name="truthrl",
    claim=(
        "GRPO with +1, 0 and -1 for right, abstaining and wrong answers gives fewer wrong answers and more truthfulness (right "
        "minus wrong) than with abstaining counted as wrong; 0 is a better pay for abstaining than -0.5 or +0.5."
    ),
    paper="arXiv:2509.25760",
    test=(
        f"{PROMPTS} prompts, each answered rightly with a chance drawn evenly from 0 to 1; the policy decides of each whether to "
        f"answer, at first with 0.73. Every update is the exact mean of GRPO's over all groups of {GROUP}, by the library's grader "
        "and advantage; the same step and updates in every arm. Not tested: judges that err, prompts that share what they learn, "
        "learning to answer better, language models."
    ),
    arms={
        "binary": "abstaining is paid as a wrong answer",
        "lower": "abstaining is paid -0.5",
        "ternary": "abstaining is paid 0",
        "higher": "abstaining is paid +0.5",
    },
    measures={
        "right": "share of prompts answered rightly (exact)",
        "wrong": "share answered wrongly (exact)",
        "abstains": "share not answered (exact)",
        "truthfulness": "right minus wrong (exact)",
    },
    effects=(
        Effect("wrong", "ternary", "binary", "lower", delta=0.05),
        Effect("truthfulness", "ternary", "binary", "higher", delta=0.05),
        Effect("truthfulness", "ternary", "lower", "higher", delta=0.01),
        Effect("truthfulness", "ternary", "higher", "higher", delta=0.01),
    ),
    run=run,
    methods=("grader:truthrl", "advantage:grpo"),
)
