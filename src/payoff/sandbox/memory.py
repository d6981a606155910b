"""How the server's memory lies, so that a copy of the process is cheap to make and to take apart.

A child gets a table of its parent's pages, and gives each entry back at its end; what lies in a page of two megabytes is copied and
given back in one step, or at least in order. The kernel makes such pages where a stretch of memory begins and ends at a multiple of
their size. So the interpreter's heap is made to end at one, and the interpreter's own program, which is a file's and would come to
every child page by page, is copied into such pages. Nothing of this has to succeed.
"""

from __future__ import annotations

import ctypes

HUGE = 2 << 20
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE, _WHERE_FREE = 0x22, 0x100022  # anonymous; at that address, unless something lies there
_COLLAPSE = 25
_MOVE_THERE = 3
# Parts of the standard library that are files of machine code, so that none of them is put into the middle of the heap later on.
_MACHINE_CODE = "_struct _socket select math _random _bisect _heapq _json _typing _sha512"
_libc = ctypes.PyDLL(None)
_ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_mmap, _munmap, _madvise, _mprotect, _mremap = _libc.mmap, _libc.munmap, _libc.madvise, _libc.mprotect, _libc.mremap
_mmap.argtypes, _mmap.restype = [_ADDRESS, _SIZE, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long], _ADDRESS
_munmap.argtypes, _madvise.argtypes = [_ADDRESS, _SIZE], [_ADDRESS, _SIZE, ctypes.c_int]
_mprotect.argtypes = [_ADDRESS, _SIZE, ctypes.c_int]
_mremap.argtypes, _mremap.restype = [_ADDRESS, _SIZE, _SIZE, ctypes.c_int, _ADDRESS], _ADDRESS
_FAILED = ctypes.c_void_p(-1).value
_NOTHING = 0, 0, "", "", 0
_top: list[int] = []  # where the heap grows down from


def align() -> None:
    """Have the heap grow down from the end of a huge page; before most of it is there."""
    for name in _MACHINE_CODE.split():
        try:
            __import__(name)
        except ImportError:
            continue
    next_arena = _mmap(None, HUGE // 2, 0, _PRIVATE, -1, 0)
    if next_arena in (None, _FAILED):
        return
    _munmap(next_arena, HUGE // 2)
    end = next_arena + HUGE // 2
    top = end // HUGE * HUGE
    if top < end and _mmap(top, end - top, 0, _WHERE_FREE, -1, 0) != top:
        return
    _top.append(top)


def gather() -> int:
    """Make huge pages of the heap and of the interpreter's program, once all is loaded; how many bytes that took."""
    added = 0
    for top in _top:
        start = next((start for start, end, *_ in _maps() if end == top), top)
        base = start // HUGE * HUGE
        if base < start and _mmap(base, start - base, _READ | _WRITE, _WHERE_FREE, -1, 0) == base:
            added += start - base
    for start, end, rights, name, _ in _maps():
        if rights == "rw-p" and name in ("", "[heap]"):
            for huge in range(-(-start // HUGE) * HUGE, end // HUGE * HUGE, HUGE):
                _madvise(huge, HUGE, _COLLAPSE)
    _merge()
    for start, end, rights, name, _ in _maps():
        first, last = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        if name.startswith("/") and rights == "r-xp" and first < last and _copied(first, last - first):
            added += last - first
    return added


def _merge() -> None:
    """Of the five parts of each file of machine code make two: what is only read is let run beside what runs, and what was written
    once is left writable beside what is written. Each part costs every fork and every end of a process."""
    maps = _maps()
    for before, (start, end, rights, name, offset), after in zip([_NOTHING, *maps], maps, [*maps[1:], _NOTHING]):
        if rights != "r--p" or not name.startswith("/"):
            continue
        follows = before[1] == start and before[3] == name and before[4] + before[1] - before[0] == offset
        goes_on = after[0] == end and after[3] == name and offset + end - start == after[4]
        if goes_on and after[2] == "rw-p":
            _mprotect(start, end - start, _READ | _WRITE)
        elif (goes_on and after[2] == "r-xp") or (follows and before[2] == "r-xp"):
            _mprotect(start, end - start, _READ | _EXECUTE)


def _copied(at: int, size: int) -> bool:
    """Put a copy in huge pages in the place of what is only read and run, if that can be done."""
    raw = _mmap(None, size + HUGE, _READ | _WRITE, _PRIVATE, -1, 0)
    if raw in (None, _FAILED):
        return False
    copy = -(-raw // HUGE) * HUGE
    ctypes.memmove(copy, at, size)
    huge = _madvise(copy, size, _COLLAPSE) == 0 and _mprotect(copy, size, _READ | _EXECUTE) == 0
    moved = huge and _mremap(copy, size, size, _MOVE_THERE, at) == at
    if not moved:
        _munmap(copy, size)
    if copy > raw:
        _munmap(raw, copy - raw)
    if copy < raw + HUGE:
        _munmap(copy + size, raw + HUGE - copy)
    return moved


def _maps() -> list[tuple[int, int, str, str, int]]:
    """What is mapped: from, to, with which rights, of which file, and from where in it."""
    try:
        with open("/proc/self/maps") as file:
            lines = [line.split(None, 5) for line in file]
    except OSError:
        return []
    ends = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    return [(start, end, line[1], "".join(line[5:]).strip(), int(line[2], 16)) for (start, end), line in zip(ends, lines)]
