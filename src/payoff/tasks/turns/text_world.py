"""Text games made on the spot by the `textworld` package: rooms, objects and a quest, played in words.

Three views of the same games. "logic" runs the package's own state machine and says what is where in a few plain words, at once and
without a compiler; "terse" says it in signs, two of them a turn, for very small policies. "inform" compiles the game (seconds, once
for each) and shows what the interpreter writes.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from payoff._extras import require
from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.tasks.turns.dialogue import Dialogue, SeededDialogues
from payoff.trajectories import StopReason

_SIDES = ("north", "south", "east", "west")
_STATES = ("open", "closed", "locked")
_SMALL, _LARGE, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "123456789"
_SIGNS = {"take": "+", "drop": "-", "eat": "*", "open": ":", "close": ".", "lock": "#", "unlock": "?"}
_STATE_SIGNS = {"open": ":", "closed": ".", "locked": "#"}


class Game(NamedTuple):
    """What a game is made of; the same numbers make the same game."""

    seed: int
    rooms: int
    objects: int
    quest: int

    def made(self) -> Any:
        """The game, as textworld makes it."""
        return _made(self)


@lru_cache(maxsize=512)
def _made(game: Game) -> Any:
    textworld = require("textworld", "the task turns-textworld")
    options = textworld.GameOptions()
    options.kb = require(
        "textworld.generator.data", "the task turns-textworld"
    ).KnowledgeBase.default()  # else it is read each time
    options.nb_rooms, options.nb_objects, options.quest_length = game.rooms, game.objects, game.quest
    options.seeds = game.seed
    return require("textworld.generator", "the task turns-textworld").make_game(options)


class LogicEpisode:
    """A game in the package's state machine. A turn is a command that the game admits; any other changes nothing."""

    refused, won, lost = "That cannot be done.\n", "You have won.\n", "You have lost.\n"

    def __init__(self, game: Game, pays: str, hints: bool) -> None:
        self.made, self.pays, self.hints = game.made(), pays, hints
        self.progress = require("textworld.generator.game", "a text world").GameProgression(self.made)
        self.outcome = 0.0
        self._nearest = _left(self.progress)

    def look(self) -> str:
        """What the policy is told of the state."""
        told = described(self.progress.state.facts, {name: info.name for name, info in self.made.infos.items()})
        return told + (f"You can: {', '.join(sorted(self.commands()))}.\n" if self.hints else "")

    def respond(self, action: str) -> Response:
        """What the command leads to; the game ends where it is won or lost."""
        found = self.commands().get(self.read(action))
        if found is None:
            return Response(self.refused, 0.0, None)
        if found.name.startswith(("look", "inventory", "examine")):
            return Response(self.look(), 0.0, None)
        self.progress.update(found)
        won, lost = bool(self.progress.completed), bool(self.progress.failed)
        self.outcome = float(won)
        reward = self.outcome
        if self.pays == "progress":
            left = 0 if won else _left(self.progress) or self._nearest  # none is known where the quest cannot be done any more
            reward, self._nearest = float(max(0, self._nearest - left)), min(self._nearest, left)
        if won or lost:
            return Response(self.won if won else self.lost, reward, StopReason.finished)
        return Response(self.look(), reward, None)

    def snapshot(self) -> None:
        """None: a game comes back by repeating its commands."""

    def branch(self) -> LogicEpisode:
        """An episode in the same state that goes its own way."""
        other = copy.copy(self)
        other.progress = self.progress.copy()
        return other

    def commands(self) -> dict[str, Any]:
        """What the game admits now: the package's actions by the commands for them."""
        actions = self.progress.valid_actions
        return {name.lower(): action for name, action in zip(self.written(actions), actions, strict=True)}

    def way(self) -> list[str]:
        """Commands that win from here, the shortest that the package knows of; none where the game is over."""
        return list(self.written(self.progress.winning_policy or ()))

    def written(self, actions: Sequence[Any]) -> Sequence[str]:
        """The commands for these actions, in the package's words."""
        return self._writer.gen_commands_from_actions(actions)

    def read(self, action: str) -> str:
        """A turn as `commands` has it: case and blank space do not count."""
        return " ".join(action.lower().split())

    @cached_property
    def _writer(self) -> Any:
        return require("textworld.generator.inform7", "a text world").Inform7Game(self.made)


