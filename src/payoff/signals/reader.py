"""Is a text of use to someone who sees only the text? Rewards from what a blind reader answered."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict

_WHOLE = re.compile(r"\W*([A-Z])(?:\W*|[).:]\s.*)", re.DOTALL)
_SAID = re.compile(r"\b(?i:answer|option|choice)(?:\s+is)?\s*:?\s*\**\(?([A-Z])\b(?!['’])")
_LONGEST = 2000


@method("caprl", kind="grader", paper="arXiv:2509.22647")
def caprl(reader_answers: Any, questions: Any) -> Verdict:
    """The share of questions that a reader who sees only the response answered right, 0..1 (CapRL's utility).

    R = mean over the questions of 1[the reader's letter is the key]. The row holds `questions`, each with its "key", a letter, and
    `reader_answers`, what a frozen reader said to each, in order: the reader is asked elsewhere, with options in a fresh order
    every time (`shuffled_question`), or it favours a place. A letter alone, one before a bracket or a full stop, or the last "the
    answer is X" is read; anything else is wrong. None, where the reader was not reached, is left out.

    An empty response earns what the reader guesses, 1 / options; the variance falls as 1 / questions. Gamed by enumerating
    everything that might be asked, since length is free, and by what the reader can answer unseen: leave such questions out.
    No verdict without answers, where their number is not that of the questions, or where a key is no letter.

    >>> caprl(["B", "The answer is (C).", "I cannot tell"], [{"key": "B"}, {"key": "C"}, {"key": "A"}]).value
    0.6666666666666666
    """
    if not isinstance(reader_answers, list | tuple) or not all(isinstance(said, str | None) for said in reader_answers):
        return Verdict(0.0, valid=False, reason="reader_answers must be a list with a text, or null, for each question")
    if not isinstance(questions, list | tuple):
        return Verdict(0.0, valid=False, reason=f'questions must be a list of {{"key": letter}}, got {str(questions)[:40]!r}')
    keys = [str(one.get("key", "")).strip().upper() if isinstance(one, Mapping) else "" for one in questions]
    if len(keys) != len(reader_answers) or not keys:
        return Verdict(0.0, valid=False, reason=f"{len(reader_answers)} answers of the reader to {len(keys)} questions")
    if bad := [number for number, key in enumerate(keys, 1) if not re.fullmatch("[A-Z]", key)]:
        return Verdict(0.0, valid=False, reason=f"the key of question {bad[0]} is no letter")
    right = [chosen_letter(said) == key for said, key in zip(reader_answers, keys, strict=True) if said is not None]
    if not right:
        return Verdict(0.0, valid=False, reason="the reader answered nothing")
    return Verdict(sum(right) / len(right))


def questions_that_tell(
    questions: Sequence[Mapping[str, Any]],
    seen: Sequence[Sequence[str | None]],
    blind: Sequence[Sequence[str | None]],
    *,
    least: float = 1.0,
    most: float = 0.5,
) -> list[int]:
    """The numbers of the questions that only the picture answers: what to ask a reader of captions (CapRL's filter).

    Kept are those that a model which sees the picture answers right in a share of at least `least` of its tries, and one that sees
    nothing in a share of at most `most`. seen, blind: what they said to each question, in its order; None, not reached, is left
    out, and a question without any answer on either side is not kept. The paper has no numbers; with four options and four blind
    tries a guesser is right more than half the time in one question of 20.

    Raises ValueError for lists of unlike lengths.

    >>> asked = [{"key": "A"}, {"key": "B"}, {"key": "C"}]
    >>> questions_that_tell(asked, [["A", "A"], ["B", "B"], ["C", "D"]], [["B", "C"], ["B", "B"], ["A", "A"]])
    [0]
    """
    kept = []
    for number, (question, with_it, without) in enumerate(zip(questions, seen, blind, strict=True)):
        key = str(question.get("key", "")).strip().upper()
        shares = [
            sum(chosen_letter(one) == key for one in said) / len(said)
            for answers in (with_it, without)
            if (said := [one for one in answers if one is not None])
        ]
        if len(shares) == 2 and shares[0] >= least and shares[1] <= most:
            kept.append(number)
    return kept


def chosen_letter(text: str) -> str | None:
    """The option that an answer names, or None.

    >>> [chosen_letter(text) for text in ("B", "(c)", "C. A cat", "So the answer is **D**", "A cat sat", "answer: maybe")]
    ['B', 'C', 'C', 'D', None, None]
    """
    said = text[-_LONGEST:]
    whole = _WHOLE.fullmatch(said.strip()) or re.fullmatch(r"\W*([a-z])\W*", said.strip())
    if whole:
        return whole[1].upper()
    named = _SAID.findall(said)
    return named[-1].upper() if named else None


def shuffled_question(question: Mapping[str, Any], rng: random.Random) -> tuple[str, str]:
    """A question {"question": ..., "options": [...], "answer": index} as text with its options in a fresh order, and the key.

    >>> text, key = shuffled_question({"question": "Colour?", "options": ["red", "blue"], "answer": 1}, random.Random(0))
    >>> text.splitlines()[1 + "AB".index(key)]
    'B. blue'
    """
    order = list(range(len(question["options"])))
    rng.shuffle(order)
    lines = [f"{chr(65 + place)}. {question['options'][k]}" for place, k in enumerate(order)]
    return "\n".join([str(question["question"]), *lines]), chr(65 + order.index(question["answer"]))
