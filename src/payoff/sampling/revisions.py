"""Drafts that nearly all fail are revised, with what the tool said of them in view: a tree of drafts and repairs (VeriRL)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from payoff.catalogue import find, method
from payoff.pipeline import Policy, Start
from payoff.sampling.guided_attempts import of_bare_starts, score_of
from payoff.trajectories import Trajectories, concatenate

Item = Mapping[str, Any]
Revise = Callable[[Start, Item, str], "Start | None"]  # of a start, a draft and what was said of it: the start of its revisions
_LONGEST = 4000  # characters of a tool's message


@method("verirl", kind="sampler", paper="arXiv:2508.18462", sees="group")
class Revisions(nn.Module):
    """n drafts of every start, and of each that scores below `low` `children` revisions, `depth` rounds deep (VeriRL's tree).

    checker:  scores a draft, as `verilog-tests` does: a grader, by its registered name or as a function; its reason is what the
              reviser is told. A draft without verdict is not revised
    low:      drafts that score less are revised, and their revisions too, while there are rounds left
    children: revisions of each such draft
    revise:   makes the start of the revisions, of the bare start, the draft's item and the reason, or None to leave it at that;
              None: `told_back`, which shows the draft and the reason
    context:  what revisions are rollouts of. "without": the bare start, as a model that scores answers to a question has to see
              them; their "old" log-probabilities stay those with the draft in view, of who sampled them, so that
              `truncated-importance` can weigh them. "with": the start with the draft and the reason, on-policy

    All are in the group of their start. Items say `draft`, a name, and of a revision `revises`, the name of the draft it was made
    of: what `trace-back` reads. extras["revision"] [N] is the round, 0 for first drafts. Groups have unlike sizes, at most
    n (1 + children + ... + children^depth), and their means are of drafts and revisions together.

    The checker runs once here for every row above the last round, and again where the reward is scored, in a memory of its own.
    Raises ValueError for children, depth or low out of range and for an unknown context.

    >>> from payoff.tasks.tree import Tree
    >>> task, policy = Tree(2, 2, density=0.25), find("tabular", "policy")(2, 2)
    >>> tree = Revisions(checker="tree-leaf", revise=lambda start, item, why: start, depth=1)
    >>> traj = tree(policy, task.starts(2, torch.Generator().manual_seed(0)), 2, torch.Generator().manual_seed(0))
    >>> [(item["draft"], item.get("revises")) for item in traj.items[:6]], traj.extras["revision"].tolist()[:6]
    ([('0', None), ('1', None), ('2', None), ('3', None), ('4', '0'), ('5', '0')], [0, 0, 0, 0, 1, 1])
    """

    def __init__(
        self,
        *,
        checker: str | Callable[..., Any],
        low: float = 0.2,
        children: int = 2,
        depth: int = 2,
        revise: Revise | None = None,
        context: Literal["without", "with"] = "without",
    ) -> None:
        super().__init__()
        if children < 1 or depth < 1 or low != low or context not in ("without", "with"):
            raise ValueError(
                'verirl: children >= 1, depth >= 1, a number as low and context "with" or "without" are needed, '
                f"got {children}, {depth}, {low} and {context!r}"
            )
        self.checker = find(checker, "grader") if isinstance(checker, str) else checker
        self.low, self.each, self.depth, self.revise, self.context = low, children, depth, revise or told_back, context

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """The first drafts, start after start, then round after round the revisions in the order of their drafts."""
        first = policy.rollout(starts, n, rng)
        level = _named(first, 0, 0, [None] * len(first))
        start_of, parts, count = [starts[row // n] for row in range(len(first))], [level], len(first)
        for depth in range(1, self.depth + 1):
            revised, of = [], []
            for row, item in enumerate(level.items):
                score, why = score_of(self.checker, item)
                again = self.revise(start_of[row], item, why) if score is not None and score < self.low else None
                if again is not None:
                    revised.append(again)
                    of += [row] * self.each
            if not revised:
                break
            replies, base = policy.rollout(revised, self.each, rng), torch.tensor(of, device=level.device)
            replies = replies.replace(group=level.group[base])
            if self.context == "without":
                replies = of_bare_starts(replies, level, base)
            level = _named(replies, depth, count, [level.items[row]["draft"] for row in of])
            start_of, count = [start_of[row] for row in of], count + len(level)
            parts.append(level)
        return concatenate(parts)


def told_back(start: Start, item: Item, why: str) -> Start:
    """The prompt, the draft, and what was said of it: a text that asks again, or messages that go on.

    >>> print(told_back(Start("a", {"prompt": "Add."}), {"response": "y = a"}, "2 of 3 tests fail").fields["prompt"])
    Add.
    <BLANKLINE>
    An earlier answer:
    y = a
    <BLANKLINE>
    What was said of it: 2 of 3 tests fail
    Answer again, without its faults.
    <BLANKLINE>
    """
    prompt, said = start.fields["prompt"], why[:_LONGEST] or "it is wrong"
    asked = f"What was said of it: {said}\nAnswer again, without its faults.\n"
    if isinstance(prompt, str):
        told: Any = f"{prompt}\n\nAn earlier answer:\n{item['response']}\n\n{asked}"
    else:
        told = [*prompt, {"role": "assistant", "content": item["response"]}, {"role": "user", "content": asked.rstrip()}]
    return start._replace(fields={**start.fields, "prompt": told})


def _named(traj: Trajectories, depth: int, first: int, revises: Sequence[str | None]) -> Trajectories:
    """The rows with their names, from number `first` on, what each revises, and the round."""
    items = [
        {**item, "draft": str(first + row), "revises": above}
        for row, (item, above) in enumerate(zip(traj.items, revises, strict=True))
    ]
    return traj.replace(items=items, extras={**traj.extras, "revision": torch.full((len(traj),), depth, device=traj.device)})
