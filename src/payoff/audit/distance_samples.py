"""EPIC, DARD and STARC where nothing can be enumerated: from transitions, and where the form needs it a way to draw successors.

A reward is a function of batches (state, action, next_state) -> [n]; states and actions have any shape behind the first axis.
Every estimate is a square root of an estimated correlation, so two rewards at distance 0 are found slightly apart; the interval
says how slightly. Exact distances are in `distance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.intervals import Interval

RewardOf = Callable[[Tensor, Tensor, Tensor], Tensor]
ValueOf = Callable[[Tensor], Tensor]
NextStates = Callable[[Tensor, Tensor], Tensor]


class Transitions(NamedTuple):
    """n transitions, row by row; whoever gives them decides what the distance weighs."""

    state: Tensor
    action: Tensor
    next_state: Tensor


def sampled_epic(
    first: RewardOf,
    second: RewardOf,
    transitions: Transitions,
    *,
    discount: float,
    coverage: Transitions,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Interval:
    """EPIC from samples: the Pearson distance of R + g m(s') - m(s), m(s) the mean of R(s, A, S') over the rows of `coverage`.

    EPIC's own distance has s, a, s' of `transitions` drawn independently of one another, as in coverage; transitions that happened
    may be given instead, which leaves it invariant to shaping all the same. Every row of `transitions` costs twice as many rewards
    as `coverage` has rows. The interval is a percentile bootstrap over `transitions`.

    >>> states, goal = torch.linspace(-1, 1, 50), 1.0
    >>> moves = Transitions(states, torch.zeros(50), states.flip(0))
    >>> near = lambda s, a, t: -(t - goal).abs()
    >>> shaped = lambda s, a, t: near(s, a, t) + 0.9 * t**2 - s**2
    >>> round(sampled_epic(near, shaped, moves, discount=0.9, coverage=moves).value, 3)
    0.0
    """
    forms: list[Tensor] = []
    for reward in (first, second):
        mean = lambda s, reward=reward: _mean_over(reward, s, coverage.action, coverage.next_state)
        forms.append(reward(*transitions) + discount * mean(transitions.next_state) - mean(transitions.state))
    return _pearson(forms[0], forms[1], level, resamples, seed)


def sampled_dard(
    first: RewardOf,
    second: RewardOf,
    transitions: Transitions,
    draw: NextStates,
    *,
    actions: Tensor,
    discount: float,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Interval:
    """DARD from samples: R + g n(s') - n(s) - g E[R(S', A, S'')], each mean over the rows of `actions` with one drawn successor.

    draw(state, action) gives one successor for every row. The interval is a percentile bootstrap over `transitions`.

    >>> onward = lambda s, a: (s + a) / 2
    >>> states, actions = torch.linspace(-1, 1, 50), torch.tensor([-1.0, 1.0])
    >>> moves = Transitions(states, actions.repeat(25), onward(states, actions.repeat(25)))
    >>> near = lambda s, a, t: -(t - 1).abs()
    >>> shaped = lambda s, a, t: near(s, a, t) + 0.9 * t**2 - s**2
    >>> round(sampled_dard(near, shaped, moves, onward, actions=actions, discount=0.9).value, 3)
    0.0
    """
    state, _, after = transitions
    m = len(actions)
    again = lambda x: x.repeat_interleave(m, 0)
    act = actions.repeat(len(state), *[1] * (actions.ndim - 1))
    from_state, from_after = draw(again(state), act), draw(again(after), act)
    forms = []
    for reward in (first, second):
        here = reward(again(state), act, from_state).view(-1, m).mean(1)
        there = reward(again(after), act, from_after).view(-1, m).mean(1)
        across = reward(from_state, act, from_after).view(-1, m).mean(1)
        forms.append(reward(*transitions) + discount * (there - across) - here)
    return _pearson(forms[0], forms[1], level, resamples, seed)


def sampled_starc(
    first: RewardOf,
    second: RewardOf,
    state: Tensor,
    action: Tensor,
    draw: NextStates,
    values: tuple[ValueOf, ValueOf],
    *,
    discount: float,
    draws: int = 8,
    level: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> Interval:
    """STARC with the value form and the l2 norm over the given (s, a): |c1 / |c1| - c2 / |c2||, c = E_S'[R + g V(S')] - V(s).

    values: for each reward its value under one and the same policy, known or fitted (`fit_values`)
    draws:  successors per row, at least 2. The square of a mean over successors is estimated from pairs of different draws: the
            square of the average would add the successors' variance, and make what is only redistributed look like a difference.

    A form whose square is estimated as 0 or less pays nothing as far as can be seen: distance 1 to another, 0 to its like.
    The interval is a percentile bootstrap over the rows. Raises ValueError for fewer than two draws.

    >>> state = torch.linspace(-1, 1, 50)
    >>> near = lambda s, a, t: -(t - 1).abs()
    >>> doubled = lambda s, a, t: 2 * near(s, a, t)
    >>> flat = lambda s: torch.zeros(len(s))
    >>> round(sampled_starc(near, doubled, state, state, lambda s, a: -s, (flat, flat), discount=0.9).value, 3)
    0.0
    """
    if draws < 2:
        raise ValueError(f"sampled_starc: draws must be at least 2, got {draws}")
    s, a = state.repeat_interleave(draws, 0), action.repeat_interleave(draws, 0)
    after = draw(s, a)
    x, y = (
        (reward(s, a, after) + discount * value(after) - value(s)).double().view(-1, draws)
        for reward, value in zip((first, second), values, strict=True)
    )
    products = torch.stack([_of_different_draws(*pair) for pair in ((x, x), (y, y), (x, y))], 1)

    def distance(mean: Float[Tensor, "B 3"]) -> Float[Tensor, " B"]:
        some = (mean[:, 0] > 0) & (mean[:, 1] > 0)
        cosine = torch.where(some, mean[:, 2] / (mean[:, 0] * mean[:, 1]).clamp(min=1e-300).sqrt(), 0).clamp(-1, 1)
        flat = torch.where((mean[:, 0] > 0) | (mean[:, 1] > 0), 1.0, 0.0).to(mean.dtype)
        return torch.where(some, (2 - 2 * cosine).sqrt(), flat)

    return _bootstrap(products, distance, level, resamples, seed)


def fit_values(
    features: Float[Tensor, "n D"], next_features: Float[Tensor, "n D"], rewards: Float[Tensor, " n"], discount: float
) -> Float[Tensor, " D"]:
    """Weights w of V(s) = w . features(s) for the policy that acted, by least-squares temporal differences.

    Solves sum f (f - discount f')^T w = sum f r. With one feature per state these are the values of the empirical process.
    Of several solutions the smallest is given.

    >>> stay = torch.ones(3, 1)
    >>> round(float(fit_values(stay, stay, torch.full((3,), 0.5), 0.9)[0]), 4)
    5.0
    """
    f = features.double()
    left = f.T @ (f - discount * next_features.double())
    return torch.linalg.lstsq(left, f.T @ rewards.double()[:, None], driver="gelsd").solution[:, 0].to(features.dtype)


def _mean_over(reward: RewardOf, state: Tensor, action: Tensor, after: Tensor) -> Float[Tensor, " n"]:
    """The mean reward of every state over the given actions and successors."""
    n, m = len(state), len(action)
    tiled = lambda x: x.repeat(n, *[1] * (x.ndim - 1))
    return reward(state.repeat_interleave(m, 0), tiled(action), tiled(after)).view(n, m).mean(1)


def _of_different_draws(x: Float[Tensor, "n M"], y: Float[Tensor, "n M"]) -> Float[Tensor, " n"]:
    """The product of the two rows' means, without bias: the mean of x_i y_j over i other than j."""
    m = x.shape[1]
    return (x.sum(1) * y.sum(1) - (x * y).sum(1)) / (m * (m - 1))


def _pearson(x: Tensor, y: Tensor, level: float, resamples: int, seed: int) -> Interval:
    x, y = ((z - z.mean()).double() for z in (x, y))

    def distance(mean: Float[Tensor, "B 5"]) -> Float[Tensor, " B"]:
        spread = [(mean[:, 2 + i] - mean[:, i].square()).clamp(min=0).sqrt() for i in range(2)]
        product = spread[0] * spread[1]
        some = product > 1e-12 * float(x.abs().max() * y.abs().max())
        correlation = torch.where(some, (mean[:, 4] - mean[:, 0] * mean[:, 1]) / product.clamp(min=1e-300), 0)
        return ((1 - correlation.clamp(-1, 1)) / 2).sqrt()

    return _bootstrap(torch.stack([x, y, x.square(), y.square(), x * y], 1), distance, level, resamples, seed)


def _bootstrap(
    rows: Float[Tensor, "n K"], statistic: Callable[[Tensor], Tensor], level: float, resamples: int, seed: int
) -> Interval:
    """A statistic of the rows' means with its percentile interval over resampled rows; none below three rows."""
    n, rng = len(rows), torch.Generator().manual_seed(seed)
    value = float(statistic(rows.mean(0, keepdim=True))[0])
    if n < 3:
        return Interval(value, None, None, n, level, method="bootstrap")
    means = torch.stack([rows[torch.randint(n, (n,), generator=rng)].mean(0) for _ in range(resamples)])
    low, high = torch.quantile(statistic(means), torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rows.dtype)).tolist()
    return Interval(value, low, high, n, level, method="bootstrap")
