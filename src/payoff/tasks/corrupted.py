"""How much of what training gains needs the evidence at all? The user's rows with their evidence blanked, exchanged or removed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from payoff.catalogue import method
from payoff.rows import read_rows
from payoff.tasks.dataset import Dataset

How = Literal["blank", "derange", "remove", "none"]


@method("hallucination-as-cue", kind="task", paper="arXiv:2604.03179")
class CorruptedEvidence(Dataset):
    """A `dataset` whose rows have lost their evidence, as a control: what is learned from it all the same needs none.

    data:     a file, a data set, or the rows themselves
    evidence: the field that is corrupted; template: the prompt, made of the row's fields ("{document} Q: {question}"); without it
              the field `prompt` of the row as it is
    how:      "blank": the evidence is `blank`; "derange": that of another row, of another value, drawn by `seed`; "remove": what
              matches `pattern` is cut out of it; "none": as it is, for the run to compare with
    The rest: as of `dataset`. Reward and reference stay those of the row. Train on "none" and on each corruption, and evaluate all
    on both, with `evidence_gains`. Answers that other rows share let "derange" leak; score form apart, for it needs no evidence.
    Raises ValueError for rows without the field, and for "derange" where more than half of the rows have the same evidence.

    >>> import torch
    >>> rows = [{"fact": f"it is {k}", "q": "What?", "reference": str(k)} for k in range(4)]
    >>> task = CorruptedEvidence(rows, evidence="fact", template="{fact}. {q}", how="blank", held_out=0)
    >>> {start.fields["prompt"] for start in task.starts(4, torch.Generator())}
    {'. What?'}
    """

    def __init__(
        self,
        data: Any,
        *,
        evidence: str,
        how: How = "derange",
        template: str = "",
        blank: str = "",
        pattern: str = "",
        seed: int = 0,
        reference: str = "",
        held_out: float | int = 0.1,
        truth: Any = None,
        limit: int | None = None,
    ) -> None:
        rows = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else list(read_rows(data))
        changed = corrupted_rows(rows[:limit], evidence=evidence, how=how, blank=blank, pattern=pattern, seed=seed)
        if template:
            changed = [{**row, "prompt": template.format(**row)} for row in changed]
        super().__init__(changed, held_out=held_out, truth=truth, reference=reference)


def corrupted_rows(
    rows: Sequence[Mapping[str, Any]], *, evidence: str, how: How, blank: str = "", pattern: str = "", seed: int = 0
) -> list[dict[str, Any]]:
    """The rows with their evidence corrupted, as `hallucination-as-cue` says; the same for the same seed.

    >>> rows = [{"fact": fact} for fact in ("a", "a", "b", "c")]
    >>> all(new["fact"] != old["fact"] for new, old in zip(corrupted_rows(rows, evidence="fact", how="derange"), rows))
    True
    """
    if how not in ("blank", "derange", "remove", "none"):
        raise ValueError(f'corrupted_rows: how must be "blank", "derange", "remove" or "none", got {how!r}')
    if lost := [k for k, row in enumerate(rows) if evidence not in row]:
        raise ValueError(f"corrupted_rows: row {lost[0] + 1} has no field {evidence!r}")
    if how == "none":
        return [dict(row) for row in rows]
    if how == "blank":
        return [{**row, evidence: blank} for row in rows]
    if how == "remove":
        if not pattern:
            raise ValueError("corrupted_rows: remove needs a pattern of what is cut out")
        return [{**row, evidence: re.sub(pattern, "", str(row[evidence]))} for row in rows]
    # Rows with equal evidence stand together; a shift by the most that are equal takes each beyond its own kind.
    kinds: dict[str, list[int]] = {}
    for k, row in enumerate(rows):
        kinds.setdefault(repr(row[evidence]), []).append(k)
    most = max(map(len, kinds.values()), default=0)
    if 2 * most > len(rows):
        raise ValueError(f"corrupted_rows: {most} of {len(rows)} rows have the same evidence, so that it cannot be exchanged")
    together = list(kinds.values())
    random.Random(seed).shuffle(together)
    order = [k for kind in together for k in kind]
    given = {k: order[(place + most) % len(order)] for place, k in enumerate(order)}
    return [{**row, evidence: rows[given[k]][evidence]} for k, row in enumerate(rows)]


class Gains(NamedTuple):
    """What accuracies say: what training gained, how much of that without evidence, and what is prior or memory.

    clean, corrupted: gain over the base of the policies trained on either, evaluated on clean inputs
    share:    corrupted / clean: the part of the gain that needs no evidence; None where nothing was gained
    priors:   clean-trained less base, both evaluated on corrupted inputs: what was learned about answers as such
    memory:   corrupted-trained less clean-trained, on the corrupted inputs of training
    """

    clean: float
    corrupted: float
    share: float | None
    priors: float
    memory: float


def evidence_gains(
    *,
    base: tuple[float, float],
    clean: tuple[float, float],
    corrupted: tuple[float, float],
    memory: tuple[float, float] = (0.0, 0.0),
) -> Gains:
    """Gains from accuracies on (clean, corrupted) inputs of the untrained policy and of those trained on clean and corrupted rows.

    memory: accuracies on the corrupted inputs trained on, of the clean-trained and of the corrupted-trained policy

    >>> evidence_gains(base=(0.5, 0.25), clean=(0.75, 0.25), corrupted=(0.625, 0.5)).share
    0.5
    """
    gained, without = clean[0] - base[0], corrupted[0] - base[0]
    share = without / gained if gained > 0 else None
    return Gains(gained, without, share, clean[1] - base[1], memory[1] - memory[0])
