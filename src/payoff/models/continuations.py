"""Rewards of steps from continuations: what a policy makes of a rollout from here on says what the steps so far are worth.

Nothing is labelled and nothing is trained here; a head that learns from such labels is in `learned_values`. Any policy that can
`resume` serves, and any reward of finished rollouts.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import find, index, method
from payoff.pipeline import Policy, Signal, Verdict
from payoff.trajectories import Channel, Rewards, Trajectories, outcome, place_steps

_AT_ONCE = 2048  # continuations asked for in one call


class PrefixValues(NamedTuple):
    """What came of every place between two steps [N, S+1]: k = 0 is the start, k = the number of steps the rollout's own end.

    value:  the mean outcome of the continuations from there, at the end the rollout's own outcome; 0 where not known
    right:  how many outcomes were above 1/2; count: how many were known (at the end both are of the one outcome there is)
    known:  where a place exists and an outcome is known. end: the last place of each row. drawn: continuations asked for
    """

    value: Float[Tensor, "N S1"]
    right: Float[Tensor, "N S1"]
    count: Float[Tensor, "N S1"]  # type: ignore[assignment]  # the field takes the place of tuple.count
    known: Bool[Tensor, "N S1"]
    end: Bool[Tensor, "N S1"]
    drawn: int


@torch.no_grad()
def prefix_values(policy: Policy, reward: Signal, traj: Trajectories, *, n: int = 8, rng: torch.Generator) -> PrefixValues:
    """V(prefix) before every step and at the end, by n continuations of each prefix (Monte Carlo).

    policy: who continues; the values are those of this policy, whoever wrote the rollouts
    reward: a signal; a rollout's outcome is all that its channels pay

    Each mean is unbiased for the value and has variance var / n. Rows of one group begin alike, so the start is looked at once
    for each group. A continuation without verdict is left out. The last place costs nothing: there the outcome is known.
    Raises ValueError for n < 1, and whatever the policy raises where it cannot resume.

    >>> from payoff.policies.tabular import Tabular
    >>> from payoff.trajectories import place_outcome
    >>> def second(traj):  # the second letter decides
    ...     return {"b": place_outcome(traj.actions[:, 1].double(), torch.ones(len(traj), dtype=torch.bool), traj)}
    >>> policy = Tabular(2, 2)
    >>> found = prefix_values(policy, second, policy.sequences(), n=400, rng=torch.Generator().manual_seed(0))
    >>> found.value[:, 2].tolist(), bool(((found.value[:, :2] - 0.5).abs() < 0.1).all()), found.drawn
    ([0.0, 1.0, 0.0, 1.0], True, 2000)
    """
    if n < 1:
        raise ValueError(f"prefix_values: n must be at least 1, got {n}")
    before = torch.cat([torch.full_like(traj.step[:, :1], -1), traj.step[:, :-1]], 1)
    begins = traj.exists & (traj.step != before)
    steps = begins.sum(1)
    number = begins.long().cumsum(1) - 1
    group = traj.group.unique(return_inverse=True)[1]
    row = torch.arange(len(traj), device=traj.device)
    first = torch.full_like(row, len(traj)).scatter_reduce(0, group, row, "amin")[group]
    ask = begins & ((number > 0) | (first == row)[:, None])
    rows, at = ask.nonzero(as_tuple=True)
    shape = len(traj), int(steps.max()) + 1 if len(traj) else 1
    total, right, count = torch.zeros(3, *shape, dtype=torch.float64, device=traj.device)
    for some in torch.arange(len(rows), device=traj.device).split(max(1, _AT_ONCE // n)):
        worth, sure = outcomes(reward, policy.resume(traj, rows[some], at[some], n, rng))
        worth, sure = worth.to(traj.device).view(-1, n), sure.to(traj.device).view(-1, n)
        where = rows[some], number[rows[some], at[some]]
        total[where] = torch.where(sure, worth, 0).sum(1)
        right[where] = (sure & (worth > 0.5)).double().sum(1)
        count[where] = sure.double().sum(1)
    for table in (total, right, count):
        table[:, 0] = table[first, 0]
    own, settled = outcomes(reward, traj)
    total[row, steps], right[row, steps] = torch.where(settled, own, 0), (settled & (own > 0.5)).double()
    count[row, steps] = settled.double()
    place = torch.arange(shape[1], device=traj.device)
    known = (place <= steps[:, None]) & (count > 0)
    mean = torch.where(known, total / count.clamp(min=1), 0)
    return PrefixValues(mean, right, count, known, place == steps[:, None], n * len(rows))


def outcomes(reward: Signal, traj: Trajectories) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """All that the channels of a reward pay in each rollout, in float64, and where all of it is known (0 elsewhere).

    >>> from payoff.examples import four_answers
    >>> one = Channel(torch.ones(4, 1), torch.tensor([[True], [True], [False], [True]]))
    >>> outcomes(lambda traj: {"a": one, "b": one}, four_answers())[0].tolist()
    [6.0, 4.0, 0.0, 2.0]
    """
    paid = [outcome(channel, traj) for channel in reward(traj).values()]
    known = torch.stack([valid for _, valid in paid]).all(0)
    return torch.where(known, torch.stack([value.double() for value, _ in paid]).sum(0), 0), known


def best_of_value(right: Float[Tensor, "*shape"], count: Float[Tensor, "*shape"], k: int) -> Float[Tensor, "*shape"]:
    """The chance that one of k continuations is right, from `right` of `count` that were: 1 - C(count - right, k) / C(count, k).

    Unbiased for 1 - (1 - V)^k, as putting the share into that formula is not. Raises ValueError where some count is in 1..k - 1
    (what has none is 0).

    >>> best_of_value(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.full((4,), 4.0), 2)
    tensor([0.0000, 0.5000, 0.8333, 1.0000])
    """
    few = (count > 0) & (count < k)
    if few.any():
        raise ValueError(f"best_of_value: {int(count[few][0])} continuations say nothing of the best of {k}")
    missed = torch.ones_like(right + count)
    for j in range(k):
        missed = missed * ((count - right - j).clamp(min=0) / (count - j).clamp(min=1))
    return torch.where(count > 0, 1 - missed, 0)


@method("completion-values", kind="model", paper="arXiv:2312.08935")
class CompletionValues(nn.Module):
    """Pay each step what n continuations from its end come to: the share that is right, or whether any is (Math-Shepherd).

    p_k = mean outcome of the continuations after step k ("soft"), or 1 if any outcome is above 1/2, else 0 ("hard"); the last step
    is paid the rollout's own outcome. Channel "process", at the end of every step.

    policy: who continues; a run hands over a copy of the policy as it starts, which stays as it is
    reward: a registered grader or signal of finished rollouts, by name; "module:function", a grader; or a signal
    n:      continuations of each prefix
    seed:   the draws depend on it and on the actions of the batch, so a batch that is scored twice is paid the same twice

    "soft" is unbiased for the value V(prefix) of that policy; "hard" for 1 - (1 - V)^n, which grows with n. Values are no rewards
    to add up (`pav` pays their gains; `pr-clip-delta`, `pure` are made for such scores). Costs n continuations for every step but
    the last. A step all of whose continuations lack a verdict is unknown.
    Raises LookupError for an unknown reward, ValueError for n < 1 and other labels.

    >>> from payoff.policies.tabular import Tabular
    >>> policy = Tabular(2, 2, logits=torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [0.0, 0.0]]))  # after a comes a
    >>> from payoff.pipeline import Start
    >>> traj = policy.rollout([Start("s", {"leaf_rewards": {"aa": 1.0}})], 4, torch.Generator().manual_seed(1))
    >>> model = CompletionValues(policy=policy, reward="tree-leaf", n=4)
    >>> [(item["response"], paid.tolist()) for item, paid in zip(traj.items, model(traj)["process"].value)][:2]
    [('aa', [1.0, 1.0]), ('bb', [0.0, 0.0])]
    """

    def __init__(
        self, *, policy: Any, reward: str | Callable[..., Any], n: int = 8, labels: Literal["soft", "hard"] = "soft", seed: int = 0
    ) -> None:
        super().__init__()
        _check("completion-values", n, labels)
        self.policy, self.reward = policy, named_reward(reward)
        self.n, self.labels, self.seed = n, labels, seed

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "process"."""
        label, known = step_labels(prefix_values(self.policy, self.reward, traj, n=self.n, rng=draws(self.seed, traj)), self.labels)
        return {"process": place_steps(label.float(), known, traj)}


