"""Passes over [N, T] that NumPy, or arithmetic on bits, does two to ten times faster on a CPU; torch's own everywhere else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

ENTRIES = 1 << 18  # worked on at a time, so that the temporaries of a large batch stay in the cache
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def blocks(x: Shaped[Tensor, "N T"]) -> Iterator[slice]:
    """Some rows of x at a time, all together every row once; at least one slice."""
    rows = max(1, ENTRIES // max(x.shape[1], 1))
    for start in range(0, max(len(x), 1), rows):
        yield slice(start, start + rows)


def keep_(x: Float[Tensor, "N T"], where: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """x, set to 0 everywhere else whatever lies there (NaN too): in place where x is a plain tensor of its own, else as a copy.

    >>> keep_(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    bits = _BITS.get(x.element_size())
    if bits is None or x.requires_grad or x.device.type != "cpu" or not x.is_contiguous():
        return torch.where(where, x, 0)
    kept, flags = x.view(bits), where.view(torch.int8)
    scratch = torch.empty(0, dtype=bits)
    for rows in blocks(x):
        if scratch.shape != flags[rows].shape:
            scratch = torch.empty(flags[rows].shape, dtype=bits)
        kept[rows].bitwise_and_(scratch.copy_(flags[rows]).neg_())  # 1 becomes all bits set
    return x


def clean(x: Float[Tensor, "N T"], where: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """x where it counts, 0 elsewhere whatever lies there; always a tensor of its own.

    >>> clean(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]))
    tensor([[1., 0.]])
    """
    bits, flags = _BITS.get(x.element_size()), where.view(torch.int8)
    if bits is None or x.requires_grad or x.device.type != "cpu":
        return torch.where(where, x, 0)
    result = torch.empty(where.shape, dtype=x.dtype)
    for rows in blocks(where):
        result.view(bits)[rows].copy_(flags[rows]).neg_().bitwise_and_(x[rows].view(bits))
    return result


def centred(
    x: Float[Tensor, "N #T"],
    middle: Float[Tensor, "N #T"],
    where: Bool[Tensor, "N T"],
    scale: Float[Tensor, "N #T"] | None = None,
    *,
    out: Float[Tensor, "N T"] | None = None,
) -> Float[Tensor, "N T"]:
    """(x - middle) * scale where it counts, 0 elsewhere, in the dtype of x; written into `out`, which may be `middle`.

    >>> centred(torch.tensor([[3.0, torch.nan]]), torch.tensor([[1.0]]), torch.tensor([[True, False]]))
    tensor([[2., 0.]])
    """
    given = [y for y in (x, middle, scale) if y is not None]
    if any(y.requires_grad for y in given):
        result = torch.where(where, x, 0) - middle
        return torch.where(where, result if scale is None else result * scale, 0)
    result = torch.empty(where.shape, dtype=x.dtype, device=x.device) if out is None else out
    x = x.expand(where.shape)
    for rows in blocks(where):
        part = torch.sub(x[rows], middle[rows], out=result[rows])
        keep_(part if scale is None else part.mul_(scale[rows]), where[rows])
    return result


def cleaned(
    x: Float[Tensor, "N T"], where: Bool[Tensor, "N T"], dtype: torch.dtype, fill: Float[Tensor, "N 1"] | None = None
) -> Iterator[tuple[slice, Float[Tensor, "n T"]]]:
    """Some rows at a time: (rows, x there, and 0 or `fill` wherever it does not count). The tensor is written over for the next.

    >>> [part.clone() for _, part in cleaned(torch.tensor([[1.0, torch.nan]]), torch.tensor([[True, False]]), torch.float64)]
    [tensor([[1., 0.]], dtype=torch.float64)]
    """
    bits, flags = _BITS.get(x.element_size()), where.view(torch.int8)
    part = wide = torch.empty(0, dtype=x.dtype)
    for rows in blocks(where):
        if bits is None or x.requires_grad or x.device.type != "cpu":
            yield rows, torch.where(where[rows], x[rows], 0 if fill is None else fill[rows]).to(dtype)
            continue
        if part.shape != flags[rows].shape:
            part = torch.empty(flags[rows].shape, dtype=x.dtype)
            other = torch.empty_like(part)
            wide = part if dtype == x.dtype else torch.empty(part.shape, dtype=dtype)
        mask, given = part.view(bits).copy_(flags[rows]).neg_(), x[rows].view(bits)
        if fill is None:
            mask.bitwise_and_(given)
        else:  # fill ^ (x ^ fill) is x
            instead = fill[rows].view(bits)
            mask.bitwise_and_(torch.bitwise_xor(given, instead, out=other.view(bits))).bitwise_xor_(instead)
        yield rows, part if wide is part else wide.copy_(part)


def written(column: Float[Tensor, "N 1"], where: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """Each row's number where it counts, 0 elsewhere.

    >>> written(torch.tensor([[2.0]]), torch.tensor([[True, False]]))
    tensor([[2., 0.]])
    """
    return clean(column.expand(where.shape), where)


def changes(x: Shaped[Tensor, " n"]) -> Bool[Tensor, " m"]:
    """Where an entry differs from the one before it; one shorter than x.

    >>> changes(torch.tensor([3, 3, 4]))
    tensor([False,  True])
    """
    if x.device.type != "cpu":
        return x[1:] != x[:-1]
    array = x.numpy()
    return torch.from_numpy(np.not_equal(array[1:], array[:-1]))


def positions(flags: Bool[Tensor, " n"]) -> Int[Tensor, " m"]:
    """The numbers of the entries that are True.

    >>> positions(torch.tensor([True, False, True]))
    tensor([0, 2])
    """
    return flags.nonzero().squeeze(1) if flags.device.type != "cpu" else torch.from_numpy(np.flatnonzero(flags.numpy()))


def repeated(x: Shaped[Tensor, " m"], times: Int[Tensor, " m"]) -> Shaped[Tensor, " n"]:
    """Each entry as often as `times` says.

    >>> repeated(torch.tensor([0.5, 0.7]), torch.tensor([1, 2]))
    tensor([0.5000, 0.7000, 0.7000])
    """
    if x.requires_grad or x.device.type != "cpu":
        return x.repeat_interleave(times)
    return torch.from_numpy(np.repeat(x.numpy(), times.numpy()))


def ascending_(x: Shaped[Tensor, "N T"]) -> Shaped[Tensor, "N T"]:
    """Every row sorted, the least first; on a CPU in place.

    >>> ascending_(torch.tensor([[3, 1, 2]]))
    tensor([[1, 2, 3]])
    """
    if x.device.type != "cpu":
        return x.sort(1).values
    x.numpy().sort(axis=1)
    return x
