"""METEOR: words of a reference found in a text, in their own form or by their stem, and charged for standing in another order.

Stems come from nltk's Porter stemmer, which needs no data. Synonyms would need WordNet, a download, and are left out.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference
from payoff.signals.bleu import LONGEST, texts_of, tokeniser

_KEPT = 16  # alignments that are followed at a time, the least crossed ones
_MOST_WORDS = 2_000  # of either text


@method("meteor", kind="grader")
def meteor(
    response: str,
    reference: Reference,
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    stems: bool = True,
    tokens: str = "13a",
) -> float | Verdict:
    """METEOR of a response against a reference (Banerjee and Lavie 2005), in 0..1; the best of several references.

    Words of the two texts are paired, each at most once: as many as have the same form, then of the rest as many as have the same
    stem; among such pairings one with the fewest crossing pairs is taken. With m pairs, P = m / (words of the response), R = m /
    (words of the reference): F = P R / (alpha P + (1 - alpha) R), which is 10 P R / (R + 9 P) by default, and
    METEOR = F (1 - gamma (c / m)^beta), c the number of runs of pairs that are neighbours, in order, in both texts.

    stems:  also by the stem, as nltk's `PorterStemmer` gives it; without, nltk is not needed
    tokens: how texts are cut into words, as of `bleu`; the words are then put in lower case
    Without WordNet there are no synonyms: numbers are those of nltk's `meteor_score` with an empty WordNet, but for repeated words,
    which nltk pairs from the end, however they cross. Two texts that are equal have 1 - gamma / m^beta, not 1.

    Cost: about a millisecond per 100 words, more where a text repeats its words; the first 2,000 words of each text are read.
    Gamed by length, since recall counts nine times as much as precision, and by stuffing likely words: order costs at most half.
    No pair: 0. No verdict without a reference. Raises ValueError for alpha or gamma outside 0..1 or a beta that is not positive.

    >>> round(meteor("the cat sat on the mat", "on the mat sat the cat", stems=False), 4), meteor("dog", "cat", stems=False)
    (0.5, 0.0)
    """
    if not (0 <= alpha <= 1 and 0 <= gamma <= 1 and beta > 0):
        raise ValueError(f"meteor: alpha and gamma must lie in 0..1 and beta be > 0, got {alpha}, {gamma} and {beta}")
    split = tokeniser(tokens)
    cut = lambda text: [word.lower() for word in split(text[:LONGEST])[:_MOST_WORDS]]
    wanted = [words for one in texts_of(reference) if (words := cut(one))]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the text with")
    said = cut(response)
    return max(_score(said, one, alpha, beta, gamma, stems) for one in wanted)


def _score(said: list[str], wanted: list[str], alpha: float, beta: float, gamma: float, stems: bool) -> float:
    pairs = aligned(said, wanted)
    if stems and len(pairs) < min(len(said), len(wanted)):
        stem = stemmer()
        pairs = aligned([stem(word) for word in said], [stem(word) for word in wanted], pairs)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(said), len(pairs) / len(wanted)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    chunks = 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in itertools.pairwise(pairs))
    return mean * (1 - gamma * (chunks / len(pairs)) ** beta)


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
