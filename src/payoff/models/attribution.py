"""What each turn added to the outcome, by a model whose numbers for the turns of a rollout must add up to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from payoff.catalogue import method
from payoff.models.continuations import function_at
from payoff.models.process import ProcessRewardModel
from payoff.trajectories import Rewards, Trajectories, outcome, place_steps


@method("spa-rl", kind="model", paper="arXiv:2505.20732")
class ProgressAttribution(ProcessRewardModel):
    """Pay each turn its share of the outcome, by a model whose shares add up to a prediction of it (SPA-RL).

    c_k = f(h_k), h_k the hidden state behind the last token of turn k; f minimises the mean of (sum_k c_k - outcome)^2 by Adam.
    Turn k is paid r_k = weight c_k + executed_weight g_k at its end, channel "progress", in place of the outcome.

    policy:   whose hidden states are read; it must offer "hidden". A run hands over a copy
    by:       the channel whose outcome is learned from; unknown outcomes are left out
    hidden:   units of a layer between state and share (0: linear)
    executed: g_k in 0..1 of a turn, made of its entry in the item's "turns" (said, observed, reward); as "module:function" in a run
              file. None: no such part
    batches:  so many batches are learned from, each after it was scored, then the model stays as it is (None: every one)
    closed:   pay the last turn the shares' sum less, so that all add up to 0 and the outcome is paid by its own channel: together
              they pay the outcome exactly, however bad the fit
    weights, learning_rate, epochs, batch_size, train_backbone, seed: as of `process-reward-model`

    Where the shares add up to the outcome and executed_weight is 0, the return-to-go at turn k is the outcome less what the past
    fixed: exactly unbiased, with less noise the better c_k tells turns apart. Before anything was learned every share is 0.
    Shares are not unique: phi(h_(k+1)) - phi(h_k) may be added. One turn: c_1 = E[outcome | h_1]. The authors' script pays other
    numbers than their text: the credit `spa-rl-script`.
    Raises ValueError for options that make no sense, KeyError in `learn` for a channel that is not there.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}, {"prompt": "3-7=", "response": "#5."}])
    >>> model = ProgressAttribution(policy=policy, epochs=300, learning_rate=0.1)
    >>> told = model.fit_outcomes(traj, torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool))
    >>> [round(abs(float(x)), 1) for x in outcome(model(traj)["progress"], traj)[0]]
    [1.0, 0.0]
    """

    name = "spa-rl"
    seen: Tensor

    def __init__(
        self,
        *,
        policy: Any,
        by: str = "correct",
        hidden: int = 0,
        weight: float = 1.0,
        executed: str | Callable[[Mapping[str, Any]], float] | None = None,
        executed_weight: float = 0.5,
        batches: int | None = None,
        closed: bool = False,
        weights: str | None = None,
        learning_rate: float = 1e-3,
        epochs: int = 3,
        batch_size: int = 32,
        train_backbone: bool = False,
        seed: int = 0,
    ) -> None:
        how: dict[str, Any] = {"learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size, "seed": seed}
        super().__init__(policy=policy, train_backbone=train_backbone, **how)
        if hidden < 0 or (batches is not None and batches < 1):
            raise ValueError(f"spa-rl: hidden must be at least 0 and batches at least 1, got {hidden} and {batches}")
        self.by, self.weight, self.executed_weight = by, weight, executed_weight
        self.batches, self.closed = batches, closed
        self.executed = function_at(executed) if isinstance(executed, str) else executed
        if hidden:
            device, width = self.backbone.device, self.backbone.width
            torch_rng = torch.get_rng_state()
            torch.manual_seed(seed)
            self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)).to(device)  # type: ignore[assignment]
            torch.set_rng_state(torch_rng)
            for parameter in self.head[-1].parameters():  # type: ignore[index]  # every share begins as 0
                nn.init.zeros_(parameter)
        self.register_buffer("seen", torch.tensor(0))
        if weights is not None:
            self.load(weights)

    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "progress": what each turn is paid, at its end."""
        share, exists = self.score(traj)
        paid, known = self.weight * share, exists
        if self.closed:
            last = exists & ~nn.functional.pad(exists[:, 1:], (0, 1))
            paid = torch.where(last, paid - paid.sum(1, keepdim=True), paid)
        if self.executed is not None:
            paid = paid + self.executed_weight * self._executed(traj, exists)
        return {"progress": place_steps(paid, known, traj)}

    @torch.no_grad()
    def score(self, traj: Trajectories) -> tuple[Float[Tensor, "N S"], Bool[Tensor, "N S"]]:
        """(c_k, whether there is a turn k), 0 where there is none."""
        states, exists = self._states(traj)
        return torch.where(exists, self._shares(states).to(traj.device), 0), exists

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | int | None]:
        """`fit_outcomes` on the rollouts whose outcome is known; nothing once `batches` were seen."""
        if self.by not in rewards:
            raise KeyError(f"spa-rl: no reward channel {self.by!r} to learn from; there are {sorted(rewards)}")
        if self.batches is not None and int(self.seen) >= self.batches:
            return {"spa-rl/loss": None}
        self.seen += 1
        value, known = outcome(rewards[self.by], traj)
        return self.fit_outcomes(traj, value, known) if known.any() else {"spa-rl/loss": None}

    def fit_outcomes(
        self, traj: Trajectories, value: Float[Tensor, " N"], known: Bool[Tensor, " N"]
    ) -> dict[str, float | int | None]:
        """Minimise the mean of (sum_k c_k - value)^2 over the known rollouts; goes on from what is there.

        Gives spa-rl/loss, the mean of the last epoch, and spa-rl/unexplained, the mean of what is left after it over the variance
        of the outcomes (None where they are all equal). Raises ValueError when nothing is known.
        """
        rows = known.nonzero()[:, 0]
        if not len(rows):
            raise ValueError("spa-rl: no outcome is known, so there is nothing to fit")
        wanted = value.to(next(self.head.parameters()))
        rng = torch.Generator().manual_seed(self.seed)
        cached = None
        if not self.train_backbone:
            with torch.no_grad():
                cached = self._states(traj)
        optimiser = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.learning_rate)
        for _ in range(self.epochs):
            total = 0.0
            for some in rows[torch.randperm(len(rows), generator=rng).to(rows.device)].split(self.batch_size):
                states, exists = self._states(traj.select(some)) if cached is None else (cached[0][some], cached[1][some])
                shares = torch.where(exists.to(states.device), self._shares(states), 0)
                loss = (shares.sum(1) - wanted[some]).square().mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(some)
        self.fitted.fill_(True)
        left = (self.score(traj)[0].sum(1).to(wanted) - wanted)[rows].square().mean()
        spread = wanted[rows].var(correction=0)
        return {"spa-rl/loss": total / len(rows), "spa-rl/unexplained": float(left / spread) if spread > 0 else None}

    def fit(self, traj: Trajectories, labels: Float[Tensor, "N S"], known: Bool[Tensor, "N S"]) -> dict[str, float | int | None]:
        """`fit_outcomes` on the sum of the labels of each rollout that are all known: labels of turns themselves are not needed."""
        exists = self._states(traj)[1].to(known.device)
        steps = exists.shape[1]
        whole = (known[:, :steps] | ~exists).all(1)
        return self.fit_outcomes(traj, torch.where(exists, labels[:, :steps], 0).sum(1), whole)

    def _shares(self, states: Float[Tensor, "N S D"]) -> Float[Tensor, "N S"]:
        return self.head(states.to(next(self.head.parameters())))[..., 0]

    def _executed(self, traj: Trajectories, exists: Bool[Tensor, "N S"]) -> Float[Tensor, "N S"]:
        """g_k of every turn; 0 for a turn that the environment was never asked about."""
        asked: Any = self.executed
        flag = torch.zeros(exists.shape, device=traj.device)
        for row, item in enumerate(traj.items):
            for k, turn in enumerate(item.get("turns", ())[: exists.shape[1]]):
                flag[row, k] = float(asked(turn))
        return torch.where(exists, flag, 0)
