"""TRL: options of its losses that ours do not read, and whether this version of TRL is one the mix-ins fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

# What TRL's own loss reads and ours does not: set to anything but its default it would silently do nothing.
GRPO = {
    "loss_type": "loss and aggregation",
    "epsilon": "the loss, functools.partial(ppo_clip, low=..., high=...)",
    "epsilon_high": "the loss, functools.partial(ppo_clip, high=...)",
    "delta": "the loss, functools.partial(dual_clip, bound=...)",
    "importance_sampling_level": 'the loss, functools.partial(ppo_clip, level="sequence")',
    "top_entropy_quantile": "a target that is not valid at the other tokens",
    "off_policy_mask_threshold": "a target that is not valid at those tokens",
    "entropy_coef": "a term: Term(everywhere, entropy_bonus, aggregation, weight)",
    "use_adaptive_entropy": "a term: Term(everywhere, entropy_bonus, aggregation, weight)",
}
DPO = {
    "loss_type": "loss",
    "loss_weights": "several terms, with their weights",
    "beta": "the loss, functools.partial(dpo, beta=...)",
    "label_smoothing": "the loss, functools.partial(dpo, label_smoothing=...)",
    "f_divergence_type": "the loss",
    "ld_alpha": "the loss",
    "use_weighting": "the aggregation",
    "discopop_tau": "the loss, functools.partial(discopop, temperature=...)",
}


def refuse_replaced(args: Any, replaced: Mapping[str, str]) -> None:
    """Raise ValueError for an option of TRL's loss that is set and would not act, and say what takes its place."""
    for field in dataclasses.fields(args):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in replaced and getattr(args, field.name) != default:
            given = f"{field.name}={getattr(args, field.name)!r}"
            raise ValueError(f"{given} is read by TRL's loss, which payoff's replaces; in its place: {replaced[field.name]}")


def refuse_other_trl(trainer: Any, mixin: type, names: Collection[str]) -> None:
    """Raise RuntimeError where what `mixin` stands in front of lacks what it reads; TRL may rename that in any version."""
    there = set(vars(trainer)).union(*(vars(kind) for kind in type(trainer).__mro__ if kind is not mixin))
    if lost := [name for name in names if name not in there]:
        import trl

        raise RuntimeError(
            f"{mixin.__name__} is written for TRL 1.16, and {type(trainer).__name__} of TRL {trl.__version__} has no {lost[0]!r}; "
            "reward_function works with every version"
        )
