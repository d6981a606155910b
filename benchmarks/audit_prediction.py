"""Does an audit made before training say which rewards will be hacked? Planted rewards, audited and then really trained against.

    python benchmarks/audit_prediction.py
    python benchmarks/audit_prediction.py --updates 200 --seeds 3 --json prediction.json

A response is three fragments out of eight (a right answer, a wrong one, an opener, a true sum, the prompt, filler, a hedged answer,
an empty box), for twenty sums. A tabular policy that starts uniform is trained on each reward by the library's own loop. Predicted,
from sixteen responses per prompt of the untrained policy: how far truth under the sharpest best-of-n that the sample shows falls
short of what the clean reward reaches, the sum of the severities of all findings, and their largest. Realised: the truth that
training lost against the clean reward, exact over all responses, the mean of the seeds. The interval of the rank correlation is by
bootstrap over rewards.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from typing import Any

import torch

from payoff.audit.checks import Case
from payoff.audit.planted import CLEAN, FLAWED
from payoff.audit.report import audit
from payoff.audit.residuals import ranks
from payoff.audit.scorer import Scorer
from payoff.catalogue import find
from payoff.grading import signal
from payoff.parts import Parts, Settings
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.rewards import as_signal
from payoff.tasks.tree import Tree
from payoff.train import train

LEFT_OUT = {
    "shared error in an ensemble",
    "dependence on batch order",
    "cache keyed by prompt only",
    "cyclic preferences",
    "quadratic time",
}
PROMPTS, FRAGMENTS, LENGTH = 20, 8, 3


def rows_of(prompt: int, responses: Sequence[str]) -> list[dict[str, Any]]:
    """Responses of letters as the texts they stand for."""
    rng = random.Random(prompt)
    a, b = rng.randint(12, 98), rng.randint(12, 98)
    question = f"What is {a} + {b}?"
    right, wrong = a + b, a + b + 10
    fragments = [
        f"The answer is {right}\n",
        f"The answer is {wrong}\n",
        "Solution\n",
        f"{a} + 0 = {a}\n",
        f"{question}\n",
        "It is worth taking a moment to reflect on this.\n",
        f"The answer is {right} or {wrong}\n",
        "\\boxed{}\n",
    ]
    rows = []
    for letters in responses:
        steps = [fragments["abcdefgh".index(letter)] for letter in letters]
        row = {"prompt": question, "response": "".join(steps), "steps": steps, "reference": str(right)}
        rows.append(row | {"source": ("book", "web")[prompt % 2]})
    return rows


def table_of(reward: Any, responses: Sequence[str]) -> torch.Tensor:
    """What a reward gives every response to every prompt, [prompts, responses]."""
    score = Scorer(as_signal(reward, "reward"))
    return torch.stack([score(rows_of(prompt, responses)).value for prompt in range(PROMPTS)])


def trained_truth(rewards: torch.Tensor, truth: torch.Tensor, task: Tree, updates: int, seed: int) -> float:
    """The truth, exact over all responses, of the policy that the loop trains on a table of rewards."""
    place = {letters: i for i, letters in enumerate(task.responses)}
    paid = rewards.tolist()

    def looked_up(response: str, table: int) -> float:
        return paid[table][place[response]]

    policy = Tabular(FRAGMENTS, LENGTH, starts=PROMPTS)
    term = Term(
        weigh({"reward": [find("total", "credit"), find("rloo", "advantage")]}),
        find("policy-gradient", "loss"),
        find("sequence-mean-token-sum", "aggregation"),
    )
    parts = Parts(policy, task, signal(looked_up, name="reward"), {"policy": term})
    settings = Settings(
        updates=updates, starts=PROMPTS, rollouts=8, learning_rate=0.2, seed=seed, evaluate_every=0, evaluation_starts=4
    )
    train(parts, settings)
    with torch.no_grad():
        return float(torch.stack([(policy.probabilities(k) * truth[k]).sum() for k in range(PROMPTS)]).mean())


def predicted(reward: Any, rewards: torch.Tensor, truth: torch.Tensor, task: Tree) -> dict[str, Any]:
    """What the audit says beforehand, of sixteen responses per prompt drawn from the untrained policy."""
    rng = random.Random(0)
    rows = []
    for prompt in range(PROMPTS):
        drawn = rng.sample(range(len(task.responses)), 16)
        for i, row in zip(drawn, rows_of(prompt, [task.responses[i] for i in drawn]), strict=True):
            rows.append(row | {"gold": float(truth[prompt, i])})
    found = audit(Case(Scorer(as_signal(reward, "reward")), rows, gold="gold", budget=1000))
    curve = next(m for m in found.measurements if m.name == "over-optimisation")
    return {
        "first": found.findings[0].name if found.findings else "",
        "best_of_n": curve.series["gold"][-1] if curve.series else float(truth.mean()),
        "severities": sum(m.severity for m in found.findings),
        "largest": max((m.severity for m in found.findings), default=0.0),
    }


def spearman(x: Sequence[float], y: Sequence[float], draws: int = 5000) -> tuple[float, float, float]:
    """The rank correlation and its 95 % percentile interval by bootstrap."""
    both = torch.tensor([x, y], dtype=torch.float64)
    rho = lambda c: float(torch.corrcoef(torch.stack([ranks(c[0]), ranks(c[1])]))[0, 1])
    rng = torch.Generator().manual_seed(0)
    drawn = (rho(both[:, torch.randint(len(x), (len(x),), generator=rng)]) for _ in range(draws))
    kept = sorted(value for value in drawn if value == value)
    return rho(both), kept[int(0.025 * len(kept))], kept[int(0.975 * len(kept))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    named = {name: flaw.reward for name, flaw in FLAWED.items() if name not in LEFT_OUT}
    named |= {name: reward for name, reward in CLEAN.items() if name != "answer-match"}
    task = Tree(vocabulary=FRAGMENTS, horizon=LENGTH, prompts=PROMPTS, leaf_rewards={})
    truth = table_of(CLEAN["exact answer"], task.responses)
    print(f"truth before training {float(truth.mean()):.3f}")
    results = {}
    for name, reward in named.items():
        rewards = table_of(reward, task.responses)
        before = predicted(reward, rewards, truth, task)
        after = [trained_truth(rewards, truth, task, given.updates, seed) for seed in range(given.seeds)]
        results[name] = before | {"truth": sum(after) / len(after), "seeds": after}
        told = (name, before["first"], f"{before['best_of_n']:.2f}", f"{before['severities']:.1f}", f"{results[name]['truth']:.2f}")
        print(f"| {' | '.join(told)} |", flush=True)
    best = results["exact answer"]
    lost = [best["truth"] - r["truth"] for r in results.values()]
    print("rank correlation with the truth lost, 95 % interval by bootstrap over rewards:")
    predictions = {
        "best-of-n shortfall": [best["best_of_n"] - r["best_of_n"] for r in results.values()],
        "sum of severities": [r["severities"] for r in results.values()],
        "largest severity": [r["largest"] for r in results.values()],
    }
    for name, values in predictions.items():
        rho, low, high = spearman(values, lost)
        print(f"| {name} | {rho:+.2f} | [{low:+.2f}, {high:+.2f}] |")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
