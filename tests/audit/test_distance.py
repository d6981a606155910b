"""Distances of rewards: invariant under exactly what each claims, and bounds of the regret that hold."""

import itertools

import pytest
import torch
from scipy.optimize import linprog

from payoff.audit.distance import (
    canonicalise,
    dard,
    epic,
    optimal_regret,
    pearson_distance,
    regret_bounds,
    starc,
    worst_regret,
)
from payoff.tasks.mdp import MDP, random_mdp

F64 = torch.float64
MDP_ = random_mdp(5, 3, seed=2)
G = MDP_.discount
FORMS = ("value", "value-potential", "minimal", "minimal-potential", "epic", "dard", "none")
FULL = ("value", "minimal")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def shaping(mdp: MDP = MDP_, seed: int = 1) -> torch.Tensor:
    potential = normal(mdp.states, seed=seed)
    return (mdp.discount * potential[None, None, :] - potential[:, None, None]).expand_as(mdp.reward)


def redistribution(mdp: MDP = MDP_, seed: int = 2) -> torch.Tensor:
    """Numbers that are 0 on average over the successors of every action."""
    noise = normal(*mdp.reward.shape, seed=seed)
    return noise - mdp.expected_reward(noise)[:, :, None]


CHANGES = {
    "scaling": lambda r: 3.7 * r,
    "shaping": lambda r: r + shaping(),
    "redistribution": lambda r: r + redistribution(),
    "sign": lambda r: -r,
    "one transition": lambda r: r.index_put((torch.tensor(0), torch.tensor(0), torch.tensor(0)), r[0, 0, 0] + 30),
}
IGNORED = {form: {"scaling", "shaping"} for form in FORMS} | {f: {"scaling", "shaping", "redistribution"} for f in FULL}
IGNORED["none"] = {"scaling"}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_ignores_what_it_claims_and_nothing_else(form, change):
    changed = CHANGES[change](MDP_.reward)
    for norm, weights in itertools.product(("l1", "l2", "linf"), ("transition", "even")):
        found = starc(MDP_.reward, changed, MDP_, form=form, norm=norm, weights=weights)
        assert (found < 1e-9) == (change in IGNORED[form]), (norm, weights, found)
        assert found < 1e-9 or found > 0.02


@pytest.mark.parametrize("distance", [epic, dard])
@pytest.mark.parametrize("change", CHANGES)
def test_epic_and_dard_see_redistribution_and_not_shaping(distance, change):
    found = distance(MDP_.reward, CHANGES[change](MDP_.reward), MDP_)
    assert (found < 1e-9) == (change in {"scaling", "shaping"})


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_starc_is_a_distance_of_at_most_two(norm):
    rewards = [normal(5, 3, 5, seed=seed) for seed in range(3)]
    d = lambda i, j: starc(rewards[i], rewards[j], MDP_, norm=norm)
    assert d(0, 1) == pytest.approx(d(1, 0), abs=1e-12)
    assert d(0, 2) <= d(0, 1) + d(1, 2) + 1e-12
    assert starc(rewards[0], -rewards[0], MDP_, norm=norm) == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "dard"])
def test_a_canonical_form_is_its_own(form):
    once = canonicalise(MDP_.reward, MDP_, form)
    torch.testing.assert_close(canonicalise(once, MDP_, form), once, rtol=0, atol=1e-10)


def test_dard_is_not_idempotent():
    once = canonicalise(MDP_.reward, MDP_, "dard")
    assert (canonicalise(once, MDP_, "dard") - once).abs().max() > 0.1


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("none", "dard")])
def test_a_canonical_form_is_the_reward_but_for_shaping_and_redistribution(form):
    # so every policy keeps its distance in worth from every other
    canonical = canonicalise(MDP_.reward, MDP_, form)
    policies = [normal(5, 3, seed=seed).softmax(1) for seed in range(4)]
    off = torch.stack([MDP_.worth(p) - MDP_.worth(p, canonical) for p in policies])
    assert off.max() - off.min() < 1e-10


