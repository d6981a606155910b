"""The 25 kinds of verifiable instructions: what follows each and what does not, strict and loose, and data that is at fault."""

import random
import re
import time

import pytest

from payoff.grading import signal
from payoff.rows import from_rows
from payoff.signals.instruction_checks import CHECKS, capital_words, sentences
from payoff.signals.instructions import ifeval
from payoff.signals.languages import language_of
from payoff.trajectories import outcome

# kind -> (arguments, texts that follow, texts that do not)
KINDS = {
    "keywords:existence": ({"keywords": ["Sea", "c++"]}, ["the sea; C++"], ["the sea", "lake c++"]),
    "keywords:frequency": ({"keyword": "ab", "frequency": 2, "relation": "at least"}, ["ab Abba"], ["ab"]),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, ["a category"], ["a Cat!"]),
    "keywords:letter_frequency": ({"letter": "e", "let_frequency": 2, "let_relation": "less than"}, ["He"], ["He eats"]),
    "language:response_language": ({"language": "de"}, ["Das ist nicht der Weg zu dem Haus."], ["This is not the way to it."]),
    "length_constraints:number_sentences": ({"num_sentences": 2, "relation": "at least"}, ["So. It is."], ["At 3.15 p. 4"]),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, ["a *** b", "***a***b***"], ["a", "a ****** b", "a***b***c"]),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, ["a b"], ["isn't it"]),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["a\n\n'then, b", "a\n\nTHEN b"],
        ["a\n\nb then", "then", "a\n\nthen\n\nb"],
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ["[a] [b c]"], ["[a] [b\n]", "[a"]),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, ["a\np. s. b"], ["a\nps b"]),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, ["* a\n - b"], ["* a", "** a\n* b", "* a\n* b\n- c"]),
    "detectable_format:constrained_response": ({}, ["Well. My answer is maybe."], ["My answer is perhaps."]),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, ["*a* and **b**"], ["*a* ** **"]),
    "detectable_format:multiple_sections": (
        {"section_spliter": "PART", "num_sections": 2},
        ["PART 1\na\nPART 2\nb"],
        ["PART 1 a", "PART A\nPART B"],
    ),
    "detectable_format:json_format": ({}, ['{"a": [1]}', "```json\n[]\n```"], ["{'a': 1}", "so: {}", "[" * 100_000]),
    "detectable_format:title": ({}, ["<<a title>>\nb"], ["<< >>", "<a>", "<<a\n>>"]),
    "combination:two_responses": ({}, ["a******b", "a ****** b ******"], ["a******a", "a", "a******b******c", "a************b"]),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say A."}, ["say a. A"], ["A"]),
    "startend:end_checker": ({"end_phrase": "The End."}, ['so it was, "the end."'], ["the end. Really."]),
    "startend:quotation": ({}, [' "a" '], ['"a', '"']),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["A WELL-KNOWN man"],
        ["A man"],
    ),
    "change_case:english_capital": ({}, ["THIS IS IT"], ["THIS is IT", "DAS IST NICHT DER WEG", "12"]),
    "change_case:english_lowercase": ({}, ["this is it, 3"], ["This is it", "das ist nicht der weg"]),
    "punctuation:no_comma": ({}, ["a; b"], ["a, b"]),
}


def test_there_are_25_kinds():
    assert set(KINDS) == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_and_what_does_not(kind):
    arguments, followed, not_followed = KINDS[kind]
    asked = [{"id": kind, **arguments}]
    for said in followed:
        assert ifeval(said, asked).value == 1.0, said
    for said in not_followed:
        told = ifeval(said, asked)
        assert (told.value, told.valid, told.reason) == (0.0, True, f"not followed: {kind}"), said
    assert ifeval(" \n", asked).value == 0.0  # nothing follows nothing


def test_both_relations_and_their_default():
    of = lambda said, **more: ifeval(said, [{"id": "length_constraints:number_words", "num_words": 2, **more}]).value
    assert [of(said, relation="less than") for said in ("a", "a b", "a b c")] == [1.0, 0.0, 0.0]
    assert [of(said, relation="at least") for said in ("a", "a b", "a b c")] == [0.0, 1.0, 1.0]
    assert of("a b") == 1.0


def test_share_and_whole():
    asked = [{"id": "punctuation:no_comma"}, {"id": "startend:quotation"}, {"id": "detectable_format:title"}]
    assert ifeval('"a"', asked).value == pytest.approx(2 / 3)
    assert ifeval('"a"', asked, whole=True).value == 0.0
    assert ifeval('"<<a>>"', asked, whole=True).value == 1.0


def test_loose_forgives_first_and_last_lines_and_asterisks_each_instruction_for_itself():
    quoted, no_comma = [{"id": "startend:quotation"}], [{"id": "punctuation:no_comma"}]
    said = 'Sure, here it is:\n"**bold**"\nHope it helps'
    assert [ifeval(said, asked).value for asked in (quoted, no_comma)] == [0.0, 0.0]
    assert [ifeval(said, asked, loose=True).value for asked in (quoted, no_comma)] == [1.0, 1.0]
    assert ifeval('**"a"**', quoted).value == 0.0
    assert ifeval('**"a"**', quoted, loose=True).value == 1.0
    assert ifeval("a, b", no_comma, loose=True).value == 0.0  # one line without its first is nothing, which follows nothing
    both = [{"id": "detectable_format:number_highlighted_sections", "num_highlights": 1}, *quoted]
    assert ifeval('*hm*\n"a"', both, loose=True).value == 1.0  # by different forms


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (None, "the row has no instructions"),
        ([], "the row has no instructions"),
        ("punctuation:no_comma", "instructions must be a list"),
        ([{"kind": "x"}], "an instruction must be"),
        ([{"id": "punctuation:no_commas"}], "unknown instruction"),
        ([{"id": "punctuation:no_comma", "words": 2}], "no argument 'words'; there are none"),
        ([{"id": "length_constraints:number_words"}], "needs 'num_words'"),
        ([{"id": "length_constraints:number_words", "num_words": "3"}], "num_words must be int"),
        ([{"id": "length_constraints:number_words", "num_words": 3, "relation": "more than"}], "relation must be one of"),
        ([{"id": "keywords:existence", "keywords": []}], "keywords must be texts"),
        ([{"id": "language:response_language", "language": "tlh"}], "is not known"),
    ],
)
def test_instructions_that_cannot_be_checked_are_no_fault_of_the_response(asked, why):
    told = ifeval("a", asked)
    assert not told.valid
    assert why in told.reason


