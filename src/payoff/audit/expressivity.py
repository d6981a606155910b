"""Can any Markov reward order these policies in this way? A linear programme, with a certificate whichever the answer is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff._extras import require

_CLEAR = 1e-6  # a margin below this is within what the solver may be wrong by


class Expressibility(NamedTuple):
    """The answer, and what proves it.

    reward: [S, A] with values in -1..1 under which every preferred policy is worth more, by at least `margin`, and those that tie
            the same; None where there is none
    strict, ties: otherwise weights of the preferences and of the ties such that, weighed so, the occupancies on the better side
            add up to exactly those on the worse side: whatever is paid, both are worth the same in sum, so the better ones cannot
            all be worth more. Those of preferences are at least 0 and add up to 1
    margin: of the normalised return, the greatest there is; 0 where there is no such reward
    """

    reward: Float[Tensor, "S A"] | None
    strict: Float[Tensor, " Q"] | None
    ties: Float[Tensor, " E"] | None
    margin: float


def markov_expressible(
    occupancies: Float[Tensor, "P S A"],
    preferences: Sequence[tuple[int, int]],
    *,
    ties: Sequence[tuple[int, int]] = (),
) -> Expressibility:
    """Find a reward R(s, a) with <d_i - d_j, R> > 0 for every preference (i over j), = 0 for every tie, or prove that none exists.

    occupancies: of each policy how often it takes each action in each state, normalised and discounted (`MDP.occupancy`)
    Rewards that also read the next state order policies no differently, so nothing is lost. The greatest margin over rewards in
    -1..1 is found; where it is 0, Farkas' lemma promises weights, and a second programme finds them.

    Needs scipy (extra "solvers"). Raises ValueError for no preference, or one that names a policy there is not; ArithmeticError
    where the margin is too small to tell from 0 and no certificate is found either.

    >>> stay, go = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> policies = torch.stack([stay, go, (stay + go) / 2]).double()
    >>> markov_expressible(policies, [(1, 2), (2, 0)]).reward.tolist()
    [[-1.0, 1.0]]
    >>> markov_expressible(policies, [(2, 0), (2, 1)]).strict.tolist()  # a mixture cannot be the best
    [0.5, 0.5]
    """
    names = [*preferences, *ties]
    p, (s, a) = len(occupancies), occupancies.shape[1:]
    if not preferences:
        raise ValueError("markov_expressible: no preference, so every reward will do")
    if odd := [pair for pair in names if not all(0 <= i < p for i in pair)]:
        raise ValueError(f"markov_expressible: {odd[0]} names a policy that is not among the {p}")
    flat = occupancies.double().reshape(p, -1)
    gaps, even = _differences(flat, preferences), _differences(flat, ties)
    q = len(gaps)
    solve = require("scipy.optimize", "asking whether a reward can order policies").linprog

    # greatest t with gaps R >= t, even R = 0, |R| <= 1; the unknowns are R and t
    above = torch.cat([-gaps, torch.ones(q, 1, dtype=gaps.dtype)], 1)
    level = torch.cat([even, torch.zeros(len(even), 1, dtype=even.dtype)], 1)
    found = solve(
        [0.0] * (s * a) + [-1.0],
        A_ub=above.numpy(),
        b_ub=[0.0] * q,
        **_equalities(level, [0.0] * len(even)),
        bounds=[(-1, 1)] * (s * a) + [(None, None)],
        method="highs",
    )
    reward = torch.tensor(found.x[:-1], dtype=gaps.dtype)
    margin = float((gaps @ reward).min())
    if margin > _CLEAR and (not len(even) or float((even @ reward).abs().max()) < margin / 1000):
        return Expressibility(reward.view(s, a), None, None, margin)

    # weights x >= 0 of the preferences, y of the ties, with sum x = 1 and x gaps + y even = 0
    both = torch.cat([gaps, even]).T
    total = torch.tensor([[1.0] * q + [0.0] * len(even)], dtype=gaps.dtype)
    proof = solve(
        [0.0] * (q + len(even)),
        **_equalities(torch.cat([both, total]), [0.0] * (s * a) + [1.0]),
        bounds=[(0, None)] * q + [(None, None)] * len(even),
        method="highs",
    )
    if proof.status != 0:
        raise ArithmeticError(
            f"markov_expressible: the greatest margin is {margin:.2g}, too small to tell from 0, and no certificate was found"
        )
    weight = torch.tensor(proof.x, dtype=gaps.dtype)
    return Expressibility(None, weight[:q], weight[q:], 0.0)


def ordering(worth: Float[Tensor, " P"], *, tolerance: float = 1e-9) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Preferences and ties that a number for each policy says, between neighbours in its order: all others follow from them.

    >>> ordering(torch.tensor([1.0, 3.0, 1.0]))
    ([(1, 0)], [(0, 2)])
    """
    order = worth.argsort(descending=True, stable=True).tolist()
    neighbours = list(itertools.pairwise(order))
    same = [float(worth[i] - worth[j]) <= tolerance for i, j in neighbours]
    strict = [pair for pair, tie in zip(neighbours, same, strict=True) if not tie]
    return strict, [pair for pair, tie in zip(neighbours, same, strict=True) if tie]


def _differences(flat: Float[Tensor, "P D"], pairs: Sequence[tuple[int, int]]) -> Float[Tensor, "Q D"]:
    index = torch.tensor(list(pairs), dtype=torch.int64).view(-1, 2)
    return flat[index[:, 0]] - flat[index[:, 1]]


def _equalities(matrix: Float[Tensor, "E D"], right: list[float]) -> dict[str, Any]:
    return {"A_eq": matrix.numpy(), "b_eq": right} if len(matrix) else {}
