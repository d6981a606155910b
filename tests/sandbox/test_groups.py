"""Control groups: where they can be made, that they hold where they are, and that nothing of them is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from payoff.sandbox import Ended, Limits, Sandbox, examine, groups, starting


def hierarchy(top: Path, handed: dict[str, str]) -> str:
    """A tree of folders as the kernel shows groups, each with the controllers that it hands down; the path of the deepest."""
    folder = top
    for name, controllers in handed.items():
        folder = folder / name if name else folder
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controllers)
        (folder / "cgroup.procs").write_text("")
    return str(folder)


def test_the_nearest_group_that_hands_memory_and_processes_down_is_taken(tmp_path):
    everything = "cpu memory pids\n"
    own = hierarchy(tmp_path, {"": everything, "user.slice": everything, "app.slice": "cpu memory\n", "mine.scope": ""})
    assert groups.above(str(tmp_path), own) == (str(tmp_path / "user.slice"), "")
    assert groups.above(str(tmp_path), str(tmp_path)) == (str(tmp_path), "")


def test_where_no_group_hands_them_down_that_is_the_reason(tmp_path):
    own = hierarchy(tmp_path, {"": "cpu\n", "docker": ""})
    assert groups.above(str(tmp_path), own) == (
        "",
        f"no group above this process's own, {own}, hands down memory and pids",
    )


def test_a_group_that_may_not_be_written_to_is_no_place(tmp_path, monkeypatch):
    own = hierarchy(tmp_path, {"": "memory pids\n", "session": ""})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    where, why = groups.above(str(tmp_path), own)
    assert where == ""
    assert "may be written to" in why


def test_groups_of_a_server_that_lives_are_not_removed_and_others_are(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"payoff-sandbox-{ended.pid}-1", f"payoff-sandbox-{os.getppid()}-2", "somebody-else"):
        (tmp_path / name / "server").mkdir(parents=True)
    monkeypatch.setattr(groups, "place", lambda: (str(tmp_path), ""))
    folder, why = groups.new_folder()
    assert why == ""
    assert folder.startswith(f"{tmp_path}/payoff-sandbox-{os.getpid()}-")
    assert sorted(os.listdir(tmp_path)) == sorted([f"payoff-sandbox-{os.getppid()}-2", "somebody-else"])


def test_a_result_and_the_doctor_agree_on_whether_there_are_groups():
    isolation = Sandbox("process").run_python("").isolation
    told = [line for line in examine()["missing"] if line.startswith("control groups: ")]
    assert bool(told) != ("control-groups" in isolation)
    assert all("every 50 ms instead" in line for line in told)


@pytest.mark.skipif(not groups.place()[0], reason=f"control groups: {groups.place()[1]}")
def test_a_group_holds_the_memory_of_all_processes_of_a_run_and_nothing_of_it_is_left():
    sandbox = Sandbox(concurrency=1)
    source = (
        "import os\nfor _ in range(4): os.fork()\nx = bytearray(60 << 20)\nfor k in range(0, len(x), 4096): x[k] = 1\nos.wait()"
    )
    run = sandbox.run_python(source, limits=Limits(memory=128 << 20, wall=20.0))
    assert "control-groups" in run.isolation
    assert run.ended is Ended.MEMORY
    folders = [started.groups for started in starting._running.values() if started.groups]
    assert folders
    starting.close()
    assert not any(map(os.path.exists, folders))
