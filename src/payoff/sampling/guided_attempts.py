"""Failed rollouts tried again with guidance, and kept as rollouts of the start without it (or with it)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from payoff.catalogue import find, method
from payoff.pipeline import Policy, Start, Verdict
from payoff.trajectories import Trajectories, concatenate

Item = Mapping[str, Any]
Guide = Callable[[Start, Item, str], "Start | None"]  # of a start, a failed item and why it failed: the start with guidance
_SAID = ("response", "steps", "tokens")


@method("agent-rlvr", kind="sampler", paper="arXiv:2506.11425", sees="group")
class GuidedAttempts(nn.Module):
    """n rollouts of every start, and `again` more for each that failed, from a start with guidance, in the group (Agent-RLVR).

    checker: what passes: a grader, by its registered name or as a function; above 1/2 passes, and its reason is told to the guide.
             No verdict is no failure
    guide:   makes the start with guidance, of the start, the failed item and the reason, or None where there is nothing to say;
             None: `told_more`, which tells the fields `plan` and `hints` of the start, and the reason
    again:   guided attempts for each failed rollout
    context: what their rows are rollouts of. "without": the bare start, so that the policy learns to do it unaided; their "old"
             log-probabilities stay those with the guidance in view, of who sampled them: `truncated-importance` then has the
             weight pi(y | x) / pi(y | x, g) of each rollout (level "sequence"), unbiased but for its bound; `policy-gradient`
             has none. "with": the start with guidance, on-policy, which teaches to use it

    extras["guided"] [N] says which rows are guided. Without failures, or a guide with nothing to say, all are plain rollouts. For
    preferences, the paper's update, pair passing with failing rollouts of the group, by `best-worst` or `all-pairs`, for `dpo`; a
    start all of whose rollouts pass, or fail, gives no pair. Evaluate without guidance. A guide that tells the answer teaches to
    copy: let the guidance of another start show it. Groups have unlike sizes, and their means are of plain and guided together.

    Raises ValueError for again below 1 and an unknown context.

    >>> from payoff.tasks.tree import Tree
    >>> task, policy = Tree(2, 2, density=0.25), find("tabular", "policy")(2, 2)
    >>> said_plainly = lambda start, item, why: start
    >>> attempts = GuidedAttempts(checker="tree-leaf", guide=said_plainly)
    >>> traj = attempts(policy, task.starts(2, torch.Generator().manual_seed(0)), 4, torch.Generator().manual_seed(0))
    >>> failed = [task.truth(traj).value.sum(1)[row] < 0.5 for row in range(8)]
    >>> int(traj.extras["guided"].sum()) == int(sum(failed))
    True
    """

    def __init__(
        self,
        *,
        checker: str | Callable[..., Any],
        guide: Guide | None = None,
        again: int = 1,
        context: Literal["without", "with"] = "without",
    ) -> None:
        super().__init__()
        if again < 1 or context not in ("without", "with"):
            raise ValueError(f'agent-rlvr: again >= 1 and context "with" or "without" are needed, got {again} and {context!r}')
        self.checker = find(checker, "grader") if isinstance(checker, str) else checker
        self.guide, self.again, self.context = guide or told_more, again, context

    @torch.no_grad()
    def forward(self, policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """The plain rollouts, start after start, then the guided ones in the order of the rollouts that failed."""
        attempts = policy.rollout(starts, n, rng)
        guided, of = [], []
        for row, item in enumerate(attempts.items):
            passes, why = judged(self.checker, item)
            helped = self.guide(starts[row // n], item, why) if passes is False else None
            if helped is not None:
                guided.append(helped)
                of.append(row)
        plain = attempts.replace(
            extras={**attempts.extras, "guided": torch.zeros(len(attempts), dtype=torch.bool, device=attempts.device)}
        )
        if not guided:
            return plain
        replies = policy.rollout(guided, self.again, rng)
        base = torch.tensor(of, device=attempts.device).repeat_interleave(self.again)
        marked = {**replies.extras, "guided": torch.ones(len(replies), dtype=torch.bool, device=replies.device)}
        replies = replies.replace(group=attempts.group[base], extras=marked)
        return concatenate([plain, replies if self.context == "with" else of_bare_starts(replies, attempts, base)])


def of_bare_starts(replies: Trajectories, attempts: Trajectories, base: Int[Tensor, " R"]) -> Trajectories:
    """The replies as rollouts of what the attempts `base` were rollouts of: all that belongs to a start comes from its attempt.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> (item,) = of_bare_starts(traj.select(torch.tensor([1])), traj, torch.tensor([2])).items
    >>> item["prompt"] == traj.items[2]["prompt"], item["response"] == traj.items[1]["response"]
    (True, True)
    """
    items = [
        {**attempts.items[row], **{name: reply[name] for name in _SAID if name in reply}}
        for row, reply in zip(base.tolist(), replies.items, strict=True)
    ]
    own = {name: attempts.extras[name][base] for name, of in replies.extras.items() if of.ndim == 1 and name in attempts.extras}
    return replies.replace(items=items, extras={**replies.extras, **own})


def told_more(start: Start, item: Item, why: str) -> Start | None:
    """The prompt with a plan (field `plan`), why an attempt failed, and hints on how to work (field `hints`); None without any.

    >>> print(told_more(Start("a", {"prompt": "Fix it.", "plan": "Look at f."}), {}, "test 2 failed").fields["prompt"])
    Fix it.
    <BLANKLINE>
    Plan: Look at f.
    An earlier attempt failed: test 2 failed
    <BLANKLINE>
    """
    parts = [("Plan", start.fields.get("plan")), ("An earlier attempt failed", why), ("Hints", start.fields.get("hints"))]
    told = [f"{title}: {text}\n" for title, text in parts if text]
    if not told:
        return None
    return start._replace(fields={**start.fields, "prompt": f"{start.fields['prompt']}\n\n{''.join(told)}"})


def judged(checker: Callable[..., Any], item: Item) -> tuple[bool | None, str]:
    """Whether an item passes, above 1/2, None where that is not known; and what the checker says about it.

    >>> judged(lambda response: Verdict(0.0, True, "too short"), {"response": "a", "prompt": "b"})
    (False, 'too short')
    """
    value, why = score_of(checker, item)
    return (None if value is None else value > 0.5), why


def score_of(checker: Callable[..., Any], item: Item) -> tuple[float | None, str]:
    """What a checker gives an item, whose fields it is called with by name, None without verdict; and what it says about it.

    >>> score_of(lambda response: len(response) / 4, {"response": "a", "prompt": "b"})
    (0.25, '')
    """
    wanted = inspect.signature(checker).parameters.values()
    said = checker(**{p.name: item[p.name] for p in wanted if p.name in item})
    why = said.reason if isinstance(said, Verdict) else ""
    if isinstance(said, Verdict):
        said = said.value if said.valid else None
    return (None if said is None else float(said)), why
