"""Reward functions of TRL as they are: lists of prompts and completions and a list for every column in, numbers or None out."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from payoff.arguments import MissingFieldError
from payoff.catalogue import nearest
from payoff.foreign.batches import Graded, Row, as_verdict, finished, is_conversation, isolated, items_of, no_verdict, said
from payoff.foreign.options import no_option
from payoff.loading import CallableNotFoundError, load_callable
from payoff.trajectories import Trajectories
from payoff.worker_process import readings

TRAINER = ("trainer_state", "log_extra", "log_metric")  # what the trainer adds; the answer must not depend on it
OWN = ("prompts", "completions", "completion_ids")
ANSWERS = ("solution", "solutions", "answer", "answers", "ground_truth", "gold", "target", "label")
FORMATS = ("auto", "text", "conversational")


def trl_function(
    place: str,
    *,
    format: str = "auto",
    tokenizer: str = "",
    sees: str = "item",
    batch: int = 256,
    **arguments: Any,
) -> TRLFunction:
    """The reward function at FILE.py:FUNCTION or package.module:function, ready to be called with rows.

    format:    "text" hands over strings, "conversational" lists of messages; "auto" what the function's annotation says, else
               messages for rows whose prompt is messages and text for the others
    tokenizer: whose tokens of the response `completion_ids` are; without one, those that were recorded of the row
    sees:      TRL hands over what a process has, so by default an answer is taken to depend on its own row alone. "group": whole
               groups are handed over; "batch": all rows at once.
    batch:     rows of one call
    arguments: those of a function that makes the reward function, such as `get_soft_overlong_punishment`

    Raises ValueError for an option out of range or of another kind, or arguments that are missing, LookupError for a place that
    leads nowhere.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, is {format!r}")
    if sees not in ("item", "group", "batch"):
        raise ValueError(f"sees must be item, group or batch, is {sees!r}")
    function = _made(loaded(place), place, arguments)
    if format == "auto":
        format = _annotated(function)
    seen = cast(Literal["item", "group", "batch"], sees)
    return TRLFunction(function, format=format, tokenizer=_tokenizer(tokenizer), sees=seen, batch=batch)


