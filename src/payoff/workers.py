"""A pool of worker processes that grade, replaced when they die or overrun: time limits are kept by killing from outside.

The pool talks to one small starter process, which forks the workers (`worker_process`). Arguments and answers lie in shared
memory files, which a worker killed in the middle cannot leave half-written; the lines between processes carry single words.
"""

from __future__ import annotations

import contextlib
import io
import marshal
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import weakref
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from payoff import worker_process
from payoff.worker_process import (
    BOARD,
    CHUNK,
    LOADING,
    ORDER,
    TASK,
    WAITING,
    GraderError,
    Packed,
    Work,
    explain,
    read_at,
    visible,
    write_at,
)

_BLANK = memoryview(array("d", [float("nan")]) * CHUNK)


class WorkerError(GraderError, RuntimeError):
    """No worker process can be had: the grader does not load there, or they die before they grade."""


class PicklingError(GraderError, TypeError):
    """A grader that cannot be sent to another process."""


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.modules: set[str] = set()

    def reducer_override(self, part: Any) -> Any:
        if isinstance(part, type | types.FunctionType):
            self.modules.add(part.__module__)
        return NotImplemented


def pack(grader: Any, name: str) -> Packed:
    """The grader as bytes; PicklingError where it cannot be pickled, or was typed at a prompt that no other process can read."""
    packer = _Packer(file := io.BytesIO())
    try:
        packer.dump(grader)
    except Exception as error:
        raise PicklingError(f"{name}: the grader cannot be pickled, as another process needs it to be ({explain(error)})") from None
    script = sys.modules["__main__"]
    spec, path = getattr(script, "__spec__", None), getattr(script, "__file__", None)
    main = spec.name if spec is not None else os.path.abspath(path) if path else None
    if main is None and "__main__" in packer.modules:
        raise PicklingError(
            f"{name}: the grader was typed at a prompt or in a notebook, where no other process can read it: put it into a file"
        )
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in packer.modules if name != "__main__"}
    return Packed(file.getvalue(), {name: os.path.abspath(path) for name, path in files.items() if path}, main)


