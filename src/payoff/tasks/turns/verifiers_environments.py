"""Environments of the `verifiers` package as a task: their own loop runs, and asks the policy for each reply.

The environment is not taken apart: before 0.4 its `rollout` is called with a client that hands every question out as an observation
and waits for the turn that answers it, from 0.4 on its harness finds such a client behind an address. So tools, user simulators,
stop conditions and rubrics work as they do anywhere else.
"""

from __future__ import annotations

import asyncio
import importlib.util
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import nn

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.tasks.dataset import Epochs
from payoff.tasks.turns.dialogue import LINE, Dialogue, outcome_of
from payoff.tasks.turns.policy_endpoint import said
from payoff.tasks.turns.verifiers_tasksets import TasksetHost
from payoff.trajectories import Channel, StopReason, Trajectories

Ask = Callable[[Sequence[Any]], Awaitable[str]]


class NoReplyError(RuntimeError):
    """The rollout ended before this question was answered."""


class AskedEpisode:
    """An episode whose environment does the asking: `loop(ask)` is a coroutine that awaits a reply to each list of messages.

    It runs in a thread with an event loop of its own, and is held up while the policy writes. What `loop` returns is the outcome.
    deadline: seconds from a reply to the next question; a loop that takes longer is cancelled, which anything that awaits obeys.
    Raises TimeoutError then, whatever `loop` raised, and NoReplyError for one that ends without a question. `first` is the first.

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
        kind, content = self._next()
        if kind == "over":
            raise NoReplyError("the environment ended without asking for a reply")
        self.first: list[Any] = content
        self._known = len(content)

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
        self._tasks: list[Any] = []

    def __call__(self) -> Any:
        """The environment; of verifiers 0.4 its host."""
        if self._made is None:
            if isinstance(self.environment, str):
                package = require("verifiers", "the task turns-verifiers")
                if hasattr(package, "load_environment"):
                    self._made = package.load_environment(self.environment, **self.options)
                elif importlib.util.find_spec("verifiers.v1") is not None:
                    self._made = TasksetHost(self.environment, self.options)
                else:
                    raise ImportError(
                        f"turns-verifiers: verifiers {getattr(package, '__version__', '')} has neither load_environment, as "
                        "releases before 0.4 have, nor verifiers.v1, as 0.4 has; no other release is known here"
                    )
            else:
                made = self.environment(**self.options)
                self._made = TasksetHost(lambda: made, {}) if hasattr(made, "run_episode") else made
        return self._made

    def tasks(self, most: int) -> list[Any]:
        """The first `most` tasks of a taskset of verifiers 0.4."""
        if len(self._tasks) < most:
            self._tasks = self().tasks(most)
        return self._tasks[:most]

    def episode(self, row: Mapping[str, Any] | int, deadline: float | int, first: Sequence[Any] = ()) -> AskedEpisode:
        """A rollout of one row, or of the task of that number; `first`: what it must ask first, where that is known."""
        if not isinstance(row, int):
            return AskedEpisode(partial(_rollout, self(), row), deadline)
        episode = AskedEpisode(partial(self().rollout, self.tasks(row + 1)[row]), deadline)
        if first and _messages(episode.first) != list(first):
            episode.close()
            raise ValueError("the environment asks otherwise than when this start was made; its prompt cannot be changed")
        return episode

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None, "_tasks": []}


@method("turns-verifiers", kind="task")
class VerifiersTask(nn.Module):
    """An environment of the `verifiers` package, its data set as starts and its rubric as the truth.

    environment: a name that `verifiers.load_environment` knows, from 0.4 on the id of a taskset; or a callable that makes one
    options:     given to either; from 0.4 on the rest of the environment's configuration, such as
                 {"agent": {"harness": {"id": "null"}}}; a harness that lets the policy run code needs a `runtime` beside it
    turns:       at most; what the environment's own limit leaves
    deadline:    seconds from a turn to the next question, kept by cancelling what awaits
    together:    rollouts at a time
    held_out:    so many rows, the first of the evaluation set where there is one, else the last of the data, are not trained on
    rows:        tasks read of a taskset of 0.4, which may have no end
    chat:        False: from 0.4 on, messages are one text, and a line is a turn, for a policy without a chat template

    The rubric's reward is paid at the end, and is the truth. A reply is text alone: tools are called as the environment's prompt
    says, not by structured calls. From 0.4 on a start's prompt is what the harness asks first, for which an episode is begun and
    given up; a harness that changes what was said, asks twice at a time, or plays several roles with the policy puts the rollout
    into error. Whatever the environment raises does: no verdict, and the reason.
    Raises ValueError for a data set without rows and for code without a runtime, ImportError for a release of verifiers with
    neither interface.

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
        rows: int = 1024,
        chat: bool = True,
    ) -> None:
        super().__init__()
        self.loaded = _Loaded(environment, options or {})
        self.turns, self.deadline, self.together, self.held_out = turns, deadline, together, held_out
        self.rows, self.chat = rows, chat
        self._rows: tuple[list[Any], list[Any]] | None = None
        self._asked: dict[int, list[dict[str, str]]] = {}
        self.epochs: Epochs | None = None

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """The next n rows of the epoch."""
        rows = self._parted()[0]
        if self.epochs is None:
            self.epochs = Epochs(len(rows), f"verifiers {self.loaded.environment}")
        drawn = self.epochs.draw(n, rng)
        self._look([rows[k] for k in drawn])
        return [self._start(rows[k], k) for k in drawn]

    def held_out_starts(self, n: int) -> Sequence[Start]:
        """The first n rows that are not trained on."""
        kept = self._parted()[1][:n]
        self._look(kept)
        return [self._start(row, -1 - k) for k, row in enumerate(kept)]

    def truth(self, traj: Trajectories) -> Channel:
        """The rubric's reward; unknown, with the reason, where the environment failed."""
        return outcome_of(traj)

    def _parted(self) -> tuple[list[Any], list[Any]]:
        """Rows to train on and rows held out: mappings, or numbers of the tasks of a taskset."""
        if self._rows is None:
            made = self.loaded()
            hosted = isinstance(made, TasksetHost)
            rows: list[Any] = (
                list(range(len(self.loaded.tasks(self.rows)))) if hosted else [dict(row) for row in made.get_dataset()]
            )
            if not rows:
                raise ValueError("turns-verifiers: the environment's data set has no rows")
            if not hosted and getattr(made, "eval_dataset", None) is not None:
                kept = [dict(row) for row in made.get_eval_dataset(n=self.held_out)]
            else:
                size = min(self.held_out, len(rows) - 1)
                rows, kept = rows[: len(rows) - size], rows[len(rows) - size :]
            self._rows = rows, kept
        return self._rows

    def _look(self, rows: Sequence[Any]) -> None:
        """Find out what the harness asks first in tasks that are met for the first time."""
        new = sorted({row for row in rows if isinstance(row, int)} - set(self._asked))
        if not new:
            return

        def first(number: int) -> list[dict[str, str]]:
            episode = self.loaded.episode(number, self.deadline)
            episode.close()
            return _messages(episode.first)

        with ThreadPoolExecutor(self.together) as pool:
            self._asked |= dict(zip(new, pool.map(first, new), strict=True))

    def _start(self, row: Any, number: int) -> Start:
        make: Callable[[], Any]
        if isinstance(row, int):
            data, first = self.loaded.tasks(row + 1)[row].data, self._asked[row]
            fields = {"reference": getattr(data, "answer", None), **data.model_dump(mode="json", exclude_none=True)}
            fields["prompt"] = first if self.chat else "".join(f"{message['content']}\n" for message in first)
            make, text = partial(self.loaded.episode, row, self.deadline, first), not self.chat
        else:
            fields, text = {"reference": row.get("answer"), **row}, isinstance(row["prompt"], str)
            if not text:
                fields["prompt"] = _messages(row["prompt"])
            make = partial(self.loaded.episode, dict(row), self.deadline)
        dialogue = Dialogue(make, turns=self.turns, ends=LINE if text else (), concurrency=self.together)
        return Start(f"verifiers:{number}", fields, dialogue)


def _messages(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Roles and texts alone."""
    return [{"role": str(_role(message)), "content": said(message)} for message in messages]


def _role(message: Any) -> Any:
    return message.get("role", "user") if isinstance(message, Mapping) else getattr(message, "role", "user")
