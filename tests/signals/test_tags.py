import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.pipeline import Verdict
from payoff.signals.tags import language_consistency, script_of, tags


@pytest.mark.parametrize(
    ("response", "whole", "loose"),
    [
        ("<think>a</think><answer>b</answer>", 1.0, 1.0),
        (" <think>a\n</think>\n\n<answer></answer> ", 1.0, 1.0),
        ("so <think>a</think><answer>b</answer>", 0.0, 1.0),
        ("<think>a</think> so <answer>b</answer>", 0.0, 1.0),
        ("<think>a</think><answer>b</answer>.", 0.0, 1.0),
        ("<answer>b</answer><think>a</think>", 0.0, 0.0),
        ("<think><answer>b</answer></think>", 0.0, 0.0),
        ("<think>a<answer></think>b</answer>", 0.0, 0.0),
        ("<think><think>a</think></think><answer>b</answer>", 0.0, 0.0),
        ("<think>a</think><answer>b", 0.0, 0.0),
        ("<think>a</think><answer>b</answer></answer>", 0.0, 0.0),
        ("<Think>a</Think><answer>b</answer>", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_tags_each_once_in_order_and_not_within_one_another(response, whole, loose):
    assert tags(response) == whole
    assert tags(response, only=False) == loose


def test_the_share_of_tags_grows_with_each_of_them():
    said = ["", "<think>", "<think></think>", "<think></think><answer>", "<think></think><answer></answer>"]
    assert [tags(one, parts=True) for one in said] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert tags("<think><think>", parts=True) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["<a>", "</a>", "<b>", "</b>", "x", " "]), max_size=6).map("".join))
def test_the_whole_form_is_what_a_plain_expression_matches(response):
    import re

    inside = r"(?:(?!</?[ab]>).)*"
    expected = re.fullmatch(rf"\s*<a>{inside}</a>\s*<b>{inside}</b>\s*", response) is not None
    assert tags(response, names=("a", "b")) == float(expected)


@pytest.mark.parametrize("names", [(), ("a", "a"), ("",), ("a b",), ("<a>",)])
def test_names_must_be_names(names):
    with pytest.raises(ValueError, match="names of tags"):
        tags("x", names=names)


@pytest.mark.parametrize(
    ("response", "language", "share"),
    [
        ("The sum is twelve", "en", 1.0),
        ("Die Größe wäre übel", "de", 1.0),
        ("Сумма равна двенадцати", "ru", 1.0),
        ("Сумма равна двенадцати", "en", 0.0),
        ("总和是十二个", "zh", 1.0),
        ("合計は十二です", "ja", 1.0),
        ("総和データ", "ja", 1.0),
        ("합계는 열둘입니다", "ko", 1.0),
        ("abc абв", "en", 0.5),
        ("abcde 12 + 34 = 46!", "en", 1.0),
        ("Ответ такой: $x + y = z$, \\boxed{abc} <answer>да</answer>", "ru", 1.0),
        ("Ответ:\n```python\nprint('hello world')\n```", "ru", 1.0),
    ],
)
def test_the_share_of_letters_in_the_script_of_a_language(response, language, share):
    assert language_consistency(response, language=language) == pytest.approx(share)


def test_too_few_letters_give_no_verdict():
    for response in ("", "12 + 34", "abcd", "```abcdef```"):
        verdict = language_consistency(response)
        assert isinstance(verdict, Verdict)
        assert not verdict.valid
    assert language_consistency("abcd", minimum=4) == 1.0


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language must be one of"):
        language_consistency("x", language="xx")


@settings(max_examples=25, deadline=None)
@given(st.text(min_size=1))
def test_any_text_gets_a_share_or_no_verdict(text):
    said = language_consistency(text)
    assert isinstance(said, Verdict) or 0.0 <= said <= 1.0
    assert isinstance(script_of(text[0]), str)


@pytest.mark.parametrize(
    "response", ["<think>" * 50_000, "`" * 200_001, "$" * 200_000, r"\boxed{" * 40_000, "\x00\u202e" * 90_000, "<a" * 90_000]
)
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert tags(response) == 0.0
    language_consistency(response)
    assert time.process_time() - start < 2.0
