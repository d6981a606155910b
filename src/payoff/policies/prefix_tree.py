"""The shape of a prefix tree: its prefixes and complete sequences, numbered, and sums over all that pass through an action.

No probabilities and no rewards: those lie on it in `tabular`.
"""

from __future__ import annotations

import string

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

_LARGEST = 10_000_000  # numbers in a table over the tree


class PrefixTree(nn.Module):
    """All sequences of at most `horizon` of `vocabulary` actions, where `stop`, if given, ends one early (None: all are as long).

    prefix_count: prefixes after which an action is taken, numbered by length, then as numbers in base K (K - 1 with a stop action)
    actions:      [L, T] the L complete sequences in lexicographic order, 0 beyond their end; length [L]; exists [L, T]
    edge:         [L, T] prefix number x K + action of each of their actions; 0 beyond the end

    Raises ValueError for sizes below 1, a stop action outside the vocabulary, a tree too large to list.

    >>> tree = PrefixTree(2, 2, stop=1)
    >>> tree.prefix_count, tree.actions.tolist(), tree.length.tolist()
    (2, [[0, 0], [0, 1], [1, 0]], [2, 2, 1])
    """

    actions: Tensor
    length: Tensor
    exists: Tensor
    edge: Tensor
    _digit: Tensor
    _first: Tensor

    def __init__(self, vocabulary: int, horizon: int, stop: int | None = None) -> None:
        super().__init__()
        for name, size in (("vocabulary", vocabulary), ("horizon", horizon)):
            if size < 1:
                raise ValueError(f"PrefixTree: {name} must be at least 1, got {size}")
        if stop is not None and not 0 <= stop < vocabulary:
            raise ValueError(f"PrefixTree: stop must be an action, 0 to {vocabulary - 1}, got {stop}")
        self.vocabulary, self.horizon, self.stop = vocabulary, horizon, stop
        self.branches = vocabulary - (stop is not None)
        sizes = [self.branches**depth for depth in range(horizon)]
        self.prefix_count = sum(sizes)
        if self.prefix_count * vocabulary > _LARGEST:
            raise ValueError(
                f"PrefixTree: {self.prefix_count} prefixes x {vocabulary} actions are too many to list "
                f"(at most {_LARGEST} numbers); take a smaller vocabulary or horizon"
            )
        digit = torch.arange(vocabulary)
        if stop is not None:
            digit = torch.where(digit > stop, digit - 1, digit)
            digit[stop] = 0  # nothing follows it, so any number does
        actions, length = _complete(vocabulary, horizon, stop)
        for name, buffer in {
            "_digit": digit,
            "_first": torch.tensor([0, *sizes]).cumsum(0),  # number of the first prefix of each length
            "actions": actions,
            "length": length,
            "exists": torch.arange(horizon) < length[:, None],
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        edge = self.states(actions, length)[0][:, :-1] * vocabulary + actions
        self.register_buffer("edge", torch.where(self.exists, edge, 0), persistent=False)

    def __len__(self) -> int:
        """L, the number of complete sequences."""
        return len(self.length)

    def states(self, actions: Int[Tensor, "N T"], length: Int[Tensor, " N"]) -> tuple[Int[Tensor, "N T1"], Bool[Tensor, "N T1"]]:
        """The prefix number at every state, the one after the last action included, and whether an action can be taken there.

        The number is 0 where none can. What lies beyond `length` is not read.
        """
        code, ended = torch.zeros_like(length), torch.zeros_like(length, dtype=torch.bool)
        number, open_ = [], []
        for t in range(actions.shape[1] + 1):
            here = (t <= length) & ~ended & (t < self.horizon)
            open_.append(here)
            number.append(torch.where(here, self._first[min(t, self.horizon)] + code, 0))
            if t < actions.shape[1]:
                action = torch.where(t < length, actions[:, t], 0).long()
                ended = ended if self.stop is None else ended | ((action == self.stop) & (t < length))
                code = torch.where(t < length, self.child(code, action), 0)
        return torch.stack(number, 1), torch.stack(open_, 1)

    def child(self, code: Int[Tensor, " N"], action: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The place of the longer prefix among those of its length."""
        return code * self.branches + self._digit[action]

    def first(self, depth: int) -> Int[Tensor, ""]:
        """The number of the first prefix of `depth` actions."""
        return self._first[depth]

    def through(self, x: Float[Tensor, "L T"]) -> Float[Tensor, "prefixes K"]:
        """The sum over all sequences of what they bring to each action they take."""
        flat = x.new_zeros(self.prefix_count * self.vocabulary)
        flat = flat.index_add(0, self.edge.flatten(), torch.where(self.exists, x, 0).flatten())
        return flat.view(self.prefix_count, self.vocabulary)

    def log_through(self, x: Float[Tensor, "L T"]) -> Float[Tensor, "prefixes K"]:
        """log of the sum of exp(x), the same way."""
        x, edge = torch.where(self.exists, x, -torch.inf).flatten(), self.edge.flatten()
        top = x.new_full((self.prefix_count * self.vocabulary,), -torch.inf).scatter_reduce(0, edge, x.detach(), "amax")
        top = torch.where(top.isfinite(), top, 0)
        total = torch.zeros_like(top).index_add(0, edge, (x - top[edge]).exp())
        some = total > 0  # apart, so that the gradient by a sum of nothing is 0 and not NaN
        log_total = torch.where(some, top + torch.where(some, total, 1).log(), -torch.inf)
        return log_total.view(self.prefix_count, self.vocabulary)

    def to_go(self, reward: Float[Tensor, " L"] | Float[Tensor, "L T"]) -> Float[Tensor, "L T"]:
        """What each sequence gets from each action on, of a reward paid at its end [L], or at every action [L, T]."""
        if reward.shape[0] != len(self) or reward.shape[1:] not in ((), (self.horizon,)):
            raise ValueError(f"reward must be [L] or [L, T] with L, T = {len(self)}, {self.horizon}, got {list(reward.shape)}")
        reward = reward.to(self.edge.device)
        if reward.ndim == 1:
            return reward[:, None].expand(self.actions.shape)
        return torch.where(self.exists, reward, 0).flip(1).cumsum(1).flip(1)


def action_name(action: int, vocabulary: int) -> str:
    """How an action is written: a letter, or a number in brackets where there are more than 26.

    >>> action_name(2, 3), action_name(2, 30)
    ('c', '[2]')
    """
    return string.ascii_lowercase[action] if vocabulary <= 26 else f"[{action}]"


def _complete(vocabulary: int, horizon: int, stop: int | None) -> tuple[Int[Tensor, "L H"], Int[Tensor, " L"]]:
    """All complete sequences in lexicographic order, 0 beyond their end, and their lengths."""
    alive, done = torch.zeros(1, 0, dtype=torch.int64), []
    for depth in range(1, horizon + 1):
        action = torch.arange(vocabulary).repeat(len(alive))
        longer = torch.cat([alive.repeat_interleave(vocabulary, 0), action[:, None]], 1)
        ends = torch.full_like(action, depth == horizon, dtype=torch.bool)
        ends = ends if stop is None else ends | (action == stop)
        done.append((longer[ends], depth))
        alive = longer[~ends]
    actions = torch.cat([torch.nn.functional.pad(some, (0, horizon - depth)) for some, depth in done])
    length = torch.cat([torch.full((len(some),), depth, dtype=torch.int64) for some, depth in done])
    order = torch.arange(len(actions))
    for t in reversed(range(horizon)):  # stable sorts, the first position last; no complete sequence begins another
        order = order[actions[order, t].argsort(stable=True)]
    return actions[order], length[order]
