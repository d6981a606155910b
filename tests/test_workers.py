"""Graders in worker processes: the same verdicts, deadlines that hold, and nothing left behind, whatever a grader does."""

import contextlib
import functools
import gc
import math
import os
import pickle
import signal as signals
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from payoff import workers
from payoff.grading import (
    GraderError,
    GraderSignal,
    PicklingError,
    WorkerError,
    load_callable,
    signal,
)
from payoff.trajectories import Trajectories

# Graders for the workers live in a file of their own: they are loaded from it by path, as a user's are, and import nothing heavy.
GRADERS = '''
import os, re, signal, subprocess, sys, threading, time
from functools import partial

def correct(response, reference):
    return float(response == reference)

def sevenths(response):
    return int(response) / 7

def mixed(response):
    """One kind of answer after the other."""
    n = int(response)
    kinds = [n / 7, True, None, float("nan"), "yes", [0.5, 1.0], {"a": n, "b": None}, {"a": 0.5}, 10**400, object()]
    if n % 11 == 10:
        raise ValueError(f"row {n}")
    return kinds[n % 11]

def trouble(response):
    """Everything that a grader can do wrong."""
    if response == "hang":
        time.sleep(1000)
    if response == "spin":
        while True:
            pass
    if response == "power":
        return 10 ** 10 ** 9
    if response == "backtrack":
        return bool(re.match(r"(a+)+$", "a" * 60 + "b"))
    if response == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(1000)
    if response == "exit":
        os._exit(7)
    if response == "quit":
        sys.exit("enough")
    if response == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if response == "segfault":
        import ctypes
        ctypes.string_at(0)
    if response == "raise":
        raise ValueError("no number in it")
    if response == "text":
        return "yes"
    if response == "print":
        print("said on stdout")
        print("said on stderr", file=sys.stderr)
        return 1.0
    return float(response)

def brings_torch(response):
    return float("torch" in sys.modules)

def where(response):
    return float(os.getpid())

def parent(response):
    return float(os.getppid())

def descriptors(response):
    return float(len(os.listdir("/dev/fd")))

def child_of_its_own(response):
    """Starts a process, writes down its number, and answers, hangs or dies with it running."""
    child = subprocess.Popen(["sleep", "1000"])
    with open(response[1:], "w") as file:
        file.write(str(child.pid))
    if response[0] == "d":
        os._exit(3)
    if response[0] == "h":
        time.sleep(1000)
    return 1.0

def of_group(response):
    return [len(response) * 10 + k for k, _ in enumerate(response)]

def group_that_hangs(response):
    if "hang" in response:
        time.sleep(1000)
    return [1.0] * len(response)

class Tolerant:
    def __init__(self, tolerance):
        self.tolerance = tolerance
    def __call__(self, response, reference):
        return abs(float(response) - float(reference)) <= self.tolerance

class Unreadable:
    """Pickles, and cannot be read again."""
    def __reduce__(self):
        return (int, ("no number",))

class Poison:
    """Whoever unpickles it dies."""
    def __reduce__(self):
        return (os._exit, (5,))
'''


@pytest.fixture(scope="session")
def graders(tmp_path_factory):
    path = tmp_path_factory.mktemp("graders") / "my_graders.py"
    path.write_text(GRADERS)
    return lambda name: load_callable(f"{path}:{name}")


@pytest.fixture
def lift():
    """`signal`, whose worker processes end with the test."""
    lifted = []

    def make(*args, **options):
        lifted.append(signal(*args, **options))
        return lifted[-1]

    yield make
    for each in lifted:
        each.close()


