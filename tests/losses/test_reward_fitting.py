"""Losses for fitting a reward: what they reduce to, where they are least, and the one step of MetaRM by hand."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from payoff.losses.reward_fitting import info_nce, meta_gradient, pair_loss, parting, to_flip


def test_without_options_it_is_bradley_and_terrys_loss_and_a_soft_label_is_met_at_its_logit():
    chosen, rejected = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    assert torch.equal(pair_loss(chosen, rejected), -logsigmoid(chosen - rejected))
    assert pair_loss(chosen, rejected, margin=chosen - rejected).tolist() == pytest.approx([math.log(2)] * 7)
    strength = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    at = strength.clone().requires_grad_()
    pair_loss(at, torch.zeros_like(at), label=torch.sigmoid(strength)).sum().backward()
    assert at.grad.abs().max() < 1e-12
    turned = pair_loss(chosen, rejected, label=0.25) - pair_loss(rejected, chosen, label=0.75)
    assert turned.abs().max() < 1e-12


def test_the_anchor_has_its_least_where_the_two_add_up_to_nothing():
    at = torch.tensor([math.log(3) / 2], dtype=torch.float64, requires_grad=True)  # the label's logit apart: log(.75 / .25)
    other = (-at.detach()).requires_grad_()
    pair_loss(at, other, label=0.75, anchor=0.5).sum().backward()
    assert at.grad.item() == pytest.approx(0.0, abs=1e-12)
    assert other.grad.item() == pytest.approx(0.0, abs=1e-12)
    moved, also = (x.detach() + 1 for x in (at, other))
    without = pair_loss(moved, also, label=0.75) - pair_loss(at, other, label=0.75)
    assert without.item() == pytest.approx(0.0, abs=1e-12)
    assert (pair_loss(moved, also, anchor=0.5) - pair_loss(at, other, anchor=0.5)).item() == pytest.approx(0.5 * 2**2)


def test_the_weakest_share_is_turned_round_and_twice_is_as_before():
    strength = torch.tensor([0.5, -2.0, -2.0, 3.0])
    assert to_flip(strength, 0.5).tolist() == [False, True, True, False]
    assert to_flip(strength, 0.25).tolist() == [False, True, False, False]
    assert not to_flip(strength, 0.0).any()
    assert to_flip(strength, 1.0).all()


def test_contrast_of_one_pair_is_nothing_of_alike_ones_the_log_of_their_number_and_of_orthogonal_ones_known():
    assert info_nce(torch.randn(1, 5), torch.randn(1, 5), temperature=0.1).item() == 0.0
    alike = torch.randn(1, 5).expand(6, 5)
    assert info_nce(alike, 3 * alike, temperature=0.1).tolist() == pytest.approx([math.log(6)] * 6, abs=1e-5)
    eye = torch.eye(3, dtype=torch.float64)
    assert info_nce(eye, eye, temperature=1.0).tolist() == pytest.approx([math.log(math.e + 2) - 1] * 3)


def test_parting_lies_in_its_range_ignores_order_and_stands_still_at_a_tie():
    scores, group = torch.tensor([3.0, 1.0, 1.0, 1.0, 9.0], dtype=torch.float64), torch.tensor([4, 4, 2, 2, 2])
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    expected = [2 / 9 * (0.5 + 2 * sigmoid(8)), 0.5 * sigmoid(2)]  # group 2: one tie and two gaps of 8; group 4: one gap of 2
    assert parting(scores, group).tolist() == pytest.approx(expected)
    order = torch.tensor([4, 1, 3, 0, 2])
    assert parting(scores[order], group[order]).tolist() == pytest.approx(expected)
    for k in (2, 3, 5):
        one = torch.zeros(k, dtype=torch.long)
        assert parting(torch.zeros(k, dtype=torch.float64), one).item() == pytest.approx((k - 1) / (2 * k))
        assert parting(1e3 * torch.arange(k).double(), one).item() == pytest.approx((k - 1) / k)
    tied = torch.zeros(3, requires_grad=True)
    parting(tied, torch.zeros(3, dtype=torch.long)).sum().backward()
    assert tied.grad.tolist() == [0.0, 0.0, 0.0]


def test_the_meta_gradient_is_taken_where_the_weights_would_be_and_leaves_them():
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    objective, loss = (lambda: (3 * w).sum()), (lambda: (w.square() * w).sum())  # gradients 3, and 3 w^2
    assert meta_gradient([w], objective, loss, step=0.5) == pytest.approx(2.5**3 - 0.5**3)
    assert w.tolist() == [1.0, -2.0]
    assert w.grad.tolist() == pytest.approx([3 * 2.5**2, 3 * 0.5**2])  # at 1 + 1.5 and -2 + 1.5
    w.grad = None
    meta_gradient([w], objective, loss, step=0.0)
    assert w.grad.tolist() == pytest.approx([3.0, 12.0])

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        meta_gradient([w], objective, fails, step=0.5)
    assert w.tolist() == [1.0, -2.0]


def test_options_out_of_range_are_refused():
    one = torch.zeros(1)
    for refused in (
        lambda: pair_loss(one, one, label=1.5),
        lambda: pair_loss(one, one, anchor=-1.0),
        lambda: to_flip(one, 2.0),
        lambda: info_nce(one[:, None], one[:, None], temperature=0.0),
    ):
        with pytest.raises(ValueError, match="must"):
            refused()
