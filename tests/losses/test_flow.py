"""GRPO-Guard: what its ratio is, that it is centred, and that its gradient is alike at every step."""

import pytest
import torch

from payoff.losses.flow import grpo_guard
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Evaluation, Start
from payoff.policies.denoising import gaussian_logp, schedule
from payoff.policies.flow import Flow
from payoff.policies.flow_networks import VelocityMLP
from payoff.trajectories import Channel


def rollout(steps=5, n=8, d=3, **options):
    torch.manual_seed(0)
    policy = Flow(VelocityMLP(d, width=8), (d,), schedule(steps, **options)).double()
    return policy, policy.rollout([Start("a", {})], n, torch.Generator().manual_seed(1))


def moved(traj, by):
    """The evaluation of a policy whose means lie `by` from where they were."""
    mean = (traj.extras["old_mean"] + by).requires_grad_()
    logp = gaussian_logp(traj.actions, mean, traj.extras["std"], "mean")
    return Evaluation(logp, {"mean": mean})


def advantage(traj, value=1.0):
    return Channel(torch.full((len(traj), 1), value, dtype=torch.float64), torch.ones(len(traj), 1, dtype=torch.bool))


def test_the_ratio_is_the_plain_one_with_its_bias_removed_and_its_noise_scaled_back():
    _, traj = rollout()
    by = 0.05 * torch.randn(traj.actions.shape, dtype=torch.float64)
    evaluation, std = moved(traj, by), traj.extras["std"]
    terms = grpo_guard(evaluation, traj, advantage(traj), low=1.0, high=1e9, reweight="none").terms
    plain = evaluation.logp - traj.logp["old"]
    wanted = std * (plain + by.square().mean(2) / (2 * std**2))
    torch.testing.assert_close((-terms).log(), wanted)


def test_its_log_is_zero_on_average_with_a_variance_that_does_not_know_the_noise():
    _, traj = rollout(n=20_000, d=2)
    by = torch.tensor([0.03, -0.01], dtype=torch.float64)
    terms = grpo_guard(moved(traj, by), traj, advantage(traj), low=1.0, high=1e9, reweight="none").terms
    log = (-terms).log()
    # mean_d(dm xi) has variance sum_d dm_d^2 / D^2 = 0.001 / 4, the same at every step
    assert (log.mean(0).abs() < 4 * (0.00025 / 20_000) ** 0.5).all()
    torch.testing.assert_close(log.var(0), torch.full((5,), 0.00025, dtype=torch.float64), rtol=0.06, atol=0)
    plain = moved(traj, by).logp - traj.logp["old"]
    bias = -by.square().mean() / (2 * traj.extras["std"][0] ** 2)
    torch.testing.assert_close(
        plain.mean(0), bias, rtol=0.5, atol=2e-4
    )  # and the plain one lies below 0, most where noise is small


def test_where_the_policy_has_not_moved_the_ratio_is_one():
    policy, traj = rollout()
    evaluation = policy.evaluate(traj, frozenset({"mean"}))
    output = grpo_guard(evaluation, traj, advantage(traj, -2.0), reweight="none")
    torch.testing.assert_close(output.terms, torch.full_like(output.terms, 2.0))
    assert output.metrics["ratio"] == pytest.approx(1)
    assert output.metrics["plain_ratio"] == pytest.approx(1)
    assert output.metrics["clip_fraction"] == 0


def test_unit_noise_makes_it_the_plain_surrogate_up_to_the_bias():
    _, traj = rollout()
    span = torch.ones_like(traj.extras["std"])
    traj = traj.replace(extras={"std": span}, logp={"old": gaussian_logp(traj.actions, traj.extras["old_mean"], span, "mean")})
    evaluation = moved(traj, 1e-4 * torch.randn(traj.actions.shape, dtype=torch.float64))
    ours = grpo_guard(evaluation, traj, advantage(traj), low=0.2, high=0.2, reweight="none").terms
    torch.testing.assert_close(ours, ppo_clip(evaluation, traj, advantage(traj)).terms, atol=1e-7, rtol=0)


