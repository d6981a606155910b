"""Noise rates where nobody knows the truth, from what an audit has anyhow: the same reward asked again, or others beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from payoff.audit.case import Case
from payoff.audit.measurement import Measurement
from payoff.audit.noise import MEASURES, Rates, found_without_gold, noise_from_repeats, noise_from_two_graders, unknown, verdicts_of

NAMES = tuple(MEASURES.asked)


def noise_from_three_graders(
    verdicts: Float64[Tensor, "N 3"],
    valid: Bool[Tensor, " N"],
    group: Int64[Tensor, " N"],
    *,
    said_right: Sequence[float] = (0.5, 0.5, 0.5),
    bounds: Mapping[str, float] | None = None,
) -> list[Measurement]:
    """false-positive-rate-, false-negative-rate- and verdict-slope-three-graders: of the first, without gold.

    Three graders identify all rates on one population (`rates_from_three_graders`) if they err independently given the truth and
    each rises with it. An error that two of them share passes for the truth. said_right: the verdict above which each says right.
    """
    names = [f"{name}-three-graders" for name in NAMES]
    u, said = verdicts_of(verdicts - torch.tensor(said_right, dtype=verdicts.dtype), valid[:, None].expand(-1, 3), group, 0.0)
    if not len(u.row):
        return unknown(names, f"No answer has the verdicts of all three. {u.note}")
    a, b, c = said.T
    sums = torch.stack([u.sum(x) for x in (torch.ones_like(a), a, b, c, a * b, a * c, b * c, a * b * c)], 1)
    differ = float((said.amax(1) != said.amin(1)).double().mean())
    told = f"The three are not of one mind in {differ:.3f} of cases. {u.note}".strip()
    if not bool(torch.stack(_three(sums.sum(0, keepdim=True))).isfinite().all()):
        return unknown(names, f"Two of the graders do not agree more often than by chance: the rates are not identified. {told}")
    return found_without_gold(sums, lambda s: _three(s)[1], lambda s: _three(s)[2], u.prompts, "three-graders", told, bounds)


def rates_from_three_graders(shares: Sequence[float]) -> Rates | None:
    """Rates of three graders from the shares in which a, b, c, a and b, a and c, b and c, all three say right; None if unknown.

    With J = 1 - rho0 - rho1 of each and v = pi (1 - pi): cov_ab = v Ja Jb, and the third central moment is v (1 - 2 pi) Ja Jb Jc.
    So cov_ab cov_ac / cov_bc = v Ja^2, and the third moment over the root of the three covariances' product is
    (1 - 2 pi) / sqrt(v), which has one solution pi; then rho0 = mean_a - pi Ja. None unless all three covariances are above 0.

    >>> rates_from_three_graders([0.5] * 7)
    Rates(right=(0.5,), false_positive=(0.0, 0.0, 0.0), false_negative=(0.0, 0.0, 0.0))
    """
    turned = [(0, 1, 2, 3, 4, 5, 6), (1, 0, 2, 3, 5, 4, 6), (2, 1, 0, 5, 4, 3, 6)]
    found = [_three(torch.tensor([[1.0, *(shares[k] for k in order)]], dtype=torch.float64)) for order in turned]
    if not all(math.isfinite(float(x)) for rates in found for x in rates):
        return None
    low, high = (tuple(round(float(rates[k]), 12) + 0.0 for rates in found) for k in (1, 2))
    return Rates((round(float(found[0][0]), 12),), low, high)


def _three(s: Float64[Tensor, "G 8"]) -> tuple[Tensor, Tensor, Tensor]:
    """pi, and rho0 and rho1 of the first, from sums; nan where they are not identified."""
    a, b, c, ab, ac, bc, abc = (s[:, k] / s[:, 0] for k in range(1, 8))
    cov = [ab - a * b, ac - a * c, bc - b * c]
    cov = [torch.where(x > 1e-12, x, math.nan) for x in cov]
    third = abc - a * bc - b * ac - c * ab + 2 * a * b * c
    skew = third / (cov[0] * cov[1] * cov[2]).sqrt()
    pi = (1 - skew / (4 + skew.square()).sqrt()) / 2
    slope = (cov[0] * cov[1] / cov[2] / (pi * (1 - pi))).sqrt()
    low = a - pi * slope
    return pi, low, 1 - low - slope


def wavering(verdicts: Float64[Tensor, "N V"], valid: Bool[Tensor, "N V"], group: Int64[Tensor, " N"]) -> list[Measurement]:
    """`noise_from_repeats` of a reward that was asked for the same rows several times, where it is a verdict of two values.

    A reward that never wavers says nothing of its errors so: then the measures have no number.
    """
    names = [f"{name}-repeats" for name in NAMES]
    known = verdicts[valid]
    values = known.unique()
    if len(values) != 2:
        return unknown(names, f"The reward has {len(values)} values and is no verdict of right or wrong.")
    every = valid.all(1)
    if bool((verdicts[every] == verdicts[every][:, :1]).all()):
        return unknown(names, "The reward never wavers, so that asking again says nothing of its errors; other graders would.")
    return noise_from_repeats(verdicts, valid, group, said_right=float(values.mean()))


def other_graders(case: Case) -> list[Measurement]:
    """Noise rates of the reward from the others of an ensemble: from two others, or from one and rows of two sources.

    Nothing without others. Rewards that are no verdict of two values take no part, which the note says.
    """
    graders = [case.scores.parts[name] for name in case.score.members if name in case.scores.parts]
    graders = [(case.of_drawn(value), case.of_drawn(valid)) for value, valid in graders] or [(case.value, case.valid)]
    graders += [(s.value, s.valid) for s in case.member_scores]
    if len(graders) < 2:
        return []
    cuts = [value[valid].unique() for value, valid in graders]
    usable = [k for k, values in enumerate(cuts) if len(values) == 2][:3]
    way = "three-graders" if len(graders) > 2 else "two-graders"
    names = [f"{name}-{way}" for name in NAMES]
    if 0 not in usable or len(usable) < 2:
        return unknown(names, "The reward, or all others, have more values than two and are no verdicts of right or wrong.")
    middle = [float(cuts[k].mean()) for k in usable]
    verdicts = torch.stack([graders[k][0] for k in usable], 1)
    valid = torch.stack([graders[k][1] for k in usable], 1).all(1)
    if len(usable) == 3:
        return case.told(noise_from_three_graders(verdicts, valid, case.prompt, said_right=middle))
    source, called = case.source
    known = [k for k, name in enumerate(called) if name != "(none)"]
    two = len(known) == 2
    population = (source == known[-1]).long() if two else torch.zeros_like(source)
    here = valid & (torch.isin(source, torch.tensor(known)) if two else True)
    first, second = (verdicts[:, k] - middle[k] for k in (0, 1))
    return case.told(noise_from_two_graders(first, second, here, population, case.prompt, said_right=0.0))
