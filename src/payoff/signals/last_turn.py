"""A reward of several turns that reads the last one alone."""

from __future__ import annotations

from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.calibration import graded


@method("mgpo", kind="grader", paper="arXiv:2507.05920")
def last_turn(steps: Any, reference: Reference, *, correct: str = "answer-match") -> float | Verdict:
    """What a grader gives to the last turn alone: in a task of two turns, first where to look and then the answer (MGPO).

    No turn before the last is read, so that naming a place, and naming the right one, is learned from the answer only; the first
    turn always leads to a second, with `payoff.signals.boxes.crop_region`. Credit it to the tokens of all turns by [`total`,
    `grpo`], with `ppo-clip` and `sequence-mean-token-mean`, which count the policy's own tokens of a rollout, whatever images and
    templates lie between: that is the paper's objective.

    correct: a registered grader of `response` and `reference`
    Range and cost: those of `correct`. Gamed as that is; an answer said in the first turn earns nothing. No verdict where `correct`
    has none; a rollout without turns is wrong.

    >>> last_turn(['{"bbox_2d": [0, 0, 8, 8]}', "The answer is 7"], "7"), last_turn(["The answer is 7", "I see nothing"], "7")
    (1.0, 0.0)
    """
    if steps is not None and not (isinstance(steps, list | tuple) and all(isinstance(step, str) for step in steps)):
        return Verdict(0.0, valid=False, reason=f"steps must be a list of texts, got {str(steps)[:40]!r}")
    return graded(correct, steps[-1] if steps else "", reference)
