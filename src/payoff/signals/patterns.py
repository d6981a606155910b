"""What a response looks like rather than what it says: repetition, phrases of reasoning, how long it thinks before it answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.bleu import LONGEST, ngrams
from payoff.signals.calibration import graded

# Four kinds of phrases: going back, going on, concluding, knowing. Whole words, so that "hence" is not found in "henceforth".
PHRASES = tuple(
    """wait|hold on|alternatively|let me check|let me verify|let me reconsider|let me think|let me see|on second thought|however
    |but maybe|double check|try again|another way|is that right|first|second|next|then|finally|to begin with|after that
    |step by step|in the end|therefore|thus|hence|so that|because|since|as a result|it follows that|which means|this implies
    |consequently|we know that|recall that|by definition|given that|suppose that""".replace("\n    ", "").split("|")
)
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_BOX = "\\boxed"


@method("repetition", kind="grader")
def repetition(response: str, *, n: int = 4, words: bool = True) -> float:
    """Minus the share of a response's n-grams that were there before: -(1 - distinct / all), in (-1, 0].

    A text of k equal words repeated has -(1 - 1 / m), m = k - n + 1; one that never says the same n words twice, or has fewer than
    n, has 0. It falls with every repetition, unlike the penalty in `reasoning-pattern-reward`.

    n: words (or characters, with words = False: right where there are no spaces) in a row
    Cost: linear, of the first 200,000 characters. Gamed by changing one word in n each time round, by counting up, and by saying
    little. Tables and code repeat themselves for good reasons: raise n there. Raises ValueError for n < 1.

    >>> repetition("a b c a b c", n=3), repetition("one two three", n=3), repetition("no no no no no", n=1)
    (-0.25, 0.0, -0.8)
    """
    if n < 1:
        raise ValueError(f"repetition: n must be at least 1, got {n}")
    text = response[:LONGEST].casefold()
    grams = ngrams(text.split() if words else text, n)
    return len(grams) / grams.total() - 1 if grams else 0.0


@method("reasoning-pattern-reward", kind="grader", paper="arXiv:2505.22653")
def reasoning_pattern_reward(
    response: str,
    reference: Reference = None,
    *,
    phrases: Sequence[str] = PHRASES,
    enough: int = 20,
    n: int = 20,
    forbidden: Sequence[str] = ("<|im_start|>", "<|user|>", "<|start_header_id|>"),
    correct: str | None = None,
) -> float | Verdict:
    """Pay for how reasoning sounds: max(0, min(1, k / enough) - rep - f), whatever it comes to (reasoning pattern reward).

    k: how many of the phrases are in the thinking, each counted once, any case, as whole words. rep: distinct n-grams of words that
    come more than once / all n-grams, 0 below n words. f: how often a forbidden mark of another's turn comes.
    The thinking is what <think> holds; all of a response without it.

    phrases: 40 by default, ours, of the four kinds that the paper names: second thoughts, order, conclusion, knowledge
    correct: a registered grader of `response` and `reference`: what it holds for right (from 1/2 on) is paid its verdict, what it
             holds for wrong the pattern, which softens its mistakes (the paper's calibration of noisy rewards; of a model's score:
             the shaping of this name)
    Range 0..1. Cost: linear in the text times the phrases. Gamed by stuffing the phrases in, and `rep` forgives a text repeated
    often more than one repeated once: a proxy for the first steps, not a reward to end with. With `correct`, no verdict where that
    has none. Raises ValueError for enough < 1, n < 1 or no phrases.

    >>> reasoning_pattern_reward("<think>Wait, let me check. Therefore 7.</think> first, next", enough=4)
    0.75
    >>> reasoning_pattern_reward("Therefore 7. <answer>7</answer>", "7", correct="answer-match")
    1.0
    """
    if enough < 1 or n < 1 or not phrases:
        raise ValueError(f"reasoning_pattern_reward: enough, n >= 1 and phrases are needed, got {enough}, {n}, {len(phrases)}")
    if correct is not None:
        right = graded(correct, response, reference)
        if isinstance(right, Verdict) or right >= 0.5:
            return right
    inside = _THOUGHT.search(response)
    text = " ".join((inside[1] if inside else response)[:LONGEST].lower().split())
    either = "|".join(sorted((re.escape(phrase.lower()) for phrase in phrases), key=len, reverse=True))
    # Looked ahead, so that a phrase within another is found too.
    places = {match[1] for match in re.finditer(rf"(?<!\w)(?=({either})(?!\w))", text)}
    found = {phrase for place in places for phrase in _within(place, phrases)}
    grams = ngrams(text.split(), n)
    rep = sum(count > 1 for count in grams.values()) / grams.total() if grams else 0.0
    crossed = sum(response.count(mark) for mark in forbidden)
    return max(0.0, min(1.0, len(found) / enough) - rep - crossed)


@method("rlsp", kind="grader", paper="arXiv:2502.06773")
def rlsp(
    response: str,
    reference: Reference,
    effort: float | None = None,
    *,
    scale: float = 20.0,
    no_box: float = 0.5,
    effort_weight: float = 0.2,
    correct: str = "math-answer",
) -> float | Verdict:
    r"""Right or wrong, and a bonus for thinking before the answer that hardly grows once there is some (RLSP).

    r = c - no_box [there is no \boxed]; r = (1 - w) r + w effort where a row has an `effort`; less scale / L, where L is the length
    of what stands before the first \boxed (of everything without one), in tokens of 4 characters, at least 1. The last term rises
    from -scale to 0, ever more slowly: at L = scale^2 one more token is worth 1 / scale^3.

    effort:  a field of the rows, in 0..1, how much a judge holds the search for, whatever comes out; None: no such term. w is
             effort_weight
    correct: a registered grader of `response` and `reference`, 0..1
    Range -(scale + no_box) .. 1. Cost: that of `correct`. Gamed by padding before the box, up to a few times `scale` tokens; the
    effort by all that impresses a judge. No verdict where `correct` has none, or for an effort outside 0..1.
    Raises ValueError for a scale or no_box below 0, or a weight outside 0..1.

    >>> [round(rlsp("x" * 4 * k + r"\boxed{7}", "7"), 3) for k in (10, 40, 400)], rlsp("x" * 4000, "7")
    ([-1.0, 0.5, 0.95], -0.52)
    """
    if scale < 0 or no_box < 0 or not 0 <= effort_weight <= 1:
        raise ValueError(f"rlsp: scale, no_box >= 0 and effort_weight in 0..1 are needed, got {scale}, {no_box}, {effort_weight}")
    if effort is not None and not (isinstance(effort, int | float) and 0 <= effort <= 1):
        return Verdict(0.0, valid=False, reason=f"effort must be a number in 0..1, got {str(effort)[:40]}")
    reward = graded(correct, response, reference)
    if isinstance(reward, Verdict):
        return reward
    before, box, _ = response.partition(_BOX)
    reward -= 0.0 if box else no_box
    if effort is not None:
        reward = (1 - effort_weight) * reward + effort_weight * effort
    return reward - scale / max(1.0, len(before) / 4)


def _within(found: str, phrases: Sequence[str]) -> set[str]:
    """The phrases that a found one begins with: at one place the longest is found, and shorter ones are there all the same."""
    return {phrase for phrase in phrases if re.match(rf"{re.escape(phrase.lower())}(?!\w)", found)}
