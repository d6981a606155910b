"""Judges of pairs: a place that is favoured cannot decide, values are win rates, and what nobody knows takes part in none."""

import json
import re

import pytest

from payoff.foreign import RewardError, foreign_reward
from payoff.rewards import resolve_reward

from .conftest import as_json

GROUP = [{"prompt": "p", "response": text, "reference": "GOLD"} for text in ("a", "bb", "ccc")]


def says(better):
    return as_json({"choices": [{"message": {"content": json.dumps({"better": better, "reason": ""})}}]})


def sides(body):
    text = body["messages"][0]["content"]
    return [json.loads(re.search(rf"{side}: (.*)", text)[1]) for side in ("First", "Second")]


def longer(body, number):
    first, second = sides(body)
    return says("first" if len(first) > len(second) else "second" if len(second) > len(first) else "tie")


@pytest.fixture
def judge():
    return lambda server, **more: foreign_reward(
        f"judge:{server.url}/v1#m", **{"against": "group", "store": "off", "wait": 0.001, "tries": 1, "repairs": 0, **more}
    )


def test_values_are_the_shares_of_the_group_that_are_beaten(serve, scores, judge):
    server = serve(longer)
    assert scores(judge(server), GROUP)[0] == [0.0, 0.5, 1.0]
    assert len(server.seen) == 6  # three pairs, in both orders
    assert sorted(map(tuple, map(sides, server.seen))) == sorted(
        (x, y) for x in ("a", "bb", "ccc") for y in ("a", "bb", "ccc") if x != y
    )


@pytest.mark.parametrize("place", ["first", "second"])
def test_who_sees_only_the_place_knows_nothing_or_says_a_half(serve, scores, judge, place):
    server = serve(lambda body, number: says(place))
    numbers, reasons = scores(judge(server), GROUP)
    assert numbers == [None] * 3
    assert all("when the two responses change places" in why for why in reasons)
    assert scores(judge(server, orders="mean"), GROUP)[0] == [0.5] * 3
    alone = scores(judge(server, orders="one"), GROUP)[0]
    assert alone == ([1.0, 0.5, 0.0] if place == "first" else [0.0, 0.5, 1.0])  # and here the place decides


def test_a_tie_that_turns_into_a_win_is_no_agreement_and_three_quarters_in_the_mean(serve, scores, judge):
    server = serve(lambda body, number: says("tie" if sides(body)[0] == "a" else "first"))
    rows = GROUP[:2]
    assert scores(judge(server), rows)[0] == [None, None]
    # a first: tie, 1/2 to a; bb first: bb wins, 0 to a
    assert scores(judge(server, orders="mean"), rows)[0] == [0.25, 0.75]


def test_a_pair_without_verdict_takes_part_in_no_mean(serve, scores, judge):
    server = serve(lambda body, number: (500, {}, b"") if set(sides(body)) == {"a", "ccc"} else longer(body, number))
    assert scores(judge(server, concurrency=1), GROUP)[0] == [0.0, 0.5, 1.0]  # a lost to bb, ccc won over bb; bb did both
    numbers, reasons = scores(judge(server), [GROUP[0], GROUP[2]])
    assert numbers == [None, None]
    assert all("answers 500" in why for why in reasons)


def test_responses_of_other_groups_are_not_met_and_one_alone_has_no_verdict(serve, scores, judge):
    server = serve(longer)
    rows = [
        GROUP[2],
        {"prompt": "q", "response": "a"},
        {"prompt": "r", "response": "zz"},
        GROUP[0],
        {"prompt": "q", "response": "aa"},
    ]
    numbers, reasons = scores(judge(server), rows)
    assert numbers == [1.0, 0.0, None, 0.0, 1.0]
    assert reasons[2] == "there is no other response in its group"
    assert len(server.seen) == 4


def test_equal_responses_are_a_tie_that_nobody_is_asked_for(serve, scores, judge):
    server = serve(longer)
    assert scores(judge(server), [GROUP[0], GROUP[0]])[0] == [0.5, 0.5]
    assert server.seen == []


def test_a_response_is_compared_with_a_field_of_its_row(serve, scores, judge):
    server = serve(longer)
    rows = [{"prompt": "p", "response": x, "draft": y} for x, y in (("aa", "b"), ("a", "bb"), ("a", "b"), ("same", "same"))]
    numbers, reasons = scores(judge(server, against="draft"), [*rows, {"prompt": "p", "response": "x"}])
    assert numbers == [1.0, 0.0, 0.5, 0.5, None]
    assert reasons[-1] == "there is no 'draft'"


def test_a_response_can_neither_pull_in_the_right_answer_nor_its_rival(serve, scores, judge, tmp_path):
    (tmp_path / "t.txt").write_text("{prompt}|{first}|{second}")
    server = serve(lambda body, number: says("tie"))
    rows = [{"prompt": "{first}", "response": x, "reference": "GOLD"} for x in ("{reference}{second}", "{first!q}")]
    scores(judge(server, template=str(tmp_path / "t.txt")), rows)
    asked = sorted(body["messages"][0]["content"] for body in server.seen)
    assert asked == ["{first}|{first!q}|{reference}{second}", "{first}|{reference}{second}|{first!q}"]


def test_a_schema_of_ones_own_names_the_word(serve, scores, judge, tmp_path):
    shape = {"properties": {"winner": {"enum": ["first", "second"]}}, "required": ["winner"]}
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    (tmp_path / "t.txt").write_text("First: {first!q}\nSecond: {second!q}")
    own = {"schema": str(tmp_path / "shape.json"), "template": str(tmp_path / "t.txt")}
    server = serve(lambda body, number: as_json({"choices": [{"message": {"content": '{"winner": "first"}'}}]}))
    assert scores(judge(server, orders="mean", score="winner", **own), GROUP[:2])[0] == [0.5, 0.5]
    with pytest.raises(RewardError, match="must require 'better'"):
        judge(server, **own)


def test_verdicts_of_pairs_are_not_remembered_by_the_row():
    with pytest.raises(RewardError, match="cannot be remembered by the row"):
        resolve_reward("judge:http://host/v1#m?against=group&store=off", cache=True)
