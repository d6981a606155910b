"""Control groups (version 2), where this process may make them: the memory of all processes of a run together, and their number.

A server makes one group for each run at a time, below a group that hands the controllers for memory and processes down, and every
run is born into one. Where any of that cannot be had, there are none, and it is said why: the other limits hold without.
"""

from __future__ import annotations

import os
import time

from payoff.sandbox import kernel

CONTROLLERS = ("memory", "pids")
_NAME = "payoff-sandbox-"
_MORE = 8 << 20  # bytes that the kernel itself needs for a run, beside its memory, scratch folder and outputs


class Group:
    """A group for one run at a time, whose files were opened when that was still allowed."""

    def __init__(self, folder: str) -> None:
        os.mkdir(folder)
        for name, text in (("memory.oom.group", b"1"), ("memory.swap.max", b"0")):
            if os.path.exists(f"{folder}/{name}"):
                _write(f"{folder}/{name}", text)
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._most = [os.open(f"{folder}/{name}", os.O_WRONLY) for name in ("memory.max", "pids.max")]
        self._events = os.open(f"{folder}/memory.events", os.O_RDONLY)
        self._set: tuple[int, int] = 0, 0
        self._kills = self._killed()

    def limit(self, memory: int, processes: int) -> None:
        """What the next run in it may use."""
        if (memory, processes) != self._set:
            for file, most in zip(self._most, (memory + _MORE, processes)):
                os.pwrite(file, b"%d" % most, 0)
            self._set = memory, processes

    def killed_for_memory(self) -> bool:
        """Whether that has happened in it since this was last asked."""
        now = self._killed()
        grown, self._kills = now > self._kills, now
        return grown

    def _killed(self) -> int:
        lines = os.pread(self._events, 4096, 0).decode().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def make(folder: str, count: int, user: int) -> list[Group]:
    """So many groups in a new folder, which this process enters too, so that later, as `user`, it can put children into them.

    Raises OSError; what was made by then is for `remove`.
    """
    os.mkdir(folder)
    own = f"{folder}/server"
    os.mkdir(own)
    _write(f"{folder}/cgroup.subtree_control", b" ".join(b"+" + name.encode() for name in CONTROLLERS))
    groups = [Group(f"{folder}/{number}") for number in range(count)]
    if os.geteuid() == 0:
        for inside in ("", "/server", *(f"/{number}" for number in range(count))):
            os.chown(f"{folder}{inside}/cgroup.procs", user, -1)
    _write(f"{own}/cgroup.procs", b"0")
    return groups


def works(group: Group) -> None:
    """Put a child into a group, as every run will be; OSError where that is refused."""
    pid = kernel.clone(0, group.folder)
    if pid == 0:
        os._exit(0)
    kernel.wait(pid)


def place() -> tuple[str, str]:
    """A folder that groups can be made in, "" where there is none; and why."""
    with open("/proc/self/cgroup") as file:
        own = next((line.strip().partition("::")[2] for line in file if line.startswith("0::")), None)
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    if own is None or not mounts:
        return "", "version 2 is not mounted"
    root, top = mounts[0][3].rstrip("/"), mounts[0][4]
    if not (own == root or own.startswith(root + "/")):
        return "", f"this process's own, {own}, is not mounted here"
    return above(top, top + own[len(root) :].rstrip("/"))


def above(top: str, own: str) -> tuple[str, str]:
    """The nearest group, from one's own up to the top, that hands the controllers down and can be written to; or "" and why."""
    folder, handed = own, False
    while True:
        if _handed_down(folder):
            handed = True
            if os.access(folder, os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK):
                return folder, ""
        if folder == top or not folder.startswith(top):
            break
        folder = os.path.dirname(folder)
    wanted = " and ".join(CONTROLLERS)
    if handed:
        return "", f"no group above this process's own, {own}, that hands down {wanted} may be written to"
    return "", f"no group above this process's own, {own}, hands down {wanted}"


def _handed_down(folder: str) -> bool:
    try:
        with open(f"{folder}/cgroup.subtree_control") as file:
            return set(CONTROLLERS) <= set(file.read().split())
    except OSError:
        return False


def new_folder() -> tuple[str, str]:
    """The name of a folder for a new server, after what servers of processes that are gone left is removed; or "" and why."""
    where, why = place()
    if not where:
        return "", why
    for name in os.listdir(where):
        if name.startswith(_NAME) and not os.path.exists(f"/proc/{name.removeprefix(_NAME).partition('-')[0]}"):
            remove(f"{where}/{name}", patience=0.0)
    return f"{where}/{_NAME}{os.getpid()}-{time.monotonic_ns()}", ""


def remove(folder: str, *, patience: float = 2.0) -> None:
    """Remove a server's groups once the last process has left them."""
    until = time.monotonic() + patience
    while os.path.isdir(folder):
        try:
            # The server's own first: while it lives, that is refused, and its others stay.
            inside = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
            for path in sorted(inside, key=lambda path: not path.endswith("/server")):
                os.rmdir(path)
            os.rmdir(folder)
        except OSError:
            if time.monotonic() >= until:
                return
            time.sleep(0.005)


def _write(path: str, text: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(text)
