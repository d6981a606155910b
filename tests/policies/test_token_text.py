import pytest
import torch

from payoff.policies.token_text import TokenText


class Words:
    """Tokens of any text; a byte of a character is written as one of its hexadecimal values, as in "<E2>"."""

    def __init__(self, *texts, ends=()):
        self.texts, self.ends = texts, frozenset(ends)
        self.pieces = ["" if i in self.ends else "\ufffd" if self._byte(t) else t for i, t in enumerate(texts)]
        self.shown = list(texts)

    def prompt(self, prompt):
        raise NotImplementedError

    @staticmethod
    def _byte(text):
        return len(text) == 4 and text[0] == "<" and text[3] == ">"

    def decode(self, ids):
        raw = b"".join(
            b"" if i in self.ends else bytes.fromhex(self.texts[i][1:3]) if self._byte(self.texts[i]) else self.texts[i].encode()
            for i in ids
        )
        return raw.decode("utf-8", errors="replace")


def steps_of(words, rows, separator):
    """(steps of the text, step number of each token) of rows of token numbers."""
    length = torch.tensor([len(row) for row in rows])
    actions = torch.tensor([row + [0] * (int(length.max()) - len(row)) for row in rows])
    text = TokenText(words, len(words.texts), (), separator, torch.device("cpu"))
    step, texts = text.texts(actions, length)
    for row, item, number in zip(rows, texts, step.tolist(), strict=True):
        assert number[len(row) :] == [-1] * (len(number) - len(row))
        assert "".join(item["steps"]) == item["response"] == words.decode(row)
        assert len(item["steps"]) == max(number) + 1
        assert item["tokens"] == [words.shown[i] for i in row]
    return [(item["steps"], number[: len(row)]) for row, item, number in zip(rows, texts, step.tolist(), strict=True)]


LETTERS = Words("a", "b", ";", "a;b", ";;", "<end>", "\n", "\n\n", ".\n", ends=(5,))


@pytest.mark.parametrize(
    ("row", "separator", "steps", "numbers"),
    [
        ([0, 2, 1], ";", ["a;", "b"], [0, 0, 1]),
        ([0, 2, 1, 2], ";", ["a;", "b;"], [0, 0, 1, 1]),  # nothing behind the last separator: no further step
        ([2, 2, 0], ";", [";", ";", "a"], [0, 1, 2]),  # an empty step is a step
        ([0, 3, 1], ";", ["aa;b", "b"], [0, 0, 1]),  # a token lies in the step it begins in
        ([0, 4, 1], ";", ["a;;", "b"], [0, 0, 1]),
        ([0, 2, 5], ";", ["a;"], [0, 0, 0]),  # an end token without text opens no step
        ([5], ";", [""], [0]),
        ([2, 5], ";", [";"], [0, 0]),
        ([0, 2, 1, 5], ";", ["a;", "b"], [0, 0, 1, 1]),
        ([0, 2, 1], None, ["a;b"], [0, 0, 0]),
        ([0, 6, 6, 1], "\n\n", ["a\n\n", "b"], [0, 0, 0, 1]),  # a separator of two tokens
        ([0, 7, 1], "\n\n", ["a\n\n", "b"], [0, 0, 1]),
        ([0, 6, 1], "\n\n", ["a\nb"], [0, 0, 0]),
        ([0, 6, 6, 6, 6, 1], "\n\n", ["a\n\n", "\n\n", "b"], [0, 0, 0, 1, 1, 2]),
        ([0, 8, 6, 1], "\n\n", ["a.\n\n", "b"], [0, 0, 0, 1]),  # it ends in a token that begins elsewhere
        ([0, 8, 7, 1], "\n\n", ["a.\n\n\n", "b"], [0, 0, 0, 1]),
    ],
)
def test_steps_of_text_and_of_tokens_agree(row, separator, steps, numbers):
    assert steps_of(LETTERS, [row], separator) == [(steps, numbers)]


def test_rows_of_different_lengths_are_read_each_on_its_own():
    rows = [[0, 2, 1, 2, 0], [2], [0, 1]]
    assert steps_of(LETTERS, rows, ";") == [(["a;", "b;", "a"], [0, 0, 1, 1, 2]), ([";"], [0]), (["ab"], [0, 0])]
    assert steps_of(LETTERS, [[0, 7, 1], [7, 7, 0]], "\n\n") == [
        (["a\n\n", "b"], [0, 0, 1]),
        (["\n\n", "\n\n", "a"], [0, 1, 2]),
    ]


BYTES = Words("a", "<E3>", "<80>", "<82>", "。", "b", "<C3>", "<A9>")  # E3 80 82 is "。", C3 A9 is "é"


def test_a_separator_spread_over_three_tokens_ends_with_the_last_of_them():
    assert steps_of(BYTES, [[0, 1, 2, 3, 5], [0, 4, 5]], "。") == [(["a。", "b"], [0, 0, 0, 0, 1]), (["a。", "b"], [0, 0, 1])]


def test_a_character_of_two_tokens_is_shown_whole_in_its_step():
    assert steps_of(BYTES, [[6, 7, 4, 6, 7]], "。") == [(["é。", "é"], [0, 0, 0, 1, 1])]


def ended(words, stop, row, *, written=()):
    """At which token of a row it ends, or None."""
    text = TokenText(words, len(words.texts), stop, None, torch.device("cpu"))
    for t in range(len(row)):
        so_far = [*written, *row[: t + 1]]
        if text.ended(torch.tensor(row[t : t + 1]), lambda place, size, ids=so_far: ids[-size:])[0]:
            return t
    return None


@pytest.mark.parametrize(
    ("stop", "row", "at"),
    [
        ((), [0, 1, 2], None),
        ((), [0, 5, 1], 1),  # the end token
        (("b",), [0, 0, 1, 0], 2),
        ((";b",), [0, 3, 1], 1),  # inside one token
        ((";b",), [0, 2, 1, 0], 2),  # over two tokens
        ((";b",), [1, 0, 1], None),
        (("a;b", "ba"), [1, 0, 2, 1], 1),  # the one that comes first
        (("a\n\nb",), [0, 6, 6, 1], 3),
        (("\n\n",), [0, 8, 6], 2),  # begins inside a token, ends with another
        (("\n.",), [0, 6, 8], 2),  # the string ends inside the last token, which stays whole
    ],
)
def test_a_stop_string_ends_a_row_with_the_token_that_completes_it(stop, row, at):
    assert ended(LETTERS, stop, row) == at


def test_a_stop_string_may_begin_in_what_was_written_before():
    assert ended(LETTERS, ("a;b",), [1]) is None
    assert ended(LETTERS, ("a;b",), [1], written=[1, 0, 2]) == 0


def test_a_stop_string_of_a_character_in_three_tokens_is_seen_with_the_third():
    assert ended(BYTES, ("。",), [0, 1, 2, 3, 5]) == 3
    assert ended(BYTES, ("a。",), [0, 1, 2, 3, 5]) == 3
    assert ended(BYTES, ("é。",), [6, 7, 1, 2, 3]) == 4
    assert ended(BYTES, ("b。",), [0, 1, 2, 3, 5]) is None
