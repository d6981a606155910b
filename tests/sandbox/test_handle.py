"""The handle: what a run gives, from wherever it is called, and what happens when parts of the machinery are killed."""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from payoff.sandbox import LEVELS, Ended, Limits, Sandbox, SandboxError, starting
from payoff.sandbox.server import AHEAD


@pytest.fixture(params=LEVELS)
def sandbox(request):
    sandbox = Sandbox(request.param)
    try:
        sandbox.run_python("")
    except SandboxError as error:
        if request.param == "process":
            raise
        pytest.skip(str(error))
    return sandbox


def server_of(sandbox):
    return next(started for kind, started in starting._running.items() if kind.level == sandbox.level and kind.view == "python")


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid):
    """The processes that have a program or wait for one; a server's first child is the one that they are forked by."""
    return children(pid)[1:]


def living(pids):
    """Those that run, each with when it began, as numbers are given again; what nobody waits for stays in the list, as ended."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found |= {(pid, told[19])} if told[0] != "Z" else set()
    return found


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("it never came")


LONG_CALL_IN_C = "9 ** (10 ** 9)"


def long_call_in_c(sandbox):
    """How a run ends that spends its time in one call; from wherever this is called."""
    return sandbox.run_python(LONG_CALL_IN_C, limits=Limits(wall=0.2)).ended


def answer_in_child(sandbox):
    return sandbox.run_python("print(6 * 7)").stdout


# --- what a run gives


def test_a_program_reads_writes_and_ends_with_its_code(sandbox):
    run = sandbox.run_python("import sys\nprint(input()[::-1])\nprint('no', file=sys.stderr)\nsys.exit(3)", stdin="żółw\n")
    assert (run.ended, run.exit_code, run.stdout, run.stderr) == (Ended.ERROR, 3, "włóż\n", "no\n")
    assert run.level == sandbox.level
    assert "seccomp" in run.isolation
    assert 0 < run.cpu < 10
    assert 0 < run.wall < 10
    assert run.peak_memory > 1 << 20


def test_an_uncaught_exception_shows_the_line_and_is_the_reason(sandbox):
    run = sandbox.run_python("x = 1\nprint(x / 0)\n")
    assert run.ended is Ended.ERROR
    assert "print(x / 0)" in run.stderr
    assert run.reason == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("source", "ended"),
    [
        ("while True: pass", Ended.TIME),
        ("import time; time.sleep(60)", Ended.TIME),
        ("9 ** (10 ** 9)", Ended.TIME),
        ("x = bytearray(1 << 33)", Ended.MEMORY),
        ("import os\nwhile True: os.write(1, bytes(1 << 20))", Ended.OUTPUT),
        ("raise SystemExit('no')", Ended.ERROR),
        ("import ctypes; ctypes.string_at(0)", Ended.ERROR),
        ("pass", Ended.FINISHED),
    ],
)
def test_a_result_says_why_the_run_ended(sandbox, source, ended):
    run = sandbox.run_python(source, limits=Limits(wall=0.5) if ended is Ended.TIME else Limits())
    assert run.ended is ended
    assert bool(run.reason) == (ended is not Ended.FINISHED)


def test_processor_time_of_all_processes_counts(sandbox):
    run = sandbox.run_python("while True: pass", limits=Limits(cpu=0.5, wall=20))
    assert run.ended is Ended.CPU
    assert run.wall < 19


def test_output_beyond_the_limit_is_cut_and_said_so(sandbox):
    run = sandbox.run_python("print('x' * 5000)", limits=Limits(output=1000))
    assert run.truncated
    assert run.stdout == "x" * 1000
    assert run.ended is Ended.OUTPUT


def test_calls_after_one_that_ended_the_process_go_on_in_a_new_one(sandbox):
    source = "import os\ndef f(n):\n    if n % 2: os._exit(0)\n    return n"
    cases = sandbox.call_function(source, "f", [((n,), {}) for n in range(5)])
    assert [case.returned for case in cases] == [True, False, True, False, True]
    assert [case.value for case in cases if case.returned] == [0, 2, 4]
    assert "before it answered" in cases[1].reason


def test_a_program_that_does_not_load_answers_no_call(sandbox):
    cases = sandbox.call_function("def f(:", "f", [((), {})] * 3)
    assert [case.reason.partition(":")[0] for case in cases] == ["SyntaxError"] * 3
    assert "defines no 'g'" in sandbox.call_function("def f(): 1", "g", [((), {})])[0].reason


def test_arguments_must_be_plain_data(sandbox):
    with pytest.raises(ValueError, match="plain data"):
        sandbox.call_function("def f(x): 1", "f", [((object(),), {})])
    assert sandbox.call_function("def f(x): 1", "f", []) == []


def test_packages_can_be_made_visible(sandbox, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "extra_module.py").write_text("value = 11\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    run = Sandbox(sandbox.level, packages=(str(tmp_path / "lib"),)).run_python("import extra_module; print(extra_module.value)")
    assert run.stdout == "11\n", run.stderr


def test_unknown_levels_and_limits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="level must be one of strict, process"):
        Sandbox("none")
    with pytest.raises(ValueError, match="wall must be seconds > 0"):
        Limits(wall=0)
    with pytest.raises(ValueError, match="memory must be at least"):
        Limits(memory=1)


def test_without_landlock_the_process_level_opens_no_file_at_all():
    run = Sandbox("process", landlock=False).run_python("import json, decimal, asyncio, sqlite3\nprint(1)\nopen('/etc/passwd')")
    assert run.stdout == "1\n"
    assert "PermissionError" in run.reason
    assert "no-file-opened" in run.isolation


# --- from wherever it is called


def test_the_package_imports_no_torch_and_the_server_neither(sandbox):
    code = "import sys, payoff.sandbox; payoff.sandbox.Sandbox; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    maps = Path(f"/proc/{server_of(sandbox).process.pid}/maps").read_text()
    assert "torch" not in maps
    assert "numpy" not in maps


def test_threads_share_one_server(sandbox):
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda k: sandbox.run_python(f"print({k})").stdout, range(40)))
    assert outputs == [f"{k}\n" for k in range(40)]


def test_a_thread_that_started_the_server_may_end(sandbox):
    starting.close()
    thread = threading.Thread(target=sandbox.run_python, args=("",))
    thread.start()
    thread.join()
    pid = server_of(sandbox).process.pid
    assert answer_in_child(sandbox) == "42\n"
    assert server_of(sandbox).process.pid == pid


def test_async_code_runs_several_at_once(sandbox):
    async def several():
        return await asyncio.gather(*(asyncio.to_thread(sandbox.run_python, f"print({k})") for k in range(6)))

    assert [run.stdout for run in asyncio.run(several())] == [f"{k}\n" for k in range(6)]


def test_time_limits_hold_in_async_code_against_one_long_call_while_the_loop_goes_on(sandbox):
    async def beside():
        call, turns = asyncio.create_task(asyncio.to_thread(long_call_in_c, sandbox)), 0
        while not call.done():
            await asyncio.sleep(0.01)
            turns += 1
        return call.result(), turns

    ended, turns = asyncio.run(beside())
    assert ended is Ended.TIME
    assert turns > 2


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.slow
def test_children_get_servers_of_their_own(sandbox, method):
    pid = server_of(sandbox).process.pid
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy == sandbox
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert [run.stdout for run in pool.map(copy.run_python, ["print(6 * 7)"] * 4)] == ["42\n"] * 4
        assert pool.submit(copy.run_python, LONG_CALL_IN_C, limits=Limits(wall=0.2)).result().ended is Ended.TIME
    assert answer_in_child(sandbox) == "42\n"
    assert server_of(sandbox).process.pid == pid


def test_time_limits_hold_in_threads_against_one_long_call(sandbox):
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: sandbox.run_python("9 ** (10 ** 9)", limits=Limits(wall=0.3)), range(2)))
    assert {run.ended for run in runs} == {Ended.TIME}


@pytest.mark.exhaustive
def test_a_ray_actor_holds_a_handle_and_its_limits():
    """Its cheap sibling is the spawned child above: an actor is such a process, and the handle goes there by pickle too."""
    ray = pytest.importorskip("ray")

    class Grader:
        def __init__(self, sandbox):
            self.sandbox = sandbox

        def grade(self, source, wall):
            run = self.sandbox.run_python(source, limits=Limits(wall=wall))
            return run.ended.value, run.stdout, run.isolation

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(Grader).remote(Sandbox("process"))
        ended, stdout, isolation = ray.get(actor.grade.remote("print(6 * 7)", 10.0))
        assert (ended, stdout) == ("finished", "42\n")
        assert "seccomp" in isolation
        assert ray.get(actor.grade.remote(LONG_CALL_IN_C, 0.3))[0] == "time"
    finally:
        ray.shutdown()


# --- when parts are killed


def in_flight(sandbox, source="import time; time.sleep(60)"):
    """A run on its way, in a thread, and the server it is with; nobody waits there before, so that whoever comes has the run."""
    pid = server_of(sandbox).process.pid
    wait_for(lambda: runs(pid) == [])
    pool = ThreadPoolExecutor(1)
    future = pool.submit(sandbox.run_python, source, limits=Limits(wall=50))
    pool.shutdown(wait=False)
    return future, pid


def test_a_killed_server_loses_the_run_in_flight_and_the_next_works(sandbox):
    future, pid = in_flight(sandbox)
    wait_for(lambda: runs(pid))
    below = living(children(pid))
    os.kill(pid, signal.SIGKILL)
    run = future.result(timeout=10)
    assert run.ended is Ended.LOST
    assert run.lost
    assert sandbox.run_python("print(1)").stdout == "1\n"
    wait_for(lambda: not below & living(child for child, _ in below))


def test_every_run_in_flight_is_lost_with_its_server_and_all_that_follow_work(sandbox):
    copy = Sandbox(sandbox.level, concurrency=4)  # a server of its own
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(copy.run_python, "import time; time.sleep(60)", limits=Limits(wall=50)) for _ in range(4)]
        find = lambda: next((s for k, s in list(starting._running.items()) if k.concurrency == 4 and k.level == copy.level), None)
        pid = wait_for(find).process.pid
        wait_for(lambda: len(runs(pid)) >= 4)
        os.kill(pid, signal.SIGKILL)
        assert [future.result(timeout=10).ended for future in futures] == [Ended.LOST] * 4
        assert [run.stdout for run in pool.map(copy.run_python, ["print(1)"] * 4)] == ["1\n"] * 4


def test_a_killed_child_loses_its_run_alone(sandbox):
    future, pid = in_flight(sandbox)
    child = wait_for(lambda: runs(pid))[0]
    time.sleep(0.1)  # until it has its order: before that, it is replaced unseen
    os.kill(child, signal.SIGKILL)
    run = future.result(timeout=10)
    assert (run.ended, run.reason) == (Ended.LOST, "it was killed from outside")
    assert sandbox.run_python("print(1)").stdout == "1\n"
    assert server_of(sandbox).process.pid == pid


def test_a_killed_template_loses_the_run_in_flight_and_the_next_works(sandbox):
    future, pid = in_flight(sandbox)
    wait_for(lambda: runs(pid))
    os.kill(children(pid)[0], signal.SIGKILL)
    assert future.result(timeout=10).ended is Ended.LOST
    assert sandbox.run_python("print(1)").stdout == "1\n"
    assert server_of(sandbox).process.pid != pid


def test_those_that_wait_for_an_order_are_few_and_go_after_a_pause(sandbox):
    pid = server_of(sandbox).process.pid
    for k in range(30):
        assert sandbox.run_python(f"print({k})").stdout == f"{k}\n"
        assert len(runs(pid)) <= (AHEAD + 1 if sandbox.level == "strict" else 1)
    for child in runs(pid)[1:]:
        os.kill(child, signal.SIGKILL)  # one that waits is no run: none is lost with it
    assert [sandbox.run_python(f"print({k})").stdout for k in range(3)] == ["0\n", "1\n", "2\n"]
    wait_for(lambda: runs(pid) == [])


def test_a_run_that_is_over_before_its_child_looked_leaves_nothing_to_the_next(sandbox):
    for _ in range(4):
        sandbox.run_python("print('early')", limits=Limits(wall=1e-6))
    assert [sandbox.run_python(f"print({k})").stdout for k in range(12)] == [f"{k}\n" for k in range(12)]


def test_programs_of_any_length_arrive_whole(sandbox):
    for length in (10, 3900, 4100, 100_000):
        source = f"text = {'x' * length!r}\nprint(len(text), input())"
        assert sandbox.run_python(source, stdin="y").stdout == f"{length} y\n"


def test_an_idle_server_that_was_killed_is_replaced_unseen(sandbox):
    sandbox.run_python("")
    process = server_of(sandbox).process
    process.kill()
    process.wait()
    assert sandbox.run_python("print(1)").stdout == "1\n"


@pytest.mark.slow
def test_nothing_is_left_when_the_owner_is_killed(sandbox):
    code = (
        "import os, sys, threading, time\nfrom payoff.sandbox import Sandbox, starting\n"
        f"s = Sandbox({sandbox.level!r}); s.run_python('')\n"
        "print(next(iter(starting._running.values())).process.pid, flush=True)\n"
        "if os.fork() == 0: time.sleep(60)\n"  # a child that holds copies of every descriptor
        "s.run_python('import time; time.sleep(60)')"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    pid = int(owner.stdout.readline())
    wait_for(lambda: runs(pid))
    below = living([pid, *children(pid)])
    owner.kill()
    owner.wait()
    wait_for(lambda: not below & living(process for process, _ in below))
    os.killpg(owner.pid, signal.SIGKILL)
    owner.stdout.close()


def test_many_runs_leak_neither_descriptors_nor_processes_nor_memory(sandbox):
    for _ in range(20):
        sandbox.run_python("print(1)")
    pid = server_of(sandbox).process.pid
    gc.collect()  # what earlier tests left open is not closed between the two counts
    count = lambda: (len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir("/proc/self/fd")))
    resident = lambda: int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    wait_for(lambda: runs(pid) == [])
    before, held = count(), resident()
    for _ in range(60):
        sandbox.run_python("print(1)")
    wait_for(lambda: runs(pid) == [])
    assert all(after <= at_first for after, at_first in zip(count(), before, strict=True))
    assert resident() - held < 64  # pages


def test_a_stuck_server_is_given_up(sandbox, monkeypatch):
    monkeypatch.setattr("payoff.sandbox.handle.GRACE", 0.3)
    pid = server_of(sandbox).process.pid
    os.kill(pid, signal.SIGSTOP)
    run = sandbox.run_python("print(1)", limits=Limits(wall=0.2))
    assert (run.ended, run.reason) == (Ended.LOST, "the sandbox's server was stuck")
    monkeypatch.undo()
    assert sandbox.run_python("print(1)").stdout == "1\n"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_ordinary_user_has_the_same_walls(sandbox, tmp_path):
    """As nobody, with a library that nobody may read; skipped where this interpreter lies in a closed folder."""
    if any(not folder.stat().st_mode & 0o005 for folder in Path(os.__file__).parents):
        interpreter = "/usr/bin/python3"
        if not os.path.exists(interpreter):
            pytest.skip("this interpreter's library is closed to other users, and there is no other")
    else:
        interpreter = sys.executable
    source = Path(starting.__file__).parents[2]
    copy = tmp_path / "src" / "payoff"
    copy.parent.mkdir()
    subprocess.run(["cp", "-r", str(source / "payoff" / "sandbox"), str(copy.parent / "sandbox")], check=True)
    copy.mkdir()
    (copy.parent / "sandbox").rename(copy / "sandbox")
    (copy / "__init__.py").write_text("")
    folders = [tmp_path, *tmp_path.parents]
    for folder in folders[:-1]:
        folder.chmod(0o755) if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/") else None
    subprocess.run(["chmod", "-R", "a+rX", str(copy.parent)], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(copy.parent)!r})\nfrom payoff.sandbox import Sandbox, SandboxError\n"
        f"try: r = Sandbox({sandbox.level!r}).run_python('import os; print(os.getuid())')\n"
        "except SandboxError as error: print('refused', error)\nelse: print(r.ended, r.stdout, r.stderr, r.isolation)"
    )
    said = subprocess.run(
        [interpreter, "-c", code], capture_output=True, text=True, user=65534, group=65534, extra_groups=[], cwd="/"
    )
    if "refused" in said.stdout and "user namespace" in said.stdout:
        pytest.skip(said.stdout)
    assert said.stdout.startswith("finished 65534"), said.stdout + said.stderr
