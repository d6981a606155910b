"""Control: what short trainings reach, with our actor-critic and with Stable-Baselines3 under our wrapper, bonus or none.

Each line is one training: the environment's own return on episodes that are never trained on, before and after. The run files are
what `payoff train` takes; `--show` prints one instead of training.

    python benchmarks/control_learning.py Reacher-v5 [--bonus none|counts|rnd|potential] [--seeds 3] [--updates 30] [--sb3] [--show]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import yaml

GRID = {"discount": 0.99, "normalise": True, "max_steps": 100, "horizon": 100, "hidden": [64, 64], "log_std": 0.0, "entropy": 0.01}
CONTROL = {**GRID, "max_steps": None, "horizon": 1000, "entropy": 0.0, "log_std": -0.5}
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "Reacher-v5": {**CONTROL, "starts": 64, "updates": 40},
    "Hopper-v5": {**CONTROL, "starts": 32, "updates": 40},
    "minigrid:MiniGrid-DoorKey-5x5-v0": {**GRID, "starts": 32, "updates": 25},
    "minigrid:MiniGrid-MultiRoom-N2-S4-v0": {**GRID, "starts": 32, "updates": 25},
}
EPISODES = 50  # of every evaluation
WEIGHT = 0.01  # of counts and rnd in what is paid; not tuned
KEY = (
    4 + (3 * 7 + 6) * 3
)  # where MiniGrid's flat observation says what the agent carries: after the direction, at the agent's own cell


def carrying_key(traj):
    """A potential for DoorKey: 1 while the key is carried."""
    return (traj.extras["observations"][..., KEY] == 5).float()


def run_file(environment: str, bonus: str, updates: int) -> dict[str, Any]:
    """PPO with a critic, as a run file."""
    options = ENVIRONMENTS[environment]
    paths: dict[str, list[Any]] = {"environment": []}
    reward: dict[str, Any] = {"environment": "environment-reward"}
    shaping: list[Any] = []
    mix = {"environment": 1.0}
    if bonus in ("counts", "rnd"):
        reward["novelty"] = "count-novelty" if bonus == "counts" else "rnd"
        if bonus == "rnd":
            reward["novelty"] = {"name": "rnd", "size": 151}
        paths["novelty"], mix["novelty"] = [], WEIGHT
    if bonus == "potential":
        shaping = [{"name": "potential-shaping", "potential": carrying_key, "discount": options["discount"], "into": "environment"}]
    returns = {"name": "lambda-return", "discount": options["discount"], "trace": 0.95}
    shared = {"paths": paths, "mix": mix, "aggregation": "token-mean"}
    terms = {
        "policy": {**shared, "then": [returns, "subtract-values", "rms"], "loss": "ppo-clip"},
        "value": {**shared, "then": [returns], "loss": "value", "weight": 0.5},
    }
    if options["entropy"]:
        terms["entropy"] = {"paths": {"environment": []}, "loss": "entropy-bonus", "weight": options["entropy"]}
    names = {"hidden", "normalise", "horizon", "log_std"}
    return {
        "task": {"name": "environment", "environment": environment, "max_steps": options["max_steps"]},
        "policy": {"name": "actor-critic", "environment": environment, **{name: options[name] for name in sorted(names)}},
        "reward": reward,
        "shaping": shaping,
        "terms": terms,
        "train": {
            "updates": updates,
            "starts": options["starts"],
            "rollouts": 1,
            "epochs": 4,
            "minibatches": 8,
            "learning_rate": 1e-3,
            "gradient_clip": 0.5,
        },
        "evaluate": {"every": updates, "starts": EPISODES},
    }


def ours(environment: str, bonus: str, seed: int, updates: int) -> tuple[float, float, int]:
    """(return before, return after, steps) of a run file trained by the loop."""
    from payoff.recipes import train_arm

    history = train_arm(run_file(environment, bonus, updates), "", seed).history
    steps = sum(line["length"] * ENVIRONMENTS[environment]["starts"] for line in history[1:])
    return history[0]["truth"], history[-1]["truth"], int(steps)


def sb3(environment: str, bonus: str, seed: int, steps: int) -> tuple[float, float, int]:
    """The same of SB3's PPO under our wrapper, for as many steps."""
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    from payoff.integrations.sb3 import CreditBuffer, RewardVecEnv
    from payoff.pipeline import join
    from payoff.signals.environment import environment_reward
    from payoff.signals.novelty import CountNovelty

    flat = {"wrapper_class": gymnasium.wrappers.FlattenObservation} if "minigrid" in environment else {}
    if "minigrid" in environment:
        import minigrid
        from minigrid.wrappers import ImgObsWrapper

        assert minigrid
        flat = {"wrapper_class": lambda env: gymnasium.wrappers.FlattenObservation(ImgObsWrapper(env))}
    name = environment.rpartition(":")[2]
    limit = {"env_kwargs": {"max_steps": 100}} if "minigrid" in environment else {}
    if bonus not in ("none", "counts"):
        raise ValueError(f"with Stable-Baselines3 there is no bonus but counts, got {bonus!r}")
    signal: Any = environment_reward
    weights = None
    if bonus == "counts":
        signal, weights = join({"own": environment_reward, "novelty": CountNovelty()}), {"own": 1.0, "novelty": WEIGHT}
    env = RewardVecEnv(make_vec_env(name, 8, seed=seed, **flat, **limit), signal, pay="rollout", weights=weights, learn_every=1)
    judge = make_vec_env(name, 8, seed=2**30, **flat, **limit)
    buffer = {"rollout_buffer_class": CreditBuffer, "rollout_buffer_kwargs": {"env": env}}
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=256, n_epochs=4, learning_rate=1e-3, seed=seed, device="cpu", **buffer)
    before = evaluate_policy(model, judge, EPISODES, deterministic=False)[0]
    model.learn(steps)
    return float(before), float(evaluate_policy(model, judge, EPISODES, deterministic=False)[0]), model.num_timesteps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=list(ENVIRONMENTS))
    parser.add_argument("--bonus", choices=["none", "counts", "rnd", "potential"], default="none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=0, help="default: those of the environment")
    parser.add_argument("--sb3", type=int, default=0, metavar="STEPS", help="Stable-Baselines3 for so many steps instead")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    updates = args.updates or ENVIRONMENTS[args.environment]["updates"]
    if args.show:
        return print(
            yaml.safe_dump(run_file(args.environment, args.bonus, updates), sort_keys=False, default_flow_style=None, width=130)
        )
    torch.set_num_threads(1)
    results = []
    for seed in range(args.seeds):
        start = time.process_time()
        torch.manual_seed(seed)
        if args.sb3:
            results.append(sb3(args.environment, args.bonus, seed, args.sb3))
        else:
            results.append(ours(args.environment, args.bonus, seed, updates))
        before, after, steps = results[-1]
        spent = time.process_time() - start
        print(
            f"{args.environment} {args.bonus} seed {seed}: {before:.2f} -> {after:.2f}   {steps} steps, {spent:.0f} s", flush=True
        )
    befores, afters, _ = zip(*results, strict=True)
    print(f"mean {statistics.fmean(befores):.2f} -> {statistics.fmean(afters):.2f}, from {min(afters):.2f} to {max(afters):.2f}")
    return None


if __name__ == "__main__":
    main()
