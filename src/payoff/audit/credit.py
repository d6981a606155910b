"""Does a credit pay the actions that mattered? Credit against the true advantage of every action, where that is known.

Truth is exact where everything can be enumerated (`exact_credit`, on the prefix tree) or where values are known in closed form
(`tasks.chain_values`), and sampled with a stated error elsewhere (`sampled_advantages`, for any policy that can resume).
What a credit is, a path of transforms from a channel to a weight for every action, is what `weigh` takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from payoff.audit.intervals_by_cluster import jackknife, share_interval, t_interval
from payoff.contents import needs
from payoff.enumeration import batches, paid, scored
from payoff.exact import compare, exact_gradient, expected_gradient, gradient_covariance
from payoff.intervals import Interval
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Policy, Target, Term, checked
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories, outcome

T = TypeVar("T")
_ROUNDING = 1e-9  # what is smaller than this share of the largest is 0: a sum of floats, and no number


class Cost(NamedTuple):
    """What a credit takes besides the batch itself: rollouts, sampled actions in them, calls of the policy, seconds."""

    rollouts: int
    actions: int
    calls: int
    seconds: float


class Climb(NamedTuple):
    """The policy gradient of one batch under a credit; g is the exact gradient of the truth, E the mean and C the covariance.

    bias: |E - g| / |g|. cosine: of E with g. variance: trace C / |g|^2. noise: trace C / |E|^2, which no factor changes.
    Each is nan where it would divide by 0.
    """

    bias: float
    cosine: float
    variance: float
    noise: float


@dataclass(frozen=True)
class CreditQuality:
    """How well the weights of actions say which of them mattered; None where a number would be 0 / 0.

    cosine:      of the weights with the true advantages, over actions: 1 is the advantage itself, up to a factor
    correlation: the same once each state's mean is taken from both, which is what the best baseline would leave: a constant, or
                 anything else that the state fixes, changes nothing
    share:       of |weight|, each state's mean taken off, on actions with |advantage| > threshold; beside it `even`, the share of
                 actions that are such, which a credit gets that knows nothing
    known:       the share of actions that have a weight
    climb:       what the gradient does, where it was enumerated
    Where all was enumerated the intervals have no width, and `method` says "exact".
    """

    cosine: Interval | None
    correlation: Interval | None
    share: Interval | None
    even: float | None
    known: float
    climb: Climb | None = None


class SampledAdvantage(NamedTuple):
    """Advantages from continuations: value and standard error [N, T], where known, and what they took."""

    value: Float[Tensor, "N T"]
    error: Float[Tensor, "N T"]
    valid: Bool[Tensor, "N T"]
    cost: Cost


def credit_quality(
    credit: Channel,
    advantage: Float[Tensor, "N T"],
    traj: Trajectories,
    *,
    state: Int[Tensor, "N T"] | None = None,
    probability: Float[Tensor, " N"] | None = None,
    error: Float[Tensor, "N T"] | None = None,
    threshold: float = 0.0,
    level: float = 0.95,
) -> CreditQuality:
    """Compare the weight of every action with its true advantage.

    Over the policy's own actions whose weight is known, with c the weight, A the advantage, w the trajectory's probability (or 1)
    and c', A' the two less their mean in the action's state:
    cosine = sum w c A / sqrt(sum w c^2 sum w A^2), correlation the same of c' and A',
    share = sum over |A| > threshold of w |c'| / sum w |c'|.

    state:       a number for what was known before each action; None: all actions are in one, and the correlation is Pearson's
    probability: of each trajectory, where all there are were listed; None: they are a sample, and intervals are jackknives that
                 leave out one group at a time (the states' means are taken as given)
    error:       the standard error of each advantage: its square is taken from A^2, so that noise in the truth does not make a
                 credit look worse. It must be independent of the credit's own noise. Thresholds do not know of it

    A trajectory's padding and actions without a weight are not read. Equal weights in every state have neither correlation nor
    share. Raises ValueError for a threshold below 0.

    >>> from payoff.examples import four_answers
    >>> traj, sure = four_answers(), torch.ones(4, 1, dtype=torch.bool)
    >>> advantage = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> found = credit_quality(Channel(advantage[:, :1], sure), advantage, traj)  # every action is paid for the first
    >>> round(found.cosine.value, 3), round(found.share.value, 3), round(found.even, 3)
    (0.667, 0.5, 0.444)
    """
    if threshold < 0:
        raise ValueError(f"credit_quality: threshold must be at least 0, got {threshold}")
    own = traj.own.to(credit.value.device)
    counted = own & credit.valid
    c = torch.where(counted, credit.value, 0).double()
    a = torch.where(counted, advantage.to(c.device), 0).double()
    e2 = torch.zeros_like(c) if error is None else torch.where(counted, error, 0).double().square()
    given = torch.ones(len(traj), dtype=torch.float64) if probability is None else probability.double()
    w = torch.where(counted, given.to(c.device)[:, None], 0)
    key = torch.zeros_like(own, dtype=torch.int64) if state is None else torch.where(counted, state, 0)
    c1, a1 = (_centred(x, key, w, counted) for x in (c, a))
    matters = counted & (a.abs() > max(threshold, _ROUNDING * float(a.abs().max()) if a.numel() else 0.0))
    columns = [c * a, c * c, a * a - e2, c1 * a1, c1 * c1, a1 * a1 - e2, c1.abs() * matters, c1.abs(), matters.double(), 1 + 0 * c]
    sums = torch.stack([(w * column).sum(1) for column in columns], 1)
    groups, inverse = traj.group.to(c.device).unique(return_inverse=True)
    by_group = sums.new_zeros(len(groups), sums.shape[1]).index_add(0, inverse, sums)
    sampled = probability is None

    def measured(ratio: Callable[[Tensor], Tensor], part: slice, share: bool = False) -> Interval | None:
        value, variance = jackknife(by_group[:, part], ratio)
        if value != value:
            return None
        if not sampled:
            return Interval(value, value, value, len(traj), level, method="exact")
        return (share_interval if share else t_interval)(value, variance, len(groups), level=level)

    total = sums.sum(0)
    known = float(counted.sum()) / max(int(own.sum()), 1)
    even = float(total[8] / total[9]) if float(total[9]) > 0 else None
    return CreditQuality(
        measured(_cosine, slice(0, 3)), measured(_cosine, slice(3, 6)), measured(_ratio, slice(6, 8), share=True), even, known
    )


def exact_credit(
    policy: Tabular,
    target: Target,
    rewards: Mapping[str, Tensor],
    truth: Float[Tensor, " L"] | Float[Tensor, "L T"],
    *,
    group_size: int = 2,
    start: int = 0,
    threshold: float = 0.0,
    reference: Tabular | None = None,
) -> CreditQuality:
    """The quality of a credit on a prefix tree, over every batch of one group that can be drawn.

    target:  the credit, a `weigh`: rewards to the weight of every action
    rewards: what each channel pays, by sequence [L] or at every action [L, T]
    truth:   what is truly wanted, the same way. A(prefix, a) = Q(prefix, a) - V(prefix) is that of the truth, whatever is paid

    States are prefixes. `climb` holds the gradient of that group's loss, terms summed over a rollout and averaged over rollouts.
    Raises ValueError as `payoff.enumeration.batches` does.

    >>> from payoff.credit.returns import total
    >>> from payoff.pipeline import weigh
    >>> right = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)  # aa, ab, ba, bb
    >>> found = exact_credit(Tabular(2, 2), weigh({"reward": [total]}), {"reward": right}, right)
    >>> round(found.cosine.value, 3), round(found.correlation.value, 3), round(found.climb.bias, 9), found.even
    (0.612, 0.775, 0.0, 0.75)
    """
    term = Term(target, cast(Any, policy_gradient), cast(Any, sequence_sum))
    read_ref = reference if "ref" in needs(target) else None
    found = batches(policy, group_size=group_size, starts=(start,), reference=read_ref, parts=[target])
    with torch.no_grad():
        credit = checked("credit", target(scored(paid(rewards), found.traj), found.traj), found.traj)
        advantage = exact_advantages(policy, truth, found.traj, start=start)
    chance = found.probability.repeat_interleave(group_size) / group_size
    state = policy.prefixes(found.traj)
    quality = credit_quality(credit, advantage, found.traj, state=state, probability=chance, threshold=threshold)

    options: Mapping[str, Any] = {"group_size": group_size, "starts": (start,), "reference": read_ref}
    mean = expected_gradient(policy, [term], rewards, **options)
    spread = float(gradient_covariance(policy, [term], rewards, **options).trace())
    way = compare(mean, exact_gradient(policy, truth, starts=(start,)))
    size, own = float(way.exact.norm()), float(mean.norm())
    least = 1e-12 * max([1e-300, *(float(table.nan_to_num().abs().max()) for table in (truth, *rewards.values()))])
    size, own = (x if x > least else 0.0 for x in (size, own))
    nan = float("nan")
    climb = Climb(
        float(way.difference.norm()) / size if size else nan,
        way.cosine if size and own else nan,
        spread / size**2 if size else nan,
        spread / own**2 if own else nan,
    )
    return CreditQuality(quality.cosine, quality.correlation, quality.share, quality.even, quality.known, climb)


def exact_advantages(
    policy: Tabular, truth: Float[Tensor, " L"] | Float[Tensor, "L T"], traj: Trajectories, *, start: int = 0
) -> Float[Tensor, "N T"]:
    """A(prefix, a) = Q - V of every recorded action, under the policy and the truth; 0 beyond the end.

    >>> policy = Tabular(2, 1)
    >>> exact_advantages(policy, torch.tensor([0.0, 1.0], dtype=torch.float64), policy.sequences()).tolist()
    [[-0.5], [0.5]]
    """
    with torch.no_grad():
        q = policy.q_values(truth, start)
        table = q - policy.state_values(truth, start)[:, None]
        table = torch.where(table.abs() > 1e-12 * q.abs().max(), table, 0)  # what is left of equal values by rounding is 0
    actions = torch.where(traj.exists, traj.actions, 0).long()
    return torch.where(traj.exists, table[policy.prefixes(traj), actions], 0)


def sampled_advantages(
    policy: Policy,
    truth: Callable[[Trajectories], Channel],
    traj: Trajectories,
    *,
    n: int = 8,
    rng: torch.Generator,
    unit: Literal["step", "action"] = "step",
) -> SampledAdvantage:
    """The advantage of every step (or action) from n continuations of each prefix: A_k = V(k + 1) - V(k), with its standard error.

    V(k) is the mean truth of n continuations from where unit k begins; behind the last unit it is the trajectory's own truth,
    which is known. All actions of a unit have its number. What the environment adds by chance is part of it.
    error^2 = var / n of the one plus var / n of the other, var with n - 1: `credit_quality` takes it off. Two units in a row
    share an estimate, with opposite signs.

    A continuation without a verdict is left out; a prefix with fewer than two, or an unknown end, leaves its units unknown.
    Raises ValueError for n < 2, and whatever the policy raises where it cannot resume.

    >>> policy = Tabular(2, 2)
    >>> from payoff.trajectories import place_outcome
    >>> def truth(traj):  # the first letter decides
    ...     return place_outcome(traj.actions[:, 0].double(), torch.ones(len(traj), dtype=torch.bool), traj)
    >>> found = sampled_advantages(policy, truth, policy.sequences(), n=400, rng=torch.Generator().manual_seed(0))
    >>> bool(((found.value[:, 0].abs() - 0.5).abs() < 4 * found.error[:, 0]).all()), found.value[:, 1].tolist(), found.cost.rollouts
    (True, [0.0, 0.0, 0.0, 0.0], 3200)
    """
    if n < 2:
        raise ValueError(f"sampled_advantages: n must be at least 2, or there is no error to state, got {n}")
    if unit not in ("step", "action"):
        raise ValueError(f'sampled_advantages: unit must be "step" or "action", got {unit!r}')
    clock = time.perf_counter()
    before = torch.cat([torch.full_like(traj.step[:, :1], -1), traj.step[:, :-1]], 1)
    begins = traj.exists & (traj.step != before) if unit == "step" else traj.exists
    rows, at = begins.nonzero(as_tuple=True)
    if not len(rows):
        empty = torch.zeros(traj.mask.shape, dtype=torch.float64)
        return SampledAdvantage(empty, empty.clone(), traj.exists, Cost(0, 0, 0, 0.0))
    with torch.no_grad():
        branches = policy.resume(traj, rows, at, n, rng)
        worth, sure = (x.view(len(rows), n).to(traj.device) for x in outcome(truth(branches), branches))
        end, end_known = outcome(truth(traj), traj)
    count = sure.sum(1)
    worth = torch.where(sure, worth, 0).double()
    mean = worth.sum(1) / count.clamp(min=1)
    squares = torch.where(sure, worth - mean[:, None], 0).square().sum(1)
    variance = squares / ((count - 1).clamp(min=1) * count.clamp(min=1))

    place = begins.long().cumsum(1) - 1  # the unit of every position, counted along its row
    units = int(begins.sum(1).max())
    columns = (rows, place[rows, at])
    tables = []
    for inner, last in ((mean, end.double()), (variance, 0 * end.double()), ((count >= 2).double(), end_known.double())):
        table = torch.zeros(len(traj), units + 1, dtype=torch.float64, device=traj.device)
        table[columns] = inner
        table[torch.arange(len(traj), device=traj.device), begins.sum(1)] = last.to(table)
        tables.append(table)
    here, after = place.clamp(min=0), place.clamp(min=0) + 1
    value, noise, known = (table.gather(1, after) for table in tables)
    value, noise = value - tables[0].gather(1, here), noise + tables[1].gather(1, here)
    valid = traj.exists & (known > 0) & (tables[2].gather(1, here) > 0)
    spent = Cost(len(branches), int(branches.own.sum()), 1, time.perf_counter() - clock)
    return SampledAdvantage(torch.where(valid, value, 0), torch.where(valid, noise, 0).sqrt(), valid, spent)


def credit_metrics(
    policy: Policy,
    truth: Callable[[Trajectories], Channel],
    credit: Channel,
    traj: Trajectories,
    *,
    n: int,
    rng: torch.Generator,
) -> dict[str, float | int | None]:
    """What a training run tells of its credit: `credit_quality` against `sampled_advantages` of every step, as metrics.

    credit/cosine: 1 where every step weighs what it was worth, 0 where the weights know nothing of it; None where no weight or no
    step differs from 0. credit/known: the share of actions whose weight and worth are known. credit/rollouts: what it took.
    Raises as these two do.

    >>> policy = Tabular(2, 2)
    >>> from payoff.trajectories import place_outcome
    >>> def truth(traj):  # the first letter decides
    ...     return place_outcome(traj.actions[:, 0].double(), torch.ones(len(traj), dtype=torch.bool), traj)
    >>> traj = policy.sequences()
    >>> credit = Channel(torch.tensor([[-1.0, 0], [-1, 0], [1, 0], [1, 0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> found = credit_metrics(policy, truth, credit, traj, n=400, rng=torch.Generator().manual_seed(0))
    >>> round(found["credit/cosine"], 2), found["credit/known"]
    (1.0, 1.0)
    """
    worth = sampled_advantages(policy, truth, traj, n=n, rng=rng)
    quality = credit_quality(Channel(credit.value, credit.valid & worth.valid), worth.value, traj, error=worth.error)
    cosine = quality.cosine.value if quality.cosine else None
    return {"credit/cosine": cosine, "credit/known": quality.known, "credit/rollouts": worth.cost.rollouts}


def cost_of(policy: Any, work: Callable[[Any], T]) -> tuple[T, Cost]:
    """Do `work` with the policy and tell what it took: rollouts and continuations, own actions in them, calls, seconds.

    A call is one `rollout`, `resume` or `evaluate`. Everything else of the policy is passed through and not counted.

    >>> from payoff.pipeline import Start
    >>> rng = torch.Generator().manual_seed(0)
    >>> _, cost = cost_of(Tabular(2, 3), lambda policy: policy.evaluate(policy.rollout([Start("a", {})], 4, rng)))
    >>> cost[:3]
    (4, 12, 2)
    """
    counting = _Counting(policy)
    clock = time.perf_counter()
    result = work(counting)
    return result, Cost(counting.rollouts, counting.actions, counting.calls, time.perf_counter() - clock)


class _Counting:
    """A policy that counts what is asked of it."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.rollouts = self.actions = self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def rollout(self, *arguments: Any, **options: Any) -> Trajectories:
        return self._sampled(self._policy.rollout(*arguments, **options))

    def resume(self, *arguments: Any, **options: Any) -> Trajectories:
        return self._sampled(self._policy.resume(*arguments, **options))

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return self._policy.evaluate(*arguments, **options)

    def _sampled(self, traj: Trajectories) -> Trajectories:
        self.calls += 1
        self.rollouts += len(traj)
        self.actions += int(traj.own.sum())
        return traj


def _centred(
    x: Float64[Tensor, "N T"], key: Int[Tensor, "N T"], weight: Float64[Tensor, "N T"], counted: Bool[Tensor, "N T"]
) -> Float64[Tensor, "N T"]:
    """Every entry less its state's weighted mean; what is left of equal entries by rounding is 0."""
    states, index = key.unique(return_inverse=True)
    index = index.flatten()
    mass, sums = (x.new_zeros(len(states)).index_add(0, index, part.flatten()) for part in (weight, weight * x))
    mean = torch.where(mass > 0, sums / torch.where(mass > 0, mass, 1), 0)
    centred = torch.where(counted, x - mean[index].view(x.shape), 0)
    largest = x.abs().max() if x.numel() else x.new_zeros(())
    return torch.where(centred.abs() > _ROUNDING * largest, centred, 0)


def _cosine(sums: Float64[Tensor, "G 3"]) -> Float64[Tensor, " G"]:
    product, own, true = sums.unbind(1)
    return torch.where((own > 0) & (true > 0), product / (own.clamp(min=0) * true.clamp(min=0)).sqrt(), torch.nan)


def _ratio(sums: Float64[Tensor, "G 2"]) -> Float64[Tensor, " G"]:
    return sums[:, 0] / sums[:, 1]
