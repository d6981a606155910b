"""Recorded preferences as a task: rows of prompt, chosen and rejected, or of one completion with a label, become starts that bring
their responses along. The sampler `recorded` turns those into rollouts; the graders here read what was recorded with them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Start, Verdict
from payoff.rows import RowError, read_rows
from payoff.tasks.dataset import Dataset, Epochs
from payoff.tasks.recorded_rows import Names, recorded_row, with_goal

Rows = str | os.PathLike[str] | Sequence[Mapping[str, Any]]


@method("preferences", kind="task")
class Preferences(Dataset):
    """Starts from rows of preferences, each with its recorded responses; order, hold-out and truth as of `dataset`.

    data:   a file (JSONL, Parquet ...), a saved data set or a name on the hub; or the rows themselves. A row is one of
            - prompt, chosen, rejected; the prompt may be missing where both begin with it
            - prompt, responses and scores, two lists, for more than two
            - prompt, completion, label (true or false), for `kto`
            Texts, lists of messages as TRL has them (one answer of the assistant each), or lists of tokens
    prompt, chosen, rejected, completion, label: what the columns are called
    scores: the columns with the scores of chosen and rejected, read where a row has both
    why:    with a text, a row's field `rationale` becomes one more response without label, to the prompt that this text makes of
            {prompt}, {chosen} and {rejected}: what `rationale-preference` is trained on
    degrees: adds that many versions of every text answer from which ever more key words are gone, without label: what
             `spo-preference-degree` is trained on, with 2 * degrees + 2 levels
    held_out: a share of the prompts, or how many. They are prompts to answer, as any task's

    A start's field "recorded" lists its responses, each with "response" (or "tokens"), "label" (1 and 0; a score; None), "score",
    "rationale" (whether it is one) and "degree" (how much is gone: 0 for a whole chosen answer, degrees + 1 for a whole rejected
    one; None without `degrees`); preference, margin, weight and all other fields of the row stay the start's.
    Raises RowError naming the row for one that is none of these, an answer that is empty or not one of the assistant.

    >>> import torch
    >>> task = Preferences([{"prompt": "1+1=", "chosen": "2", "rejected": "3", "margin": 2.0}], held_out=0)
    >>> start = task.starts(1, torch.Generator())[0]
    >>> start.fields["margin"], [(answer["response"], answer["label"]) for answer in start.fields["recorded"]]
    (2.0, [('2', 1.0), ('3', 0.0)])
    """

    def __init__(
        self,
        data: Rows,
        *,
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str = "rejected",
        completion: str = "completion",
        label: str = "label",
        scores: tuple[str, str] = ("score_chosen", "score_rejected"),
        why: str = "",
        degrees: int = 0,
        split: str | None = None,
        held_out: float | int = 0.1,
        truth: Any = None,
        limit: int | None = None,
    ) -> None:
        names = Names(prompt, chosen, rejected, completion, label, scores)
        super().__init__(list(_rows(data, names, split, limit, why=why, degrees=degrees)), held_out=held_out, truth=truth)


@method("reward-augmented-dpo", kind="task", paper="arXiv:2410.08067")
class GoalConditioned(Preferences):
    """Preferences conditioned on the score to reach, so that good losers are not unlearnt (reward-augmented preference data).

    Every row with two scores s_w > s_l becomes two starts: asked for s_w the chosen answer is better, asked for s_l the rejected
    one. Rows whose chosen answer has the lower score, or the same (asked for one score they would say two things), are left out.
    Held-out prompts ask for `best`, and so should whoever uses the policy. Train with any loss on pairs; the reference sees the
    same prompt.

    best:   the score to ask for, the highest of the scale
    goal:   the sentence that asks for {goal}: a system message (added to one that is there) where prompts are messages, in front
            of a prompt that is text
    The rest: as of `preferences`. Raises ValueError where no row has two scores that differ, or `goal` lacks {goal}.

    >>> import torch
    >>> row = {"prompt": "1+1=", "chosen": "2", "rejected": "3", "score_chosen": 9, "score_rejected": 4}
    >>> task = GoalConditioned([row], held_out=0, goal="[{goal}]")
    >>> starts = task.starts(2, torch.Generator())
    >>> sorted((start.fields["prompt"], start.fields["recorded"][0]["response"]) for start in starts)
    [('[4]1+1=', '3'), ('[9]1+1=', '2')]
    """

    def __init__(
        self,
        data: Rows,
        *,
        best: float = 10,
        goal: str = "Write an answer that deserves a score of {goal}, where 1 is the worst and 10 the best.\n",
        prompt: str = "prompt",
        chosen: str = "chosen",
        rejected: str = "rejected",
        scores: tuple[str, str] = ("score_chosen", "score_rejected"),
        split: str | None = None,
        held_out: float | int = 0.1,
        truth: Any = None,
        limit: int | None = None,
    ) -> None:
        if "{goal}" not in goal:
            raise ValueError(f"reward-augmented-dpo: goal must hold {{goal}} where the score goes, got {goal!r}")
        options: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "scores": scores}
        super().__init__(data, **options, split=split, held_out=held_out, truth=truth, limit=limit)
        self._starts = [augmented for start in self._starts for augmented in _relabelled(start, goal)]
        if not self._starts:
            raise ValueError(f"reward-augmented-dpo: no row has scores {scores[0]!r} > {scores[1]!r}, so nothing is left")
        self._held_out = [_asked(start, goal, best) for start in self._held_out]
        self.epochs = Epochs(len(self._starts), "\n".join(f"{start.id} {start.fields['prompt']}" for start in self._starts))


@method("recorded-label", kind="grader")
def recorded_label(label: Any) -> float | Verdict | None:
    """The label recorded with a response: 1 for the chosen one, 0 for the rejected one, or a score; no verdict where there is none.

    >>> recorded_label(True), recorded_label(None), recorded_label("good").reason
    (1.0, None, "the recorded label must be a finite number, got 'good'")
    """
    return _recorded("label", label)


@method("recorded-score", kind="grader")
def recorded_score(score: Any) -> float | Verdict | None:
    """The score recorded with a response; no verdict where there is none, or no number.

    >>> recorded_score(7.0), recorded_score(None)
    (7.0, None)
    """
    return _recorded("score", score)


@method("recorded-rationale", kind="grader")
def recorded_rationale(rationale: Any) -> float | Verdict | None:
    """1 for a response that says why another is preferred; no verdict for the others, so that a loss leaves them alone.

    >>> recorded_rationale(True), recorded_rationale(False)
    (1.0, None)
    """
    if rationale is not None and not (isinstance(rationale, bool | int | float) and rationale in (0, 1)):
        return Verdict(0.0, valid=False, reason=f"the recorded rationale must be true or false, got {str(rationale)[:40]!r}")
    return 1.0 if rationale else None


@method("recorded-degree", kind="grader")
def recorded_degree(degree: Any) -> float | Verdict | None:
    """How much is gone from a response, as `preferences` with `degrees` recorded it; no verdict where nothing is said.

    >>> recorded_degree(2), recorded_degree(None)
    (2.0, None)
    """
    return _recorded("degree", degree)


def _recorded(name: str, value: Any) -> float | Verdict | None:
    """A number that a row records; what is none is said in the words of who wrote the row, not of Python."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        return Verdict(0.0, valid=False, reason=f"the recorded {name} must be a finite number, got {str(value)[:40]!r}")
    return number


