"""The Linux calls that Python does not offer: namespaces, mounts, capabilities, Landlock, seccomp. Through ctypes, nothing else.

Every call raises OSError as the standard library does. This module and all that the server imports stay clear of everything
outside the standard library, so that a server is a few megabytes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

MACHINE = os.uname().machine
# name -> number on x86_64 and on aarch64
_NUMBERS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "pread64": (17, 67),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit_group": (231, 94),
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
_READABLE, _WRITABLE, _EXECUTABLE, _PRIVATE_MEMORY = 1, 2, 4, 0x22
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


_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_NOWHERE = ctypes.c_void_p(-1).value
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


def number(name: str) -> int:
    """Of a system call, on this machine."""
    return _NUMBERS[name][_COLUMN]


def raw(number: int, *arguments: int) -> int:
    """The result of a system call, or minus the error's number."""
    result = _syscall(number, *arguments)
    return result if result >= 0 else -ctypes.get_errno()


def failure(number: int, error: int) -> OSError:
    """What is raised where a system call has failed."""
    name = next(name for name, numbers in _NUMBERS.items() if numbers[_COLUMN] == number)
    return OSError(error, f"{name}: {os.strerror(error)}")


def clone(flags: int, group: int = 0) -> int:
    """Fork into new namespaces, and into the control group whose folder is open as `group`; 0 in the child.

    Only for a process with one thread, which holds the interpreter's lock through the call: its copy finds everything as it was,
    and what os.fork would renew besides, half of all pages that a short run touches, is not worth its time.
    """
    if not group:
        return system_call("clone", flags | signal.SIGCHLD)
    wanted = ctypes.create_string_buffer(into_group(flags, group), GROUPED)
    return system_call("clone3", ctypes.addressof(wanted), GROUPED)


GROUPED = 88  # bytes that clone3 is told


def into_group(flags: int, group: int) -> bytes:
    """What clone3 is told to fork into namespaces and a control group."""
    return struct.pack("<11Q", flags | _INTO_GROUP, 0, 0, 0, signal.SIGCHLD, *[0] * 5, group)


def pages(size: int, code: bytes = b"", *, near: int = 0) -> int:
    """The address of so much memory in pages of its own; where `code` is given, it is there to be run, and not written to.

    near: where it is to lie, if nothing lies there
    """
    at = _mmap(near or None, size, _READABLE | _WRITABLE, _PRIVATE_MEMORY, -1, 0)
    if at in (None, _NOWHERE):
        raise _failed("mmap")
    if code:
        ctypes.memmove(at, code, len(code))
        if _libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(size), _READABLE | _EXECUTABLE) != 0:
            raise _failed("mprotect")
    return at


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


class Filter:
    """A seccomp program, kept where the kernel can read it; `own` stands in it for the number of the process that installs it."""

    def __init__(self, program: bytes, own: int = 0) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._own = [at + 4 for at in range(0, len(program), 8) if own and program[at + 4 : at + 8] == struct.pack("<I", own)]
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))
        self.arguments = _SET_SECCOMP_FILTER, 0, ctypes.addressof(self._header)

    @property
    def own(self) -> list[int]:
        """The addresses at which the number of the process is to stand."""
        return [ctypes.addressof(self._code) + at for at in self._own]

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
