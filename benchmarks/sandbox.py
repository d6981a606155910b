"""Runs a second in the sandbox against a bare interpreter, `subprocess.run([python, "-I", "-c", ...])`, on the same cores.

    python benchmarks/sandbox.py [--seconds 20] [--threads 2] [--level strict] [--json]
    python benchmarks/sandbox.py --memory 100000

Two programs: one that prints a number, and one with the imports that solutions of programming tasks begin with. Both contenders
run in turn, in slices of half a second, so that whatever else the machine does falls on both alike; the ratio is of all their runs
a second, and that of the processor seconds of one run, with those of the server and of all below it, stands beside it, which other
work on the machine disturbs less; children that were made ready and not used are charged to the sandbox in the second. --threads is
how many callers there are at a time, all in this process. With --memory: what the server, its template and this process hold before
and after so many runs, and that nothing is left at the end.
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

PAUSE = 2.0  # seconds after which no child is left waiting for an order
PROGRAMS = {
    "print a number": "print(6 * 7)",
    "usual imports": (
        "import sys, math, re, heapq, random\nfrom collections import Counter, defaultdict, deque\n"
        "from itertools import permutations\n"
        "from functools import lru_cache\nfrom typing import List, Optional\nprint(6 * 7)"
    ),
}


def slice_of(run: Callable[[str], str], program: str, threads: int, seconds: float) -> tuple[int, float]:
    """Runs of a program over so many threads for about so many seconds, and the seconds they took."""
    began = time.perf_counter()
    end = began + seconds

    def until_the_end(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            assert run(program) == "42\n"
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(until_the_end, range(threads))), time.perf_counter() - began


def processor(pid: int) -> float:
    """Processor seconds so far of this process, of a server and of all below it, those that ended with them."""
    own, ticks = os.times(), sum(map(int, times_of(pid)))
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            ticks += sum(map(int, times_of(int(child))[:2]))
        except OSError:  # it has ended since
            continue
    return sum(own[:4]) + ticks / os.sysconf("SC_CLK_TCK")


def times_of(pid: int) -> list[str]:
    """Of a process as user and in the system, and of its children that ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]


def bare(program: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True).stdout


def settle(pid: int) -> None:
    """Wait until no child of the server is left but its template, so that none of them is charged to somebody else."""
    while len(below(pid, of_this_process=False)) > 1:
        time.sleep(0.01)


def held(pid: int) -> dict[str, int]:
    """What the server, its template and this process hold."""
    template, *_ = below(pid, of_this_process=False)
    kib = lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
    return {
        "server_kib": kib(pid),
        "template_kib": kib(template),
        "owner_kib": kib(os.getpid()),
        "server_descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "template_descriptors": len(os.listdir(f"/proc/{template}/fd")),
        "owner_descriptors": len(os.listdir("/proc/self/fd")),
        "server_children": len(below(pid, of_this_process=False)),
        "zombies": sum(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z" for child in below(pid)),
        "mounts": len(Path(f"/proc/{pid}/mounts").read_text().splitlines()),
    }


def below(pid: int, *, of_this_process: bool = True) -> list[str]:
    """The children of the server, and of this process."""
    parents = (pid, os.getpid()) if of_this_process else (pid,)
    return [child for one in parents for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]


def speed(ours: Callable[[str], str], pid: int, threads: int, seconds: float) -> dict[str, dict[str, float]]:
    found = {}
    for name, program in PROGRAMS.items():
        totals = {"sandbox": [0, 0.0, 0.0], "subprocess": [0, 0.0, 0.0]}
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for label, run in (("sandbox", ours), ("subprocess", bare)):
                before = processor(pid)
                runs, took = slice_of(run, program, threads, 0.5)
                settle(pid)
                totals[label] = [a + b for a, b in zip(totals[label], (runs, took, processor(pid) - before), strict=True)]
        rates = {label: runs / took for label, (runs, took, _) in totals.items()}
        cpu = {f"{label}_cpu_ms": 1000 * used / runs for label, (runs, _, used) in totals.items()}
        ratios = {
            "ratio": rates["sandbox"] / rates["subprocess"],
            "cpu_ratio": cpu["subprocess_cpu_ms"] / cpu["sandbox_cpu_ms"],
        }
        found[name] = {**rates, **cpu, **ratios}
    return found


def memory(ours: Callable[[str], str], pid: int, threads: int, runs: int) -> dict[str, dict[str, int]]:
    """What is held after a second of runs, and after so many more; the count so far goes to stderr."""
    slice_of(ours, PROGRAMS["print a number"], threads, 1.0)
    time.sleep(PAUSE)
    before, began = held(pid), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for done in range(0, runs, 1000):
            for answer in pool.map(ours, [PROGRAMS["print a number"]] * min(1000, runs - done)):
                assert answer == "42\n"
            if done % 10_000 == 9000:
                now = held(pid)["server_kib"]
                print(f"  {done + 1000} runs, {time.perf_counter() - began:.0f} s, server {now} KiB", file=sys.stderr, flush=True)
    time.sleep(PAUSE)
    return {"before": before, "after": held(pid)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each program")
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
    pid = next(iter(starting._running.values())).process.pid
    if options.memory:
        found |= {"runs": options.memory, **memory(ours, pid, options.threads, options.memory)}
    else:
        found["programs"] = speed(ours, pid, options.threads, options.seconds)
    if options.json:
        print(json.dumps(found))
        return
    print(f"level {options.level}, {options.threads} threads on {found['cores']} cores; {', '.join(isolation)}")
    if options.memory:
        for name, before in found["before"].items():
            print(f"  {name:20}{before:10} before {found['after'][name]:10} after {options.memory} runs")
        return
    print(f"  {'runs a second':20}{'sandbox':>10}{'subprocess':>12}{'ratio':>8}{'of processor time':>20}")
    for name, row in found["programs"].items():
        print(f"  {name:20}{row['sandbox']:10.0f}{row['subprocess']:12.0f}{row['ratio']:8.1f}{row['cpu_ratio']:20.1f}")


if __name__ == "__main__":
    main()
