"""Credit against true advantages: exact cases, what must change nothing, intervals, and truth from continuations."""

import functools
import math

import pytest
import torch

from payoff.advantages.baselines import subtract_values
from payoff.audit.credit import cost_of, credit_metrics, credit_quality, exact_advantages, exact_credit, sampled_advantages
from payoff.credit.returns import immediate, lambda_return, return_to_go, total
from payoff.enumeration import every_sequence
from payoff.pipeline import Start, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, place_outcome, prefix_gains

REWARD = torch.tensor([0.0, 1.0, 0.25, 0.0, 0.5, 0.0, 1.0, 1.0], dtype=torch.float64)


def tree(*, seed=1, critic=False):
    return Tabular(2, 3, spread=1.0, seed=seed, critic=critic)


def sample(n=40, rollouts=4):
    policy = tree()
    traj = policy.rollout([Start(str(i), {}) for i in range(n)], rollouts, torch.Generator().manual_seed(0))
    return policy, traj, exact_advantages(policy, REWARD, traj)


def known(value):
    return Channel(value, torch.ones_like(value, dtype=torch.bool))


def numbers(quality):
    return [x.value for x in (quality.cosine, quality.correlation, quality.share)] + [quality.even, quality.known]


def test_the_advantage_itself_as_credit_has_cosine_one_and_no_bias():
    policy = tree()
    table = exact_advantages(policy, REWARD, policy.sequences())

    def target(rewards, traj):
        return known(table[traj.extras["leaf"]])

    found = exact_credit(policy, target, {"reward": REWARD}, REWARD)
    assert found.cosine.value == pytest.approx(1, abs=1e-12)
    assert found.correlation.value == pytest.approx(1, abs=1e-12)
    assert (found.share.value, found.known) == (pytest.approx(1), 1.0)
    assert found.climb.bias < 1e-9
    assert found.climb.cosine == pytest.approx(1, abs=1e-12)
    assert found.cosine.low == found.cosine.high
    assert found.cosine.method == "exact"


def test_one_step_of_a_perfect_critic_is_the_advantage():
    policy = tree(critic=True)
    with torch.no_grad():
        policy.critic[0] = policy.state_values(REWARD)
    path = [functools.partial(lambda_return, trace=0.0), subtract_values]
    found = exact_credit(policy, weigh({"reward": path}), {"reward": REWARD}, REWARD)
    assert found.cosine.value == pytest.approx(1, abs=1e-12)
    assert found.climb.bias < 1e-9


def test_in_a_bandit_immediate_total_and_return_are_one_credit_without_bias():
    policy = Tabular(3, 1, spread=1.0, seed=2)
    reward = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = [exact_credit(policy, weigh({"reward": [c]}), {"reward": reward}, reward) for c in (immediate, total, return_to_go)]
    assert found[0] == found[1] == found[2]
    # Q less its mean is all there is to know about a bandit
    assert found[0].correlation.value == pytest.approx(1, abs=1e-12)
    assert found[0].climb.bias < 1e-9


def test_numbers_of_the_total_worked_by_hand():
    # uniform over aa ab ba bb, bb pays 1: V = 1/4; A = -+1/4 first, -+1/2 after b, 0 after a. E[c A] = 3/16, E[c^2] = 1/2,
    # E[A^2] = 3/16; less means by state (1/4; 1/2 after b) E[c'^2] = 3/16 + 1/8; E|c'| = 3/8 first + 1/4 second, where A != 0
    right = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    found = exact_credit(Tabular(2, 2), weigh({"reward": [total]}), {"reward": right}, right)
    assert found.cosine.value == pytest.approx((3 / 16) / math.sqrt(1 / 2 * 3 / 16))
    assert found.correlation.value == pytest.approx((3 / 16) / math.sqrt(5 / 16 * 3 / 16))
    assert found.share.value == pytest.approx(1)
    assert found.even == pytest.approx(3 / 4)


def test_a_free_action_takes_its_part_of_the_total_and_none_of_the_advantage():
    # the first letter is free, the second decides: V = 1/2 throughout
    right = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    found = exact_credit(Tabular(2, 2), weigh({"reward": [total]}), {"reward": right}, right)
    assert (found.share.value, found.even) == (pytest.approx(0.5), pytest.approx(0.5))
    assert exact_advantages(Tabular(2, 2), right, Tabular(2, 2).sequences())[:, 0].abs().max() == 0


