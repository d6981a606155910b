import itertools
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.pipeline import Verdict
from payoff.signals.choices import choice, interval_score, label_set, listed, med_r1, medvlm_r1, number_in_range

CITIES = ["Rome", "Paris", "Oslo", "Bonn"]


def is_unknown(verdict):
    return isinstance(verdict, Verdict) and not verdict.valid


@pytest.mark.parametrize(
    "said",
    [
        *(
            "B",
            "b",
            "(B)",
            "B.",
            "B)",
            "[B]",
            "**B**",
            "option B",
            "Option (B).",
            "choice: B",
            "B) Paris",
            "(B) Paris.",
            "B: Paris",
        ),
        *("Paris", " paris. ", r"\boxed{B}", "<answer>B</answer>", "The answer is (B).", "#### B", "Answer: B. Paris"),
    ],
)
def test_ways_to_choose_the_second(said):
    assert choice(said, "B", CITIES) == 1.0
    assert choice(said, "Paris", CITIES) == 1.0
    assert choice(said, 1, CITIES) == 1.0
    assert choice(said, ["D", "(B)"], CITIES) == 1.0
    assert choice(said, "A", CITIES) == 0.0


@pytest.mark.parametrize(
    "said", ["A or B", "B, C", "B and C", "B) Rome", "B Paris", "Parisian", "BB", "E", "2", "", "A good one is B", "B?" * 9]
)
def test_what_chooses_nothing_or_too_much(said):
    assert choice(said, "B", CITIES) == 0.0


def test_without_choices_letters_alone_can_be_told_apart():
    assert choice("B) Paris", "B") == 1.0
    assert choice("The answer is C", "B") == 0.0
    assert choice("B, C", "B") == 0.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_shuffling_choices_and_key_together_changes_nothing(order):
    shuffled = [CITIES[i] for i in order]
    letter = "ABCD"[order.index(1)]
    for said, pay in ((letter, 1.0), ("Paris", 1.0), ("Oslo", 0.0)):
        assert choice(said, letter, shuffled) == pay


@pytest.mark.parametrize("reference", [None, "", [], "Vienna", "E", 4, -1])
def test_a_key_that_is_no_choice_gives_no_verdict(reference):
    assert is_unknown(choice("B", reference, CITIES))
    assert is_unknown(medvlm_r1("B", reference, CITIES))


def test_choices_with_the_same_text_cannot_be_chosen_by_it():
    assert choice("Paris", "A", ["Paris", "Paris"]) == 0.0
    assert choice("A", "A", ["Paris", "Paris"]) == 1.0


def test_medvlm_r1_adds_form_and_choice():
    for form, right in itertools.product((0, 1), repeat=2):
        said = "<answer>" + "AB"[right] + "</answer>"
        said = ("<think>x</think>" if form else "") + said
        assert medvlm_r1(said, "B") == form + right


