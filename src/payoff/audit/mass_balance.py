"""What one update does to the total probability of right answers, sampled and unsampled (a softmax over finitely many answers)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class MassBalance(NamedTuple):
    """First-order change of the mass of right answers, in the parts it is made of (BroRL, arXiv:2510.01180).

    right:     from sampled right answers, at least 0
    wrong:     from sampled wrong answers, at least 0
    unsampled: from what was not sampled: negative where unsampled right answers lose to a positive mean reward
    """

    right: float
    wrong: float
    unsampled: float

    @property
    def change(self) -> float:
        """The sum of the three."""
        return self.right + self.wrong + self.unsampled


def mass_balance(
    probabilities: Float[Tensor, " V"],
    right: Bool[Tensor, " V"],
    sampled: Bool[Tensor, " V"],
    *,
    reward_right: float = 1.0,
    reward_wrong: float = -1.0,
    step: float = 1.0,
) -> MassBalance:
    """Split the change of Q = P(right) under the logit step dz_i = step p_i (R_i - S).

    R_i is the reward of a sampled answer and 0 for one that was not, S = sum_i p_i R_i. With A, B the sums of p^2 over sampled
    right and wrong answers, U+, U- over unsampled ones:

        dQ = step [(R_right - S) (1 - Q) A + (S - R_wrong) Q B + S (Q U- - (1 - Q) U+)]

    The first two are at least 0 for R_right >= 0 >= R_wrong. The third vanishes when everything is sampled, and when S = 0: with
    many rollouts right answers lose no mass. The step is the paper's model: each distinct sampled answer counts once, by its
    probability; a batch in which answers repeat counts them as often as they came.

    step: learning rate over the number of rollouts. Raises ValueError for rewards of another sign, and for what is no distribution.

    >>> p, all_four = torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), torch.ones(4, dtype=torch.bool)
    >>> found = mass_balance(p, torch.tensor([True, False, False, True]), all_four)
    >>> round(found.change, 6), round(abs(found.unsampled), 6)
    (0.15, 0.0)
    """
    if reward_right < 0 or reward_wrong > 0:
        raise ValueError(f"mass_balance: wants reward_right >= 0 >= reward_wrong, got {reward_right} and {reward_wrong}")
    if (probabilities < 0).any() or abs(float(probabilities.sum()) - 1) > 1e-6:
        raise ValueError("mass_balance: probabilities must be at least 0 and add up to 1")
    p = probabilities.double()
    part = lambda which, power: float(torch.where(which, p**power, 0).sum())
    q = part(right, 1)
    mean = reward_right * part(right & sampled, 1) + reward_wrong * part(~right & sampled, 1)
    of_right = (reward_right - mean) * (1 - q) * part(right & sampled, 2)
    of_wrong = (mean - reward_wrong) * q * part(~right & sampled, 2)
    of_rest = mean * (q * part(~right & ~sampled, 2) - (1 - q) * part(right & ~sampled, 2))
    return MassBalance(step * of_right, step * of_wrong, step * of_rest)
