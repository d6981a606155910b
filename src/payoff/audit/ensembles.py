"""Several rewards for the same answers: how far they part, what putting them together gains, and what it cannot catch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Used, best_of_n_weights, examples, pair_counts, standing, used
from payoff.audit.intervals_by_cluster import jackknife, ratio_of, share_of, t_interval
from payoff.audit.measurement import Measurement
from payoff.audit.optimisation import largest_common

MEASURES = Family(
    "ensembles",
    {
        "ensemble-spread": Asked(
            "How far do the rewards part over one answer, against how far answers to a prompt part?",
            "standard deviations",
            bound=0.5,
            why="at a half, the seed of the reward decides a fifth of the variance that an optimiser would follow",
            worst=2.0,
            advice="Follow the least of the rewards, or their mean less a multiple of their variance, and not one of them.",
            remedies=("mix", "kl-penalty"),
            needs=10,
        ),
        "ensemble-disagreement": Asked(
            "How often do two of the rewards order two answers to a prompt differently?",
            "share of pairs",
            bound=0.2,
            why="where one pair in five turns with the seed, one update in five does",
            worst=0.5,
            advice="Average the rewards after bringing them to one scale, and look at the answers on which they part.",
            remedies=("mix",),
            needs=10,
        ),
        "ensemble-mean": Asked(
            "What does selecting by the mean gain in gold over selecting by one of the rewards?", "gold", needs=10
        ),
        "ensemble-worst-case": Asked("What does selecting by the least of them gain over selecting by one?", "gold", needs=10),
        "ensemble-uncertainty-weighted": Asked("What does selecting by mean less variance gain over one?", "gold", needs=10),
        "ensemble-median": Asked("What does selecting by the median gain over selecting by one?", "gold", needs=10),
        "ensemble-mean-less-deviation": Asked(
            "What does selecting by the mean less one deviation gain over selecting by one?", "gold", needs=10
        ),
        "ensemble-robust": Asked(
            "What does selecting by six parts of the mean and four of the least gain over selecting by one?", "gold", needs=10
        ),
        "ensemble-members": Asked(
            "How far apart in gold are the best and the worst of the rewards, when each alone selects?", "gold", needs=10
        ),
        "ensemble-shared-error": Asked(
            "What share of an error do all the rewards make together, so that no ensemble of them can catch it?",
            "correlation of errors",
            bound=0.5,
            why="above one half, an ensemble however large removes less than half of the error's variance",
            worst=1.0,
            advice="Add a reward of another kind (a checker, other data, another start): more seeds of this one cannot help.",
            remedies=("mix", "g-ra", "kl-penalty"),
            needs=10,
        ),
    },
)
FEATURE = Family(
    "ensembles",
    {
        "shared-feature": Asked(
            "Do the errors of all the rewards rise, or all fall, with a feature of the answer?",
            "correlation",
            bound=0.2,
            why="a feature that explains more than 4 % of every reward's error is one that optimisation finds in all of them",
            worst=0.8,
            advice="Charge for the feature, or balance it in the data of every reward: an ensemble follows it as one does.",
            remedies=("length-penalty", "mix"),
            needs=10,
        )
    },
)
LABELS = Family(
    "ensembles",
    {
        "doubtful-labels": Asked(
            "How many preferences do the rewards agree to turn round?",
            "share of pairs",
            bound=0.1,
            why="among human preferences a tenth is turned round by the first look at them; more is a fault of the labels",
            worst=0.5,
            advice="Look at these pairs first; turn their labels round or train with soft labels (arXiv:2401.06080).",
        )
    },
)


def ensemble(
    scores: Float64[Tensor, "M N"],
    valid: Bool[Tensor, "M N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    penalty: float = 0.5,
    features: Mapping[str, Float64[Tensor, " N"]] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """ensemble-spread, -disagreement; with gold also -mean, -worst-case, -uncertainty-weighted, -median, -mean-less-deviation,
    -robust, -members and -shared-error.

    scores: of M >= 2 members (seeds, sizes, data); each is brought to mean 0 and deviation 1 within prompts first, or the
    loudest would decide. Rows count that every member gave a verdict. The aggregations (arXiv:2310.02743, whose lambda is
    `penalty`, 0.5 as there for best-of-n; arXiv:2312.09244; arXiv:2409.15360, with the mean as its nominal reward and a share of
    0.6) are judged by gold at the best of all answers that the smallest prompts have, minus the mean over members of the same;
    series: n, each aggregation, and "single", the mean of the members. ensemble-members is the gold of the best member less that
    of the worst, each chosen on these rows; series: member, gold. shared-error: the mean correlation of two members' errors, what
    their standardised rewards say beyond the multiple of gold that fits each best. features: by name one number per row;
    ensemble-shared-feature-<name> is the least correlation with the members' errors where all have one sign, else 0
    (arXiv:2312.09244). Members must not have been trained on these rows: errors learned by heart are shared.

    >>> s = torch.tensor([[0.1, 0.9, 0.2, 0.8], [0.3, 0.7, 0.9, 0.1]]).double()
    >>> found = ensemble(s, torch.ones(2, 4).bool(), None, torch.tensor([0, 0, 1, 1]))
    >>> found[1].name, found[1].estimate.value
    ('ensemble-disagreement', 0.5)
    """
    members = len(scores)
    named = [f"ensemble-shared-feature-{name}" for name in features or {}]
    if members < 2:
        missing = MEASURES.all_missing("An ensemble needs two rewards.")
        return missing + [FEATURE.missing(name, "An ensemble needs two rewards.", standing="shared-feature") for name in named]
    every = (valid & scores.isfinite()).all(0)
    plain = used(torch.where(every, scores[0], math.nan), every, group)
    found = _parting(plain, _on_one_scale(plain, scores[:, plain.row]), rows, bounds)
    gold_names = list(MEASURES.asked)[2:]
    why = "There is no gold to compare with."
    if gold is not None:
        u = largest_common(used(torch.where(every, scores[0], math.nan), every, group, gold, gold_valid))
        scaled = _on_one_scale(u, scores[:, u.row])
        why = f"No prompt has two answers with gold and the verdicts of all members. {u.note}".strip()
        if len(u.row):
            found += _together(u, scaled, penalty, bounds)
            errors = _errors(u, scaled)
            found.append(_shared(u, errors, bounds))
            for name, (kind, x) in zip(named, (features or {}).items(), strict=True):
                found.append(_feature(u, errors, name, kind, x[u.row], rows, bounds))
            return found
    missing = [MEASURES.missing(name, why) for name in gold_names]
    return [*found, *missing, *(FEATURE.missing(name, why, standing="shared-feature") for name in named)]


def worst_case(scores: Float64[Tensor, "M N"]) -> Float64[Tensor, " N"]:
    """The least over members (WCO, arXiv:2310.02743): never above their mean.

    >>> worst_case(torch.tensor([[1.0, 4.0], [3.0, 2.0]]).double()).tolist()
    [1.0, 2.0]
    """
    return scores.amin(0)


def uncertainty_weighted(scores: Float64[Tensor, "M N"], penalty: float = 0.5) -> Float64[Tensor, " N"]:
    """mean - penalty * variance over members, the variance divided by M (UWO, arXiv:2310.02743).

    Unchanged by a shift common to all; under a factor a the mean grows by a and the variance by a^2, so the penalty is per scale.
    Raises ValueError for a penalty below 0.

    >>> uncertainty_weighted(torch.tensor([[1.0, 4.0], [3.0, 4.0]]).double()).tolist()
    [1.5, 4.0]
    """
    if penalty < 0:
        raise ValueError(f"uncertainty_weighted: penalty must be >= 0, got {penalty}")
    return scores.mean(0) - penalty * scores.var(0, correction=0)


def robust(nominal: Float64[Tensor, " N"], scores: Float64[Tensor, "M N"], share: float = 0.6) -> Float64[Tensor, " N"]:
    """share * nominal + (1 - share) * the least over members (arXiv:2409.15360); share 1 is the nominal reward, 0 the worst case.

    Raises ValueError for a share outside 0..1.

    >>> robust(torch.tensor([2.0]).double(), torch.tensor([[1.0], [3.0]]).double(), 0.5).tolist()
    [1.5]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"robust: share must lie in 0..1, got {share}")
    return share * nominal + (1 - share) * worst_case(scores)


