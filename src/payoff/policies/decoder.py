"""How a decoder-only network is run: every distinct token once when it is scored, one token a pass when it writes.

Any network that shows its pieces as `Decoder` asks for is run this way: our own transformer, and the models of `transformers` that
`payoff.policies.llama` knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Places = tuple[Tensor, ...]


@runtime_checkable
class Layer(Protocol):
    """One layer that adds attention, then a perceptron, to a stream of states."""

    def project(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [P, H, D], keys and values [P, K, D] of the states [P, W]; H is a multiple of K."""

    def absorb(self, x: Tensor, seen: Tensor) -> Tensor:
        """The states [P, W] after what attention saw [P, H * D], and after the perceptron."""


@runtime_checkable
class Decoder(Protocol):
    """The pieces of a network. `places` is what it wants to know of positions: tensors with one entry a position."""

    @property
    def context(self) -> int | None:
        """How many positions there are, where there is a limit."""

    @property
    def scale(self) -> float | None:
        """Of the products of queries and keys; None: 1 / sqrt(D)."""

    @property
    def cache_shape(self) -> tuple[int, int]:
        """K, D: heads of keys and values, and their size."""

    @property
    def layers(self) -> Sequence[Layer]:
        """In order."""

    def places(self, positions: Int[Tensor, " P"]) -> Places:
        """What `read_in` and `project` read of these positions."""

    def read_in(self, tokens: Int[Tensor, " P"], places: Places) -> Tensor:
        """The states [P, W] that the first layer reads."""

    def read_out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [M, V] and final states [M, W]."""


class Packed(NamedTuple):
    """Rows of tokens without padding, and without a second copy of a beginning that rows share.

    A token is a function of itself and what stands before it, so the prompt of many responses is computed once. Only attention is
    laid out in rows: `grid` says which token stands where, and `source` where on the grid each token's own attention is read.
    """

    tokens: Int[Tensor, " P"]
    positions: Int[Tensor, " P"]
    grid: Int[Tensor, "N L"]  # padded with 0 at the end; what comes out there is never read
    source: Int[Tensor, " P"]  # flat places of the grid
    asked: Int[Tensor, " M"]  # the tokens whose logits are wanted, in the order they are wanted; repeats are allowed

    @property
    def rows(self) -> Int[Tensor, "N L"]:
        """The tokens as padded rows, for a network that is run as it is."""
        return self.tokens[self.grid]


def pack(shared: Sequence[Sequence[int]], own: Int[Tensor, "N T"], count: Int[Tensor, " N"], asked: Bool[Tensor, "N T1"]) -> Packed:
    """Pack rows that begin with `shared` (equal ones are one) and go on with the first `count` tokens of `own`.

    asked: which states of each row are wanted: column t is the state behind t own tokens, from which the next is chosen.
    Every row begins with at least one shared token.

    >>> both = torch.ones(2, 2, dtype=torch.bool)
    >>> packed = pack([[5, 6], [5, 6]], torch.tensor([[7], [8]]), torch.tensor([1, 1]), both)
    >>> packed.tokens.tolist(), packed.grid.tolist(), packed.asked.tolist()
    ([5, 6, 7, 8], [[0, 1, 2], [0, 1, 3]], [1, 2, 1, 3])
    """
    device = own.device
    number: dict[tuple[int, ...], int] = {}
    which = [number.setdefault(tuple(beginning), len(number)) for beginning in shared]
    beginnings = list(number)
    sizes = [len(beginning) for beginning in beginnings]
    starts = [0, *itertools.accumulate(sizes)]
    places = torch.tensor(  # of every row: where its beginning stands among the tokens, how long it is, and its first row
        [[starts[k], sizes[k], which.index(k)] for k in which], device=device
    )
    start, before = places[:, 0], places[:, 1]
    end = count.cumsum(0) + starts[-1]
    width = int((before + count).max())
    column = torch.arange(width, device=device)
    mine = column >= before[:, None]
    grid = torch.where(mine, (end - count - before)[:, None] + column, start[:, None] + column)
    filled = column < (before + count)[:, None]
    grid = torch.where(filled, grid, 0)
    first = places[:, 2] == torch.arange(len(which), device=device)
    source = (filled & (mine | first[:, None])).flatten().nonzero()[:, 0]
    order = grid.flatten()[source].argsort()
    taken = torch.arange(own.shape[1], device=device) < count[:, None]
    head = torch.tensor([*itertools.chain.from_iterable(beginnings)], device=device)
    positions = torch.cat([torch.cat([torch.arange(n, device=device) for n in sizes]), column.expand_as(grid)[filled & mine]])
    rows, steps = asked.nonzero(as_tuple=True)
    return Packed(torch.cat([head, own[taken]]), positions, grid, source[order], grid[rows, before[rows] - 1 + steps])


def score(network: Decoder, packed: Packed, kept: list[Tensor] | None = None) -> tuple[Float[Tensor, "M V"], Float[Tensor, "M W"]]:
    """Logits after, and final states at, the tokens that are asked for.

    The last layer's perceptron and everything behind it see these tokens alone. kept: takes what every layer makes of them [M, W].
    """
    n, width = packed.grid.shape
    flat = packed.grid.flatten()
    places = network.places(packed.positions)
    x = network.read_in(packed.tokens, places)
    layers = network.layers
    for layer in layers:
        query, key, value = (_rows(heads, flat, n, width) for heads in layer.project(x, places))
        seen = attend(query, key, value, network.scale, causal=True).transpose(1, 2).reshape(n * width, -1)
        if layer is layers[-1]:
            x = layer.absorb(x.index_select(0, packed.asked), seen.index_select(0, packed.source[packed.asked]))
        else:
            x = layer.absorb(x, seen.index_select(0, packed.source))
        if kept is not None:
            kept.append(x if layer is layers[-1] else x.index_select(0, packed.asked))
    return network.read_out(x)


def attend(
    query: Float[Tensor, "N H Q D"],
    key: Float[Tensor, "N K S D"],
    value: Float[Tensor, "N K S D"],
    scale: float | None,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Float[Tensor, "N H Q D"]:
    """Attention; several heads of queries may share one of keys and values."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class Writing:
    """Rows being written, one token a pass. `logits` [N, V] are those of the next token; contexts may differ in length.

    A token's slot in the cache is its position, so rows of different lengths need no padding inside: what lies beyond a row's
    position is hidden from it, and written over when the row gets there.
    """

    @torch.inference_mode()
    def __init__(self, network: Decoder, contexts: Sequence[Sequence[int]], copies: int, room: int, device: torch.device) -> None:
        lengths = [len(context) for context in contexts]
        n, longest = len(contexts), max(lengths)
        self.network, self.layers = network, network.layers
        self.capacity = longest + room if network.context is None else min(longest + room, network.context)
        self.at: int | Tensor = longest if min(lengths) == longest else torch.tensor(lengths, device=device)
        self.end = longest  # slots that hold something in some row
        padded = torch.tensor([[*context, *[0] * (longest - len(context))] for context in contexts], device=device)
        self.table = network.places(torch.arange(self.capacity, device=device))
        places = tuple(entry[:longest].repeat(n, *[1] * (entry.ndim - 1)) for entry in self.table)
        x = network.read_in(padded.flatten(), places)
        heads, size = network.cache_shape
        # Zeros, because a hidden slot still takes part as probability 0 times its value, which must not be NaN.
        self.cache = x.new_zeros(len(self.layers), 2, n, heads, self.capacity, size)
        for layer, stored in zip(self.layers, self.cache, strict=True):
            query, key, value = (part.unflatten(0, (n, longest)).transpose(1, 2) for part in layer.project(x, places))
            stored[0, :, :, :longest], stored[1, :, :, :longest] = key, value
            seen = attend(query, key, value, network.scale, causal=True)
            x = layer.absorb(x, seen.transpose(1, 2).reshape(n * longest, -1))
        ends = torch.tensor(lengths, device=device) - 1 + torch.arange(n, device=device) * longest
        self.logits = network.read_out(x[ends])[0]
        self.stored = [layer.unbind(0) for layer in self.cache.unbind(0)]
        if copies > 1:
            self.keep(torch.arange(n, device=device).repeat_interleave(copies))

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, " N"]) -> None:
        """Append one token to every row."""
        network, at, n = self.network, self.at, len(tokens)
        if isinstance(at, int):
            where: Any = (slice(None), slice(None), at)
            places, mask, self.end = tuple(entry[at : at + 1] for entry in self.table), None, at + 1
        else:
            where = (torch.arange(n, device=tokens.device), slice(None), at)
            self.end = min(self.end + 1, self.capacity)
            places = tuple(entry[at] for entry in self.table)
            mask = (torch.arange(self.end, device=tokens.device) <= at[:, None])[:, None, None]
        x = network.read_in(tokens, places)
        for layer, (keys, values) in zip(self.layers, self.stored, strict=True):
            query, key, value = layer.project(x, places)
            keys[where], values[where] = key, value
            seen = attend(query[:, :, None], keys[:, :, : self.end], values[:, :, : self.end], network.scale, mask=mask)
            x = layer.absorb(x, seen.flatten(1))
        self.logits = network.read_out(x)[0]
        self.at = at + 1

    @torch.inference_mode()
    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Go on with these rows, in this order; repeats are allowed. Rows that stay where they are cost nothing."""
        m, end = len(rows), self.end
        if m > self.cache.shape[2]:
            old = self.cache
            self.cache = old.new_zeros(*old.shape[:2], m, *old.shape[3:])
            self.cache[:, :, :, :, :end] = old[:, :, rows, :, :end]
        else:
            moved = (rows != torch.arange(m, device=rows.device)).nonzero()[:, 0]
            if len(moved):
                live = self.cache[:, :, :, :, :end]
                live.index_copy_(2, moved, live.index_select(2, rows[moved]))
            self.cache = self.cache[:, :, :m]
        self.stored = [layer.unbind(0) for layer in self.cache.unbind(0)]
        self.logits = self.logits[rows]
        if not isinstance(self.at, int):
            self.at = self.at[rows]


def _rows(heads: Float[Tensor, "P H D"], flat: Int[Tensor, " NL"], n: int, width: int) -> Float[Tensor, "N H L D"]:
    """Heads laid out as rows."""
    return heads.flatten(1).index_select(0, flat).view(n, width, *heads.shape[1:]).transpose(1, 2)
