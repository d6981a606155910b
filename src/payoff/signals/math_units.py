"""Units after a number, under one name each, and the words that are none."""

from __future__ import annotations

import re

_ALIASES = {
    "cm": "centimeter centimeters centimetre centimetres cms",
    "mm": "millimeter millimeters millimetre millimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres kms",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "kg": "kilogram kilograms kgs",
    "mg": "milligram milligrams",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "$": "dollar dollars usd",
    "cent": "cents",
    "°": "degree degrees deg",
    "%": "percent percents",
    "L": "liter liters litre litres",
    "mL": "milliliter milliliters ml",
    "mph": "miles/hour",
    "unit": "units",
}
_UNIT = {alias: unit for unit, aliases in _ALIASES.items() for alias in (unit, *aliases.split())}
_SHORT = {"m", "s", "h", "L", "g"}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "hundred": 100}
# Words after a number that say more than what was counted: with one of them the number is no plain answer.
_NO_WORDS = (
    "not no nor or and either maybe perhaps possibly probably wrong incorrect false unless if then but is are was were be because "
    "since so as instead mistake than plus minus times divided over equals equal to without except otherwise half quarter third "
    "sin cos tan log ln exp sqrt mod pi theta alpha beta frac unknown undefined none about roughly approximately around nearly the "
    "more less fewer least most remainder with from by of on answer base dozen pairs"
)
_NO_UNIT = set(_NO_WORDS.split())
_TAIL = re.compile(
    r"(?P<rest>.*[\d)}\]π°])(?P<gap>\s*)(?P<unit>[A-Za-z]+(?:[ /.\-]{1,2}[A-Za-z]+){0,3})\s*(?:\^\s*\{?(?P<power>[23])\}?)?",
    re.ASCII,
)
_BASE = re.compile(r"(?P<rest>\d+)\s*_\s*\{?(?P<base>\d{1,2})\}?", re.ASCII)


def split_unit(text: str) -> tuple[str, str, int]:
    """An expression, the name of the unit around it ("" for none), and the number that a word such as million stands for.

    >>> split_unit("5 inches"), split_unit("$20"), split_unit("12 m^2"), split_unit("3 million"), split_unit("2x")
    (('5', 'in', 1), ('20', '$', 1), ('12', 'm^2', 1), ('3', '', 1000000), ('2x', '', 1))
    """
    if match := _BASE.fullmatch(text):
        return match["rest"], f"base {match['base']}", 1
    if text.startswith(("$", "-$")):
        rest, _, factor = split_unit(text.replace("$", "", 1).strip())
        return rest, "$", factor
    if text.endswith(("%", "°", "$")):
        return text[:-1].strip(), text[-1], 1
    match = _TAIL.fullmatch(text)
    if match is None:
        return text, "", 1
    words = match["unit"].replace(".", "").split()
    factor = _SCALES.get(words[0].casefold(), 1)
    if factor > 1:
        words = words[1:]
    if words and not _is_unit(words, bool(match["gap"])):
        return text, "", 1
    power = match["power"] or {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(words[0].casefold() if words else "", "")
    named = [_UNIT.get(word, _UNIT.get(word.casefold(), word.casefold())) for word in words if word.casefold() not in _POWERS]
    name = " ".join(named) or ("unit" if power else "")
    if not words and match["power"]:
        return text, "", 1
    return match["rest"].strip(), f"{name}^{power}" if power and name else name, factor


_POWERS = {"square", "sq", "cubic", "cu"}


def _is_unit(words: list[str], apart: bool) -> bool:
    if len(words) > 3 or any(word.casefold() in _NO_UNIT for word in words):
        return False
    if len(words) == 1 and len(words[0]) < 4 and words[0] not in _UNIT and words[0].casefold() not in _UNIT:
        return False  # letters side by side are a product
    return apart or words[0] not in _SHORT


__all__ = ["split_unit"]
