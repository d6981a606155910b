"""Recipes: a published claim each, put to the test in one file by the smallest experiment that could refute it.

Here is what a recipe is made of, how one is found by name, and the two things that most of them do: train an arm of a run file
through the loop, and look at a tabular policy exactly. Running, judging and storing them is `payoff.reproduction`.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from payoff.catalogue import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from payoff.policies.tabular import Tabular

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Effect:
    """A difference between two arms that a claim foretells: `measure` of `arm` minus `measure` of `baseline`.

    claims: "higher" or "lower", or "not lower": no loss of `delta` or more
    delta:  the smallest difference that matters, in the measure's unit
    size:   how large the claim says the difference is; 0 where it says nothing or what it says does not carry over

    Raises ValueError for a delta that is not positive, and for a size below it other than 0.
    """

    measure: str
    arm: str
    baseline: str
    claims: Literal["higher", "lower", "not lower"]
    delta: float
    size: float = 0.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"Effect: delta must be > 0, got {self.delta}")
        if self.size and (self.size < self.delta or self.claims == "not lower"):
            raise ValueError(f"Effect: size must be 0 or at least delta = {self.delta}, and none for 'not lower', got {self.size}")


@dataclass(frozen=True)
class Recipe:
    """A claim and its experiment. It is reproduced when every one of its effects is.

    name:     the file's name with hyphens
    claim:    what the paper says, in one sentence of our own
    test:     what is run here instead of the paper's experiment, and what that leaves out
    arms:     name -> what it does; all have the same budget, and the same starts and initial weights for the same seed
    measures: name -> what the number is, with its unit; every run gives all of them
    effects:  what must come out
    run:      (arm, seed, *, budget ...) -> measures; the keyword defaults are the recipe's own budget
    methods:  what is put to the test, as "kind:name"; their code belongs to the recipe's

    Raises ValueError for an effect that names no arm or measure.
    """

    name: str
    claim: str
    paper: str
    test: str
    arms: Mapping[str, str]
    measures: Mapping[str, str]
    effects: tuple[Effect, ...]
    run: Callable[..., Mapping[str, float]]
    methods: tuple[str, ...]
    seeds: int = 5

    def __post_init__(self) -> None:
        if not self.effects:
            raise ValueError(f"recipe {self.name!r}: no effect, so nothing could refute it")
        for effect in self.effects:
            for arm in (effect.arm, effect.baseline):
                if arm not in self.arms:
                    raise ValueError(f"recipe {self.name!r}: no arm {arm!r}; there are {list(self.arms)}")
            if effect.measure not in self.measures:
                raise ValueError(f"recipe {self.name!r}: no measure {effect.measure!r}; there are {list(self.measures)}")

    @property
    def budget(self) -> dict[str, Any]:
        """The keyword options of `run` with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def names() -> list[str]:
    """The names of all recipes, read from the file names.

    >>> "pure" in names()
    True
    """
    return sorted(path.stem.replace("_", "-") for path in HERE.glob("*.py") if path.stem != "__init__")


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; hyphens and underscores are the same. Raises LookupError with the nearest name where there is none.

    >>> find_recipe("pure").paper
    'arXiv:2504.15275'
    """
    known, wanted = names(), name.replace("_", "-")
    if wanted not in known:
        like = nearest(wanted, known)
        raise LookupError(f"unknown recipe {name!r}{f'; did you mean {like[0]}?' if like else ''}    list: payoff reproduce --list")
    return importlib.import_module(f"payoff.recipes.{wanted.replace('-', '_')}").RECIPE


class Trained(NamedTuple):
    """What is left of a run: the metrics of every update, the trained policy, and the task."""

    history: list[dict[str, Any]]
    policy: Any
    task: Any

    def last(self, metric: str) -> float:
        """The newest number of that name; NaN where there is none."""
        known = [line[metric] for line in self.history if line.get(metric) is not None]
        return float(known[-1]) if known else math.nan

    def end(self, metric: str, updates: int = 10) -> float:
        """The mean of a metric over the last updates in which it is known; NaN where it never is."""
        known = [line[metric] for line in self.history[1:] if line.get(metric) is not None][-updates:]
        return sum(known) / len(known) if known else math.nan


def train_arm(run: Mapping[str, Any], arm: str, seed: int) -> Trained:
    """Train one arm of a run file, given as a mapping, with one seed; ConfigError where the run file is wrong."""
    from payoff.build import build
    from payoff.config import Loaded, RunFile
    from payoff.train import train

    parts, settings = build(Loaded(RunFile.model_validate(run), {}, "recipe", []), arm, seed)
    return Trained(train(parts, settings).history, parts.policy, parts.task)


def expected(policy: Tabular, worth: Callable[[int], Tensor], prompts: int) -> float:
    """The exact mean over prompts of E[worth] under a tabular policy; `worth(prompt)` is a number for every response [L].

    >>> import torch
    >>> from payoff.policies.tabular import Tabular
    >>> expected(Tabular(2, 1), lambda prompt: torch.tensor([0.0, 1.0], dtype=torch.float64), 1)
    0.5
    """
    return sum(float(policy.probabilities(k).detach() @ worth(k)) for k in range(prompts)) / prompts
