"""Subgoals that a language model names and whose completion it judges, each paid when first reached; how good a judge is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from payoff.catalogue import method
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, prefix_gains


class Transition(NamedTuple):
    """What a judge is asked about: whether `subgoal` was reached by this one action. `item` is the trajectory's row."""

    subgoal: str
    before: Any
    action: Any
    after: Any
    item: Mapping[str, Any]


@method("calm", kind="signal", paper="arXiv:2409.12798")
def reached_subgoals(
    traj: Trajectories,
    *,
    subgoals: Sequence[str] | Callable[[Mapping[str, Any]], Sequence[str]],
    judge: Callable[[Sequence[Transition]], Sequence[bool | None]],
    weight: float = 1.0,
    form: Literal["bonus", "potential"] = "bonus",
    discount: float = 1.0,
    of: str = "observations",
) -> Rewards:
    """Pay an action that reaches a subgoal not reached before, as a judge sees it (CALM), channel "subgoals".

    "bonus": r_t = weight 1[some open subgoal is reached by action t]. Each pays once, so a rollout gets at most weight times their
    number, however often the judge says so. Added to the task's reward it may change what is best.
    "potential": discount Phi(after) - Phi(before) with Phi = weight times the subgoals reached so far, 0 where it ended for good:
    with the credit's own discount the best policies stay the best, provided that the judge goes by the transition alone.
    A judge who never says yes pays 0 in either form.

    subgoals: what there is to reach, or a function that proposes it for a row: a language model given the task's text
    judge:    for many transitions at once, whether each reached its subgoal; None where it does not know. Equal questions of a
              batch are asked once, none about what lies beyond the end. Nobody is asked about a rollout without subgoals
    of:       traj.extras[of] [N, T+1, ...] are the states, given as numbers or lists; "turns" takes them from the items' turns
              instead: before is what was last seen (at first the prompt), action what was said, after what came back

    An action about which the judge knows nothing of some open subgoal is unknown (in "potential" form so is everything after it),
    and the subgoal stays open. Raises ValueError where there are no such states, for another count of answers than was asked, and
    for options out of range.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([0.0, 1.0, 2.0, 1.0]).repeat(4, 1)})
    >>> there = lambda asked: [f"{q.after:g}" == q.subgoal for q in asked]
    >>> reached_subgoals(traj, subgoals=["1", "2"], judge=there)["subgoals"].value[0]
    tensor([1., 1., 0.])
    """
    if form not in ("bonus", "potential") or not 0 <= discount <= 1:
        raise ValueError(f'calm: form must be "bonus" or "potential" and discount lie in 0..1, got {form!r} and {discount}')
    said, known = _judged(traj, subgoals, judge, of)
    before = (said.cumsum(1) - said.int()) > 0  # reached earlier: no longer open
    new, unsure = said & ~before, (~known & ~before).any(2)
    reasons = dict.fromkeys(traj.id[unsure.any(1)].tolist(), "the judge has no verdict on a subgoal")
    if form == "bonus":
        value = weight * new.any(2).to(torch.get_default_dtype())
    else:
        reached = weight * torch.nn.functional.pad(new.sum(2).cumsum(1), (1, 0)).to(torch.get_default_dtype())
        final = torch.arange(traj.width + 1, device=traj.device) == traj.length[:, None]
        ended = final & (traj.stop != StopReason.truncated)[:, None]
        value = prefix_gains(torch.where(ended, 0, reached), traj, discount=discount)
        unsure = unsure.cumsum(1) > 0
    valid = ~unsure if reasons else torch.ones(len(traj), 1, dtype=torch.bool, device=traj.device)
    return {"subgoals": Channel(torch.where(traj.exists & valid, value, 0), valid, reasons)}


class Quality(NamedTuple):
    """How a judge of transitions compares with what is true; NaN where nothing can be said."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    asked: int


def judge_quality(said: Bool[Tensor, " n"], true: Bool[Tensor, " n"]) -> Quality:
    """Accuracy, precision, recall and their harmonic mean, of yes-or-no verdicts on labelled transitions.

    A judge with a false positive rate f and a false negative rate n, of whose questions a share b is to be answered yes, has
    F1 = 2 b (1 - n) / (b (2 - n) + (1 - b) f) in the limit.

    >>> judge_quality(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    Quality(accuracy=0.5, precision=0.5, recall=0.5, f1=0.5, asked=4)
    """
    hits, claimed, real = (int(x.sum()) for x in (said & true, said, true))
    share = lambda part, of: part / of if of else math.nan
    asked = len(said)
    return Quality(
        share(int((said == true).sum()), asked), share(hits, claimed), share(hits, real), share(2 * hits, claimed + real), asked
    )


def _judged(
    traj: Trajectories, subgoals: Any, judge: Callable[[Sequence[Transition]], Sequence[bool | None]], of: str
) -> tuple[Bool[Tensor, "N T G"], Bool[Tensor, "N T G"]]:
    """Which action reached which subgoal, as the judge says, and whether it said anything."""
    propose = subgoals if callable(subgoals) else lambda item: subgoals
    items = list(traj.items) or [{} for _ in range(len(traj))]
    goals = [list(propose(item)) for item in items]
    index: list[tuple[int, int, int, int]] = []  # row, position, subgoal, question
    asked: dict[tuple[int | str, ...], int] = {}
    questions: list[Transition] = []
    for row, (item, wanted) in enumerate(zip(items, goals, strict=True)):
        for position, before, action, after in _transitions(traj, row, item, of):
            for number, goal in enumerate(wanted):
                question = Transition(goal, before, action, after, item)
                key = (repr((item.get("start", item.get("prompt"))) if item else ""), repr(question[:4]))
                place = asked.setdefault(key, len(questions))
                if place == len(questions):
                    questions.append(question)
                index.append((row, position, number, place))
    answers = list(judge(questions)) if questions else []
    if len(answers) != len(questions):
        raise ValueError(f"calm: the judge was asked {len(questions)} questions and gave {len(answers)} answers")
    said = torch.zeros(len(traj), traj.width, max([len(g) for g in goals] or [0], default=0), dtype=torch.bool)
    known = torch.ones_like(said)
    for row, position, number, place in index:
        said[row, position, number] = bool(answers[place])
        known[row, position, number] = answers[place] is not None
    return said.to(traj.device), known.to(traj.device)


def _transitions(traj: Trajectories, row: int, item: Mapping[str, Any], of: str):
    """(position, before, action, after) of every transition of a trajectory, in order."""
    length = int(traj.length[row])
    if of == "turns":
        if "turns" not in item:
            raise ValueError("calm: there are no turns in these items")
        steps = traj.step[row, :length].tolist()
        last = {step: position for position, step in enumerate(steps)}
        before = item.get("prompt", "")
        for number, turn in enumerate(item["turns"]):
            if number in last:
                yield last[number], before, turn["said"], turn["observed"]
            before = turn["observed"]
        return
    states = traj.extras.get(of)
    if states is None or states.shape[1:2] != (traj.width + 1,):
        found = "none" if states is None else f"shape {list(states.shape)}"
        raise ValueError(f"calm: needs traj.extras[{of!r}] [N, T+1, ...] with T = {traj.width}, found {found}")
    seen, actions = states[row, : length + 1].tolist(), traj.actions[row, :length].tolist()
    for position in range(length):
        yield position, seen[position], actions[position], seen[position + 1]
