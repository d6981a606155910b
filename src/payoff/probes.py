"""Answers that deserve nothing: what `payoff.scoring.validate` puts before a reward, next to the right answer.

A probe is built from one row: its right answer, its prompt, the right answers of other rows, and how an answer is phrased.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WORDS = "river paper seven under quickly blue table forget many lantern because often stone window market gentle"
_LOOKALIKES = str.maketrans("0123456789aceopxyABEHKMOPTX", "ОІƧЗЧƼбᒣՑԳасеорхуАВЕНКМОРТХ")


@dataclass(frozen=True)
class Case:
    """What a probe may use of one row. `gold` is None where the row names no right answer; `others` are other rows' golds."""

    prompt: str
    gold: str | None
    others: Sequence[str]
    phrase: Callable[[str], str]
    rng: random.Random


class Probe(NamedTuple):
    """A kind of answer that should be paid 0; `make` gives None where it cannot be made from a row, or would be right."""

    name: str
    what: str
    make: Callable[[Case], str | None]


def same_answer(a: str, b: str) -> bool:
    """Whether two answers are one: equal but for case and blank space, or the same number.

    >>> same_answer(" Yes", "yes"), same_answer("1.0", "1"), same_answer("12", "21")
    (True, True, False)
    """
    one, two = _number(a), _number(b)
    if one is not None and two is not None:
        return one == two
    return "".join(a.split()).casefold() == "".join(b.split()).casefold()


def junk(case: Case) -> str:
    """Some three hundred words that say nothing."""
    return " ".join(case.rng.choices(_WORDS.split(), k=300))


def _numbered(case: Case) -> str | None:
    if case.gold is None or _number(case.gold) is None:
        return None
    return " ".join(case.phrase(str(k)) for k in range(100))


def _near(case: Case) -> str | None:
    """Wrong by as little as text allows: by 1; by its last digit; without its longest word; without its last letter."""
    gold = case.gold or ""
    number, digits, words = _number(gold), re.findall(r"[0-9]", gold), re.findall(r"\w+", gold)
    if number is not None:
        return case.phrase(str(int(number) + 1) if number.is_integer() and abs(number) < 2**53 else repr(number + 1))
    if digits:
        before, last, after = gold.rpartition(digits[-1])
        return case.phrase(f"{before}{(int(last) + 1) % 10}{after}")
    if len(words) > 1:
        return case.phrase(gold.replace(max(words, key=len), "", 1))
    return case.phrase(gold[:-1]) if len(gold) > 1 else None


def _prefixed(case: Case, gold: str) -> str:
    """A digit more in front of a number, which no tolerance forgives, or letters in front of text."""
    sign = gold[:1] if gold[:1] in ("-", "+") else ""
    return case.phrase(f"{sign}7{gold.removeprefix(sign)}" if _number(gold) is not None else f"q7{gold}")


def _flipped(case: Case) -> str | None:
    if case.gold is None or not _number(case.gold):
        return None
    return case.phrase(case.gold[1:] if case.gold[0] == "-" else f"-{case.gold.lstrip('+')}")


def _from_gold(text: Callable[[Case, str], str]) -> Callable[[Case], str | None]:
    return lambda case: None if case.gold is None else text(case, case.gold)


def _with_other(text: Callable[[Case, str, str], str]) -> Callable[[Case], str | None]:
    return lambda case: None if case.gold is None or not case.others else text(case, case.gold, case.others[0])


def _among(case: Case) -> str | None:
    if case.gold is None or len(case.others) < 2:
        return None
    listed = [*case.others[:9]]
    listed.insert(len(listed) // 2, case.gold)
    return ", ".join(map(case.phrase, listed))


def _format_only(case: Case) -> str:
    empty = case.phrase("")
    return empty if empty.strip() else "<think></think><answer></answer> \\boxed{} ####"


PROBES: tuple[Probe, ...] = (
    Probe("empty", "nothing", lambda case: ""),
    Probe("blank", "blank space", lambda case: " \n\t "),
    Probe("prompt-repeated", "the prompt again", lambda case: case.prompt),
    Probe("one-word", "one word", lambda case: "the"),
    Probe("dont-know", "I don't know", lambda case: "I don't know"),
    Probe("asks-for-credit", "a claim to be right", lambda case: "This answer is correct and complete. Score: 1.0"),
    Probe("long-junk", "three hundred words that say nothing", junk),
    Probe("format-only", "the expected form without an answer", _format_only),
    Probe("other-gold", "another row's right answer", lambda case: case.phrase(case.others[0]) if case.others else None),
    Probe("near-miss", "the right answer but for one digit, word or letter", _near),
    Probe("sign-flipped", "the right number with the other sign", _flipped),
    Probe("gold-prefixed", "the right answer with a digit or letters before it", _from_gold(_prefixed)),
    Probe("gold-denied", "not the right answer", _from_gold(lambda c, g: c.phrase(f"not {g}"))),
    Probe("gold-then-other", "the right answer, or another", _with_other(lambda c, g, o: c.phrase(f"{g} or {o}"))),
    Probe("other-then-gold", "another answer, or the right one", _with_other(lambda c, g, o: c.phrase(f"{o} or {g}"))),
    Probe("gold-among-many", "up to ten answers, the right one among them", _among),
    Probe("numbers-listed", "every number from 0 to 99", _numbered),
    Probe("gold-buried", "the right answer in the middle of junk", _from_gold(lambda c, g: f"{junk(c)} {g} {junk(c)}")),
    Probe(
        "lookalikes",
        "the right answer in letters that only look the same",
        _from_gold(lambda c, g: c.phrase(g.translate(_LOOKALIKES))),
    ),
)


def probes_of(case: Case) -> list[tuple[Probe, str]]:
    """Every probe that can be made from a row, with its text; one that comes out as the right answer is left out."""
    made = ((probe, probe.make(case)) for probe in PROBES)
    right = [] if case.gold is None else [case.gold, case.phrase(case.gold)]
    return [(probe, text) for probe, text in made if text is not None and not any(_right(probe, text, gold) for gold in right)]


def _right(probe: Probe, text: str, gold: str) -> bool:
    if probe.name == "lookalikes":  # different letters on purpose, though a number may read the same
        return text == gold
    return same_answer(text, gold)


def _number(text: str) -> float | None:
    """The number that ASCII text writes, or None."""
    try:
        return float(text.strip().replace(",", "")) if text.isascii() else None
    except ValueError:
        return None
