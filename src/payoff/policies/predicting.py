"""A controller whose features must also foretell: the sign of the reward, and what it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from payoff.catalogue import method
from payoff.pipeline import Evaluation
from payoff.policies.control import ActorCritic
from payoff.trajectories import Trajectories


@method("actor-critic-predicting", kind="policy", paper="arXiv:2305.15801")
class PredictingActorCritic(ActorCritic):
    """`actor-critic` with two linear heads on the actor's last hidden layer, for `reward-sign` and `state-reconstruction`.

    The options are those of `actor-critic`; actor and critic begin with the same weights as there. Offers in addition, at every
    action: "reward_sign" [N, T, 3], logits of a punished, unpaid and paid action from the state before it; "reconstruction"
    [N, T, D], what the features tell of the observation, and "seen" [N, T, D], the observation as the network saw it (standardised
    with `normalise`). 0 beyond the end. Acting does not use them.

    >>> policy = PredictingActorCritic("CartPole-v1", hidden=(8,))
    >>> sorted(policy.offers)
    ['entropy', 'mean_logp', 'reconstruction', 'reward_sign', 'seen', 'values']
    """

    def __init__(
        self,
        environment: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        spaces: tuple[Any, Any] | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Literal["tanh", "relu"] = "tanh",
        log_std: float = 0.0,
        normalise: bool = False,
        lanes: int = 32,
        horizon: int = 1000,
    ) -> None:
        super().__init__(
            environment,
            options=options,
            spaces=spaces,
            hidden=hidden,
            activation=activation,
            log_std=log_std,
            normalise=normalise,
            lanes=lanes,
            horizon=horizon,
        )
        if not hidden:
            raise ValueError("actor-critic-predicting: needs a hidden layer to predict from")
        self.reward_sign, self.reconstruction = nn.Linear(hidden[-1], 3), nn.Linear(hidden[-1], self.observations.size)
        self._predictions = frozenset({"reward_sign", "reconstruction", "seen"})
        self.offers = self.offers | self._predictions

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """As `ActorCritic.evaluate`, and the predictions that were wanted."""
        found = super().evaluate(traj, want - self._predictions)
        if not want & self._predictions:
            return found
        at = traj.exists.flatten().nonzero().squeeze(1)
        seen = self._scaled(self._recorded_observations(traj)[:, :-1].flatten(0, 1)[at])
        features = self.actor[:-1](seen)  # type: ignore[index]
        told: dict[str, Tensor] = {"seen": seen}
        if "reward_sign" in want:
            told["reward_sign"] = self.reward_sign(features)
        if "reconstruction" in want:
            told["reconstruction"] = self.reconstruction(features)
        shape = (len(traj), traj.width)
        dense = lambda x: x.new_zeros(traj.mask.numel(), x.shape[1]).index_copy(0, at, x).unflatten(0, shape)
        return Evaluation(found.logp, {**found.more, **{name: dense(x) for name, x in told.items() if name in want}})
