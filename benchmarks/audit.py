"""What an audit of a million scored responses costs beside the reward itself: the checks that do not ask the reward again.

    python benchmarks/audit.py                      # 200 000 rows
    python benchmarks/audit.py --rows 1000000       # a few minutes
    python benchmarks/audit.py --rows 1000000 --whole    # and the checks that change responses and ask again

Rows are sums in groups of sixteen, with prompt, response, reference, gold and source, written as JSONL and read back, as the
command reads them. Two yardsticks: the bare function, called in a loop with two strings, and the same function as a signal, which
is what asking the reward for a row takes here. It is the registered answer-match, with a penalty drawn for each response so that
hardly two rewards are equal: nearly the cheapest reward there is. Times are of this thread on its processor, so that other
processes do not count; memory is the highest of the whole process, imports included. How fast the reward is decides the share:
the microseconds a row are what can be carried over to another one.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from payoff.audit.case import Case, Columns
from payoff.audit.checks import CHECKS
from payoff.audit.effects import with_effects
from payoff.audit.replay import Memory
from payoff.audit.scorer import Scorer
from payoff.audit.stored_rows import StoredRows
from payoff.grading import signal
from payoff.row_files import read_rows, write_rows
from payoff.signals.answers import answer_match


def rows_of(count: int) -> Iterator[dict[str, Any]]:
    """Answers to sums, about half of them right."""
    rng = random.Random(0)
    for k in range(count // 16):
        a, b = rng.randint(100, 99999), rng.randint(100, 99999)
        prompt, reference, source = f"What is {a} + {b}?", str(a + b), ("book", "web")[k % 2]
        for _ in range(16):
            right = rng.random() < 0.5
            said = a + b + (0 if right else rng.choice((-10, -1, 1, 10)))
            response = f"Adding {a} and {b}" + " step by step" * rng.randint(0, 3) + f", the answer is {said}"
            yield {"prompt": prompt, "response": response, "reference": reference, "gold": float(right), "source": source}


def reward(response: str, reference: str) -> float:
    """answer-match, less up to a tenth by the characters of the response."""
    return float(answer_match(response, reference)) - 0.1 * (hash(response) % 10_007) / 10_007


class Clock:
    """Times of parts, each as a line of the table when it ends."""

    def __init__(self, rows: int) -> None:
        self.rows, self.spent, self.reward = rows, 0.0, 0.0

    def line(self, name: str, start: float, *, beside: bool = True) -> float:
        took = time.thread_time() - start
        if beside:
            self.spent += took
        self.told(name, took, beside)
        return took

    def told(self, name: str, took: float, beside: bool = True) -> None:
        share = f"{100 * took / self.reward:.1f} %" if beside and self.reward else ""
        high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {name} | {took:.2f} s | {1e6 * took / self.rows:.2f} us | {share} | {high:.2f} GiB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="the checks that ask the reward again too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {given.threads} thread(s)")
    print("| part | time | a row | beside the bare function | memory so far |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        count = write_rows(file, rows_of(given.rows))
        clock = Clock(count)
        clock.told("imports", 0.0, False)
        start = time.thread_time()
        for line in file.open(encoding="utf-8"):
            json.loads(line)
        idle = time.thread_time() - start
        start = time.thread_time()
        rows = StoredRows(read_rows(str(file)))
        read = clock.line("reading JSONL and keeping the rows", start, beside=False)
        print(f"|  (of that, `json.loads` alone) | {idle:.2f} s | {1e6 * idle / count:.2f} us | | |")
    texts = [(row["response"], row["reference"]) for row in rows[:20_000]]
    start = time.thread_time()
    for response, reference in texts:
        reward(response, reference)
    clock.reward = (time.thread_time() - start) * count / len(texts)
    clock.told("the bare function (from 20 000 rows)", clock.reward)
    case = Case(Scorer(signal(reward)), rows, gold="gold")
    taken, take = [0.0], Columns.take

    def timed(self: Columns, rows: Sequence[Mapping[str, Any]]) -> None:
        before = time.thread_time()
        take(self, rows)
        taken[0] += time.thread_time() - before

    Columns.take = timed  # type: ignore[method-assign]
    start = time.thread_time()
    assert len(case.scores.value) == count
    asked = time.thread_time() - start - taken[0]
    clock.told("asking the reward, as a signal, with reading the rows back", asked)
    clock.spent += taken[0]
    clock.told("prompt, gold, length and source of every row", taken[0])
    start = time.thread_time()
    assert case.gold_value is not None
    clock.line("which prompts are drawn", start)
    memory, failed, tried = Memory(), 0, 0.0
    for name, check in CHECKS.items():
        if not check.asks:
            start = time.thread_time()
            found = check.run(case)
            clock.line(name, start)
            start = time.thread_time()
            failed += sum(bool(m.effects) for m in with_effects(case, name, found, memory))
            tried += time.thread_time() - start
    clock.spent += tried
    clock.told(f"trying the remedies of {failed} findings", tried)
    clock.told("all of the audit that does not ask again", clock.spent)
    print(f"That is {100 * clock.spent / asked:.1f} % of asking the reward, and with the reading {read + clock.spent:.1f} s.")
    if given.whole:
        for name, check in CHECKS.items():
            if check.asks:
                before, start = case.score.seconds, time.thread_time()
                check.run(case)
                clock.told(f"{name} ({case.score.seconds - before:.1f} s of it in the reward)", time.thread_time() - start)


if __name__ == "__main__":
    main()
