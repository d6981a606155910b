"""Graders found by name: "package.module:function" or "path/to/file.py:function", with errors of one line fit for a terminal."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from payoff.catalogue import nearest
from payoff.worker_process import GraderError, explain, load_file


class CallableNotFoundError(GraderError, LookupError):
    """There is no such file, module or function, or it cannot be called."""


class CallableImportError(GraderError, ImportError):
    """A file or module raises while it is imported; names the line and the exception."""


def load_callable(spec: str) -> Callable[..., Any]:
    """The function that "package.module:function" or "path/to/file.py:function" names.

    The function may be left out where the file defines exactly one public function. A file's neighbours can be imported by it.
    What is loaded from a file can be sent to the workers of a `signal`, and be pickled within one.

    Raises CallableNotFoundError for a file, module or function that does not exist or cannot be called, CallableImportError for one
    that raises while it is imported; both with one line that says which and, for the latter, where.

    >>> load_callable("operator:eq")(2, 2)
    True
    """
    match = re.fullmatch(r"(.+\.py)(?::(.*))?", spec)
    module_name, colon, wanted = spec.partition(":")
    if match:
        place, wanted = match[1], match[2] or ""
        module = _file_module(place)
    elif colon and wanted and all(part.isidentifier() for part in module_name.split(".")):
        place, module = module_name, _named_module(module_name)
    else:
        raise CallableNotFoundError(f"{spec!r} names no function: write package.module:function or path/to/file.py:function")
    public = [
        name
        for name, x in vars(module).items()
        if isinstance(x, types.FunctionType) and x.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not wanted:
        if len(public) != 1:
            several = f"several functions ({', '.join(public)}): say which, as in {place}:{public[0]}" if public else "no function"
            raise CallableNotFoundError(f"{place}: defines {several}")
        wanted = public[0]
    found: Any = module
    for part in wanted.split("."):
        if not hasattr(found, part):
            like = nearest(wanted, [name for name, x in vars(module).items() if callable(x) and not name.startswith("_")])
            raise CallableNotFoundError(f"{place}: has no {wanted!r}" + (f"; did you mean {like[0]!r}?" if like else ""))
        found = getattr(found, part)
    if not callable(found):
        raise CallableNotFoundError(f"{place}: {wanted!r} is a {type(found).__name__}, which cannot be called")
    return found


def _file_module(place: str) -> types.ModuleType:
    """A source file as a module of its own, anew when the file has changed."""
    path = Path(place).expanduser().absolute()
    if not path.is_file():
        like = nearest(path.name, sorted(other.name for other in path.parent.glob("*.py"))) if path.parent.is_dir() else []
        hint = f"; did you mean {path.with_name(like[0]).name!r}?" if like else ""
        raise CallableNotFoundError(f"{place}: {'not a file' if path.exists() else 'no such file'}{hint}")
    stat = path.stat()
    version = zlib.crc32(f"{path}:{stat.st_mtime_ns}:{stat.st_size}".encode())
    name = f"payoff_file_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{version:08x}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return _imported(place, str(path), lambda: load_file(name, str(path)))


def _named_module(name: str) -> types.ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return _imported(name, None, lambda: importlib.import_module(name))
    except CallableImportError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            raise CallableNotFoundError(f"{name}: there is no module {cause.name!r} here") from None
        raise


def _imported(place: str, path: str | None, load: Callable[[], types.ModuleType]) -> types.ModuleType:
    """What `load` gives; or an error with the line of `path` (the last line of any file) that raised."""
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<") and f.filename != __file__]
        here = [f for f in frames if f.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else here[-1].lineno if here else None
        if isinstance(error, SyntaxError):
            place, why = (place if error.filename in (path, None) else error.filename), f"{type(error).__name__}: {error.msg}"
        else:
            why = explain(error)
        raise CallableImportError(f"{place}{f':{line}' if line else ''}: {why}") from error
