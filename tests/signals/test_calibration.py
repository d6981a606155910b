import itertools
import math
import time

import pytest
import torch

from payoff.advantages.group import mean_baseline
from payoff.examples import four_answers
from payoff.pipeline import Verdict
from payoff.signals.answers import answer_match
from payoff.signals.calibration import (
    RULES,
    calibration,
    confidence_score,
    extreme_confidence,
    graded,
    not_knowing,
    rlcr,
    scoring_rule,
    split_confidence,
    stated_confidence,
    truthfulness,
    truthrl,
)
from payoff.trajectories import constant

GRID = [k / 100 for k in range(101)]


def expected(q, p, **rule):
    return p * scoring_rule(q, 1.0, **rule) + (1 - p) * scoring_rule(q, 0.0, **rule)


@pytest.mark.parametrize("rule", ["brier", "spherical"])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.2, 0.5, 0.83, 1.0])
def test_the_honest_confidence_alone_is_best_by_strict_rules(rule, p):
    scores = [expected(q, p, rule=rule) for q in GRID]
    assert GRID[max(range(101), key=scores.__getitem__)] == p
    assert sum(score > max(scores) - 1e-12 for score in scores) == 1


@pytest.mark.parametrize("p", [0.0, 0.29, 0.3, 0.31, 1.0])
def test_the_threshold_rule_is_proper_and_claims_from_the_threshold_on(p):
    scores = [expected(q, p, rule="threshold", threshold=0.3) for q in GRID]
    assert scores[round(100 * p)] == pytest.approx(max(scores))
    assert max(scores) == pytest.approx(max(p, 0.3))


@pytest.mark.parametrize("rule", RULES)
def test_every_score_lies_in_0_to_1_and_rises_with_knowing(rule):
    for q in GRID:
        assert 0 <= scoring_rule(q, 0.0, rule=rule) <= 1
        assert 0 <= scoring_rule(q, 1.0, rule=rule) <= 1
    right = [scoring_rule(q, 1.0, rule=rule) for q in GRID]
    assert right == sorted(right)


@pytest.mark.parametrize("c", [0.0, 1.0])
def test_the_mean_of_two_confidences_scores_more_than_they_do_on_average_by_brier(c):
    assert scoring_rule(0.5, c) > (scoring_rule(0.1, c) + scoring_rule(0.9, c)) / 2


def best_pay(p, *, rule, weight):
    return max(p * (weight + scoring_rule(q, 1.0, rule=rule)) + (1 - p) * scoring_rule(q, 0.0, rule=rule) for q in GRID)


@pytest.mark.parametrize(("rule", "weight"), [("brier", 1.0), ("spherical", 1.0), ("threshold", 0.0)])
def test_a_likelier_answer_is_never_worth_less(rule, weight):
    pay = [best_pay(p, rule=rule, weight=weight) for p in GRID]
    assert all(later >= sooner - 1e-12 for sooner, later in itertools.pairwise(pay))


def test_the_best_answer_with_an_honest_confidence_is_worth_p_squared_beyond_one():
    # c - (q - c)^2 at q = p: p - p (1 - p)^2 - (1 - p) p^2 = p^2; S is 1 more than minus the square
    for p in GRID:
        assert best_pay(p, rule="brier", weight=1.0) == pytest.approx(1 + p * p, abs=1e-12)


def test_a_group_that_is_right_throughout_is_told_apart_by_its_confidences():
    said = [f"<answer>7</answer><confidence>{q}</confidence>" for q in (0.2, 0.9)]
    group = four_answers().select(torch.tensor([0, 1]))
    advantage = lambda pay: mean_baseline(constant(torch.tensor(pay), torch.ones(2, dtype=torch.bool)), group).value[:, 0]
    assert advantage([rlcr(one, "7") for one in said]).tolist() == pytest.approx([-0.315, 0.315])  # 2 - 0.64 and 2 - 0.01
    assert advantage([answer_match(one.partition("<conf")[0], "7") for one in said]).tolist() == [0, 0]


