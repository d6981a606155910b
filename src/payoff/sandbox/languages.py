"""Languages besides Python: C and C++ through the system's compilers, SQL in SQLite, Verilog through Icarus.

A compiler is as untrusted as what it compiles, and runs inside the sandbox as well.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from payoff.sandbox.handle import Sandbox
from payoff.sandbox.plain import NotPlainError, load
from payoff.sandbox.results import Ended, Limits, Result, SandboxError

COMPILERS = "/usr/bin:/bin:/usr/local/bin"  # the folders whose programs a run with tools can see
COMPILING = Limits(cpu=30.0, wall=30.0, memory=2 << 30, scratch=64 << 20, output=32 << 20, processes=32, files=128)
_LANGUAGES = {
    "c": ("gcc", "gcc", "program.c", ("-O2", "-std=c17", "-w"), ("-lm",)),
    "cpp": ("g++", "g++", "program.cpp", ("-O2", "-std=c++17", "-w"), ()),
}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, or why there is none.

    program: the executable, None where the source does not compile; run: the compiler's own run, with its messages in `stderr`
    """

    program: bytes | None
    run: Result


def compile_program(sandbox: Sandbox, language: str, source: str, *, limits: Limits = COMPILING) -> Compiled:
    """Compile C ("c") or C++ ("cpp") inside the sandbox.

    Raises SandboxError where the compiler is not installed, or the level is not "strict", at which alone programs can be started.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"compile_program: language must be one of {', '.join(_LANGUAGES)}, got {language!r}")
    tool, package, name, before, after = _LANGUAGES[language]
    compiler = _tool(sandbox, tool, package)
    command = [compiler, *before, "-o", "program", name, *after]
    run = sandbox.run(("tools", {name: source.encode("utf-8", "replace")}, [command], "program"), limits=limits, view="tools")
    if run.ended is Ended.FINISHED and run.value:
        return Compiled(run.value, dataclasses.replace(run, value=None))
    return Compiled(None, dataclasses.replace(run, value=None))


def run_compiled(sandbox: Sandbox, program: bytes, *, stdin: str = "", limits: Limits | None = None) -> Result:
    """Run what `compile_program` made, in a fresh sandbox."""
    _started_only_when_strict(sandbox)
    run = sandbox.run(("tools", {"program": program}, [["/tmp/program"]], None), stdin=stdin, limits=limits, view="tools")
    return _with_signal(run)


def run_verilog(
    sandbox: Sandbox, sources: Sequence[str], *, top: str | None = None, limits: Limits = COMPILING
) -> tuple[bool, Result]:
    """Compile Verilog with Icarus and simulate it; whether it compiled, and the run whose stdout the simulation wrote.

    top: the module to simulate, by default those that no other instantiates
    What a test bench prints can be printed by the design as well: a bench that must not be fooled compares outputs outside.
    Raises SandboxError where Icarus is not installed.
    """
    compiler = _tool(sandbox, "iverilog", "iverilog")
    runner = _tool(sandbox, "vvp", "iverilog")
    files = {f"source{k}.v": source.encode("utf-8", "replace") for k, source in enumerate(sources)}
    only = ["-s", top] if top else []
    commands = [[compiler, "-g2012", "-o", "simulation", *only, *files], [runner, "-n", "simulation"]]
    run = sandbox.run(("tools", files, commands[:1], "simulation"), limits=limits, view="tools")
    if run.ended is not Ended.FINISHED or not run.value:
        return False, dataclasses.replace(run, value=None)
    again = sandbox.run(("tools", {"simulation": run.value}, commands[1:], None), limits=limits, view="tools")
    return True, _with_signal(again)


def run_sql(sandbox: Sandbox, setup: str, query: str, *, rows: int = 10_000, limits: Limits | None = None) -> Result:
    """The rows that one reading statement selects from a SQLite database in memory; `value` is (columns, rows), None on failure.

    setup: statements that make the database, trusted; query: one statement, which may read and nothing else
    rows:  how many the query may give at most

    >>> run_sql(Sandbox(level="process"), "create table t (a); insert into t values (3), (4)", "select sum(a) as s from t").value
    (['s'], [(7,)])
    """
    run = sandbox.run(("query", setup, query, rows), limits=limits)
    line: bytes = run.value.partition(b"\n")[0]
    if run.ended is Ended.FINISHED and line[:1] == b"=":
        try:
            found: Any = load(line[1:])
        except NotPlainError as error:
            return dataclasses.replace(run, ended=Ended.ERROR, reason=str(error), value=None)
        return dataclasses.replace(run, value=found)
    if line[:1] == b"?":
        raise ValueError(f"run_sql: the setup cannot be executed: {line[1:].decode('utf-8', 'replace')}")
    if run.ended is Ended.FINISHED:
        return dataclasses.replace(run, ended=Ended.ERROR, reason=line[1:].decode("utf-8", "replace"), value=None)
    return dataclasses.replace(run, value=None)


def _tool(sandbox: Sandbox, tool: str, package: str) -> str:
    _started_only_when_strict(sandbox)
    path = shutil.which(tool, path=COMPILERS)
    if path is None:
        raise SandboxError(f"{tool} is not installed; on Debian: apt-get install {package}")
    return path


def _started_only_when_strict(sandbox: Sandbox) -> None:
    if sandbox.level != "strict":
        raise SandboxError(f'programs can be started at the level "strict" only, and this is "{sandbox.level}"')


def _with_signal(run: Result) -> Result:
    """A run whose exit code says which signal ended the program, in the way of a shell, in the way of this library."""
    code = run.exit_code
    if code is not None and 128 < code < 128 + 65:
        return dataclasses.replace(run, exit_code=128 - code, value=None)
    return dataclasses.replace(run, value=None)
