import pytest

from payoff.audit.invariances import FAMILIES, invariances
from payoff.audit.scorer import Scorer
from payoff.catalogue import index
from payoff.grading import signal
from payoff.signals.answers import answer_match, final_answer

HALVES = [{"prompt": f"{k} / 2?", "response": f"It is \\boxed{{{k}/2}}", "reference": f"{k}/2", "ok": 1} for k in range(1, 181, 2)]
WRONG = [{**row, "response": "\\boxed{0}", "ok": 0} for row in HALVES[:40]]


def results(grader, rows, **options):
    return {m.name.removeprefix("invariance-"): m for m in invariances(Scorer(signal(grader)), rows, gold="ok", **options)}


def literal(response, reference):
    return float((final_answer(response) or "").rstrip(".") == reference)


def test_a_literal_comparison_loses_other_forms_of_the_number_and_nothing_else():
    found = results(literal, HALVES + WRONG)
    assert {name for name, m in found.items() if m.result == "fails"} == {"number-forms"}
    assert found["number-forms"].estimate.value == pytest.approx(1.0)
    assert {name for name, m in found.items() if m.result == "holds"} == {"blank-space", "wrapping"}
    example = found["number-forms"].examples[0]
    assert (example["reward"], example["reward_unchanged"], example["reference"]) == (0.0, 1.0, HALVES[example["row"]]["reference"])


def test_a_comparison_of_numbers_loses_only_latex():
    m = results(answer_match, HALVES + WRONG, families=["number-forms"])["number-forms"]
    by_variant = dict(zip(("latex", "display", "decimal", "dollars"), m.series["rate"], strict=True))
    assert by_variant == {"latex": 1.0, "display": 1.0, "decimal": 0.0, "dollars": 0.0}


PLANTED = {
    "blank-space": (lambda response: float(response == response.strip()), "4"),
    "wrapping": (lambda response: float(response == "4"), "4"),
    "case": (lambda response: float(response in ("Yes", "B")), "Yes"),
    "set-order": (lambda response: float(response.startswith("{1")), "{1, 2, 3}"),
    "renaming": (lambda response: float("total" in response), "def f(a):\n    total = a\n    return total"),
    "paraphrase": (lambda response: float("four" not in response), "4"),
}


@pytest.mark.parametrize("family", PLANTED)
def test_a_planted_flaw_is_found_and_a_reward_without_it_holds(family):
    grader, answer = PLANTED[family]
    row = {"response": answer, "reference": answer, "ok": 1, "paraphrases": ["four", "it is four"]}
    rows = [{"prompt": f"{k}", **row} for k in range(90)]
    assert results(grader, rows, families=[family])[family].result == "fails"
    clean = results(lambda response: 1.0, rows, families=[family])[family]
    assert (clean.result, clean.estimate.value) == ("holds", 0.0)


def test_the_reference_is_the_base_where_no_response_is_right():
    rows = [{"prompt": f"{k}", "response": "?", "reference": str(k), "ok": 0} for k in range(90)]
    m = results(lambda response, reference: float(response == reference), rows, families=["blank-space"])["blank-space"]
    assert (m.estimate.value, m.examples[0]["unchanged"]) == (1.0, "?")


def test_right_responses_that_are_refused_as_they_stand_are_left_out_and_counted():
    rows = [{"prompt": f"{k}", "response": str(k), "reference": str(k), "ok": 1} for k in range(100)] + [
        {"prompt": f"w{k}", "response": "no", "ok": 0} for k in range(5)
    ]
    half = lambda prompt, response: 0.0 if prompt[0] == "w" or int(prompt) % 2 else 1.0
    m = results(half, rows, families=["blank-space"], limit=None)["blank-space"]
    assert m.estimate.value == 0.0
    assert "50 prompts left out" in m.note


def test_a_variant_that_the_truth_calls_wrong_is_left_out():
    rows = [{"prompt": f"{k}", "response": str(k), "reference": str(k), "ok": 1} for k in range(90)]
    strict = lambda response, reference: float(response == reference)
    (m,) = invariances(Scorer(signal(strict)), rows, gold="ok", families=["blank-space"], truth=Scorer(signal(strict)))
    assert m.result == "not applicable"
    assert "270 left out: not right any more by the truth" in m.note


def test_no_verdict_is_out_of_the_rate_and_counted():
    rows = [{"prompt": f"{k}", "response": "4", "reference": "4", "ok": 1} for k in range(90)]
    m = results(lambda response: None if response.endswith("\n") else 1.0, rows, families=["blank-space"])["blank-space"]
    assert m.estimate.value == 0.0
    assert "90 without verdict" in m.note


def test_a_small_dip_of_a_continuous_reward_is_no_finding_and_a_large_one_is():
    rows = [{"prompt": f"{k}", "response": "4", "reference": "4", "ok": 1} for k in range(90)]
    rows += [{"prompt": f"{k}", "response": "5", "reference": "4", "ok": 0} for k in range(90)]
    dip = lambda size: lambda response: 0.0 if "5" in response else 1.0 - size * (response != response.strip())
    assert results(dip(0.05), rows, families=["blank-space"], limit=None)["blank-space"].result == "holds"
    assert results(dip(0.5), rows, families=["blank-space"], limit=None)["blank-space"].result == "fails"


def test_an_unknown_family_is_refused_and_every_remedy_exists():
    with pytest.raises(ValueError, match="no family blank"):
        results(literal, HALVES, families=["blank"])
    assert {remedy for family in FAMILIES.values() for remedy in family.remedies} <= {name for _, name in index()}
