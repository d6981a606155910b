"""What a run may use, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final

LEVELS: Final = ("strict", "process")


class SandboxError(RuntimeError):
    """This machine cannot give what was asked for, or a language's tools are missing; nothing was run."""


class Ended(enum.StrEnum):
    """Why a run was over.

    finished: by itself, with exit code 0; error: by itself otherwise, or by a signal of its own doing; time: of the clock; cpu;
    memory; output: it filled an output up to its limit; lost: the machinery died under it, which says nothing about the program.
    """

    FINISHED = "finished"
    ERROR = "error"
    TIME = "time"
    CPU = "cpu"
    MEMORY = "memory"
    OUTPUT = "output"
    LOST = "lost"


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    cpu, wall: seconds of processor (all its processes) and of the clock; memory: bytes of addresses for each process;
    scratch: bytes in its folder; output: bytes of stdout, of stderr and of returned values, each; processes: processes and threads
    together; files: open at once.

    >>> Limits(wall=2.0).output
    1048576
    """

    cpu: float | int = 10.0
    wall: float | int = 10.0
    memory: int = 512 << 20
    scratch: int = 16 << 20
    output: int = 1 << 20
    processes: int = 32
    files: int = 64

    def __post_init__(self) -> None:
        for name in ("cpu", "wall"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ValueError(f"Limits: {name} must be seconds > 0 and at most a day, got {getattr(self, name)}")
        for name, least in (("memory", 32 << 20), ("scratch", 4096), ("output", 1), ("processes", 1), ("files", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"Limits: {name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Result:
    """One run: why it was over, what it wrote, what it used, and the isolation that it really had.

    exit_code: of the program, minus the number of the signal that ended it, None where it was stopped from outside or lost
    reason:    one line that says more than `ended`, "" where there is no more to say
    seconds of cpu and wall; peak_memory in bytes, of its largest process
    truncated: an output reached its limit
    level, isolation: the level by name, and every guarantee that held
    value: what the run returned, for the functions that return something
    """

    ended: Ended
    exit_code: int | None
    stdout: str
    stderr: str
    cpu: float
    wall: float
    peak_memory: int
    truncated: bool
    level: str
    isolation: tuple[str, ...]
    reason: str = ""
    value: Any = None

    @property
    def lost(self) -> bool:
        """Whether this run says nothing about the program."""
        return self.ended is Ended.LOST


@dataclass(frozen=True)
class CaseResult:
    """One call of a candidate function.

    returned: it came back with plain data, which is `value`; else `reason` says what happened instead; and the run it was part of
    """

    returned: bool
    value: Any
    reason: str
    run: Result
