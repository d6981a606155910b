"""B-Coder: do values read off a pre-trained policy's logits learn from unit tests without first spoiling what it could do?

payoff reproduce b-coder
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import torch

from payoff.losses.aggregation import token_mean
from payoff.losses.conservative_values import ConservativeValues
from payoff.policies.tabular import Tabular
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.writing import Choices, mean_worth, write, writer
from payoff.signals.code import compile_tiers
from payoff.trajectories import place_outcome

HEADS = ("def solve(x):", "def solve(x)")  # the second does not compile
LINES = (
    ("y = x", "y = -x", "y = z"),  # the last of these ends in an error, as below
    ("y = y + 1", "y = 2 * y", "y = y * y", "y = y / 0"),
    ("y = y - 3", "y = y * x", "y = 7 - y", "y = y[0]"),
)
ENDS = ("return y", "return -y", "return y + x")
PLACES = (len(HEADS), *map(len, LINES), len(ENDS))
WANTED = ((0, 0, 1, 2, 2), (0, 1, 2, 0, 0), (0, 1, 0, 1, 1))
INPUTS = (-4, -1, 2, 3, 6)
TRIES = 5  # of a run that is lost, as on a machine that is too busy to start it
ALPHA, LEAN = 0.1, 0.8  # rewards are -1 to 1, so that Q / alpha spans 20 nats; nats by which the prior prefers the right choices


def program(choices: Choices) -> str:
    """The text of a program.

    >>> print(program((0, 0, 1, 2, 2)))
    def solve(x):
        y = x
        y = 2 * y
        y = 7 - y
        return y + x
    """
    head, *body, end = choices
    lines = [lines[choice] for lines, choice in zip(LINES, body, strict=True)]
    return "\n    ".join([HEADS[head], *lines, ENDS[end]])


@lru_cache(maxsize=2048)
def answers(choices: Choices) -> tuple[int, ...] | None:
    """What a program answers to every number from -20 to 20; None where it does not compile or run."""
    space: dict[str, Any] = {}
    try:
        exec(program(choices), space)  # put together here, of parts that are known
        return tuple(space["solve"](x) for x in range(-20, 21))
    except (SyntaxError, NameError, ZeroDivisionError, TypeError):
        return None


def right(problem: int, choices: Choices) -> float:
    """1 where the program answers as it should, tested or not."""
    return float(answers(choices) == answers(WANTED[problem]))


@lru_cache(maxsize=2048)
def ladder(problem: int, choices: Choices) -> float:
    """The paper's reward by unit tests in the sandbox: 1 all passed, -0.3 some failed, -0.6 an error, -1 does not compile."""
    known = answers(WANTED[problem])
    assert known is not None
    cases = [{"args": [x], "returns": known[x + 20]} for x in INPUTS]
    reference = {"entry_point": "solve", "cases": cases}
    for _ in range(TRIES):
        verdict = compile_tiers(program(choices), reference, parses=0.2, runs=0.35, isolation="strict")
        if verdict.valid:
            break
    else:
        raise RuntimeError(verdict.reason)
    return 2 * float(verdict.value) - 1  # type: ignore[arg-type]  # one number


def run(arm: str, seed: int, *, updates: int = 200, programs: int = 100) -> Mapping[str, float]:
    """A policy with a table for each problem learns from programs that the policy at first wrote, the same in all arms."""
    torch.set_num_threads(1)
    prior = writer(PLACES, len(WANTED), seed=seed, lean=_lean)
    say = lambda problem, choices: {"response": program(choices), "worth": ladder(problem, choices)}
    buffer = write(prior, programs, torch.Generator().manual_seed(seed), say)
    worth = torch.tensor([item["worth"] for item in buffer.items], dtype=torch.float64)
    paid = place_outcome(worth, torch.ones(len(buffer), dtype=torch.bool), buffer)
    first = writer(PLACES, len(WANTED), seed=seed, spread=0.0) if arm == "scratch" else prior
    policy = Tabular(max(PLACES), len(PLACES), starts=len(WANTED), logits=first.logits, critic=True)
    bootstrap: Literal["reference", "policy"] = "reference" if arm == "conservative" else "policy"
    loss = ConservativeValues(policy=policy, alpha=ALPHA, bootstrap=bootstrap, warm_start=100, learning_rate=0.03)
    optimiser, weight = torch.optim.Adam(policy.parameters(), lr=0.03), token_mean(paid, buffer)
    passes = [_passes(policy)]
    want = frozenset({"logits", "values"})
    for update in range(1, updates + 1):
        optimiser.zero_grad()
        (loss(policy.evaluate(buffer, want), buffer, paid).terms * weight).sum().backward()
        optimiser.step()
        if update % 10 == 0:
            passes.append(_passes(policy))
    prior_passes = _passes(prior)
    return {"passes": passes[-1], "over": sum(passes) / len(passes), "lost": max(0.0, prior_passes - min(passes))}


def _lean(problem: int, choices: Choices) -> list[float]:
    place = len(choices)
    return [LEAN * (choice == WANTED[problem][place]) for choice in range(PLACES[place])]


def _passes(policy: Tabular) -> float:
    """The exact probability of a right program, mean over problems."""
    each = mean_worth(policy, PLACES, right)
    return sum(each) / len(each)


RECIPE = Recipe(
    name="b-coder",
    claim=(
        "Off-policy, from the same programs, values that back up what the pre-trained policy would do next raise the pass rate "
        "further than ordinary dueling Q-learning, which believes what it never tried and falls below the policy it began with."
    ),
    paper="arXiv:2310.03173",
    test=(
        f"Programs of five lines, 2 x 3 x 4 x 4 x 3 of them, for {len(WANTED)} problems; some do not compile and "
        f"some end in an error. Unit tests in the sandbox pay the paper's ladder (1, -0.3, -0.6, -1), on {len(INPUTS)} inputs. "
        f"A policy with a table for each problem leans to the right choices, by {LEAN:g} nats each, and is right in a few of a "
        "hundred. It writes a hundred programs for each problem once; from these alone all arms learn: the same loss, alpha "
        f"{ALPHA:g}, cap 1, 100 steps of warm start for the frozen part of the values, 200 steps of Adam on all programs at "
        "once. Judged exactly on all inputs. Not tested: the terms on ground-truth programs (a table would just learn them by "
        "heart), sampling anew while it learns, choosing programs by the implied reward, and language models, with "
        "vocabularies of which a data set tries next to nothing."
    ),
    arms={
        "conservative": "logits of the policy at first, backing up its greedy choice",
        "max": "the same logits, backing up the best of the values themselves",
        "scratch": "even logits, backing up the best of the values themselves",
    },
    measures={
        "passes": "probability that a program of the final policy is right (exact)",
        "over": "the same, mean over training",
        "lost": "how far the pass rate fell below the first policy's at worst (exact, every 10 updates)",
    },
    effects=(
        Effect("over", "conservative", "max", "higher", delta=0.02),
        Effect("lost", "conservative", "max", "lower", delta=0.01),
        Effect("over", "conservative", "scratch", "higher", delta=0.05),
    ),
    run=run,
    methods=("loss:b-coder", "grader:compile-tiers", "aggregation:token-mean", "policy:tabular"),
)
