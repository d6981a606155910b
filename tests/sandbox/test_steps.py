"""Tables of system calls: the walk by machine code and the one in Python come to the same ends with the same effects."""

import ctypes
import errno
import os

import pytest

from payoff.sandbox import Ended, Limits, Sandbox, kernel, starting, steps

pytestmark = pytest.mark.skipif(not kernel.SUPPORTED, reason="call numbers are written for x86_64 and aarch64")


@pytest.fixture(params=["machine code", "Python"])
def table(request):
    table = steps.Table(1 << 16)
    if request.param == "Python":
        table.walk = steps._walked
    elif not table.native:
        pytest.skip(f"no machine code for {kernel.MACHINE}, or it may not be run")
    return table


def test_results_go_where_they_are_asked_for_and_into_the_next_call(table):
    done, failed, place = table.end(), table.end(), table.room(8)
    calls, (near, far) = steps.Calls(), os.pipe()
    calls.add("getpid", into=place)
    calls.write(0, f"/proc/self/fd/{far}", b"by its number")
    assert table.walk(table.lay(calls, done, failed)) == done
    assert ctypes.c_int64.from_address(place).value == os.getpid()
    assert os.read(near, 100) == b"by its number"
    files = [f"/proc/self/fd/{file}" for file in os.listdir("/proc/self/fd")]
    ends = [path for path in files if os.path.lexists(path) and os.readlink(path) == os.readlink(f"/proc/self/fd/{far}")]
    assert len(ends) == 3  # the two, and the one that `write` opened
    for path in ends:
        os.close(int(os.path.basename(path)))


def test_a_walk_branches_on_what_a_call_gave(table):
    above, zero, failed = table.end(), table.end(), table.end()
    near, far = os.pipe()
    read = table.lay([steps.call("read", near, table.room(8), 8)], above, failed, zero=zero)
    os.write(far, b"x")
    assert table.walk(read) == above
    os.close(far)
    assert table.walk(read) == zero
    os.close(near)
    assert table.walk(read) == failed
    trouble = table.trouble(failed)
    assert (trouble.errno, trouble.strerror) == (errno.EBADF, "read: Bad file descriptor")


def test_a_message_says_which_step_is_next(table):
    other, end, unused = table.end(), table.end(), table.end()
    near, far = os.pipe()
    ask = table.room(steps.SIZE)
    table.lay([steps.call("read", near, table.follower(ask), 8)], unused, unused, at=ask)
    for wanted in (end, other):
        os.write(far, wanted.to_bytes(8, "little"))
        assert table.walk(ask) == wanted
    os.close(near)
    os.close(far)


def test_a_table_that_is_full_says_so():
    with pytest.raises(MemoryError, match="room"):
        steps.Table(4096).room(4097)


@pytest.mark.parametrize("level", ["strict", "process"])
def test_a_server_without_machine_code_runs_as_well(level, monkeypatch):
    starting.close()
    boot = starting._BOOT.replace(
        "from payoff.sandbox.server", "from payoff.sandbox import steps; steps._CODES.clear(); from payoff.sandbox.server"
    )
    monkeypatch.setattr(starting, "_BOOT", boot)
    sandbox = Sandbox(level)
    try:
        assert [sandbox.run_python(f"print({k})").stdout for k in range(6)] == [f"{k}\n" for k in range(6)]
    except starting.SandboxError as error:
        if level == "process":
            raise
        pytest.skip(str(error))
    assert sandbox.run_python("while True: pass", limits=Limits(wall=0.2)).ended is Ended.TIME
    starting.close()
