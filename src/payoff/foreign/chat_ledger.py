"""What a chat model costs: a request is entered before it is sent, at the most it may cost, and settled when its answer is there.

So the limit on spending holds whatever is under way at once, whatever is cut in the middle, and between all processes that share
the file. The rates, requests and tokens a minute, are read from the same entries.
"""

from __future__ import annotations

import functools
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from payoff.foreign.exchange import ExchangeError

LONGEST_LOOK = 0.5  # seconds after which what waits for its turn looks again, since entries are settled for less than they held
TABLE = """CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, model TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL, state TEXT NOT NULL)"""


class ChatLedger:
    """Who may send a request now, and what all of them have cost.

    path:   the SQLite file of the ledger, whose cost counts against `spend`, also that of earlier runs; "" keeps it in memory
    calls:  requests in all by this object, tries included
    spend:  what all entries may cost at most, in the unit of the prices
    prompt_price, completion_price: of a million tokens
    requests_per_minute, tokens_per_minute: in any `minute` seconds; 0 is no limit

    An entry is `asked` while it is under way, then `answered` (at the tokens of its `usage`), `uncounted` (an answer without one),
    `unknown` (no answer came that could be read, and the work may have been done) or `refused` (the server says so, or was not
    there), which costs nothing. What is asked, uncounted or unknown stands at the most it may cost; a process that is killed
    leaves its entries as `asked`.

    counts: tokens that answers took, and the cost of all that was sent through this object

    A copy of it is the same ledger; sent to another process, one in memory counts anew there, and one with a
    spending limit in memory cannot be sent, because the limit would hold for each process alone.

    Raises ValueError for a limit out of range and a file that cannot be opened.

    >>> ledger = ChatLedger(spend=1.0, prompt_price=2.0, completion_price=8.0)
    >>> said = {"usage": {"prompt_tokens": 100_000, "completion_tokens": 50_000}}
    >>> _ = ledger.pay(lambda: said, prompt=120_000, completion=60_000)
    >>> ledger.totals()
    {'requests': 1, 'prompt_tokens': 100000, 'completion_tokens': 50000, 'cost': 0.6}
    >>> ledger.pay(lambda: said, prompt=120_000, completion=60_000)
    Traceback (most recent call last):
    payoff.foreign.exchange.ExchangeError: the limit of 1 on spending is reached: 0.6 are spent, and this may cost 0.72
    """

    def __init__(
        self,
        path: str = "",
        *,
        model: str = "",
        calls: int = 10_000,
        spend: float = math.inf,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
        requests_per_minute: int = 0,
        tokens_per_minute: int = 0,
        minute: float = 60.0,
    ) -> None:
        limits = {"calls": calls, "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        prices = {"prompt_price": prompt_price, "completion_price": completion_price}
        for name, number in {**limits, **prices}.items():
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} must be at least 0, is {number}")
        if not spend >= 0 or not minute > 0:
            raise ValueError(f"spend must be at least 0 and minute above 0, got {spend} and {minute}")
        if spend < math.inf and not any(prices.values()):
            raise ValueError("spend needs prompt_price and completion_price, what a million tokens cost")
        self._options: dict[str, Any] = {**limits, **prices, "model": model, "spend": spend, "minute": minute}
        self.path, self.model, self.calls, self.spend = path, model, calls, spend
        self.prices = (prompt_price / 1e6, completion_price / 1e6)
        self.rates, self.minute = (requests_per_minute, tokens_per_minute), minute
        self.counts: dict[str, int | float] = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
        self._left, self._under_way, self._lock = calls, 0, threading.Lock()
        place = Path(path).expanduser() if path else ":memory:"
        try:
            if isinstance(place, Path):
                place.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(place, timeout=30.0, check_same_thread=False, isolation_level=None)
            self._file.execute(TABLE)
            self._file.execute("CREATE INDEX IF NOT EXISTS by_time ON requests (at)")
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"the ledger cannot be kept in {path}: {error}") from None

    def __deepcopy__(self, memo: Mapping[int, Any]) -> ChatLedger:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.path and self.spend < math.inf:
            raise TypeError("a spending limit kept in memory does not hold in another process; give the ledger a file")
        return functools.partial(ChatLedger, self.path, **self._options), ()

    def pay(self, send: Callable[[], Any], *, prompt: int, completion: int) -> Any:
        """What `send` gives, entered at most as so many tokens before it is called and as what its `usage` says afterwards.

        Waits while a rate is exhausted, or while requests under way hold what this one needs. Raises ExchangeError where a limit
        is reached, and what `send` raises.
        """
        number = self._enter(prompt, completion)
        try:
            answer = send()
        except BaseException as error:
            refused = isinstance(error, ExchangeError) and not error.charged
            self._settle(number, "refused" if refused else "unknown", (0, 0) if refused else None, (prompt, completion))
            raise
        used = usage_of(answer)
        self._settle(number, "uncounted" if used is None else "answered", used, (prompt, completion))
        return answer

    def totals(self) -> dict[str, int | float]:
        """Requests, tokens and cost of all entries, those of earlier runs in the same file among them."""
        sums = "count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0.0)"
        with self._lock:
            found = self._file.execute(f"SELECT {sums} FROM requests").fetchone()
        return dict(zip(("requests", "prompt_tokens", "completion_tokens", "cost"), (*found[:3], round(found[3], 9)), strict=True))

    def close(self) -> None:
        self._file.close()

    def _enter(self, prompt: int, completion: int) -> int:
        """The number of the new entry, as soon as there may be one."""
        most, tokens = self._cost((prompt, completion)), prompt // 4 + completion
        while True:
            with self._lock:
                if self._left < 1:
                    why = (
                        "what is paid for is kept, so raise calls= to go on" if self.calls else "and no answer is kept for this one"
                    )
                    raise ExchangeError(f"the limit of {self.calls} requests is reached; {why}", charged=False)
                try:
                    self._file.execute("BEGIN IMMEDIATE")  # so that no other process enters between the look and the entry
                    try:
                        pause = max(self._for_money(most), self._for_rates(tokens))
                        if not pause:
                            entry = (time.time(), self.model, prompt, completion, tokens, most, "asked")
                            number = self._file.execute(
                                "INSERT INTO requests (at, model, prompt_tokens, completion_tokens, tokens, cost, state) "
                                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                                entry,
                            ).lastrowid
                    finally:
                        self._file.execute("COMMIT")
                except sqlite3.Error as error:
                    raise ExchangeError(f"nothing is asked, because the ledger cannot be written: {error}", charged=False) from None
                if not pause:
                    self._left -= 1
                    self._under_way += 1
                    return int(number or 0)
            time.sleep(min(pause, LONGEST_LOOK))

    def _for_money(self, most: float) -> float:
        """Seconds until it is worth a look whether this can be paid. Raises ExchangeError where it cannot."""
        if self.spend == math.inf:
            return 0.0
        (spent,) = self._file.execute("SELECT coalesce(sum(cost), 0.0) FROM requests").fetchone()
        if spent + most <= self.spend * (1 + 1e-12):
            return 0.0
        if self._under_way:  # they hold more than they will cost
            return 0.005
        told = f"{spent:.6g} are spent, and this may cost {most:.6g}"
        raise ExchangeError(f"the limit of {self.spend:g} on spending is reached: {told}", charged=False)

    def _for_rates(self, tokens: int) -> float:
        """Seconds until the oldest request that stands in the way is a minute old; 0 where none does."""
        requests_most, tokens_most = self.rates
        if not requests_most and not tokens_most:
            return 0.0
        now = time.time()
        number, used, oldest = self._file.execute(
            "SELECT count(*), coalesce(sum(tokens), 0), min(at) FROM requests WHERE at > ?", (now - self.minute,)
        ).fetchone()
        full = (requests_most and number >= requests_most) or (tokens_most and number and used + tokens > tokens_most)
        return max(oldest + self.minute - now, 0.001) if full else 0.0

    def _settle(self, number: int, state: str, used: tuple[int, int] | None, most: tuple[int, int]) -> None:
        """used: tokens of prompt and completion; None leaves the entry at the most it may be."""
        with self._lock:
            self._under_way -= 1
            self.counts["cost"] += self._cost(used or most)
            for name, n in zip(("prompt_tokens", "completion_tokens"), used or (0, 0), strict=True):
                self.counts[name] += n
            with suppress(sqlite3.Error):  # then the entry stays as it is, at the most it may cost
                if used is None:
                    self._file.execute("UPDATE requests SET state = ? WHERE number = ?", (state, number))
                else:
                    self._file.execute(
                        "UPDATE requests SET state = ?, prompt_tokens = ?, completion_tokens = ?, tokens = ?, cost = ? "
                        "WHERE number = ?",
                        (state, *used, sum(used), self._cost(used), number),
                    )

    def _cost(self, tokens: tuple[int, int]) -> float:
        return tokens[0] * self.prices[0] + tokens[1] * self.prices[1]


def usage_of(answer: Any) -> tuple[int, int] | None:
    """The tokens of prompt and completion that a chat completion says it took; None where it does not say both.

    >>> usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 3}}), usage_of({"usage": {"prompt_tokens": -1}})
    ((10, 3), None)
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(type(x) is int and 0 <= x < 1 << 40 for x in found):
        return None
    return found[0], found[1]  # type: ignore[return-value]  # both are whole numbers
