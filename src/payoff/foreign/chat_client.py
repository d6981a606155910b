"""A client of chat models behind OpenAI-compatible servers: what is kept, recorded, paid for, mended and asked side by side.

How one request is sent, timed, cut and tried again is `Exchange`; who may send one and at what cost is `ChatLedger`; what was said
before is `AnswerStore` and `Recording`; what is asked is `judge` and `judge_pairs`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from payoff.foreign.answer_store import AnswerStore, Recording
from payoff.foreign.batches import Graded, no_verdict
from payoff.foreign.chat_ledger import ChatLedger
from payoff.foreign.chat_schema import AnswerError
from payoff.foreign.exchange import Exchange, ExchangeError
from payoff.foreign.reward_server import at_a_time
from payoff.worker_process import visible

T = TypeVar("T")
Request = Mapping[str, Any]


class ChatClient:
    """Answers to chat requests, at most `concurrency` on their way at a time, each from the first of these that has it.

    replay:   a recording; what is not in it is not there, and nothing is ever sent
    store:    answers that were paid for; failures are not kept, so that they are asked again
    exchange: the server, if the ledger lets the request pass

    record: everything that was said is written here, failures too

    A copy is the same client, so that limits hold for all copies together, whichever threads and event loops ask.
    """

    def __init__(
        self,
        exchange: Exchange,
        ledger: ChatLedger,
        *,
        concurrency: int = 8,
        store: AnswerStore | None = None,
        record: Recording | None = None,
        replay: Recording | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.exchange, self.ledger, self.concurrency = exchange, ledger, concurrency
        self.store, self.record, self.replay = store, record, replay
        self._counts = {"replayed": 0, "unkept": 0, "repairs": 0}
        self._begin()

    @property
    def counts(self) -> dict[str, int | float]:
        """Requests and retries; replayed answers, those that no disk took, repairs; tokens and cost."""
        return {**self.exchange.counts, **self._counts, **self.ledger.counts}

    def __deepcopy__(self, memo: Mapping[int, Any]) -> ChatClient:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_places", "_threads")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def each(self, work: Callable[[Any], T], parts: Sequence[Hashable]) -> list[T]:
        """`work` of every part, in their order, so many at a time, and once for equal ones."""
        once = list(dict.fromkeys(parts))
        done = dict(zip(once, at_a_time(work, once, self.concurrency), strict=True))
        return [done[part] for part in parts]

    def answer(self, request: Request) -> str:
        """What the model writes to a request. Raises ExchangeError where it writes nothing whole, and why."""
        body = json.dumps(request, sort_keys=True).encode()
        if self.replay is not None:
            return self._replayed(body, self.replay)
        try:
            text = self._kept(body)
            if text is None:
                text = self._paid(request, body)
        except ExchangeError as error:
            self._recorded(body, None, str(error))
            raise
        self._recorded(body, text)
        return text

    async def answer_async(self, request: Request) -> str:
        """`answer` for asyncio: a thread of the client's waits while the loop goes on.

        A task that is cancelled leaves its request to come to an end: it may be paid for already, and then its answer is kept.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.answer, request)

    def agreed(self, request: Request, read: Callable[[str], T], *, repairs: int = 0) -> T:
        """What `read` makes of the answer; where it raises AnswerError, the model sees its answer and the error, and tries again.

        repairs: how often, at most. Each is a request of its own, with the whole exchange before it.
        Raises AnswerError with the last error, and ExchangeError where there is no answer.
        """
        why = ""
        for k in range(repairs + 1):
            try:
                text = self.answer(request)
            except ExchangeError as error:
                raise ExchangeError(f"{error}; asked to mend this: {why}" if why else str(error)) from None
            try:
                return read(text)
            except AnswerError as error:
                why = str(error)
            if k < repairs:
                self._add("repairs")
                wrong = f"That cannot be used: {why}. Answer once more, in the form that was asked for and with nothing around it."
                more = [{"role": "assistant", "content": text or "(nothing)"}, {"role": "user", "content": wrong}]
                request = {**request, "messages": [*request["messages"], *more]}
        raise AnswerError(why + (f" (and so after {repairs} repair{'s' if repairs > 1 else ''})" if repairs else ""))

    def graded(self, request: Request, text: str, read: Callable[[str], float], *, repairs: int = 0) -> Graded:
        """The number that `read` finds in what the model answers to `text`, as `agreed` does, or no verdict and why."""
        request = {**request, "messages": [{"role": "user", "content": text}]}
        try:
            return self.agreed(request, read, repairs=repairs)
        except AnswerError as error:
            return no_verdict(f"the judge: {error}")
        except ExchangeError as error:
            return no_verdict(str(error))

    def _replayed(self, body: bytes, recording: Recording) -> str:
        told = recording.get(body)
        if told is None:
            raise ExchangeError(f"this request is not in the recording {recording.path}, and nothing else is asked", charged=False)
        self._add("replayed")
        text, failure = told
        if text is None:
            raise ExchangeError(failure, charged=False)
        return text

    def _kept(self, body: bytes) -> str | None:
        if self.store is None:
            return None
        try:
            text = self.store.get((self.exchange.url, body))
        except sqlite3.Error as error:  # it may well be there, so it is not paid for again
            raise ExchangeError(f"the answers in {self.store.path} cannot be read: {error}", charged=False) from None
        if text is not None:
            self._add("replayed")
        return text

    def _paid(self, request: Request, body: bytes) -> str:
        prompt, completion = most_tokens(request, body)

        def send(once: Callable[[], Any]) -> Any:
            return self.ledger.pay(once, prompt=prompt, completion=completion)

        with self._places:
            text = content_of(self.exchange.ask(body, send))
        if self.store is not None:
            try:
                self.store[self.exchange.url, body] = text
            except sqlite3.Error:  # a full disk must not cost the answer, which is paid for
                self._add("unkept")
        return text

    def _recorded(self, body: bytes, text: str | None, failure: str = "") -> None:
        if self.record is not None:
            try:
                self.record.add(body, text, failure)
            except OSError:
                self._add("unkept")

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(self.concurrency)
        self._threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix="payoff-chat")  # none begins before it is needed

    def _add(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1


def most_tokens(request: Request, body: bytes) -> tuple[int, int]:
    """What a request may take at most: of its prompt a token for every byte that is sent, of the completions what it allows them.

    No tokenizer in use makes more tokens than bytes; those that the server's chat template adds are fewer than the names in the
    body. A request that bounds its completions nowhere has 0 for them here.

    >>> most_tokens({"max_tokens": 5, "n": 2, "messages": []}, b"12 bytes ...")
    (12, 10)
    """
    longest = request.get("max_completion_tokens") or request.get("max_tokens") or 0
    return len(body), int(longest) * int(request.get("n") or 1)


def content_of(answer: Any) -> str:
    """What the model has written in a chat completion. Raises ExchangeError where it wrote nothing whole, or refused."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ExchangeError("the answer is no chat completion")
    if choice.get("finish_reason") == "length":
        raise ExchangeError("the judge was cut off at max_tokens")
    if choice.get("finish_reason") == "content_filter":
        raise ExchangeError("the server's filter took the judge's answer away")
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        raise ExchangeError(f"the judge refuses: {visible(message['refusal'], 120)}")
    if not isinstance(message.get("content"), str):
        raise ExchangeError("the judge wrote no text")
    return message["content"]
