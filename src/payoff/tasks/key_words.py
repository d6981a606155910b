"""The key words of a text, and the text without them: rapid automatic keyword extraction (RAKE), by words and not by phrases."""

from __future__ import annotations

import re
from collections import Counter

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by can could
did do does doing down during each few for from further had has have having he her here hers him his how i if in into is it
its itself just me more most my no nor not now of off on once only or other our out over own same she should so some such than
that the their them then there these they this those through to too under until up very was we were what when where which
while who whom why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def key_words(text: str) -> list[str]:
    """The words that carry a text, in lower case, the most telling first.

    Words between stop words and punctuation make a phrase; a word's score is (words of the phrases it is in) / (times it comes),
    RAKE's degree over frequency. Equal ones in the order in which they come.

    >>> key_words("The red fox is in the dark red wood, and sleeps.")
    ['dark', 'wood', 'red', 'fox', 'sleeps']
    """
    count: Counter[str] = Counter()
    degree: Counter[str] = Counter()
    for phrase in _phrases(text):
        for word in phrase:
            count[word] += 1
            degree[word] += len(phrase)
    return sorted(count, key=lambda word: -degree[word] / count[word])


def without_key_words(text: str, share: float) -> str:
    """The text without the given share of its key words, the most telling first; all they leave behind stays.

    At least one goes for a share above 0. Raises ValueError for a share outside 0..1.

    >>> without_key_words("The red fox sleeps.", 0.5), without_key_words("The red fox sleeps.", 1.0)
    ('The sleeps.', 'The.')
    """
    if not 0 <= share <= 1:
        raise ValueError(f"without_key_words: share must lie in 0..1, got {share}")
    words = key_words(text)
    gone = set(words[: max(round(share * len(words)), 1 if share else 0)])
    left = _WORD.sub(lambda found: "" if found[0].lower() in gone else found[0], text)
    return re.sub(r"[ \t]+([.,;:!?])", r"\1", re.sub(r"[ \t]{2,}", " ", left)).strip() if gone else text


def _phrases(text: str) -> list[list[str]]:
    """Runs of words with nothing but blanks between them and no stop word among them."""
    phrases: list[list[str]] = [[]]
    end = 0
    for found in _WORD.finditer(text):
        word = found[0].lower()
        if text[end : found.start()].strip(" \t"):
            phrases.append([])
        if word in _STOP:
            phrases.append([])
        else:
            phrases[-1].append(word)
        end = found.end()
    return [phrase for phrase in phrases if phrase]