def test_what_a_state_fixes_changes_neither_correlation_nor_share():
    policy, traj, advantage = sample()
    credit = known(total(place_outcome(REWARD[:8].repeat(20), torch.ones(160, dtype=torch.bool), traj), traj).value.expand(160, 3))
    state = policy.prefixes(traj)
    plain = credit_quality(credit, advantage, traj, state=state)
    shifted = credit_quality(known(credit.value + 5 + state), advantage, traj, state=state)
    for name in ("correlation", "share"):
        a, b = getattr(plain, name), getattr(shifted, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    assert plain.cosine.value != pytest.approx(shifted.cosine.value)


def test_a_factor_changes_no_quality_and_a_minus_turns_the_sign():
    _, traj, advantage = sample()
    credit = known(advantage + 0.3)
    plain, scaled, turned = (credit_quality(known(f * credit.value), advantage, traj) for f in (1.0, 1000.0, -1.0))
    assert numbers(plain) == pytest.approx(numbers(scaled))
    assert turned.cosine.value == pytest.approx(-plain.cosine.value)
    assert turned.share.value == pytest.approx(plain.share.value)


def test_rows_in_another_order_and_groups_by_another_name_change_nothing():
    policy, traj, advantage = sample()
    noise = torch.randn(advantage.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    credit = advantage + noise
    order = torch.randperm(len(traj), generator=torch.Generator().manual_seed(2))
    shuffled = traj.select(order).replace(group=7 - 3 * traj.group[order])
    one = credit_quality(known(credit), advantage, traj, state=policy.prefixes(traj))
    other = credit_quality(known(credit[order]), advantage[order], shuffled, state=policy.prefixes(shuffled))
    assert numbers(one) == pytest.approx(numbers(other))
    assert (one.cosine.low, one.share.high) == pytest.approx((other.cosine.low, other.share.high))


def test_padding_and_weights_that_are_not_known_are_never_read():
    policy = Tabular(3, 3, stop=2, spread=1.0)
    traj = every_sequence(policy)
    reward = torch.linspace(0, 1, len(traj)).double()
    advantage = exact_advantages(policy, reward, traj)
    credit, p = advantage.roll(1, 0) + advantage, policy.probabilities().detach()
    valid = torch.ones_like(credit, dtype=torch.bool)
    valid[3, 0] = False
    spoilt = torch.where(traj.exists & valid, credit, torch.nan)
    state = policy.prefixes(traj)
    far = torch.where(traj.exists, state, 10**9)
    clean = credit_quality(Channel(credit, valid), advantage, traj, state=state, probability=p)
    other = credit_quality(
        Channel(spoilt, valid), torch.where(traj.exists & valid, advantage, torch.nan), traj, state=far, probability=p
    )
    assert clean == other
    assert clean.known == pytest.approx(1 - 1 / int(traj.own.sum()))


def test_where_nothing_matters_no_credit_is_good_or_bad():
    policy, flat = tree(), torch.full((8,), 0.7, dtype=torch.float64)
    found = exact_credit(policy, weigh({"reward": [total]}), {"reward": REWARD}, flat)
    assert found.cosine is None
    assert found.correlation is None
    assert (found.share.value, found.even) == (0.0, 0.0)
    assert math.isnan(found.climb.bias)
    silent = exact_credit(policy, weigh({"reward": [total]}), {"reward": 0 * REWARD}, REWARD)
    assert silent.cosine is None
    assert silent.share is None
    assert silent.climb.bias == pytest.approx(1)
    assert math.isnan(silent.climb.noise)


def test_nothing_known_is_no_number_and_no_error():
    _, traj, advantage = sample(3)
    found = credit_quality(Channel(0 * advantage, torch.zeros_like(advantage, dtype=torch.bool)), advantage, traj)
    assert (found.cosine, found.correlation, found.share, found.even, found.known) == (None, None, None, None, 0.0)


def test_the_threshold_leaves_out_what_moved_little():
    traj = every_sequence(Tabular(2, 1))
    advantage = torch.tensor([[0.02], [-0.5]], dtype=torch.float64)
    found = [credit_quality(known(advantage), advantage, traj, threshold=t) for t in (0.0, 0.1)]
    assert [f.even for f in found] == [1.0, 0.5]
    with pytest.raises(ValueError, match="threshold"):
        credit_quality(known(advantage), advantage, traj, threshold=-1.0)


def test_intervals_are_of_groups_and_hold_the_exact_number():
    policy = tree()
    leaves = every_sequence(policy)
    advantage = exact_advantages(policy, REWARD, leaves)
    credit = total(place_outcome(REWARD, torch.ones(8, dtype=torch.bool), leaves), leaves).value
    exact = credit_quality(
        known(credit), advantage, leaves, state=policy.prefixes(leaves), probability=policy.probabilities().detach()
    )
    _, traj, found = sample(300, 2)
    leaf = (traj.actions * torch.tensor([4, 2, 1])).sum(1)
    drawn = credit_quality(known(credit[leaf]), found, traj, state=policy.prefixes(traj))
    for name in ("cosine", "correlation"):
        interval = getattr(drawn, name)
        assert interval.low < getattr(exact, name).value < interval.high
        assert interval.n == 300
    # every group twice over, under one number: the same information
    twice = traj.select(torch.arange(600).repeat(2))
    again = credit_quality(known(credit[leaf].repeat(2, 1)), found.repeat(2, 1), twice, state=policy.prefixes(twice))
    assert again.cosine.low == pytest.approx(drawn.cosine.low)


def truth(traj):
    leaf = (traj.actions * torch.tensor([4, 2, 1])).sum(1)
    return place_outcome(REWARD[leaf], torch.ones(len(traj), dtype=torch.bool), traj)


def test_advantages_from_continuations_are_the_exact_ones_within_their_error():
    policy = tree()
    traj = policy.sequences()
    exact = exact_advantages(policy, REWARD, traj)
    found = sampled_advantages(policy, truth, traj, n=500, rng=torch.Generator().manual_seed(3))
    off = (found.value - exact).abs()
    assert bool((off <= 4.5 * found.error + 1e-12).all())
    assert 0 < float(found.error.max()) < 0.05
    assert found.cost[:3] == (12_000, 500 * 8 * (3 + 2 + 1), 1)
    assert bool(found.valid.all())
    # every trajectory's advantages add up to its truth less the value of where it began
    assert found.value.sum(1).tolist() == pytest.approx((REWARD - policy.state_values(REWARD)[0]).tolist(), abs=0.1)


def test_all_actions_of_a_step_have_the_steps_advantage():
    policy = Tabular(2, 3, spread=1.0, seed=1, step_length=2)
    traj = policy.sequences()
    by_step = sampled_advantages(policy, truth, traj, n=400, rng=torch.Generator().manual_seed(4))
    value = policy.state_values(REWARD)[policy.prefixes(traj)].detach()
    wanted = torch.stack([value[:, 2] - value[:, 0], value[:, 2] - value[:, 0], REWARD - value[:, 2]], 1)
    assert torch.equal(by_step.value[:, 0], by_step.value[:, 1])
    assert float((by_step.value - wanted).abs().max()) < 0.1
    per_action = sampled_advantages(policy, truth, traj, n=2, rng=torch.Generator().manual_seed(4), unit="action")
    assert (by_step.cost.rollouts, per_action.cost.rollouts) == (8 * 2 * 400, 8 * 3 * 2)


def test_the_error_of_the_truth_is_taken_off_again():
    policy, traj, exact = sample(400, 1)
    found = sampled_advantages(policy, truth, traj, n=4, rng=torch.Generator().manual_seed(5))
    plain = credit_quality(known(exact), found.value, traj).cosine.value
    corrected = credit_quality(known(exact), found.value, traj, error=found.error)
    assert plain < 0.93
    assert corrected.cosine.value == pytest.approx(1, abs=0.04)
    assert corrected.correlation.value == pytest.approx(1, abs=0.04)


def test_a_prefix_without_verdicts_leaves_its_steps_unknown():
    policy = tree()
    traj = policy.sequences()

    def silent_after_b(some):
        channel = truth(some)
        return place_outcome(channel.value.sum(1), some.actions[:, 0] == 0, some)

    found = sampled_advantages(policy, silent_after_b, traj, n=40, rng=torch.Generator().manual_seed(6))
    assert found.valid[:4].all()
    assert not found.valid[4:].any()
    assert float(found.value[4:].abs().max()) == 0.0


def test_one_verdict_is_no_estimate_and_an_unknown_end_leaves_its_last_unit_unknown():
    policy = tree()
    traj = policy.sequences()

    def said(some, branches, ends):
        known_ = (torch.arange(len(some)) % 2 < branches) if len(some) > len(traj) else torch.arange(len(traj)) >= ends
        return place_outcome(truth(some).value.sum(1), known_, some)

    draw = lambda judge: sampled_advantages(policy, judge, traj, n=2, rng=torch.Generator().manual_seed(6)).valid
    assert not draw(functools.partial(said, branches=1, ends=0))[:, :2].any()
    assert draw(functools.partial(said, branches=2, ends=1)).tolist() == [[True, True, False]] + [[True] * 3] * 7


def test_a_run_is_told_its_credit_where_it_and_the_truth_are_known_and_less_the_truths_noise():
    policy, traj, exact = sample(200, 2)

    def silent_after_b(some):
        return place_outcome(truth(some).value.sum(1), some.actions[:, 0] == 0, some)

    credit = known(torch.where(traj.actions[:, :1] == 0, exact, 9.0))
    found = credit_metrics(policy, silent_after_b, credit, traj, n=4, rng=torch.Generator().manual_seed(5))
    assert found["credit/cosine"] == pytest.approx(1, abs=0.05)
    assert 0.5 < found["credit/known"] <= float((traj.actions[:, 0] == 0).double().mean())


def test_a_single_continuation_has_no_error_to_state():
    with pytest.raises(ValueError, match="at least 2"):
        sampled_advantages(tree(), truth, tree().sequences(), n=1, rng=torch.Generator())


def test_progress_of_exact_values_is_the_advantage_and_that_of_continuations_costs_rollouts():
    policy = tree()
    traj = policy.sequences()
    value = torch.cat([policy.state_values(REWARD)[policy.prefixes(traj)], REWARD[:, None]], 1).detach()
    gains = prefix_gains(value, traj)
    assert torch.allclose(gains, exact_advantages(policy, REWARD, traj))
    rng = torch.Generator().manual_seed(0)
    _, cost = cost_of(policy, lambda counted: sampled_advantages(counted, truth, traj, n=2, rng=rng))
    assert cost[:3] == (48, 96, 1)
    assert cost.seconds > 0
