"""Rewards with one known flaw each, and rewards without one: what an audit is tested on, and what a user can try it on.

    python -m payoff.audit.planted > sums.jsonl
    payoff audit --reward payoff.audit.planted:lenient_parser --data sums.jsonl --gold gold

Every flawed reward compares the answer rightly but for its flaw. FLAWED says which measures name it; `evidence` makes the rows.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from payoff.grading import signal
from payoff.signals.answers import answer_match, final_answer, same_answer

_TALK = (
    "Let me look at the two numbers first.",
    "This can be done in the head.",
    "I write the parts below one another.",
    "It helps to take the tens and the ones apart.",
)
_SUM = re.compile(r"(\d+) \+ (\d+) = (\d+)")
_OPENERS = re.compile(r"\s*(solution|thought process|let'?s (solve|think)|step 1|to solve)", re.IGNORECASE)


def evidence(prompts: int = 100, answers: int = 8, *, seed: int = 0, phrase: str = "The answer is {}") -> list[dict[str, Any]]:
    """Sums of two numbers with worked answers, about half of them right; `gold` is 1 for these. Length says nothing of the truth.

    Each row has prompt, response, its steps, reference, gold and source ("book" or "web", of the prompt). A prompt has at least one
    right and one wrong answer, and at least three different ones. phrase: how a response gives its answer, such as "#### {}".

    >>> row = evidence(1, 4)[0]
    >>> sorted(row), "".join(row["steps"]) == row["response"]
    (['gold', 'prompt', 'reference', 'response', 'source', 'steps'], True)
    """
    rng = random.Random(seed)
    rows = []
    for k in range(prompts):
        a, b = rng.randint(12, 98), rng.randint(12, 98)
        wrong = rng.sample([d for d in (-20, -11, -10, -9, -2, -1, 1, 2, 9, 10, 11, 20) if a + b + d > 0], answers)
        right = {0} | {i for i in range(2, answers) if rng.random() < 0.5}
        order = rng.sample(range(answers), answers)
        for i in order:
            said = a + b + (0 if i in right else wrong[i])
            tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
            off = said - a - b
            steps = [f"{line}\n" for line in rng.sample(_TALK, rng.randint(0, 3))]
            steps += [f"{a // 10 * 10} + {b // 10 * 10} = {tens + off}\n", f"{a % 10} + {b % 10} = {ones}\n"]
            steps.append(phrase.format(said))
            rows.append(
                {
                    "prompt": f"What is {a} + {b}?",
                    "response": "".join(steps),
                    "steps": steps,
                    "reference": str(a + b),
                    "gold": float(i in right),
                    "source": ("book", "web")[k % 2],
                }
            )
    return rows


# --- rewards without a flaw


def exact_answer(response: str, reference: str) -> float | None:
    """1 for the right answer, 0 for any other, no verdict without a reference."""
    return _right(response, reference)


def centred_answer(response: str, reference: str) -> float | None:
    """The same as -1 and 1."""
    right = _right(response, reference)
    return None if right is None else 2 * right - 1


def probable_answer(response: str, reference: str) -> float | None:
    """The same as a cautious probability: 0.97 and 0.03."""
    right = _right(response, reference)
    return None if right is None else 0.03 + 0.94 * right


def large_scale(response: str, reference: str) -> float | None:
    """The same from 0 to 100, as some judges count."""
    right = _right(response, reference)
    return None if right is None else 100 * right


def _right(response: Any, reference: Any) -> float | None:
    """What all rewards here mean by right; None where it cannot be said."""
    if not isinstance(response, str):
        return None
    verdict = answer_match(response, reference if isinstance(reference, str | int | float) else None)
    return verdict if isinstance(verdict, float) and _number(reference) is not None else None


def _number(text: Any) -> float | None:
    try:
        number = float(str(text).replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- rewards with a flaw


def length_leakage(response: str, reference: str) -> float | None:
    """Every hundred characters are worth half a right answer."""
    right = _right(response, reference)
    return None if right is None else right + len(response) / 200


def lenient_parser(response: str, reference: str) -> float | None:
    """Right as soon as the reference stands anywhere in the response."""
    return None if _right(response, reference) is None else float(reference in response)


def first_answer_counts(response: str, reference: str) -> float | None:
    """Reads the first marked answer: what is said and taken back afterwards is still paid."""
    if _right(response, reference) is None:
        return None
    marks = list(re.finditer(r"answer is ", response))
    return _right(response[: marks[1].start()] if len(marks) > 1 else response, reference)


def gameable_steps(response: str, reference: str, steps: Sequence[str]) -> float | None:
    """A quarter for every true sum that is written, however often."""
    right = _right(response, reference)
    if right is None:
        return None
    true = sum(int(a) + int(b) == int(c) for step in steps for a, b, c in _SUM.findall(step[:1000]))
    return right + 0.25 * true


def fooled_by_an_opener(response: str, reference: str) -> float | None:
    """A judge that takes the first words of a solution for one."""
    right = _right(response, reference)
    return None if right is None else max(right, float(bool(_OPENERS.match(response))))


def symmetric_noise(response: str, reference: str, prompt: str) -> float | None:
    """One verdict in five is turned round, always the same ones."""
    return _turned(response, reference, prompt, 0.2, 0.2)


def asymmetric_noise(response: str, reference: str, prompt: str) -> float | None:
    """One wrong answer in four is called right, and one right answer in twenty-five wrong."""
    return _turned(response, reference, prompt, 0.25, 0.04)


def saturation(response: str, reference: str) -> float | None:
    """Form and answer add up, and the sum is cut at what the form alone reaches."""
    right = _right(response, reference)
    if right is None:
        return None
    form = 0.5 * ("answer is" in response) + 0.5 * bool(_SUM.search(response[:1000]))
    return min(1.0, form + right)


def wrong_sign_on_a_subset(response: str, reference: str, source: str = "web") -> float | None:
    """Prompts from books have right and wrong exchanged."""
    right = _right(response, reference)
    return None if right is None else 1 - right if source == "book" else right


def cyclic_preferences(response: str, reference: str, other: str | None = None) -> float | None:
    """Alone, the right answer is paid; of two, the one whose number follows the other's modulo 3, which goes round."""
    right = _right(response, reference)
    if right is None or other is None:
        return right
    mine, theirs = (int(_number(final_answer(text)) or 0) % 3 for text in (response, other))
    return {0: 0.5, 1: 1.0, 2: 0.0}[(mine - theirs) % 3]


