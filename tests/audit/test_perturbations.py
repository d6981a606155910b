import ast
import unicodedata
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payoff.audit.perturbations import (
    case_forms,
    confusable,
    invisible,
    number_forms,
    renamed,
    repeated,
    set_orders,
    spaced,
    steps_in,
)
from payoff.signals.answers import same_answer


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**4))
def test_every_form_of_a_fraction_is_the_same_number(top, bottom):
    for variant, form in number_forms(f"{top}/{bottom}"):
        plain = form.replace("\\dfrac", "\\frac").strip("$").replace("−", "-")
        if plain.startswith(("\\frac", "-\\frac")):
            above, below = plain.replace("-", "").removeprefix("\\frac{").removesuffix("}").split("}{")
            value = Fraction(int(above), int(below)) * (-1 if plain.startswith("-") else 1)
        else:
            value = Fraction(plain)
        assert value == Fraction(top, bottom), variant


@given(st.integers(-(10**15), 10**15))
def test_every_form_of_a_whole_number_reads_as_the_same_answer(whole):
    forms = number_forms(str(whole))
    assert forms
    assert str(whole) not in [form for _, form in forms]
    assert all(same_answer(form, str(whole)) for _, form in forms)


@pytest.mark.parametrize("text", ["x+1", "1/0", "(1, 2)", "", "3 apples", "1/2/3", "²"])
def test_what_is_no_single_number_has_no_forms(text):
    assert number_forms(text) == []


def test_a_third_is_not_written_as_a_decimal():
    assert "decimal" not in dict(number_forms("1/3"))
    assert dict(number_forms("-3/8"))["decimal"] == "-0.375"


def test_sets_keep_their_elements_and_a_set_of_equal_ones_has_no_other_order():
    assert set_orders("{a, a}") == []
    assert set_orders(r"\{1, 2\}") == [("reversed", r"\{2, 1\}")]


def test_case_is_left_alone_where_it_may_matter():
    assert case_forms("x") == case_forms("Paris") == []
    assert dict(case_forms("yes"))["upper case"] == "YES"


@given(st.text(max_size=40))
def test_steps_put_together_are_the_text(text):
    assert "".join(steps_in(text)) == text


def test_repeating_steps_keeps_the_answer_last_and_one_step_is_not_repeated():
    assert all(steps[-1] == "#6." for _, steps in repeated(steps_in("3-7=6;6+7=3;#6.")))
    assert repeated(["#6."]) == []


def test_invisible_and_confusable_texts_are_other_texts_that_look_alike():
    assert all(edited != "apex 12" for _, edited in invisible("apex 12") + confusable("apex 12"))
    assert unicodedata.normalize("NFKC", dict(confusable("apex 12"))["full-width letters"]) == "apex 12"
    assert dict(invisible("ab"))["zero-width space"].replace("​", "") == "ab"


def test_blank_space_goes_where_nobody_sees_it():
    assert all(edited.replace("\r", "").strip() == "a\nb" for _, edited in spaced("a\nb"))


CODE = """
LIMIT = 3
def count(values, start=0):
    seen = {}
    for value in values:
        key = str(value)
        seen[key] = seen.get(key, start) + LIMIT
    def largest():
        return max(seen.values())
    return largest() if seen else [key for key in ()]
"""


def test_renamed_code_does_the_same_under_other_names():
    (_, changed), *_ = renamed(CODE)
    before, after = {}, {}
    exec(CODE, before)
    exec(changed, after)
    for call in ([1, 1, 2], []):
        assert before["count"](call) == after["count"](values=call)
    names = {node.id for node in ast.walk(ast.parse(changed)) if isinstance(node, ast.Name)}
    assert not names & {"seen", "key", "value"}
    assert {"LIMIT", "values"} <= names


@pytest.mark.parametrize(
    "code",
    [
        "def f(a):\n    return a",  # no local variable
        "def f(a):\n    b = a\n    return locals()",  # looks at its names
        "def f(:",  # no code
        "def f():\n    global b\n    b = 1",  # somebody else's
        "def f():\n    b = 1\n    return b\ndef g():\n    return b",  # g reads one from elsewhere
        "def f():\n    class C:\n        b = 1\n    return C.b",  # an attribute
        "The answer is 4.",
    ],
)
def test_code_whose_names_matter_is_left_alone(code):
    names = [edited for _, edited in renamed(code)]
    assert all("value_1" not in edited and ".value" not in edited for edited in names)
    if "class" not in code:
        assert names == []


def test_only_what_is_fenced_changes():
    text = "Here:\n```python\ndef f(a):\n    b = a\n    return b\n```\nb is fine."
    (_, changed), *_ = renamed(text)
    assert changed.startswith("Here:\n```python\n")
    assert changed.endswith("\n```\nb is fine.")
    assert "value_0 = a" in changed