def test_below_the_least_weight_a_known_wrong_answer_beats_a_doubtful_one_and_is_refused():
    # Brier, weight 1/2: V(p) = p / 2 + 1 - p (1 - p) has its least value at p = 1/4.
    assert min(GRID, key=lambda p: best_pay(p, rule="brier", weight=0.5)) == 0.25
    for rule in ("brier", "spherical"):
        with pytest.raises(ValueError, match="weight must be a number from 1 on"):
            rlcr("7", "7", rule=rule, weight=0.9)
    with pytest.raises(ValueError, match="from 0 on"):
        rlcr("7", "7", rule="threshold", weight=-0.1)
    with pytest.raises(ValueError, match="weight must be"):
        rlcr("7", "7", weight=math.inf)


def test_the_logarithmic_score_is_refused_with_its_reason():
    with pytest.raises(ValueError, match="no lower bound"):
        rlcr("7", "7", rule="log")
    with pytest.raises(ValueError, match="threshold must lie"):
        confidence_score("7", "7", rule="threshold", threshold=1.5)


@pytest.mark.parametrize(
    ("answer", "q", "pay"),
    [
        (7, "1", 2.0),
        (7, "0", 1.0),
        (8, "0", 1.0),
        (8, "1", 0.0),
        (7, "0.5", 1.75),
        (8, "50%", 0.75),
        (7, "nan", 0.0),
        (8, "nan", 0.0),
    ],
)
def test_rlcr_by_hand(answer, q, pay):
    # c + 1 - (q - c)^2, and 0 without a confidence that can be read
    assert rlcr(f"<answer>{answer}</answer><confidence>{q}</confidence>", "7") == pay


def test_an_unreadable_confidence_is_never_worth_more_than_a_readable_one():
    worst = min(rlcr(f"<answer>{a}</answer><confidence>{q}</confidence>", "7") for a in (7, 8) for q in GRID)
    assert rlcr("<answer>7</answer>", "7") == 0.0 <= worst


def test_an_answer_after_the_confidence_does_not_count():
    assert rlcr("<answer>8</answer><confidence>1</confidence><answer>7</answer>", "7") == 0.0
    assert rlcr("The answer is 7. <confidence>1</confidence>", "7") == 2.0


def test_what_is_right_is_another_graders_choice():
    said = r"\boxed{\frac{2}{4}} <confidence>1</confidence>"
    assert rlcr(said, "0.5", correct="math-answer") == 2.0
    assert rlcr(said, "0.5") == 0.0
    with pytest.raises(LookupError, match="unknown grader"):
        rlcr(said, "0.5", correct="no-such-grader")


@pytest.mark.parametrize("grader", [rlcr, confidence_score, truthrl])
@pytest.mark.parametrize("reference", [None, "", []])
def test_no_reference_no_verdict(grader, reference):
    verdict = grader("7 <confidence>1</confidence>", reference)
    assert isinstance(verdict, Verdict)
    assert not verdict.valid


def test_confidence_score_pays_knowing_that_one_is_wrong():
    assert confidence_score("8 <confidence>0</confidence>", "7") == 1.0
    assert confidence_score("7 <confidence>0.6</confidence>", "7") == pytest.approx(0.84)
    assert confidence_score("7", "7") == 0.0


@pytest.mark.parametrize(
    ("said", "q"),
    [
        ("0.8", 0.8),
        (" .5 ", 0.5),
        ("1.", 1.0),
        ("+1", 1.0),
        ("80%", 0.8),
        ("100 %", 1.0),
        ("5e-1", 0.5),
        ("1e400", None),
        ("1e99", None),
        ("nan", None),
        ("inf", None),
        ("-0.1", None),
        ("1.01", None),
        ("101%", None),
        ("0,8", None),
        ("0.8 0.9", None),
        ("", None),
        ("\u0661", None),
        ("0.8\x00", None),
        ("9" * 100_000, None),
        ("0." + "9" * 100_000, None),
    ],
)
def test_confidences_that_are_read_and_that_are_not(said, q):
    found = split_confidence(f"7<confidence>{said}</confidence>")
    assert found[0] == "7"
    assert found[1] == q


