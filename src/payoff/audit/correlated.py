"""A proxy that correlates with gold where it was measured: how long the correlation lasts while the proxy is optimised, and what
it guarantees (arXiv:2403.03185).

Everything is taken within prompts: a policy cannot choose its prompts, so what is constant over a prompt's answers changes neither
what is gained nor any bound on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Used, best_of_n_weights, examples, used
from payoff.audit.intervals_by_cluster import jackknife, t_interval
from payoff.audit.measurement import Measurement
from payoff.audit.optimisation import best_of_n_kl, largest_common
from payoff.intervals import Interval

_HOLD = "Hold the policy near its start by the square root of chi2 over whole answers, at the coefficient measured here, or by KL."

MEASURES = Family(
    "correlated-proxies",
    {
        "base-correlation": Asked(
            "Among answers to one prompt, as they are sampled today, how well does the reward correlate with gold?",
            "correlation",
            bound=0.3,
            why="below it, any shift with chi2 > r^2 / (1 - r^2) = 0.1 may lower gold however much reward it gains",
            bad="below",
            worst=-0.3,
            advice="Mend the reward before it is optimised: it hardly knows which answer is better.",
            remedies=("mix",),
            needs=10,
        ),
        "optimised-correlation": Asked(
            "Among the answers that optimisation would choose, does the reward still correlate with gold?",
            "correlation",
            bound=0.0,
            why="below 0 each further step of optimisation lowers gold; a narrower choice alone lowers it towards 0, not past it",
            bad="below",
            worst=-0.5,
            advice=_HOLD,
            remedies=("kl-penalty", "par", "clamp"),
            needs=10,
        ),
        "correlation-decay": Asked("How much of the correlation does optimisation use up?", "correlation", needs=10),
        "guaranteed-gain": Asked("What gain in gold does the correlation alone guarantee, at its best?", "gold", needs=10),
        "penalty-coefficient": Asked(
            "With which coefficient does the square root of chi2 pay for what the reward does not know?",
            "reward / sqrt(chi2)",
            advice=_HOLD,
            remedies=("kl-penalty",),
            needs=10,
        ),
    },
)


def correlated_proxies(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    coverage: float = 0.9,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """base-correlation, optimised-correlation, correlation-decay, guaranteed-gain, penalty-coefficient.

    The correlation under best-of-n is that of the answers weighted by their probability to be chosen, within prompts, for n up to
    where the mean effective sample size is 2; `optimised-correlation` is at the last such n, `correlation-decay` the difference
    to n = 1. Selection on the reward alone narrows the reward and lowers any correlation below 1: read it with the bound.
    guaranteed-gain: the largest over n of `least_gain`, at the chi2 of a reward without ties (with ties the policy moves
    less, and the bound stays true). penalty-coefficient: sd(reward) sqrt(1 - r^2), of the penalty
    coefficient * sqrt(chi2(policy || start)) (arXiv:2403.03185, theorem 5.1). Series of optimised-correlation: n, kl, chi2,
    correlation; of guaranteed-gain: n, chi2, proxy_gain, gold_gain, least_gain. coverage: as in `over_optimisation`.
    """
    if gold is None:
        return MEASURES.all_missing("There is no gold to correlate with.")
    u = largest_common(used(scores, valid, group, gold, gold_valid), coverage)
    if not len(u.row):
        return MEASURES.all_missing("No prompt has two answers with verdict and gold. " + u.note)
    base = _moments(u, torch.ones_like(u.score) / u.sizes().double()[u.prompt])
    total = base.sum(0)
    if float(total[0]) <= 0 or float(total[1]) <= 0:
        flat = "The reward" if float(total[0]) <= 0 else "Gold"
        return MEASURES.all_missing(
            f"{flat} is the same for all answers of every prompt: there is no correlation. {u.note}".strip()
        )
    r = _correlated(base)
    path = _along(u)
    last = path.moments[-1]
    prompts = u.prompts
    decay, variance = jackknife(torch.cat([last, base], 1), lambda s: _correlation(s[:, :3]) - _correlation(s[:, 3:]))
    usable = float(last.sum(0)[0]) > 0 and float(last.sum(0)[1]) > 0 and len(path.n) > 1
    along = {"n": path.n, "kl": [best_of_n_kl(int(n)) for n in path.n], "chi2": path.chi2}
    along["correlation"] = [float(_correlation(m.sum(0, keepdim=True))[0]) for m in path.moments]
    reach = f"Seen up to n = {path.n[-1]:g}, on {prompts} prompts. {u.note}".strip()
    found = [MEASURES.found("base-correlation", r, bounds, note=u.note, examples=examples(u, _overpaid(u), rows))]
    for name, estimate in (
        ("optimised-correlation", _correlated(last) if usable else None),
        ("correlation-decay", t_interval(decay, variance, prompts) if usable else None),
    ):
        note = reach if estimate else f"Too few answers to a prompt, or too few distinct ones, to optimise over. {u.note}".strip()
        found.append(MEASURES.found(name, estimate, bounds, note=note, series=along if estimate else {}))
    found.append(_guarantee(u, r.value, total / prompts, path, reach, bounds))
    coefficient, spread = jackknife(_counted(base), lambda s: (s[:, 0] / s[:, 3] * _unexplained(_correlation(s))).sqrt())
    said = f"Gold explains a share {r.value**2:.3f} of the reward's variance within prompts. {u.note}".strip()
    return [*found, MEASURES.found("penalty-coefficient", t_interval(coefficient, spread, prompts), bounds, note=said)]


def least_gain(proxy_gain: float, r: float, chi2: float) -> float:
    """The least gain in gold of any policy with this gain in the proxy, both in standard deviations under the start.

    With r the correlation under the start and chi2 that of the policy from it, gold = r proxy + sqrt(1 - r^2) rest, and proxy and
    rest gain (P, E) with P^2 + E^2 <= chi2 by Bessel's inequality. So the gain is at least

        r P - sqrt((1 - r^2) (chi2 - P^2)),

    which some gold attains: it is never below `paper_gain` and `sister_gain`. Raises ValueError for |r| > 1 or chi2 < 0.

    >>> least_gain(1.0, 1.0, 4.0), least_gain(0.0, 0.0, 4.0)
    (1.0, -2.0)
    """
    _check("least_gain", r, chi2)
    return r * proxy_gain - math.sqrt((1 - r * r) * max(0.0, chi2 - proxy_gain**2))


def paper_gain(proxy_gain: float, r: float, chi2: float) -> float:
    """The bound as published: (P - sqrt((1 - r^2) chi2)) / r, for r > 0 (arXiv:2403.03185, theorem 5.1).

    >>> paper_gain(1.0, 1.0, 4.0)
    1.0
    """
    _check("paper_gain", r, chi2)
    if r <= 0:
        raise ValueError(f"paper_gain: r must be > 0, got {r}")
    return (proxy_gain - math.sqrt((1 - r * r) * chi2)) / r


def sister_gain(proxy_gain: float, r: float, chi2: float) -> float:
    """The bound r P - sqrt((1 - r^2) chi2): larger than `paper_gain` where the policy moved far, and there for r <= 0 too.

    >>> sister_gain(1.0, 1.0, 4.0)
    1.0
    """
    _check("sister_gain", r, chi2)
    return r * proxy_gain - math.sqrt((1 - r * r) * chi2)


def best_of_n_chi2(n: int) -> float:
    """chi2 of best-of-n from the policy it samples, where no two answers tie: n^2 / (2 n - 1) - 1; else an upper bound.

    >>> best_of_n_chi2(1)
    0.0
    """
    return n * n / (2 * n - 1) - 1


class _Path:
    """Best-of-n within prompts: per n the weighted moments of each prompt, and the means over prompts of what they give."""

    def __init__(self) -> None:
        self.n: list[float] = []
        self.chi2: list[float] = []
        self.proxy: list[Float64[Tensor, " G"]] = []
        self.gold: list[Float64[Tensor, " G"]] = []
        self.moments: list[Float64[Tensor, "G 3"]] = []


def _along(u: Used) -> _Path:
    path, place, size = _Path(), u.by_score, u.sizes().double()
    n = 1
    while n <= int(size.min()):
        weight = best_of_n_weights(place, n)
        square = u.sum(weight.square())
        if n > 1 and float((1 / square).mean()) < 2:
            break
        path.n.append(float(n))
        path.chi2.append(best_of_n_chi2(n))
        path.proxy.append(u.sum(weight * u.score))
        path.gold.append(u.sum(weight * u.gold))
        path.moments.append(_moments(u, weight))
        n = n + 1 if n < 16 else math.ceil(n * 1.25)
    return path


def _moments(u: Used, weight: Float64[Tensor, " M"]) -> Float64[Tensor, "G 3"]:
    """Per prompt the weighted variances of reward and gold and their covariance, each over 1 - sum w^2; 0 where one answer has all.

    With equal weights this is the division by K - 1 that makes a variance unbiased.
    """
    x, y = (v - u.sum(weight * v)[u.prompt] for v in (u.score, u.gold))
    left = 1 - u.sum(weight.square())
    enough = left > 1e-9
    return torch.stack(
        [torch.where(enough, u.sum(weight * a * b) / left.clamp(min=1e-9), 0.0) for a, b in ((x, x), (y, y), (x, y))], 1
    )


def _correlation(sums: Float64[Tensor, "G K"]) -> Float64[Tensor, " G"]:
    return (sums[:, 2] / (sums[:, 0] * sums[:, 1]).sqrt()).clamp(-1, 1)


def _counted(moments: Float64[Tensor, "G 3"]) -> Float64[Tensor, "G 4"]:
    """With a column that counts prompts, so that sums without one of them still know how many they are of."""
    return torch.cat([moments, torch.ones_like(moments[:, :1])], 1)


def _unexplained(r: Float64[Tensor, " G"]) -> Float64[Tensor, " G"]:
    return 1 - r.square()


def _correlated(moments: Float64[Tensor, "G 3"]) -> Interval:
    """The correlation over prompts with its interval, by Fisher's z: a t interval of atanh r, which cannot leave -1..1."""
    prompts = len(moments)
    r, variance = jackknife(moments, _correlation)
    if abs(r) > 1 - 1e-9 or not math.isfinite(variance):
        return t_interval(r, variance, prompts)
    turned = t_interval(math.atanh(r), variance / (1 - r * r) ** 2, prompts)
    if turned.low is None or turned.high is None:
        return turned._replace(value=r)
    return turned._replace(value=r, low=math.tanh(turned.low), high=math.tanh(turned.high), method="jackknife-z")


