"""What specialists of several domains, their merge or the run on the mixture can do, and how far apart they act (M2RL's measures).

They sample and score, and train nothing. How far apart the weights are, and merging them, is in `payoff.search.merging`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.pipeline import Policy, Start
from payoff.trajectories import Channel, Trajectories, log_ratio, outcome

Right = Callable[[Trajectories], Channel]
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class CrossScores(NamedTuple):
    """The mean score of every policy on every prompt [P, S], NaN where no rollout has a verdict, and each prompt's domain."""

    score: Float64[Tensor, "P S"]
    policies: Sequence[str]
    domains: Sequence[str]

    def matrix(self) -> Float64[Tensor, "P D"]:
        """Mean scores of every policy (rows) in every domain, in the order in which the domains come; NaN where nothing is known.

        A specialist's row less the row of what all started from is what its training gave or took elsewhere: interference where
        it is negative.
        """
        columns = [torch.tensor([own == name for own in self.domains]) for name in dict.fromkeys(self.domains)]
        return torch.stack([self.score[:, rows].nanmean(1) for rows in columns], 1)

    def also_solved(self, threshold: float = 0.5) -> Float64[Tensor, "P P"]:
        """Of the prompts that i solves (score above `threshold`), the share that j solves too; NaN where i solves none.

        Prompts without a verdict for one of the two are left out. High both ways: the two have the same prompts in reach, and one
        can learn from what the other is taught; high one way only: one has what the other has, and more.
        """
        known = (~self.score.isnan()).double()
        solved = torch.where(self.score.isnan(), 0, (self.score > threshold).double())
        return (solved @ solved.T) / (solved @ known.T)

    def solved_by(self, threshold: float = 0.5) -> dict[tuple[str, ...], float]:
        """The share of prompts that exactly these policies solve, by their names; of prompts that all have a verdict on."""
        rows = (~self.score.isnan()).all(0)
        solved = (self.score[:, rows] > threshold).T.tolist()
        named = [tuple(name for name, yes in zip(self.policies, one, strict=True) if yes) for one in solved]
        return {names: named.count(names) / len(named) for names in sorted(set(named))}


class Divergences(NamedTuple):
    """KL(row || column) in nats: of a whole rollout [P, P], its standard error over prompts, and the mean of an action."""

    rollout: Float64[Tensor, "P P"]
    error: Float64[Tensor, "P P"]
    action: Float64[Tensor, "P P"]


class SelfVerification(NamedTuple):
    """How well a policy judges its own answers: shares, None where there is nothing to take a share of.

    accuracy: of readable verdicts that are true; accepts, rejects: of right answers that it accepts, of wrong ones that it rejects;
    right: of answers with a known outcome that are right; unread: of verdicts on these that cannot be read
    """

    accuracy: float | None
    accepts: float | None
    rejects: float | None
    right: float | None
    unread: float | None


def cross_scores(
    policies: Mapping[str, Policy], domains: Mapping[str, Sequence[Start]], n: int, rng: torch.Generator, right: Right
) -> CrossScores:
    """n rollouts of every policy on every prompt of every domain, scored by `right`: who is good at what (M2RL).

    Compare runs that had equal rollouts. Raises ValueError without policies or prompts, and for n below 1.

    >>> from payoff.policies.tabular import Tabular
    >>> from payoff.trajectories import place_outcome
    >>> sure = lambda action: Tabular(2, 1, logits=torch.tensor([[50.0 * (action == 0), 50.0 * (action == 1)]]))
    >>> wanted = {"a": [Start("x", {"wanted": 0})], "b": [Start("y", {"wanted": 1})]}
    >>> hit = lambda traj: place_outcome(
    ...     torch.tensor([float(a == item["wanted"]) for a, item in zip(traj.actions[:, 0], traj.items)]), traj.length > 0, traj
    ... )
    >>> cross_scores({"a": sure(0), "b": sure(1)}, wanted, 2, torch.Generator().manual_seed(0), hit).matrix()
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    starts = [start for of in domains.values() for start in of]
    if not policies or not starts or n < 1:
        raise ValueError(
            f"cross_scores: needs a policy, a prompt and n >= 1, got {len(policies)} policies, {len(starts)} prompts, n = {n}"
        )
    rows = [_scores(policy, starts, n, rng, right)[0] for policy in policies.values()]
    return CrossScores(torch.stack(rows), list(policies), [name for name, of in domains.items() for _ in of])


@torch.no_grad()
def divergences(policies: Mapping[str, Policy], starts: Sequence[Start], n: int, rng: torch.Generator) -> Divergences:
    """How far apart policies act on the same prompts: KL(pi_i || pi_j) = E_{y ~ pi_i} sum_t log pi_i(y_t) - log pi_j(y_t) (M2RL).

    Estimated by n rollouts of each prompt by each policy, unbiased: estimates of a divergence near 0 may be negative. The error is
    over prompts, NaN for fewer than two; `action` divides the sum over all rollouts by the number of their actions. 0 on the
    diagonal, exactly. Infinite where j cannot do what i did. Raises ValueError as `cross_scores`.

    >>> from payoff.policies.tabular import Tabular
    >>> table = lambda *logits: Tabular(2, 1, logits=torch.tensor([logits]).log())
    >>> both = {"sure": table(1.0, 1e-9), "even": table(0.5, 0.5)}
    >>> divergences(both, [Start("x", {})], 4, torch.Generator().manual_seed(0)).rollout[0]  # log 2
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    if not policies or not starts or n < 1:
        raise ValueError(
            f"divergences: needs a policy, a prompt and n >= 1, got {len(policies)} policies, {len(starts)} prompts, n = {n}"
        )
    found = torch.zeros(3, len(policies), len(policies), dtype=torch.float64)
    for i, one in enumerate(policies.values()):
        traj = one.rollout(starts, n, rng)
        own, actions = one.evaluate(traj).logp, int(traj.own.sum())
        for j, other in enumerate(policies.values()):
            if i != j:
                each = log_ratio(own, other.evaluate(traj).logp, traj).double().sum(1).cpu()
                means = each.view(len(starts), n).mean(1)
                error = means.std() / len(starts) ** 0.5 if len(starts) > 1 else torch.nan
                found[:, i, j] = torch.tensor([float(means.mean()), float(error), float(each.sum()) / max(actions, 1)])
    return Divergences(*found)


