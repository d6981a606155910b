"""Being right and keeping to a form, weighed into one number."""

from __future__ import annotations

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.calibration import graded
from payoff.signals.tags import in_order


@method("rl-with-cold-start", kind="grader", paper="arXiv:2505.22334")
def form_and_accuracy(response: str, reference: Reference, *, weight: float = 0.5, correct: str = "math-answer") -> float | Verdict:
    """(1 - weight) c + weight f: being right and keeping to a form, in one number of 0..1 (RL with cold start).

    f is 1 for <think>...</think><answer>...</answer> and nothing else; c is what `correct`, a registered grader, gives to what
    stands in the last <answer>, or to all of a response without one. The paper's mathematics scorer has a weight of 0.1.

    Cost: that of `correct`. Form alone earns `weight`; where a group is alike in one of the two, the weight is invisible to `grpo`.
    No verdict where `correct` has none. Raises ValueError for a weight outside 0..1.

    >>> form_and_accuracy("<think>3 + 4</think><answer>7</answer>", "7"), form_and_accuracy("7", "7", weight=0.1)
    (1.0, 0.9)
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"form_and_accuracy: weight must lie in 0..1, got {weight}")
    inside = response.rpartition("<answer>")[2].partition("</answer>")[0] if "<answer>" in response else response
    right = graded(correct, inside, reference)
    return right if isinstance(right, Verdict) else (1 - weight) * right + weight * in_order(response, ("think", "answer"))
