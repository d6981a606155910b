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


def test_the_mean_of_the_log_ratio_or_of_the_log_likelihood_does_not_grow_with_length():
    moved = outcomes(1, 0, 1, 0)
    one = lambda measure: implicit_actor_critic(Evaluation(logp(0.1, -0.2, 0.0, 0.0), {}), TRAJ, moved, measure=measure, scale=2.0)
    # means: .1 and -.2, times 2: psi = .6, -.6; of log pi: -.9 and -1.2, the same difference, as old is the same everywhere
    for measure in ("mean-log-ratio", "mean-log-likelihood"):
        assert one(measure).terms[:2, 0].tolist() == pytest.approx([softplus(-0.6)] * 2)
    own = lambda measure: implicit_actor_critic(
        Evaluation(logp(0.1, -0.2, 0.0, 0.0), {}), TRAJ, moved, measure=measure, score="own", balanced=False
    ).terms[:2, 0]
    assert own("mean-log-ratio").tolist() == pytest.approx([softplus(-0.1), softplus(-0.2)])
    assert own("mean-log-likelihood").tolist() == pytest.approx([softplus(0.9), softplus(-1.2)])


def test_the_standardised_score_by_hand_with_a_slope_through_the_spread_too():
    traj = TRAJ.replace(group=torch.tensor([0, 0, 0, 0]))
    right = outcomes(1, 0, 1, 0, valid=(True, True, True, False))
    given = {"score": "standardised", "measure": "mean-log-likelihood", "balanced": False}
    ratio = logp(0.1, 0.2, 0.6, 9.0)
    terms = implicit_actor_critic(Evaluation(ratio, {}), traj, right, **given).terms
    # of .1 .2 .6: mean .3, squares .04 + .01 + .09 over 2: std sqrt(.07)
    std = math.sqrt(0.07) + 1e-6
    assert terms[:3, 0].tolist() == pytest.approx([softplus(0.2 / std), softplus(-0.1 / std), softplus(-0.3 / std)])
    assert (terms[3] == 0).all()
    total = lambda x: implicit_actor_critic(Evaluation(x, {}), traj, right, **given).terms[:3, 0].sum()
    assert torch.autograd.gradcheck(total, (logp(0.1, 0.2, 0.6, 9.0),))


def test_equal_scores_have_no_spread_to_divide_by():
    single = TRAJ.replace(group=torch.tensor([0, 0, 0, 1]))
    given = {"score": "standardised", "measure": "mean-log-likelihood", "balanced": False}
    low = torch.full((4, 3), -1.7).requires_grad_()
    terms = implicit_actor_critic(Evaluation(low, {}), single, outcomes(1, 0, 1, 0), **given).terms
    assert (terms[single.exists] == torch.tensor(0.0).exp().log1p()).all()  # log 2, without rounding scaled up
    slope = torch.autograd.grad(terms[0, 0], low)[0]
    # psi_0 = s_0 - mean s, s a mean over 3, 2, 3 actions: -1/2 (2/3, -1/3, -1/3) over the length
    assert slope[:3, 0].tolist() == pytest.approx([-1 / 9, 1 / 12, 1 / 18])
    assert (slope[3] == 0).all()


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
