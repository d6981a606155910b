"""G-RA in turns: is pay for every look-up harmless to an agent that searches once it counts only behind a gate?

payoff reproduce g-ra-turns
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from payoff.advantages.group import grpo
from payoff.credit.returns import total
from payoff.pipeline import weighted_sum
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.turns import ROLLOUTS, SETTING, TURNS, learn, task
from payoff.shaping.gating import gate
from payoff.trajectories import Channel, Trajectories, outcome, place_outcome, place_steps

PAY = 0.4
GATES = {"answered": "answered", "right": "correct"}


def looked_up(item: Mapping[str, Any]) -> list[float]:
    """1 for every turn that the environment took as a look-up and told something, whatever it was good for.

    >>> turns = [{"observed": "c", "over": False}, {"observed": "!", "over": False}, {"observed": "", "over": True}]
    >>> looked_up({"turns": turns})
    [1.0, 0.0, 0.0]
    """
    return [float(bool(turn["observed"]) and turn["observed"] != "!" and not turn["over"]) for turn in item["turns"]]


def rewards(traj: Trajectories) -> dict[str, Channel]:
    """The right answer, whether there is an answer at all, and the pay of look-ups."""
    sure = torch.ones(len(traj), dtype=torch.bool)
    truth = task().truth(traj)
    answered = torch.tensor([float(item["turns"][-1]["over"]) for item in traj.items])
    paid = [looked_up(item) for item in traj.items]
    steps = max(map(len, paid))
    value = PAY * torch.tensor([[*row, *[0.0] * (steps - len(row))] for row in paid])
    return {
        "correct": Channel(truth.value.float(), truth.valid),
        "answered": place_outcome(answered, sure, traj),
        "steps": place_steps(value, torch.ones_like(value, dtype=torch.bool), traj),
    }


def run(arm: str, seed: int, *, tokens: int = 20_000) -> Mapping[str, float]:
    """Search in turns by a small transformer that has seen scripted searches; all arms write as many tokens."""
    torch.set_num_threads(1)
    answers: list[float] = []

    def weigh(traj: Trajectories) -> Channel:
        told = rewards(traj)
        answers.append(float(outcome(told["answered"], traj)[0].mean()))
        if arm in GATES:
            told = gate(told, traj, by=GATES[arm], channels=["steps"])
        paid = {name: told[name] for name in (("correct",) if arm == "outcome" else ("correct", "steps"))}
        return grpo(total(weighted_sum(paid, dict.fromkeys(paid, 1.0)), traj), traj)

    found = learn(weigh, seed, tokens=tokens)
    late = answers[-max(1, len(answers) // 4) :]
    return {"success": found.success, "over": found.over, "turns": found.turns, "answered": sum(late) / len(late)}


RECIPE = Recipe(
    name="g-ra-turns",
    claim=(
        "On a task in turns, pay for every step taken is collected for its own sake while the outcome falls behind; counted only "
        "in rollouts that passed the gate, it costs nothing of the outcome."
    ),
    paper="arXiv:2508.10548",
    test=(
        f"{SETTING} {ROLLOUTS} rollouts of a question, GRPO in all arms. Every look-up that the environment understands is paid "
        f"{PAY:g}, whatever it is good for: {TURNS} of them {TURNS * PAY:g}, more than a right answer alone, which is what long "
        f"rollouts add up to in the paper; the best is a right answer after {TURNS - 1} look-ups even so. The gate is an answer, "
        "right or wrong (the paper's is a patch that was handed in), or a right one. The pay was set before anything was run; "
        "seeds were raised from five to eight after five had left every effect open. "
        "Not tested: long horizons, several levels of gates, step rewards by a critic, and language models that mend code."
    ),
    arms={
        "outcome": "1 for a right answer, nothing else",
        "direct": "the outcome plus the pay of look-ups",
        "answered": "the outcome plus the pay of look-ups in rollouts that end with an answer",
        "right": "the outcome plus the pay of look-ups in rollouts that end with a right answer",
    },
    measures={
        "success": "share of right answers in the last quarter of the tokens",
        "over": "share of right answers over all tokens",
        "turns": "turns of a rollout in the last quarter of the tokens",
        "answered": "share of rollouts that end with an answer in the last quarter of the updates",
    },
    effects=(
        Effect("over", "answered", "direct", "higher", delta=0.03),
        Effect("over", "answered", "outcome", "not lower", delta=0.03),
        Effect("over", "right", "direct", "higher", delta=0.03),
        Effect("over", "right", "outcome", "not lower", delta=0.03),
    ),
    run=run,
    seeds=8,
    methods=("shaping:g-ra", "advantage:grpo", "credit:total", "loss:ppo-clip", "task:turns-search"),
)
