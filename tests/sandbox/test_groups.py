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


class Kernel:
    """A folder that behaves as the kernel's groups do, as far as files go: a new group has the files of what is handed down to it,
    and goes with them when no group or process is left inside."""

    def __init__(self, top: Path, monkeypatch) -> None:
        self.mkdir, self.rmdir = os.mkdir, os.rmdir
        self._files(str(top), {"memory", "pids"})
        monkeypatch.setattr(groups.os, "mkdir", self.made)
        monkeypatch.setattr(groups.os, "rmdir", self.removed)
        monkeypatch.setattr(groups, "_write", self.written)

    def _files(self, folder: str, controllers: set[str]) -> None:
        texts = {"cgroup.procs": "", "cgroup.subtree_control": ""}
        if "memory" in controllers:
            texts |= {"memory.max": "max", "memory.oom.group": "0", "memory.swap.max": "max"}
            texts["memory.events"] = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n"
        if "pids" in controllers:
            texts["pids.max"] = "max"
        for name, text in texts.items():
            Path(folder, name).write_text(text)

    def made(self, folder: str) -> None:
        self.mkdir(folder)
        self._files(folder, set(Path(folder).parent.joinpath("cgroup.subtree_control").read_text().split()))

    def removed(self, folder: str) -> None:
        if any(entry.is_dir() for entry in os.scandir(folder)) or Path(folder, "cgroup.procs").read_text():
            raise OSError(16, "Device or resource busy")
        for entry in os.scandir(folder):
            os.unlink(entry.path)
        self.rmdir(folder)

    def written(self, path: str, text: bytes) -> None:
        if path.endswith("subtree_control"):
            if Path(path).with_name("cgroup.procs").read_text():  # processes are inside
                raise OSError(16, "Device or resource busy")
            text = text.replace(b"+", b"")
        Path(path).write_bytes(text)


def test_a_run_s_limits_are_written_to_its_group_and_kills_for_memory_are_read_from_it(tmp_path, monkeypatch):
    Kernel(tmp_path, monkeypatch)
    (tmp_path / "cgroup.subtree_control").write_text("memory pids")
    folder = tmp_path / "payoff-sandbox-1-1"
    made = groups.make(str(folder), 2, os.getuid())
    inside = {name: (folder / "0" / name).read_text() for name in ("memory.oom.group", "memory.swap.max", "memory.max")}
    assert inside == {"memory.oom.group": "1", "memory.swap.max": "0", "memory.max": "max"}
    assert (folder / "server" / "cgroup.procs").read_text() == "0"  # which is whoever writes it
    made[0].limit(100 << 20, 7)
    assert (folder / "0" / "memory.max").read_text() == str((100 << 20) + (8 << 20))  # 8 MiB for the kernel's own
    assert (folder / "0" / "pids.max").read_text()[:1] == "7"
    assert (folder / "1" / "memory.max").read_text() == "max"
    assert not made[0].killed_for_memory()
    (folder / "0" / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\noom_group_kill 1\n")
    assert [made[0].killed_for_memory(), made[0].killed_for_memory(), made[1].killed_for_memory()] == [True, False, False]
    groups.remove(str(folder), patience=0.0)
    assert folder.exists()  # its server is inside
    (folder / "server" / "cgroup.procs").write_text("")
    groups.remove(str(folder), patience=0.0)
    assert not folder.exists()


def test_where_a_controller_is_not_handed_down_there_are_no_groups(tmp_path, monkeypatch):
    Kernel(tmp_path, monkeypatch)
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    monkeypatch.setattr(groups, "CONTROLLERS", ("memory",))
    with pytest.raises(OSError, match=r"pids\.max"):
        groups.make(str(tmp_path / "payoff-sandbox-1-1"), 1, os.getuid())


def hierarchies() -> list[str]:
    """Where version 2 is mounted and may be written to, with or without controllers."""
    with open("/proc/mounts") as file:
        return [line.split()[1] for line in file if " cgroup2 " in line and os.access(line.split()[1], os.W_OK)]


# In an interpreter of its own, which has one thread: a raw copy of one with several may wait for a thread that it does not have.
BORN = """
import ctypes, os, sys
from pathlib import Path
from payoff.sandbox import kernel, steps
folder = Path(sys.argv[1])
group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
table, (near, far) = steps.Table(1 << 16), os.pipe()
wanted, end = table.room(kernel.GROUPED), table.end()
ctypes.memmove(wanted, kernel.into_group(0, group), kernel.GROUPED)
last = table.lay([steps.call("exit_group", 0)], end, end)
child = table.lay([steps.call("read", near, table.room(8), 1)], last, last)
pids = [kernel.clone(0, group)]
if pids == [0]:
    os.read(near, 1)
    os._exit(0)
table.walk(table.lay([steps.call("clone3", wanted, kernel.GROUPED, into=(place := table.room(8)))], end, end, zero=child))
pids.append(ctypes.c_int64.from_address(place).value)
print(sorted(map(int, (folder / "cgroup.procs").read_text().split())) == sorted(pids))
os.write(far, b"!!")
for pid in pids:
    kernel.wait(pid)
"""


@pytest.mark.skipif(not hierarchies(), reason="version 2 is not mounted, or may not be written to")
def test_children_are_born_into_a_group_of_the_real_hierarchy_by_one_call_and_by_a_table():
    folder = Path(hierarchies()[0], f"payoff-test-{os.getpid()}")
    folder.mkdir()
    try:
        done = subprocess.run([sys.executable, "-c", BORN, str(folder)], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("True\n", "")
    finally:
        os.rmdir(folder)


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
