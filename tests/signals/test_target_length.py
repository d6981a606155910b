"""Lengths that are asked for."""

import pytest

from payoff.signals.target_length import target_length


def test_the_distance_from_the_length_that_is_wanted():
    assert [target_length("a " * n, 4, scale=8.0, unit="words") for n in (0, 4, 6, 40)] == [0.5, 1.0, 0.75, 0.0]
    assert [target_length("a " * n, 4, scale=8.0, unit="words", one_sided=True) for n in (0, 4, 6)] == [1.0, 1.0, 0.75]
    assert target_length("", 4096, ["a"] * 5096, unit="tokens") == 1 - 1000 / 8192
    assert target_length("abc", 1, scale=4.0, unit="characters") == 0.5


@pytest.mark.parametrize(("wanted", "tokens"), [(None, []), (-1, []), (float("nan"), []), (True, []), (3, None)])
def test_no_length_to_compare_with_no_verdict(wanted, tokens):
    assert not target_length("a", wanted, tokens, unit="tokens").valid


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="scale > 0 and unit"):
        target_length("a", 1, scale=0.0)