def test_rows_in_the_form_of_the_published_data():
    rows = [
        {"response": "a b", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
         "kwargs": [{"num_words": None}, {"num_words": 5.0, "relation": "at least", "keyword": None}]},
        {"response": "a b", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]},
    ]  # fmt: skip
    traj = from_rows(rows)
    reward = signal(ifeval, name="ifeval")(traj)["ifeval"]
    value, valid = outcome(reward, traj)
    assert (value.tolist(), valid.tolist()) == ([0.5, 0.0], [True, False])
    assert list(reward.reasons.values()) == ["1 instructions, and arguments of 2"]


def test_sentences_end_where_readers_say():
    assert [sentences(said) for said in ("", "...", "One", "One. Two", "Mr. X said: no.", "Why?! Because.", "1. One\n2. Two.")] == [
        0, 0, 1, 2, 1, 2, 1,
    ]  # fmt: skip
    assert sentences("\u8d70\u3002\u6765\uff01") == 2


def test_languages():
    said = {
        "fr": "C'est une histoire qui se passe dans la mer.", "es": "Es una historia que no es muy larga.",
        "pt": "Esta história não é muito longa para você.", "it": "Questa è una storia che non è lunga.",
        "ru": "Это история о море.", "uk": "Це історія про моряка.", "bg": "Котката била гладна и търсела риба.",
        "ar": "هذه قصة عن بحار", "fa": "این داستان یک ملوان است که", "ur": "یہ ایک کہانی ہے", "hi": "यह एक कहानी है और",
        "mr": "ही एक गोष्ट आहे आणि", "ne": "यो एक कथा हो र छ", "ja": "海の話です", "zh": "海的故事", "ko": "바다 이야기",
        "sw": "Hii ni hadithi ya mtu wa bahari", "vi": "Đây là một câu chuyện của người", "fi": "Tämä on tarina, joka ei ole pitkä",
    }  # fmt: skip
    assert {language: language_of(text) for language, text in said.items()} == {language: language for language in said}
    assert [language_of(text) for text in ("", "42!", "Xyzzy")] == [None] * 3


def test_texts_made_to_be_slow_are_not():
    start = time.process_time()
    for text in ("[" * 200_000, "*" * 200_000, "<<" * 100_000, " \n" * 100_000, ". " * 100_000, "p. " * 60_000):
        for kind, (arguments, _, _) in KINDS.items():
            ifeval(text, [{"id": kind, **arguments}])
    assert time.process_time() - start < 5


def test_linear_checks_decide_as_the_published_patterns_do():
    """The patterns backtrack; the checks go through the lines once, and must come to the same on every short text."""
    stars, dashes, boxes = (re.compile(p, re.MULTILINE) for p in (r"^\s*\*[^\*].*$", r"^\s*-.*$", r"\[.*?\]"))
    rng = random.Random(0)
    for _ in range(1500):
        text = "".join(rng.choice("*-[]<> a\n") for _ in range(rng.randint(1, 12)))
        bullets = len(stars.findall(text)) + len(dashes.findall(text))
        assert CHECKS["detectable_format:number_bullet_lists"].holds(text, bullets), text
        holders = len(boxes.findall(text))
        placed = CHECKS["detectable_content:number_placeholders"].holds
        assert placed(text, holders) and not placed(text, holders + 1), text  # noqa: PT018
        titled = any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))
        assert CHECKS["detectable_format:title"].holds(text) == titled, text


def test_words_in_capitals_are_those_of_nltks_tokenizer():
    split = pytest.importorskip("nltk.tokenize.destructive").NLTKWordTokenizer().tokenize
    words = """A IT it DON'T don't I'M U.S. WELL-KNOWN A/B A_B COVID-19 NASA's NASA'S (FBI) "OK" B,C B, 3,000 X:Y X: OK... WAIT!
    A--B A&B CANNOT 'TIS WE'LL 'QUOTED' 50% $US #TAG *BOLD* \u00c9 \u201cUP\u201d X. Y? Q;R [Z] <<T>> A\u2014B 1A O'NEIL '' A' R2-D2
    Ph.D IT'S a."""
    pieces = re.findall(r"\S+", words)
    rng = random.Random(0)
    for _ in range(300):
        text = " ".join(rng.choice(pieces) for _ in range(rng.randint(1, 8)))
        assert capital_words(text) == sum(map(str.isupper, split(text))), text


def test_arguments_are_taken_without_spaces_around_them():
    asked = [
        ("keywords:frequency", {"keyword": " ab ", "frequency": 1}, "cabd"),
        ("detectable_content:postscript", {"postscript_marker": "P.S. "}, "a\np.s. b"),
        ("detectable_format:multiple_sections", {"section_spliter": "Part ", "num_sections": 1}, "Part 1"),
    ]
    for kind, arguments, said in asked:
        assert ifeval(said, [{"id": kind, **arguments}]).value == 1.0, kind
