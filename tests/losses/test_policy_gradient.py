import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.policy_gradient import dual_clip, policy_gradient, ppo_clip
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

ALL = (policy_gradient, ppo_clip, dual_clip)
CLIPPED = (ppo_clip, dual_clip)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def column(*values: float) -> Channel:
    return Channel(torch.tensor(values)[:, None], torch.ones(len(values), 1, dtype=torch.bool))


def evaluate(traj: Trajectories, ratio: torch.Tensor | float = 1.0) -> Evaluation:
    """Log-probabilities that make every own action `ratio` times as likely as it was, with gradient."""
    logp = traj.logp["old"] + torch.as_tensor(ratio).log()
    return Evaluation(torch.where(traj.mask, logp, 0).requires_grad_(), {})


def gradient(loss, traj: Trajectories, target: Channel, ratio: torch.Tensor | float = 1.0, **options) -> torch.Tensor:
    evaluation = evaluate(traj, ratio)
    (result,) = torch.autograd.grad(loss(evaluation, traj, target, **options).terms.sum(), evaluation.logp)
    return result


@pytest.mark.parametrize("level", ["action", "step"])
@pytest.mark.parametrize("loss", CLIPPED)
def test_at_ratio_one_the_gradient_is_that_of_the_policy_gradient(loss, level):
    traj = four_answers()  # every action is a step of its own
    target = Channel(torch.randn(4, 3), torch.ones(4, 1, dtype=torch.bool))
    torch.testing.assert_close(gradient(loss, traj, target, level=level), gradient(policy_gradient, traj, target))


def test_the_policy_gradient_weighs_each_log_probability_with_its_advantage():
    traj = four_answers()
    grad = gradient(policy_gradient, traj, column(1.0, -2.0, 0.5, 0.0))
    assert grad.tolist() == [[-1, -1, -1], [2, 2, 0], [-0.5, -0.5, -0.5], [0, 0, 0]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "term", "slope"),
    [
        # by hand, low .1, high .3: the term is -min(rho A, clip(rho) A), its slope in log pi is -rho A where it is not clipped
        (1.2, 1.0, -1.2, -1.2),
        (1.4, 1.0, -1.3, 0.0),
        (0.8, 1.0, -0.8, -0.8),
        (0.95, -1.0, 0.95, 0.95),
        (0.8, -1.0, 0.9, 0.0),
        (1.4, -1.0, 1.4, 1.4),
        (5.0, -2.0, 10.0, 10.0),
        (1.4, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_clips_only_on_the_side_that_the_advantage_asks_for(ratio, advantage, term, slope):
    traj = four_answers()
    target = column(*[advantage] * 4)
    terms = ppo_clip(evaluate(traj, ratio), traj, target, low=0.1, high=0.3).terms
    grad = gradient(ppo_clip, traj, target, ratio, low=0.1, high=0.3)
    torch.testing.assert_close(terms, torch.where(traj.mask, term, 0.0))
    torch.testing.assert_close(grad, torch.where(traj.mask, slope, 0.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "term", "slope"),
    [
        (2.9, -1.0, 2.9, 2.9),
        (3.1, -1.0, 3.0, 0.0),  # beyond the bound 3
        (3.1, 1.0, -1.2, 0.0),  # a good action is clipped as before
        (0.5, -1.0, 0.8, 0.0),
    ],
)
def test_the_dual_clip_bounds_bad_actions_that_became_likely(ratio, advantage, term, slope):
    traj = four_answers()
    target = column(*[advantage] * 4)
    torch.testing.assert_close(dual_clip(evaluate(traj, ratio), traj, target).terms, torch.where(traj.mask, term, 0.0))
    torch.testing.assert_close(gradient(dual_clip, traj, target, ratio), torch.where(traj.mask, slope, 0.0))


def test_the_dual_clip_with_a_far_bound_is_ppo():
    traj = four_answers()
    target = Channel(torch.randn(4, 3), torch.ones(4, 1, dtype=torch.bool))
    evaluation = evaluate(traj, torch.rand(4, 3) * 3)
    far = dual_clip(evaluation, traj, target, bound=1e6)
    near = ppo_clip(evaluation, traj, target)
    torch.testing.assert_close(far.terms, near.terms)
    assert far.metrics == {**near.metrics, "dual_clip_fraction": 0.0}


def test_levels_take_the_product_of_ratios_over_steps_and_sequences():
    base = four_answers()
    traj = base.replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]], dtype=torch.int32))
    ratio = torch.tensor([[1.1, 1.2, 0.9], [1.1, 1.1, 1.0], [0.9, 1.0, 1.2], [1.05, 1.0, 1.0]])
    target = column(1.0, 1.0, 1.0, 1.0)
    wide = {"low": 1.0, "high": 9.0}
    by_step = ppo_clip(evaluate(traj, ratio), traj, target, level="step", **wide).terms
    by_sequence = ppo_clip(evaluate(traj, ratio), traj, target, level="sequence", **wide).terms
    torch.testing.assert_close(by_step[0], -torch.tensor([1.32, 1.32, 0.9]))
    torch.testing.assert_close(by_step[2], -torch.tensor([0.9, 1.2, 1.2]))
    torch.testing.assert_close(by_sequence[0], -torch.tensor([1.188, 1.188, 1.188]))
    torch.testing.assert_close(by_sequence[1], -torch.tensor([1.21, 1.21, 0.0]))


