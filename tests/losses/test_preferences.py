"""Losses on pairs against what is known of them: optima in closed form, identities, and what they leave out."""

import functools
import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.nash_preferences import dno, inpo
from payoff.losses.preference_sides import apo_down, apo_zero, bco_pair, nca_pair, sppo_hard
from payoff.losses.preferences import aot, discopop, dpo, exo_pair, hinge, ipo, robust_dpo, rpo
from payoff.losses.reference_free import orpo, simpo
from payoff.pipeline import Evaluation
from payoff.policies.tabular import Tabular
from payoff.trajectories import Pairs

ON_MARGIN = [dpo, robust_dpo, ipo, hinge, exo_pair, discopop, aot, rpo]
ALL = [*ON_MARGIN, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, simpo, orpo, inpo, dno]


def every_pair(label, weight=None):
    """All ordered pairs of L sequences with the labels P(first beats second) of a matrix."""
    size = len(label)
    index = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    return Pairs(index, label.flatten(), torch.ones(size * size) if weight is None else weight.flatten())


def enumerated(seed=0, horizon=2):
    """All sequences of a small tree under a reference, a reward for each, and preferences that no reward explains."""
    reference = Tabular(3, horizon, spread=0.7, seed=seed)
    rng = torch.Generator().manual_seed(seed + 1)
    reward = torch.randn(3**horizon, generator=rng, dtype=torch.float64)
    noise = torch.randn(3**horizon, 3**horizon, generator=rng, dtype=torch.float64)
    traj = reference.sequences()
    old = Tabular(3, horizon, spread=0.5, seed=seed + 7).evaluate(traj).logp.detach()
    return reference, reward, torch.sigmoid(noise - noise.T), traj.replace(logp={"ref": traj.logp["old"], "old": old})


def two_answers(margin, dtype=torch.float64):
    """One pair whose rollouts, of one action, have log-ratios margin / 2 and - margin / 2 (the reference gives each -3)."""
    traj = four_answers().select(torch.tensor([0, 1])).replace(mask=torch.tensor([[True, False, False]] * 2))
    traj = traj.replace(logp={name: torch.full((2, 3), -3.0, dtype=dtype) for name in ("ref", "old")})
    logp = torch.full((2, 3), -3.0, dtype=dtype)
    logp[:, 0] += torch.tensor([margin / 2, -margin / 2], dtype=dtype)
    return traj, logp.requires_grad_(), Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1))


def test_dpo_is_stationary_pair_by_pair_at_the_regularised_optimum():
    reference, reward, _, traj = enumerated()
    beta = 0.5
    best = reference.optimum(reward, beta)
    logp = best.evaluate(traj).logp.detach().requires_grad_()
    pairs = every_pair(torch.sigmoid(reward[:, None] - reward))
    for term in dpo(Evaluation(logp, {}), traj, pairs, beta=beta).terms:
        assert torch.autograd.grad(term, logp, retain_graph=True)[0].abs().max() < 1e-12
    elsewhere = reference.evaluate(traj).logp.detach().requires_grad_()
    dpo(Evaluation(elsewhere, {}), traj, pairs, beta=beta).terms.mean().backward()
    assert elsewhere.grad.abs().max() > 1e-3


