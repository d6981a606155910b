"""Does the reward order answers as gold does: over all answers, within a prompt, one against many, and at the top."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Standing, Used, dense, examples, pair_share, standing, used
from payoff.audit.intervals_by_cluster import ratio_of, share_of
from payoff.audit.measurement import Measurement
from payoff.intervals import Interval

_BETTER = "Mend the reward on the kinds of answer it puts in the wrong order; a mean over several rewards orders better than one."

MEASURES = Family(
    "discrimination",
    {
        "auc": Asked(
            "Of two answers to any prompts, does the better one get the higher reward?",
            "share of pairs",
            bound=0.8,
            why="a published reward model orders 70 to 90 % of pairs; below 80 % one update in five pushes the wrong way",
            bad="below",
            worst=0.5,
            advice=_BETTER,
        ),
        "pairwise-accuracy": Asked(
            "Of two answers to the same prompt, does the better one get the higher reward?",
            "share of pairs",
            bound=0.8,
            why="as for auc; this is the comparison that advantages within a group make",
            bad="below",
            worst=0.5,
            advice=_BETTER,
        ),
        "one-against-many": Asked(
            "Is every right answer of a prompt above every wrong one?",
            "share of prompts",
            why="no bound: what chance reaches depends on how many right and wrong answers a prompt has",
            bad="below",
            worst=0.0,
            advice="Look at the wrong answers that score highest: they are what optimisation will find first.",
        ),
        "mean-reciprocal-rank": Asked(
            "How far up does the first right answer of a prompt stand? Ties are read against the reward.",
            "1 / rank",
            why="no bound, as for one-against-many",
            bad="below",
            worst=0.1,
            advice="Look at the wrong answers above the first right one.",
        ),
        "top-precision": Asked(
            "Is the answer that the reward likes best one of the best answers there are?",
            "share of prompts",
            bound=0.7,
            why="optimisation lives at the top: where three of ten best-liked answers are not the best, more of it buys these",
            bad="below",
            worst=0.0,
            advice="Bound the reward, so that no answer wins by a lead that gold does not see.",
            remedies=("par", "clamp"),
        ),
        "top-agreement": Asked(
            "How much of what picking the best answer by gold would gain does picking it by the reward gain?",
            "share of the gain",
            bound=0.5,
            why="half of the attainable gain is what a proxy correlated with gold at 0.5 recovers",
            bad="below",
            worst=0.0,
            advice="Bound the reward and cap how far the policy may move: what it gains at the top is not gold.",
            remedies=("par", "clamp", "kl-penalty"),
        ),
        "reversed-prompts": Asked(
            "In how many prompts does the reward order answers against gold more often than with it?",
            "share of prompts",
            bound=0.1,
            why="a reward that is right on 80 % of pairs turns fewer than one prompt in ten round by chance",
            worst=0.5,
            advice="Find what these prompts have in common (see the slices) and mend the reward there: its sign is wrong.",
            remedies=("pass-rate",),
        ),
    },
)

SLICES = Family(
    "discrimination",
    {
        "slice": Asked(
            "Where does the reward order answers worst?",
            "share of pairs",
            bound=0.7,
            why="a slice may be harder than the whole (bound 0.8), by no more than another one wrong pair in ten",
            bad="below",
            worst=0.5,
            advice="Keep this slice out of training, or give it a reward of its own, until it is ordered as well as the rest.",
            remedies=("pass-rate",),
        )
    },
)


def discrimination(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    threshold: float | None = None,
    fewest_pairs: int = 10,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """auc, pairwise-accuracy, one-against-many, mean-reciprocal-rank, top-precision, top-agreement, reversed-prompts.

    MEASURES says what each asks. reversed-prompts counts prompts with at least `fewest_pairs` pairs that differ in gold: with
    fewer, chance alone turns many round.

    gold: any number that is larger for better answers. `auc` is the area under the ROC curve where gold has two values and the
    share of ordered pairs (Harrell's C) where it has more. threshold: an answer is right when its gold is above it; None: right is
    the larger of two values, or, where gold has more, the best of the prompt. Rows without verdict or gold take no part. Prompts
    are the unit of every interval. Without gold, or with one value of gold only, a measure has no number and says so.

    >>> s, y = torch.tensor([0.9, 0.1, 0.8, 0.3]).double(), torch.tensor([1.0, 0, 0, 1]).double()
    >>> found = discrimination(s, torch.ones(4).bool(), y, torch.tensor([0, 0, 1, 1]))
    >>> [(m.name, m.estimate.value) for m in found[:3]]
    [('auc', 0.75), ('pairwise-accuracy', 0.5), ('one-against-many', 0.5)]
    """
    if gold is None:
        return MEASURES.all_missing("There is no gold to compare with.")
    u = used(scores, valid, group, gold, gold_valid)
    if not len(u.row):
        return MEASURES.all_missing("No row has both a verdict and gold. " + u.note)
    ranks = u.by_score
    right = right_answers(u, threshold)
    lead = u.score - _of_group(u, u.score, right, "amax")  # infinite in a prompt without a right answer
    wrong_above = torch.where(~right & lead.isfinite(), lead, 0.0)
    first = _of_group(u, reciprocal_ranks(u, right), right, "amax")
    estimates = {
        "auc": pair_share(u.score, u.gold, torch.zeros_like(u.prompt), u.prompt, within=u.pairs),
        "pairwise-accuracy": pair_share(u.score, u.gold, u.prompt, u.prompt, within=u.pairs),
        "one-against-many": share_of(*one_against_many(u, right)),
        "mean-reciprocal-rank": _reciprocal(u, right, first),
        "top-precision": share_of(*_top_precision(u, ranks)),
        "top-agreement": ratio_of(*top_gain(u, ranks)),
        "reversed-prompts": share_of(*reversed_prompts(u, fewest_pairs)),
    }
    worst = {name: examples(u, wrong_above, rows) for name in ("one-against-many", "mean-reciprocal-rank")}
    for name in ("top-precision", "top-agreement"):
        worst[name] = examples(
            u, torch.where(ranks.below + ranks.equal == ranks.count, u.edge(u.gold, "amax")[u.prompt] - u.gold, 0.0), rows
        )
    worst["reversed-prompts"] = examples(u, _misplaced(u) * reversed_prompts(u, fewest_pairs)[0][u.prompt], rows)
    why = "No two answers that could be compared differ in gold, or no prompt has enough that do. " + u.note
    found = []
    for name, estimate in estimates.items():
        note = why if estimate is None else " ".join(filter(None, [_chance(name, u, right), u.note]))
        series = _top_series(u, ranks) if name == "top-agreement" and estimate else {}
        found.append(MEASURES.found(name, estimate, bounds, examples=worst.get(name, ()), series=series, note=note))
    return found


def discrimination_by(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    part: Int64[Tensor, " N"],
    *,
    by: str,
    names: Sequence[str] = (),
    gold_valid: Bool[Tensor, " N"] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
    fewest: int = 20,
) -> list[Measurement]:
    """discrimination-by-<by>: the share of pairs that the reward orders as gold does, in the slice where it is lowest.

    part: the slice of each row (difficulty or length in `quantile_bins`, a source); names: of slice 0, 1, ... Pairs are two rows of
    a slice and a prompt, or, where no prompt has such a pair, any two rows of a slice. Slices with fewer than `fewest` prompts that
    hold a pair are listed but cannot be the worst. The worst of S slices is shown with an interval of level 1 - 0.05 / S, so
    that the lowest of many is not taken for low by chance. Series: slice, share, low, high, prompts.

    >>> s, y = torch.tensor([0.9, 0.1, 0.2, 0.3]).double(), torch.tensor([1.0, 0, 1, 0]).double()
    >>> part = torch.tensor([0, 0, 1, 1])
    >>> found = discrimination_by(s, torch.ones(4).bool(), y, part, part, by="source", names=("web", "book"), fewest=1)
    >>> found[0].name, found[0].estimate.value, found[0].note.split(":")[0]
    ('discrimination-by-source', 0.0, 'Lowest in book')
    """
    name = f"discrimination-by-{by}"
    if gold is None:
        return [SLICES.missing(name, "There is no gold to compare with.", standing="slice")]
    u = used(scores, valid, group, gold, gold_valid)
    label = part[u.row]
    key, sets = dense(label * max(u.prompts, 1) + u.prompt)
    ends = [u.gold.new_zeros(sets).scatter_reduce(0, key, u.gold, how, include_self=False) for how in ("amin", "amax")]
    within = bool((ends[0] < ends[1]).any())
    kinds = label.unique().tolist()
    level = 1 - 0.05 / max(1, len(kinds))
    shares: dict[int, Interval] = {}
    for kind in kinds:
        rows_of = u.only(label == kind)
        pairs_of = rows_of.prompt if within else torch.zeros_like(rows_of.prompt)
        share = pair_share(rows_of.score, rows_of.gold, pairs_of, rows_of.prompt, level=level)
        if share is not None:
            shares[kind] = share
    fit = {kind: share for kind, share in shares.items() if share.n >= fewest}
    if not fit:
        return [
            SLICES.missing(
                name, f"No slice has {fewest} prompts with a pair that differs in gold. {u.note}".strip(), standing="slice"
            )
        ]
    worst = min(fit, key=lambda kind: fit[kind].value)
    called = lambda kind: names[kind] if 0 <= kind < len(names) else str(kind)
    listed = ", ".join(f"{called(kind)} {share.value:.3f}" for kind, share in shares.items())
    series = {"slice": [float(kind) for kind in shares], "share": [share.value for share in shares.values()]}
    for end in ("low", "high"):
        series[end] = [math.nan if getattr(share, end) is None else getattr(share, end) for share in shares.values()]
    series["prompts"] = [float(share.n) for share in shares.values()]
    pairs = "two answers to a prompt" if within else "any two answers"
    note = f"Lowest in {called(worst)}: {listed}. Pairs are {pairs} of one slice. {u.note}".strip()
    shown = examples(u, torch.where(label == worst, _misplaced(u), 0.0), rows)
    return [SLICES.found(name, fit[worst], bounds, standing="slice", series=series, note=note, examples=shown)]


def difficulty(u: Used) -> Float64[Tensor, " M"]:
    """How hard each row's prompt is: minus the mean gold of its answers."""
    return -u.mean(u.gold)[u.prompt]


def right_answers(u: Used, threshold: float | None = None) -> Bool[Tensor, " M"]:
    """Which answers are right: gold above `threshold`; without one the larger of gold's two values, or the best of its prompt."""
    if threshold is not None:
        return u.gold > threshold
    if len(u.gold.unique()) <= 2:
        return (u.gold == u.gold.max()) & (u.gold > u.gold.min())
    return (u.gold == u.edge(u.gold, "amax")[u.prompt]) & (u.gold > u.edge(u.gold, "amin")[u.prompt])


def one_against_many(
    u: Used, right: Bool[Tensor, " M"], *, ties: bool = False
) -> tuple[Float64[Tensor, " G"], Float64[Tensor, " G"]]:
    """Per prompt 1 where its lowest right answer is above its highest wrong one (arXiv:2410.01729), and 1 where it has both.

    ties: an equal score is enough. A constant reward gets 0 without and 1 with ties.
    """
    lowest = u.edge(torch.where(right, u.score, math.inf), "amin")
    highest = u.edge(torch.where(right, -math.inf, u.score), "amax")
    both = lowest.isfinite() & highest.isfinite()
    return (both & (lowest >= highest if ties else lowest > highest)).double(), both.double()


def reciprocal_ranks(u: Used, right: Bool[Tensor, " M"]) -> Float64[Tensor, " M"]:
    """1 / (1 + wrong answers of the prompt that score as high or higher) at right answers, 0 at wrong ones.

    The largest of a prompt is its reciprocal rank with ties read against the reward: the first right answer has no right one above.
    """
    all_of, right_of = u.by_score, _standing_where(u, right)
    wrong_up = (all_of.count - all_of.below) - right_of
    return torch.where(right, 1 / (1 + wrong_up.double()), 0.0)


def reversed_prompts(u: Used, fewest_pairs: int = 10) -> tuple[Float64[Tensor, " G"], Float64[Tensor, " G"]]:
    """Per prompt 1 where fewer than half of its pairs are ordered as gold orders them, and 1 where it has enough pairs."""
    pairs = u.pairs
    agree, compared = u.sum(pairs.agree), u.sum(pairs.compared)
    enough = compared >= 2 * fewest_pairs  # every pair is counted at both ends
    return (enough & (agree < compared / 2)).double(), enough.double()


def top_gain(u: Used, ranks: Standing) -> tuple[Float64[Tensor, " G"], Float64[Tensor, " G"]]:
    """Per prompt the gold gained over its mean by taking the reward's favourite (ties averaged), and by taking gold's."""
    top = (ranks.below + ranks.equal == ranks.count).double() / ranks.equal
    mean = u.mean(u.gold)
    highest = u.edge(u.gold, "amax")
    attainable = torch.where(highest > u.edge(u.gold, "amin"), highest - mean, 0.0)
    return torch.where(attainable > 0, u.sum(top * u.gold) - mean, 0.0), attainable


def top_k(u: Used, ranks: Standing, k: int) -> Float64[Tensor, " G"]:
    """Per prompt the mean gold of the reward's k favourites, over all ways to break ties; all of a smaller prompt's answers."""
    above = ranks.count - ranks.below - ranks.equal
    taken = ((k - above).double() / ranks.equal).clamp(0, 1)
    return u.sum(taken * u.gold) / u.sizes().clamp(max=k)


def _standing_where(u: Used, which: Bool[Tensor, " M"]) -> Int64[Tensor, " M"]:
    """For every entry of `which`, the entries of `which` in its prompt that score as high or higher, itself among them."""
    place = which.nonzero().squeeze(1)
    prompt = dense(u.prompt[place])[0]
    inner = standing(u.score[place], prompt)
    count = torch.zeros_like(u.prompt)
    count[place] = inner.count - inner.below
    return count


def _of_group(u: Used, x: Float64[Tensor, " M"], where: Bool[Tensor, " M"], how: str) -> Float64[Tensor, " M"]:
    return u.edge(torch.where(where, x, -math.inf), how)[u.prompt]


def _reciprocal(u: Used, right: Bool[Tensor, " M"], first: Float64[Tensor, " M"]) -> Interval | None:
    both = one_against_many(u, right)[1]
    best = u.edge(first, "amax")
    return ratio_of(torch.where(both > 0, best, 0.0), both)


def _top_precision(u: Used, ranks: Standing) -> tuple[Float64[Tensor, " G"], Float64[Tensor, " G"]]:
    top = (ranks.below + ranks.equal == ranks.count).double() / ranks.equal
    highest = u.edge(u.gold, "amax")
    spread = (highest > u.edge(u.gold, "amin")).double()
    return u.sum(top * (u.gold == highest[u.prompt])) * spread, spread


def _misplaced(u: Used) -> Float64[Tensor, " M"]:
    """How much higher a row stands by reward than by gold within its prompt, as a share of the prompt."""
    by_score, by_gold = u.by_score, u.by_gold
    middle = lambda s: (s.below.double() + s.equal.double() / 2) / s.count
    return middle(by_score) - middle(by_gold)


def _top_series(u: Used, ranks: Standing) -> dict[str, list[float]]:
    sizes = u.sizes()
    spread = u.edge(u.gold, "amax") > u.edge(u.gold, "amin")
    common = int(sizes[spread].median())
    ks = [k for k in range(1, 33) if k <= common]
    by_gold = u.by_gold
    full = spread & (sizes >= common)
    curves = {name: [float(top_k(u, s, k)[full].mean()) for k in ks] for name, s in (("gold", ranks), ("attainable", by_gold))}
    return {"k": [float(k) for k in ks], **curves}


def _chance(name: str, u: Used, right: Bool[Tensor, " M"]) -> str:
    """What a reward that knows nothing would reach, where that is not one half."""
    goods, sizes = u.sum(right.double()), u.sizes().double()
    both = (goods > 0) & (goods < sizes)
    goods, sizes = goods[both], sizes[both]
    if name != "one-against-many" or not len(goods):
        return ""
    ways = torch.lgamma(sizes + 1) - torch.lgamma(goods + 1) - torch.lgamma(sizes - goods + 1)
    return f"A reward that knows nothing would reach {float((-ways).exp().mean()):.3f}."
