"""How far a linear reward head that is slightly wrong everywhere can mislead, by the data it was fitted on.

Two facts that must not be confused. A reward known to be within eps of the truth everywhere costs at most 2 eps at its own maximum.
A head fitted by least squares to a truth that is within eps of some linear function may itself be wrong by eps sqrt(d), held-out
error notwithstanding, since errors that no feature explains add up where an answer lies far out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDS = 100_000


def amplification(
    features: Float[Tensor, "A D"], design: Float[Tensor, " A"], queries: Float[Tensor, "B D"] | None = None
) -> Float[Tensor, " B"]:
    """How much least squares can make of an error eps per observation: the worst error of its prediction at each query, over eps.

    sum_a pi_a |phi_b^T V^-1 phi_a|, V = sum_a pi_a phi_a phi_a^T, attained by errors eps sign(phi_b^T V^-1 phi_a); at most
    sqrt(`leverage`), so sqrt(d) at most on a G-optimal design. It depends on the data, not on the weights: one head can be
    safe for the answers of one policy and not for another's.

    design:  the share of observations at each row of the features, at least 0 and with sum 1
    queries: where predictions are asked for; None: at the rows themselves
    Raises ValueError for a design that is none or does not span the features.

    >>> axes = torch.eye(4, dtype=torch.float64)
    >>> diagonal = torch.full((1, 4), 0.5, dtype=torch.float64)
    >>> amplification(axes, torch.full((4,), 0.25, dtype=torch.float64), diagonal).tolist()
    [2.0]
    """
    inverse = _inverse("amplification", features, design)
    queries = features if queries is None else queries
    return ((queries.double() @ inverse @ features.double().T).abs() * design.double()).sum(1)


def leverage(
    features: Float[Tensor, "A D"], design: Float[Tensor, " A"], queries: Float[Tensor, "B D"] | None = None
) -> Float[Tensor, " B"]:
    """phi_b^T V^-1 phi_b of each query: d on average over the design, and at least d at some row of it.

    >>> leverage(torch.eye(3), torch.tensor([0.5, 0.25, 0.25])).tolist()
    [2.0, 4.0, 4.0]
    """
    inverse = _inverse("leverage", features, design)
    queries = (features if queries is None else queries).double()
    return ((queries @ inverse) * queries).sum(1)


def g_optimal_design(features: Float[Tensor, "A D"], *, tolerance: float = 1e-6) -> Float[Tensor, " A"]:
    """The shares of observations that make the greatest leverage least, which is then d (Kiefer and Wolfowitz).

    Multiplicative updates: each share times its leverage over d, until no leverage exceeds d by more than `tolerance` of it.
    Raises ValueError for features that do not span their space, ArithmeticError where it does not get there.

    >>> g_optimal_design(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.1]])).round(decimals=3).tolist()
    [0.5, 0.5, 0.0]
    """
    d = features.shape[1]
    share = torch.full((len(features),), 1 / len(features), dtype=torch.float64)
    for _ in range(_ROUNDS):
        pull = leverage(features, share) / d
        if float(pull.max()) <= 1 + tolerance:
            return share
        share = share * pull
        share = share / share.sum()
    raise ArithmeticError(f"g_optimal_design: leverage {float(pull.max()) * d:.6g} is still above {d} after {_ROUNDS} rounds")


def worst_errors(
    features: Float[Tensor, "A D"], design: Float[Tensor, " A"], query: Float[Tensor, " D"], bound: float
) -> Float[Tensor, " A"]:
    """The errors of at most `bound` per row that mislead the fit most at the query: bound sign(phi_b^T V^-1 phi_a).

    >>> axes = torch.eye(2, dtype=torch.float64)
    >>> worst_errors(axes, torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0]), 0.1).tolist()
    [0.1, -0.1]
    """
    return bound * (features.double() @ _inverse("worst_errors", features, design) @ query.double()).sign()


def _inverse(name: str, features: Tensor, design: Tensor) -> Float[Tensor, "D D"]:
    if (design < 0).any() or abs(float(design.double().sum()) - 1) > 1e-6:
        raise ValueError(f"{name}: the design must be shares of at least 0 that add up to 1")
    phi = features.double()
    moments = phi.T @ (design.double()[:, None] * phi)
    if int(torch.linalg.matrix_rank(moments, hermitian=True)) < phi.shape[1]:
        raise ValueError(f"{name}: the design does not span the {phi.shape[1]} features")
    return torch.linalg.inv(moments)
