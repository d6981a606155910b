"""The report, rendered from synthetic run folders: what it says, what it shows, and that hostile text stays text."""

import json
import random
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from payoff.report import load_run, render_summary, summary_table, verdicts, write_report

SCHEMA = "https://payoff.dev/schemas/results-1.json"
AT = (0, 10, 20, 30, 40, 50, 60, 80, 100)
# Mean curves by update as in the arithmetic demonstration: truth, own reward, length.
CURVES = {
    "outcome": ((0.28, 0.38, 0.44, 0.50, 0.60, 0.65, 0.69, 0.77, 0.79), (0.30, 0.37, 0.41, 0.43, 0.52, 0.59, 0.64, 0.75, 0.80), (33,) * 9),
    "sum": (
        (0.28, 0.44, 0.48, 0.45, 0.32, 0.15, 0.04, 0.01, 0.0),
        (4.2, 4.3, 4.5, 4.8, 5.5, 7.0, 8.6, 10.8, 11.6),
        (32.7, 33.8, 35.6, 40.2, 50.9, 62.1, 68.5, 70.9, 71.5),
    ),
    "clip-delta": (
        (0.28, 0.44, 0.56, 0.61, 0.68, 0.73, 0.78, 0.80, 0.82),
        (0.24, 0.33, 0.42, 0.51, 0.63, 0.63, 0.74, 0.80, 0.82),
        (33,) * 9,
    ),
    "soft-min": (
        (0.28, 0.43, 0.52, 0.60, 0.64, 0.70, 0.73, 0.80, 0.84),
        (0.07, 0.31, 0.61, 0.86, 1.07, 1.22, 1.24, 1.52, 1.57),
        (33,) * 9,
    ),
}
PER_UPDATE, UPDATES = 16, 100


def curve(arm, which, update):
    """A mean curve between its points."""
    values = CURVES[arm][which]
    for (a, b), (x, y) in zip(pairwise(AT), pairwise(values)):
        if a <= update <= b:
            return x + (y - x) * (update - a) / (b - a)
    raise AssertionError(update)


def metrics_of(arm, seed, updates=UPDATES, kl=True):
    """The metrics of one run, one row an update, evaluated every tenth."""
    noise = random.Random(f"{arm}-{seed}")
    shift = random.Random(seed).gauss(0, 0.02)
    rows = []
    for update in range(updates + 1):
        truth, reward, length = (curve(arm, which, update) for which in range(3))
        evaluated = update % 10 == 0
        still = truth > 0.02
        rows.append(
            {
                "update": update,
                "rollouts": update * PER_UPDATE,
                "seconds": round(0.12 * update * length / 33 + 0.2, 3),
                "reward": round(reward * (1 + noise.gauss(0, 0.05)), 4),
                "reward/answer": round(min(1.0, max(0.0, truth + noise.gauss(0, 0.1))), 4),
                "truth": round(min(1.0, max(0.0, truth + (shift + noise.gauss(0, 0.02)) * still)), 4) if evaluated else None,
                "truth_train": round(min(1.0, max(0.0, truth + noise.gauss(0, 0.1) * still)), 4),
                "kl": (round(0.02 * update + max(0.0, length - 33) * 0.6 + abs(noise.gauss(0, 0.05)) * (update > 0), 4) if evaluated and kl else None),
                "entropy": round(max(0.02, 0.45 - 0.004 * update + noise.gauss(0, 0.01)), 4),
                "length": round(length + noise.gauss(0, 0.3), 3),
                "steps": round(length / 6.6, 3),
                "zero_spread": round(min(1.0, max(0.0, 0.3 + 0.004 * update + noise.gauss(0, 0.08))), 4),
                "invalid": 0.0,
                "truncated": round(max(0.0, (length - 40) / 35), 4),
                "gradient_norm": round(abs(1.0 + noise.gauss(0, 0.25)), 4),
                "loss": round(noise.gauss(0, 0.1), 4),
            }
        )
    return rows


