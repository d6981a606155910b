"""Whether a series of metrics rises, falls or bends by more than its own noise, without a model of that noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from payoff.intervals import t_two_sided

NOISE = 8  # degrees above the tested one that tell how much of it is noise
FEWEST = 4  # of them, below which nothing is said


class Shape(NamedTuple):
    """How a polynomial of some degree stands out of a series: its coefficient, p of one as large (rises) and as small (falls)."""

    coefficient: float
    p_rise: float
    p_fall: float
    change: float  # of the fitted polynomial of this degree alone, from the first point to the last


def stands_out(x: Sequence[float | int], y: Sequence[float | int], degree: int = 1) -> Shape | None:
    """Whether a series has a polynomial part of some degree (0 level, 1 trend, 2 curvature), judged by its neighbours in frequency.

    With q_0, q_1 ... the polynomials orthonormal on the points x and c_i = <q_i, y>,

        t = c_degree / sqrt(mean of c_i^2 over i = degree + 1 .. degree + K),     K = min(8, len(x) - degree - 1).

    Independent Gaussian noise makes t exactly Student's with K degrees of freedom. Noise that is correlated from one update to the
    next has nearly equal variance in all these slow shapes, so t stays nearly that, without a model of the correlation; noise
    that has a unit root (a random walk) does not, and its wandering counts as change. A lone outlier lies in the high degrees and
    lowers |t|. The test is on `y` itself for degree 0: take off what the level is compared with.
    None with K < 4 or equal x; a constant series has p = 1 both ways, but for degree 0: there its sign decides.

    >>> found = stands_out(range(16), [0.1 * k + 0.3 * (-1) ** k for k in range(16)])
    >>> round(found.change, 2), found.p_rise < 0.001, found.p_fall > 0.999
    (1.39, True, True)
    """
    count = min(NOISE, len(x) - degree - 1)
    if count < FEWEST or min(x) == max(x):
        return None
    if min(y) == max(y):
        sure = float(y[0]) if degree == 0 else 0.0
        return Shape(sure * math.sqrt(len(y)), float(sure <= 0), float(sure >= 0), 0.0)
    basis = polynomials(tuple(float(v - x[0]) for v in x), degree + 1 + NOISE)
    c = np.asarray(y, dtype=np.float64) @ basis
    noise = float(np.sqrt(np.mean(c[degree + 1 : degree + 1 + count] ** 2)))
    tail = t_two_sided(float(c[degree]) / max(noise, 1e-300), float(count)) / 2
    rises, falls = (tail, 1 - tail) if c[degree] > 0 else (1 - tail, tail)
    return Shape(float(c[degree]), rises, falls, float(c[degree] * (basis[-1, degree] - basis[0, degree])))


@lru_cache(maxsize=64)
def polynomials(x: tuple[float, ...], count: int) -> Float64[np.ndarray, "n degrees"]:
    """In columns the first `count` polynomials (no more than points) orthonormal on x, each with a positive leading coefficient."""
    scaled = 2 * (np.asarray(x, dtype=np.float64) - min(x)) / (max(x) - min(x)) - 1
    q, r = np.linalg.qr(np.polynomial.chebyshev.chebvander(scaled, min(count, len(x)) - 1))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
