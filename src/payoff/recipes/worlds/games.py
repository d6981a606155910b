"""Games of the `textworld` package in the signs of its terse view, and a small transformer that has seen scripted plays of others.

The games and what counts as a step of a quest are those of `turns-textworld`; what is made here is the policy at first, and a
memory of what every sequence of commands led to, since a game always answers the same.
"""

from __future__ import annotations

import copy
import random
from functools import lru_cache, partial
from typing import Any

from payoff.pipeline import Response, Start
from payoff.policies.embedded import transformer
from payoff.policies.lm import LanguageModel
from payoff.recipes.worlds.dialogue_learning import Script, imitate
from payoff.tasks.turns.dialogue import Dialogue
from payoff.tasks.turns.text_world import TextWorldTask

ROOMS, OBJECTS, QUEST, TURNS, GAMES = 2, 3, 4, 8, 64
SCRIPTED, PLAYS = 64, 6  # games that scripts play, and how often each
SENSELESS = 0.3  # how often a script takes any command instead of the next one of the shortest way
SETTING = (
    f"Games of the package textworld, made on the spot: {ROOMS} rooms, at least {OBJECTS} objects, a quest of {QUEST} steps (in a "
    f"few games fewer), at most {TURNS} turns (the task `turns-textworld`, told in signs: the quest's steps, then what is where; a "
    "command is two signs). A transformer of width 48 that has seen scripted plays of other games, three commands in ten of them "
    "any that the game admits, wins about 4 of 10, and the game refuses a third of its commands."
)
_SCRIPTED_FROM = 2**29
_ALPHABET = "abcdeABCDE1234>@;:.#?+-*!"


class RememberedTask(TextWorldTask):
    """The same task; what a sequence of commands leads to in a game is worked out once and remembered in this process."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.made: dict[int, Start] = {}

    def start(self, seed: int) -> Start:
        """The start of this seed, always the same."""
        if seed not in self.made:
            start = super().start(seed)
            given: Any = start.environment
            first = partial(Remembered, Node(given.begin()))
            dialogue = Dialogue(first, turns=given.turns, turn_tokens=given.turn_tokens, ends=given.ends)
            self.made[seed] = start._replace(environment=dialogue)
        return self.made[seed]


class Node:
    """Where a sequence of commands led: the episode there, what it said, and what came after each next command."""

    def __init__(self, episode: Any, response: Response | None = None) -> None:
        self.episode, self.response, self.after = episode, response, dict[str, Node]()

    def next(self, action: str) -> Node:
        """Where this command leads from here."""
        if action not in self.after:
            if self.episode.read(action) in self.episode.commands():
                episode = self.episode.branch()
                self.after[action] = Node(episode, episode.respond(action))
            else:  # nothing changes
                self.after[action] = Node(self.episode, self.episode.respond(action))
                self.after[action].after = self.after
        return self.after[action]


class Remembered:
    """An episode that goes from one remembered state to the next."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def outcome(self) -> float:
        """What the task says of the state."""
        return self.node.episode.outcome

    def respond(self, action: str) -> Response:
        """What the game said to this command when it was first given here."""
        self.node = self.node.next(action)
        assert self.node.response is not None  # only the first has none
        return self.node.response

    def snapshot(self) -> None:
        """None: a game comes back by repeating its commands."""


@lru_cache(maxsize=4)
def task(rooms: int = ROOMS, objects: int = OBJECTS, quest: int = QUEST, turns: int = TURNS, games: int = GAMES) -> RememberedTask:
    """Games in signs that pay for every step of the quest; one and the same for every caller, so that they remember together."""
    return RememberedTask(rooms=rooms, objects=objects, quest=quest, turns=turns, games=games, pays="progress", view="terse")


@lru_cache(maxsize=4)
def plays(rooms: int = ROOMS, objects: int = OBJECTS, quest: int = QUEST, turns: int = TURNS) -> list[Script]:
    """Scripted plays of games that nobody is trained on: the next command of the shortest way, or any that the game admits."""
    draw, found = random.Random(0), list[Script]()
    games = TextWorldTask(rooms=rooms, objects=objects, quest=quest, turns=turns, view="terse")
    for seed in range(SCRIPTED):
        start = games.start(_SCRIPTED_FROM + seed)
        for _ in range(PLAYS):
            episode, said = start.environment.begin(), [(start.fields["prompt"], False)]  # type: ignore[union-attr]
            for _ in range(turns):
                any_way = draw.random() < SENSELESS
                command = draw.choice(sorted(episode.commands())) if any_way else episode.way()[0]  # type: ignore[attr-defined]
                response = episode.respond(command)
                said += [(command, True), (response.observation, False)]
                if response.stop is not None:
                    break
            found.append(said)
    return found


@lru_cache(maxsize=1)
def _taught(steps: int) -> LanguageModel:
    policy = transformer(
        alphabet=_ALPHABET,
        context=24 + TURNS * 20,
        width=48,
        layers=2,
        heads=4,
        max_tokens=2 * TURNS,
        stop=(),
        step_separator=None,
        seed=0,
    )
    imitate(policy, lambda draw: draw.choice(plays()), steps=steps, batch=32)
    return policy


def taught(steps: int = 400) -> LanguageModel:
    """A copy of the policy that every arm of every seed begins with: it writes commands as they should be, and plays badly."""
    return copy.deepcopy(_taught(steps))
