"""What help is worth to a policy: a plan, the facts, both, or the parts of a problem one by one (SPARKLE's diagnostics).

They sample and score, and train nothing. What trains behind part of a solution is `payoff.sampling.given_chunks`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.pipeline import Policy, Start
from payoff.trajectories import Channel, Trajectories, outcome

NOTHING, PLAN, KNOWLEDGE, BOTH = HELP = ("nothing", "plan", "knowledge", "both")
Right = Callable[[Trajectories], Channel]
Show = Callable[[Mapping[str, Any], Sequence[tuple[str, str]]], Any]


class Gain(NamedTuple):
    """A mean over starts, its standard error (None for fewer than two), and how many starts it is of."""

    value: float | None
    error: float | None
    starts: int


class HelpRates(NamedTuple):
    """The success rate of every start [S, 4] under the four prompts of `HELP`, NaN where it is not known, and each one's level."""

    rate: Float64[Tensor, "S 4"]
    levels: Sequence[Hashable]

    def success(self, help: str = NOTHING, *, level: Hashable = None) -> Gain:
        """The mean success rate with this help, over all starts where it is known, or over those of one level."""
        return _mean(self._of(level)[:, HELP.index(help)])

    def gain(self, help: str, *, over: str = NOTHING, level: Hashable = None) -> Gain:
        """How much more often starts are solved with this help than with another: differences start by start."""
        rate = self._of(level)
        return _mean(rate[:, HELP.index(help)] - rate[:, HELP.index(over)])

    def _of(self, level: Hashable) -> Float64[Tensor, "s 4"]:
        return self.rate if level is None else self.rate[torch.tensor([own == level for own in self.levels])]


class PartRates(NamedTuple):
    """Of every start [S]: the chance that it is solved whole, and that all its parts are; NaN where it is not known."""

    whole: Float64[Tensor, " S"]
    parts: Float64[Tensor, " S"]

    def gap(self) -> Gain:
        """How much more often all parts are solved, each behind right answers to those before it, than the whole."""
        return _mean(self.parts - self.whole)


def help_rates(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    right: Right,
    *,
    plan: str = "plan",
    knowledge: str = "knowledge",
    level: str | None = None,
    show: Show | None = None,
    threshold: float = 0.5,
) -> HelpRates:
    """How often n rollouts of every start are right with the bare prompt, a plan, the facts it takes, and both (SPARKLE).

    delta_plan = rate(plan) - rate(nothing) and so on are `gain("plan")`, `gain("knowledge")`; for one level of difficulty with
    `level=`. A policy that plans well gains little by plans, or loses where they are not its own; the paper finds plans to hurt
    on hard problems, less so after training, and facts to help.

    right:           gives rollouts their verdict: above `threshold` counts as solved. It sees the start's own fields, and the
                     prompt as it was shown
    plan, knowledge: the fields of a start that hold them. A start without one is left out where that is asked for
    level:           the field that says how difficult a start is
    show:            (fields, [(name, help), ..]) -> the prompt; None: the prompt, and every help under its name behind it. The
                     paper's own wording is not known: ours is a reconstruction

    Rollouts without verdict count for nothing; with no verdict at all a rate is NaN. Raises ValueError for no starts, n < 1, and
    a prompt that is no text without `show`.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> starts = [Start("a", {"prompt": "3-7=", "plan": "3-7=6;", "reference": "6"})]
    >>> from payoff.trajectories import place_outcome
    >>> says_six = lambda traj: place_outcome(
    ...     torch.tensor([float("6" in item["response"]) for item in traj.items]), traj.length > 0, traj
    ... )
    >>> show = lambda fields, help: "".join(text for _, text in help) + fields["prompt"]
    >>> found = help_rates(policy, starts, 4, torch.Generator().manual_seed(0), says_six, show=show)
    >>> found.rate.isnan().tolist(), found.gain("knowledge")
    ([[False, False, True, True]], Gain(value=None, error=None, starts=0))
    """
    if not starts or n < 1:
        raise ValueError(f"help_rates: needs at least one start and n >= 1, got {len(starts)} starts and n = {n}")
    given = {NOTHING: (), PLAN: (plan,), KNOWLEDGE: (knowledge,), BOTH: (plan, knowledge)}
    columns = []
    for kind in HELP:
        asked, there = [], []
        for row, start in enumerate(starts):
            if all(start.fields.get(name) for name in given[kind]):
                help = [(name, str(start.fields[name])) for name in given[kind]]
                asked.append(start._replace(fields={**start.fields, "prompt": (show or _shown)(start.fields, help)}))
                there.append(row)
        column = torch.full((len(starts),), torch.nan, dtype=torch.float64)
        if asked:
            column[there] = _rates(policy, asked, n, rng, right, threshold)
        columns.append(column)
    return HelpRates(torch.stack(columns, 1), [start.fields.get(level) if level else None for start in starts])


