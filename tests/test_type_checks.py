"""The tests' own type checks: they do check, and leave off where they say."""

import inspect

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from type_checks import CALLS, first_calls


@jaxtyping.jaxtyped(typechecker=first_calls)
def joined(left: Float[Tensor, " N"], right: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    return left + right[: len(left)]


def test_the_first_calls_are_held_to_their_annotations_and_later_ones_are_believed():
    short, long = torch.zeros(2), torch.zeros(3)
    with pytest.raises(jaxtyping.TypeCheckError):
        joined(short, long)
    for _ in range(CALLS):
        joined(short, short)
    assert joined(short, long).tolist() == [0, 0]


def test_the_package_is_under_the_hook(monkeypatch):
    from payoff.credit.returns import total
    from payoff.examples import four_answers

    monkeypatch.setattr(inspect.unwrap(total), "__no_type_check__", False, raising=False)  # however often it was called before
    with pytest.raises(jaxtyping.TypeCheckError):
        total("no channel", four_answers())
