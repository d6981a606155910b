"""Fusion with stored neighbours and the corners of a hull, by hand."""

import pytest
import torch

from payoff.models.consistent_rewards import fused, outermost

F64 = torch.float64


def test_fusion_is_the_weighted_mean_of_the_nearest_and_without_any_the_reward_itself():
    reward, stored = torch.tensor([1.0, 1.0, 1.0], dtype=F64), torch.tensor([5.0, -3.0, 100.0], dtype=F64)
    similarity = torch.tensor([[1.0, 0.9, 0.89], [0.95, 0.0, 0.2], [0.5, 0.4, 0.3]], dtype=F64)
    expected = [(1 + 1.0 * 5 + 0.9 * -3) / 2.9, (1 + 0.95 * 5) / 1.95, 1.0]
    assert fused(reward, stored, similarity).tolist() == pytest.approx(expected)
    assert fused(reward, stored, similarity, most=1).tolist() == pytest.approx([3.0, (1 + 0.95 * 5) / 1.95, 1.0])
    assert fused(reward, stored, similarity, most=0).tolist() == [1.0, 1.0, 1.0]
    constant = fused(torch.full((3,), 7.0, dtype=F64), torch.full((3,), 7.0, dtype=F64), similarity)
    assert constant.tolist() == pytest.approx([7.0] * 3)
    assert fused(reward, stored[:0], similarity[:, :0]).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="least must be > 0"):
        fused(reward, stored, similarity, least=0.0)


def test_the_corners_of_a_hull_are_kept_whatever_plane_it_lies_in():
    flat = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0], [2.0, 1.0], [2.0, 0.0], [4.0, 0.0]], dtype=F64)
    kept = [True, True, True, True, False, False, False]  # inside; on an edge; the same as another
    assert outermost(flat).tolist() == kept
    turned = torch.linalg.qr(torch.randn(5, 5, dtype=F64, generator=torch.Generator().manual_seed(0))).Q[:2]
    assert outermost(flat @ turned + 11).tolist() == kept
    order = torch.tensor([4, 0, 5, 3, 1, 2])
    assert outermost(flat[order]).tolist() == [kept[k] for k in order.tolist()]


def test_fewer_than_three_different_points_or_a_line_have_no_hull():
    assert outermost(torch.zeros(0, 3)).tolist() == []
    assert outermost(torch.ones(3, 4)).tolist() == [True, False, False]
    assert outermost(torch.tensor([[1.0, 2.0], [5.0, 2.0]])).tolist() == [True, True]
    assert outermost(torch.tensor([[0.0], [3.0], [1.0], [-2.0]])).tolist() == [False, True, False, True]
