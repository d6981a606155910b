"""File repair by a small transformer that has seen scripted repairs: files, tests and sandbox are those of `turns-repair`."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from payoff.policies.lm import LanguageModel
from payoff.recipes.worlds.dialogue_learning import imitate, with_critic
from payoff.recipes.worlds.words import speaker
from payoff.tasks.turns.broken_files import WHOLE, variants
from payoff.tasks.turns.repair import RepairTask, numbered

TURNS, SECONDS = 4, 1.0
HASTE, ERROR = 0.2, 0.6  # how often the script submits before it has edited anything right, and edits something else
SETTING = (
    "Python functions with one fault, edited line by line and handed in, judged by hidden tests in the sandbox (the task "
    f"`turns-repair`: eight functions, 53 ways to break them in all), at most {TURNS} turns. A transformer of width 32, in whose "
    "vocabulary names, signs and the constant beginnings of the files are one token each, has seen scripted rollouts of these "
    "files, in which three edits in five change something else and every fifth turn hands in too early; it samples at temperature "
    "0.7 and is right in about one of five."
)
_SEEN = 400  # seeds that the scripts are made of: every file there is is among them


def task() -> RepairTask:
    """Files to be repaired in few turns, judged one after another, so that a run repeats bit for bit.

    >>> task().held_out_starts(1)[0].fields["events"] > 1
    True
    """
    return RepairTask(pays="progress", turns=TURNS, seconds=SECONDS, together=0, remember=4096)


def sub_goals(item: Mapping[str, Any]) -> list[float]:
    """1 for every turn after which more hidden tests pass than ever before, and for handing in what passes all: the task's pay."""
    return [turn["reward"] or 0.0 for turn in item["turns"]]


def events(item: Mapping[str, Any]) -> int:
    """How many sub-goals a file has."""
    return item["events"]


class Repair(NamedTuple):
    """What a script needs: the prompt, the turn that puts the file right, and turns that change it in some other place or way."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


def repairs(seeds: int = _SEEN) -> list[Repair]:
    """The files of the first seeds, each once."""
    found: dict[str, Repair] = {}
    files = task()
    for seed in range(seeds):
        fields = files.start(seed).fields
        if fields["prompt"] in found:
            continue
        right = _bare(fields["solution"][0])
        source = re.sub(r"(?m)^\d+: ", "", fields["prompt"].partition("\n")[2])
        edits = (_edit(source, other) for other in dict.fromkeys(variants(source)))
        found[fields["prompt"]] = Repair(fields["prompt"], right, tuple(edit for edit in dict.fromkeys(edits) if edit != right))
    return list(found.values())


def _edit(source: str, other: str) -> str:
    """The turn that makes one source of the other, which differs in one line."""
    pairs = zip(source.splitlines(), other.splitlines(), strict=True)
    return next(f"line {number}: {b.strip()}\n" for number, (a, b) in enumerate(pairs, 1) if a != b)


def _bare(turn: str) -> str:
    """An edit without the indentation, which the task adds again."""
    return re.sub(r": +", ": ", turn, count=1)


def words(known: list[Repair]) -> list[str]:
    """The beginnings of the files up to where they can be broken, the names and signs of what follows, and the turns."""
    opening = known[0].prompt.partition("\n")[0] + "\n"
    heads = [opening + numbered(whole.source.splitlines()[:2]) for whole in WHOLE]
    lines = [line for repair in known for line in repair.prompt.splitlines(keepends=True)[3:]]
    text = "".join(lines + [turn for repair in known for turn in (repair.right, *repair.wrong)])
    signs = re.findall(r"(?m)^\d:|len\(\w+\)| ?[A-Za-z_]\w*| \d+| [^\w\s'(\[]+|\):?\n|:\n", text)
    return list(dict.fromkeys([*heads, "line ", "submit\n", "run\n", " " * 3, " " * 7, " " * 11, *signs]))


def script(known: Repair, draw: random.Random) -> list[tuple[str, bool]]:
    """A rollout of somebody who knows how to write turns, and often edits the wrong place, or hands in too early."""
    text = [(known.prompt, False)]
    for _ in range(TURNS - 1):
        if draw.random() < HASTE:
            break
        right = draw.random() >= ERROR
        edit = known.right if right else draw.choice(known.wrong)
        text += [(edit, True), (told(known, edit), False)]
        if right:
            break
    return [*text, ("submit\n", True)]


def told(known: Repair, edit: str) -> str:
    """What the task says to an edit: the line's number, and the line with its indentation.

    >>> some = Repair("Put this right.\\n1: def f():\\n2:     return 2\\n", "line 2: return 1\\n", ())
    >>> told(some, some.right)
    '2:     return 1\\n'
    """
    number, _, code = edit.removeprefix("line ").partition(": ")
    old = known.prompt.splitlines()[int(number)].partition(": ")[2]
    return f"{number}: {old[: len(old) - len(old.lstrip())]}{code}"


@lru_cache(maxsize=2)
def _taught(steps: int) -> LanguageModel:
    known = repairs()
    policy = speaker(words(known), context=192, max_tokens=64, temperature=0.7, width=32, heads=2)
    imitate(policy, lambda draw: script(draw.choice(known), draw), steps=steps, batch=16, learning_rate=8e-3)
    return policy


def taught(steps: int = 600, *, critic: bool = False) -> LanguageModel:
    """A copy of the policy that every arm of every seed begins with; critic: with a head for values, which are 0 at first."""
    policy = copy.deepcopy(_taught(steps))
    return with_critic(policy) if critic else policy
