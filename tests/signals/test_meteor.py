"""METEOR: pairs with the fewest crossings by enumeration, numbers by hand, and those of nltk where no word is repeated."""

import itertools
import random

import pytest

from payoff.pipeline import Verdict
from payoff.signals.meteor import aligned, meteor, stemmer, with_synonyms


def crossings(pairs):
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in itertools.combinations(pairs, 2))


def every_pairing(said, wanted):
    """All pairings of equal words that have the greatest number of pairs."""
    equal = [(i, j) for i, a in enumerate(said) for j, b in enumerate(wanted) if a == b]
    whole = [
        pairs
        for size in range(len(equal) + 1)
        for pairs in itertools.combinations(equal, size)
        if len({i for i, _ in pairs}) == len({j for _, j in pairs}) == size
    ]
    most = max(map(len, whole))
    return [pairs for pairs in whole if len(pairs) == most]


def test_pairs_are_as_many_as_can_be_and_cross_as_little_as_can_be():
    rng = random.Random(0)
    for _ in range(60):
        said, wanted = ([rng.choice("abc") for _ in range(rng.randint(0, 5))] for _ in range(2))
        best = every_pairing(said, wanted)
        found = aligned(said, wanted)
        assert len(found) == len(best[0])
        assert crossings(found) == min(map(crossings, best))
        assert found == sorted(found)


def test_by_hand():
    # "the cat sat" against "on the mat the cat sat down": 3 pairs in one run, P = 1, R = 3/7;
    # F = 10 (3/7) / (3/7 + 9) = (30/7) / (66/7) = 5/11; penalty 1/2 (1/3)^3 = 1/54
    assert meteor("the cat sat", "on the mat the cat sat down") == pytest.approx(5 / 11 * 53 / 54, abs=1e-12)
    # "a b" against "b a": two runs, penalty 1/2
    assert meteor("a b", "b a") == pytest.approx(0.5, abs=1e-12)
    assert meteor("x y", "x y", gamma=0.0) == 1.0
    # alpha 0 is precision, 1 is recall
    assert (meteor("a b", "a c d e", alpha=0.0, gamma=0.0), meteor("a b", "a c d e", alpha=1.0, gamma=0.0)) == (0.5, 0.25)


def test_stems_pair_what_forms_do_not_and_forms_go_first():
    assert meteor("running dogs", "run dog", stems=False) == 0.0
    assert meteor("running dogs", "run dog") == pytest.approx(1 - 0.5 / 8)
    assert stemmer()("dogs") == stemmer()("dog")
    # "runs" takes its own form, not the earlier "running"
    assert aligned(["run", "runs"], ["run", "run"]) == [(0, 0)]
    assert meteor("runs running", "running runs") == pytest.approx(0.5)


def test_of_several_references_the_best_and_none_is_no_verdict():
    assert meteor("a b c", ["x", "a b c", "a"]) == meteor("a b c", "a b c") == pytest.approx(1 - 0.5 / 27)
    assert isinstance(meteor("a", None), Verdict)
    assert not meteor("a", [" "]).valid
    assert meteor("", "a") == 0.0
    with pytest.raises(ValueError, match="alpha and gamma must lie in"):
        meteor("a", "a", alpha=2.0)


def test_nltk_gives_the_same_where_no_word_is_repeated():
    nltk = pytest.importorskip("nltk.translate.meteor_score")

    class NoWordNet:
        def synsets(self, word):
            return []

    words = [
        "guide",
        "guides",
        "action",
        "ensures",
        "ensured",
        "military",
        "obeys",
        "commands",
        "command",
        "party",
        "parties",
        "heeding",
    ]
    rng = random.Random(1)
    for _ in range(100):
        said, wanted = (rng.sample(words, rng.randint(1, 12)) for _ in range(2))
        stems = [stemmer()(word) for word in said], [stemmer()(word) for word in wanted]
        theirs = nltk.single_meteor_score(wanted, said, wordnet=NoWordNet())
        mine = meteor(" ".join(said), " ".join(wanted), tokens="spaces")
        if all(len(set(one)) == len(one) for one in stems):
            assert mine == pytest.approx(theirs, abs=1e-12)
        else:  # as many pairs, in no more runs
            assert mine >= theirs - 1e-12


def test_a_text_of_one_word_repeated_ends_at_once():
    assert meteor("the " * 500, "the " * 40 + "cat") > 0


def test_as_many_words_are_paired_as_synonyms_as_can_be():
    rng = random.Random(2)
    for _ in range(60):
        table = {word: rng.sample("pqrs", rng.randint(0, 2)) for word in "abcd"}
        said, wanted = rng.sample("abcd", rng.randint(1, 4)), rng.sample("pqrs", rng.randint(1, 4))
        found = with_synonyms(said, wanted, [], table)
        assert all(wanted[j] in table[said[i]] for i, j in found)
        assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
        size = max(len(said), len(wanted))
        most = max(
            sum(wanted[j] in table[a] for a, j in zip(said, places, strict=False) if j < len(wanted))
            for places in itertools.permutations(range(size))
        )
        assert len(found) == most
    assert with_synonyms(["a", "b"], ["p", "q"], [], {"a": "pq", "b": "pq"}) == [(0, 0), (1, 1)]  # and do not cross for nothing
    assert with_synonyms(["a", "b"], ["p"], [(1, 0)], {"a": "p"}) == [(1, 0)]


def test_synonyms_come_after_forms_and_stems_in_either_direction_and_by_a_function_too():
    table = {"couch": ["sofa"], "big": ["large"]}
    for synonyms in (table, lambda word: table.get(word, ())):
        assert meteor("a large sofa", "a big couch", synonyms=synonyms) == pytest.approx(1 - 0.5 / 27)
        assert meteor("a large sofa", "a big couch") == meteor("a large sofa", "a big couch", synonyms={})
    # "sofa" is paired with its own form, which leaves "couch" for "couch"
    assert meteor("sofa couch", "couch sofa", synonyms={"sofa": ["couch"]}) == 0.5


def test_nltk_gives_the_same_with_a_wordnet_of_the_same_synonyms():
    nltk = pytest.importorskip("nltk.translate.meteor_score")
    groups = [("car", "auto"), ("cat", "tom"), ("sun", "star"), ("fog", "mist"), ("pal", "chum")]  # each its own stem
    table = {word: set(group) for group in groups for word in group}

    class Sense:
        def __init__(self, word):
            self.word = word

        def lemmas(self):
            return [Sense(word) for word in table[self.word]]

        def name(self):
            return self.word

    class WordNet:
        def synsets(self, word):
            return [Sense(word)] if word in table else []

    rng = random.Random(3)
    for _ in range(60):
        said, wanted = ([rng.choice(group) for group in rng.sample(groups, rng.randint(1, 5))] for _ in range(2))
        mine = meteor(" ".join(said), " ".join(wanted), tokens="spaces", synonyms=table)
        assert mine == pytest.approx(nltk.single_meteor_score(wanted, said, wordnet=WordNet()), abs=1e-12)
