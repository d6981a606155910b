"""The numerics that several measures share: ranks and pairs within sets, and what selection by a reward does to another number.

Everything sorts instead of comparing all with all: memory grows with the rows, never with their square.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.intervals_by_cluster import left_out_variance, share_interval, sum_by
from payoff.intervals import Interval

SHOWN = 400  # characters of a prompt or a response that an example keeps
EXAMPLES = 10  # per measure, at most two of one prompt


@dataclass(frozen=True, eq=False)
class Used:
    """The rows that count: those with a finite verdict and, where gold was asked for, a finite gold.

    row: their places among all rows; prompt: 0.. prompts - 1; dropped: how many rows do not count. What several measures need of
    them (ranks, pairs) is computed once.
    """

    row: Int64[Tensor, " M"]
    score: Float64[Tensor, " M"]
    gold: Float64[Tensor, " M"]
    prompt: Int64[Tensor, " M"]
    prompts: int
    dropped: int

    @property
    def note(self) -> str:
        """A sentence on the rows left out; empty where there are none."""
        return (
            f"{self.dropped} of {self.dropped + len(self.row)} rows without verdict or gold were left out." if self.dropped else ""
        )

    @cached_property
    def by_score(self) -> Standing:
        """Where each row stands in its prompt by the reward."""
        return standing(self.score, self.prompt)

    @cached_property
    def by_gold(self) -> Standing:
        """Where each row stands in its prompt by gold."""
        return standing(self.gold, self.prompt)

    @cached_property
    def pairs(self) -> Pairs:
        """At every row, the pairs of its prompt that reward and gold order alike, and those that could be compared."""
        return pair_counts(self.score, self.gold, self.prompt)

    @cached_property
    def top(self) -> Float64[Tensor, " M"]:
        """The highest reward of each row's prompt."""
        return self.edge(self.score, "amax")[self.prompt]

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the reward within prompts, pooled over them."""
        inner = self.score - self.mean(self.score)[self.prompt]
        return math.sqrt(float(inner.square().sum()) / max(1, len(self.row) - self.prompts))

    @cached_property
    def _sizes(self) -> Int64[Tensor, " G"]:
        return torch.bincount(self.prompt, minlength=self.prompts)

    def sizes(self) -> Int64[Tensor, " G"]:
        """Rows of each prompt."""
        return self._sizes

    def sum(self, x: Float64[Tensor, " M"]) -> Float64[Tensor, " G"]:
        """The sum of x over each prompt's rows."""
        return sum_by(x, self.prompt, self.prompts)

    def mean(self, x: Float64[Tensor, " M"]) -> Float64[Tensor, " G"]:
        """The mean of x over each prompt's rows."""
        return self.sum(x) / self.sizes()

    def edge(self, x: Float64[Tensor, " M"], how: str) -> Float64[Tensor, " G"]:
        """The "amax" or "amin" of x over each prompt's rows."""
        return x.new_empty(self.prompts).scatter_reduce(0, self.prompt, x, how, include_self=False)

    def only(self, keep: Bool[Tensor, " M"]) -> Used:
        """The same with fewer rows; prompts are numbered anew."""
        if bool(keep.all()):
            return self
        prompt, prompts = dense(self.prompt[keep])
        dropped = self.dropped + int((~keep).sum())
        return Used(self.row[keep], self.score[keep], self.gold[keep], prompt, prompts, dropped)


def used(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None = None,
    gold_valid: Bool[Tensor, " N"] | None = None,
) -> Used:
    """The rows that count, gathered; without gold the gold is 0 and only the verdicts decide.

    >>> nan, yes = float("nan"), torch.tensor([True, True, False])
    >>> u = used(torch.tensor([1.0, nan, 2.0]).double(), yes, torch.tensor([7, 7, 9]))
    >>> u.score.tolist(), u.prompt.tolist(), u.dropped
    ([1.0], [0], 2)
    """
    asked = (scores, valid, group, gold, gold_valid)
    found = _LATEST.get("used")
    if found is not None and all(same(one) for same, one in zip(found[0], asked, strict=True)):
        return found[1]
    made = _used(*asked)
    _LATEST["used"] = ([_same_as(one) for one in asked], made)
    return made


_LATEST: dict[str, tuple[list[Callable[[Tensor | None], bool]], Used]] = {}  # one audit asks for the same rows again and again


def _same_as(x: Tensor | None) -> Callable[[Tensor | None], bool]:
    """Whether a tensor is this very one, as it is now; it is not kept alive for that."""
    if x is None:
        return lambda other: other is None
    of, version = weakref.ref(x), x._version
    return lambda other: other is not None and of() is other and other._version == version


