"""How the server's memory lies, so that a copy of the process is cheap to make and to take apart.

A child gets a table of its parent's pages, and gives each entry back at its end; each mapped range costs both of them as well, and
each page of a file comes to every child anew. So all that is mapped close together, the interpreter, its libraries and its heap, is
copied into pages of two megabytes that lie side by side in one range, and the copy is moved to where the original was. From there
on a fork copies an entry for two megabytes, until a child writes there. Nothing of this has to succeed.
"""

from __future__ import annotations

import os

from payoff.sandbox import kernel, steps

HUGE = 2 << 20
_COLLAPSE = 25
_EVERY_RIGHT = 7
_HUGE_PAGES = 14
_MOVE_THERE = 3
_LEAST = HUGE // 4  # bytes of a stretch of two megabytes that have to be in use
_MAPS, _MEMORY, _HELD = range(3)
_RANGES = 4  # or so many ranges in it
_TRIED = ("x86_64",)  # the machines on which this was
Range = tuple[int, int, str, str]  # from, to, with which rights, of which file


class Layout:
    """Of this process's memory, looked at and changed by descriptors that stay where no path leads there any more."""

    def __init__(self) -> None:
        self._files: list[int] = []
        try:
            self._files += [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("maps", "mem", "statm")]
        except OSError:  # then all stays as it is
            self._files = []
        self.runs: list[tuple[int, int]] = []  # of huge pages: from, and bytes
        self.addresses = self.bytes = 0  # how much more of both the process has by them

    def gather(self, table: steps.Table) -> None:
        """Put all that lies close together into huge pages, except for the table, once everything is loaded; by a process with one
        thread."""
        if not (table.native and self._files and kernel.MACHINE in _TRIED):
            return
        addresses, held = self._now()
        for _, end, _, name in self.ranges():
            if name == "[heap]":  # whatever grows it finds it longer, and goes on from there
                kernel.system_call("brk", -(-end // HUGE) * HUGE)
        for first, last, parts in _runs(self.ranges(), table.start):
            if self._moved(table, first, last - first, parts):
                self.runs.append((first, last - first))
        self.addresses, self.bytes = (max(now - before, 0) for now, before in zip(self._now(), (addresses, held)))

    def close(self) -> None:
        for file in self._files:
            os.close(file)

    def again(self) -> list[steps.Call]:
        """The calls that make the pages huge where they no longer are."""
        return [steps.call("madvise", start, size, _COLLAPSE) for start, size in self.runs]

    def ranges(self) -> list[Range]:
        """What is mapped."""
        os.lseek(self._files[_MAPS], 0, os.SEEK_SET)
        with open(self._files[_MAPS], closefd=False) as file:
            lines = [line.split(None, 5) for line in file]
        ends = [[int(end, 16) for end in line[0].split("-")] for line in lines]
        return [(start, end, line[1], "".join(line[5:]).strip()) for (start, end), line in zip(ends, lines)]

    def _now(self) -> tuple[int, int]:
        """Bytes of addresses, and of memory that is no file's."""
        addresses, held, of_files, *_ = map(int, os.pread(self._files[_HELD], 200, 0).split())
        page = os.sysconf("SC_PAGE_SIZE")
        return addresses * page, (held - of_files) * page

    def _moved(self, table: steps.Table, first: int, size: int, parts: list[tuple[int, int]]) -> bool:
        """Copy what is there and put the copy in its place, with no line of Python in between that could change it."""
        try:
            raw = kernel.pages(size + HUGE)
        except OSError:
            return False
        copy = -(-raw // HUGE) * HUGE
        done, failed = table.end(), table.end()
        calls = [steps.call("madvise", copy, size, _HUGE_PAGES)]
        calls += [steps.call("pread64", self._files[_MEMORY], copy + at - first, count, at) for at, count in parts]
        calls += [steps.call("madvise", copy, size, _COLLAPSE), steps.call("mprotect", copy, size, _EVERY_RIGHT)]
        calls.append(steps.call("mremap", copy, size, size, _MOVE_THERE, first))
        start = table.lay(calls, done, failed)
        moved = table.walk(start) == done
        rest = [(raw, copy - raw), (copy + size, raw + HUGE - copy)] if moved else [(raw, size + HUGE)]
        for at, count in rest:
            if count:
                kernel.system_call("munmap", at, count)
        return moved


def _runs(ranges: list[Range], table: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Stretches that begin and end at multiples of two megabytes: from, to, and what is to be copied there, with its size."""
    found: list[tuple[int, int, list[tuple[int, int]]]] = []
    for window in sorted({at for start, end, *_ in ranges for at in range(start // HUGE * HUGE, end, HUGE)}):
        inside = [one for one in ranges if one[0] < window + HUGE and window < one[1]]
        used = [(max(start, window), min(end, window + HUGE)) for start, end, rights, _ in inside if rights[0] == "r"]
        if not all(map(_may_move, inside)) or window <= table < window + HUGE:
            continue
        if sum(end - start for start, end in used) < _LEAST and len(used) < _RANGES:
            continue
        parts = [(start, end - start) for start, end in used]
        if found and found[-1][1] == window:
            found[-1] = found[-1][0], window + HUGE, found[-1][2] + parts
        else:
            found.append((window, window + HUGE, parts))
    return found


def _may_move(one: Range) -> bool:
    """Not what the kernel gave (its own code and clock, and the stack that it lets grow), nor what others can write to."""
    _, _, rights, name = one
    return (name == "[heap]" or not name.startswith("[")) and (rights[3] == "p" or rights == "r--s")
