"""The handle that users hold: what to run, with which limits, and what came of it."""

from __future__ import annotations

import dataclasses
import marshal
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from payoff.sandbox import starting
from payoff.sandbox.isolation import LIMITS, LONGEST
from payoff.sandbox.plain import NotPlainError, load, plain
from payoff.sandbox.results import LEVELS, CaseResult, Ended, Limits, Result
from payoff.sandbox.server import BY_CLOCK, BY_MEMORY, NOT_CONFINED, REPLY

GRACE = 15.0  # seconds after a run's limit when a server that has not answered is taken for stuck
Arguments = tuple[Sequence[Any], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """Runs programs in isolation; a small value that can be pickled, copied and used from any thread or process.

    level:       "strict": namespaces, a private root, no network, a system-call filter and limits, as root or as an ordinary user;
                 "process": a single filtered process, for containers that forbid namespaces, Python and SQL only
    packages:    folders that programs may import from besides the standard library, read-only
    concurrency: runs at a time for each process that uses it; 0 for as many as it may use processors
    landlock:    whether to use Landlock where the kernel has it

    The first run in a process starts a server for it, a small process that ends with its owner. From async code, call through
    `asyncio.to_thread`. Raises SandboxError, with what is missing, where this machine cannot give the level.

    >>> sandbox = Sandbox(level="process")
    >>> sandbox.run_python("print(int(input()) + 1)", stdin="41").stdout
    '42\\n'
    >>> [case.value for case in sandbox.call_function("def twice(x): return 2 * x", "twice", [((3,), {}), (("ab",), {})])]
    [6, 'abab']
    """

    level: str = "strict"
    packages: tuple[str, ...] = ()
    concurrency: int = 0
    landlock: bool = True

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"Sandbox: level must be one of {', '.join(LEVELS)}, got {self.level!r}")
        if self.concurrency < 0:
            raise ValueError(f"Sandbox: concurrency must be >= 0, got {self.concurrency}")

    def run_python(self, source: str, *, stdin: str | bytes = "", limits: Limits | None = None) -> Result:
        """Run a program as `python program.py` would, with a text for it to read; its standard library, and `packages`."""
        return self.run(("program", _text(source)), stdin=stdin, limits=limits, returns=False)

    def call_function(
        self, source: str, entry_point: str, calls: Sequence[Arguments], *, limits: Limits | None = None
    ) -> list[CaseResult]:
        """Run a program, then call what it defines, each call with positional and keyword arguments of plain data.

        entry_point: a function, or "Class.method" for a method of a new instance
        The limits hold for all calls together. What ends the process ends one call; the rest go on in a new one, within what is
        left of the time. Values come back as plain data or not at all, and are the caller's to compare.

        Raises ValueError for arguments that are not plain data.
        """
        limits = limits or _USUAL
        if not calls:
            return []
        for arguments, keywords in calls:
            if not (plain(tuple(arguments)) and plain(dict(keywords)) and all(type(name) is str for name in keywords)):
                raise ValueError(f"call_function: arguments must be plain data, got {str((arguments, keywords))[:80]}")
        results: list[CaseResult] = []
        left, source = limits, _text(source)
        while True:
            rest = [(tuple(arguments), dict(keywords)) for arguments, keywords in calls[len(results) :]]
            run = self.run(("calls", source, entry_point, rest), limits=left)
            results += _cases(run, len(rest))
            wall, cpu = left.wall - run.wall, left.cpu - run.cpu
            if len(results) >= len(calls):
                return results
            if run.ended not in _ENDED_IN_A_CALL or not run.value.startswith(b"@\n") or min(wall, cpu) < 0.01:
                return results + [CaseResult(False, None, f"not called: {_why(run)}", run)] * (len(calls) - len(results))
            left = dataclasses.replace(left, wall=wall, cpu=cpu)

    def run(
        self,
        job: tuple,
        *,
        stdin: str | bytes = "",
        limits: Limits | None = None,
        view: str = "python",
        returns: bool = True,
    ) -> Result:
        """Have a server do a job, as `payoff.sandbox.program` reads it; `Result.value` is what it returned, as bytes."""
        limits = limits or _USUAL
        kind = starting.Kind(self.level, view, self.packages, self.concurrency or len(os.sched_getaffinity(0)), self.landlock)
        text = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        while True:
            try:
                return self._ask(starting.server(kind), marshal.dumps(job, 2), text, limits, returns=returns)
            except starting.ServerDiedError:
                continue

    def _ask(self, server: starting.Started, job: bytes, stdin: bytes, limits: Limits, *, returns: bool) -> Result:
        passed: list[int] = []  # stdout, stderr, what is returned, stdin, the job if it is long
        try:
            for content in (b"", b"", b"", *([stdin] if stdin else []), *([job] if len(job) > LONGEST else [])):
                passed.append(os.memfd_create("payoff"))
                _fill(passed[-1], content)
            asked = LIMITS.pack(*_NUMBERS_OF(limits), bool(stdin)) + (job if len(job) <= LONGEST else b"")
            answer, why = b"", "the sandbox's server died"
            line, whole = server.take(), False
            try:
                try:
                    socket.send_fds(line, [asked], passed)
                except OSError:
                    server.dead = True
                    raise starting.ServerDiedError from None
                starting.wait_at_most(line, limits.wall + GRACE)
                answer = line.recv(4096)
                server.dead, whole = server.dead or not answer, True
            except BlockingIOError:
                server.dead, why = True, "the sandbox's server was stuck"
                server.process.kill()
            except ConnectionError:
                server.dead = True
            finally:
                server.give(line, whole=whole)
            texts = [_content(file, limits.output) for file in passed[:3]]
        finally:
            for file in passed:
                os.close(file)
        shown = [text.decode("utf-8", "replace") for text, _ in texts[:2]]
        if not answer:
            value = b"" if returns else None
            return Result(Ended.LOST, None, shown[0], shown[1], 0.0, 0.0, 0, False, self.level, server.guarantees, why, value)
        return self._result(server, answer, shown, texts[2][0], [over for _, over in texts], limits, returns=returns)

    def _result(
        self,
        server: starting.Started,
        answer: bytes,
        shown: list[str],
        value: bytes,
        over: list[bool],
        limits: Limits,
        *,
        returns: bool,
    ) -> Result:
        status, user, system, peak, wall, why = REPLY.unpack(answer[: REPLY.size])
        code: int | None = os.waitstatus_to_exitcode(status)
        cpu, reason = user + system, ""
        if why == NOT_CONFINED:
            ended, code, reason = Ended.LOST, None, f"the run could not be confined: {answer[REPLY.size :].decode()}"
        elif why == BY_CLOCK:
            ended, code, reason = Ended.TIME, None, f"it took longer than {limits.wall:g} s"
        elif why == BY_MEMORY or (code == 1 and value == b"MemoryError"):
            ended, reason = Ended.MEMORY, f"it needed more than {limits.memory >> 20} MiB"
            code = code if why != BY_MEMORY else None
        elif cpu > limits.cpu:
            ended, reason = Ended.CPU, f"it used more than {limits.cpu:g} s of processor"
            code = None if code == -signal.SIGKILL else code
        elif code == -signal.SIGKILL:  # which no program can do to itself
            ended, code, reason = Ended.LOST, None, "it was killed from outside"
        elif any(over):
            ended, reason = Ended.OUTPUT, f"it wrote more than {limits.output} bytes"
        elif code == 0:
            ended = Ended.FINISHED
        else:
            ended, reason = Ended.ERROR, _last_line(shown[1]) or _ending(code or 0)
        given = value if returns else None
        return Result(ended, code, shown[0], shown[1], cpu, wall, peak, any(over), self.level, server.guarantees, reason, given)