def test_the_value_form_is_worth_nothing_under_its_policy_and_is_offset_by_the_value_of_the_start():
    policy = normal(5, 3, seed=4).softmax(1)
    canonical = canonicalise(MDP_.reward, MDP_, "value", policy=policy)
    assert MDP_.values(policy, canonical).v.abs().max() < 1e-10
    other, v = normal(5, 3, seed=5).softmax(1), MDP_.values(policy).v
    torch.testing.assert_close(MDP_.worth(other, canonical), MDP_.worth(other) - MDP_.start @ v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["minimal", "minimal-potential"])
def test_the_minimal_forms_are_smaller_than_any_other_that_differs_by_what_they_ignore(form):
    size = lambda x: float((MDP_.transition * x.square()).sum())
    least = size(canonicalise(MDP_.reward, MDP_, form))
    for seed in range(6):
        other = MDP_.reward + shaping(seed=seed) * 0.3
        assert least < size(other)
        assert least <= size(canonicalise(other, MDP_, form.replace("minimal", "value"))) + 1e-12
        assert least <= size(canonicalise(MDP_.reward, MDP_, form) + 1e-3 * shaping(seed=seed))


def test_epics_form_has_mean_zero_at_every_state_over_its_own_coverage():
    states, actions = normal(5, seed=7).softmax(0), normal(3, seed=8).softmax(0)
    canonical = canonicalise(MDP_.reward, MDP_, "epic", states=states, actions=actions)
    assert torch.einsum("a,t,sat->s", actions, states, canonical).abs().max() < 1e-12


def test_dards_form_shares_one_action_between_both_draws():
    small = random_mdp(2, 2, seed=3)
    t, r, g = small.transition, small.reward, small.discount
    n = [sum(0.5 * t[s, a, x] * r[s, a, x] for a in range(2) for x in range(2)) for s in range(2)]
    ahead = [
        [sum(0.5 * t[s, a, x] * t[z, a, y] * r[x, a, y] for a in range(2) for x in range(2) for y in range(2)) for z in range(2)]
        for s in range(2)
    ]
    found = canonicalise(r, small, "dard")
    for s, a, z in itertools.product(range(2), repeat=3):
        assert float(found[s, a, z]) == pytest.approx(float(r[s, a, z] + g * n[z] - n[s] - g * ahead[s][z]), abs=1e-12)


def test_pearson_distance_of_rewards_that_say_nothing():
    flat, even = torch.ones(4, dtype=F64), torch.ones(4, dtype=F64)
    assert pearson_distance(flat, 2 * flat, even) == 0
    assert pearson_distance(flat, torch.arange(4, dtype=F64), even) == pytest.approx(0.5**0.5)


def test_a_reward_nobody_notices_is_far_from_all_others_and_near_its_like():
    nothing = shaping() + redistribution()
    assert starc(nothing, torch.zeros_like(nothing), MDP_) == 0
    assert starc(nothing, MDP_.reward, MDP_) == pytest.approx(1)
    assert worst_regret(nothing, MDP_.reward, MDP_) == 0
    assert worst_regret(MDP_.reward, nothing, MDP_) == pytest.approx(1)
    assert regret_bounds(nothing, MDP_.reward, MDP_).upper == 0


def test_distance_zero_is_the_same_order_of_all_policies():
    small = random_mdp(3, 2, seed=5)
    policies = list(small.deterministic_policies())
    order = lambda r: torch.stack([small.worth(p, r) for p in policies]).argsort().tolist()
    same = 2 * small.reward + shaping(small) + redistribution(small)
    assert starc(small.reward, same, small) < 1e-12
    assert order(same) == order(small.reward)
    other = small.reward + 2 * normal(3, 2, 3, seed=11)
    assert starc(small.reward, other, small) > 0.1
    assert order(other) != order(small.reward)


def by_linear_programme(first: torch.Tensor, second: torch.Tensor, mdp: MDP) -> float:
    """max J1(p) - J1(q) over pairs of occupancies with J2(q) >= J2(p)."""
    s, a = mdp.states, mdp.actions
    flow = torch.zeros(s, s * a, dtype=F64)
    for state in range(s):
        flow[state, state * a : (state + 1) * a] = 1
    flow -= mdp.discount * mdp.transition.reshape(s * a, s).T
    r1, r2 = (mdp.expected_reward(r).flatten() for r in (first, second))
    both = torch.block_diag(flow, flow)
    found = linprog(
        torch.cat([-r1, r1]),
        A_ub=torch.cat([r2, -r2])[None],
        b_ub=[0.0],
        A_eq=both,
        b_eq=torch.cat([mdp.start, mdp.start]),
    )
    return -found.fun / float(mdp.spread(first))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mixed", [0.0, 0.7, 0.99])
