import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_mean, sequence_sum
from payoff.losses.policy_gradient import ppo_clip
from payoff.losses.sequence_ratio import gmpo, gspo, gspo_token, off_policy_mask
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories


def column(*values: float) -> Channel:
    return Channel(torch.tensor(values)[:, None], torch.ones(len(values), 1, dtype=torch.bool))


def at(traj: Trajectories, *ratios: float) -> Evaluation:
    """The first, second and third actions this many times as likely as they were."""
    return Evaluation((traj.logp["old"] + torch.tensor(ratios).log()).requires_grad_(), {})


def slope(loss, evaluation, traj, target, aggregation=None, **options) -> torch.Tensor:
    terms = loss(evaluation, traj, target, **options).terms
    weight = torch.ones_like(terms) if aggregation is None else aggregation(target, traj)
    return torch.autograd.grad((terms * weight).sum(), evaluation.logp)[0]


@pytest.mark.parametrize("loss", [gspo, gspo_token])
def test_a_sequence_is_clipped_whole_by_its_geometric_mean(loss):
    traj = four_answers()
    # ratios 8, 1, 1: geometric mean 2 over three actions, sqrt(8) over two, 8 over one; bounds 0.5 and 2.5
    terms = loss(at(traj, 8.0, 1.0, 1.0), traj, column(1.0, 1.0, -1.0, 1.0), low=0.5, high=1.5).terms
    wanted = [[-2.0, -2.0, -2.0], [-2.5, -2.5, 0.0], [2.0, 2.0, 2.0], [-2.5, 0.0, 0.0]]
    torch.testing.assert_close(terms, torch.tensor(wanted))
    grad = slope(loss, at(traj, 8.0, 1.0, 1.0), traj, column(1.0, 1.0, -1.0, 1.0), sequence_mean, low=0.5, high=1.5)
    # s A / (3 actions, 4 sequences) at every action of rows 0 and 2; nothing where a bound acts, at any ratio of its own
    wanted = [[-2 / 12] * 3, [0.0] * 3, [2 / 12] * 3, [0.0] * 3]
    torch.testing.assert_close(grad, torch.tensor(wanted))


def test_gspo_token_gives_each_action_its_own_advantage_and_gspo_their_mean():
    traj = four_answers()
    target = Channel(torch.tensor([[3.0, 0.0, -1.5]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    wide = {"low": 1.0, "high": 9.0}
    own = slope(gspo_token, at(traj, 8.0, 1.0, 1.0), traj, target, **wide)
    shared = slope(gspo, at(traj, 8.0, 1.0, 1.0), traj, target, **wide)
    torch.testing.assert_close(own[0], torch.tensor([-6.0, 0.0, 3.0]))  # -s A_t, s = 2
    torch.testing.assert_close(shared[0], torch.full((3,), -1.0))  # -s sum A / 3


def test_summed_over_the_sequence_gspo_is_luspo_longer_sequences_weighing_more():
    traj = four_answers()
    target, here = column(1.0, 1.0, 1.0, 1.0), at(traj, 1.0, 1.0, 1.0)
    by_mean, by_sum = (slope(gspo, here, traj, target, aggregation) for aggregation in (sequence_mean, sequence_sum))
    torch.testing.assert_close(by_mean.sum(1), torch.full((4,), -0.25))
    torch.testing.assert_close(by_sum.sum(1), -torch.tensor([3.0, 2.0, 3.0, 1.0]) / 4)


def test_gmpo_silences_the_action_beyond_its_bound_and_keeps_the_others():
    traj = four_answers()
    target = column(1.0, -1.0, 1.0, -1.0)
    here = at(traj, 4.0, 1.0, 1.0)  # log 4 = 1.386, above 0.4 where A > 0
    held = math.exp(0.4 / 3)
    terms = gmpo(here, traj, target).terms
    torch.testing.assert_close(terms[0], torch.full((3,), -held))
    torch.testing.assert_close(terms[1], torch.tensor([2.0, 2.0, 0.0]))  # sqrt(4): a bad action that grew is not held
    grad = slope(gmpo, here, traj, target)
    torch.testing.assert_close(grad[0], torch.tensor([0.0, -held, -held]))
    torch.testing.assert_close(grad[1], torch.tensor([2.0, 2.0, 0.0]))
    assert gmpo(here, traj, target).metrics["clip_fraction"] == pytest.approx(2 / 9)


def test_gmpo_holds_bad_actions_that_shrank_and_leaves_out_those_without_advantage():
    traj = four_answers()
    target = Channel(torch.tensor([[-1.0, 0.0, -1.0]]).repeat(4, 1), torch.ones(4, 1, dtype=torch.bool))
    terms = gmpo(at(traj, 0.1, 7.0, 1.0), traj, target).terms
    torch.testing.assert_close(terms[0], torch.tensor([math.exp(-0.4 / 3), 0.0, math.exp(-0.4 / 3)]))


def test_one_outlier_moves_the_geometric_mean_less_than_a_product():
    traj, target = four_answers(), column(-1.0, -1.0, -1.0, -1.0)
    here = at(traj, 1000.0, 1.0, 1.0)
    assert gmpo(here, traj, target).terms[0, 0].item() == pytest.approx(10.0, rel=1e-5)
    assert ppo_clip(here, traj, target, level="sequence").terms[0, 0].item() == pytest.approx(1000.0, rel=1e-5)


def test_the_mask_drops_bad_sequences_left_behind_and_keeps_good_ones():
    traj = four_answers()
    here = at(traj, 0.2, 0.9, 0.9)  # means of log old - log pi: 0.607 over three, 0.857 over two, 1.609 over one
    target = column(1.0, -1.0, -1.0, -1.0)
    output = off_policy_mask(here, traj, target, threshold=0.7)
    assert output.terms.any(1).tolist() == [True, False, True, False]
    assert output.metrics["masked_fraction"] == pytest.approx(3 / 9)
    plain = ppo_clip(here, traj, target).terms
    assert torch.equal(output.terms[[0, 2]], plain[[0, 2]])
    assert torch.equal(off_policy_mask(here, traj, target, threshold=9.0).terms, plain)


def test_mistakes_are_named():
    traj, target = four_answers(), column(1.0, 1.0, 1.0, 1.0)
    here = at(traj, 1.0, 1.0, 1.0)
    for loss in (gspo, gspo_token, off_policy_mask):
        with pytest.raises(ValueError, match=rf"{loss.__name__}: low must lie in \[0, 1\]"):
            loss(here, traj, target, low=1.5)
    with pytest.raises(ValueError, match="gmpo: low and high must be at least 0"):
        gmpo(here, traj, target, high=-0.1)
    with pytest.raises(ValueError, match="threshold must be > 0"):
        off_policy_mask(here, traj, target, threshold=0.0)
