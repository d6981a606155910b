"""What a blind reader could tell: letters, shares, chance."""

import random
from collections import Counter

import pytest

from payoff.signals.reader import caprl, chosen_letter, shuffled_question


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" (b). ", "B"),
        ("C) because the cat is red", "C"),
        ("D: red", "D"),
        ("A cat sat on a mat", None),
        ("I'd say the answer is C, since B is blue.", "C"),
        ("Answer: A. No, the answer is B", "B"),
        ("The correct option is **D**.", "D"),
        ("the answer is a dog", None),
        ("", None),
        ("?" * 100_000, None),
        ("answer " * 50_000 + "answer: B", "B"),
    ],
)
def test_letters_that_are_chosen(text, letter):
    assert chosen_letter(text) == letter


def test_the_share_of_right_answers_leaves_out_the_unanswered():
    keys = [{"key": k} for k in "ABCD"]
    assert caprl(["A", "B", "A", None], keys).value == pytest.approx(2 / 3)
    assert caprl(["dunno"] * 4, keys).value == 0


@pytest.mark.parametrize(
    ("said", "questions"), [([], []), (["A"], [{"key": "A"}] * 2), (["A"], [{"key": "red"}]), ([None], [{"key": "A"}])]
)
def test_where_nothing_was_measured_there_is_no_verdict(said, questions):
    assert not caprl(said, questions).valid


def test_fresh_orders_put_the_key_everywhere_and_always_at_the_right_option():
    question = {"question": "Which?", "options": ["red", "blue", "green", "grey"], "answer": 2}
    rng, places = random.Random(1), Counter()
    for _ in range(400):
        text, key = shuffled_question(question, rng)
        assert f"{key}. green" in text.split("\n")
        places[key] += 1
    assert set(places) == set("ABCD")
    assert min(places.values()) > 70  # a reader who always says A earns about a quarter