class TRLFunction:
    """Calls a function with what TRL would: only the arguments that it takes, columns filled with None where a row lacks them."""

    def __init__(
        self, function: Callable[..., Any], *, format: str, tokenizer: Any, sees: Literal["item", "group", "batch"], batch: int
    ) -> None:
        self.function, self.format, self.tokenizer, self.sees = function, format, tokenizer, sees
        self.batch: int | None = batch
        self.name = getattr(function, "__name__", type(function).__name__)
        parameters = list(inspect.signature(function).parameters.values())
        odd = [str(p) for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
        if odd:
            raise ValueError(f"TRL calls a reward function by keywords alone, and {self.name} has {odd[0]}")
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.takes = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        self.required = {p.name for p in parameters if p.default is p.empty and p.name in self.takes} - {*TRAINER}
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004

    def rows(self, traj: Trajectories) -> tuple[list[dict[str, Any]], dict[int, str]]:
        items = items_of(traj)
        kept = ("prompt", "completion", *OWN, *TRAINER)
        columns = dict.fromkeys(name for item in items for name in item if isinstance(name, str) and name not in kept)
        alias = {name: "reference" for name in (*ANSWERS,) if name in self.takes and name not in columns and "reference" in columns}
        reads = {"prompts": "prompt", "completions": "response", "completion_ids": "completion_ids"}
        needed = {name: reads.get(name) or alias.get(name) or name for name in sorted(self.required)}
        ids = self._ids(traj, items) if "completion_ids" in self.takes or self.takes_all else None
        for name, field in needed.items():
            if name == "completion_ids":
                if ids is None and items:
                    raise MissingFieldError(f"{self.name} reads completion_ids, and no tokens are recorded: add tokenizer=NAME")
            elif items and not any(field in item for item in items):
                raise MissingFieldError(_no_field(self.name, field, items))
        rows: list[dict[str, Any]] = []
        lost: dict[int, str] = {}
        for k, item in enumerate(items):
            missing = [field for name, field in needed.items() if name != "completion_ids" and field not in item]
            if missing or said(item.get("response")) is None:
                lost[k] = f"there is no {missing[0] if missing else 'response'!r}, which {self.name} reads"
            row = {name: item.get(name) for name in columns if self.takes_all or name in self.takes}
            row |= {name: item.get(field) for name, field in alias.items()}
            prompt, completion = self._handed(item)
            row |= {"prompts": prompt, "completions": completion}
            rows.append(row | ({} if ids is None else {"completion_ids": ids[k]}))
        return rows, lost

    def __call__(self, item: Sequence[Row]) -> Sequence[Graded]:
        return isolated(self._asked, item) if self.sees == "item" else self._asked(item)

    def _asked(self, rows: Sequence[Row]) -> list[Graded]:
        given: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        given |= {"log_extra": _unheard, "log_metric": _unheard, "trainer_state": self._state()}
        if not self.takes_all:
            given = {name: value for name, value in given.items() if name in self.takes}
        try:
            answer = self.function(**given)
            answer = finished(answer) if self.is_async else answer
        except (TypeError, AttributeError) as error:
            shape = "messages" if isinstance(rows[0]["completions"], list) else "text"
            other = "text" if shape == "messages" else "conversational"
            raise (TypeError if isinstance(error, TypeError) else AttributeError)(
                f"{error} (completions were handed over as {shape}; format={other} hands over the other)"
            ) from error
        forms = readings(answer, len(rows))
        return [no_verdict(forms)] * len(rows) if isinstance(forms, str) else [as_verdict(form) for form in forms]

    def _handed(self, item: Row) -> tuple[Any, Any]:
        """Prompt and completion in the form that the function wants."""
        prompt, response = item.get("prompt"), item.get("response")
        talk = self.format == "conversational" or (self.format == "auto" and is_conversation(prompt))
        if talk:
            asked = [dict(m) for m in prompt] if is_conversation(prompt) else [{"role": "user", "content": prompt or ""}]  # type: ignore[union-attr]
            return asked, response if is_conversation(response) else [{"role": "assistant", "content": said(response)}]
        if is_conversation(prompt):
            prompt = "\n".join(str(m.get("content", "")) for m in prompt)  # type: ignore[union-attr]
        return prompt if isinstance(prompt, str) else "", said(response)

    def _ids(self, traj: Trajectories, items: Sequence[Row]) -> list[list[int]] | None:
        if self.tokenizer is not None:
            texts = [said(item.get("response")) or "" for item in items]
            return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
        if traj.actions.ndim != 2 or traj.actions.is_floating_point():
            return None
        rows = [row[:n] for row, n in zip(traj.actions.tolist(), traj.length.tolist(), strict=True)]
        return None if any(min(row, default=0) < 0 for row in rows) else rows

    def _state(self) -> Any:
        if "trainer_state" not in self.takes:
            return None
        from payoff._extras import require

        return require("transformers", "a reward function that reads trainer_state").TrainerState()


def loaded(place: str) -> Callable[..., Any]:
    """The function there, with the nearest name also where a module loads its parts on demand."""
    try:
        return load_callable(place)
    except CallableNotFoundError as error:
        module_name, _, wanted = place.partition(":")
        module = sys.modules.get(module_name)
        like = [] if module is None or "did you mean" in str(error) else nearest(wanted, [n for n in dir(module) if n[0] != "_"])
        if not like:
            raise
        raise CallableNotFoundError(f"{error}; did you mean {like[0]!r}?") from None


def _made(function: Callable[..., Any], place: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """The reward function, or what the function of that name makes with these arguments."""
    parameters = inspect.signature(function).parameters
    known = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    makes = inspect.isclass(function) or not (takes_all or {*OWN} & {*known})
    options = ["format", "tokenizer", "sees", "batch"]
    wrong = [name for name in arguments if not makes or (name not in known and not takes_all)]
    if wrong:
        raise ValueError(no_option(wrong[0], options + (known if makes else [])))
    if not makes:
        return function
    lacks = [n for n in known if parameters[n].default is inspect.Parameter.empty and n not in arguments]
    if lacks:
        shown = "&".join(f"{name}=..." for name in lacks)
        raise ValueError(f"{place} makes a reward function and needs {', '.join(lacks)}: write trl:{place}?{shown}")
    made = function(**arguments)
    if not callable(made):
        raise ValueError(f"{place} takes no prompts, completions or completion_ids, and gave a {type(made).__name__}")
    return made


def _annotated(function: Any) -> str:
    """The format that the annotation of `completions` asks for; "auto" where it asks for none."""
    plain = function if inspect.isfunction(function) or inspect.ismethod(function) else type(function).__call__
    told = getattr(plain, "__annotations__", {}).get("completions", "")
    text = re.sub(r"typing\.|\s", "", told if isinstance(told, str) else str(told)).lower()
    return "conversational" if text.startswith("list[list") else "text" if text.startswith("list[str]") else "auto"


def _tokenizer(name: str) -> Any:
    if not name:
        return None
    from payoff._extras import require

    return require("transformers", "a tokenizer").AutoTokenizer.from_pretrained(name)


def _unheard(*args: Any, **kwargs: Any) -> None:
    """What a trainer would log; here nobody reads it."""


def _no_field(name: str, field: str, items: Sequence[Row]) -> str:
    fields = sorted({str(key) for item in items for key in item})
    like = nearest(field, fields)
    hint = f"; did you mean {like[0]!r}?" if like else ""
    return f"{name} reads {field!r}, which no row has; the rows have {', '.join(fields) or 'no fields'}{hint}"