@pytest.mark.parametrize("loss", ALL)
def test_terms_and_gradients_are_zero_off_the_own_actions_and_where_the_advantage_is_unknown(loss):
    base = four_answers()
    traj = base.replace(
        mask=base.mask & torch.tensor([[True, False, True]]),  # tool text in the middle
        parent=torch.tensor([-1, -1, -1, 0]),
        fork=torch.tensor([0, 0, 2, 0]),  # the third left its parent at its last action
    )
    valid = torch.tensor([[True], [False], [True], [True]])
    value = torch.where(valid, torch.ones(4, 3), torch.nan)
    counts = [[True, False, True], [False] * 3, [False, False, True], [True, False, False]]
    output = loss(evaluate(traj), traj, Channel(value, valid))
    assert (output.terms != 0).tolist() == counts
    assert (gradient(loss, traj, Channel(value, valid)) != 0).tolist() == counts


@pytest.mark.parametrize("loss", ALL)
def test_nan_in_the_padding_enters_neither_terms_nor_gradient_nor_metrics(loss):
    clean = four_answers()
    dirty = clean.replace(logp={"old": torch.where(clean.exists, clean.logp["old"], torch.nan)})
    target = Channel(torch.where(clean.exists, torch.ones(4, 3), torch.nan), torch.ones(4, 1, dtype=torch.bool))
    logp = torch.where(clean.exists, torch.full((4, 3), -0.9), torch.nan).requires_grad_()
    output = loss(Evaluation(logp, {}), dirty, target)
    (grad,) = torch.autograd.grad(output.terms.sum(), logp)
    assert output.terms.isfinite().all()
    assert grad.isfinite().all()
    assert all(math.isfinite(number) for number in output.metrics.values())


@pytest.mark.parametrize("loss", CLIPPED)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_beyond_all_bounds_stays_finite(loss, advantage):
    traj = four_answers()
    for nats in (-300.0, 300.0):
        logp = (traj.logp["old"] + nats).requires_grad_()
        terms = loss(Evaluation(logp, {}), traj, column(*[advantage] * 4)).terms
        (grad,) = torch.autograd.grad(terms.sum(), logp)
        assert terms.isfinite().all()
        assert grad.isfinite().all()


def test_metrics_by_hand():
    traj = four_answers()
    # rows 0 and 1 (five actions) at ratio 1.5, rows 2 and 3 (four actions) at ratio 1
    ratio = torch.tensor([[1.5], [1.5], [1.0], [1.0]]).expand(4, 3)
    metrics = ppo_clip(evaluate(traj, ratio), traj, column(1.0, -1.0, 1.0, 1.0)).metrics
    assert metrics["clip_fraction"] == pytest.approx(3 / 9)  # only row 0 is clipped: row 1 is to become less likely
    assert metrics["ratio"] == pytest.approx((5 * 1.5 + 4) / 9)
    assert metrics["approx_kl"] == pytest.approx(5 * (0.5 - math.log(1.5)) / 9, rel=1e-5)
    assert policy_gradient(evaluate(traj), traj, column(*[1.0] * 4)).metrics["logp"] == pytest.approx(-1.0)
    bounded = dual_clip(evaluate(traj, 4.0), traj, column(-1.0, -1.0, 1.0, 1.0)).metrics
    assert bounded["dual_clip_fraction"] == pytest.approx(5 / 9)


@pytest.mark.parametrize("loss", ALL)
def test_a_batch_in_which_nothing_counts_gives_zeros(loss):
    traj = four_answers()
    output = loss(evaluate(traj), traj, Channel(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.bool)))
    assert not output.terms.any()
    assert set(output.metrics.values()) == {0.0}


def test_mistakes_are_named():
    traj = four_answers()
    target = column(1.0, 1.0, 1.0, 1.0)
    without = Trajectories(traj.mask, traj.length, traj.group, traj.step, traj.stop, traj.actions)
    with pytest.raises(ValueError, match=r'ppo_clip: needs traj.logp\["old"\]'):
        ppo_clip(evaluate(traj), without, target)
    with pytest.raises(ValueError, match="low must lie in"):
        ppo_clip(evaluate(traj), traj, target, low=1.5)
    with pytest.raises(ValueError, match="high be at least 0"):
        dual_clip(evaluate(traj), traj, target, high=-0.1)
    with pytest.raises(ValueError, match="bound must be > 1"):
        dual_clip(evaluate(traj), traj, target, bound=1.0)
