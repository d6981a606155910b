"""Rewards without any reference: how many other answers to the same question agree. Graders that see their whole group.

They pay for consensus and not for truth: the surest way to earn them is to give one answer to everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from payoff.catalogue import method
from payoff.signals.answers import _number, final_answer, normalise

Votes = dict[Hashable, float]


@method("majority-agreement", kind="grader", paper="arXiv:2504.16084", sees="group")
def majority_agreement(response: Sequence[str], *, pattern: str | None = None, least: float = 0.0) -> list[float | None]:
    """1 where an answer is the one that most of its group give, else 0 (test-time RL's majority reward); no reference is read.

    Answers are what `answer_key` makes of a response; a response without one has no vote and gets 0. Where k answers have equally
    many votes, each of them is paid 1 / k: what drawing the label among them pays on average, so that no order matters.

    pattern: a regular expression for the answer, as `final_answer` takes it
    least:   the share of the group that the most frequent answer must have; below it nobody has a verdict

    Range 0..1. Cost: one reading per response. Gamed by one constant answer to every prompt: watch how many different answers the
    prompts get together. It sharpens the policy to the mode of each prompt: right where that mode is. No verdict for a group in
    which nobody answers. Raises ValueError for a share outside 0..1.

    >>> majority_agreement(["7", "7.0", "8", ""]), majority_agreement(["7", "8"]), majority_agreement([" "])
    ([1.0, 1.0, 0.0, 0.0], [0.5, 0.5], [None])
    """
    if not 0 <= least <= 1:
        raise ValueError(f"majority_agreement: least must lie in 0..1, got {least}")
    keys = [answer_key(one, pattern=pattern) for one in response]
    label = majority_label(keys)
    if not label or max(Counter(keys)[key] for key in label) < least * len(keys):
        return [None] * len(keys)
    return [label.get(key, 0.0) for key in keys]


@method("self-consistency", kind="grader", sees="group")
def self_consistency(response: Sequence[str], *, pattern: str | None = None) -> list[float | None]:
    """The share of the group's other answers that are the same: majority agreement without its threshold.

    (votes for the own answer - 1) / (responses that have one - 1); a response without an answer gets 0. Its mean over a group
    estimates the chance that two answers agree, without bias. Options, cost, and how it is gamed: as `majority_agreement`.
    No verdict where nobody else answers.

    >>> self_consistency(["7", "7.0", "8", ""]), self_consistency(["7", ""])
    ([0.5, 0.5, 0.0, 0.0], [None, 0.0])
    """
    keys = [answer_key(one, pattern=pattern) for one in response]
    votes = Counter(key for key in keys if key is not None)
    total = votes.total()
    paid: list[float | None] = []
    for key in keys:
        others = total - (key is not None)
        paid.append(None if others < 1 else 0.0 if key is None else (votes[key] - 1) / others)
    return paid


@method("co-reward", kind="grader", paper="arXiv:2508.00410", sees="batch")
def co_reward(
    response: Sequence[str], pair: Sequence[Any], view: Sequence[Any], *, pattern: str | None = None
) -> list[float | None]:
    """1 where an answer is the most frequent one that ANOTHER view of the same question gets, else 0 (Co-Reward).

    Two prompts that ask the same in other words are one `pair` and two `view`s of it; the label of each is voted for by the
    rollouts of the other (of all others, where there are more than two). Answers, ties and `pattern` are those of
    `majority_agreement`; with two views that were given the same answers the two rewards are equal.

    pair: a field of the rows that names the question; view: one that names the wording
    Range 0..1. Cost: one reading per response. Gamed by a constant answer, as all agreement, though an error must now be made in
    both wordings; a rewording that changes what is right pays for what is wrong. All views of a pair must be in the same batch
    (starts that belong together come together). No verdict where no other view of the pair is there, or none of it answers.

    >>> co_reward(["7", "8", "8", "8"], ["q", "q", "q", "q"], [0, 0, 1, 1]), co_reward(["7"], ["q"], [0])
    ([0.0, 1.0, 0.5, 0.5], [None])
    """
    keys = [answer_key(one, pattern=pattern) for one in response]
    pair, view = ([one if isinstance(one, Hashable) else repr(one) for one in names] for names in (pair, view))
    votes: dict[Hashable, dict[Hashable, Counter[Hashable]]] = {}
    for key, question, wording in zip(keys, pair, view, strict=True):
        of_view = votes.setdefault(question, {}).setdefault(wording, Counter())
        if key is not None:
            of_view[key] += 1
    labels = {
        (question, wording): _leading(sum((other for name, other in views.items() if name != wording), Counter()))
        for question, views in votes.items()
        for wording in views
    }
    paid: list[float | None] = []
    for key, question, wording in zip(keys, pair, view, strict=True):
        label = labels[question, wording]
        paid.append(label.get(key, 0.0) if label else None)
    return paid


def majority_label(keys: Sequence[Hashable]) -> Votes:
    """The most frequent answers, each with an equal share of 1; empty where there is none. None is no answer.

    >>> majority_label(["a", "b", None, None, None]), majority_label([None])
    ({'a': 0.5, 'b': 0.5}, {})
    """
    return _leading(Counter(key for key in keys if key is not None))


def answer_key(response: str, *, pattern: str | None = None) -> Hashable | None:
    """What stands for the final answer, equal for answers that `same_answer` holds for equal; None where there is none.

    A number is itself, as an exact fraction; any other text what `normalise` makes of it.

    >>> answer_key("The answer is 1,000."), answer_key("#### 1e3") == answer_key("1000.0"), answer_key(" ")
    (Fraction(1000, 1), True, None)
    """
    said = final_answer(response, pattern=pattern)
    if said is None:
        return None
    text = normalise(said)
    number = _number(text)
    return text if number is None else number


def _leading(votes: Counter[Hashable]) -> Votes:
    most = max(votes.values(), default=0)
    first = [key for key, count in votes.items() if count == most]
    return {key: 1 / len(first) for key in first}
