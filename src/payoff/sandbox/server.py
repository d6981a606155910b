"""The server: a small process that has imported nothing but the standard library, and forks a confined child for every run.

It talks to its owner alone, over a socket that has no name. A request carries numbers and descriptors, which the server passes on
without looking at what is in them, so that no run finds another's program in the memory it was forked with. Every connection has
one run at a time; closing it ends the run.
"""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import select
import signal
import struct
import sys
import time

from payoff.sandbox import isolation, kernel, program
from payoff.sandbox.groups import Group
from payoff.sandbox.isolation import LIMITS, SCRATCH, Ground

REPLY = struct.Struct("<iddQdB")  # status, seconds as user and in the system, peak memory, seconds of the clock, what ended it
BY_ITSELF, BY_CLOCK, NOT_CONFINED, BY_MEMORY = 0, 1, 2, 3
GLANCE = 0.05  # seconds between looks at what a run's processes hold together
PAGE = os.sysconf("SC_PAGE_SIZE")

# What programs import most, so that they find it loaded; a server at the level without files has nothing else.
WARM = """
abc bisect builtins collections collections.abc copy enum errno functools gc heapq io itertools json keyword linecache math
operator os random re string sys threading time traceback types typing warnings
"""
SEALED = """
array ast base64 binascii builtins calendar cmath contextlib csv ctypes dataclasses datetime decimal difflib fractions hashlib
inspect locale numbers pprint queue secrets select signal statistics struct tempfile textwrap unicodedata uuid weakref argparse
asyncio bz2 cProfile collections.abc colorsys concurrent.futures concurrent.futures.thread configparser contextvars dis doctest
email encodings.ascii encodings.idna encodings.latin_1 encodings.utf_16 encodings.utf_32 fileinput fnmatch getopt glob graphlib
gzip html html.parser http ipaddress logging lzma mmap multiprocessing opcode optparse pathlib pickle pkgutil platform posixpath
resource sched shelve shlex shutil socket sqlite3 stat subprocess symtable sysconfig test.support timeit token tokenize tracemalloc
unittest unittest.mock urllib.parse xml.dom.minidom xml.etree.ElementTree zipfile zoneinfo
"""


class Running:
    """A run on its way."""

    __slots__ = ("began", "group", "line", "looked", "memory", "pid", "until", "why")

    def __init__(self, pid: int, line: _socket.socket, began: float, limits: tuple, group: Group | None) -> None:
        self.pid, self.line, self.began, self.looked, self.group = pid, line, began, began, group
        self.until, self.memory, self.why = began + limits[1], limits[2], BY_ITSELF


