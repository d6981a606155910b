"""Rewards for a set of visited things that pay less for more of the same: coverage, demands, information.

Each is a monotone submodular function F of the set of items visited, F of nothing is 0, and pays every action its marginal gain
F(with it) - F(before it) (SubPO, arXiv:2307.13372): the gains add up to F of all, and coming again pays 0. Credit them with
`return-to-go`. The state alone does not tell what is left to gain: a policy that sees its history can do better.

Items are integers: extras[of] [N, T] or, without it, the actions themselves. They are read where the trajectory exists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, Trajectories

Table = Sequence[Sequence[float | int]] | Tensor


@method("coverage", kind="signal", paper="arXiv:2307.13372")
def coverage(
    traj: Trajectories, *, covers: Table, weights: Sequence[float | int] | Tensor | None = None, of: str | None = None
) -> Rewards:
    """Pay what each visit newly covers, as the channel "coverage": F(S) = sum_v weights[v] [some item of S covers v].

    covers:  [items, places], 1 where visiting the item covers the place, 0 elsewhere
    weights: of the places, at least 0; 1 each by default

    Raises ValueError for items without a row in `covers`, negative weights and wrong shapes.

    >>> from payoff.examples import four_answers
    >>> coverage(four_answers(), covers=[[1, 1, 0], [0, 1, 1], [0, 1, 1]])["coverage"].value
    tensor([[2., 1., 0.],
            [2., 1., 0.],
            [2., 1., 0.],
            [2., 0., 0.]])
    """
    table = _table("coverage", covers, traj)
    worth = torch.ones(table.shape[1]) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
    if worth.shape != table.shape[1:] or (worth < 0).any():
        raise ValueError(f"coverage: weights must be {table.shape[1]} numbers of at least 0, got {list(worth.shape)}")
    covered = (table[_items("coverage", traj, of, len(table))] > 0) & traj.exists[..., None]
    so_far = covered.int().cummax(1).values.float() @ worth.to(traj.device)
    return _gains("coverage", so_far, traj)


@method("demand-coverage", kind="signal", paper="arXiv:2307.13372")
def demand_coverage(traj: Trajectories, *, kinds: Sequence[int], demands: Sequence[float | int], of: str | None = None) -> Rewards:
    """Pay each new item until its kind's demand is met, as "demand-coverage": F(S) = sum_k min(items of kind k in S, demands[k]).

    kinds: the kind of every item; demands: how many of each kind are wanted, at least 0. Steiner covering.
    Raises ValueError for items without a kind, kinds without a demand and negative demands.

    >>> from payoff.examples import four_answers
    >>> demand_coverage(four_answers(), kinds=[0, 0, 1], demands=[1, 1])["demand-coverage"].value[0]
    tensor([1., 0., 1.])
    """
    wanted, kind = torch.as_tensor(demands, dtype=torch.float32), torch.as_tensor(kinds)
    if (wanted < 0).any() or not len(kind) or int(kind.min()) < 0 or int(kind.max()) >= len(wanted):
        raise ValueError(f"demand_coverage: demands must be at least 0 and there for every kind, got {len(wanted)} of them")
    items = _items("demand_coverage", traj, of, len(kind))
    counts = torch.nn.functional.one_hot(kind.to(traj.device)[items], len(wanted)) * _new(items, traj)[..., None]
    so_far = torch.minimum(counts.cumsum(1).float(), wanted.to(traj.device)).sum(2)
    return _gains("demand-coverage", so_far, traj)


@method("information-gain", kind="signal", paper="arXiv:2307.13372")
def information_gain(traj: Trajectories, *, kernel: Table, noise: float = 1.0, of: str | None = None) -> Rewards:
    """Pay what each new measurement tells about a Gaussian process, in nats: F(S) = 1/2 log det(I + K_S / noise^2).

    As the channel "information-gain". kernel: [items, items], the covariance of what is measured at the items, positive
    semidefinite; noise: the standard deviation of a measurement. Measuring an item again counts as not measuring.
    Raises ValueError for items the kernel does not know, a kernel that is no square and a noise that is not positive.

    >>> from payoff.examples import four_answers
    >>> alone = information_gain(four_answers(), kernel=torch.eye(3))["information-gain"].value
    >>> alone[0]
    tensor([0.3466, 0.3466, 0.3466])
    """
    table = _table("information_gain", kernel, traj).double()
    if table.shape[0] != table.shape[1] or not noise > 0:
        raise ValueError(f"information_gain: needs a square kernel and a positive noise, got {list(table.shape)} and {noise}")
    items = _items("information_gain", traj, of, len(table))
    new = _new(items, traj)
    both = new[:, :, None] & new[:, None, :]
    inner = torch.where(both, table[items[:, :, None], items[:, None, :]], 0) / noise**2
    inner = inner + torch.eye(traj.width, dtype=torch.float64, device=traj.device)
    # The determinant of every leading block is a product of squared diagonal entries of one Cholesky factor.
    gains = torch.linalg.cholesky(inner).diagonal(dim1=1, dim2=2).log()
    return _gains("information-gain", gains.cumsum(1).float(), traj)


def _gains(name: str, so_far: Float[Tensor, "N T"], traj: Trajectories) -> Rewards:
    before = torch.cat([torch.zeros_like(so_far[:, :1]), so_far[:, :-1]], 1)
    known = torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
    return {name: Channel(torch.where(traj.exists, so_far - before, 0), known)}


def _items(where: str, traj: Trajectories, of: str | None, count: int) -> Int[Tensor, "N T"]:
    """The visited items, 0 beyond the end; ValueError for what is no item."""
    items = traj.actions if of is None else traj.extras.get(of)
    if items is None or items.shape != traj.mask.shape or items.is_floating_point():
        found = "none" if items is None else f"{items.dtype} {list(items.shape)}"
        raise ValueError(f"{where}: needs whole numbers [N, T] in {'actions' if of is None else f'extras[{of!r}]'}, found {found}")
    items = torch.where(traj.exists, items, 0).long()
    if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < count:
        raise ValueError(f"{where}: items must lie in 0..{count - 1}, got {int(items.min())}..{int(items.max())}")
    return items


def _new(items: Int[Tensor, "N T"], traj: Trajectories) -> Bool[Tensor, "N T"]:
    """Where an item is visited for the first time in its trajectory."""
    same = (items[:, :, None] == items[:, None, :]) & traj.exists[:, None, :]
    return traj.exists & ~same.tril(-1).any(2)


def _table(where: str, table: Table, traj: Trajectories) -> Float[Tensor, "a b"]:
    made = torch.as_tensor(table, dtype=torch.float32, device=traj.device)
    if made.ndim != 2:
        raise ValueError(f"{where}: needs a table of two dimensions, got {made.ndim}")
    return made
