"""What a message does to what others believe."""

from __future__ import annotations

from collections.abc import Sequence

from payoff.catalogue import method
from payoff.pipeline import Verdict


@method("social-deduction-speaking", kind="grader", paper="arXiv:2502.06060")
def speaking(beliefs: Sequence[Sequence[Sequence[float | int]]], team: bool | int = True) -> Verdict:
    """Pay every message for how much more its listeners believe the truth after it, one number per step.

    Message k gets B_k - B_(k-1), where B is the sum, over the listeners of the team, of the probability each gives to what is
    hidden (who the adversary is); the negative where the speaker is not of the `team`. While nobody else speaks in between, the
    sum over a discussion is what was believed last minus what was believed first: messages can move belief, not make it.

    beliefs: for each of the speaker's steps two lists, the listeners' probabilities before and after it; the same listeners in both
    Range: minus to plus the number of listeners. It reads what is hidden, in training only. A listener that is easily misled, or
    certain of anything loudly said, is exploited: train listeners too. Evidence of other kinds that comes between the two
    questions is credited to the message. No verdict where the lists do not fit or hold what is no probability.

    >>> speaking([[[0.25, 0.25], [0.5, 0.75]], [[0.5, 0.75], [0.5, 0.5]]]).value
    [0.75, -0.25]
    """
    gains = []
    for number, pair in enumerate(beliefs, 1):
        if len(pair) != 2 or len(pair[0]) != len(pair[1]):
            return Verdict(0.0, valid=False, reason=f"step {number}: two lists of as many listeners are needed")
        if not all(0 <= p <= 1 for side in pair for p in side):
            return Verdict(0.0, valid=False, reason=f"step {number}: a belief is no probability")
        gain = sum(pair[1]) - sum(pair[0])
        gains.append(float(gain if team else -gain))
    return Verdict(gains, valid=bool(gains), reason="" if gains else "no messages")
