"""What a reward costs and whether it works at all: time, verdicts that never came, money, and two paths to one reward compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import examples, pair_share, used
from payoff.audit.intervals_by_cluster import quantile_interval, ratio_of, share_of
from payoff.audit.measurement import Measurement
from payoff.intervals import Interval

TIME = Family(
    "health",
    {
        "latency-p50": Asked("How long does a verdict take?", "seconds"),
        "latency-p95": Asked("How long do the slowest in twenty take?", "seconds"),
        "latency-p99": Asked("How long do the slowest in a hundred take?", "seconds"),
        "throughput": Asked("How many verdicts come in a second?", "verdicts / second"),
    },
)
VERDICTS = Family(
    "health",
    {
        "invalid-verdicts": Asked(
            "How often is there no verdict?",
            "share of rows",
            bound=0.01,
            why="one in a hundred is what a time limit costs; more is a fault that training would pay for in lost groups",
            worst=0.5,
            advice="Mend the most frequent reason; a rollout without verdict must be left out of its group, never counted as 0.",
            remedies=("valid-only",),
        ),
        "constant-groups": Asked(
            "How often does the reward give one number to answers that differ in gold?",
            "share of prompts",
            bound=0.1,
            why="one prompt in ten that could teach and does not",
            worst=1.0,
            advice="Let the reward tell these answers apart, or leave such prompts out.",
            remedies=("drop-equal-groups", "mix"),
        ),
    },
)
MONEY = Family("health", {"cost-per-thousand": Asked("What do a thousand verdicts cost?", "money")})
PARITY = Family(
    "health",
    {
        "parity-difference": Asked(
            "By how much do two paths to this reward differ at most?",
            "standard deviations of the reward",
            bound=0.05,
            why="half precision moves a reward model's score by about a hundredth of its spread; a wrong template by far more",
            worst=1.0,
            advice="Compare template, first token, pooled position, truncation and precision; use the path that gold agrees with.",
        ),
        "parity-order": Asked(
            "How often do two paths order two answers to a prompt differently?",
            "share of pairs",
            bound=0.01,
            why="near ties may turn by rounding; one pair in a hundred is more than that",
            worst=0.5,
            advice="Compare template, first token, pooled position, truncation and precision of the two.",
        ),
        "parity-validity": Asked(
            "How often does only one of two paths give a verdict?",
            "share of rows",
            bound=0.01,
            why="as for invalid-verdicts",
            worst=0.5,
            advice="Give both paths the same time and length limits.",
        ),
    },
)


def latency(
    seconds: Sequence[float], *, total: float | None = None, rows: int | None = None, bounds: Mapping[str, float] | None = None
) -> list[Measurement]:
    """latency-p50, -p95, -p99 and throughput, from the seconds of single verdicts (`Scorer.latencies`: of rows, call by call).

    A percentile's interval lies between order statistics and assumes no distribution; it is missing where there are too few
    verdicts for it. total: seconds that all took together, and rows: how many they were, where verdicts run side by side; else
    the sum and the number of `seconds`. No bound is set: only you know what a second costs.

    >>> [m.estimate.value for m in latency([0.1, 0.2, 0.3, 0.4])]
    [0.2, 0.4, 0.4, 4.0]
    """
    finite = [s for s in seconds if math.isfinite(s)]
    if not finite:
        return TIME.all_missing("Nothing was timed.")
    found = [TIME.found(f"latency-p{round(100 * q)}", quantile_interval(finite, q), bounds) for q in (0.5, 0.95, 0.99)]
    spent, count = math.fsum(finite) if total is None else total, len(finite) if rows is None else rows
    if spent <= 0:
        return [*found, TIME.missing("throughput", "No time passed.")]
    if total is None:
        mean = ratio_of(torch.tensor(finite, dtype=torch.float64), torch.ones(len(finite), dtype=torch.float64))
        rate = Interval(count / spent, None, None, count, method="jackknife-t of the mean time")
        if mean is not None and mean.low is not None and mean.high is not None and mean.low > 0:
            rate = rate._replace(low=1 / mean.high, high=1 / mean.low)
    else:
        rate = Interval(count / spent, None, None, count, method="measured once")
    return [*found, TIME.found("throughput", rate, bounds)]


def invalid_verdicts(
    valid: Bool[Tensor, " N"],
    reasons: Mapping[int, str],
    group: Int64[Tensor, " N"],
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """invalid-verdicts: the share of rows without a verdict. Examples: each reason, how often, and the first row it happened to.

    >>> found = invalid_verdicts(torch.tensor([True, False, False]), {1: "timeout", 2: "timeout"}, torch.arange(3))
    >>> found[0].examples[0]["reason"], found[0].examples[0]["count"]
    ('timeout', 2)
    """
    if not len(valid):
        return [VERDICTS.missing("invalid-verdicts", "Nothing was asked.")]
    u = used(torch.zeros(len(valid), dtype=torch.float64), torch.ones_like(valid), group)
    failed = (~valid).double()
    where = (~valid).nonzero().squeeze(1).tolist()
    named = [reasons.get(row, "no reason given") for row in where]
    first = {reason: row for row, reason in zip(reversed(where), reversed(named), strict=True)}
    shown = []
    for reason, count in Counter(named).most_common(10):
        texts = {} if rows is None else {name: str(rows[first[reason]].get(name, ""))[:400] for name in ("prompt", "response")}
        shown.append({"reason": reason, "count": count, "share": count / len(valid), "row": first[reason], **texts})
    share = share_of(u.sum(failed), u.sizes().double())
    return [VERDICTS.found("invalid-verdicts", share, bounds, examples=tuple(shown), note=f"{len(where)} of {len(valid)} rows.")]


def constant_groups(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """constant-groups: the share of prompts whose answers get one reward, among those whose answers differ in gold.

    Without gold it is not known which groups could teach: there is no number (flat-groups of `learnability` counts them all).

    >>> y = torch.tensor([0.0, 1, 0, 0]).double()
    >>> constant_groups(torch.zeros(4).double(), torch.ones(4).bool(), y, torch.tensor([0, 0, 1, 1]))[0].estimate.value
    1.0
    """
    if gold is None:
        return [VERDICTS.missing("constant-groups", "There is no gold to say which answers should be told apart.")]
    u = used(scores, valid, group, gold, gold_valid)
    differs = (u.edge(u.gold, "amax") > u.edge(u.gold, "amin")).double()
    flat = (u.edge(u.score, "amax") == u.edge(u.score, "amin")).double() * differs
    share = share_of(flat, differs)
    note = u.note if share else f"No prompt has answers that differ in gold. {u.note}".strip()
    shown = examples(u, flat[u.prompt], rows)
    return [VERDICTS.found("constant-groups", share, bounds, note=note, examples=shown)]


def cost(
    calls: Sequence[float], price: float, rows: int, *, currency: str = "", bounds: Mapping[str, float] | None = None
) -> list[Measurement]:
    """cost-per-thousand: price times what each call used (calls themselves: 1 each; tokens: that many), per thousand rows.

    Its interval takes calls as independent. Raises ValueError for a price below 0 or rows < 1 with calls.

    >>> cost([1.0] * 50, 0.002, 100)[0].estimate.value
    1.0
    """
    if not calls:
        return [MONEY.missing("cost-per-thousand", "No call was made.")]
    if price < 0 or rows < 1:
        raise ValueError(f"cost: needs price >= 0 and rows >= 1, got {price} and {rows}")
    used_up = torch.tensor(list(calls), dtype=torch.float64)
    mean = ratio_of(used_up, torch.ones_like(used_up))
    factor = 1000 * price * len(calls) / rows
    assert mean is not None  # there is at least one call, and every call counts 1
    low, high = (None if end is None else max(0.0, end * factor) for end in (mean.low, mean.high))
    estimate = Interval(float(used_up.sum()) * 1000 * price / rows, low, high, len(calls))
    note = f"{len(calls)} calls for {rows} rows{f', in {currency}' if currency else ''}."
    return [MONEY.found("cost-per-thousand", estimate, bounds, note=note)]


def counted_cost(counts: Mapping[str, int | float], prices: Mapping[str, float], rows: int) -> Measurement:
    """cost-per-thousand from what a reward counts itself, such as requests and tokens: the sum of price times count, per 1000 rows.

    counts: by name; "calls" are the rows themselves. An answer that was kept from an earlier run was counted then and not now.
    It is counted and not estimated: no interval. Raises LookupError for a price of what is not counted, ValueError below 0.

    >>> counted_cost({"requests": 40, "prompt_tokens": 8000}, {"requests": 0.001, "prompt_tokens": 1e-6}, 100).estimate.value
    0.48
    """
    known = {"calls": rows, **{name: count for name, count in counts.items() if name not in ("seconds", "invalid")}}
    for name, price in prices.items():
        if name not in known:
            raise LookupError(f"--price {name}: this reward does not count that; it counts {', '.join(known)}")
        if price < 0:
            raise ValueError(f"--price {name}: a price is at least 0, got {price}")
    total = sum(price * known[name] for name, price in prices.items())
    note = "; ".join(f"{known[name]:g} {name} at {price:g}" for name, price in prices.items())
    if known.get("replayed"):
        note += f"; {known['replayed']:g} answers were kept from earlier and cost nothing now"
    estimate = Interval(1000 * total / max(rows, 1), None, None, rows, method="counted")
    return MONEY.found("cost-per-thousand", estimate, None, note=f"{note}; {rows} rewards asked for.")


def parity(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    other: Float64[Tensor, " N"],
    other_valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """parity-difference, parity-order, parity-validity, of two paths to one reward: served and local, batched and single.

    parity-difference: max |a - b| / sd of `other` over all rows; of the rows compared it is exact, so its interval has no width,
    and of others it says nothing. Where `other` is constant the difference is not scaled. parity-order: pairs of answers to a
    prompt that differ in `other` and are ordered otherwise by `scores`, ties one half. Rows without both verdicts count only in
    parity-validity, the share where exactly one path gave one.

    >>> a, yes = torch.tensor([1.0, 2.0, 4.0]).double(), torch.ones(3).bool()
    >>> [m.estimate.value for m in parity(a, yes, a, yes, torch.zeros(3).long())]
    [0.0, 0.0, 0.0]
    """
    if not len(scores):
        return PARITY.all_missing("Nothing was scored.")
    one = (valid & scores.isfinite()) != (other_valid & other.isfinite())
    whole = used(torch.zeros_like(scores), torch.ones_like(valid), group)
    validity = PARITY.found("parity-validity", share_of(whole.sum(one.double()), whole.sizes().double()), bounds)
    u = used(scores, valid, group, other, other_valid)
    if not len(u.row):
        missing = [PARITY.missing(name, f"No row has both verdicts. {u.note}") for name in ("parity-difference", "parity-order")]
        return [*missing, validity]
    gap = (u.score - u.gold).abs()
    sd = float(u.gold.std()) if bool(u.gold.min() < u.gold.max()) else 0.0
    largest = float(gap.max()) / (sd or 1.0)
    shown = examples(u, gap, rows, extra={"other": u.gold, "difference": gap})
    difference = Interval(largest, largest, largest, len(u.row), method="exact over the rows compared")
    order = pair_share(u.score, u.gold, u.prompt, u.prompt)
    why = u.note if order else f"No two answers to a prompt differ in the other path's reward. {u.note}".strip()
    turned = None
    if order is not None:
        low, high = (None if end is None else 1 - end for end in (order.high, order.low))
        turned = order._replace(value=1 - order.value, low=low, high=high)
    return [
        PARITY.found("parity-difference", difference, bounds, note=u.note, examples=shown),
        PARITY.found("parity-order", turned, bounds, note=why),
        validity,
    ]
