"""Fast passes over [N, T]: each gives what torch's plain form gives, whatever lies where nothing counts."""

import math

import pytest
import torch

from payoff.advantages import arrays
from payoff.advantages.actions import written_out
from payoff.examples import four_answers
from payoff.trajectories import Channel

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture(params=DTYPES, ids=str)
def spoilt(request, monkeypatch):
    """(x, where) with NaN and infinities wherever nothing counts, in several blocks with a short last one."""
    monkeypatch.setattr(arrays, "ENTRIES", 4 * 6)
    rng = torch.Generator().manual_seed(0)
    where = torch.rand(11, 6, generator=rng) > 0.4
    x = torch.randn(11, 6, generator=rng).to(request.param)
    x[~where] = torch.tensor([math.nan, math.inf, -math.inf], dtype=x.dtype).repeat(66)[: int((~where).sum())]
    return x, where


def test_what_counts_stays_to_the_bit_and_the_rest_is_zero(spoilt):
    x, where = spoilt
    expected = torch.where(where, x, 0)
    assert torch.equal(arrays.clean(x, where), expected)
    assert torch.equal(arrays.keep_(x.t().clone().t(), where), expected)  # not contiguous
    mine = x.clone()
    assert arrays.keep_(mine, where) is mine
    assert torch.equal(mine, expected)


def test_what_is_not_below_its_rows_number_is_found_in_every_dtype(spoilt):
    x, where = spoilt
    x, out = torch.where(where, x, 0), torch.empty_like(where)
    assert torch.equal(arrays.at_least(x, x[:, 2:3], out=out), x >= x[:, 2:3])
    assert torch.equal(out, x >= x[:, 2:3])


@pytest.mark.parametrize("filled", [False, True])
def test_rows_come_cleaned_or_filled_and_all_of_them_once(spoilt, filled):
    x, where = spoilt
    fill = torch.arange(11.0)[:, None].to(x.dtype) - 5 if filled else None
    seen = torch.full_like(x, 7, dtype=torch.float64)
    for rows, part in arrays.cleaned(x, where, torch.float64, fill=fill):
        seen[rows] = part
    assert torch.equal(seen, torch.where(where, x, 0 if fill is None else fill).double())


def test_weights_multiply_what_counts_and_gradients_do_not_meet_what_does_not(spoilt):
    x, where = spoilt
    weight = torch.where(where, 0.5, math.nan).to(x.dtype)
    assert torch.equal(arrays.weighed(x, lambda rows: weight[rows].clone(), where), torch.where(where, x * 0.5, 0))
    value = x.clone().requires_grad_()
    arrays.weighed(value, lambda rows: weight[rows], where).sum().backward()
    assert torch.equal(value.grad, torch.where(where, 0.5, 0.0).to(x.dtype))


def test_centred_is_the_difference_and_gradients_do_not_meet_what_does_not_count(spoilt):
    x, where = spoilt
    middle, scale = torch.ones(11, 1, dtype=x.dtype), torch.full((11, 1), 0.5, dtype=x.dtype)
    expected = torch.where(where, (x - 1) * 0.5, 0)
    assert torch.equal(arrays.centred(x, middle, where, scale), expected)
    middle.requires_grad_()
    result = arrays.centred(x, middle, where, scale)
    assert torch.equal(result.detach(), expected)
    result.sum().backward()
    assert torch.equal(middle.grad, -0.5 * where.sum(1, keepdim=True).to(x.dtype))


def test_a_column_is_written_out_with_its_gradient_and_infinities_stay_where_they_belong():
    traj, yes = four_answers(), torch.ones(4, 1, dtype=torch.bool)
    column = torch.tensor([[1.0], [math.inf], [-2.0], [0.5]])
    assert torch.equal(written_out(Channel(column, yes), traj), torch.where(traj.mask, column, 0))
    column = torch.tensor([[1.0], [3.0], [-2.0], [0.5]], requires_grad=True)
    written_out(Channel(column, yes), traj).sum().backward()
    assert column.grad[:, 0].tolist() == [3, 2, 3, 1]


def test_runs_are_found_and_repeated_in_order():
    steps = torch.tensor([0, 0, 1, 1, 1, -1, 0])
    begins = torch.cat([torch.ones(1, dtype=torch.bool), arrays.changes(steps)])
    at = arrays.positions(begins)
    assert at.tolist() == [0, 2, 5, 6]
    assert torch.equal(arrays.repeated(steps[at], torch.diff(at, append=torch.tensor([7]))), steps)
    assert arrays.repeated(torch.tensor([1.5, 2.0], dtype=torch.bfloat16), torch.tensor([2, 1])).tolist() == [1.5, 1.5, 2.0]
    numbers = torch.tensor([1.0, 2.0], requires_grad=True)
    arrays.repeated(numbers, torch.tensor([3, 1])).sum().backward()
    assert numbers.grad.tolist() == [3, 1]
