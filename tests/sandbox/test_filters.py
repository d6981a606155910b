"""The two programs that stand between a run and the kernel, decided call by call in a small machine of the same kind."""

import errno
import struct

import pytest

from payoff.sandbox import filters

ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PID = 4711
NAMESPACES = 0x10000000 | 0x00020000
THREAD = 0x00010000


def decided(program: bytes, number: int, arguments=(), architecture: int = ARCHITECTURES["x86_64"]) -> int:
    """What a program answers, by the rules of classic BPF over a call's number, architecture and low halves of arguments."""
    data = {0: number, 4: architecture} | {16 + 8 * k: value for k, value in enumerate([*arguments, *[0] * 6][:6])}
    code, at, held = list(struct.iter_unpack("<HBBI", program)), 0, 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            held = data[value]
        elif operation == 0x54:
            held &= value
        elif operation == 0x06:
            return value
        else:
            true = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[operation]
            at += yes if true else no


def both(profile, number, arguments=(), machine="x86_64"):
    """The stricter of the two: refusals and kills are lower than allowing."""
    inner = filters.inner(profile, machine).replace(struct.pack("<I", filters.OWN_PID), struct.pack("<I", PID))
    architecture = ARCHITECTURES[machine]
    answers = [decided(code, number, arguments, architecture) for code in (filters.outer(profile, machine), inner)]
    return KILL if KILL in answers else min(answers)


def number_of(name, machine):
    tables = (filters._CHECKED, filters._SERVER, filters._SIGNALS, *filters.PROFILES.values())
    return {k: v for table in tables for k, v in filters._numbers(table, machine).items()}[name]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("profile", filters.PROFILES)
def test_a_run_may_make_the_calls_of_its_profile_and_no_other(profile, machine):
    """Decided for every number there is: the profile's are allowed, those judged by arguments aside, newer ones unknown."""
    own = set(filters._numbers(filters.PROFILES[profile], machine).values())
    signals = filters._SIGNALS if profile in ("alone", "sealed") else ""
    judged = set(filters._numbers(filters._CHECKED + signals, machine).values())
    outer, inner = filters.outer(profile, machine), filters.inner(profile, machine)
    architecture = ARCHITECTURES[machine]
    found = {n: min(decided(outer, n, (), architecture), decided(inner, n, (), architecture)) for n in range(600)}
    assert {n for n in found if found[n] == ALLOW} - judged == own - judged
    assert all(found[n] == REFUSE | errno.EPERM for n in range(filters.NEWEST) if n not in own | judged)
    assert all(found[n] == REFUSE | errno.ENOSYS for n in range(filters.NEWEST, 600))


@pytest.mark.parametrize("profile", filters.PROFILES)
def test_what_the_server_needs_is_allowed_to_it_and_taken_from_its_runs(profile):
    for name in ("mount", "capset", "seccomp", "landlock_restrict_self", "pidfd_open"):
        number = number_of(name, "x86_64")
        assert decided(filters.outer(profile, "x86_64"), number) == ALLOW
        assert both(profile, number) == REFUSE | errno.EPERM


# By number, since the filters know no name for them: sockets; shared memory, semaphores and queues of both kinds; the host's names;
# and what would lead into another namespace.
OF_SHARED_NAMESPACES = {
    "x86_64": [41, 42, 43, 49, 50, 288, *range(29, 32), *range(64, 72), 220, *range(240, 246), 170, 171, 272, 308],
    "aarch64": [198, 200, 201, 202, 203, 242, *range(180, 198), 161, 162, 97, 268],
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("profile", filters.PROFILES)
def test_no_call_reaches_what_the_runs_of_a_server_share(profile, machine):
    """Why network, IPC and UTS namespaces need not be made for each run: nothing in them can be made, found or changed."""
    answers = {number: both(profile, number, machine=machine) for number in OF_SHARED_NAMESPACES[machine]}
    assert set(answers.values()) == {REFUSE | errno.EPERM}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide_where_a_call_can_do_good_and_harm(machine):
    refused = REFUSE | errno.EPERM
    ask = lambda profile, name, *arguments: both(profile, number_of(name, machine), arguments, machine)
    assert ask("python", "clone", 17) == ALLOW
    assert ask("python", "clone", NAMESPACES | 17) == refused
    assert ask("alone", "clone", 17) == refused
    assert ask("alone", "clone", THREAD) == ALLOW
    assert ask("alone", "clone", THREAD | NAMESPACES) == refused
    assert ask("python", "clone3") == ask("python", "openat2") == REFUSE | errno.ENOSYS
    assert ask("python", "prctl", 15) == ALLOW
    assert ask("python", "prctl", 22) == refused
    assert ask("python", "prlimit64", 0, 7) == ALLOW
    assert ask("python", "prlimit64", 0, 0) == ask("python", "prlimit64", PID, 7) == refused
    assert ask("python", "ioctl", 1, 0x5401) == ALLOW
    assert ask("python", "ioctl", 1, 0x5412) == refused
    assert ask("python", "socketpair", 1, 1) == ALLOW
    assert ask("python", "socketpair", 1, 2) == ask("python", "socketpair", 2, 1) == refused
    assert ask("alone", "kill", PID, 15) == ask("alone", "tgkill", PID, PID, 6) == ALLOW
    assert ask("alone", "kill", PID, 9) == ask("alone", "kill", PID + 1, 15) == ask("sealed", "kill", -1, 15) == refused
    assert ask("alone", "openat") == ALLOW
    assert ask("sealed", "openat") == refused


def test_calls_under_another_architecture_or_the_x32_numbers_end_the_process():
    outer = filters.outer("python", "x86_64")
    assert decided(outer, 0, (), ARCHITECTURES["aarch64"]) == KILL
    assert decided(outer, 0x40000000) == KILL
