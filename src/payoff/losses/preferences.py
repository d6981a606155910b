"""Losses on pairs that read one number of a pair, its margin: how much more the policy has raised the winner than the loser.

With the log-ratio s = sum_t (log pi - log pi_ref)(a_t) of a rollout, beta s is the reward for which the policy would be the
optimum of E[r] - beta KL(pi, ref), up to a number of the start alone, which cancels in the margin m = s_winner - s_loser.
Terms are [P], one per pair; aggregate by `pair-mean`. A pair with a soft label costs what is expected over the label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from payoff.catalogue import method
from payoff.losses.preference_links import (
    Per,
    check_noise,
    check_positive,
    compare,
    order_metrics,
    oriented,
    sequence_score,
    smoothed,
)
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Pairs, Trajectories


@method("dpo", kind="loss", paper="arXiv:2305.18290", needs=("ref",), sees="group")
def dpo(
    evaluation: Evaluation,
    traj: Trajectories,
    pairs: Pairs,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    per: Per = "sequence",
) -> LossOutput:
    """Fit the order of pairs by the implied reward (DPO, eq. 7): -log sigmoid(beta m), m = s_winner - s_loser.

    s = sum_t (log pi - log pi_ref)(a_t). Where the labels are sigmoid(r - r') the optimum of E[r] - beta KL(pi, ref) is a minimum.
    With labels that are never contradicted there is none: the margin grows as long as it is trained.

    label_smoothing: e > 0 is the conservative DPO: (1 - e) times the loss and e times that of the opposite label; its minimum for
                     an uncontradicted pair is beta m = log((1 - e) / e). For labels that are wrong at a known rate: `robust-dpo`
    per:             "action" takes the mean over a rollout's own actions instead of their sum (TRL's sigmoid_norm)
    Metrics: accuracy, margin, chosen, rejected (log-ratios in nats). Raises ValueError unless beta > 0 and 0 <= e < 1/2, or without
    traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> dpo(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms  # margins are 0.5 and 1
    tensor([0.4741, 0.3133])
    """
    check_positive("dpo", beta=beta)
    score = sequence_score("dpo", evaluation, traj, {"ref": 1.0}, per=per)
    return compare(lambda a, b: softplus(-beta * (a - b)), score, smoothed("dpo", pairs, label_smoothing))


@method("robust-dpo", kind="loss", paper="arXiv:2403.00409", needs=("ref",), sees="group")
def robust_dpo(
    evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1, flip_rate: float = 0.1
) -> LossOutput:
    """DPO without the bias of labels that are wrong at a known rate e (robust DPO).

    ((1 - e) l(m) - e l(-m)) / (1 - 2 e) with l(m) = -log sigmoid(beta m): over random flips of the label it is DPO's loss of the
    true label on average. It has no lower bound for a pair; what is added in variance grows as e nears 1/2.
    Metrics as of `dpo`. Raises ValueError unless beta > 0 and 0 <= flip_rate < 1/2, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> robust_dpo(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0, flip_rate=0.0).terms
    tensor([0.4741, 0.3133])
    """
    check_positive("robust_dpo", beta=beta)
    check_noise("robust_dpo", "flip_rate", flip_rate)
    score = sequence_score("robust_dpo", evaluation, traj, {"ref": 1.0})
    right, wrong = (1 - flip_rate) / (1 - 2 * flip_rate), flip_rate / (1 - 2 * flip_rate)
    return compare(lambda a, b: right * softplus(beta * (b - a)) - wrong * softplus(beta * (a - b)), score, pairs)


@method("ipo", kind="loss", paper="arXiv:2310.12036", needs=("ref",), sees="group")
def ipo(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1, per: Per = "sequence") -> LossOutput:
    """Bring every margin to a fixed size (IPO, eq. 17): (m - 1 / (2 beta))^2; the paper's tau is beta here.

    Its only minimum over pairs drawn from mu is pi_ref exp(P(y beats mu) / beta) / Z, whatever the preferences are: no reward needs
    to lie behind them, and labels that are never contradicted still leave the policy near the reference.

    per: "sequence" as published. "action" takes means over own actions, TRL's reading of it: beta is then another
    Metrics as of `dpo`. Raises ValueError unless beta > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> ipo(Evaluation(traj.logp["old"], {}), traj, pairs, beta=0.5).terms  # margins are 0.5 and 1
    tensor([0.2500, 0.0000])
    """
    check_positive("ipo", beta=beta)
    score = sequence_score("ipo", evaluation, traj, {"ref": 1.0}, per=per)
    return compare(lambda a, b: (a - b - 1 / (2 * beta)).square(), score, pairs)


@method("hinge", kind="loss", paper="arXiv:2309.06657", needs=("ref",), sees="group")
def hinge(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1) -> LossOutput:
    """Ask for a margin and no more: max(0, 1 - beta m) (SLiC's loss against a reference, as in RSO).

    A pair whose margin has reached 1 / beta has no gradient. Metrics as of `dpo`. Raises ValueError unless beta > 0, or without
    traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> hinge(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([0.5000, 0.0000])
    """
    check_positive("hinge", beta=beta)
    score = sequence_score("hinge", evaluation, traj, {"ref": 1.0})
    return compare(lambda a, b: torch.relu(1 - beta * (a - b)), score, pairs)


@method("exo-pair", kind="loss", paper="arXiv:2402.00856", needs=("ref",), sees="group")
def exo_pair(
    evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3
) -> LossOutput:
    """The other direction of DPO's divergence: KL(q, p) with q = sigmoid(+-beta m), p = (1 - e, e) (EXO, eq. 16).

    DPO is KL(p, q) up to a constant. This one seeks a mode: a pair the policy has very wrong has little gradient.
    Metrics as of `dpo`. Raises ValueError unless beta > 0 and 0 < label_smoothing < 1/2, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> exo_pair(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([1.9457, 1.2763])
    """
    check_positive("exo_pair", beta=beta, label_smoothing=label_smoothing)
    check_noise("exo_pair", "label_smoothing", label_smoothing)
    right, wrong = math.log1p(-label_smoothing), math.log(label_smoothing)

    def link(a: Tensor, b: Tensor) -> Tensor:
        up, down = logsigmoid(beta * (a - b)), logsigmoid(beta * (b - a))
        return up.exp() * (up - right) + down.exp() * (down - wrong)

    return compare(link, sequence_score("exo_pair", evaluation, traj, {"ref": 1.0}), pairs)


@method("discopop", kind="loss", paper="arXiv:2406.08414", needs=("ref",), sees="group")
def discopop(
    evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1, temperature: float = 0.05
) -> LossOutput:
    """A blend that a language model found: (1 - w) (-log sigmoid(x)) + w exp(-x), x = beta m, w = sigmoid(x / temperature) (eq. 5).

    Not convex: near x = 0 it rises where the blend turns from one loss to the other. Metrics as of `dpo`.
    Raises ValueError unless beta and temperature are > 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> discopop(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([0.6065, 0.3679])
    """
    check_positive("discopop", beta=beta, temperature=temperature)

    def link(a: Tensor, b: Tensor) -> Tensor:
        x = beta * (a - b)
        # The weight's complement as a sigmoid of its own: exp(-x) is large where the weight is 0, and 0 is then exact.
        return softplus(-x) * torch.sigmoid(-x / temperature) + torch.exp(logsigmoid(x / temperature) - x)

    return compare(link, sequence_score("discopop", evaluation, traj, {"ref": 1.0}), pairs)


@method("aot", kind="loss", paper="arXiv:2406.05882", needs=("ref",), sees="batch")
def aot(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> LossOutput:
    """Make the policy's margins larger than the reference's as a distribution, not pair by pair (AOT, paired).

    With the margins log pi(winner) - log pi(loser) of policy and reference each sorted, term k is -log sigmoid(beta (policy's k-th
    less the reference's)): stochastic dominance. For a single pair it is DPO. Sorting is over what is handed in: minibatches
    change it. Of a soft label only the winner counts; a label of 1/2 takes the first. Terms belong to no pair: give equal weights.
    Metrics as of `dpo`. Raises ValueError unless beta > 0 and 0 <= label_smoothing < 1/2, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> aot(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0).terms
    tensor([0.3133, 0.4741])
    """
    check_positive("aot", beta=beta)
    check_noise("aot", "label_smoothing", label_smoothing)
    plain = sequence_score("aot", evaluation, traj, {})
    ratio = sequence_score("aot", evaluation, traj, {"ref": 1.0})
    margins = []
    for score in (plain, plain - ratio):
        winner, loser, _ = oriented(score, pairs)
        margins.append((winner - loser).sort().values)
    x = beta * (margins[0] - margins[1])
    terms = (1 - label_smoothing) * softplus(-x) + label_smoothing * softplus(x)
    return LossOutput(terms, order_metrics(*oriented(ratio, pairs)))


@method("rpo-sft-regularised", kind="loss", paper="arXiv:2405.16436", needs=("ref",), sees="group")
def rpo(evaluation: Evaluation, traj: Trajectories, pairs: Pairs, *, beta: float = 0.01, eta: float = 0.005) -> LossOutput:
    """DPO with the winner's likelihood against over-optimisation (RPO): -log sigmoid(beta m) - eta beta log pi(winner).

    It is the policy that does best under the worst of the rewards that explain the pairs: max over pi, min over r of
    eta E[r(y) - r(y0) - beta KL] - log-likelihood of the pairs under r, y0 the winners. log pi is the sum over own actions; eta = 0
    is `dpo`.
    Several methods carry these three letters; TRL's `rpo_alpha` takes the mean over tokens, without beta.
    Metrics as of `dpo`. Raises ValueError unless beta > 0 and eta >= 0, or without traj.logp["ref"].

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1], [2, 3]]), torch.ones(2), torch.ones(2))
    >>> rpo(Evaluation(traj.logp["old"], {}), traj, pairs, beta=1.0, eta=0.1).terms  # both winners have log-probability -3
    tensor([0.7741, 0.6133])
    """
    check_positive("rpo", beta=beta)
    if not eta >= 0:
        raise ValueError(f"rpo: eta must be >= 0, got {eta}")
    output = dpo(evaluation, traj, pairs, beta=beta)
    likelihood = compare(lambda a, b: -eta * beta * a, sequence_score("rpo", evaluation, traj, {}), pairs)
    return LossOutput(output.terms + likelihood.terms, output.metrics)