class TerseEpisode(LogicEpisode):
    """The same in signs, two of them a turn; looking and examining are left out, since what there is to see is always told.

    Rooms are digits, things that can be carried small letters, all others large ones, each numbered by its name in the package.
    Turns: +a take it from wherever it lies, -a drop it, *a eat it, aB put a into or on B; :B open, .B close, ?B unlock, #B lock
    (with the one key that fits); >2 go to room 2.
    A state: the room, what lies on its floor, what stands there (: open, . closed, # locked) with what can be seen in or on it,
    each exit as > and the room behind it, with its door if it has one, @ and what is carried, and a semicolon.
    """

    refused, won, lost = "!;", "", ""

    def __init__(self, game: Game, pays: str) -> None:
        super().__init__(game, pays, False)
        self._sign = _signs(game)

    def look(self) -> str:
        """The state in signs."""
        return in_signs(self.progress.state.facts, self._sign)

    def commands(self) -> dict[str, Any]:
        """Those that change something."""
        actions = [action for action in self.progress.valid_actions if not action.name.startswith(("look", "inventory", "examine"))]
        return dict(zip(self.written(actions), actions, strict=True))

    def written(self, actions: Sequence[Any]) -> Sequence[str]:
        """The commands for these actions, in signs."""
        return [self._command(action) for action in actions]

    def read(self, action: str) -> str:
        """A turn as `commands` has it."""
        return action.strip()

    def _command(self, action: Any) -> str:
        part = {
            place.name: self._sign.get(found.name, "") for place, found in self.made.kb.rules[action.name].match(action).items()
        }
        verb = action.name.partition("/")[0]
        if verb == "go":
            return ">" + part["r'"]
        if verb in ("insert", "put"):
            return part["o"] + part["c" if verb == "insert" else "s"]
        return _SIGNS[verb] + next(part[kind] for kind in ("o", "f", "c", "d") if kind in part)


class InformEpisode:
    """A game in the interpreter, told in its own words."""

    def __init__(self, game: Game, pays: str, hints: bool, folder: str) -> None:
        textworld = require("textworld", "a text world")
        infos = textworld.EnvInfos(won=True, lost=True, admissible_commands=True, policy_commands=True)
        self.env = textworld.start(_compiled(game, folder), request_infos=infos)
        self.pays, self.hints, self.outcome = pays, hints, 0.0
        self.state = self.env.reset()
        self._nearest = len(self.state.policy_commands or ())

    def look(self) -> str:
        """What the interpreter wrote last, without its prompt and its drawing of the title."""
        written = self.state.feedback
        at = written.find("-=")
        told = re.sub(r"\n\s*\n+", "\n", written[max(at, 0) :].partition("\n>")[0]).strip() + "\n"
        return told + (f"You can: {', '.join(sorted(self.state.admissible_commands))}.\n" if self.hints else "")

    def respond(self, action: str) -> Response:
        """What the interpreter says to the command."""
        self.state, _, _ = self.env.step(" ".join(action.split()))
        won, lost = bool(self.state.won), bool(self.state.lost)
        self.outcome = float(won)
        reward = self.outcome
        if self.pays == "progress":
            left = 0 if won else len(self.state.policy_commands or ()) or self._nearest
            reward, self._nearest = float(max(0, self._nearest - left)), min(self._nearest, left)
        return Response(self.look(), reward, StopReason.finished if won or lost else None)

    def snapshot(self) -> None:
        """None: a game comes back by repeating its commands."""

    def close(self) -> None:
        """End the interpreter."""
        self.env.close()


