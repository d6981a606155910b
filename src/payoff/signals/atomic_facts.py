"""Feedback on the facts that a response states: its pieces are taken apart, every fact judged, and each kind paid by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.signals.segment_rewards import Segments, cut, paid_at_ends
from payoff.trajectories import Rewards, Trajectories

KINDS = ("existence", "attribute", "relation")


class Fact(NamedTuple):
    """One thing that a piece of a response says: of which kind, in words, in which piece, and the row that it is to be true of."""

    kind: str
    text: str
    segment: str
    item: Mapping[str, Any]


@method("fgaif", kind="signal", paper="arXiv:2404.05046")
def judged_facts(
    traj: Trajectories,
    *,
    facts: Callable[[str, Mapping[str, Any]], Sequence[tuple[str, str]]],
    judge: Callable[[Sequence[Fact]], Sequence[bool | None]],
    weights: Mapping[str, float] | None = None,
    segments: Segments = "sub-sentence",
    sound: float = 1.0,
    flawed: float = -1.0,
    absent: float = 0.0,
) -> Rewards:
    """Pay every piece of a response, for each kind of fact, whether what it says is true (FGAIF): a channel for every kind.

    r_t = sum over pieces j that end at t of weights[kind] * R_kind(j), R = `flawed` where any fact of that kind in the piece is
    held to be false, `sound` where it states some and none is, `absent` where it states none. The kinds are "existence" (there is
    such a thing), "attribute" (it is so) and "relation" (they stand so). The sum of the channels is the paper's reward but for its
    KL term (`kl-penalty`); there three classifiers that learned these labels pay, here the judge itself.

    facts: what (a piece, the row) says, as (kind, words) each: a language model in the paper; kinds without a weight are left out
    judge: which of many different facts are true, asked once a batch; None where it does not know: that kind of that piece is then
           unknown, unless another of its facts is false
    weights: 1 for each of the three kinds where not given

    An answer that says nothing errs in nothing: with `absent` at 0 and errors alone punished (`sound` 0) an empty description is
    the best. Pay for what is covered as well. The mapping from classes to numbers is not given in the paper.
    Raises ValueError where the judge gives another count of answers than it was asked, and as `cut` does.

    >>> from payoff.rows import from_rows
    >>> traj = from_rows([{"response": "a red cube, a blue ball.", "scene": {"cube": "red", "ball": "green"}}])
    >>> def facts(piece, row):
    ...     a, colour, thing = piece.strip(",.").split()
    ...     return [("existence", thing), ("attribute", f"{thing} {colour}")]
    >>> def judge(asked):
    ...     said = [fact.text.split() for fact in asked]
    ...     return [s[0] in f.item["scene"] and (len(s) == 1 or f.item["scene"][s[0]] == s[1]) for s, f in zip(said, asked)]
    >>> {kind: channel.value.tolist() for kind, channel in judged_facts(traj, facts=facts, judge=judge).items()}
    {'existence': [[2.0]], 'attribute': [[0.0]], 'relation': [[0.0]]}
    """
    weights = dict.fromkeys(KINDS, 1.0) if weights is None else dict(weights)
    pieces = cut(traj, segments)
    said = [[(kind, text) for kind, text in facts(p.text, traj.items[p.row]) if kind in weights] for p in pieces]
    asked: dict[tuple[int, str, str], Fact] = {}  # a row that says the same twice is judged once
    for piece, stated in zip(pieces, said, strict=True):
        for kind, text in stated:
            asked.setdefault((piece.row, kind, text), Fact(kind, text, piece.text, traj.items[piece.row]))
    answers = list(judge(list(asked.values()))) if asked else []
    if len(answers) != len(asked):
        raise ValueError(f"fgaif: the judge was asked about {len(asked)} facts and gave {len(answers)} answers")
    true = dict(zip(asked, answers, strict=True))
    channels = {}
    for kind, weight in weights.items():
        numbers = []
        for piece, stated in zip(pieces, said, strict=True):
            held = [true[piece.row, k, text] for k, text in stated if k == kind]
            if any(answer is not None and not answer for answer in held):
                numbers.append((weight * flawed, ""))
            elif None in held:
                numbers.append((0.0, f"the judge has no verdict on a fact of the kind {kind!r}"))
            else:
                numbers.append((weight * (sound if held else absent), ""))
        channels[kind] = paid_at_ends(pieces, numbers, traj)
    return channels
