"""Duration-aware policy gradients: what slow programs are worth to a policy that learns while others are still running.

payoff reproduce duration-aware-pg
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.writing import Choices, climb, mean_worth, write, writer
from payoff.signals.milestones import milestones
from payoff.trajectories import Trajectories, concatenate, constant

WORKERS, WINDOW = 8, 16.0  # units of time in which programs are collected for an update
LAG = 0.9  # of the baseline, a running mean of what programs earned
RATE = 0.1
# Places: how data are read, the model built, what it sees, for how long it is fitted, how it predicts, how that is written.
READING = ("[line.split(',') for line in text.split()]", "[line.split(';') for line in text.split()]", "json.loads(text)")
BUILDING = ("build(len(features(0, 0)))", "build()", "build")
FEATURES = ("[1.0]", "[1.0, x, y]", "[1.0, x, y, x * y]")
EPOCHS = (1, 10, 60)
PREDICTING = ("predict(weights, x, y)", "predict(x, y)", "predict(weights, x, z)")
WRITING = ("for label in labels: print(label)", "print(labels)", "print(len(labels) / 0)")
PLACES = (len(READING), len(BUILDING), len(FEATURES), len(EPOCHS), len(PREDICTING), len(WRITING))
PROGRAM = """\
import json, math, sys
def load(text):
    rows = {reading}
    return [(float(x), float(y), label) for x, y, label in rows]
def features(x, y):
    return {features}
def build(size):
    return [0.0] * size
def fit(weights, rows):
    for _ in range({epochs}):
        for x, y, label in rows:
            if label != "?":
                f = features(x, y)
                chance = 1 / (1 + math.exp(-sum(w * v for w, v in zip(weights, f))))
                for k, v in enumerate(f):
                    weights[k] += 0.1 * (float(label) - chance) * v
    return weights
def predict(weights, x, y):
    return int(sum(w * v for w, v in zip(weights, features(x, y))) > 0)