def described(facts: Any, names: dict[str, Any]) -> str:
    """Where the player is, what is there and where it leads, in plain words, from a state's facts; always in the same order.

    facts: propositions with `name` and `arguments`, which have `name` and `type`
    """
    held = [(fact.name, *(argument.name for argument in fact.arguments)) for fact in facts]
    called = lambda thing: str(names.get(thing) or thing)
    room = next(place for kind, *rest in held if kind == "at" and rest[0] == "P" for place in rest[1:])
    state = {rest[0]: kind for kind, *rest in held if kind in _STATES}

    def inside(thing: str) -> list[str]:
        shown = [rest[0] for kind, *rest in held if kind in ("in", "on") and rest[1] == thing]
        return sorted(called(k) for k in shown) if state.get(thing, "open") == "open" else []

    def thing(name: str) -> str:
        more = [state[name]] if name in state else []
        more += [f"with {', '.join(found)}"] if (found := inside(name)) else []
        return called(name) + (f" ({', '.join(more)})" if more else "")

    here = sorted(thing(rest[0]) for kind, *rest in held if kind == "at" and rest[1] == room and rest[0] != "P")
    exits = []
    for kind, *rest in held:
        side = kind.removesuffix("_of")
        if side in _SIDES and kind != side and rest[1] == room:  # rest[0] lies on that side of this room
            doors = [r[1] for k, *r in held if k == "link" and r[0] == room and r[2] == rest[0]]
            exits.append(side + "".join(f" through the {thing(door)}" for door in doors))
    carried = inside("I")
    told = [f"You are in the {called(room)}."]
    told += [f"Here: {', '.join(here)}."] if here else []
    told += [f"Exits: {', '.join(sorted(exits))}."] if exits else []
    told += [f"You carry: {', '.join(carried)}."] if carried else []
    return " ".join(told) + "\n"


def in_signs(facts: Any, sign: Mapping[str, str]) -> str:
    """The same in the signs of `TerseEpisode`; always in the same order.

    facts: as of `described`; sign: name -> one character
    """
    held = [(fact.name, *(argument.name for argument in fact.arguments)) for fact in facts]
    room = next(place for kind, *rest in held if kind == "at" and rest[0] == "P" for place in rest[1:])
    state = {rest[0]: kind for kind, *rest in held if kind in _STATES}

    def thing(name: str) -> str:
        shown = [sign[rest[0]] for kind, *rest in held if kind in ("in", "on") and rest[1] == name]
        inside = sorted(shown) if state.get(name, "open") == "open" else []
        return sign[name] + _STATE_SIGNS.get(state.get(name, ""), "") + "".join(inside)

    here = sorted((thing(rest[0]) for kind, *rest in held if kind == "at" and rest[1] == room and rest[0] != "P"), key=_small_first)
    exits = []
    for kind, *rest in held:
        if kind.endswith("_of") and kind.removesuffix("_of") in _SIDES and rest[1] == room:
            doors = [thing(r[1]) for k, *r in held if k == "link" and r[0] == room and r[2] == rest[0]]
            exits.append(">" + sign[rest[0]] + "".join(doors))
    carried = sorted(sign[rest[0]] for kind, *rest in held if kind == "in" and rest[1] == "I")
    return sign[room] + "".join(here) + "".join(sorted(exits)) + ("@" + "".join(carried) if carried else "") + ";"


def _small_first(told: str) -> tuple[bool, str]:
    return told[0].isupper(), told


@lru_cache(maxsize=512)
def _signs(game: Game) -> dict[str, str]:
    """A character for every room and thing of a game. Raises ValueError where there are not enough."""
    infos = game.made().infos
    signs: dict[str, str] = {}
    for kinds, letters in ((("r",), _DIGITS), (("c", "s", "d"), _LARGE), (("k", "f", "o"), _SMALL)):
        found = sorted((name for name, info in infos.items() if info.type in kinds), key=_by_number)
        if len(found) > len(letters):
            raise ValueError(
                f"turns-textworld: a game in signs has at most {len(letters)} of {kinds}, and this one has {len(found)}"
            )
        signs |= dict(zip(found, letters, strict=False))
    return signs


def _by_number(name: str) -> tuple[str, int]:
    kind, _, number = name.partition("_")
    return kind, int(number or 0)


