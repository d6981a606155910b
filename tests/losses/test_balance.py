"""One residual: pinned ends, padding, positions without actions, and the regressions."""

import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.balance import balance_residual, per_action, pieces, regress, start_flow, states_between
from payoff.losses.gflownet import detailed_balance, sub_trajectory_balance, trajectory_balance
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, StopReason, Trajectories

KNOWN = torch.ones(4, 1, dtype=torch.bool)


def paid(*rows):
    return Channel(torch.tensor(rows, dtype=torch.float64), torch.ones(len(rows), 1, dtype=torch.bool))


def random_case(seed=0):
    rng = torch.Generator().manual_seed(seed)
    traj = four_answers().replace(logp={"old": torch.randn(4, 3, generator=rng, dtype=torch.float64).abs().neg()})
    flow = torch.randn(4, 4, generator=rng, dtype=torch.float64)
    reward = Channel(torch.randn(4, 3, generator=rng, dtype=torch.float64), torch.ones(4, 1, dtype=torch.bool))
    backward = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    return traj, Evaluation(traj.logp["old"], {"values": flow, "log_z": flow[:, 0], "log_backward": backward}), reward


def test_the_end_is_pinned_unless_the_trajectory_was_cut_short():
    traj, reward = four_answers(), paid([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
    flow = torch.full((4, 4), 5.0)
    evaluation = Evaluation(torch.zeros(4, 3), {})
    # log F(s) = 5 everywhere, log pi = 0: balance but for the last action, which leads to an end of flow 0, or to one of flow 5
    assert balance_residual(evaluation, traj, reward, flow).delta.sum(1).tolist() == [5.0, 5.0, 5.0, 5.0]
    cut = traj.replace(stop=torch.full((4,), int(StopReason.truncated)))
    assert balance_residual(evaluation, cut, reward, flow).delta.abs().max() == 0


def test_padding_is_not_read_forward_or_backward():
    traj, evaluation, reward = random_case()
    beyond = ~traj.exists
    states_beyond = torch.arange(4) >= traj.length[:, None]  # the pinned end too: whatever a network says there

    def losses(poisoned):
        nan = lambda x, where: torch.where(where & poisoned, torch.nan, x)
        logp = nan(evaluation.logp, beyond).requires_grad_()
        more = {
            "values": nan(evaluation.more["values"], states_beyond).requires_grad_(),
            "log_z": evaluation.more["log_z"],
            "log_backward": nan(evaluation.more["log_backward"], beyond),
        }
        target = Channel(nan(reward.value, beyond), reward.valid)
        terms = [
            loss(Evaluation(logp, more), traj, target).terms
            for loss in (trajectory_balance, detailed_balance, sub_trajectory_balance)
        ]
        return [*terms, *torch.autograd.grad(sum(t.sum() for t in terms), [logp, more["values"]])]

    for clean, odd in zip(losses(torch.tensor(False)), losses(torch.tensor(True)), strict=True):
        assert torch.equal(clean, odd)


def test_an_unknown_payment_costs_its_action_and_the_trajectory_and_the_pieces_that_hold_it():
    traj, evaluation, reward = random_case()
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[0, 1] = False
    target = Channel(torch.where(valid, reward.value, torch.nan), valid)
    assert (detailed_balance(evaluation, traj, target).terms[0] != 0).tolist() == [True, False, True]
    assert trajectory_balance(evaluation, traj, target).terms[0] == 0
    # of trajectory 0 only the pieces (0, 1) and (2, 3) are known: single actions, alike at any decay
    for decay in (0.0, 0.5, math.inf):
        halves = sub_trajectory_balance(evaluation, traj, target, decay=decay).terms[0, 0]
        assert torch.isclose(halves, detailed_balance(evaluation, traj, target).terms[0].sum() / 2)


def test_what_happens_between_two_actions_belongs_to_the_first():
    # tool text at position 1 of a trajectory of 3: no log-probability, its payment and flow belong to action 0
    traj = Trajectories(
        mask=torch.tensor([[True, False, True]]),
        length=torch.tensor([3]),
        group=torch.tensor([0]),
        step=torch.zeros(1, 3).int(),
        stop=torch.tensor([0]),
        actions=torch.zeros(1, 3).long(),
    )
    evaluation = Evaluation(torch.tensor([[-1.0, 99.0, -2.0]]), {"values": torch.tensor([[4.0, 77.0, 1.0, 55.0]])})
    reward = Channel(torch.tensor([[0.25, 0.5, 3.0]]), torch.ones(1, 1, dtype=torch.bool))
    found = per_action(balance_residual(evaluation, traj, reward, evaluation.more["values"]), traj)
    # 4 - 1 - 1 - 0.25 - 0.5 = 1.25 and 1 - 2 - 0 - 3 = -4
    assert found.delta.tolist() == [[1.25, 0.0, -4.0]]
    assert found.known.tolist() == [[True, False, True]]


def test_a_branch_trains_only_what_it_sampled_itself():
    traj, evaluation, reward = random_case()
    branch = traj.replace(parent=torch.tensor([7, -1, -1, -1]), fork=torch.tensor([2, 0, 0, 0]))
    logp = evaluation.logp.clone().requires_grad_()
    moved = Evaluation(logp, evaluation.more)
    assert torch.equal(trajectory_balance(moved, branch, reward).terms, trajectory_balance(moved, traj, reward).terms)
    (gradient,) = torch.autograd.grad(trajectory_balance(moved, branch, reward).terms[0].sum(), logp)
    assert (gradient[0] != 0).tolist() == [False, False, True]
    assert (detailed_balance(moved, branch, reward).terms[0] != 0).tolist() == [False, False, True]


def test_pieces_are_all_pairs_of_marked_states():
    traj, evaluation, reward = random_case()
    found = balance_residual(evaluation, traj, reward, evaluation.more["values"])
    part = pieces(found, states_between(traj))
    assert part.known.sum(1).tolist() == [6, 3, 6, 1]  # M (M + 1) / 2 for 3, 2, 3 and 1 actions
    delta = found.delta[0]
    # pairs in order (0,1) (0,2) (0,3) (1,2) (1,3) (2,3)
    expected = torch.stack([delta[0], delta[:2].sum(), delta.sum(), delta[1], delta[1:].sum(), delta[2]])
    assert torch.allclose(part.residual[0], expected)
    assert part.gap.tolist() == [1, 2, 3, 1, 2, 1]


def test_inner_flows_cancel_in_a_sum_over_the_whole_trajectory():
    traj, evaluation, reward = random_case()
    whole = balance_residual(evaluation, traj, reward, evaluation.more["values"]).delta.sum(1)
    start = balance_residual(evaluation, traj, reward, start_flow(evaluation.more["log_z"], evaluation, traj)).delta.sum(1)
    assert torch.allclose(whole, start, atol=1e-12)


@pytest.mark.parametrize("regression", ["squared", "half-squared", "huber", "cosh", "linex"])
def test_every_regression_is_least_at_balance_and_curved_there(regression):
    d = torch.tensor([-3.0, -1e-3, 0.0, 1e-3, 3.0], dtype=torch.float64, requires_grad=True)
    value = regress(d, regression)
    (slope,) = torch.autograd.grad(value.sum(), d)
    assert value[2] == 0
    assert (value[[0, 1, 3, 4]] > 0).all()
    assert slope[2] == 0
    # g(d) / d^2 near 0: 1 for squared, Huber and cosh, 1/2 for half-squared and linex
    assert float(value[3].detach() / 1e-6) == pytest.approx(0.5 if regression in ("half-squared", "linex") else 1.0, rel=1e-3)


def test_huber_is_squared_inside_and_its_tangent_outside():
    d = torch.tensor([0.5, 2.0, 3.0, -3.0], dtype=torch.float64)
    assert regress(d, "huber", 2.0).tolist() == [0.25, 4.0, 8.0, 8.0]  # 4 + slope 4 x 1


def test_linex_is_lopsided_by_its_shape():
    d = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    over = regress(d, "linex", 1.0)
    assert over[1] > over[0]
    assert torch.allclose(regress(d, "linex", -1.0), over.flip(0))
    assert torch.allclose(regress(d, "linex", 1e-4), regress(d, "half-squared"), rtol=1e-3)


def test_a_hopeless_residual_overflows_nothing():
    far = torch.tensor([1e4, -1e4])
    for regression in ("squared", "huber", "cosh", "linex"):
        assert regress(far, regression).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regression": "huber", "shape": 0.0}, "shape of huber must be > 0, got 0.0"),
        ({"regression": "linex", "shape": 0.0}, "shape of linex must not be 0"),
    ],
)
def test_bad_regressions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        regress(torch.zeros(2), **options)


def test_a_flow_of_another_shape_is_refused():
    traj, evaluation, reward = random_case()
    with pytest.raises(ValueError, match=r"flow must be \[N, T\+1\] = \[4, 4\], got \[4, 3\]"):
        balance_residual(evaluation, traj, reward, evaluation.more["values"][:, :3])