def preference_strength(
    chosen: Float64[Tensor, "M P"], rejected: Float64[Tensor, "M P"]
) -> tuple[Float64[Tensor, " P"], Float64[Tensor, " P"]]:
    """Mean and deviation over members of chosen minus rejected (arXiv:2401.06080): below 0 the label is probably wrong.

    >>> mean, spread = preference_strength(torch.tensor([[2.0], [4.0]]).double(), torch.tensor([[1.0], [1.0]]).double())
    >>> mean.tolist(), [round(x, 4) for x in spread.tolist()]
    ([2.0], [1.4142])
    """
    margin = chosen - rejected
    return margin.mean(0), margin.std(0) if len(margin) > 1 else torch.zeros_like(margin[0])


def doubtful_labels(
    chosen: Float64[Tensor, "M P"],
    rejected: Float64[Tensor, "M P"],
    valid: Bool[Tensor, " P"],
    group: Int64[Tensor, " P"],
    *,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """doubtful-labels: the share of preferences that all members turn round. Series: the mean strength at its percentiles.

    A pair is doubtful where every member puts the rejected answer above the chosen one. Members must not have been trained on
    these pairs, or what they learned by heart looks agreed.

    >>> found = doubtful_labels(torch.tensor([[1.0, 0]]).double(), torch.ones(1, 2).double(), torch.ones(2).bool(), torch.arange(2))
    >>> found[0].estimate.value
    0.5
    """
    every = valid & chosen.isfinite().all(0) & rejected.isfinite().all(0)
    strength, _ = preference_strength(torch.where(every, chosen, 0.0), torch.where(every, rejected, 0.0))
    u = used(strength, every, group)
    if not len(u.row):
        return LABELS.all_missing("No pair has both verdicts of every member. " + u.note)
    turned = (chosen < rejected).all(0)[u.row].double()
    ordered = u.score.sort().values
    percent = [float(p) for p in range(0, 101, 5)]
    series = {"percentile": percent, "strength": [float(ordered[round(p / 100 * (len(ordered) - 1))]) for p in percent]}
    estimate = share_of(u.sum(turned), u.sizes().double())
    return [LABELS.found("doubtful-labels", estimate, bounds, series=series, note=u.note)]


def _on_one_scale(u: Used, scores: Float64[Tensor, "M K"]) -> Float64[Tensor, "M K"]:
    """Each member with mean 0 in every prompt and pooled deviation 1 within prompts; a constant member stays 0."""
    centred = torch.stack([s - u.mean(s)[u.prompt] for s in scores])
    flat = torch.stack([(u.edge(s, "amax") == u.edge(s, "amin"))[u.prompt] for s in scores])
    centred = torch.where(flat, 0.0, centred)
    sd = (centred.square().sum(1, keepdim=True) / max(1, len(u.row) - u.prompts)).sqrt()
    return torch.where(sd > 0, centred / sd.clamp(min=1e-300), 0.0)


def _parting(
    u: Used, scaled: Float64[Tensor, "M K"], rows: Sequence[Mapping[str, Any]] | None, bounds: Mapping[str, float] | None
) -> list[Measurement]:
    several = u.sizes()[u.prompt] > 1
    why = f"No prompt has two answers with the verdicts of all members. {u.note}".strip()
    if not bool(several.any()):
        return [MEASURES.missing(name, why) for name in ("ensemble-spread", "ensemble-disagreement")]
    freedom = (u.sizes() - 1).clamp(min=0)
    # Both numbers are of members centred on their prompts, so what the centring takes from each cancels.
    sums = torch.stack([u.sum(scaled.var(0)), u.sum(scaled.square().mean(0))], 1)
    value, variance = jackknife(sums[freedom > 0], lambda s: (s[:, 0] / s[:, 1]).sqrt())
    spread = t_interval(value, variance, int((freedom > 0).sum())) if math.isfinite(value) else None
    differ, compared = torch.zeros(u.prompts, dtype=torch.float64), torch.zeros(u.prompts, dtype=torch.float64)
    for first, second in combinations(scaled, 2):
        pairs = pair_counts(first, second, u.prompt)
        differ += u.sum(pairs.compared - pairs.agree)
        compared += u.sum(pairs.compared)
    apart = scaled.var(0).sqrt()
    shown = examples(u, apart, rows, extra={"spread": apart})
    flat = f"No member tells answers to a prompt apart. {u.note}".strip()
    return [
        MEASURES.found("ensemble-spread", spread, bounds, note=u.note if spread else flat, examples=shown),
        MEASURES.found(
            "ensemble-disagreement", share_of(differ, compared), bounds, note=u.note if spread else flat, examples=shown
        ),
    ]


def _together(u: Used, scaled: Float64[Tensor, "M K"], penalty: float, bounds: Mapping[str, float] | None) -> list[Measurement]:
    ways = {
        "ensemble-mean": scaled.mean(0),
        "ensemble-worst-case": worst_case(scaled),
        "ensemble-uncertainty-weighted": uncertainty_weighted(scaled, penalty),
        "ensemble-median": scaled.quantile(0.5, 0),
        "ensemble-mean-less-deviation": scaled.mean(0) - scaled.std(0),
        "ensemble-robust": robust(scaled.mean(0), scaled),
    }
    most = int(u.sizes().min())
    ns = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024, 4096) if n < most] + [most]
    curve = lambda s: torch.stack([u.sum(best_of_n_weights(place, n) * u.gold) for place in [standing(s, u.prompt)] for n in ns], 1)
    alone = torch.stack([curve(s) for s in scaled])
    single = alone.mean(0)
    curves = {name: curve(s) for name, s in ways.items()}
    series = {"n": [float(n) for n in ns], "single": single.mean(0).tolist()} | {n: c.mean(0).tolist() for n, c in curves.items()}
    ones = torch.ones(u.prompts, dtype=torch.float64)
    note = f"At n = {most}, on {u.prompts} prompts. {u.note}".strip()
    found = [
        MEASURES.found(name, ratio_of(c[:, -1] - single[:, -1], ones), bounds, note=note, series=series)
        for name, c in curves.items()
    ]
    reached = alone[:, :, -1].mean(1)
    best, worst = alone[int(reached.argmax()), :, -1], alone[int(reached.argmin()), :, -1]
    of_each = {"member": [float(m) for m in range(len(alone))], "gold": reached.tolist()}
    listed = ", ".join(f"{x:.3f}" for x in reached.tolist())
    told = f"Each alone reaches {listed}, in their order. {note}"
    return [*found, MEASURES.found("ensemble-members", ratio_of(best - worst, ones), bounds, note=told, series=of_each)]


