"""What losses on pairs share: one number for every rollout, its log-probability against named anchors, and how two are compared.

Every loss on pairs is a link, a function of the two numbers of a pair, the better one first. The losses themselves are in
`preferences`, `preference_sides`, `reference_free` and `nash_preferences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.pipeline import Evaluation, LossOutput
from payoff.trajectories import Pairs, Trajectories

Per = Literal["sequence", "action"]
Link = Callable[[Float[Tensor, " P"], Float[Tensor, " P"]], Float[Tensor, " P"]]


def sequence_score(
    loss: str, evaluation: Evaluation, traj: Trajectories, anchors: Mapping[str, float], *, per: Per = "sequence"
) -> Float[Tensor, " N"]:
    """sum_t (log pi - sum_k anchors[k] log pi_k)(a_t) over a rollout's own actions, or ("action") their mean; float32 at least.

    anchors: weights by name in traj.logp; none gives the log-probability itself. A rollout that never acted has 0.
    Raises ValueError, in the name of `loss`, for an anchor that the trajectories do not carry.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> sequence_score("dpo", Evaluation(traj.logp["old"], {}), traj, {"ref": 1.0})
    tensor([1.5000, 1.0000, 1.5000, 0.5000])
    """
    if per not in ("sequence", "action"):
        raise ValueError(f'{loss}: per must be "sequence" or "action", got {per!r}')
    number = torch.where(traj.own, evaluation.logp, 0)
    number = number.to(torch.promote_types(number.dtype, torch.float32))
    for name, weight in anchors.items():
        if name not in traj.logp:
            raise ValueError(f"{loss}: needs traj.logp[{name!r}]")
        if weight:
            number = number - weight * torch.where(traj.own, traj.logp[name], 0)
    total = number.sum(1)
    return total if per == "sequence" else total / traj.own.sum(1).clamp(min=1)


def compare(link: Link, score: Float[Tensor, " N"], pairs: Pairs) -> LossOutput:
    """label link(s_first, s_second) + (1 - label) link(s_second, s_first) of every pair: the link, expected over the label.

    Metrics, over pairs that have a winner (label not 1/2): accuracy (the share in which the winner has the larger score, a tie
    counting half), margin (winner's score less the loser's), chosen and rejected (their scores). None for no pairs.
    Raises ValueError for a label outside 0..1.

    >>> pairs = Pairs(torch.tensor([[0, 1], [0, 1]]), torch.tensor([1.0, 0.25]), torch.ones(2))
    >>> compare(lambda a, b: (a - b - 1).square(), torch.tensor([2.0, 0.0]), pairs).terms
    tensor([1., 7.])
    """
    winner, loser, share = oriented(score, pairs)
    terms = share * link(winner, loser)
    # The other order only where it counts: a link that explodes there must not turn 0 times infinity into NaN.
    soft = (share < 1).nonzero()[:, 0]
    if len(soft):
        terms = terms.index_add(0, soft, (1 - share[soft]) * link(loser[soft], winner[soft]))
    return LossOutput(terms, order_metrics(winner, loser, share))


def oriented(score: Float[Tensor, " N"], pairs: Pairs) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"], Float[Tensor, " P"]]:
    """The scores of each pair's winner and loser, and the probability (1/2 to 1) that the winner is the better one."""
    label = pairs.label.to(score.dtype)
    if len(label) and not bool(((label >= 0) & (label <= 1)).all()):
        raise ValueError(f"pairs: labels are probabilities, 0 to 1, got {float(label.min())} to {float(label.max())}")
    first, second = score[pairs.index].unbind(1)
    ahead = label >= 0.5
    return torch.where(ahead, first, second), torch.where(ahead, second, first), torch.where(ahead, label, 1 - label)


def order_metrics(winner: Float[Tensor, " P"], loser: Float[Tensor, " P"], share: Float[Tensor, " P"]) -> dict[str, float]:
    """accuracy, margin, chosen and rejected over the pairs that have a winner; none of them where no pair has."""
    decided = (share > 0.5).nonzero()[:, 0]
    if not len(decided):
        return {}
    winner, loser = winner.detach()[decided].double(), loser.detach()[decided].double()
    right = (winner > loser).double() + (winner == loser).double() / 2
    named = {"accuracy": right, "margin": winner - loser, "chosen": winner, "rejected": loser}
    return {name: float(numbers.mean()) for name, numbers in named.items()}


def smoothed(loss: str, pairs: Pairs, label_smoothing: float) -> Pairs:
    """Labels drawn towards 1/2: (1 - e) label + e (1 - label). Raises ValueError, in the name of `loss`, unless 0 <= e < 1/2."""
    check_noise(loss, "label_smoothing", label_smoothing)
    return pairs._replace(label=label_smoothing + (1 - 2 * label_smoothing) * pairs.label)


def check_noise(loss: str, option: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1/2: labels that are wrong half the time say nothing."""
    if not 0 <= value < 0.5:
        raise ValueError(f"{loss}: {option} must lie in 0 <= {option} < 1/2, got {value}")


def check_positive(loss: str, **options: float) -> None:
    """Raise ValueError for the first option that is not positive."""
    for option, value in options.items():
        if not value > 0:
            raise ValueError(f"{loss}: {option} must be > 0, got {value}")
