"""Linear heads that are slightly wrong (card sparse-misspecified-linear): closed forms of the amplification, and the two facts."""

import itertools
import math

import pytest
import torch

from payoff.audit.misspecified import amplification, g_optimal_design, leverage, worst_errors

F64 = torch.float64


def axes(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.eye(d, dtype=F64), torch.full((d,), 1 / d, dtype=F64)


def fitted(features, design, values) -> torch.Tensor:
    moments = features.T @ (design[:, None] * features)
    return torch.linalg.solve(moments, features.T @ (design * values))


@pytest.mark.parametrize("d", [4, 9, 16])
def test_on_the_axes_an_answer_along_the_diagonal_is_off_by_the_root_of_the_dimension(d):
    diagonal = torch.full((1, d), d**-0.5, dtype=F64)
    assert float(amplification(*axes(d), diagonal)[0]) == pytest.approx(math.sqrt(d))


@pytest.mark.parametrize(("d", "value"), [(4, 1.5), (9, 2.4609375)])
def test_on_the_hypercube_it_is_the_mean_of_an_absolute_sum(d, value):
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=F64) / d**0.5
    even = torch.full((len(corners),), 1 / len(corners), dtype=F64)
    assert float(amplification(corners, even)[0]) == pytest.approx(value)


def test_the_worst_errors_attain_it_and_no_others_exceed_it():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(10, 3, generator=rng, dtype=F64)
    design = torch.rand(10, generator=rng, dtype=F64)
    design = design / design.sum()
    query, theta, eps = torch.randn(3, generator=rng, dtype=F64), torch.randn(3, generator=rng, dtype=F64), 0.05
    most = float(amplification(features, design, query[None])[0]) * eps
    errors = worst_errors(features, design, query, eps)
    assert float(query @ (fitted(features, design, features @ theta + errors) - theta)) == pytest.approx(most)
    for seed in range(20):
        other = eps * (2 * torch.rand(10, generator=torch.Generator().manual_seed(seed), dtype=F64) - 1)
        assert abs(float(query @ (fitted(features, design, features @ theta + other) - theta))) <= most + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_amplification_is_at_most_the_root_of_leverage_which_a_g_optimal_design_holds_at_d(seed):
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    even = torch.full((20,), 0.05, dtype=F64)
    assert (amplification(features, even) <= leverage(features, even).sqrt() + 1e-9).all()
    assert float(even @ leverage(features, even)) == pytest.approx(4)
    best = g_optimal_design(features)
    assert float(leverage(features, best).max()) == pytest.approx(4, rel=1e-5)
    assert float(amplification(features, best).max()) <= 2 + 1e-4


def test_knowing_which_features_matter_lowers_it_to_the_root_of_their_number():
    d, s = 16, 2
    features, even = axes(d)
    diagonal = torch.full((1, d), d**-0.5, dtype=F64)
    full = float(amplification(features, even, diagonal)[0])
    support = features[:, :s]
    on_support = even.clone()
    on_support[s:] = 0
    sparse = float(amplification(support, on_support / on_support.sum(), torch.full((1, s), s**-0.5, dtype=F64))[0])
    assert (full, sparse) == (pytest.approx(4), pytest.approx(math.sqrt(2)))


def test_a_head_right_to_eps_on_all_its_data_can_still_choose_an_answer_that_loses_far_more_than_two_eps():
    # truth is 0 everywhere but eps on each axis; the fit makes eps sqrt(d) of it along the diagonal, where truth is -4 eps
    d, eps = 16, 0.1
    features, even = axes(d)
    diagonal = torch.full((1, d), d**-0.5, dtype=F64)
    errors = worst_errors(features, even, diagonal[0], eps)
    theta = fitted(features, even, errors)
    assert float((features @ theta - errors).abs().max()) < 1e-12  # no held-out observation of the axes shows anything
    predicted = float(diagonal[0] @ theta)
    assert predicted == pytest.approx(eps * 4)
    assert predicted > float((features @ theta).max())  # the diagonal looks best


def test_a_proxy_known_to_be_within_eps_costs_at_most_two_eps_and_that_is_attained():
    eps = 0.25
    for seed in range(50):
        rng = torch.Generator().manual_seed(seed)
        truth = torch.rand(6, generator=rng, dtype=F64)
        proxy = truth + eps * (2 * torch.rand(6, generator=rng, dtype=F64) - 1)
        assert float(truth.max() - truth[proxy.argmax()]) <= 2 * eps
    truth, proxy = torch.tensor([0.0, 2 * eps]), torch.tensor([eps, eps])
    assert float((proxy - truth).abs().max()) == eps
    assert float(truth.max() - truth[0]) == 2 * eps  # ties broken the wrong way


def test_a_needle_among_nearly_orthogonal_answers_is_linear_to_within_their_overlap():
    # |<phi_i, phi_j>| <= eps, truth 1 at one of them and 0 elsewhere: theta = phi_needle is eps-accurate and says nothing of where
    rng = torch.Generator().manual_seed(0)
    phi = torch.nn.functional.normalize(torch.randn(40, 400, generator=rng, dtype=F64), dim=1)
    overlap = (phi @ phi.T - torch.eye(40, dtype=F64)).abs().max()
    truth = torch.zeros(40, dtype=F64)
    truth[7] = 1
    assert float((phi @ phi[7] - truth).abs().max()) <= float(overlap) < 0.25
    others = torch.arange(40) != 7
    # whoever has seen only the others has seen nothing but zeros
    assert truth[others].abs().max() == 0


def test_what_is_no_design_is_refused():
    features, even = axes(3)
    with pytest.raises(ValueError, match="shares"):
        amplification(features, 2 * even)
    with pytest.raises(ValueError, match="does not span"):
        leverage(features, torch.tensor([0.5, 0.5, 0.0], dtype=F64))
