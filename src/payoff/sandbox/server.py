"""The server: a small process that has imported nothing but the standard library, and has a confined child for every run.

It talks to its owner alone, over a socket that has no name. A request carries numbers and descriptors, which the server passes on
without looking at what is in them. Every connection has one run at a time; closing it ends the run. Children are forked by the
template (`template`), ahead of need while there is much to do, and wait for their order; after a pause none is left waiting.
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

from payoff.sandbox import isolation, kernel, memory, program, template
from payoff.sandbox.isolation import GIVEN, LIMITS, LONGEST, Ground
from payoff.sandbox.processes import Processes

REPLY = struct.Struct("<iddQdB")  # status, seconds as user and in the system, peak memory, seconds of the clock, what ended it
BY_ITSELF, BY_CLOCK, NOT_CONFINED, BY_MEMORY = 0, 1, 2, 3
GLANCE = 0.05  # seconds between looks at what a run's processes hold together
STDIN = 3  # which of the descriptors given
AHEAD = 8  # children that wait for an order at most
PAUSE = 0.5  # seconds without a run after which none of them is kept

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


class Request:
    """A run that is asked for: by which connection, with which limits, what is said to its child and given to it."""

    __slots__ = ("files", "limits", "line", "said")

    def __init__(self, line: _socket.socket, limits: tuple, said: bytes, files: list[int]) -> None:
        self.line, self.limits, self.said, self.files = line, limits, said, files

    def drop(self) -> None:
        """Let go of what is to be given."""
        for file in self.files:
            if file:
                os.close(file)
        self.files = []


class Child:
    """A process that waits for its order or has it, as `request`."""

    __slots__ = ("began", "looked", "memory", "pid", "request", "slot", "until", "watch", "why")

    def __init__(self, pid: int, slot: int) -> None:
        self.pid, self.slot, self.watch = pid, slot, os.pidfd_open(pid)
        self.request: Request | None = None
        self.began = self.looked = self.memory = 0.0
        self.until, self.why = float("inf"), BY_ITSELF

    def begin(self, request: Request) -> None:
        self.request = request
        self.began = self.looked = time.monotonic()
        self.until, self.memory = self.began + request.limits[1], request.limits[2]

    def stop(self, why: int) -> None:
        self.why, self.until = why, float("inf")
        os.kill(self.pid, signal.SIGKILL)


class Server:
    """Requests in, orders to children out, replies back, until the owner is gone."""

    def __init__(self, control: _socket.socket, owner: int, ground: Ground, places: int, layout: memory.Layout) -> None:
        # Bytes in every process of a run that no program asked for, and in its first one alone: tools take nothing over.
        self.added, self.once = (layout.bytes, 0) if ground.view == "python" else (0, layout.bytes)
        self.control, self.owner, self.ground = control, owner, ground
        self.trouble, troubled = os.pipe()
        os.set_blocking(self.trouble, False)
        self.slots = [template.Slot() for _ in range(places)]
        others = [control.fileno(), owner, self.trouble]
        self.template = template.Template(ground, layout, self.slots, others, troubled)
        os.close(troubled)
        self.forked = os.pidfd_open(self.template.pid)
        self.free = list(range(places))
        self.poll = select.epoll()
        for file in (control.fileno(), owner, self.forked):
            self.poll.register(file, select.EPOLLIN)
        self.hears = False  # whether births are waited for; those ahead of need wake nobody
        self.lines: dict[int, _socket.socket] = {}
        self.queue: list[Request] = []
        self.coming = 0  # children asked for that are not born yet
        self.waiting: list[Child] = []
        self.running: dict[int, Child] = {}  # by the descriptor of its connection
        self.children: dict[int, Child] = {}  # all of them, by pidfd
        self.asked = 0  # runs since the last pause
        self.last = time.monotonic()  # when one was asked for or ended
        self.told: dict[int, bytes] = {}  # by slot, why its child could not be confined
        self.proc = Processes(ground.proc)
        self.watches = ground.level == "strict" and not ground.groups
        # Where a run has no namespaces of its own, those that wait would count against the number of its threads.
        self.ahead = AHEAD if ground.level == "strict" else 0

    def serve(self) -> None:
        while True:
            for number, _ in self.poll.poll(self._rest()):
                if number in self.children:
                    self._ended(self.children[number])
                elif number in self.lines:
                    self._requested(number)
                elif number == self.control.fileno():
                    if not self._connected():
                        return
                elif number in (self.owner, self.forked):  # it is gone
                    return
            while self.queue and (self.waiting or (self.coming and self._born())):
                self._order(self.queue.pop(0), self.waiting.pop(0))
            self._ask()
            self._hear()
            self._look()

    def end(self) -> None:
        """Nothing goes on without the server."""
        os.close(self.template.asks)
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self.children.values():
            os.waitpid(child.pid, 0)

    def _rest(self) -> float:
        """Seconds to wait for an event."""
        if self.running:
            next_look = GLANCE if self.watches else float("inf")
            soonest = min(min(run.until, run.looked + next_look) for run in self.running.values())
            return min(max(soonest - time.monotonic(), 0) + 0.001, 60.0)
        return PAUSE if self.waiting or self.coming else -1.0

    def _look(self) -> None:
        """Stop what has run for too long or holds too much, and after a pause those that wait for nothing."""
        now = time.monotonic()
        for run in self.running.values():
            if run.until <= now:
                run.stop(BY_CLOCK)
            elif self.watches and run.looked + GLANCE <= now:
                run.looked = now
                if self.proc.held_below(run.pid, self.added) - self.once > run.memory:
                    run.stop(BY_MEMORY)
        if not (self.running or self.queue) and self.last + PAUSE <= now:
            self.asked = 0
            if self.coming:
                self._born()
            while self.waiting:
                self.waiting.pop().stop(BY_ITSELF)

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
            said, files = received(line, LIMITS.size + LONGEST, GIVEN)
        except OSError:
            said, files = b"", []
        early = [request for request in self.queue if request.line is line]
        if early or number in self.running:  # a caller that does not wait for its answer is gone
            if number in self.running:
                self.running[number].stop(BY_ITSELF)
            for request in early:
                self.queue.remove(request)
                request.drop()
            said = b""
        if not said:
            self.poll.unregister(number)
            del self.lines[number]
            if number not in self.running:
                line.close()
            for file in files:
                os.close(file)
            return
        self.asked += 1
        self.last = time.monotonic()
        limits = LIMITS.unpack_from(said)
        if not limits[-1]:
            files.insert(STDIN, 0)  # the server's own, which is empty
        self.queue.append(Request(line, limits, self.ground.told(limits, said[LIMITS.size :]), files))

    def _order(self, request: Request, child: Child) -> None:
        """Have a child that waits do what is asked for."""
        child.begin(request)
        self.running[request.line.fileno()] = child
        try:
            if self.ground.groups:
                _, _, memory, scratch, output, processes, *_ = request.limits
                self.ground.groups[child.slot].limit(memory + scratch + 3 * output, processes)
            beside = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(request.files)}i", *request.files))]
            self.slots[child.slot].near.sendmsg([request.said], beside)
        except OSError as error:
            self.told[child.slot] = str(error).encode()
            child.stop(BY_ITSELF)
        request.drop()

    def _ask(self) -> None:
        """Have the template fork the children that are missing, and while one run follows the other some ahead, not one by one."""
        have = len(self.waiting) + self.coming - len(self.queue)
        ahead = max(min(self.ahead, self.asked - 1), 0)
        if self.free and (have < 0 or 2 * have < ahead):
            slots, self.free = self.free[: ahead - have], self.free[ahead - have :]
            self.coming += len(slots)
            os.write(self.template.asks, b"".join([self.slots[slot].fork for slot in slots]))

    def _hear(self) -> None:
        """Be woken by births while somebody waits for one."""
        if bool(self.queue) != self.hears:
            self.hears = not self.hears
            if self.hears:
                self.poll.register(self.template.births, select.EPOLLIN)
            else:
                self.poll.unregister(self.template.births)

    def _born(self) -> bool:
        """Take note of those that were, and say whether any waits now."""
        try:
            said = os.read(self.template.births, template.BORN.size * len(self.slots))
        except BlockingIOError:
            return False
        for slot, pid in template.BORN.iter_unpack(said):
            self.coming -= 1
            if pid < 0:
                self.free.append(slot)
                self.asked = 0  # none ahead, or it would be tried over and over
                self._not_confined(b"no process could be made for it")
                continue
            child = Child(pid, slot)
            self.children[child.watch] = child
            self.poll.register(child.watch, select.EPOLLIN)
            self.waiting.append(child)
        return bool(self.queue and self.waiting)

    def _ended(self, child: Child) -> None:
        status, user, system, peak = kernel.wait(child.pid)
        now = time.monotonic()
        del self.children[child.watch]
        os.close(child.watch)  # nobody has a copy, and so it is watched no longer
        trouble = self._trouble(child.slot) if status else b""
        for_memory = status == signal.SIGKILL and self.proc.killed_for_memory()
        if self.ground.groups:
            for_memory = self.ground.groups[child.slot].killed_for_memory()
        self.free.append(child.slot)
        run, self.last = child.request, now
        if run is None:
            self.asked = 0
            if child in self.waiting:
                self.waiting.remove(child)
            if trouble:
                self._not_confined(trouble)
            return
        number = run.line.fileno()
        del self.running[number]
        if status and self._unread(child.slot, run):  # it was killed before it had its order, and another is to have it
            if child.why == BY_ITSELF and number in self.lines and not trouble:
                self.queue.insert(0, run)
                return
            run.drop()
        why = NOT_CONFINED if trouble else child.why
        if for_memory and why == BY_ITSELF:
            why = BY_MEMORY
        self._reply(run.line, REPLY.pack(status, user, system, max(peak - self.added, 0), now - child.began, why) + trouble)

    def _unread(self, slot: int, request: Request) -> bool:
        """Whether what was sent to a child that is gone still lies there; it is taken back."""
        try:
            said, request.files = received(self.slots[slot].far, len(request.said), GIVEN, _socket.MSG_DONTWAIT)
        except OSError:
            return False
        return bool(said)

    def _not_confined(self, why: bytes) -> None:
        """Answer the request that waits for longest that no child can be had for it."""
        if self.queue:
            request = self.queue.pop(0)
            request.drop()
            self._reply(request.line, REPLY.pack(0, 0, 0, 0, 0, NOT_CONFINED) + why)

    def _reply(self, line: _socket.socket, answer: bytes) -> None:
        number = line.fileno()
        if number not in self.lines:
            line.close()
            return
        try:
            line.send(answer)
        except OSError:
            self.poll.unregister(number)
            self.lines.pop(number).close()

    def _trouble(self, slot: int) -> bytes:
        """Why the child could not be confined, if that is what it ended of."""
        try:
            said = os.read(self.trouble, 65536)
        except BlockingIOError:
            said = b""
        for text in said.split(b"\0")[:-1]:
            whose, _, why = text.partition(b" ")
            self.told[int(whose)] = why
        return self.told.pop(slot, b"")


def received(line: _socket.socket, size: int, files: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message and the descriptors that came with it."""
    said, beside, _, _ = line.recvmsg(size, _socket.CMSG_SPACE(4 * files), flags)
    return said, [number for _, _, data in beside for (number,) in struct.iter_unpack("i", data)]


