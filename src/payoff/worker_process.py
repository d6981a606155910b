"""What runs inside a worker process: graders called, their answers read, and the starter that forks workers and buries them.

This file is a script as well as a module. It imports the standard library alone, so that a worker holds torch only where its
grader brings it. The same functions grade in process, so an answer means the same wherever it was given.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import marshal
import mmap
import numbers
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

LARGEST = sys.float_info.max
CHUNK = 2048  # units given to a worker at a time, at most
BOARD = 8 * (2 + CHUNK)  # bytes a worker shares with the pool: its progress, the size of its odd answers, a number per unit
WAITING, READING = -2, -1  # progress before the worker has taken a chunk, and before it began the first unit
ORDER = struct.Struct("<cii")  # to the starter: s(pawn) or k(ill) or p(reload), which worker; from it: e(nded), which, how
TASK = struct.Struct("<qq")  # to a worker: bytes of arguments, number of units
GRACE = 0.5  # seconds that workers get to leave by themselves when the pool closes
LOADING = "PAYOFF_LOADING_GRADER"


class GraderError(Exception):
    """A grader that cannot be found, lifted, filled from the rows at hand or run in a worker: the user's to mend."""


# --- what an answer means: a finite number; a reason why there is none; a list of these per step; a dict of the three by channel


def reading(answer: Any, depth: int = 0) -> float | str | list | dict:
    """A grader's answer as a number, a list of numbers, a dict of channels, or the reason why it is none of them."""
    if answer is None:
        return "no verdict"
    if isinstance(answer, tuple) and getattr(answer, "_fields", None) == ("value", "valid", "reason"):
        value, valid, reason = answer
        if valid:
            return reading(value, depth)
        why = visible(str(reason), 1000) or "no verdict"
        return dict.fromkeys(map(str, value), why) if isinstance(value, Mapping) and value and not depth else why
    if isinstance(answer, numbers.Real):
        try:
            number = float(answer)
        except OverflowError:
            return "gave a number too large for a float"
        return number if -LARGEST <= number <= LARGEST else f"gave {number}"
    if hasattr(answer, "tolist") and hasattr(answer, "ndim"):  # arrays, tensors, numpy's bool
        return reading(answer.tolist(), depth)
    if isinstance(answer, Mapping) and depth == 0:
        if not all(isinstance(name, str) for name in answer):
            return "gave a mapping whose keys are not channel names"
        return {str(name): reading(value, 1) for name, value in answer.items()} or "gave a mapping without channels"
    if _listed(answer) and depth < 2:
        return [e if type(e) is float and -LARGEST <= e <= LARGEST else reading(e, 2) for e in answer]
    shown = f" ({visible(repr(answer[:40]), 60)})" if isinstance(answer, str) else ""
    return f"gave a {type(answer).__name__}{shown}, not a number"


def readings(answer: Any, members: int) -> list | str:
    """The answer of a grader that saw `members` trajectories: one reading for each, or why none of them has one."""
    if isinstance(answer, tuple) and getattr(answer, "_fields", None) == ("value", "valid", "reason"):
        if not answer[1]:
            return visible(str(answer[2]), 1000) or "no verdict"
        answer = answer[0]
    if hasattr(answer, "tolist") and bool(getattr(answer, "ndim", False)):
        answer = answer.tolist()
    if answer is None:
        return "no verdict"
    if not _listed(answer):
        return f"gave a {type(answer).__name__}, not one answer for each of {members} members"
    if len(answer) != members:
        return f"gave {len(answer)} answers for {members} members"
    return [reading(one) for one in answer]


def _listed(answer: Any) -> bool:
    return isinstance(answer, Sequence) and not isinstance(answer, str | bytes | bytearray | memoryview)


