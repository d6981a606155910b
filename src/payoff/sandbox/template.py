"""The template: a copy of the server, kept as it was made, that is forked for every run; and a run's steps up to its program.

After a fork, whoever forked pays for every page it writes, and the server writes many between two runs. So it has this process
fork for it, ahead of need, which walks along a table (`steps`) and so writes one page for each. Its children are the server's none
the less, which it alone waits for and kills. Each closes itself off as far as can be while it is not known what its program may
use, waits for its order, closes itself off for good, and only then goes on in Python.
"""

from __future__ import annotations

import _socket
import ctypes
import marshal
import os
import signal
import struct
import sys

from payoff.sandbox import kernel, memory, program, steps
from payoff.sandbox.isolation import JOB, LANDLOCK, LINE, SCRATCH, TROUBLE, Ground

ASK = struct.Struct("<Q")  # the first step of a slot's fork: what the server asks for
BORN = struct.Struct("<Ii")  # slot, and process or what failed, below 0: what it is told
_REHEARSED: tuple = (
    ("calls", "def f(x):\n    return [x, 'a', 0.5]\n", "f", [((1,), {}), (("a",), {})]),
    ("program", "print(6 * 7)\n"),
)
_TIMES = 24
_NOT_CONFINED = 125  # an exit code, which counts only together with a message


class Slot:
    """The way to one child at a time: the near end is the server's, the far one that child's. `fork` asks for a child there."""

    __slots__ = ("far", "fork", "near")

    def __init__(self) -> None:
        self.near, self.far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.fork = b""


class Template:
    """The process: its number, `asks`, a pipe for what is asked of it, and `births`, one for what comes of that."""

    def __init__(self, ground: Ground, layout: memory.Layout, slots: list[Slot], others: list[int], troubled: int) -> None:
        """Fork it; it keeps none of `others` open."""
        asked, self.asks = os.pipe()
        self.births, told = os.pipe()
        if ground.landlock is not None:
            os.dup2(ground.landlock.file, LANDLOCK)
        os.dup2(troubled, TROUBLE)
        walk = _Walk(ground, layout, slots, asked, told)
        self.pid = kernel.clone(0)
        if self.pid == 0:
            try:
                for file in [*others, self.asks, self.births, *(slot.near.fileno() for slot in slots)]:
                    os.close(file)
                walk.go()
            finally:
                os._exit(0)
        os.close(asked)
        os.close(told)
        os.set_blocking(self.births, False)


class _Walk:
    """Along the table, and in each child on from its end."""

    def __init__(self, ground: Ground, layout: memory.Layout, slots: list[Slot], asked: int, told: int) -> None:
        table = self.table = ground.table
        self.walk = table.walk
        first, self.ready, self.failed = ground.steps_of_a_child()
        gone = table.end()
        ask = table.room(steps.SIZE)
        self.start = ask
        for one in layout.again():  # which need not succeed
            self.start = table.lay([one], self.start, self.start)
        self.start = table.lay(ground.inherited, self.start, gone)
        flags = ground.flags | kernel.OF_MY_PARENT
        self.born = table.room(BORN.size * len(slots))
        self.slots = len(slots)
        for number, slot in enumerate(slots):
            born = self.born + BORN.size * number
            ctypes.memmove(born, BORN.pack(number, -1), BORN.size)
            tell = table.lay([steps.call("write", told, born, BORN.size)], ask, gone)
            child = table.lay([steps.call("dup3", slot.far.fileno(), LINE, 0)], first, self.failed)
            fork = steps.call("clone", flags | signal.SIGCHLD, into=born + 4)
            if ground.groups:
                wanted = table.room(kernel.GROUPED)
                ctypes.memmove(wanted, kernel.into_group(flags, ground.groups[number].folder), kernel.GROUPED)
                fork = steps.call("clone3", wanted, kernel.GROUPED, into=born + 4)
            slot.fork = ASK.pack(table.lay([fork], tell, tell, zero=child))
        table.lay([steps.call("read", asked, table.follower(ask), ASK.size)], gone, gone, zero=gone, at=ask)
        self.job = ground.job
        self.scratch = SCRATCH if ground.level == "strict" else None

    def go(self) -> None:
        """Fork whenever that is asked for, until the server is gone; and in each child, which never returns, go on."""
        walk, start, ready, failed, job, scratch = self.walk, self.start, self.ready, self.failed, self.job, self.scratch
        code = _NOT_CONFINED
        end = walk(start)
        try:
            if end == ready:
                code = act(job, scratch)
            elif end == failed:
                self._tell()
            else:
                code = 0
        finally:
            os._exit(code)

    def _tell(self) -> None:
        """Why this child could not be confined."""
        error = self.table.trouble(self.failed)
        born = ctypes.string_at(self.born, BORN.size * self.slots)
        slot = next(slot for slot, pid in BORN.iter_unpack(born) if pid == 0)  # which only a child itself finds there
        os.write(TROUBLE, f"{slot} {type(error).__name__}: {error}"[:300].encode() + b"\0")


def act(job: memoryview, scratch: str | None) -> int:
    """Do what the process was told to; its exit code."""
    return program.run(marshal.loads(job if job[0] else _long()), scratch)


def _long() -> bytes:
    """A job that came as a file."""
    text = os.pread(JOB, os.fstat(JOB).st_size, 0)
    os.close(JOB)
    return text


def rehearse(job: memoryview) -> None:
    """Do what children do until the interpreter has learned it.

    It notes in its own memory where it found what it looked up, and what kinds of things it met; a child whose notes are made
    already writes to half as many pages, each of which would have to be copied for it.
    """
    main = sys.modules["__main__"]
    for one in _REHEARSED:
        text = marshal.dumps(one)
        job[: len(text)] = text
        for _ in range(_TIMES):
            program.prepare()
            act(job, None)
    sys.modules["__main__"] = main
    del sys.modules["candidate"]
    job[:] = bytes(len(job))
    program.prepare()
    kernel.tidy()
