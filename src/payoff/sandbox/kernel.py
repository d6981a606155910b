"""The Linux calls that Python does not offer: namespaces, mounts, capabilities, Landlock, seccomp. Through ctypes, nothing else.

Every call raises OSError as the standard library does. This module and all that the server imports stay clear of everything
outside the standard library, so that a server is a few megabytes.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import signal
import struct

MACHINE = os.uname().machine
# name -> number on x86_64 and on aarch64
_NUMBERS = {
    "write": (1, 64),
    "close": (3, 57),
    "getpid": (39, 172),
    "recvmsg": (47, 212),
    "wait4": (61, 260),
    "chdir": (80, 49),
    "setsid": (112, 157),
    "prctl": (157, 167),
    "mount": (165, 40),
    "openat": (257, 56),
    "dup3": (292, 24),
    "prlimit64": (302, 261),
    "clone": (56, 220),
    "clone3": (435, 435),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "pivot_root": (155, 41),
    "close_range": (436, 436),
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
SUPPORTED = MACHINE in ("x86_64", "aarch64")
_COLUMN = 1 if MACHINE == "aarch64" else 0

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
NEW_PIDS, NEW_NETWORK, OF_MY_PARENT = 0x20000000, 0x40000000, 0x00008000
READ_ONLY, NO_SETUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE, MOVE = 1, 2, 4, 32, 4096, 16384, 1 << 18, 8192
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_DETACH, _INTO_GROUP = 2, 1 << 33
SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38
_READABLE, _WRITABLE, _EXECUTABLE, _POPULATE_READ = 1, 2, 4, 22
_CAP_BOUNDING_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR = 24, 47, 4
_SET_SECCOMP_FILTER, _LANDLOCK_VERSION = 1, 1

# PyDLL keeps the interpreter's lock, which a clone in the middle of ctypes must find as it left it.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 7
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


# The same without a copy of the error's number kept for each call, which costs a run the pages that the copy lies in.
_quick = ctypes.PyDLL(None).syscall
_quick.restype, _quick.argtypes = _syscall.restype, _syscall.argtypes
_ZEROS = (0,) * 6


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def system_call(name: str, *arguments: int | None) -> int:
    """The result of a system call by name, its arguments numbers or addresses; raises OSError."""
    result = _syscall(_NUMBERS[name][_COLUMN], *arguments, *_ZEROS[len(arguments) :])
    if result < 0:
        raise _failed(name)
    return result


def clone(flags: int, group: int = 0) -> int:
    """Fork into new namespaces, and into the control group whose folder is open as `group`; 0 in the child.

    Only for a process with one thread, which holds the interpreter's lock through the call: its copy finds everything as it was,
    and what os.fork would renew besides, half of all pages that a short run touches, is not worth its time.
    """
    if not group:
        return system_call("clone", flags | signal.SIGCHLD)
    wanted = ctypes.create_string_buffer(struct.pack("<11Q", flags | _INTO_GROUP, 0, 0, 0, signal.SIGCHLD, *[0] * 5, group), 88)
    return system_call("clone3", ctypes.addressof(wanted), 88)


def clones(flags: int, count: int) -> list[int]:
    """So many at once, without a line of Python between them: the processes, -1 for each that could not be had.

    In a child the list is shorter, of as many as were made before it.
    """
    return list(itertools.islice(iter(functools.partial(_quick, *call("clone", flags | signal.SIGCHLD)), 0), count))


Calls = list[tuple[int | None, ...]]


class Steps:
    """System calls made ready, so that a child makes them by one loop and nothing else: it pays for every page that it touches."""

    def __init__(self) -> None:
        self.calls: Calls = []
        self._texts: list[ctypes.Array] = []

    def add(self, name: str, *arguments: int | bytes | None) -> None:
        """One more call; bytes stand for the address of a copy of them, None as the first for what the call before it gave."""
        self.calls.append(call(name, *[self._address(value) if isinstance(value, bytes) else value for value in arguments]))

    def write(self, folder: int, path: str, text: bytes) -> None:
        """Write into a file, and leave it open: what comes after closes everything."""
        self.add("openat", folder, path.encode(), os.O_WRONLY)
        self.add("write", None, text, len(text))

    def _address(self, text: bytes) -> int:
        self._texts.append(ctypes.create_string_buffer(text))
        return ctypes.addressof(self._texts[-1])


def call(name: str, *arguments: int | None) -> tuple[int | None, ...]:
    """A system call as numbers."""
    return _NUMBERS[name][_COLUMN], *arguments, *_ZEROS[len(arguments) :]


def take(calls: Calls) -> int:
    """Make the calls in order, and give what the last one gave; OSError with the name of the first that fails."""
    make, result = _quick, 0
    for number, first, second, third, fourth, fifth, sixth in calls:
        before = result if first is None else first
        result = make(number, before, second, third, fourth, fifth, sixth)
        if result < 0:  # once more, to see why
            name = next(name for name, numbers in _NUMBERS.items() if numbers[_COLUMN] == number)
            result = system_call(name, before, second, third, fourth, fifth, sixth)
    return result


class Inbox:
    """Where a process takes a message, and descriptors with it, at an address that is known beforehand."""

    def __init__(self, size: int, files: int) -> None:
        self.text = ctypes.create_string_buffer(size)
        self.address, self.view = ctypes.addressof(self.text), memoryview(self.text).cast("B")
        self._beside = ctypes.create_string_buffer(16 + (4 * files + 7) // 8 * 8)
        self._part = ctypes.create_string_buffer(struct.pack("@PN", self.address, size), 16)
        places = 0, 0, ctypes.addressof(self._part), 1, ctypes.addressof(self._beside), len(self._beside), 0
        self._header = ctypes.create_string_buffer(struct.pack("@PIPNPNi", *places), 56)

    def receive(self, line: int) -> tuple[int | None, ...]:
        """The call that waits for the message and gives its length, 0 where nobody is left who could send one."""
        return call("recvmsg", line, ctypes.addressof(self._header), 0)


_status, _usage = ctypes.create_string_buffer(4), ctypes.create_string_buffer(144)


def wait(pid: int) -> tuple[int, float, float, int]:
    """Wait for a child: its status, seconds as user and in the system, peak memory in bytes; without the module os.wait4 loads."""
    system_call("wait4", pid, ctypes.addressof(_status), 0, ctypes.addressof(_usage))
    seconds, millionths, more, more_millionths, peak = struct.unpack_from("<5q", _usage)
    return struct.unpack("<i", _status)[0], seconds + millionths / 1e6, more + more_millionths / 1e6, peak << 10


def unshare(flags: int) -> None:
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        raise _failed("unshare")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    if _mount(texts[0], texts[1], texts[2], flags, options.encode() or None) != 0:
        raise _failed(f"mount {target}")


def make_read_only(path: str) -> None:
    """A mount and all below it read-only, without set-user-id programs and device nodes."""
    attributes = struct.pack("<QQQQ", READ_ONLY | NO_SETUID | NO_DEVICES, 0, 0, 0)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    directory = os.open(path, os.O_PATH)
    empty = ctypes.create_string_buffer(b"")
    try:
        flags = _AT_EMPTY_PATH | _AT_RECURSIVE
        system_call("mount_setattr", directory, ctypes.addressof(empty), flags, ctypes.addressof(buffer), len(attributes))
    except OSError:  # before Linux 5.12: the top mount alone, with the flags it is locked to
        locked = os.statvfs(path).f_flag & (NO_SETUID | NO_DEVICES | 8 | 1024 | 2048)
        mount(None, path, None, BIND | REMOUNT | READ_ONLY | NO_SETUID | NO_DEVICES | locked)
    finally:
        os.close(directory)


def enter_root(path: str) -> None:
    """Make `path` the root and let go of the old one."""
    os.chdir(path)
    dot = ctypes.create_string_buffer(b".")
    try:
        system_call("pivot_root", ctypes.addressof(dot), ctypes.addressof(dot))
        if _libc.umount2(b".", _DETACH) != 0:
            raise _failed("umount2")
    except OSError:  # the first root of a machine cannot be pivoted away
        mount(".", "/", None, MOVE)
        os.chroot(".")
    os.chdir("/")


def be_dumpable() -> None:
    """Own one's files under /proc again, which a change of user takes away."""
    _prctl(_SET_DUMPABLE, 1, 0, 0, 0)