def explain(error: BaseException) -> str:
    """An exception as a reason of one line."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    return visible(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def visible(text: str, limit: int = 200) -> str:
    """Text of at most `limit` characters, with control and other unprintable characters as escapes."""
    text = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


# --- grading


class Work(NamedTuple):
    """Units to grade. columns: one list per argument, or a single list of keyword dicts; members: how many each unit holds."""

    columns: list[list]
    by_keyword: bool
    members: list[int] | None = None

    def part(self, a: int, b: int) -> Work:
        """Units a to b."""
        return Work([column[a:b] for column in self.columns], self.by_keyword, self.members and self.members[a:b])


def grade(
    grader: Callable[..., Any],
    work: Work,
    values: Any,
    odd: Callable[[int, Any, bool], None],
    progress: Any,
    fatal: tuple[type[BaseException], ...] = (),
) -> None:
    """Grade every unit: a number goes into `values`, anything else to `odd(unit, reading, answered)`; an exception is a reason."""
    columns, by_keyword, members = work
    call = (lambda arguments: grader(**arguments)) if by_keyword else grader
    for i, arguments in enumerate(zip(*columns)):
        progress[0] = i
        answered = True
        try:
            answer = call(*arguments)
            kind = type(answer)
            if members is None and (kind is float or kind is bool or kind is int) and -LARGEST <= answer <= LARGEST:
                values[i] = answer
                continue
            form = reading(answer) if members is None else readings(answer, members[i])
        except fatal:
            raise
        except BaseException as error:
            form, answered = explain(error), False
        if isinstance(form, float):
            values[i] = form
        else:
            odd(i, form, answered)


# --- graders as bytes


class Packed(NamedTuple):
    """A pickled grader, and the files of the modules it refers to: enough to load it where they cannot be imported by name."""

    data: bytes
    files: dict[str, str]
    main: str | None  # the module or file of the main script, for what is defined there


def unpack(packed: Packed, data: bytes | None = None) -> Any:
    """The inverse of `workers.pack`, in any process; or what `data` holds, which may refer to the same modules."""
    return _Unpacker(packed.data if data is None else data, packed).load()


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, packed: Packed) -> None:
        super().__init__(io.BytesIO(data))
        self.packed = packed

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__" and self.packed.main and not hasattr(sys.modules["__main__"], name.split(".")[0]):
            _load_main(self.packed.main)
        elif module not in sys.modules and module in self.packed.files:
            _load_module(module, self.packed.files[module])
        return super().find_class(module, name)


def _load_module(name: str, path: str) -> None:
    """Import by name where that leads to this very file, else from the file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or os.path.abspath(spec.origin) != path:
        load_file(name, path)
    else:
        importlib.import_module(name)


def _load_main(main: str) -> None:
    """The user's main script as a module; what stands under `if __name__ == "__main__"` does not run."""
    module = load_file("__payoff_main__", main) if os.path.isfile(main) else importlib.import_module(main)
    sys.modules["__main__"] = module


def load_file(name: str, path: str) -> types.ModuleType:
    """Run a source file as the module `name`, which stays imported unless it raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python source file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# --- shared memory files


def write_at(file: int, data: bytes, at: int) -> None:
    """All of `data`, however large, at an offset of a file."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, at)
        rest, at = rest[written:], at + written


def read_at(file: int, size: int, at: int) -> bytes:
    """`size` bytes from an offset of a file."""
    parts = []
    while size > 0 and (part := os.pread(file, size, at)):
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


# --- the starter and its workers


