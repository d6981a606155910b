"""IGPO: is an agent of turns trained in fewer tokens when each turn is paid what it told about the answer?

payoff reproduce igpo
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from payoff.advantages.group import grpo
from payoff.advantages.turn_payments import standardised_payments
from payoff.credit.returns import return_to_go, total
from payoff.pipeline import weighted_sum
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, learn, task
from payoff.signals.information_gain import information_gain
from payoff.trajectories import Channel, Trajectories


def outcome_alone(traj: Trajectories) -> Channel:
    """GRPO on the right answer."""
    return grpo(total(task().truth(traj), traj), traj)


def with_gains(traj: Trajectories) -> Channel:
    """What each turn told, and the right answer at the end, as the paper standardises and adds them up."""
    gain = information_gain(traj.replace(extras={"reference_logp": traj.extras["reference_logp"].float()}))["gain"]
    paid = weighted_sum({"gain": gain, "answer": task().truth(traj)}, {"gain": 1.0, "answer": 1.0})
    paid = Channel(paid.value.float(), paid.valid)
    return return_to_go(standardised_payments(paid, traj), traj, per="step")


ARMS: Mapping[str, Callable[[Trajectories], Channel]] = {"outcome": outcome_alone, "gain": with_gains}


def run(arm: str, seed: int, *, tokens: int = 20_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; both arms write as many tokens."""
    torch.set_num_threads(1)
    found = learn(ARMS[arm], seed, tokens=tokens)
    return {"success": found.success, "over": found.over, "silent": found.silent}


RECIPE = Recipe(
    name="igpo",
    claim=(
        "Paid in every turn what it added to the belief in the right answer, besides the outcome, an agent learns in fewer tokens "
        "than by GRPO on the outcome alone, and fewer of its rollouts teach nothing."
    ),
    paper="arXiv:2510.14967",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question. The belief is the exact one, which the environment knows; the paper "
        "takes the policy's own. Not tested: language models with real searches, beliefs of the policy, which drift as it "
        "learns, and F1 as the outcome."
    ),
    arms={"outcome": "GRPO on the right answer", "gain": "gains of turns and the right answer, standardised together, summed up"},
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
        "silent": "share of training rollouts without any advantage",
    },
    effects=(
        Effect("over", "gain", "outcome", "higher", delta=0.03),
        Effect("success", "gain", "outcome", "not lower", delta=0.05),
        Effect("silent", "gain", "outcome", "lower", delta=0.05),
    ),
    run=run,
    methods=("signal:igpo", "advantage:igpo", "advantage:grpo", "credit:return-to-go", "loss:ppo-clip", "task:turns-search"),
)
