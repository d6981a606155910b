"""`compute_score` functions of verl as they are: data source, solution, ground truth and extra information in, a score out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from payoff.arguments import MissingFieldError
from payoff.foreign.batches import Graded, Row, finished, items_of, no_verdict, said, verdict
from payoff.foreign.options import no_option
from payoff.foreign.trl_function import loaded
from payoff.trajectories import Trajectories
from payoff.worker_process import explain, readings

ONE = ("data_source", "solution_str", "ground_truth", "extra_info")
MANY = ("data_sources", "solution_strs", "ground_truths", "extra_infos")
OTHERWISE = {  # what verl's own functions call these, which it hands over by place
    "model_output": "solution_str",
    "predict_str": "solution_str",
    "completion": "solution_str",
    "test_cases": "ground_truth",
}
AT_ONCE = 64  # coroutines that run at a time


def verl_function(place: str, *, key: str = "score", data_source: str = "", batch: int = 256, **arguments: Any) -> VerlFunction:
    """The `compute_score` at FILE.py:FUNCTION or package.module:function, ready to be called with rows.

    A row's ground truth is `reward_model["ground_truth"]`, as verl's data has it, else `ground_truth`, else `reference`.
    key:         which entry of a dict is the reward
    data_source: that of rows which have none
    A function of verl's own that calls the solution `model_output`, `predict_str` or `completion`, or the truth `test_cases`, gets
    them by that name; of a tuple that it answers with, the first entry is the reward, as in verl.
    batch:       rows of one call of a function that takes many (`solution_strs`) or is a coroutine; others take one
    arguments:   verl's `reward_kwargs`: more arguments for the function

    Raises ValueError for arguments that it does not take, LookupError for a place that leads nowhere.
    """
    function = loaded(place)
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    many = "solution_strs" in known
    standard = MANY if many else ONE
    called = {} if takes_all else {OTHERWISE[name]: name for name in known if name in OTHERWISE and OTHERWISE[name] not in known}
    own = {called.get(name, name): name for name in standard}
    wrong = [name for name in arguments if name in own or not (takes_all or name in known)]
    if wrong:
        raise ValueError(no_option(wrong[0], ["key", "data_source", "batch", *(n for n in known if n not in own)]))
    if not takes_all and standard[1] not in known and standard[1] not in called:
        raise ValueError(f"{place} takes {', '.join(known) or 'nothing'}; verl calls a reward function with {', '.join(ONE)}")
    takes = standard if takes_all else tuple(name for name in standard if called.get(name, name) in known)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    rows = batch if many or is_async else 1
    return VerlFunction(function, takes, arguments, key=key, data_source=data_source, batch=rows, is_async=is_async, called=called)


class VerlFunction:
    """Calls a function by verl's keywords, those of them that it takes."""

    sees: Literal["item", "group", "batch"] = "item"

    def __init__(
        self,
        function: Callable[..., Any],
        takes: tuple[str, ...],
        arguments: Mapping[str, Any],
        *,
        key: str,
        data_source: str,
        batch: int,
        is_async: bool,
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.called = {name: (called or {}).get(name, name) for name in takes}
        self.function, self.takes, self.arguments = function, takes, dict(arguments)
        self.key, self.data_source, self.is_async = key, data_source, is_async
        self.batch: int | None = batch
        self.name = getattr(function, "__name__", type(function).__name__)

    def rows(self, traj: Trajectories) -> tuple[list[dict[str, Any]], dict[int, str]]:
        items, lost, rows = items_of(traj), {}, []
        truths = [_truth(item) for item in items]
        if items and not any(found for found, _ in truths):
            fields = sorted({str(name) for item in items for name in item})
            told = f"{self.name} needs a ground truth: reward_model['ground_truth'], ground_truth or reference"
            raise MissingFieldError(f"{told}; the rows have {', '.join(fields) or 'no fields'}")
        for k, (item, (found, truth)) in enumerate(zip(items, truths, strict=True)):
            response = said(item.get("response"))
            if response is None or not found:
                lost[k] = f"there is no {'ground truth' if response is not None else 'response'}"
            given = item.get("extra_info")
            extra = {**given} if isinstance(given, Mapping) else {}
            extra |= {"num_turns": item.get("__num_turns__"), "rollout_reward_scores": item.get("reward_scores") or {}}
            source = item.get("data_source") or self.data_source
            rows.append({"data_source": source, "solution_str": response, "ground_truth": truth, "extra_info": extra})
        return rows, lost

    def __call__(self, item: Sequence[Row]) -> Sequence[Graded]:
        if "solution_strs" in self.takes:
            given = {many: [row[one] for row in item] for one, many in zip(ONE, MANY, strict=True) if many in self.takes}
            answer = self.function(**given, **self.arguments)
            answer = finished(answer) if self.is_async else answer
            if hasattr(answer, "tolist"):
                answer = answer.tolist()
            if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) != len(item):
                return [no_verdict(str(readings(answer, len(item))))] * len(item)
            return [self._read(one) for one in answer]
        if self.is_async:
            return finished(self._gathered(item))
        return [self._read(self.function(**self._arguments(row))) for row in item]

    def _arguments(self, row: Row) -> dict[str, Any]:
        return {self.called[name]: row[name] for name in ONE if name in self.takes} | self.arguments

    async def _gathered(self, rows: Sequence[Row]) -> list[Graded]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(row: Row) -> Graded:
            async with places:
                try:
                    return self._read(await self.function(**self._arguments(row)))
                except Exception as error:
                    return no_verdict(explain(error))

        return await asyncio.gather(*map(one, rows))

    def _read(self, answer: Any) -> Graded:
        if isinstance(answer, Mapping):
            if self.key not in answer:
                return no_verdict(f"gave a dict without {self.key!r}: {', '.join(map(str, list(answer)[:8]))}")
            answer = answer[self.key]
        elif isinstance(answer, tuple) and answer:
            answer = answer[0]
        return verdict(answer)


def _truth(item: Row) -> tuple[bool, Any]:
    """Whether there is a ground truth, and which."""
    model = item.get("reward_model")
    if isinstance(model, Mapping) and "ground_truth" in model:
        return True, model["ground_truth"]
    for name in ("ground_truth", "reference"):
        if item.get(name) is not None:
            return True, item[name]
    return False, None
