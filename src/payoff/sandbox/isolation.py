"""What surrounds a run: made ready once by the server, closed around each run by the run's own first process.

`prepare` leaves the host behind (its users, network, files) and says what it could get; the calls that `Ground` lays out do the
rest after the fork, in the child, with nothing of the program loaded yet. Whatever fails raises: a run is confined as its level
says, or not run.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from payoff.sandbox import filters, groups, kernel, steps

NOBODY = 65534
SCRATCH = "/tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Those in which a run can make something. Of its server's network, IPC and UTS namespaces it can use nothing: no call that its
# filter lets through makes or finds a socket with a name, a queue, a segment or a set of semaphores, or sets a name.
_OWN = kernel.NEW_USER | kernel.NEW_PIDS | kernel.NEW_MOUNTS
_CPU, _FILE_SIZE, _STACK, _CORE, _PROCESSES, _FILES, _LOCKED, _ADDRESSES, _SIGNALS, _QUEUES = 0, 1, 3, 4, 6, 7, 8, 9, 11, 12
_SAME_FOR_ALL = {_CORE: 0, _STACK: 64 << 20, _LOCKED: 0, _QUEUES: 0, _SIGNALS: 256}
LIMITS = struct.Struct("<ddQQQIIB")  # cpu, wall, memory, scratch, output, processes, files, whether it has a stdin
_REMEMBERED = 64  # sets of limits
_ASKED = _CPU, _ADDRESSES, _FILE_SIZE, _FILES, _PROCESSES
# What a child is told: limits, soft and hard; options of the scratch folder; and the job unless it comes as a file.
_SCRATCH_AT = 16 * len(_ASKED)
_JOB_AT = _SCRATCH_AT + 96
LONGEST = 4096  # bytes of a job that is told
_TABLE = 1 << 20  # bytes, of which those that are used count

# Descriptors in a child, before it has its own: of the server's it has no other, and what it is given comes last.
LINE, LANDLOCK, TROUBLE, CAME = 4, 5, 6, 7
_PLACES = 1, 2, 3, 0  # of what comes: stdout, stderr, what is returned, stdin; and then the job, if it is long
GIVEN = len(_PLACES) + 1
JOB = CAME + len(_PLACES)


class Ground:
    """What every run of this server stands on."""

    def __init__(self, level: str, view: str) -> None:
        self.level, self.view = level, view
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        self.guarantees: list[str] = []
        self.landlock: kernel.Landlock | None = None
        self.profile = ""
        self.filter = kernel.Filter(b"")
        self.groups: list[groups.Group] = []
        self.no_groups = ""
        self.inherited, self.before, self.after = steps.Calls(), steps.Calls(), steps.Calls()
        self.table = steps.Table(_TABLE)
        self.order = self.table.room(_JOB_AT + LONGEST)
        self.job = memoryview((ctypes.c_char * LONGEST).from_address(self.order + _JOB_AT)).cast("B")
        self.addresses = 0  # bytes of them in every child that no program asked for
        self._orders: dict[tuple, bytes] = {}

    @property
    def flags(self) -> int:
        """The namespaces that each run is born into."""
        return _OWN if self.level == "strict" else 0

    def make_ready(self) -> None:
        """Do for this process, and with it for all of its children, what they need not do each for itself."""
        for kind, most in _SAME_FOR_ALL.items():
            kernel.limit(kind, most)
        kernel.no_new_privileges()
        self.filter = kernel.Filter(filters.inner(self.profile, kernel.MACHINE), filters.OWN_PID)
        self.try_groups()
        self._lay_out()
        kernel.Filter(filters.outer(self.profile, kernel.MACHINE)).install()

    def make_groups(self, folder: str, count: int) -> None:
        """Control groups for runs, if they can be had; before the rights to make them are left behind."""
        try:
            self.groups = groups.make(folder, count, NOBODY)
        except OSError as error:
            self.no_groups = error.strerror or str(error)

    def try_groups(self) -> None:
        """Whether a child can be put into them from where this process stands now."""
        if self.groups:
            try:
                groups.works(self.groups[0])
                self.guarantees.append("control-groups")
            except OSError as error:
                self.groups, self.no_groups = [], error.strerror or str(error)

    def _lay_out(self) -> None:
        """The calls that the template makes, and those by which each child of it closes everything around itself: before it waits
        for its order, and after, for good."""
        self.inherited.add("prctl", kernel.SET_DEATH_SIGNAL, 9)
        self.inherited.write(self.proc, "self/oom_score_adj", b"1000")
        self.before.add("prctl", kernel.SET_DEATH_SIGNAL, 9)
        if self.level == "strict":
            self.before.write(self.proc, "self/uid_map", b"%d 0 1" % NOBODY)
            self.before.write(self.proc, "self/gid_map", b"%d 0 1" % NOBODY)
        self.before.add("setsid")
        for number, place in enumerate(_PLACES, CAME):
            self.after.add("dup3", number, place, 0)
        if self.level == "strict":
            flags = kernel.NO_SETUID | kernel.NO_DEVICES
            self.after.add("mount", b"scratch", SCRATCH.encode(), b"tmpfs", flags, self.order + _SCRATCH_AT)
            self.after.add("chdir", SCRATCH.encode())
        for number, kind in enumerate(_ASKED):
            self.after.add("prlimit64", 0, kind, self.order + 16 * number, 0)
        self.after.add("capset", *kernel.NO_CAPABILITIES)
        if self.landlock is not None:
            self.after.add("landlock_restrict_self", LANDLOCK)
        for place in self.filter.own if self.level == "process" else ():
            self.after.add("getpid", into=place)
        self.after.add("seccomp", *self.filter.arguments)
        self.after += [*steps.closing(LINE, JOB - 1), *steps.closing(JOB + 1)]

    def steps_of_a_child(self) -> tuple[int, int, int]:
        """Lay out what a child does from the moment that its line is in its place: the first step, and the ends of a walk that has
        come to the program, and of one that failed. A child whose server is gone exits."""
        table = self.table
        ready, failed = table.end(), table.end()
        gone = table.lay([steps.call("exit_group", 0)], failed, failed)
        after = table.lay(self.after, ready, failed)
        receive = table.receive(LINE, self.order, _JOB_AT + LONGEST, GIVEN)
        order = table.lay([*steps.closing(CAME), receive], after, failed, zero=gone)
        return table.lay(self.before, order, failed), ready, failed

    def told(self, limits: tuple, job: bytes) -> bytes:
        """What a child is told: its program's limits lie in its memory as the calls that set them read them."""
        cpu, _, memory, scratch, output, processes, files, _ = limits
        asked = cpu, memory, scratch, output, processes, files
        if asked not in self._orders:
            if len(self._orders) >= _REMEMBERED:
                self._orders.clear()
            wanted = int(cpu) + 1, memory + self.addresses, max(output + 1, scratch), files, processes
            most = b"".join(kernel.allowed(kind, most) for kind, most in zip(_ASKED, wanted))
            options = f"size={scratch},nr_inodes={max(scratch >> 12, 64)},mode=700".encode()
            self._orders[asked] = most + options.ljust(_JOB_AT - _SCRATCH_AT, b"\0")
        return self._orders[asked] + job


