"""Which rollouts of a start are compared, and which of the two is the better: from one number of every rollout to pairs.

The number is the channel's at the first action: a path that ends with `total` makes it all that the rollout was paid. A rollout
without verdict is in no pair, nor is one that never acted. Pairs never cross starts.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Pairs, Trajectories, at_start, outcome

Labels = Literal["hard", "logistic"]


@method("best-worst", kind="pairing", sees="group")
def best_worst(
    channel: Channel, traj: Trajectories, *, margin: float = 0.0, labels: Labels = "hard", temperature: float = 1.0
) -> Pairs:
    """The best rollout of every start against its worst; of equal ones the one with the smaller id is the better placed.

    A start gives a pair where the two differ by more than `margin`, else none. labels, temperature: as of `all-pairs`.
    Raises ValueError for margin < 0 and temperature <= 0.

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[0.0], [1.0], [2.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> best_worst(score, four_answers()).index
    tensor([[1, 0]])
    """
    value, rows = _ranked("best_worst", channel, traj)
    best, worst = _firsts(rows, traj), _firsts(rows.flip(0), traj).flip(0)
    return _pairs("best_worst", value, best, worst, margin, labels, temperature)


@method("adjacent", kind="pairing", sees="group")
def adjacent(
    channel: Channel, traj: Trajectories, *, margin: float = 0.0, labels: Labels = "hard", temperature: float = 1.0
) -> Pairs:
    """Every rollout of a start against the next best: G - 1 pairs of G different rollouts, the finest distinctions.

    Neighbours that differ by `margin` or less are no pair; of equal ones the smaller id comes first. labels, temperature: as of
    `all-pairs`. Raises ValueError for margin < 0 and temperature <= 0.

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[0.0], [1.0], [3.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> adjacent(score, four_answers().replace(group=torch.zeros(4, dtype=torch.int64))).index
    tensor([[2, 3],
            [3, 1],
            [1, 0]])
    """
    value, rows = _ranked("adjacent", channel, traj)
    same = traj.group[rows[1:]] == traj.group[rows[:-1]]
    return _pairs("adjacent", value, rows[:-1][same], rows[1:][same], margin, labels, temperature)


@method("all-pairs", kind="pairing", sees="group")
def all_pairs(
    channel: Channel,
    traj: Trajectories,
    *,
    margin: float = 0.0,
    labels: Labels = "hard",
    temperature: float = 1.0,
    ties: Literal["drop", "keep"] = "drop",
) -> Pairs:
    """Every two rollouts of a start that differ by more than `margin`, the better one first: at most G (G - 1) / 2 pairs.

    labels: "hard" is 1; "logistic" is sigmoid(difference / temperature), the Bradley-Terry probability
    ties:   "keep" has those that differ by `margin` or less as well, with label 1/2 where labels are hard
    Of pairs of starts with many rollouts there are more: aggregate by `pair-mean-by-start` where starts should count alike.
    Raises ValueError for margin < 0 and temperature <= 0.

    >>> from payoff.examples import four_answers
    >>> score = Channel(torch.tensor([[0.0], [1.0], [2.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> all_pairs(score, four_answers(), labels="logistic")
    Pairs(index=tensor([[1, 0]]), label=tensor([0.7311]), weight=tensor([1.]))
    """
    if ties not in ("drop", "keep"):
        raise ValueError(f'all_pairs: ties must be "drop" or "keep", got {ties!r}')
    value, rows = _ranked("all_pairs", channel, traj)
    first, second = _within(traj.group[rows])
    return _pairs("all_pairs", value, rows[first], rows[second], margin, labels, temperature, ties == "keep")


@method("recorded-pairs", kind="pairing", sees="group")
def recorded_pairs(channel: Channel, traj: Trajectories, *, temperature: float | None = None) -> Pairs:
    """Recorded responses by the preferences recorded with them: every two of a start whose numbers differ, the better one first.

    The channel says which is better (`recorded-label` reads it off the data). What else the start's row holds, if it does:
    preference: the probability that the better one is preferred, as the label (default 1)
    margin:     with `temperature`, the label is sigmoid(margin / temperature); without it a margin is not read
    weight:     how much the pair counts (default 1)
    Raises ValueError for a preference outside 0..1, numbers that are none, temperature <= 0.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "preference": 0.8} for item in traj.items])
    >>> label = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> recorded_pairs(label, traj)
    Pairs(index=tensor([[0, 1]]), label=tensor([0.8000]), weight=tensor([1.]))
    """
    if temperature is not None and not temperature > 0:
        raise ValueError(f"recorded_pairs: temperature must be > 0, got {temperature}")
    pairs = all_pairs(channel, traj)
    items = [traj.items[row] if traj.items else {} for row in pairs.index[:, 0].tolist()]
    of = lambda name, default: pairs.label.new_tensor([_number_in(item, name, default) for item in items])
    label = of("preference", 1.0)
    if len(label) and not bool(((label >= 0) & (label <= 1)).all()):
        raise ValueError(f"recorded_pairs: a preference is a probability, 0 to 1, got {float(label.min())} to {float(label.max())}")
    if temperature is not None:
        margin = of("margin", float("nan"))
        label = torch.where(margin.isnan(), label, torch.sigmoid(margin / temperature))
    return Pairs(pairs.index, label, of("weight", 1.0))


@method("dstc", kind="pairing", paper="arXiv:2411.13611", sees="group")
def self_test_pairs(channel: Channel, traj: Trajectories, *, code: str = "code", test: str = "test") -> Pairs:
    """One pair a start from programs run on self-made tests, none of them known to be right (DSTC's minimax choice).

    Every rollout is a program joined with a test: its item's fields `code` and `test` say which, and its number is above 0 where
    the program passed. Chosen: of the program that passes most tests, the passed test that the fewest programs pass. Rejected: of
    the program that passes fewest, the failed test that the most programs pass. A hard test is a witness of success, an easy one
    of failure. Ties go to the smaller id. A start in which everything passed, or nothing did, gives no pair. A program may be on
    both sides, with different tests. The paper's text leaves the rule partly open: this is our reading of it.
    Raises ValueError for a rollout that lacks one of the fields.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))
    >>> traj = traj.replace(items=[{"code": c, "test": t} for c, t in ("Aa", "Ab", "Ba", "Bb")])
    >>> passed = Channel(torch.tensor([[1.0], [1.0], [1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> self_test_pairs(passed, traj).index  # A with the test that B fails, against B with it
    tensor([[1, 3]])
    """
    value, known = _number("self_test_pairs", channel, traj)
    passed = known & (value > 0)
    passes, _ = _passes(_keys("self_test_pairs", traj, code), passed, known)
    _, rate = _passes(_keys("self_test_pairs", traj, test), passed, known)
    chosen = _firsts(_sorted(passed.nonzero()[:, 0], (traj.group, -passes, rate, traj.id)), traj)
    rejected = _firsts(_sorted((known & ~passed).nonzero()[:, 0], (traj.group, passes, -rate, traj.id)), traj)
    at, other = (traj.group[chosen][:, None] == traj.group[rejected]).nonzero(as_tuple=True)  # one of each start on either side
    one = torch.ones(len(at), dtype=value.dtype, device=value.device)
    return Pairs(torch.stack([chosen[at], rejected[other]], 1), one, one.clone())


# --- pieces


def _number(name: str, channel: Channel, traj: Trajectories) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """The number of every rollout, and whether it can be compared."""
    value, known = at_start(channel, traj)
    if channel.value.shape[1] > 1 and not value.any() and bool(outcome(channel, traj)[0].any()):
        raise ValueError(f"{name}: nothing is said at the first action, and something later; end the channel's path with `total`")
    return value, known & traj.own.any(1)


def _ranked(name: str, channel: Channel, traj: Trajectories) -> tuple[Float[Tensor, " N"], Int[Tensor, " M"]]:
    """The numbers, and the rows that can be compared: start by start, the best first, equal ones by id."""
    value, known = _number(name, channel, traj)
    return value, _sorted(known.nonzero()[:, 0], (traj.group, -value, traj.id))


def _sorted(rows: Int[Tensor, " M"], keys: Sequence[Tensor]) -> Int[Tensor, " M"]:
    """The rows by the first key, equal ones by the next."""
    for key in reversed(keys):
        rows = rows[key[rows].argsort(stable=True)]
    return rows


def _firsts(rows: Int[Tensor, " M"], traj: Trajectories) -> Int[Tensor, " S"]:
    """Of rows that come start by start, the first of each start."""
    group = traj.group[rows]
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return rows[first]


def _within(group: Int[Tensor, " M"]) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """Every two places of the same group, the earlier first; `group` is sorted."""
    _, sizes = group.unique_consecutive(return_counts=True)
    size = sizes.repeat_interleave(sizes)
    place = torch.arange(len(group), device=group.device)
    within = place - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    offset = torch.arange(1, int(sizes.max()) if len(sizes) else 1, device=group.device)
    here, ahead = (within[:, None] + offset < size[:, None]).nonzero(as_tuple=True)
    return here, here + offset[ahead]


def _pairs(
    name: str,
    value: Float[Tensor, " N"],
    first: Int[Tensor, " P"],
    second: Int[Tensor, " P"],
    margin: float,
    labels: Labels,
    temperature: float,
    ties: bool = False,
) -> Pairs:
    """Pairs of rows of which the first is at least as good; those that differ by `margin` or less only with `ties`."""
    if not margin >= 0 or not temperature > 0:
        raise ValueError(f"{name}: margin must be >= 0 and temperature > 0, got {margin} and {temperature}")
    if labels not in ("hard", "logistic"):
        raise ValueError(f'{name}: labels must be "hard" or "logistic", got {labels!r}')
    gap = value[first] - value[second]
    apart = gap > margin
    label = torch.where(apart, 1.0, 0.5).to(gap.dtype) if labels == "hard" else torch.sigmoid(gap / temperature)
    kept = torch.ones_like(apart) if ties else apart
    label = label[kept]
    return Pairs(torch.stack([first[kept], second[kept]], 1), label, torch.ones_like(label))


def _keys(name: str, traj: Trajectories, field: str) -> Int[Tensor, " N"]:
    """A number for every different value of an item's field within a start."""
    numbers: dict[Hashable, int] = {}
    keys = []
    for group, id, item in zip(traj.group.tolist(), traj.id.tolist(), traj.items or [{}] * len(traj), strict=True):
        if field not in item:
            raise ValueError(f"{name}: trajectory {id} has no field {field!r}")
        keys.append(numbers.setdefault((group, str(item[field])), len(numbers)))
    return torch.tensor(keys, dtype=torch.int64, device=traj.device)


def _passes(
    key: Int[Tensor, " N"], passed: Bool[Tensor, " N"], known: Bool[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Of every row's key: how many of its rows passed, and what share of those with a verdict."""
    size = int(key.max()) + 1 if len(key) else 1
    zeros = torch.zeros(size, dtype=torch.float64, device=key.device)
    count = zeros.index_add(0, key, passed.double())
    share = count / zeros.index_add(0, key, known.double()).clamp(min=1)
    return count[key], share[key]


def _number_in(item: Any, name: str, default: float) -> float:
    """A number of a recorded row; the default where the row has none."""
    value = item.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float):
        raise ValueError(f"recorded_pairs: {name} must be a number, got {value!r}")
    return float(value)
