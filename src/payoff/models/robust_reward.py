"""A reward with several heads that say how sure they are, paid partly by the head that thinks worst of an answer."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from payoff.catalogue import method
from payoff.losses.reward_fitting import pair_loss
from payoff.models.hidden_states import NARROWEST, load_heads, save_heads, states_after, stored_pairs
from payoff.trajectories import Pairs, Rewards, Trajectories, place_outcome

Nominal = Literal["surest", "mean", "first"]


@method("brme", kind="model", paper="arXiv:2409.15360")
class RobustReward(nn.Module):
    """Pay share * nominal + (1 - share) * the least of several heads (Bayesian reward-model ensemble, BRME): channel "robust".

    Head i reads a mean mu_i and a deviation s_i off the state behind a response. First one linear head learns which answer of a
    pair is better (Bradley and Terry); then every other head minimises the mean of (mu_i + s_i e - r)^2, e standard normal and r
    what the first head says, from first weights and draws of its own. So heads agree where there was data and part elsewhere.
    Deviations serve to choose the surest head; what is paid is means alone, since a drawn reward would only be noise. Nothing in
    that loss rewards a deviation above 0: `fit` tells the mean of them and how far the heads part, to be watched.

    policy:    whose hidden states are read; it must offer "hidden". A run hands over a copy; its weights stay as they are
    heads:     how many; width: of the one hidden layer that each has
    share:     of the nominal reward, in [0, 1]: 1 is the nominal reward, 0 the worst case; the paper has 0.4 to 0.8
    nominal:   "surest": the head with the least deviation for that answer (the paper's; reconstructed); "mean" of the heads;
               "first": the head that learned from pairs
    weights:   a file that `save` wrote; labelled: rows of prompt, chosen and rejected, fitted at once
    anchor:    of the first head's loss, see `pair_loss`; learning_rate, epochs, batch_size: of Adam, in both stages
    seed:      of the first weights, the order of the pairs, and the draws

    Heads are brought to the first head's mean and deviation over the answers that were fitted, since a head with a lower offset
    would decide every least one. The score lies at the end of a rollout. Made with neither `weights` nor `labelled` it has to be
    given pairs by `fit`; scoring before raises ValueError, as do options that make no sense and files that do not fit.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": text} for text in ("#1.", "#2.", "#3.")])
    >>> model = RobustReward(policy=policy, heads=3, epochs=60, learning_rate=0.05)
    >>> model.fit(traj, Pairs(torch.tensor([[0, 1], [1, 2]]), torch.ones(2), torch.ones(2)))["robust/accuracy"]
    1.0
    """

    fitted: Tensor
    middle: Tensor
    spread: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        heads: int = 5,
        width: int = 32,
        share: float = 0.6,
        nominal: Nominal = "surest",
        weights: str | None = None,
        labelled: str | None = None,
        anchor: float = 0.01,
        learning_rate: float = 1e-3,
        epochs: int = 2,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if heads < 1 or width < 1 or epochs < 1 or batch_size < 1 or not learning_rate > 0:
            raise ValueError("brme: heads, width, epochs and batch_size must be at least 1 and learning_rate positive")
        if not 0 <= share <= 1:
            raise ValueError(f"brme: share must lie in [0, 1], got {share}")
        if weights is not None and labelled is not None:
            raise ValueError("brme: give weights or labelled, not both")
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError("brme: the policy offers no hidden states to read responses from")
        self.share, self.nominal, self.anchor, self.learning_rate = share, nominal, anchor, learning_rate
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.backbone: Any = policy.requires_grad_(False)
        states, device, rng = self.backbone.width, self.backbone.device, torch.Generator().manual_seed(seed)
        drawn = lambda *shape: nn.Parameter(torch.randn(*shape, generator=rng).to(device) / shape[-2] ** 0.5)
        self.first = nn.Parameter(torch.zeros(states, 1, device=device))
        self.inner, self.outer = drawn(heads, states, width), drawn(heads, width, 2)
        self.inner_bias = nn.Parameter(torch.zeros(heads, 1, width, device=device))
        self.outer_bias = nn.Parameter(torch.zeros(heads, 1, 2, device=device))
        self.register_buffer("fitted", torch.tensor(False))
        for name, shape, value in (("middle", states, 0.0), ("spread", states, 1.0), ("shift", heads, 0.0), ("scale", heads, 1.0)):
            self.register_buffer(name, torch.full((shape,), value, device=device))
        if weights is not None:
            self.load(weights)
        if labelled is not None:
            self.fit(*stored_pairs(self.backbone, labelled, "brme"))

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "robust", paid at the end."""
        if not self.fitted:
            raise ValueError(
                "brme: nothing has been fitted, so its numbers would mean nothing; give labelled (rows with chosen and "
                "rejected) or weights (a saved model), or call fit"
            )
        state = self._states(traj)
        mean, deviation = self.heads(state)
        first = (state @ self.first)[:, 0] if self.nominal == "first" else None
        score = robust_score(mean, deviation, share=self.share, first=first, surest=self.nominal == "surest").to(traj.device)
        return {"robust": place_outcome(score, torch.ones_like(score, dtype=torch.bool), traj)}

    def heads(self, state: Float[Tensor, "N H"]) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M N"]]:
        """mu and s of every head for standardised states, on the first head's scale."""
        mean, deviation = self._raw(state)
        return mean * self.scale[:, None] + self.shift[:, None], deviation * self.scale[:, None]

    def fit(self, traj: Trajectories, pairs: Pairs) -> dict[str, float | int | None]:
        """Fit the first head to the pairs and the others to what it says of all the rollouts; goes on from what is there.

        Gives robust/accuracy of the first head over pairs with a label that is not 1/2, robust/deviation, the mean of s, and
        robust/parting, how far the heads' means part over an answer, both in deviations of the first head's scores. The same seed
        gives the same weights. Raises ValueError when there is no pair.
        """
        if not len(pairs.index) or not float(pairs.weight.sum()) > 0:
            raise ValueError("brme: no pairs of any weight, so there is nothing to fit")
        device, rng = self.first.device, torch.Generator().manual_seed(self.seed)
        index, label, weight = (x.to(device) for x in pairs)
        with torch.no_grad():
            raw = states_after(self.backbone, traj, traj.length[:, None], batch_size=self.batch_size)[:, 0]
            if not self.fitted:
                self.middle.copy_(raw.mean(0))
                self.spread.copy_(raw.std(0, correction=0).clamp(min=NARROWEST))
            state = (raw.to(self.middle) - self.middle) / self.spread
        optimiser = torch.optim.Adam([self.first], lr=self.learning_rate)
        for _ in range(self.epochs):
            for some in torch.randperm(len(index), generator=rng).to(device).split(self.batch_size):
                score = (state @ self.first)[:, 0]
                each = pair_loss(score[index[some, 0]], score[index[some, 1]], label=label[some].to(score), anchor=self.anchor)
                optimiser.zero_grad(set_to_none=True)
                ((weight[some].to(each) * each).sum() / weight[some].sum().clamp(min=1e-12)).backward()
                optimiser.step()
        target = (state @ self.first)[:, 0].detach()
        unit = target.std(correction=0).clamp(min=NARROWEST)
        self._fit_heads(state, (target - target.mean()) / unit, rng)
        with torch.no_grad():  # every head's scores of these answers get the mean and deviation that the first head's have
            mean, deviation = self._raw(state)
            self.scale.copy_(unit / mean.std(1, correction=0).clamp(min=NARROWEST))
            self.shift.copy_(target.mean() - self.scale * mean.mean(1))
            mean, deviation = self.heads(state)
        self.fitted.fill_(True)
        told = label != 0.5
        right = ((target[index[:, 0]] > target[index[:, 1]]) == (label > 0.5))[told]
        return {
            "robust/accuracy": float(right.double().mean()) if len(right) else None,
            "robust/deviation": float((deviation / unit).mean()),
            "robust/parting": float((mean.std(0, correction=0) / unit).mean()),
            "robust/pairs": len(index),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the heads to one file, whole or not at all; ValueError before `fit`."""
        if not self.fitted:
            raise ValueError("brme: nothing has been fitted, so there is nothing to save")
        save_heads(path, "brme", self._kept(), self.backbone)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what `save` wrote; ValueError in one line where there is no such file or it does not fit."""
        self.load_state_dict(load_heads(path, "brme", self._kept(), self.backbone), strict=False)
        self.fitted.fill_(True)

    def _fit_heads(self, state: Float[Tensor, "N H"], target: Float[Tensor, " N"], rng: torch.Generator) -> None:
        """Every head by what it draws, against the same targets in an order of its own."""
        parameters = [self.inner, self.outer, self.inner_bias, self.outer_bias]
        optimiser = torch.optim.Adam(parameters, lr=self.learning_rate)
        members = len(self.inner)
        for _ in range(self.epochs):
            order = torch.stack([torch.randperm(len(state), generator=rng) for _ in range(members)]).to(state.device)
            for some in order.split(self.batch_size, dim=1):
                mean, deviation = self._raw(state[some])
                noise = torch.randn(mean.shape, generator=rng).to(mean)
                optimiser.zero_grad(set_to_none=True)
                (mean + deviation * noise - target[some]).square().mean(1).sum().backward()
                optimiser.step()

    def _raw(self, state: Float[Tensor, "*heads N H"]) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M N"]]:
        """mu and s of every head as it learned them, of the same states for all heads or of its own for each."""
        hidden = torch.tanh(state @ self.inner + self.inner_bias)
        mean, width = (hidden @ self.outer + self.outer_bias).unbind(-1)
        return mean, softplus(width)

    def _states(self, traj: Trajectories) -> Float[Tensor, "N H"]:
        state = states_after(self.backbone, traj, traj.length[:, None], batch_size=self.batch_size)[:, 0]
        return (state.to(self.middle) - self.middle) / self.spread

    def _kept(self) -> dict[str, Tensor]:
        return {name: x for name, x in self.state_dict().items() if not name.startswith("backbone.")}


def robust_score(
    mean: Float[Tensor, "M N"],
    deviation: Float[Tensor, "M N"],
    *,
    share: float,
    first: Float[Tensor, " N"] | None = None,
    surest: bool = True,
) -> Float[Tensor, " N"]:
    """share * nominal + (1 - share) * min_i mean_i; nominal is `first`, or the surest head's mean, or the mean of all.

    Never above the nominal reward where that is a head's or their mean; unchanged by heads that are alike; a constant added to all
    is added to the result.

    >>> mean, deviation = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.1]])
    >>> robust_score(mean, deviation, share=0.5).tolist(), robust_score(mean, deviation, share=0.5, surest=False).tolist()
    ([2.0], [1.5])
    """
    best = mean.gather(0, deviation.argmin(0, keepdim=True))[0] if surest else mean.mean(0)
    return share * (best if first is None else first) + (1 - share) * mean.amin(0)
