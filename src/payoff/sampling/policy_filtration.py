"""Training on the rollouts whose reward can be believed: the extremes of each group, not its middle (PF-PPO)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.catalogue import method
from payoff.sets import rank, sets, statistics
from payoff.trajectories import Rewards, Trajectories, outcome

Strategy = Literal["best-random", "best-worst", "best", "power", "all"]


@method("pf-ppo", kind="selection", paper="arXiv:2409.06957", sees="group")
def policy_filtration(
    rewards: Rewards,
    traj: Trajectories,
    *,
    by: str = "correct",
    strategy: Strategy = "best-random",
    how: Literal["resample", "filter"] = "resample",
    exponent: float = 2.0,
    seed: int = 0,
) -> Int[Tensor, " M"]:
    """Draw from each group by weights that follow the rank of the outcome in the channel `by` (policy filtration, PF-PPO).

    resample: as many rows as the group has verdicts, drawn with these weights (`filtration_weights`), so a row may come again
    filter:   without repeats: best-random keeps the best and one evenly drawn other, best-worst the best and the worst, best the
              best, all everything; there is no such form of power

    The middle of a reward model's range is where it knows least, so its verdicts there are left out more often. The deliberate
    bias towards extremes is not corrected by importance weights, and a critic sees other states. Advantages come after it: a
    group's statistics are then those of what was drawn, in which "best" leaves a group nothing to compare.

    A selection has no generator: draws follow from `seed` and the ids of the rows, in whatever order they lie. Ids never come
    again within a run, so neither do draws, and a resumed run draws what the unbroken one would have.
    Rows come in the order of the batch. Rows without verdict are left out; a group of one keeps its row.

    Raises ValueError for power with "filter", other names, exponent < 0; KeyError for a channel nobody gives.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> score = place_outcome(torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> policy_filtration({"correct": score}, traj, strategy="best", how="resample")
    tensor([1, 1, 2, 2])
    """
    if how not in ("resample", "filter"):
        raise ValueError(f'policy_filtration: how must be "resample" or "filter", got {how!r}')
    if how == "filter" and strategy == "power":
        raise ValueError('policy_filtration: "power" has weights and no filter; use how="resample"')
    if by not in rewards:
        raise KeyError(f"policy_filtration: no reward channel {by!r}; there are {sorted(rewards)}")
    score, known = outcome(rewards[by], traj)
    group = sets(traj, "group")[:, 0]
    weight = filtration_weights(score, known, group, traj.id, strategy=strategy, exponent=exponent)
    rng = torch.Generator().manual_seed(_seed(traj.id, seed))
    if how == "resample":
        return _drawn(weight, known, group, traj.id, rng)
    if strategy == "all":
        return known.nonzero()[:, 0]
    keep = _extremes(score, known, group, traj.id, strategy)
    if strategy == "best-random":
        order = traj.id.argsort()
        luck = torch.empty(len(traj), dtype=torch.float64)
        luck[order.cpu()] = torch.rand(len(traj), generator=rng, dtype=torch.float64)
        other = known & ~keep
        keep = keep | (other & (rank(luck.to(traj.device), group, other, traj.id) == 0))
    return keep.nonzero()[:, 0]


def filtration_weights(
    score: Float[Tensor, " N"],
    known: Bool[Tensor, " N"],
    group: Int[Tensor, " N"],
    id: Int[Tensor, " N"],
    *,
    strategy: Strategy = "best-random",
    exponent: float = 2.0,
) -> Float[Tensor, " N"]:
    """The probability of each rollout to be drawn for its group, in float64; they add up to 1 over a group's known ones.

    best-random: 1/2 for the best, the other half shared by the others. best-worst: 1/2 each. best: 1. power: in proportion to
    |score|^exponent, evenly where all are 0. all: evenly. Of equal scores the smaller id stands higher, so best and worst are two
    rollouts even where all are equal. Who is alone has 1; unknown: 0; a group without verdict has none.
    Raises ValueError for another strategy, and exponent < 0.

    >>> five = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    >>> one_group = torch.zeros(5, dtype=torch.int64)
    >>> filtration_weights(five, torch.ones(5, dtype=torch.bool), one_group, torch.arange(5)).tolist()
    [0.125, 0.125, 0.125, 0.5, 0.125]
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"filtration_weights: strategy must be one of {', '.join(get_args(Strategy))}, got {strategy!r}")
    if not exponent >= 0:
        raise ValueError(f"filtration_weights: exponent must be >= 0, got {exponent}")
    stats = statistics(known.double(), group, known)
    if strategy in ("all", "power"):
        raw = known.double()
        if strategy == "power":
            # relative to the largest of the group, so that no power of a large score overflows
            size = torch.where(known, score.double().abs(), 0)
            largest = statistics(size, group, known).high
            raw = torch.where(known & (largest > 0), (size / torch.where(largest > 0, largest, 1)) ** exponent, raw)
    else:
        extreme = _extremes(score, known, group, id, strategy).double()
        others = (stats.count - 1).clamp(min=1)
        raw = torch.where(known & (extreme == 0), 1 / others, extreme) if strategy == "best-random" else extreme
    total = statistics(raw, group, known)
    return torch.where(known, raw / (total.mean * total.count).clamp(min=1e-300), 0)


