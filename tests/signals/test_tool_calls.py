"""Tool calls taken apart: numbers by hand, matchings, and what models write instead of JSON."""

import itertools
import json

import pytest

from payoff.signals.tool_calls import read_reference, toolrl, toolrl_calls, toolrl_format, toolrl_length


def call(name: str, **parameters) -> dict:
    return {"name": name, "parameters": parameters}


def said(*calls: dict | str) -> str:
    lines = [c if isinstance(c, str) else json.dumps(c) for c in calls]
    return "<think>so</think>\n<tool_call>\n" + "\n".join(lines) + "\n</tool_call>"


def calls(wanted: list, *given: dict | str, **options) -> float:
    return toolrl_calls(said(*given), wanted, **options).value


ROME = call("find", city="Rome", day=1)


def test_what_is_wanted_gives_four_and_other_tools_minus_three():
    assert toolrl(said(ROME), [ROME]).value == 4
    assert toolrl(said(call("sing", city="Rome", day=1)), [ROME]).value == -2
    assert calls([ROME], call("sing", city="Rome", day=1)) == -3


@pytest.mark.parametrize("right", range(4))
def test_one_call_of_three_parameters_counts_its_right_values(right):
    wanted = call("f", a=1, b=2, c=3)
    given = call("f", **{name: (k + 1 if k < right else 0) for k, name in enumerate("abc")})
    # s = 1 (name) + 1 (parameter names) + right; S = 1 + 1 + 3
    assert calls([wanted], given) == pytest.approx(6 * (2 + right) / 5 - 3)


def test_parameter_names_count_by_their_overlap():
    # names 1, keys {a, b} against {b, c}: 1/3, one right value; S = 1 + 1 + 2
    assert calls([call("f", a=1, b=2)], call("f", b=2, c=3)) == pytest.approx(6 * (1 + 1 / 3 + 1) / 4 - 3)


def test_a_call_that_nobody_asked_for_lowers_only_the_names():
    # names: 1 of 2; the call itself whole: 1 + 2; S = 4
    assert calls([ROME], ROME, call("sing")) == pytest.approx(6 * (0.5 + 3) / 4 - 3)


def test_calls_in_another_order_are_still_whole():
    wanted = [call("f", a=1), call("f", a=2), call("g")]
    for order in itertools.permutations(wanted):
        for matching in ("greedy", "assignment"):
            assert calls(wanted, *order, matching=matching) == pytest.approx(3)
    assert calls(wanted, *wanted[::-1], granularity="all") == -3


def test_equal_names_pay_for_names_only_in_their_order():
    wanted = call("f", a=1, b=2)
    # one key of three in common: no more for names of parameters; s = 1 + 0 + 1, S = 1 + 1 + 2
    assert calls([wanted], call("f", b=2, c=3), names="equal") == pytest.approx(6 * (1 + 1) / 4 - 3)
    # the same keys the other way round, one value wrong: 1 + 1 right where they overlap, 0 + 1 where they must be equal
    assert calls([wanted], call("f", b=0, a=1)) == pytest.approx(6 * (1 + 1 + 1) / 4 - 3)
    assert calls([wanted], call("f", b=0, a=1), names="equal") == pytest.approx(6 * (1 + 0 + 1) / 4 - 3)
    # a call too many, or the tools in another order, lose what their names bring and nothing else; what is equal stays 3
    assert calls([ROME], ROME, call("sing"), names="equal") == pytest.approx(6 * (0 + 3) / 4 - 3)
    assert calls([ROME, call("sing")], call("sing"), ROME, names="equal") == pytest.approx(6 * (0 + 3 + 1) / 5 - 3)
    assert toolrl(said(call("f", b=2, a=1)), [wanted], names="equal").value == 4
    with pytest.raises(ValueError, match='names "overlap" or "equal"'):
        calls([ROME], ROME, names="same")


def test_the_length_bonus_counts_the_last_thinking_and_has_an_end():
    assert toolrl_length("<think>a b</think> <think>c</think> d e", full=2) == 0.5
    assert toolrl_length(f"<think>{'a ' * 600}</think>") == 1.0
    assert toolrl_length("<think>a b c", full=2) == 0.0
    with pytest.raises(ValueError, match="full must be at least 1"):
        toolrl_length("", full=0)


def test_greedy_matching_depends_on_the_order_and_assignment_does_not():
    # First: {a} against "near" is worth 1/2 + 1, against "far" 0 + ... ; taking "near" first leaves the second call worse off.
    wanted = [call("f", a=1, b=1), call("f", a=1)]
    given = [call("f", a=1), call("f", b=1)]
    # greedy: (a, b) takes (a): 1/2 + 1; (a) is left with (b): 0. assignment: (a, b)-(b): 3/2 and (a)-(a): 2
    assert calls(wanted, *given) == pytest.approx(6 * (1 + 1.5) / 6 - 3)
    assert calls(wanted[::-1], *given) == pytest.approx(6 * (1 + 3.5) / 6 - 3)
    for w, g in itertools.product(itertools.permutations(wanted), itertools.permutations(given)):
        assert calls(list(w), *g, matching="assignment") == pytest.approx(6 * (1 + 3.5) / 6 - 3)


