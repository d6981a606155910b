"""The template: a copy of the server, kept as it was made, that is forked for every run; and a run's steps up to its program.

After a fork, whoever forked pays for every page it writes, and the server writes many between two runs. So it has this process
fork for it, several children at a time and ahead of need. They are the server's children none the less, which it alone waits for
and kills. Each closes itself off as far as can be while it is not known what its program may use, and waits for its order.
"""

from __future__ import annotations

import _socket
import marshal
import os
import struct
import sys

from payoff.sandbox import kernel, program
from payoff.sandbox.isolation import JOB, JOB_AT, LANDLOCK, LONGEST, SCRATCH, SIZE_AT, TROUBLE, Ground

NUMBER = struct.Struct("<H")  # of a slot, in what the server asks for
BORN = struct.Struct("<Hi")  # slot, and process or -1, in what it is told
MOST_AT_ONCE = 1 << 10
_SIZE = struct.Struct("<Q")
_REHEARSED: tuple = (
    ("calls", "def f(x):\n    return [x, 'a', 0.5]\n", "f", [((1,), {}), (("a",), {})]),
    ("program", "print(6 * 7)\n"),
)
_TIMES = 24
_NOT_CONFINED = 125  # an exit code, which counts only together with a message


class Slot:
    """The way to one child at a time: the near end is the server's, the far one that child's."""

    __slots__ = ("far", "near")

    def __init__(self) -> None:
        self.near, self.far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def start(ground: Ground, slots: list[Slot], others: list[int], troubled: int) -> tuple[int, _socket.socket]:
    """Fork the template, which keeps none of `others` open: its process, and where to ask it for children."""
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    if ground.landlock is not None:
        os.dup2(ground.landlock.file, LANDLOCK)
    os.dup2(troubled, TROUBLE)
    pid = kernel.clone(0)
    if pid == 0:
        try:
            kernel.take(ground.inherited.calls)
            for file in [*others, near.fileno(), *(slot.near.fileno() for slot in slots)]:
                os.close(file)
            _serve(far, ground, [slot.far.fileno() for slot in slots])
        finally:
            os._exit(0)
    far.close()
    return pid, near


def _serve(line: _socket.socket, ground: Ground, ways: list[int]) -> None:
    """Fork a child for every slot that is named, until the server is gone."""
    flags = ground.flags | kernel.OF_MY_PARENT
    before = [ground.before_from(way) for way in ways]
    folders = [group.folder for group in ground.groups]
    while asked := line.recv(NUMBER.size * MOST_AT_ONCE):
        slots = [slot for (slot,) in NUMBER.iter_unpack(asked)]
        born = _in_groups(flags, [folders[slot] for slot in slots]) if folders else kernel.clones(flags, len(slots))
        if len(born) < len(slots):
            slot = slots[len(born)]
            _child(ground, before[slot], slot)
        line.send(b"".join(map(BORN.pack, slots, born)))


def _in_groups(flags: int, folders: list[int]) -> list[int]:
    """As `kernel.clones`, each into a control group."""
    born: list[int] = []
    for folder in folders:
        try:
            pid = kernel.clone(flags, folder)
        except OSError:
            pid = -1
        if pid == 0:
            break
        born.append(pid)
    return born


def _child(ground: Ground, before: kernel.Calls, slot: int) -> None:
    """The confined process: closed off, then what it is to do, then limits and everything else for good. Never returns."""
    code = _NOT_CONFINED
    try:
        try:
            if ground.level == "process":
                ground.filter.set_own(os.getpid())
            job = _job(before, ground.order, ground.after.calls)
        except BaseException as error:
            os.write(TROUBLE, f"{slot} {type(error).__name__}: {error}"[:300].encode() + b"\0")
            os._exit(code)
        code = program.run(job, SCRATCH if ground.level == "strict" else None)
    finally:
        os._exit(code)


def _job(before: kernel.Calls, order: kernel.Inbox, after: kernel.Calls) -> tuple:
    if not kernel.take(before):
        os._exit(0)  # the server is gone
    (size,) = _SIZE.unpack_from(order.text, SIZE_AT)
    text = order.view[JOB_AT : JOB_AT + size] if size <= LONGEST else os.pread(JOB, size, 0)
    kernel.take(after)
    return marshal.loads(text)


def rehearse(order: kernel.Inbox) -> None:
    """Do what children do until the interpreter has learned it.

    It notes in its own memory where it found what it looked up, and what kinds of things it met; a child whose notes are made
    already writes to half as many pages, each of which would have to be copied for it.
    """
    main = sys.modules["__main__"]
    step = [kernel.call("getpid")] * 4
    for job in _REHEARSED:
        text = marshal.dumps(job)
        _SIZE.pack_into(order.text, SIZE_AT, len(text))
        order.view[JOB_AT : JOB_AT + len(text)] = text
        for _ in range(_TIMES):
            program.prepare()
            program.run(_job(step, order, step), None)
    sys.modules["__main__"] = main
    del sys.modules["candidate"]
    order.view[:] = bytes(len(order.view))
    program.prepare()
    kernel.tidy()
