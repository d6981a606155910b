"""What a person is told of how a row was read: every sentence names what decided, and odd rows are no error."""

import functools

import pytest

from payoff.explanations import explain
from payoff.signals.answers import answer_match
from payoff.signals.reasons import _READERS, what_was_read

BOXES = '[{"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [3, 3, 1, 1]}]'
CALL = '<think>x</think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("name", "row", "read"),
    [
        ("choice", {"response": "It is (B)"}, "read as the final answer: 'It is (B)'"),
        ("math-answer", {"response": r"\boxed{7}? No: \boxed{8}"}, "read as the final answer: '8'"),
        ("math-answer", {"response": "The answer is 5.\nNo, that is wrong."}, "no final answer was found"),
        ("last-number", {"response": "7, checked 2 times"}, "the last number is 2"),
        ("rlcr", {"response": "7<confidence>80%</confidence>"}, "read as the final answer: '7', with confidence 0.8"),
        ("truthrl", {"response": "I don't know"}, "it says that it does not know"),
        ("rl-with-cold-start", {"response": "<answer>7</answer>"}, "read as the final answer: '7', not in form"),
        ("tags", {"response": "<think>a</think><answer>b"}, "</answer> comes 0 times"),
        ("think-format", {"response": "So <think>"}, "it begins with 'So <think>', opens <think> 1 times"),
        ("vlm-r1", {"response": BOXES}, "1 boxes were read, of 2 entries"),
        ("vlm-r1", {"response": "there"}, "no JSON with boxes was found"),
        ("reasoning-pattern-reward", {"response": "Wait, thus"}, "phrases found: wait, thus"),
        ("toolrl", {"response": CALL, "reference": [{"name": "f", "parameters": {}}]}, "form 1, calls 3"),
        ("mt-r1-zero", {"response": "hello"}, "no translation in form was found"),
        ("format-surrogate", {"response": r"\boxed{7}"}, "does not think in tags, a readable answer"),
        ("caprl", {"reader_answers": ["B.", "who knows", None]}, "the reader chose B, None, None"),
        ("bleu", {"response": "a"}, ""),
    ],
)
def test_what_was_read(name, row, read):
    assert what_was_read(name, row) == read


@pytest.mark.parametrize("name", sorted(_READERS))
def test_odd_rows_are_no_error(name):
    for odd in (None, 5, [None], {}, "\x00\ud800", "x" * 10_000):
        assert isinstance(what_was_read(name, {"response": odd, "reference": odd, "reader_answers": odd}), str)
        assert isinstance(what_was_read(name, {}), str)


def test_a_bound_pattern_is_what_is_read_by():
    rows = [{"response": "x=3, y=4", "reference": "4"}]
    found = explain(functools.partial(answer_match, pattern=r"x=(\d)"), rows)[0]
    assert found.value == 0.0
    assert found.reason.endswith("read as the final answer: '3'")
