"""Labels of steps out of a search tree whose finished rollouts were checked: shares, qualities, and merged steps."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Signal
from payoff.search.value_tree import SearchTree
from payoff.trajectories import Rewards, Trajectories, outcome, place_outcome


class Shares(NamedTuple):
    """Of every node [M]: how many checked leaves lie below it (itself included) and the share of them that is right, 0 for none."""

    leaves: Int[Tensor, " M"]
    share: Float[Tensor, " M"]


class TreeItems(NamedTuple):
    """Stretches of the tree's rollouts with a label each, as `HierarchicalProcessModel.fit_spans` takes them.

    row: the node that the stretch ends at, which is a row of tree.traj; begin, end: actions begin to end - 1; height: its node's
    distance from the empty prefix, a merged stretch counting as one step
    """

    row: Int[Tensor, " M"]
    begin: Int[Tensor, " M"]
    end: Int[Tensor, " M"]
    label: Float[Tensor, " M"]
    height: Int[Tensor, " M"]

    def select(self, some: Int[Tensor, " m"]) -> TreeItems:
        """Some of them."""
        return TreeItems(*(column[some] for column in self))


def checked_leaves(tree: SearchTree, reward: Signal) -> tuple[Bool[Tensor, " M"], Bool[Tensor, " M"]]:
    """(which nodes are finished rollouts with an outcome above 1/2, which of them have a known outcome).

    >>> checked_leaves(_example(), _first_letter)[0].int().tolist()
    [0, 0, 0, 0, 0, 1, 1]
    """
    right, known = torch.zeros_like(tree.over), torch.zeros_like(tree.over)
    ends = tree.over.nonzero()[:, 0]
    if len(ends):
        paid = [outcome(channel, tree.traj.select(ends)) for channel in reward(tree.traj.select(ends)).values()]
        sure = torch.stack([valid for _, valid in paid]).all(0)
        known[ends] = sure
        right[ends] = sure & (torch.stack([value for value, _ in paid]).sum(0) > 0.5)
    return right, known


def leaf_shares(tree: SearchTree, right: Bool[Tensor, " M"], known: Bool[Tensor, " M"], parent: Tensor | None = None) -> Shares:
    """The share of right ones among the checked leaves below every node: the mean over its subtrees, weighed by their leaves.

    parent: of each node, where it is not the tree's own (`compress`)

    >>> tree = _example()  # two letters, every node once
    >>> leaf_shares(tree, *checked_leaves(tree, _first_letter)).share.tolist()
    [0.5, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    """
    above = tree.parent if parent is None else parent
    count, good = (known & tree.over).double(), (right & known & tree.over).double()
    leaves, sums = count.clone(), good.clone()
    for node in range(len(above) - 1, -1, -1):  # children come after parents
        up = int(above[node])
        if up >= 0:
            leaves[up] += leaves[node]
            sums[up] += sums[node]
    return Shares(leaves.long(), torch.where(leaves > 0, sums / leaves.clamp(min=1), 0))


def quality_targets(
    tree: SearchTree, right: Bool[Tensor, " M"], known: Bool[Tensor, " M"], *, errors: Literal["hard", "soft"] = "hard"
) -> tuple[Float[Tensor, " M"], Bool[Tensor, " M"]]:
    """(quality v of every node, where it is known): what the value model is to learn from a finished tree (ReST-MCTS*, sec. 3.3).

    v = max(v_parent + (1 - v_parent) (1 - 2 r) / (m + 1), 0), 0 for the empty prefix; m: steps to the nearest right leaf below.

    errors: r of a step; "hard": 0 where a right leaf lies below it, else 1; "soft": the share of wrong leaves below it

    Of a node with no right leaf below, m is its parent's, since a wrong step brings nothing nearer (own reading; where the whole
    tree has none, v is 0 whatever m). Unknown: the empty prefixes, and nodes without a checked leaf below.

    >>> tree = _example()
    >>> quality_targets(tree, *checked_leaves(tree, _first_letter))[0].tolist()
    [0.0, 0.0, 0.5, 0.0, 0.0, 1.0, 1.0]
    """
    if errors not in ("hard", "soft"):
        raise ValueError(f'quality_targets: errors must be "hard" or "soft", got {errors!r}')
    found = leaf_shares(tree, right, known)
    far = 1 << 30
    left = torch.where(right & known & tree.over, 0, far)
    parents = tree.parent.tolist()
    for node in range(len(parents) - 1, -1, -1):
        if parents[node] >= 0:
            left[parents[node]] = torch.minimum(left[parents[node]], left[node] + 1)
    error = 1 - found.share if errors == "soft" else (found.share == 0).double()
    value = torch.zeros_like(found.share)
    for node, up in enumerate(parents):
        if up >= 0:
            left[node] = torch.where(left[node] >= far, left[up], left[node])
            needed = torch.where(left[node] >= far, 0, left[node])
            value[node] = (value[up] + (1 - value[up]) * (1 - 2 * error[node]) / (needed + 1)).clamp(min=0)
    return value, (tree.parent >= 0) & (found.leaves > 0)


@method("hrm-hnc", kind="search", paper="arXiv:2503.13551")
def compress(tree: SearchTree, rng: torch.Generator, *, chance: float = 0.5, least: int = 4) -> Int[Tensor, " M"]:
    """The parents of a tree in which some steps are merged with the one before (hierarchical node compression, HNC).

    With probability `chance`, at every node that is not an empty prefix and has at least `least` children, one of them, drawn
    evenly, leaves it and follows its parent instead: its last two steps are one now, whatever else is moved. Scores of the old
    parent change, as its leaves are fewer; those of all others do not, as the same leaves lie below them.

    Labels are those of `leaf_shares(tree, right, known, parent)`, and `items(tree, labels, parent)` are the stretches; take those
    of the tree itself as well. Raises ValueError for a chance outside 0..1 and least < 1.

    >>> tree = _example()
    >>> compress(tree, torch.Generator().manual_seed(0), chance=1.0, least=2).tolist()  # aa and ab, ba and bb: one of each
    [-1, 0, 0, 1, 0, 0, 2]
    """
    if not 0 <= chance <= 1 or least < 1:
        raise ValueError(f"compress: chance must lie in 0..1 and least be at least 1, got {chance} and {least}")
    parent = tree.parent.clone()
    children: dict[int, list[int]] = {}
    for node, up in enumerate(tree.parent.tolist()):
        children.setdefault(up, []).append(node)
    for node, below in children.items():
        if node < 0 or int(tree.parent[node]) < 0 or len(below) < least:
            continue
        if float(torch.rand((), generator=rng)) < chance:
            moved = below[int(torch.randint(len(below), (), generator=rng))]
            parent[moved] = tree.parent[node]
    return parent


def items(tree: SearchTree, label: Float[Tensor, " M"], use: Bool[Tensor, " M"], parent: Tensor | None = None) -> TreeItems:
    """The stretch from its parent to every node in `use`, labelled; parents as `compress` gives them, or the tree's own.

    >>> tree = _example()
    >>> shares = leaf_shares(tree, *checked_leaves(tree, _first_letter))
    >>> found = items(tree, shares.share, shares.leaves > 0)
    >>> found.begin.tolist(), found.end.tolist(), found.height.tolist()
    ([0, 0, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2])
    """
    above = tree.parent if parent is None else parent
    height = torch.zeros_like(above)
    for node, up in enumerate(above.tolist()):
        if up >= 0:
            height[node] = height[up] + 1
    used = ((above >= 0) & use).nonzero()[:, 0]
    return TreeItems(used, tree.at[above[used]], tree.at[used], label[used].double(), height[used])


def balanced(found: TreeItems, rng: torch.Generator, *, least: float = 0.1) -> TreeItems:
    """At every height as many stretches of each label as of the rarest one there, but at least the share `least` of its own (HNC).

    Which stay is drawn evenly. Where a height has one label only, all of them stay. Raises ValueError for least outside 0..1.

    >>> one = torch.ones(20, dtype=torch.int64)
    >>> found = TreeItems(one, one, one, torch.tensor([1.0] * 18 + [0.0] * 2, dtype=torch.float64), one)
    >>> balanced(found, torch.Generator().manual_seed(0)).label.tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    if not 0 <= least <= 1:
        raise ValueError(f"balanced: least must lie in 0..1, got {least}")
    kept = []
    for height in found.height.unique():
        here = (found.height == height).nonzero()[:, 0]
        levels, which = found.label[here].unique(return_inverse=True)
        sizes = torch.bincount(which, minlength=len(levels))
        for level, size in enumerate(sizes.tolist()):
            take = max(int(sizes.min()), round(least * size))
            mine = here[which == level]
            kept.append(mine[torch.randperm(size, generator=rng).to(mine.device)[:take]])
    if not kept:
        return found
    return found.select(torch.cat(kept).sort().values)


def _example() -> SearchTree:
    """All prefixes of at most two letters out of a and b, each a node: "", a, b, aa, ab, ba, bb."""
    written = ("aa", "aa", "ba", "aa", "ab", "ba", "bb")
    traj = Trajectories(
        mask=torch.ones(7, 2, dtype=torch.bool),
        length=torch.full((7,), 2),
        group=torch.zeros(7, dtype=torch.int64),
        step=torch.arange(2).repeat(7, 1),
        stop=torch.zeros(7, dtype=torch.int64),
        actions=torch.tensor([["ab".index(letter) for letter in text] for text in written]),
        items=[{"response": text} for text in written],
    )
    depth, parent = torch.tensor([0, 1, 1, 2, 2, 2, 2]), torch.tensor([-1, 0, 0, 1, 1, 2, 2])
    zero = torch.zeros(7, dtype=torch.float64)
    return SearchTree(traj, depth, parent, 0 * depth, depth, depth == 2, zero, zero, 0 * depth, torch.tensor([6]), 6)


def _first_letter(traj: Trajectories) -> Rewards:
    """Right is what begins with b."""
    return {"b": place_outcome(traj.actions[:, 0].double(), torch.ones(len(traj), dtype=torch.bool), traj)}