# After these a new process can go on with the calls that are left.
_ENDED_IN_A_CALL = (Ended.FINISHED, Ended.ERROR, Ended.MEMORY, Ended.OUTPUT)
_NUMBERS_OF = attrgetter("cpu", "wall", "memory", "scratch", "output", "processes", "files")
_USUAL = Limits()


def _cases(run: Result, asked: int) -> list[CaseResult]:
    """What a run says of its calls, up to the one that it ended in."""
    lines = run.value.removeprefix(b"@\n").split(b"\n")[:-1]
    found: list[CaseResult] = []
    for line in lines[:asked]:
        if line[:1] == b"?":
            why = _shown(line[1:].decode("utf-8", "replace"))
            return found + [CaseResult(False, None, why, run)] * (asked - len(found))
        if line[:1] == b"!":
            found.append(CaseResult(False, None, _shown(line[1:].decode("utf-8", "replace")), run))
            continue
        try:
            found.append(CaseResult(True, load(line[1:]), "", run))
        except NotPlainError as error:
            found.append(CaseResult(False, None, f"what it returned cannot be read: {error}", run))
    if len(found) < asked:
        found.append(CaseResult(False, None, _why(run), run))
    return found


def _why(run: Result) -> str:
    return run.reason or f"the program ended before it answered ({_ending(run.exit_code or 0)})"


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _last_line(text: str) -> str:
    return _shown(text.rstrip().rpartition("\n")[2])


def _shown(text: str) -> str:
    """What a program said, as one line for people: no control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text[:300].split()))


def _text(source: str) -> str:
    """Source that can be sent; lone surrogates, which no program holds, are spoilt visibly."""
    return source.encode("utf-8", "backslashreplace").decode("utf-8")


def _fill(file: int, content: bytes) -> None:
    at = 0
    while at < len(content):
        at += os.pwrite(file, content[at : at + (1 << 24)], at)


def _content(file: int, limit: int) -> tuple[bytes, bool]:
    """The beginning of a file, and whether there is more of it."""
    size = os.fstat(file).st_size
    if not size:
        return b"", False
    return os.pread(file, min(size, limit), 0), size > limit