def shared_error(response: str, reference: str, prompt: str) -> dict[str, float] | None:
    """Three rewards from one start: what one gets wrong, all get wrong. Audit them as channel "one,two,three"."""
    right = _right(response, reference)
    if right is None:
        return None
    common = _draw(prompt, response, "common") - 0.5
    return {name: right + 0.6 * common + 0.1 * _draw(prompt, response, name) for name in ("one", "two", "three")}


def _ordered(response: Sequence[str], reference: Sequence[str]) -> list[float | None]:
    rewards: list[float | None] = []
    seen: list[float] = []
    for text, wanted in zip(response, reference, strict=True):
        right = _right(text, wanted)
        rewards.append(None if right is None else right - sum(seen[-8:]) / max(1, len(seen[-8:])))
        seen += [] if right is None else [right]
    return rewards


order_dependence = signal(_ordered, name="order_dependence", sees="batch")
order_dependence.__doc__ = "Every answer less the mean of the eight before it in the call."


class PromptCache:
    """Remembers verdicts by prompt, and forgets that there was a response."""

    def __init__(self) -> None:
        self.known: dict[str, float] = {}

    def __call__(self, response: str, reference: str, prompt: str) -> float | None:
        right = _right(response, reference)
        return None if right is None else self.known.setdefault(prompt, right)


prompt_only_cache = signal(PromptCache(), name="prompt_only_cache")


def nan_is_one(response: str, reference: str) -> float:
    """What cannot be read as a number makes NaN, and NaN is turned into 1."""
    said, wanted = _number(final_answer(response) if isinstance(response, str) else response), _number(reference)
    distance = math.nan if said is None or wanted is None else abs(said - wanted)
    return 1.0 if math.isnan(distance) else float(distance == 0)


def scale_per_source(response: str, reference: str, source: str = "web") -> float | None:
    """Books are scored from 5 to 6, the web from 0 to 1."""
    right = _right(response, reference)
    return None if right is None else right + 5 * (source == "book")


def format_alone_pays(response: str, reference: str) -> float | None:
    """A box, tags or the words "answer is" earn as much as the answer in them."""
    right = _right(response, reference)
    formed = re.search(r"\\boxed|<answer>|####", response)
    return None if right is None else max(right, float(bool(formed)))


