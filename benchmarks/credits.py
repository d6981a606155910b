"""Credit beside a training step: python benchmarks/credits.py [NAME ...]

What every registered credit and process shaping, the rewards of steps and the models of rewards take on one batch, in per cent of
a whole training step (rollouts, a grader, GRPO, forward and backward) of a language model of the shipped one's shape: 64 rollouts
of 128 tokens, in steps. What asks no model is to stay below `--most` per cent; the exit code says whether it does. What asks one
stands below, scoring and learning apart, with what it asks: that is worth as much as its settings.

Processor time of this process, the least of several rounds; of the training step the median. `--write FILE` puts the tables between
the marks of that file (docs/credit.md has them).
"""

from __future__ import annotations

import argparse
import copy
import functools
import inspect
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from advantages import RECYCLE
from payoff.advantages.group import grpo
from payoff.catalogue import find, index
from payoff.credit.returns import total
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.made_pages import rewritten
from payoff.parts import Parts, Progress, Settings
from payoff.pipeline import Start, Term, weigh
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.trajectories import Channel, Rewards, Trajectories, per_step, place_outcome, place_steps
from payoff.update import update

Work = Callable[[], Any]
MARK = "<!-- made by: python benchmarks/credits.py --write docs/credit.md -->"
CREDITS: Mapping[str, Mapping[str, Any]] = {}  # options, where the defaults will not do
SHAPINGS: Mapping[str, Mapping[str, Any]] = {  # that look at steps or at the process
    "capo": {},
    "carl-simple-reward": {},
    "fine-grained-rlhf": {},
    "g-ra": {},
    "linger": {},
    "p-grpo": {"process": "form"},
    "potential-shaping": {},
    "ppr-renorm": {},
    "pr-clip": {},
    "pr-clip-delta": {},
    "pr-delta": {},
    "progress": {},
    "tp-grpo": {},
}
SIGNALS: Mapping[str, Mapping[str, Any]] = {  # rewards of steps and tokens that ask nobody
    "fine-grained-rlhf": {"score": lambda response: len(response) % 2, "segments": "step"},
    "igpo": {},
    "likelihood-rewards": {},
    "oprl": {},
    "rlpr": {},
    "rto": {},
    "t-reg": {},
}
MODELS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "archer": ({}, "no pass; 50 steps of its critics"),
    "completion-values": ({"reward": "chain-answer", "n": 2}, "2 continuations of every step but the last"),
    "fact-classifiers": ({}, "no pass; 10 steps of its heads"),
    "direct-advantage-po": ({"reward": "chain-answer", "n": 2}, "one pass; in the first batch 2 continuations of every step"),
    "hrm-hnc": ({}, "one pass; fitted to labels before"),
    "istar": ({}, "one pass; one training step"),
    "math-shepherd": ({"reward": "chain-answer", "n": 2, "rollouts": 4}, "one pass; 2 continuations of every step of 4 rollouts"),
    "pav": ({"reward": "chain-answer", "best_of": 2, "n": 2}, "2 continuations of every step"),
    "prime": ({}, "two passes; one training step"),
    "process-reward-model": ({}, "one pass; fitted to labels before"),
    "reward-ranker": ({"every": 1}, "one pass; another, and 20 epochs of its head"),
    "return-decomposition": ({"size": 129, "of": "hidden"}, "no pass; 50 steps of its network"),
    "rlfr": ({}, "no pass; its flow on every latent; one step on those of right rollouts"),
    "spa-rl": ({}, "one pass; 3 epochs of its head"),
}


