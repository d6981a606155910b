"""Templates: one pass, whatever is filled in; quotations that cannot be ended from within."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.arguments import MissingFieldError
from payoff.foreign.judge_template import JudgeTemplate, rows_with, shown

PIECES = st.lists(
    st.sampled_from(["{reference}", "{response}", "{prompt!q}", "{", "}", "{{", '"', "\\", "\n", "x"]), max_size=6
).map("".join)


@settings(max_examples=20, deadline=None)
@given(prompt=PIECES, response=PIECES)
def test_whatever_is_filled_in_stays_what_it_was(prompt, response):
    template = JudgeTemplate("A{prompt}B{response!q}C", needs=["response"])
    text = template.filled({"prompt": prompt, "response": response, "reference": "GOLD"})
    assert text == f"A{prompt}B{json.dumps(response)}C"
    assert "GOLD" not in text


def test_fields_are_read_from_the_row_unless_they_are_given():
    template = JudgeTemplate('{first} {second!q} {prompt} {prompt!q} {"json": {x y}}', needs=["first"], given=["first", "second"])
    assert template.fields == ["prompt"]
    with pytest.raises(ValueError, match=r"must say {third} somewhere; it says first, second"):
        JudgeTemplate("{first} {second}", needs=["third"])


def test_rows_that_lack_a_field_are_named_by_the_first_they_lack():
    rows, lost = rows_with(["a", "b"], [{"a": 1, "b": 2, "c": 3}, {"a": 1}, {}])
    assert rows[0] == {"a": 1, "b": 2}
    assert lost == {1: "there is no 'b'", 2: "there is no 'a'"}
    with pytest.raises(MissingFieldError, match="'d', which no row has"):
        rows_with(["d"], [{"a": 1}])


def test_what_is_no_text_is_shown_as_it_is_read():
    assert shown([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]) == "user: hi\nassistant: yes"
    assert shown({"b": 1, "a": ["ä"]}) == '{"a": ["ä"], "b": 1}'
