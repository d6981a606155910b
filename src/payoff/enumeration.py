"""Every sequence and every batch of rollouts that a small policy can give, end to end in one set of trajectories.

What is then done with them, gradients and biases, is in `payoff.exact`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.contents import needs, part_name, read_now, recorded, sees
from payoff.pipeline import Evaluation, Signal, checked_rewards
from payoff.trajectories import Channel, Rewards, Trajectories, concatenate

_LARGEST = 2_000_000  # rows enumerated together
GIVEN = frozenset({"old", "ref"})  # log-probabilities that are noted here; everything else the policy must offer


@runtime_checkable
class Enumerated(Protocol):
    """A policy whose sequences can be listed."""

    offers: frozenset[str]

    def sequences(self, start: int = 0) -> Trajectories:
        """All sequences, each once."""

    def probabilities(self, start: int = 0) -> Float[Tensor, " L"]:
        """Their probabilities, differentiable."""

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities of recorded actions."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What gradients are taken of."""


class Batches(NamedTuple):
    """Every batch that can be drawn, with how often each comes.

    traj:        batch b holds rows b * size to (b + 1) * size - 1; extras["batch"] names it; groups and ids are distinct
    leaf:        [B, size] which sequence each row is, also in extras["leaf"]
    probability: [B], sums to 1
    """

    traj: Trajectories
    leaf: Int[Tensor, "B size"]
    probability: Float[Tensor, " B"]


def every_sequence(policy: Enumerated, starts: Sequence[int] = (0,)) -> Trajectories:
    """The sequences of the starts one after the other; extras["leaf"] numbers all of them.

    >>> from payoff.policies.tabular import Tabular
    >>> every_sequence(Tabular(2, 1, starts=2), starts=(0, 1)).extras["leaf"].tolist()
    [0, 1, 2, 3]
    """
    leaves = concatenate([policy.sequences(start) for start in starts])
    return leaves.replace(extras={"leaf": torch.arange(len(leaves), device=leaves.device)})


def batches(
    policy: Enumerated,
    *,
    group_size: int | Sequence[int] = 2,
    starts: Sequence[int] = (0,),
    ordered: bool = False,
    actor: Enumerated | None = None,
    reference: Enumerated | None = None,
    parts: Sequence[Any] = (),
) -> Batches:
    """Every batch that can be drawn: one group for every start, or one for each of several sizes.

    A group is a multiset: 27 sequences make 3,654 groups of three, where there are 19,683 in order.

    group_size: one size for the group of every start, or a size for each group of a batch, whose starts are then `starts` in
                turn, or the only one there is
    ordered:    groups in every order and not as multisets: for parts to which the order matters (ties broken by id)
    actor:      who sampled, and gives logp["old"]; the policy itself by default. reference gives logp["ref"]
    parts:      signals and parts of terms; what they read of what the policy offers is noted on the trajectories, as the training
                loop does

    Raises ValueError for more than two million rows, sizes that do not fit the starts, parts that need what is not there.

    >>> from payoff.policies.tabular import Tabular
    >>> found = batches(Tabular(2, 1), group_size=2)
    >>> found.leaf.tolist(), [round(p, 3) for p in found.probability.tolist()]
    ([[0, 0], [0, 1], [1, 1]], [0.25, 0.5, 0.25])
    """
    drawn, sizes = _groups(group_size, starts)
    leaves = _annotated(policy, actor or policy, reference, parts, starts)
    chance = {start: (actor or policy).probabilities(start).detach().double() for start in starts}
    count = {start: len(p) for start, p in chance.items()}
    first = dict(zip(starts, itertools.accumulate(count.values(), initial=0)))
    many = [count[s] ** k if ordered else math.comb(count[s] + k - 1, k) for s, k in zip(drawn, sizes, strict=True)]
    rows = math.prod(many) * sum(sizes)
    if rows > _LARGEST:
        raise ValueError(
            f"batches: groups of {sizes} out of {[count[s] for s in drawn]} sequences make {rows:,} rows, more than {_LARGEST:,}; "
            "take a smaller tree or smaller groups"
        )
    leaf = leaves.length.new_zeros(1, 0)
    probability = torch.ones(1, dtype=torch.float64, device=leaves.device)
    for start, size, ways in zip(drawn, sizes, many, strict=True):
        members = _members(count[start], size, ordered).to(leaves.device)
        p = chance[start][members].prod(1) * (1 if ordered else _orders(members))
        leaf = torch.cat([leaf.repeat_interleave(ways, 0), (members + first[start]).repeat(len(leaf), 1)], 1)
        probability = probability.repeat_interleave(ways) * p.repeat(len(probability))
    b, size = leaf.shape
    number = torch.arange(b, device=leaf.device).repeat_interleave(size)
    within = torch.cat([torch.full((k,), i, device=leaf.device) for i, k in enumerate(sizes)])
    traj = leaves.select(leaf.flatten()).replace(
        group=number * len(sizes) + within.repeat(b), id=torch.arange(b * size, device=leaf.device), extras={"batch": number}
    )
    return Batches(traj, leaf, probability)


