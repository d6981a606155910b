import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from payoff.policies.tabular import Tabular
from payoff.search.proxy_points import proxy_points, surface_peak

VALLEYS = {
    "rosenbrock": lambda x: -(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2),
    "slanted bowl": lambda x: -(x[0] ** 2 + 3 * x[1] ** 2 + 2 * x[0] * x[1]),
    "ridges": lambda x: math.sin(3 * x[0]) + math.cos(2 * x[1]) - 0.1 * (x[0] ** 2 + x[1] ** 2),  # has it shrink
}


@pytest.mark.parametrize("surface", VALLEYS)
@pytest.mark.parametrize("iterations", [0, 1, 7, 40])
def test_it_goes_where_scipys_nelder_mead_goes(surface, iterations):
    value = VALLEYS[surface]
    simplex = np.array([[-1.2, 1.0], [-0.7, 1.0], [-1.2, 1.4]])
    options = {"initial_simplex": simplex, "maxiter": iterations + 1, "maxfev": 10_000, "xatol": 0, "fatol": 0}
    theirs = minimize(lambda x: -value(x), simplex[0], method="Nelder-Mead", options=options)
    ours = proxy_points(
        lambda at: value((at["a"], at["b"])), {"a": -1.2, "b": 1.0}, spread={"a": 0.5, "b": 0.4}, iterations=iterations
    )
    assert ours.value == pytest.approx(-theirs.fun, rel=1e-9)
    assert list(ours.thresholds.values()) == pytest.approx(list(theirs.x), rel=1e-9)
    assert len(ours.tried) == theirs.nfev


def test_it_finds_the_thresholds_at_which_the_truth_is_best():
    """Two rewards that go together, a truth that turns down beyond a value of each, and the exact policy for every pair."""
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 27, generator=rng, dtype=torch.float64)
    rewards = torch.stack([a, 0.4 * a + 0.9 * b])
    start = Tabular(3, 3, spread=0.5, seed=1).probabilities().detach().log()
    best = torch.tensor([0.6, 0.3], dtype=torch.float64)

    def truth(at):
        """Minus the squared distance of the mean rewards from their best, of the nearest policy that holds the thresholds."""
        threshold = torch.tensor([at["a"], at["b"]], dtype=torch.float64)

        def dual(multiplier):
            pull = torch.tensor(multiplier) @ rewards + start
            above = rewards @ pull.softmax(0) - threshold
            return float(pull.logsumexp(0) - torch.tensor(multiplier) @ threshold), above.numpy()

        p = (torch.tensor(minimize(dual, [0.0, 0.0], jac=True).x) @ rewards + start).softmax(0)
        return -float((rewards @ p - best).square().sum())

    found = proxy_points(truth, {"a": 0.0, "b": 0.0}, spread=0.4, iterations=15)
    assert list(found.thresholds.values()) == pytest.approx(best.tolist(), abs=0.1)
    assert found.value > found.tried[0][1]


def test_points_stay_within_bounds_and_no_measure_is_the_worst():
    def only_right_of_one(at):
        assert -1.0 <= at["a"] <= 2.0
        return None if at["a"] < 1.0 else at["a"]

    found = proxy_points(only_right_of_one, {"a": 0.0}, spread=1.0, iterations=6, bounds={"a": (-1.0, 2.0)})
    assert found.thresholds == {"a": 2.0}
    assert found.tried[0] == ({"a": 0.0}, None)
    nowhere = proxy_points(lambda at: math.nan, {"a": 0.0, "b": 0.0}, spread=1.0, iterations=2)
    assert nowhere.value == -math.inf
    assert all(value is None for _, value in nowhere.tried)


def test_what_evaluate_does_to_its_argument_changes_nothing():
    def spoils(at):
        at["a"] -= 100.0
        return -at["a"]

    assert proxy_points(spoils, {"a": 0.0}, spread=1.0, iterations=0).thresholds == {"a": 0.0}


def test_a_surface_is_recovered_with_its_summit():
    rng = torch.Generator().manual_seed(1)
    points = 5 * torch.rand(12, 3, generator=rng, dtype=torch.float64) + torch.tensor([0.0, 100.0, -3.0])
    root = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    summit = points.mean(0)
    values = 7.0 - ((points - summit) @ root).square().sum(1)
    peak = surface_peak(points, values)
    assert peak.inside
    assert torch.allclose(peak.point, summit, atol=1e-6)
    assert peak.value == pytest.approx(7.0)
    assert peak.explained == pytest.approx(1.0)


def test_without_a_summit_among_the_points_the_best_of_them_is_said_to_be_no_peak():
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    rising = surface_peak(grid, grid.sum(1))
    assert (rising.point.tolist(), rising.inside) == ([3.0, 3.0], False)
    saddle = surface_peak(grid, (grid[:, 0] - 1) ** 2 - (grid[:, 1] - 1) ** 2)
    assert (saddle.point.tolist(), saddle.inside) == ([3.0, 1.0], False)
    flat = surface_peak(grid, torch.ones(16))
    assert flat.explained is None


def test_noise_lowers_what_the_surface_explains():
    grid = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0)).double()
    bowl = -((grid - 2.0) ** 2).sum(1)
    noise = torch.randn(36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert surface_peak(grid, bowl + 5 * noise).explained < surface_peak(grid, bowl + noise).explained < 1


def test_mistakes_are_named():
    measure = lambda at: 0.0
    for start, options, message in (
        ({}, {"spread": 1.0}, "no reward"),
        ({"a": 0.0}, {"spread": 0.0}, "spread must be other than 0"),
        ({"a": 0.0}, {"spread": {"b": 1.0}}, "spread must be other than 0 for each of"),
        ({"a": 0.0}, {"spread": 1.0, "iterations": -1}, "iterations must be at least 0"),
        ({"a": 0.0}, {"spread": 1.0, "bounds": {"b": (0.0, 1.0)}}, "bounds of 'b'"),
        ({"a": 0.0}, {"spread": 1.0, "expansion": 1.0}, "expansion > max"),
    ):
        with pytest.raises(ValueError, match=message):
            proxy_points(measure, start, **options)
    with pytest.raises(ValueError, match="cannot tell the 6 coefficients apart"):
        surface_peak(torch.rand(5, 2), torch.rand(5))
    with pytest.raises(ValueError, match="cannot tell the 6 coefficients apart"):
        surface_peak(torch.arange(8.0)[:, None].expand(8, 2).clone(), torch.rand(8))
