"""Which system calls a run may make: seccomp programs as bytes, assembled here, for x86_64 and aarch64.

What is not listed is refused with EPERM, and calls newer than the list with ENOSYS, as an older kernel would. A run is under two
programs, the stricter of which decides each call: the long one its server is under already, which leaves what the server needs; so
that each run has but a short one to install, which takes that away.
"""

from __future__ import annotations

import errno
import struct

# Every name with its number on x86_64 and on aarch64, where it has one.
_READING = """
read:0:63 pread64:17:67 readv:19:65 preadv:295:69 preadv2:327:286 lseek:8:62 close:3:57 fstat:5:80 newfstatat:262:79 stat:4:
lstat:6: statx:332:291 access:21: faccessat:269:48 faccessat2:439:439 readlink:89: readlinkat:267:78 getdents:78:
getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 statfs:137:43 fstatfs:138:44 fadvise64:221:223 umask:95:166
"""
_OPENING = "open:2: openat:257:56"
_WRITING = """
write:1:64 pwrite64:18:68 writev:20:66 pwritev:296:70 pwritev2:328:287 ftruncate:77:46 fallocate:285:47 fsync:74:82
fdatasync:75:83 sendfile:40:71 copy_file_range:326:285 flock:73:32 dup:32:23 dup2:33: dup3:292:24 pipe:22: pipe2:293:59 poll:7:
ppoll:271:73 select:23: pselect6:270:72 epoll_create:213: epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:
epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284: eventfd2:290:19 timerfd_create:283:85 timerfd_settime:286:86
timerfd_gettime:287:87 signalfd4:289:74 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 shutdown:48:210
getsockname:51:204 getpeername:52:205 getsockopt:55:209 setsockopt:54:208 close_range:436:436
"""
_CHANGING = """
creat:85: truncate:76:45 mkdir:83: mkdirat:258:34 rmdir:84: unlink:87: unlinkat:263:35 rename:82: renameat:264:38
renameat2:316:276 link:86: linkat:265:37 symlink:88: symlinkat:266:36 chmod:90: fchmod:91:52 fchmodat:268:53 utimensat:280:88
utime:132: utimes:235: futimesat:261: chown:92: fchown:93:55 fchownat:260:54 lchown:94: sync_file_range:277:84
"""
_MEMORY = """
mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 mremap:25:216 madvise:28:233 msync:26:227 mincore:27:232 mlock:149:228
munlock:150:229 mlock2:325:284 membarrier:324:283
"""
_TIME = """
nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201: times:100:153
getitimer:36:102 setitimer:38:103 alarm:37: pause:34:
"""
_SELF = """
exit:60:93 exit_group:231:94 arch_prctl:158: set_tid_address:218:96 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293
futex:202:98 futex_waitv:449:449 sched_yield:24:124 sched_getaffinity:204:123 sched_getscheduler:145:120 sched_getparam:143:121
sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141 getpid:39:172 getppid:110:173 gettid:186:178
getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158
getpgid:121:155 getpgrp:111: getsid:124:156 getrlimit:97:163 getrusage:98:165 uname:63:160 sysinfo:99:179
getcpu:309:168 getrandom:318:278 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigsuspend:130:133
rt_sigpending:127:136 rt_sigtimedwait:128:137 sigaltstack:131:132 restart_syscall:219:128 wait4:61:260 waitid:247:95
capget:125:90
"""
_FAMILY = """
fork:57: vfork:58: setsid:112:157 setpgid:109:154 kill:62:129 tkill:200:130 tgkill:234:131 rt_sigqueueinfo:129:138
rt_tgsigqueueinfo:297:240
"""
_PROGRAMS = "execve:59:221 execveat:322:281"
_CHECKED = """
clone:56:220 clone3:435:435 openat2:437:437 prctl:157:167 prlimit64:302:261 setrlimit:160:164 ioctl:16:29 fcntl:72:25
socketpair:53:199
"""
_SIGNALS = "kill:62:129 tgkill:234:131 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240"
# What a server does besides, between two runs and in the first moments of one.
_SERVER = """
openat:257:56 open:2: write:1:64 kill:62:129 setsid:112:157 mount:165:40 pidfd_open:434:434 capset:126:91 seccomp:317:277
landlock_restrict_self:446:446
"""
_CPU, _SIGKILL = 0, 9

_ALWAYS = _READING + _WRITING + _MEMORY + _TIME + _SELF
# python: one tree of processes in namespaces of its own; tools: it may start programs as well; alone: a single process among the
# machine's others, which may change nothing by name and signal itself only; sealed: alone, and it may not open anything either.
PROFILES = {
    "python": _ALWAYS + _OPENING + _CHANGING + _FAMILY,
    "tools": _ALWAYS + _OPENING + _CHANGING + _FAMILY + _PROGRAMS,
    "alone": _ALWAYS + _OPENING,
    "sealed": _ALWAYS,
}
NEWEST = 450  # the first number that this list does not know

_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OWN_PID = 0x5EED01D5  # stands in the program for the number of the process that installs it

