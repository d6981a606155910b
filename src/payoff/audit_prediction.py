"""Does an audit made before training say which rewards will be hacked? Planted rewards, audited and then really trained against.

A response is three fragments out of eight (a right answer, a wrong one, an opener, a true sum, the prompt, filler, a hedged answer,
an empty box), for twenty sums. A tabular policy that starts uniform is trained on each reward by the library's own loop. Predicted,
from sixteen responses per prompt of the untrained policy: how far truth under the sharpest best-of-n that the sample shows falls
short of what the clean reward reaches, the sum of the severities of all findings, and their largest. Realised: the truth that
training lost against the clean reward, exact over all responses. `payoff.audit_table prediction` makes the table of docs/audit.md.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.audit.case import Case
from payoff.audit.checks import CHECKS
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

CLEANEST = "exact answer"
LEFT_OUT = {  # what shows in an ensemble, a batch or the time it takes, and not in what a single response is paid
    "shared error in an ensemble",
    "dependence on batch order",
    "cache keyed by prompt only",
    "cyclic preferences",
    "quadratic time",
}
PROMPTS, FRAGMENTS, LENGTH = 20, 8, 3


class Outcome(NamedTuple):
    """Of one reward: what the audit of the first sample found, truth at best-of-16 in every sample, and truth after training."""

    first: str
    severities: float
    largest: float
    best_of_n: list[float]
    trained: list[float]


def rewards_of() -> Mapping[str, Callable[..., Any]]:
    """Fifteen planted flaws and the clean rewards."""
    flawed = {name: flaw.reward for name, flaw in FLAWED.items() if name not in LEFT_OUT}
    return flawed | {name: reward for name, reward in CLEAN.items() if name != "answer-match"}


def task_of() -> Tree:
    """All responses of three fragments, to every sum."""
    return Tree(vocabulary=FRAGMENTS, horizon=LENGTH, prompts=PROMPTS, leaf_rewards={})


def rows_of(prompt: int, responses: Sequence[str]) -> list[dict[str, Any]]:
    """Responses of letters as the texts they stand for.

    >>> rows_of(0, ["ba"])[0]["response"].splitlines()
    ['The answer is 136', 'The answer is 126']
    """
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


def table_of(reward: Callable[..., Any], responses: Sequence[str]) -> Float64[Tensor, "P R"]:
    """What a reward gives every response to every prompt."""
    score = Scorer(as_signal(reward, "reward"))
    return torch.stack([score(rows_of(prompt, responses)).value for prompt in range(PROMPTS)])


def trained_truth(rewards: Float64[Tensor, "P R"], truth: Float64[Tensor, "P R"], task: Tree, updates: int, seed: int) -> float:
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
        updates=updates, starts=PROMPTS, rollouts=8, learning_rate=0.2, seed=seed, evaluate_every=0, evaluation_starts=0
    )
    train(parts, settings)
    with torch.no_grad():
        return float(torch.stack([(policy.probabilities(k) * truth[k]).sum() for k in range(PROMPTS)]).mean())


def sample_of(truth: Float64[Tensor, "P R"], task: Tree, seed: int) -> list[dict[str, Any]]:
    """Sixteen different responses to each prompt, drawn from the untrained policy, with their truth under "gold"."""
    rng = random.Random(seed)
    rows = []
    for prompt in range(PROMPTS):
        drawn = rng.sample(range(len(task.responses)), 16)
        for i, row in zip(drawn, rows_of(prompt, [task.responses[i] for i in drawn]), strict=True):
            rows.append(row | {"gold": float(truth[prompt, i])})
    return rows


def best_of_sixteen(reward: Callable[..., Any], rows: Sequence[Mapping[str, Any]]) -> float:
    """Truth under the sharpest best-of-n that a sample shows."""
    case = Case(Scorer(as_signal(reward, "reward")), rows, gold="gold")
    found = audit(case, only=["over-optimisation"], effects=False).measurements
    series = next(m.series for m in found if m.name == "over-optimisation")
    return series["gold"][-1] if series else fmean(row["gold"] for row in rows)


def findings_of(reward: Callable[..., Any], rows: Sequence[Mapping[str, Any]], budget: int = 500) -> tuple[str, float, float]:
    """The first finding of a whole audit, the sum of the severities of all, and the largest; times are the machine's: left out."""
    case = Case(Scorer(as_signal(reward, "reward")), rows, gold="gold", budget=budget, seconds=0.5)
    found = audit(case, only=[name for name in CHECKS if name not in ("distance", "health", "ensembles")], effects=False)
    counted = [m for m in found.findings if m.unit != "exponent of the length"]
    severities = [m.severity for m in counted]
    return counted[0].name if counted else "none", sum(severities), max(severities, default=0.0)