@pytest.mark.parametrize("options", [{}, {"noise": "constant", "shift": 3.0}, {"path": "ddpm"}])
def test_the_gradient_with_respect_to_the_velocity_is_alike_at_every_step(options):
    _, traj = rollout(**options)
    velocity = torch.zeros(traj.actions.shape, dtype=torch.float64, requires_grad=True)
    mean = traj.extras["old_mean"] - traj.extras["gain"][..., None] * velocity
    output = grpo_guard(Evaluation(traj.logp["old"], {"mean": mean}), traj, advantage(traj))
    output.terms.sum().backward()
    std = traj.extras["std"][..., None]
    xi = torch.where(std > 0, (traj.actions - traj.extras["old_mean"]) / std, 0)
    torch.testing.assert_close(velocity.grad, xi / 3)  # A = 1, divided by the three dimensions, whatever the step


def test_with_the_noise_of_flow_grpo_dividing_by_the_time_differs_by_a_constant_after_the_first_step():
    _, traj = rollout(shift=2.0)
    evaluation = moved(traj, torch.zeros(1, dtype=torch.float64))
    by = {how: grpo_guard(evaluation, traj, advantage(traj), reweight=how).terms[0] for how in ("gain", "span")}
    torch.testing.assert_close(by["span"] / by["gain"], torch.tensor([1.0] + [1.245] * 4, dtype=torch.float64))


def test_summed_over_dimensions_the_log_is_as_many_times_larger():
    _, traj = rollout()
    evaluation = moved(traj, 0.01 * torch.randn(traj.actions.shape, dtype=torch.float64))
    mean, total = (
        grpo_guard(evaluation, traj, advantage(traj), low=1.0, high=1e9, reweight="none", reduce=how).terms
        for how in ("mean", "sum")
    )
    torch.testing.assert_close(3 * (-mean).log(), (-total).log())


def test_clipping_bites_good_and_bad_actions_at_the_bounds_given():
    _, traj = rollout(n=2)
    xi = (traj.actions - traj.extras["old_mean"]) / traj.extras["std"][..., None]
    up = 0.1 * xi / xi.square().mean(2, keepdim=True)  # log rho = 0.1 everywhere
    good = grpo_guard(moved(traj, up), traj, advantage(traj), low=0.02, high=0.03, reweight="none")
    torch.testing.assert_close(good.terms, torch.full_like(good.terms, -1.03))
    bad = grpo_guard(moved(traj, -up), traj, advantage(traj, -1.0), low=0.02, high=0.03, reweight="none")
    torch.testing.assert_close(bad.terms, torch.full_like(bad.terms, 0.98))
    assert good.metrics["clip_fraction"] == bad.metrics["clip_fraction"] == 1


def test_what_is_unknown_or_was_not_drawn_has_no_term_and_no_gradient():
    _, traj = rollout(path="ddpm")  # its last step has no noise
    target = advantage(traj)
    target.valid[0] = False
    evaluation = moved(traj, torch.full((1,), 0.01, dtype=torch.float64))
    nan = torch.where(traj.mask[..., None], traj.extras["old_mean"], torch.nan)
    output = grpo_guard(evaluation, traj.replace(extras={"old_mean": nan}), target)
    output.terms.sum().backward()
    assert not output.terms[0].any()
    assert not output.terms[:, -1].any()
    gradient = evaluation.more["mean"].grad
    assert gradient.isfinite().all()
    assert not gradient[0].any()
    assert not gradient[:, -1].any()


def test_what_is_missing_is_named():
    _, traj = rollout()
    with pytest.raises(ValueError, match=r'evaluation.more\["mean"\]'):
        grpo_guard(Evaluation(traj.logp["old"], {}), traj, advantage(traj))
    with pytest.raises(ValueError, match="low must lie"):
        grpo_guard(moved(traj, torch.zeros(1)), traj, advantage(traj), low=1.5)
    bare = traj.select(torch.arange(8))
    bare.extras.pop("old_mean")
    with pytest.raises(ValueError, match="old_mean"):
        grpo_guard(moved(traj, torch.zeros(1)), bare, advantage(traj))
