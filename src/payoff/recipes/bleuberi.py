"""BLEUBERI: does overlap with references agree with quality, more so with more of them, and train as well as an exact check?

payoff reproduce bleuberi
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe, expected
from payoff.signals.answers import answer_match
from payoff.signals.bleu import bleuberi

PROMPTS = 6
OPENINGS = ("the train leaves", "our train departs", "departure of the train is", "you can take the train", "the bus arrives")
VERBS = ("from platform", "at track", "on platform number", "not from platform")
PLACES = ("one", "two", "three", "four", "five")
TIMES = ("at noon today", "today at noon", "at twelve o'clock today", "at midnight today", "some time")
VOCABULARY = 5  # the most there are of any part


class Question(NamedTuple):
    """Every answer that can be put together: its text where all parts exist, and how good it is, 0 to 1."""

    texts: list[str]
    quality: Tensor


@lru_cache(maxsize=PROMPTS)
def question(right: int) -> Question:
    """Ways to say from which platform a train leaves at noon; a third for each of what, where and when, nothing if denied."""
    texts, quality = [], []
    for opening, verb, place, time in product(range(VOCABULARY), repeat=4):
        there = verb < len(VERBS)
        texts.append(f"{OPENINGS[opening]} {VERBS[verb]} {PLACES[place]} {TIMES[time]}" if there else "")
        good = [opening < 4, place == right, time < 3]
        quality.append(sum(good) / 3 if there and verb != 3 else 0.0)
    return Question(texts, torch.tensor(quality, dtype=torch.float64))


def run(arm: str, seed: int, *, updates: int = 15) -> Mapping[str, float]:
    """Exact gradient ascent on each reward from one policy; references are good answers that the seed draws."""
    rng = torch.Generator().manual_seed(seed)
    questions = [question(k % len(PLACES)) for k in range(PROMPTS)]
    rewards = []
    for one in questions:
        best = (one.quality == 1).nonzero()[:, 0]
        drawn = [one.texts[int(i)] for i in best[torch.randperm(len(best), generator=rng)[:5]]]
        score = {
            "exact": lambda text, drawn=drawn: answer_match(text, drawn),
            "bleu-1": lambda text, drawn=drawn: bleuberi(text, drawn[:1]),
            "bleu-5": lambda text, drawn=drawn: bleuberi(text, drawn),
        }.get(arm)
        rewards.append(one.quality if score is None else torch.tensor([score(text) for text in one.texts]).double())
    policy = Tabular(VOCABULARY, 4, starts=PROMPTS, spread=0.5, seed=seed)
    agree = sum(agreement(policy.probabilities(k).detach(), rewards[k], questions[k].quality) for k in range(PROMPTS)) / PROMPTS
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(updates):
        optimiser.zero_grad()
        (-torch.stack([(policy.probabilities(k) * rewards[k]).sum() for k in range(PROMPTS)]).sum()).backward()
        optimiser.step()
    return {"agreement": agree, "quality": expected(policy, lambda k: questions[k].quality, PROMPTS)}


def agreement(p: Tensor, reward: Tensor, quality: Tensor) -> float:
    """The chance that the better of two answers has the higher reward, of pairs unlike in quality; equal rewards count half."""
    better = (quality[:, None] > quality) * p[:, None] * p
    wins = (reward[:, None] > reward).double() + (reward[:, None] == reward).double() / 2
    return float((better * wins).sum() / better.sum())


RECIPE = Recipe(
    name="bleuberi",
    claim=(
        "BLEU against good references agrees with quality, better with five than with one, and a policy trained on it becomes as "
        "good as one trained on a dearer reward."
    ),
    paper="arXiv:2505.11080",
    test=(
        f"{PROMPTS} questions whose {VOCABULARY**4} answers are put together from four parts, by paraphrase, with right and wrong "
        "subjects, platforms and times, and a denial; quality is a third for each of subject, platform and time that is right, 0 "
        "if denied. References are drawn from the best answers. A tabular policy, random at first, climbs each reward by exact "
        "gradients for the same few updates, as many as bring the arm paid by quality to 0.9 on seed 99; nothing else was tuned. "
        "Not tested: people's choices, open questions, sampled gradients, language models, learned reward models."
    ),
    arms={
        "quality": "the true quality: the dearest reward there is",
        "exact": "1 for one of five references word for word",
        "bleu-1": "BLEU against one reference",
        "bleu-5": "BLEU against five references",
    },
    measures={
        "agreement": "chance that the better of two of the first policy's answers has the higher reward, ties half (exact)",
        "quality": "mean quality of the trained policy's answers, 0 to 1 (exact)",
    },
    effects=(
        Effect("agreement", "bleu-5", "bleu-1", "higher", delta=0.02),
        Effect("quality", "bleu-5", "quality", "not lower", delta=0.05),
    ),
    run=run,
    methods=("grader:bleuberi", "grader:answer-match", "policy:tabular"),
)
