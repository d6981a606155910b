"""Does a response keep to the form that was asked for, and to the language? Graders that say nothing about what it says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from payoff.catalogue import method
from payoff.pipeline import Verdict

_NAME = re.compile(r"[A-Za-z][\w-]{0,60}")
# The scripts of Unicode names that are one script to a reader.
_SCRIPTS = {"cjk": "han", "ideographic": "han", "katakana-hiragana": "hiragana", "fullwidth": "latin", "halfwidth": "katakana"}
_OF_LANGUAGE = {
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "sv", "cs", "fi", "la"), ("latin",)),
    **dict.fromkeys(("ru", "uk", "bg"), ("cyrillic",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("arabic",)),
    **dict.fromkeys(("hi", "mr", "ne"), ("devanagari",)),
    "zh": ("han", "bopomofo"),
    "ja": ("han", "hiragana", "katakana"),
    "ko": ("hangul", "han"),
    "el": ("greek",),
    "he": ("hebrew",),
    "th": ("thai",),
    "bn": ("bengali",),
    "ta": ("tamil",),
    "ka": ("georgian",),
    "hy": ("armenian",),
}
_FENCED = re.compile(
    r"```.*?(?:```|\Z)|\$\$.*?(?:\$\$|\Z)|\$[^$\n]{1,400}\$|\\boxed\{[^{}]{0,400}\}|</?[A-Za-z][\w-]{0,60}>", re.DOTALL
)


@method("tags", kind="grader")
def tags(response: str, *, names: Sequence[str] = ("think", "answer"), only: bool = True, parts: bool = False) -> float:
    """1 where the tags come in this order, each opened and closed exactly once, none within another, else 0.

    names: of the tags
    only:  nothing but blanks may stand outside of them
    parts: instead of 1 or 0 the share of opening and closing tags that come exactly once, whatever the order: something to climb
           before the whole form is ever met
    Range 0 or 1 (0 .. 1). Cost: linear, no backtracking. Gamed by empty tags; pay little for it, or gate by it. With `parts`,
    by strewing tags without sense.
    Raises ValueError for no names, one twice, or one that is no name.

    >>> [tags(f"{said}<answer>7</answer>") for said in ("<think>3 + 4</think> ", "", "so <think></think>", "<think>")]
    [1.0, 0.0, 0.0, 0.0]
    """
    if not names or isinstance(names, str) or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"tags: names must be names of tags, each once, got {names!r}")
    if parts:
        marks = [mark for name in names for mark in (f"<{name}>", f"</{name}>")]
        return sum(response.count(mark) == 1 for mark in marks) / len(marks)
    return in_order(response, tuple(names), only=only)


@method("language-consistency", kind="grader")
def language_consistency(response: str, *, language: str = "en", minimum: int = 5) -> float | Verdict:
    """The share of a response's letters that are written in the script of a language, in 0..1.

    What is fenced as code or mathematics, boxes and tags do not count. Scripts come from Unicode's own names of the characters: no
    model, and so no telling English from German. "ja" and "ko" share Chinese characters with "zh".

    language: en, de, fr, es, ru, uk, ar, fa, hi, zh, ja, ko, el, he, th and others of one script
    minimum:  letters that must be there for a verdict
    Range 0..1. Cost: linear, about a millisecond per 10,000 characters. Gamed by another language of the same script, by writing in
    code fences, and by transliteration. No verdict for fewer letters. Raises ValueError for a language it does not know.

    >>> language_consistency("The sum is 12, \u6240\u4ee5 12"), language_consistency("x = 3").valid
    (0.8, False)
    """
    if language not in _OF_LANGUAGE:
        raise ValueError(f"language_consistency: language must be one of {', '.join(sorted(_OF_LANGUAGE))}, got {language!r}")
    wanted, counts = _OF_LANGUAGE[language], [0, 0]
    for character in _FENCED.sub(" ", response):
        if character.isalpha():
            counts[script_of(character) in wanted] += 1
    if sum(counts) < max(minimum, 1):
        return Verdict(0.0, valid=False, reason=f"{sum(counts)} letters are too few to tell a script")
    return counts[1] / sum(counts)


def in_order(response: str, names: Sequence[str], *, only: bool = True) -> float:
    """What `tags` gives for its whole form.

    >>> in_order("<a></a> <b>", ("a",)), in_order("<a></a> <b>", ("a",), only=False)
    (0.0, 1.0)
    """
    at = 0
    for name in names:
        for mark in (f"<{name}>", f"</{name}>"):
            found = response.find(mark)
            opens = mark[1] != "/"
            if found < at or response.count(mark) != 1 or (only and opens and response[at:found].strip()):
                return 0.0
            at = found + len(mark)
    return float(not only or not response[at:].strip())


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str:
    """The script of a letter, in lower case: "latin", "han", "cyrillic" ...; "" for a character without a name.

    >>> script_of("a"), script_of("\u0436"), script_of("\u7b97"), script_of("\u3042")
    ('latin', 'cyrillic', 'han', 'hiragana')
    """
    first = unicodedata.name(character, "").lower().split(" ")[0]
    return _SCRIPTS.get(first, first)