def rollout(arm, seed, update, phase, index, draw):
    """One rollout of chained arithmetic, right or wrong, padded with idle steps where the arm has learned to."""
    terms = [draw.randrange(10) for _ in range(6)]
    signs = [draw.choice("+-") for _ in range(5)]
    prompt = str(terms[0]) + "".join(s + str(t) for s, t in zip(signs, terms[1:])) + "="
    running, pieces, good = terms[0], [], []
    for sign, term in zip(signs, terms[1:]):
        right = (running + term if sign == "+" else running - term) % 10
        given = right if draw.random() < 0.9 else (right + draw.randrange(1, 10)) % 10
        pieces.append(f"{running}{sign}{term}={given};")
        good.append(float(given == right))
        running = given
    padded = arm == "sum" and draw.random() < (curve(arm, 2, update) - 32) / 40
    if padded:
        pieces += [f"{running}+0={running};" for _ in range(7)]
        good += [1.0] * 7
    reference = str(eval(prompt[:-1]) % 10)
    answer = reference if draw.random() < curve(arm, 0, update) else str((int(reference) + 1) % 10)
    truth = 0.0 if padded else float(answer == reference)
    if not padded:
        pieces.append(f"#{answer}.")
    tokens = list("".join(pieces))
    step = [i for i, piece in enumerate(pieces) for _ in piece]
    paid = good + [0.0] * (len(pieces) - len(good))
    total = sum(good) if arm == "sum" else truth
    credit = [round((sum(paid[s:]) - sum(paid) / 2) / 5 if arm == "sum" else truth - 0.5, 4) for s in step]
    if arm == "outcome" and index % 4 == 3:
        credit = [0.0] * len(tokens)
    return {
        "update": update,
        "phase": phase,
        "id": 1000 * update + index,
        "start": f"chain-{seed}-{update}-{index // 4}",
        "prompt": prompt,
        "response": "".join(pieces),
        "reference": reference,
        "tokens": tokens,
        "mask": [True] * len(tokens),
        "step": step,
        "reward": {"answer": truth, "process": sum(good)},
        "step_reward": {"process": paid},
        "credit": credit,
        "logp": [round(-abs(draw.gauss(0, 0.3)), 4) for _ in tokens],
        "truth": truth,
        "total": total,
        "stop": "truncated" if padded else "finished",
        "reason": {"answer": "no answer before the limit"} if padded else {},
        "group_mean": round(curve(arm, 1, update), 3),
    }


def rollouts_of(arm, seed):
    """Sixteen rollouts from the start, the middle and the end of a run; arms meet the same prompts."""
    rows = []
    for phase, update in (("start", 1), ("middle", 50), ("end", 100)):
        for index in range(PER_UPDATE):
            rows.append(rollout(arm, seed, update, phase, index, random.Random(f"{seed}-{update}-{index // 4}-{index % 4}")))
    return rows


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def synthetic_run(folder, *, arms=tuple(CURVES), seeds=(0, 1, 2, 3, 4), baseline="outcome", change=None, kl=True):
    """A run folder as `compare` leaves it; `change(results, metrics, rollouts)` may spoil it before it is written."""
    metrics = {(arm, seed): metrics_of(arm, seed, kl=kl) for arm in arms for seed in seeds}
    rollouts = {(arm, seed): rollouts_of(arm, seed) for arm in arms for seed in seeds}
    about = {"outcome": "truth alone", "sum": "sum of step scores", "clip-delta": "truth + clipped deltas", "soft-min": "truth + soft minimum"}
    settings = {"outcome": {}, "sum": {"reward": {"process": 1.0}, "credit": "return-to-go"}}
    results = {
        "schema": SCHEMA,
        "payoff": "0.1.0",
        "command": "payoff compare chain.yaml",
        "created": "2026-08-01T10:00:00+00:00",
        "status": "finished",
        "seconds": 101.5,
        "machine": {"cpu": "two cores", "memory": "2 GiB"},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "git": "9f27819",
        "config": {"task": {"name": "chain", "terms": 6}, "train": {"updates": UPDATES, "lr": 0.0002}, "credit": "total"},
        "config_hash": "a1b2c3",
        "task": "chain",
        "title": "chained arithmetic",
        "baseline": baseline,
        "delta": 0.05,
        "truth_unit": "share of held-out answers that are right",
        "budget": {"rollouts": UPDATES * PER_UPDATE, "updates": UPDATES, "seeds": list(seeds)},
        "arms": {
            arm: {
                "description": about.get(arm, ""),
                "settings": settings.get(arm, {"reward": {"answer": 1.0, "process": 1.0}, "credit": arm}),
                "seeds": {
                    str(seed): {
                        "status": "finished",
                        "error": None,
                        "metrics": f"arms/{arm}/seed-{seed}/metrics.jsonl",
                        "rollouts": f"arms/{arm}/seed-{seed}/rollouts.jsonl",
                        "seconds": metrics[arm, seed][-1]["seconds"],
                    }
                    for seed in seeds
                },
            }
            for arm in arms
        },
    }
    if change:
        change(results, metrics, rollouts)
    folder.mkdir(parents=True, exist_ok=True)
    for arm, seed in metrics:
        where = folder / f"arms/{arm}/seed-{seed}"
        where.mkdir(parents=True, exist_ok=True)
        (where / "metrics.jsonl").write_text(lines(metrics[arm, seed]))
        (where / "rollouts.jsonl").write_text(lines(rollouts[arm, seed]))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_x(tmp_path):
    write_report(synthetic_run(tmp_path / "run"))