@method("turns-textworld", kind="task")
class TextWorldTask(SeededDialogues):
    """Games of the `textworld` package, made on the spot: `pip install textworld`.

    rooms, objects, quest: how large a game is, and the length of its quest; 2, 3 and 4 are the smallest setting of the recipe for
               multi-turn agents (arXiv:2510.01132)
    games:     how many games there are to train on: making one takes a tenth of a second; `held_out` others are for evaluation
    pays:      "win": 1 when the quest is done; "progress": 1 for every step of the quest that is left behind for the first time
    view:      "logic": the package's state machine, in plain words; "terse": the same in signs, two of them a turn, as
               `TerseEpisode` says (a prompt is the quest's steps and the state); "inform": compiled, in the interpreter's words
               (the package brings the compiler; seconds for each game, kept in `folder`)
    hints:     say which commands are admitted; never in signs
    turns:     at most (None: three times the quest)

    The truth is whether the quest was done. Fields: prompt (with the objective), events (the quest's length, for
    `turn-dense`), solution (commands that win), seed.
    Raises ValueError for numbers out of range and MissingExtraError without the package.

    >>> task = TextWorldTask(rooms=2, games=4)
    >>> task.turns, task.seeds
    (12, 4)
    """

    name = "turns-textworld"

    def __init__(
        self,
        *,
        rooms: int = 2,
        objects: int = 3,
        quest: int = 4,
        games: int = 32,
        held_out: int = 16,
        pays: Literal["win", "progress"] = "win",
        view: Literal["logic", "terse", "inform"] = "logic",
        hints: bool = True,
        turns: int | None = None,
        folder: str | None = None,
    ) -> None:
        sizes = {"rooms": rooms, "objects": objects, "quest": quest, "games": games, "held_out": held_out}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"turns-textworld: {name} must be at least 1, got {value}")
        if pays not in ("win", "progress") or view not in ("logic", "terse", "inform"):
            known = 'pays is "win" or "progress", view "logic", "terse" or "inform"'
            raise ValueError(f"turns-textworld: {known}, got {pays!r} and {view!r}")
        self.rooms, self.objects, self.quest, self.seeds, self.held_out = rooms, objects, quest, games, held_out
        self.pays, self.view, self.hints = pays, view, hints
        self.turns = 3 * quest if turns is None else turns
        self.folder = folder or str(Path(tempfile.gettempdir()) / "payoff-textworld")

    def held_out_starts(self, n: int) -> list[Start]:
        """The first n of the games that are never trained on; fewer where fewer are held out."""
        return list(super().held_out_starts(min(n, self.held_out)))

    def start(self, seed: int) -> Start:
        """The start of this seed: what the quest is, and what is seen at first."""
        game = Game(seed, self.rooms, self.objects, self.quest)
        made = game.made()
        if self.view == "terse":
            episode: Any = partial(TerseEpisode, game, self.pays)
        elif self.view == "logic":
            episode = partial(LogicEpisode, game, self.pays, self.hints)
        else:
            episode = partial(InformEpisode, game, self.pays, self.hints, self.folder)
        first = episode()
        if self.view == "terse":
            solution = first.way()
            prompt = f"{''.join(solution)};{first.look()}"
        else:
            solution = [f"{command}\n" for command in made.walkthrough]
            prompt = f"A text game: write one command a line.\n{made.objective}\n{first.look()}"
        if hasattr(first, "close"):
            first.close()
        fields = {"prompt": prompt, "events": len(solution), "solution": solution, "seed": seed}
        limits: dict[str, Any] = {"turn_tokens": 2, "ends": ()} if self.view == "terse" else {}
        together = 4 if self.view == "inform" else 0
        return Start(f"turns-textworld:{seed}", fields, Dialogue(episode, turns=self.turns, concurrency=together, **limits))


def _left(progress: Any) -> int:
    """Steps of the shortest way that the package knows to do the quest."""
    return len(progress.winning_policy or ())


@lru_cache(maxsize=256)
def _compiled(game: Game, folder: str) -> str:
    """The compiled game's file; it is made where it is not there yet."""
    path = Path(folder) / f"game-{game.seed}-{game.rooms}-{game.objects}-{game.quest}.z8"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        options = require("textworld", "a text world").GameOptions()
        options.path, options.seeds = str(path), game.seed
        require("textworld.generator", "a text world").compile_game(game.made(), options)
    return str(path)