Code = list[tuple[int, int, int, int]]


def outer(profile: str, machine: str) -> bytes:
    """The seccomp program of a server whose runs have a profile: their calls whatever the arguments, and its own."""
    numbers = _numbers(PROFILES[profile] + _CHECKED + _SIGNALS + _SERVER, machine)
    del numbers["openat2"]
    code: Code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the same calls under the numbers of the x32 interface
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    code += [(_EQUAL, 0, 1, _numbers(_CHECKED, machine)["openat2"]), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    return _assembled(code + _search(_segments(sorted(set(numbers.values())))))


def inner(profile: str, machine: str) -> bytes:
    """The seccomp program of a run, on top of its server's: what arguments may be, and nothing that is the server's."""
    single = profile in ("alone", "sealed")
    blocks = _blocks(single)
    if single:
        blocks |= {entry.split(":")[0]: _own_signal(2 if "tg" in entry else 1) for entry in _SIGNALS.split()}
    known = _numbers(_CHECKED + _SIGNALS, machine)
    mine = set(_numbers(_SERVER, machine).values()) - set(_numbers(PROFILES[profile], machine).values())
    code: Code = [(_LOAD, 0, 0, 0)]
    for name, block in blocks.items():
        code += [(_EQUAL, 0, len(block), known[name]), *block]
        mine.discard(known[name])
    for number in sorted(mine):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    return _assembled([*code, (_RETURN, 0, 0, _ALLOW)])


def _assembled(code: Code) -> bytes:
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def _blocks(single: bool) -> dict[str, Code]:
    """What calls may do that are allowed for some arguments only."""
    namespaces = 0x7E020000
    no = _REFUSE | errno.EPERM
    return {
        # Never into namespaces; and a single process may make threads, but no processes.
        "clone": [(_LOAD, 0, 0, 16), (_ANY_BIT, 1 if single else 0, 0 if single else 1, namespaces), *_if_thread(single, no)],
        "clone3": [(_RETURN, 0, 0, _REFUSE | errno.ENOSYS)],  # its flags lie in memory, out of a filter's sight
        "prctl": _only(0, [3, 15, 16]),  # whether it is dumpable, its name
        # Its own limits, which it can only lower; but not that of the processor, or it could end as if killed from outside.
        "prlimit64": [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, no), *_all_but(1, [_CPU])],
        "setrlimit": _all_but(0, [_CPU]),
        "ioctl": _only(1, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]),  # is it a terminal, how much is there, close on exec
        "fcntl": _all_but(1, [8, 10, 15, 1024, 1026, 1031]),  # whom to signal, leases, notices, sizes of pipes
        # Two ends of a local stream, which have no name.
        "socketpair": [
            *((_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 1), (_RETURN, 0, 0, no)),
            *((_LOAD, 0, 0, 24), (_AND, 0, 0, 0xF), (_EQUAL, 1, 0, 1), (_RETURN, 0, 0, no), (_RETURN, 0, 0, _ALLOW)),
        ],
    }


def _if_thread(single: bool, no: int) -> Code:
    return [*([(_ANY_BIT, 1, 0, 0x10000)] if single else []), (_RETURN, 0, 0, no), (_RETURN, 0, 0, _ALLOW)]


def _own_signal(argument: int) -> Code:
    """Signals to itself alone, and none that would look as if it was killed from outside."""
    return [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, OWN_PID), (_RETURN, 0, 0, _REFUSE | errno.EPERM), *_all_but(argument, [_SIGKILL])]


def _only(argument: int, values: list[int]) -> Code:
    tests = [(_EQUAL, len(values) - k, 0, value) for k, value in enumerate(values)]
    return [(_LOAD, 0, 0, 16 + 8 * argument), *tests, (_RETURN, 0, 0, _REFUSE | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _all_but(argument: int, values: list[int]) -> Code:
    tests = [(_EQUAL, len(values) - k, 0, value) for k, value in enumerate(values)]
    return [(_LOAD, 0, 0, 16 + 8 * argument), *tests, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = 2 if machine == "aarch64" else 1
    entries = (entry.split(":") for entry in table.split())
    return {entry[0]: int(entry[column]) for entry in entries if entry[column]}


def _segments(allowed: list[int]) -> list[tuple[int, int]]:
    """From each number on, which answer: (number, answer), in order."""
    answers = [_ALLOW if number in set(allowed) else _REFUSE | errno.EPERM for number in range(NEWEST)]
    answers.append(_REFUSE | errno.ENOSYS)
    return [(number, answer) for number, answer in enumerate(answers) if number == 0 or answers[number - 1] != answer]


def _search(segments: list[tuple[int, int]]) -> Code:
    """A binary search for the segment that a number lies in."""
    if len(segments) == 1:
        return [(_RETURN, 0, 0, segments[0][1])]
    middle = len(segments) // 2
    left, right = _search(segments[:middle]), _search(segments[middle:])
    return [(_AT_LEAST, len(left), 0, segments[middle][0]), *left, *right]
