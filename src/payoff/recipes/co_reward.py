"""Co-Reward: does voting across two wordings of a question train better than voting among answers to the same wording?

payoff reproduce co-reward
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from payoff.advantages.group import grpo
from payoff.recipes import Effect, Recipe
from payoff.signals.agreement import co_reward, majority_agreement
from payoff.trajectories import Trajectories, place_outcome

QUESTIONS, ANSWERS, GROUP = 100, 4, 6
MARGIN, SPREAD = 1.1, 1.5  # with these four answers in ten are right at first
SHARED = {"apart": 0.0, "half": 0.5, "same": 1.0}  # the share of the variance of both wordings' errors that is common
# How often each answer is in a group, for every group there can be.
BAGS = [bag for bag in product(range(GROUP + 1), repeat=ANSWERS) if sum(bag) == GROUP]


@lru_cache(maxsize=1)
def ways() -> Tensor:
    """In how many orders each bag can come [B]."""
    return torch.tensor([math.factorial(GROUP) / math.prod(map(math.factorial, bag)) for bag in BAGS], dtype=torch.float64)


@lru_cache(maxsize=4)
def advantages(label: str) -> Tensor:
    """GRPO's advantage [B, B, A] of each answer in a group that is bag i when the group of the other wording is bag j.

    label: who votes: "self", "co" or "truth", where answer 0 is right. 0 for an answer that is not in the group.
    """
    said = [[str(answer) for answer, count in enumerate(bag) for _ in range(count)] for bag in BAGS]
    pairs = [(own, other) for own in range(len(BAGS)) for other in range(len(BAGS))]
    if label == "co":  # an answer's pay depends on the other wording's group alone, so each is asked once for every such group
        names = [str(answer) for answer in range(ANSWERS)]
        rows = [(text, k, view) for k, other in enumerate(said) for view, texts in enumerate((names, other)) for text in texts]
        asked = [reward for reward, row in zip(co_reward(*zip(*rows, strict=True)), rows, strict=True) if row[2] == 0]
        paid = [asked[other * ANSWERS + int(text)] for own, other in pairs for text in said[own]]
    elif label == "self":
        by_bag = [majority_agreement(texts) for texts in said]
        paid = [reward for own, _ in pairs for reward in by_bag[own]]
    else:
        paid = [float(text == "0") for own, _ in pairs for text in said[own]]
    size = len(pairs) * GROUP
    zeros = torch.zeros(size, dtype=torch.int64)
    traj = Trajectories(
        mask=torch.ones(size, 1, dtype=torch.bool),
        length=zeros + 1,
        group=torch.arange(size) // GROUP,
        step=zeros[:, None].int(),
        stop=zeros,
        actions=zeros[:, None],
        id=torch.arange(size),
    )
    reward = torch.tensor(paid, dtype=torch.float64)
    value = grpo(place_outcome(reward, torch.ones(size, dtype=torch.bool), traj), traj).value[:, 0]
    table = torch.zeros(len(pairs), ANSWERS, dtype=torch.float64)
    answer = torch.tensor([int(text) for own, _ in pairs for text in said[own]])
    table[traj.group, answer] = value  # members with the same answer have the same
    return table.reshape(len(BAGS), len(BAGS), ANSWERS)


def drift(p: Tensor, other: Tensor, table: Tensor) -> Tensor:
    """The exact mean of GRPO's update of the logits [Q, A], over all groups of both wordings."""
    counts = torch.tensor(BAGS, dtype=torch.float64)
    own, across = (ways() * (x[:, None] ** counts).prod(2) for x in (p, other))  # chance of every bag [Q, B]
    mean = torch.einsum("qj,ija->qia", across, table)  # of each answer's advantage in each of the own groups
    weight = (own[:, :, None] * mean * counts / GROUP).sum(1)
    return weight - p * weight.sum(1, keepdim=True)


def run(arm: str, seed: int, *, updates: int = 60, step: float = 0.5) -> Mapping[str, float]:
    """Two wordings of every question, a table of logits each; some of what speaks for wrong answers is common to both."""
    rng = torch.Generator().manual_seed(seed)
    label, _, errors = arm.partition("-")
    shared = SHARED[errors]
    noise = torch.randn(3, QUESTIONS, ANSWERS, generator=rng, dtype=torch.float64)
    logits = [SPREAD * (math.sqrt(shared) * noise[2] + math.sqrt(1 - shared) * noise[view]) for view in (0, 1)]
    for x in logits:
        x[:, 0] += MARGIN
    before = [x.argmax(1) == 0 for x in logits]
    table = advantages(label)
    for _ in range(updates):
        p = [x.softmax(1) for x in logits]
        logits = [logits[view] + step * drift(p[view], p[1 - view], table) for view in (0, 1)]
    p = [x.softmax(1) for x in logits]
    return {
        "accuracy": float(sum(x[:, 0].mean() for x in p) / 2),
        "mode": float(sum(right.double().mean() for right in before) / 2),
        "agreement": float((p[0] * p[1]).sum(1).mean()),
    }


RECIPE = Recipe(
    name="co-reward",
    claim=(
        "Without labels, paying an answer for being the majority's answer to another wording of the question trains to more right "
        "answers than paying it for being the majority's answer to its own wording."
    ),
    paper="arXiv:2508.00410",
    test=(
        f"{QUESTIONS} questions in two wordings with {ANSWERS} answers, a table of logits for each wording: {MARGIN} for the right "
        f"answer and normal errors of deviation {SPREAD}, so that 0.4 of the answers are right at first; of their variance "
        "nothing, half or all is common to the wordings. Every update is the exact mean of GRPO's over all groups of "
        f"{GROUP} for both wordings, by the library's graders and advantage; the same step and updates in every arm, enough for no "
        "arm to change any more. Tables share nothing between questions. A first form, in which half of the errors were common, "
        "showed no difference on seed 99, which is not among those reported; that case is kept and the two others came beside it. "
        "Not tested: collapse to one answer for all questions, which needs shared weights; a paid label for comparison beyond its "
        "being learned by heart; rewordings that change the answer; language models."
    ),
    arms={
        f"{label}-{errors}": text.format(amount)
        for errors, amount in (("apart", "errors apart"), ("half", "half of the errors in common"), ("same", "the same errors"))
        for label, text in (("self", "the majority of the own wording, {}"), ("co", "the majority of the other wording, {}"))
    }
    | {"truth-half": "1 for the right answer, half of the errors in common"},
    measures={
        "accuracy": "probability of a right answer under the final policy, mean over questions and wordings (exact)",
        "mode": "share of the questions whose most likely answer was right before training (exact)",
        "agreement": "chance that answers to the two wordings of a question agree, under the final policy (exact)",
    },
    effects=(
        Effect("accuracy", "co-apart", "self-apart", "higher", delta=0.02),
        Effect("accuracy", "co-half", "self-half", "higher", delta=0.02),
    ),
    run=run,
    methods=("grader:co-reward", "grader:majority-agreement", "advantage:grpo"),
    seeds=10,
)
