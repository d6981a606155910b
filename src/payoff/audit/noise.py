"""How often a right-or-wrong verdict is wrong, each way: against gold, from repeats, or from two graders in two populations.

The two rates are those of arXiv:2510.00915: rho0 = P(said right | wrong) and rho1 = P(said wrong | right). They shrink what a
policy can learn from a verdict by the slope 1 - rho0 - rho1, and, where known, (verdict - rho0) / slope has the mean of the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.asked import Asked, Family
from payoff.audit.estimators import Used, examples, used
from payoff.audit.intervals_by_cluster import SEED, jackknife, ratio_of, share_of, t_interval
from payoff.audit.measurement import Measurement
from payoff.catalogue import find
from payoff.rows import from_rows
from payoff.trajectories import outcome, place_outcome

_CORRECT = "Correct the verdict for its rates (noisy-rlvr-correction), if the errors do not depend on what the policy writes."

MEASURES = Family(
    "noise",
    {
        "false-positive-rate": Asked(
            "How often is a wrong answer said to be right?",
            "share of wrong answers",
            bound=0.05,
            why="a policy that is right one time in twenty would be paid as often for wrong answers as for right ones",
            worst=0.3,
            remedies=("noisy-rlvr-correction",),
            advice="Look at what the wrong answers that pay have in common and refuse it: an error with a pattern will be found. "
            + _CORRECT,
        ),
        "false-negative-rate": Asked(
            "How often is a right answer said to be wrong?",
            "share of right answers",
            bound=0.1,
            why="costs samples and not direction, so twice the other bound",
            worst=0.5,
            remedies=("noisy-rlvr-correction",),
            advice="Accept the equivalent forms that were refused. " + _CORRECT,
        ),
        "verdict-slope": Asked(
            "How much of the difference between right and wrong is left in the verdict?",
            "1 - rho0 - rho1",
            bound=0.7,
            why="noise multiplies the samples needed by at least 1 / slope^2: at 0.7 by two",
            bad="below",
            worst=0.0,
            advice=_CORRECT,
            remedies=("noisy-rlvr-correction",),
            needs=10,
        ),
    },
)
BY_SOURCE = Family("noise", {"by-source": MEASURES.asked["false-positive-rate"]})


class Rates(NamedTuple):
    """Noise without gold. right: the share of right answers; false_positive, false_negative: of each grader, in order."""

    right: tuple[float, ...]
    false_positive: tuple[float, ...]
    false_negative: tuple[float, ...]


def noise(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    said_right: float | None = None,
    is_right: float | None = None,
    source: Int64[Tensor, " N"] | None = None,
    names: Sequence[str] = (),
    rows: Sequence[Mapping[str, Any]] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """false-positive-rate, false-negative-rate, verdict-slope and, with sources, false-positive-rate-by-source, against gold.

    A verdict says right above `said_right`, an answer is right above `is_right`; None: halfway between the two values there are. A
    reward or gold with more values is no verdict: then every measure says so, until the value is given. Intervals are Wilson's with
    prompts as the unit. The worst of S sources is shown at level 1 - 0.05 / S; series: source, false_positive, false_negative (nan
    where a source has no wrong or no right answers). The correction named in the advice does not exist where the slope is not
    above 0.

    >>> said, y = torch.tensor([1.0, 0, 1, 0]).double(), torch.tensor([1.0, 0, 0, 1]).double()
    >>> [m.estimate.value for m in noise(said, torch.ones(4).bool(), y, torch.arange(4))]
    [0.5, 0.5, 0.0]
    """
    if gold is None:
        return MEASURES.all_missing("There is no gold. Two other graders (--member), or one and two sources of rows, may do.")
    u = used(scores, valid, group, gold, gold_valid)
    read = _read(u, said_right, is_right)
    if isinstance(read, str):
        return MEASURES.all_missing(read)
    says, right = read
    accepted, wrong, refused, rights = (u.sum(x) for x in (says * (1 - right), 1 - right, (1 - says) * right, right))
    slope = None
    if float(wrong.sum()) and float(rights.sum()):
        value, variance = jackknife(
            torch.stack([accepted, wrong, refused, rights], 1), lambda s: 1 - s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3]
        )
        slope = t_interval(value, variance, u.prompts)
    found = []
    for name, estimate, kind, bad in (
        ("false-positive-rate", share_of(accepted, wrong), "wrong", says * (1 - right)),
        ("false-negative-rate", share_of(refused, rights), "right", (1 - says) * right),
    ):
        note = u.note if estimate else f"Gold holds no {kind} answer. {u.note}".strip()
        found.append(MEASURES.found(name, estimate, bounds, note=note, examples=examples(u, bad, rows)))
    rates = "" if slope is None else _correction(float(accepted.sum() / wrong.sum()), float(refused.sum() / rights.sum()))
    note = rates if slope else "Gold holds answers of one kind only."
    found.append(MEASURES.found("verdict-slope", slope, bounds, note=f"{note} {u.note}".strip()))
    if source is not None:
        found.append(_worst_source(u, says, right, source[u.row], names, bounds))
    return found


def _read(
    u: Used, said_right: float | None = None, is_right: float | None = None
) -> tuple[Float64[Tensor, " M"], Float64[Tensor, " M"]] | str:
    """Which rows the reward says are right and which are, as 1 and 0; or why nobody can tell."""
    cuts = []
    for what, x, given in (("The reward", u.score, said_right), ("Gold", u.gold, is_right)):
        values = x.unique()
        if given is None and len(values) > 2:
            return f"{what} has {len(values)} values and no one is given above which it says right. {u.note}".strip()
        cuts.append(given if given is not None else float(values.mean()) if len(values) == 2 else 0.5)
    return (u.score > cuts[0]).double(), (u.gold > cuts[1]).double()


def corrected(
    scores: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    gold: Float64[Tensor, " N"] | None,
    group: Int64[Tensor, " N"],
    *,
    gold_valid: Bool[Tensor, " N"] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> list[Measurement]:
    """What is left of the three measures once verdicts are corrected by the rates of the other half of the prompts.

    A corrected verdict is no verdict any more: false-positive-rate is what a wrong answer is paid on average, false-negative-rate
    what a right one lacks of 1, verdict-slope the difference of the two means. Without a correction (a slope that is not above 0 in
    either half) the measures have no number.
    """
    u = used(scores, valid, group, gold, gold_valid)
    read = "There is no gold." if gold is None else _read(u)
    if isinstance(read, str):
        return MEASURES.all_missing(read)
    says, right = read
    paid = torch.zeros_like(says)
    half = (torch.randperm(u.prompts, generator=torch.Generator().manual_seed(SEED)) % 2 == 0)[u.prompt]
    for own in (half, ~half):
        rates = [float((flag * kind)[~own].sum() / kind[~own].sum()) for flag, kind in ((says, 1 - right), (1 - says, right))]
        if not sum(rates) < 1:
            return MEASURES.all_missing("The verdict does not rise with the truth in half of the prompts: no correction can help.")
        traj = from_rows([{"response": ""}] * int(own.sum()))
        verdict = place_outcome(says[own], torch.ones(len(traj), dtype=torch.bool), traj)
        fixed = find("noisy-rlvr-correction")(verdict, traj, false_positive=rates[0], false_negative=rates[1])
        paid[own] = outcome(fixed, traj)[0]
    sums = torch.stack([u.sum(x) for x in (paid * (1 - right), 1 - right, (1 - paid) * right, right)], 1)
    slope = jackknife(sums, lambda s: 1 - s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3])
    estimates = (ratio_of(sums[:, 0], sums[:, 1]), ratio_of(sums[:, 2], sums[:, 3]), t_interval(*slope, u.prompts))
    return [MEASURES.found(name, estimate, note=u.note) for name, estimate in zip(MEASURES.asked, estimates, strict=True)]


def noise_from_repeats(
    verdicts: Float64[Tensor, "N V"],
    valid: Bool[Tensor, "N V"],
    group: Int64[Tensor, " N"],
    *,
    said_right: float = 0.5,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """false-positive-rate-repeats, false-negative-rate-repeats, verdict-slope-repeats: without gold, from V verdicts an answer.

    Three or more verdicts identify the rates (`rates_from_repeats`) if verdicts on one answer err independently and an answer
    is said to be right with one of two probabilities only. An error that a grader makes every time is invisible: these are the
    rates of its wavering, a lower bound of its noise. Two verdicts only show that it wavers: then the measures have no number and
    the note gives how often two differ. Rows count that have a verdict in every column.
    """
    u, said = verdicts_of(verdicts, valid, group, said_right)
    names = [f"{name}-repeats" for name in MEASURES.asked]
    repeats = verdicts.shape[1]
    if repeats < 2 or not len(u.row):
        return unknown(names, f"No answer has two verdicts. {u.note}")
    count = said.sum(1)
    differ = float((2 * count * (repeats - count)).mean()) / (repeats * (repeats - 1))
    told = f"Two verdicts on one answer differ in {differ:.3f} of cases. {u.note}".strip()
    if repeats < 3:
        return unknown(names, f"Two verdicts on each answer do not identify the rates; three would. {told}")
    sums = torch.stack([u.sum(x) for x in (torch.ones_like(count), *_powers(count, repeats))], 1)

    def rates(s: Float64[Tensor, "G 4"]) -> tuple[Tensor, Tensor, Tensor]:
        return _two_points(*(s[:, k] / s[:, 0] for k in (1, 2, 3)))

    known = rates_from_repeats(count, repeats)
    if known is None:
        return unknown(names, f"The verdicts do not split the answers into two kinds. {told}")
    return found_without_gold(sums, lambda s: rates(s)[1], lambda s: 1 - rates(s)[2], u.prompts, "repeats", told, bounds)


def rates_from_repeats(count: Float64[Tensor, " N"], repeats: int) -> Rates | None:
    """The two rates from how many of `repeats` >= 3 verdicts on each answer said right; None where there are not two kinds.

    An answer is said to be right with probability q, which is rho0 for wrong answers and 1 - rho1 for right ones. From
    m_k = E[q^k], unbiased as the mean of C(count, k) / C(repeats, k), the two values are the roots of t^2 - s t + p with
    s = (m3 - m1 m2) / (m2 - m1^2) and p = s m1 - m2; the higher belongs to right answers. Raises ValueError for repeats < 3.

    >>> rates_from_repeats(torch.tensor([3.0, 3, 0, 0]).double(), 3)
    Rates(right=(0.5,), false_positive=(0.0,), false_negative=(0.0,))
    """
    if repeats < 3:
        raise ValueError(f"rates_from_repeats: repeats must be >= 3, got {repeats}")
    right, low, high = (float(x) for x in _two_points(*(power.mean() for power in _powers(count, repeats))))
    return Rates((right,), (low,), (1 - high,)) if math.isfinite(right) else None


def _powers(count: Float64[Tensor, " N"], repeats: int) -> list[Float64[Tensor, " N"]]:
    """C(count, k) / C(repeats, k) for k = 1, 2, 3: unbiased for q, q^2 and q^3 of each answer."""
    powers = [torch.ones_like(count)]
    for k in range(3):
        powers.append(powers[-1] * (count - k).clamp(min=0) / (repeats - k))
    return powers[1:]


def _two_points(m1: Tensor, m2: Tensor, m3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight of the higher point, lower point, higher point, of the distribution on two points with these moments; nan if none."""
    variance = m2 - m1.square()
    s = (m3 - m1 * m2) / torch.where(variance > 1e-12, variance, math.nan)
    root = (s.square() / 4 - s * m1 + m2).sqrt()
    low, high = s / 2 - root, s / 2 + root
    return (m1 - low) / (high - low), low, high


