"""Runs a second in the sandbox against a bare interpreter, `subprocess.run([python, "-I", "-c", ...])`, on the same cores.

    python benchmarks/sandbox.py [--seconds 5] [--threads 2] [--level strict] [--json]
    python benchmarks/sandbox.py --memory 100000

Two programs: one that prints a number, and one with the imports that solutions of programming tasks begin with. Both contenders
run in turn, several rounds, and the fastest round counts. With --memory, the server's resident memory, its descriptors and those of
this process before and after so many runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from payoff.sandbox import Sandbox, starting

PROGRAMS = {
    "print a number": "print(6 * 7)",
    "usual imports": (
        "import sys, math, re, heapq, random\nfrom collections import Counter, defaultdict, deque\n"
        "from itertools import permutations\n"
        "from functools import lru_cache\nfrom typing import List, Optional\nprint(6 * 7)"
    ),
}


def rate(run: Callable[[str], str], program: str, threads: int, seconds: float) -> float:
    """Runs a second of a program over so many threads for about so many seconds."""
    end, began = time.perf_counter() + seconds, time.perf_counter()

    def until_the_end(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            assert run(program) == "42\n"
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(until_the_end, range(threads))) / (time.perf_counter() - began)


def bare(program: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True).stdout


def held(pid: int) -> dict[str, int]:
    """What the server and this process hold."""
    return {
        "server_kib": int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10,
        "server_descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "owner_descriptors": len(os.listdir("/proc/self/fd")),
        "server_children": len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each round of each contender")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--level", default="strict")
    parser.add_argument("--memory", type=int, default=0, help="runs after which to look at memory, instead of speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sandbox = Sandbox(options.level, concurrency=options.threads)
    isolation = sandbox.run_python("").isolation
    ours = lambda program: sandbox.run_python(program).stdout
    cores = len(os.sched_getaffinity(0))
    found: dict = {"level": options.level, "isolation": isolation, "threads": options.threads, "cores": cores}
    if options.memory:
        pid = next(iter(starting._running.values())).process.pid
        rate(ours, PROGRAMS["print a number"], options.threads, 1.0)
        found["before"] = held(pid)
        with ThreadPoolExecutor(options.threads) as pool:
            for _ in pool.map(ours, (PROGRAMS["print a number"] for _ in range(options.memory))):
                pass
        found |= {"runs": options.memory, "after": held(pid)}
    else:
        found["programs"] = {}
        for name, program in PROGRAMS.items():
            best = {"sandbox": 0.0, "subprocess": 0.0}
            for _ in range(options.rounds):
                for label, run in (("sandbox", ours), ("subprocess", bare)):
                    best[label] = max(best[label], rate(run, program, options.threads, options.seconds))
            found["programs"][name] = {**best, "ratio": best["sandbox"] / best["subprocess"]}
    if options.json:
        print(json.dumps(found))
        return
    print(f"level {options.level}, {options.threads} threads on {found['cores']} cores; {', '.join(isolation)}")
    if options.memory:
        for name, before in found["before"].items():
            print(f"  {name:20}{before:10} before {found['after'][name]:10} after {options.memory} runs")
        return
    print(f"  {'runs a second':20}{'sandbox':>10}{'subprocess':>12}{'ratio':>8}")
    for name, row in found["programs"].items():
        print(f"  {name:20}{row['sandbox']:10.0f}{row['subprocess']:12.0f}{row['ratio']:8.1f}")


if __name__ == "__main__":
    main()
