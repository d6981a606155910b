"""The paths and kernels: against the published formulas, exact posteriors, and the moments of Gaussian data in closed form."""

import math

import pytest
import torch

from payoff.policies.denoising import gaussian_logp, schedule, signal_and_noise

MEAN, SPREAD = 1.0, 0.5


def moments(table, *, still=False):
    """Mean and variance of the end for data N(MEAN, SPREAD^2) and its exact velocity, and how much of the start is left in it.

    The velocity is affine in the state, so every step is, and moments follow exactly.
    """
    keep, gain = (table.still_keep, table.still_gain) if still else (table.keep, table.gain)
    mean, variance, left = 0.0, 1.0, 1.0
    for k in range(len(table.std)):
        a, s = float(table.signal[k]), float(table.noise[k])
        slope = (s - a * SPREAD**2) / (a**2 * SPREAD**2 + s**2)
        factor, shift = keep[k] - gain[k] * slope, gain[k] * (slope * a * MEAN + MEAN)
        mean, variance, left = factor * mean + shift, factor**2 * variance, factor * left
        variance = variance if still else variance + table.std[k] ** 2
    return float(mean), float(variance), float(left)


def test_constant_noise_is_the_step_of_dancegrpo():
    table, eta = schedule(5, noise="constant", level=0.4, shift=3.0), 0.4
    x, v = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    t, span = table.times[:-1], table.times[:-1] - table.times[1:]
    data = x - t * v
    score = -(x - (1 - t) * data) / t**2
    torch.testing.assert_close(table.keep * x - table.gain * v, x - span * v + 0.5 * eta**2 * score * span)
    torch.testing.assert_close(table.std, eta * span.sqrt())


def test_growing_noise_is_that_of_flow_grpo_with_the_next_time_at_the_start():
    table = schedule(4, level=0.7)
    # t = 1, 3/4, 1/2, 1/4: sqrt(1 / (1/4)) = 2 at the start, then sqrt(3), 1, sqrt(1/3); each times 0.7 and sqrt(D) = 1/2
    wanted = 0.35 * torch.tensor([2.0, math.sqrt(3), 1.0, math.sqrt(1 / 3)], dtype=torch.float64)
    torch.testing.assert_close(table.std, wanted)
    # the gain of a velocity is D at t = 1 and D (1 + a^2 / 2) after it
    torch.testing.assert_close(table.gain, 0.25 * torch.tensor([1.0, 1.245, 1.245, 1.245], dtype=torch.float64))


def test_steps_with_the_noise_of_another_schedule_given_by_number_are_its_steps():
    growing = schedule(4, level=0.7)
    span = growing.times[:-1] - growing.times[1:]
    for ours, theirs in zip(schedule(4, noise="constant", level=(growing.std / span.sqrt()).tolist()), growing, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{"path": "rectified"}, {"path": "rectified", "noise": "constant"}, {"path": "ddpm"}])
def test_without_noise_the_stochastic_step_is_the_deterministic_one(options):
    table = schedule(6, level=0.0, **options)
    torch.testing.assert_close(table.keep, table.still_keep)
    torch.testing.assert_close(table.gain, table.still_gain)
    assert not table.std.any()


def test_ancestral_noise_is_the_exact_posterior_of_the_noising_process():
    table = schedule(7, path="ddpm")
    for k in range(6):
        (a, after), (s, less) = table.signal[k : k + 2], table.noise[k : k + 2]
        x, data = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64)
        # x = r x' + noise with r = a / a', given the data: condition one Gaussian on the other
        r = a / after
        posterior = after * data + r * less**2 / s**2 * (x - a * data)
        velocity = (x - (a + s) * data) / s
        torch.testing.assert_close(table.keep[k] * x - table.gain[k] * velocity, posterior)
        torch.testing.assert_close(table.std[k] ** 2, less**2 * (1 - r**2 * less**2 / s**2))
    assert table.std[-1] == 0


@pytest.mark.parametrize(
    "options", [{"level": 0.7}, {"noise": "constant", "level": 0.5}, {"path": "ddpm"}, {"path": "ddpm", "level": 0.5}]
)
def test_sde_and_ode_come_to_the_data_whose_velocity_they_are_given(options):
    for still in (False, True):
        coarse, fine = (moments(schedule(steps, **options), still=still) for steps in (80, 640))
        for mean, _, _ in (coarse, fine):  # DDPM's time 1 keeps 0.7 % of the data, which its start does not have
            assert mean == pytest.approx(MEAN, abs=0.004)
        assert fine[1] == pytest.approx(SPREAD**2, rel=0.025)
        # an error of the order of a step: eight times the steps leave less than a quarter, until it is small
        assert abs(fine[1] - SPREAD**2) < max(abs(coarse[1] - SPREAD**2) / 4, 0.002)


def test_with_growing_noise_of_root_two_the_end_forgets_the_start():
    assert abs(moments(schedule(10, level=math.sqrt(2)))[2]) < 1e-3
    assert abs(moments(schedule(10, level=0.7))[2]) > 0.1


def test_a_clean_last_step_ends_in_the_data_expected_before_it():
    table = schedule(5, last_clean=True)
    x, v = 0.3, -0.8
    assert float(table.keep[-1] * x - table.gain[-1] * v) == pytest.approx(x - 0.2 * v)
    assert table.std[-1] == 0
    assert (table.std[:-1] > 0).all()


def test_shift_spends_more_steps_near_the_noise():
    # 3 * 0.5 / (1 + 2 * 0.5) = 0.75
    assert schedule(2, shift=3.0).times.tolist() == pytest.approx([1.0, 0.75, 0.0])


@pytest.mark.parametrize("path", ["rectified", "ddpm"])
def test_paths_run_from_noise_to_data(path):
    a, s = signal_and_noise(torch.tensor([0.0, 1.0], dtype=torch.float64), path)
    assert (a[0], s[0]) == (1, 0)
    assert s[1] == pytest.approx(1, abs=1e-4)
    assert a[1] == pytest.approx(0, abs=7e-3)


def test_log_densities_are_those_of_torch_and_their_mean_is_the_sum_over_the_dimensions():
    x, mean, std = torch.randn(4, 3), torch.randn(4, 3), torch.rand(4) + 0.1
    normal = torch.distributions.Normal(mean, std[:, None]).log_prob(x)
    torch.testing.assert_close(gaussian_logp(x, mean, std, "sum"), normal.sum(1))
    torch.testing.assert_close(gaussian_logp(x, mean, std, "mean"), normal.mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "at least 2 with growing noise"),
        ({"steps": 0, "path": "ddpm"}, "at least 1"),
        ({"path": "ddpm", "noise": "growing"}, "ancestral"),
        ({"path": "ddpm", "level": 1.5}, r"0\.\.1"),
        ({"level": -0.1}, r"0\.\.inf"),
        ({"level": [0.1, 0.2]}, "one for each of the 10 steps"),
        ({"shift": 0.0}, "shift must be > 0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        schedule(options.pop("steps", 10), **options)
