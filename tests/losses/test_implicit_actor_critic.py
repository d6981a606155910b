"""PACS group by group: values, classes, groups that say nothing, what is refused. On-policy forms are in tests/exact."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.implicit_actor_critic import implicit_actor_critic
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel

F64 = torch.float64
TRAJ = four_answers().replace(logp={"old": torch.full((4, 3), -1.0, dtype=F64)})


def outcomes(*value: float, valid=(True,) * 4) -> Channel:
    return Channel(torch.tensor(value, dtype=F64)[:, None], torch.tensor(valid)[:, None])


def logp(*per_action: float) -> torch.Tensor:
    return (TRAJ.logp["old"] + torch.tensor(per_action, dtype=F64)[:, None]).requires_grad_()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_terms_by_hand():
    # sums: 3 * .1 = .3, 2 * -.2 = -.4: psi = .7, -.7; both terms softplus(-.7)
    output = implicit_actor_critic(Evaluation(logp(0.1, -0.2, 0.0, 0.0), {}), TRAJ, outcomes(1, 0, 1, 0))
    assert output.terms[0].tolist() == pytest.approx([softplus(-0.7)] * 3)
    assert output.terms[1].tolist() == pytest.approx([softplus(-0.7), softplus(-0.7), 0.0])
    assert output.metrics["accuracy"] == 0.5
    assert output.metrics["residual"] == pytest.approx((2 / (1 + math.exp(0.7)) + 1) / 4)


def test_every_member_moves_with_every_other():
    ratio = logp(0.1, -0.2, 0.0, 0.0)
    terms = implicit_actor_critic(Evaluation(ratio, {}), TRAJ, outcomes(1, 0, 1, 0), scale=2.0).terms
    slope = torch.autograd.grad(terms[0, 0], ratio)[0]
    # psi_0 = 2 (s_0 - s_1): -sigmoid(-1.4) * (+-2)
    pull = 2 / (1 + math.exp(1.4))
    assert slope[0].tolist() == pytest.approx([-pull] * 3)
    assert slope[1, :2].tolist() == pytest.approx([pull] * 2)


def test_a_group_all_right_rests_exactly_at_log_two():
    at_rest = logp(0.0, 0.0, 0.0, 0.0)
    terms = implicit_actor_critic(Evaluation(at_rest, {}), TRAJ, outcomes(1, 1, 0, 0)).terms
    weight = terms.new_tensor([1 / 3, 1 / 2, 1 / 3, 1.0])[:, None]
    assert torch.autograd.grad((terms * weight).sum(), at_rest)[0].abs().max() < 1e-15
    moved = implicit_actor_critic(Evaluation(logp(0.3, -0.2, 0.1, 0.0), {}), TRAJ, outcomes(1, 1, 0, 0)).terms
    assert float((moved.detach() * weight)[:2].sum()) > 2 * math.log(2)


def test_classes_are_balanced_within_the_group_and_only_where_there_are_two():
    traj = TRAJ.replace(group=torch.tensor([0, 0, 0, 0]))
    terms = implicit_actor_critic(Evaluation(logp(0, 0, 0, 0), {}), traj, outcomes(1, 0, 0, 0)).terms[:, 0]
    # one right of four: 4 / 2, the others 4 / 6
    assert (terms / math.log(2)).tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    plain = implicit_actor_critic(Evaluation(logp(0, 0, 0, 0), {}), traj, outcomes(1, 0, 0, 0), balanced=False).terms[:, 0]
    assert (plain / math.log(2)).tolist() == pytest.approx([1, 1, 1, 1])


def test_one_without_verdict_is_in_no_mean_and_one_alone_has_no_gradient():
    ratio = logp(0.4, 5.0, 0.1, 0.2)
    terms = implicit_actor_critic(Evaluation(ratio, {}), TRAJ, outcomes(1, 0, 1, 0, valid=(True, False, True, True))).terms
    assert float(terms[0, 0].detach()) == pytest.approx(math.log(2))
    assert terms[1].abs().max() == 0
    assert torch.autograd.grad(terms[0].sum(), ratio)[0].abs().max() == 0


def test_padding_is_not_read():
    old = torch.where(TRAJ.exists, -1.0, torch.nan).to(F64)
    new = torch.where(TRAJ.exists, -1.2, torch.nan).to(F64).requires_grad_()
    terms = implicit_actor_critic(Evaluation(new, {}), TRAJ.replace(logp={"old": old}), outcomes(1, 0, 1, 0)).terms
    assert terms.isfinite().all()
    assert torch.autograd.grad(terms.sum(), new)[0].isfinite().all()


def test_score_own_compares_with_nobody():
    terms = implicit_actor_critic(Evaluation(logp(0.1, -0.2, 0.0, 0.0), {}), TRAJ, outcomes(1, 0, 1, 0), score="own").terms
    assert float(terms[0, 0].detach()) == pytest.approx(softplus(-0.3))


def test_what_makes_no_sense_is_refused():
    evaluation = Evaluation(logp(0, 0, 0, 0), {})
    with pytest.raises(ValueError, match="outcome of 0 or 1"):
        implicit_actor_critic(evaluation, TRAJ, outcomes(0.5, 0, 1, 0))
    with pytest.raises(ValueError, match="scale must be > 0"):
        implicit_actor_critic(evaluation, TRAJ, outcomes(1, 0, 1, 0), scale=0.0)
