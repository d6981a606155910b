"""verifiers: rewards of payoff in a task, as a method or by import path, and as functions of a rubric of older versions.

    taskset.task.rewards.payoff.fn = "payoff.integrations.verifiers:payoff_reward"     the reward of the environment's PAYOFF_REWARD
    correct = vf.reward(trace_reward("answer-match"))                                  in the body of a Task

A missing verdict raises `NoVerdictError`: verifiers then marks the rollout as failed while scoring, and pays it nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from payoff.integrations.hosted import Graded, pairs_of, row_reward, text_row


class NoVerdictError(RuntimeError):
    """A reward that has none for this rollout; says why."""


async def payoff_reward(trace: Any, task: Any) -> float:
    """The reward that the environment's PAYOFF_REWARD names, by name or as a run file, for a finished trace of verifiers v1."""
    return await trace_reward()(None, trace, task)


def trace_reward(
    reward: str = "",
    *,
    weights: Mapping[str, float | int] | None = None,
    term: str = "",
    reference: str = "answer",
    name: str = "payoff",
) -> Callable[..., Any]:
    """A reward method of a `Task` of verifiers v1, for `vf.reward`.

    reward, weights, term: as `RowReward` takes them
    reference: the field of the task's data that holds the right answer (a field `reference` goes before it)
    name:      what the trace calls the reward

    Graders see the fields of the task's data, `prompt` as text, and as `response` the last reply. Every channel that has a verdict
    becomes a metric of the trace under its name. Rows are graded in a thread, so that the event loop goes on.
    """

    async def payoff_reward(self: Any, trace: Any, task: Any) -> float:
        fields = task.model_dump(mode="json", exclude_none=True)
        truth = fields.get("reference", fields.get(reference))
        row = text_row(trace.last_reply, truth, {**fields, "prompt": task.prompt_text})
        graded = (await asyncio.to_thread(row_reward(reward, pairs_of(weights), term), [row]))[0]
        trace.record_metrics({name: value for name, (value, known) in graded.channels.items() if known})
        return _paid(graded)

    payoff_reward.__name__ = name
    return payoff_reward


def rubric_function(
    reward: str = "", *, weights: Mapping[str, float | int] | None = None, term: str = "", name: str = "payoff"
) -> Callable[..., float]:
    """A reward function of a `Rubric` before verifiers 0.4: `Rubric(funcs=[rubric_function("answer-match")])`.

    name: the metric's name. Prompts and completions are texts or messages; of a conversation the response is the last message.
    Graders see the fields of `info` too, and `reference` is the answer.
    """

    def payoff_reward(prompt: Any, completion: Any, answer: Any = None, state: Any = None, info: Any = None, **_: Any) -> float:
        fields = info if isinstance(info, Mapping) else {}
        row = text_row(_said(completion), answer, {**fields, "prompt": prompt})
        return _paid(row_reward(reward, pairs_of(weights), term)([row])[0])

    payoff_reward.__name__ = name
    return payoff_reward


def _paid(graded: Graded) -> float:
    if not graded.valid:
        raise NoVerdictError(graded.reason or "no verdict")
    return graded.reward


def _said(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion:
        last = completion[-1]
        return str((last.get("content") if isinstance(last, Mapping) else getattr(last, "content", "")) or "")
    return ""
