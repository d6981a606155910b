"""Control: what the reward wrapper costs Stable-Baselines3, and environment steps a second of our actor-critic against SB3's PPO.

The same environment, network (two perceptrons of 64 x 64), lanes, steps per update, epochs, minibatches and optimiser steps, one
thread each, in turn within one process, in seconds of that process. Of the wrapper both is measured: how much longer training takes
than without it, alternating, and the share of time spent inside it, which a busy machine disturbs less. PPO looks at rewards once
a rollout, so the wrapper can pay by the rollout; SAC takes a gradient step after every step, beside which paying at once is little.

    python benchmarks/control.py [--environment CartPole-v1] [--seconds 20] [--write docs/control.md]

`--write` puts the shares between the marks of that page.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from payoff.build import build
from payoff.config import Loaded, RunFile
from payoff.made_pages import rewritten
from payoff.parts import Progress
from payoff.pipeline import chain, join
from payoff.shaping.potentials import StatePotential, potential_shaping
from payoff.signals.environment import environment_reward
from payoff.signals.novelty import CountNovelty
from payoff.update import update
from payoff.yaml_marks import parse_yaml

MARK = "<!-- made by: python benchmarks/control.py --write docs/control.md -->"
LANES, STEPS = 8, 128
# Environments side by side, epochs and the size of a minibatch: few optimiser steps, beside which a wrapper shows most, and as
# many as SB3 takes if it is not told otherwise.
LEAN, DEFAULT, ALONE = (LANES, 4, 128), (LANES, 10, 64), (1, 10, 64)


def height(traj):
    """A potential with something to compute: minus the squared norm of the observation."""
    return -traj.extras["observations"].square().sum(2)


def rows_height(states):
    """The same, as a function of rows."""
    return -np.einsum("nd,nd->n", states, states)


def three(potential):
    """A chain of three parts, of which one learns from every rollout."""
    bonus = join({"own": environment_reward, "novelty": CountNovelty(resolution=0.1)})
    return chain(bonus, partial(potential_shaping, potential=potential, discount=0.99))


WAYS = {  # what is paid, and when; by one wrapper of all environments, or by one in each
    "without": lambda: (None, "step", False),
    "own reward": lambda: (environment_reward, "step", False),
    "three": lambda: (three(height), "step", False),
    "three, a state potential": lambda: (three(StatePotential(rows_height)), "step", False),
    "own reward, by the rollout": lambda: (environment_reward, "rollout", False),
    "three, by the rollout": lambda: (three(height), "rollout", False),
    "own reward, each, by the rollout": lambda: (environment_reward, "rollout", True),
    "three, each, by the rollout": lambda: (three(height), "rollout", True),
}


def sb3(environment: str, signal, seed: int, pay: str = "step", each: bool = False, size: tuple[int, int, int] = LEAN):
    """An SB3 PPO on this environment, wrapped where there is a signal."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from payoff.integrations.gymnasium import RewardWrapper
    from payoff.integrations.sb3 import CreditBuffer, RewardVecEnv

    lanes, epochs, minibatch = size
    options = {"pay": pay, "learn_every": STEPS}
    inside = {"wrapper_class": RewardWrapper, "wrapper_kwargs": {"signal": signal, **options}} if each else {}
    env = make_vec_env(environment, n_envs=lanes, seed=seed, **inside)
    if signal is not None and not each:
        env = RewardVecEnv(env, signal, **options)
    buffer = {"rollout_buffer_class": CreditBuffer} if pay == "rollout" else {}
    sizes = {"n_steps": LANES * STEPS // lanes, "n_epochs": epochs, "batch_size": minibatch}
    return PPO("MlpPolicy", env, learning_rate=3e-4, seed=seed, device="cpu", **sizes, **buffer)


def seconds_per_step(train: Callable[[], int]) -> float:
    """Of this process's own time, so that what else the machine does is left out."""
    start = time.process_time()
    steps = train()
    return (time.process_time() - start) / steps


class Stopwatch:
    """Seconds inside a wrapper and not in what it wraps."""

    def __init__(self, model) -> None:
        self.seconds, env = 0.0, model.env
        if hasattr(env, "online"):
            env.step_wait, env.venv.step_wait = self.timed(env.step_wait, 1), self.timed(env.venv.step_wait, -1)
            env.online.settle = self.timed(env.online.settle, 1)
        else:
            for each in env.envs:
                each.step, each.env.step = self.timed(each.step, 1), self.timed(each.env.step, -1)
                each.online.settle = self.timed(each.online.settle, 1)

    def timed(self, function, sign: int):
        def call(*given):
            start = time.process_time()
            try:
                return function(*given)
            finally:
                self.seconds += sign * (time.process_time() - start)

        return call


def sac(signal):
    """An SB3 SAC on the pendulum, one environment and one gradient step for each of its steps, as SB3 has it."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env

    from payoff.integrations.sb3 import RewardVecEnv

    env = make_vec_env("Pendulum-v1", n_envs=1, seed=0)
    env = env if signal is None else RewardVecEnv(env, signal, learn_every=STEPS)
    return SAC("MlpPolicy", env, learning_starts=20, buffer_size=10_000, seed=0, device="cpu")


def overhead(title: str, models: dict[str, Any], steps: int, seconds: float) -> str:
    """Time per step with and without a wrapper that logs, alternating, `steps` at a time; as a row of the page's table."""
    from payoff.integrations.sb3 import RewardLog, payer

    times: dict[str, list[float]] = {name: [] for name in models}

    def learn(model) -> int:
        callback = RewardLog() if payer(model.env) else None
        model.learn(steps, callback, reset_num_timesteps=False, log_interval=None)
        return steps

    for model in models.values():
        learn(model)  # warm up
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, model in models.items():
            times[name].append(seconds_per_step(partial(learn, model)))
    base = statistics.median(times["without"])
    print(f"{title}, median of {len(times['without'])} times {steps} steps")
    for name, each in times.items():
        ratio = statistics.median(a / b for a, b in zip(each, times["without"]))
        print(f"  {name:<32} {1e6 * statistics.median(each):6.1f} us/step  {100 * (ratio - 1):+5.1f} %")
    print(f"  ({1 / base:.0f} steps/s without)")
    shares = dict.fromkeys(WAYS, "")
    for name, model in models.items():
        if name != "without":
            inside = Stopwatch(model)
            total = 2 * steps * statistics.fmean(seconds_per_step(partial(learn, model)) for _ in range(2))
            shares[name] = f"{100 * inside.seconds / (total - inside.seconds):.1f} %"
            print(f"  {name:<32} inside the wrapper: {shares[name]:>6} of the rest")
    return f"| {title} | {' | '.join([f'{1e6 * base:,.0f} us', *list(shares.values())[1:]])} |"


def table(rows: list[str]) -> str:
    """The shares in every setting, for the page."""
    columns = ["who trains", "a step without", *list(WAYS)[1:]]
    return "\n".join(["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1), *rows])


def ours(environment: str):
    """Our parts for the same training; full episodes instead of fixed stretches, so steps per update vary."""
    text = f"""
    task: {{name: environment, environment: "{environment}"}}
    policy: {{name: actor-critic, environment: "{environment}", lanes: {LANES}, horizon: {STEPS}}}
    reward: {{environment: environment-reward}}
    terms:
      policy: {{paths: {{environment: [{{name: lambda-return, discount: 0.99}}, subtract-values]}}, then: [whiten], loss: ppo-clip}}
      value: {{paths: {{environment: [{{name: lambda-return, discount: 0.99}}]}}, loss: value, weight: 0.5}}
    train: {{starts: {LANES}, rollouts: 1, epochs: {LEAN[1]}, minibatches: {LANES}, learning_rate: 3e-4, gradient_clip: 0.5}}
    """
    run = RunFile.model_validate(parse_yaml(text, "benchmark").data)
    return build(Loaded(run, {}, "benchmark", []))


def against_sb3(environment: str, seconds: float) -> None:
    """Environment steps a second, collecting and learning together, alternating; episodes of equal length on both sides."""
    parts, settings = ours(environment)
    progress = Progress()
    progress.optimiser = torch.optim.AdamW(parts.policy.parameters(), lr=3e-4)
    model = sb3(environment, None, 0)

    def learn_ours() -> int:
        batch, _ = update(parts, settings, progress)
        progress.update += 1
        return int(batch.traj.mask.sum())

    def learn_sb3() -> int:
        model.learn(LANES * STEPS, reset_num_timesteps=False, log_interval=None)
        return LANES * STEPS

    for warm in (learn_ours, learn_sb3):
        warm()
    rates: dict[str, list[float]] = {"ours": [], "SB3": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        rates["SB3"].append(1 / seconds_per_step(learn_sb3))
        rates["ours"].append(1 / seconds_per_step(learn_ours))
    print(f"whole training on {environment}: environment steps/s, median of {len(rates['SB3'])} updates each")
    for name, rate in rates.items():
        print(f"  {name:<6} {statistics.median(rate):8.0f} steps/s")
    print(f"  ratio  {statistics.median(rates['ours']) / statistics.median(rates['SB3']):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="Endless-v0", help="a gymnasium environment; default: episodes of 128 steps")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of the five parts")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the shares between the marks of this page")
    args = parser.parse_args()
    rows = []
    torch.set_num_threads(1)
    gymnasium.register("Endless-v0", entry_point=Endless, max_episode_steps=STEPS)
    for size in (LEAN, DEFAULT, ALONE):
        ways = {name: way() for name, way in WAYS.items()}
        models = {name: sb3(args.environment, signal, 0, *how, size) for name, (signal, *how) in ways.items()}
        title = (
            f"PPO on {args.environment}, {size[0]} environment{'s' * (size[0] > 1)}, {size[1]} epochs of minibatches of {size[2]}"
        )
        rows.append(overhead(title, models, LANES * STEPS, args.seconds))
    models = {name: sac(signal) for name, way in WAYS.items() for signal, pay, _ in [way()] if pay == "step"}
    rows.append(overhead("SAC on Pendulum-v1, 1 environment, a gradient step after every step", models, 64, args.seconds))
    if args.write is not None:
        args.write.write_text(rewritten(args.write.read_text(encoding="utf-8"), table(rows), MARK), encoding="utf-8")
    against_sb3(args.environment, args.seconds)


class Endless(gymnasium.Wrapper):
    """CartPole that goes on when the pole falls: every episode lasts to the time limit, and both sides take equal batches."""

    def __init__(self) -> None:
        from gymnasium.envs.classic_control import CartPoleEnv

        super().__init__(CartPoleEnv())

    def step(self, action):
        observation, reward, fallen, _, info = self.env.step(action)
        if fallen:
            observation, _ = self.env.reset()
        return observation, reward, False, False, info


if __name__ == "__main__":
    main()