def _used(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    gold_valid: Bool[Tensor, " N"] | None,
) -> Used:
    keep = valid & scores.isfinite()
    if gold is not None:
        keep &= gold.isfinite()
        if gold_valid is not None:
            keep &= gold_valid
    row = keep.nonzero().squeeze(1)
    prompt, prompts = dense(group[row])
    truth = torch.zeros_like(scores) if gold is None else gold
    return Used(row, scores[row], truth[row], prompt, prompts, len(scores) - len(row))


def dense(key: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, " N"], int]:
    """Keys as numbers from 0 without gaps, and how many there are."""
    values, inverse = key.unique(return_inverse=True)
    return inverse, len(values)


class Standing(NamedTuple):
    """Where an entry stands in its set: entries strictly below it, entries equal to it (itself among them), entries in all."""

    below: Int64[Tensor, " N"]
    equal: Int64[Tensor, " N"]
    count: Int64[Tensor, " N"]  # type: ignore[assignment]  # the field takes the place of tuple.count


def standing(x: Float64[Tensor, " N"], key: Int64[Tensor, " N"]) -> Standing:
    """How many of its own set each entry lies above, and ties with; one sort. Keys as from `dense`.

    >>> s = standing(torch.tensor([3.0, 1, 3, 9]).double(), torch.tensor([0, 0, 0, 1]))
    >>> s.below.tolist(), s.equal.tolist(), s.count.tolist()
    ([1, 0, 1, 0], [2, 1, 2, 1], [3, 3, 3, 1])
    """
    order = _sorted_within(x, key)
    run, length, first = _runs(x[order], key[order])
    sizes = torch.bincount(key)
    start = (sizes.cumsum(0) - sizes)[key]
    below, equal = torch.empty_like(key), torch.empty_like(key)
    below[order], equal[order] = first[run], length[run]
    return Standing(below - start, equal, sizes[key])


def _sorted_within(x: Float64[Tensor, " N"], key: Int64[Tensor, " N"]) -> Int64[Tensor, " N"]:
    order = x.argsort(stable=True)
    return order[key[order].argsort(stable=True)]


def _runs(
    x: Float64[Tensor, " N"], key: Int64[Tensor, " N"]
) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " R"], Int64[Tensor, " R"]]:
    """Of sorted entries: the run of equal (key, x) each belongs to, the length of each run and where it begins."""
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = (x[1:] != x[:-1]) | (key[1:] != key[:-1])
    run = fresh.cumsum(0) - 1
    length = torch.bincount(run)
    return run, length, length.cumsum(0) - length


class Pairs(NamedTuple):
    """Per entry, over the entries of its set with another gold: how many it is ordered with as gold orders them (a tie in the
    score counts one half), and how many those are. Every pair is counted at both its entries."""

    agree: Float64[Tensor, " N"]
    compared: Float64[Tensor, " N"]


def pair_counts(score: Float64[Tensor, " N"], gold: Float64[Tensor, " N"], key: Int64[Tensor, " N"]) -> Pairs:
    """Whether score orders pairs of a set as gold does, counted at every entry in O(N log K) for sets of at most K entries.

    Two entries with scores that differ part at exactly one bit of their ranks, read from the highest: so entries are split by one
    bit after the other, in order of gold, and every split counts its pairs with two running sums. Two values of gold need no
    splits: ranks among all and ranks among one's own kind tell how many of the other kind lie below.

    >>> p = pair_counts(torch.tensor([.1, .9, .5]).double(), torch.tensor([0.0, 1, 1]).double(), torch.tensor([0, 0, 0]))
    >>> p.agree.tolist(), p.compared.tolist()
    ([2.0, 1.0, 1.0], [2.0, 1.0, 1.0])
    """
    if not len(score):
        return Pairs(score.clone(), score.clone())
    by_score = standing(score, key)
    better = gold == gold.max()
    if bool((better | (gold == gold.min())).all()):
        own = standing(score, dense(2 * key + better)[0])
        under = (by_score.below - own.below).double()
        tied = (by_score.equal - own.equal).double()
        compared = (by_score.count - own.count).double()
        return Pairs(torch.where(better, under, compared - under - tied) + tied / 2, compared)
    by_gold = standing(gold, key)
    order = score.argsort(descending=True, stable=True)  # equal gold: falling score, so that such a pair is never counted below
    order = order[gold[order].argsort(stable=True)]
    order = order[key[order].argsort(stable=True)]
    joint = torch.empty_like(key)
    joint[order] = _runs(gold[order], key[order])[0]
    ties = (by_score.equal - standing(score, joint).equal).double() / 2
    agree = torch.zeros_like(key)
    item, rank = order, by_score.below[order]
    place = torch.arange(len(key))
    sizes = torch.bincount(key)
    end = sizes.cumsum(0)[key[order]]
    start = end - sizes[key[order]]
    for bit in reversed(range(int(rank.max()).bit_length())):
        one = ((rank >> bit) & 1).bool()
        zeros = torch.zeros(len(key) + 1, dtype=torch.int64)
        zeros[1:] = (~one).cumsum(0)
        before = zeros[:-1] - zeros[start]  # zeros of the same part that come earlier: lower gold, lower score
        lower = zeros[end] - zeros[start]
        ones = place - start - before
        agree[item] += torch.where(one, before, end - start - lower - ones)
        target = torch.where(one, start + lower + ones, start + before)
        start, end = torch.where(one, start + lower, start), torch.where(one, end, start + lower)
        item, rank, start, end = (torch.empty_like(x).scatter_(0, target, x) for x in (item, rank, start, end))
    return Pairs(agree.double() + ties, (by_gold.count - by_gold.equal).double())