class Filtration(NamedTuple):
    """How well the proxy explains the truth in what each strategy draws (R^2; None where it cannot be known), and the best."""

    best: Strategy | None
    explained: dict[str, float | None]


def choose_filtration(
    proxy: Float[Tensor, " N"],
    truth: Float[Tensor, " N"],
    known: Bool[Tensor, " N"],
    group: Int[Tensor, " N"],
    *,
    strategies: Sequence[Strategy] = ("all", "best-random", "best-worst", "best", "power"),
    exponent: float = 2.0,
) -> Filtration:
    """The strategy under which a line through the proxy explains most of the truth (PF-PPO's choice, by R^2 on labelled rollouts).

    R^2 = 1 - sum w (truth - a - b proxy)^2 / sum w (truth - mean_w truth)^2, w the expected number of times that each rollout
    is drawn: the number of verdicts of its group times `filtration_weights`; a, b by weighted least squares over all groups.

    proxy, truth: outcomes of the same rollouts, known: both have a verdict. Equal proxies of a group rank by row.
    A strategy that draws one truth, or one proxy, alone explains nothing: None. Between equals the first listed wins. R^2 also
    grows with the spread of the truth that a strategy leaves, which is as the paper has it, and no measure of noise alone.

    >>> proxy, truth = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 3.0, 0.0, 3.0])
    >>> found = choose_filtration(proxy, truth, proxy >= 0, torch.zeros(4, dtype=torch.int64), strategies=["all", "best-worst"])
    >>> found.best, round(found.explained["all"], 6), round(found.explained["best-worst"], 6)
    ('best-worst', 0.2, 1.0)
    """
    x, y = torch.where(known, proxy, 0).double(), torch.where(known, truth, 0).double()
    row = torch.arange(len(x), device=x.device)
    count = statistics(known.double(), group, known).count
    explained: dict[str, float | None] = {}
    for strategy in strategies:
        w = count * filtration_weights(proxy, known, group, row, strategy=strategy, exponent=exponent)
        explained[strategy] = _explained(x[w > 0], y[w > 0], w[w > 0])
    share = {strategy: part for strategy in strategies if (part := explained[strategy]) is not None}
    ranked = sorted(share, key=share.__getitem__, reverse=True)
    return Filtration(ranked[0] if ranked else None, explained)


def _explained(x: Float[Tensor, " M"], y: Float[Tensor, " M"], w: Float[Tensor, " M"]) -> float | None:
    """The squared correlation under weights: R^2 of a line."""
    if not len(x) or not bool((x.min() < x.max()) & (y.min() < y.max())):
        return None
    dx, dy = x - (w @ x) / w.sum(), y - (w @ y) / w.sum()
    return float((w @ (dx * dy)).square() / ((w @ dx.square()) * (w @ dy.square())))


def _extremes(
    score: Float[Tensor, " N"], known: Bool[Tensor, " N"], group: Int[Tensor, " N"], id: Int[Tensor, " N"], strategy: Strategy
) -> Bool[Tensor, " N"]:
    """The best of each group; for best-worst also the last by rank."""
    place = rank(score, group, known, id)
    if strategy != "best-worst":
        return known & (place == 0)
    return known & ((place == 0) | (place == (statistics(known.double(), group, known).count - 1).long()))


def _drawn(
    weight: Float[Tensor, " N"], known: Bool[Tensor, " N"], group: Int[Tensor, " N"], id: Int[Tensor, " N"], rng: torch.Generator
) -> Int[Tensor, " M"]:
    """For each known rollout one draw from its group, by inverting the distribution of the group's rows in order of their ids."""
    rows = known.nonzero()[:, 0]
    if not len(rows):
        return rows
    rows = rows[id[rows].argsort()]
    key = group[rows].unique(return_inverse=True)[1]
    order = key.argsort(stable=True)
    rows, key = rows[order], key[order]
    size = torch.bincount(key)
    ends = size.cumsum(0) - 1
    above = weight[rows].cumsum(0)
    before = torch.cat([above.new_zeros(1), above[ends[:-1]]])[key]
    share = (above - before) / (above[ends][key] - before)  # exactly 1 from a group's last row with a weight on
    luck = torch.rand(len(rows), generator=rng, dtype=torch.float64).to(share.device)
    # Just below 1, so that no rounding of group number plus share reaches the next group.
    place = torch.searchsorted(key + share, key + luck * (1 - 1e-9), right=True)
    return rows[place].sort().values


def _seed(id: Int[Tensor, " N"], seed: int) -> int:
    """One number from a seed and a set of ids."""
    told = f"{seed}:{sorted(id.tolist())}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=7).digest(), "big")