@pytest.mark.parametrize(
    ("said", "exact", "f1", "jaccard", "recall"),
    [
        ("red, blue", 1.0, 1.0, 1.0, 1.0),
        ("Blue; RED", 1.0, 1.0, 1.0, 1.0),
        ("- red\n- blue", 1.0, 1.0, 1.0, 1.0),
        ("red, red, blue", 1.0, 1.0, 1.0, 1.0),
        ("The answer is red and blue.", 1.0, 1.0, 1.0, 1.0),
        ("red", 0.0, 2 / 3, 1 / 2, 1 / 2),
        ("red, green", 0.0, 1 / 2, 1 / 3, 1 / 2),
        ("red, blue, green, pink", 0.0, 2 / 3, 1 / 2, 1.0),
        ("reddish", 0.0, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_sets_of_labels_by_hand(said, exact, f1, jaccard, recall):
    for measure, pay in (("exact", exact), ("f1", f1), ("jaccard", jaccard), ("recall", recall)):
        assert label_set(said, ["red", "blue"], measure=measure) == pytest.approx(pay)
        assert label_set(said, "blue and red", measure=measure) == pytest.approx(pay)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from("abcdef"), min_size=1), st.sets(st.sampled_from("abcdef"), min_size=1))
def test_f1_and_jaccard_of_sets_are_one_function_of_each_other(a, b):
    f1, jaccard = (label_set(", ".join(sorted(a)), sorted(b), measure=m) for m in ("f1", "jaccard"))
    assert jaccard == pytest.approx(f1 / (2 - f1))
    assert label_set(", ".join(sorted(b)), sorted(a)) == pytest.approx(f1)


FINDINGS = ["mass", "edema", "lung mass", "no finding"]


@pytest.mark.parametrize(
    ("said", "reference", "pay"),
    [
        ("mass, edema", ["mass", "edema"], 2.0),
        ("EDEMA and mass.", ["mass", "edema"], 2.0),
        ("edema", ["mass", "edema"], 1.0),
        ("mass, edema, lung mass", ["mass", "edema"], 0.0),
        ("lung mass", ["mass"], 0.0),
        ("lung mass", ["lung mass"], 1.0),
        ("massive edematous", ["mass", "edema"], 0.0),
        ("no finding", ["no finding"], 0.25),
        ("no finding", ["mass"], 0.0),
        ("", ["mass"], 0.0),
        ("mass", "mass, edema", 1.0),
    ],
)
def test_med_r1_by_hand(said, reference, pay):
    assert med_r1(said, reference, FINDINGS) == pay


def test_med_r1_listing_everything_pays_nothing_and_a_share_divides():
    assert med_r1(", ".join(FINDINGS), ["mass", "edema"], FINDINGS) == 0.0
    assert med_r1("edema", ["mass", "edema"], FINDINGS, share=True) == 0.5
    assert is_unknown(med_r1("mass", ["cyst"], FINDINGS))
    assert is_unknown(med_r1("mass", None, FINDINGS))
    assert med_r1("a+b", ["a+b"], ["a+b", "a"]) == 1.0


def test_med_r1_is_best_served_by_the_labels_whose_joint_chance_times_their_number_is_largest():
    """Every truth and every answer of three labels, which are not independent; a policy that climbs the mean ends at the same."""
    labels, subsets = ["mass", "edema", "cyst"], [set(s) for k in range(4) for s in itertools.combinations(range(3), k)]
    weight = [1.0, 3.0, 0.5, 0.5, 6.0, 2.0, 1.0, 2.0]  # of {}, 0, 1, 2, 01, 02, 12, 012
    chance = [w / sum(weight) for w in weight]
    names = lambda one: [labels[k] for k in sorted(one)] or ["no finding"]
    pay = [
        sum(p * med_r1(", ".join(names(said)), names(true), labels) for p, true in zip(chance, subsets, strict=True))
        for said in subsets
    ]
    joint = [len(said) * sum(p for p, true in zip(chance, subsets, strict=True) if said <= true) for said in subsets]
    assert pay[1:] == pytest.approx(joint[1:])
    assert pay[0] == pytest.approx(0.25 * chance[0])
    assert subsets[max(range(8), key=pay.__getitem__)] == {0, 1}  # though the mass alone is the likelier: 13 of 16, and 8
    logits = torch.zeros(8, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(logits.softmax(0) @ torch.tensor(pay), logits)
        logits = (logits + 2 * gradient).detach().requires_grad_()
    assert float(logits.detach().softmax(0)[4]) > 0.9


@pytest.mark.parametrize(
    ("said", "pay"),
    [
        ("2.5", 1.0),
        ("3", 1.0),
        ("11/4", 1.0),
        ("The answer is 2.75.", 1.0),
        ("2.4999", 0.0),
        ("3.0001", 0.0),
        ("nan", 0.0),
        ("1e400", 0.0),
    ],
)
def test_numbers_in_a_range(said, pay):
    assert number_in_range(said, 2.5, 3) == pay


def test_ranges_may_be_open_and_must_be_ranges():
    assert number_in_range("1e9", 2, None) == 1.0
    assert number_in_range("-5", None, "-5") == 1.0
    for low, high in ((None, None), (3, 2), ("x", 2), (1, float("nan")), (float("inf"), None)):
        assert is_unknown(number_in_range("2", low, high))


def test_interval_scores_by_hand():
    # level 0.9: g = 20. Width 2 costs 2 / (20 x 10); missing by 1 costs 20 / 200
    assert interval_score("[4, 6]", 5, 0, 10) == pytest.approx(0.99)
    assert interval_score("(6, 8)", 5, 0, 10) == pytest.approx(1 - 22 / 200)
    assert interval_score("0 to 10", 5, 0, 10) == pytest.approx(0.95)
    assert interval_score("[-100, 100]", 5, 0, 10) == interval_score("[0, 10]", 5, 0, 10)
    assert interval_score("5", "5", 0, 10) == 1.0
    assert interval_score("10", 0, 0, 10) == 0.0


def test_the_quantiles_are_the_best_interval_to_state():
    chances = {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.25, 4: 0.15}  # level 1/2: quantiles 1/4 and 3/4 are 1 and 3
    pay = {
        (a, b): sum(p * interval_score(f"[{a}, {b}]", y, 0, 4, level=0.5) for y, p in chances.items())
        for a in range(5)
        for b in range(a, 5)
    }
    assert max(pay, key=pay.__getitem__) == (1, 3)


@pytest.mark.parametrize("said", ["[6, 4]", "[4, 5, 6]", "four to six", "", "[nan, 1]", "[1e400, 2]", "x"])
def test_what_is_no_interval_has_nothing(said):
    assert interval_score(said, 5, 0, 10) == 0.0


def test_an_interval_score_needs_a_reference_in_its_range():
    for reference, low, high in ((None, 0, 1), (2, 0, 1), (0, 0, 0), (0, None, 1), ([0, 1], 0, 1), ("x", 0, 1)):
        assert is_unknown(interval_score("[0, 1]", reference, low, high))
    with pytest.raises(ValueError, match="level"):
        interval_score("1", 1, 0, 2, level=1.0)


@settings(max_examples=25, deadline=None)
@given(st.fractions(0, 10, max_denominator=99), st.fractions(0, 10, max_denominator=99), st.fractions(0, 10, max_denominator=99))
def test_interval_scores_lie_in_0_to_1(a, b, truth: Fraction):
    low, high = sorted((a, b))
    assert 0.0 <= interval_score(f"{low} to {high}", str(truth), 0, 10) <= 1.0


def test_lists_are_cut_at_their_marks():
    assert listed("a; b,c and d\ne") == ["a", "b", "c", "d", "e"]
    assert listed("sand, band") == ["sand", "band"]
    assert listed(" , ;") == []


@pytest.mark.parametrize(
    "response", ["(" * 200_000, "(a) " * 50_000, " and" * 50_000, "1," * 100_000, "\x00" * 200_000, "9" * 200_000]
)
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert choice(response, "B", CITIES) == 0.0
    assert label_set(response, ["x"]) == 0.0
    assert med_r1(response, ["mass"], FINDINGS) == 0.0
    assert number_in_range(response, 2, 3) == 0.0
    assert interval_score(response, 2, 0, 3) == 0.0
    assert time.process_time() - start < 2.0
