"""A tokenizer whose tokens are words and phrases of a task's own language, so that a small model can speak it in few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from payoff.policies.lm import LanguageModel
from payoff.policies.transformer import Transformer

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


class WordTokenizer:
    """One token for each of the words, one for each printable ASCII character and the end of a line, and PAD, which is no text.

    Of the tokens that a text can go on with, the longest is taken; so any ASCII text can be written, what is not foreseen letter by
    letter. Raises ValueError for a word that is empty, and for other characters.

    >>> words = WordTokenizer(["call: gcd(", "12"])
    >>> [words.token(id) for id in words.encode("call: gcd(120)")]
    ['call: gcd(', '12', '0', ')']
    """

    def __init__(self, words: Sequence[str]) -> None:
        if not all(words):
            raise ValueError("WordTokenizer: a word is empty")
        self.pieces = [*dict.fromkeys((*words, *CHARACTERS)), ""]
        self.shown = [*self.pieces[:-1], "<pad>"]
        self.pad, self.vocabulary = len(self.pieces) - 1, len(self.pieces)
        self.ends: frozenset[int] = frozenset()
        self._id = {piece: id for id, piece in enumerate(self.pieces[:-1])}
        self._by_first: dict[str, list[str]] = {}
        for piece in sorted(self._id, key=len, reverse=True):
            self._by_first.setdefault(piece[0], []).append(piece)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids, place = [], 0
        while place < len(text):
            piece = next((piece for piece in self._by_first.get(text[place], ()) if text.startswith(piece, place)), None)
            if piece is None:
                raise ValueError(f"WordTokenizer: {text[place]!r} is no printable ASCII character")
            ids.append(self._id[piece])
            place += len(piece)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens; PAD gives none."""
        return "".join(self.pieces[id] for id in ids)

    def token(self, id: int) -> str:
        """How to show one token to a reader."""
        return self.shown[id]

    def prompt(self, prompt: Any) -> tuple[str, list[int]]:
        """A start's prompt as text and ids."""
        return prompt, self.encode(prompt)


def speaker(
    words: Sequence[str],
    *,
    context: int,
    max_tokens: int,
    temperature: float = 1.0,
    width: int = 48,
    layers: int = 2,
    heads: int = 4,
    seed: int = 0,
) -> LanguageModel:
    """A transformer with fresh weights that speaks in these words; the environment says where a turn ends."""
    tokenizer = WordTokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(vocabulary=tokenizer.vocabulary, context=context, width=width, layers=layers, heads=heads)
    return LanguageModel(model, tokenizer, max_tokens=max_tokens, temperature=temperature, stop=(), step_separator=None)
