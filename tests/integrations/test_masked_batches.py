"""Rewards, masks and groups of a token trainer as trajectories, and what comes back."""

import math

import numpy as np
import pytest
import torch

from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.integrations.masked_batches import (
    channel_of,
    estimate,
    loss_terms,
    step_texts,
    trajectories_of,
    turns_of,
    with_options,
)
from payoff.losses.policy_gradient import policy_gradient, ppo_clip

NAN = math.nan


class Letters:
    """A tokenizer whose id 1 is an end without text, and 2 to 28 are letters, 29 a semicolon."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join(";" if int(i) == 29 else chr(95 + int(i)) for i in ids if int(i) > 1)


def test_a_row_ends_with_its_last_action_or_its_last_payment():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    paid = torch.tensor([[0.0] * 4, [0.0, 0.0, 0.0, 1.0], [0.0] * 4, [0.0, NAN, 0.0, 0.0]])
    traj = trajectories_of(mask, paid=paid, index=["a", "b", "b", "a"]).check()
    assert traj.length.tolist() == [2, 4, 1, 2]
    assert traj.group[0] == traj.group[3] != traj.group[1] == traj.group[2]
    assert traj.step.tolist() == [[0, 0, -1, -1], [0, 0, 1, 1], [0, -1, -1, -1], [0, 0, -1, -1]]


def test_groups_are_equal_values_of_whatever_a_trainer_names_them_with():
    keys = [np.array(["x", "x"]), np.array([3, 3]), torch.tensor([3, 3])]
    for key in keys:
        group = trajectories_of(torch.ones(2, 1), index=list(key)).group
        assert group[0] == group[1]


def test_turns_begin_where_the_policy_speaks_again():
    mask = torch.tensor([[0, 1, 0, 1, 1, 0, 1]]).bool()
    assert turns_of(mask).tolist() == [[0, 0, 0, 1, 1, 1, 2]]
    assert turns_of(torch.zeros(1, 2, dtype=torch.bool)).tolist() == [[0, 0]]


def test_a_reward_that_is_not_a_number_takes_part_in_nothing_and_gets_nothing():
    paid = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, NAN], [0.0, 5.0]])
    mask = torch.ones(4, 2)
    found = estimate(paid, mask, [total, grpo], index=["a", "a", "a", "b"])
    # Without the third row, the first two are one standard deviation from their mean; the fourth is alone.
    assert found.advantages.tolist() == [[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert found.returns.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [5.0, 5.0]]


def test_an_unknown_step_costs_what_comes_before_it_and_nothing_else():
    paid = torch.tensor([[NAN, 1.0], [0.0, 0.0]])
    found = estimate(paid, torch.ones(2, 2), [return_to_go, leave_one_out], index=["a", "a"])
    assert found.advantages[0, 0] == 0
    assert torch.isfinite(found.advantages).all()


def test_equal_rewards_that_trainers_turn_into_noise_are_exactly_nothing():
    paid = torch.full((12, 1), 0.97)
    found = estimate(paid, torch.ones(12, 1), [total, lambda c, t: grpo(c, t, convention="openrlhf")], index=[0] * 12)
    assert (found.advantages == 0).all()


def test_tool_text_gets_no_weight():
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    found = estimate(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), mask, [total, leave_one_out], index=[0, 0])
    assert found.advantages.tolist() == [[1.0, 0.0, 1.0], [-1.0, -1.0, 0.0]]


def test_a_loss_gets_the_policy_that_acted_and_gives_terms_with_gradient():
    old = torch.full((2, 2), -1.0)
    new = (old + math.log(2)).requires_grad_()
    mask = torch.tensor([[1, 1], [1, 0]])
    terms, metrics = loss_terms(ppo_clip, new, old, torch.tensor([[1.0], [-1.0]]), mask)
    assert terms.tolist() == [pytest.approx([-1.2, -1.2]), pytest.approx([2.0, 0.0])]
    terms.sum().backward()
    assert new.grad.tolist() == [[0.0, 0.0], [2.0, 0.0]]  # beyond the bound in the direction asked for, no gradient
    assert metrics["clip_fraction"] == pytest.approx(2 / 3)


def test_padding_of_any_kind_changes_no_term():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    clean = -torch.rand(2, 3)
    dirty = torch.where(mask.bool(), clean, NAN)
    advantages = torch.where(mask.bool(), torch.tensor([[1.0], [2.0]]), NAN)
    ours, _ = loss_terms(ppo_clip, dirty, dirty, advantages, mask)
    theirs, _ = loss_terms(ppo_clip, clean, clean, torch.tensor([[1.0], [2.0]]), mask)
    assert torch.equal(ours, theirs)


def test_a_loss_of_whole_trajectories_has_no_place_in_a_token_trainer():
    whole = lambda evaluation, traj, target: policy_gradient(evaluation, traj, target)._replace(terms=torch.zeros(2))
    with pytest.raises(ValueError, match=r"gives \[2\], and this trainer averages one term per token, \[2, 1\]"):
        loss_terms(whole, torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, 1), torch.ones(2, 1))


def test_options_that_a_part_does_not_have_or_has_bound_are_left_alone():
    import functools

    assert with_options(policy_gradient, {"low": 0.1}) is policy_gradient
    bound = with_options(functools.partial(ppo_clip, low=0.3), {"low": 0.1, "high": 0.2, "else": 1})
    assert bound.keywords == {"low": 0.3, "high": 0.2}


def test_steps_end_with_the_separator_and_with_the_turn():
    ids = torch.tensor([2, 29, 3, 4, 29, 5, 1])  # a ; b c ; d END
    step, texts = step_texts(ids, torch.tensor([1, 1, 1, 0, 1, 1, 1]).bool(), Letters(), ";")
    assert step.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert texts == ["a;", "bc", ";", "d"]
    step, texts = step_texts(ids, torch.ones(7, dtype=torch.bool), Letters(), None)
    assert (step.tolist(), texts) == ([0] * 7, ["a;bc;d"])


def test_an_end_without_text_opens_no_step():
    step, texts = step_texts(torch.tensor([2, 29, 1]), torch.ones(3, dtype=torch.bool), Letters(), ";")
    assert (step.tolist(), texts) == ([0, 0, 0], ["a;"])


def test_a_channel_of_a_reward_tensor_is_unknown_exactly_where_it_is_not_finite():
    channel = channel_of(torch.tensor([[1.0, NAN, math.inf, -2.0]]))
    assert channel.value.tolist() == [[1.0, 0.0, 0.0, -2.0]]
    assert channel.valid.tolist() == [[True, False, False, True]]
