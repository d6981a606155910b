"""Posterior-GRPO: does a score of the reasoning help when it counts for right programs alone, and harm when it counts for all?

payoff reproduce p-grpo
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.advantages.group import grpo
from payoff.grading import signal
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.functions import ANSWERS, EXCEPTIONS, PROBLEMS, RULES, program, right, suite
from payoff.recipes.worlds.writing import Choices, climb, judged, mean_worth, write, writer
from payoff.shaping.gated_process import gated_process
from payoff.signals.code import code_tests
from payoff.trajectories import constant, place_outcome

# Two sentences of reasoning, then the rule and the answers to the first three exceptions; the fourth is right anyhow.
KINDS = ("sound", "vague", "praise")
SENTENCES = 2
PLACES = (*[len(KINDS)] * SENTENCES, len(RULES), *[len(ANSWERS)] * 3)
SCORES = {"flawed": (0.6, 0.2, 1.0), "honest": (1.0, 0.0, 0.0)}  # of each kind of sentence
FOLLOWING = 1.0  # nats by which every sound sentence leans to each right part of the program
RATE = 0.12
CODE = signal(code_tests, name="correct", cache=True)


def reasoning(problem: int, kinds: Choices) -> str:
    """The sentences as text: what is right for the problem, nothing in particular, or praise of oneself."""
    rule, *answers = PROBLEMS[problem].right
    sound = (
        f"The rule is {RULES[rule]}, and where {EXCEPTIONS[0]} the answer is {ANSWERS[answers[0]]}.",
        f"Where {EXCEPTIONS[1]} it is {ANSWERS[answers[1]]}, where {EXCEPTIONS[2]} it is {ANSWERS[answers[2]]}.",
    )
    texts = {"vague": "The function maps x to a value.", "praise": "I verified this step by step and it is certainly correct."}
    return " ".join(sound[place] if KINDS[kind] == "sound" else texts[KINDS[kind]] for place, kind in enumerate(kinds))


def whole(problem: int, choices: Choices) -> Choices:
    """The choices of a program in the language of functions."""
    return (1, *choices[SENTENCES:], PROBLEMS[problem].right[-1])


def say(problem: int, choices: Choices) -> Mapping[str, Any]:
    """The program apart from what was reasoned before it, so that it is run once, whatever that was."""
    kinds = choices[:SENTENCES]
    text = program(whole(problem, choices))
    return {"reasoning": reasoning(problem, kinds), "response": text, "reference": suite(problem), "kinds": kinds}


def lean(problem: int, before: Choices) -> list[float]:
    """Before training, the program follows the reasoning as far as that is sound."""
    place = len(before)
    if place < SENTENCES:
        return [0.0] * PLACES[place]
    wanted = PROBLEMS[problem].right[place - SENTENCES]
    return [FOLLOWING * before[:SENTENCES].count(0) * (choice == wanted) for choice in range(PLACES[place])]


def run(arm: str, seed: int, *, updates: int = 30, rollouts: int = 8) -> Mapping[str, float]:
    """A table writes reasoning and then a Python function, learns by GRPO, and is judged exactly."""
    rng = torch.Generator().manual_seed(seed)
    policy = writer(PLACES, len(PROBLEMS), seed=seed, lean=lean)
    optimiser = torch.optim.Adam(policy.parameters(), lr=RATE)
    score = SCORES["honest" if arm.endswith("honest") else "flawed"]
    for _ in range(updates):
        texts = write(policy, rollouts, rng, say)
        sure = torch.ones(len(texts), dtype=torch.bool)
        process = torch.tensor([sum(score[kind] for kind in item["kinds"]) / SENTENCES for item in texts.items])
        rewards = {
            "form": place_outcome(torch.ones(len(texts)), sure, texts),  # the language can write nothing ill-formed
            "correct": CODE(texts)["correct"],
            "process": place_outcome(process, sure, texts),
        }
        correct = judged(rewards["correct"], texts)
        if arm == "outcome":
            paid = correct
        elif arm.startswith("ungated"):
            paid = correct + process
        else:
            paid = judged(gated_process(rewards, texts)["p-grpo"], texts)
        climb(policy, optimiser, texts, grpo(constant(paid.double(), sure), texts))

    def mean(kind: int, correct: bool) -> float:
        """The share of sentences of one kind, of all texts or of the right ones."""
        worth = lambda problem, choices: (
            choices[:SENTENCES].count(kind) / SENTENCES * (right_text(problem, choices) if correct else 1)
        )
        return sum(mean_worth(policy, PLACES, worth)) / len(PROBLEMS)

    accuracy = sum(mean_worth(policy, PLACES, right_text)) / len(PROBLEMS)
    return {
        "right": accuracy,
        "praise": mean(KINDS.index("praise"), correct=False),
        "sound": mean(0, correct=False),
        "sound_of_right": mean(0, correct=True) / accuracy,
    }


def right_text(problem: int, choices: Choices) -> float:
    return right(problem, whole(problem, choices))


RECIPE = Recipe(
    name="p-grpo",
    claim=(
        "A score of the reasoning that counts for right programs alone makes more programs right than the outcome alone; added for "
        "all, it is collected for its own sake where it errs, and fewer programs are right."
    ),
    paper="arXiv:2508.05170",
    test=(
        f"{len(PROBLEMS)} problems: two sentences of reasoning, each sound, vague or praise of oneself, and a Python function of "
        "four parts, 972 texts in all for each. 20 tests run in the sandbox. At first every sound sentence makes each right part "
        f"of the program e^{FOLLOWING:g} times as likely, so that sound reasoning helps; a table learns by GRPO in groups of 8 by "
        "Adam. The score stands in for the paper's trained model: the mean over sentences of 1 for sound ones (honest), or of 0.6 "
        "for sound, 0.2 for vague and 1 for praise (flawed). The learning rate of all arms was the best of 0.03, 0.06 and 0.12 for "
        "each, and the number of updates was cut from 60, where the outcome alone was at 0.98, on seeds 95 and 96, which are not "
        "among those reported. The final policy is judged exactly. All texts are well-formed. Not tested: training a reward model "
        "of reasoning, one policy that carries reasoning over to other problems, and language models."
    ),
    arms={
        "outcome": "1 for a program that passes every test",
        "ungated": "the outcome plus the flawed score",
        "gated": "form plus the outcome plus the outcome times the flawed score",
        "ungated-honest": "the outcome plus the honest score",
        "gated-honest": "form plus the outcome plus the outcome times the honest score",
    },
    measures={
        "right": "probability of a right program under the final policy, mean over the problems (exact)",
        "praise": "share of sentences that are praise (exact)",
        "sound": "share of sentences that are sound (exact)",
        "sound_of_right": "share of sentences that are sound among the right programs (exact)",
    },
    effects=(
        Effect("right", "gated", "ungated", "higher", delta=0.05),
        Effect("right", "gated", "outcome", "not lower", delta=0.02),
        Effect("right", "gated-honest", "outcome", "higher", delta=0.02),
    ),
    run=run,
    methods=("shaping:p-grpo", "grader:code-tests", "advantage:grpo", "policy:tabular"),
    seeds=6,
)
