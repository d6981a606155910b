"""One model out of several that started from the same weights, a part of what one learned, and how far apart specialists are.

Weights are state dictionaries, name -> tensor, as `state_dict()` gives them. What holds no floating-point numbers is the base's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from payoff.catalogue import method

Weights = Mapping[str, Tensor]
How = Literal["average", "task-arithmetic", "ties", "sce"]


@method("m2rl", kind="search", paper="arXiv:2602.12566")
def merged(
    base: Weights,
    models: Sequence[Weights],
    *,
    how: How = "ties",
    scale: float = 1.0,
    keep: float = 0.2,
    drop: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Merge specialists by what each changed, tau_d = theta_d - theta_0 (to mix or to merge): the weights of one model.

    how: "average":         theta_0 + mean_d tau_d
         "task-arithmetic": theta_0 + scale sum_d tau_d
         "ties":            of each tau the share `keep` of largest entries, over the whole model; per entry the sign of their sum;
                            theta_0 + scale times the mean of those that have this sign
         "sce":             of each tensor the share `keep` of entries that differ most between models (by variance), models weighed
                            by their sum of squares there, entries against the sign of the sum left out; theta_0 + scale times that
    drop:  before any of them each entry of each tau is dropped with this probability and the others divided by 1 - drop (DARE),
           drawn by `seed`: its mean is tau
    The rival is one run on the mixture of all domains; compare at equal rollouts in all, not at equal updates.

    One model with scale 1 and nothing dropped or cut is that model; equal models are theirs; equal and opposite entries cancel.
    In float64 inside, types as in the base. Raises ValueError without models, for other names or shapes than the base's, and for
    shares out of range.

    >>> base = {"w": torch.zeros(4)}
    >>> adds, subtracts = {"w": torch.tensor([4.0, 1.0, 2.0, 0.0])}, {"w": torch.tensor([2.0, -3.0, -2.0, 0.0])}
    >>> merged(base, [adds, subtracts], how="ties", keep=0.75)["w"]
    tensor([ 3., -3.,  0.,  0.])
    >>> merged(base, [adds, subtracts], how="average")["w"]
    tensor([ 3., -1.,  0.,  0.])
    """
    if not models or how not in get_args(How):
        raise ValueError(f"merged: at least one model and a way among {', '.join(get_args(How))} are needed, got {how!r}")
    if not 0 < keep <= 1 or not 0 <= drop < 1:
        raise ValueError(f"merged: keep must lie in (0, 1] and drop in [0, 1), got {keep} and {drop}")
    changes = [_change("merged", base, model) for model in models]
    if drop:
        rng = torch.Generator().manual_seed(seed)
        changes = [{name: _thinned(tau, drop, rng) for name, tau in change.items()} for change in changes]
    if how == "ties":
        changes = [_largest(change, keep) for change in changes]
    result = dict(base)
    for name in changes[0]:
        stack = torch.stack([change[name] for change in changes])
        if how == "average":
            moved = stack.mean(0)
        elif how == "task-arithmetic":
            moved = scale * stack.sum(0)
        elif how == "ties":
            moved = scale * _agreeing(stack, torch.ones(len(stack), dtype=torch.float64))
        else:
            moved = scale * _selected(stack, keep)
        result[name] = (base[name].to(torch.float64) + moved).to(base[name].dtype)
    return result


@method("dler", kind="search", paper="arXiv:2510.15110")
def largest_updates(base: Weights, tuned: Weights, *, keep: float = 0.25, scale: float = 0.7) -> dict[str, Tensor]:
    """Of what training changed in each weight matrix, the largest share alone, scaled (DLER's update-selective merge).

    theta_0 + scale times the `keep` of the entries of theta - theta_0 that are largest by size, tensor by tensor; the others are
    theta_0's. It gives back some of what a length penalty cost in accuracy for some of the length: measure both at several `keep`.

    keep 0 is the base and keep 1 with scale 1 the tuned model, exactly; of equal sizes the first entries, as many as round to the
    share. In float64 inside, types as in the base; what is not floating-point is the base's. Raises ValueError for other names or
    shapes than the base's, a share outside [0, 1], and a scale that is not finite.

    >>> base, tuned = {"w": torch.zeros(4)}, {"w": torch.tensor([4.0, -3.0, 2.0, 1.0])}
    >>> largest_updates(base, tuned, keep=0.5, scale=1.0)["w"]
    tensor([ 4., -3.,  0.,  0.])
    """
    if not 0 <= keep <= 1 or not math.isfinite(scale):
        raise ValueError(f"largest_updates: keep must lie in [0, 1] and scale be finite, got {keep} and {scale}")
    result = dict(base)
    for name, tau in _change("largest_updates", base, tuned).items():
        kept = torch.zeros(tau.numel(), dtype=torch.bool)
        kept[tau.abs().flatten().sort(descending=True, stable=True).indices[: round(keep * tau.numel())]] = True
        moved = base[name].to(torch.float64).cpu() + scale * tau
        result[name] = torch.where(kept.reshape(tau.shape), moved.to(base[name].dtype), base[name].cpu()).to(base[name].device)
    return result