def main() -> None:
    if any(os.environ.get(name) is None for name in RECYCLE):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RECYCLE})
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which methods (default: all)")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=8, help="of each start")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=float, default=10.0, help="per cent of a step that a method without model calls may take")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = transformer(context=options.tokens + 16, max_tokens=options.tokens, stop=(), critic=True)
    step = training_step(policy, options.starts, options.rollouts)
    for _ in range(2):
        step()
    whole = statistics.median(processor_seconds(step) for _ in range(5))
    traj, rewards = batch(policy, options.starts, options.rollouts)
    steps = float(traj.step.amax(1).double().mean()) + 1
    lines = [
        f"torch {torch.__version__}, {options.threads} thread{'s' * (options.threads > 1)}, {len(traj)} rollouts of {traj.width} "
        f"tokens in {steps:.0f} steps on average; one training step takes {whole * 1e3:.0f} ms",
        "",
        "| asks no model | as | ms | % of a step |",
        "|---|---|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    over = []
    for name, kind, work in free(traj, rewards):
        if options.names and name not in options.names:
            continue
        took = least(work, options.rounds)
        lines.append(f"| {name} | {kind} | {took * 1e3:.2f} | {100 * took / whole:.2f} |")
        print(lines[-1], flush=True)
        over += [name] if 100 * took > options.most * whole else []
    heading = ["", "| asks a model, or trains one | scoring, % of a step | learning, % | what it asks |", "|---|---:|---:|---|"]
    print("\n".join(heading), flush=True)
    lines += heading
    for name, (settings, asks) in MODELS.items():
        if not options.names or name in options.names:
            score, learn = learned(name, settings, policy, traj, rewards, min(options.rounds, 2))
            told = "-" if learn is None else f"{100 * learn / whole:.1f}"
            lines.append(f"| {name} | {100 * score / whole:.1f} | {told} | {asks} |")
            print(lines[-1], flush=True)
    if options.write is not None:
        page = rewritten(options.write.read_text(encoding="utf-8"), "\n".join(lines), MARK)
        options.write.write_text(page, encoding="utf-8")
    if over:
        raise SystemExit(f"above {options.most:g} % of a training step: {', '.join(over)}")


class Sums:
    """Starts whose prompts are sums; what is right does not matter here."""

    def starts(self, n: int, rng: torch.Generator) -> list[Start]:
        digits = torch.randint(10, (n, 5), generator=rng).tolist()
        return [Start(str(row), {"prompt": "+".join(map(str, row)) + "=", "reference": "7"}) for row in digits]

    def truth(self, traj: Trajectories) -> Channel:
        return outcomes(traj)


def training_step(policy: LanguageModel, starts: int, rollouts: int) -> Work:
    """One whole update of the policy: rollouts, a grader, GRPO, the clipped loss, a step of Adam."""
    term = Term(weigh({"correct": [total, grpo]}), ppo_clip, token_mean)
    parts = Parts(policy, Sums(), lambda traj: {"correct": outcomes(traj)}, {"policy": term})
    progress, settings = Progress(), Settings(starts=starts, rollouts=rollouts, learning_rate=1e-6, evaluation_starts=0)
    progress.optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
    return lambda: update(parts, settings, progress)


def outcomes(traj: Trajectories) -> Channel:
    """Right where the last token is an even digit: a number of each rollout that costs nothing to find."""
    last = traj.actions.gather(1, traj.length[:, None] - 1)[:, 0]
    return place_outcome((last % 2).float(), torch.ones_like(last, dtype=torch.bool), traj)


def batch(policy: LanguageModel, starts: int, rollouts: int) -> tuple[Trajectories, Rewards]:
    """Rollouts of the policy with all that any of the parts reads, and rewards under all the names that they look for."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        traj = policy.rollout(Sums().starts(starts, rng), rollouts, rng)
        more = policy.evaluate(traj, frozenset({"entropy", "hidden", "values"})).more
    n, t = traj.mask.shape
    uniform = lambda *shape: torch.rand(*shape, generator=rng)
    old = traj.logp["old"]
    named = ("ref", "dpo", "prm", "better", "worse", "corrupted")
    logp = {"old": old, **{name: (old + 0.3 * torch.randn(n, t, generator=rng)).clamp(max=0) for name in named}}
    extras = {**more, "importance": uniform(n, t), "log_reward": uniform(n, t + 1), "potential": uniform(n, t + 1)}
    extras["reference_logp"] = -uniform(n, t + 1)
    extras["reference"] = torch.arange(n) % 2 > 0
    said = [{**item, "reference_logp": [-0.5, -1.0, -0.1], "base_logp": [-0.7, -1.2, -0.3]} for item in traj.items]
    traj = traj.replace(logp=logp, extras=extras, items=said)
    steps = int(traj.step.max()) + 1
    sure = torch.ones(n, steps, dtype=torch.bool)
    scores = lambda values: place_steps(values, sure, traj)
    flags = lambda: (uniform(n, steps) > 0.7).float()
    rewards = {"correct": outcomes(traj), "form": place_outcome((uniform(n) > 0.5).float(), sure[:, 0], traj)}
    rewards |= {"process": scores(uniform(n, steps)), "completion": Channel(torch.linspace(0, 1, t).repeat(n, 1), sure[:, :1])}
    rewards |= {name: scores(flags()) for name in ("labels", "critique/1", "critique/2", "critique/3", "critique/4")}
    facts = ("existence", "attribute", "relation")
    return traj, rewards | {f"facts/{kind}": scores(2 * flags() - 1) for kind in facts}


def free(traj: Trajectories, rewards: Rewards) -> list[tuple[str, str, Work]]:
    """Everything that asks no model, ready to be called: its name, what it is, and the call."""
    found: list[tuple[str, str, Work]] = []
    for name in sorted(name for kind, name in index() if kind == "credit"):
        part = find(name, "credit")
        if inspect.isclass(part):  # what a loss reads, and no weight of an action
            continue
        found.append((name, "credit", functools.partial(part, rewards["process"], traj, **CREDITS.get(name, {}))))
    for name, options in SHAPINGS.items():
        part = find(name, "shaping")
        given = rewards if next(iter(inspect.signature(part).parameters)) == "rewards" else rewards["process"]
        found.append((name, "shaping", functools.partial(part, given, traj, **options)))
    for name, options in SIGNALS.items():
        part = find(name, "signal")
        made = part(**options) if inspect.isclass(part) else functools.partial(part, **options)
        found.append((name, "signal", functools.partial(made, traj)))
    for name in ("chain-steps", "chain-needed-steps"):
        found.append((name, "grader", functools.partial(graded, find(name, "grader"), traj)))
    return found


def graded(grader: Callable[..., Any], traj: Trajectories) -> list[Any]:
    wanted = list(inspect.signature(grader).parameters)
    return [grader(**{name: item[name] for name in wanted if name in item}) for item in traj.items]


def learned(
    name: str, options: Mapping[str, Any], policy: LanguageModel, traj: Trajectories, rewards: Rewards, rounds: int
) -> tuple[float, float | None]:
    """Seconds that scoring takes, and learning from the batch."""
    part = find(name, "model")
    given = {"policy": copy.deepcopy(policy)} if "policy" in inspect.signature(part).parameters else {}
    model = part(**given, **options)
    if name in ("hrm-hnc", "process-reward-model"):
        labels, _, known = per_step(rewards["process"], traj)
        model.fit(traj, labels, known)
    learn = getattr(model, "learn", None)
    taught = None if learn is None else least(functools.partial(learn, traj, rewards), rounds)
    return least(functools.partial(model, traj), rounds), taught


def least(work: Work, rounds: int) -> float:
    """The fewest seconds of several rounds, each of so many calls that the clock can tell."""
    work()
    calls = max(1, math.ceil(0.01 / max(processor_seconds(work), 1e-6)))
    return min(processor_seconds(lambda: [work() for _ in range(calls)]) / calls for _ in range(rounds))


def processor_seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
