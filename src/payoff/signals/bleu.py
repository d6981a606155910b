"""How much of a reference's wording does a text share? BLEU of one text, and two published rewards made of it.

No package is needed: the numbers are those of sacrebleu where the options are its own. Its other tokenisers are used if installed.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference

Smoothing = Literal["exp", "add-one", "none"]
LONGEST = 200_000  # characters that are read of either text
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# What WMT scores by (mteval-v13a): punctuation is a word of its own, but for points and commas in numbers.
_V13A = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_CJK = re.compile(
    "([\u2e80-\u303f\u31c0-\u31ef\u2f00-\u2fdf\u2ff0-\u2fff\u3100-\u312f\u31a0-\u31bf\ufe10-\ufe1f\ufe30-\ufe4f\u3400-\u4db5\u4e00-\u9fa5\u9fa6-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\U00020000-\U0002a6d6\U0002f800-\U0002fa1d\uff00-\uffef])"
)
_TAGS = ("<think>", "</think>", "<translate>", "</translate>")


@method("bleu", kind="grader")
def bleu(
    response: str,
    reference: Reference,
    *,
    order: int = 4,
    smoothing: Smoothing = "exp",
    brevity: Literal["closest", "shortest"] = "closest",
    short: Literal["all", "possible"] = "possible",
    tokens: str = "13a",
) -> float | Verdict:
    """Sentence BLEU of a response against one or several references, in 0..1.

    With m_n of the t_n n-grams of the response found in a reference, each counted at most as often as in the reference that has it
    most often, p_n = m_n / t_n: BLEU = B (prod_n p_n)^(1 / N) for n = 1 .. N, and B = min(1, exp(1 - r / c)) for c words against r.

    order:     N
    smoothing: of orders without a match, where any other has one. "exp": the k-th of them counts as 1 / (2^k t_n); "add-one":
               (m_n + 1) / (t_n + 1) for every order, whatever matches; "none": 0
    brevity:   r is the length of the reference closest in length (the shorter of two), or of the "shortest"
    short:     N for a response of fewer than N words: the orders that are "possible", as sacrebleu scores sentences, or "all",
               which makes it 0 (its corpus score of one pair)
    tokens:    "13a", "zh" (13a with every Chinese character a word), "char", "spaces", or any other tokeniser of sacrebleu

    Cost: linear in the texts (the first 200,000 characters of each), about a millisecond per 100 words. Gamed by copying what is
    likely in any reference, and, with "add-one", by short texts, which get something for nothing; it knows no synonyms and no
    negation ("not" costs one word). Several references make it fairer. An empty response is 0. No verdict without a reference.
    Raises ValueError for options that are none.

    >>> bleu("the cat sat on the mat", ["the cat sat on the mat"]), round(bleu("the cat sat on a mat", "the cat sat on the mat"), 4)
    (1.0, 0.5373)
    """
    if order < 1 or smoothing not in ("exp", "add-one", "none") or brevity not in ("closest", "shortest"):
        raise ValueError(f"bleu: order >= 1, a smoothing and a brevity are needed, got {order}, {smoothing!r} and {brevity!r}")
    if short not in ("all", "possible"):
        raise ValueError(f'bleu: short must be "all" or "possible", got {short!r}')
    split = tokeniser(tokens)
    wanted = [words for one in texts_of(reference) if (words := split(one[:LONGEST]))]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no reference to compare the text with")
    words = split(response[:LONGEST])
    if not words:
        return 0.0
    sizes = [len(one) for one in wanted]
    length = min(sizes) if brevity == "shortest" else min((abs(size - len(words)), size) for size in sizes)[1]
    matched, total = _matches(words, wanted, order)
    orders = [n for n in range(order) if total[n]] if short == "possible" and smoothing != "add-one" else range(order)
    logs, missed = [], 0
    for n in orders:
        top, bottom = float(matched[n]), float(total[n])
        if smoothing == "add-one":
            top, bottom = top + 1, bottom + 1
        elif smoothing == "exp" and not matched[n] and any(matched) and total[n]:
            missed += 1
            top = 2.0**-missed
        if not top or not bottom:
            return 0.0
        logs.append(math.log(top / bottom))
    return min(1.0, math.exp(min(0.0, 1 - length / len(words)) + sum(logs) / len(logs)))


@method("bleuberi", kind="grader", paper="arXiv:2505.11080")
def bleuberi(response: str, reference: Reference, *, rouge: bool = False) -> float | Verdict:
    """BLEU as a reward for following instructions (BLEUBERI): add-one on every order, brevity against the shortest reference.

    What stands in the last <answer> tags is scored, or all of a response without any. References are answers of strong models: the
    more, the closer to what people prefer. rouge: the harmonic mean of that and ROUGE-L, instead.

    Range 0..1, 1 for a reference itself; an empty answer is 0. Cost as `bleu`. Gamed by terse answers: one wrong word has
    0.84 exp(1 - r) for r words, which is 0.84 next to a reference of one word and 0.0001 next to ten; by style, paid as sense is.
    No verdict without a reference.

    >>> bleuberi("blue is it", "blue is it"), round(bleuberi("<answer>red is it</answer>", "blue is it"), 4)
    (1.0, 0.7071)
    """
    inside = response.rpartition("<answer>")[2].partition("</answer>")[0] if "<answer>" in response else response
    score = bleu(inside, reference, smoothing="add-one", brevity="shortest", short="all")
    if isinstance(score, Verdict) or not rouge:
        return score
    from payoff.signals.overlap import rouge as rouge_score

    other = rouge_score(inside, reference, kind="l")
    if isinstance(other, Verdict):
        return other
    return 2 * score * other / (score + other) if score + other else 0.0


@method("mt-r1-zero", kind="grader", paper="arXiv:2504.10160")
def mt_r1_zero(
    response: str,
    reference: Reference,
    semantic: float | None = None,
    *,
    measure: Literal["lexical", "semantic", "mixed"] = "lexical",
    target: str = "13a",
    threshold: float | None = None,
) -> float | Verdict:
    """1 + the quality of a translation where the form is kept, -3 where it is not or nothing is translated (MT-R1-Zero).

    The form is <think>...</think><translate>...</translate>, each tag exactly once, in this order. Quality is BLEU of what is
    translated ("lexical"), `semantic` / 100 ("semantic"), or the sum of both ("mixed").

    semantic:  a field of the rows, what a learned metric gives in 0..100; read only by the last two measures
    target:    the tokeniser for the language translated into, as `bleu` takes it ("zh" for Chinese, "char" for what has no spaces)
    threshold: instead of the quality, 2 where every part of it is above this, else -1.5

    Range -3 and 1 .. 2 (1 .. 3 for "mixed"). Cost as `bleu`. Form is 4 away from failure and quality at most 2: until the form is
    learned nothing else is. A translation of fewer than four words has no BLEU, as with sacrebleu: 1, right as it may be. A learned
    metric can be gamed: judge by another. No verdict without a reference, or without `semantic` where it is needed.

    >>> mt_r1_zero("<think>hm</think><translate>a b c d</translate>", "a b c d"), mt_r1_zero("a b c d", "a b c d")
    (2.0, -3.0)
    """
    if measure not in ("lexical", "semantic", "mixed"):
        raise ValueError(f'mt_r1_zero: measure must be "lexical", "semantic" or "mixed", got {measure!r}')
    if not texts_of(reference):
        return Verdict(0.0, valid=False, reason="no reference to compare the text with")
    needs = measure != "lexical"
    if needs and not (isinstance(semantic, int | float) and 0 <= semantic <= 100):
        return Verdict(0.0, valid=False, reason=f"semantic must be a number in 0..100, got {str(semantic)[:40]}")
    translated = _translated(response)
    if not translated:
        return -3.0
    parts = [] if measure == "semantic" else [bleu(translated, reference, short="all", tokens=target)]
    parts += [semantic / 100] if needs else []  # type: ignore[operator]  # checked above
    for part in parts:
        if isinstance(part, Verdict):
            return part
    qualities = [float(part) for part in parts]  # type: ignore[arg-type]  # no verdict is left among them
    if threshold is not None:
        return 1.0 + (2.0 if all(quality > threshold for quality in qualities) else -1.5)
    return 1.0 + sum(qualities)


def texts_of(reference: Reference) -> list[str]:
    """References as a list of texts, without those that say nothing (NaN too) and those that are neither text nor number.

    >>> texts_of(["a", None, " "]), texts_of(7), texts_of({"a": 1}), texts_of(float("nan"))
    (['a'], ['7'], [], [])
    """
    several = [reference] if isinstance(reference, str | int | float | Mapping | None) else reference
    return [str(one) for one in several if one == one and not isinstance(one, Mapping | list | tuple | None) and str(one).strip()]


@functools.cache
def tokeniser(name: str) -> Callable[[str], list[str]]:
    """How a text is cut into words: "13a", "zh", "char", "spaces", or any tokeniser of sacrebleu by its name.

    >>> tokeniser("13a")("It's 3.5, isn't it?"), tokeniser("zh")("3\u4e2a\u4eba.")
    (["It's", '3.5', ',', "isn't", 'it', '?'], ['3', '\u4e2a', '\u4eba', '.'])
    """
    if name == "13a":
        return _v13a
    if name == "zh":
        return lambda text: _western(_CJK.sub(r" \1 ", text.strip()))
    if name == "char":
        return lambda text: [character for character in text if not character.isspace()]
    if name == "spaces":
        return str.split
    metric = require("sacrebleu", f"tokeniser {name!r}").BLEU
    if name not in metric.TOKENIZERS:
        raise ValueError(f"bleu: tokens must be 13a, zh, char, spaces or one of {', '.join(metric.TOKENIZERS)}, got {name!r}")
    split = metric(tokenize=name).tokenizer
    return lambda text: split(text.rstrip()).split()


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words comes.

    >>> ngrams("abab", 2)[("a", "b")]
    2
    """
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _matches(words: Sequence[str], wanted: Sequence[Sequence[str]], order: int) -> tuple[list[int], list[int]]:
    """How many n-grams of the words are in a reference, and how many there are, by order."""
    matched, total = [], []
    for n in range(1, order + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for one in wanted:
            most |= ngrams(one, n)
        matched.append((ngrams(words, n) & most).total())
        total.append(max(0, len(words) - n + 1))
    return matched, total


def _v13a(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return _western(f" {text} ")


def _western(text: str) -> list[str]:
    for pattern, replacement in _V13A:
        text = pattern.sub(replacement, text)
    return text.split()


def _translated(response: str) -> str:
    """What stands in the one <translate> of a response whose tags are as they should be; nothing otherwise."""
    places = [response.find(tag) for tag in _TAGS]
    if any(response.count(tag) != 1 for tag in _TAGS) or places != sorted(places):
        return ""
    return response[places[2] + len(_TAGS[2]) : places[3]].strip()
