"""Tasksets of the `verifiers` package from 0.4 on: their harness runs as it is, and finds the policy behind an address."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from payoff.tasks.turns.policy_endpoint import PolicyEndpoint

TOKEN = "PAYOFF_POLICY_API_KEY"  # where verifiers finds the token; by this name it keeps it from programs that it starts
Ask = Callable[[Sequence[Any]], Awaitable[str]]


class TasksetHost:
    """An environment of verifiers 0.4, served in an event loop of its own thread, with a policy endpoint beside it.

    environment: the id of a taskset, or a callable that makes an `Env`
    options:     what else the environment's configuration holds, such as `agent: {harness: {id: "null"}}`, or the callable's
                 options. An agent that names no runtime has this machine, unless its harness lets the policy run code

    Rollouts share what the environment serves: tool servers and the interception of requests. Made in a process at its first use.
    """

    def __init__(self, environment: str | Callable[..., Any], options: Mapping[str, Any]) -> None:
        vf = importlib.import_module("verifiers.v1")
        if isinstance(environment, str):
            loaders = importlib.import_module("verifiers.v1.utils.loaders")
            taskset = {"id": environment, **options.get("taskset", {})}
            config = loaders.resolve_env_config(_local({**options, "taskset": taskset}, loaders))
            self.environment = loaders.load_environment(config)
        else:
            self.environment = environment(**options)
        self.endpoint = PolicyEndpoint()
        os.environ[TOKEN] = self.endpoint.token
        self.vf = vf
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True, name="payoff-verifiers")
        self._thread.start()
        self._ready.result()

    def tasks(self, most: int) -> list[Any]:
        """The first `most` tasks of the taskset, which may have no end."""
        return list(itertools.islice(iter(self.environment.taskset), most))

    async def rollout(self, task: Any, ask: Ask) -> float:
        """One episode of a task, whose model is whoever is asked; its reward. Raises what the environment records as an error."""
        here, asked = asyncio.get_running_loop(), list[Future[str]]()

        def answer(messages: Sequence[Any]) -> str:
            asked.append(asyncio.run_coroutine_threadsafe(_coroutine(ask, messages), here))
            return asked[-1].result()

        try:
            with self.endpoint.conversation(answer) as talk:
                client = self.vf.EvalClientConfig(base_url=talk.url, api_key_var=TOKEN)
                context = self.vf.ModelContext(model="payoff", client=client)
                running = asyncio.run_coroutine_threadsafe(self.environment.run_episode(task, context), self._loop)
                episode = await asyncio.wrap_future(running)
        finally:
            for question in asked:  # of a rollout that was given up: whoever waits for its reply is let go
                question.cancel()
        if talk.failure is not None:
            raise talk.failure
        return episode_reward(episode)

    def close(self) -> None:
        """Give back what is served, and stop listening."""
        if self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
        self.endpoint.close()

    def _run(self) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            async with self.environment.serving():
                self._ready.set_result(None)
                await self._stop.wait()

        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(serve())
        except Exception as error:  # told where the host is made
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self._loop.close()


def episode_reward(episode: Any) -> float:
    """The reward of the one trace that the policy wrote; RuntimeError with what went wrong where something did.

    >>> from types import SimpleNamespace as Made
    >>> trace = Made(agent=Made(trainable=True), reward=0.5, ok=True, errors=[])
    >>> episode_reward(Made(traces=[trace], errors=[], ok=True))
    0.5
    """
    errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors if not trace.ok)]
    if errors or not episode.ok:
        raise RuntimeError("; ".join(f"{error.type}: {error.message}" for error in errors) or "the episode is not ok")
    own = [trace for trace in episode.traces if trace.agent is None or trace.agent.trainable]
    if len(own) != 1:
        raise RuntimeError(f"an episode is one conversation of the policy, this one has {len(own)}")
    return float(own[0].reward)


async def _coroutine(ask: Ask, messages: Sequence[Any]) -> str:
    return await ask(messages)


def _local(options: dict[str, Any], loaders: Any) -> dict[str, Any]:
    """The options with this machine as the runtime of agents that name none and run no code; ValueError for those that do.

    verifiers' own default is a paid service, and code of a policy is not to run here unasked.
    """
    agents = importlib.import_module("verifiers.v1.configs.agent")
    taskset = options["taskset"]["id"]
    for name, field in loaders.env_config_type(taskset, options.get("id") or "").model_fields.items():
        own = dict(options.get(name) or {})
        if not isinstance(field.default, agents.AgentConfig) or "runtime" in own or "runtime" in field.default.model_fields_set:
            continue
        pinned = getattr(field.default.harness, "id", None)
        harness = (own.get("harness") or {}).get("id") or pinned or loaders.default_harness_id(taskset)
        if loaders.harness_class(harness).EXECUTES_CODE:
            raise ValueError(
                f"turns-verifiers: the harness {harness!r} of {name!r} lets the policy run code; say where, as in "
                f"options: {{{name}: {{runtime: {{type: docker}}}}}}, or take a harness that runs none, such as 'null'"
            )
        options[name] = {"runtime": {"type": "subprocess"}, **own}
    return options
