"""The record of every published method in the library: its name, paper, kind, what it reads and how much it must see.

`@method` only writes the record; it changes nothing about the function or class it stands above. `index` reads the records from
the source text, without importing torch; `find` imports the one room that holds a method.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])
ROOMS = ("signals", "models", "shaping", "credit", "advantages", "losses", "sampling", "search", "design", "policies", "tasks")


@dataclass(frozen=True)
class Method:
    """One registered method.

    needs: what the loop or the policy must provide; sees: item, group or batch; pays: what it gives is still a reward, paid
    where it exists, and not yet the weight of an action.
    """

    name: str
    kind: str
    paper: str = ""
    needs: frozenset[str] = frozenset()
    sees: str = "item"
    pays: bool = False
    place: str = ""
    summary: str = ""


def method(
    name: str, *, kind: str, paper: str = "", needs: tuple[str, ...] = (), sees: str = "item", pays: bool = False
) -> Callable[[T], T]:
    """Record a function or class as the method `name`; every argument is a literal, so that the catalogue reads without importing.

    >>> @method("my-shaping", kind="shaping", paper="arXiv:0000.00000")
    ... def my_shaping(channel, traj): return channel
    >>> my_shaping.__method__.kind
    'shaping'
    """

    def record(part: T) -> T:
        summary = (part.__doc__ or "").strip().split("\n")[0]
        place = f"{part.__module__}:{part.__qualname__}"
        part.__method__ = Method(name, kind, paper, frozenset(needs), sees, pays, place, summary)  # type: ignore[attr-defined]
        return part

    return record


@cache
def index() -> dict[tuple[str, str], Method]:
    """Every method of the library by (kind, name), read from the source files; raises ValueError for a name given twice."""
    found: dict[tuple[str, str], Method] = {}
    package = Path(__file__).parent
    for room in ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            module = ".".join(("payoff", *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
            for record in _records(path, module):
                if (record.kind, record.name) in found:
                    other = found[record.kind, record.name].place
                    raise ValueError(f"method {record.name!r} ({record.kind}) is registered by {other} and by {record.place}")
                found[record.kind, record.name] = record
    return found


def find(name: str, kind: str | None = None) -> Callable[..., Any]:
    """The function or class registered as `name`; hyphens and underscores are the same.

    Raises LookupError with the nearest names where there is none, or where several kinds have it and `kind` is not given.

    >>> find("total", "credit").__name__
    'total'
    """
    wanted = name.replace("_", "-")
    hits = [record for (k, n), record in index().items() if n == wanted and kind in (None, k)]
    if len(hits) != 1:
        raise LookupError(_no_method(name, kind, [record.kind for record in hits]))
    module, _, attribute = hits[0].place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def nearest(word: str, choices: list[str], n: int = 1) -> list[str]:
    """The choices most like `word`, for "did you mean"; empty when nothing is near."""
    return difflib.get_close_matches(word.replace("_", "-"), choices, n=n, cutoff=0.6)


def _no_method(name: str, kind: str | None, kinds: list[str]) -> str:
    if kinds:
        return f"{name!r} is the name of several methods: say which kind, one of {sorted(kinds)}"
    label = f"{kind} method" if kind else "method"
    like = nearest(name, sorted({n for (k, n) in index() if kind in (None, k)}))
    elsewhere = [k for (k, n) in index() if n == name.replace("_", "-")]
    hint = f"; did you mean {like[0]}?" if like else ""
    if elsewhere and not like:
        hint = f"; it is a {elsewhere[0]} method"
    return f"unknown {label} {json.dumps(name)}{hint}"


def _records(path: Path, module: str) -> list[Method]:
    """The methods that one source file registers, in order."""
    records = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "method":
                options = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords if k.arg}
                options["needs"] = frozenset(options.get("needs", ()))
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                name = ast.literal_eval(decorator.args[0])
                records.append(Method(name=name, place=f"{module}:{node.name}", summary=summary, **options))
    return records