def self_verification(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    right: Right,
    *,
    ask: Callable[[Start, Mapping[str, Any]], Start] | None = None,
    read: Callable[[Mapping[str, Any]], bool | None] | None = None,
    threshold: float = 0.5,
) -> SelfVerification:
    """Whether a policy knows if its own answers are right: n answers to every prompt, and one verdict of its own on each (M2RL).

    right:     the outcome of the answers, right above `threshold`; answers without one are not asked about
    ask, read: the start that asks whether an answer (its item) is right, and what was said to that, None where it cannot be read;
               None: `asked_back`, and the last yes or no. The paper's words are not known: these are ours

    Raises ValueError as `cross_scores`.

    >>> from payoff.policies.tabular import Tabular
    >>> from payoff.trajectories import place_outcome
    >>> coin = Tabular(2, 1, logits=torch.tensor([[50.0, 0.0]]))  # always the first
    >>> always = lambda traj: place_outcome(torch.ones(len(traj)), traj.length > 0, traj)
    >>> said = dict(ask=lambda start, item: start, read=lambda item: item["response"] == "a")
    >>> self_verification(coin, [Start("x", {})], 4, torch.Generator().manual_seed(0), always, **said)
    SelfVerification(accuracy=1.0, accepts=1.0, rejects=None, right=1.0, unread=0.0)
    """
    if not starts or n < 1:
        raise ValueError(f"self_verification: needs a prompt and n >= 1, got {len(starts)} prompts, n = {n}")
    _, value, known, traj = _scores(policy, starts, n, rng, right)
    rows = known.nonzero()[:, 0].tolist()
    if not rows:
        return SelfVerification(None, None, None, None, None)
    with torch.no_grad():
        asked = policy.rollout([(ask or asked_back)(starts[row // n], traj.items[row]) for row in rows], 1, rng)
    truth = [bool(value[row] > threshold) for row in rows]
    said = [(read or _last_word)(item) for item in asked.items]
    pairs = [(one, true) for one, true in zip(said, truth, strict=True) if one is not None]
    share = lambda hits: sum(hits) / len(hits) if hits else None
    return SelfVerification(
        share([one == true for one, true in pairs]),
        share([one for one, true in pairs if true]),
        share([not one for one, true in pairs if not true]),
        share(truth),
        share([one is None for one in said]),
    )


def asked_back(start: Start, item: Mapping[str, Any]) -> Start:
    """The prompt with an answer and the question whether it is right: a text, or messages that go on.

    >>> print(asked_back(Start("a", {"prompt": "1+1="}), {"response": "3"}).fields["prompt"])
    1+1=
    <BLANKLINE>
    An answer:
    3
    <BLANKLINE>
    Is this answer right? Check it, and end with yes or no.
    <BLANKLINE>
    """
    prompt, asked = start.fields["prompt"], "Is this answer right? Check it, and end with yes or no.\n"
    if isinstance(prompt, str):
        told: Any = f"{prompt}\n\nAn answer:\n{item['response']}\n\n{asked}"
    else:
        told = [*prompt, {"role": "assistant", "content": item["response"]}, {"role": "user", "content": asked.rstrip()}]
    return start._replace(fields={**start.fields, "prompt": told})


@torch.no_grad()
def _scores(
    policy: Policy, starts: Sequence[Start], n: int, rng: torch.Generator, right: Right
) -> tuple[Float64[Tensor, " S"], Tensor, Tensor, Trajectories]:
    """Mean scores of the starts, NaN without a verdict; the score of every rollout, whether it is known, and the rollouts."""
    traj = policy.rollout(starts, n, rng)
    value, known = (x.cpu() for x in outcome(right(traj), traj))
    count = known.view(len(starts), n).sum(1)
    total = torch.where(known, value, 0).double().view(len(starts), n).sum(1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan), value, known, traj


def _last_word(item: Mapping[str, Any]) -> bool | None:
    said = _VERDICT.findall(item["response"])
    return said[-1].lower() == "yes" if said else None