def minimise(policy, loss):
    optimiser = torch.optim.LBFGS(policy.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def test_the_only_minimum_of_ipo_tilts_the_reference_by_win_rates():
    reference, _, preference, traj = enumerated()
    mu = torch.linspace(0, 1, 9, dtype=torch.float64).softmax(0)
    tau = 0.4
    wanted = reference.optimum(preference @ mu, tau).probabilities()  # ref exp(P(y beats mu) / tau) / Z
    policy = Tabular(3, 2, spread=2.0, seed=5)
    pairs, weight = every_pair(preference), (mu[:, None] * mu).flatten()
    minimise(policy, lambda: (ipo(policy.evaluate(traj), traj, pairs, beta=tau).terms * weight).sum())
    torch.testing.assert_close(policy.probabilities(), wanted, rtol=1e-4, atol=1e-6)


def test_certain_preferences_end_ipo_at_its_margin_and_never_end_dpo():
    traj, logp, pairs = two_answers(1 / (2 * 0.1))
    assert ipo(Evaluation(logp, {}), traj, pairs, beta=0.1).terms.abs().max() < 1e-20
    for margin in (0.0, 5.0, 50.0, 300.0):
        traj, logp, pairs = two_answers(margin)
        dpo(Evaluation(logp, {}), traj, pairs, beta=0.1).terms.sum().backward()
        assert logp.grad[0, 0] < 0 < logp.grad[1, 0]  # still drawn apart


def test_the_conservative_dpo_ends_at_the_odds_of_its_labels():
    traj, logp, pairs = two_answers(math.log(0.9 / 0.1) / 0.1)
    dpo(Evaluation(logp, {}), traj, pairs, beta=0.1, label_smoothing=0.1).terms.sum().backward()
    assert logp.grad.abs().max() < 1e-7  # labels are float32


@pytest.mark.parametrize("flip_rate", [0.05, 0.3])
def test_robust_dpo_is_unbiased_under_flipped_labels_and_the_conservative_is_not(flip_rate):
    _, reward, _, traj = enumerated()
    logp = Tabular(3, 2, spread=1.0, seed=3).evaluate(traj)
    truth = every_pair((reward[:, None] > reward).double())
    flipped = truth._replace(label=1 - truth.label)

    def on_average(loss):
        return (1 - flip_rate) * loss(logp, traj, truth).terms + flip_rate * loss(logp, traj, flipped).terms

    wanted = dpo(logp, traj, truth).terms
    torch.testing.assert_close(on_average(functools.partial(robust_dpo, flip_rate=flip_rate)), wanted)
    smooth = functools.partial(dpo, label_smoothing=flip_rate)
    assert (on_average(smooth) - wanted).abs().max() > 1e-3


def test_inpo_with_tau_at_eta_is_ipo_against_the_reference():
    _, _, preference, traj = enumerated()
    policy, pairs = Tabular(3, 2, spread=1.0, seed=3).evaluate(traj), every_pair(preference)
    torch.testing.assert_close(
        inpo(policy, traj, pairs, eta=0.3, tau=0.3).terms, ipo(policy, traj, pairs, beta=0.3).terms, rtol=1e-12, atol=1e-12
    )


def test_inpo_steps_as_mirror_descent_does():
    reference, _, preference, traj = enumerated()
    old = Tabular(3, 2, spread=0.5, seed=7)
    eta, tau = 0.6, 0.2
    acting = old.probabilities().detach()
    pairs, weight = every_pair(preference), (acting[:, None] * acting).flatten()
    policy = Tabular(3, 2)
    minimise(policy, lambda: (inpo(policy.evaluate(traj), traj, pairs, eta=eta, tau=tau).terms * weight).sum())
    found = policy.evaluate(traj)
    shifted = Evaluation(found.logp + 0.7, {})  # the same for both of a pair: a margin knows nothing of it
    torch.testing.assert_close(inpo(shifted, traj, pairs, eta=eta, tau=tau).terms, inpo(found, traj, pairs, eta=eta, tau=tau).terms)
    log_step = preference @ acting / eta + tau / eta * reference.probabilities().log() + (1 - tau / eta) * acting.log()
    torch.testing.assert_close(policy.probabilities(), log_step.softmax(0).detach(), rtol=1e-4, atol=1e-6)


def test_dno_steps_as_soft_policy_iteration_does():
    _, _, preference, traj = enumerated()
    old = Tabular(3, 2, spread=0.5, seed=7)
    rate = preference @ old.probabilities().detach()
    policy, pairs = Tabular(3, 2), every_pair(torch.sigmoid(rate[:, None] - rate))
    minimise(policy, lambda: dno(policy.evaluate(traj), traj, pairs, eta=0.2).terms.mean())
    torch.testing.assert_close(policy.probabilities(), old.optimum(rate, 0.2).probabilities(), rtol=1e-3, atol=1e-5)
    before, after = (p.probabilities().detach() @ rate for p in (old, policy))  # each plays against the old policy
    assert float(before) == pytest.approx(0.5)
    assert after > 0.505


def test_the_family_meets_in_dpo():
    _, reward, _, traj = enumerated()
    policy, pairs = Tabular(3, 2, spread=1.0, seed=3).evaluate(traj), every_pair((reward[:, None] > reward).double())
    wanted = dpo(policy, traj, pairs, beta=0.3).terms
    same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)
    same(rpo(policy, traj, pairs, beta=0.3, eta=0.0).terms, wanted)
    same(dpo(policy, traj, pairs, beta=0.3, label_smoothing=0.0).terms, wanted)
    torch.testing.assert_close(robust_dpo(policy, traj, pairs, beta=0.3, flip_rate=0.0).terms, wanted)
    acting = traj.replace(logp={"ref": traj.logp["old"]})
    same(dno(policy, traj, pairs, eta=0.3).terms, dpo(policy, acting, pairs, beta=0.3).terms)
    single = pairs._replace(**{name: getattr(pairs, name)[3:4] for name in pairs._fields})
    torch.testing.assert_close(aot(policy, traj, single, beta=0.3).terms, wanted[3:4])


