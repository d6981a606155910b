"""The options of a reward in its name: ?NAME=VALUE&NAME=VALUE, each read as what its default is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from payoff.catalogue import nearest


def split_options(text: str, mark: str = "?") -> tuple[str, dict[str, str]]:
    """What stands before the last `mark`, and the options after it; %xx stands for a character, as in an address.

    Raises ValueError for an option without a value and for one that is given twice.

    >>> split_options("rewards.py:short?limit=20&unit=words")
    ('rewards.py:short', {'limit': '20', 'unit': 'words'})
    """
    place, found, rest = text.rpartition(mark)
    if not found:
        return text, {}
    options: dict[str, str] = {}
    for part in rest.split("&") if rest else ():
        name, equals, value = (unquote(x) for x in part.partition("="))
        if not name or not equals:
            raise ValueError(f"option {part!r}: write NAME=VALUE, several with & between them")
        if name in options:
            raise ValueError(f"option {name!r} is given twice")
        options[name] = value
    return place, options


def accepted(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the keyword-only arguments of `make`: text becomes what the argument's default is, a number or true or false.

    Where `make` takes any others, they are read as JSON, or as text where they are none.

    Raises ValueError for an option that is not one, with the nearest there is, and for a value that cannot be read.

    >>> def make(place, *, batch=8, truncate=False): ...
    >>> accepted(make, {"batch": "16", "truncate": "true"})
    {'batch': 16, 'truncate': True}
    """
    parameters = inspect.signature(make).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    given = {}
    for name, value in options.items():
        if name not in known and not free:
            raise ValueError(no_option(name, list(known)))
        given[name] = (_read(name, value, known[name]) if name in known else literal(value)) if isinstance(value, str) else value
    return given


def no_option(name: str, known: list[str]) -> str:
    """What to say of an option that is not one."""
    like = nearest(name, known)
    there = f"did you mean {like[0]}?" if like else f"there are: {', '.join(known)}" if known else "there are none"
    return f"no option {name!r}; {there}"


def literal(text: str) -> Any:
    """A number, true, false, null, a list or an object, as JSON writes them; any other text is itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"option {name} must be true or false, is {text!r}")
        return text.lower() in ("true", "1", "yes")
    if isinstance(default, int | float):
        kind = type(default)
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"option {name} must be {'a whole number' if kind is int else 'a number'}, is {text!r}") from None
    return text
