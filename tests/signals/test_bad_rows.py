"""Rows that are not what a signal reads: no verdict, and a reason that names the field rather than what Python made of it."""

import pytest

from payoff.explanations import explain

NAN = float("nan")
BOX = [{"bbox_2d": [0, 0, 9, 9], "point_2d": [4, 4]}]
ROWS = [
    *((name, {"response": "nan", "reference": NAN}, "no reference") for name in ("answer-match", "math-answer", "bleu")),
    ("choice", {"response": "A", "reference": "A", "choices": 5}, "choices must be a list of texts, got '5'"),
    ("med-r1", {"response": "mass", "reference": "mass", "labels": None}, "labels must be a list of texts"),
    ("med-r1", {"response": "mass", "reference": "mass", "labels": ["mass", None]}, "labels must be a list of texts"),
    ("resume-grpo", {"response": "accept", "reference": "accept", "evidence": "a text"}, "evidence must be a list of texts"),
    ("mgpo", {"steps": "a turn", "reference": "7"}, "steps must be a list of texts"),
    ("caprl", {"reader_answers": 5, "questions": []}, "reader_answers must be a list"),
    ("caprl", {"reader_answers": [], "questions": None}, "questions must be a list"),
    ("spell-responder", {"verdicts": 1}, "verdicts must be a list"),
    ("spell-responder", {"verdicts": [True, NAN]}, "a verdict is true, false or null, got 'nan'"),
    ("spell-verifier", {"verdict": 5, "verdicts": [True, True, False]}, "a verdict is true, false or null, got '5'"),
    ("social-deduction-speaking", {"response": "a", "beliefs": 5}, "beliefs must be a list"),
    ("social-deduction-speaking", {"response": "a", "beliefs": "no"}, "beliefs must be a list"),
    ("social-deduction-listening-speaking", {"response": "a", "won": 1, "first": 0.5}, "the first survey"),
    ("affordance-r1", {"response": "x", "reference": BOX, "affordance": None}, "affordance must be text"),
    ("cost", {"cost": 10**400}, "no cost that is a number"),
    ("target-length", {"response": "a", "target_length": 10**400}, "target_length must be a number"),
    ("recorded-label", {"label": "good"}, "the recorded label must be a finite number, got 'good'"),
    ("recorded-score", {"score": [7]}, "the recorded score must be a finite number, got '[7]'"),
    ("recorded-score", {"score": NAN}, "the recorded score must be a finite number, got 'nan'"),
    ("recorded-degree", {"degree": 10**400}, "the recorded degree must be a finite number"),
    ("recorded-rationale", {"rationale": "because"}, "the recorded rationale must be true or false, got 'because'"),
]


@pytest.mark.parametrize(("name", "row", "why"), ROWS, ids=[f"{k}-{name}" for k, (name, _, _) in enumerate(ROWS)])
def test_a_row_that_cannot_be_judged_says_which_field_is_at_fault(name, row, why):
    (found,) = explain(name, [row])
    assert found.value is None
    assert found.reason.startswith(why)


def test_one_row_with_a_list_for_a_name_costs_no_other_row_its_verdict():
    rows = [{"response": "7", "pair": ["a", 1], "view": view} for view in (0, 1)] + [{"response": "8", "pair": "b", "view": 0}]
    found = explain("co-reward", rows)
    assert [one.value for one in found] == [1.0, 1.0, None]
    assert found[2].reason.startswith('no verdict by "1 where an answer is the most frequent one that ANOTHER view')