def alone(traj: Trajectories, number: int, size: int) -> tuple[Trajectories, Int[Tensor, " size"]]:
    """One of the batches as the batch it would be, knowing of no other; and its rows."""
    rows = torch.arange(number * size, (number + 1) * size, device=traj.device)
    batch = traj.select(rows)
    return batch.replace(extras={"batch": torch.zeros_like(rows)}), rows


def paid(rewards: Mapping[str, Tensor]) -> Signal:
    """The signal that pays every sequence what the tables say: at its end [L], or at every action [L, T]; NaN is no verdict.

    >>> from payoff.policies.tabular import Tabular
    >>> paid({"reward": torch.tensor([0.0, 1.0])})(Tabular(2, 1).sequences())["reward"].value.tolist()
    [[0.0], [1.0]]
    """

    def pay(traj: Trajectories) -> Rewards:
        return {name: pay_rows(table[traj.extras["leaf"]], traj) for name, table in rewards.items()}

    return pay


def pay_rows(value: Tensor, traj: Trajectories) -> Channel:
    """A number for every trajectory [N], paid at its end, or for every action [N, T], as a channel; NaN is no verdict."""
    if value.ndim == 1:
        value = value.new_zeros(traj.mask.shape).scatter(1, traj.length[:, None] - 1, value[:, None])
    value = value[:, : traj.width]
    valid = ~value.isnan() | ~traj.exists
    return Channel(torch.where(valid & traj.exists, value, 0), valid)


def scored(signal: Signal, traj: Trajectories) -> Rewards:
    """The rewards of enumerated trajectories; a signal that looks at one at a time is asked once for each sequence there is."""
    if sees(signal) != "item":
        return checked_rewards(part_name(signal), signal(traj), traj)
    _, inverse = traj.extras["leaf"].unique(return_inverse=True)
    rows = torch.arange(len(traj), device=traj.device)
    first = torch.zeros(int(inverse.max()) + 1, dtype=torch.int64, device=traj.device)
    some = traj.select(first.scatter_reduce(0, inverse, rows, "amin", include_self=False))
    rewards = checked_rewards(part_name(signal), signal(some), some)
    return {name: Channel(channel.value[inverse], channel.valid[inverse]) for name, channel in rewards.items()}


def _annotated(
    policy: Enumerated, actor: Enumerated, reference: Enumerated | None, parts: Sequence[Any], starts: Sequence[int]
) -> Trajectories:
    """All sequences of the starts, with what the parts read."""
    leaves = every_sequence(policy, starts)
    named = needs(list(parts))
    kept, wanted = recorded(named), read_now(named)
    offered = policy.offers | {"old"} | ({"ref"} if reference is not None else set())
    if lacking := (wanted | kept) - offered:
        raise ValueError(f"batches: a part needs {sorted(lacking)}, and there is {sorted(offered)}")
    with torch.no_grad():
        logp = {"old": actor.evaluate(leaves).logp}
        if reference is not None:
            logp["ref"] = reference.evaluate(leaves).logp
        more = {**policy.evaluate(leaves, wanted - GIVEN).more, **actor.evaluate(leaves, kept).more}
    return leaves.replace(logp=logp, extras=more)


def _groups(group_size: int | Sequence[int], starts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The start and the size of each group of a batch."""
    if isinstance(group_size, int):
        drawn, sizes = list(starts), [group_size] * len(starts)
    else:
        sizes = list(group_size)
        drawn = list(starts) * len(sizes) if len(starts) == 1 else list(starts)
    if len(drawn) != len(sizes) or not sizes or min(sizes) < 1:
        raise ValueError(f"batches: group sizes {sizes} do not fit starts {list(starts)}: one each, all at least 1")
    return drawn, sizes


def _members(n: int, size: int, ordered: bool) -> Int[Tensor, "M size"]:
    every = torch.arange(n)
    if ordered:
        return torch.cartesian_prod(*[every] * size).view(-1, size)
    return torch.combinations(every, size, with_replacement=True)


def _orders(members: Int[Tensor, "M size"]) -> Float[Tensor, " M"]:
    """In how many orders each multiset can be drawn: size! / product of (how often each member comes)!"""
    run = repeats = torch.ones(len(members), dtype=torch.float64, device=members.device)
    for i in range(1, members.shape[1]):
        run = torch.where(members[:, i] == members[:, i - 1], run + 1, 1)
        repeats = repeats * run
    return math.factorial(members.shape[1]) / repeats