def change_cosine(base: Weights, one: Weights, other: Weights) -> float:
    """The cosine of what two specialists changed: near 0 where they do not meet, below 0 where they undo one another.

    0 where either changed nothing. Raises ValueError for other names or shapes than the base's.

    >>> change_cosine({"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([2.0, 2.0])})
    1.0
    """
    a, b = (torch.cat([tau.flatten() for tau in _change("change_cosine", base, model).values()]) for model in (one, other))
    size = float(a.norm() * b.norm())
    return round(float(a @ b) / size, 12) if size else 0.0


def change_overlap(base: Weights, one: Weights, other: Weights, *, share: float = 0.1) -> float:
    """The share of the largest changes of two specialists, each the `share` of all entries, that lie in the same places (Jaccard).

    Without anything in common 0; by chance share / (2 - share). Raises ValueError as `merged` does.

    >>> change_overlap({"w": torch.zeros(4)}, {"w": torch.tensor([1.0, 2, 0, 0])}, {"w": torch.tensor([0.0, 3, 4, 0])}, share=0.5)
    0.3333333333333333
    """
    if not 0 < share <= 1:
        raise ValueError(f"change_overlap: share must lie in (0, 1], got {share}")
    large = [
        torch.cat([tau.flatten() != 0 for tau in _largest(_change("change_overlap", base, model), share).values()])
        for model in (one, other)
    ]
    either = int((large[0] | large[1]).sum())
    return int((large[0] & large[1]).sum()) / either if either else 0.0


def _change(caller: str, base: Weights, model: Weights) -> dict[str, Tensor]:
    """What a model changed, in float64, of the floating-point weights."""
    if set(model) != set(base):
        raise ValueError(f"{caller}: a model and the base have other weights, {sorted(set(model) ^ set(base))[:4]}")
    if odd := [name for name in base if model[name].shape != base[name].shape]:
        raise ValueError(f"{caller}: {odd[0]} is {list(model[odd[0]].shape)} in a model and {list(base[odd[0]].shape)} in the base")
    return {
        name: model[name].detach().to(torch.float64).cpu() - weight.detach().to(torch.float64).cpu()
        for name, weight in base.items()
        if weight.is_floating_point()
    }


def _thinned(tau: Tensor, drop: float, rng: torch.Generator) -> Tensor:
    return tau * (torch.rand(tau.shape, generator=rng, dtype=torch.float64) >= drop) / (1 - drop)


def _largest(change: dict[str, Tensor], keep: float) -> dict[str, Tensor]:
    """The largest entries of a whole model, the others 0; of equal ones the first."""
    sizes = torch.cat([tau.flatten().abs() for tau in change.values()])
    kept = torch.zeros(len(sizes), dtype=torch.bool)
    kept[sizes.sort(descending=True, stable=True).indices[: max(1, round(keep * len(sizes)))]] = True
    parts = kept.split([tau.numel() for tau in change.values()])
    return {name: tau * part.reshape(tau.shape) for (name, tau), part in zip(change.items(), parts, strict=True)}


def _agreeing(stack: Tensor, weight: Tensor) -> Tensor:
    """Per entry the weighted mean of the models' changes that have the sign of the sum, and are not 0."""
    there = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
    share = weight.reshape(-1, *[1] * (stack.ndim - 1)) * there
    total = share.sum(0)
    return (stack * share).sum(0) / torch.where(total > 0, total, 1)


def _selected(stack: Tensor, keep: float) -> Tensor:
    """SCE of one tensor: select by variance, weigh models by their squares, erase the minority's signs."""
    if len(stack) > 1 and keep < 1:
        spread = stack.var(0, unbiased=False).flatten()
        chosen = torch.zeros(len(spread), dtype=torch.bool)
        chosen[spread.sort(descending=True, stable=True).indices[: max(1, round(keep * len(spread)))]] = True
        stack = stack * chosen.reshape(stack.shape[1:])
    squares = stack.square().flatten(1).sum(1)
    return _agreeing(stack, squares / torch.where(squares.sum() > 0, squares.sum(), 1))
