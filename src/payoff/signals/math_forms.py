"""What a final answer says, read exactly: numbers with their units, sets, lists, tuples, intervals, equations, matrices, words.

`read` gives a form, or None for what it does not know; `same` compares two forms and says yes, no, or None: not decidable here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from payoff.signals.math_algebra import Expression, TooLargeError, add, equal, letters, negative, proportional
from payoff.signals.math_parser import UnreadableError, expression
from payoff.signals.math_text import plain
from payoff.signals.math_units import split_unit

Kind = Literal["value", "list", "set", "sequence", "union", "relation", "matrix", "words"]


class Form(NamedTuple):
    """kind: what it is; value: of a value; parts: of all else; mark: the unit of a value, the brackets of a sequence, the sign of a
    relation, the text of words."""

    kind: Kind
    value: Expression = Expression({})
    parts: tuple[Form, ...] = ()
    mark: str = ""


_LONGEST = 1000
NONSENSE = Form("words", mark="=")  # sides that are not equal, a division by zero, numbers beyond bounds: no right answer
_THOUSANDS = re.compile(
    r"(?<![\d.,(\[⦃])\d{1,3}(?:,\d{3})+(?!\d|,\d)|(?<![\d.,] )(?<![\d.])\d{1,3}(?: \d{3})+(?![\d ]*[\d/])", re.ASCII
)
_NAMED = re.compile(r"\s*(?:[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?|\\[a-z]+)\s*", re.ASCII)
_RELATION = re.compile(r"([=<>≤≥≠≈∈])")
_MATRIX = re.compile(r"\s*\\begin\{([pbvB]?)matrix\}(.*)\\end\{\1matrix\}\s*", re.DOTALL)
_CHOICE = re.compile(r"\s*\(?([A-Za-z])\)?[.)]?\s*(?::.*)?|\s*\(([A-J])\)[:.]? [^(]*", re.ASCII)
_JOINED = re.compile(r"\s*(?:,|;)?\s+(?:and|or)\s+|\s*[;,]\s*")
_OPEN, _CLOSED = "([{⦃", ")]}⦄"


def read(text: str, *, thousands: bool = True) -> Form | None:
    r"""The form of an answer, given without the words around it; None where it is none of those known.

    thousands: whether the commas of "100,200" belong to a number; otherwise they stand between two.

    >>> read(r"\frac{2}{6}") == read("1/3"), read("{2, 1}").kind, read("(0, 1]").mark, read("x + sin"), read("blue").kind
    (True, 'set', '(]', None, 'words')
    """
    if len(text) > _LONGEST:
        return None
    matrix = _MATRIX.fullmatch(text.strip("$ \n"))
    if matrix is not None:
        return _matrix(matrix[2])
    try:
        return _form(plain(text), 0 if thousands else 1)
    except TooLargeError:
        return NONSENSE
    except (UnreadableError, RecursionError):
        return None


def same(answer: Form, reference: Form) -> bool | None:
    """Whether two forms say the same; None where that cannot be decided exactly."""
    a, b = _bare(answer, reference), _bare(reference, answer)
    if a.kind != b.kind:
        return _mixed(a, b)
    if a.kind == "words":
        return a.mark == b.mark
    if a.kind == "value":
        return _values(a, b)
    if a.kind == "relation":
        return _relations(a, b)
    if a.kind == "sequence":
        return a.mark == b.mark and _in_order(a.parts, b.parts)
    if a.kind == "matrix":
        return a.mark == b.mark and _in_order(a.parts, b.parts)
    return _in_any_order(a.parts, b.parts)


# --- reading


def _form(text: str, depth: int) -> Form | None:
    if not text or depth > 6:
        return None
    text = _unwrapped(text)
    text = text.rpartition("⇒")[2].strip()
    if "±" in text and "," not in text:
        return Form("list", parts=tuple(_value(text.replace("±", sign)) for sign in "+-"))
    if text == "∅" or re.fullmatch(r"[{⦃]\s*[}⦄]", text):
        return Form("set")
    if "∪" in text and not _RELATION.search(text.partition("∈")[2]):
        parts = [_form(part.strip(), depth + 1) for part in text.rpartition("∈")[2].split("∪")]
        return None if None in parts else Form("union", parts=tuple(part for part in parts if part))
    if depth == 0 and text[0] not in _OPEN:
        text = _THOUSANDS.sub(lambda m: re.sub("[, ]", "", m[0]), text)
    several = _split(text)
    if len(several) > 1:
        found = _several([part for part in several if part], depth)
        if found is None or not re.search("[<>≤≥]", text):
            return found
        return None if " and " in text or found.kind != "list" else Form("union", parts=found.parts)
    if text[0] in "⦃{" and _closes_at_end(text):
        inside = [part for part in _split(text[1:-1]) if part]
        if text[0] == "⦃" or len(inside) > 1:
            found = _several(inside, depth)
            return found and Form("set", parts=_distinct(found.parts if found.kind == "list" else (found,)))
    if text[0] in "([" and text[-1] in ")]" and _closes_at_end(text):
        inside = _split(text[1:-1], commas_only=True)
        if len(inside) > 1:
            parts = [_form(part, depth + 1) for part in inside]
            return None if None in parts else Form("sequence", parts=tuple(p for p in parts if p), mark=text[0] + text[-1])
    if _RELATION.search(text):
        return _related([side.strip() for side in _RELATION.split(text)], depth)
    ratio = text.split(":")
    if len(ratio) > 1 and all(re.fullmatch(r"\s*[\d.]+\s*", part, re.ASCII) for part in ratio):
        return Form("sequence", parts=tuple(_value(part.strip()) for part in ratio), mark="::")
    return _words(text) or _value(text)


def _several(parts: Sequence[str], depth: int) -> Form | None:
    """A list without brackets. x = 1 or x = 2 is the list of 1 and 2; either, and a repeated name, add nothing."""
    forms: list[Form] = []
    if len(parts) > 60:
        return None
    for part in parts:
        found = _form(re.sub(r"^(?:either|both|and|or)\s+", "", part), depth + 1)
        if found is None:
            return None
        forms.append(_solved(found))
    kept = _distinct(forms)
    return kept[0] if len(kept) == 1 and len(forms) > 1 else Form("list", parts=kept)


def _value(text: str) -> Form:
    """A number or an expression, with the unit after it or the currency before it."""
    text = text.strip()
    rest, unit, factor = split_unit(text)
    found = expression(rest)
    return Form("value", found if factor == 1 else _scaled(found, factor), mark=unit)


def _scaled(value: Expression, factor: int) -> Expression:
    return Expression({monomial: c * factor for monomial, c in value.top.items()}, value.bottom)


def _words(text: str) -> Form | None:
    """A choice or words; None for what may be mathematics."""
    choice = _CHOICE.fullmatch(text)
    letter = choice and (choice[1] or choice[2])
    if letter and (letter.isupper() or len(text) > 1) and letter not in "xyz":
        return Form("words", mark=letter.casefold())
    bare = text.strip(" .()")
    long = len(bare) > 3 or bare.casefold() in ("yes", "no", "odd")
    if long and bare not in ("sqrt", "theta", "alpha") and re.fullmatch(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*", bare):
        return Form("words", mark=" ".join(bare.casefold().split()))
    if re.fullmatch(r"[A-Z]{2,3}", bare):
        return Form("words", mark=bare.casefold())
    return None


def _related(pieces: list[str], depth: int) -> Form | None:
    """Sides and signs in turn: an equation, an inequality as its interval, a chain whose sides must agree."""
    sides, signs = pieces[::2], pieces[1::2]
    if "∈" in signs:
        return _form(sides[-1], depth + 1) if signs[-1] == "∈" and len(signs) == 1 else None
    if "≈" in signs:  # what stands before it is exact
        at = signs.index("≈")
        if at or not _NAMED.fullmatch(sides[0]):
            return _form("".join(pieces[: 2 * at + 1]), depth + 1)
        return _form("".join(pieces[2:]), depth + 1)
    if function := re.fullmatch(r"([A-Za-z])\([A-Za-z]\)", sides[0]):  # f(x) = ... names f, and multiplies nothing
        sides = [function[1], *sides[1:]]
    forms = [_form(side, depth + 1) for side in sides]
    if None in forms:
        return None
    known = [form for form in forms if form]
    if known[0].kind == "words" and "=" in signs and len(known) == 2 and not re.search(r"\b(?:not|or|never)\b", known[0].mark):
        return known[1]  # "the area = 5"
    if any(form.kind == "words" and len(form.mark) > 1 for form in known):
        return None
    if set(signs) == {"="}:
        if len(known) == 2:
            if not any(letters(f.value) for f in known if f.kind == "value") and known[0].kind == known[1].kind == "value":
                return known[1] if _values(known[0], known[1]) else NONSENSE  # 60 + 62 = 123
            return Form("relation", parts=tuple(known), mark="=")
        rest = known[1:] if _NAMED.fullmatch(sides[0]) else known
        agree = all(same(form, rest[-1]) for form in rest[:-1])
        if not agree:
            return NONSENSE
        return Form("relation", parts=(known[0], rest[-1]), mark="=") if rest is not known else rest[-1]
    return _inequality(known, signs)


def _inequality(sides: Sequence[Form], signs: Sequence[str]) -> Form | None:
    """A letter between bounds as an interval; other inequalities as they are."""
    if any(side.kind != "value" for side in sides) or "=" in signs:
        return None
    if {">", "≥"} & set(signs):
        if {"<", "≤"} & set(signs):
            return None
        turn = {">": "<", "≥": "≤", "≠": "≠"}
        sides, signs = sides[::-1], [turn[sign] for sign in signs[::-1]]
    if "≠" in signs:
        return Form("relation", parts=tuple(sides), mark="≠") if len(signs) == 1 else None
    endless = Form("value", expression("∞"))
    if len(signs) == 1 and _is_letter(sides[0]) and not letters(sides[1].value):
        low, high, ends = Form("value", negative(endless.value)), sides[1], "(" + (")" if signs[0] == "<" else "]")
    elif len(signs) == 1 and _is_letter(sides[1]) and not letters(sides[0].value):
        low, high, ends = sides[0], endless, ("(" if signs[0] == "<" else "[") + ")"
    elif len(signs) == 2 and _is_letter(sides[1]):
        low, high = sides[0], sides[2]
        ends = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    else:
        return Form("relation", parts=tuple(sides), mark=signs[0]) if len(signs) == 1 else None
    return Form("sequence", parts=(low, high), mark=ends)


def _matrix(inside: str) -> Form | None:
    rows = [row.split("&") for row in inside.split("\\\\") if row.strip()]
    cells = [read(cell) for row in rows for cell in row]
    if None in cells:
        return None
    return Form("matrix", parts=tuple(c for c in cells if c), mark=" ".join(str(len(row)) for row in rows))


def _is_letter(form: Form) -> bool:
    return form.kind == "value" and len(form.value.top) == 1 and form.value == expression_of(form)


def expression_of(form: Form) -> Expression | None:
    """The form's value where it is one letter alone."""
    names = letters(form.value)
    return Expression({((name, Fraction(1)),): Fraction(1) for name in names}) if len(names) == 1 else None