class Server:
    """Requests in, children out, replies back, until the owner is gone."""

    def __init__(self, control: _socket.socket, owner: int, ground: Ground) -> None:
        self.control, self.ground = control, ground
        self.poll = select.epoll()
        self.poll.register(control, select.EPOLLIN)
        self.poll.register(owner, select.EPOLLIN)
        self.owner = owner
        self.lines: dict[int, _socket.socket] = {}
        self.running: dict[int, Running] = {}  # by pidfd
        self.of_line: dict[int, int] = {}  # descriptor of a connection -> pidfd
        self.trouble, self.troubled = os.pipe()
        os.set_blocking(self.trouble, False)
        self.told: dict[int, bytes] = {}  # by process, why it could not be confined
        self.kills = 0
        self.grouped = bool(ground.groups)
        self.watches = ground.level == "strict" and not self.grouped
        self._killed_for_memory()

    def serve(self) -> None:
        while True:
            wait = -1.0
            if self.running:
                next_look = GLANCE if self.watches else float("inf")
                soonest = min(min(run.until, run.looked + next_look) for run in self.running.values())
                wait = min(max(soonest - time.monotonic(), 0) + 0.001, 60.0)
            for number, _ in self.poll.poll(wait):
                if number in self.running:
                    self._ended(number)
                elif number in self.lines:
                    self._requested(number)
                elif number == self.control.fileno():
                    if not self._connected():
                        return
                elif number == self.owner:
                    return
            now = time.monotonic()
            for run in self.running.values():
                if run.until <= now:
                    run.why, run.until = BY_CLOCK, float("inf")
                    os.kill(run.pid, signal.SIGKILL)
                elif self.watches and run.looked + GLANCE <= now:
                    run.looked = now
                    self._watch_memory(run)

    def end(self) -> None:
        """Nothing goes on without the server."""
        for run in self.running.values():
            os.kill(run.pid, signal.SIGKILL)
        for run in self.running.values():
            os.waitpid(run.pid, 0)

    def _connected(self) -> bool:
        said, files = received(self.control, 1, 1)
        if not said:
            return False
        for file in files:
            self.lines[file] = _socket.socket(fileno=file)
            self.poll.register(file, select.EPOLLIN)
        return True

    def _requested(self, number: int) -> None:
        line = self.lines[number]
        try:
            said, files = received(line, LIMITS.size, 5)
        except OSError:
            said, files = b"", []
        if number in self.of_line:  # a caller that does not wait for its answer is gone
            run = self.running[self.of_line[number]]
            run.until = float("inf")
            os.kill(run.pid, signal.SIGKILL)
            said = b""
        if not said:
            self.poll.unregister(number)
            del self.lines[number]
            if number not in self.of_line:
                line.close()
            for file in files:
                os.close(file)
            return
        limits = LIMITS.unpack(said)
        began, group = time.monotonic(), None
        try:
            if self.grouped:
                group = self._group(limits)
            # Its outputs, what it returns and what it reads; nothing that is held here has a number below 16.
            calls = kernel.placed((1, 2, 3, 0), files[1:]) + self.ground.closing(limits)
            pid = kernel.clone(self.ground.flags, group.folder if group else 0)
        except OSError as error:
            if group:
                self.ground.groups.append(group)
            line.send(REPLY.pack(0, 0, 0, 0, 0, NOT_CONFINED) + str(error).encode())
        else:
            if pid == 0:
                child(self.ground, calls, files[0], limits[-1], self.troubled)
            watch = os.pidfd_open(pid)
            self.running[watch] = Running(pid, line, began, limits, group)
            self.of_line[number] = watch
            self.poll.register(watch, select.EPOLLIN)
        finally:
            for file in files:
                os.close(file)

    def _group(self, limits: tuple) -> Group:
        """A free control group with a run's limits."""
        if not self.ground.groups:
            raise OSError("no control group is free")
        _, _, memory, scratch, output, processes, *_ = limits
        group = self.ground.groups.pop()
        group.limit(memory + scratch + 3 * output, processes)
        return group

    def _ended(self, watch: int) -> None:
        run = self.running.pop(watch)
        status, user, system, peak = kernel.wait(run.pid)
        wall = time.monotonic() - run.began
        self.poll.unregister(watch)  # closing alone would not do: a child that is being confined has a copy for a moment
        os.close(watch)
        number = run.line.fileno()
        del self.of_line[number]
        trouble = self._trouble(run.pid) if status else b""
        why = NOT_CONFINED if trouble else run.why
        for_memory = run.group.killed_for_memory() if run.group else status == signal.SIGKILL and self._killed_for_memory()
        if run.group:
            self.ground.groups.append(run.group)
        if for_memory and why == BY_ITSELF:
            why = BY_MEMORY
        if number not in self.lines:
            run.line.close()
            return
        reply = REPLY.pack(status, user, system, peak, wall, why)
        try:
            run.line.send(reply + trouble)
        except OSError:
            self.poll.unregister(number)
            self.lines.pop(number).close()

    def _trouble(self, pid: int) -> bytes:
        """Why the child could not be confined, if that is what it ended of."""
        try:
            said = os.read(self.trouble, 65536)
        except BlockingIOError:
            said = b""
        for text in said.split(b"\0")[:-1]:
            whose, _, why = text.partition(b" ")
            self.told[int(whose)] = why
        return self.told.pop(pid, b"")

    def _watch_memory(self, run: Running) -> None:
        """Stop a run whose processes hold more than its limit together; each by itself is held by its own."""
        held, pids = 0, [run.pid]
        while pids:
            pid = pids.pop()
            held += self._pages(pid)
            for thread in self._list(f"{pid}/task"):
                pids += map(int, self._read(f"{pid}/task/{thread}/children").split())
        if held * PAGE > run.memory:
            run.why, run.until = BY_MEMORY, float("inf")
            os.kill(run.pid, signal.SIGKILL)

    def _pages(self, pid: int) -> int:
        fields = self._read(f"{pid}/statm").split()
        return int(fields[1]) - int(fields[2]) if fields else 0

    def _list(self, path: str) -> list[str]:
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.ground.proc)
        except OSError:
            return []
        try:
            return os.listdir(folder)
        except OSError:
            return []
        finally:
            os.close(folder)

    def _read(self, path: str) -> str:
        """A file under /proc; nothing where its process is gone."""
        try:
            file = os.open(path, os.O_RDONLY, dir_fd=self.ground.proc)
        except OSError:
            return ""
        try:
            return os.read(file, 65536).decode()
        except OSError:
            return ""
        finally:
            os.close(file)

    def _killed_for_memory(self) -> bool:
        """Whether the kernel has killed for want of memory since this was last asked."""
        count = sum(int(line.split()[1]) for line in self._read("vmstat").splitlines() if line.startswith("oom_kill "))
        grown, self.kills = count > self.kills, count
        return grown


