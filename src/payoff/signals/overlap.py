"""How much of a reference does a text share, by words or characters? ROUGE, chrF and the F1 of words. They know nothing of sense.

No package is needed: the numbers are those of rouge-score and sacrebleu for the same words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference, final_answer
from payoff.signals.bleu import LONGEST, ngrams, texts_of

_WORD = re.compile(r"[^\W_]+")
_NO_REFERENCE = Verdict(0.0, valid=False, reason="no reference to compare the text with")
_ARTICLES = frozenset(("a", "an", "the"))
_MOST_WORDS = 20_000  # of a longest common subsequence, whose cost is their product


@method("rouge", kind="grader")
def rouge(
    response: str,
    reference: Reference,
    *,
    kind: Literal["1", "2", "3", "4", "l"] = "l",
    measure: Literal["f1", "precision", "recall"] = "f1",
) -> float | Verdict:
    """ROUGE-n or ROUGE-L of a response against a reference, in 0..1; the best of several references.

    Words are runs of letters and digits in lower case. ROUGE-n: with m n-grams in common, each as often as in both, precision
    m / (those of the response), recall m / (those of the reference), F1 their harmonic mean. ROUGE-L: the same of the longest
    common subsequence of words. As rouge-score without its stemmer, which counts only the letters a to z; here those of every
    script are.

    Cost: linear in the words for n-grams; for "l" their product / 64, of the first 20,000 words of each text. Recall is gamed by
    writing much, precision by writing little, F1 by the reference's frequent words in any order (kind 1) or by an order that holds
    across references (kind "l"). No verdict without a reference that has a word.
    Raises ValueError for another kind or measure.

    >>> rouge("the cat was found", "the cat was under the bed", kind="1", measure="recall"), rouge("cat the", "the cat")
    (0.5, 0.5)
    """
    if kind not in ("1", "2", "3", "4", "l") or measure not in ("f1", "precision", "recall"):
        raise ValueError(f"rouge: kind must be 1 to 4 or l, and measure f1, precision or recall, got {kind!r} and {measure!r}")
    said = _words(response)
    wanted = [words for one in texts_of(reference) if (words := _words(one))]
    if not wanted:
        return _NO_REFERENCE
    scores = [_rouge(said, one, kind) for one in wanted]
    best = max(scores, key=lambda score: score["f1"])  # one reference is chosen, by its F1, whatever is asked for
    return best[measure]


@method("chrf", kind="grader")
def chrf(response: str, reference: Reference, *, order: int = 6, words: int = 0, beta: float = 2.0) -> float | Verdict:
    """chrF of a response against a reference, in 0..1; the best of several references. Needs no words: right for any language.

    P and R are the means over n = 1 .. `order` of the share of character n-grams of the response, of the reference, that both have
    (blanks left out), and over word n-grams up to `words` (2: chrF++); only orders count that both texts have.
    chrF = (1 + beta^2) P R / (beta^2 P + R).

    Cost: linear, one to two milliseconds per 100 words. Gamed by length, as recall counts beta times as much as precision, and by
    frequent letter sequences: any text of the same language has 0.1 to 0.2. No verdict without a reference.
    Raises ValueError for an order below 1, words below 0 or a beta that is not positive.

    >>> chrf("colour", "colour"), round(chrf("color", "colour"), 4), chrf("", "colour")
    (1.0, 0.4745, 0.0)
    """
    if order < 1 or words < 0 or not beta > 0:
        raise ValueError(f"chrf: order >= 1, words >= 0 and beta > 0 must hold, got {order}, {words} and {beta}")
    wanted = texts_of(reference)
    if not wanted:
        return _NO_REFERENCE
    said = _pieces(response, order, words)
    return max(_chrf(said, _pieces(one, order, words), beta) for one in wanted)


@method("token-f1", kind="grader")
def token_f1(response: str, reference: Reference, *, articles: bool = False) -> float | Verdict:
    """F1 of the words of the final answer and of a reference, in 0..1, as for SQuAD; the best of several references.

    Words in lower case, without ASCII punctuation, and without a, an and the unless `articles`; with m in common, each as often as
    in both: 2 m / (words of the answer + words of the reference). The answer is what `final_answer` finds.

    Cost: linear. Gamed by listing likely words: one right word among k others still has 2 / (k + 2); order and negation do not
    count, and a minus is punctuation: -5 is 5. Two texts without any word are equal. No answer: 0; no verdict without a reference.

    >>> token_f1("The answer is the Eiffel Tower.", "Eiffel tower in Paris"), token_f1("a", "the")
    (0.6666666666666666, 1.0)
    """
    wanted = texts_of(reference)
    if not wanted:
        return _NO_REFERENCE
    answer = final_answer(response)
    if answer is None:
        return 0.0
    said = _answer_words(answer, articles)
    return max(_f1((said & other).total(), said.total(), other.total()) for other in (_answer_words(r, articles) for r in wanted))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, by bits: len(a) len(b) / 64 operations.

    >>> common_subsequence("abcbdab", "bdcaba")
    4
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    open_ = full  # bit i is cleared where the best length grows at a[i]
    for word in b:
        hit = open_ & places.get(word, 0)
        if hit:
            open_ = ((open_ + hit) | (open_ - hit)) & full
    return len(a) - open_.bit_count()


def _rouge(said: list[str], wanted: list[str], kind: str) -> dict[str, float]:
    if kind == "l":
        shared = common_subsequence(said[:_MOST_WORDS], wanted[:_MOST_WORDS])
        mine, theirs = len(said), len(wanted)
    else:
        a, b = ngrams(said, int(kind)), ngrams(wanted, int(kind))
        shared, mine, theirs = (a & b).total(), a.total(), b.total()
    precision, recall = (shared / count if count else 0.0 for count in (mine, theirs))
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall) if shared else 0.0}


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:LONGEST].lower())


def _pieces(text: str, order: int, words: int) -> list[Counter]:
    """The n-grams of characters and of words, a counter for every order."""
    text = text[:LONGEST]
    joined = "".join(text.split())
    pieces: list[Counter] = [Counter(joined[i : i + n] for i in range(len(joined) - n + 1)) for n in range(1, order + 1)]
    parts = [part for word in text.split() for part in _parted(word)] if words else []
    return pieces + [ngrams(parts, n) for n in range(1, words + 1)]


def _parted(word: str) -> list[str]:
    """A word and one punctuation mark at its end, else at its beginning."""
    if len(word) > 1 and word[-1] in string.punctuation:
        return [word[:-1], word[-1]]
    if len(word) > 1 and word[0] in string.punctuation:
        return [word[0], word[1:]]
    return [word]


def _chrf(said: list[Counter], wanted: list[Counter], beta: float) -> float:
    both = [(a, b) for a, b in zip(said, wanted, strict=True) if a and b]
    shared = [(a & b).total() for a, b in both]
    if not any(shared):
        return 0.0
    precision = sum(m / a.total() for m, (a, _) in zip(shared, both, strict=True)) / len(both)
    recall = sum(m / b.total() for m, (_, b) in zip(shared, both, strict=True)) / len(both)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _answer_words(text: str, articles: bool) -> Counter[str]:
    words = text[:LONGEST].lower().translate(_NO_PUNCTUATION).split()
    return Counter(word for word in words if articles or word not in _ARTICLES)


def _f1(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs) if mine + theirs else 1.0
