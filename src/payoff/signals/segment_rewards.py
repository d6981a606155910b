"""Rewards of pieces of a text, each at the piece's last token: how a response is cut, and a grader asked for every piece."""

from __future__ import annotations

import bisect
import functools
import inspect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from payoff.catalogue import find, method
from payoff.pipeline import Verdict
from payoff.trajectories import Channel, Rewards, Trajectories

Segments = Literal["sub-sentence", "sentence", "step", "text"]
_ENDS = {"sentence": ".!?\n", "sub-sentence": ".!?\n,;:"}
Scorer = Callable[..., Any]


class Segment(NamedTuple):
    """A piece of a response: whose it is, its text, and the position of the token that it ends in."""

    row: int
    text: str
    position: int


@method("fine-grained-rlhf", kind="signal", paper="arXiv:2306.01693")
def segment_reward(
    traj: Trajectories,
    *,
    score: str | Scorer,
    segments: Segments = "sentence",
    weight: float = 0.3,
    mean: float = 0.0,
    std: float = 1.0,
    bias: float = 0.0,
) -> Rewards:
    """Pay every segment weight (score - mean) / std + bias at its last token (fine-grained RLHF), channel "fine-grained".

    The paper has three of these, each a channel of its own that `weigh` adds up: what is relevant, by "sub-sentence", weight 0.3;
    what is a fact, by "sentence", 0.5; and what is missing, by "text", 0.3 with mean -0.447 and std 8.301. What the policy learns
    to care for is changed by the weights alone. Then `fine-grained-rlhf` among the shapings, and GAE with discount 1 and trace
    0.95.

    score:    asked for every segment, by name: `response` is the segment's text, `segment` too, `whole` the whole response, and
              any field of the row by its own name. It answers with a number, or True (no error: 1) or False (-1).
              A text is the name of a registered grader. None, NaN, a `Verdict` that is not valid: no verdict, where it would be
              paid
    segments: "sentence" ends at . ! ? or the end of a line, "sub-sentence" also at , ; : (between two digits none of them does);
              "step" is the trajectory's own; "text" is all of it. Blank pieces are none

    A segment that ends in the middle of a token is paid there, and segments that end in one token add up. A trajectory of fewer
    actions than its text has tokens (a stored row) is paid at its end. Positive scores pay for more segments, whatever they say.
    Raises ValueError for a std that is not positive, an unknown way to cut, and rows without items or a response.

    >>> from payoff.rows import from_rows
    >>> traj = from_rows([{"response": "Yes, it is. No."}])
    >>> segment_reward(traj, score=lambda response: "No" not in response)["fine-grained"].value  # two pieces, one action
    tensor([[0.]])
    >>> [piece.text for piece in cut(traj, "sub-sentence")]
    ['Yes,', 'it is.', 'No.']
    """
    if not 0 < std < math.inf:
        raise ValueError(f"segment_reward: std must be positive, got {std}")
    pieces = cut(traj, segments)
    ask: Scorer = find(score, "grader") if isinstance(score, str) else score
    found = [
        _read(_asked(ask, {**traj.items[p.row], "segment": p.text, "response": p.text, "whole": whole(traj, p.row)}))
        for p in pieces
    ]
    numbers = [(weight * (value - mean) / std + bias, why) for value, why in found]
    return {"fine-grained": paid_at_ends(pieces, numbers, traj)}


