"""One model asks, answers and checks: the rollouts of all three roles, and the memory of what was solved (SPELL)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from payoff.catalogue import find, method
from payoff.pipeline import Policy, Start, Verdict
from payoff.sampling.guided_attempts import score_of
from payoff.sampling.question_script import Asked, Documents, Script
from payoff.trajectories import StopReason, Trajectories, concatenate

Known = Mapping[str, Any]
_ROLE_FIELDS = ("role", "question", "reference")


@method("spell", kind="sampler", paper="arXiv:2509.23863", sees="batch")
class SelfPlay(nn.Module):
    """A question about every start, n answers to each and the verdicts on every answer, all by the policy (SPELL's rollouts).

    1. The questioner sees `documents` of the start's documents, drawn anew, and asks a question with an answer of its own. Where
       questions about this start were solved before, it is shown the last `memory` of them and the documents they were made of
       besides, and asked to outdo them: so what a question takes grows as long as it is solved.
    2. A question in form is put `unaided` times without any document; one that is answered even so is not grounded.
    3. The others are answered n times with all documents in view, those its asker did not see among them.
    4. Each answer is held against the asker's, by a rule and by `verdicts` verifiers.
    5. Questions of which at least one answer is right, max(rule, majority), are remembered; the same question only once.

    Rows: the questions, then the answers, then the verdicts; what step 2 says is looked at and not kept. A question and its
    answers are one group, the verdicts on one answer another. Items have what the reward `spell` reads: `role`; `success` (what
    the answers are paid), `well_formed` and `grounded`; `rule` and `verdicts`; `verdict`, `verdicts` and `rule`; and `question`
    and `reference`, the asker's answer. Go on with the selection `spell` and the advantage `spell`, which keep roles apart; with
    `train.rounds` 1, as groups are not starts here.

    rule:      scores an answer against the asker's, 0..1: a grader, by its registered name or as a function
    verdicts:  on each answer; 0: the rule alone
    documents: new ones for each question; all, where there are fewer
    memory:    how many solved questions of a start and task are kept; 0: none
    unaided:   tries without documents; 0: every question counts as grounded
    script:    the words of all roles and how they are read; None: `Documents`
    tasks:     the field that tells tasks apart: each has a memory of its own

    A question that was cut off before its end is neither in form nor in bad form: it has no verdict. Costs 1 + unaided + n +
    n verdicts rollouts a start, one after the other in four passes. The memory is in checkpoints.
    Raises ValueError for negative numbers and for documents below 1.

    >>> from payoff.policies.tabular import Tabular
    >>> class Letters(Documents):  # says its question and its answer in one letter each, to a policy that reads no text
    ...     def read(self, item): return item["response"][0], item["response"][1]
    ...     def verdict(self, item): return item["response"][0] == "a"
    >>> play = SelfPlay(rule=lambda response, reference: float(response[0] == reference), script=Letters(), verdicts=2, unaided=0)
    >>> traj = play(Tabular(2, 2), [Start("a", {"documents": ["one", "two"]})], 2, torch.Generator().manual_seed(0))
    >>> [item["role"] for item in traj.items]
    ['questioner', 'responder', 'responder', 'verifier', 'verifier', 'verifier', 'verifier']
    >>> [len(members) for members in (traj.group.unique(), traj.items[0]["success"], traj.items[1]["verdicts"])]
    [3, 2, 2]
    """

    def __init__(
        self,
        *,
        rule: str | Callable[..., Any] = "answer-match",
        verdicts: int = 8,
        documents: int = 5,
        memory: int = 3,
        unaided: int = 1,
        script: Script | None = None,
        tasks: str = "task",
    ) -> None:
        super().__init__()
        if min(verdicts, memory, unaided) < 0 or documents < 1:
            raise ValueError(
                "spell: verdicts, memory and unaided must be at least 0 and documents at least 1, "
                f"got {verdicts}, {memory}, {unaided} and {documents}"
            )
        self.rule = find(rule, "grader") if isinstance(rule, str) else rule
        self.verdicts, self.documents, self.memory, self.unaided, self.tasks = verdicts, documents, memory, unaided, tasks
        self.script: Script = script or Documents()
        self.answers_are_paid = find("spell-responder", "grader")
        self.solved: dict[tuple[str, str], list[Asked]] = {}  # by task and start, the latest last

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """The rows of all three roles."""
        shown = [self._shown(start, rng) for start in starts]
        asks = [self.script.ask(start, seen, self.remembered(start)) for start, seen in zip(starts, shown, strict=True)]
        questions = policy.rollout(asks, 1, rng)
        asked: dict[int, Asked] = {}
        for row, item in enumerate(questions.items):
            if (found := self.script.read(item)) is not None:
                asked[row] = Asked(tuple(shown[row]), *found)
        easy = self._known_unaided(policy, starts, asked, rng)
        posed = [row for row in asked if row not in easy]
        parts: list[Trajectories] = []
        paid: dict[int, list[float | None]] = {}
        if posed:
            answers = policy.rollout([self.script.pose(starts[row], asked[row].question, documents=True) for row in posed], n, rng)
            of = [row for row in posed for _ in range(n)]
            answers = answers.replace(group=questions.group[torch.tensor(of, device=questions.device)])
            parts, paid = self._checked(policy, answers, starts, [asked[row] for row in of], of, rng)
        cut_off = (questions.stop == int(StopReason.truncated)).tolist()
        items = []
        for row, item in enumerate(questions.items):
            form = {"well_formed": row in asked or cut_off[row], "grounded": row not in easy, "success": paid.get(row)}
            items.append(_playing(item, "questioner", starts[row], asked.get(row), form))
        self._remember(starts, asked, paid)
        return concatenate([questions.replace(items=items), *parts])

    def remembered(self, start: Start) -> list[Asked]:
        """The questions about a start that were solved, the latest last."""
        return self.solved.get(self._key(start), [])

    def get_extra_state(self) -> list[list[Any]]:
        """The memory: for checkpoints."""
        return [[*key, [[list(one.documents), one.question, one.answer] for one in kept]] for key, kept in self.solved.items()]

    def set_extra_state(self, state: list[list[Any]]) -> None:
        """Continue from `get_extra_state`."""
        self.solved = {(task, start): [Asked(tuple(of), *said) for of, *said in kept] for task, start, kept in state}

    def _key(self, start: Start) -> tuple[str, str]:
        return str(start.fields.get(self.tasks)), start.id

    def _shown(self, start: Start, rng: torch.Generator) -> list[int]:
        """The documents of the solved questions and new ones, in order."""
        before = {number for one in self.remembered(start) for number in one.documents}
        new = [number for number in range(self.script.count(start)) if number not in before]
        chosen = torch.randperm(len(new), generator=rng)[: self.documents].tolist()
        return sorted(before | {new[k] for k in chosen})

    def _known_unaided(self, policy: Policy, starts: Sequence[Start], asked: Mapping[int, Asked], rng: torch.Generator) -> set[int]:
        """The questions that are answered without any document."""
        if not self.unaided or not asked:
            return set()
        bare = [self.script.pose(starts[row], one.question, documents=False) for row, one in asked.items()]
        tries = policy.rollout(bare, self.unaided, rng).items
        of = [row for row in asked for _ in range(self.unaided)]
        return {row for row, item in zip(of, tries, strict=True) if (self._ruled(item, asked[row]) or 0.0) > 0.5}

    def _checked(
        self,
        policy: Policy,
        answers: Trajectories,
        starts: Sequence[Start],
        asked: Sequence[Asked],
        of: Sequence[int],
        rng: torch.Generator,
    ) -> tuple[list[Trajectories], dict[int, list[float | None]]]:
        """The answers and the verdicts on them, as rows; and what the answers to each question are paid."""
        each = list(zip(answers.items, asked, of, strict=True))
        rules = [self._ruled(item, one) for item, one, _ in each]
        said: list[list[bool | None]] = [[] for _ in each]
        parts = []
        if self.verdicts:
            checks = [self.script.check(starts[row], one, item["response"]) for item, one, row in each]
            found = policy.rollout(checks, self.verdicts, rng)
            about = [k for k in range(len(each)) for _ in range(self.verdicts)]
            single = [self.script.verdict(item) for item in found.items]
            for k, one in zip(about, single, strict=True):
                said[k].append(one)
            parts = [
                found.replace(
                    items=[
                        _playing(item, "verifier", starts[of[k]], asked[k], {"verdict": one, "verdicts": said[k], "rule": rules[k]})
                        for item, k, one in zip(found.items, about, single, strict=True)
                    ]
                )
            ]
        paid: dict[int, list[float | None]] = {}
        for k, row in enumerate(of):
            worth = self.answers_are_paid(said[k], rules[k])
            paid.setdefault(row, []).append(None if isinstance(worth, Verdict) else worth)
        own = [
            _playing(item, "responder", starts[row], one, {"verdicts": said[k], "rule": rules[k]})
            for k, (item, one, row) in enumerate(each)
        ]
        return [answers.replace(items=own), *parts], paid

    def _ruled(self, item: Known, asked: Asked) -> float | None:
        return score_of(self.rule, {**item, "question": asked.question, "reference": asked.answer})[0]

    def _remember(self, starts: Sequence[Start], asked: Mapping[int, Asked], paid: Mapping[int, Sequence[float | None]]) -> None:
        for row, rewards in paid.items():
            known = self.remembered(starts[row])
            new = all(one.question != asked[row].question for one in known)
            if self.memory and new and any(reward for reward in rewards):
                self.solved[self._key(starts[row])] = [*known, asked[row]][-self.memory :]


def _playing(item: Known, role: str, start: Start, asked: Asked | None, more: Known) -> dict[str, Any]:
    """The item of a row in its role; what its start says in the fields of roles is not there."""
    own = {key: value for key, value in item.items() if key not in _ROLE_FIELDS}
    said = {"question": asked.question, "reference": asked.answer} if asked else {}
    return {**own, "role": role, "start": start.id, **said, **more}
