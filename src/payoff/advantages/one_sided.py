"""Right and wrong rollouts each at a weight of their own, without any baseline: positive and negative reinforcement alone."""

from __future__ import annotations

import torch

from payoff.catalogue import method
from payoff.trajectories import Channel, Trajectories, at_start


@method("psr-nsr", kind="advantage", paper="arXiv:2506.01347")
def one_sided(
    channel: Channel,
    traj: Trajectories,
    *,
    positive: float | None = 0.1,
    negative: float | None = 1.0,
    threshold: float = 0.5,
) -> Channel:
    """Reinforce what is right at one weight and punish what is wrong at another (PSR, NSR and Weighted-REINFORCE).

    A = positive where C > threshold, -negative elsewhere, C the rollout's credit at its first action. The paper's three:
    Weighted-REINFORCE 0.1 and 1 (the default); NSR None and 1; PSR 1 and None.

    None: these rollouts are left without a verdict, so that no average counts them; a weight of 0 keeps them in it.

    On policy E[1_right grad log pi] = grad p, and E[-1_wrong grad log pi] = -grad (1 - p) = grad p: on average all of them climb
    the success rate, at (positive + negative) times its gradient. Averages over what is left scale that, for n rollouts of one
    start by (1 - (1 - p)^n) / p with PSR, by (1 - p^n) / (1 - p) with NSR. What sets them apart is what single batches do: how the
    answers that were not drawn share what is gained or lost. Nothing is compared, so groups play no part, and a batch that has
    nothing of the kind gives 0.

    One column [N, 1]; unknown stays unknown. Raises ValueError for negative weights, and for both None.

    >>> from payoff.examples import four_answers
    >>> credit = Channel(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), torch.ones(4, 1, dtype=torch.bool))
    >>> one_sided(credit, four_answers()).value.T
    tensor([[ 0.1000, -1.0000,  0.1000, -1.0000]])
    >>> one_sided(credit, four_answers(), positive=None).valid.T
    tensor([[False,  True, False,  True]])
    """
    if positive is None and negative is None:
        raise ValueError("one_sided: positive and negative are both None, which leaves nothing to learn from")
    for name, weight in (("positive", positive), ("negative", negative)):
        if weight is not None and weight < 0:
            raise ValueError(f"one_sided: {name} must be >= 0 or None, got {weight}")
    credit, known = at_start(channel, traj)
    right = credit > threshold
    number = channel.value.new_tensor
    value = torch.where(right, number(positive or 0.0), number(-(negative or 0.0)))
    kept = known & torch.where(right, positive is not None, negative is not None)
    return Channel(torch.where(kept, value, 0)[:, None], kept[:, None], channel.reasons)