@method("pav", kind="model", paper="arXiv:2410.08146")
class ProverProgress(nn.Module):
    """Pay each step how far it brought a prover: the gain in the prover's chance to end rightly (process advantage verifier).

    A_k = V(after step k) - V(before step k), with V(s) = 1 - (1 - V^policy(s))^best_of the chance that one of so many continuations
    is right, estimated without bias from n of them; at the end V is the outcome. Channel "progress", at the end of every step.

    policy:  the prover's; a run hands over a copy of the policy as it starts, which stays as it is
    reward:  a registered grader or signal of finished rollouts, right above 1/2, by name; "module:function", a grader; or a signal
    best_of: of how many continuations the prover takes the best; 1: its own value, and any outcome will do
    n:       continuations of each prefix, at least best_of
    seed:    the draws depend on it and on the actions of the batch

    Credit it as `immediate`, beside the outcome's own return, with a weight (3 to 5 in the paper): gradient of
    E sum_k log pi(a_k) (return + weight A_k). Paid as a reward and summed up it telescopes to the outcome less V(before step k): a
    plain policy gradient with a baseline, whatever the prover. With the policy's own values (best_of 1, no change since) the
    direction is the policy gradient's, 1 + weight times as long. A prover that always or never gets there tells no steps apart.
    Two steps in a row share an estimate, with opposite signs: noise alternates. Costs n continuations for every step.
    Raises LookupError for an unknown reward, ValueError for best_of < 1 or n below it.

    >>> from payoff.policies.tabular import Tabular
    >>> policy = Tabular(2, 2, logits=torch.tensor([[0.0, 0.0], [0.0, -torch.inf], [0.0, 0.0]]))  # after a comes a
    >>> from payoff.pipeline import Start
    >>> traj = policy.rollout([Start("s", {"leaf_rewards": {"aa": 1.0}})], 4, torch.Generator().manual_seed(1))
    >>> gain = ProverProgress(policy=policy, reward="tree-leaf", best_of=1, n=64)(traj)["progress"].value
    >>> [(item["response"], bool(paid[0] > 0.3), bool(paid[0] < -0.3)) for item, paid in zip(traj.items, gain)][:2]
    [('aa', True, False), ('bb', False, True)]
    """

    def __init__(self, *, policy: Any, reward: str | Callable[..., Any], best_of: int = 4, n: int = 8, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= best_of <= n:
            raise ValueError(f"pav: best_of must lie in 1..n = 1..{n}, got {best_of}")
        self.policy, self.reward = policy, named_reward(reward)
        self.best_of, self.n, self.seed = best_of, n, seed

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "progress"."""
        found = prefix_values(self.policy, self.reward, traj, n=self.n, rng=draws(self.seed, traj))
        value, known, end = found.value, found.known, found.end
        if self.best_of > 1:
            enough = found.count >= self.best_of
            best = best_of_value(torch.where(enough, found.right, 0), torch.where(enough, found.count, 0), self.best_of)
            value, known = torch.where(end, found.right, best), known & (enough | end)
        both = known[:, 1:] & known[:, :-1]
        gain = torch.where(both, value[:, 1:] - value[:, :-1], 0)
        return {"progress": place_steps(gain.float(), both, traj)}


def step_labels(found: PrefixValues, labels: str) -> tuple[Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
    """(label of every step, whether it is known): the value behind the step, or whether anything right came of it.

    >>> sure = torch.ones(1, 3, dtype=torch.bool)
    >>> value, right = torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> found = PrefixValues(value, right, 4 * torch.ones(1, 3), sure, sure, 8)
    >>> step_labels(found, "soft")[0].tolist(), step_labels(found, "hard")[0].tolist()
    ([[0.25, 0.0]], [[1.0, 0.0]])
    """
    label = found.value if labels == "soft" else (found.right > 0).to(found.value)
    return label[:, 1:], found.known[:, 1:]


def named_reward(reward: str | Callable[..., Any]) -> Signal:
    """A signal: itself, a registered signal or grader by its name, or a grader of one's own at "module:function".

    Raises LookupError for a name that is neither, ValueError for a place where there is no function.

    >>> from payoff.examples import four_answers
    >>> named_reward("chain-format")(four_answers())["outcome"].value.sum(1).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    if not isinstance(reward, str):
        return reward
    if ":" in reward:
        return _Graded(function_at(reward))
    if ("signal", reward.replace("_", "-")) in index():
        return find(reward, "signal")
    return _Graded(find(reward, "grader"))


def draws(seed: int, traj: Trajectories) -> torch.Generator:
    """A generator that depends on the seed and on what was done in these rollouts.

    >>> from payoff.examples import four_answers
    >>> a, b = draws(0, four_answers()), draws(0, four_answers())
    >>> float(torch.rand((), generator=a)) == float(torch.rand((), generator=b))
    True
    """
    shown = traj.exists.view(*traj.mask.shape, *[1] * (traj.actions.ndim - 2))
    done = torch.where(shown, traj.actions, 0).detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    digest = hashlib.blake2b(f"{seed} {traj.length.tolist()} ".encode() + done, digest_size=7)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest(), "big"))


