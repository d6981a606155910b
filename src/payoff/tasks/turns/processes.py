"""Episodes in processes of their own, for environments that may hang or die: a deadline is kept by killing the process."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from payoff.pipeline import Response

_START = "forkserver"  # this process has threads, which a fork of it would not survive
_STARTING = 60.0  # seconds that a process may take to begin, besides the deadline: it imports


class DeadlineError(TimeoutError):
    """An environment that did not answer in time; its process was killed."""


class EnvironmentDiedError(RuntimeError):
    """An environment whose process is gone, or that raised; the message says why."""


class InProcess:
    """Makes episodes that run in other processes, one at a time in each, and ends those that take too long to answer.

    make:     makes an episode, as for `Dialogue`; picklable
    deadline: seconds for one answer, and for beginning (a new process has a minute more). A process that is killed, or that died,
              takes nothing but its own episode with it: the rollout is in error, with the reason, and has no verdict

    Processes that are free are used again, and end with this object or with this process.
    Raises ValueError for a deadline that is not positive.
    """

    def __init__(self, make: Callable[[], Any], deadline: float | int) -> None:
        if not deadline > 0:
            raise ValueError(f"InProcess: deadline must be seconds > 0, got {deadline}")
        self.make, self.deadline = make, float(deadline)

    def __call__(self) -> RemoteEpisode:
        """A new episode, in a process that is free or new."""
        return RemoteEpisode(self.make, self.deadline)


class RemoteEpisode:
    """An episode that another process runs."""

    def __init__(self, make: Callable[[], Any], deadline: float) -> None:
        self.deadline = deadline
        self.measures: dict[str, float] = {}
        self.outcome: float | None = None
        self._worker: _Worker | None = _Worker.free()
        self._ask("begin", make, deadline if self._worker.started else deadline + _STARTING)

    def respond(self, action: str) -> Response:
        """The other process' answer. Raises DeadlineError or EnvironmentDiedError."""
        return self._ask("respond", action, self.deadline)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its turns."""

    def close(self) -> None:
        """Give the process back."""
        if self._worker is not None:
            self._worker.give_back()
            self._worker = None

    def _ask(self, what: str, content: Any, deadline: float) -> Any:
        if self._worker is None:
            raise EnvironmentDiedError("the environment is gone")
        try:
            answer, failure, measures, outcome = self._worker.ask(what, content, deadline)
        except DeadlineError:
            self._worker = None
            raise DeadlineError(f"no answer within {deadline:g} s") from None
        except (EOFError, OSError):
            self._worker = None
            raise EnvironmentDiedError("the environment's process died") from None
        if failure:
            raise EnvironmentDiedError(failure)
        self.measures, self.outcome = measures, outcome
        return answer


class _Worker:
    """A process and the line to it."""

    _idle: list[_Worker] = []
    _lock = threading.Lock()

    def __init__(self) -> None:
        context: Any = multiprocessing.get_context(_START)
        context.set_forkserver_preload(["payoff.tasks.turns.processes"])
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.started = False

    @classmethod
    def free(cls) -> _Worker:
        """One that nobody uses, or a new one."""
        with cls._lock:
            while cls._idle:
                worker = cls._idle.pop()
                if worker.process.is_alive():
                    return worker
            return cls()

    def give_back(self) -> None:
        """It may be used for another episode."""
        with self._lock:
            self._idle.append(self)

    def ask(self, what: str, content: Any, deadline: float) -> tuple[Any, str, dict[str, float], float | None]:
        """The answer; DeadlineError, with the process killed, where there is none in time."""
        self.line.send((what, content))
        if not self.line.poll(deadline):
            self.process.kill()
            self.process.join()
            self.line.close()
            raise DeadlineError
        self.started = True
        return self.line.recv()


def _serve(line: Connection) -> None:
    """The other side: one episode after another, until the line is cut."""
    episode: Any = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            what, content = line.recv()
            answer, failure = None, ""
            try:
                if what == "begin":
                    episode = content()
                else:
                    answer = episode.respond(content)
            except Exception as error:  # told to the other side, which ends the rollout with it
                failure = f"{type(error).__name__}: {error}"[:500]
            measures, outcome = dict(getattr(episode, "measures", {})), getattr(episode, "outcome", None)
            line.send((answer, failure, measures, outcome))
