"""Environments of the `verifiers` package (before 0.4) as a task: their own loop runs, and asks the policy for each reply.

The environment is not taken apart: its `rollout` is called with a client that hands every question out as an observation and waits
for the turn that answers it. So tools, user simulators, stop conditions and rubrics work as they do anywhere else.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.tasks.dataset import Epochs
from payoff.tasks.turns.dialogue import LINE, Dialogue, outcome_of
from payoff.trajectories import Channel, StopReason, Trajectories

Ask = Callable[[Sequence[Any]], Awaitable[str]]


class NoReplyError(RuntimeError):
    """The rollout ended before this question was answered."""


class AskedEpisode:
    """An episode whose environment does the asking: `loop(ask)` is a coroutine that awaits a reply to each list of messages.

    It runs in a thread with an event loop of its own, and is held up while the policy writes. What `loop` returns is the outcome.
    deadline: seconds from a reply to the next question; a loop that takes longer is cancelled, which anything that awaits obeys.
    Raises TimeoutError then, and whatever `loop` raised.

    >>> async def loop(ask):
    ...     first = await ask([{"role": "user", "content": "1+1?"}])
    ...     again = await ask([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": first}, "Sure?"])
    ...     return float(again == "yes")
    >>> episode = AskedEpisode(loop, deadline=5)
    >>> episode.respond("2").observation, episode.respond("yes").reward
    ('Sure?', 1.0)
    """

    def __init__(self, loop: Callable[[Ask], Awaitable[float]], deadline: float | int) -> None:
        self.deadline = deadline
        self.outcome: float | None = None
        self._out: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._reply: asyncio.Future[str] | None = None
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()
        self._known = len(self._next()[1])

    def respond(self, action: str) -> Response:
        """Give the reply; the messages that follow it are the observation, until the loop ends with its reward."""
        if self._reply is None:
            raise NoReplyError("the environment has asked nothing")
        reply, self._reply = self._reply, None
        self._loop.call_soon_threadsafe(reply.set_result, action)
        kind, content = self._next()
        if kind == "over":
            self.outcome = float(content)
            return Response("", self.outcome, StopReason.finished)
        new = [said(message) for message in content[self._known + 1 :]]  # one of those before is the policy's own
        self._known = len(content)
        return Response("\n".join(new), 0.0, None)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its turns, where its environment repeats itself."""

    def close(self) -> None:
        """Cancel what still runs."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(self._loop)])

    def _next(self) -> tuple[str, Any]:
        try:
            kind, content = self._out.get(timeout=self.deadline)
        except queue.Empty:
            self.close()
            raise TimeoutError(f"no answer within {self.deadline:g} s") from None
        if kind == "failed":
            raise content
        return kind, content

    def _run(self, loop: Callable[[Ask], Awaitable[float]]) -> None:
        async def ask(messages: Sequence[Any]) -> str:
            self._reply = reply = self._loop.create_future()
            self._out.put(("asks", list(messages)))
            return await reply

        async def whole() -> None:
            try:
                self._out.put(("over", await loop(ask)))
            except asyncio.CancelledError:
                self._out.put(("failed", NoReplyError("the rollout was cancelled")))
            except Exception as error:  # told in the thread that waits for an answer
                self._out.put(("failed", error))

        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(whole())
        finally:
            self._loop.close()


def said(message: Any) -> str:
    """The text of a message: of a mapping or an object with `content`, which may be a list of parts."""
    if isinstance(message, str):
        return message
    content = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", "")
    if isinstance(content, str) or content is None:
        return content or ""
    parts = [part if isinstance(part, str) else part.get("text", "") for part in content]
    return "".join(text for text in parts if text)


def _client(ask: Ask) -> Any:
    """What an environment of verifiers takes for a client: every request becomes a question."""
    base = require("verifiers.clients", "the task turns-verifiers").Client
    types = require("verifiers.types", "the task turns-verifiers")

    async def get_response(self: Any, prompt: Any, model: str, **_: Any) -> Any:
        text = await ask([prompt] if isinstance(prompt, str) else prompt)
        message = types.ResponseMessage(role="assistant", content=text, finish_reason="stop", is_truncated=False)
        return types.Response(id="payoff", created=int(time.time()), model=model, message=message)

    async def nothing(self: Any, *given: Any) -> None:
        """No wire format and no connection stand behind this client."""

    inside = dict.fromkeys(getattr(base, "__abstractmethods__", ()), nothing)
    return type("PolicyClient", (base,), {**inside, "get_response": get_response})(None)


async def _rollout(environment: Any, row: Mapping[str, Any], ask: Ask) -> float:
    """One rollout of the environment and what its rubric says of it."""
    state = await environment.rollout(dict(row), _client(ask), "payoff", {})
    if state.get("error") is not None:
        raise state["error"]
    await environment.rubric.score_rollout(state)
    return float(state["reward"])


class _Loaded:
    """An environment by name, loaded where it is used: environments hold clients and data sets, and do not travel."""

    def __init__(self, environment: str | Callable[[], Any], options: Mapping[str, Any]) -> None:
        self.environment, self.options = environment, dict(options)
        self._made: Any = None

    def __call__(self) -> Any:
        """The environment."""
        if self._made is None:
            if isinstance(self.environment, str):
                self._made = require("verifiers", "the task turns-verifiers").load_environment(self.environment, **self.options)
            else:
                self._made = self.environment(**self.options)
        return self._made

    def episode(self, row: Mapping[str, Any], deadline: float | int) -> AskedEpisode:
        """A rollout of one row."""
        return AskedEpisode(partial(_rollout, self(), row), deadline)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


@method("turns-verifiers", kind="task")
class VerifiersTask(nn.Module):
    """An environment of the `verifiers` package before 0.4, its data set as starts and its rubric as the truth.

    environment: a name that `verifiers.load_environment` knows, or a callable that makes one
    options:     given to either
    turns:       at most; what the environment's own limit leaves
    deadline:    seconds from a turn to the next question, kept by cancelling what awaits
    together:    rollouts at a time
    held_out:    so many rows, the first of the evaluation set where there is one, else the last of the data, are not trained on

    The rubric's reward is paid at the end, and is the truth. A reply is text alone: tools are called as the environment's prompt
    says, not by structured calls. Whatever the environment raises puts the rollout into error: no verdict, and the reason.
    Raises ValueError for a data set without rows.

    >>> VerifiersTask("wordle").turns
    16
    """

    def __init__(
        self,
        environment: str | Callable[..., Any],
        *,
        options: Mapping[str, Any] | None = None,
        turns: int = 16,
        deadline: float | int = 60,
        together: int = 16,
        held_out: int = 32,
    ) -> None:
        super().__init__()
        self.loaded = _Loaded(environment, options or {})
        self.turns, self.deadline, self.together, self.held_out = turns, deadline, together, held_out
        self._rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] | None = None
        self.epochs: Epochs | None = None

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """The next n rows of the epoch."""
        rows = self._parted()[0]
        if self.epochs is None:
            self.epochs = Epochs(len(rows), f"verifiers {self.loaded.environment}")
        return [self._start(rows[k], k) for k in self.epochs.draw(n, rng)]

    def held_out_starts(self, n: int) -> Sequence[Start]:
        """The first n rows that are not trained on."""
        return [self._start(row, -1 - k) for k, row in enumerate(self._parted()[1][:n])]

    def truth(self, traj: Trajectories) -> Channel:
        """The rubric's reward; unknown, with the reason, where the environment failed."""
        return outcome_of(traj)

    def _parted(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if self._rows is None:
            made = self.loaded()
            rows = [dict(row) for row in made.get_dataset()]
            if not rows:
                raise ValueError("turns-verifiers: the environment's data set has no rows")
            if getattr(made, "eval_dataset", None) is not None:
                kept = [dict(row) for row in made.get_eval_dataset(n=self.held_out)]
            else:
                size = min(self.held_out, len(rows) - 1)
                rows, kept = rows[: len(rows) - size], rows[len(rows) - size :]
            self._rows = rows, kept
        return self._rows

    def _start(self, row: Mapping[str, Any], number: int) -> Start:
        fields = {"reference": row.get("answer"), **row}
        if not isinstance(row["prompt"], str):
            fields["prompt"] = [{"role": str(_role(message)), "content": said(message)} for message in row["prompt"]]
        make = partial(self.loaded.episode, dict(row), self.deadline)
        dialogue = Dialogue(make, turns=self.turns, ends=LINE if isinstance(row["prompt"], str) else (), concurrency=self.together)
        return Start(f"verifiers:{number}", fields, dialogue)


def _role(message: Any) -> Any:
    return message.get("role", "user") if isinstance(message, Mapping) else getattr(message, "role", "user")
