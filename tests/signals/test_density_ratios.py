"""Payments by the ratio of two models: what they add up to, what they climb, and what clipping breaks."""

import pytest
import torch

from payoff.credit.returns import return_to_go
from payoff.enumeration import every_sequence, paid
from payoff.exact import compare, credit_gradient, exact_gradient
from payoff.examples import four_answers
from payoff.pipeline import weighted_sum
from payoff.policies.tabular import Tabular
from payoff.signals.density_ratios import contrast_of_contexts, implicit_step_rewards, preference_tilt

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)
REFERENCE = Tabular(3, 3, stop=2, spread=0.5, seed=2)
TREE, BETA = POLICY.tree, 0.7
REWARD = torch.randn(len(TREE), generator=torch.Generator().manual_seed(0), dtype=F64)


def leaves():
    """Every sequence with what the reference and the exact optimum say of it."""
    traj = every_sequence(POLICY)
    best = REFERENCE.optimum(REWARD, BETA)
    return traj.replace(logp={"ref": REFERENCE.evaluate(traj).logp.detach(), "dpo": best.evaluate(traj).logp.detach()})


def test_payments_of_the_exact_optimum_add_up_to_the_soft_value_of_every_prefix():
    traj = leaves()
    found = preference_tilt(traj, scale=BETA, clip=None)["rto"].value.cumsum(1)
    soft, values = REFERENCE.soft_values(REWARD, BETA)
    after = soft.flatten()[TREE.edge] - values[0]  # the soft value once the action is taken
    torch.testing.assert_close(torch.where(TREE.exists, found, 0), torch.where(TREE.exists, after.detach(), 0))
    torch.testing.assert_close(found.gather(1, TREE.length[:, None] - 1)[:, 0], REWARD - values[0].detach())
    clipped = preference_tilt(traj, scale=BETA, clip=0.05)["rto"].value
    assert clipped.abs().max() == 0.05
    assert (clipped.sum(1) - (REWARD - values[0].detach())).abs().max() > 0.1


@pytest.mark.parametrize("clip", [None, 0.05])
def test_with_the_reward_they_climb_the_reward_and_the_whole_ratio(clip):
    traj = leaves()
    tilt = preference_tilt(traj, scale=BETA, clip=clip)["rto"]
    both = weighted_sum({"rto": tilt, "reward": paid({"x": REWARD})(traj)["x"]}, {"rto": 1.0, "reward": 1.0})
    climbed = credit_gradient(POLICY, return_to_go(both, traj))
    torch.testing.assert_close(climbed, exact_gradient(POLICY, REWARD + tilt.value.sum(1)), rtol=0, atol=1e-9)
    found = compare(climbed, exact_gradient(POLICY, REWARD))
    if clip is None:  # the reward twice over
        assert (found.scale, found.residual) == pytest.approx((2, 0), abs=1e-9)
    else:
        assert found.residual > 1e-3


def test_the_contrast_is_bounded_odd_and_nothing_where_contexts_agree():
    rng = torch.Generator().manual_seed(0)
    a, b = (-10 * torch.rand(4, 3, generator=rng) for _ in range(2))
    pay = lambda x, y: contrast_of_contexts(four_answers().replace(logp={"better": x, "worse": y}))["t-reg"].value
    assert pay(a, b).abs().max() < 0.5
    assert torch.equal(pay(a, b), -pay(b, a))
    assert not pay(a, a).any()
    three = torch.full((4, 3), 3.0).log()  # odds of three to one: 3/4 - 1/2
    assert pay(three - 2, torch.full((4, 3), -2.0))[0].tolist() == pytest.approx([0.25] * 3)


def test_steps_add_up_to_the_whole_ratio_and_credited_to_the_end_climb_it():
    traj = leaves().replace(step=torch.where(TREE.exists, torch.arange(3) // 2, -1).int())
    traj = traj.replace(logp={"prm": traj.logp["dpo"]})
    found = implicit_step_rewards(traj, beta=0.3)["oprl"]
    whole = 0.3 * (traj.logp["prm"] - traj.logp["old"]).sum(1)
    torch.testing.assert_close(found.value.sum(1), whole)
    # a step of two actions is paid at its end: the first action is credited with both
    torch.testing.assert_close(credit_gradient(POLICY, return_to_go(found, traj)), exact_gradient(POLICY, whole), rtol=0, atol=1e-9)


def test_equal_models_pay_nothing_and_tool_text_is_paid_nothing():
    traj = four_answers().replace(logp={"prm": four_answers().logp["old"]})
    assert not implicit_step_rewards(traj)["oprl"].value.any()
    mask = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    spoilt = torch.where(mask, -0.5, torch.nan)
    traj = four_answers().replace(mask=mask, logp=dict.fromkeys(("dpo", "prm", "better", "worse"), spoilt))
    for signal in (preference_tilt, implicit_step_rewards, contrast_of_contexts):
        (channel,) = signal(traj).values()
        assert channel.value.isfinite().all()
        assert channel.value[0, 1] == 0


@pytest.mark.parametrize("signal", [preference_tilt, implicit_step_rewards, contrast_of_contexts])
def test_the_models_must_have_been_asked(signal):
    with pytest.raises(ValueError, match=r"needs traj.logp\['(dpo|prm|better)'\]; there are \['old', 'ref'\]"):
        signal(four_answers())


def test_scales_must_be_positive():
    with pytest.raises(ValueError, match=r"scale and clip must be > 0, got 0.05 and 0"):
        preference_tilt(four_answers(), clip=0.0)
    with pytest.raises(ValueError, match="beta must be > 0, got -1"):
        implicit_step_rewards(four_answers(), beta=-1.0)