def _errors(u: Used, scaled: Float64[Tensor, "M K"]) -> Float64[Tensor, "M K"]:
    """What each member's standardised reward says beyond its best multiple of gold, within prompts."""
    gold = u.gold - u.mean(u.gold)[u.prompt]
    slope = (scaled @ gold) / gold.square().sum().clamp(min=1e-300)
    return scaled - slope[:, None] * gold


def _shared(u: Used, errors: Float64[Tensor, "M K"], bounds: Mapping[str, float] | None) -> Measurement:
    """(M^2 var(mean error) - sum of variances) / (M (M - 1) mean variance): the mean correlation of two errors, M of one size."""
    members = len(errors)
    common, own = u.sum(errors.mean(0).square()), u.sum(errors.square().mean(0))
    if float(own.sum()) < 1e-12 * len(u.row):
        return MEASURES.missing("ensemble-shared-error", f"The members make no error beyond a multiple of gold. {u.note}".strip())
    value, variance = jackknife(torch.stack([common, own], 1), lambda s: (members * s[:, 0] / s[:, 1] - 1) / (members - 1))
    left = value + (1 - value) / members
    note = f"The mean of {members} keeps {left:.3f} of the variance of one error, that of endlessly many {value:.3f}. {u.note}"
    return MEASURES.found("ensemble-shared-error", t_interval(value, variance, u.prompts), bounds, note=note.strip())


