"""OPRL: does an implicit reward of turns, learned from which rollouts came out better, train an agent in fewer tokens?

payoff reproduce oprl
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from payoff.advantages.group import leave_one_out
from payoff.advantages.turn_payments import standardised_payments
from payoff.credit.returns import immediate, total
from payoff.losses.pair_aggregation import pair_mean
from payoff.losses.preferences import dpo
from payoff.pipeline import weighted_sum
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, learn, task, taught
from payoff.sampling.pairings import all_pairs
from payoff.signals.density_ratios import implicit_step_rewards
from payoff.signals.information_gain import information_gain
from payoff.trajectories import Channel, Trajectories, per_step

BETA, STEP_WEIGHT = 0.05, 1.0


class Credit:
    """Weights of the actions of each batch, and how they lie with what each turn truly told."""

    def __init__(self, arm: str, learning_rate: float) -> None:
        self.arm = arm
        self.model: Any = taught()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, traj: Trajectories) -> Channel:
        """RLOO of the outcome, and in the arm "steps" the standardised rewards of turns besides."""
        answer = total(task().truth(traj), traj)
        answer = Channel(answer.value.float(), answer.valid)
        weights = leave_one_out(answer, traj)
        if self.arm == "steps":
            self._learn(answer, traj)
            with torch.no_grad():
                said = self.model.evaluate(traj).logp
            paid = implicit_step_rewards(traj.replace(logp={"prm": said}), beta=BETA)["oprl"]
            steps = immediate(standardised_payments(paid, traj), traj)
            weights = weighted_sum({"outcome": weights, "steps": steps}, {"outcome": 1.0, "steps": STEP_WEIGHT})
        self._look(weights, traj)
        return weights

    def bearing(self) -> float:
        """The correlation of a turn's weight with its exact information gain, over all turns but the last of each rollout."""
        weight, gain = (torch.cat(column).double() for column in zip(*self.seen, strict=True))
        return float(torch.corrcoef(torch.stack([weight, gain]))[0, 1]) if weight.std() > 0 else 0.0

    def _learn(self, answer: Channel, traj: Trajectories) -> None:
        pairs = all_pairs(answer, traj)
        if not len(pairs.index):
            return
        traj = traj.replace(logp={"ref": traj.logp["old"]})
        terms = dpo(self.model.evaluate(traj), traj, pairs, beta=BETA).terms
        self.optimiser.zero_grad()
        (terms * pair_mean(pairs, traj)).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()

    def _look(self, weights: Channel, traj: Trajectories) -> None:
        belief = traj.replace(extras={"reference_logp": traj.extras["reference_logp"].float()})
        gain, here, _ = per_step(information_gain(belief)["gain"], traj)
        own = torch.where(traj.own, weights.value.expand(traj.mask.shape), 0)
        each = per_step(Channel(own, weights.valid), traj)[0] / per_step(
            Channel(traj.own.float(), torch.ones_like(weights.valid)), traj
        )[0].clamp(min=1)
        inner = here & torch.cat([here[:, 1:], torch.zeros_like(here[:, :1])], 1)
        self.seen.append((each[inner], gain[inner]))


def run(arm: str, seed: int, *, tokens: int = 20_000, model_rate: float = 1e-3) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; both arms write as many tokens."""
    torch.set_num_threads(1)
    credit = Credit(arm, model_rate)
    found = learn(credit, seed, tokens=tokens, policy=copy.deepcopy(credit.model))
    return {"success": found.success, "over": found.over, "bearing": credit.bearing()}


RECIPE = Recipe(
    name="oprl",
    claim=(
        "Rewards of turns, read off a model that learns which rollouts of a group came out better, bring an agent further in as "
        "many tokens than the outcome alone."
    ),
    paper="arXiv:2509.19199",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question, leave-one-out outcomes in both arms. The model of the implicit reward "
        "begins as the policy does and learns from every batch once, from all pairs of a right and a wrong rollout, beta "
        f"{BETA:g}, with the policy's learning rate; the rewards of turns are standardised over all turns of the group and "
        "added with weight 1. Its training costs time and no tokens. Not tested: language models, outcomes that are not 0 or "
        "1, and tasks with many turns."
    ),
    arms={"outcome": "leave-one-out of the right answer", "steps": "the same, and implicit rewards of turns"},
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
        "bearing": "correlation of a turn's weight with what it truly told about the answer, over turns but the last",
    },
    effects=(
        Effect("over", "steps", "outcome", "higher", delta=0.03),
        Effect("success", "steps", "outcome", "not lower", delta=0.05),
        Effect("bearing", "steps", "outcome", "higher", delta=0.05),
    ),
    run=run,
    methods=("signal:oprl", "advantage:igpo", "advantage:rloo", "loss:dpo", "pairing:all-pairs", "task:turns-search"),
)