@dataclass
class _Slot:
    """One worker's place.

    chunk: the units in its hands; size: bytes of their arguments; seen: its progress, and since when;
    judged: the unit for which it is being killed
    """

    number: int
    file: int
    progress: Any
    values: Any
    line: socket.socket | None = None
    alive: bool = False
    ready: bool = False
    chunk: tuple[int, int] | None = None
    size: int = 0
    seen: tuple[int, float] = (WAITING, 0.0)
    judged: int | None = None

    def hang_up(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None


@dataclass
class _Running:
    """A started pool: its starter process, and all that must be given back."""

    process: subprocess.Popen
    control: socket.socket
    files: list[int]
    slots: list[_Slot] = field(default_factory=list)
    shareable: bool = False
    preloaded: bool = False

    def end(self) -> None:
        """Close every line, which ends the workers and then the starter, and wait for it."""
        self.release()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def release(self) -> None:
        for slot in self.slots:
            slot.hang_up()
        self.control.close()
        for file in self.files:
            os.close(file)
        self.files = []


class Workers:
    """`count` processes with one grader: started at the first `run`, kept until `close`, replaced when they die or overrun.

    deadline: seconds a unit may take, counted from when its worker began it. Nothing of a grader is trusted to end by itself.
    Raises PicklingError where the grader cannot be sent to another process.
    """

    def __init__(self, grader: Callable[..., Any], count: int, deadline: float | None, name: str) -> None:
        self.count, self.deadline, self.name = count, deadline, name
        if os.environ.get(LOADING):
            raise WorkerError(
                f"{self.name}: a worker, loading its grader, ran a script that starts workers itself; "
                'put what the script does under `if __name__ == "__main__":`'
            )
        self._packed = pack(grader, name)
        self._running: _Running | None = None
        self._lock = threading.RLock()
        self._barren, self._last_end = 0, ""
        _living.add(self)

    def run(self, work: Work) -> tuple[array, dict[int, tuple[Any, bool]]]:
        """A number for every unit, NaN where it has none; and for those the reading of the answer, and whether it was one."""
        with self._lock:
            units = len(work.columns[0])
            self._work, self._todo = work, deque([(0, units)] if units else [])
            self._numbers: array = array("d", [float("nan")]) * units
            self._odd: dict[int, tuple[Any, bool]] = {}
            try:
                while self._todo or (self._running and any(slot.chunk for slot in self._running.slots)):
                    running = self._running or self._launch()
                    self._assign(running)
                    if any(slot.alive and (slot.chunk or not slot.ready or slot.line is None) for slot in running.slots):
                        self._wait(running)
            except BaseException:
                self.close()
                raise
            finally:
                del self._work
            return self._numbers, self._odd

    def close(self) -> None:
        """End the processes; the next `run` starts new ones."""
        with self._lock:
            if self._running is not None:
                self._running = None
                self._finalizer()

    def forget(self) -> None:
        """In a forked copy of the owner: the processes are not ours."""
        self._lock = threading.RLock()
        if self._running is not None:
            self._finalizer.detach()
            self._running.release()
            self._running.process.returncode = 0
            self._running = None

    def _launch(self) -> _Running:
        """A starter: a fresh interpreter with nothing of this process but one line to it and the shared files."""
        files = [_shared_file() for _ in range(self.count + 1)]
        os.ftruncate(files[0], BOARD * self.count)
        near, far = socket.socketpair()
        fds = [far.fileno(), *files]
        command = [sys.executable, "-P", os.path.abspath(worker_process.__file__), *map(str, fds)]
        with far:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds, start_new_session=True)
        running = self._running = _Running(process, near, files)
        self._finalizer = weakref.finalize(self, running.end)
        board = memoryview(mmap.mmap(files[0], BOARD * self.count))
        for k in range(self.count):
            own = board[k * BOARD : (k + 1) * BOARD]
            running.slots.append(_Slot(k, files[k + 1], own[:16].cast("q"), own[16:].cast("d")))
        hello = pickle.dumps((sys.path, *self._packed))
        with contextlib.suppress(OSError):  # a starter that is already gone is noticed in `_wait`
            near.sendall(len(hello).to_bytes(8, "little") + hello)
        return running

    def _assign(self, running: _Running) -> None:
        """Give every idle worker a share of what is left, so that the last shares are small; start workers for the rest."""
        for slot in running.slots:
            while slot.alive and slot.ready and slot.line is not None and slot.chunk is None and self._todo:
                self._give(slot)
        wanted = sum(b - a for a, b in self._todo) - sum(slot.alive and not slot.ready for slot in running.slots)
        for slot in [slot for slot in running.slots if not slot.alive][: max(wanted, 0)]:
            self._spawn(running, slot)

    def _spawn(self, running: _Running, slot: _Slot) -> None:
        if self._barren >= 3 * self.count:
            raise WorkerError(f"{self.name}: worker processes keep dying before they grade anything ({self._last_end})")
        slot.line, far = socket.socketpair()
        slot.alive, slot.ready = True, False
        os.ftruncate(slot.file, 0)
        with far, contextlib.suppress(OSError):
            if self._last_end and running.shareable and not running.preloaded:
                running.preloaded = True
                running.control.sendall(ORDER.pack(b"p", 0, 0))
            socket.send_fds(running.control, [ORDER.pack(b"s", slot.number, 0)], [far.fileno()])

    def _give(self, slot: _Slot) -> None:
        a, end = self._todo.popleft()
        left = end - a + sum(y - x for x, y in self._todo)
        share = max(left // (4 * self.count), len(self._numbers) // 1024, 1)
        b = min(end, a + share, a + CHUNK)
        if b < end:
            self._todo.appendleft((b, end))
        try:
            data = pickle.dumps(tuple(self._work.part(a, b)), 5)
        except Exception as error:
            if b - a > 1:  # find the one that does not pickle
                middle = (a + b) // 2
                self._todo.extendleft([(middle, b), (a, middle)])
            else:
                self._odd[a] = (visible(f"the arguments cannot be sent to a worker: {explain(error)}"), False)
            return
        slot.chunk, slot.judged, slot.seen, slot.size = (a, b), None, (WAITING, time.monotonic()), len(data)
        slot.progress[0], slot.progress[1] = WAITING, 0
        slot.values[: b - a] = _BLANK[: b - a]
        os.ftruncate(slot.file, 0)
        write_at(slot.file, data, 0)
        with contextlib.suppress(OSError):  # of a worker that has just died, the starter will tell
            slot.line.sendall(TASK.pack(len(data), b - a))  # type: ignore[union-attr]

    def _wait(self, running: _Running) -> None:
        """Until something happens, or it is time to look at the clock; then act on it."""
        poll = select.poll()
        poll.register(running.control, select.POLLIN)
        lines = {slot.line.fileno(): slot for slot in running.slots if slot.line is not None}
        for line in lines:
            poll.register(line, select.POLLIN)
        pause = None if self.deadline is None else 1000 * min(max(self.deadline / 10, 0.002), 0.1)
        for number, _ in poll.poll(pause):
            if number in lines:
                self._hear(running, lines[number])
            else:
                self._ended(running)
        if self.deadline is not None:
            self._watch(running, self.deadline)

    def _hear(self, running: _Running, slot: _Slot) -> None:
        """What a worker says: r(eady), s: ready, and its grader may be loaded once for all; f: it cannot load; or done."""
        try:
            said = slot.line.recv(16, socket.MSG_DONTWAIT) if slot.line is not None else b""
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            slot.hang_up()
        for word in (said[i : i + 1] for i in range(len(said))):
            if word == b"f":
                why = read_at(slot.file, os.fstat(slot.file).st_size, 0).decode("utf-8", "replace")
                raise WorkerError(f"{self.name}: a worker process cannot load the grader: {why}")
            if word in (b"r", b"s"):
                slot.ready, running.shareable = True, word == b"s"
            elif slot.chunk is not None:
                self._collect(slot, *slot.chunk)
                slot.chunk, self._barren = None, 0

    def _ended(self, running: _Running) -> None:
        """A worker has ended, or the starter and all workers with it."""
        order = running.control.recv(ORDER.size, socket.MSG_WAITALL)
        if len(order) == ORDER.size:
            _, number, code = ORDER.unpack(order)
            how = f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
            self._lost(running, running.slots[number], how)
        else:
            for slot in (slot for slot in running.slots if slot.alive):
                self._lost(running, slot, "the process that starts workers was ended")
            self.close()

    def _lost(self, running: _Running, slot: _Slot, how: str) -> None:
        """What an ended worker had done counts, the unit in its hands is to blame, the rest goes on."""
        self._hear(running, slot)
        slot.hang_up()
        slot.alive, self._last_end = False, how
        if slot.chunk is None or slot.progress[0] == WAITING:
            self._barren += 1
            if slot.chunk is not None:
                self._todo.appendleft(slot.chunk)
            slot.chunk = None
            return
        (a, b), slot.chunk, self._barren = slot.chunk, None, 0
        self._collect(slot, a, b)
        at = a + max(slot.progress[0], 0)
        if at < b and self._numbers[at] != self._numbers[at] and at not in self._odd:
            if slot.judged is not None and a + slot.judged != at:
                at -= 1  # killed just after it had moved on: this unit begins anew
            elif slot.judged is not None:
                self._odd[at] = (f"deadline of {self.deadline} s exceeded", False)
            else:
                self._odd[at] = (f"worker died ({how})", False)
        if at + 1 < b:
            self._todo.appendleft((at + 1, b))

    def _collect(self, slot: _Slot, a: int, b: int) -> None:
        """What a worker has answered of units a to b."""
        memoryview(self._numbers)[a:b] = slot.values[: b - a]
        size, at = slot.progress[1], 0
        data = read_at(slot.file, size, slot.size)
        while at < size:
            end = at + 8 + int.from_bytes(data[at : at + 8], "little")
            unit, form, answered = marshal.loads(data[at + 8 : end])
            self._odd[a + unit], at = (form, answered), end

    def _watch(self, running: _Running, deadline: float) -> None:
        """Have a worker killed that has been at one unit for longer than the deadline."""
        now = time.monotonic()
        for slot in running.slots:
            if slot.chunk is None or slot.judged is not None:
                continue
            at = slot.progress[0]
            if at != slot.seen[0]:
                slot.seen = (at, now)
            elif 0 <= at < slot.chunk[1] - slot.chunk[0] and now - slot.seen[1] > deadline:
                slot.judged = at
                with contextlib.suppress(OSError):
                    running.control.sendall(ORDER.pack(b"k", slot.number, 0))


def _shared_file() -> int:
    """A file that lives in memory where the system has such, and has no name anywhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("payoff-grading")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _forget_in_child() -> None:
    for pool in list(_living):
        pool.forget()


_living: weakref.WeakSet[Workers] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