def cut(traj: Trajectories, segments: Segments) -> list[Segment]:
    """The segments of every response in order, with the position of the token that holds each one's last character.

    Raises ValueError for an unknown way to cut, and for trajectories whose items hold no response.
    """
    if segments not in ("sub-sentence", "sentence", "step", "text"):
        raise ValueError(f'segments must be "sub-sentence", "sentence", "step" or "text", got {segments!r}')
    if len(traj.items) != len(traj) or any("response" not in item for item in traj.items):
        raise ValueError("segments are those of a response, and these trajectories' items have none")
    pieces = []
    for row, (item, length) in enumerate(zip(traj.items, traj.length.tolist(), strict=True)):
        text = str(item["response"])
        if segments == "step":
            steps = [str(step) for step in item.get("steps") or [text]]
            spans = list(itertools.pairwise(itertools.accumulate((len(step) for step in steps), initial=0)))
        else:
            spans = [(0, len(text))] if segments == "text" else _spans(text, _ENDS[segments])
        reach = _reach(item, text, length)
        for begin, end in spans:
            piece = text[begin:end].rstrip()
            if piece.strip():
                place = bisect.bisect_left(reach, begin + len(piece)) if reach else length - 1
                pieces.append(Segment(row, piece.strip(), min(place, length - 1)))
    return pieces


def paid_at_ends(pieces: Sequence[Segment], numbers: Sequence[tuple[float, str]], traj: Trajectories) -> Channel:
    """A channel that pays each segment its number at its position, all that end there added up; unknown where one has a reason."""
    index = torch.tensor([[p.row, p.position] for p in pieces], dtype=torch.int64, device=traj.device).view(-1, 2)
    value = torch.zeros(traj.mask.shape, device=traj.device)
    amounts = torch.tensor([0.0 if why else number for number, why in numbers], device=traj.device)
    value.index_put_((index[:, 0], index[:, 1]), amounts, accumulate=True)
    reasons: dict[int, str] = {}
    ids = traj.id.tolist()
    for piece, (_, why) in zip(pieces, numbers, strict=True):
        if why:
            reasons.setdefault(ids[piece.row], why)
    if not reasons:
        return Channel(value, torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device))
    lost = index[torch.tensor([bool(why) for _, why in numbers], device=traj.device)]
    valid = torch.ones(traj.mask.shape, dtype=torch.bool, device=traj.device)
    valid[lost[:, 0], lost[:, 1]] = False
    return Channel(torch.where(valid, value, 0), valid, reasons)


def whole(traj: Trajectories, row: int) -> str:
    """The whole response of a row."""
    return str(traj.items[row]["response"])


def _spans(text: str, ends: str) -> list[tuple[int, int]]:
    """Where each piece begins and ends: behind every run of these characters, but not one between two digits."""
    edges = [0]
    for found in re.finditer(f"[{re.escape(ends)}]+", text):
        a, b = found.span()
        if not (a and b < len(text) and text[a - 1].isdigit() and text[b].isdigit()):
            edges.append(b)
    return list(itertools.pairwise([*edges, len(text)]))


def _reach(item: Mapping[str, Any], text: str, length: int) -> list[int]:
    """How many characters of the response are written after each action; empty where that is not known."""
    for name in ("tokens", "steps"):
        parts = item.get(name)
        if isinstance(parts, Sequence) and len(parts) == length and len("".join(map(str, parts))) >= len(text):
            return list(itertools.accumulate(len(str(part)) for part in parts))
    return []


@functools.lru_cache(maxsize=256)
def _wanted(ask: Scorer) -> tuple[frozenset[str], bool]:
    parameters = inspect.signature(ask).parameters.values()
    return frozenset(p.name for p in parameters), any(p.kind is p.VAR_KEYWORD for p in parameters)


def _asked(ask: Scorer, fields: Mapping[str, Any]) -> Any:
    names, everything = _wanted(ask)
    return ask(**{name: value for name, value in fields.items() if everything or name in names})


def _read(answer: Any) -> tuple[float, str]:
    """(number, why there is none)."""
    if isinstance(answer, Verdict):
        return (0.0, answer.reason or "no verdict") if not answer.valid else _read(answer.value)
    if isinstance(answer, bool):
        return (1.0 if answer else -1.0), ""
    if isinstance(answer, int | float) and math.isfinite(answer):
        return float(answer), ""
    return 0.0, f"a segment got {answer!r}, which is no number" if answer is not None else "a segment got no verdict"
