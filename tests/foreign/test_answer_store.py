"""Recordings: text that can be read, written by hand, torn and mended; the last line of a request holds."""

import json

import pytest

from payoff.foreign.answer_store import Recording

ONE, TWO = b'{"model": "m", "n": 1}', b'{"model": "m", "n": 2}'


def test_a_request_is_the_same_whatever_the_order_of_its_fields(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"answer": "x", "request": {"n": 1, "model": "m"}}')
    recording = Recording(tmp_path / "r.jsonl")
    assert recording.get(ONE) == ("x", "")
    assert recording.get(TWO) is None


def test_the_last_line_of_a_request_holds_and_nothing_is_written_twice(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    recording = Recording(path, new=True)
    for _ in range(3):
        recording.add(ONE, None, "was cut")
    recording.add(ONE, "late\nbut \udc80 good")
    assert len(path.read_bytes().splitlines()) == 2
    assert Recording(path).get(ONE) == ("late\nbut \udc80 good", "")
    Recording(path, new=True).add(ONE, "late\nbut \udc80 good")
    assert len(path.read_bytes().splitlines()) == 2


@pytest.mark.parametrize("end", ["", "\n", '\n{"request": {"mod', '\n{"request": {"n": 3}, "answer": "hand"}'])
def test_a_file_goes_on_after_a_line_without_end(tmp_path, end):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"request": json.loads(ONE), "answer": "x"}) + end)
    Recording(path, new=True).add(TWO, "y")
    after = Recording(path)
    assert after.get(ONE) == ("x", "")
    assert after.get(TWO) == ("y", "")
    assert (after.get(b'{"n": 3}') == ("hand", "")) == ("hand" in end)


@pytest.mark.parametrize("line", ["x", "[]", '{"request": {}}', '{"request": 1, "answer": ""}', '{"request": {}, "answer": 1}'])
def test_a_line_that_is_something_else_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('\n{"request": {}, "failure": "x"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"r\.jsonl:3: "):
        Recording(tmp_path / "r.jsonl")