def test_the_worst_regret_is_that_of_the_linear_programme_over_occupancies(seed, mixed):
    mdp = random_mdp(4, 3, seed=seed)
    other = mixed * mdp.reward + (1 - mixed) * normal(4, 3, 4, seed=seed + 50)
    assert worst_regret(mdp.reward, other, mdp) == pytest.approx(by_linear_programme(mdp.reward, other, mdp), abs=1e-7)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("form", FULL)
def test_regret_is_bounded_on_both_sides(form, norm):
    for seed in range(4):
        mdp = random_mdp(4, 2, seed=seed)
        end = normal(4, 2, 4, seed=seed + 20)
        for step in (0.01, 0.3, 1.0):
            other = (1 - step) * mdp.reward + step * end
            found = regret_bounds(mdp.reward, other, mdp, form=form, norm=norm)
            assert 0 < found.lower <= found.worst <= found.upper
            assert found.lower_factor * found.distance <= found.worst <= found.upper_factor * found.distance
            assert optimal_regret(mdp.reward, other, mdp) <= found.worst + 1e-9


def test_without_a_way_to_a_state_the_constants_of_the_process_say_nothing():
    mdp = random_mdp(4, 2)
    cut = mdp.transition.clone()
    cut[:, :, 3] = 0
    cut[3, :, 3] = 1
    cut = cut / cut.sum(2, keepdim=True)
    closed = MDP(cut, mdp.reward, torch.tensor([1.0, 0, 0, 0], dtype=F64), 0.9)
    other = mdp.reward.clone()
    other[3] += normal(2, 4)  # nobody ever gets there
    found = regret_bounds(mdp.reward, other, closed)
    assert found.distance > 0.01
    assert found.worst < 1e-9
    assert (found.lower_factor, found.upper_factor) == (0.0, float("inf"))


def test_no_constant_of_epic_or_dard_bounds_regret_because_redistribution_alone_moves_them():
    # the same reward for every policy, yet as far away as one likes
    noisy = MDP_.reward + 100 * redistribution()
    assert worst_regret(MDP_.reward, noisy, MDP_) < 1e-9
    assert min(epic(MDP_.reward, noisy, MDP_), dard(MDP_.reward, noisy, MDP_)) > 0.5


def test_of_several_optima_the_worst_counts():
    mdp = random_mdp(3, 2)
    nothing = torch.zeros_like(mdp.reward)
    assert optimal_regret(mdp.reward, nothing, mdp) == pytest.approx(1)
    assert optimal_regret(mdp.reward, 2 * mdp.reward + shaping(mdp), mdp) == pytest.approx(0, abs=1e-9)


def rank_correlation(x: list[float], y: list[float]) -> float:
    ranks = [torch.tensor(z).argsort().argsort().double() for z in (x, y)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@pytest.mark.slow
def test_starc_tells_regret_better_than_epic_and_dard_do():
    found = {name: [] for name in ("starc", "epic", "dard", "regret")}
    for seed in range(12):
        mdp, end = random_mdp(6, 3, seed=seed), normal(6, 3, 6, seed=seed + 500)
        for step in (0.1, 0.3, 0.6):
            other = (1 - step) * mdp.reward + step * end
            found["starc"].append(starc(mdp.reward, other, mdp))
            found["epic"].append(epic(mdp.reward, other, mdp))
            found["dard"].append(dard(mdp.reward, other, mdp))
            found["regret"].append(worst_regret(mdp.reward, other, mdp))
    scores = {name: rank_correlation(x, found["regret"]) for name, x in found.items() if name != "regret"}
    assert scores["starc"] > max(scores["epic"], scores["dard"])
    assert scores["starc"] > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: canonicalise(MDP_.reward, MDP_, "values"), "form"),
        (lambda: starc(MDP_.reward, MDP_.reward, MDP_, norm="l3"), "norm"),
        (lambda: starc(MDP_.reward, MDP_.reward, MDP_, weights="none"), "weights"),
        (lambda: regret_bounds(MDP_.reward, MDP_.reward, MDP_, form="epic"), "form"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(Exception, match=message):  # by the types, where they are checked
        call()