def noise_from_two_graders(
    first: Float64[Tensor, " N"],
    second: Float64[Tensor, " N"],
    valid: Bool[Tensor, " N"],
    population: Int64[Tensor, " N"],
    group: Int64[Tensor, " N"],
    *,
    said_right: float = 0.5,
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """false-positive-rate-two-graders, false-negative-rate-two-graders, verdict-slope-two-graders: of the first, without gold.

    Two graders on one population leave five unknowns and three numbers: nothing is identified. On two populations with different
    shares of right answers (an easy and a hard source, two checkpoints) the rates are, if the graders err independently given the
    truth and equally in both (Hui and Walter 1980; `rates_from_two_populations`). population: 0 or 1. A shared blind spot of the
    two is invisible. Where they are not identified the note says so and gives how often the two differ, which is at most
    the sum of their error rates.
    """
    verdicts = torch.stack([first, second], 1)
    u, said = verdicts_of(verdicts, valid[:, None].expand(-1, 2), group, said_right)
    names = [f"{name}-two-graders" for name in MEASURES.asked]
    if not len(u.row):
        return unknown(names, f"No answer has the verdicts of both. {u.note}")
    told = f"The two differ in {float((said[:, 0] != said[:, 1]).double().mean()):.3f} of cases. {u.note}".strip()
    kind = population[u.row]
    if sorted(kind.unique().tolist()) != [0, 1]:
        return unknown(names, f"Two graders on one population do not identify the rates; two populations, 0 and 1, would. {told}")
    cells = [said[:, 0], said[:, 1], said[:, 0] * said[:, 1], torch.ones_like(said[:, 0])]
    sums = torch.stack([u.sum(cell * (kind == which)) for which in (0, 1) for cell in cells], 1)
    known = _hui_walter(sums.sum(0, keepdim=True))
    if not bool(known[0].isfinite().all()):
        why = "The two populations do not differ in what is right, or one grader does not see it: the rates are not identified."
        return unknown(names, f"{why} {told}")
    return found_without_gold(
        sums, lambda s: _hui_walter(s)[1], lambda s: _hui_walter(s)[2], u.prompts, "two-graders", told, bounds
    )


def rates_from_two_populations(cells: Sequence[Sequence[float]]) -> Rates | None:
    """Rates of two graders from two populations, each as the shares (first says right, second does, both do); None if unknown.

    With J = 1 - rho0 - rho1 of each grader, mean_k = rho0 + pi_k J and cov_k = pi_k (1 - pi_k) Ja Jb. Divided by the product of the
    differences of the means, the covariances leave (1 - pi_0 - pi_1) and (pi_1 - pi_0) in closed form; the sign is the one
    with J > 0. None where the populations do not differ, or no such rates exist.

    >>> rates = rates_from_two_populations([(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)])
    >>> rates.right, rates.false_positive
    ((0.5, 0.25), (0.0, 0.0))
    """
    sums = torch.tensor([[*cells[0], 1.0, *cells[1], 1.0]], dtype=torch.float64)
    rates = _hui_walter(sums)
    if not bool(torch.stack(rates).isfinite().all()):
        return None
    pi0, rho0_a, rho1_a, pi1, rho0_b, rho1_b = (float(x) for x in rates)
    return Rates((pi0, pi1), (rho0_a, rho0_b), (rho1_a, rho1_b))


def _hui_walter(s: Float64[Tensor, "G 8"]) -> tuple[Tensor, ...]:
    (a0, b0, ab0), (a1, b1, ab1) = ([s[:, 4 * k + j] / s[:, 4 * k + 3] for j in range(3)] for k in (0, 1))
    product = (a1 - a0) * (b1 - b0)
    product = torch.where(product > 1e-12, product, math.nan)
    k0, k1 = (ab0 - a0 * b0) / product, (ab1 - a1 * b1) / product
    skew = k1 - k0
    delta = (1 + skew.square() + 2 * (k0 + k1)).rsqrt() * (a1 - a0).sign()  # pi_1 - pi_0
    both = 1 - skew * delta  # pi_0 + pi_1
    pi0, pi1 = (both - delta) / 2, (both + delta) / 2
    slopes = (a1 - a0) / delta, (b1 - b0) / delta
    low = a0 - pi0 * slopes[0], b0 - pi0 * slopes[1]
    return pi0, low[0], 1 - low[0] - slopes[0], pi1, low[1], 1 - low[1] - slopes[1]


def verdicts_of(
    verdicts: Float64[Tensor, "N V"], valid: Bool[Tensor, "N V"], group: Int64[Tensor, " N"], said_right: float
) -> tuple[Used, Float64[Tensor, "M V"]]:
    """The rows with a verdict in every column, and whether each says right."""
    every = (valid & verdicts.isfinite()).all(1)
    u = used(torch.where(every, 0.0, math.nan).double(), every, group)
    return u, (verdicts[u.row] > said_right).double()


def unknown(names: Sequence[str], why: str) -> list[Measurement]:
    """The three measures without a number, and why."""
    return [MEASURES.found(n, None, standing=kind, note=why.strip()) for n, kind in zip(names, MEASURES.asked, strict=True)]


def found_without_gold(
    sums: Float64[Tensor, "G K"],
    false_positive: Callable[[Tensor], Tensor],
    false_negative: Callable[[Tensor], Tensor],
    prompts: int,
    how: str,
    told: str,
    bounds: Mapping[str, float] | None,
) -> list[Measurement]:
    """The three measures from sums over prompts, with the correction that they call for."""
    wanted = (false_positive, false_negative, lambda s: 1 - false_positive(s) - false_negative(s))
    values = [jackknife(sums, each) for each in wanted]
    note = f"{_correction(values[0][0], values[1][0])} {told}"
    return [
        MEASURES.found(f"{name}-{how}", t_interval(value, variance, prompts), bounds, standing=name, note=note)
        for name, (value, variance) in zip(MEASURES.asked, values, strict=True)
    ]


def _worst_source(
    u: Used,
    says: Float64[Tensor, " M"],
    right: Float64[Tensor, " M"],
    source: Int64[Tensor, " M"],
    names: Sequence[str],
    bounds: Mapping[str, float] | None,
) -> Measurement:
    name, kinds = "false-positive-rate-by-source", source.unique().tolist()
    called = lambda kind: names[kind] if 0 <= kind < len(names) else str(kind)
    level = 1 - 0.05 / max(1, len(kinds))
    shares, series = {}, {"source": [float(kind) for kind in kinds], "false_positive": [], "false_negative": []}
    for kind in kinds:
        here = (source == kind).double()
        up = share_of(u.sum(here * says * (1 - right)), u.sum(here * (1 - right)), level=level)
        down = share_of(u.sum(here * (1 - says) * right), u.sum(here * right), level=level)
        series["false_positive"].append(math.nan if up is None else up.value)
        series["false_negative"].append(math.nan if down is None else down.value)
        if up is not None:
            shares[kind] = up
    if not shares:
        return BY_SOURCE.missing(name, f"Gold holds no wrong answer. {u.note}".strip(), standing="by-source")
    worst = max(shares, key=lambda kind: (shares[kind].low or 0.0, shares[kind].value))
    listed = ", ".join(f"{called(kind)} {share.value:.3f}" for kind, share in shares.items())
    note = f"Highest in {called(worst)}: {listed}. {u.note}".strip()
    return BY_SOURCE.found(name, shares[worst], bounds, standing="by-source", series=series, note=note)


def _correction(rho0: float, rho1: float) -> str:
    slope = 1 - rho0 - rho1
    if slope <= 0:
        return "The verdict does not rise with the truth: no correction can help."
    return f"(verdict - {rho0:.3f}) / {slope:.3f} has the mean of the truth."
