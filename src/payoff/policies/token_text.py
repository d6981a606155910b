"""What the text of tokens decides: where a response ends, where its steps do, and how both are shown."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """What a `LanguageModel` needs to know of its tokens."""

    ends: frozenset[int]  # ids that end a response by themselves
    pieces: Sequence[str]  # the text each id adds to a text; a part of a character shows as U+FFFD
    shown: Sequence[str]  # how each id is shown to a reader

    def prompt(self, prompt: Any) -> tuple[str, list[int]]:
        """A start's prompt as text and as ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text; ValueError where it cannot be written."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of several tokens."""


class TokenText:
    """Tables over the vocabulary, made once, so that no text is looked at for tokens that cannot matter."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop: Sequence[str], separator: str | None, device: torch.device) -> None:
        self.tokenizer, self.stop, self.separator, self.device = tokenizer, stop, separator, device
        self.pieces, self.shown = tokenizer.pieces, tokenizer.shown
        table = lambda holds: torch.tensor([holds(i, piece) for i, piece in enumerate(self.pieces[:vocabulary])], device=device)
        # A token that holds a whole stop string ends the row; one that holds a string's last character may, and is looked at.
        self.certain = table(lambda i, piece: i in tokenizer.ends or any(text in piece for text in stop))
        self.silent = table(lambda i, piece: not piece)
        last = {text[-1] for text in stop if len(text) > 1 or not text.isascii()}
        self.possible = table(lambda i, piece: "\ufffd" in piece or any(c in piece for c in last)) if last else None
        self.tail = 4 * max((len(text) for text in stop), default=0)  # a character is at most four tokens
        single = separator is not None and len(separator) == 1 and separator.isascii()
        self.closing = table(lambda i, piece: separator in piece) if single else None

    def ended(self, token: Int[Tensor, " n"], recent: Callable[[int, int], list[int]]) -> Bool[Tensor, " n"]:
        """Which of the rows has just been ended by its last token; `recent(row, k)` gives its last k ids, this one included."""
        ended = self.certain.index_select(0, token)
        if self.possible is None:
            return ended
        for place in (self.possible[token] & ~ended).nonzero()[:, 0].tolist():
            text = self.text(recent(place, self.tail))
            ended[place] = any(stop in text for stop in self.stop)
        return ended

    def text(self, ids: Sequence[int]) -> str:
        """The text of several tokens; decoded together only where a character is spread over them."""
        text = "".join([self.pieces[i] for i in ids])
        return self.tokenizer.decode(ids) if "\ufffd" in text else text

    def texts(self, actions: Int[Tensor, "N T"], length: Int[Tensor, " N"]) -> tuple[Int[Tensor, "N T"], list[dict[str, Any]]]:
        """The step of every token, and of every row its response, the texts of its steps, and its tokens as shown."""
        ids = [row[:n] for row, n in zip(actions.tolist(), length.tolist(), strict=True)]
        exists = torch.arange(actions.shape[1], device=actions.device) < length[:, None]
        closes = self._closes(actions, ids) & exists
        # An end token without text, behind a separator, opens no step of its own.
        last = length[:, None] - 1
        lone = self.silent[actions.gather(1, last)] & (last > 0)
        closes.scatter_(1, (last - 1).clamp(min=0), closes.gather(1, (last - 1).clamp(min=0)) & ~lone)
        closes.scatter_(1, last, False)
        cuts: list[list[int]] = [[] for _ in ids]
        for row, column in closes.nonzero().tolist():
            cuts[row].append(column + 1)
        texts = []
        for row, cut in zip(ids, cuts, strict=True):
            steps = [self.text(row[a:b]) for a, b in zip([0, *cut], [*cut, len(row)], strict=True)]
            texts.append({"response": "".join(steps), "steps": steps, "tokens": [self.shown[i] for i in row]})
        opened = closes.int()
        return torch.where(exists, opened.cumsum(1, dtype=torch.int32) - opened, -1), texts

    def _closes(self, actions: Int[Tensor, "N T"], ids: list[list[int]]) -> Bool[Tensor, "N T"]:
        """Which tokens hold the end of a separator."""
        if self.separator is None:
            return torch.zeros_like(actions, dtype=torch.bool)
        if self.closing is not None:
            return self.closing[actions]
        closes = torch.zeros(actions.shape, dtype=torch.bool)
        for number, row in enumerate(ids):
            text = self.text(row)
            if self.separator not in text:
                continue
            if "\ufffd" in "".join([self.pieces[i] for i in row]):  # only whole characters count as written
                reach = [len(self.tokenizer.decode(row[: t + 1]).rstrip("\ufffd")) for t in range(len(row))]
            else:
                reach = [*itertools.accumulate(len(self.pieces[i]) for i in row)]
            place = text.find(self.separator)
            while place >= 0:
                end = place + len(self.separator)
                closes[number, bisect.bisect_left(reach, end)] = True
                place = text.find(self.separator, end)
        return closes.to(actions.device)
