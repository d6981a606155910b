"""A critic of the places between steps, fitted to what a frozen policy makes of them; a step is paid by what it adds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from payoff.catalogue import method
from payoff.models.continuations import draws, named_reward, prefix_values
from payoff.models.hidden_states import NARROWEST, states_after, step_ends
from payoff.trajectories import Channel, Rewards, Trajectories, place_steps


@method("direct-advantage-po", kind="model", paper="arXiv:2412.18279")
class StepAdvantages(nn.Module):
    """Pay each step what it adds to a learned value of the reference policy (critic of Direct Advantage Policy Optimization).

    V(s) = sigmoid(w . h(s) + b) in [0, 1], h the hidden state at the place s between two steps, fitted by cross-entropy to the mean
    outcome of n continuations of s by the policy as it began; then it is frozen. Channel "advantage": V(after) - V(before) at the
    end of a step, and -V(before) for the last step of a rollout. Credited as `immediate` beside the outcome's own `immediate` this
    adds up to the advantage A(s, a): V(s a) - V(s), and outcome - V(s) at the end. It is the target of the loss of this name.

    policy:  who continues, and whose states are read; it must offer "hidden". A run hands over a copy, which never changes
    reward:  a registered grader or signal of finished rollouts with outcomes in [0, 1], by name; or a signal
    n:       continuations of each place
    batches: how many of the first batches of rollouts it learns from, each before it is paid; after that it stays as it is
    learning_rate, epochs, batch_size: of Adam on the head, passes over all places so far, and places in one of its steps
    seed:    of the order of places, and of the draws

    Before it has learned anything its payments are unknown. A step at a place without a known state is unknown.
    Paid as a reward and summed up it telescopes to the outcome less V(start): use it as an advantage only.
    Raises LookupError for an unknown reward, ValueError for options that make no sense, and for outcomes outside [0, 1].

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}, {"prompt": "3-7=", "response": "3-7=5;#5."}])
    >>> model = StepAdvantages(policy=policy, reward="answer-match", epochs=100, learning_rate=0.1)
    >>> values = torch.tensor([[0.2, 0.9, 0.0]] * 2)  # of the start, and after the first step
    >>> model.fit(traj, values, torch.tensor([[True, True, False]] * 2))["critic/places"]
    4
    >>> [[round(x, 1) for x in row if x] for row in model(traj)["advantage"].value.tolist()]
    [[0.7, -0.9], [0.7, -0.9]]
    """

    learns_first = True
    taught: Tensor
    middle: Tensor
    spread: Tensor
    head: nn.Linear

    def __init__(
        self,
        *,
        policy: Any,
        reward: str | Callable[..., Any],
        n: int = 16,
        batches: int = 1,
        learning_rate: float = 1e-2,
        epochs: int = 50,
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n, batches, epochs, batch_size) < 1 or not learning_rate > 0:
            raise ValueError(
                "direct-advantage-po: n, batches, epochs and batch_size must be at least 1 and learning_rate positive, "
                f"got {n}, {batches}, {epochs}, {batch_size} and {learning_rate}"
            )
        if "hidden" not in getattr(policy, "offers", ()):
            raise ValueError("direct-advantage-po: the policy offers no hidden states to read places from")
        self.policy: Any = policy.requires_grad_(False)
        self.reward = named_reward(reward)
        self.n, self.batches, self.epochs, self.batch_size, self.seed = n, batches, epochs, batch_size, seed
        self.learning_rate = learning_rate
        width, device = policy.width, policy.device
        self.head = nn.Linear(width, 1, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("taught", torch.tensor(0))
        self.register_buffer("middle", torch.zeros(width, device=device))
        self.register_buffer("spread", torch.ones(width, device=device))
        self.states, self.targets = torch.zeros(0, width, device=device), torch.zeros(0, device=device)

    @torch.no_grad()
    def forward(self, traj: Trajectories) -> Rewards:
        """The channel "advantage"."""
        if not self.taught:
            unknown = torch.zeros(len(traj), 1, dtype=torch.bool, device=traj.device)
            reason = dict.fromkeys(traj.id.tolist(), "direct-advantage-po: nothing has been learned yet")
            return {"advantage": Channel(torch.zeros(len(traj), 1, device=traj.device), unknown, reason)}
        value, exists = self.values(traj)
        last = exists[:, 1:] & ~pad(exists[:, 2:], (0, 1))
        after = torch.where(last, 0, value[:, 1:])
        return {"advantage": place_steps(torch.where(exists[:, 1:], after - value[:, :-1], 0), exists[:, 1:], traj)}

    @torch.no_grad()
    def values(self, traj: Trajectories) -> tuple[Float[Tensor, "N S1"], Bool[Tensor, "N S1"]]:
        """(V, whether there is such a place) of every place between steps, start first and end last; 0 where there is none."""
        states, exists = self._places(traj)
        return torch.where(exists, self._logits(states).sigmoid(), 0).to(traj.device), exists.to(traj.device)

    def learn(self, traj: Trajectories, rewards: Rewards) -> dict[str, float | int]:
        """From one of the first batches: the values of its places by continuations, and the critic fitted to all places so far."""
        if int(self.taught) >= self.batches:
            return {}
        found = prefix_values(self.policy, self.reward, traj, n=self.n, rng=draws(self.seed, traj))
        told = self.fit(traj, found.value.float(), found.known & ~found.end)
        return {**told, "critic/continuations": found.drawn}

    def fit(self, traj: Trajectories, values: Float[Tensor, "N S1"], known: Bool[Tensor, "N S1"]) -> dict[str, float | int]:
        """Minimise the cross-entropy of V at the known places, and at those of earlier calls, against values in [0, 1].

        Column 0 is the start, column k the place after k steps. Gives critic/loss (after fitting), critic/error (root mean squared
        difference) and critic/places. Raises ValueError when no place is known, for values outside [0, 1] and other shapes.
        """
        states, exists = self._places(traj)
        if values.shape != exists.shape or known.shape != exists.shape:
            raise ValueError(
                f"direct-advantage-po: values and known must be [N, S+1] = {list(exists.shape)}, "
                f"got {list(values.shape)} and {list(known.shape)}"
            )
        known = known.to(exists.device) & exists
        if not known.any():
            raise ValueError("direct-advantage-po: no place has a known value, so there is nothing to fit")
        wanted = values.to(states)[known]
        if not bool(((wanted >= 0) & (wanted <= 1)).all()):
            raise ValueError(f"direct-advantage-po: values must lie in [0, 1], got {float(wanted.min())} to {float(wanted.max())}")
        self.states, self.targets = torch.cat([self.states, states[known]]), torch.cat([self.targets, wanted])
        if not self.taught:
            self.middle.copy_(self.states.mean(0))
            self.spread.copy_(self.states.std(0, correction=0).clamp(min=NARROWEST))
        self.taught += 1
        rng, optimiser = torch.Generator().manual_seed(self.seed), torch.optim.Adam(self.head.parameters(), lr=self.learning_rate)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for some in torch.randperm(len(self.states), generator=rng).to(self.states.device).split(self.batch_size):
                    loss = binary_cross_entropy_with_logits(self._logits(self.states[some]), self.targets[some])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
        with torch.no_grad():
            logits = self._logits(self.states)
            loss = binary_cross_entropy_with_logits(logits, self.targets)
            error = (logits.sigmoid() - self.targets).square().mean().sqrt()
        return {"critic/loss": float(loss), "critic/error": float(error), "critic/places": len(self.states)}

    def get_extra_state(self) -> dict[str, Tensor]:
        """What was learned from: needed while more batches follow."""
        return {"states": self.states, "targets": self.targets}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what was saved."""
        self.states, self.targets = copy.deepcopy(state["states"]), copy.deepcopy(state["targets"])

    def _logits(self, states: Float[Tensor, "*P D"]) -> Float[Tensor, "*P"]:
        return self.head((states - self.middle) / self.spread)[..., 0]

    @torch.no_grad()
    def _places(self, traj: Trajectories) -> tuple[Float[Tensor, "N S1 D"], Bool[Tensor, "N S1"]]:
        """The hidden state at every place between steps, 0 where there is none, and which places there are."""
        last, exists = step_ends(traj)
        exists = pad(exists, (1, 0), value=True)
        states = states_after(self.policy, traj, pad(last + 1, (1, 0))).to(self.head.weight)
        exists = exists.to(states.device)
        return torch.where(exists[..., None], states, 0), exists
