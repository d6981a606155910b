"""Rollouts that begin with part of a known solution, so that hard starts are solved now and then: partial-step scaffolding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from payoff.catalogue import method
from payoff.pipeline import Policy, Start
from payoff.trajectories import StopReason, Trajectories, concatenate, fresh_ids

Solution = str | Callable[[Mapping[str, Any]], str]
SEPARATORS = ("\n\n", "\n", ". ")


@method("sparkle", kind="sampler", paper="arXiv:2506.04723", sees="group")
def with_given_chunks(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    *,
    solution: Solution = "solution",
    chunks: int = 4,
    given: Literal["any", "first-half"] | int = "any",
    separators: Sequence[str] = SEPARATORS,
) -> Trajectories:
    """n rollouts of every start behind the first j of the `chunks` chunks of its known solution (SPARKLE, second stage).

    j is drawn anew for each start that comes, evenly from 0 to c - 1, c the number of its chunks. The n rollouts of a start share
    one j and are one group: an advantage compares none that were given more with some that were given less. If every chunk succeeds
    with probability q, a group is solved with q^(c - j): 0.6% from the beginning of eight chunks at q = 0.53, half the time behind
    seven. The whole solution (j = c) holds the answer, and is never given.

    The given text is the beginning of the response: a checker of format or of the whole answer reads it, `fork` lies behind it, so
    that it is no action of the policy's own and gets no gradient, and it counts for the policy's `max_tokens`, which must hold the
    whole solution. j = 0 is `policy.rollout`.

    solution:   the field that holds it, or a function of the fields. A start without one is rolled out freely
    given:      "any" j below c; "first-half": j up to c / 2; or that number of chunks (c - 1 where it is more)
    separators: what chunks may end with, the first that gives enough pieces: paragraphs, lines, sentences

    items: "given", j. For hard starts: put those that the policy hardly ever solves into the task, or take them by `pass-rate`.
    Raises ValueError for chunks below 1, a negative or unknown `given`, and a policy that reads no text.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=12)
    >>> start = Start("a", {"prompt": "3-7+7=", "solution": "3-7=6;6+7=3;#3."})
    >>> rng = torch.Generator().manual_seed(0)
    >>> traj = with_given_chunks(policy, [start], 2, rng, chunks=3, given=1, separators=(";",))
    >>> [item["response"][:6] for item in traj.items], traj.fork.tolist(), traj.own[:, :6].any().item()
    (['3-7=6;', '3-7=6;'], [6, 6], False)
    """
    if chunks < 1:
        raise ValueError(f"sparkle: chunks must be at least 1, got {chunks}")
    if given not in ("any", "first-half") and not (isinstance(given, int) and given >= 0):
        raise ValueError(f'sparkle: given must be "any", "first-half" or a number of chunks of at least 0, got {given!r}')
    known = [_solution(start, solution) for start in starts]
    pieces = [split_solution(text, chunks, separators) if text else [] for text in known]
    numbers = [_number(len(parts), given, rng) for parts in pieces]
    free = [start for start, j in zip(starts, numbers, strict=True) if not j]
    helped = [(start, "".join(parts[:j]), j) for start, parts, j in zip(starts, pieces, numbers, strict=True) if j]
    batches = []
    if free:
        batches.append(_marked(policy.rollout(free, n, rng), [0] * (len(free) * n)))
    if helped:
        read = getattr(policy, "read", None)
        if read is None:
            raise ValueError("sparkle: the policy reads no stored text, so no beginning of a solution can be given to it")
        begun = read([{**start.fields, "start": start.id, "response": text} for start, text, _ in helped])
        open_ended = torch.full_like(begun.stop, int(StopReason.truncated))  # a beginning is not over where it ends
        begun = begun.replace(stop=open_ended, group=fresh_ids(len(begun), begun.device))
        everyone = torch.arange(len(begun), device=begun.device)
        batches.append(_marked(policy.resume(begun, everyone, begun.length, n, rng), [j for *_, j in helped for _ in range(n)]))
    return concatenate(batches)


def split_solution(text: str, chunks: int, separators: Sequence[str] = SEPARATORS) -> list[str]:
    """A solution cut into at most `chunks` parts of about as many pieces each, which put together are the text again.

    The first separator that gives enough pieces is taken, else the one that gives most; every piece keeps the separator it ends
    with. Text that cannot be cut is one chunk.

    >>> split_solution("One. Two. Three.\\n\\nFour.\\n\\nFive.", 3)
    ['One. Two. Three.\\n\\n', 'Four.\\n\\n', 'Five.']
    >>> split_solution("1;2;3;4;5;", 2, (";",))
    ['1;2;3;', '4;5;']
    """
    best: list[str] = [text]
    for separator in separators:
        pieces = _pieces(text, separator)
        if len(pieces) > len(best):
            best = pieces
        if len(best) >= chunks:
            break
    count = min(chunks, len(best))
    small, larger = divmod(len(best), count)  # the first `larger` chunks have a piece more
    ends = [k * small + min(k, larger) for k in range(count + 1)]
    return ["".join(best[a:b]) for a, b in itertools.pairwise(ends)]


def _pieces(text: str, separator: str) -> list[str]:
    """The text cut behind every separator; what is blank belongs to the piece before it."""
    pieces: list[str] = []
    for part in text.split(separator):
        piece = part + separator
        if pieces and not part.strip():
            pieces[-1] += piece
        else:
            pieces.append(piece)
    pieces[-1] = pieces[-1].removesuffix(separator)
    return [piece for piece in pieces if piece]


def _solution(start: Start, solution: Solution) -> str:
    return solution(start.fields) if callable(solution) else str(start.fields.get(solution) or "")


def _number(count: int, given: str | int, rng: torch.Generator) -> int:
    """j of a solution of `count` chunks."""
    if count < 2:
        return 0
    if isinstance(given, int):
        return min(given, count - 1)
    most = count - 1 if given == "any" else count // 2
    return int(torch.randint(most + 1, (), generator=rng))


def _marked(traj: Trajectories, given: Sequence[int]) -> Trajectories:
    return traj.replace(items=[{**item, "given": j} for item, j in zip(traj.items, given, strict=True)])
