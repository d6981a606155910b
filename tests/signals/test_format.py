import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.signals.format import matches_format, think_format


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<answer>7</answer>", 1.0),
        ("<answer>line\nbreak</answer>", 1.0),
        ("<answer>7</answer> and more", 0.0),
        ("so <answer>7</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_whole_response_must_match(response, verdict):
    assert matches_format(response, pattern="<answer>.*</answer>") == verdict


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<think>a</think>b", 1.0),
        ("<think></think>", 1.0),
        (" <think>a</think>b", 0.0),
        ("<think>a", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("<think>a</think>b<think>", 0.0),
        ("", 0.0),
    ],
)
def test_the_think_format(response, verdict):
    assert think_format(response) == verdict


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "x", "\n", " "]), max_size=8).map("".join))
def test_the_think_format_is_that_of_trl(response):
    from trl.rewards import think_format_reward

    assert [think_format(response)] == think_format_reward([[{"content": response}]])