def function_at(place: str) -> Callable[..., Any]:
    """The function at "module:name"; ValueError where there is none.

    >>> function_at("math:sqrt")(4.0)
    2.0
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no function at {place!r}: {error}") from None
    return found


class _Graded:
    """A grader of single items as a signal, channel "outcome"; what it does not know is unknown."""

    def __init__(self, grader: Callable[..., Any]) -> None:
        self.grader = grader
        self.wanted = list(inspect.signature(grader).parameters)

    def __call__(self, traj: Trajectories) -> Rewards:
        said = [self._total(self.grader(**{name: item[name] for name in self.wanted if name in item})) for item in traj.items]
        value = torch.tensor([0.0 if x is None else x for x in said], dtype=torch.float64, device=traj.device)
        known = torch.tensor([x is not None for x in said], dtype=torch.bool, device=traj.device)
        # the whole outcome at the end: steps do not matter here
        dense = value.new_zeros(traj.mask.shape).scatter(1, traj.length[:, None] - 1, value[:, None])
        return {"outcome": Channel(dense, known[:, None])}

    @staticmethod
    def _total(said: Any) -> float | None:
        if isinstance(said, Verdict):
            said = said.value if said.valid else None
        if isinstance(said, list | tuple):
            said = None if any(x is None for x in said) else sum(said)
        return None if said is None or not math.isfinite(said) else float(said)


def _check(whose: str, n: int, labels: str) -> None:
    if n < 1 or labels not in ("soft", "hard"):
        raise ValueError(f'{whose}: n must be at least 1 and labels "soft" or "hard", got {n} and {labels!r}')
