import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.value import clipped_value_loss, value_loss
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

BOTH = (value_loss, clipped_value_loss)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def column(*values: float) -> Channel:
    return Channel(torch.tensor(values)[:, None], torch.ones(len(values), 1, dtype=torch.bool))


def with_old(value: float | torch.Tensor = 0.0) -> Trajectories:
    return four_answers().replace(extras={"values": torch.as_tensor(value).expand(4, 4).clone()})


def run(loss, traj: Trajectories, target: Channel, values: torch.Tensor, **options):
    values = values.clone().requires_grad_()
    output = loss(Evaluation(traj.logp["old"], {"values": values}), traj, target, **options)
    (grad,) = torch.autograd.grad(output.terms.sum(), values)
    return output, grad


@pytest.mark.parametrize(
    ("value", "wanted", "term", "slope"),
    [
        # old value 0, clip .2; free: (V - R)^2 / 2 with slope V - R
        (0.1, 1.0, 0.405, -0.9),
        (0.5, 1.0, 0.32, 0.0),  # has gone far enough towards 1: priced as if at .2
        (-0.5, 1.0, 1.125, -1.5),  # has gone away from 1
        (0.5, 0.0, 0.125, 0.5),
        (0.5, 0.3, 0.02, 0.2),  # past the target: not clipped, the larger error counts
    ],
)
def test_the_clip_stops_the_value_only_on_its_way_to_the_return(value, wanted, term, slope):
    traj = with_old(0.0)
    output, grad = run(clipped_value_loss, traj, column(*[wanted] * 4), torch.full((4, 4), value))
    torch.testing.assert_close(output.terms, torch.where(traj.mask, term, 0.0))
    torch.testing.assert_close(grad[:, :-1], torch.where(traj.mask, slope, 0.0))


def test_a_wide_clip_is_no_clip():
    traj, target = with_old(torch.randn(4, 4)), Channel(torch.randn(4, 3), torch.ones(4, 1, dtype=torch.bool))
    values = torch.randn(4, 4)
    clipped, plain = (run(loss, traj, target, values, **o) for loss, o in ((clipped_value_loss, {"clip": 1e9}), (value_loss, {})))
    torch.testing.assert_close(clipped[0].terms, plain[0].terms)
    torch.testing.assert_close(clipped[1], plain[1])


@pytest.mark.parametrize("loss", BOTH)
def test_the_gradient_points_each_value_at_its_return_and_leaves_the_final_state_alone(loss):
    traj = with_old(0.5)
    _, grad = run(loss, traj, column(1.0, 0.0, 1.0, 0.0), torch.full((4, 4), 0.5))
    assert grad.tolist() == [[-0.5, -0.5, -0.5, 0], [0.5, 0.5, 0, 0], [-0.5, -0.5, -0.5, 0], [0.5, 0, 0, 0]]


@pytest.mark.parametrize("loss", BOTH)
def test_padding_and_unknown_returns_take_no_part(loss):
    traj = with_old(torch.where(torch.arange(4) <= four_answers().length[:, None], 0.5, torch.nan))
    valid = torch.tensor([[True], [False], [True], [True]])
    target = Channel(torch.where(traj.exists & valid, torch.ones(4, 3), torch.nan), valid)
    values = torch.where(torch.arange(4) <= traj.length[:, None], 0.25, torch.nan)
    output, grad = run(loss, traj, target, values)
    assert (output.terms != 0).tolist() == (traj.mask & valid).tolist()
    assert (grad[:, :-1] != 0).tolist() == (traj.mask & valid).tolist()
    assert all(math.isfinite(number) for number in output.metrics.values())


def test_metrics_by_hand():
    traj = with_old(0.0)
    # returns 1 (three actions), 0 (two), 1 (three), 0 (one): mean 6/9, variance 6/9 * 3/9 = 2/9
    target = column(1.0, 0.0, 1.0, 0.0)
    perfect = torch.tensor([[1.0], [0.0], [1.0], [0.0]]).expand(4, 4)
    assert run(value_loss, traj, target, perfect)[0].metrics == {"error": 0.0, "explained_variance": 1.0}
    constant = run(value_loss, traj, target, torch.full((4, 4), 0.5))[0].metrics
    assert constant["explained_variance"] == pytest.approx(0.0, abs=1e-12)
    assert constant["error"] == pytest.approx(0.25)
    halfway = run(value_loss, traj, target, perfect / 2)[0].metrics  # residual variance a quarter
    assert halfway["explained_variance"] == pytest.approx(0.75)
    # of rows 0 and 2 (six of nine actions) the values went from 0 to .5, further than .2 and towards 1
    assert run(clipped_value_loss, traj, target, perfect / 2)[0].metrics["clip_fraction"] == pytest.approx(6 / 9)


def test_explained_variance_of_equal_returns_is_zero_and_so_is_that_of_none():
    traj = with_old(0.0)
    equal = run(value_loss, traj, column(1.0, 1.0, 1.0, 1.0), torch.zeros(4, 4))[0].metrics
    assert equal == {"error": 1.0, "explained_variance": 0.0}
    none = Channel(torch.ones(4, 1), torch.zeros(4, 1, dtype=torch.bool))
    assert run(clipped_value_loss, traj, none, torch.zeros(4, 4))[0].metrics == {
        "error": 0.0,
        "explained_variance": 0.0,
        "clip_fraction": 0.0,
    }


def test_mistakes_are_named():
    traj, target = four_answers(), column(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r'value_loss: needs evaluation.more\["values"\].*got None'):
        value_loss(Evaluation(traj.logp["old"], {}), traj, target)
    with pytest.raises(ValueError, match=r"\[4, 4\], got \[4, 3\]"):
        value_loss(Evaluation(traj.logp["old"], {"values": torch.zeros(4, 3)}), traj, target)
    with pytest.raises(ValueError, match=r'needs traj.extras\["values"\]'):
        clipped_value_loss(Evaluation(traj.logp["old"], {"values": torch.zeros(4, 4)}), traj, target)
    with pytest.raises(ValueError, match="clip must be at least 0"):
        clipped_value_loss(Evaluation(traj.logp["old"], {"values": torch.zeros(4, 4)}), with_old(), target, clip=-1.0)
