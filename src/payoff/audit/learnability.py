"""Can a policy learn from this reward: how often it says anything, how loud against its noise, and how near a cliff it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Used, examples, pair_share, used
from payoff.audit.intervals_by_cluster import jackknife, ratio_of, share_of, t_interval
from payoff.audit.measurement import Measurement

MEASURES = Family(
    "learnability",
    {
        "sparsity": Asked(
            "How much of all rollouts gets one and the same reward?",
            "share of rollouts",
            bound=0.95,
            why="with fewer than one rollout in twenty told apart, a group of 8 is told apart less than one time in three",
            worst=1.0,
            advice="Start from easier prompts or a stronger policy, or pay for parts of the way.",
            remedies=("pass-rate", "mix", "g-ra"),
        ),
        "flat-groups": Asked(
            "How many groups of rollouts get one reward for all, and so teach nothing?",
            "share of groups",
            bound=0.5,
            why="above one half, more than half of what is sampled is paid for and thrown away",
            worst=1.0,
            advice="Sample larger groups, or leave out prompts that are always or never solved.",
            remedies=("pass-rate", "drop-equal-groups", "mix"),
        ),
        "bits-per-rollout": Asked(
            "How many bits does the reward of one rollout carry, its prompt being known?",
            "bits",
            bound=0.1,
            why="the verdict of a prompt solved once in 77 carries 0.1 bit; below, thousands of rollouts make one short message",
            bad="below",
            worst=0.0,
            advice="Choose prompts that are solved neither always nor never, or pay for parts of the way.",
            remedies=("pass-rate", "mix"),
        ),
        "gradient-signal": Asked(
            "How far does the update's step along the reward stand out of its own noise?",
            "standard deviations",
            bound=2.0,
            why="at two, the step points the wrong way in one update of forty",
            bad="below",
            worst=0.0,
            advice="Take more groups in an update or larger ones, or choose prompts with more spread.",
            remedies=("pass-rate", "drop-equal-groups"),
            needs=10,
        ),
    },
)
DENSE = Family(
    "learnability",
    {
        "dense-agreement": Asked(
            "Of two answers to a prompt, does this part of the reward favour the one with the better outcome?",
            "share of pairs",
            bound=0.5,
            why="below one half the part pays for what the outcome is against",
            bad="below",
            worst=0.0,
            advice="Let this part count only where the outcome is right, or pay its increments clipped.",
            remedies=("g-ra", "pr-clip-delta", "clamp"),
            needs=10,
        )
    },
)
STABILITY = Family(
    "stability",
    {
        "policy-cliff": Asked(
            "How much gold turns on which of its nearly best answers an optimiser happens to take?",
            "share of gold's range",
            bound=0.2,
            why="a fifth of the range: what two runs of one recipe may then differ by, for no reason that the reward knows",
            worst=1.0,
            advice="Let the reward tell its best answers apart, or keep the policy's entropy up: it then moves smoothly.",
            remedies=("mix", "entropy-bonus", "kl-penalty"),
            needs=10,
        ),
        "top-ties": Asked(
            "In how many prompts does the best answer change under a small change of the reward?", "share of prompts"
        ),
    },
)


def learnability(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    *,
    group_size: int = 8,
    groups: int = 16,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """sparsity, flat-groups, bits-per-rollout, gradient-signal, for updates of `groups` groups of `group_size` rollouts.

    flat-groups is at min(group_size, what most prompts have); series: size, flat (`flat_share` at each size). bits-per-rollout is
    the entropy of the rewards of a prompt with Miller and Madow's correction, at most log2 of its rollouts: for a reward that never
    repeats it says how many rollouts there were, and no more. gradient-signal: see `gradient_moments`; for one group it is that
    of the mean group, for an update sqrt(groups) times it. Noise of the reward itself (another verdict for the same answer)
    passes for signal here; `noise_from_repeats` finds it. Series: size, signal.

    >>> found = learnability(torch.tensor([0.0, 1, 0, 0]).double(), torch.ones(4).bool(), torch.tensor([0, 0, 1, 1]))
    >>> [(m.name, m.estimate.value) for m in found[:2]]
    [('sparsity', 0.75), ('flat-groups', 0.5)]
    """
    u = used(scores, valid, group)
    if not len(u.row):
        return MEASURES.all_missing("No row has a verdict. " + u.note)
    values, kind, counts = u.score.unique(return_inverse=True, return_counts=True)
    common = int(counts.argmax())
    ones = torch.ones_like(u.score)
    same = share_of(u.sum((kind == common).double()), u.sum(ones))
    told = f"The reward is {float(values[common]):g} there. {u.note}".strip()
    found = [MEASURES.found("sparsity", same, bounds, note=told)]
    several = u.sizes() >= 2
    if not bool(several.any()):
        why = f"No prompt has two verdicts. {u.note}".strip()
        return found + [MEASURES.missing(name, why) for name in list(MEASURES.asked)[1:]]
    size = min(group_size, int(u.sizes()[several].median()))
    sizes = sorted({k for k in (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128) if k <= int(u.sizes().max())} | {size})
    shares = {k: flat_share(u, k) for k in sizes}
    enough = {k: u.sizes() >= k for k in sizes}
    flat = share_of(shares[size][enough[size]], torch.ones_like(shares[size][enough[size]]))
    series = {"size": [float(k) for k in sizes], "flat": [float(shares[k][enough[k]].mean()) for k in sizes]}
    note = f"At {size} rollouts a group. {u.note}".strip()
    found.append(MEASURES.found("flat-groups", flat, bounds, note=note, series=series))
    information = entropy_bits(u)[several]
    bits = ratio_of(information, torch.ones_like(information))
    found.append(MEASURES.found("bits-per-rollout", bits, bounds, note=u.note))
    return [*found, _signal(u, group_size, groups, bounds)]


def flat_share(u: Used, size: int) -> Float64[Tensor, " G"]:
    """Per prompt the probability that `size` of its rollouts, drawn without replacement, have one reward; 0 with fewer rollouts.

    sum over its values v of C(count of v, size) / C(K, size): unbiased for a group of that size.
    """
    place = u.by_score
    k = torch.arange(int(place.count.max()) + 1, dtype=torch.float64)
    ways = torch.where(k >= size, torch.lgamma(k + 1) - torch.lgamma((k - size).clamp(min=0) + 1), -math.inf)
    share = torch.where(place.count >= size, (ways[place.equal] - ways[place.count]).exp() / place.equal, 0.0)
    return u.sum(share)


def entropy_bits(u: Used) -> Float64[Tensor, " G"]:
    """Per prompt the entropy of its rewards in bits: -sum p log2 p + (distinct values - 1) / (2 K ln 2), at most log2 K."""
    place = u.by_score
    plain = u.sum(-torch.log2(place.equal.double() / place.count) / place.count)
    distinct = u.sum(1 / place.equal.double()).round()
    size = u.sizes().double()
    return torch.minimum(plain + (distinct - 1) / (2 * size * math.log(2)), size.log2())


def gradient_moments(u: Used, size: int) -> tuple[Float64[Tensor, " G"], Float64[Tensor, " G"], Bool[Tensor, " G"]]:
    """Per prompt, unbiased from its K >= 4 rollouts: mean and variance of the gradient's component along the reward; which have K.

    Move the policy along exp(t r): its score there is r - mean, and the gradient estimate of a group of n rollouts with
    leave-one-out baseline is exactly the group's sample variance s^2 (divided by n - 1). So

        mean = var(r),   variance = (mu4 - (n - 3) / (n - 1) var(r)^2) / n.

    mu4 and var^2 come from m4 and m2^2 of the rollouts by solving for what these are on average. No direction has a larger mean
    per unit of Fisher length: this is how loud the reward can be heard at best. For a reward that is right with probability p << 1
    the ratio mean / sd is about sqrt(n p): the root of the number of right answers in the group.
    """
    count = u.sizes().double()
    enough = count >= 4
    k = torch.where(enough, count, 4.0)
    d = u.score - u.mean(u.score)[u.prompt]
    flat = u.edge(u.score, "amax") == u.edge(u.score, "amin")
    m2, m4 = (torch.where(flat, 0.0, u.sum(d**power) / k) for power in (2, 4))
    # E[m4] and E[m2^2] are (k - 1) / k^3 times [[a, b], [c, e]] applied to (mu4, var^2).
    a, b, c, e = k * k - 3 * k + 3, 3 * (2 * k - 3), k - 1, k * k - 2 * k + 3
    scale = k**3 / ((k - 1) * (a * e - b * c))
    mu4, square = scale * (e * m4 - b * m2.square()), scale * (a * m2.square() - c * m4)
    variance = (mu4 - (size - 3) / (size - 1) * square) / size
    return torch.where(enough, m2 * k / (k - 1), 0.0), torch.where(enough, variance, 0.0), enough


def dense_agreement(
    parts: Mapping[str, Float64[Tensor, " N"]],
    outcome: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """dense-agreement-<part>: the share of pairs of answers to a prompt that a part orders as the outcome does, ties one half.

    parts: by name the sum of a dense part over each rollout. Examples: wrong outcomes that a part pays more than their prompt's
    right ones get on average.

    >>> parts = {"steps": torch.tensor([3.0, 1.0]).double()}
    >>> found = dense_agreement(parts, torch.tensor([0.0, 1.0]).double(), torch.ones(2).bool(), torch.tensor([0, 0]))
    >>> found[0].name, found[0].estimate.value
    ('dense-agreement-steps', 0.0)
    """
    found = []
    for part, x in parts.items():
        name = f"dense-agreement-{part}"
        u = used(x, valid, group, outcome)
        share = pair_share(u.score, u.gold, u.prompt, u.prompt) if len(u.row) else None
        if share is None:
            why = f"No prompt has two answers with different outcomes and this part. {u.note}".strip()
            found.append(DENSE.missing(name, why, standing="dense-agreement"))
            continue
        best = u.gold == u.edge(u.gold, "amax")[u.prompt]
        right = u.sum(best * u.score) / u.sum(best.double())
        over = torch.where(best, 0.0, u.score - right[u.prompt])
        found.append(DENSE.found(name, share, bounds, standing="dense-agreement", note=u.note, examples=examples(u, over, rows)))
    return found


def stability(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    perturbation: float = 0.01,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """policy-cliff, top-ties: what a change of the reward by at most e does to its best answer (arXiv:2507.20150, one step).

    e = perturbation * the reward's standard deviation within prompts. Every answer less than 2 e below the best, and every tie, can
    be made the best by such a change; where there is none, the greedy policy cannot change (`cliff_radius`). policy-cliff: the
    range of gold among those answers over gold's range in the prompt. top-ties needs no gold: the share of prompts with more than
    one such answer; many right answers with one reward are ties and no flaw, so it is only told. Series: perturbation, share.

    >>> s, y = torch.tensor([1.0, 1, 0]).double(), torch.tensor([1.0, 0, 0]).double()
    >>> [m.estimate.value for m in stability(s, torch.ones(3).bool(), y, torch.zeros(3).long())]
    [1.0, 1.0]
    """
    free = used(scores, valid, group)
    free = free.only((free.sizes() >= 2)[free.prompt])
    if not len(free.row):
        return STABILITY.all_missing(f"No prompt has two verdicts. {free.note}".strip())
    ties = share_of(_near_best(free, perturbation)[1].double(), torch.ones(free.prompts, dtype=torch.float64))
    grid = sorted({0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, perturbation})
    series = {"perturbation": grid, "share": [float(_near_best(free, e)[1].double().mean()) for e in grid]}
    told = STABILITY.found("top-ties", ties, bounds, series=series, note=free.note)
    if gold is None:
        return [STABILITY.missing("policy-cliff", "There is no gold that could turn on it."), told]
    u = used(scores, valid, group, gold, gold_valid)
    extent = u.edge(u.gold, "amax") - u.edge(u.gold, "amin") if len(u.row) else torch.zeros(0, dtype=torch.float64)
    if not bool((extent > 0).any()):
        return [STABILITY.missing("policy-cliff", f"No prompt has answers that differ in gold. {u.note}".strip()), told]
    turns = lambda e: _range_among(u, _near_best(u, e)[0])
    series = {"perturbation": grid, "share": [float(turns(e).sum() / extent.sum()) for e in grid]}
    near = _near_best(u, perturbation)[0]
    lost = torch.where(near, u.edge(torch.where(near, u.gold, -math.inf), "amax")[u.prompt] - u.gold, 0.0)
    found = ratio_of(turns(perturbation), extent)
    return [STABILITY.found("policy-cliff", found, bounds, series=series, note=u.note, examples=examples(u, lost, rows)), told]


def cliff_radius(u: Used) -> Float64[Tensor, " G"]:
    """Per prompt half the gap between its best reward and the next answer's: no change below it moves the best answer.

    0 where two answers tie for best; infinite for a prompt with one answer.
    """
    place = u.by_score
    top = place.below + place.equal == place.count
    best = u.edge(u.score, "amax")
    second = u.edge(torch.where(top & (place.equal == 1), -math.inf, u.score), "amax")
    return (best - second) / 2


def _near_best(u: Used, perturbation: float) -> tuple[Bool[Tensor, " M"], Bool[Tensor, " G"]]:
    """The answers that a change of at most perturbation * sd can make the best, and the prompts with several."""
    near = (u.score == u.top) | (u.top - u.score < 2 * perturbation * u.deviation)
    return near, u.sum(near.double()) > 1


def _range_among(u: Used, which: Bool[Tensor, " M"]) -> Float64[Tensor, " G"]:
    high = u.edge(torch.where(which, u.gold, -math.inf), "amax")
    return high - u.edge(torch.where(which, u.gold, math.inf), "amin")


def _signal(u: Used, group_size: int, groups: int, bounds: Mapping[str, float] | None) -> Measurement:
    if group_size < 2 or groups < 1:
        raise ValueError(f"learnability: needs group_size >= 2 and groups >= 1, got {group_size} and {groups}")
    mean, variance, enough = gradient_moments(u, group_size)
    if not bool(enough.any()):
        return MEASURES.missing("gradient-signal", f"No prompt has four verdicts. {u.note}".strip())
    ratio = lambda s: s[:, 0] / (s[:, 1].clamp(min=0) * s[:, 2] / groups).sqrt().clamp(min=1e-150)
    sums = torch.stack([mean, variance, torch.ones_like(mean)], 1)[enough]
    value, spread = jackknife(sums, ratio)
    sizes = [2, 4, 8, 16, 32, 64]
    signal = [
        float(ratio(torch.stack([mean, gradient_moments(u, n)[1], torch.ones_like(mean)], 1)[enough].sum(0, keepdim=True))[0])
        for n in sizes
    ]
    note = f"For {groups} groups of {group_size}. {u.note}".strip()
    series = {"size": [float(n) for n in sizes], "signal": signal}
    return MEASURES.found("gradient-signal", t_interval(value, spread, int(enough.sum())), bounds, note=note, series=series)
