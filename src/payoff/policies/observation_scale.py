"""Observations on a scale fitted to all that training has met."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FARTHEST = 10.0  # standard deviations; beyond it lies what was hardly ever met


class ObservationScale(nn.Module):
    """Standardise by the running mean and standard deviation of each dimension; cut at 10 standard deviations.

    What `remember` is given counts from the next call of `advance` on: between acting a batch and the next one the scale stands
    still, so that the probability ratio of PPO is 1 before the first step. Nothing is scaled before something counts.

    >>> scale = ObservationScale(1)
    >>> scale.remember(torch.tensor([[1.0], [3.0]])); scale.advance()
    >>> scale(torch.tensor([[2.0], [4.0]])).T
    tensor([[0., 2.]])
    """

    seen: Tensor
    pending: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        # Rows: how many observations, their mean, their squared deviations; float64, per dimension.
        for name in ("seen", "pending"):
            self.register_buffer(name, torch.zeros(3, size, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        count, mean, squares = self.seen
        if not count[0] > 1:
            return x
        return ((x - mean) / (squares / count + 1e-8).sqrt()).clamp(-_FARTHEST, _FARTHEST).to(x.dtype)

    @torch.no_grad()
    def remember(self, x: Float[Tensor, "n D"]) -> None:
        """Keep this for the next `advance`, in place of what was kept before."""
        x = x.double()
        self.pending.copy_(torch.stack([torch.full_like(x[0], len(x)), x.mean(0), (x - x.mean(0)).square().sum(0)]))

    @torch.no_grad()
    def advance(self) -> None:
        """Let what was remembered count."""
        count = self.seen[0] + self.pending[0]
        gap, some = self.pending[1] - self.seen[1], count.clamp(min=1)
        squares = self.seen[2] + self.pending[2] + gap.square() * self.seen[0] * self.pending[0] / some
        self.seen.copy_(torch.stack([count, self.seen[1] + gap * self.pending[0] / some, squares]))
        self.pending.zero_()