def pair_share(
    score: Float64[Tensor, " N"],
    gold: Float64[Tensor, " N"],
    key: Int64[Tensor, " N"],
    prompt: Int64[Tensor, " N"],
    *,
    level: float = 0.95,
    within: Pairs | None = None,
) -> Interval | None:
    """The share of pairs within a set that score orders as gold does, ties one half; the interval leaves out one prompt at a time.

    With one set and two values of gold it is the area under the ROC curve, with sets = prompts pairwise accuracy. None without
    a pair of different gold. Prompts without any such pair count neither way. within: `pair_counts` with sets = prompts, where it
    is known already.
    """
    pairs = within if within is not None and key is prompt else pair_counts(score, gold, key)
    prompt, prompts = dense(prompt)
    touched = [sum_by(x, prompt, prompts) for x in pairs]
    total, compared = float(pairs.agree.sum()) / 2, float(pairs.compared.sum()) / 2
    if compared == 0:
        return None
    if within is None:
        parts_of, parts = dense(key * prompts + prompt)
        within = pairs if parts == len(key.unique()) else pair_counts(score, gold, parts_of)
    inside = [sum_by(x, prompt, prompts) / 2 for x in within]  # pairs within one prompt were touched twice
    some = touched[1] > 0
    left_out = (total - (touched[0] - inside[0])[some]) / (compared - (touched[1] - inside[1])[some])
    return share_interval(total / compared, left_out_variance(left_out), int(some.sum()), level=level)


def best_of_n_weights(place: Standing, n: int) -> Float64[Tensor, " N"]:
    """The probability that each entry is the best of n drawn without replacement from its set; entries tied for best share.

    w = [C(a + e, n) - C(a, n)] / (e C(K, n)) for an entry with a below it, e equal to it, of K. Sum over a set of w times any
    number is then the unbiased estimate of that number under best-of-n, from K >= n samples and with random tie breaks
    (arXiv:2310.02743 without ties). Sets with fewer than n entries weigh nothing. Raises ValueError for n < 1.

    >>> place = standing(torch.tensor([1.0, 2, 2]).double(), torch.zeros(3, dtype=torch.long))
    >>> [round(w, 3) for w in best_of_n_weights(place, 2).tolist()]
    [0.0, 0.5, 0.5]
    """
    if n < 1:
        raise ValueError(f"best_of_n_weights: n must be >= 1, got {n}")
    if not len(place.count):
        return place.count.double()
    k = torch.arange(int(place.count.max()) + 1, dtype=torch.float64)
    log_choose = torch.where(k >= n, torch.lgamma(k + 1) - torch.lgamma((k - n).clamp(min=0) + 1), -math.inf)  # C(k, n) n!
    all_of = log_choose[place.count]
    share = (log_choose[place.below + place.equal] - all_of).exp() - (log_choose[place.below] - all_of).exp()
    return torch.where(place.count >= n, share / place.equal, 0.0)


