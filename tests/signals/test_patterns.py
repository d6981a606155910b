import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.pipeline import Verdict
from payoff.signals.patterns import PHRASES, reasoning_pattern_reward, repetition, rlsp

NUMBERS = " ".join(map(str, range(40)))


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("a b c d", 1, 0.0),
        ("a a a a", 1, -0.75),
        ("a b a b", 2, -1 / 3),
        ("a b c a b c", 3, -0.25),
        ("A a", 1, -0.5),
        ("", 1, 0.0),
        ("a b", 3, 0.0),
    ],
)
def test_repetition_by_hand(text, n, value):
    assert repetition(text, n=n) == pytest.approx(value)


def test_repetition_by_characters_needs_no_spaces():
    assert repetition("哈哈哈哈", n=1, words=False) == -0.75
    assert repetition("哈哈哈哈", n=1) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=8), st.integers(1, 3))
def test_more_copies_are_never_worth_more(words, n):
    paid = [repetition(" ".join(words * copies), n=n) for copies in (1, 2, 3, 8)]
    assert paid == sorted(paid, reverse=True)
    assert all(-1 < pay <= 0 for pay in paid)
    with pytest.raises(ValueError, match="n must be"):
        repetition("a", n=0)


def test_there_are_forty_phrases_each_once():
    assert len(PHRASES) == len(set(PHRASES)) == 40
    assert reasoning_pattern_reward(". ".join(PHRASES), enough=40) == 1.0


def test_a_phrase_counts_once_as_a_whole_word_in_any_case():
    assert reasoning_pattern_reward("Hence") == 1 / 20
    assert reasoning_pattern_reward("hence hence Hence, HENCE.") == 1 / 20
    assert reasoning_pattern_reward("henceforth awaits") == 0.0
    assert reasoning_pattern_reward("let me\n  check") == 1 / 20


def test_a_phrase_within_another_is_found_too():
    assert reasoning_pattern_reward("on second thought") == 2 / 20
    assert reasoning_pattern_reward("then x", phrases=("then", "then x"), enough=2) == 1.0


def test_only_the_thinking_is_read_where_there_is_one():
    assert reasoning_pattern_reward("<think>wait</think> hence thus", enough=2) == 0.5
    assert reasoning_pattern_reward("hence <think>wait", enough=2) == 0.5


def test_the_repetition_term_is_the_papers():
    # 4 words and k copies of 40 that differ: 4 + 40 k - 19 grams of 20 words; 40 distinct ones come again, 21 of them at k = 2
    said = "wait hence thus since " + NUMBERS
    assert reasoning_pattern_reward(said, enough=4) == 1.0
    twice, often = (reasoning_pattern_reward("wait hence thus since " + " ".join([NUMBERS] * k), enough=4) for k in (2, 10))
    assert twice == pytest.approx(1 - 21 / (84 - 19))
    assert often == pytest.approx(1 - 40 / (404 - 19))


def test_playing_the_others_turn_costs_all():
    assert reasoning_pattern_reward("wait hence <|im_start|>", enough=2) == 0.0


def test_with_a_grader_right_answers_get_their_verdict_and_wrong_ones_the_pattern():
    pay = lambda said: reasoning_pattern_reward(said, "7", enough=4, correct="answer-match")
    assert pay("wait hence <answer>7</answer>") == 1.0
    assert pay("wait hence <answer>8</answer>") == 0.5
    assert pay("<answer>8</answer>") == 0.0
    verdict = reasoning_pattern_reward("wait", None, correct="answer-match")
    assert isinstance(verdict, Verdict)
    assert not verdict.valid
    with pytest.raises(ValueError, match="enough, n >= 1"):
        reasoning_pattern_reward("x", phrases=())


def rest(response, **options):
    return rlsp(response, "7", **options)


def test_rlsp_by_hand():
    # 40 tokens of 4 characters before the box: 20 / 40
    assert rest("x" * 160 + r"\boxed{7}") == pytest.approx(0.5)
    assert rest("x" * 160 + r"\boxed{8}") == pytest.approx(-0.5)
    # no box: 0.5 off, and all of it counts as thinking; "The answer is 7" is 16 characters
    assert rest("The answer is 7.") == pytest.approx(0.5 - 5.0)
    # effort: 0.8 (1) + 0.2 (0.5)
    assert rlsp("x" * 160 + r"\boxed{7}", "7", 0.5) == pytest.approx(0.9 - 0.5)
    assert rest(r"\boxed{7}", scale=0.0) == 1.0


def test_nothing_before_the_box_costs_most_and_is_no_division_by_zero():
    assert rest(r"\boxed{7}") == rest(r"xxxx\boxed{7}") == 1.0 - 20.0


def test_the_bonus_rises_ever_more_slowly():
    paid = [rest("x" * 4 * k + r"\boxed{7}") for k in (1, 2, 3, 10, 11, 100, 101)]
    assert paid == sorted(paid)
    assert paid[1] - paid[0] > paid[4] - paid[3] > paid[6] - paid[5] > 0


def test_rlsp_gives_no_verdict_where_it_cannot():
    for verdict in (rlsp("7", None), rlsp(r"\boxed{7}", "7", 1.5), rlsp(r"\boxed{7}", "7", float("nan"))):
        assert isinstance(verdict, Verdict)
        assert not verdict.valid
    with pytest.raises(ValueError, match="scale, no_box >= 0"):
        rest("7", scale=-1.0)


@pytest.mark.parametrize(
    "response", ["wait " * 40_000, "<think>" * 40_000, r"\boxed{" * 30_000, "\x00" * 200_000, "let me " * 30_000]
)
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert -1 < repetition(response) <= 0
    assert 0 <= reasoning_pattern_reward(response) <= 1
    assert rest(response) < 1
    assert time.process_time() - start < 2.0
