"""Losses on pairs that are also told which of an answer's tokens were good: T-REG."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.preference_links import check_positive, compare, oriented, sequence_score
from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Pairs, Trajectories, log_ratio


@method("t-reg", kind="loss", paper="arXiv:2412.02685", needs=("ref",), sees="group")
def token_regularised(
    evaluation: Evaluation,
    traj: Trajectories,
    pairs: Pairs,
    *,
    beta: float = 0.1,
    weight: float = 0.25,
    better: str = "better",
    worse: str = "worse",
) -> LossOutput:
    """`dpo`, and weight w times the pull of single tokens towards what a frozen model thinks of them (T-REG).

    -log sigmoid(beta m) - weight w sum over both rollouts' own actions of beta r_t log pi(a_t), m = s_winner - s_loser the margin,
    s = sum_t (log pi - log pi_ref)(a_t), r_t = sigmoid(log p_better - log p_worse) - 1/2 of traj.logp[better] and [worse], and
    w = sigmoid(-beta m), the size of DPO's own gradient, without which tokens of r < 0 would be pushed down for ever. No gradient
    goes through w and r: a token is raised by weight w beta r_t.

    weight 0, or contexts that make no difference: `dpo` exactly. A soft label weighs w as it weighs the loss. [P]; aggregate by
    `pair-mean`. Metrics: those of `dpo`. Raises ValueError unless beta > 0 and weight >= 0, or without the log-probabilities.

    >>> from payoff.examples import four_answers
    >>> traj, pairs = four_answers(), Pairs(torch.tensor([[0, 1]]), torch.ones(1), torch.ones(1))
    >>> said = {"better": torch.zeros(4, 3), "worse": torch.full((4, 3), -1.0)}
    >>> token_regularised(Evaluation(traj.logp["ref"], {}), traj.replace(logp=said), pairs, beta=1.0).terms
    tensor([0.9098])
    """
    check_positive("token_regularised", beta=beta)
    if not weight >= 0:
        raise ValueError(f"token_regularised: weight must be at least 0, got {weight}")
    if lost := [key for key in (better, worse) if key not in traj.logp]:
        raise ValueError(f"token_regularised: needs traj.logp[{lost[0]!r}]")
    score = sequence_score("token_regularised", evaluation, traj, {"ref": 1.0})
    plain = compare(lambda a, b: softplus(-beta * (a - b)), score, pairs)
    worth = torch.tanh(log_ratio(traj.logp[better], traj.logp[worse], traj).detach() / 2) / 2
    pull = -beta * (worth * torch.where(traj.own, evaluation.logp, 0)).sum(1)
    winner, loser, share = oriented(score.detach(), pairs)
    unsure = torch.sigmoid(beta * (loser - winner))
    unsure = share * unsure + (1 - share) * (1 - unsure)
    return LossOutput(plain.terms + weight * unsure * pull[pairs.index].sum(1), plain.metrics)