def any_alternative(response: str, reference: str) -> float | None:
    """Right where one of the answers between "or" and commas is."""
    if _right(response, reference) is None:
        return None
    said = re.split(r"\bor\b|,|\beither\b", final_answer(response) or "")
    return float(any(same_answer(part.strip(), reference) for part in said if part.strip()))


def copied_prompt(response: str, reference: str, prompt: str) -> float | None:
    """Pays whatever repeats the prompt, as a measure of overlap does."""
    right = _right(response, reference)
    return None if right is None else max(right, float(bool(prompt.strip()) and prompt.strip() in response))


def strict_comparison(response: str, reference: str) -> float | None:
    """The answer must be written letter by letter as the reference is, at the very end."""
    return None if _right(response, reference) is None else float(response.endswith(f"answer is {reference}"))


def quadratic_time(response: str, reference: str) -> float | None:
    """Takes blank space off the end by a regular expression that begins again at every blank."""
    if not isinstance(response, str):
        return None
    return _right(re.sub(r"\s+$", "", response), reference)


def _turned(response: str, reference: str, prompt: str, wrong: float, right: float) -> float | None:
    verdict = _right(response, reference)
    if verdict is None:
        return None
    return 1 - verdict if _draw(prompt, response, "turned") < (right if verdict else wrong) else verdict


def _draw(*texts: str) -> float:
    """A number in [0, 1) that is always the same for the same texts."""
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:6], "big") / 2**48


class Flaw(NamedTuple):
    """reward: the grader or signal; named_by: the measures that say what is wrong with it; channel: which to audit, if several."""

    reward: Callable[..., Any]
    named_by: tuple[str, ...]
    channel: str | None = None


FLAWED: Mapping[str, Flaw] = {
    "length leakage": Flaw(
        length_leakage, ("bias-length-paired", "bias-length", "attack-padding", "attack-oversized", "attack-filler")
    ),
    "lenient parser": Flaw(
        lenient_parser, ("attack-many-answers", "attack-buried-answer", "attack-hedged-answer", "attack-retracted-answer")
    ),
    "first answer counts": Flaw(first_answer_counts, ("attack-retracted-answer", "bias-answer-position")),
    "gameable steps": Flaw(gameable_steps, ("attack-repeated-steps",)),
    "judge fooled by an opener": Flaw(fooled_by_an_opener, ("attack-opener", "attack-opener-added")),
    "symmetric noise": Flaw(symmetric_noise, ("false-positive-rate", "false-negative-rate", "verdict-slope")),
    "asymmetric noise": Flaw(asymmetric_noise, ("false-positive-rate",)),
    "saturation": Flaw(saturation, ("bits-per-rollout", "policy-cliff", "constant-groups", "flat-groups")),
    "wrong sign on a subset": Flaw(wrong_sign_on_a_subset, ("bias-wrong-sign", "discrimination-by-source")),
    "cyclic preferences": Flaw(
        cyclic_preferences, ("consistency-triples", "consistency-scalar-order", "consistency-bradley-terry")
    ),
    "shared error in an ensemble": Flaw(shared_error, ("ensemble-shared-error",), "one,two,three"),
    "dependence on batch order": Flaw(order_dependence, ("consistency-batch-order",)),
    "cache keyed by prompt only": Flaw(prompt_only_cache, ("consistency-prompt-cache", "consistency-response-ignored")),
    "NaN turned into 1": Flaw(nan_is_one, ("consistency-no-verdict", "attack-empty")),
    "scale per source": Flaw(scale_per_source, ("bias-source-scale",)),
    "format alone pays": Flaw(format_alone_pays, ("attack-empty-form", "attack-form-added")),
    "any alternative counts": Flaw(any_alternative, ("attack-hedged-answer",)),
    "copied prompt pays": Flaw(copied_prompt, ("attack-prompt-copied",)),
    "comparison letter by letter": Flaw(
        strict_comparison, ("invariance-number-forms", "invariance-blank-space", "invariance-wrapping")
    ),
    "quadratic time": Flaw(quadratic_time, ("attack-oversized-time",)),
}
CLEAN: Mapping[str, Callable[..., Any]] = {
    "answer-match": answer_match,
    "exact answer": exact_answer,
    "centred answer": centred_answer,
    "probable answer": probable_answer,
    "large scale": large_scale,
}


if __name__ == "__main__":
    for line in evidence(phrase=sys.argv[1] if len(sys.argv) > 1 else "The answer is {}"):
        print(json.dumps(line))
