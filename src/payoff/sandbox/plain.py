"""Plain data between processes that do not trust each other: written by type, read strictly, compared with exact types.

What a candidate returned is written by `dump` in its own process and read by `load` in the trusted one. Nothing is ever unpickled,
and what is read is built from these types alone: None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

DEEPEST = 100
_NONE = type(None)


class NotPlainError(ValueError):
    """Data that cannot be written, or text that is no data."""


def dump(value: Any) -> str:
    """Plain data as one line of text; NotPlainError names what is not plain, such as an instance of a subclass of int.

    >>> dump((1, 0.5, {"a": None}))
    '["t",1,["f","0x1.0000000000000p-1"],["d",["a",null]]]'
    """
    return json.dumps(_write(value, 0), separators=(",", ":"))


def load(text: str | bytes) -> Any:
    """What `dump` wrote; NotPlainError for any other text.

    >>> load(dump({(1, 2): {3.5, b"x"}})) == {(1, 2): {3.5, b"x"}}
    True
    """
    try:
        return _read(json.loads(text, parse_float=_refuse, parse_constant=_refuse, object_pairs_hook=_refuse), 0)
    except (ValueError, TypeError, RecursionError, OverflowError, IndexError, MemoryError) as error:
        raise NotPlainError(f"not plain data: {error}"[:200]) from None


def _write(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or kind is _NONE:
        return value
    if kind is int:
        return value if -(1 << 53) < value < 1 << 53 else ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if depth >= DEEPEST:
        raise NotPlainError(f"nested more than {DEEPEST} deep")
    if kind in _TAGS:
        return [_TAGS[kind], *[_write(part, depth + 1) for part in value]]
    if kind is dict:
        return ["d", *[[_write(key, depth + 1), _write(part, depth + 1)] for key, part in value.items()]]
    if kind is bytes:
        return ["b", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    raise NotPlainError(f"an instance of {kind.__name__!r} is not plain data")


_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_SEVERAL: dict[str, Callable[[list], Any]] = {"l": list, "t": tuple, "s": set, "z": frozenset}


def _read(data: Any, depth: int) -> Any:
    if type(data) is not list:
        return data
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    tag, *parts = data
    if type(tag) is not str:
        raise ValueError("a list without a tag")
    if tag in _SEVERAL:
        members = [_read(part, depth + 1) for part in parts]
        return _SEVERAL[tag](_unlike(members) if tag in "sz" else members)
    if tag == "d":
        if any(type(pair) is not list or len(pair) != 2 for pair in parts):
            raise ValueError("an entry that is no pair")
        keys = _unlike([_read(key, depth + 1) for key, _ in parts])
        return dict(zip(keys, [_read(part, depth + 1) for _, part in parts], strict=True))
    if any(type(part) is not str for part in parts) or len(parts) != (2 if tag == "c" else 1):
        raise ValueError("a number or text in the wrong form")
    if tag == "i":
        return int(parts[0], 16)
    if tag == "f":
        return float.fromhex(parts[0])
    if tag == "b":
        return bytes.fromhex(parts[0])
    if tag == "c":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    raise ValueError("an unknown tag")


def _unlike(members: list) -> list:
    """The members of a set, unless they were chosen to have one hash, which would make the set as slow as its size squared."""
    if len(members) > 64 and max(Counter(map(hash, members)).values()) > 64:
        raise ValueError("members with one and the same hash")
    return members


def _refuse(_: Any) -> Any:
    raise ValueError("a form that is never written")


def untagged(value: Any) -> Any:
    """Plain data as JSON holds it, where an object with a single key that begins with "$" stands for what JSON lacks.

    {"$tuple": [...]}, {"$set": [...]}, {"$frozenset": [...]}, {"$bytes": "hex"}, {"$complex": [real, imaginary]},
    {"$float": "nan"}, {"$dict": [[key, value], ...]}. Raises NotPlainError for any other such key.

    >>> untagged([{"$tuple": [1, {"$float": "inf"}]}, {"$dict": [[1, "one"]]}])
    [(1, inf), {1: 'one'}]
    """
    if type(value) is list:
        return [untagged(part) for part in value]
    if type(value) is not dict:
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: untagged(part) for key, part in value.items()}
    [(tag, inside)] = value.items()
    try:
        if tag in _MADE:
            return _MADE[tag](inside)
    except (TypeError, ValueError) as error:
        raise NotPlainError(f"{tag}: {error}") from None
    raise NotPlainError(f"{tag} is none of {', '.join(_MADE)}")


_MADE: dict[str, Callable[[Any], Any]] = {
    "$tuple": lambda inside: tuple(untagged(inside)),
    "$set": lambda inside: set(untagged(inside)),
    "$frozenset": lambda inside: frozenset(untagged(inside)),
    "$bytes": bytes.fromhex,
    "$complex": lambda inside: complex(*inside),
    "$float": float,
    "$dict": lambda inside: {untagged(key): untagged(part) for key, part in inside},
}


def same(value: Any, expected: Any, *, tolerance: float = 0.0, loose: bool = False) -> bool:
    """Whether two plain values are the same, types included: True is not 1, 1.0 is not 1, a tuple is no list; NaN is NaN.

    tolerance: how far floats and parts of complex numbers may be off, as a share of the expected one and as a difference, in lists,
               tuples and values of dictionaries; keys and members of sets are exact
    loose:     tuples count as lists, as where the expected value came from JSON

    >>> same([1, 0.3], [1, 0.1 + 0.2], tolerance=1e-9), same((1, 2), [1, 2]), same((1, 2), [1, 2], loose=True), same(True, 1)
    (True, False, True, False)
    """
    kind = type(expected)
    if loose and kind in (list, tuple) and type(value) in (list, tuple):
        value = kind(value)
    if type(value) is not kind:
        return False
    if kind is float:
        return _close(value, expected, tolerance)
    if kind is complex:
        return _close(value.real, expected.real, tolerance) and _close(value.imag, expected.imag, tolerance)
    if kind in (list, tuple):
        return len(value) == len(expected) and all(
            same(a, b, tolerance=tolerance, loose=loose) for a, b in zip(value, expected, strict=True)
        )
    if kind in (set, frozenset):
        return {_exact(one) for one in value} == {_exact(one) for one in expected}
    if kind is dict:
        mine = {_exact(key): part for key, part in value.items()}
        return len(mine) == len(expected) and all(
            (name := _exact(key)) in mine and same(mine[name], part, tolerance=tolerance, loose=loose)
            for key, part in expected.items()
        )
    return value == expected


def _close(value: float, expected: float, tolerance: float) -> bool:
    if value == expected or (value != value and expected != expected):
        return True
    return abs(value - expected) <= tolerance * max(1.0, abs(expected)) < float("inf")


def _exact(value: Any) -> Any:
    """A hashable value with its types spelt out, so that 1, 1.0 and True are three."""
    if type(value) in (tuple, frozenset):
        return type(value).__name__, type(value)(_exact(part) for part in value)
    return type(value).__name__, "nan" if value != value else value


def plain(value: Any) -> bool:
    """Whether `dump` can write a value."""
    try:
        dump(value)
    except (ValueError, RecursionError):
        return False
    return True