def _guarantee(
    u: Used, r: float, variances: Float64[Tensor, " 3"], path: _Path, reach: str, bounds: Mapping[str, float] | None
) -> Measurement:
    proxy_sd, gold_sd = (math.sqrt(float(v)) for v in variances[:2])
    proxy = [float((x - path.proxy[0]).mean()) for x in path.proxy]
    gold = [float((x - path.gold[0]).mean()) for x in path.gold]
    least = [gold_sd * least_gain(p / proxy_sd, r, c) for p, c in zip(proxy, path.chi2, strict=True)]
    best = max(range(len(least)), key=lambda i: least[i])
    series = {"n": path.n, "chi2": path.chi2, "proxy_gain": proxy, "gold_gain": gold, "least_gain": least}
    chi2 = path.chi2[best]
    base = _moments(u, torch.ones_like(u.score) / u.sizes().double()[u.prompt])
    sums = torch.cat([_counted(base), (path.proxy[best] - path.proxy[0])[:, None]], 1)

    def bound(s: Float64[Tensor, "G 5"]) -> Float64[Tensor, " G"]:
        proxy_sd, gold_sd, r = (s[:, 0] / s[:, 3]).sqrt(), (s[:, 1] / s[:, 3]).sqrt(), _correlation(s)
        gain = s[:, 4] / s[:, 3] / proxy_sd
        return gold_sd * (r * gain - (_unexplained(r) * (chi2 - gain.square()).clamp(min=0)).sqrt())

    value, variance = jackknife(sums, bound)
    note = f"At n = {path.n[best]:g}, chi2 {chi2:.2f}, where gold in fact gains {gold[best]:.3f}; 0 means: do not move. {reach}"
    return MEASURES.found("guaranteed-gain", t_interval(value, variance, u.prompts), bounds, series=series, note=note)


def _overpaid(u: Used) -> Float64[Tensor, " M"]:
    """How far the reward of a row lies above what gold makes of it, both in standard deviations within prompts."""
    x, y = (v - u.mean(v)[u.prompt] for v in (u.score, u.gold))
    return x / x.square().mean().sqrt() - y / y.square().mean().sqrt()


def _check(name: str, r: float, chi2: float) -> None:
    if not -1 <= r <= 1 or not chi2 >= 0:
        raise ValueError(f"{name}: needs -1 <= r <= 1 and chi2 >= 0, got r = {r}, chi2 = {chi2}")
