"""What a chat model has written, held against a JSON schema: one object of the form that was asked for, or what is wrong with it.

The words of JSON Schema that describe a verdict: types, properties, ranges, lengths, choices. A schema with any other word is
refused when it is read, so that nothing it demands is passed over in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from payoff.foreign.exchange import ExchangeError, parsed
from payoff.worker_process import visible

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
RANGES = {  # word -> (what is measured, whether it holds, how it is said)
    "minimum": (lambda x, y: x >= y, "at least"),
    "exclusiveMinimum": (lambda x, y: x > y, "above"),
    "maximum": (lambda x, y: x <= y, "at most"),
    "exclusiveMaximum": (lambda x, y: x < y, "below"),
}
SIZES = {"minLength": (str, 1), "maxLength": (str, -1), "minItems": (list, 1), "maxItems": (list, -1)}
NOTES = {"title", "description", "examples", "default", "$schema", "$id", "$comment"}  # these demand nothing
KNOWN = {"type", "enum", "const", "anyOf", "properties", "required", "additionalProperties", "items", *RANGES, *SIZES, *NOTES}


class AnswerError(Exception):
    """An answer that is whole and not of the form that was asked for; one line that can be shown to who wrote it."""


def check_schema(schema: Any, where: str = "schema") -> None:
    """Raises ValueError where `schema` is none, or has a word that is not among `KNOWN`, which are all that is checked here.

    >>> check_schema({"type": "object", "properties": {"score": {"type": "number", "multipleOf": 0.5}}})
    Traceback (most recent call last):
    ValueError: schema.properties.score: 'multipleOf' is not checked here; known are additionalProperties, anyOf, const, enum, ...
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where}: must be a JSON object, is {visible(json.dumps(schema), 40)}")
    for word in schema:
        if word not in KNOWN:
            known = ", ".join(sorted(KNOWN - NOTES)[:4])
            raise ValueError(f"{where}: {word!r} is not checked here; known are {known}, ...")
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in TYPES:
            raise ValueError(f"{where}: no type {kind!r}; there are {', '.join(TYPES)}")
    for word in (*RANGES, *SIZES):
        if word in schema and (isinstance(schema[word], bool) or not isinstance(schema[word], int | float)):
            raise ValueError(f"{where}: {word} must be a number, is {schema[word]!r}")
    for word, kind in (("properties", dict), ("required", list), ("enum", list), ("anyOf", list)):
        if word in schema and not isinstance(schema[word], kind):
            raise ValueError(f"{where}: {word} must be a JSON {'object' if kind is dict else 'array'}")
    for name, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.properties.{name}")
    for k, inner in enumerate(schema.get("anyOf", [])):
        check_schema(inner, f"{where}.anyOf.{k}")
    for word in ("items", "additionalProperties"):
        if word in schema and not isinstance(schema[word], bool):
            check_schema(schema[word], f"{where}.{word}")


def fault(value: Any, schema: Any, where: str = "the answer") -> str | None:
    """The first thing in which `value` is not as `schema` demands, as a sentence; None where there is none.

    As JSON Schema has it, true is no number, 1.0 is an integer, and a word about one type demands nothing of another.

    >>> fault({"score": 2}, {"type": "object", "properties": {"score": {"type": "number", "maximum": 1}}})
    'score is 2, not at most 1'
    >>> fault({"score": 1.0}, {"required": ["score", "reason"]})
    "the answer has no 'reason'"
    """
    if isinstance(schema, bool):
        return None if schema else f"{where} may not be there"
    shown = visible(json.dumps(value), 40)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} is {shown}, not {' or '.join(_named(kind) for kind in kinds)}"
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices is not None and not any(_same(value, choice) for choice in choices):
        return f"{where} is {shown}, not {' or '.join(json.dumps(choice) for choice in choices)}"
    if "anyOf" in schema:
        wrong = [fault(value, inner, where) for inner in schema["anyOf"]]
        if all(wrong):
            return wrong[0] if len(wrong) == 1 else f"{where} is {shown}, which is of none of the {len(wrong)} forms it may have"
    if _is(value, "number"):
        for word, (holds, said) in RANGES.items():
            if word in schema and not holds(value, schema[word]):
                return f"{where} is {shown}, not {said} {schema[word]}"
    for word, (kind, sign) in SIZES.items():
        if word in schema and isinstance(value, kind) and sign * len(value) < sign * schema[word]:
            return f"{where} has length {len(value)}, not at {'least' if sign > 0 else 'most'} {schema[word]}"
    return _inside(value, schema, where)


def _inside(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(value, dict):
        lost = [name for name in schema.get("required", []) if name not in value]
        if lost:
            return f"{where} has no {lost[0]!r}"
        named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        odd = [name for name in value if name not in named]
        if odd and others is False:
            return f"{where} has {visible(odd[0], 40)!r}, which was not asked for"
        begin = "" if where == "the answer" else f"{where}."
        parts = [(f"{begin}{visible(name, 40)}", x, named.get(name, others)) for name, x in value.items()]
    elif isinstance(value, list) and "items" in schema:
        parts = [(f"{where}[{k}]", x, schema["items"]) for k, x in enumerate(value)]
    return next((wrong for place, x, inner in parts if (wrong := fault(x, inner, place))), None)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def _same(value: Any, choice: Any) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _named(kind: str) -> str:
    return "null" if kind == "null" else f"a{'n' if kind[0] in 'aeiou' else ''} {kind}"


def read_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The one JSON object that `text` is, or that stands in it within one fence of three backticks, if it is as `schema` demands.

    Raises AnswerError for words around it, for a second object, a name that stands twice, a number that is none (NaN, infinity)
    and everything that the schema forbids.

    >>> read_object('{"score": 0.5}', {"type": "object"})
    {'score': 0.5}
    """
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", text, flags=re.DOTALL)
    try:
        found = parsed(fenced[1] if fenced else text)
    except ExchangeError as error:
        raise AnswerError(str(error)) from None
    if not isinstance(found, dict):
        raise AnswerError(f"the answer is {visible(json.dumps(found), 40)}, not an object")
    if not _finite(found):
        raise AnswerError("the answer has a number that is not finite")
    wrong = fault(found, schema)
    if wrong:
        raise AnswerError(wrong)
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(_finite(x) for x in inner)
