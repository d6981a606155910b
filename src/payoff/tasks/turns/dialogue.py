"""What every interactive task is made of: the environment's side of a start, starts by seed, truth, and graders of turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from payoff.catalogue import method
from payoff.pipeline import Environment, Response, Start, Verdict
from payoff.trajectories import Channel, Trajectories, place_outcome

_HELD_OUT = 2**30  # training seeds lie below, held-out seeds from here on
LINE = ("\n",)


class Dialogue:
    """The environment of a start: how an episode is made, and how many turns and tokens it may take.

    make:               makes an episode from its beginning, the same each time: an object with `respond(text) -> Response` and
                        `snapshot()`; perhaps `measures` (numbers by name that say where it stands), `outcome` (what the task would
                        say of it now) and `close()`. To be picklable, a `functools.partial` of a class
    turns:              turns at most; a rollout that is not over by then is truncated
    turn_tokens:        tokens of one turn at most: what was written until then is the turn
    observation_tokens: tokens of one answer at most, the rest is cut off
    ends:               strings that end a turn, besides those of the policy
    concurrency:        0: it answers at once; else so many may be asked at a time, each in a thread of its own
    role:               who speaks for the environment in a chat template
    Raises ValueError for a budget below 1.

    >>> from payoff.tasks.turns.search import SearchTask
    >>> start = SearchTask(entities=4, hops=1, terse=True).held_out_starts(1)[0]
    >>> start.fields["prompt"], start.environment.respond("a1").observation
    ('a1?', 'd')
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        turns: int = 8,
        turn_tokens: int | None = None,
        observation_tokens: int | None = None,
        ends: tuple[str, ...] = LINE,
        concurrency: int = 0,
        role: str = "user",
    ) -> None:
        for name, value in (("turns", turns), ("turn_tokens", turn_tokens), ("observation_tokens", observation_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"Dialogue: {name} must be at least 1, got {value}")
        if concurrency < 0:
            raise ValueError(f"Dialogue: concurrency must be at least 0, got {concurrency}")
        self.make, self.turns, self.turn_tokens, self.observation_tokens = make, turns, turn_tokens, observation_tokens
        self.ends, self.concurrency, self.role = ends, concurrency, role
        self._own: Any = None

    def begin(self) -> Environment:
        """A new episode."""
        return self.make()

    def respond(self, action: Any) -> Response:
        """One turn in an episode of this start's own, begun at the first call."""
        if self._own is None:
            self._own = self.begin()
        return self._own.respond(action)

    def snapshot(self) -> None:
        """None: an episode comes back by repeating its turns."""

    def __repr__(self) -> str:
        made = getattr(self.make, "func", self.make)
        return f"a dialogue of at most {self.turns} turns with {getattr(made, '__name__', type(made).__name__)}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": None}


class SeededDialogues:
    """A task whose starts are made from seeds: a subclass says in `start` what comes of one."""

    name = ""
    seeds = 0  # how many there are to train on; 0: no limit

    def start(self, seed: int) -> Start:
        """The start of this seed, always the same."""
        raise TypeError(f"{type(self).__name__}: has no start")

    def starts(self, n: int, rng: torch.Generator) -> Sequence[Start]:
        """n seeds drawn evenly from those to train on."""
        drawn = torch.randint(self.seeds or _HELD_OUT, (n,), generator=rng, device=rng.device)
        return [self.start(seed) for seed in drawn.tolist()]

    def held_out_starts(self, n: int) -> Sequence[Start]:
        """The first n of the seeds that are never trained on."""
        return [self.start(_HELD_OUT + i) for i in range(n)]

    def truth(self, traj: Trajectories) -> Channel:
        """What the environment says of the episode as it ended, paid at the end; unknown, with the reason, where it failed."""
        return outcome_of(traj)


def outcome_of(traj: Trajectories) -> Channel:
    """Each item's "outcome", paid at the end; unknown where it is None, with the item's "failure" as the reason."""
    said = [item.get("outcome") for item in traj.items]
    known = torch.tensor([value is not None for value in said], device=traj.device)
    value = torch.tensor([0.0 if value is None else float(value) for value in said], device=traj.device)
    lacking = (~known).nonzero()[:, 0].tolist()
    why = {int(traj.id[row]): traj.items[row].get("failure") or "the environment said of no outcome" for row in lacking}
    return place_outcome(value, known, traj, why)


@method("turn-rewards", kind="grader")
def turn_rewards(turns: Sequence[Mapping[str, Any]], failure: str = "", *, scale: float = 1.0) -> Verdict:
    """What the environment paid for each turn, times `scale`; a turn that it failed to answer has no verdict.

    turns, failure: as rollouts with an environment record them. A turn that was cut off before the environment was asked is paid 0.

    >>> turn_rewards([{"reward": 0.5}, {"reward": 1.0}]).value
    [0.5, 1.0]
    >>> turn_rewards([{"reward": 0.5}, {"reward": None}], "TimeoutError: no answer within 2 s").value
    [0.5, None]
    """
    paid = [None if turn["reward"] is None else scale * turn["reward"] for turn in turns]
    if paid and paid[-1] is None and not failure:
        paid[-1] = 0.0
    return Verdict(paid, True, failure)  # type: ignore[arg-type]


@method("turn-outcome", kind="grader")
def turn_outcome(outcome: float | None, failure: str = "") -> Verdict:
    """What the environment says of the whole episode, which is the truth here; no verdict, with the reason, where it failed.

    >>> turn_outcome(1.0).value, turn_outcome(None, "ValueError: gone").reason
    (1.0, 'ValueError: gone')
    """
    if failure or outcome is None:
        return Verdict(0.0, False, failure or "the environment said of no outcome")
    return Verdict(float(outcome))


@method("turn-dense", kind="grader", paper="arXiv:2510.01132")
def turn_dense(
    turns: Sequence[Mapping[str, Any]], outcome: float | None, events: int = 0, failure: str = "", *, dense: bool = True
) -> Verdict:
    """Pay every turn what the environment paid for it, over D, so that an episode that was won adds up to 1 (dense).

    r_k = interm_k / D: D is the number of turns that were paid something positive where the episode was won (outcome > 0), else
    `events`, the most that the task can pay for; at least 1. dense false: all is paid at the last turn, the outcome.

    So an episode that was lost adds up to the share of sub-goals that it reached, when payments are 0 or 1. Winning without any
    sub-goal pays 0, and the divisor follows the outcome: this is no potential, and the best policy may be another one.
    events: a field of the row. No verdict, with the reason, where the environment failed.

    >>> turn_dense([{"reward": 1.0}, {"reward": 0.0}, {"reward": 1.0}], 1.0, 4).value
    [0.5, 0.0, 0.5]
    >>> turn_dense([{"reward": 1.0}, {"reward": 0.0}], 0.0, 4).value
    [0.25, 0.0]
    """
    if failure or outcome is None:
        return Verdict(0.0, False, failure or "the environment said of no outcome")
    if not dense:
        return Verdict([*([0.0] * (len(turns) - 1)), float(outcome)])
    paid = [float(turn["reward"] or 0.0) for turn in turns]
    divisor = max(1, sum(reward > 0 for reward in paid) if outcome > 0 else events)
    return Verdict([reward / divisor for reward in paid])