def main(control: int, board: int, *files: int) -> None:
    """Fork workers when told to, tell how they ended, and leave no process behind when the pool's owner closes the line or dies."""
    line = socket.socket(fileno=control)
    size = int.from_bytes(line.recv(8, socket.MSG_WAITALL), "little")
    path, *packed = pickle.loads(line.recv(size, socket.MSG_WAITALL))
    sys.path[:] = path
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what a killed worker has printed is not lost
    sys.modules["__main__"] = types.ModuleType("__main__")  # a pickled `__main__.x` is the user's, never this script's
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    workers: dict[int, int] = {}
    source = _Source(Packed(*packed))
    while True:
        heard = select.select([line.fileno(), woken], [], [])[0]
        if woken in heard:
            os.read(woken, 4096)
            for number, status in _bury(workers):
                with contextlib.suppress(OSError):
                    line.sendall(ORDER.pack(b"e", number, status))
        if line.fileno() not in heard:
            continue
        order, given, _, _ = socket.recv_fds(line, ORDER.size, 1)
        if len(order) < ORDER.size:
            break
        what, number, _ = ORDER.unpack(order)
        if what == b"p":
            source.preload()
        elif what == b"k":
            _kill([pid for pid, k in workers.items() if k == number])
        else:
            starter = os.getpid()
            if pid := os.fork():
                os.close(given[0])
                workers[pid] = number
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            line.close()
            os.close(woken)
            os.close(waker)
            os.setsid()  # a group of its own, so that what a grader started dies with it
            _die_with(starter)
            return work(socket.socket(fileno=given[0]), mmap.mmap(board, 0), number, files[number], source)
    end = time.monotonic() + GRACE
    while workers:
        if time.monotonic() > end:
            _kill(list(workers))
        _bury(workers)
        time.sleep(0.002)
    return None


class _Source:
    """The grader, once for each worker; or loaded before they are forked, so that the next ones start in milliseconds."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self.loaded: list[Any] = []

    def get(self) -> tuple[Any, bool]:
        """(the grader, whether it could as well be loaded before a fork: it brought no thread, open file or CUDA context)."""
        if self.loaded:
            return self.loaded[0], True
        before = set(os.listdir("/dev/fd"))
        os.environ[LOADING] = "1"
        try:
            grader = unpack(self.packed)
        finally:
            del os.environ[LOADING]
        torch = sys.modules.get("torch")
        alone = threading.active_count() == 1 and set(os.listdir("/dev/fd")) == before
        return grader, alone and not (torch is not None and torch.cuda.is_initialized())

    def preload(self) -> None:
        with contextlib.suppress(BaseException):  # the workers then load it themselves and say what is wrong
            self.loaded[:] = [self.get()[0]]


def work(line: socket.socket, boards: mmap.mmap, number: int, file: int, source: _Source) -> None:
    """A worker's life: load the grader, then grade chunk after chunk until the line closes."""
    board = memoryview(boards)[number * BOARD : (number + 1) * BOARD]
    progress, values = board[:16].cast("q"), board[16:].cast("d")
    with contextlib.suppress(OSError):
        try:
            grader, shareable = source.get()
        except BaseException as error:
            write_at(file, explain(error).encode(), 0)
            line.sendall(b"f")
            return
        line.sendall(b"s" if shareable else b"r")
        while len(task := line.recv(TASK.size, socket.MSG_WAITALL)) == TASK.size:
            progress[0] = READING
            size, units = TASK.unpack(task)

            def odd(unit: int, form: Any, answered: bool, size: int = size) -> None:
                record = marshal.dumps((unit, form, answered))
                write_at(file, len(record).to_bytes(8, "little") + record, size + progress[1])
                progress[1] += 8 + len(record)

            try:
                given = Work(*_arguments(read_at(file, size, 0), source.packed))
            except BaseException as error:
                for unit in range(units):
                    odd(unit, visible(f"the worker cannot read the arguments: {explain(error)}"), False)
            else:
                grade(grader, given, values, odd, progress)
            progress[0] = units
            line.sendall(b".")


def _arguments(data: bytes, packed: Packed) -> Any:
    try:
        return pickle.loads(data)
    except (AttributeError, ImportError):
        return unpack(packed, data)


def _die_with(starter: int) -> None:
    """Let the kernel end this process when the starter goes, whatever a grader is doing then."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != starter:
        os._exit(1)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)  # a child of ours, so its number is nobody else's until `_bury`


def _bury(workers: dict[int, int]) -> list[tuple[int, int]]:
    """(worker, exit status) of those that ended; what they had started ends with them."""
    ended = []
    for pid in list(workers):
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            ended.append((workers.pop(pid), os.waitstatus_to_exitcode(status)))
    return ended


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
