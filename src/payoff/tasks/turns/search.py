"""Search: a question whose answer lies some look-ups away in a knowledge base drawn for it, with the exact belief in the answer.

A knowledge base is R functions on E names, each value drawn evenly and apart from the others; a question asks for the end of a path
over distinct relations. So after any look-ups the posterior of the answer is a product of matrices, and so is what a turn told.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Response, Start
from payoff.tasks.turns.dialogue import LINE, Dialogue, SeededDialogues
from payoff.trajectories import StopReason

NAMES = (
    *("Alder", "Briar", "Cedar", "Dunlin", "Ember", "Fennel", "Garnet", "Hazel", "Iris", "Juniper", "Kestrel", "Linden", "Maple"),
    *("Nettle", "Osprey", "Plover", "Quill", "Rowan", "Sorrel", "Thistle", "Umber", "Vetch", "Willow", "Xenia", "Yarrow", "Zinnia"),
)
RELATIONS = ("neighbour", "mentor", "rival", "partner", "guest", "landlord", "teacher", "heir", "cousin")
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "123456789"
Facts = Mapping[tuple[int, int], int]  # (relation, name) -> name


class Question(NamedTuple):
    """Where a path begins and over which relations it goes, and the knowledge base: table[relation][name] is a name."""

    first: int
    path: tuple[int, ...]
    table: tuple[tuple[int, ...], ...]

    @property
    def answer(self) -> int:
        """The end of the path."""
        here = self.first
        for relation in self.path:
            here = self.table[relation][here]
        return here


def answer_distribution(question: Question, facts: Facts) -> list[float]:
    """The probability of every name to be the answer, given these facts and that all others are drawn evenly and apart.

    p_0 is 1 at the first name; p_k = p_(k-1) M_k, a row of M_k being 1 at the fact's value where known, else 1 / E everywhere.
    Exact because the relations of a path are distinct.

    >>> question = Question(0, (0, 1), ((1, 1), (0, 1)))
    >>> answer_distribution(question, {}), answer_distribution(question, {(0, 0): 1}), answer_distribution(question, {(1, 1): 1})
    ([0.5, 0.5], [0.5, 0.5], [0.25, 0.75])
    """
    size = len(question.table[0])
    belief = [float(name == question.first) for name in range(size)]
    for relation in question.path:
        spread = sum(p for name, p in enumerate(belief) if (relation, name) not in facts) / size
        after = [spread] * size
        for name, p in enumerate(belief):
            if (relation, name) in facts:
                after[facts[relation, name]] += p
        belief = after
    return belief


def entropy(distribution: Sequence[float]) -> float:
    """Of the answer, in nats: what a turn takes off it is the information that it gave.

    >>> round(entropy([0.5, 0.5]), 4), entropy([1.0, 0.0])
    (0.6931, 0.0)
    """
    return -sum(p * math.log(p) for p in distribution if p > 0) + 0.0


class SearchEpisode:
    """One search. measures: `reference_logp`, log of the exact belief in the right answer, and `entropy` of the answer in nats."""

    def __init__(self, question: Question, terse: bool, cost: float) -> None:
        self.question, self.terse, self.cost = question, terse, cost
        self.facts: dict[tuple[int, int], int] = {}
        self.outcome = 0.0

    @property
    def measures(self) -> dict[str, float]:
        """Where the search stands."""
        belief = answer_distribution(self.question, self.facts)
        return {"reference_logp": math.log(belief[self.question.answer]), "entropy": entropy(belief)}

    def respond(self, action: str) -> Response:
        """A look-up is told, an answer ends the search, and what is neither is told so. Case and blank space do not count."""
        said = self._read(action)
        if said is None:
            return Response("!" if self.terse else "Not understood.\n", 0.0, None)
        relation, name = said
        if relation is None:
            right = name == self.question.answer
            self.outcome = float(right)
            return Response("" if self.terse else "Right.\n" if right else "Wrong.\n", self.outcome, StopReason.finished)
        found = self.facts[relation, name] = self.question.table[relation][name]
        if self.terse:
            return Response(_LETTERS[found], 0.0 - self.cost, None)
        return Response(f"The {RELATIONS[relation]} of {NAMES[name]} is {NAMES[found]}.\n", 0.0 - self.cost, None)

    def snapshot(self) -> None:
        """None: a search comes back by repeating its turns."""

    def _read(self, action: str) -> tuple[int | None, int] | None:
        """(relation or None for an answer, name), or None."""
        size, relations = len(self.question.table[0]), len(self.question.table)
        if self.terse:
            letters, digits = _LETTERS[:size], _DIGITS[:relations]
            match = re.fullmatch(f"([{letters}])([{digits}])|=([{letters}])", action.strip())
            if match is None:
                return None
            return (None, letters.index(match[3])) if match[3] else (digits.index(match[2]), letters.index(match[1]))
        words = action.lower().replace(":", " ").split()
        names = {name.lower(): k for k, name in enumerate(NAMES[:size])}
        kinds = {kind: k for k, kind in enumerate(RELATIONS[:relations])}
        if len(words) == 2 and words[0] == "answer" and words[1].rstrip(".") in names:
            return None, names[words[1].rstrip(".")]
        if len(words) == 3 and words[0] == "search" and words[1] in names and words[2].rstrip(".") in kinds:
            return kinds[words[2].rstrip(".")], names[words[1]]
        return None


@method("turns-search", kind="task")
class SearchTask(SeededDialogues):
    """Questions over a knowledge base drawn for each: look facts up one turn at a time, then answer.

    entities:  names, 2 to 26; relations: how many there are (None: as many as hops), at most 9
    hops:      look-ups that a question needs: 1 is single-hop
    turns:     at most (None: hops + 2)
    terse:     the language of a very small model: the prompt `b21?` asks for relation 1 of relation 2 of b; a turn is two
               characters, a look-up `b2` or an answer `=c`; what is found is one letter, `!` is not understood. False: words
    cost:      what every look-up is charged in the environment's reward
    seeds:     how many questions there are to train on (0: no limit); held-out ones are others

    The environment pays 1 for the right answer, which is also the truth; an episode without one is worth 0. extras hold the exact
    `reference_logp` and `entropy` of every state: the signal `igpo` pays what each turn told about the answer.
    Raises ValueError for numbers out of range.

    >>> import torch
    >>> start = SearchTask(entities=5, hops=2).starts(1, torch.Generator().manual_seed(0))[0]
    >>> print(start.fields["prompt"])
    Find out by searching. Write one command a line: `search NAME RELATION` or `answer NAME`.
    Names: Alder, Briar, Cedar, Dunlin, Ember. Relations: neighbour, mentor.
    Who is the mentor of the neighbour of Alder?
    <BLANKLINE>
    >>> start.environment.respond("search Alder neighbour").observation
    'The neighbour of Alder is ...'
    """

    name = "turns-search"

    def __init__(
        self,
        *,
        entities: int = 8,
        hops: int = 1,
        relations: int | None = None,
        turns: int | None = None,
        terse: bool = False,
        cost: float = 0.0,
        seeds: int = 0,
    ) -> None:
        self.relations = hops if relations is None else relations
        if not (2 <= entities <= len(NAMES) and 1 <= hops <= self.relations <= len(RELATIONS)):
            raise ValueError(
                f"turns-search: 2 <= entities <= {len(NAMES)} and 1 <= hops <= relations <= {len(RELATIONS)} must hold, "
                f"got {entities}, {hops} and {self.relations}"
            )
        if seeds < 0:
            raise ValueError(f"turns-search: seeds must be at least 0, got {seeds}")
        self.entities, self.hops, self.terse, self.cost, self.seeds = entities, hops, terse, cost, seeds
        self.turns = hops + 2 if turns is None else turns

    def question(self, seed: int) -> Question:
        """The question of this seed and its knowledge base."""
        draw = random.Random(f"turns-search {seed} {self.entities} {self.relations} {self.hops}")
        table = tuple(tuple(draw.randrange(self.entities) for _ in range(self.entities)) for _ in range(self.relations))
        return Question(draw.randrange(self.entities), tuple(draw.sample(range(self.relations), self.hops)), table)

    def start(self, seed: int) -> Start:
        """The start of this seed. fields: prompt, reference (the right answer), solution (the turns that find it), seed."""
        question = self.question(seed)
        here, solution = question.first, []
        for relation in question.path:
            name, kind = (_LETTERS, _DIGITS) if self.terse else (NAMES, RELATIONS)
            solution.append(f"{name[here]}{kind[relation]}" if self.terse else f"search {name[here]} {kind[relation]}\n")
            here = question.table[relation][here]
        if self.terse:
            prompt = f"{_LETTERS[question.first]}{''.join(_DIGITS[k] for k in question.path)}?"
            reference, last = _LETTERS[here], f"={_LETTERS[here]}"
        else:
            asked = " of ".join(f"the {RELATIONS[k]}" for k in reversed(question.path))
            prompt = (
                "Find out by searching. Write one command a line: `search NAME RELATION` or `answer NAME`.\n"
                f"Names: {', '.join(NAMES[: self.entities])}. Relations: {', '.join(RELATIONS[: self.relations])}.\n"
                f"Who is {asked} of {NAMES[question.first]}?\n"
            )
            reference, last = NAMES[here], f"answer {NAMES[here]}\n"
        fields = {"prompt": prompt, "reference": reference, "solution": [*solution, last], "seed": seed}
        episode = partial(SearchEpisode, question, self.terse, self.cost)
        limits = {"turn_tokens": 2, "ends": ()} if self.terse else {"ends": LINE}
        return Start(f"turns-search:{seed}", fields, Dialogue(episode, turns=self.turns, **limits))  # type: ignore[arg-type]
