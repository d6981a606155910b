"""Reward servers: prompts, responses and references out as JSON, one number for each response back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import urlsplit

from payoff.arguments import MissingFieldError
from payoff.foreign.batches import Graded, Row, as_verdict, items_of, no_verdict, said
from payoff.foreign.exchange import Exchange, ExchangeError
from payoff.trajectories import Trajectories
from payoff.worker_process import reading, visible

ANSWERS = ("rewards", "scores", "results")


def reward_server(
    place: str,
    *,
    batch: int = 64,
    concurrency: int = 4,
    timeout: float = 60.0,
    tries: int = 4,
    wait: float = 0.5,
    largest: int = 16 << 20,
    answer: str = "",
    key_from: str = "PAYOFF_REWARD_KEY",
) -> RewardServer:
    """The reward server at an address, ready to be called with rows; nothing is sent before that.

    batch:       rows of one request; concurrency: requests at a time
    answer:      which of rewards, scores and results is the reward, where a server gives several
    timeout, tries, wait, largest, key_from: as `Exchange` takes them

    Raises ValueError for an address that is none and an option out of range.
    """
    if batch < 1 or concurrency < 1:
        raise ValueError(f"batch and concurrency must be at least 1, got {batch} and {concurrency}")
    if answer and answer not in ANSWERS:
        raise ValueError(f"answer must be one of {', '.join(ANSWERS)}, is {answer!r}")
    exchange = Exchange(place, timeout=timeout, tries=tries, wait=wait, largest=largest, key_from=key_from)
    return RewardServer(exchange, batch=batch, concurrency=concurrency, answer=answer)


class RewardServer:
    """Asks a server for `batch` rows a request, several requests at a time."""

    sees: Literal["item", "group", "batch"] = "item"
    batch: int | None = None

    def __init__(self, exchange: Exchange, *, batch: int, concurrency: int, answer: str) -> None:
        self.exchange, self.size, self.concurrency, self.answer = exchange, batch, concurrency, answer
        parts = urlsplit(exchange.url)
        self.name = f"{parts.netloc}{parts.path.rstrip('/')}"
        self.counts = exchange.counts

    def rows(self, traj: Trajectories) -> tuple[list[dict[str, Any]], dict[int, str]]:
        items = items_of(traj)
        rows = [
            {"prompt": item.get("prompt"), "response": said(item.get("response")), "reference": item.get("reference")}
            for item in items
        ]
        if items and all(row["response"] is None for row in rows):
            fields = ", ".join(sorted({str(name) for item in items for name in item}))
            raise MissingFieldError(f"{self.name} reads 'response', which no row has; the rows have {fields or 'no fields'}")
        return rows, {k: "there is no 'response'" for k, row in enumerate(rows) if row["response"] is None}

    def __call__(self, item: Sequence[Row]) -> Sequence[Graded]:
        parts = [item[a : a + self.size] for a in range(0, len(item), self.size)]
        return [answer for part in at_a_time(self._asked, parts, self.concurrency) for answer in part]

    def _asked(self, rows: Sequence[Row]) -> list[Graded]:
        columns = {f"{name}s": [row[name] for row in rows] for name in ("prompt", "response", "reference")}
        try:
            return read_answer(self.exchange.ask(json.dumps(columns, default=str).encode()), len(rows), self.answer)
        except ExchangeError as error:
            return [no_verdict(str(error))] * len(rows)


def read_answer(answer: Any, n: int, key: str = "") -> list[Graded]:
    """The numbers of n rows in a server's answer: {"rewards": [...]}, {"scores": [...]} or {"results": [{"score": ...}]}.

    null is no verdict, and so is everything that is not a number; a result may say why under "reason".
    Raises ExchangeError where the answer as a whole cannot be read.

    >>> read_answer({"rewards": [1, None]}, 2)
    [1.0, Verdict(value=0.0, valid=False, reason='no verdict')]
    """
    if not isinstance(answer, dict):
        raise ExchangeError(f"the answer is a JSON {type(answer).__name__}, not an object")
    there = [name for name in ANSWERS if name in answer]
    if key and key not in there:
        raise ExchangeError(f"the answer has no {key!r}; it has {visible(', '.join(answer), 100) or 'nothing'}")
    if not there:
        told = visible(", ".join(answer), 100) or "nothing"
        raise ExchangeError(f"the answer has none of {', '.join(ANSWERS)}; it has {told}")
    if len(there) > 1 and not key:
        raise ExchangeError(f"the answer has both {' and '.join(there)}; say which one is the reward, as in #answer={there[0]}")
    values = answer[key or there[0]]
    if not isinstance(values, list) or len(values) != n:
        count = f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"
        raise ExchangeError(f"the answer has {count} under {key or there[0]!r} for {n} responses")
    return [_of_result(value) if (key or there[0]) == "results" else _number(value) for value in values]


def _of_result(value: Any) -> Graded:
    if not isinstance(value, dict) or "score" not in value:
        return no_verdict("a result is not an object with a score")
    score, why = value["score"], value.get("reason")
    return no_verdict(visible(why)) if score is None and isinstance(why, str) and why else _number(score)


def _number(value: Any) -> Graded:
    return no_verdict("gave a bool, not a number") if isinstance(value, bool) else as_verdict(reading(value, 2))


def at_a_time(work: Any, parts: Sequence[Any], concurrency: int) -> list[Any]:
    """`work` of every part, in their order, so many at a time; what has not begun is dropped when one raises or the user stops."""
    if len(parts) < 2 or concurrency < 2:
        return [work(part) for part in parts]
    pool = ThreadPoolExecutor(min(concurrency, len(parts)))
    try:
        return list(pool.map(work, parts))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
