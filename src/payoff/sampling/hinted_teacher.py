"""Rollouts of a teacher who was shown attempts at the same start, told again without what it was shown."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.catalogue import find, method
from payoff.pipeline import Policy, Start, Verdict
from payoff.trajectories import Trajectories

Item = Mapping[str, Any]
_SAID = ("response", "steps", "tokens")


@method("semantic-soft-bootstrapping", kind="sampler", paper="arXiv:2512.05105", needs=("logits",), sees="group")
class HintedTeacher(nn.Module):
    """Right replies of the initial policy with a right and a wrong attempt in its context, as rows of the bare start (SSB).

    Of every start the teacher makes `tries` attempts. Where some are right and some wrong, it is shown a right one and one with the
    most common wrong answer, and makes n replies to that. Those that are right come back as rollouts of the start itself, with
    extras["teacher_logits"] [N, T, V], what the teacher said with the hint in view: the input of the loss of the same name, which
    teaches the policy to say it without.

    policy:  the teacher, frozen; a run hands over a copy of the policy it starts with
    checker: which replies are right: a grader, by its registered name or as a function; above 1/2 is right
    hinted:  makes the start with the hint, of the start, the right item and the wrong one; None: `two_attempts`, in words
    answer:  what of an item counts as its answer; None: the response without blanks at its ends

    A start without both, or without a right reply, gives no row. Where no start gives any, the attempts come back with the policy's
    own logits, from which nothing is learned. The rows' "old" log-probabilities are the teacher's, in its own context: a loss over
    ratios is not meant for them. The prompt with its hint must leave room in the model's context.

    Raises ValueError for tries below 2, and for a policy that offers no logits.

    >>> HintedTeacher(policy=find("tabular", "policy")(2, 2), checker="tree-leaf", tries=6).tries
    6
    """

    def __init__(
        self,
        *,
        policy: Any,
        checker: str | Callable[..., Any],
        tries: int = 4,
        hinted: Callable[[Start, Item, Item], Start] | None = None,
        answer: Callable[[Item], Hashable] | None = None,
    ) -> None:
        super().__init__()
        if tries < 2:
            raise ValueError(f"semantic-soft-bootstrapping: tries must be at least 2, a right one and a wrong one, got {tries}")
        if "logits" not in getattr(policy, "offers", ()):
            raise ValueError("semantic-soft-bootstrapping: needs a policy that offers logits over all actions")
        self.teacher = copy.deepcopy(policy).requires_grad_(False)
        self.checker = find(checker, "grader") if isinstance(checker, str) else checker
        self.tries, self.hinted, self.answer = tries, hinted or two_attempts, answer or _stripped

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """The right replies, at most n of a start, in the order of the starts."""
        attempts = self.teacher.rollout(starts, self.tries, rng)
        right = [_is_right(self.checker, item) for item in attempts.items]
        rows: dict[int, list[int]] = {}
        for row, group in enumerate(attempts.group.tolist()):
            rows.setdefault(group, []).append(row)
        shown, of = [], []
        for start, mine in zip(starts, rows.values(), strict=True):
            good, bad = [row for row in mine if right[row]], [row for row in mine if not right[row]]
            if good and bad:
                pick = int(torch.randint(len(good), (1,), generator=rng, device=rng.device))
                wrong = self._most_common([attempts.items[row] for row in bad])
                shown.append(self.hinted(start, attempts.items[good[pick]], wrong))
                of.append(mine[0])
        if shown:
            replies = self.teacher.rollout(shown, n, rng)
            kept = [row for row, item in enumerate(replies.items) if _is_right(self.checker, item)]
            if kept:
                base = torch.tensor(of, device=replies.device).repeat_interleave(n)[kept]
                return self._bare(replies.select(torch.tensor(kept, device=replies.device)), attempts, base)
        return _with_logits(attempts, policy.evaluate(attempts, frozenset({"logits"})).more["logits"])

    def _most_common(self, wrong: Sequence[Item]) -> Item:
        """The first item with the answer that most of them give; the first to appear, where several do."""
        counts = Counter(self.answer(item) for item in wrong)
        most = counts.most_common(1)[0][0]
        return next(item for item in wrong if self.answer(item) == most)

    def _bare(self, replies: Trajectories, attempts: Trajectories, base: Int[Tensor, " R"]) -> Trajectories:
        """The replies as rollouts of their bare starts: all that belongs to the start comes from the attempts at it."""
        logits = self.teacher.evaluate(replies, frozenset({"logits"})).more["logits"]
        items = [
            {**attempts.items[row], **{name: reply[name] for name in _SAID if name in reply}}
            for row, reply in zip(base.tolist(), replies.items, strict=True)
        ]
        own = {name: attempts.extras[name][base] for name, extra in replies.extras.items() if extra.ndim == 1}
        return _with_logits(replies.replace(items=items, group=attempts.group[base], extras=own), logits)


def two_attempts(start: Start, right: Item, wrong: Item) -> Start:
    """The prompt, a right and a wrong attempt that are not told apart, and the request for one solution.

    >>> print(two_attempts(Start("a", {"prompt": "1+1="}), {"response": "2"}, {"response": "3"}).fields["prompt"])
    1+1=
    <BLANKLINE>
    First attempt:
    2
    <BLANKLINE>
    Second attempt:
    3
    <BLANKLINE>
    Not every attempt is right. Work out which steps hold, and write one solution that can be relied on.
    <BLANKLINE>
    """
    text = (
        f"{start.fields['prompt']}\n\nFirst attempt:\n{right['response']}\n\nSecond attempt:\n{wrong['response']}\n\n"
        "Not every attempt is right. Work out which steps hold, and write one solution that can be relied on.\n"
    )
    return start._replace(fields={**start.fields, "prompt": text})


def _with_logits(traj: Trajectories, logits: Float[Tensor, "N T V"]) -> Trajectories:
    return traj.replace(extras={"teacher_logits": logits})


def _stripped(item: Item) -> Hashable:
    return item["response"].strip()


def _is_right(checker: Callable[..., Any], item: Item) -> bool:
    """What the checker says of an item that it is given by name; no verdict is not right."""
    wanted = inspect.signature(checker).parameters.values()
    said = checker(**{p.name: item[p.name] for p in wanted if p.name in item})
    if isinstance(said, Verdict):
        said = said.value if said.valid else None
    return said is not None and float(said) > 0.5
