import pytest

from payoff.audit.attempts import (
    Attempt,
    Tried,
    altered,
    answers_right,
    framed,
    gather,
    inferred_template,
    number,
    paid_from,
    references_of,
    responses_of,
    rightness,
)
from payoff.audit.rates import share_by, worst_examples
from payoff.audit.scorer import Scorer
from payoff.grading import signal


def equal(response, reference):
    return float(response == reference)


SCORE = Scorer(signal(equal))
ROWS = [{"prompt": f"{k}+{k}=", "response": str(2 * k + k % 2), "reference": str(2 * k), "ok": k % 2 == 0} for k in range(20)]


@pytest.mark.parametrize(
    ("reward", "right", "references", "threshold"),
    [
        ([0.2, 0.7, 0.9], [False, True, True], [], 0.7),
        ([0.0, 0.0, 1.0], [False, True, True], [], 1.0),  # one right response was refused: that does not make 0 a payment
        ([0.3, 0.3], [True, False], [], 0.3),  # everything gets the same: then everything is paid
        ([1.0, 0.0], [True, False], [], 1.0),
        ([0.0, 1.0], [True, False], [], 0.5),  # the wrong way round: the middle of the range
        ([0.0, 4.0], [None, None], [], 2.0),
        ([0.0, 0.0], [None, None], [1.0], 0.5),
        ([], [], [1.0, 1.0], 1.0),
        ([0.5, 0.5], [None, None], [], None),
        ([None, None], [True, False], [], None),
    ],
)
def test_paid_is_what_a_right_response_gets_and_a_typical_wrong_one_does_not(reward, right, references, threshold):
    assert paid_from(reward, right, references)[0] == threshold


def test_rows_without_responses_are_judged_by_their_references():
    evidence = gather(SCORE, [{"prompt": "1+1=", "reference": "2"}])
    assert (evidence.threshold, evidence.reward) == (1.0, [None])
    assert evidence.pays(1.0)
    assert not evidence.pays(0.9)


def test_a_pair_of_chosen_and_rejected_is_two_rows_with_labels():
    pair = {"prompt": "p", "chosen": "4", "rejected": "5", "reference": "4"}
    assert [(row["response"], row["label"]) for row in responses_of([pair], "label")] == [("4", 1.0), ("5", 0.0)]
    evidence = gather(SCORE, [pair], gold="label")
    assert (evidence.reward, evidence.right) == ([1.0, 0.0], [True, False])


def test_a_row_without_verdict_is_no_evidence():
    evidence = gather(SCORE, [*ROWS[:2], {"prompt": "p", "response": "4"}], gold="ok")
    assert evidence.reward == [1.0, 0.0, None]
    assert evidence.right == [True, False, None]


def test_the_same_seed_takes_the_same_rows():
    prompts = lambda seed: [row["prompt"] for row in gather(SCORE, ROWS, limit=5, seed=seed).rows]
    assert prompts(1) == prompts(1) != prompts(2)
    assert len(prompts(1)) == 5


def test_right_is_the_upper_half_of_an_unknown_scale_and_one_half_on_the_unit_interval():
    assert rightness([0.0, 0.2, 1.0]) == [False, False, True]
    assert rightness([1.0, 1.0]) == [True, True]
    assert rightness([0.0]) == [False]
    assert rightness([-3.0, 5.0, 0.0, None]) == [False, True, False, None]
    assert rightness([7.0, 7.0]) == [None, None]


def test_labels_are_read_as_people_write_them():
    assert [number(v) for v in (True, "wrong", " Yes ", "0.5")] == [1.0, 0.0, 1.0, 0.5]
    assert {number(v) for v in (None, "?", float("nan"), [1])} == {None}


def test_a_reference_is_found_as_a_word_or_number_of_its_own():
    assert framed("14 and 4.5, so #4.", "4") == ("14 and 4.5, so #", ".")
    assert framed("14", "4") is None
    assert references_of({"reference": ["a", None, ""]}) == ["a"]
    assert references_of({"reference": {"x": 1}}) == []


def test_phrasing_is_taken_from_right_responses_only():
    rows = [{"response": f"<a>{k}</a>", "reference": str(k)} for k in (3, 4)] + [{"response": "it is 5", "reference": "5"}]
    assert inferred_template(rows, [True, True, False]) == "<a>{reference}</a>"
    assert inferred_template(rows, [True, False, False]) == "{reference}"


def test_an_answer_in_the_phrasing_of_the_evidence_is_right():
    evidence = gather(SCORE, [{"response": f"#{k}.", "reference": f"{k}", "ok": 1} for k in (1, 2)], gold="ok")
    row = {"reference": "6"}
    assert evidence.template == "#{reference}."
    assert answers_right("#6.", row, evidence)
    assert answers_right("\\boxed{6.0}", row, evidence)
    assert not answers_right("#7.", row, evidence)


def test_a_changed_row_keeps_its_fields_and_nothing_recorded():
    row = {
        "prompt": "p",
        "response": "a;b",
        "steps": ["a;", "b"],
        "tokens": [1],
        "logp": [-1.0],
        "reward": 1,
        "extra": 3,
        "group": 7,
    }
    assert altered(row, "c") == {"prompt": "p", "extra": 3, "response": "c", "steps": ["c"], "group": 7}
    assert "steps" not in altered({"response": "a"}, "b")


def test_attempts_that_agree_within_a_prompt_are_worth_no_more_than_its_prompts():
    hits = [k % 4 == 0 for k in range(40)]
    single = share_by(hits, range(40))
    fourfold = share_by([hit for hit in hits for _ in range(4)], [k for k in range(40) for _ in range(4)])
    assert (single.low, single.high, single.n) == pytest.approx((fourfold.low, fourfold.high, fourfold.n))
    assert share_by([], []) is None


def test_examples_are_worst_first_two_per_prompt_and_like_ones_are_counted():
    evidence = gather(SCORE, ROWS[:4], gold="ok")
    tried = [
        Tried(Attempt(i % 2, f"v{i}", altered(evidence.rows[i % 2], f"text {'abcdef'[i]}")), 1.0, i != 5, i / 10) for i in range(6)
    ]
    tried.append(Tried(Attempt(2, "v4", altered(evidence.rows[2], "TEXT  e")), 1.0, True, 0.1))
    shown = worst_examples(tried, evidence)
    assert [(e["row"], e["gap"], e["alike"]) for e in shown] == [(0, 0.4, 2), (1, 0.3, 1), (0, 0.2, 1), (1, 0.1, 1)]
    assert {e["hits"] for e in shown} == {6}
