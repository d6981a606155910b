"""`math-answer` against Math-Verify alone on the same pairs, wrong verdicts counted, then verdicts per second.

    python benchmarks/math_answers.py
    python benchmarks/math_answers.py --pairs 2000 --repeats 5

Wrong verdicts are counted over tests/signals/data: equivalent forms that are refused, and near misses that are paid, each answer
in a box. The rate is measured on responses of several sentences as models write them, with answers drawn in the shares
named in MIX: half integers, the rest decimals, fractions, roots, tuples, letters, and one in fifty that only algebra can
decide. Both sides judge every pair afresh in this process; the fastest of several rounds counts. Math-Verify's process, once
started, stays: its start is timed apart.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from math_verify import parse, verify

from payoff.signals.math_answers import math_answer
from payoff.signals.math_verifier import VERIFIER

DATA = Path(__file__).parent.parent / "tests" / "signals" / "data"
Pair = tuple[str, str]
MIX: dict[str, tuple[int, Callable[[random.Random], str]]] = {
    "integer": (50, lambda rng: str(rng.randint(-50, 5000))),
    "fraction": (16, lambda rng: rf"\frac{{{rng.randint(1, 40)}}}{{{rng.randint(2, 40)}}}"),
    "decimal": (8, lambda rng: f"{rng.uniform(0, 100):.2f}"),
    "root": (8, lambda rng: rf"{rng.randint(2, 9)}\sqrt{{{rng.choice([2, 3, 5, 7])}}}"),
    "tuple": (6, lambda rng: f"({rng.randint(0, 9)}, {rng.randint(0, 9)})"),
    "polynomial": (6, lambda rng: f"{rng.randint(2, 9)}x^2 + {rng.randint(2, 9)}x - {rng.randint(1, 9)}"),
    "choice": (4, lambda rng: rf"\text{{({rng.choice('ABCDE')})}}"),
    "function": (2, lambda rng: rf"\sin^2 {rng.randint(2, 9)}x"),
}


def math_verify_alone(response: str, reference: str) -> float:
    """What its own page shows: both sides parsed, then compared; the reference between dollar signs, as bare LaTeX is not found."""
    return float(verify(parse(f"${reference}$"), parse(response)))


def verdict(grader: Callable[[str, str], object], pair: Pair) -> float | None:
    try:
        value = grader(*pair)
    except Exception:  # Math-Verify may raise anything; for whoever trains with it that is no verdict
        return None
    return value if isinstance(value, float) else None


def realistic(count: int) -> list[Pair]:
    """Responses of some sentences; two in five are wrong."""
    rng = random.Random(0)
    kinds, shares = list(MIX), [share for share, _ in MIX.values()]
    pairs = []
    for kind in rng.choices(kinds, shares, k=count):
        reference = MIX[kind][1](rng)
        answer = reference if rng.random() < 0.6 else MIX[kind][1](rng)
        steps = " ".join(f"Step {k}: we find $a_{k} = {rng.randint(1, 99)} \\cdot {rng.randint(1, 99)}$." for k in range(6))
        pairs.append((f"Let us work it out. {steps}\n\nThe final answer is $\\boxed{{{answer}}}$.", reference))
    return pairs


def rate(grader: Callable[[str, str], object], pairs: list[Pair], repeats: int) -> float:
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        for pair in pairs:
            verdict(grader, pair)
        best = max(best, len(pairs) / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    graders = {"math-answer": math_answer, "Math-Verify": math_verify_alone}
    for file, right in (("equivalent_forms", 1.0), ("near_misses", 0.0)):
        rows = [json.loads(line) for line in (DATA / f"{file}.jsonl").read_text().splitlines()]
        pairs = [(f"\\boxed{{{row['answer']}}}", row["reference"]) for row in rows]
        for name, grader in graders.items():
            found = [verdict(grader, pair) for pair in pairs]
            wrong = sum(value == 1.0 - right for value in found)
            print(f"{file:<17} {name:<12} {len(pairs)} pairs, {wrong} wrong, {found.count(None)} without verdict")
    pairs = realistic(options.pairs)
    VERIFIER.close()
    start = time.perf_counter()
    math_answer(r"\boxed{\sin x}", r"\cos x")
    print(f"start of the process for algebra: {time.perf_counter() - start:.2f} s")
    rates = {name: rate(grader, pairs, options.repeats) for name, grader in graders.items()}
    agree = sum(verdict(math_answer, pair) == verdict(math_verify_alone, pair) for pair in pairs)
    print(f"realistic mix: {len(pairs)} pairs, the same verdict on {agree}")
    for name, value in rates.items():
        print(f"{name:<12} {value:10.0f} pairs/s")
    print(f"ratio {rates['math-answer'] / rates['Math-Verify']:.1f}")


if __name__ == "__main__":
    main()