def test_assignment_is_the_best_of_all_matchings():
    wanted = [call("f", a=1, b=2), call("f", a=2), call("g", a=1)]
    given = [call("f", a=2, b=2), call("g", c=1), call("f", a=1)]
    # Pairs by hand: (a1 b2)-(a2 b2): 1 + 1; (a1 b2)-(a1): 1/2 + 1; (a2)-(a2 b2): 1/2 + 1; (a2)-(a1): 1; g: 0.
    # Best: 2 + 1 against 3/2 + 3/2. Names 1, S = 1 + 3 + 2 + 2.
    assert calls(wanted, *given, matching="assignment") == pytest.approx(6 * (1 + 3) / 8 - 3)
    # With another value only one matching is best: (a1 b3)-(a2 b2): 1; (a1 b3)-(a1): 3/2; (a2)-(a2 b2): 3/2; (a2)-(a1): 1
    wanted[0] = call("f", a=1, b=3)
    assert calls(wanted, *given, matching="assignment") == pytest.approx(6 * (1 + 3) / 8 - 3)
    assert calls(wanted, *given[:2], matching="assignment") == pytest.approx(6 * (2 / 3 + 1.5) / 8 - 3)


def test_by_whole_calls():
    # names 1; one of two equal; S = 1 + 2
    wanted = [call("f", a=1), call("g", a=1)]
    assert calls(wanted, call("f", a=1), call("g", a=2), granularity="calls") == pytest.approx(6 * 2 / 3 - 3)


@pytest.mark.parametrize(("value", "same"), [(1.0, True), (True, False), ("1", False), (None, False), ([1], False)])
def test_values_are_compared_as_json(value, same):
    assert (calls([call("f", a=1)], call("f", a=value)) == 3) is same


@pytest.mark.parametrize(
    "lines",
    [
        "nonsense",
        '{"name": "find"}',
        '{"name": 3, "parameters": {}}',
        '{"name": "find", "parameters": []}',
        '["find"]',
        "",
        '{"name": "find", "parameters": {"x": NaN}}',
        '{"name": "find", "parameters": {"x": -Infinity}}',
        '{"name": "find", "parameters": {"x": ' + "9" * 5000 + "}}",
        '{"name": "find", "parameters": {"x": ' + "[" * 100_000 + "}}",
        '{"name": "find", "parameters": {"x": ' + "[" * 900 + "]" * 900 + "}}",
        "\n".join(['{"name": "find", "parameters": {}}'] * 5000),
    ],
)
def test_what_cannot_be_read_is_wrong_and_never_an_error(lines):
    deep = {"name": "find", "parameters": {"x": json.loads("[" * 300 + "]" * 300)}}
    verdict = toolrl_calls(f"<tool_call>\n{lines}\n</tool_call>", [deep])
    assert verdict.valid
    assert verdict.value == -3 or "[[[" in lines


@pytest.mark.parametrize("text", ["", "<tool_call>", "</tool_call><tool_call>", "find(Rome)"])
def test_no_block_is_wrong_with_a_reason(text):
    verdict = toolrl_calls(text, [ROME])
    assert (verdict.value, verdict.valid) == (-3, True)
    assert "<tool_call>" in verdict.reason


def test_where_nothing_is_to_be_called_only_the_form_counts():
    reference = {"calls": [], "response": "Hello"}
    assert toolrl("<think>.</think>\n<response>Hi</response>", reference).value == 1
    assert toolrl(said(ROME), reference).value == 0
    assert toolrl_calls(said(ROME), reference).value == 0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>a</think>\n<tool_call>\n{}\n</tool_call>", 1),
        ("<think>a</think>\n<tool_call>\n{}\n</tool_call>\n", 1),
        ("<think>a\nb</think>\n<tool_call>\n{}\n{}\n</tool_call>", 1),
        ("<think>a</think><tool_call>\n{}\n</tool_call>", 0),
        ("<think>a</think>\n<tool_call>{}</tool_call>", 0),
        ("<tool_call>\n{}\n</tool_call>\n<think>a</think>", 0),
        ("<think>a</think>\n<tool_call>\n{}\n</tool_call>\n<response>x</response>", 0),
        ("<think>a</think>\n<tool_call>\n{}\n</tool_call> and more", 0),
        ("<think>a</think>\n<think>a</think>\n<tool_call>\n{}\n</tool_call>", 0),
        ("<think>" * 50_000 + "</think>" * 50_000, 0),
    ],
)
def test_the_form_is_the_order_of_sections_once_each(response, expected):
    assert toolrl_format(response, [ROME]) == expected


def test_references_in_three_forms_are_the_same():
    text = said(ROME) + "\n<response>x</response>"
    assert read_reference(text) == read_reference({"calls": [ROME], "response": True})
    assert read_reference(said(ROME)) == read_reference([ROME]) == read_reference({"calls": [ROME]})


@pytest.mark.parametrize("reference", [None, "find Rome", [3], {"calls": 3}, {"response": True}, "<tool_call>x</tool_call>", {}])
def test_a_reference_that_cannot_be_read_is_no_fault_of_the_policy(reference):
    for grader in (toolrl, toolrl_calls, toolrl_format):
        verdict = grader(said(ROME), reference)
        assert not verdict.valid
        assert verdict.reason.startswith("reference:")
