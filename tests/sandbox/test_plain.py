"""The format between processes that do not trust each other: what it holds, what it refuses, and when two values are the same."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.sandbox.plain import NotPlainError, dump, load, plain, same, untagged

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
HASHABLE = st.recursive(SCALARS, lambda inside: st.tuples(inside, inside) | st.frozensets(inside, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inside: st.lists(inside, max_size=4) | st.tuples(inside) | st.dictionaries(HASHABLE, inside, max_size=3),
    max_leaves=12,
)


@settings(max_examples=20, deadline=None)
@given(VALUES)
def test_what_is_written_reads_back_the_same_with_every_type(value):
    assert same(load(dump(value)), value)
    assert plain(value)


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "[1]", "[]", '["q",1]', '{"a":1}', "1.5", "NaN", "Infinity", '["i",1]', '["i","zz"]', '["d",[1]]',
     '["c","0x1p0"]',
     '["s",["l"]]',
     '["f","x"]', '["b","0"]', "[" * 10_000, '["l",' * 300 + "1" + "]" * 300,
     "9" * 5000, "\xff", "nul", '["f","1e999"'],
)  # fmt: skip
def test_any_other_text_is_refused(text):
    with pytest.raises(NotPlainError):
        load(text)


def test_members_chosen_to_collide_are_refused_before_they_take_time():
    step = (1 << 61) - 1
    hostile = '["s",' + ",".join(f'["i","{k * step:x}"]' for k in range(1, 4_000)) + "]"
    with pytest.raises(NotPlainError, match="one and the same hash"):
        load(hostile)


@pytest.mark.parametrize(
    "value", [object(), type("N", (int,), {})(1), bytearray(b"a"), range(2), math.sin, [{1: object()}], iter(())]
)
def test_what_is_not_plain_is_named(value):
    with pytest.raises(NotPlainError, match="not plain data"):
        dump(value)
    assert not plain(value)


def test_depth_is_bounded_on_both_sides():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(NotPlainError, match="deep"):
        dump(deep)


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, True), (1, 1.0), ([1], (1,)), ({1}, frozenset({1})), ({1: 2}, {True: 2}),
     ({1}, {1.0}), ("a", b"a"), (None, False), (0, None),
     ({(1,): 1}, {(1.0,): 1}), ([1, 2], [1]), (math.inf, -math.inf), (math.nan, 0.0)],
)  # fmt: skip
def test_values_of_other_types_are_other_values(a, b):
    assert not same(a, b)
    assert not same(b, a)
    assert same(a, a)
    assert same(b, b)


def test_tolerance_reaches_lists_tuples_and_values_but_not_keys_and_sets():
    near = {"tolerance": 1e-3}
    assert same([(1.0005,)], [(1.0,)], **near)
    assert same({"a": 1 + 1.0005j}, {"a": 1 + 1j}, **near)
    assert not same({1.0005}, {1.0}, **near)
    assert not same({1.0005: 1}, {1.0: 1}, **near)
    assert not same(math.inf, 1e300, tolerance=1e9)


@pytest.mark.parametrize(
    "value", [{"$set": 1}, {"$bytes": "zz"}, {"$nothing": 1}, {"$dict": [[1]]}, {"$float": "x"}, {"$set": [[1]]}]
)
def test_tags_that_stand_for_nothing_are_refused(value):
    with pytest.raises(NotPlainError):
        untagged(value)


def test_an_object_with_several_keys_is_no_tag():
    assert untagged({"$set": [1], "b": 2}) == {"$set": [1], "b": 2}
