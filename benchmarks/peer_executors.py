"""The attack corpus against the executor behind verl's code reward, side by side with payoff's; prints a table.

    python benchmarks/peer_executors.py [--families equality forgery introspection output honest] [--each 0] [--level strict]

verl grades code with `verl.utils.reward_score.prime_code.compute_score`, which runs it in a forked process with some functions of
the standard library taken away. Every attempt gets tests with secrets drawn anew. It succeeds if it is given any reward at all; an
honest program succeeds if it is given all of it. Of both contenders only grading is asked, not isolation: verl's executor promises
none, and attempts at the machine are not made. Left out besides: attempts that send signals, and those whose reference has no form
in verl's tests (types that JSON lacks, a tolerance, keyword arguments, methods of a class, C and C++). They are counted. The
corpus was written against payoff and knows no names of verl's: that an attempt fails there does not mean that its like would.

The peer runs in a child that is nobody, in namespaces of its own for network, processes, mounts and messages, with everything
read-only but a folder that is thrown away, and limits of memory, files and time.
Needs root on Linux, `unshare` and `setpriv`; never run it without them.
TRL has no executor of its own to compare with, and verl's `sandbox_fusion` is the client of a service.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
FAMILIES = ("equality", "forgery", "introspection", "output", "honest")
SIGNALS = ("kill", "SIG", "signal", "alarm", "abort")
NOBODY = 65534
# With the folder, a folder that others may not enter and the interpreter below it: of the closed folder the interpreter alone is
# left, and nothing but the first folder can be written to.
MOUNTS = """
mount --bind "$1" "$1"
if [ -n "$2" ]; then
  mkdir "$1/interpreter"; mount --bind "$3" "$1/interpreter"
  mount -t tmpfs -o mode=755 none "$2"; mkdir -p "$3"; mount --move "$1/interpreter" "$3"
fi
mount -o remount,bind,ro /
shift 3; exec "$@"
"""
SECONDS = 25.0  # for an attempt against the peer, all its tests together


def corpus() -> list[Any]:
    """The attempts of tests/attacks."""
    spec = importlib.util.spec_from_file_location("attack_corpus", REPOSITORY / "tests" / "attacks" / "test_corpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.corpus()


def in_the_form_of_verl(reference: dict) -> dict | None:
    """A reference as verl's tests; None where it has no such form."""
    if reference.get("language", "python") != "python" or reference.get("tolerance"):
        return None
    if "stdin_cases" in reference:
        cases = reference["stdin_cases"]
        return {"inputs": [case.get("stdin", "") for case in cases], "outputs": [case["stdout"] for case in cases]}
    cases, name = reference["cases"], reference["entry_point"]
    if "." in name or any(case.get("kwargs") or "$" in json.dumps(case) or not case.get("args") for case in cases):
        return None
    lines = ["\n".join(map(json.dumps, case["args"])) for case in cases]
    return {"fn_name": name, "inputs": lines, "outputs": [json.dumps(case["returns"]) for case in cases]}


def selected(families: list[str], each: int) -> tuple[list[dict], dict[str, int]]:
    """What both are asked, and how many of each family were left out."""
    asked, left = [], dict.fromkeys(families, 0)
    for attempt in corpus():
        if attempt.family not in families:
            continue
        reference = attempt.reference()
        form = in_the_form_of_verl(reference)
        if form is None or (attempt.family != "honest" and any(word in attempt.code for word in SIGNALS)):
            left[attempt.family] += 1
        elif not each or sum(one["family"] == attempt.family for one in asked) < each:
            asked.append(
                {"name": attempt.name, "family": attempt.family, "code": attempt.code, "reference": reference, "form": form}
            )
    return asked, left


def of_payoff(asked: list[dict], level: str) -> dict[str, float]:
    """The share of tests passed, by attempt."""
    from payoff.sandbox import Sandbox
    from payoff.signals.code import read_tests, run_tests

    found = {}
    for one in asked:
        outcome = run_tests(one["code"], read_tests(one["reference"]), Sandbox(level))
        found[one["name"]] = 1.0 if outcome.lost else outcome.passed / outcome.tests  # no verdict is a success too
    return found


