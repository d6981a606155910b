"""The 25 kinds of instructions that a program can check (IFEval, arXiv:2311.07911), each a function of a text and its arguments.

They decide as the published checker does, but for what it leaves to downloaded models: sentences are cut by rules, languages told
by `languages`, and keywords are taken as they stand, not as regular expressions. Every check is linear in the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from payoff.signals.languages import LANGUAGES, language_of

RELATIONS = ("at least", "less than")
_ENDS = re.compile("[.!?\u2026]+[\"'\u201d\u2019)\\]]*(?=\\s|$)|[\u3002\uff01\uff1f]+|\n[ \t]*\n")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|mr|mrs|ms|dr|prof|st|jr|sr|vs|no|inc|ltd|co|e\.g|i\.e|u\.s|\d{1,3})$", re.IGNORECASE
)
# What ends a word, for counting words in capitals as the Treebank's rules do; points and hyphens within one do not.
_APART = re.compile(
    "[\\s;@#$%&?!*\\[\\](){}<>\"\u2014\u201c\u201d\u201e\u00ab\u00bb\u2018`]|--|\\.{2,}|[:,](?!\\d)|(?<=[^'])'(?=\\s|$)|''"
)
_CONTRACTED = re.compile(r"(.+?)('(?:[SMD]|LL|RE|VE)|N'T)", re.IGNORECASE | re.DOTALL)
_STARS = re.compile(r"\s?\*\*\*\s?")
_HIGHLIGHT, _DOUBLE = re.compile(r"\*[^\n*]*\*"), re.compile(r"\*\*[^\n*]*\*\*")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class Check(NamedTuple):
    """What decides, and the arguments that it takes: name -> (type, whether it must be there)."""

    holds: Callable[..., bool]
    arguments: dict[str, tuple[type, bool]]


class BadInstructionError(ValueError):
    """An instruction that cannot be checked: the data's fault, not the response's."""


def sentences(text: str) -> int:
    """How many sentences there are: runs of text with a letter or digit up to an end mark or a blank line.

    A point after an abbreviation, an initial or a number of at most three digits ends none.

    >>> sentences("Dr. A. Smith came at 3.15. Really? Yes!"), sentences("One\\n\\nTwo")
    (3, 2)
    """
    count = at = 0
    for end in _ENDS.finditer(text):
        if end[0][0] == "." and len(end[0].rstrip()) == 1 and _ABBREVIATION.search(text[max(at, end.start() - 8) : end.start()]):
            continue
        count += any(map(str.isalnum, text[at : end.start()]))
        at = end.end()
    return count + any(map(str.isalnum, text[at:]))


def capital_words(text: str) -> int:
    """How many words are all in capitals, cut as nltk's tokenizer cuts a sentence: "DON'T" and "CANNOT" are two, "U.S." is one.

    >>> capital_words("The U.S. WELL-KNOWN man DON'T care"), capital_words("NASA's A.")
    (4, 2)
    """
    count = 0
    for word in _APART.split(text):
        parts = _CONTRACTED.fullmatch(word)
        count += sum(map(str.isupper, parts.groups())) if parts else word.isupper() * (1 + (word == "CANNOT"))
    return count


def _compared(count: int, relation: str, bound: int) -> bool:
    return count >= bound if relation == "at least" else count < bound


def _keywords(text: str, keywords: Sequence[str]) -> bool:
    lower = text.lower()
    return all(keyword.lower() in lower for keyword in keywords)


def _frequency(text: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return _compared(text.lower().count(keyword.strip().lower()), relation, frequency)


def _forbidden(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letters(text: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return _compared(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, language: str) -> bool:
    return language_of(text) in (language.lower()[:2], None)  # what nothing tells is no fault


def _sentences(text: str, num_sentences: int, relation: str = "at least") -> bool:
    return _compared(sentences(text), relation, num_sentences)


def _words(text: str, num_words: int, relation: str = "at least") -> bool:
    return _compared(len(re.findall(r"\w+", text)), relation, num_words)


def _parts(parts: Sequence[str]) -> list[str] | None:
    """What stands between separators; None where nothing does inside."""
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return [part.strip() for part in parts if part.strip()]


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = _parts(_STARS.split(text))
    return parts is not None and len(parts) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or not 1 <= nth_paragraph <= count:
        return False
    words = parts[nth_paragraph - 1].split()
    return bool(words) and re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    count = 0
    for line in text.split("\n"):
        at = line.find("[")
        while at >= 0 and (end := line.find("]", at)) >= 0:
            count += 1
            at = line.find("[", end)
    return count >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    postscript_marker = postscript_marker.strip()
    if postscript_marker in ("P.P.S", "P.S."):
        pattern = r"p\.\s?p\.\s?s" if postscript_marker == "P.P.S" else r"p\.\s?s\."
        return re.search(pattern, text.lower()) is not None
    return postscript_marker.lower() in text.lower()


def _bullets(text: str, num_bullets: int) -> bool:
    lines = [line.lstrip() for line in text.split("\n")]
    count, eaten = sum(line[:1] == "-" for line in lines), False
    for line, last in zip(lines, [*[False] * (len(lines) - 1), True], strict=True):
        if eaten:  # a star alone on its line has the next one for its text
            eaten = False
        elif line[:1] == "*" and line[1:2] != "*":
            eaten = line == "*"
            count += not (eaten and last)
    return count == num_bullets


def _constrained(text: str) -> bool:
    return any(answer in text for answer in _ANSWERS)


def _highlights(text: str, num_highlights: int) -> bool:
    single = sum(bool(found.strip("*").strip()) for found in _HIGHLIGHT.findall(text))
    return single + sum(bool(found.strip("*").strip()) for found in _DOUBLE.findall(text)) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def _json(text: str) -> bool:
    inside = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        inside = inside.removeprefix(fence)
    try:
        json.loads(inside.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str) -> bool:
    for line in text.split("\n"):
        start = line.find("<<")
        end = line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two(text: str) -> bool:
    parts = _parts(text.split("******"))
    return parts is not None and len(parts) == 2 and parts[0] != parts[1]


def _repeats(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quoted(text: str) -> bool:
    inside = text.strip()
    return len(inside) > 1 and inside[0] == inside[-1] == '"'


def _capital_words(text: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    return _compared(capital_words(text), capital_relation, capital_frequency)


def _all_capital(text: str) -> bool:
    return text.isupper() and language_of(text) in ("en", None)


def _all_small(text: str) -> bool:
    return text.islower() and language_of(text) in ("en", None)


def _no_comma(text: str) -> bool:
    return "," not in text


def _check(holds: Callable[..., bool], **arguments: type) -> Check:
    """Arguments in the order of the function; relations need not be given."""
    return Check(holds, {name: (kind, not name.endswith("relation")) for name, kind in arguments.items()})


CHECKS: dict[str, Check] = {
    "keywords:existence": _check(_keywords, keywords=list),
    "keywords:frequency": _check(_frequency, keyword=str, frequency=int, relation=str),
    "keywords:forbidden_words": _check(_forbidden, forbidden_words=list),
    "keywords:letter_frequency": _check(_letters, letter=str, let_frequency=int, let_relation=str),
    "language:response_language": _check(_language, language=str),
    "length_constraints:number_sentences": _check(_sentences, num_sentences=int, relation=str),
    "length_constraints:number_paragraphs": _check(_paragraphs, num_paragraphs=int),
    "length_constraints:number_words": _check(_words, num_words=int, relation=str),
    "length_constraints:nth_paragraph_first_word": _check(_first_word, num_paragraphs=int, nth_paragraph=int, first_word=str),
    "detectable_content:number_placeholders": _check(_placeholders, num_placeholders=int),
    "detectable_content:postscript": _check(_postscript, postscript_marker=str),
    "detectable_format:number_bullet_lists": _check(_bullets, num_bullets=int),
    "detectable_format:constrained_response": _check(_constrained),
    "detectable_format:number_highlighted_sections": _check(_highlights, num_highlights=int),
    "detectable_format:multiple_sections": _check(_sections, section_spliter=str, num_sections=int),
    "detectable_format:json_format": _check(_json),
    "detectable_format:title": _check(_title),
    "combination:two_responses": _check(_two),
    "combination:repeat_prompt": _check(_repeats, prompt_to_repeat=str),
    "startend:end_checker": _check(_ends, end_phrase=str),
    "startend:quotation": _check(_quoted),
    "change_case:capital_word_frequency": _check(_capital_words, capital_frequency=int, capital_relation=str),
    "change_case:english_capital": _check(_all_capital),
    "change_case:english_lowercase": _check(_all_small),
    "punctuation:no_comma": _check(_no_comma),
}


def checked_arguments(id: str, given: dict[str, object]) -> dict[str, object]:
    """The arguments of an instruction, or BadInstructionError that says what is wrong with them; None is not given.

    >>> checked_arguments("punctuation:no_comma", {"num_words": None})
    {}
    """
    if id not in CHECKS:
        raise BadInstructionError(f"unknown instruction {id[:60]!r}")
    wanted, arguments = CHECKS[id].arguments, {name: value for name, value in given.items() if value is not None}
    if odd := sorted(set(arguments) - set(wanted)):
        raise BadInstructionError(f"{id}: no argument {odd[0]!r}; there are {', '.join(wanted) or 'none'}")
    for name, (kind, needed) in wanted.items():
        if name not in arguments:
            if needed:
                raise BadInstructionError(f"{id}: needs {name!r}")
            continue
        value = arguments[name]
        if kind is int and isinstance(value, float) and value.is_integer():  # data sets keep whole numbers in columns of floats
            value = arguments[name] = int(value)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (kind is list and not (value and all(isinstance(x, str) and x for x in value))) or value == "":  # type: ignore[attr-defined]
            raise BadInstructionError(f"{id}: {name} must be {'texts' if kind is list else kind.__name__}, got {str(value)[:60]!r}")
        if name.endswith("relation") and value not in RELATIONS:
            raise BadInstructionError(f"{id}: {name} must be one of {', '.join(RELATIONS)}, got {str(value)[:40]!r}")
    if id == "language:response_language" and str(arguments["language"]).lower()[:2] not in LANGUAGES:
        raise BadInstructionError(f"{id}: the language {str(arguments['language'])[:20]!r} is not known")
    return arguments
