"""Three roles of one model: asking, answering, checking."""

import itertools
import math

import pytest

from payoff.signals.self_play import majority, questioner, responder, spell, verifier


def test_the_best_question_is_solved_every_second_time():
    assert questioner(0.5) == 1
    assert questioner(0.25) == pytest.approx(math.exp(-(0.25**2) / (2 * (0.5 / 3) ** 2)))
    assert questioner(0.3) == pytest.approx(questioner(0.7))
    assert questioner(1e-9) == pytest.approx(0.0111, abs=1e-4)  # exp(-4.5) just above never


@pytest.mark.parametrize("curve", ["gauss", "tent", "hard"])
def test_what_never_or_always_works_teaches_nothing(curve):
    assert questioner(0.0, curve=curve) == questioner(1, curve=curve) == questioner([1, 1, None], curve=curve) == 0


def test_other_curves_by_hand():
    assert questioner([1, 0, 0, 0], curve="tent") == 0.5
    assert questioner([1, 0, 0, 0], curve="hard") == 0.75


def test_bad_questions_cost():
    assert questioner(0.5, well_formed=False, grounded=False) == -1
    assert questioner(None, well_formed=False) == -1
    assert questioner(0.5, grounded=0) == -0.5


@pytest.mark.parametrize("success", [None, [], [None], 1.5, [0.5, -1], math.nan])
def test_a_question_without_answers_has_no_verdict(success):
    assert not questioner(success).valid


def test_an_answer_is_right_by_rule_or_by_majority():
    # for every rule and three verdicts: the maximum of both
    for rule, verdicts in itertools.product((0, 1), itertools.product((0, 1), repeat=3)):
        assert responder(list(verdicts), rule) == max(rule, int(sum(verdicts) >= 2))


def test_a_rule_between_is_kept():
    assert responder([0, 0, 1], 0.4) == 0.4


@pytest.mark.parametrize(("verdicts", "rule"), [([], None), ([1], 2.0), ([1], math.nan)])
def test_an_answer_that_nobody_judged_has_no_verdict(verdicts, rule):
    assert not responder(verdicts, rule).valid


def test_the_order_of_verdicts_matters_only_in_a_tie():
    for verdicts in itertools.product((True, False, None), repeat=4):
        found = {majority(order) for order in itertools.permutations(verdicts)}
        said = [v for v in verdicts if v is not None]
        assert len(found) == (2 if said and 2 * sum(said) == len(said) else 1)


def test_a_verifier_is_paid_for_the_majority():
    verdicts = [True, True, False, None]
    assert [verifier(v, verdicts) for v in verdicts] == [1, 1, 0, -1]


@pytest.mark.parametrize(
    ("verdicts", "rule"), [([True] * 3, None), ([True, False], None), ([None], None), ([], None), ([True, True, False], 0.0)]
)
def test_what_teaches_a_verifier_nothing_takes_part_in_nothing(verdicts, rule):
    assert not verifier(True, verdicts, rule).valid


def test_a_majority_that_the_rule_confirms_teaches():
    assert verifier(False, [True, True, False], 1.0) == 0


def test_one_name_pays_each_role_what_its_own_reward_pays():
    said = [True, True, False]
    for success in (0.3, None, [1, 0]):
        assert spell("questioner", success=success) == questioner(success)
    assert spell("questioner", success=0.5, grounded=False) == -0.5
    for rule in (None, 0.0, 1.0):
        assert spell("responder", verdicts=said, rule=rule) == responder(said, rule)
        assert spell("verifier", verdict=False, verdicts=said, rule=rule) == verifier(False, said, rule)
    for unknown in ({"role": "responder"}, {"role": "verifier"}, {"role": "judge"}, {"role": None}):
        assert not spell(**unknown).valid


@pytest.mark.parametrize("said", ["no", ["false"], [[True]], [{"verdict": True}]])
def test_what_is_no_verdict_is_not_taken_for_one(said):
    """Text is true to a program: "no" must not pay as two verifiers that agree."""
    assert not responder(said).valid
    assert not verifier(True, said).valid
    assert not spell("questioner", success=said).valid