def part_rates(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    right: Right,
    *,
    parts: str = "parts",
    show: Show | None = None,
    threshold: float = 0.5,
) -> PartRates:
    """How often all parts of a problem are solved, each with right answers to those before it, and how often the whole (SPARKLE).

    The sub-problem success rate is `parts`, estimated without bias as the product over parts of the share of n rollouts that
    solve one: the parts are asked independently, since what stands before them are the reference answers and not the policy's.
    A policy that can do every step and loses the thread has parts far above whole; where both are low, it lacks a step.

    parts: the field of a start with its parts in order: mappings with "prompt" and "reference", which stand in place of the
           start's own (and whatever else the verdict reads)
    show:  (the part's fields, [(prompt, reference) of the parts before]) -> the prompt; None: these one below another.
           Reconstructed: the paper's own wording is not known

    Raises ValueError for no starts, n < 1, and a start without parts.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=4)
    >>> parts = [{"prompt": "3-7=", "reference": "6;"}, {"prompt": "6+7=", "reference": "3;"}]
    >>> from payoff.trajectories import place_outcome
    >>> always = lambda traj: place_outcome(torch.ones(len(traj)), traj.length > 0, traj)
    >>> show = lambda fields, before: "".join(prompt + reference for prompt, reference in before) + fields["prompt"]
    >>> start = Start("a", {"prompt": "3-7+7=", "parts": parts})
    >>> part_rates(policy, [start], 2, torch.Generator().manual_seed(0), always, show=show).gap()
    Gain(value=0.0, error=None, starts=1)
    """
    if not starts or n < 1:
        raise ValueError(f"part_rates: needs at least one start and n >= 1, got {len(starts)} starts and n = {n}")
    asked, owner = [], []
    for row, start in enumerate(starts):
        own = start.fields.get(parts)
        if not own:
            raise ValueError(f"part_rates: start {start.id!r} has no field {parts!r} with parts; it has {sorted(start.fields)}")
        for k, part in enumerate(own):
            before = [(str(earlier["prompt"]), str(earlier["reference"])) for earlier in own[:k]]
            fields = {**start.fields, **part}
            asked.append(Start(f"{start.id}/{k}", {**fields, "prompt": (show or _chained)(fields, before)}))
            owner.append(row)
    rate = _rates(policy, asked, n, rng, right, threshold)
    product = torch.ones(len(starts), dtype=torch.float64).scatter_reduce(0, torch.tensor(owner), rate, "prod")
    return PartRates(_rates(policy, starts, n, rng, right, threshold), product)


def _rates(
    policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator, right: Right, threshold: float
) -> Float64[Tensor, " S"]:
    """The share of each start's n rollouts that are right, of those with a verdict; NaN where none has one."""
    with torch.no_grad():
        traj = policy.rollout(starts, n, rng)
        value, known = outcome(right(traj), traj)
    hits, tries = (x.view(len(starts), n).double().sum(1).cpu() for x in (known & (value > threshold), known))
    return torch.where(tries > 0, hits / tries.clamp(min=1), torch.nan)


def _mean(x: Float64[Tensor, " s"]) -> Gain:
    """Over what is known."""
    x = x[~x.isnan()]
    if not len(x):
        return Gain(None, None, 0)
    return Gain(float(x.mean()), float(x.std() / len(x) ** 0.5) if len(x) > 1 else None, len(x))


def _shown(fields: Mapping[str, Any], help: Sequence[tuple[str, str]]) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"help_rates: a prompt that is no text needs `show`, got {type(prompt).__name__}")
    return "\n\n".join([prompt, *(f"{name.capitalize()}: {text}" for name, text in help)]) if help else prompt


def _chained(fields: Mapping[str, Any], before: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join([*(f"{prompt}\n{reference}" for prompt, reference in before), str(fields["prompt"])])