def received(line: _socket.socket, size: int, files: int) -> tuple[bytes, list[int]]:
    """A message and the descriptors that came with it."""
    said, beside, _, _ = line.recvmsg(size, _socket.CMSG_SPACE(4 * files))
    return said, [number for _, _, data in beside for (number,) in struct.iter_unpack("i", data)]


def child(ground: Ground, calls: kernel.Calls, job: int, size: int, troubled: int) -> None:
    """The confined process: descriptors in place, everything closed around it, then the program. Never returns."""
    code = 125
    try:
        try:
            if ground.level == "process":
                ground.filter.set_own(os.getpid())
            kernel.take(calls)
            text = os.pread(job, size, 0)
        except BaseException as error:
            host = os.readlink("self", dir_fd=ground.proc)
            os.write(troubled, f"{host} {type(error).__name__}: {error}"[:300].encode() + b"\0")
            os._exit(code)
        kernel.close_from(4)
        code = program.run(marshal.loads(text), SCRATCH if ground.level == "strict" else None)
    finally:
        os._exit(code)


def main() -> None:
    while os.dup(0) < 15:  # so that what a child is given never stands where it is to be put
        continue
    control = _socket.socket(fileno=os.dup(int(sys.argv[1])))
    os.close(int(sys.argv[1]))
    level, view, packages, owner, use_landlock, folder, count = marshal.loads(control.recv(1 << 16))
    owner = os.dup(owner)
    for name in WARM.split():
        __import__(name)
    sys.path[:] = [path for path in sys.path if os.path.exists(path)]
    try:
        if level == "process" and not (use_landlock and kernel.landlock_version() and isolation.library_stays_open(packages)):
            for name in SEALED.split():
                try:
                    __import__(name)
                except ImportError:
                    continue
        ground = isolation.prepare(level, view, packages, use_landlock=use_landlock, folder=folder, count=count)
    except OSError as error:
        control.send(b"-" + (error.strerror or str(error)).encode())
        return
    sys.path += isolation.packages_inside(packages) if level == "strict" else packages
    os.environ.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name == "payoff" or name.startswith("payoff.")]:
        del sys.modules[name]  # which are none of a program's business
    program.warm()
    try:
        ground.make_ready()
    except OSError as error:
        control.send(b"-" + (error.strerror or str(error)).encode())
        return
    gc.collect()
    gc.freeze()
    server = Server(control, owner, ground)
    control.send(b"+" + marshal.dumps((ground.guarantees, ground.no_groups)))
    try:
        server.serve()
    finally:
        server.end()
