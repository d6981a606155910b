"""The one-step mass balance (card brorl): against the derivative it splits, and what more rollouts do to its parts."""

import pytest
import torch

from payoff.audit.mass_balance import mass_balance

F64 = torch.float64


def drawn(seed: int, size: int = 12):
    rng = torch.Generator().manual_seed(seed)
    p = torch.randn(size, generator=rng, dtype=F64).softmax(0)
    right = torch.rand(size, generator=rng) < 0.4
    right[0], right[1] = True, False
    return p, right, torch.rand(size, generator=rng) < 0.5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rewards", [(1.0, -1.0), (1.0, 0.0), (0.3, -2.0)])
def test_the_parts_add_up_to_the_derivative_of_the_mass_along_the_step(seed, rewards):
    p, right, sampled = drawn(seed)
    paid = torch.where(right, *torch.tensor(rewards, dtype=F64)) * sampled
    logits = p.log().requires_grad_()
    mass = logits.softmax(0)[right].sum()
    step = 0.01 * p * (paid - p @ paid)
    slope = float(torch.autograd.grad(mass, logits)[0] @ step)
    found = mass_balance(p, right, sampled, reward_right=rewards[0], reward_wrong=rewards[1], step=0.01)
    assert found.change == pytest.approx(slope, abs=1e-15)
    assert found.right >= 0
    assert found.wrong >= 0


def test_with_everything_sampled_right_answers_never_lose():
    for seed in range(20):
        p, right, _ = drawn(seed)
        found = mass_balance(p, right, torch.ones_like(right))
        assert found.unsampled == 0
        assert found.change >= 0


def test_without_a_mean_reward_nothing_is_coupled():
    p = torch.tensor([0.2, 0.2, 0.5, 0.1], dtype=F64)
    found = mass_balance(p, torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False]))
    assert found.unsampled == pytest.approx(0)
    assert found.change > 0


def test_a_large_right_answer_that_was_not_sampled_can_cost_more_than_what_was_sampled_gains():
    # one small right answer is sampled; the mean reward is positive; the large right answer is not sampled and is pushed down
    p, right = torch.tensor([0.05, 0.6, 0.35], dtype=F64), torch.tensor([True, True, False])
    found = mass_balance(p, right, torch.tensor([True, False, False]))
    assert found.unsampled < 0
    assert found.change < 0


def test_the_chance_of_a_loss_and_the_expected_loss_fall_as_more_is_sampled():
    # exact: every set of sampled answers of a small vocabulary, by the chance that n draws hit exactly these
    p = torch.tensor([0.6, 0.05, 0.25, 0.06, 0.04], dtype=F64)
    right = torch.tensor([True, True, False, False, True])
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 5)

    def exactly(n: int) -> torch.Tensor:
        within = (masks.to(F64) @ p) ** n  # all draws inside the set
        contained = (masks[:, None, :] >= masks[None, :, :]).all(2)  # subset by inclusion and exclusion
        sign = (-1.0) ** (masks.sum(1)[:, None] - masks.sum(1)[None, :]).to(F64)
        return torch.where(contained, sign * within[None, :], 0).sum(1)

    losses, chances = [], []
    for n in (1, 2, 4, 8, 16, 64):
        chance = exactly(n)
        assert float(chance.sum()) == pytest.approx(1)
        change = torch.tensor([mass_balance(p, right, m).change for m in masks], dtype=F64)
        losses.append(float(chance @ change.clamp(max=0)))
        chances.append(float(chance @ (change < -1e-12).to(F64)))
    assert losses == sorted(losses)
    assert chances == sorted(chances, reverse=True)
    assert chances[0] == pytest.approx(0.09)  # one of the two small right answers alone
    assert chances[-1] < 1e-12


def test_scaling_rewards_scales_no_single_part_but_signs_stay_and_refusals():
    p, right, sampled = drawn(3)
    one, two = (mass_balance(p, right, sampled, reward_right=x, reward_wrong=-x) for x in (1.0, 2.0))
    assert two.change == pytest.approx(2 * one.change)
    with pytest.raises(ValueError, match="reward_right >= 0"):
        mass_balance(p, right, sampled, reward_wrong=0.5)
    with pytest.raises(ValueError, match="add up to 1"):
        mass_balance(2 * p, right, sampled)