def _unwrapped(text: str) -> str:
    text = text.strip()
    while len(text) > 2 and text[0] == "{" and _closes_at_end(text) and len(_split(text[1:-1])) == 1:
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that text begins with is closed by its last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSED)
        if depth <= 0:
            return at == len(text) - 1
    return False


def _split(text: str, *, commas_only: bool = False) -> list[str]:
    """The parts between commas, semicolons, "and" and "or", outside of brackets."""
    parts, start, depth, at = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        depth += (character in _OPEN) - (character in _CLOSED)
        match = None
        if depth == 0 and character in " ,;":
            match = re.compile(r"\s*[,;]\s*").match(text, at) if commas_only else _JOINED.match(text, at)
        if match:
            parts.append(text[start:at])
            start = at = match.end()
        else:
            at += 1
    return [part.strip() for part in [*parts, text[start:]]]


# --- comparing


def _solved(form: Form) -> Form:
    """x = 5 as 5."""
    if form.kind == "relation" and form.mark == "=" and (_is_letter(form.parts[0]) or form.parts[1].kind != "value"):
        return form.parts[1]
    return form


def _bare(form: Form, other: Form) -> Form:
    """Without the name that the other lacks, and without brackets around a single thing."""
    if form.kind == "relation" and (other.kind != "relation"):
        form = _solved(form)
    if form.kind in ("list", "set", "union") and len(form.parts) == 1:
        form = form.parts[0]
    return form