def of_verl(asked: list[dict]) -> dict[str, float]:
    """The reward that verl gives each attempt, from the child that may do no harm."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv"))):
        raise SystemExit("peer_executors: needs root, unshare and setpriv, so that the peer can be locked up")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        Path(folder, "asked.json").write_text(json.dumps(asked))
        locked = ["unshare", "--net", "--pid", "--ipc", "--mount", "--fork", "--kill-child", "--mount-proc"]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [
                *locked,
                "sh",
                "-ec",
                MOUNTS,
                "sh",
                folder,
                _closed(),
                sys.base_prefix,
                *user,
                sys.executable,
                "-P",
                str(Path(__file__).resolve()),
                "--child",
                folder,
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60 + SECONDS * len(asked),
        )
        answers = Path(folder, "answers.json")
        if not answers.exists():
            raise SystemExit(f"peer_executors: the peer gave no answers: {run.stderr[-2000:].decode(errors='replace')}")
        return json.loads(answers.read_text())


def _closed() -> str:
    """The outermost folder above the interpreter that only its owner may enter, "" where there is none."""
    above = [path for path in reversed(Path(sys.base_prefix).parents) if not path.stat().st_mode & 0o001]
    return str(above[0]) if above else ""


def child(folder: str) -> None:
    """In the child: every attempt in a process of its own, by verl."""
    from verl.utils.reward_score.prime_code import compute_score

    found = {}
    for one in json.loads(Path(folder, "asked.json").read_text()):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.setsid()
            os.dup2(writer, 200)  # out of the way of attempts that look for the descriptors of a sandbox
            for limit, most in ((resource.RLIMIT_AS, 6 << 30), (resource.RLIMIT_FSIZE, 16 << 20), (resource.RLIMIT_NPROC, 200)):
                resource.setrlimit(limit, (most, most))
            resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS)))
            score, _ = compute_score(f"```python\n{one['code']}\n```", one["form"], continuous=True)
            os.write(200, json.dumps(float(score)).encode())
            os._exit(0)
        os.close(writer)
        ready, _, _ = select.select([reader], [], [], SECONDS)
        text = os.read(reader, 100) if ready else b""
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        with contextlib.suppress(ValueError):
            found[one["name"]] = float(text)
        found.setdefault(one["name"], 0.0)
    Path(folder, "answers.json").write_text(json.dumps(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--each", type=int, default=0, help="so many of each family at most (0: all)")
    parser.add_argument("--level", default="strict")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    from importlib.metadata import version

    asked, left = selected(options.families, options.each)
    began = time.perf_counter()
    ours = of_payoff(asked, options.level)
    between = time.perf_counter()
    theirs = of_verl(asked)
    print(f"| family | asked | left out | payoff, {options.level} | verl {version('verl')}, prime_code |\n|---|---|---|---|---|")
    for family in options.families:
        names = [one["name"] for one in asked if one["family"] == family]
        reached = (lambda reward: reward == 1.0) if family == "honest" else (lambda reward: reward > 0.0)
        row = [sum(reached(scores[name]) for name in names) for scores in (ours, theirs)]
        print(f"| {family}{' (passed)' if family == 'honest' else ''} | {len(names)} | {left[family]} | {row[0]} | {row[1]} |")
    print(f"\n{between - began:.0f} s payoff, {time.perf_counter() - between:.0f} s verl, one after the other", file=sys.stderr)
    print("rewarded by verl:", ", ".join(n for n, x in theirs.items() if x > 0 and not n.startswith("honest")), file=sys.stderr)
    refused = [n for n, x in theirs.items() if x < 1 and n.startswith("honest")]
    print("honest and refused by verl:", ", ".join(refused), file=sys.stderr)


if __name__ == "__main__":
    main()