@pytest.mark.parametrize(
    ("response", "q"),
    [
        ("<confidence>0.5", None),
        ("0.5</confidence>", None),
        ("<confidence>0.5</confidence><confidence>0.6", None),
        ("<confidence><confidence>0.5</confidence></confidence>", 0.5),
        ("<confidence>0.1</confidence><confidence>0.9</confidence>", 0.9),
        ("<CONFIDENCE>0.5</CONFIDENCE>", None),
    ],
)
def test_the_last_confidence_tag_decides_and_must_be_closed(response, q):
    assert split_confidence(response)[1] == q
    verdict = stated_confidence(response)
    assert verdict == q if q is not None else not verdict.valid


@pytest.mark.parametrize(
    ("response", "pay"),
    [
        ("Paris", 1.0),
        ("Rome", -1.0),
        ("I don't know", 0.0),
        ("I don\u2019t know.", 0.0),
        ("Hard. The answer is unknown", 0.0),
        ("<answer>I do not know</answer>", 0.0),
        ("I don't know, but Paris", -1.0),
        ("I don't know. The answer is Paris", 1.0),
        ("Paris. <answer>I don't know</answer>", 0.0),
        ("", -1.0),
        ("<answer>", -1.0),
    ],
)
def test_truthrl_pays_right_abstaining_and_wrong(response, pay):
    assert truthrl(response, ["Paris", "paris, france"]) == pay


def test_where_nobody_knows_abstaining_is_right_and_answering_wrong():
    assert truthrl("I don't know", "unanswerable") == 1.0
    assert truthrl("Paris", "unanswerable") == -1.0


def test_one_answers_from_one_half_plus_half_the_pay_for_abstaining():
    for a in (-0.5, 0.0, 0.4):
        pay = {said: truthrl(said, "7", abstain=a) for said in ("7", "8", "unknown")}
        for p in GRID:
            assert (p * pay["7"] + (1 - p) * pay["8"] > pay["unknown"] + 1e-9) == (p > (1 + a) / 2 + 1e-9)


def test_ternary_pay_tells_a_group_without_right_answers_apart_where_binary_pay_cannot():
    # sign of an abstention's advantage: that of (wrong - right)
    for right in range(4):
        for wrong in range(4):
            pay = [truthrl(said, "7") for said in ["7"] * right + ["8"] * wrong + ["unknown"]]
            advantage = 0.0 - sum(pay) / len(pay)
            assert (advantage > 0) == (wrong > right)
            assert (advantage < 0) == (wrong < right)


def test_a_checker_that_misses_right_answers_moves_the_threshold_up():
    pay = {said: truthrl(said, "7", abstain=0.2) for said in ("7", "8", "unknown")}
    for p in GRID:
        seen = p * (1 - 0.25)  # one right answer of four is refused
        answers = seen * pay["7"] + (1 - seen) * pay["8"] > pay["unknown"] + 1e-9
        assert answers == (p > (1 + 0.2) / (2 * (1 - 0.25)) + 1e-9)


def test_of_questions_known_with_every_chance_it_answers_half_and_three_quarters_of_these_right():
    pay = {said: truthrl(said, "7") for said in ("7", "8", "unknown")}
    chances = [(k + 0.5) / 200 for k in range(200)]
    answered = [p for p in chances if p * pay["7"] + (1 - p) * pay["8"] > pay["unknown"]]
    right, wrong = sum(answered) / 200, (len(answered) - sum(answered)) / 200
    assert (right, 1 - len(answered) / 200, wrong) == pytest.approx((3 / 8, 1 / 2, 1 / 8))
    assert right - wrong == pytest.approx(0.25)  # binary pay answers all: 1/2 - 1/2


