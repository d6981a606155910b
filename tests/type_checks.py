"""The type checker of the tests' import hook: beartype for the first calls of every function of a process.

A function whose first `CALLS` calls were as annotated is taken at its word: in loops over thousands of small batches the checks
took much of the time. A function that is never called is never compiled.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import beartype

CALLS = 25


def first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping calls before and after a function: `function` is empty and has its name and annotations."""
    left = CALLS

    @functools.cache
    def checked() -> Callable[..., Any]:
        return beartype.beartype(function)

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            _believe(function)
        return checked()(*args, **kwargs)

    return counted


def _believe(function: Callable[..., Any]) -> None:
    """jaxtyping passes over what bears this mark; a function within a function cannot be found, and is checked for ever."""
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    if inspect.isroutine(found):
        inspect.unwrap(getattr(found, "__func__", found)).__no_type_check__ = True
