"""METEOR: words of a reference found in a text, in their own form, by their stem or as synonyms, charged for another order.

Stems come from nltk's Porter stemmer, which needs no data. Synonyms are given: WordNet's would be a download, and nothing is.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.bleu import LONGEST, texts_of, tokeniser

_KEPT = 16  # alignments that are followed at a time, the least crossed ones
_MOST_WORDS = 2_000  # of either text
_MOST_SYNONYMS = 200  # words of a response that are looked for as synonyms
Synonyms = Mapping[str, Iterable[str]] | Callable[[str], Iterable[str]]


@method("meteor", kind="grader")
def meteor(
    response: str,
    reference: Reference,
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    stems: bool = True,
    synonyms: Synonyms | None = None,
    tokens: str = "13a",
) -> float | Verdict:
    """METEOR of a response against a reference (Banerjee and Lavie 2005), in 0..1; the best of several references.

    Words of the two texts are paired, each at most once: as many as have the same form, then of the rest as many as have the same
    stem, and then, where a table is given, as many as are synonyms; among such pairings one with few crossing pairs is taken, among
    those of forms and stems the fewest. With m pairs, P = m / (words of the response), R = m /
    (words of the reference): F = P R / (alpha P + (1 - alpha) R), which is 10 P R / (R + 9 P) by default, and
    METEOR = F (1 - gamma (c / m)^beta), c the number of runs of pairs that are neighbours, in order, in both texts.

    stems:  also by the stem, as nltk's `PorterStemmer` gives it; without, nltk is not needed
    synonyms: a mapping from a word to those that mean the same, or a function from a word to them; one direction is enough. None:
            none, as no table comes with the package. nltk's WordNet, where somebody has its data, is
            `lambda word: {name for s in wordnet.synsets(word) for name in s.lemma_names()}`
    tokens: how texts are cut into words, as of `bleu`; the words are then put in lower case
    Numbers are those of nltk's `meteor_score` with a WordNet of the same synonyms, but for repeated words and words with several
    partners, which nltk pairs from the end, however they cross, and but for synonyms of stems, which it looks up after stemming.
    Two texts that are equal have 1 - gamma / m^beta, not 1.

    Cost: about a millisecond per 100 words, more where a text repeats its words; the first 2,000 words of each text are read.
    Gamed by length, since recall counts nine times as much as precision, and by stuffing likely words: order costs at most half.
    No pair: 0. No verdict without a reference. Raises ValueError for alpha or gamma outside 0..1 or a beta that is not positive.

    >>> round(meteor("the cat sat on the mat", "on the mat sat the cat", stems=False), 4), meteor("dog", "cat", stems=False)
    (0.5, 0.0)
    >>> meteor("the sofa", "the couch", stems=False), meteor("the sofa", "the couch", stems=False, synonyms={"couch": ["sofa"]})
    (0.25, 0.9375)
    """
    if not (0 <= alpha <= 1 and 0 <= gamma <= 1 and beta > 0):
        raise ValueError(f"meteor: alpha and gamma must lie in 0..1 and beta be > 0, got {alpha}, {gamma} and {beta}")
    split = tokeniser(tokens)
    cut = lambda text: [word.lower() for word in split(text[:LONGEST])[:_MOST_WORDS]]
    wanted = [words for one in texts_of(reference) if (words := cut(one))]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the text with")
    said = cut(response)
    return max(_score(said, one, alpha, beta, gamma, stems, synonyms) for one in wanted)


def _score(
    said: list[str], wanted: list[str], alpha: float, beta: float, gamma: float, stems: bool, synonyms: Synonyms | None
) -> float:
    pairs = aligned(said, wanted)
    if stems and len(pairs) < min(len(said), len(wanted)):
        stem = stemmer()
        pairs = aligned([stem(word) for word in said], [stem(word) for word in wanted], pairs)
    if synonyms is not None and len(pairs) < min(len(said), len(wanted)):
        pairs = with_synonyms(said, wanted, pairs, synonyms)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(said), len(pairs) / len(wanted)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    chunks = 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in itertools.pairwise(pairs))
    return mean * (1 - gamma * (chunks / len(pairs)) ** beta)


def with_synonyms(
    said: Sequence[str], wanted: Sequence[str], fixed: Sequence[tuple[int, int]], synonyms: Synonyms
) -> list[tuple[int, int]]:
    """The fixed pairs (i, j) and, of the words that are left, as many pairs of synonyms as there can be; by i.

    Words need not fall into classes (bank and shore, bank and lender), so a largest matching is looked for along the response, and
    two of its pairs that cross are exchanged where they may be: few crossings, not always the fewest.

    >>> with_synonyms(["bank", "shore"], ["shore", "lender"], [], {"bank": ["shore", "lender"], "shore": ["shore"]})
    [(0, 1), (1, 0)]
    """
    of = synonyms.get if isinstance(synonyms, Mapping) else synonyms
    means = functools.cache(lambda word: frozenset(str(one).lower() for one in of(word) or ()))
    rows, columns = {i for i, _ in fixed}, {j for _, j in fixed}
    left = [j for j in range(len(wanted)) if j not in columns]
    may = {
        i: [j for j in left if wanted[j] in means(said[i]) or said[i] in means(wanted[j])]
        for i in range(len(said))
        if i not in rows
    }
    partner: dict[int, int] = {}  # of a place in the reference

    def placed(i: int, tried: set[int]) -> bool:
        for j in may[i]:
            if j not in tried:
                tried.add(j)
                if j not in partner or placed(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    for i in [i for i, places in may.items() if places][:_MOST_SYNONYMS]:
        placed(i, set())
    found = {i: j for j, i in partner.items()}
    crossed = True
    while crossed:
        crossed = False
        for a, b in itertools.combinations(sorted(found), 2):
            if found[a] > found[b] and found[b] in may[a] and found[a] in may[b]:
                found[a], found[b], crossed = found[b], found[a], True
    return sorted([*fixed, *found.items()])


class _Alignment(NamedTuple):
    """Pairs so far, in the order of the response: how often they cross, in how many runs they lie, what is used up."""

    crossings: int
    chunks: int
    pairs: tuple[tuple[int, int], ...]
    taken: tuple[int, ...]  # places in the reference, sorted
    of_word: dict[str, tuple[int, int]]  # how many pairs of a word there are, and how many of its places are behind them


def aligned(said: Sequence[str], wanted: Sequence[str], fixed: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """As many pairs (i, j) of equal words as there can be, with the fewest crossings, beside those that are fixed; by i.

    Of pairings that cross as little, the one with the fewest runs. Equal words are paired in their own order, which costs nothing:
    two equal words that cross can be exchanged. Which of them are left out is searched along the response, 16 pairings at a time,
    so that the least number of crossings is certain only for texts that repeat words little.

    >>> aligned(["a", "b", "a"], ["b", "a"])
    [(1, 0), (2, 1)]
    """
    before = dict(fixed)
    used = set(before.values())
    places: dict[str, list[int]] = {}
    for j, word in enumerate(wanted):
        if j not in used:
            places.setdefault(word, []).append(j)
    left = Counter(word for i, word in enumerate(said) if i not in before and word in places)
    most = {word: min(count, len(places[word])) for word, count in left.items()}
    found = [_Alignment(0, 0, (), (), {})]
    for i, word in enumerate(said):
        if i in before:
            found = [_paired(one, i, before[i], one.of_word) for one in found]
        elif word in most:
            left[word] -= 1
            there, grown = places[word], []
            for one in found:
                made, at = one.of_word.get(word, (0, 0))
                to_come = most[word] - made - 1  # pairs of this word after this one, if it is paired
                if 0 <= to_come <= left[word]:
                    ends = range(at, len(there) - to_come)
                    grown += [_paired(one, i, there[k], {**one.of_word, word: (made + 1, k + 1)}) for k in ends]
                if to_come + 1 <= left[word]:
                    grown.append(one)
            found = heapq.nsmallest(_KEPT, grown, key=lambda one: one[:3]) if len(grown) > 1 else grown
    return list(min(found, key=lambda one: one[:3]).pairs)


def _paired(one: _Alignment, i: int, j: int, of_word: dict[str, tuple[int, int]]) -> _Alignment:
    at = bisect.bisect_right(one.taken, j)
    follows = bool(one.pairs) and one.pairs[-1] == (i - 1, j - 1)
    return _Alignment(
        one.crossings + len(one.taken) - at,
        one.chunks + (not follows),
        (*one.pairs, (i, j)),
        (*one.taken[:at], j, *one.taken[at:]),
        of_word,
    )


@functools.cache
def stemmer() -> Callable[[str], str]:
    """The stem of a word in lower case, by nltk's Porter stemmer.

    >>> stemmer()("running")
    'run'
    """
    porter = require("nltk.stem.porter", "stems for METEOR").PorterStemmer()
    return functools.lru_cache(maxsize=1 << 16)(porter.stem)
