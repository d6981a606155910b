"""Rows of preferences as files of reward benchmarks have them: one chosen answer or several, one rejected or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from payoff.audit.scorer import Row
from payoff.foreign.batches import is_conversation


def expanded(rows: Iterable[Row], label: str = "gold") -> Iterator[Row]:
    """The rows, of those with lists of answers one row for each answer, labelled 1.0 where it was chosen and 0.0 where not.

    RewardBench has `prompt`, `chosen`, `rejected` and `subset`: text, or a conversation whose last message is the answer, and such
    rows stay as they are. RewardBench 2 has lists of texts in both, as best-of-n files do. Their `subset` is the `source` of a row
    that has none, so that everything is told by subset too.

    >>> several = {"prompt": "2+2=", "chosen": ["4"], "rejected": ["5", "22"], "subset": "math"}
    >>> [(row["response"], row["gold"], row["source"]) for row in expanded([several])]
    [('4', 1.0, 'math'), ('5', 0.0, 'math'), ('22', 0.0, 'math')]
    """
    for row in rows:
        known: dict[str, Any] = {} if row.get("source") is not None or row.get("subset") is None else {"source": row["subset"]}
        chosen, rejected = row.get("chosen"), row.get("rejected")
        if row.get("response") is None and (_several(chosen) or _several(rejected)):
            rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
            for answers, worth in ((chosen, 1.0), (rejected, 0.0)):
                listed: Sequence[Any] = list(answers or ()) if _several(answers) else [] if answers is None else [answers]
                for answer in listed:
                    yield {**rest, **known, "response": answer, label: worth}
        else:
            yield {**row, **known} if known else row


def _several(answers: Any) -> bool:
    """Whether this is a list of answers, and not one, which may be a list of messages."""
    return isinstance(answers, list | tuple) and not is_conversation(answers)
