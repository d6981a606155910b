"""Rewards for mathematics that read no reference: whether there is a readable answer, and how long the response is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import torch

from payoff.catalogue import method
from payoff.signals.math_answers import final_answers
from payoff.signals.math_forms import read
from payoff.trajectories import Rewards, Trajectories, place_outcome

_MARKED = re.compile(r"\\(?:boxed|fbox)\s*\{|<answer>")
_MOST = 100_000  # characters looked at, from the end


@method("format-surrogate", kind="grader", paper="arXiv:2505.19439")
def format_surrogate(response: str) -> float:
    r"""Half for thinking in tags, half for an answer that can be read as mathematics, right or wrong (format-only reward).

    R = (t + a) / 2: t = 1 where <think> is opened and later closed; a = 1 where the last \boxed{...} or <answer>...</answer> holds
    a number, an expression, a set, an interval ... (`math-answer` reads the same ones) and not words. 0, 0.5 or 1, and no labels.
    Gamed by any expression whatever: it is a baseline, of how much of a gain needs no mathematics, and not a reward to end with.

    >>> format_surrogate(r"<think>1+1</think> \boxed{3}"), format_surrogate(r"\boxed{three}"), format_surrogate(r"\boxed{x^2}")
    (1.0, 0.0, 0.5)
    """
    thinks, readable = _flags(response)
    return (thinks + readable) / 2


@method("format-length-surrogate", kind="signal", paper="arXiv:2505.19439")
def format_length_surrogate(
    traj: Trajectories, *, limit: int = 3072, peak: float = 0.5, unit: Literal["actions", "words", "characters"] = "actions"
) -> Rewards:
    """Pay a readable answer and a good length, without any label (format-length reward), as "format-length-surrogate".

    With x = min(L / limit, 1) and p = peak: f = 1 - (1 - x/p)^2 up to p, then 1 - 2 ((x - p) / (1 - p))^2; f(0) = 0, f(p) = 1,
    f(1) = -1, flat at p. R = (t + a) / 2 + f where an answer can be read, else min(0, f); t and a as in `format_surrogate`.

    limit: the trainer's limit on new tokens. unit: what L counts; "actions" are the policy's own tokens, which rows of mere text do
    not have: no verdict there, count "words" or "characters", with a limit to match.
    Range -1..2, above 0 only with a readable answer. Any reader of this line can game it: pad to peak * limit and print any
    expression. Watch repetition and the truth beside it. No verdict where the row has no response.
    Raises ValueError unless limit >= 1 and 0 < peak < 1, and for an unknown unit.

    >>> from payoff.rows import from_rows
    >>> texts = (r"a a <think> b </think> \\boxed{7}", r"a a \\boxed{7}", "a a a a")
    >>> traj = from_rows([{"response": text} for text in texts])
    >>> format_length_surrogate(traj, limit=12, unit="words")["format-length-surrogate"].value.sum(1)
    tensor([2.0000, 1.2500, 0.0000])
    """
    if limit < 1 or not 0 < peak < 1:
        raise ValueError(f"format_length_surrogate: limit >= 1 and 0 < peak < 1 must hold, got {limit} and {peak}")
    if unit not in ("actions", "words", "characters"):
        raise ValueError(f'format_length_surrogate: unit must be "actions", "words" or "characters", got {unit!r}')
    texts = [item.get("response") for item in traj.items] if traj.items else [None] * len(traj)
    counted = traj.mask.sum(1).double()
    reasons = {}
    # Rows of mere text are one action, or one per step, that says nothing of their length.
    unrecorded = ((traj.actions == -1) | ~traj.mask).all(1) if traj.actions.ndim == 2 else torch.zeros_like(traj.mask[:, 0])
    if unit != "actions":
        measure: Callable[[str], int] = len if unit == "characters" else lambda text: len(text.split())
        counted = torch.tensor([measure(t) if isinstance(t, str) else 0 for t in texts], dtype=torch.float64, device=traj.device)
    for id, text, mere in zip(traj.id.tolist(), texts, unrecorded.tolist(), strict=True):
        if not isinstance(text, str):
            reasons[id] = "no response to read"
        elif mere and unit == "actions":
            reasons[id] = 'a row of mere text has no tokens to count; choose unit: "words" or "characters"'
    flags = torch.tensor([_flags(t) if isinstance(t, str) else (False, False) for t in texts], dtype=torch.float64).reshape(-1, 2)
    thinks, readable = flags.to(traj.device).unbind(1)
    kernel = length_parabola(counted / limit, peak=peak)
    paid = torch.where(readable > 0, (thinks + readable) / 2 + kernel, kernel.clamp(max=0))
    known = torch.tensor([id not in reasons for id in traj.id.tolist()], device=traj.device, dtype=torch.bool)
    return {"format-length-surrogate": place_outcome(paid.to(torch.get_default_dtype()), known, traj, reasons)}


def length_parabola(x: torch.Tensor, *, peak: float = 0.5) -> torch.Tensor:
    """1 - (1 - x/p)^2 up to p = peak, then 1 - 2 ((x - p)/(1 - p))^2, of x cut to 0..1: 0 at 0, 1 at p and -1 at 1.

    >>> length_parabola(torch.tensor([0.0, 0.25, 0.5, 1.0, 7.0]))
    tensor([ 0.0000,  0.7500,  1.0000, -1.0000, -1.0000])
    """
    x = x.clamp(0, 1)
    return torch.where(x <= peak, 1 - (1 - x / peak).square(), 1 - 2 * ((x - peak) / (1 - peak)).square())


def _flags(response: str) -> tuple[bool, bool]:
    """Whether it thinks in tags, and whether its last marked answer can be read as mathematics."""
    opened = response.find("<think>")
    thinks = opened >= 0 and response.find("</think>", opened) >= 0
    end = response[-_MOST:]
    if not _MARKED.search(end.rpartition("</think>")[2]):
        return thinks, False
    forms = [read(text) for text in final_answers(end)]
    return thinks, any(form is not None and form.kind != "words" for form in forms)