def rollouts(responses, *, group=None, steps=None, first_id=0, **fields):
    """One trajectory per response, of as many actions as it has steps (1 where none are given); ids from `first_id`."""
    n = len(responses)
    steps = torch.tensor(steps or [1] * n, dtype=torch.int64)
    position = torch.arange(int(steps.max()) if n else 1).repeat(n, 1)
    exists = position < steps[:, None]
    return Trajectories(
        mask=exists,
        length=steps,
        group=torch.zeros(n, dtype=torch.int64) if group is None else torch.tensor(group),
        step=torch.where(exists, position, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=position.clone(),
        id=torch.arange(first_id, first_id + n),
        items=[{"response": r, **{name: column[i] for name, column in fields.items()}} for i, r in enumerate(responses)],
    )


# --- worker processes


def assert_same_rewards(one, other):
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name].value, other[name].value)
        assert torch.equal(one[name].valid, other[name].valid)
        assert one[name].reasons == other[name].reasons
        assert list(one[name].reasons) == list(other[name].reasons)


def alive(pid):
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """Every process below, living or zombie."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child), *descendants(int(child))]
    return found


def descriptors():
    """What this process holds open, each with what it leads to; garbage of earlier tests is closed first."""
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")


@pytest.mark.parametrize("name", ["sevenths", "mixed", "of_group"])
def test_rewards_are_the_same_in_process_and_in_any_number_of_workers(graders, lift, name):
    view = "group" if name == "of_group" else "item"
    n = 5000
    traj = rollouts([str(i) for i in range(n)], group=[i * 7919 % 61 for i in range(n)], steps=[1 + i % 3 for i in range(n)])
    rewards = [lift(graders(name), sees=view, workers=k, deadline=5.0 if k == 2 else None)(traj) for k in (0, 1, 2)]
    assert_same_rewards(rewards[0], rewards[1])
    assert_same_rewards(rewards[0], rewards[2])


def test_partials_and_objects_go_to_workers(graders, lift):
    traj = rollouts(["1.0", "1.3"], reference=["1.2", "1.2"])
    assert lift(graders("Tolerant")(0.15), workers=1)(traj)["Tolerant"].value.flatten().tolist() == [0, 1]
    assert lift(graders("Tolerant")(0.25).__call__, name="r", workers=1)(traj)["r"].value.flatten().tolist() == [1, 1]
    partial = functools.partial(graders("correct"), reference="1.3")
    assert lift(partial, workers=1)(traj)["correct"].value.flatten().tolist() == [0, 1]


def test_graders_of_installed_modules_go_to_workers(lift):
    reward = lift(statistics.fmean, workers=1)
    assert reward(rollouts(["x"], data=[[1.0, 2.0]]))["fmean"].value.item() == 1.5


@pytest.mark.slow
def test_graders_of_a_test_module_go_to_workers(lift):
    assert lift(grader_of_this_module, workers=1)(rollouts(["ab"]))["grader_of_this_module"].value.item() == 2.0


def grader_of_this_module(response):
    return len(response)


def test_a_worker_holds_no_torch_that_its_grader_did_not_bring(graders, lift):
    assert "torch" in sys.modules
    assert lift(graders("brings_torch"), workers=1)(rollouts(["x"]))["brings_torch"].value.item() == 0.0


def test_ten_members_that_hang_die_raise_and_talk_cost_one_verdict_each(graders, lift):
    responses = ["1", "hang", "exit", "2", "raise", "text", "kill", "spin", "quit", "3"]
    reward = lift(graders("trouble"), workers=2, deadline=0.3)
    traj = rollouts(responses, group=[0] * 10)
    start = time.monotonic()
    channel = reward(traj)["trouble"]
    assert time.monotonic() - start < 8
    late = "deadline of 0.3 s exceeded"
    assert channel.reasons == {
        1: late,
        2: "worker died (exit code 7)",
        4: "ValueError: no number in it",
        5: "gave a str ('yes'), not a number",
        6: "worker died (signal SIGKILL)",
        7: late,
        8: "SystemExit: enough",
    }
    assert channel.value.flatten().tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 3]
    assert channel.valid.flatten().tolist() == [i in (0, 3, 9) for i in range(10)]
    assert_same_rewards({"trouble": reward(traj)["trouble"]}, {"trouble": channel})  # the pool is as good as new


@pytest.mark.parametrize("response", ["power", "backtrack", "deaf"])
def test_a_deadline_holds_against_long_calls_into_c_and_against_deaf_graders(graders, lift, response):
    reward = lift(graders("trouble"), workers=1, deadline=0.25)
    reward(rollouts(["0"]))
    start = time.monotonic()
    channel = reward(rollouts(["1", response, "2"]))["trouble"]
    assert time.monotonic() - start < 3
    assert channel.value.flatten().tolist() == [1, 0, 2]
    assert channel.reasons == {1: "deadline of 0.25 s exceeded"}


def test_a_crash_in_c_names_its_signal(graders, lift):
    channel = lift(graders("trouble"), workers=1)(rollouts(["segfault", "2"]))["trouble"]
    assert channel.reasons == {0: "worker died (signal SIGSEGV)"}
    assert channel.value.flatten().tolist() == [0, 2]


def test_the_deadline_is_of_one_item_and_not_of_the_batch(tmp_path, lift):
    (tmp_path / "slow.py").write_text("import time\ndef slow(response):\n    time.sleep(0.05)\n    return 1.0\n")
    channel = lift(load_callable(f"{tmp_path}/slow.py"), workers=1, deadline=0.4)(rollouts(["x"] * 12))["slow"]
    assert channel.reasons == {}


def test_a_group_that_hangs_is_invalid_as_a_whole_and_the_others_are_not(graders, lift):
    reward = lift(graders("group_that_hangs"), sees="group", workers=2, deadline=0.3)
    channel = reward(rollouts(["a", "hang", "b", "c"], group=[0, 1, 1, 0]))["group_that_hangs"]
    assert channel.reasons == dict.fromkeys([1, 2], "deadline of 0.3 s exceeded")
    assert channel.value.flatten().tolist() == [1, 0, 0, 1]


def test_deadlines_and_deaths_are_not_remembered(graders, lift):
    reward = lift(graders("trouble"), workers=1, deadline=0.2, cache=True)
    for _ in range(2):
        assert sorted(reward(rollouts(["hang", "exit", "text", "1"]))["trouble"].reasons) == [0, 1, 2]
    assert (reward.stats["graded"], reward.stats["cached"]) == (6, 2)


def test_what_a_worker_prints_is_seen_even_if_it_is_killed(graders, lift, capfd, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    lift(graders("trouble"), workers=1, deadline=0.3)(rollouts(["print", "hang"]))
    said = capfd.readouterr()
    assert said.out == "said on stdout\n"
    assert said.err == "said on stderr\n"


def test_a_grader_that_cannot_be_pickled_is_refused_at_the_first_batch(lift):
    reward = lift(lambda response: 1.0, name="local", workers=1)
    with pytest.raises(PicklingError, match="local: the grader cannot be pickled") as caught:
        reward(rollouts(["a"]))
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, GraderError)


def test_arguments_that_cannot_be_sent_cost_their_own_rows(lift, graders):
    traj = rollouts([str(i) for i in range(40)])
    traj.items[17]["response"] = threading.Lock()
    channel = lift(graders("sevenths"), workers=2)(traj)["sevenths"]
    assert list(channel.reasons) == [17]
    assert channel.reasons[17].startswith("the arguments cannot be sent to a worker: TypeError: cannot pickle")
    assert int(channel.valid.sum()) == 39


def test_arguments_that_cannot_be_read_are_invalid_with_the_reason(lift, graders):
    channel = lift(graders("sevenths"), workers=1)(rollouts([graders("Unreadable")()]))["sevenths"]
    assert channel.reasons == {
        0: "the worker cannot read the arguments: ValueError: invalid literal for int() with base 10: 'no number'"
    }


def test_arguments_that_kill_their_reader_cost_their_own_row(lift, graders):
    channel = lift(graders("sevenths"), workers=1)(rollouts(["7", graders("Poison")(), "14"]))["sevenths"]
    assert channel.reasons == {1: "worker died (exit code 5)"}
    assert channel.value.flatten().tolist() == [1, 0, 2]


def test_a_grader_that_does_not_load_in_a_worker_is_an_error_that_says_why(lift, tmp_path):
    (tmp_path / "shy.py").write_text(
        "import sys\nif 'torch' not in sys.modules:\n    raise OSError('not here')\ndef shy(response): return 1\n"
    )
    with pytest.raises(WorkerError, match="shy: a worker process cannot load the grader: OSError: not here"):
        lift(load_callable(f"{tmp_path}/shy.py"), workers=2)(rollouts(["a"]))


def test_workers_that_die_while_they_load_are_given_up_after_a_few(lift, tmp_path):
    (tmp_path / "fatal.py").write_text(
        "import os, sys\nif 'torch' not in sys.modules:\n    os._exit(9)\ndef fatal(response): return 1\n"
    )
    with pytest.raises(WorkerError, match=r"fatal: worker processes keep dying before they grade anything \(exit code 9\)"):
        lift(load_callable(f"{tmp_path}/fatal.py"), workers=2)(rollouts(["a"]))


def test_the_same_processes_serve_batch_after_batch(graders, lift):
    reward = lift(graders("where"), workers=1)
    assert len({reward(rollouts(["a"]))["where"].value.item() for _ in range(3)}) == 1


def test_a_grader_is_loaded_at_most_once_more_however_many_workers_are_killed(lift, tmp_path):
    log = tmp_path / "loads"
    (tmp_path / "heavy.py").write_text(
        f"import time\nopen({str(log)!r}, 'a').write('x')\n"
        "def heavy(response):\n    if response == 'hang':\n        time.sleep(100)\n    return 1.0\n"
    )
    grader = load_callable(f"{tmp_path}/heavy.py")
    log.write_text("")
    channel = lift(grader, workers=1, deadline=0.3)(rollouts(["hang", "1"] * 3))["heavy"]
    assert len(channel.reasons) == 3
    assert log.read_text() == "xx"  # by the first worker, then for all that follow it


def test_a_grader_that_opens_files_as_it_loads_gets_its_own_in_every_worker(lift, tmp_path):
    log = tmp_path / "loads"
    (tmp_path / "opens.py").write_text(
        f"import time\nlog = open({str(log)!r}, 'a', buffering=1)\nlog.write('x\\n')\n"
        "def opens(response):\n    if response == 'hang':\n        time.sleep(100)\n    return 1.0\n"
    )
    grader = load_callable(f"{tmp_path}/opens.py")
    log.write_text("")
    lift(grader, workers=1, deadline=0.1)(rollouts(["hang", "1", "hang", "1"]))
    assert log.read_text() == "x\n" * 3


@needs_proc
def test_no_more_workers_start_than_there_is_work_for(graders, lift):
    reward = lift(graders("where"), workers=3)
    reward(rollouts([]))
    assert reward._pool._running is None
    reward(rollouts(["a"]))
    starter = reward._pool._running.process.pid
    assert len(descendants(starter)) == 1
    reward(rollouts(["a"] * 50))
    assert len(descendants(starter)) == 3


@needs_proc
@pytest.mark.parametrize("how", ["dies", "hangs", "answers"])
def test_what_a_grader_started_ends_with_its_worker(graders, lift, tmp_path, how):
    note = tmp_path / "pid"
    reward = lift(graders("child_of_its_own"), workers=1, deadline=0.5)
    reasons = reward(rollouts([f"{how[0]}{note}"]))["child_of_its_own"].reasons
    if how == "answers":
        assert alive(int(note.read_text()))
        reward.close()
    assert len(reasons) == (how != "answers")
    until(lambda: not alive(int(note.read_text())))


@needs_proc
def test_no_process_no_zombie_and_no_descriptor_is_left_behind(graders):
    def rounds():
        reward = signal(graders("trouble"), workers=2, deadline=0.1)
        reward(rollouts(["hang", "exit", "1", "kill"]))
        return reward

    rounds().close()
    files, before = descriptors(), set(descendants(os.getpid()))
    for end in (GraderSignal.close, lambda reward: None):
        reward = rounds()
        assert set(descendants(os.getpid())) - before
        end(reward)
        del reward
        assert not descriptors() - files
        assert not set(descendants(os.getpid())) - before


@needs_proc
def test_replaced_workers_leave_no_zombies_and_no_descriptors(graders, lift):
    others = set(descendants(os.getpid()))
    reward = lift(graders("trouble"), workers=1)
    count = lift(graders("descriptors"), workers=1)
    reward(rollouts(["1"]))
    of_worker, files = count(rollouts(["x"]))["descriptors"].value.item(), descriptors()
    reward(rollouts(["exit", "kill", "1"] * 5))
    # The new worker's own two ends lie where the old one's lay, or beside them.
    assert len(descriptors() - files) <= len(files - descriptors())
    assert count(rollouts(["x"]))["descriptors"].value.item() == of_worker <= 8
    assert all(alive(pid) or not Path(f"/proc/{pid}").exists() for pid in set(descendants(os.getpid())) - others)


SCRIPT = """
import os, sys, time
from payoff.grading import load_callable, signal
import torch
from payoff.trajectories import Trajectories

