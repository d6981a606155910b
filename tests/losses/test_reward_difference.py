"""PRDP and CRD: their optimum in closed form, their identities, and what they leave out."""

import functools

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.reward_difference import crd, prdp
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, outcome, place_outcome


def column(value):
    return Channel(value[:, None], torch.ones(len(value), 1, dtype=torch.bool))


def enumerated(seed=0, horizon=2):
    """All sequences of a small tree under a reference, and a reward for each."""
    reference = Tabular(3, horizon, spread=0.7, seed=seed)
    reward = torch.randn(3**horizon, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    traj = reference.sequences()
    return reference, reward, traj.replace(logp={"ref": traj.logp["old"]})


def test_prdp_is_zero_exactly_at_the_regularised_optimum():
    reference, reward, traj = enumerated()
    best = reference.optimum(reward, 0.5)
    free = functools.partial(prdp, beta=0.5, eps=1e9)
    assert free(best.evaluate(traj), traj, column(reward)).terms.abs().max() < 1e-20
    assert free(best.evaluate(traj), traj, column(reward + 7)).terms.abs().max() < 1e-20
    assert free(reference.evaluate(traj), traj, column(reward)).terms.min() > 0.01


def test_prdp_finds_the_regularised_optimum():
    reference, reward, traj = enumerated()
    policy, best = Tabular(3, 2, logits=reference.logits.detach()), reference.optimum(reward, 0.5)
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        prdp(policy.evaluate(traj), traj, column(reward), beta=0.5, eps=1e9).terms.sum().backward()
        optimiser.step()
    assert (policy.probabilities() - best.probabilities()).abs().sum() / 2 < 0.01  # total variation


def test_prdp_starts_as_the_centred_policy_gradient():
    reference, reward, traj = enumerated()
    prdp(reference.evaluate(traj), traj, column(reward), beta=2.0, eps=1e9).terms[:, 0].sum().backward()
    ours, reference.logits.grad = reference.logits.grad.clone(), None
    centred = reward - reward.mean()
    n = len(reward)
    # mean over n - 1 partners of -(2 / beta) (r_a - r_b)(s_a - s_b), summed over a: -4 n / (beta (n - 1)) sum_a centred_a s_a
    (-4 * n / (2.0 * (n - 1)) * centred * reference.evaluate(traj).logp.sum(1)).sum().backward()
    torch.testing.assert_close(ours, reference.logits.grad)


def test_pairs_summed_are_the_centred_squares_so_prdp_and_crd_are_one_loss():
    _, reward, traj = enumerated()
    policy = Tabular(3, 2, spread=0.4, seed=9)
    advantage = reward.clamp(-1, 1)
    bound, beta = 5.0, 0.7
    implied = advantage / (2 * bound)  # what CRD makes of it, up to a constant
    pairs = prdp(policy.evaluate(traj), traj, column(implied), beta=beta, eps=1e9).terms[:, 0].sum()
    centred = crd(policy.evaluate(traj), traj, column(advantage), beta=beta, bound=bound).terms[:, 0].sum()
    n = len(reward)
    # the sum over ordered pairs is 2 n times that of centred squares; prdp divides by n - 1 partners; crd has bound / beta before
    # and beta^2 within
    torch.testing.assert_close(centred, pairs * (n - 1) / (2 * n) * beta**2 * bound / beta)
    gradients = [torch.autograd.grad(x, policy.logits, retain_graph=True)[0] for x in (pairs, centred)]
    torch.testing.assert_close(gradients[1], gradients[0] * (n - 1) / (2 * n) * beta * bound)


def test_the_clipped_loss_is_never_smaller_and_stops_the_gradient_of_what_has_moved_enough():
    reference, reward, traj = enumerated(horizon=1)
    policy = reference.optimum(reward, 2.0)  # half way to the optimum at 1
    loose, tight = (prdp(policy.evaluate(traj), traj, column(reward), beta=1.0, eps=eps).terms for eps in (1e9, 1e-4))
    assert (tight >= loose - 1e-12).all()
    assert tight.sum() > loose.sum()
    # Two rollouts of one action that have already moved towards their rewards by more than eps: the clipped error is the larger.
    traj = four_answers().select(torch.tensor([0, 1])).replace(mask=torch.tensor([[True, False, False]] * 2))
    logp = torch.where(traj.mask, torch.tensor([[-0.9], [-1.1]]), 0).requires_grad_()
    prdp(Evaluation(logp, {}), traj, column(torch.tensor([2.0, 0.0])), beta=1.0, eps=0.01).terms.sum().backward()
    assert not logp.grad.any()


def test_crd_points_uphill_where_it_starts():
    policy, reward, traj = enumerated()
    traj = traj.replace(logp={"old": traj.logp["old"]})
    advantage = reward.clamp(-2, 2)
    crd(policy.evaluate(traj), traj, column(advantage), bound=2.0).terms[:, 0].sum().backward()
    ours, policy.logits.grad = policy.logits.grad.clone(), None
    # at pi = pi_old: term gradient = -2 bound (r - mean r) grad s, with r = A / (2 bound) + 1/2
    (-(advantage - advantage.mean()) * policy.evaluate(traj).logp.sum(1)).sum().backward()
    torch.testing.assert_close(ours, policy.logits.grad)


def test_soft_weights_are_uniform_ones_for_a_high_temperature_and_pull_apart_for_a_low_one():
    policy, reward, traj = enumerated()
    evaluation = policy.evaluate(traj)
    uniform = crd(evaluation, traj, column(reward)).terms
    torch.testing.assert_close(crd(evaluation, traj, column(reward), weights="soft", temperature=1e9).terms, uniform)
    cold = crd(evaluation, traj, column(reward), weights="soft", temperature=1e-5).terms
    best, worst = reward.clamp(-5, 5).max(), reward.clamp(-5, 5).min()
    wanted = 5 * ((reward - best).square() + (reward - worst).square()) / 2 / 100  # r - c_r in tenths of the advantage
    torch.testing.assert_close(cold[:, 0], wanted)


def test_rollouts_are_compared_within_their_start_and_unknown_ones_with_nobody():
    traj = four_answers()
    evaluation = Evaluation(traj.logp["old"].clone().requires_grad_(), {})
    reward = Channel(torch.tensor([[1.0], [0.0], [9.0], [2.0]]), torch.tensor([[True], [True], [False], [True]]))
    for loss in (prdp, crd):
        output = loss(evaluation, traj, reward)
        assert not output.terms[2:].any()  # one unknown, the other left alone
        assert output.terms[:2, :2].all()
        swapped = torch.tensor([1, 3, 0, 2])
        moved = loss(
            Evaluation(evaluation.logp[swapped], {}), traj.select(swapped), Channel(reward.value[swapped], reward.valid[swapped])
        )
        torch.testing.assert_close(moved.terms, output.terms[swapped])


def test_padding_is_never_read():
    traj = four_answers()
    dirty = traj.replace(logp={k: torch.where(traj.mask, v, torch.nan) for k, v in traj.logp.items()})
    reward = Channel(torch.tensor([[1.0], [0.0], [9.0], [2.0]]), torch.ones(4, 1, dtype=torch.bool))
    for loss in (prdp, crd):
        logp = dirty.logp["old"].clone().requires_grad_()
        output = loss(Evaluation(logp, {}), dirty, reward)
        torch.testing.assert_close(output.terms, loss(Evaluation(traj.logp["old"], {}), traj, reward).terms)
        output.terms.sum().backward()
        assert logp.grad.isfinite().all()


def test_a_reward_at_the_end_needs_total_first():
    _, reward, traj = enumerated()
    paid = place_outcome(reward, torch.ones(len(reward), dtype=torch.bool), traj)
    torch.testing.assert_close(outcome(paid, traj)[0], reward)


def test_options_out_of_range_are_refused():
    traj = four_answers()
    evaluation, reward = Evaluation(traj.logp["old"], {}), column(torch.ones(4))
    with pytest.raises(ValueError, match="beta and eps must be > 0"):
        prdp(evaluation, traj, reward, beta=0.0)
    with pytest.raises(ValueError, match="must be > 0"):
        crd(evaluation, traj, reward, bound=-1.0)
    traj.logp.pop("ref")
    with pytest.raises(ValueError, match="'ref'"):
        prdp(evaluation, traj, reward)
