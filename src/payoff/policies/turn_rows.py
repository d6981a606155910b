"""One rollout that takes turns: what was written and heard so far, what may still be written, and rows like it as trajectories."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from payoff.pipeline import Environment, Response
from payoff.policies.token_text import TokenText
from payoff.policies.turn_writing import Turn
from payoff.trajectories import StopReason, Trajectories

_MARK = "payoff-turn-7f3a91"  # stands for a turn in a chat template, to find what the template writes behind it


@runtime_checkable
class Dialogue(Protocol):
    """The environment's side of a start whose rollouts take turns of text.

    turns:              how many turns a rollout has at most; one that is not over by then is truncated
    turn_tokens:        most tokens of one turn; the environment reads what was written until then (None: no such limit)
    observation_tokens: most tokens of what the environment says in one turn; the rest is cut off (None: no such limit)
    ends:               strings that end a turn, besides the policy's own stop strings and the tokenizer's end tokens
    concurrency:        0: it answers at once, and is asked in this thread in the order of the rows; else how many may be asked at a
                        time, each in a thread of its own
    role:               who speaks for the environment in a chat template
    """

    turns: int
    turn_tokens: int | None
    observation_tokens: int | None
    ends: tuple[str, ...]
    concurrency: int
    role: str

    def begin(self) -> Environment:
        """An episode from its beginning, the same each time.

        It may have `measures`, numbers by name that say where it stands, and `outcome`, what the task would say of it if it ended
        here; both are read when it has begun and after every answer. `close`, where it has one, is called when it is over.
        """


class Answer(NamedTuple):
    """What asking an environment gave: responses, the last one new and those before repeated; what each state says; why not."""

    responses: Sequence[Response]
    measures: Sequence[Mapping[str, float]]
    outcome: float | None
    failure: str


@dataclass
class Row:
    """A rollout as it grows. ids: of the policy and the environment in turn, never encoded a second time.

    own_room, context: most own tokens, and most tokens with the prompt; noisy, horizon: of the own tokens still to be written, None
    where there is no limit. replay: (said, observed, state) of the turns that a continued rollout took before.
    """

    id: int
    group: int
    item: dict[str, Any]
    environment: Any
    numbers: torch.Generator
    own_room: int
    context: int | None
    ids: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    acted: list[bool] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)  # own tokens of the turn being written
    noisy: int | None = None
    horizon: int | None = None
    replay: list[tuple[str, str, int]] = field(default_factory=list)
    session: Any = None
    opened: bool = False
    outcome: float | None = None
    stop: StopReason | None = None
    failure: str = ""
    rewards: dict[int, float] = field(default_factory=dict)
    measures: dict[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def prompt(self) -> list[int]:
        return self.item["prompt_ids"]

    @property
    def left(self) -> int:
        """How many more own tokens this rollout may have in all."""
        room = [self.own_room - sum(self.acted)]
        room += [] if self.context is None else [self.context - len(self.prompt) - len(self.ids)]
        room += [] if self.horizon is None else [self.horizon]
        return min(room)

    @property
    def limit(self) -> int:
        """How many more tokens the turn being written may have."""
        most = self.environment.turn_tokens
        return self.left if most is None else min(self.left, most - len(self.begun))

    def wrote(self, turn: Turn, text: TokenText) -> bool:
        """Take in what the policy wrote; whether the turn is over, so that the environment is to be asked."""
        count = len(turn.tokens)
        self.ids += turn.tokens
        self.logp += turn.logp
        self.acted += [True] * count
        self.step += [len(self.turns)] * count
        self.begun += turn.tokens
        self.noisy = None if self.noisy is None else max(self.noisy - count, 0)
        self.horizon = None if self.horizon is None else self.horizon - count
        over = turn.closed or len(self.begun) == self.environment.turn_tokens
        self.turns.append({"said": text.text(self.begun), "observed": None, "reward": None, "over": False})
        if not over:
            self.stop = StopReason.truncated
        return over

    def hear(self, answer: Answer, tokenizer: Any) -> None:
        """Take in what the environment answered: its text is encoded here, once, and stands behind the turn it answers."""
        self.outcome = answer.outcome
        if not self.opened:  # what is known in the states before this turn
            self.measures |= dict(zip([0, *(state for _, _, state in self.replay)], answer.measures))
            self.rewards |= {state - 1: r.reward for (_, _, state), r in zip(self.replay, answer.responses)}
            self.opened = True
        if self.stop is not None and not answer.failure:  # a turn that was cut off, so nothing was asked
            return
        new = answer.responses[len(self.replay) :]
        if answer.failure or not new:
            self._fail(answer.failure or "the environment gave no answer")
            return
        response = new[0]
        said = response.observation
        self.turns[-1] |= {"observed": said, "reward": response.reward, "over": response.stop is not None}
        self.replay = []
        ids: list[int] = []
        if response.stop is not None:
            self.stop = response.stop
        else:
            most, role = self.environment.observation_tokens, self.environment.role
            try:
                ids = observation_ids(tokenizer, said, self.ids[-1], role=role, most=most, chat="messages" in self.item)
            except ValueError as error:
                self._fail(f"what the environment said cannot be written: {error}")
                return
            if self.context is not None and len(self.prompt) + len(self.ids) + len(ids) > self.context:
                self.stop, ids = StopReason.truncated, []
        self.ids += ids
        self.logp += [0.0] * len(ids)
        self.acted += [False] * len(ids)
        self.step += [len(self.turns) - 1] * len(ids)
        self.begun = []
        self.rewards[len(self.ids) - 1] = response.reward
        self.measures[len(self.ids)] = answer.measures[-1]
        if self.stop is None and (len(self.turns) >= self.environment.turns or self.left < 1):
            self.stop = StopReason.truncated

    def _fail(self, why: str) -> None:
        self.stop, self.failure = StopReason.error, why
        self.turns[-1] |= {"reward": None}


def observation_ids(tokenizer: Any, text: str, last: int, *, role: str, most: int | None, chat: bool) -> list[int]:
    """The ids that stand between two turns of the policy: the text as it is, or as a message of `role` in the chat template.

    last: the policy's last token. What the template writes to close the policy's message is left out where that token closed it.
    most: of the text's own tokens, the rest is cut off. Raises ValueError for a text that the tokenizer cannot write, or a template
    that has no place for it.
    """
    ids = list(tokenizer.encode(text)) if text else []
    if not (chat or getattr(tokenizer, "chat", False)):
        return ids[:most]
    if most is not None and len(ids) > most:
        text = tokenizer.decode(ids[:most])
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}, {"role": role, "content": text}]
    try:
        written = tokenizer.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like for a role that they do not know
        raise ValueError(f"the chat template takes no message of role {role!r}: {error}") from None
    _, mark, behind = written.partition(_MARK)
    if not mark:
        raise ValueError("the chat template changes what was said, so turns cannot be told apart")
    ids = list(tokenizer.tokenizer(behind, add_special_tokens=False)["input_ids"])
    return ids[1:] if ids and last in tokenizer.ends and ids[0] in tokenizer.ends else ids


def as_trajectories(
    rows: Sequence[Row], text: TokenText, *, parents: Sequence[int] | None = None, forks: Sequence[int] | None = None
) -> Trajectories:
    """Finished rows as trajectories, in their order: a step is a turn with what the environment said to it.

    extras: environment_reward [N, T], paid at the end of the turn that earned it (0 for one that was not answered); and of every
    name in `measures` what it was in every state [N, T+1], NaN where it is not known.
    """
    width, device = max(len(row.ids) for row in rows), text.device
    names = sorted({name for row in rows for measures in row.measures.values() for name in measures})
    paid: list[list[float]] = []
    known: dict[str, list[list[float]]] = {name: [] for name in names}
    items = []
    for row in rows:
        size = len(row.ids)
        paid.append([row.rewards.get(place, 0.0) for place in range(width)])
        states = sorted(row.measures)
        for name in names:
            numbers = [math.nan] * (states[0] if states else width + 1)
            for a, b in itertools.pairwise([*states, size + 1]):
                numbers += [row.measures[a].get(name, math.nan)] * (b - a)
            known[name].append(numbers + [math.nan] * (width + 1 - len(numbers)))
        said = [turn["said"] for turn in row.turns]
        shown = [text.shown[k] for k in row.ids]
        told = {"response": said[-1], "steps": said, "tokens": shown, "turns": row.turns}
        items.append({**row.item, **told, "outcome": row.outcome, "failure": row.failure, "environment": row.environment})
    tensors = lambda numbers: torch.tensor(numbers, device=device)
    padded = lambda lists, value: [[*some, *[value] * (width - len(some))] for some in lists]
    single = lambda numbers: torch.tensor(numbers, dtype=torch.float32, device=device)
    return Trajectories(
        mask=tensors(padded([row.acted for row in rows], False)),
        length=tensors([len(row.ids) for row in rows]),
        group=tensors([row.group for row in rows]),
        step=tensors(padded([row.step for row in rows], -1)).int(),
        stop=tensors([int(StopReason.truncated if row.stop is None else row.stop) for row in rows]),
        actions=tensors(padded([row.ids for row in rows], 0)),
        logp={"old": single(padded([row.logp for row in rows], 0.0))},
        id=tensors([row.id for row in rows]),
        parent=None if parents is None else tensors(list(parents)),
        fork=None if forks is None else tensors(list(forks)),
        items=items,
        extras={name: single(numbers) for name, numbers in {"environment_reward": paid, **known}.items()},
    )
