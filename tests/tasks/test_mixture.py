"""The mixture's closed forms against numbers, its rewards, and its exploit."""

import math

import pytest
import torch

from payoff.policies.denoising import signal_and_noise
from payoff.tasks.mixture import (
    GaussianMixture,
    Mixture,
    final_sample,
    mixture_direction,
    mixture_distance,
    mixture_quadratic,
)
from payoff.trajectories import Trajectories, outcome


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ended(points, goals):
    """One trajectory of a single step for each point."""
    latents = torch.stack([torch.zeros_like(points), points], 1)
    n = len(points)
    return Trajectories(
        mask=torch.ones(n, 1, dtype=torch.bool),
        length=torch.ones(n, dtype=torch.int64),
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=latents[:, 1:],
        items=[{"goal": goal} for goal in goals],
        extras={"latents": latents},
    )


def paid(signal, traj, **options):
    ((channel),) = signal(traj, **options).values()
    return outcome(channel, traj)


@pytest.mark.parametrize("path", ["rectified", "ddpm"])
def test_the_velocity_is_the_expected_one(path):
    mixture = GaussianMixture(
        torch.tensor([[-1.0], [2.0]]).double(), torch.tensor([0.5, 1.0]).double(), torch.tensor([0.3, 0.7]).double()
    )
    t = torch.tensor(0.6, dtype=torch.float64)
    a, s = signal_and_noise(t, path)
    # E[eps - x0 | x] by summing over a fine grid of x0: weight p(x0) N(x; a x0, s^2), eps = (x - a x0) / s
    grid = torch.linspace(-8, 9, 20001, dtype=torch.float64)
    density = sum(w * torch.distributions.Normal(m, d).log_prob(grid).exp() for w, m, d in zip((0.3, 0.7), (-1.0, 2.0), (0.5, 1.0)))
    for x in (-2.0, 0.1, 1.7):
        weight = density * torch.exp(-((x - a * grid) ** 2) / (2 * s**2))
        wanted = (weight * ((x - a * grid) / s - grid)).sum() / weight.sum()
        found = mixture.velocity(torch.tensor([[x]], dtype=torch.float64), a[None], s[None])
        assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_the_tilted_mixture_is_the_product_with_the_reward():
    mixture = Mixture(modes=3, radius=1.5, spread=0.4).distribution
    goal = torch.tensor([0.5, -1.0], dtype=torch.float64)
    tilted = mixture.tilted(goal, 2.0)
    x = torch.randn(50, 2, generator=rng(), dtype=torch.float64)

    def log_density(of):
        parts = [w.log() + torch.distributions.Normal(m, s).log_prob(x).sum(1) for w, m, s in zip(of.weights, of.means, of.spreads)]
        return torch.stack(parts).logsumexp(0)

    rest = log_density(tilted) - log_density(mixture) + (x - goal).square().sum(1)
    torch.testing.assert_close(rest, rest[:1].expand(50))  # the same constant everywhere: minus log Z
    assert float(tilted.weights.sum()) == pytest.approx(1)


def test_samples_have_the_moments_of_their_component():
    task = Mixture(modes=4, spread=0.3)
    points, mode = task.data(8000, rng())
    away = points - task.distribution.means[mode]
    assert away.std(0).tolist() == pytest.approx([0.3, 0.3], rel=0.04)
    assert mode.bincount(minlength=4).tolist() == pytest.approx([2000] * 4, rel=0.1)


def test_starts_ask_for_the_wanted_mode_or_for_any():
    assert {start.fields["condition"] for start in Mixture(wanted=5).starts(9, rng())} == {5}
    drawn = Mixture(modes=4, wanted=None).starts(60, rng())
    assert {start.id for start in drawn} == {f"mixture-{k}" for k in range(4)}
    for start in drawn:
        angle = math.pi / 2 * start.fields["condition"]
        assert start.fields["goal"] == pytest.approx([2 * math.cos(angle), 2 * math.sin(angle)])
    assert [start.fields["condition"] for start in Mixture(modes=3, wanted=None).held_out_starts(5)] == [0, 1, 2, 0, 1]


def test_truth_is_being_at_the_mode_and_the_direction_can_be_gamed():
    task = Mixture(modes=8)
    points = torch.tensor([[2.0, 0.0], [2.0, 0.59], [2.0, 0.61], [-2.0, 0.0], [50.0, 0.0]])
    traj = ended(points, [[2.0, 0.0]] * 5)
    truth, known = outcome(task.truth(traj), traj)
    assert truth.tolist() == [1, 1, 0, 0, 0]
    assert known.all()
    assert paid(mixture_direction, traj)[0].argmax() == 4  # the exploit: far beyond the data
    assert paid(mixture_distance, traj)[0].argmax() == 0
    torch.testing.assert_close(paid(mixture_distance, traj)[0][3], torch.tensor(-4.0))
    torch.testing.assert_close(paid(mixture_quadratic, traj, strength=0.5)[0][3], torch.tensor(-4.0))
    torch.testing.assert_close(paid(mixture_quadratic, traj, goal=(-2.0, 1.0))[0][3], torch.tensor(-0.5))


def test_what_is_not_finite_has_no_verdict_and_a_goal_at_the_origin_no_direction():
    traj = ended(torch.tensor([[torch.nan, 0.0], [1.0, 1.0]]), [[1.0, 0.0], [0.0, 0.0]])
    for signal in (mixture_distance, mixture_quadratic):
        assert paid(signal, traj)[1].tolist() == [False, True]
    assert paid(mixture_direction, traj)[1].tolist() == [False, False]
    assert Mixture().truth(traj).valid[:, 0].tolist() == [False, True]


def test_the_end_is_where_the_trajectory_ends_and_padding_is_not_read():
    latents = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [torch.nan, torch.nan]]])
    traj = ended(torch.zeros(1, 2), [[1.0, 0.0]])
    step = torch.tensor([[0, -1]], dtype=torch.int32)
    traj = Trajectories(
        torch.tensor([[True, False]]), traj.length, traj.group, step, traj.stop, latents[:, 1:], extras={"latents": latents}
    )
    assert final_sample(traj)[0].tolist() == [[1.0, 2.0]]
    with pytest.raises(ValueError, match="latents"):
        final_sample(
            ended(torch.zeros(1, 2), [[1.0, 0.0]]).__class__(traj.mask, traj.length, traj.group, step, traj.stop, latents[:, 1:])
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 0}, "modes must be"),
        ({"spread": 0.0}, "spread must be > 0"),
        ({"reach": -1.0}, "reach must be > 0"),
        ({"radius": math.inf}, "radius must be finite"),
        ({"wanted": 8}, "0 to 7"),
    ],
)
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**options)
    with pytest.raises(ValueError, match="at least 0"):
        Mixture().distribution.tilted(torch.zeros(2, dtype=torch.float64), -1.0)
