import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.pipeline import Verdict
from payoff.signals.bleu import bleu, bleuberi, mt_r1_zero, ngrams, texts_of, tokeniser

PAIRS = json.loads((Path(__file__).parent / "data" / "text_pairs.json").read_text(encoding="utf-8"))
words = st.lists(st.sampled_from(["a", "b", "c", "d", "."]), min_size=1, max_size=9).map(" ".join)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["response"][:20])
def test_bleu_is_sacrebleus_on_stored_pairs(pair):
    said, wanted = pair["response"], pair["references"]
    assert bleu(said, wanted) == pytest.approx(pair["sentence_bleu"], abs=1e-9)
    for tokens in ("13a", "zh", "char"):
        assert bleu(said, wanted, short="all", tokens=tokens) == pytest.approx(pair[f"corpus_bleu_{tokens}"], abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(words, st.lists(words, min_size=1, max_size=3))
def test_bleu_is_that_of_the_installed_sacrebleu(said, wanted):
    sacrebleu = pytest.importorskip("sacrebleu")
    assert bleu(said, wanted) == pytest.approx(sacrebleu.sentence_bleu(said, wanted).score / 100, abs=1e-9)
    assert bleu(said, wanted, short="all") == pytest.approx(
        sacrebleu.corpus_bleu([said], [[w] for w in wanted]).score / 100, abs=1e-9
    )


def test_bleu_by_hand():
    # p = 5/6, 3/5, 2/4, 1/3: their product is 1/12
    assert bleu("the cat sat on a mat", "the cat sat on the mat") == pytest.approx((1 / 12) ** 0.25)
    # "the" is in the reference twice: p1 = 2/7
    assert bleu("the the the the the the the", "the cat is on the mat", order=1) == pytest.approx(2 / 7)
    # half as long as the reference: brevity exp(1 - 2)
    assert bleu("a b", "a b c d", order=2) == pytest.approx(math.exp(-1))
    # orders 3 and 4 have no match: 1 / (2 x 2) and 1 / (4 x 1), after p = 3/4 and 1/3
    assert bleu("a b x c", "a b y c") == pytest.approx((3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25)
    assert bleu("a b x c", "a b y c", smoothing="none") == 0.0


@settings(max_examples=25, deadline=None)
@given(words, st.lists(words, min_size=1, max_size=3), st.randoms())
def test_bleu_lies_in_0_to_1_whatever_the_order_of_references(said, wanted, rng):
    shuffled = rng.sample(wanted, len(wanted))
    for grader in (bleu, bleuberi):
        assert 0.0 <= grader(said, wanted) <= 1.0
        assert grader(said, wanted) == grader(said, shuffled)
        assert grader(said, [said, *wanted[:0]]) == 1.0


def test_the_closest_reference_sets_the_brevity_and_the_shorter_of_two():
    assert bleu("a b c", ["a b c d e", "a b c d"], order=1) == pytest.approx(math.exp(1 - 4 / 3))
    assert bleu("a b c", ["a b", "a b c d"], order=1) == 1.0
    assert bleu("a b", ["a", "a b c d"], order=1, brevity="shortest") == 1.0


def test_bleuberi_by_hand():
    # blue is it against red is it: 3/4, 2/3, 1/2, and 1/1 where there is no 4-gram
    assert bleuberi("red is it", "blue is it") == pytest.approx(0.25**0.25)
    # one wrong word has (1/2)^(1/4) times the brevity
    assert bleuberi("x", "a b c") == pytest.approx(0.5**0.25 * math.exp(-2))
    assert bleuberi("  ", "a") == 0.0
    assert bleuberi("<answer></answer>", "a") == 0.0


def test_of_what_has_nothing_in_common_something_is_left_and_more_references_only_raise_what_is_matched():
    # p_n = 1 / (t_n + 1) with t = 4, 3, 2, 1 and no shortfall in length
    assert bleuberi("a b c d", "w x y z") == pytest.approx((1 / 5 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25)
    said, one = "the cat sat down", "a cat is there"
    assert bleuberi(said, [one, "the dog sat down too"]) > bleuberi(said, one)  # the shortest is still the first
    assert bleuberi("a b", ["a b c d e", "x y"]) > bleuberi("a b", "a b c d e")  # by its length alone: nothing else is matched


def test_bleuberi_reads_the_last_answer_tags():
    assert bleuberi("<answer>a b</answer>", "a b") == bleuberi("thinking <answer>x</answer> <answer>a b</answer> end", "a b") == 1.0
    assert bleuberi("<answer>a b", "a b") == 1.0


def test_bleuberi_with_rouge_is_the_harmonic_mean():
    assert bleuberi("a b", "a b", rouge=True) == 1.0
    assert bleuberi("x", "a", rouge=True) == 0.0
    b, r = bleuberi("a b x", "a b c"), 2 / 3
    assert bleuberi("a b x", "a b c", rouge=True) == pytest.approx(2 * b * r / (b + r))


@pytest.mark.parametrize("grader", [bleu, bleuberi, mt_r1_zero])
@pytest.mark.parametrize("reference", [None, "", [], [None, " "]])
def test_no_reference_no_verdict(grader, reference):
    verdict = grader("a", reference)
    assert isinstance(verdict, Verdict)
    assert not verdict.valid


@pytest.mark.parametrize(
    "response",
    [
        "a b c d",
        "<think></think><translate></translate>",
        "<think></think><translate> </translate>",
        "<translate>a b c d</translate><think></think>",
        "<think><translate>a b c d</think></translate>",
        "<think></think><translate>a b c d</translate><translate>a</translate>",
        "<think></think><translate>a b c d",
        "",
    ],
)
def test_a_translation_in_another_form_has_minus_3(response):
    assert mt_r1_zero(response, "a b c d") == -3.0


def form(text):
    return f"so <think>hm</think> <translate> {text} </translate>"


def test_what_a_formed_translation_is_paid():
    assert mt_r1_zero(form("a b c d"), "a b c d") == 2.0
    assert mt_r1_zero(form("x"), "a b c d") == 1.0
    assert mt_r1_zero(form("a b c d"), "a b c d", 80.0, measure="mixed") == pytest.approx(2.8)
    assert mt_r1_zero(form("x"), "a b c d", 80.0, measure="semantic") == pytest.approx(1.8)
    assert mt_r1_zero(form("a b c d"), "a b c d", threshold=0.9) == 3.0
    assert mt_r1_zero(form("x"), "a b c d", threshold=0.9) == -0.5
    assert mt_r1_zero(form("a b c d"), "a b c d", 10.0, measure="mixed", threshold=0.5) == -0.5


@pytest.mark.parametrize("semantic", [None, float("nan"), 101.0, -1.0])
def test_a_missing_metric_is_no_verdict(semantic):
    verdict = mt_r1_zero(form("a"), "a", semantic, measure="mixed")
    assert isinstance(verdict, Verdict)
    assert "semantic" in verdict.reason


def test_chinese_is_cut_by_characters():
    assert tokeniser("zh")("我有3.5个") == ["我", "有", "3.5", "个"]
    assert bleu("我有三个苹果", "我有四个苹果", tokens="zh") > 0 == bleu("我有三个苹果", "我有四个苹果")
    assert tokeniser("spaces")("a, b") == ["a,", "b"]


def test_an_unknown_tokeniser_names_the_package_or_the_choices():
    with pytest.raises((ImportError, ValueError), match=r"sacrebleu|one of"):
        bleu("a", "a", tokens="no-such")


def test_options_that_are_none_are_refused():
    with pytest.raises(ValueError, match="order >= 1"):
        bleu("a", "a", order=0)


def test_runs_of_words_are_counted():
    assert ngrams(["a", "b", "a", "b"], 2) == {("a", "b"): 2, ("b", "a"): 1}
    assert ngrams(["a"], 2) == {}
    assert texts_of(0) == ["0"]


@pytest.mark.parametrize("response", ["." * 300_000, "1," * 150_000, "a " * 150_000, "\x00" * 300_000, "&amp;" * 50_000])
def test_hostile_responses_are_read_quickly(response):
    start = time.process_time()
    assert 0.0 <= bleu(response, "a b c") <= 1.0
    assert time.process_time() - start < 3.0
