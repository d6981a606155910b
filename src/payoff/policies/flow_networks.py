"""Networks that estimate a velocity: an MLP for points, a patch transformer for small images; and how they are fitted to data.

A network is called as network(x [B, D], t [B], condition [B]) and gives [B, D]; an image is its pixels in one row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from payoff.policies.denoising import Path, signal_and_noise

Data = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]  # (n, rng) -> samples [n, D], condition [n]
_WAVES = 16  # frequencies in which time is written


class VelocityMLP(nn.Module):
    """A multilayer perceptron over the point, its time and its class.

    outputs: numbers it gives, by default as many as the point has. classes: 0 ignores the condition.

    >>> VelocityMLP(2, width=16)(torch.zeros(3, 2), torch.ones(3), torch.zeros(3, dtype=torch.int64)).shape
    torch.Size([3, 2])
    """

    def __init__(self, dimensions: int, *, width: int = 128, layers: int = 3, classes: int = 0, outputs: int | None = None) -> None:
        super().__init__()
        self.classes = classes
        sizes = [dimensions + 2 * _WAVES + classes, *[width] * layers]
        hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, outputs or dimensions))

    def forward(self, x: Float[Tensor, "B D"], t: Float[Tensor, " B"], condition: Int[Tensor, " B"]) -> Float[Tensor, "B O"]:
        parts = [x, time_waves(t)]
        if self.classes:
            parts.append(functional.one_hot(condition, self.classes).to(x.dtype))
        return self.layers(torch.cat(parts, 1))


class PatchTransformer(nn.Module):
    """A transformer over the square patches of a small square image of one channel; time and class shift every layer's input.

    Raises ValueError where the patches do not tile the image or the heads do not divide the width.

    >>> PatchTransformer(8, width=16, layers=1)(torch.zeros(3, 64), torch.ones(3), torch.zeros(3, dtype=torch.int64)).shape
    torch.Size([3, 64])
    """

    def __init__(self, side: int, *, patch: int = 2, width: int = 64, layers: int = 3, heads: int = 4, classes: int = 0) -> None:
        super().__init__()
        if side % patch or width % heads:
            raise ValueError(
                f"PatchTransformer: patch must divide the side {side} and heads the width {width}, got {patch} and {heads}"
            )
        self.side, self.patch, self.classes = side, patch, classes
        count = (side // patch) ** 2
        self.into = nn.Linear(patch * patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(count, width))
        self.moment = nn.Sequential(nn.Linear(2 * _WAVES + classes, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, patch * patch)

    def forward(self, x: Float[Tensor, "B D"], t: Float[Tensor, " B"], condition: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        batch, cells, size = len(x), self.side // self.patch, self.patch
        patches = x.reshape(batch, cells, size, cells, size).transpose(2, 3).reshape(batch, cells * cells, size * size)
        moment = time_waves(t)
        if self.classes:
            moment = torch.cat([moment, functional.one_hot(condition, self.classes).to(x.dtype)], 1)
        moment = self.moment(moment)[:, None]
        hidden = self.into(patches) + self.place
        for block in self.blocks:
            hidden = block(hidden, moment)
        patches = self.out(self.norm(hidden)).reshape(batch, cells, cells, size, size)
        return patches.transpose(2, 3).reshape(batch, self.side * self.side)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Float[Tensor, "B P W"], moment: Float[Tensor, "B 1 W"]) -> Float[Tensor, "B P W"]:
        batch, count, width = hidden.shape
        parts = self.read(self.before(hidden) + moment).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.write(mixed.transpose(1, 2).reshape(batch, count, width))
        return hidden + self.think(self.after(hidden) + moment)


def time_waves(t: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
    """Time as sines and cosines, from a tenth of a turn over 0..1 to ten turns.

    >>> time_waves(torch.zeros(2)).shape
    torch.Size([2, 32])
    """
    turns = torch.logspace(-1, 1, _WAVES, dtype=t.dtype, device=t.device)
    angle = 2 * math.pi * t[:, None] * turns
    return torch.cat([angle.sin(), angle.cos()], 1)


def fit_velocity(
    network: nn.Module,
    data: Data,
    *,
    path: Path = "rectified",
    steps: int = 1000,
    batch: int = 256,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> list[float]:
    """Fit a network to the velocity from data to noise, in place; the loss of every step (flow matching, arXiv:2210.02747, eq. 23).

    min E |network(alpha x + sigma eps, t) - (eps - x)|^2, mean over dimensions, with x from `data`, eps standard normal and t
    uniform in 0..1. The least loss is not 0: it is the variance of the velocity that the state does not determine.
    The learning rate falls to 0 along a cosine. Raises ValueError for steps or a batch below 1.

    >>> data = lambda n, rng: (torch.full((n, 1), 2.0), torch.zeros(n, dtype=torch.int64))
    >>> losses = fit_velocity(VelocityMLP(1, width=16), data, steps=30, batch=32)
    >>> losses[-1] < losses[0]
    True
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"fit_velocity: steps and batch must be at least 1, got {steps} and {batch}")
    rng = torch.Generator().manual_seed(seed)
    first = next(network.parameters())
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for _ in range(steps):
        sample, condition = data(batch, rng)
        sample = sample.to(first)
        eps = torch.randn(sample.shape, generator=rng, dtype=torch.float64).to(first)
        t = torch.rand(batch, generator=rng, dtype=torch.float64).to(first)
        signal, noise = signal_and_noise(t[:, None], path)
        guess = network(signal * sample + noise * eps, t, condition.to(first.device))
        loss = (guess - (eps - sample)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        fall.step()
        losses.append(float(loss.detach()))
    return losses