def _feature(
    u: Used,
    errors: Float64[Tensor, "M K"],
    name: str,
    kind: str,
    x: Float64[Tensor, " K"],
    rows: Sequence[Mapping[str, Any]] | None,
    bounds: Mapping[str, float] | None,
) -> Measurement:
    x = x - u.mean(x)[u.prompt]
    if float(x.square().sum()) < 1e-300:
        return FEATURE.missing(name, f"{kind} is the same for all answers of every prompt.", standing="shared-feature")
    products = [u.sum(errors[m] * x) for m in range(len(errors))]
    squares = [u.sum(e.square()) for e in errors]
    sums = torch.stack([*products, *squares, u.sum(x.square())], 1)
    members = len(errors)

    def least(s: Float64[Tensor, "G K"]) -> Float64[Tensor, " G"]:
        r = s[:, :members] / (s[:, members : 2 * members] * s[:, -1:]).sqrt().clamp(min=1e-150)
        one_sign = (r > 0).all(1) | (r < 0).all(1)
        return torch.where(one_sign, r.abs().amin(1), 0.0)

    value, variance = jackknife(sums, least)
    total = sums.sum(0)[:members]
    way = "rise" if bool((total > 0).all()) else "fall" if bool((total < 0).all()) else "do not all move one way"
    shown = examples(u, errors.mean(0) * x * (1 if float(total.sum()) > 0 else -1), rows, extra={kind: x})
    note = f"Given gold, the errors of the members {way} with {kind}. {u.note}".strip()
    return FEATURE.found(name, t_interval(value, variance, u.prompts), bounds, standing="shared-feature", note=note, examples=shown)