def redrawn_weights(place: Standing, n: int) -> Float64[Tensor, " N"]:
    """The probability that each entry is the best of n drawn with replacement from its set: ((a + e)^n - a^n) / (e K^n).

    Best-of-n of the sample taken as the policy: what its distance from the sample (KL, chi2) is measured with.

    >>> redrawn_weights(standing(torch.tensor([1.0, 2]).double(), torch.tensor([0, 0])), 2).tolist()
    [0.25, 0.75]
    """
    below, equal = place.below.double() / place.count, place.equal.double() / place.count
    return ((below + equal) ** n - below**n) / place.equal


def tilted_weights(
    score: Float64[Tensor, " N"], prompt: Int64[Tensor, " N"], prompts: int, strength: float
) -> Float64[Tensor, " N"]:
    """Self-normalised importance weights of the policy tilted by exp(strength * score), within each prompt: a softmax.

    >>> tilted_weights(torch.tensor([0.0, 0.0, 5.0]).double(), torch.tensor([0, 0, 1]), 2, 3.0).tolist()
    [0.5, 0.5, 1.0]
    """
    top = score.new_full((prompts,), -math.inf).scatter_reduce(0, prompt, strength * score, "amax")
    weight = (strength * score - top[prompt]).exp()
    return weight / sum_by(weight, prompt, prompts)[prompt]


def quantile_bins(x: Float64[Tensor, " N"], count: int) -> Int64[Tensor, " N"]:
    """The bin of each entry, 0.., in at most `count` bins of about equal mass; equal entries share a bin.

    Where there are no more distinct values than bins, every value is a bin of its own.
    """
    values, inverse = x.unique(return_inverse=True)
    if len(values) <= count:
        return inverse
    ordered = x.sort().values
    edges = ordered[[(len(x) * i) // count for i in range(1, count)]].unique()
    return dense(torch.bucketize(x, edges, right=True))[0]


def rank_correlation(x: Sequence[float], y: Sequence[float], *, level: float = 0.95) -> Interval:
    """Spearman's correlation of paired numbers, ties by average ranks, with the Bonett-Wright interval.

    tanh(atanh(r) +- z sqrt((1 + r^2 / 2) / (n - 3))); no interval for n < 4 or |r| = 1. It asks, for one, whether the order of
    rewards before training predicts the order in which training breaks them. Raises ValueError unless there are two or more
    finite pairs; where either side is constant there is no order and the correlation is 0, without an interval.

    >>> round(rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0]).value, 6)
    0.8
    """
    if len(x) != len(y) or len(x) < 2 or not all(map(math.isfinite, (*x, *y))):
        raise ValueError(f"rank_correlation: needs two or more finite pairs, got {len(x)} and {len(y)} numbers")
    zeros = torch.zeros(len(x), dtype=torch.int64)
    places = [standing(torch.tensor(v, dtype=torch.float64), zeros) for v in (x, y)]
    a, b = (p.below.double() + (p.equal.double() - 1) / 2 - (len(x) - 1) / 2 for p in places)
    scale = math.sqrt(float(a.square().sum() * b.square().sum()))
    if scale == 0:
        return Interval(0.0, None, None, len(x), level, method="spearman")
    r = float((a * b).sum()) / scale
    if len(x) < 4 or abs(r) > 1 - 1e-12:
        return Interval(r, None, None, len(x), level, method="spearman")
    z = torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)).item()
    half = z * math.sqrt((1 + r * r / 2) / (len(x) - 3))
    return Interval(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), len(x), level, method="spearman")


def examples(
    of: Used,
    badness: Float64[Tensor, " M"],
    rows: Sequence[Mapping[str, Any]] | None,
    *,
    most: int = EXAMPLES,
    extra: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Any], ...]:
    """The rows with the greatest positive badness as plain data, at most two of one prompt; () without rows.

    Prompt and response are cut to 400 characters; `row` is the place among all rows; `extra` adds numbers by name.
    """
    found: list[dict[str, Any]] = []
    taken: dict[int, int] = {}
    if rows is None or not len(badness):
        return ()
    for i in badness.topk(min(len(badness), 20 * most)).indices.tolist():
        prompt = int(of.prompt[i])
        if len(found) == most or badness[i] <= 0:
            break
        if taken.get(prompt, 0) >= 2:
            continue
        taken[prompt] = taken.get(prompt, 0) + 1
        row = rows[int(of.row[i])]
        texts = {name: str(row.get(name, ""))[:SHOWN] for name in ("prompt", "response")}
        numbers = {name: float(x[i]) for name, x in (extra or {}).items()}
        found.append({"row": int(of.row[i]), **texts, "reward": float(of.score[i]), "gold": float(of.gold[i]), **numbers})
    return tuple(found)
