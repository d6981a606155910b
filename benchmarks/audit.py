"""What an audit of a million scored responses costs beside the reward itself: the checks that do not ask the reward again.

    python benchmarks/audit.py                 # 200 000 rows
    python benchmarks/audit.py --rows 1000000

Rows are sums in groups of sixteen, with prompt, response, reference, gold and source; the reward is the registered answer-match,
with a penalty drawn for each response so that hardly two rewards are equal. Time of every check against the time that
the reward took for the same rows, once each; memory is the highest of the whole process, its rows and imports included.
"""

from __future__ import annotations

import argparse
import platform
import random
import resource
import time

import torch

from payoff.audit.checks import CHECKS, Case
from payoff.audit.scorer import Scorer
from payoff.grading import signal
from payoff.signals.answers import answer_match


def rows_of(count: int) -> list[dict[str, object]]:
    """Answers to sums, about half of them right."""
    rng = random.Random(0)
    rows = []
    for k in range(count // 16):
        a, b = rng.randint(100, 99999), rng.randint(100, 99999)
        prompt, reference, source = f"What is {a} + {b}?", str(a + b), ("book", "web")[k % 2]
        for _ in range(16):
            right = rng.random() < 0.5
            said = a + b + (0 if right else rng.choice((-10, -1, 1, 10)))
            response = f"Adding {a} and {b}" + " step by step" * rng.randint(0, 3) + f", the answer is {said}"
            rows.append({"prompt": prompt, "response": response, "reference": reference, "gold": float(right), "source": source})
    return rows


def reward(response: str, reference: str) -> float:
    """answer-match, less up to a tenth by the characters of the response."""
    return float(answer_match(response, reference)) - 0.1 * (hash(response) % 10_007) / 10_007


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    high = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {given.threads} thread(s)")
    print(f"{high():.2f} GiB with the imports alone")
    rows = rows_of(given.rows)
    print(f"{high():.2f} GiB with {len(rows)} rows")
    case = Case(Scorer(signal(reward)), rows, gold="gold")
    start = time.perf_counter()
    assert len(case.singles) == len(case.scores.value)
    took = time.perf_counter() - start
    row, grader = 1e6 * took / len(rows), case.score.seconds
    print(f"| reward | {took:.2f} s | {row:.1f} us a row, of which {grader:.2f} s in the grader | {high():.2f} GiB |")
    total = 0.0
    for name, check in CHECKS.items():
        if check.asks:
            continue
        start = time.perf_counter()
        check.run(case)
        spent = time.perf_counter() - start
        total += spent
        print(f"| {name} | {spent:.2f} s | {100 * spent / took:.1f} % of the reward | {high():.2f} GiB |", flush=True)
    print(f"| all | {total:.2f} s | {100 * total / took:.1f} % | {high():.2f} GiB |")


if __name__ == "__main__":
    main()
