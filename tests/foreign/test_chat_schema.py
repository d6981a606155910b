"""Answers against schemas: what passes, what is said of what does not, and agreement with the jsonschema package."""

import pytest

from payoff.foreign.chat_schema import AnswerError, check_schema, fault, read_object
from payoff.foreign.judge import SCHEMA


@pytest.mark.parametrize(
    "content",
    [
        "0.7",
        "[]",
        "",
        '{"score": 0.7}',
        '{"score": 0.7, "reason": 1}',
        '{"score": 0.7, "reason": "", "confidence": 1}',
        '{"score": "0.7", "reason": ""}',
        '{"score": true, "reason": ""}',
        '{"score": null, "reason": ""}',
        '{"score": 1.01, "reason": ""}',
        '{"score": -1e-9, "reason": ""}',
        '{"score": NaN, "reason": ""}',
        '{"score": 1, "score": 0, "reason": ""}',
        'The answer: {"score": 0.7, "reason": ""}',
        '{"score": 0.7, "reason": ""} {"score": 1, "reason": ""}',
        '```json\n{"score": 0, "reason": ""}\n```\n```json\n{"score": 1, "reason": ""}\n```',
    ],
)
def test_only_one_object_with_score_and_reason_is_a_judgement(content):
    with pytest.raises(AnswerError) as raised:
        read_object(content, SCHEMA)
    assert str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", ['{"score": 1, "reason": ""}', ' {"reason": "x", "score": 1.0}\n', '```json\n{"score": 1, "reason": ""}\n```']
)
def test_a_whole_object_is_a_judgement_also_in_a_fence(content):
    assert read_object(content, SCHEMA)["score"] == 1.0


def test_a_number_that_is_not_finite_is_none_also_where_the_schema_says_nothing():
    for text in ('{"x": NaN}', '{"x": [{"y": -Infinity}]}', '{"x": 1e999}'):
        with pytest.raises(AnswerError, match="not finite"):
            read_object(text, {"type": "object"})


SHAPES = [
    SCHEMA,
    {"type": ["integer", "null"]},
    {"enum": [1, "a", True]},
    {"const": {"a": [1]}},
    {"anyOf": [{"type": "string", "minLength": 2}, {"type": "number", "exclusiveMinimum": 0}]},
    {"type": "array", "items": {"type": "integer", "maximum": 2}, "minItems": 1, "maxItems": 2},
    {"properties": {"a": {"type": "number"}}, "additionalProperties": {"type": "string", "maxLength": 1}},
    {"properties": {"a": {"properties": {"b": {"exclusiveMaximum": 1}}, "required": ["b"]}}, "required": ["a"]},
    {"anyOf": [{"type": "null"}]},
    {"type": "array", "items": False},
]
VALUES = [None, True, False, 0, 1, 1.0, -1, 2, 0.5, "", "a", "ab", [], [1], [1, 2], [1, 3], [1, 2, 1], ["a"], [True]]
VALUES += [{}, {"a": [1]}, {"a": 1}, {"a": 1, "b": "x"}, {"a": 1, "b": "xy"}, {"a": 1, "b": 2}, {"a": {}}, {"a": {"b": 0}}]
VALUES += [
    {"a": {"b": 1}},
    {"score": 1, "reason": ""},
    {"score": 2, "reason": ""},
    {"score": 1},
    {"score": 1, "reason": "", "x": 0},
]


def test_verdicts_are_those_of_the_jsonschema_package():
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    for shape in SHAPES:
        check_schema(shape)
        peer = validator(shape)
        for value in VALUES:
            if isinstance(value, list | dict | bool | int | float) and "enum" in shape and value in (1, True):
                continue  # the peer's Python sees 1 == True in an enum that holds both
            told = fault(value, shape)
            assert (told is None) == peer.is_valid(value), (shape, value, told)


@pytest.mark.parametrize(
    ("value", "shape", "told"),
    [
        (
            {"a": {"b": [1, "x"]}},
            {"properties": {"a": {"properties": {"b": {"items": {"type": "number"}}}}}},
            'a.b[1] is "x", not a number',
        ),
        ({"a": 1}, {"additionalProperties": False}, "the answer has 'a', which was not asked for"),
        ([], {"minItems": 1}, "the answer has length 0, not at least 1"),
        (True, {"enum": [1]}, "the answer is true, not 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value, shape, told):
    assert fault(value, shape) == told


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ([], "must be a JSON object"),
        ({"properties": {"a": {"pattern": "x"}}}, "properties.a: 'pattern' is not checked here"),
        ({"type": "float"}, "no type 'float'"),
        ({"items": {"$ref": "#"}}, "items: '$ref' is not"),
        ({"minimum": "0"}, "minimum must be a number"),
        ({"required": "a"}, "required must be a JSON array"),
        ({"anyOf": [{"not": {}}]}, "anyOf.0: 'not'"),
    ],
)
def test_a_schema_that_would_not_be_checked_in_full_is_refused(shape, told):
    with pytest.raises(ValueError, match=r"schema") as raised:
        check_schema(shape)
    assert told in str(raised.value)
