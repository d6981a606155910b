"""Which divergence a regulariser descends is decided exactly here: all actions of a small softmax policy are enumerated."""

import itertools

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.regularisers import entropy_bonus, kl_k1, kl_k2, kl_k3, kl_unbiased
from payoff.pipeline import Evaluation, everywhere
from payoff.signals.likelihood import kl_penalty
from payoff.trajectories import Channel, Trajectories

K = 5
LOSSES = (kl_k1, kl_k2, kl_k3, kl_unbiased)
generator = torch.Generator().manual_seed(3)
THETA, REFERENCE, OLD = (torch.randn(K, generator=generator, dtype=torch.float64) for _ in range(3))


def every_action(old: torch.Tensor) -> Trajectories:
    """One trajectory per action of a policy that acts once; `old` acted."""
    one = torch.ones(K, 1, dtype=torch.bool)
    return Trajectories(
        mask=one,
        length=torch.ones(K, dtype=torch.int64),
        group=torch.zeros(K, dtype=torch.int64),
        step=torch.zeros(K, 1, dtype=torch.int32),
        stop=torch.zeros(K, dtype=torch.int64),
        actions=torch.arange(K)[:, None],
        logp={"old": old.log_softmax(0)[:, None], "ref": REFERENCE.log_softmax(0)[:, None]},
    )


def expectation(loss, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact expected value and gradient in the policy's logits, over actions of `old`."""
    theta, traj = THETA.clone().requires_grad_(), every_action(old)
    output = loss(Evaluation(theta.log_softmax(0)[:, None], {}), traj, everywhere({}, traj))
    value = (old.softmax(0)[:, None] * output.terms).sum()
    return value.detach(), torch.autograd.grad(value, theta)[0]


def divergence(forward: bool) -> tuple[torch.Tensor, torch.Tensor]:
    theta = THETA.clone().requires_grad_()
    p, q = theta.log_softmax(0), REFERENCE.log_softmax(0)
    kl = (q.exp() * (q - p)).sum() if forward else (p.exp() * (p - q)).sum()
    return kl.detach(), torch.autograd.grad(kl, theta)[0]


def test_k1_has_the_right_value_and_no_gradient_at_all():
    value, grad = expectation(kl_k1, THETA)
    torch.testing.assert_close(value, divergence(forward=False)[0])
    torch.testing.assert_close(grad, torch.zeros(K, dtype=torch.float64))


def test_k2_descends_the_reverse_divergence_whatever_its_value():
    value, grad = expectation(kl_k2, THETA)
    torch.testing.assert_close(grad, divergence(forward=False)[1])
    assert abs(value - divergence(forward=False)[0]) > 1e-3


def test_k3_has_the_value_of_the_reverse_and_the_gradient_of_the_forward_divergence():
    value, grad = expectation(kl_k3, THETA)
    torch.testing.assert_close(value, divergence(forward=False)[0])
    torch.testing.assert_close(grad, divergence(forward=True)[1])


@pytest.mark.parametrize("old", [THETA, OLD])
def test_the_unbiased_loss_has_value_and_gradient_of_the_reverse_divergence_whoever_acted(old):
    for found, true in zip(expectation(kl_unbiased, old), divergence(forward=False), strict=True):
        torch.testing.assert_close(found, true)


def test_off_policy_k2_and_k3_descend_neither():
    for loss in (kl_k2, kl_k3):
        _, grad = expectation(loss, OLD)
        for forward in (True, False):
            assert (grad - divergence(forward)[1]).abs().max() > 1e-2


@pytest.mark.parametrize(("estimator", "forwards"), [("k1", 0.0), ("k3", 1.0)])
def test_as_a_reward_k1_descends_the_reverse_divergence_and_k3_the_difference_of_both(estimator, forwards):
    traj = every_action(THETA)
    reward = kl_penalty(traj, estimator=estimator)["kl"].value
    theta = THETA.clone().requires_grad_()
    surrogate = -(THETA.softmax(0)[:, None] * reward * theta.log_softmax(0)[:, None]).sum()
    expected = divergence(forward=False)[1] - forwards * divergence(forward=True)[1]
    torch.testing.assert_close(torch.autograd.grad(surrogate, theta)[0], expected)


def test_only_the_reward_form_sees_what_an_action_does_to_the_divergence_of_later_ones():
    """Two binary actions; the second one's distribution depends on the first. All four sequences are enumerated."""
    policy = torch.randn(3, 2, generator=generator, dtype=torch.float64)  # at the start, after 0, after 1
    reference = torch.randn(3, 2, generator=generator, dtype=torch.float64).log_softmax(1)
    sequences = list(itertools.product(range(2), repeat=2))

    def logp(table: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.stack([table[0, a], table[1 + a, b]]) for a, b in sequences])

    theta = policy.clone().requires_grad_()
    now, ref = logp(theta.log_softmax(1)), logp(reference)
    probability = now.sum(1).exp()
    (true,) = torch.autograd.grad((probability * (now - ref).sum(1)).sum(), theta, retain_graph=True)

    traj = Trajectories(
        mask=torch.ones(4, 2, dtype=torch.bool),
        length=torch.full((4,), 2),
        group=torch.zeros(4, dtype=torch.int64),
        step=torch.zeros(4, 2, dtype=torch.int32),
        stop=torch.zeros(4, dtype=torch.int64),
        actions=torch.tensor(sequences),
        logp={"old": now.detach(), "ref": ref},
    )
    to_go = kl_penalty(traj)["kl"].value.flip(1).cumsum(1).flip(1)
    weight = probability.detach()[:, None]
    (as_reward,) = torch.autograd.grad(-(weight * to_go * now).sum(), theta, retain_graph=True)
    terms = kl_k2(Evaluation(now, {}), traj, everywhere({}, traj)).terms
    (as_loss,) = torch.autograd.grad((weight * terms).sum(), theta)
    torch.testing.assert_close(as_reward, true)
    torch.testing.assert_close(as_loss[1:], true[1:])  # nothing follows the second action
    assert (as_loss[0] - true[0]).abs().max() > 1e-2


