"""What a message does to what others believe, alone and as part of what a player of a game of hidden roles is paid."""

from __future__ import annotations

from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict


@method("social-deduction-speaking", kind="grader", paper="arXiv:2502.06060")
def speaking(beliefs: Any, team: bool | int = True) -> Verdict:
    """Pay every message for how much more its listeners believe the truth after it, one number per step.

    Message k gets B_k - B_(k-1), where B is the sum, over the listeners of the team, of the probability each gives to what is
    hidden (who the adversary is); the negative where the speaker is not of the `team`. While nobody else speaks in between, the
    sum over a discussion is what was believed last minus what was believed first: messages can move belief, not make it.

    beliefs: for each of the speaker's steps two lists, the listeners' probabilities before and after it; the same listeners in
             both. None for a step without a message, which is paid 0
    Range: minus to plus the number of listeners. It reads what is hidden, in training only. A listener that is easily misled, or
    certain of anything loudly said, is exploited: train listeners too. Evidence of other kinds that comes between the two
    questions is credited to the message. No verdict where the lists do not fit or hold what is no probability.

    >>> speaking([[[0.25, 0.25], [0.5, 0.75]], [[0.5, 0.75], [0.5, 0.5]]]).value
    [0.75, -0.25]
    """
    gains = _gains(beliefs, team)
    if isinstance(gains, str):
        return Verdict(0.0, valid=False, reason=gains)
    return Verdict(gains, valid=bool(gains), reason="" if gains else "no messages")


@method("social-deduction-listening-speaking", kind="grader", paper="arXiv:2502.06060")
def player_reward(
    won: Any,
    beliefs: Any = (),
    first: Any = None,
    team: bool | int = True,
    *,
    win: float = 1.0,
    task: float = 0.2,
    speech: float = 1.0,
    offset: float = 1.0,
) -> Verdict:
    """What a player of a game of hidden roles is paid, step by step: win won + task (B_0 - offset) + speech (B_k - B_(k-1)).

    B_k is what the listeners of the team believe of the truth after message k, summed; message k is paid its gain as in
    `social-deduction-speaking`. At the player's first step `task` times what is believed at the first survey, less `offset`, is
    added; at its last `win` times `won`. The adversary's sign is turned in both parts of belief. The three sum to win won + s
    (task (B_0 - offset) + speech (B_K - B_0)), s = 1 for the team and -1 for the adversary.

    won:     whether the player's side won, 0..1
    beliefs: for each of the player's steps two lists, the listeners' beliefs before and after it; None for a step that is no
             message, which is paid nothing for what others come to believe meanwhile
    first:   beliefs at the first survey; None: no such part
    Range: -(s task (listeners + offset) + speech listeners) .. win + the same. The truth is read in training only, and listeners
    must be trained as well (the loss `social-deduction-listening`), or whoever is loud is believed. No verdict without `won`, or
    where a list does not fit or holds what is no probability.

    >>> game = [[[0.25, 0.25], [0.5, 0.75]], None]
    >>> player_reward(True, game, first=[0.25, 0.25]).value, player_reward(False, game, team=False).value
    ([0.65, 1.0], [-0.75, 0.0])
    """
    if not isinstance(won, int | float) or not 0 <= won <= 1:
        return Verdict(0.0, valid=False, reason=f"won must be a number in 0..1, got {str(won)[:40]}")
    gains = _gains(beliefs, team)
    if isinstance(gains, str):
        return Verdict(0.0, valid=False, reason=gains)
    listed = first is None or isinstance(first, list | tuple)
    if not listed or not all(isinstance(p, int | float) and 0 <= p <= 1 for p in first or ()):
        return Verdict(0.0, valid=False, reason="the first survey: a belief is no probability")
    steps = [speech * gain for gain in gains]
    begun = 0.0 if first is None else task * (sum(first) - offset) * (1 if team else -1)
    if not steps:
        return Verdict(begun + win * float(won))
    steps[0] += begun
    steps[-1] += win * float(won)
    return Verdict(steps)


def _gains(beliefs: Any, team: bool | int) -> list[float] | str:
    """What each message adds to what is believed, 0 for none; or what is wrong with the lists."""
    if not isinstance(beliefs, list | tuple):
        return f"beliefs must be a list with an entry for each step, got {str(beliefs)[:40]!r}"
    gains = []
    for number, pair in enumerate(beliefs, 1):
        if pair is None:
            gains.append(0.0)
            continue
        sides = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(side, list | tuple) for side in pair)
        if not sides or len(pair[0]) != len(pair[1]):
            return f"step {number}: two lists of as many listeners are needed"
        if not all(isinstance(p, int | float) and 0 <= p <= 1 for side in pair for p in side):
            return f"step {number}: a belief is no probability"
        gain = sum(pair[1]) - sum(pair[0])
        gains.append(float(gain if team else -gain))
    return gains
