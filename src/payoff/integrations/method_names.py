"""Methods of payoff under names that a trainer's configuration can hold: payoff/NAME, and payoff/NAME/CONVENTION for presets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from payoff.catalogue import find, index
from payoff.integrations.masked_batches import estimate, loss_terms

PREFIX = "payoff/"
RUN = "payoff/run"  # the estimator and the loss that a run file names


@functools.cache
def estimator_names() -> tuple[str, ...]:
    """payoff/NAME for every advantage that rewards, masks and groups are enough for, payoff/NAME/CONVENTION for its presets.

    Whether they are is tried on four rows. What learns is left out too: it belongs where checkpoints hold it.
    """
    names = [RUN]
    for kind, name in sorted(index()):
        if kind != "advantage" or index()[kind, name].needs or inspect.isclass(part := find(name, kind)):
            continue
        if not _works(_four_rows, name):
            continue
        names.append(PREFIX + name)
        presets = getattr(inspect.getmodule(part), "CONVENTIONS", None)
        if isinstance(presets, Mapping) and "convention" in inspect.signature(part).parameters:
            names += [f"{PREFIX}{name}/{preset}" for preset in presets]
    return tuple(names)


@functools.cache
def loss_names() -> tuple[str, ...]:
    """payoff/NAME for every loss that gives one term per action from log-probabilities and advantages alone.

    verl hands over micro-batches, so a loss that compares rows is left out, but for the two that verl itself computes so.
    """
    names = [RUN]
    for kind, name in sorted(index()):
        record = index()[kind, name]
        if kind != "loss" or not record.needs <= {"old"} or inspect.isclass(find(name, kind)):
            continue
        cut = (record.sees == "item" or name in ("clip-cov", "kl-cov")) and not record.place.startswith("payoff.losses.gflownet")
        if cut and _works(_four_rows_of_loss, name):
            names.append(PREFIX + name)
    return tuple(names)


def _works(call: Callable[[str], None], name: str) -> bool:
    try:
        call(name)
    except (ValueError, TypeError, LookupError):
        return False
    return True


def _four_rows(name: str) -> None:
    estimate(
        torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 0.5], [0.5, 0.0]]),
        torch.ones(4, 2),
        path_of(PREFIX + name),
        index=["a", "a", "b", "b"],
    )


def _four_rows_of_loss(name: str) -> None:
    required = {"beta": 1.0} if name == "dro" else {}  # what verl's configuration says there
    logp = torch.full((4, 2), -1.0)
    loss_terms(functools.partial(loss_of(PREFIX + name), **required), logp, logp, torch.ones(4, 2), torch.ones(4, 2))


# Credits before, and transforms after, where an advantage is not one of a rollout's total: PRIME's and PURE's baselines are taken
# from payments, and what follows is their sum from each action on; the methods over all actions are defined of that sum.
BEFORE = {
    **dict.fromkeys(("reinforce-plus-plus", "whiten", "rms"), ("return-to-go",)),
    **dict.fromkeys(("prime-rloo", "prime-scale", "token-rate-baseline", "step-rate-baseline"), ()),
}
AFTER = {
    "prime-rloo": ("return-to-go",),
    "prime-scale": ("return-to-go",),
    "token-rate-baseline": ("return-to-go",),
    "step-rate-baseline": ("return-to-go",),
}


def path_of(name: str, discount: float = 1.0) -> list[Callable[..., Any]]:
    """The transforms that payoff/NAME or payoff/NAME/CONVENTION stands for, credit first; LookupError where there is none.

    discount: verl's `algorithm.gamma`, for what is paid later; positions where the policy did not act do not count, as in verl.

    >>> [getattr(part, "func", part).__name__ for part in path_of("payoff/grpo/verl")]
    ['total', 'grpo']
    """
    method, _, convention = name.removeprefix(PREFIX).partition("/")
    part = find(method, "advantage")
    if convention:
        part = functools.partial(part, convention=convention)

    def credit(name: str) -> Callable[..., Any]:
        found = find(name, "credit")
        return functools.partial(found, discount=discount, per="action") if name == "return-to-go" and discount != 1 else found

    return [*map(credit, BEFORE.get(method, ("total",))), part, *map(credit, AFTER.get(method, ()))]


def loss_of(name: str) -> Callable[..., Any]:
    """The loss that payoff/NAME stands for, its options unbound; LookupError where there is none."""
    return find(name.removeprefix(PREFIX), "loss")