@pytest.mark.parametrize("loss", LOSSES)
def test_a_policy_equal_to_its_reference_pays_nothing_and_is_not_moved_but_by_k1(loss):
    traj = four_answers()
    logp = traj.logp["ref"].clone().requires_grad_()
    output = loss(Evaluation(logp, {}), traj, everywhere({}, traj))
    (grad,) = torch.autograd.grad(output.terms.sum(), logp)
    assert not output.terms.any()
    assert output.metrics == {"kl": 0.0}
    assert bool(grad.any()) == (loss is kl_k1)


def test_golden_numbers_at_half_a_nat():
    traj = four_answers()  # log pi_old = -1, log pi_ref = -1.5
    at = Evaluation(traj.logp["old"], {})
    values = [float(loss(at, traj, everywhere({}, traj)).terms[0, 0]) for loss in (kl_k1, kl_k2, kl_k3)]
    assert values == pytest.approx([0.5, 0.125, 0.10653066])  # e^-.5 = .60653066, - 1 + .5
    assert kl_k3(at, traj, everywhere({}, traj)).metrics["kl"] == pytest.approx(0.10653066)


def test_near_the_reference_k3_keeps_its_digits():
    traj = four_answers()
    close = Evaluation(traj.logp["ref"].double() + 1e-8, {})
    traj = traj.replace(logp={"ref": traj.logp["ref"].double()})
    assert float(kl_k3(close, traj, everywhere({}, traj)).terms[0, 0]) == pytest.approx(5e-17, rel=1e-3, abs=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_very_far_from_the_reference_everything_stays_finite(loss):
    traj = four_answers()
    for nats in (-500.0, 500.0):
        logp = (traj.logp["ref"] + nats).requires_grad_()
        traj_far = traj.replace(logp={"old": logp.detach()})
        terms = loss(Evaluation(logp, {}), traj_far, everywhere({}, traj)).terms
        (grad,) = torch.autograd.grad(terms.sum(), logp)
        assert terms.isfinite().all()
        assert grad.isfinite().all()


def test_the_entropy_bonus_pays_for_entropy():
    traj = four_answers()
    entropy = torch.rand(4, 3).requires_grad_()
    output = entropy_bonus(Evaluation(traj.logp["old"], {"entropy": entropy}), traj, everywhere({}, traj))
    (grad,) = torch.autograd.grad(output.terms.sum(), entropy)
    assert grad.tolist() == torch.where(traj.mask, -1.0, 0.0).tolist()
    assert output.metrics["entropy"] == pytest.approx(float(entropy.detach()[traj.mask].mean()))


@pytest.mark.parametrize("loss", [*LOSSES, entropy_bonus])
def test_the_target_weighs_the_terms_and_switches_them_off(loss):
    traj = four_answers()
    evaluation = Evaluation(traj.logp["old"] - 0.3, {"entropy": torch.full((4, 3), 0.7)})
    full = loss(evaluation, traj, everywhere({}, traj)).terms
    target = Channel(torch.tensor([[2.0], [torch.nan], [1.0], [0.5]]), torch.tensor([[True], [False], [True], [True]]))
    torch.testing.assert_close(loss(evaluation, traj, target).terms, full * torch.tensor([[2.0], [0.0], [1.0], [0.5]]))


@pytest.mark.parametrize("loss", [*LOSSES, entropy_bonus])
def test_nan_in_the_padding_enters_neither_terms_nor_gradient_nor_metrics(loss):
    traj = four_answers()
    nan = lambda x: torch.where(traj.exists, x, torch.nan)
    dirty = traj.replace(logp={name: nan(logp) for name, logp in traj.logp.items()})
    logp, entropy = (nan(torch.full((4, 3), x)).requires_grad_() for x in (-0.9, 0.7))
    output = loss(Evaluation(logp, {"entropy": entropy}), dirty, everywhere({}, dirty))
    for grad in torch.autograd.grad(output.terms.sum(), [logp, entropy], allow_unused=True):
        assert grad is None or grad.isfinite().all()
    clean = loss(Evaluation(logp.nan_to_num(), {"entropy": entropy.nan_to_num()}), traj, everywhere({}, traj))
    assert torch.equal(output.terms, clean.terms)
    assert output.metrics == clean.metrics


def test_mistakes_are_named():
    traj = four_answers()
    bare = Trajectories(traj.mask, traj.length, traj.group, traj.step, traj.stop, traj.actions)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=rf'{loss.__name__}: needs traj.logp\["ref"\]'):
            loss(Evaluation(traj.logp["old"], {}), bare, everywhere({}, traj))
    only_ref = bare.replace(logp={"ref": traj.logp["ref"]})
    with pytest.raises(ValueError, match=r'kl_unbiased: needs traj.logp\["old"\]'):
        kl_unbiased(Evaluation(traj.logp["old"], {}), only_ref, everywhere({}, traj))
    with pytest.raises(ValueError, match="entropy_bonus: needs"):
        entropy_bonus(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj))
