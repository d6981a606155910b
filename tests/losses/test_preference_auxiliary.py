"""Terms beside a loss on pairs: their gradients in closed form, and what they leave alone."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.preference_auxiliary import PreferenceDegree, rationale_preference
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

WHY = Channel(torch.ones(4, 1), torch.tensor([[False], [True], [True], [False]]))


def test_the_gradient_of_a_rationale_is_gamma_times_how_unlikely_it_is():
    traj = four_answers()
    logp = traj.logp["old"].clone().requires_grad_()
    rationale_preference(Evaluation(logp, {}), traj, WHY, gamma=0.5).terms.sum().backward()
    # log pi is -2 and -3: gamma sigmoid(-gamma log pi) at every own action
    wanted = [-0.5 / (1 + math.exp(-0.5 * 2)), -0.5 / (1 + math.exp(-0.5 * 3))]
    assert logp.grad[1:3, 0].tolist() == pytest.approx(wanted)
    assert not logp.grad[[0, 3]].any()
    assert not logp.grad[1, 2]


def test_without_weight_a_rationale_costs_log_two_and_teaches_nothing():
    traj = four_answers()
    logp = traj.logp["old"].clone().requires_grad_()
    output = rationale_preference(Evaluation(logp, {}), traj, WHY, gamma=0.0)
    assert output.terms[1:3, 0].tolist() == pytest.approx([math.log(2)] * 2)
    output.terms.sum().backward()
    assert not logp.grad.any()


def test_the_plain_form_is_the_likelihood_and_its_mean_forgets_length():
    traj = four_answers()
    evaluation = Evaluation(torch.where(traj.mask, traj.logp["old"], torch.nan), {})
    plain = rationale_preference(evaluation, traj, WHY, gamma=0.2, form="likelihood")
    assert plain.terms[:, 0].tolist() == pytest.approx([0, 0.4, 0.6, 0])
    assert plain.metrics["likelihood"] == pytest.approx(-2.5)
    mean = rationale_preference(evaluation, traj, WHY, gamma=0.2, form="likelihood", per="action")
    assert mean.terms[:, 0].tolist() == pytest.approx([0, 0.2, 0.2, 0])
    nobody = Channel(WHY.value, torch.zeros(4, 1, dtype=torch.bool))
    assert not rationale_preference(evaluation, traj, nobody).terms.any()
    with pytest.raises(ValueError, match="gamma must be >= 0"):
        rationale_preference(evaluation, traj, WHY, gamma=-1.0)


def test_the_head_learns_degrees_that_the_states_show_and_then_the_policy_gets_a_gradient():
    traj = four_answers()
    degree = Channel(torch.tensor([[0.0], [1.0], [2.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    state = torch.zeros(4, 4, 3)
    for row, level in enumerate((0, 1, 2, 0)):
        state[row, 1:, level] = 1.0
    state[~torch.cat([torch.ones(4, 1, dtype=torch.bool), traj.mask], 1)] = torch.nan  # behind the end
    state.requires_grad_()
    loss = PreferenceDegree(levels=3, learning_rate=1.0)
    evaluation = Evaluation(traj.logp["old"], {"hidden": state})
    first = loss(evaluation, traj, degree)
    first.terms.sum().backward()
    assert state.grad.nan_to_num().abs().sum() == 0  # a head that knows nothing teaches nothing
    for _ in range(50):
        last = loss(evaluation, traj, degree)
    assert last.metrics["right"] == 1
    assert last.terms.max() < 0.2 < first.terms.min()
    last.terms.sum().backward()
    assert state.grad[traj.mask.nonzero()[0, 0], 1].abs().sum() > 0
    assert not state.grad[:, 0].any()  # the state before the first action is the prompt's
    assert state.grad[torch.cat([torch.ones(4, 1, dtype=torch.bool), traj.mask], 1)].isfinite().all()


def test_the_heads_step_is_gradient_descent_and_happens_only_while_learning():
    traj, loss = four_answers(), PreferenceDegree(levels=2, learning_rate=0.5)
    state = torch.zeros(4, 4, 1)
    state[:, 1:] = 1.0
    degree = Channel(torch.tensor([[1.0], [0.0], [1.0], [1.0]]), torch.tensor([[True], [True], [True], [False]]))
    evaluation = Evaluation(traj.logp["old"], {"hidden": state})
    with torch.no_grad():
        loss(evaluation, traj, degree)
    assert not loss.weight.any()
    loss(evaluation, traj, degree)
    # softmax is 1/2 each; of three rollouts two are of degree 1: gradient of the mean is +-(1/2 - 2/3), times one
    torch.testing.assert_close(loss.weight, torch.tensor([[-0.5 / 6], [0.5 / 6]]))
    torch.testing.assert_close(loss.bias, torch.tensor([-0.5 / 6, 0.5 / 6]))
    other = PreferenceDegree(levels=2)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(evaluation, traj, degree).terms, loss(evaluation, traj, degree).terms)


def test_what_is_no_degree_is_refused():
    traj, loss = four_answers(), PreferenceDegree(levels=2)
    evaluation = Evaluation(traj.logp["old"], {"hidden": torch.zeros(4, 4, 1)})
    for wrong in (0.5, 2.0, -1.0):
        with pytest.raises(ValueError, match="degrees are whole numbers 0 to 1"):
            loss(evaluation, traj, Channel(torch.full((4, 1), wrong), torch.ones(4, 1, dtype=torch.bool)))
    with pytest.raises(ValueError, match="levels must be at least 2"):
        PreferenceDegree(levels=1)
