"""What runs in a confined process: a program, a candidate's calls, a query or tools. It is as trusted as the candidate, not at all.

The process holds its stdin, stdout, stderr and one file for what it returns. It knows inputs and no expected answers, and why it
ended is seen from outside.
"""

from __future__ import annotations

import _sitebuiltins
import _thread
import atexit
import builtins
import linecache
import os
import random
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from payoff.sandbox.plain import dump

RETURNED = 3  # the descriptor of the file for what is returned
FILE = "program.py"
_TRACE_LINES = 30


def warm() -> None:
    """Have done once, before any fork, what an interpreter does at its start and at the first use of its parts."""
    builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
    exec(compile("def f(x: int = 1) -> int:\n    return x\nf()", FILE, "exec", dont_inherit=True), {})
    dump([0, 0.5, "a", None, (1 << 60,), {"a": b""}])
    linecache.cache[FILE] = (1, None, ["0"], FILE)
    try:
        exec(compile("1 / 0", FILE, "exec"), {})
    except ZeroDivisionError as error:
        traceback.format_exception(error)


def run(job: tuple, scratch: str | None) -> int:
    """Do a job; the exit code of the process."""
    kind = job[0]
    if kind == "program":
        return _finish(_program(job[1], scratch))
    return _KINDS[kind](*job[1:])


_modules: dict[str, types.ModuleType] = {}
_lines: list[str] = []  # of the program, for whoever shows where something happened


def prepare() -> None:
    """What every program needs, made before there is one."""
    for name in ("__main__", "candidate"):
        module = _modules[name] = types.ModuleType(name)
        module.__file__ = FILE
        module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.argv = [FILE]
    _lines.clear()
    linecache.cache[FILE] = (1, None, _lines, FILE)


def _module(source: str, name: str) -> types.ModuleType:
    module = sys.modules[name] = _modules[name]
    _lines.extend(source.splitlines(True))
    if "random" in source:  # or every run would draw what the run before it drew
        random.seed()
    return module


def _program(source: str, scratch: str | None) -> int:
    if scratch is not None and "/dev/stdin" in source:
        with open(0, "rb", closefd=False) as stdin, open(f"{scratch}/.stdin", "wb") as file:
            file.write(stdin.read())
        os.lseek(0, 0, os.SEEK_SET)
    module = _module(source, "__main__")
    try:
        exec(compile(source, FILE, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        return _exit_code(error)
    return 0


def _exit_code(error: BaseException) -> int:
    """What the interpreter does with an exception that nobody caught."""
    if isinstance(error, SystemExit):
        code = error.code
        if code is None or isinstance(code, int):
            return int(code or 0) & 0xFF
        print(code, file=sys.stderr)
        return 1
    if isinstance(error, MemoryError):
        os.write(RETURNED, b"MemoryError")
    frame = error.__traceback__ and error.__traceback__.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frame)
        sys.stderr.write("".join(lines[:_TRACE_LINES]))
    except BaseException:
        os.write(2, type(error).__name__.encode("utf-8", "replace"))
    return 1


def _finish(code: int) -> int:
    """What the interpreter does at its end, without the time that it takes to tear itself down."""
    try:
        if _thread._count():
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        module = sys.modules.get("__main__")
        sys.stdout = sys.__stdout__ or sys.stdout
        if module is not None:
            module.__dict__.clear()  # streams and files that only the program held write what they still have
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        return _exit_code(error) or 120
    return code


def _calls(source: str, entry_point: str, calls: list[tuple[tuple, dict]]) -> int:
    """A line "@" when the calls begin, then one for each: "=" and its plain data, or "!" and why there is none."""
    write, as_text = os.write, dump
    module = _module(source, "candidate")
    try:
        exec(compile(source, FILE, "exec", dont_inherit=True), module.__dict__)
        function = _found(module, entry_point)
    except BaseException as error:
        reason = _reason(error)
        _exit_code(error)
        sys.stderr.flush()
        write(RETURNED, f"?{reason}\n".encode("utf-8", "replace"))
        return 1
    write(RETURNED, b"@\n")
    for arguments, keywords in calls:
        try:
            line = "=" + as_text(function()(*arguments, **keywords))
        except BaseException as error:
            line = "!" + _reason(error)
        write(RETURNED, line.encode("utf-8", "replace") + b"\n")
    sys.stdout.flush()
    sys.stderr.flush()
    return 0


def _found(module: types.ModuleType, entry_point: str) -> Any:
    """How to get the function for a call: a method of a class is that of a new instance each time."""
    head, _, method = entry_point.partition(".")
    if head not in module.__dict__:
        raise NameError(f"the program defines no {head!r}")
    owner = module.__dict__[head]
    if not method:
        return lambda: owner
    if isinstance(owner, type):
        return lambda: getattr(owner(), method)
    return lambda: getattr(owner, method)


def _reason(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = "an exception whose text cannot be had"
    return " ".join(text[:500].split())


def _query(setup: str, query: str, most: int) -> int:
    """The rows of one statement that only reads, over a database in memory that `setup` made."""
    import sqlite3

    database = sqlite3.connect(":memory:", isolation_level=None)
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

    def authorise(action: int, first: str | None, second: str | None, *_: Any) -> int:
        refused = action not in allowed or (action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "writefile", "edit"))
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    try:
        database.executescript(setup)
    except sqlite3.Error as error:
        os.write(RETURNED, f"?{_reason(error)}\n".encode("utf-8", "replace"))
        return 2
    database.set_authorizer(authorise)
    try:
        cursor = database.execute(query)
        rows = cursor.fetchmany(most + 1)
        if len(rows) > most:
            raise ValueError(f"more than {most} rows")
        names = [column[0] for column in cursor.description or ()]
        line = "=" + dump((names, rows))
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError, OverflowError) as error:
        line = "!" + _reason(error)
    os.write(RETURNED, line.encode("utf-8", "replace") + b"\n")
    return 0


def _tools(files: dict[str, bytes], commands: list[list[str]], fetch: str | None) -> int:
    """Write files into the scratch folder, run commands one after the other until one fails, return a file."""
    for name, content in files.items():
        with open(name, "wb") as file:
            file.write(content)
        os.chmod(name, 0o700)
    os.set_inheritable(RETURNED, False)
    if os.fstat(0).st_size:
        with open(".stdin", "wb") as file, open(0, "rb", closefd=False) as stdin:
            file.write(stdin.read())
        os.lseek(0, 0, os.SEEK_SET)
    for command in commands:
        code = _start(command)
        if code:
            return code
    if fetch is not None:
        with open(fetch, "rb") as file:
            while part := file.read(1 << 20):
                os.write(RETURNED, part)
    return 0


def _start(command: list[str]) -> int:
    """Run one command to its end, as the first process of everything below it; 128 and its number for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and its children would as well
                signal.signal(number, signal.SIG_DFL)
            os.execve(command[0], command, {"PATH": "/usr/bin:/bin", "TMPDIR": "/tmp", "HOME": "/tmp", "LC_ALL": "C.UTF-8"})
        except OSError as error:
            os.write(2, f"{command[0]}: {error}".encode())
        finally:
            os._exit(127)
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


_KINDS: dict[str, Callable[..., int]] = {"calls": _calls, "query": _query, "tools": _tools}