def tidy() -> None:
    """Have the allocator put together what is free, where it can, and so touch less of it later."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def no_new_privileges() -> None:
    if _prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise _failed("no_new_privs")


_no_capabilities = ctypes.create_string_buffer(struct.pack("<Ii6I", 0x20080522, 0, *[0] * 6), 32)
NO_CAPABILITIES = ctypes.addressof(_no_capabilities), ctypes.addressof(_no_capabilities) + 8  # what capset takes


def drop_capabilities() -> None:
    """Every capability gone, for good together with no_new_privileges."""
    _prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR, 0, 0, 0)
    system_call("capset", *NO_CAPABILITIES)


def allowed(kind: int, most: int) -> bytes:
    """A limit, soft and hard, as low as asked for or as it is already."""
    had = ctypes.create_string_buffer(16)
    system_call("prlimit64", 0, kind, 0, ctypes.addressof(had))
    return struct.pack("<QQ", *[min(most, struct.unpack("<QQ", had)[1])] * 2)


def limit(kind: int, most: int) -> None:
    """Lower a limit of the calling process, and of all that it starts."""
    wanted = ctypes.create_string_buffer(allowed(kind, most), 16)
    system_call("prlimit64", 0, kind, ctypes.addressof(wanted), 0)


def drop_bounding_set() -> None:
    for capability in range(64):
        _prctl(_CAP_BOUNDING_DROP, capability, 0, 0, 0)


def closing_from(first: int) -> Calls:
    """The calls that close every descriptor from `first` on."""
    one = call("close_range", first, 0xFFFFFFFF, 0)
    try:
        take([call("close_range", 0xFFFFFFFE, 0xFFFFFFFE, 0)])
    except OSError:  # before Linux 5.9; what is not open cannot be closed, and so is opened first
        numbers = range(first, min(os.sysconf("SC_OPEN_MAX"), 1024))
        return [step for number in numbers for step in (call("dup3", 0, number, 0), call("close", number))]
    return [one]


class Filter:
    """A seccomp program, kept where the kernel can read it; `own` stands in it for the number of the process that installs it."""

    def __init__(self, program: bytes, own: int = 0) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._own = [at + 4 for at in range(0, len(program), 8) if own and program[at + 4 : at + 8] == struct.pack("<I", own)]
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))
        self.arguments = _SET_SECCOMP_FILTER, 0, ctypes.addressof(self._header)

    def set_own(self, pid: int) -> None:
        for at in self._own:
            struct.pack_into("<I", self._code, at, pid)

    def install(self) -> None:
        system_call("seccomp", *self.arguments)


# --- Landlock

EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
LOOK = EXECUTE | READ_FILE | READ_FOLDER
# Everything a scratch folder needs: no device nodes, sockets, or calls to devices.
WORK = LOOK | WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14


def landlock_version() -> int:
    """The version of Landlock's interface that the kernel has; 0 for none."""
    try:
        return system_call("landlock_create_ruleset", 0, 0, _LANDLOCK_VERSION)
    except OSError:
        return 0


class Landlock:
    """A ruleset that confines a process to paths, each with the rights kept below it; no TCP, no signals or sockets out of it."""

    def __init__(self, version: int, rules: list[tuple[str, int]]) -> None:
        rights = (1 << (13, 14, 15, 15, 16)[min(version, 5) - 1]) - 1
        network, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        attributes = ctypes.create_string_buffer(struct.pack("<QQQ", rights, network, scope), 24)
        self.file = system_call("landlock_create_ruleset", ctypes.addressof(attributes), size, 0)
        for path, kept in rules:
            beneath = os.open(path, os.O_PATH)
            if not os.path.isdir(path):
                kept &= EXECUTE | WRITE_FILE | READ_FILE | 1 << 14
            rule = ctypes.create_string_buffer(struct.pack("<Qi", kept & rights, beneath), 12)
            system_call("landlock_add_rule", self.file, 1, ctypes.addressof(rule), 0)
            os.close(beneath)
