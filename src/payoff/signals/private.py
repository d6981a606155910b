"""A reward from records that must stay private: their noisy votes, and an account of what the votes have given away."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff._extras import require
from payoff.catalogue import method
from payoff.trajectories import Rewards, Trajectories, place_outcome

_BLOCK = 1 << 22  # distances computed at a time


class PrivacyBudgetError(RuntimeError):
    """The next votes would give away more than was allowed; nothing was computed."""


@method("dp-rft", kind="signal", paper="arXiv:2602.18633", sees="batch")
class PrivateVotes(nn.Module):
    """Pay each rollout the noisy number of private records to which it is the nearest of the batch (DP-RFT), channel "votes".

    Each record votes for the nearest of the M rollouts, equally near ones share its vote: c_j, of which sum_j c_j = D records. What
    is released is v_j = c_j + Normal(0, (noise * sensitivity)^2); the reward is v_j, or max(v_j - threshold, 0), paid at the end.
    One record more or less changes c by a vector of length at most 1, one exchanged by at most sqrt(2): the `sensitivity`. All
    that is computed from v gives nothing further away, so training on it for several epochs is free; scoring the same rollouts
    again gives the same v.

    private:     the records' embeddings [D, d], or a file that `torch.save` wrote them to. Nothing else reads them
    embed:       gives the embeddings [M, d] of the rollouts' items; None: each item's own field "embedding"
    noise:       noise multiplier; 0: exact votes and no privacy at all
    neighbours:  "add-remove": a record is there or not; "replace": it is another one
    sample_rate: the chance with which each record takes part in an update (Poisson); below 1 needs the extra `privacy`
    threshold:   None: none. Both are after the release, and free
    delta:       the probability with which the promise may fail
    budget:      the largest epsilon; PrivacyBudgetError before an update that would pass it. None: no limit
    seed:        of the noise. None: from the system's secrets, which is what a promise needs: who knows the seed can take it off

    The votes of a batch always add up to D, so that only the share of each rollout means anything: centre them in the batch.
    Metric of `learn`: dp-rft/epsilon, given away so far at `delta` (None without noise). Releases are counted in the checkpoint; a
    run that is killed and goes on from an older one has released more than it says. How close the noise comes to a normal
    distribution in floating point is not accounted for.

    Raises ValueError for numbers out of range, records or embeddings that are no matrix, and embeddings of another width.

    >>> votes = PrivateVotes(private=[[0.0], [0.1], [1.0]], noise=0.0)
    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(items=[{"embedding": [x]} for x in (0.0, 0.4, 0.9, 0.9)])
    >>> votes(traj)["votes"].value.sum(1)
    tensor([2.0000, 0.0000, 0.5000, 0.5000])
    """

    def __init__(
        self,
        *,
        private: str | Sequence[Sequence[float]] | Tensor,
        embed: Callable[[Sequence[Any]], Tensor] | None = None,
        noise: float = 5.0,
        neighbours: Literal["add-remove", "replace"] = "add-remove",
        sample_rate: float = 1.0,
        threshold: float | None = None,
        delta: float = 1e-5,
        budget: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if noise < 0 or not 0 < sample_rate <= 1 or not 0 < delta < 1 or (budget is not None and not budget > 0):
            raise ValueError(
                "dp-rft: noise must be at least 0, sample_rate in (0, 1], delta in (0, 1) and budget above 0, "
                f"got {noise}, {sample_rate}, {delta} and {budget}"
            )
        if sample_rate < 1 and neighbours == "replace":
            raise ValueError('dp-rft: what is known of records that take part by chance is for neighbours: "add-remove"')
        if budget is not None and noise == 0:
            raise ValueError("dp-rft: without noise no budget is kept")
        records = torch.load(private, weights_only=True) if isinstance(private, str) else torch.as_tensor(private)
        if records.ndim != 2 or not len(records):
            raise ValueError(f"dp-rft: private must be embeddings [D, d] of at least one record, got {list(records.shape)}")
        self._records = records.double()  # no buffer: checkpoints must not hold them
        self.embed, self.noise, self.sample_rate, self.threshold = embed, noise, sample_rate, threshold
        self.sensitivity = 1.0 if neighbours == "add-remove" else math.sqrt(2.0)
        self.delta, self.budget, self.releases = delta, budget, 0
        self._rng = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed)
        self._last: tuple[list[int], Tensor] = ([], torch.zeros(0, dtype=torch.float64))

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "votes"; a batch that was just scored is not counted twice."""
        ids = traj.id.tolist()
        if ids != self._last[0]:
            self._spend()
            self._last = (ids, self._released(self._embedded(traj)))
        value = self._last[1]
        if self.threshold is not None:
            value = (value - self.threshold).clamp(min=0)
        everyone: Bool[Tensor, " N"] = torch.ones(len(traj), dtype=torch.bool, device=traj.device)
        return {"votes": place_outcome(value.float().to(traj.device), everyone, traj)}

    def epsilon(self, releases: int | None = None) -> float:
        """What so many releases give away at `delta` (None: those made so far); infinite without noise."""
        return privacy_spent(self.noise, self.releases if releases is None else releases, self.delta, sample_rate=self.sample_rate)

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | None]:
        """Nothing is learned; the account is told."""
        return {"dp-rft/epsilon": self.epsilon() if self.noise else None}

    def get_extra_state(self) -> dict[str, Any]:
        """The number of releases, and where the noise stands; the records are not in it."""
        return {"releases": self.releases, "rng": self._rng.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_extra_state`."""
        self.releases = state["releases"]
        self._rng.set_state(state["rng"])

    def _spend(self) -> None:
        if self.budget is not None and (after := self.epsilon(self.releases + 1)) > self.budget:
            raise PrivacyBudgetError(
                f"dp-rft: after {self.releases} releases another one would come to epsilon {after:.4g} at delta {self.delta:g}, "
                f"more than the budget of {self.budget:g}"
            )
        self.releases += 1

    def _embedded(self, traj: Trajectories) -> Float[Tensor, "N d"]:
        given = [item["embedding"] for item in traj.items] if self.embed is None else self.embed(traj.items)
        points = torch.as_tensor(given).double().cpu()
        if points.shape != (len(traj), self._records.shape[1]):
            wanted = [len(traj), self._records.shape[1]]
            raise ValueError(f"dp-rft: the rollouts' embeddings must be [N, d] = {wanted}, got {list(points.shape)}")
        return points

    def _released(self, points: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        """The votes with noise: the only thing that may leave here."""
        taking_part = torch.rand(len(self._records), generator=self._rng, dtype=torch.float64) < self.sample_rate
        votes = torch.zeros(len(points), dtype=torch.float64)
        for some in self._records[taking_part].split(max(1, _BLOCK // points.numel())):
            distance = (some[:, None] - points).square().sum(2)
            nearest = (distance == distance.min(1, keepdim=True).values).double()
            votes += (nearest / nearest.sum(1, keepdim=True)).sum(0)
        drawn = torch.randn(len(points), generator=self._rng, dtype=torch.float64)
        return votes + self.noise * self.sensitivity * drawn


def privacy_spent(noise: float, releases: int, delta: float, *, sample_rate: float = 1.0) -> float:
    """The least epsilon for which `releases` normal releases of this noise multiplier are (epsilon, delta)-private.

    Without sampling exactly: T releases are one with mu = sqrt(T) / noise, and then (Balle & Wang)
    delta = Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu).
    With a sample_rate below 1 an upper bound by opacus's accountant of privacy loss distributions. 0 for no release, infinite
    without noise. Raises MissingExtraError where opacus is needed and not there.

    >>> round(privacy_spent(5.0, 50, 1e-5), 3), privacy_spent(5.0, 0, 1e-5), privacy_spent(0.0, 1, 1e-5)
    (6.573, 0.0, inf)
    """
    if releases == 0:
        return 0.0
    if noise == 0:
        return math.inf
    if sample_rate < 1:
        accountant = require("opacus.accountants", "privacy of records that take part by chance").PRVAccountant()
        accountant.history = [(noise, sample_rate, releases)]
        return float(accountant.get_epsilon(delta=delta))
    mu = math.sqrt(releases) / noise
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(100):  # delta falls as epsilon grows; `high` is enough by the bound of concentrated privacy
        middle = (low + high) / 2
        low, high = (middle, high) if _log_delta(middle, mu) > math.log(delta) else (low, middle)
    return high


def _log_delta(epsilon: float, mu: float) -> float:
    """log(Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu))."""
    log_phi = lambda x: float(torch.special.log_ndtr(torch.tensor(x, dtype=torch.float64)))
    first, second = log_phi(mu / 2 - epsilon / mu), epsilon + log_phi(-mu / 2 - epsilon / mu)
    return -math.inf if second >= first else first + math.log(-math.expm1(second - first))