def test_truthrls_own_pattern_and_options():
    assert truthrl("PASS", "7", pattern="pass") == 0.0
    assert truthrl("pass on", "7", pattern="pass") == -1.0
    assert not not_knowing("I don't know", pattern="pass")
    with pytest.raises(ValueError, match="wrong <= abstain <= right"):
        truthrl("7", "7", abstain=2.0)
    with pytest.raises(ValueError, match="wrong <= abstain"):
        truthrl("7", "7", right=0.0, abstain=0.0, wrong=0.0)


def test_another_graders_answer_must_be_a_share():
    assert graded("answer-match", "7", "7") == 1.0
    said = graded("last-number", "7", "no number")
    assert isinstance(said, Verdict)
    assert not said.valid


def test_calibration_by_hand():
    # two bins: {0.1, 0.3} of which one is right: |0.2 - 0.5| x 1/2; {0.8, 1.0}, both right: 0.1 x 1/2
    found = calibration(torch.tensor([0.1, 0.3, 0.8, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]), bins=2)
    assert found.error == pytest.approx(0.15 + 0.05)
    assert found.brier == pytest.approx((0.01 + 0.49 + 0.04 + 0.0) / 4)
    assert found.auroc == 1.0
    assert found.accuracy == 0.75


def test_confidences_that_are_the_share_right_have_no_error():
    q = torch.tensor([0.25] * 4 + [0.75] * 4)
    right = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0])
    assert calibration(q, right, bins=10).error == pytest.approx(0.0)


def test_calibration_counts_ties_half_and_knows_no_auroc_of_one_kind():
    assert calibration(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).auroc == 0.5
    assert calibration(torch.tensor([0.5, 0.7]), torch.tensor([1.0, 1.0])).auroc is None


def test_weights_are_repetitions_and_shares_are_mixtures():
    q, c = torch.tensor([0.2, 0.9]), torch.tensor([0.0, 1.0])
    several = calibration(q.repeat_interleave(torch.tensor([3, 1])), c.repeat_interleave(torch.tensor([3, 1])))
    assert calibration(q, c, weight=torch.tensor([3.0, 1.0])) == pytest.approx(several)
    mixed = calibration(torch.tensor([0.6]), torch.tensor([0.25]))
    apart = calibration(torch.tensor([0.6, 0.6]), torch.tensor([1.0, 0.0]), weight=torch.tensor([1.0, 3.0]))
    assert mixed == pytest.approx(apart)


def test_calibration_refuses_what_is_no_share():
    for q in ([float("nan")], [1.1], [-0.1]):
        with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
            calibration(torch.tensor(q), torch.ones(1))
    with pytest.raises(ValueError, match="must not sum to 0"):
        calibration(torch.ones(1), torch.ones(1), weight=torch.zeros(1))


def test_truthfulness_counts_what_is_known():
    reward, known = torch.tensor([1.0, -1.0, 0.0, 5.0]), torch.tensor([True, True, True, False])
    assert truthfulness(reward, known)["truthfulness"] == 0.0
    with pytest.raises(ValueError, match="at least one known"):
        truthfulness(reward, torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="each"):
        truthfulness(reward, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("response", ["<confidence>" * 50_000, "\x00\u202e" * 50_000, "I don't know " * 30_000, "1e" * 100_000])
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert rlcr(response, "7") in (0.0, 1.0)
    assert truthrl(response, "7") == -1.0
    assert time.process_time() - start < 2.0


def test_the_share_of_extreme_confidences_is_a_mean_over_those_stated():
    said = ["0", "0.009", "0.01", "0.5", "99 %", "0.991", "1", "very", "1.5"]
    paid = [extreme_confidence(f"7<confidence>{q}</confidence>") for q in said]
    assert paid[:7] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert all(not one.valid for one in paid[7:])
    assert extreme_confidence("7<confidence>0.5</confidence>", margin=0.5) == 0.0
    with pytest.raises(ValueError, match="margin must lie in"):
        extreme_confidence("", margin=0.0)
