"""What the three roles of one model are told, and how what they say is read: the words of a self-play over documents (SPELL)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from payoff.pipeline import Start

_QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_VERDICT = re.compile(r"<verdict>\s*(yes|no)\s*</verdict>", re.IGNORECASE)
_THOUGHT = "</think>"


class Asked(NamedTuple):
    """A question: the numbers of the documents it was made of, its text, and the answer its asker holds for right."""

    documents: tuple[int, ...]
    question: str
    answer: str


@runtime_checkable
class Script(Protocol):
    """The words of a self-play: `Documents`, or your own."""

    def count(self, start: Start) -> int:
        """How many documents a start has; 0 where it is asked about as a whole."""

    def ask(self, start: Start, shown: Sequence[int], before: Sequence[Asked]) -> Start:
        """The questioner's start: the documents with these numbers, and questions solved before, to be outdone."""

    def read(self, item: Mapping[str, Any]) -> tuple[str, str] | None:
        """The question and its answer in what a questioner said; None for one in bad form."""

    def pose(self, start: Start, question: str, *, documents: bool) -> Start:
        """The responder's start: the question with all documents, or without any."""

    def check(self, start: Start, asked: Asked, response: str) -> Start:
        """The verifier's start: whether a response comes to the answer that its asker holds for right."""

    def verdict(self, item: Mapping[str, Any]) -> bool | None:
        """What a verifier found; None where that cannot be read."""


@dataclass(frozen=True)
class Documents:
    """Questions about the texts in a start's field `documents`, asked, answered and judged in plain words between tags.

    documents: the field with a list of texts. The other fields are the prompts, with {documents}, {before}, {question}, {answer}
    and {response} where those go. A question is in form with a text in <question> and one in <answer>, the last of each, behind
    the thinking; a verdict is the last <verdict>, yes or no. A response is judged by what it says behind its thinking.

    >>> words, start = Documents(), Start("a", {"documents": ["Ann is two.", "Bo is four."]})
    >>> words.read({"response": "<think>?</think> <question>How old are both?</question> <answer>6</answer>"})
    ('How old are both?', '6')
    >>> print(words.pose(start, "How old are both?", documents=True).fields["prompt"])
    Ann is two.
    <BLANKLINE>
    Bo is four.
    <BLANKLINE>
    Question: How old are both?
    Think first, then give nothing but the answer between <answer> and </answer>.
    <BLANKLINE>
    """

    documents: str = "documents"
    asking: str = (
        "{documents}\n\nAsk a hard question that takes all of these texts to answer and can be understood without them, and that "
        "has one short answer.\nGive the question between <question> and </question> and its answer between <answer> and "
        "</answer>.\n"
    )
    outdoing: str = (
        "{documents}\n\nThese questions about the texts were solved:\n\n{before}\n\nAsk a harder one, that needs more of the "
        "texts and has one short answer.\nGive the question between <question> and </question> and its answer between <answer> "
        "and </answer>.\n"
    )
    answering: str = (
        "{documents}\n\nQuestion: {question}\nThink first, then give nothing but the answer between <answer> and </answer>.\n"
    )
    judging: str = (
        "Question: {question}\n\nFirst answer: {answer}\n\nSecond answer: {response}\n\nDo the two answers say the same? Do not "
        "answer the question yourself. End with <verdict>yes</verdict> or <verdict>no</verdict>.\n"
    )

    def count(self, start: Start) -> int:
        """How many documents a start has."""
        return len(start.fields.get(self.documents) or ())

    def ask(self, start: Start, shown: Sequence[int], before: Sequence[Asked]) -> Start:
        """The questioner's start."""
        texts = start.fields.get(self.documents) or ()
        solved = "\n\n".join(f"Question: {one.question}\nAnswer: {one.answer}" for one in before)
        filling = {"documents": _joined([texts[k] for k in shown]), "before": solved}
        return _prompted(start, self.outdoing if before else self.asking, filling)

    def read(self, item: Mapping[str, Any]) -> tuple[str, str] | None:
        """The question and its answer, or None."""
        said = _behind_thinking(item["response"])
        question, answer = (found[-1].strip() if (found := tag.findall(said)) else "" for tag in (_QUESTION, _ANSWER))
        return (question, answer) if question and answer else None

    def pose(self, start: Start, question: str, *, documents: bool) -> Start:
        """The responder's start."""
        texts = start.fields.get(self.documents) or () if documents else ()
        filling = {"documents": _joined(texts), "question": question}
        return _prompted(start, self.answering if documents else self.answering.replace("{documents}", "").lstrip(), filling)

    def check(self, start: Start, asked: Asked, response: str) -> Start:
        """The verifier's start."""
        said = _behind_thinking(response)
        marked = _ANSWER.findall(said)
        filling = {"question": asked.question, "answer": asked.answer, "response": (marked[-1] if marked else said).strip()}
        return _prompted(start, self.judging, filling)

    def verdict(self, item: Mapping[str, Any]) -> bool | None:
        """Yes, no, or None."""
        said = _VERDICT.findall(_behind_thinking(item["response"]))
        return said[-1].lower() == "yes" if said else None


def _joined(texts: Sequence[Any]) -> str:
    return "\n\n".join(map(str, texts))


def _behind_thinking(response: str) -> str:
    return response.rpartition(_THOUGHT)[2]


def _prompted(start: Start, template: str, filling: Mapping[str, str]) -> Start:
    """The start with this prompt, filled in one pass, so that what a text holds is never taken for a place to fill."""
    prompt = re.sub("{(" + "|".join(filling) + ")}", lambda place: filling[place[1]], template)
    return start._replace(fields={**start.fields, "prompt": prompt})