def _mixed(a: Form, b: Form) -> bool | None:
    kinds = {a.kind, b.kind}
    if kinds == {"list", "set"}:
        return _in_any_order(a.parts, b.parts)
    if kinds == {"list", "sequence"}:
        return (a.mark + b.mark) == "()" and _in_order(a.parts, b.parts)
    if "relation" in kinds and "value" in kinds:
        return False
    if kinds == {"matrix", "sequence"}:
        return (a.mark + b.mark).startswith(("()", "1 ")) and _in_order(a.parts, b.parts)
    return False


def _values(a: Form, b: Form) -> bool | None:
    """Equal numbers; a unit that only one of them names does not matter, but a percent sign then has two readings."""
    if a.mark and b.mark and a.mark != b.mark:
        return False
    same_number = equal(a.value, b.value)
    if same_number is not False or "%" not in (a.mark, b.mark) or a.mark == b.mark:
        return same_number
    one, two = (a, b) if a.mark == "%" else (b, a)
    return equal(one.value, _scaled(two.value, 100))


def _relations(a: Form, b: Form) -> bool | None:
    if a.mark != b.mark or any(part.kind != "value" for part in (*a.parts, *b.parts)):
        same_parts = _in_order(a.parts, b.parts)
        return same_parts if a.mark == b.mark else False
    one, two = (add(form.parts[0].value, negative(form.parts[1].value)) for form in (a, b))
    sign = proportional(one, two)
    if sign is None:
        return None if one.opaque or two.opaque else False
    return sign > 0 or a.mark in ("=", "≠")


def _in_order(a: Sequence[Form], b: Sequence[Form]) -> bool | None:
    if len(a) != len(b):
        return False
    found = [same(x, y) for x, y in zip(a, b, strict=True)]
    return False if False in found else None if None in found else True


def _in_any_order(a: Sequence[Form], b: Sequence[Form]) -> bool | None:
    if len(a) != len(b):
        return False
    left, unsure = list(b), False
    for x in a:
        found = [same(x, y) for y in left]
        if True in found:
            left.pop(found.index(True))
        elif None in found:
            unsure = True
        else:
            return False
    return None if unsure else True


def _distinct(forms: Sequence[Form]) -> tuple[Form, ...]:
    kept: list[Form] = []
    for form in forms:
        if not any(same(form, one) for one in kept):
            kept.append(form)
    return tuple(kept)


__all__ = ["NONSENSE", "Form", "read", "same"]
