"""Math-Verify in a process of its own: started when first needed, killed and replaced when it overruns its time or memory.

Math-Verify's own limits are alarms of the main thread and cannot stop one long call in C; killing from outside can. A caller in
any thread waits at most its limit after the process is ready. A forked copy of the caller starts its own. This file is also the
program of that process: it reads questions as lines of JSON and answers each with one line.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time

_MEMORY = 3 << 30
_START = 120.0  # seconds that importing may take on a busy machine


class Verifier:
    """One process, and the lock that lets one thread at a time ask it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._left = b""

    def ask(self, answers: list[str], references: list[str], limit: float) -> tuple[float | None, str]:
        """1 or 0 from Math-Verify, or None and why: no package, out of time, out of memory, or a reference that it cannot read."""
        if self._owner != os.getpid():  # forked: lock and process belong to the parent
            self.__init__()  # type: ignore[misc]
        with self._lock:
            try:
                process = self._started()
                if isinstance(process, str):
                    return None, process
                question = json.dumps({"answers": answers, "references": references, "limit": limit})
                process.stdin.write(question.encode() + b"\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
                said = self._line(process, limit)
            except OSError:
                said = b""
            except BaseException:
                self._end()
                raise
            if said is None:
                self._end()
                return None, f"no verdict within {limit:g} s"
            if not said:
                self._end()
                return None, "the process that compares expressions was ended"
            value, reason = json.loads(said)
            return value, reason

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self._owner == os.getpid():
            with self._lock:
                self._end()

    def _started(self) -> subprocess.Popen[bytes] | str:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        ready = self._line(self._process, _START)
        if ready == b"ready":
            return self._process
        self._end()
        if ready == b"missing":
            return 'an expression needs math_verify, which is not installed; install: pip install "payoff[text]"'
        return "the process that compares expressions does not start"

    def _line(self, process: subprocess.Popen[bytes], limit: float) -> bytes | None:
        """The next line; nothing where the process has ended, None where time is up."""
        until, pipe = time.monotonic() + limit, process.stdout
        assert pipe is not None
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while b"\n" not in self._left:
            rest = until - time.monotonic()
            if rest <= 0:
                return None
            if poll.poll(1000 * rest):
                more = os.read(pipe.fileno(), 1 << 16)
                if not more:
                    return b""
                self._left += more
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _end(self) -> None:
        process, self._process, self._left = self._process, None, b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


VERIFIER = Verifier()
atexit.register(VERIFIER.close)


def main() -> None:
    """The process: answers until its line is closed."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    # Nothing that is computed here may write between the answers.
    line = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        from math_verify import grader, parser
    except ModuleNotFoundError:
        line.write(b"missing\n")
        return
    parser.parse("$x^2$", parsing_timeout=None)
    line.write(b"ready\n")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for question in sys.stdin.buffer:
        asked = json.loads(question)
        # Should the caller be gone, the system ends this process, also in the middle of a call into C.
        signal.alarm(int(asked["limit"]) + 5)
        try:
            found = _verdict(asked, grader, parser)
        except Exception as error:
            found = None, f"the comparison failed: {type(error).__name__}"
        signal.alarm(0)
        line.write(json.dumps(found).encode() + b"\n")


def _verdict(asked: dict, grader: object, parser: object) -> tuple[float | None, str]:
    read = lambda text: parser.parse(f"${text}$", parsing_timeout=None)  # type: ignore[attr-defined]
    references = [found for text in asked["references"] if (found := read(text))]
    if not references:
        return None, "the reference cannot be parsed"
    answers = [found for text in asked["answers"] if (found := read(text))]
    verify = grader.verify  # type: ignore[attr-defined]
    return float(any(verify(r, a, timeout_seconds=None, raise_on_error=True) for r in references for a in answers)), ""


if __name__ == "__main__":
    main()