def test_rpo_adds_the_gradient_of_the_winners_likelihood_times_eta_and_beta():
    traj, logp, pairs = two_answers(1.0)
    ours = torch.autograd.grad(rpo(Evaluation(logp, {}), traj, pairs, beta=0.5, eta=0.3).terms.sum(), logp)[0]
    plain = torch.autograd.grad(dpo(Evaluation(logp, {}), traj, pairs, beta=0.5).terms.sum(), logp)[0]
    torch.testing.assert_close((ours - plain)[:, 0], torch.tensor([-0.15, 0.0], dtype=torch.float64))


def test_the_bound_behind_rpo_holds_for_any_reward():
    # max over pi of E r - beta KL(pi, ref), less E r of the winners, is beta times their negative log-ratio under the optimum
    reference, reward, _, _ = enumerated()
    beta, winners = 0.7, torch.softmax(torch.arange(9.0).double(), 0)
    best = reference.optimum(reward, beta).probabilities()
    ref = reference.probabilities()
    value = best @ reward - beta * best @ (best / ref).log()
    torch.testing.assert_close(value - winners @ reward, -beta * winners @ (best / ref).log())


def test_closed_values_without_a_reference():
    # Winner: two actions of log-probability log 0.5 and log 0.25, mean -1.5 log 2; loser: one of log 0.25, mean -2 log 2.
    traj = four_answers().select(torch.tensor([1, 3]))
    logp = torch.tensor([[0.5, 0.25], [0.25, torch.nan]], dtype=torch.float64).log()
    pairs, two = Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1)), math.log(2)
    # beta (p_w - p_l) - gamma = 2 (0.5 log 2) - 0.5
    wanted = math.log1p(math.exp(0.5 - two))
    assert float(simpo(Evaluation(logp, {}), traj, pairs, beta=2.0, gamma=0.5).terms) == pytest.approx(wanted)
    # odds: p = 2^-1.5 gives 2^-1.5 / (1 - 2^-1.5), p = 1/4 gives 1/3
    ratio = (2**-1.5 / (1 - 2**-1.5)) / (1 / 3)
    wanted = 1.5 * two + 0.1 * math.log1p(1 / ratio)
    assert float(orpo(Evaluation(logp, {}), traj, pairs, weight=0.1).terms) == pytest.approx(wanted)


def test_orpo_has_a_gradient_that_is_a_number_for_a_certain_answer():
    traj, _, pairs = two_answers(0.0)
    logp = torch.tensor([[0.0, 0, 0], [-1e-12, 0, 0]], dtype=torch.float64).requires_grad_()
    output = orpo(Evaluation(logp, {}), traj, pairs)
    output.terms.sum().backward()
    assert output.terms.isfinite().all()
    assert logp.grad.isfinite().all()


def test_sppo_and_nca_have_their_optima_where_they_should():
    traj, logp, pairs = two_answers(2 * 1 / (2 * 0.5))
    assert sppo_hard(Evaluation(logp, {}), traj, pairs, beta=0.5).terms.abs().max() < 1e-20
    traj, logp, pairs = two_answers(2 * math.log(2) / 0.5)
    nca_pair(Evaluation(logp, {}), traj, pairs, beta=0.5).terms.sum().backward()
    assert logp.grad[0, 0].abs() < 1e-12 < logp.grad[1, 0]


def test_bco_lies_above_dpo():
    _, _, preference, traj = enumerated()
    policy, pairs = Tabular(3, 2, spread=1.0, seed=3).evaluate(traj), every_pair(preference)
    assert (bco_pair(policy, traj, pairs).terms > dpo(policy, traj, pairs).terms).all()


def test_exo_is_the_divergence_the_other_way_round():
    traj, logp, pairs = two_answers(3.0)
    q = 1 / (1 + math.exp(-0.4 * 3))
    divergence = q * math.log(q / 0.7) + (1 - q) * math.log((1 - q) / 0.3)
    value = exo_pair(Evaluation(logp.detach(), {}), traj, pairs, beta=0.4, label_smoothing=0.3).terms
    assert float(value) == pytest.approx(divergence)
    traj, logp, pairs = two_answers(math.log(0.7 / 0.3) / 0.4)
    assert float(exo_pair(Evaluation(logp.detach(), {}), traj, pairs, beta=0.4, label_smoothing=0.3).terms) == pytest.approx(
        0, abs=1e-12
    )


