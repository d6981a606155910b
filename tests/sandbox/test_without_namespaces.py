"""A container that forbids namespaces: made here by a filter that refuses them to a process and all it starts, as its own does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from payoff.sandbox import kernel

ATTACKS = Path(__file__).parents[1] / "attacks"
# One of each kind of attempt at isolation, which give True only where the forbidden thing worked.
ATTEMPTS = ("network/*", "files/*", "processes/*", "privileges/*")
OF_EACH = 4
WITHOUT = """
import errno, json, struct, sys
from payoff.sandbox import Limits, Sandbox, SandboxError, examine, kernel

clone, unshare, mount = (56, 272, 165) if kernel.MACHINE == "x86_64" else (220, 97, 40)
no = 0x00050000 | errno.EPERM
# Load the number; unshare and mount are refused, clone where its flags ask for a namespace.
lines = [(0x20, 0, 0, 0), (0x15, 4, 0, unshare), (0x15, 3, 0, mount), (0x15, 0, 3, clone)]
lines += [(0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), (0x06, 0, 0, no), (0x06, 0, 0, 0x7FFF0000)]
kernel.no_new_privileges()
kernel.Filter(b"".join(struct.pack("<HBBI", *line) for line in lines)).install()
said = {}
try:
    Sandbox().run_python("print(1)")
except SandboxError as error:
    said["refused"] = str(error)
weaker = Sandbox("process")
run = weaker.run_python("print(6 * 7)")
said["weaker"] = [run.ended, run.stdout, run.level, run.isolation]
said["forced"] = weaker.run_python("while True: pass", limits=Limits(wall=0.2)).ended
said["doctor"] = examine()
said["attempts"] = {}
for name, code in json.load(sys.stdin).items():
    [case] = weaker.call_function(code, "attack", [((), {})], limits=Limits(wall=5.0))
    said["attempts"][name] = [case.value, case.run.ended]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    if not kernel.SUPPORTED:
        pytest.skip("filters are written for x86_64 and aarch64")
    paths = [path for kind in ATTEMPTS for path in sorted(ATTACKS.glob(f"{kind}.py")) if "# levels: strict" not in path.read_text()]
    chosen = [path for kind in ATTEMPTS for path in [p for p in paths if p.parent.name == kind[:-2]][:OF_EACH]]
    codes = json.dumps({f"{path.parent.name}/{path.stem}": path.read_text() for path in chosen})
    done = subprocess.run([sys.executable, "-c", WITHOUT], input=codes, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_default_fails_closed_with_a_sentence_that_names_the_way_out(said):
    assert said["refused"] == (
        'this machine cannot give the level "strict": user namespace: unshare: Operation not permitted; '
        'where that cannot be had, Sandbox(level="process") is weaker and runs Python and SQL only'
    )


def test_the_weaker_level_works_where_it_is_asked_for_by_name_and_keeps_its_limits(said):
    ended, stdout, level, isolation = said["weaker"]
    assert (ended, stdout, level) == ("finished", "42\n", "process")
    assert {"seccomp", "no-new-privileges", "no-capabilities", "rlimits", "single-process"} <= set(isolation)
    assert not any("namespace" in guarantee for guarantee in isolation)
    assert said["forced"] == "time"


def test_attempts_at_isolation_fail_there_too(said):
    assert len(said["attempts"]) == OF_EACH * len(ATTEMPTS)
    assert {name for name, (value, _) in said["attempts"].items() if value is True} == set()
    assert {name for name, (_, ended) in said["attempts"].items() if ended == "lost"} == set()


def test_the_doctor_says_which_level_is_missing_and_why(said):
    assert any(line.startswith("sandbox strict: ") and "namespace" in line for line in said["doctor"]["missing"])
    assert any(line.startswith("sandbox process: ") for line in said["doctor"]["works"])
