"""The owner's side of a server: started on demand, one for each process and kind, replaced when it dies.

The server is told of its owner's end by the socket between them and by the owner's pidfd, so that neither copies of the socket in
forked children nor a SIGKILL keep it alive.
"""

from __future__ import annotations

import atexit
import marshal
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from payoff.sandbox import groups
from payoff.sandbox.results import SandboxError

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from payoff.sandbox.server import main; del sys.path[0]; main()"
_TIME = struct.Struct("@ll")
STARTUP = 60.0  # seconds that a server may take to start


class Kind(NamedTuple):
    """What tells one server from another."""

    level: str
    view: str
    packages: tuple[str, ...]
    concurrency: int
    use_landlock: bool


class ServerDiedError(Exception):
    """The server was gone before it had the request."""


@dataclass
class Started:
    """A running server and the connections to it, each of which carries one run at a time."""

    process: subprocess.Popen
    control: socket.socket
    guarantees: tuple[str, ...]
    idle: queue.SimpleQueue[socket.socket | None]  # one for each run at a time; None for one that is not made yet
    groups: str = ""  # the folder of its control groups, and why there are none
    no_groups: str = ""
    every: set[socket.socket] = field(default_factory=set)
    dead: bool = False

    def take(self) -> socket.socket:
        """A connection for one run, to be given back; waits while there are as many runs as there may be."""
        line = self.idle.get()
        try:
            if self.dead:
                raise ServerDiedError
            return line or self._connect()
        except BaseException:
            self.give(line, whole=False)
            raise

    def give(self, line: socket.socket | None, *, whole: bool) -> None:
        """Have it back after a run; where that did not come to its end, it is closed, which ends the run."""
        if line is not None and (self.dead or not whole):
            self.every.discard(line)
            line.close()
            line = None
        self.idle.put(line)

    def _connect(self) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            try:
                socket.send_fds(self.control, [b"+"], [far.fileno()])
            except OSError:
                near.close()
                self.dead = True
                raise ServerDiedError from None
        near.setblocking(True)  # whatever the program's default is
        self.every.add(near)
        return near

    def end(self, *, kill: bool = False) -> None:
        """End the server, and wait for it."""
        self.dead = True
        if kill:
            self.process.kill()
        self.release()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.groups:
            groups.remove(self.groups)

    def release(self) -> None:
        """Let go of the descriptors."""
        self.control.close()
        while self.every:
            self.every.pop().close()


def wait_at_most(line: socket.socket, seconds: float) -> None:
    """Have the kernel give up waiting for an answer in the end, by BlockingIOError; Python's own way takes three calls more."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(int(seconds), int(seconds % 1 * 999_999) + 1))


_running: dict[Kind, Started] = {}
_lock = threading.Lock()


def server(kind: Kind) -> Started:
    """The server of this process of that kind; SandboxError where this machine cannot give what it needs."""
    with _lock:
        found = _running.get(kind)
        if found is not None and found.dead:  # which is found out by talking to it
            found.end()
            found = None
        if found is None:
            found = _running[kind] = _start(kind)
        return found


def close() -> None:
    """End every server of this process; the next run starts new ones."""
    with _lock:
        for started in _running.values():
            started.end()
        _running.clear()


def why_no_groups() -> str:
    """Why servers of this process have no control groups; "" where they have them."""
    with _lock:
        reasons = [started.no_groups for started in _running.values()]
    return next((why for why in reasons if why), "" if reasons else groups.place()[1])


def _start(kind: Kind) -> Started:
    if not hasattr(os, "pidfd_open"):
        raise SandboxError(f"the sandbox needs Linux, and this is {sys.platform}")
    folder, why_none = groups.new_folder()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner = os.pidfd_open(os.getpid())
    log = os.memfd_create("payoff-sandbox")
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(far.fileno()), _ROOT]
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    environment["LD_BIND_NOW"] = "1"  # once here, instead of by every run for every function that it calls first
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[far.fileno(), owner],
            env=environment,
            start_new_session=True,
        )
        far.close()
        near.settimeout(STARTUP)
        try:
            places = folder, 2 * kind.concurrency  # twice, for runs that were given up and are not quite gone
            near.send(marshal.dumps((kind.level, kind.view, list(kind.packages), owner, kind.use_landlock, *places)))
            said = near.recv(1 << 16)
        except OSError:
            said = b""
        near.settimeout(None)
        if said[:1] != b"+":
            process.kill()
            process.wait()
            near.close()
            groups.remove(folder)
            why = said[1:].decode() or os.pread(log, 1 << 16, 0).decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise SandboxError(_refusal(kind, why or "its server ended at the start"))
    finally:
        far.close()
        os.close(owner)
        os.close(log)
    guarantees, failed = marshal.loads(said[1:])
    if failed:
        groups.remove(folder)
    idle: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
    for _ in range(kind.concurrency):
        idle.put(None)
    return Started(process, near, tuple(guarantees), idle, "" if failed else folder, why_none or failed)


def _refusal(kind: Kind, why: str) -> str:
    weaker = (
        '; where that cannot be had, Sandbox(level="process") is weaker and runs Python and SQL only'
        if kind.level == "strict"
        else ""
    )
    return f'this machine cannot give the level "{kind.level}": {why}{weaker}'


def _forget() -> None:
    """In a forked child: the servers are its parent's."""
    global _lock
    _lock = threading.Lock()
    for started in _running.values():
        started.release()
        started.process.returncode = 0
    _running.clear()


os.register_at_fork(after_in_child=_forget)
atexit.register(close)