def _moved(file: int) -> int:
    """A descriptor at a higher number, and what reads as empty in its place."""
    higher = os.dup(file)
    os.dup2(0, file)
    return higher


def main() -> None:
    while os.dup(0) < 15:  # so that nothing that is opened here stands where a child is to have something
        continue
    control = _socket.socket(fileno=_moved(int(sys.argv[1])))
    level, view, packages, owner, use_landlock, folder, count = marshal.loads(control.recv(1 << 16))
    owner = _moved(owner)
    for name in WARM.split():
        __import__(name)
    layout = memory.Layout()
    sys.path[:] = [path for path in sys.path if os.path.exists(path)]
    try:
        if level == "process" and not (use_landlock and kernel.landlock_version() and isolation.library_stays_open(packages)):
            for name in SEALED.split():
                try:
                    __import__(name)
                except ImportError:
                    continue
        ground = isolation.prepare(level, view, packages, use_landlock=use_landlock, folder=folder, count=count + AHEAD)
    except OSError as error:
        control.send(b"-" + (error.strerror or str(error)).encode())
        return
    sys.path += isolation.packages_inside(packages) if level == "strict" else packages
    os.environ.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name == "payoff" or name.startswith("payoff.")]:
        del sys.modules[name]  # which are none of a program's business
    program.warm()
    template.rehearse(ground.job)
    gc.collect()
    gc.freeze()
    layout.gather(ground.table)
    ground.addresses = layout.addresses if view == "python" else 0
    layout.close()
    try:
        ground.make_ready()
    except OSError as error:
        control.send(b"-" + (error.strerror or str(error)).encode())
        return
    server = Server(control, owner, ground, count + AHEAD, layout)
    gc.disable()  # here alone: what a run leaves behind holds no circles
    control.send(b"+" + marshal.dumps((ground.guarantees, ground.no_groups)))
    try:
        server.serve()
    finally:
        server.end()