def test_equal_distributions_of_margins_cost_aot_log_two_whatever_the_pairs():
    # The policy's margins are the reference's, only at other pairs: nothing is dominated, though single pairs have moved.
    traj = four_answers().replace(mask=torch.tensor([[True, False, False]] * 4))
    ref = torch.zeros(4, 3)
    ref[:, 0] = torch.tensor([-1.0, -3.0, -2.0, -2.5])  # margins 2 and 0.5
    logp = ref[torch.tensor([2, 3, 0, 1])]
    traj = traj.replace(logp={"ref": ref})
    pairs = Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    torch.testing.assert_close(aot(Evaluation(logp, {}), traj, pairs, beta=1.0).terms, torch.full((2,), math.log(2)))
    assert dpo(Evaluation(logp, {}), traj, pairs, beta=1.0).terms[0] > 1


@pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
def test_what_every_loss_on_pairs_keeps(loss):
    traj = four_answers()
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.where(traj.mask, -2 * torch.rand(4, 3, generator=generator), torch.nan)
    traj = traj.replace(logp={"ref": draw(), "old": draw()})  # what lies beyond the end is no number
    pairs = Pairs(torch.tensor([[0, 1], [3, 2]]), torch.tensor([1.0, 0.3]), torch.ones(2))
    base = draw()
    logp = base.clone().requires_grad_()
    output = loss(Evaluation(logp, {}), traj, pairs)
    assert output.terms.shape == (2,)
    output.terms.sum().backward()
    assert output.terms.isfinite().all()
    assert logp.grad.isfinite().all()
    assert not logp.grad[~traj.mask].any()
    # the other order of a pair with the other label is the same pair
    turned = Pairs(pairs.index.flip(1), 1 - pairs.label, pairs.weight)
    torch.testing.assert_close(loss(Evaluation(base, {}), traj, turned).terms, output.terms.detach())
    # rows in another order
    rows = torch.tensor([2, 0, 3, 1])
    place = torch.empty(4, dtype=torch.int64).scatter(0, rows, torch.arange(4))
    moved = loss(Evaluation(base[rows], {}), traj.select(rows), pairs._replace(index=place[pairs.index]))
    torch.testing.assert_close(moved.terms, output.terms.detach())
    # nothing to compare: no loss, no NaN, and still something to go backward from
    none = Pairs(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    empty = loss(Evaluation(logp, {}), traj, none)
    assert empty.terms.shape == (0,)
    assert not empty.metrics
    logp.grad = None
    empty.terms.sum().backward()
    assert not logp.grad.any()
    # other dtypes: half-precision log-probabilities beside a float64 reference and labels
    mixed = traj.replace(logp={name: value.double() for name, value in traj.logp.items()})
    half = loss(Evaluation(base.bfloat16(), {}), mixed, pairs._replace(label=pairs.label.double()))
    torch.testing.assert_close(half.terms.float(), output.terms.detach(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("loss", [f for f in ALL if f not in (sppo_hard, ipo, inpo)], ids=lambda f: f.__name__)
def test_no_margin_is_too_large_to_count(loss):
    for margin in (-400.0, 400.0):
        traj, logp, pairs = two_answers(margin, torch.float32)
        logp = logp.detach().clamp(max=-1e-3).requires_grad_()
        output = loss(Evaluation(logp, {}), traj, pairs)
        output.terms.sum().backward()
        assert output.terms.isfinite().all()
        assert logp.grad.isfinite().all()


def test_metrics_say_how_pairs_are_ordered():
    traj = four_answers()  # log-ratios 1.5, 1, 1.5, 0.5
    pairs = Pairs(torch.tensor([[0, 1], [3, 2], [0, 2]]), torch.tensor([1.0, 1.0, 0.5]), torch.ones(3))
    metrics = dpo(Evaluation(traj.logp["old"], {}), traj, pairs).metrics
    assert metrics == pytest.approx({"accuracy": 0.5, "margin": -0.25, "chosen": 1.0, "rejected": 1.25})


def test_what_makes_no_sense_is_refused():
    traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1))
    evaluation = Evaluation(traj.logp["old"], {})
    with pytest.raises(ValueError, match=r"dpo: beta must be > 0, got 0"):
        dpo(evaluation, traj, pairs, beta=0.0)
    with pytest.raises(ValueError, match="label_smoothing must lie in"):
        dpo(evaluation, traj, pairs, label_smoothing=0.5)
    with pytest.raises(ValueError, match="labels are probabilities"):
        dpo(evaluation, traj, pairs._replace(label=torch.tensor([2.0])))
    with pytest.raises(ValueError, match=r"inpo: tau must lie in 0\.\.eta"):
        inpo(evaluation, traj, pairs, eta=0.1, tau=0.2)
    with pytest.raises(ValueError, match="rpo: eta must be >= 0"):
        rpo(evaluation, traj, pairs, eta=-1.0)
    traj.logp.pop("ref")
    with pytest.raises(ValueError, match=r"dpo: needs traj.logp\['ref'\]"):
        dpo(evaluation, traj, pairs)
