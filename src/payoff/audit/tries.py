"""What a policy would score with k tries, from n >= k of them: pass@k, best-of-n, the majority of k, and how sure that is.

Every estimate is the mean over all subsets of the tries there are, so it is unbiased, and wastes none of them. The mean over starts
comes with an interval that leaves out one start at a time. How far best-of-n is from its policy: `optimisation.best_of_n_kl`, and
`best_of_n_kl_with_ties` where rewards tie; the choice itself, for one group, is in `payoff.search`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from payoff.audit.estimators import best_of_n_weights, dense, used
from payoff.audit.intervals_by_cluster import ratio_of, share_of, sum_by
from payoff.audit.support import success_within
from payoff.intervals import Interval
from payoff.search.voting import Answer, answer_keys
from payoff.trajectories import Channel, Trajectories, outcome


class Difficulty(NamedTuple):
    """Problems by where they are solved: at every source often, at every one, at some only, at none (arXiv:2510.02611)."""

    easy: int
    medium: int
    hard: int
    never: int


def pass_at_k(correct: Channel, traj: Trajectories, k: int, *, threshold: float = 0.5, level: float = 0.95) -> Interval | None:
    """The chance that one of k rollouts of a start is right, from all there are: the mean over starts of 1 - C(n-c, k) / C(n, k).

    Right is an outcome above `threshold`; rollouts without verdict are left out, and so are starts with fewer than k others.
    The interval is over starts as drawn from all starts; that of a fixed set of them follows from `success_variance`. None where no
    start has k. Raises ValueError for k < 1.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> correct = place_outcome(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> pass_at_k(correct, traj, 1).value, pass_at_k(correct, traj, 2).value
    (0.25, 0.5)
    """
    _positive("pass_at_k", k)
    value, known = outcome(correct, traj)
    group, groups = dense(traj.group)
    right = torch.bincount(group[known & (value > threshold)], minlength=groups)
    tries = torch.bincount(group[known], minlength=groups)
    enough = tries >= k
    if not enough.any():
        return None
    found = success_within(right[enough], tries[enough], k)
    return share_of(found, torch.ones_like(found), level=level)


def success_variance(right: Int[Tensor, " n"], tries: Int[Tensor, " n"], k: int) -> Float64[Tensor, " n"]:
    """The variance of `success_within`, each problem's pass@k, without bias: F^2 - C(n-c, 2k) / C(n, 2k), F = C(n-c, k) / C(n, k).

    The second term is the unbiased estimate of (1 - p)^(2k) = E[F]^2. An unbiased estimate may fall below 0; sums over problems
    hardly do, and give the squared standard error of a score on this very set of problems.
    Raises ValueError for tries < 2k and as `success_within` does.

    >>> success_variance(torch.tensor([0, 1, 2]), torch.tensor([2, 2, 2]), 1).tolist()
    [0.0, 0.25, 0.0]
    """
    if (tries < 2 * k).any():
        raise ValueError(f"success_variance: wants at least 2 k = {2 * k} tries of every problem, got {int(tries.min())}")
    return (1 - success_within(right, tries, k)).square() - (1 - success_within(right, tries, 2 * k))


def union_success(right: Int[Tensor, "n S"], tries: Int[Tensor, "n S"], k: Sequence[int]) -> Float64[Tensor, " n"]:
    """The chance that a problem is solved by k[s] tries at each of S sources together, without bias: 1 - prod_s (1 - pass@k[s]).

    Sources are temperatures, or policies, that were sampled independently. Their budget is sum_s k[s]: compare with one source at
    that, not at k. Raises ValueError where k does not fit the sources, and as `success_within` does where k[s] > 0.

    >>> union_success(torch.tensor([[1, 0]]), torch.tensor([[2, 2]]), [1, 2]).tolist()
    [0.5]
    """
    if right.shape != tries.shape or len(k) != right.shape[1]:
        raise ValueError(
            f"union_success: right and tries must be [n, S] with S = {len(k)}, got {list(right.shape)}, {list(tries.shape)}"
        )
    miss = torch.ones(len(right), dtype=torch.float64, device=right.device)
    for s, count in enumerate(k):
        if count:
            miss = miss * (1 - success_within(right[:, s], tries[:, s], count).to(miss.device))
    return 1 - miss


def difficulty(right: Int[Tensor, "n S"], tries: Int[Tensor, "n S"], *, often: float = 0.5) -> Difficulty:
    """Count problems by the sources (temperatures) that solve them: all of them and often, all of them, some of them, none.

    often: the least share of right tries at every source that makes a problem easy. How many tries it takes to be solved at all is
    a matter of the budget: the classes of different numbers of tries are not comparable.

    >>> right = torch.tensor([[9, 5], [9, 1], [9, 0], [0, 0]])
    >>> difficulty(right, torch.full((4, 2), 10))
    Difficulty(easy=1, medium=1, hard=1, never=1)
    """
    some = (right > 0).any(1)
    all_ = (right > 0).all(1)
    easy = all_ & (right >= often * tries).all(1)
    return Difficulty(*(int(x.sum()) for x in (easy, all_ & ~easy, some & ~all_, ~some)))


def best_of_n_value(reward: Channel, truth: Channel, traj: Trajectories, n: int, *, level: float = 0.95) -> Interval | None:
    """What the best of n rollouts by `reward` is worth by `truth`: the mean over all subsets of n of a start, then over starts.

    Each rollout weighs with its chance of being the best of n drawn without replacement (`best_of_n_weights`), those tied for best
    alike. With reward = truth it is the expected maximum. Rollouts that lack either verdict are left out, and so are starts with
    fewer than n others: where verdicts go missing more often for one kind of answer, that is a bias.
    None where no start has n. Raises ValueError for n < 1.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj, known = four_answers(), torch.ones(4, dtype=torch.bool)
    >>> reward = place_outcome(torch.tensor([0.0, 1.0, 0.0, 0.0]), known, traj)
    >>> truth = place_outcome(torch.tensor([0.0, 5.0, 1.0, 3.0]), known, traj)
    >>> best_of_n_value(reward, truth, traj, 2).value  # 5, and 2 where the reward cannot tell
    3.5
    """
    _positive("best_of_n_value", n)
    (score, known), (gold, gold_known) = outcome(reward, traj), outcome(truth, traj)
    u = used(score.double(), known, traj.group.long(), gold.double(), gold_known)
    if not len(u.row):
        return None
    worth = u.sum(best_of_n_weights(u.by_score, n) * u.gold)[u.sizes() >= n]
    return ratio_of(worth, torch.ones_like(worth), level=level)


def majority_at_k(
    correct: Channel, traj: Trajectories, k: int, *, answer: Answer = "answer", threshold: float = 0.5, level: float = 0.95
) -> Interval | None:
    """The chance that the majority of k rollouts of a start answers right: over all subsets of k, then the mean over starts.

    The votes are counted as `search.majority` counts them: rollouts without an answer are drawn and do not vote, answers with
    equally many votes win equally often. A draw in which nobody votes is not right. Where one answer was judged both right and
    wrong, it is right by that share. Rollouts without verdict are left out, and so are starts with fewer than k others.
    None where no start has k. Raises ValueError for k < 1 and as `search.majority` does.

    >>> from payoff.examples import four_answers
    >>> from payoff.trajectories import place_outcome
    >>> traj = four_answers()
    >>> correct = place_outcome(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(4, dtype=torch.bool), traj)
    >>> majority_at_k(correct, traj, 2, answer="response").value  # a tie; and both right
    0.75
    """
    _positive("majority_at_k", k)
    value, known = outcome(correct, traj)
    key, has = answer_keys(traj, answer)
    group, groups = dense(traj.group)
    right = sum_by((known & has & (value > threshold)).double(), key, int(key.max()) + 1 if len(key) else 0)
    votes = torch.bincount(key[known & has], minlength=len(right))
    tries = torch.bincount(group[known], minlength=groups)
    owner = torch.zeros_like(votes).scatter(0, key, group)
    chances = []
    for g in (tries >= k).nonzero()[:, 0].tolist():
        mine = ((owner == g) & (votes > 0)).nonzero()[:, 0]
        mine = mine[votes[mine].argsort()]  # starts with the same counts share one computation
        count = votes[mine]
        wins = _drawn_wins(tuple(count.tolist()), int(tries[g] - count.sum()), k)
        chances.append(float((torch.tensor(wins, dtype=torch.float64) * (right[mine] / count).cpu()).sum()))
    found = torch.tensor(chances, dtype=torch.float64)
    return share_of(found, torch.ones_like(found), level=level)


def majority_distribution(probability: Float[Tensor, " A"], k: int) -> Float64[Tensor, " A"]:
    """The chance that each answer wins the vote of k independent draws, exactly; tied answers win equally often.

    probability: of each answer; what is left to 1 is the chance of no answer, which has no vote, so that the result sums to 1 minus
    the chance that nobody votes. k = 1: the probabilities themselves; k to infinity: all on the most probable answer.
    Raises ValueError for k < 1, and unless they are probabilities.

    >>> majority_distribution(torch.tensor([0.6, 0.4]), 3)  # 0.6^3 + 3 0.6^2 0.4
    tensor([0.6480, 0.3520], dtype=torch.float64)
    """
    _positive("majority_distribution", k)
    p = probability.detach().double().cpu().numpy()
    rest = 1 - p.sum()
    if (p < 0).any() or rest < -1e-6:
        raise ValueError(f"majority_distribution: needs probabilities with a sum of at most 1, got {p.tolist()}")
    rates = np.append(p, max(rest, 0.0)) * k  # independent Poisson counts, given that they add up to k, are multinomial
    j = np.arange(k + 1)
    log_factorial = np.array([math.lgamma(i + 1) for i in j])
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = np.exp(np.where(j == 0, 0, j * np.log(rates[:, None])) - rates[:, None] - log_factorial)
    total = math.exp(k * math.log(k) - k - math.lgamma(k + 1))
    return torch.from_numpy(_wins(ways[:-1], np.ones(len(p), dtype=int), ways[-1], k) / total)


def answer_entropy(traj: Trajectories, *, answer: Answer = "answer", level: float = 0.95) -> Interval | None:
    """How many-voiced the answers to a start are: - sum_a f_a log f_a in nats, the mean over starts (arXiv:2507.14843).

    f_a is the share of answer a among a start's rollouts with an answer. From n rollouts it is at most log n, and too small on
    average: compare equal n only. Starts without any answer are left out; None where there is no other.

    >>> from payoff.examples import four_answers
    >>> answer_entropy(four_answers(), answer="response").value == math.log(2)
    True
    """
    key, has = answer_keys(traj, answer)
    if not has.any():
        return None
    group, groups = dense(traj.group)
    votes, size = torch.bincount(key[has]), torch.bincount(group[has], minlength=groups)
    surprise = torch.zeros_like(key, dtype=torch.float64)
    surprise[has] = (size[group[has]].double() / votes[key[has]]).log() / size[group[has]]  # summed over rows: f_a log (1 / f_a)
    entropy = sum_by(surprise, group, groups)[size > 0]
    return ratio_of(entropy, torch.ones_like(entropy), level=level)


@lru_cache(maxsize=4096)
def _drawn_wins(counts: tuple[int, ...], silent: int, k: int) -> tuple[float, ...]:
    """The chance that each answer wins the vote of k drawn without replacement from these counts and `silent` without a vote."""
    if not counts:
        return ()
    size = sum(counts) + silent
    sizes, place, multiple = np.unique(counts, return_inverse=True, return_counts=True)
    q = k / size  # independent binomial counts, given that they add up to k, are hypergeometric
    ways = np.stack([_binomial(c, q, k) for c in sizes.tolist()])
    wins = _wins(ways, multiple, _binomial(silent, q, k), k) / _binomial(size, q, k)[k]
    return tuple(wins[place].tolist())


def _wins(ways: np.ndarray, multiple: np.ndarray, silent: np.ndarray, k: int) -> np.ndarray:
    """For one answer of each kind: the summed weight of all outcomes of k draws in which it wins (1 / t where t tie for most).

    ways[d, j]: the weight of j draws of an answer of kind d, of which there are multiple[d]; silent[j]: of j draws without a vote.
    An answer wins with m votes where the others have at most m; integrating y^t over 0..1 shares a win among t + 1. So what is
    wanted is the coefficient of x^(k - m) in silent(x) prod (sum_(j < m) w_j x^j + y w_m x^m), integrated over y: by a quadrature
    that is exact for polynomials, and by a Fourier sum.
    """
    result = np.zeros(len(ways))
    for m in range(1, k + 1):
        few = ways[:, : m + 1]
        degree = int(((few > 0) * np.arange(m + 1)).max(1) @ multiple) + int((np.arange(k + 1) * (silent > 0)).max())
        points = max(degree, k) + 1
        ties = min(int(multiple.sum()) - 1, (k - m) // m)
        y, weight = np.polynomial.legendre.leggauss(ties // 2 + 1)
        y, weight = (y + 1) / 2, weight / 2
        x = np.exp(-2j * np.pi * np.arange(points) / points)
        below, exactly = np.fft.fft(few[:, :m], points), few[:, m:] * x**m
        factor = below[:, None, :] + y[None, :, None] * exactly[:, None, :]  # [kinds, y, x]
        whole = factor ** multiple[:, None, None]
        ones = np.ones_like(whole[:1])
        before, after = np.cumprod(np.concatenate([ones, whole[:-1]]), 0), np.cumprod(np.concatenate([ones, whole[:0:-1]]), 0)[::-1]
        others = before * after * factor ** (multiple - 1)[:, None, None] * np.fft.fft(silent, points)
        coefficient = (others @ (x ** -(k - m)) / points).real
        result += few[:, m] * (coefficient @ weight)
    return result


def _binomial(n: int, q: float, most: int) -> np.ndarray:
    """The chance of 0 ... most successes in n trials."""
    j = np.arange(most + 1)
    if q == 1:
        return (j == n).astype(float)
    log = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) if i <= n else -math.inf for i in j.tolist()])
    return np.exp(log + j * math.log(q) + np.maximum(n - j, 0) * math.log1p(-q))


def _positive(name: str, k: int) -> None:
    if k < 1:
        raise ValueError(f"{name}: the number of tries must be at least 1, got {k}")
