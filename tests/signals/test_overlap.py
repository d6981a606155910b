import itertools
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.pipeline import Verdict
from payoff.signals.overlap import chrf, common_subsequence, rouge, token_f1

PAIRS = json.loads((Path(__file__).parent / "data" / "text_pairs.json").read_text(encoding="utf-8"))
KINDS = {"1": "rouge1", "2": "rouge2", "l": "rougeL"}
words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9).map(" ".join)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["response"][:20])
def test_chrf_is_sacrebleus_and_rouge_rouge_scores_on_stored_pairs(pair):
    said, wanted = pair["response"], pair["references"]
    assert chrf(said, wanted) == pytest.approx(pair["chrf"], abs=1e-9)
    assert chrf(said, wanted, words=2) == pytest.approx(pair["chrf++"], abs=1e-9)
    if (said + "".join(wanted)).isascii():  # rouge-score knows no other letters
        for kind, (name, measure) in itertools.product(KINDS, enumerate(("precision", "recall", "f1"))):
            assert rouge(said, wanted, kind=kind, measure=measure) == pytest.approx(pair[KINDS[kind]][name], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(words, words.filter(str.strip))
def test_both_are_those_of_the_installed_packages(said, wanted):
    sacrebleu = pytest.importorskip("sacrebleu")
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    assert chrf(said, wanted) == pytest.approx(sacrebleu.sentence_chrf(said, [wanted]).score / 100, abs=1e-9)
    scores = scorer.score(wanted, said)
    for kind, name in KINDS.items():
        assert rouge(said, wanted, kind=kind) == pytest.approx(scores[name].fmeasure, abs=1e-9)


def by_trying_all(a, b):
    return max(n for n in range(len(a) + 1) if any(is_within(part, b) for part in itertools.combinations(a, n)))


def is_within(part, text):
    rest = iter(text)
    return all(any(one == other for other in rest) for one in part)


@settings(max_examples=25, deadline=None)
@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_the_longest_common_subsequence_is_that_of_all_subsequences(a, b):
    assert common_subsequence(a, b) == by_trying_all(a, b) == common_subsequence(b, a)


def test_rouge_by_hand():
    # the, cat, was in common: 3 of 4 and 3 of 6
    assert rouge("the cat was found", "the cat was under the bed", kind="1", measure="precision") == 0.75
    assert rouge("the cat was found", "the cat was under the bed", kind="1") == pytest.approx(0.6)
    assert rouge("the cat was found", "the cat was under the bed", kind="2", measure="recall") == pytest.approx(2 / 5)
    assert rouge("b a", "a b", kind="1") == 1.0
    assert rouge("b a", "a b", kind="l") == 0.5
    assert rouge("", "a") == 0.0
    assert rouge("a", "a", kind="2") == 0.0


def test_words_of_every_script_count():
    assert rouge("привет мир", "привет") == pytest.approx(2 / 3)


def test_the_reference_with_the_best_f1_is_taken_for_every_measure():
    # against "a" f1 is 2/3, against "a b c d e f" it is 1/2: recall is that of the first, though the other has more words
    assert rouge("a b", ["a b c d e f", "a"], kind="1", measure="precision") == 0.5


def test_chrf_by_hand():
    # single letters: 2 of 3 and 2 of 4, F with beta 1 is 4/7
    assert chrf("abx", "abyz", order=1, beta=1.0) == pytest.approx(4 / 7)
    # pairs: 1 of 2 and 1 of 3; P = 7/12, R = 5/12
    assert chrf("abx", "abyz", order=2, beta=1.0) == pytest.approx(35 / 72)
    assert chrf("a b", "ab") == 1.0
    assert chrf("xyz", "abc") == 0.0


def test_token_f1_by_hand():
    assert token_f1("The answer is 5 red apples", "red apples") == pytest.approx(0.8)
    assert token_f1("the", "an") == 1.0
    assert token_f1("the", "an", articles=True) == 0.0
    assert token_f1("no", "No!") == 1.0
    assert token_f1("a b b", "b b b", articles=True) == pytest.approx(4 / 6)
    assert token_f1("<answer>", "x") == 0.0


@settings(max_examples=25, deadline=None)
@given(words, words.filter(str.strip), words.filter(str.strip))
def test_more_references_never_pay_less_and_a_reference_itself_pays_1(said, one, other):
    for grader in (chrf, lambda a, b: rouge(a, b, kind="1"), rouge, token_f1):
        assert grader(said, [one, other]) == max(grader(said, one), grader(said, other)) <= 1.0
        assert grader(one, [other, one]) == 1.0


@pytest.mark.parametrize("grader", [rouge, chrf, token_f1])
@pytest.mark.parametrize("reference", [None, "", [], " \n"])
def test_no_reference_no_verdict(grader, reference):
    verdict = grader("a", reference)
    assert isinstance(verdict, Verdict)
    assert not verdict.valid


def test_options_that_are_none_are_refused():
    for options in ({"order": 0}, {"words": -1}, {"beta": 0.0}):
        with pytest.raises(ValueError, match="must hold"):
            chrf("a", "a", **options)


@pytest.mark.parametrize("response", ["a b " * 75_000, "\x00" * 300_000, "-" * 300_000, "a" * 300_000])
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    for grader in (rouge, chrf, token_f1):
        assert 0.0 <= grader(response, "b a " * 5_000) <= 1.0
    assert time.process_time() - start < 4.0
