"""One row of recorded responses, in any of the usual layouts, as a start's fields: the prompt and the list "recorded"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from payoff.tasks.key_words import without_key_words


class Names(NamedTuple):
    """What the columns of the rows are called."""

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    completion: str = "completion"
    label: str = "label"
    scores: tuple[str, str] = ("score_chosen", "score_rejected")


def recorded_row(row: Mapping[str, Any], names: Names | None = None, *, why: str = "", degrees: int = 0) -> dict[str, Any]:
    """The fields of a start: "prompt", "recorded", and what else the row holds.

    why:     turns a row's `rationale` into one more response, to the prompt this text makes of {prompt}, {chosen} and {rejected}
    degrees: adds versions of both texts of a pair from which ever more key words are gone
    Raises ValueError for a row that holds no responses, or answers that are none.

    >>> row = recorded_row({"chosen": "1+1=2", "rejected": "1+1=3"})
    >>> row["prompt"], [answer["response"] for answer in row["recorded"]]
    ('1+1=', ['2', '3'])
    """
    names = names or Names()
    rest = dict(row)
    prompt = rest.pop(names.prompt, None)
    if names.chosen in row and names.rejected in row:
        prompt, answers = _apart(prompt, [rest.pop(names.chosen), rest.pop(names.rejected)])
        labels: list[float | None] = [1.0, 0.0]
        scores = [_number(rest.pop(name)) if row.get(name) is not None else None for name in names.scores]
    elif "responses" in row and "scores" in row:
        given, scores = list(rest.pop("responses")), [_number(score) for score in rest.pop("scores")]
        if len(given) != len(scores) or not given:
            raise ValueError(f"has {len(given)} responses and {len(scores)} scores; it needs one score for each")
        prompt, answers = _apart(prompt, given)
        labels = list(scores)
    elif names.completion in row and names.label in row:
        label = _truth(rest.pop(names.label))
        prompt, answers = _apart(prompt, [rest.pop(names.completion)])
        labels, scores = [label], [None]
    else:
        raise ValueError(
            f"needs {names.chosen!r} and {names.rejected!r}, or 'responses' and 'scores', or {names.completion!r} and "
            f"{names.label!r}; it has: {', '.join(row)}"
        )
    recorded = [
        {**answer, "label": label, "score": score, "rationale": False, "degree": None}
        for answer, label, score in zip(answers, labels, scores, strict=True)
    ]
    if degrees:
        recorded = _degraded(recorded, degrees)
    reason = rest.pop("rationale", None)
    if why and reason:
        recorded.append(_rationale(why, prompt, answers, reason))
    return {**rest, "prompt": prompt, "recorded": recorded}


def with_goal(prompt: Any, text: str) -> Any:
    """The prompt with an instruction: in front of a text, as the system message (or behind the one there is) of messages.

    >>> with_goal([{"role": "user", "content": "1+1="}], "Be right.")[0]
    {'role': 'system', 'content': 'Be right.'}
    """
    if isinstance(prompt, str):
        return text + prompt
    if prompt and prompt[0]["role"] == "system":
        return [{**prompt[0], "content": f"{prompt[0]['content']}\n{text}"}, *prompt[1:]]
    return [{"role": "system", "content": text}, *prompt]


def _apart(prompt: Any, given: Sequence[Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The prompt, and every answer to it as "response" or "tokens"."""
    if all(_is_messages(answer) for answer in given):
        return _conversation(prompt, given)
    if all(isinstance(answer, str) for answer in given):
        if prompt is None and len(given) > 1:
            prompt, given = _common_text(given)
        if not prompt or not all(given):
            raise ValueError("has an empty answer" if prompt else "has no prompt, and none that its answers begin with")
        return prompt, [{"response": answer} for answer in given]
    if all(isinstance(answer, Sequence) and answer and not isinstance(answer, str | Mapping) for answer in given):
        if not prompt:
            raise ValueError("has no prompt")
        return prompt, [{"tokens": list(answer)} for answer in given]
    raise ValueError(
        "its answers must all be texts, lists of messages, or lists of tokens that are not empty; "
        f"they are {', '.join(type(answer).__name__ for answer in given)}"
    )


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in value)
    )


def _conversation(prompt: Any, given: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Any, list[dict[str, Any]]]:
    """Messages: the last one of each is the answer, what comes before it is the prompt, or its end."""
    before = [dict(message) for message in given[0][:-1]]
    if any([dict(message) for message in answer[:-1]] != before for answer in given):
        raise ValueError("its answers differ in more than their last message; one answer of the assistant each is needed")
    for answer in given:
        last = answer[-1]
        if last["role"] != "assistant" or not isinstance(last["content"], str) or not last["content"]:
            raise ValueError(f"an answer must end with a text of the assistant, ends with {dict(last)!r}")
    if isinstance(prompt, str):
        asked = [{"role": "user", "content": prompt}]
        prompt = before or asked
    else:
        asked = [dict(message) for message in prompt or []]
        prompt = before if before[: len(asked)] == asked else [*asked, *before]
    if not prompt:
        raise ValueError("has no prompt, and its answers hold none")
    return prompt, [{"response": answer[-1]["content"]} for answer in given]


def _common_text(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """What all texts begin with, up to a space before which they differ, and what is left of each."""
    size = 0
    while all(len(text) > size for text in given) and len({text[size] for text in given}) == 1:
        size += 1
    if size and given[0][size - 1] == " ":
        size -= 1  # the space belongs to the answer, as tokenizers have it
    return (given[0][:size] or None), [text[size:] for text in given]


def _rationale(why: str, prompt: Any, answers: Sequence[Mapping[str, Any]], reason: Any) -> dict[str, Any]:
    if len(answers) != 2 or "response" not in answers[0] or not isinstance(reason, str):
        raise ValueError("a rationale must be a text about two texts")
    shown = prompt if isinstance(prompt, str) else "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    parts = {"{prompt}": shown, "{chosen}": answers[0]["response"], "{rejected}": answers[1]["response"]}
    question = why
    for mark, text in parts.items():
        question = question.replace(mark, text)
    asked: Any = question if isinstance(prompt, str) else [{"role": "user", "content": question}]
    return {"prompt": asked, "response": reason, "label": None, "score": None, "rationale": True, "degree": None}


def _degraded(recorded: Sequence[Mapping[str, Any]], degrees: int) -> list[dict[str, Any]]:
    """The two answers with degrees, and their versions with less and less in them: chosen from 0, rejected behind them."""
    if degrees < 0 or len(recorded) != 2 or "response" not in recorded[0]:
        raise ValueError(f"degrees must be at least 0, and are of two texts, got {degrees} of {len(recorded)} answers")
    whole = [{**answer, "degree": k * (degrees + 1)} for k, answer in enumerate(recorded)]
    less = [
        {
            **answer,
            "response": without_key_words(answer["response"], d / degrees),
            "label": None,
            "score": None,
            "degree": answer["degree"] + d,
        }
        for answer in whole
        for d in range(1, degrees + 1)
    ]
    return whole + [version for version in less if version["response"]]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a score must be a number, is {value!r}")
    return float(value)


def _truth(value: Any) -> float:
    """A label as 1 or 0, also as a CSV writes it."""
    known = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    text = str(value).strip().lower()
    if text not in known:
        raise ValueError(f"a label must be true or false, is {value!r}")
    return known[text]
