"""Sets that are compared, and statistics over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.sets import members_of, owner, rank, sets, siblings, statistics, sums

YES = torch.ones(1, dtype=torch.bool)


def of(values, key=None, where=None, **options):
    x = torch.as_tensor(values, dtype=torch.float32)
    key = torch.zeros(len(x), dtype=torch.int64) if key is None else torch.tensor(key)
    where = torch.ones(len(x), dtype=torch.bool) if where is None else torch.tensor(where)
    return x, statistics(x, key, where, **options)


def numbers(s):
    return s.count, s.mean, s.std, s.low, s.high, s.others_mean, s.equal


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 16, 33])
@pytest.mark.parametrize("value", [0.1, 0.97, 1 / 3, 1e-30, 1e30, -0.7, 16777217.0])
def test_equal_members_have_exactly_their_value_as_mean_and_zero_spread(size, value):
    x, s = of([value] * size)
    assert s.equal.all()
    assert (x - s.mean).abs().max() == 0
    assert (x - s.others_mean).abs().max() == 0
    assert s.std.abs().max() == 0


def test_statistics_of_a_worked_group():
    # [1, 0, 0, 0]: mean 1/4, squared deviations 9/16 + 3/16 = 3/4, so std with ddof 1 is 1/2 and with ddof 0 is sqrt(3)/4
    _x, s = of([1, 0, 0, 0])
    assert s.mean.tolist() == [0.25] * 4
    assert of([1, 0, 0, 0, 0])[1].mean[0] == 1 / 5  # rounded once: pass rates are compared with bounds
    assert s.std.tolist() == [0.5] * 4
    assert of([1, 0, 0, 0], ddof=0)[1].std[0] == pytest.approx(3**0.5 / 4)
    assert s.others_mean.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert (s.low[0], s.high[0], s.count[0]) == (0, 1, 4)


def test_members_without_verdict_take_part_in_nothing_and_cannot_poison_it():
    _x, s = of([1, float("nan"), 3, float("inf")], where=[True, False, True, False])
    assert s.count.tolist() == [2] * 4
    assert s.mean.tolist() == [2] * 4
    assert s.others_mean[:3].tolist() == [3, 2, 1]


def test_a_set_where_nothing_counts_is_all_zero_and_equal():
    _x, s = of([5, 6], where=[False, False])
    assert s.mean.tolist() == s.std.tolist() == s.low.tolist() == s.high.tolist() == [0, 0]
    assert s.equal.all()


def test_a_set_of_one_is_its_own_mean():
    _x, s = of([2, 5], key=[0, 1])
    assert s.mean.tolist() == s.others_mean.tolist() == [2, 5]
    assert s.std.tolist() == [0, 0]


def test_huge_and_tiny_scales_survive():
    _x, s = of([3e38, -3e38])
    assert s.mean.tolist() == [0, 0]
    assert s.std[0] == pytest.approx(3e38 * 2**0.5, rel=1e-6)
    assert of([1e-40, 2e-40])[1].std[0] > 0


def test_statistics_are_differentiable_and_a_set_of_equals_has_a_finite_gradient():
    x = torch.tensor([1.0, 1.0, 2.0, 5.0], requires_grad=True)
    key = torch.tensor([0, 0, 1, 1])
    s = statistics(x, key, torch.ones(4, dtype=torch.bool))
    (s.mean[0] + s.mean[2] + s.std.sum()).backward()
    # d mean/dx = 1/2 each; d std/dx of {2, 5} with ddof 1 is +-1/sqrt(2), counted by two entries
    assert x.grad.tolist() == pytest.approx([0.5, 0.5, 0.5 - 2 / 2**0.5, 0.5 + 2 / 2**0.5])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_statistics_ignore_order_and_the_names_of_sets(seed, n):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 3, (n,), generator=generator).float()
    key = torch.randint(0, 5, (n,), generator=generator)
    where = torch.rand(n, generator=generator) > 0.3
    names = torch.tensor([10**12, -5, 7, 10**9, 0])
    order = torch.randperm(n, generator=generator)
    a = statistics(x, key, where)
    b = statistics(x[order], names[key][order], where[order])
    for left, right in zip(numbers(a), numbers(b), strict=True):
        assert torch.allclose(left[order].double(), right.double(), rtol=0, atol=1e-12)


def test_rank_orders_within_sets_and_breaks_ties_by_id():
    x = torch.tensor([1.0, 3.0, 3.0, 9.0, 2.0])
    key = torch.tensor([0, 0, 0, 1, 0])
    where = torch.tensor([True, True, True, True, False])
    assert rank(x, key, where, id=torch.tensor([0, 8, 5, 1, 2])).tolist() == [2, 1, 0, 0, 3]


def test_sets_by_name():
    traj = four_answers()
    assert sets(traj, "batch").unique().numel() == 1
    assert sets(traj, "group")[:, 0].tolist() == [0, 0, 1, 1]
    step = sets(traj, "step")
    assert step[0, 1] == step[1, 1] != step[2, 1]
    several = traj.replace(extras={"batch": torch.tensor([0, 1, 0, 0])})
    assert sets(several, "group")[:, 0].unique().numel() == 3
    with pytest.raises((ValueError, TypeError), match=r"over must be|Literal"):
        sets(traj, "everything")  # type: ignore[arg-type]


def tree():
    """0 has branches 4 and 5 at action 1; 4 has a branch 6 at action 2; 1 left a trajectory (77) that is not here."""
    traj = four_answers().select(torch.tensor([0, 2, 0, 2, 2]))
    return traj.replace(
        group=torch.tensor([0, 1, 0, 0, 0]),
        id=torch.tensor([0, 1, 4, 5, 6]),
        parent=torch.tensor([-1, 77, 0, 0, 4]),
        fork=torch.tensor([0, 1, 1, 1, 2]),
    )


def test_siblings_left_the_same_trajectory_at_the_same_action_and_a_root_joins_its_branches():
    key = siblings(tree()).tolist()
    assert key[0] == key[2] == key[3]  # 4 and 5 are branches of 0, and 0 itself is one more sample there
    assert len({key[0], key[1], key[4]}) == 3  # 4 stays among its siblings and does not join its own branch 6


def test_siblings_without_branches_are_alone():
    assert siblings(four_answers()).unique().numel() == 4


def test_every_shared_action_has_one_owner():
    assert owner(tree()).tolist() == [[0, 0, 0], [77, 1, 1], [0, 4, 4], [0, 5, 5], [0, 4, 6]]


@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("by_step", [False, True])
def test_sets_that_come_in_order_are_as_those_that_are_looked_up(columns, by_step):
    rng = torch.Generator().manual_seed(columns or 0)
    shape = (12,) if columns is None else (12, columns)
    x, where = torch.randint(0, 3, shape, generator=rng).float() / 7, torch.rand(shape, generator=rng) > 0.3
    where[:4] = True
    key = 5 * (torch.arange(12) // 4) + 10**12
    if columns is not None:
        key = key[:, None] * (columns if by_step else 1) + (torch.arange(columns) if by_step else torch.zeros(columns).long())
    order = torch.randperm(12, generator=rng)
    assert type(members_of(key)) is not type(members_of(key[order]))
    a, b = statistics(x, key, where), statistics(x[order], key[order], where[order])
    for left, right in zip(numbers(a), numbers(b), strict=True):
        assert torch.allclose(left[order].double(), right.double(), rtol=1e-12, atol=0)
    if columns is not None:  # the same sets, by the row's number alone
        for rows in (torch.arange(12), order):
            of_row = key[rows, 0] if by_step else key[rows, :1].expand(shape)
            number, by_row = statistics(x[rows], key[rows], where[rows]), statistics(x[rows], of_row, where[rows])
            assert all(map(torch.equal, numbers(number), numbers(by_row)))
    assert torch.allclose(sums(x, key)[order], sums(x[order], key[order]), rtol=1e-12)
    if columns is None:
        for ids in (torch.arange(12), torch.randperm(12, generator=rng)):
            assert torch.equal(rank(x, key, where, ids)[order], rank(x[order], key[order], where[order], ids[order]))
