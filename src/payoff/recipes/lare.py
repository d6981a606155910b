"""LaRe: do factors that a language model wrote make it easier to find out, from returns alone, what single steps are worth?

payoff reproduce lare
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from payoff.design.latent_reward import Written, write_factors
from payoff.recipes import Effect, Recipe, train_arm
from payoff.recipes.worlds.seeded import SeededTask
from payoff.sandbox import Sandbox
from payoff.trajectories import Channel, Trajectories, place_outcome

STEPS, PACE, NEAR, COST = 20, 0.2, 0.2, 0.5
ANSWERS = (
    "```python\ndef factors(state, action):\n    return [abs(state[0]), energy(action)]\n```",
    """The reward may depend on how near the target is after the step, and on the energy spent.
```python
def factors(state, action):
    push = max(-1.0, min(1.0, action[0]))
    ahead = abs(state[0] - 0.2 * push)
    return [1.0 if ahead < 0.2 else 0.0, ahead, push * push]
```""",
    "```python\ndef factors(state, action):\n    return [state[0] ** 2, action[0]]\n```",
)


class Line:
    """Episodes side by side: a point on a line is driven to a target and held there, at an energy of the action squared.

    Observed: how far the target is, the place, and two numbers that mean nothing.
    """

    def __init__(self, count: int) -> None:
        self.place, self.target = (np.zeros(count) for _ in range(2))
        self.time = np.zeros(count, dtype=np.int64)
        self.noise = [np.random.default_rng(0) for _ in range(count)]

    def reset(self, lanes: Sequence[int], seeds: Sequence[int]) -> Sequence[Any]:
        """Place and target at random."""
        for lane, seed in zip(lanes, seeds, strict=True):
            self.noise[lane] = np.random.default_rng(seed)
            self.place[lane], self.target[lane] = self.noise[lane].uniform(-1, 1, 2)
            self.time[lane] = 0
        return self._seen(list(lanes))

    def step(self, lanes: Sequence[int], actions: np.ndarray) -> tuple[Sequence[Any], np.ndarray, np.ndarray, np.ndarray]:
        """One step; what is paid is the true worth: 1 near the target, less COST times the energy."""
        at = list(lanes)
        push = np.clip(actions[:, 0], -1, 1)
        self.place[at] = np.clip(self.place[at] + PACE * push, -1, 1)
        self.time[at] += 1
        worth = (np.abs(self.target[at] - self.place[at]) < NEAR) - COST * push**2
        return self._seen(at), worth.astype(np.float32), np.zeros(len(at), dtype=bool), self.time[at] >= STEPS

    def _seen(self, at: list[int]) -> list[np.ndarray]:
        odd = np.stack([self.noise[lane].normal(size=2) for lane in at])
        return list(np.concatenate([np.stack([self.target[at] - self.place[at], self.place[at]], 1), odd], 1).astype(np.float32))


class Drive(SeededTask):
    """The task: every start is a seed; the truth is the mean worth of a step."""

    def __init__(self) -> None:
        super().__init__("drive", Line, per=float(STEPS))


def episodic(traj: Trajectories) -> dict[str, Channel]:
    """All that an episode earned, paid at its end."""
    return {"return": place_outcome(_worth(traj).sum(1), torch.ones(len(traj), dtype=torch.bool), traj)}


def stepwise(traj: Trajectories) -> dict[str, Channel]:
    """What every step earned, which the other arms are not told."""
    return {"worth": Channel(_worth(traj), torch.ones(len(traj), 1, dtype=torch.bool))}


def scripted() -> Callable[[str], str]:
    """A language model that knows its lines: three answers, of which one does not run and one misses the point; then the choice."""
    lines = iter([*ANSWERS, ANSWERS[0], ANSWERS[1]])
    return lambda prompt: next(lines)


def written() -> Written:
    """The program that comes out: the model chooses one that fails, is told why, and mends it."""
    rng = np.random.default_rng(0)
    steps = [(row[:4].tolist(), row[4:].tolist()) for row in rng.normal(size=(16, 5))]
    return write_factors(
        scripted(),
        task="Reach the target and stay there, without wasting energy.",
        state="how far the target is, the place, and two more",
        action="the push, cut to -1..1",
        tried_on=steps,
        candidates=3,
        sandbox=Sandbox(level="process"),
    )


def run(arm: str, seed: int, *, updates: int = 25, held_out: int = 256) -> Mapping[str, float]:
    """PPO with a critic on what the arm is told, judged by the true worth in episodes that it was not trained on."""
    from gymnasium import spaces

    returns = {"name": "lambda-return", "discount": 0.95}
    channel = {"outcome": "return", "true": "worth"}.get(arm, "latent")
    shared = {"paths": {channel: []}, "aggregation": "token-mean"}
    model: dict[str, Any] = {"by": "return", "hidden": 64, "steps": 10, "learning_rate": 3e-3, "updates": 20, "capacity": 512}
    if arm == "lare":
        code = written()
        model |= {"name": "lare", "code": code.source, "size": code.size, "level": "process"}
    else:
        model |= {"name": "return-decomposition", "size": 5}
    told = {"return": "payoff.recipes.lare:episodic", "worth": "payoff.recipes.lare:stepwise"}
    file = {
        "task": {"name": "payoff.recipes.lare:Drive"},
        "policy": {
            "name": "actor-critic",
            "spaces": (spaces.Box(-np.inf, np.inf, (4,)), spaces.Box(-1.0, 1.0, (1,))),
            "hidden": [32, 32],
            "log_std": -0.5,
        },
        "reward": {**told, **({"latent": model} if channel == "latent" else {})},
        "terms": {
            "actor": {**shared, "then": [returns, "subtract-values", "rms"], "loss": "ppo-clip"},
            "critic": {**shared, "then": [returns], "loss": "value", "weight": 0.5},
        },
        "train": {"updates": updates, "starts": 32, "rollouts": 1, "epochs": 4, "minibatches": 4, "learning_rate": 3e-3},
        "evaluate": {"every": 0, "starts": 0},
    }
    trained = train_arm(file, "", seed)
    with torch.no_grad():
        traj = trained.policy.rollout(trained.task.held_out_starts(held_out), 1, torch.Generator().manual_seed(seed))
    explained = trained.end("decomposition/explained") if channel == "latent" else float(arm == "true")
    return {"truth": float(trained.task.truth(traj).value.sum(1).mean()), "explained": explained}


def _worth(traj: Trajectories) -> torch.Tensor:
    return torch.where(traj.exists, traj.extras["environment_reward"], 0)


RECIPE = Recipe(
    name="lare",
    claim=(
        "Decomposing episodic returns over factors written by a language model trains a better policy than decomposing them over "
        "raw states and actions, or than the return alone, and at times one as good as with the true rewards."
    ),
    paper="arXiv:2412.11120",
    test=(
        f"A point on a line is driven to a target and held there, {STEPS} steps, 1 a step near the target less {COST:g} "
        "times the squared push; two of four observed numbers mean nothing. The language model is a script: it writes "
        "three answers, of which one does not run and one has the wrong factors, chooses the one that does not run, is "
        "told why and mends it to one that names what the worth depends on; its code runs in the sandbox. So the factors "
        "are good by construction, and whether a language model finds such is not tested. PPO with a critic, 32 episodes "
        "an update, the same decoder and options in both decompositions. Not tested: MuJoCo, several agents, off-policy "
        "learners, episodes of different lengths."
    ),
    arms={
        "outcome": "the return, at the end of the episode",
        "raw": "return decomposition on states and actions as they are",
        "lare": "return decomposition on factors from written code",
        "true": "what every step is truly worth, as an upper bound",
    },
    measures={
        "truth": "mean worth of a step in 256 episodes not trained on",
        "explained": "share of the variance of returns that the learned rewards explain, last ten updates (true: 1, outcome: 0)",
    },
    effects=(
        Effect("truth", "lare", "raw", "higher", delta=0.03),
        Effect("truth", "lare", "outcome", "higher", delta=0.03),
        Effect("truth", "lare", "true", "not lower", delta=0.03),
    ),
    run=run,
    methods=("signal:lare", "design:lare", "model:return-decomposition", "credit:lambda-return", "loss:ppo-clip", "loss:value"),
)
