"""What a blind reader could tell: letters, shares, chance."""

import itertools
import random
from collections import Counter

import pytest

from payoff.signals.reader import caprl, chosen_letter, questions_that_tell, shuffled_question


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


def test_questions_are_kept_that_the_picture_alone_answers():
    keys = [{"key": "B"}] * 5
    seen = [["B", "B"], ["B", "C"], ["B"], [None], ["B", None]]
    blind = [["A", "B"], ["A", "A"], ["B", "The answer is B"], ["A"], [None]]
    assert questions_that_tell(keys, seen, blind) == [0]
    assert questions_that_tell(keys, seen, blind, most=0.4) == []
    assert questions_that_tell(keys, seen, blind, least=0.5, most=1.0) == [0, 1, 2]
    with pytest.raises(ValueError, match="zip"):
        questions_that_tell(keys, seen, blind[:4])


def test_more_questions_mean_less_spread_and_what_is_said_wrong_raises_nothing():
    keys = [{"key": "A"}] * 4
    for m in (1, 4):  # of m independent answers, right with 1/2: mean 1/2, variance 1 / (4 m)
        scores = [caprl(list(said), keys[:m]).value for said in itertools.product("AB", repeat=m)]
        mean = sum(scores) / len(scores)
        assert mean == pytest.approx(0.5)
        assert sum((score - mean) ** 2 for score in scores) / len(scores) == pytest.approx(1 / (4 * m))
    assert caprl(["A", "B"], keys[:2]).value < caprl(["A", "A"], keys[:2]).value


def test_what_a_caption_says_is_worth_its_share_and_chance_of_the_rest():
    # r of 6 attributes stated, 4 options each: (r + (6 - r) / 4) / 6 on average over a guesser's answers
    for stated in (0, 3, 6):
        total = 0.0
        for guess in "ABCD":  # a reader that answers every unknown question with one letter, keys evenly spread over four rows
            for shift in range(4):
                keys = [{"key": "ABCD"[(k + shift) % 4]} for k in range(6)]
                answers = [keys[k]["key"] if k < stated else guess for k in range(6)]
                total += caprl(answers, keys).value
        assert total / 16 == pytest.approx((stated + (6 - stated) / 4) / 6)
