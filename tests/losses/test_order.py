"""Losses that read the order of rewards alone."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.order import order_preserving, order_preserving_list
from payoff.pipeline import Evaluation
from payoff.policies.gflownet import Gflownet
from payoff.signals.construction import log_reward
from payoff.tasks.hypergrid import Hypergrid
from payoff.trajectories import place_outcome

ALL = torch.ones(4, dtype=torch.bool)
ONE_GROUP = four_answers().replace(group=torch.zeros(4, dtype=torch.int64))


def scores(*values):
    """An evaluation whose scores (sums of log pi) are these."""
    logp = torch.zeros(4, 3, dtype=torch.float64)
    logp[:, 0] = torch.tensor(values, dtype=torch.float64)
    return Evaluation(logp.requires_grad_(), {})


def outcomes(*values):
    return place_outcome(torch.tensor(values, dtype=torch.float64), ALL, ONE_GROUP)


@pytest.mark.parametrize("f", [torch.exp, lambda u: u**5, lambda u: torch.atan(100 * u), lambda u: 3 * u - 7])
def test_any_increasing_map_of_the_reward_changes_nothing_at_all(f):
    evaluation, u = scores(-1.0, 0.3, -0.2, 2.0), torch.tensor([0.1, 0.5, 0.5, -0.3], dtype=torch.float64)
    one = order_preserving(evaluation, ONE_GROUP, place_outcome(u, ALL, ONE_GROUP)).terms
    other = order_preserving(evaluation, ONE_GROUP, place_outcome(f(u), ALL, ONE_GROUP)).terms
    assert torch.equal(one, other)


def test_training_on_a_map_of_the_reward_ends_bit_for_bit_the_same():
    task, tables = Hypergrid(2, 4), []
    for power in (1.0, 5.0):
        policy = Gflownet(task, network="table", dtype="float64")
        optimiser, rng = torch.optim.Adam(policy.parameters(), lr=0.05), torch.Generator().manual_seed(0)
        for _ in range(20):
            traj = policy.rollout(task.starts(1, rng), 16, rng)
            channel = log_reward(traj)["log_reward"]
            loss = order_preserving(policy.evaluate(traj), traj, channel._replace(value=power * channel.value)).terms.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        tables.append(policy.net.rows.detach())
    assert torch.equal(*tables)
    assert tables[0].abs().max() > 0.1


def test_equal_scores_cost_log_two_whatever_the_order():
    terms = order_preserving(scores(1.0, 1.0, 1.0, 1.0), ONE_GROUP, outcomes(1.0, 2.0, 2.0, 3.0)).terms
    assert terms.flatten().tolist() == pytest.approx([math.log(2)] * 4)


def test_equal_rewards_pull_scores_together_and_log_z_is_a_free_gauge():
    evaluation = scores(0.0, 1.0, 2.0, 3.0)
    equal = order_preserving(evaluation, ONE_GROUP, outcomes(0.5, 0.5, 0.5, 0.5))
    (gradient,) = torch.autograd.grad(equal.terms.sum(), evaluation.logp)
    pull = gradient[:, 0]
    assert pull[0] < 0 < pull[3]
    assert float(pull.sum()) == pytest.approx(0.0, abs=1e-12)
    shifted = order_preserving(scores(10.0, 11.0, 12.0, 13.0), ONE_GROUP, outcomes(0.5, 0.5, 0.5, 0.5))
    assert torch.allclose(equal.terms, shifted.terms)


def test_two_members_are_the_logistic_loss_of_their_difference():
    evaluation = scores(0.4, -0.9, 0.0, 0.0)
    traj = four_answers()  # groups {0, 1} and {2, 3}
    terms = order_preserving(evaluation, traj, outcomes(2.0, 1.0, 1.0, 5.0)).terms.flatten()
    # -log sigmoid(1.3) for both members of the first pair; log 2 in the second
    assert terms.tolist() == pytest.approx([0.2410] * 2 + [math.log(2)] * 2, abs=1e-4)
    assert order_preserving(evaluation, traj, outcomes(2.0, 1.0, 1.0, 5.0)).metrics["agreement"] == 0.75  # a tie is half right


def test_in_a_chain_of_five_with_a_bounded_range_equal_gaps_cost_least():
    cost = lambda gaps: sum(math.log1p(math.exp(-gap)) for gap in gaps)  # adjacent pairs, rewards increasing
    assert cost([1.0] * 4) < min(cost([0.5, 1.5, 1.0, 1.0]), cost([2.0, 0.5, 1.0, 0.5]))
    # and the loss is that cost: pairs of neighbours, one group each
    traj = four_answers()
    for gap in (0.5, 1.5):
        terms = order_preserving(scores(0.0, gap, 0.0, gap), traj, outcomes(0.0, 1.0, 0.0, 1.0)).terms
        assert float(terms[:2].mean()) == pytest.approx(cost([gap]))


def test_the_list_with_one_best_is_its_log_share():
    evaluation = scores(0.5, 0.0, -0.5, 1.0)
    out = order_preserving_list(evaluation, ONE_GROUP, outcomes(0.0, 0.0, 1.0, 0.0)).terms
    wanted = -torch.tensor([0.5, 0.0, -0.5, 1.0]).log_softmax(0)[2]
    assert float(out.mean()) == pytest.approx(float(wanted))
    assert (out[[0, 1, 3]] == 0).all()


def test_unknown_and_lonely_members_compare_with_nobody():
    traj = four_answers().replace(group=torch.tensor([0, 0, 0, 9]))
    known = torch.tensor([True, True, False, True])
    target = place_outcome(torch.tensor([1.0, 0.0, torch.nan, 1.0], dtype=torch.float64), known, traj)
    for loss in (order_preserving, order_preserving_list):
        evaluation = scores(0.3, 0.1, 5.0, 2.0)
        terms = loss(evaluation, traj, target).terms
        (gradient,) = torch.autograd.grad(terms.sum(), evaluation.logp)
        assert terms.isfinite().all()
        assert gradient[2].abs().max() == 0
        assert float(gradient[3].abs().max()) == pytest.approx(0.0, abs=1e-12)
        assert (gradient[0, 0] < 0) & (gradient[1, 0] > 0)


def test_a_negative_label_and_a_set_below_the_trajectory_are_refused():
    with pytest.raises(ValueError, match=r"labels must be at least 0, got -1\.0"):
        order_preserving_list(scores(0.0, 0.0, 0.0, 0.0), ONE_GROUP, outcomes(0.0, -1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="over must be a set of whole trajectories"):
        order_preserving(scores(0.0, 0.0, 0.0, 0.0), ONE_GROUP, outcomes(0.0, 1.0, 0.0, 1.0), over="step")
