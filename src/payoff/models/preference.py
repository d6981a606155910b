"""A model of preferences that need no order: responses as vectors, and a score of two that changes its sign with their order."""

from __future__ import annotations

import os
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from payoff.catalogue import method
from payoff.models.hidden_states import NARROWEST, load_heads, save_heads, states_after, stored_pairs
from payoff.sets import sets
from payoff.trajectories import Pairs, Rewards, Trajectories, place_outcome


@method("gpm-gpo", kind="model", paper="arXiv:2410.02197", sees="group")
class GeneralPreferenceModel(nn.Module):
    """Pay each rollout its mean score against the others of its start, of a model that allows cycles (GPM): "preference".

    s(a > b | x) = sum_k lambda_k(x) (v_a[2k] v_b[2k+1] - v_a[2k+1] v_b[2k]), P(a > b | x) = sigmoid(s / temperature), with v a
    linear head on the state behind a response, and lambda = m softmax(head on the state behind the prompt), m = dimension / 2.
    The states of a backbone that stays as it is are standardised by those that were fitted first: mostly they differ by little.
    s(a > b) = -s(b > a) whatever the weights, so the mean over a group, itself included with 0, adds up to 0: what the loss `gpo`
    asks for. A reward model is the special case v = (r, 1): then s = r_a - r_b, and the mean is r - mean r.

    policy:      whose hidden states are read; it must offer "hidden". A run hands over a copy
    dimension:   of v, even. One block of two can hold a cycle, or an order, and m blocks any antisymmetric table of rank 2 m
    weights:     a file that `save` wrote
    labelled:    rows of prompt, chosen and rejected, fitted at once; a file that `payoff.row_files.read_rows` reads
    temperature: the same in fitting and in use; 0.1 is for vectors of length 1
    normalise:   vectors of length 1. In two dimensions these can only lie on a circle, on which many levels cannot be told apart:
                 use four or more, or False
    gate:        lambda as above; False: 1 for all blocks
    learning_rate, epochs, batch_size: of Adam, passes over the pairs, and pairs in one of its steps
    train_backbone: the policy's own weights learn too, not only the heads
    seed:        of the heads' first weights, and of the order in which pairs are seen

    The score lies at the end of a rollout, so `total` makes it a credit; a rollout alone gets 0. Made with neither `weights` nor
    `labelled` it has to be given pairs by `fit`; scoring before raises ValueError.
    Raises ValueError for options that make no sense, and files that do not fit.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": text} for text in ("#1.", "#2.", "#3.")])
    >>> cycle = Pairs(torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.ones(3), torch.ones(3))  # no reward orders these
    >>> model = GeneralPreferenceModel(policy=policy, dimension=4, epochs=100, learning_rate=0.05)
    >>> model.fit(traj, cycle)["preference/accuracy"]
    1.0
    """

    fitted: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        dimension: int = 4,
        weights: str | None = None,
        labelled: str | None = None,
        temperature: float = 0.1,
        normalise: bool = True,
        gate: bool = True,
        learning_rate: float = 1e-3,
        epochs: int = 2,
        batch_size: int = 32,
        train_backbone: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dimension < 2 or dimension % 2:
            raise ValueError(f"gpm-gpo: dimension must be even and at least 2, got {dimension}")
        if not temperature > 0 or not learning_rate > 0 or epochs < 1 or batch_size < 1:
            raise ValueError(
                "gpm-gpo: temperature and learning_rate must be positive, epochs and batch_size at least 1, "
                f"got {temperature}, {learning_rate}, {epochs} and {batch_size}"
            )
        if weights is not None and labelled is not None:
            raise ValueError("gpm-gpo: give weights or labelled, not both")
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError("gpm-gpo: the policy offers no hidden states to read responses from")
        self.temperature, self.normalise, self.learning_rate = temperature, normalise, learning_rate
        self.epochs, self.batch_size, self.train_backbone, self.seed = epochs, batch_size, train_backbone, seed
        self.backbone: Any = policy if train_backbone else policy.requires_grad_(False)
        width, device, rng = self.backbone.width, self.backbone.device, torch.Generator().manual_seed(seed)
        self.vector = nn.Linear(width, dimension, device=device)
        with torch.no_grad():  # small but not equal: equal vectors have no gradient
            self.vector.weight.copy_(torch.randn(dimension, width, generator=rng) / width**0.5)
            self.vector.bias.zero_()
        self.blocks = nn.Linear(width, dimension // 2, bias=False, device=device) if gate else None
        if self.blocks is not None:
            nn.init.zeros_(self.blocks.weight)
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("middle", torch.zeros(width, device=device))
        self.register_buffer("spread", torch.ones(width, device=device))
        if weights is not None:
            self.load(weights)
        if labelled is not None:
            self.fit(*stored_pairs(self.backbone, labelled, "gpm-gpo"))

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "preference": the mean of s over the rollouts of the same start, paid at the end."""
        if not self.fitted:
            raise ValueError(
                "gpm-gpo: nothing has been fitted, so its numbers would mean nothing; give labelled (rows with chosen and "
                "rejected) or weights (a saved model), or call fit"
            )
        vector, scale = self.vectors(traj)
        score = mean_scores(vector, scale, sets(traj, "group")[:, 0].to(vector.device)).to(traj.device)
        return {"preference": place_outcome(score, torch.ones_like(score, dtype=torch.bool), traj)}

    def vectors(self, traj: Trajectories) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N M"]]:
        """v and lambda of every rollout, with gradient."""
        return self._read_out(*self._states(traj))

    def fit(self, traj: Trajectories, pairs: Pairs) -> dict[str, float | int | None]:
        """Minimise the mean cross-entropy of P(first > second) against the pairs' labels, by weight; goes on from what is there.

        Gives preference/loss, the mean of the last pass, and preference/accuracy, over pairs with a label that is not 1/2. The same
        seed gives the same weights. Raises ValueError when there is no pair.
        """
        if not len(pairs.index) or not float(pairs.weight.sum()) > 0:
            raise ValueError("gpm-gpo: no pairs of any weight, so there is nothing to fit")
        device, rng = self.vector.weight.device, torch.Generator().manual_seed(self.seed)
        index, label, weight = (x.to(device) for x in pairs)
        cached = None
        if not self.train_backbone:
            with torch.no_grad():
                cached = self._states(traj)
            if not self.fitted:
                self.middle.copy_(cached[1].mean(0))
                self.spread.copy_(cached[1].std(0, correction=0).clamp(min=NARROWEST))
        optimiser = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
        total = 0.0
        for _ in range(self.epochs):
            total = 0.0
            for some in torch.randperm(len(index), generator=rng).to(device).split(self.batch_size):
                rows, place = index[some].unique(return_inverse=True)
                states = self._states(traj.select(rows.to(traj.device))) if cached is None else [x[rows] for x in cached]
                vector, scale = self._read_out(*states)
                logit = skew_score(vector[place[:, 0]], vector[place[:, 1]], scale[place[:, 0]]) / self.temperature
                each = weight[some].to(logit) * binary_cross_entropy_with_logits(logit, label[some].to(logit), reduction="none")
                optimiser.zero_grad(set_to_none=True)
                (each.sum() / weight[some].sum().clamp(min=1e-12)).backward()
                optimiser.step()
                total += float(each.detach().sum())
        self.fitted.fill_(True)
        with torch.no_grad():
            vector, scale = self.vectors(traj)
            score = skew_score(vector[index[:, 0]], vector[index[:, 1]], scale[index[:, 0]])
        told = label != 0.5
        right = ((score > 0) == (label > 0.5))[told]
        accuracy = float(right.double().mean()) if len(right) else None
        return {"preference/loss": total / float(weight.sum()), "preference/accuracy": accuracy, "preference/pairs": len(index)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the heads, and the backbone where it was trained, to one file, whole or not at all; ValueError before `fit`."""
        if not self.fitted:
            raise ValueError("gpm-gpo: nothing has been fitted, so there is nothing to save")
        save_heads(path, "gpm-gpo", self._kept(), self.backbone, trained=self.train_backbone)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote; ValueError in one line where there is no such file or it does not fit."""
        self.load_state_dict(load_heads(path, "gpm-gpo", self._kept(), self.backbone), strict=False)
        self.fitted.fill_(True)

    def _kept(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return state if self.train_backbone else {n: x for n, x in state.items() if not n.startswith("backbone.")}

    def _read_out(
        self, first: Float[Tensor, "N H"], last: Float[Tensor, "N H"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N M"]]:
        vector = self.vector((last.to(self.vector.weight) - self.middle) / self.spread)
        if self.normalise:
            vector = normalize(vector, dim=1)
        if self.blocks is None:
            return vector, vector.new_ones(len(vector), vector.shape[1] // 2)
        logits = self.blocks(first.to(self.blocks.weight)) / first.shape[1] ** 0.5
        return vector, logits.shape[1] * logits.softmax(1)

    def _states(self, traj: Trajectories) -> tuple[Float[Tensor, "N H"], Float[Tensor, "N H"]]:
        """The hidden states behind each prompt, and behind each response."""
        places = torch.stack([torch.zeros_like(traj.length), traj.length], 1)
        first, last = states_after(self.backbone, traj, places, batch_size=self.batch_size).unbind(1)
        return first, last


def skew_score(
    a: Float[Tensor, "*#batch D"], b: Float[Tensor, "*#batch D"], scale: Float[Tensor, "*#batch M"]
) -> Float[Tensor, "..."]:
    """sum_k scale_k (a[2k] b[2k+1] - a[2k+1] b[2k]): changes its sign with the order, and is exactly 0 for a = b.

    >>> rock, paper = torch.tensor([1.0, 0.0]), torch.tensor([-0.5, 0.75**0.5])  # 120 degrees further
    >>> round(float(skew_score(rock, paper, torch.ones(1))), 4), float(skew_score(rock, rock, torch.ones(1)))
    (0.866, 0.0)
    """
    return (scale * (a[..., ::2] * b[..., 1::2] - a[..., 1::2] * b[..., ::2])).sum(-1)


def mean_scores(vector: Float[Tensor, "N D"], scale: Float[Tensor, "N M"], group: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The mean of each row's scores against its whole group, itself (0) included; those of a group add up to 0.

    The score is linear in the other's vector, so differences from the own one are added up, and no table of pairs is made.

    >>> cycle = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])  # every one beats the next
    >>> mean_scores(cycle, torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)).abs().max() < 1e-6
    tensor(True)
    """
    index = group.unique(return_inverse=True)[1]
    size = int(index.max()) + 1 if len(index) else 0
    added = vector.new_zeros(size, vector.shape[1]).double().index_add(0, index, vector.double())
    count = torch.bincount(index, minlength=size)[index][:, None]
    away = added[index] - count * vector.double()
    return (skew_score(vector.double(), away, scale.double()) / count[:, 0]).to(vector.dtype)