def prepare(level: str, view: str, packages: list[str], *, use_landlock: bool = True, folder: str = "", count: int = 0) -> Ground:
    """Leave the host behind as far as `level` says; raises OSError with the step that failed.

    view: "python", with the interpreter's library alone, or "tools", with the system's programs as well
    folder, count: where to make control groups, "" for none, and how many
    """
    if not kernel.SUPPORTED:
        raise OSError(f"the system-call filter is written for x86_64 and aarch64, and this is {kernel.MACHINE}")
    ground = Ground(level, view)
    if folder:
        ground.make_groups(folder, count)
    version = kernel.landlock_version() if use_landlock else 0
    if level == "strict":
        _leave(view, packages)
        rules = [("/", kernel.WORK)]  # of which all but the scratch folder is mounted read-only
        ground.guarantees = [
            *("user-namespace", "pid-namespace", "mount-namespace", "ipc-namespace", "uts-namespace", "network-namespace"),
            *("private-root", "scratch-limit"),
        ]
        profile = view
    else:
        rules = [(path, kernel.LOOK) for path in (*_libraries(), *packages, *_DEVICES) if os.path.exists(path)]
        profile = "alone" if version else "sealed"
        ground.guarantees = ["single-process", "files-hidden" if version else "no-file-opened"]
    if version:
        ground.landlock = kernel.Landlock(version, rules)
    if level == "process":
        os.chdir("/")
        if os.geteuid() == 0:
            _become_nobody()
            ground.guarantees.append("user-nobody")
        else:
            kernel.drop_capabilities()
    ground.profile = profile
    ground.guarantees += ["no-new-privileges", "no-capabilities", "seccomp", "rlimits"]
    if version:
        ground.guarantees.append(f"landlock-{version}")
    return ground


def _leave(view: str, packages: list[str]) -> None:
    """New namespaces for this process, and a root with nothing but what programs read."""
    step = "user namespace"
    user, group = os.geteuid(), os.getegid()
    try:
        if user != 0 or not _can_mount():
            _enter_user_namespace(user, group)
            step = "mount, network, IPC and UTS namespaces"
            kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_UTS)
            step = "private root"
            _build_root(view, packages)
            return
        step = "mount, network, IPC and UTS namespaces"
        kernel.unshare(kernel.NEW_NETWORK | kernel.NEW_IPC | kernel.NEW_UTS)
        step = "private root"
        # Built with root's rights, since the library may lie where nobody else may look; then root is left for good.
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        _build_root(view, packages)
        step = "user namespace"
        os.setgroups([])
        _enter_user_namespace(NOBODY, NOBODY, proc)
        os.close(proc)
    except OSError as error:
        raise OSError(error.errno, f"{step}: {error.strerror or error}") from None


