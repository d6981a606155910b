"""Verdicts per second of a trivial grader through `payoff.grading.signal`: in process, and in workers with a deadline on.

    python benchmarks/grading.py
    python benchmarks/grading.py --rows 65536 --width 128 --workers 2 --deadline 1.0 --repeats 9

A verdict costs next to nothing here, so the rates are those of the machinery: arguments by name, transport, placing the rewards.
The first batch of the workers, which starts them, is timed apart. Everything else is the best and the median of several.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import torch

from payoff.grading import GraderSignal, signal
from payoff.trajectories import Trajectories


def correct(response: str, reference: str) -> float:
    """As little work as a grader can do."""
    return 1.0 if response == reference else 0.0


def batch(rows: int, width: int) -> Trajectories:
    """Rows of `width` actions in groups of eight, with a prompt, a response and a reference each."""
    mask = torch.ones(rows, width, dtype=torch.bool)
    return Trajectories(
        mask=mask,
        length=torch.full((rows,), width),
        group=torch.arange(rows) // 8,
        step=torch.zeros(rows, width, dtype=torch.int32),
        stop=torch.zeros(rows, dtype=torch.int64),
        actions=torch.zeros(rows, width, dtype=torch.int64),
        items=[
            {"prompt": f"What is {i} + {i % 7}?", "response": f"{i + i % 7 + i % 2}", "reference": f"{i + i % 7}"}
            for i in range(rows)
        ],
    )


def seconds(reward: GraderSignal, traj: Trajectories, repeats: int) -> list[float]:
    """How long each of `repeats` batches takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        reward(traj)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--width", type=int, default=32, help="actions per trajectory; the rewards are [rows, width]")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds per verdict")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    traj = batch(options.rows, options.width)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(
        f"{options.rows} rows of {options.width} actions; {machine}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"verdicts per second, best and median of {options.repeats}")
    here = signal(correct)
    pooled = signal(correct, workers=options.workers, deadline=options.deadline)
    first = seconds(pooled, traj, 1)[0]
    alone: list[float] = []
    together: list[float] = []
    for _ in range(options.repeats):  # turn by turn, so that what else the machine does falls on both
        alone += seconds(here, traj, 1)
        together += seconds(pooled, traj, 1)
    assert torch.equal(here(traj)["correct"].value, pooled(traj)["correct"].value)
    pooled.close()
    for label, times in (("in process", alone), (f"{options.workers} workers, deadline {options.deadline:g} s", together)):
        print(f"{label:28s} {options.rows / min(times):12,.0f} {options.rows / statistics.median(times):12,.0f}")
    print(f"{'first batch, workers started':28s} {options.rows / first:12,.0f}   ({1000 * first:.0f} ms)")
    best, middle = (of(alone) / of(together) for of in (min, statistics.median))
    print(f"{'workers / in process':28s} {best:12.2f} {middle:12.2f}")


if __name__ == "__main__":
    main()