def batch(responses):
    n = len(responses)
    one = torch.ones(n, 1, dtype=torch.bool)
    zero = torch.zeros(n, dtype=torch.int64)
    return Trajectories(one, one.sum(1), zero, one.int() - 1, zero, one.long(), items=[{"response": r} for r in responses])
"""


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + textwrap.dedent(text))
    return [sys.executable, str(path)]


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("response", ["hang", "1"])
def test_workers_end_when_their_owner_is_killed(graders, tmp_path, response):
    command = script(
        tmp_path,
        f"""
        reward = signal(load_callable({graders("trouble").__code__.co_filename + ":trouble"!r}), workers=2)
        reward(batch(["1"] * 50))
        print("ready", flush=True)
        reward(batch(["{response}"]))
        time.sleep(1000)
        """,
    )
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "ready\n"
    time.sleep(0.2)
    below = descendants(owner.pid)
    assert len(below) >= 2
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not any(map(alive, below)))


@needs_proc
def test_workers_end_when_the_process_that_starts_them_is_killed_and_the_batch_goes_on(graders, lift):
    reward = lift(graders("trouble"), workers=1, deadline=20.0)
    reward(rollouts(["1"]))
    starter = reward._pool._running.process
    (worker,) = descendants(starter.pid)
    killer = threading.Timer(0.3, starter.kill)
    killer.start()
    channel = reward(rollouts(["1", "hang", "2"]))["trouble"]
    assert channel.reasons == {1: "worker died (the process that starts workers was ended)"}
    assert channel.value.flatten().tolist() == [1, 0, 2]
    until(lambda: not alive(worker))


@needs_proc
def test_a_worker_that_died_between_batches_costs_no_verdict(graders, lift):
    reward = lift(graders("where"), workers=1)
    pid = int(reward(rollouts(["a"]))["where"].value.item())
    os.kill(pid, signals.SIGKILL)
    until(lambda: not alive(pid))
    channel = reward(rollouts(["a"]))["where"]
    assert channel.reasons == {}
    assert channel.value.item() != pid


@needs_proc
def test_a_forked_copy_of_the_owner_neither_keeps_the_workers_nor_ends_them(graders, lift):
    reward = lift(graders("trouble"), workers=1)
    reward(rollouts(["1"]))
    starter = reward._pool._running.process.pid
    below = [starter, *descendants(starter)]
    pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            del reward
            gc.collect()
            code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert reward(rollouts(["2"]))["trouble"].value.item() == 2.0
    sleeper = os.fork()
    if not sleeper:
        time.sleep(1000)
        os._exit(0)
    try:
        start = time.monotonic()
        reward.close()
        assert time.monotonic() - start < 5
        until(lambda: not any(map(alive, below)))
    finally:
        os.kill(sleeper, signals.SIGKILL)
        os.waitpid(sleeper, 0)


def test_an_interrupt_in_the_middle_ends_the_workers_and_the_next_batch_starts_anew(graders, lift):
    reward = lift(graders("trouble"), workers=2)
    reward(rollouts(["1"]))

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signals.signal(signals.SIGALRM, interrupt)
    try:
        signals.setitimer(signals.ITIMER_REAL, 0.3)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            reward(rollouts(["hang", "hang"]))
        assert time.monotonic() - start < 5
    finally:
        signals.setitimer(signals.ITIMER_REAL, 0)
        signals.signal(signals.SIGALRM, before)
    assert reward(rollouts(["3"]))["trouble"].value.item() == 3.0


def test_a_signal_may_be_called_from_several_threads(graders, lift):
    reward = lift(graders("sevenths"), workers=2, deadline=10.0)
    results = {}

    def call(k):
        results[k] = reward(rollouts([str(k * 1000 + i) for i in range(500)]))["sevenths"].value.flatten()

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        assert torch.equal(results[k], torch.tensor([(k * 1000 + i) / 7 for i in range(500)]))


@pytest.mark.slow
def test_graders_of_a_guarded_main_script_go_to_workers(tmp_path):
    command = script(
        tmp_path,
        """
        def grade(response):  # the name of something else in a worker's own script
            return len(response)

        if __name__ == "__main__":
            print(signal(grade, workers=2)(batch(["a", "bcd"]))["grade"].value.flatten().tolist())
        """,
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout == "[1.0, 3.0]\n", done.stderr


@pytest.mark.slow
def test_an_unguarded_main_script_is_told_to_guard_itself(tmp_path):
    command = script(
        tmp_path,
        """
        def length(response):
            return len(response)

        signal(length, workers=1)(batch(["a"]))
        """,
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_grader_typed_at_a_prompt_is_refused_for_workers():
    code = SCRIPT + "\ndef g(response): return 1\nsignal(g, workers=1)(batch(['a']))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert "PicklingError: g: the grader was typed at a prompt" in done.stderr.splitlines()[-1]


def test_the_record_of_a_killed_worker_ends_before_the_item_in_its_hands(graders, lift):
    # Odd answers are written one by one, so those before the kill are there and none is graded again.
    responses = ["text"] * 30 + ["hang"] + ["raise"] * 30 + ["exit"] + ["5"] * 3
    channel = lift(graders("trouble"), workers=1, deadline=0.3)(rollouts(responses))["trouble"]
    assert [channel.reasons[i][:6] for i in range(62)] == ["gave a"] * 30 + ["deadli"] + ["ValueE"] * 30 + ["worker"]
    assert channel.value.flatten().tolist() == [0] * 62 + [5] * 3


def test_a_unit_interrupted_only_because_its_worker_was_late_to_die_is_graded_anew(graders):
    pool = workers.Workers(graders("sevenths"), 1, 5.0, "late")
    try:
        work = workers.Work([["7", "14", "21"]], False)
        pool.run(work)
        slot = pool._running.slots[0]
        pool._work, pool._todo = work, workers.deque()
        pool._numbers, pool._odd = workers.array("d", [math.nan] * 3), {}
        slot.chunk, slot.judged, slot.size = (0, 3), 0, 0
        slot.progress[0], slot.progress[1] = 1, 0  # it has finished unit 0, for which it is killed, and begun unit 1
        slot.values[0], slot.values[1], slot.values[2] = 1.0, math.nan, math.nan
        pool._lost(pool._running, slot, "signal SIGKILL")
        assert pool._numbers[0] == 1.0
        assert list(pool._todo) == [(1, 3)]
        assert pool._odd == {}
    finally:
        pool.close()


@pytest.mark.slow
def test_a_pickled_signal_is_read_by_a_process_that_never_saw_its_file(graders):
    data = pickle.dumps(signal(graders("sevenths")))
    code = f"import pickle; print(pickle.loads({data!r}).__wrapped__('14'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2.0\n"
