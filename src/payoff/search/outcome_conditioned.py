"""One sampler for any reward from a policy that can reach any outcome, without training again."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method


@method("oc-gfn", kind="search", paper="arXiv:2310.03419")
def convert_outcomes(
    log_flow: Float[Tensor, "Y S"], log_policy: Float[Tensor, "Y S K"], log_reward: Float[Tensor, " Y"]
) -> Float[Tensor, "S K"]:
    """Mix a policy over the outcomes it can be asked for into a sampler for a reward over outcomes (OC-GFN, eq. 8): log P_r(a | s).

    P_r(a | s) = sum_y r(y) F(s | y) P_F(a | s, y) / sum_y r(y) F(s | y).

    log_flow, log_policy: of the policy that is conditioned on each of Y outcomes, at each of S states; F(s | y) is the probability
    that a backward walk from y passes s, -inf where it never does. log_reward: of each outcome, up to a constant.
    With conditioned flows in balance and one backward policy for all outcomes, P_r is exactly the flow policy of the reward.
    (Train such flows by `detailed-balance` with `total` as credit: the log of "reached or not", floored, paid at every action.)

    [S, K]; -inf throughout at a state that no rewarded outcome passes. The sum over y is for outcomes that can be listed.
    Raises ValueError for shapes that do not fit.

    >>> flow = torch.zeros(2, 1)
    >>> policy = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    >>> convert_outcomes(flow, policy, torch.tensor([3.0, 1.0]).log()).exp()
    tensor([[0.7500, 0.2500]])
    """
    if log_policy.shape[:2] != log_flow.shape or log_reward.shape != log_flow.shape[:1]:
        raise ValueError(
            "convert_outcomes: log_flow [Y, S], log_policy [Y, S, K] and log_reward [Y] must agree, got "
            f"{list(log_flow.shape)}, {list(log_policy.shape)} and {list(log_reward.shape)}"
        )
    weight = log_reward[:, None] + log_flow
    edges = torch.where(weight[..., None] > -torch.inf, weight[..., None] + log_policy, -torch.inf).logsumexp(0)
    total = edges.logsumexp(1, keepdim=True)
    return torch.where(total > -torch.inf, edges - torch.where(total > -torch.inf, total, 0), -torch.inf)