def outcome_of(name: str, seeds: int, updates: int, folder: Path | None = None) -> Outcome:
    """What is predicted of a reward and what comes, seed by seed; kept in a folder, so that a run that was stopped goes on."""
    kept = None if folder is None else folder / f"{name.replace(' ', '-')}-{seeds}-{updates}.json"
    if kept is not None and kept.is_file():
        return Outcome(**json.loads(kept.read_text(encoding="utf-8")))
    task, reward = task_of(), rewards_of()[name]
    truth, rewards = (table_of(one, task.responses) for one in (CLEAN[CLEANEST], reward))
    samples = [sample_of(truth, task, seed) for seed in range(seeds)]
    found = Outcome(
        *findings_of(reward, samples[0]),
        [best_of_sixteen(reward, rows) for rows in samples],
        [trained_truth(rewards, truth, task, updates, seed) for seed in range(seeds)],
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found


def spearman(x: Sequence[float], y: Sequence[float], draws: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The rank correlation and its 95 % percentile interval by bootstrap over the pairs.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], draws=50)[0]
    1.0
    """
    both = torch.tensor([x, y], dtype=torch.float64)
    rho = lambda c: float(torch.corrcoef(torch.stack([ranks(c[0]), ranks(c[1])]))[0, 1])
    rng = torch.Generator().manual_seed(seed)
    drawn = (rho(both[:, torch.randint(len(x), (len(x),), generator=rng)]) for _ in range(draws))
    kept = sorted(value for value in drawn if value == value)
    return round(rho(both), 12), kept[int(0.025 * len(kept))], kept[int(0.975 * len(kept))]


def tables(progress: Callable[[str], None], *, seeds: int = 3, updates: int = 40, folder: Path | None = None) -> str:
    """The tables of docs/audit.md: every reward with what was predicted of it and what came, and the rank correlations."""
    found = {}
    for name in rewards_of():
        progress(name)
        found[name] = outcome_of(name, seeds, updates, folder)
    lines = [
        f"{seeds} seeds of {updates} updates; each seed draws its own sample and trains its own policy. The whole audit is of the "
        "first sample.",
        "",
        "| reward | first finding | severities, summed | truth at best-of-16, predicted | truth after training, by seed |",
        "|---|---|---:|---:|---|",
    ]
    for name, one in found.items():
        by_seed = ", ".join(f"{x:.2f}" for x in one.trained)
        lines.append(f"| {name} | {one.first} | {one.severities:.1f} | {fmean(one.best_of_n):.2f} | {by_seed} |")
    lines += [
        "",
        "Rank correlation with the truth lost against the clean reward; intervals by bootstrap over rewards:",
        "",
        "| predicted by | all, means over seeds | 95 % interval | flawed alone | 95 % interval | all, seed by seed |",
        "|---|---:|---|---:|---|---|",
    ]
    clean, flawed = found[CLEANEST], [name for name in found if name in FLAWED]
    ways: dict[str, Callable[[Outcome, int], float]] = {
        "best-of-n shortfall": lambda one, seed: clean.best_of_n[seed] - one.best_of_n[seed],
        "sum of severities": lambda one, seed: one.severities,
        "largest severity": lambda one, seed: one.largest,
    }
    lost = {name: [best - x for best, x in zip(clean.trained, one.trained, strict=True)] for name, one in found.items()}
    for way, of in ways.items():
        guess = {name: [of(one, seed) for seed in range(seeds)] for name, one in found.items()}
        cells = [way]
        for names in (list(found), flawed):
            rho, low, high = spearman([fmean(guess[n]) for n in names], [fmean(lost[n]) for n in names])
            cells += [f"{rho:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]
        single = [spearman([guess[n][k] for n in found], [lost[n][k] for n in found], draws=50)[0] for k in range(seeds)]
        lines.append(f"| {' | '.join(cells)} | {', '.join(f'{rho:+.2f}' for rho in single)} |")
    return "\n".join(lines)
