"""How far two rewards are apart, as far as any policy can tell: STARC, and EPIC and DARD beside it, exact in a tabular process.

A canonical form takes out what changes no policy's place in the order: potential shaping, and for some forms also how a reward is
spread over the successors of an action. What is left is scaled to norm 1 and compared. Estimates from samples are in
`distance_samples`.

    form                  shaping  scaling  redistribution over s'
    value, minimal        yes      yes      yes
    value-potential, minimal-potential, epic, dard   yes   yes   no
    none                  no       yes      no
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.tasks.mdp import MDP

Form = Literal["value", "value-potential", "minimal", "minimal-potential", "epic", "dard", "none"]
Norm = Literal["l1", "l2", "linf"]
Reward = Float[Tensor, "S A S"]
_TRIVIAL = 1e-10  # a canonical form this much smaller than its reward is rounding, and the reward pays nothing


class RegretBounds(NamedTuple):
    """What a STARC distance d says of the worst that can happen, as shares of max J1 - min J1.

    worst:           the most that J1 can lose by exchanging a policy for one that the second reward finds at least as good; exact
    lower, upper:    d times constants of the process and the first reward; lower <= worst <= upper
    lower_factor, upper_factor: constants of the process alone, which hold for every pair: factor * d bounds `worst` likewise.
                     0 and infinity where some state is never reached
    """

    distance: float
    worst: float
    lower: float
    upper: float
    lower_factor: float
    upper_factor: float


def canonicalise(
    reward: Reward,
    mdp: MDP,
    form: Form = "value",
    *,
    policy: Float[Tensor, "S A"] | None = None,
    states: Float[Tensor, " S"] | None = None,
    actions: Float[Tensor, " A"] | None = None,
) -> Reward:
    """The representative of all rewards that differ from this one by what the form ignores. Linear, and idempotent but for dard.

    value:             E_S'[R(s,a,S') + g V(S')] - V(s), V the value of `policy` (None: uniform); the same for every s'
    value-potential:   R(s,a,s') + g V(s') - V(s)
    minimal:           E_S'[R(s,a,S') + g F(S')] - F(s) with the potential F that makes it smallest, in squares over (s, a)
    minimal-potential: R(s,a,s') + g F(s') - F(s), smallest in squares weighted by T(s' | s, a)
    epic:              R + g m(s') - m(s) - g E[m(S)], m(s) = E[R(s,A,S')] with S, S' from `states` and A from `actions`
    dard:              R + g n(s') - n(s) - g E[R(S',A,S'')], n(s) = E[R(s,A,S')], A from `actions` and successors from the process;
                       in the last term one action A leads from s to S' and from s' to S''
    none:              R

    g is the discount; `states` and `actions` are distributions, even by default. Raises ValueError for an unknown form.

    >>> from payoff.tasks.mdp import random_mdp
    >>> mdp, potential = random_mdp(4, 2), torch.arange(4.0, dtype=torch.float64)
    >>> shaping = (0.9 * potential[None, None, :] - potential[:, None, None]).expand(4, 2, 4)
    >>> forms = ("value", "value-potential", "minimal", "minimal-potential", "epic", "dard")
    >>> [bool(canonicalise(shaping, mdp, form).abs().max() < 1e-12) for form in forms]
    [True, True, True, True, True, True]
    """
    if form not in get_args(Form):
        raise ValueError(f"canonicalise: form must be one of {', '.join(get_args(Form))}, got {form!r}")
    g, (s, a) = mdp.discount, (mdp.states, mdp.actions)
    even_states, even_actions = reward.new_full((s,), 1 / s), reward.new_full((a,), 1 / a)
    over_states, over_actions = even_states if states is None else states, even_actions if actions is None else actions
    if form == "none":
        return reward
    if form == "epic":
        mean = torch.einsum("a,t,sat->s", over_actions, over_states, reward)
        return reward + g * mean - mean[:, None, None] - g * (over_states @ mean)
    if form == "dard":
        mean = torch.einsum("a,sat,sat->s", over_actions, mdp.transition, reward)
        ahead = torch.einsum("a,sax,xay,tay->st", over_actions, mdp.transition, reward, mdp.transition)
        return reward + g * mean - mean[:, None, None] - g * ahead[:, None, :]
    if form.startswith("value"):
        potential = mdp.values(mdp.uniform() if policy is None else policy, reward).v
    else:
        potential = _smallest(reward, mdp, spread_counts=form == "minimal-potential")
    shaped = reward + g * potential - potential[:, None, None]
    return shaped if form.endswith("potential") else mdp.expected_reward(shaped)[:, :, None].expand_as(reward)


def starc(
    first: Reward,
    second: Reward,
    mdp: MDP,
    *,
    form: Form = "value",
    norm: Norm = "l2",
    weights: Literal["transition", "even"] = "transition",
    policy: Float[Tensor, "S A"] | None = None,
) -> float:
    """The distance of the canonical forms, each scaled to norm 1 (STARC): 0 for the same order of all policies, at most 2.

    With form "value" or "minimal", and every state reached, it is 0 if and only if both rewards order all policies alike, and
    `regret_bounds` holds. The other forms still tell apart rewards that no policy can.

    norm:    l1, l2, or linf, of the reward's entries; `weights`: each entry counts by how probable its transition is, or all alike,
             impossible ones too
    A reward that no policy can notice is at distance 1 from every other and 0 from its like.

    >>> from payoff.tasks.mdp import random_mdp
    >>> mdp = random_mdp(4, 2)
    >>> round(starc(mdp.reward, 3 * mdp.reward + 1, mdp), 9), round(starc(mdp.reward, -mdp.reward, mdp), 9)
    (0.0, 2.0)
    """
    size = _norm(mdp, norm, weights)
    return float(size(_unit(first, mdp, form, policy, size) - _unit(second, mdp, form, policy, size)))


def epic(
    first: Reward,
    second: Reward,
    mdp: MDP,
    *,
    states: Float[Tensor, " S"] | None = None,
    actions: Float[Tensor, " A"] | None = None,
) -> float:
    """EPIC: sqrt((1 - correlation) / 2) of the canonical forms over independently drawn s, a, s'; between 0 and 1.

    What can follow what plays no part, so transitions that never happen count as much as those that do.

    >>> from payoff.tasks.mdp import random_mdp
    >>> mdp = random_mdp(4, 2)
    >>> round(epic(mdp.reward, -mdp.reward, mdp), 9)
    1.0
    """
    s, a = mdp.states, mdp.actions
    over_states = first.new_full((s,), 1 / s) if states is None else states
    over_actions = first.new_full((a,), 1 / a) if actions is None else actions
    forms = [canonicalise(reward, mdp, "epic", states=over_states, actions=over_actions) for reward in (first, second)]
    return pearson_distance(forms[0], forms[1], torch.einsum("s,a,t->sat", over_states, over_actions, over_states))


def dard(first: Reward, second: Reward, mdp: MDP, *, actions: Float[Tensor, " A"] | None = None) -> float:
    """DARD: sqrt((1 - correlation) / 2) of its canonical forms over transitions that happen, from states drawn evenly.

    >>> from payoff.tasks.mdp import random_mdp
    >>> mdp = random_mdp(4, 2)
    >>> round(dard(mdp.reward, 2 * mdp.reward + 1, mdp), 7)
    0.0
    """
    over_actions = first.new_full((mdp.actions,), 1 / mdp.actions) if actions is None else actions
    forms = [canonicalise(reward, mdp, "dard", actions=over_actions) for reward in (first, second)]
    return pearson_distance(forms[0], forms[1], mdp.transition * over_actions[:, None] / mdp.states)


def pearson_distance(first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> float:
    """sqrt((1 - weighted correlation) / 2): 0 for positively affine numbers, 1 for opposite ones.

    Constants correlate with nothing, and two of them are the same: 0 for two, sqrt(1/2) for one.

    >>> x, even = torch.arange(3.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    >>> round(pearson_distance(x, -2 * x + 1, even), 9)
    1.0
    """
    share = weights / weights.sum()
    centred = [x - (share * x).sum() for x in (first, second)]
    sizes = [float((share * c.square()).sum().sqrt()) for c in centred]
    flat = [size <= _TRIVIAL * max(float(x.abs().max()), 1e-300) for size, x in zip(sizes, (first, second), strict=True)]
    if any(flat):
        return 0.0 if all(flat) else math.sqrt(0.5)
    # (1 - correlation) / 2 as a sum of squares: exact where the two are nearly the same
    gap = centred[0] / sizes[0] - centred[1] / sizes[1]
    return min(1.0, float((share * gap.square()).sum().sqrt()) / 2)


def worst_regret(first: Reward, second: Reward, mdp: MDP) -> float:
    """The most that J1 can fall between two policies of which the second reward likes the later one at least as much.

    max J1(p) - J1(q) over all p, q with J2(q) >= J2(p), as a share of max J1 - min J1. By duality it is the least value, over
    x >= 0, of the spread of R1 - x R2, a convex function of one number that is linear in pieces.
    0 where nobody can notice the first reward; 1 where nobody can notice the second, and the first is noticed.

    >>> from payoff.tasks.mdp import chain_mdp
    >>> mdp = chain_mdp(3)
    >>> round(worst_regret(mdp.reward, mdp.reward, mdp), 9), round(worst_regret(mdp.reward, -mdp.reward, mdp), 9)
    (0.0, 1.0)
    """
    r1, r2 = mdp.expected_reward(first), mdp.expected_reward(second)
    whole = float(mdp.spread(r1))
    if whole <= _TRIVIAL * max(float(r1.abs().max()), 1e-300):
        return 0.0

    def line(x: float) -> tuple[float, float]:
        """Value and slope of the spread at x."""
        r = r1 - x * r2
        high, low = mdp.optimum(r).policy, mdp.optimum(-r).policy
        return float(mdp.worth(high, r) - mdp.worth(low, r)), float(mdp.worth(low, r2) - mdp.worth(high, r2))

    x, (value, slope) = 0.0, line(0.0)
    left, least = (x, value, slope), value
    if slope < 0:
        other = float(mdp.spread(r2))
        x = 2 * whole / other + 1
        right = (x, *line(x))
        for _ in range(200):  # the minimum lies where the two lines cross, or a line between them is steeper than known
            least = min(least, right[1], left[1])
            if right[2] <= left[2]:
                break
            x = (left[1] - right[1] + right[2] * right[0] - left[2] * left[0]) / (right[2] - left[2])
            value, slope = line(x)
            bound = left[1] + left[2] * (x - left[0])
            least = min(least, value)
            if value <= bound + 1e-12 * whole:
                break
            left, right = ((x, value, slope), right) if slope < 0 else (left, (x, value, slope))
    return min(max(least / whole, 0.0), 1.0)


def optimal_regret(first: Reward, second: Reward, mdp: MDP) -> float:
    """What J1 loses when the second reward is optimised, as a share of max J1 - min J1; of several optima the worst counts.

    >>> from payoff.tasks.mdp import chain_mdp
    >>> mdp = chain_mdp(3)
    >>> optimal_regret(mdp.reward, -mdp.reward, mdp)
    1.0
    """
    whole = float(mdp.spread(first))
    if whole <= _TRIVIAL * max(float(first.abs().max()), 1e-300):
        return 0.0
    worst = mdp.optimum(-mdp.expected_reward(first), among=mdp.best_actions(second))
    return min(max(float(mdp.start @ mdp.optimum(first).v + mdp.start @ worst.v) / whole, 0.0), 1.0)


def regret_bounds(
    first: Reward,
    second: Reward,
    mdp: MDP,
    *,
    form: Literal["value", "minimal"] = "value",
    norm: Norm = "l2",
    policy: Float[Tensor, "S A"] | None = None,
) -> RegretBounds:
    """STARC's regret bounds with their constants computed: the distance is small if and only if the worst regret is.

    Upper: with J2(q) >= J2(p), J1(p) - J1(q) <= <d_p - d_q, s1 - s2> |c1|, and the occupancies' difference has a dual norm of at
    most D = (1, sqrt 2, 2) / (1 - discount) for (l1, l2, linf). Lower: the spread of c1 - x c2 is at least m |c1 - x c2| for every
    x, and |s1 - x s2| >= d / 2. m is found from policies that leave the uniform one in a single state, so it is valid and not the
    largest there is.

    A first reward that nobody can notice has no regret, and bounds of 0. Raises ValueError for a form that does not take out
    redistribution: nothing holds for it.

    >>> from payoff.tasks.mdp import random_mdp
    >>> mdp, other = random_mdp(4, 2), random_mdp(4, 2, seed=1)
    >>> found = regret_bounds(mdp.reward, other.reward, mdp)
    >>> 0 < found.lower <= found.worst <= found.upper
    True
    """
    if form not in ("value", "minimal"):
        raise ValueError(f'regret_bounds: form must be "value" or "minimal", got {form!r}')
    size = _norm(mdp, norm, "transition")
    distance = starc(first, second, mdp, form=form, norm=norm, policy=policy)
    worst, whole = worst_regret(first, second, mdp), float(mdp.spread(first))
    reach = {"l1": 1.0, "l2": math.sqrt(2), "linf": 2.0}[norm] / (1 - mdp.discount)
    noticed = _steepness(mdp, form, policy) / {"l1": math.sqrt(mdp.states * mdp.actions), "l2": 1.0, "linf": 1.0}[norm]
    if not bool(_unit(first, mdp, form, policy, size).any()):
        return RegretBounds(distance, worst, 0.0, 0.0, noticed / (2 * reach), reach / noticed if noticed else math.inf)
    share = float(size(canonicalise(first, mdp, form, policy=policy))) / whole
    return RegretBounds(
        distance,
        worst,
        noticed * share * distance / 2,
        reach * share * distance,
        noticed / (2 * reach),
        reach / noticed if noticed else math.inf,
    )


def _smallest(reward: Reward, mdp: MDP, *, spread_counts: bool) -> Float[Tensor, " S"]:
    """The potential whose shaping makes the reward smallest in squares."""
    s, a = mdp.states, mdp.actions
    at = torch.eye(s, dtype=reward.dtype)
    if spread_counts:
        root = mdp.transition.sqrt().reshape(-1, 1)
        moves = (mdp.discount * at[None, None, :, :] - at[:, None, None, :]).expand(s, a, s, s).reshape(-1, s)
        return torch.linalg.lstsq(root * moves, -root * reward.reshape(-1, 1)).solution[:, 0]
    moves = (mdp.discount * mdp.transition - at[:, None, :]).reshape(-1, s)
    return torch.linalg.lstsq(moves, -mdp.expected_reward(reward).reshape(-1, 1)).solution[:, 0]


def _norm(mdp: MDP, norm: Norm, weights: str):
    """The norm of a reward as a function."""
    if norm not in get_args(Norm):
        raise ValueError(f"starc: norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
    if weights not in ("transition", "even"):
        raise ValueError(f'starc: weights must be "transition" or "even", got {weights!r}')
    share = mdp.transition if weights == "transition" else torch.ones_like(mdp.transition)

    def size(x: Reward) -> Float[Tensor, ""]:
        if norm == "linf":
            return torch.where(share > 0, x.abs(), 0).max()
        return (share * x.abs()).sum() if norm == "l1" else (share * x.square()).sum().sqrt()

    return size


def _unit(reward: Reward, mdp: MDP, form: Form, policy: Tensor | None, size) -> Reward:
    """The canonical form at norm 1; exactly 0 for a reward that pays nothing."""
    canonical = canonicalise(reward, mdp, form, policy=policy)
    length = size(canonical)
    least = _TRIVIAL * reward.abs().max() * size(torch.ones_like(reward))
    return canonical / length if float(length) > float(least) else torch.zeros_like(reward)


def _steepness(mdp: MDP, form: str, policy: Tensor | None) -> float:
    """A number m > 0 with spread(c) >= m |c|_2 for every canonical c, 0 where states are never reached."""
    s, a = mdp.states, mdp.actions
    if form == "value":
        fixed = torch.zeros(s, s, a, dtype=mdp.start.dtype)
        fixed[range(s), range(s)] = mdp.uniform() if policy is None else policy
    else:
        fixed = (mdp.discount * mdp.transition - torch.eye(s, dtype=mdp.start.dtype)[:, None, :]).permute(2, 0, 1)
    free = torch.linalg.svd(fixed.reshape(s, -1), full_matrices=True).Vh[s:].T  # canonical forms are orthogonal to `fixed`
    leaving = []
    for state in range(s):
        turned = mdp.uniform().repeat(a, 1, 1)
        turned[:, state] = torch.eye(a, dtype=mdp.start.dtype)
        taken = torch.stack([mdp.occupancy(p) for p in turned]) / (1 - mdp.discount)
        leaving += [(taken[i] - taken[j]).flatten() for i in range(a) for j in range(i)]
    if not leaving:
        return 0.0
    slopes = torch.linalg.svdvals(torch.stack(leaving) @ free)
    least = float(slopes[-1]) if len(slopes) == free.shape[1] else 0.0
    return least / math.sqrt(len(leaving)) if least > 1e-12 else 0.0
