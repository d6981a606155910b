"""What /proc tells of the processes of a run: how much memory they hold together; and whether the kernel has killed for memory."""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Looks into /proc by a descriptor of it, which stays where no path leads there any more."""

    def __init__(self, proc: int) -> None:
        self._proc = proc
        self._kills = 0
        self.killed_for_memory()

    def held_below(self, pid: int, added: int) -> int:
        """Bytes that a process and all below it hold, but for so many in each that were there before it."""
        held, pids = 0, [pid]
        while pids:
            pid = pids.pop()
            fields = self._read(f"{pid}/statm").split()
            if fields:
                held += max((int(fields[1]) - int(fields[2])) * _PAGE - added, 0)
            for thread in self._list(f"{pid}/task"):
                pids += map(int, self._read(f"{pid}/task/{thread}/children").split())
        return held

    def killed_for_memory(self) -> bool:
        """Whether the kernel has killed for want of memory since this was last asked."""
        count = sum(int(line.split()[1]) for line in self._read("vmstat").splitlines() if line.startswith("oom_kill "))
        grown, self._kills = count > self._kills, count
        return grown

    def _list(self, path: str) -> list[str]:
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
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
            file = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        except OSError:
            return ""
        try:
            return os.read(file, 65536).decode()
        except OSError:
            return ""
        finally:
            os.close(file)
