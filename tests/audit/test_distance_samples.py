"""Distances from samples, against the exact ones of the process that the samples come from."""

import pytest
import torch

from payoff.audit.distance import canonicalise, dard, epic, pearson_distance, starc
from payoff.audit.distance_samples import Transitions, fit_values, sampled_dard, sampled_epic, sampled_starc
from payoff.tasks.mdp import random_mdp

F64 = torch.float64
MDP_ = random_mdp(4, 2, seed=2)
G = MDP_.discount
END = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(9), dtype=F64)
OTHER = 0.6 * MDP_.reward + 0.4 * END


def of(table):
    return lambda s, a, t: table[s, a, t]


def drawn(n: int, seed: int = 0) -> Transitions:
    rng = torch.Generator().manual_seed(seed)
    s, a = torch.randint(4, (n,), generator=rng), torch.randint(2, (n,), generator=rng)
    return Transitions(s, a, MDP_.next_states(s, a, rng))


def draw(seed: int = 3):
    rng = torch.Generator().manual_seed(seed)
    return lambda s, a: MDP_.next_states(s, a, rng)


def every(product: bool) -> Transitions:
    """All 32 triples once, in which s, a and s' are independent."""
    return Transitions(*torch.cartesian_prod(torch.arange(4), torch.arange(2), torch.arange(4)).T)


def test_epic_over_all_triples_is_the_exact_epic():
    found = sampled_epic(of(MDP_.reward), of(OTHER), every(True), discount=G, coverage=every(True), resamples=10)
    assert found.value == pytest.approx(epic(MDP_.reward, OTHER, MDP_), abs=1e-9)


def test_epic_over_transitions_that_happen_finds_its_canonical_forms_there():
    moves = drawn(4000)
    forms = [canonicalise(r, MDP_, "epic") for r in (MDP_.reward, OTHER)]
    exact = pearson_distance(*forms, MDP_.transition / 8)
    found = sampled_epic(of(MDP_.reward), of(OTHER), moves, discount=G, coverage=every(True))
    assert found.low < exact < found.high
    assert found.high - found.low < 0.05


def test_dard_from_draws_is_near_the_exact_one():
    found = sampled_dard(
        of(MDP_.reward), of(OTHER), drawn(1500), draw(), actions=torch.arange(2).repeat(40), discount=G, resamples=50
    )
    assert found.value == pytest.approx(dard(MDP_.reward, OTHER, MDP_), abs=0.03)


def test_starc_from_draws_and_exact_values_holds_the_exact_distance():
    values = [MDP_.values(MDP_.uniform(), r).v for r in (MDP_.reward, OTHER)]
    moves = drawn(3000)
    found = sampled_starc(
        of(MDP_.reward),
        of(OTHER),
        moves.state,
        moves.action,
        draw(),
        (lambda s: values[0][s], lambda s: values[1][s]),
        discount=G,
        draws=16,
    )
    exact = starc(MDP_.reward, OTHER, MDP_)
    assert found.low < exact < found.high
    assert found.high - found.low < 0.1


def test_redistribution_is_invisible_only_because_squares_use_different_draws():
    noise = END - MDP_.expected_reward(END)[:, :, None]
    value = MDP_.values(MDP_.uniform()).v
    moves = drawn(30_000)
    same = (lambda s: value[s], lambda s: value[s])
    options = {"discount": G, "draws": 2, "resamples": 20}
    found = sampled_starc(of(MDP_.reward), of(MDP_.reward + noise), moves.state, moves.action, draw(), same, **options)
    assert found.value < 0.25
    # the exact distance is 0; squares of averages over the two draws would add half a variance to every product
    c = MDP_.expected_reward(canonicalise(MDP_.reward, MDP_, "value"))
    x, y = MDP_.reward + G * value, MDP_.reward + noise + G * value
    extra = [
        (MDP_.expected_reward(p * q) - MDP_.expected_reward(p) * MDP_.expected_reward(q)) / 2 for p, q in ((x, x), (y, y), (x, y))
    ]
    xx, yy, xy = (float((c.square() + e).mean()) for e in extra)
    assert (2 - 2 * xy / (xx * yy) ** 0.5) ** 0.5 > 0.5


def test_fitted_values_are_those_of_the_process_as_it_was_seen():
    rng = torch.Generator().manual_seed(1)
    s = torch.randint(4, (60_000,), generator=rng)
    a = torch.randint(2, (60_000,), generator=rng)
    after = MDP_.next_states(s, a, rng)
    one = torch.eye(4, dtype=F64)
    found = fit_values(one[s], one[after], MDP_.reward[s, a, after], G)
    torch.testing.assert_close(found, MDP_.values(MDP_.uniform()).v, rtol=0, atol=0.15)


def test_one_draw_is_refused_and_two_rows_have_no_interval():
    flat = lambda s: torch.zeros(len(s))
    state = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        sampled_starc(of(OTHER), of(OTHER), state, state, draw(), (flat, flat), discount=G, draws=1)
    found = sampled_starc(of(OTHER), of(OTHER), state, state, draw(), (flat, flat), discount=G)
    assert found.low is None
    assert found.value == pytest.approx(0, abs=1e-6)


def test_what_pays_nothing_is_at_distance_one():
    zero, flat = (lambda s, a, t: torch.zeros(len(s), dtype=F64)), (lambda s: torch.zeros(len(s), dtype=F64))
    moves = drawn(50)
    found = sampled_starc(zero, of(OTHER), moves.state, moves.action, draw(), (flat, flat), discount=G, draws=32)
    assert found.value == 1
    assert sampled_starc(zero, zero, moves.state, moves.action, draw(), (flat, flat), discount=G).value == 0