rows = load(sys.stdin.read())
weights = fit({building}, rows)
labels = [{predicting} for x, y, label in rows if label == "?"]
{writing}
"""


def source(choices: Choices) -> str:
    """The program that the choices stand for: logistic regression in plain Python, or something that fails."""
    reading, building, features, epochs, predicting, writing = choices
    return PROGRAM.format(
        reading=READING[reading],
        building=BUILDING[building],
        features=FEATURES[features],
        epochs=EPOCHS[epochs],
        predicting=PREDICTING[predicting],
        writing=WRITING[writing],
    )


def duration(choices: Choices) -> float:
    """How long the program runs, in units: by what it does and not by the clock, so that a run depends on its seed alone."""
    reading, building, features, epochs, *_ = choices
    return 1.0 if reading or building else 1.0 + EPOCHS[epochs] * (1 + features) / 30


@lru_cache(maxsize=2)
def points(seed: int, count: int) -> tuple[str, list[str]]:
    """Points of two coordinates as a program reads them, the first 60 labelled, and the labels of the others."""
    where = 2 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    labels = (0.3 * where.sum(1) + 2 * where.prod(1) + 0.1 > 0).long().tolist()
    lines = [f"{x:.3f},{y:.3f},{label if k < 60 else '?'}" for k, ((x, y), label) in enumerate(zip(where.tolist(), labels))]
    return "\n".join(lines), [str(label) for label in labels[60:]]


@lru_cache(maxsize=1024)
def earned(choices: Choices) -> float:
    """What the program earns in the sandbox: its accuracy on 60 points, or what its milestones leave of a failure."""
    stdin, expected = points(0, 120)
    marks = [{"name": name, "calls": [name]} for name in ("load", "build", "fit", "predict", "print")]
    task = {"stdin": stdin, "expected": expected, "metric": "accuracy", "milestones": marks}
    verdict = milestones(source(choices), task)
    if not verdict.valid:
        raise RuntimeError(verdict.reason)
    return float(verdict.value)  # type: ignore[arg-type]  # one number for a program


@lru_cache(maxsize=1024)
def accuracy(choices: Choices) -> float:
    """The share of 440 other points that the program labels rightly, run in this process; 0 for one that fails."""
    stdin, expected = points(1, 500)
    printed = io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(printed):
            exec(source(choices), {})  # put together here, of parts that are known
    except (ValueError, TypeError, NameError, ZeroDivisionError):
        return 0.0
    finally:
        sys.stdin = before
    said = printed.getvalue().split("\n")[:-1]
    return sum(a == b for a, b in zip(said, expected, strict=True)) / len(expected) if len(said) == len(expected) else 0.0


class Held(NamedTuple):
    """A program that a worker runs: a row of texts, how long it takes and how much of that is left."""

    texts: Trajectories
    row: int
    lasts: float
    left: float


def collect(policy: Tabular, rng: torch.Generator, held: list[Held | None], *, discards: bool) -> list[Held]:
    """The programs that end in one window, run one after the other by every worker; `held` is what each carries on with."""
    most = math.ceil(WINDOW)  # no program takes less than one unit
    texts = write(policy, WORKERS * most, rng, lambda prompt, choices: {})
    lasts = [duration(tuple(row)) for row in texts.actions.tolist()]
    done = []
    for worker, first in enumerate(held):
        own = [Held(texts, row, lasts[row], lasts[row]) for row in range(worker * most, (worker + 1) * most)]
        clock, held[worker] = 0.0, None
        for program in own if first is None else [first, *own]:
            clock += program.left
            if clock > WINDOW:
                held[worker] = None if discards else program._replace(left=clock - WINDOW)
                break
            done.append(program)
    return done


def run(arm: str, seed: int, *, updates: int = 120) -> Mapping[str, float]:
    """A table writes small programs of machine learning; what ends in a window of time is what the update is made of."""
    rng = torch.Generator().manual_seed(seed)
    policy = writer(PLACES, 1, seed=seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=RATE)
    weighted, waits = arm in ("both", "no-milestones", "waits-weighted"), arm.startswith("waits")
    held: list[Held | None] = [None] * WORKERS
    baseline = None
    for _ in range(updates):
        done = collect(policy, rng, held, discards=not waits)
        if not done:
            continue
        rows: dict[int, list[Held]] = {}
        for program in done:
            rows.setdefault(id(program.texts), []).append(program)
        texts = concatenate([of[0].texts.select(torch.tensor([program.row for program in of])) for of in rows.values()])
        done = [program for of in rows.values() for program in of]
        reward = torch.tensor([earned(tuple(row)) for row in texts.actions.tolist()], dtype=torch.float64)
        if arm == "no-milestones":  # what `milestones` gives without credit
            reward = torch.where(reward < -1, -10.0, reward)
        baseline = float(reward.mean()) if baseline is None else LAG * baseline + (1 - LAG) * float(reward.mean())
        lasts = torch.tensor([program.lasts for program in done], dtype=torch.float64)
        weight = lasts / lasts.mean() if weighted else torch.ones_like(lasts)
        climb(policy, optimiser, texts, constant(weight * (reward - baseline), torch.ones(len(done), dtype=torch.bool)))
    mean = lambda worth: mean_worth(policy, PLACES, lambda _, choices: worth(choices))[0]
    return {
        "accuracy": mean(accuracy),
        "submits": mean(lambda choices: float(accuracy(choices) > 0)),
        "duration": mean(duration),
    }


RECIPE = Recipe(
    name="duration-aware-pg",
    claim=(
        "Where programs are collected for a time and not by number, weighting each by how long it took keeps a policy from "
        "preferring fast ones that do worse; and credit for milestones brings submissions where there would be few."
    ),
    paper="arXiv:2509.01684",
    test=(
        "One task: logistic regression in plain Python, put together at six places, 729 programs, of which 9 submit something; the "
        "best of these takes seven times as long as a poor one. Programs run in the sandbox and earn their accuracy on 60 points, "
        f"else -10, plus 0.1 for each of five milestones. {WORKERS} workers run them one after the other in windows of {WINDOW:g} "
        "units; durations are counted from what a program does, not from a clock. A tabular policy, random at first, learns from "
        f"what ended in a window, with a running mean of rewards ({LAG:g}) as the baseline that PPO's critic would be, and Adam "
        "for 120 windows; the learning rate, 0.1 for all arms, was the best or nearly so of 0.05, 0.1 and 0.2 for each of the "
        "first three on seeds 95 and 96, which are not among those reported. After a look at them two places were added at which a "
        "program can fail, since with one submission in nine milestones made no difference. The final policy is judged exactly, on "
        "440 other points. Not tested: the clipped loss, improving a given program, marks that a model inserts, Kaggle's tasks, "
        "and language models."
    ),
    arms={
        "both": "weights by duration and credit for milestones; what is not done at a window's end is discarded",
        "no-duration": "the same without weights",
        "no-milestones": "the same as both without milestones",
        "waits": "a control: no weights, and programs run on over the window's end, so that all are counted in the end",
        "waits-weighted": "the same control with weights",
    },
    measures={
        "accuracy": "accuracy on other points expected of a program of the final policy, 0 where it submits nothing (exact)",
        "submits": "probability of a program that submits something (exact)",
        "duration": "expected duration of a program, in units (exact)",
    },
    effects=(
        Effect("accuracy", "both", "no-duration", "higher", delta=0.02),
        Effect("accuracy", "both", "no-milestones", "higher", delta=0.02),
    ),
    run=run,
    methods=("grader:milestones", "policy:tabular", "loss:policy-gradient"),
)
