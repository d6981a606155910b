"""A hash of the code that a recipe puts to the test, so that results of other code can be told apart.

It covers the recipe's own file, the worlds (`payoff.recipes.worlds`) that it imports and those that these import in turn, and, of
every method it names, the definition with all that this definition uses in its own module. Comments, docstrings and blank lines
do not count. What other modules do is covered by payoff's version alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import io
import sys
import tokenize
from pathlib import Path

from payoff.catalogue import index
from payoff.recipes import HERE, Recipe

WORLDS = HERE / "worlds"


def code_hash(recipe: Recipe) -> str:
    """Sixteen hexadecimal digits; LookupError for a method that is not registered."""
    module = sys.modules[inspect.unwrap(recipe.run).__module__]
    texts = [bare(Path(str(module.__file__)).read_text(encoding="utf-8"))]
    for name in recipe.methods:
        kind, _, method = name.partition(":")
        if (kind, method) not in index():
            raise LookupError(f"recipe {recipe.name!r}: no method {name!r} is registered; write it as kind:name")
        place, _, attribute = index()[kind, method].place.partition(":")
        spec = importlib.util.find_spec(place)
        texts.append(definitions(bare(Path(str(spec and spec.origin)).read_text(encoding="utf-8")), attribute))
    texts += [bare(path.read_text(encoding="utf-8")) for path in worlds(Path(str(module.__file__)))]
    return hashlib.sha256("\n\n".join(texts).encode()).hexdigest()[:16]


def worlds(recipe: Path) -> list[Path]:
    """The files of the worlds that a file imports, directly or through one another, by name.

    >>> from payoff.recipes import HERE
    >>> [path.name for path in worlds(HERE / "verpo.py")], worlds(HERE / "pure.py")
    (['functions.py', 'writing.py'], [])
    """
    found: dict[str, Path] = {}
    waiting = [recipe]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in named:
                path = WORLDS / f"{name.removeprefix('payoff.recipes.worlds.')}.py"
                if name.startswith("payoff.recipes.worlds.") and path.is_file() and path.stem not in found:
                    found[path.stem] = path
                    waiting.append(path)
    return [found[name] for name in sorted(found)]


def bare(source: str) -> str:
    r"""The source without comments and blank lines, and with empty docstrings.

    >>> bare("def f():\n    'Says why.'\n\n    return 1  # one\n")
    'def f():\n    ""\n    return 1'
    """
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                end = int(first.end_lineno or first.lineno)
                lines[first.lineno - 1 : end] = [" " * first.col_offset + '""'] + [""] * (end - first.lineno)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def definitions(source: str, name: str) -> str:
    r"""The top-level statement that defines `name`, and every other one that it uses, directly or not, in the file's order.

    >>> definitions("import os\na = 1\ndef g(): return a\ndef f(): return g()\ndef h(): return os", "f")
    'a = 1\ndef g(): return a\ndef f(): return g()'
    """
    body = ast.parse(source).body
    defining = {defined: node for node in body for defined in _defined(node)}
    used: set[ast.stmt] = set()
    wanted = [name]
    while wanted:
        node = defining.get(wanted.pop())
        if node is not None and node not in used:
            used.add(node)
            wanted += [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    lines = source.split("\n")
    return "\n".join("\n".join(lines[_first(node) - 1 : node.end_lineno]) for node in body if node in used)


def _defined(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]


def _first(node: ast.stmt) -> int:
    """The line a statement begins on, its decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