def _rows(data: Rows, names: Names, split: str | None, limit: int | None, **more: Any) -> Iterator[dict[str, Any]]:
    source: Iterable[Mapping[str, Any]]
    if isinstance(data, str | os.PathLike):
        source, name = read_rows(data, split=split), os.fspath(data)
    else:
        source, name = data, "rows"
    for number, row in enumerate(source, 1):
        if limit is not None and number > limit:
            return
        try:
            yield recorded_row(row, names, **more)
        except ValueError as error:
            raise RowError(f"{name} row {number}: {error}") from None


def _relabelled(start: Start, goal: str) -> list[Start]:
    """The start twice, asking for the score of either response; none where the scores do not agree with the preference."""
    chosen, rejected = start.fields["recorded"][:2] if len(start.fields["recorded"]) == 2 else ({}, {})
    high, low = chosen.get("score"), rejected.get("score")
    if high is None or low is None or not high > low:
        return []
    asks = []
    for score, better, worse in ((high, chosen, rejected), (low, rejected, chosen)):
        asked = _asked(start, goal, score)
        pair = [{**better, "label": 1.0}, {**worse, "label": 0.0}]
        asks.append(asked._replace(id=f"{start.id}@{score:g}", fields={**asked.fields, "recorded": pair}))
    return asks


def _asked(start: Start, goal: str, score: float) -> Start:
    text = goal.replace("{goal}", f"{score:g}")
    return start._replace(fields={**start.fields, "prompt": with_goal(start.fields["prompt"], text), "goal": score})