def _can_mount() -> bool:
    try:
        kernel.unshare(kernel.NEW_MOUNTS)
    except OSError:
        return False
    return True


def _enter_user_namespace(user: int, group: int, proc: int | None = None) -> None:
    """A user namespace whose root is `user` outside; the map is written from outside, by a child that stays there."""
    own = os.open("/proc", os.O_PATH | os.O_DIRECTORY) if proc is None else proc
    pid = os.getpid()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            os.close(go)
            os.read(ready, 1)
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                file = os.open(f"{pid}/{name}", os.O_WRONLY, dir_fd=own)
                os.write(file, text.encode())
                os.close(file)
            failed = 0
        finally:
            os._exit(failed)
    os.close(ready)
    try:
        kernel.unshare(kernel.NEW_USER)
        os.write(go, b"!")
    finally:
        os.close(go)
        _, status = os.waitpid(child, 0)
        if proc is None:
            os.close(own)
    if status:
        raise OSError("the map of users cannot be written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.be_dumpable()


def _become_nobody() -> None:
    """As root without namespaces: a user with nothing of its own, whom the limit of processes holds too."""
    kernel.drop_bounding_set()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.be_dumpable()
    kernel.drop_capabilities()


def library_stays_open(packages: list[str]) -> bool:
    """Whether a run at the level "process" can still read the library: as root, it is made nobody, who may not be let in."""
    return os.geteuid() != 0 or all(_open_to_all(path) for path in [os.path.dirname(os.__file__), *packages])


def _open_to_all(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & 0o005 and os.path.isdir(path):
            return False
        path = os.path.dirname(path)
    return True


def _libraries() -> list[str]:
    """Where the interpreter and its extension modules read from."""
    homes = [path for path in sys.path if os.path.isdir(path)]
    homes += [os.path.join(sys.base_prefix, "lib"), "/usr/lib", "/usr/lib64", "/usr/lib32", "/lib", "/lib64", "/etc/ld.so.cache"]
    with open("/proc/self/maps") as maps:
        homes += {os.path.dirname(line.split(None, 5)[5].strip()) for line in maps if ".so" in line}
    homes += [os.path.join(sys.base_prefix, "share", "zoneinfo"), "/usr/share/zoneinfo"]
    return _outermost([path for path in homes if os.path.exists(path)])


def _packages_below(path: str) -> list[str]:
    """Where distributions and pip put packages below a folder of libraries."""
    if not os.path.isdir(path):
        return []
    inside = [path, *(entry.path for entry in os.scandir(path) if entry.name.startswith("python3") and entry.is_dir())]
    return [entry.path for folder in inside for entry in os.scandir(folder) if entry.name.endswith("-packages") and entry.is_dir()]


def _tools() -> list[str]:
    places = ["/usr/bin", "/usr/include", "/usr/libexec", "/bin", "/etc/alternatives"]
    return [path for path in (*places, "/usr/local/bin", "/usr/local/include") if os.path.exists(path)]


def _outermost(paths: list[str]) -> list[str]:
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}, key=lambda path: (path.count("/"), path)):
        if not any(path == other or path.startswith(other + "/") for other in kept):
            kept.append(path)
    return kept


def packages_inside(packages: list[str]) -> list[str]:
    """Where a private root has the packages, out of the way of everything that lies elsewhere."""
    return [f"/packages/{number}" for number in range(len(packages))]


def _build_root(view: str, packages: list[str]) -> None:
    """A small read-only tree in memory, with the host's libraries bound into it, made the root."""
    kernel.mount(None, "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    read = _outermost([*_libraries(), *(_tools() if view == "tools" else ())])
    masked = [place for path in read if not os.path.islink(path) for place in _packages_below(path)]
    places = {path: path for path in [*read, *_DEVICES] if not os.path.islink(path) and os.path.exists(path)}
    places |= dict(zip(packages_inside(packages), packages))
    sources = {place: os.open(path, os.O_PATH) for place, path in places.items()}
    base = next(path for path in ("/mnt", "/media", "/srv", "/opt", "/tmp") if os.path.isdir(path))
    links = {path: os.readlink(path) for path in read if os.path.islink(path)}
    kernel.mount("root", base, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, "size=1m,mode=755")
    os.chmod(base, 0o755)
    for path, source in sources.items():
        target = base + path
        if os.path.isdir(f"/proc/self/fd/{source}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.mount(f"/proc/self/fd/{source}", target, None, kernel.BIND | kernel.RECURSIVE)
        if path not in _DEVICES:
            kernel.make_read_only(target)
        os.close(source)
    for place in masked:
        kernel.mount("nothing", base + place, "tmpfs", kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES, "size=4k,mode=755")
    for path, target in links.items():
        os.makedirs(os.path.dirname(base + path), exist_ok=True)
        os.symlink(target, base + path)
    os.makedirs(base + SCRATCH, exist_ok=True)
    os.symlink(f"{SCRATCH}/.stdin", base + "/dev/stdin")
    kernel.enter_root(base)
    kernel.mount(None, "/", None, kernel.REMOUNT | kernel.BIND | kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES)
