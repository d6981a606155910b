"""Control: what short trainings reach, with our actor-critic in our loop and with Stable-Baselines3's PPO under our wrapper.

Both get the same environment steps, networks, discounts, optimiser, epochs, minibatches, entropy weight, bonus and scale of the
observations. What differs: our update takes so many whole episodes, each from its own start, SB3's a fixed number of steps. Each
line is one training: the environment's own return on episodes that are never trained on, before (a policy that knows nothing) and
after. `--show` prints the run file, which is what `payoff train` takes, instead of training.

    python benchmarks/control_learning.py Reacher-v5 [--sb3] [--bonus none|counts|knn|rnd|potential] [--seeds 2] [--steps N]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from typing import Any

import torch
import yaml

EPISODES = 50  # of every evaluation
LANES = 8  # of SB3
WEIGHTS = {"counts": 0.01, "knn": 0.001, "rnd": 0.01}  # of a bonus in what is paid; knn's distances are some tens. Not tuned
KEY = (
    4 + (3 * 7 + 6) * 3
)  # where MiniGrid's flat observation says what the agent carries: after the direction, at the agent's own cell
STATE = 4 + 7 * 7 * 3  # numbers in MiniGrid's flat observation


@dataclasses.dataclass(frozen=True)
class Budget:
    """One environment's training; the same for both sides."""

    steps: int  # environment steps in all
    starts: int  # episodes in one of our updates
    collected: int  # steps in one of SB3's: about what ours takes
    epochs: int = 10
    minibatches: int = 8
    learning_rate: float = 3e-4
    discount: float = 0.99
    trace: float = 0.95
    entropy: float = 0.0
    normalise: bool = True
    log_std: float = 0.0
    scale: float = 1.0  # of the environment's reward in what is trained on
    max_steps: int | None = None


BUDGETS = {
    "CartPole-v1": Budget(40_000, 8, 1024, minibatches=4, learning_rate=1e-3, discount=0.98, trace=0.9, normalise=False),
    "Reacher-v5": Budget(100_000, 48, 2400, discount=0.9, log_std=-0.5),
    "Hopper-v5": Budget(50_000, 16, 2048, log_std=-0.5, scale=0.1),
    "minigrid:MiniGrid-DoorKey-5x5-v0": Budget(60_000, 16, 1024, epochs=4, learning_rate=1e-3, entropy=0.01, max_steps=100),
    "minigrid:MiniGrid-MultiRoom-N2-S4-v0": Budget(40_000, 32, 1024, epochs=4, learning_rate=1e-3, entropy=0.01),
    "minigrid:MiniGrid-MultiRoom-N4-S5-v0": Budget(60_000, 16, 1024, epochs=4, learning_rate=1e-3, entropy=0.01),
}


def carrying_key(traj):
    """A potential for DoorKey: 1 while the key is carried."""
    return (traj.extras["observations"][..., KEY] == 5).float()


def run_file(environment: str, bonus: str, budget: Budget) -> dict[str, Any]:
    """PPO with a critic, as a run file."""
    reward: dict[str, Any] = {"environment": {"name": "environment-reward", "scale": budget.scale}}
    paths: dict[str, list[Any]] = {"environment": []}
    shaping: list[Any] = []
    mix = {"environment": 1.0}
    if bonus in WEIGHTS:
        novelty = {"counts": {"name": "count-novelty"}, "rnd": {"name": "rnd", "size": STATE}}
        reward["novelty"] = novelty.get(bonus, {"name": "knn-novelty", "capacity": 1000})
        paths["novelty"], mix["novelty"] = [], WEIGHTS[bonus]
    if bonus == "potential":
        shaping = [{"name": "potential-shaping", "potential": carrying_key, "discount": budget.discount, "into": "environment"}]
    returns = {"name": "lambda-return", "discount": budget.discount, "trace": budget.trace}
    terms: dict[str, Any] = {
        "policy": {"paths": paths, "mix": mix, "then": [returns, "subtract-values", "whiten"], "loss": "ppo-clip"},
        "value": {"paths": paths, "mix": mix, "then": [returns], "loss": "value"},
    }
    if budget.entropy:
        terms["entropy"] = {"paths": {"environment": []}, "loss": "entropy-bonus", "weight": budget.entropy}
    network = {"hidden": [64, 64], "normalise": budget.normalise, "log_std": budget.log_std}
    return {
        "task": {"name": "environment", "environment": environment, "max_steps": budget.max_steps},
        "policy": {"name": "actor-critic", "environment": environment, **network},
        "reward": reward,
        "shaping": shaping,
        "terms": terms,
        "train": {
            "updates": budget.steps // (2 * budget.starts),  # more than enough: it is stopped by its steps
            "starts": budget.starts,
            "rollouts": 1,
            "epochs": budget.epochs,
            "minibatches": budget.minibatches,
            "learning_rate": budget.learning_rate,
            "gradient_clip": 0.5,
        },
        "evaluate": {"every": 0, "starts": EPISODES},
    }


def ours(environment: str, bonus: str, seed: int, budget: Budget) -> tuple[float, float, int]:
    """(return before, return after, steps) of a run file trained by the loop."""
    from payoff.build import build
    from payoff.config import Loaded, RunFile
    from payoff.train import evaluate, train

    loaded = Loaded(RunFile.model_validate(run_file(environment, bonus, budget)), {}, "benchmark", [])
    parts, settings = build(loaded, "", seed)
    taken: list[float] = []
    history = train(
        parts,
        settings,
        on_update=lambda metrics: taken.append(metrics.get("length", 0.0) * budget.starts),  # type: ignore[operator]
        stop=lambda: sum(taken) >= budget.steps,
    ).history
    return history[0]["truth"], evaluate(parts, settings, len(history))["truth"], round(sum(taken))  # type: ignore[return-value]


def environments(environment: str, seed: int, budget: Budget) -> Any:
    """SB3's environments; MiniGrid's as our task reads them, the direction and the view."""
    import gymnasium
    from stable_baselines3.common.env_util import make_vec_env

    wrapped: dict[str, Any] = {}
    if "minigrid" in environment:
        import minigrid

        assert minigrid
        seen = ["direction", "image"]
        wrapped["wrapper_class"] = lambda env: gymnasium.wrappers.FlattenObservation(
            gymnasium.wrappers.FilterObservation(env, seen)
        )
    if budget.max_steps:
        wrapped["env_kwargs"] = {"max_episode_steps": budget.max_steps}
    return make_vec_env(environment.rpartition(":")[2], LANES, seed=seed, **wrapped)


def sb3(environment: str, bonus: str, seed: int, budget: Budget) -> tuple[float, float, int]:
    """The same of SB3's PPO under our wrapper."""
    from functools import partial

    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    from payoff.integrations.sb3 import CreditBuffer, RewardVecEnv
    from payoff.pipeline import chain, join
    from payoff.shaping.potentials import potential_shaping
    from payoff.signals.environment import environment_reward
    from payoff.signals.novelty import CountNovelty, NearestNeighbourNovelty, RandomNetworkDistillation

    novelty = {"counts": CountNovelty, "rnd": partial(RandomNetworkDistillation, size=STATE)}
    signal: Any = {"environment": partial(environment_reward, scale=budget.scale)}
    weights = {"environment": 1.0}
    if bonus in WEIGHTS:
        signal["novelty"] = novelty.get(bonus, partial(NearestNeighbourNovelty, capacity=1000))()
        weights["novelty"] = WEIGHTS[bonus]
    signal = join(signal)
    if bonus == "potential":
        shaped = partial(potential_shaping, potential=carrying_key, discount=budget.discount, into="environment")
        signal = chain(signal, shaped)
    paid = RewardVecEnv(environments(environment, seed, budget), signal, pay="rollout", weights=weights, learn_every=1)
    judge: Any = environments(environment, 2**30, budget)
    env: Any = paid
    if budget.normalise:
        env = VecNormalize(paid, norm_reward=False)
        judge = VecNormalize(judge, norm_reward=False, training=False)
        judge.obs_rms = env.obs_rms
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=budget.collected // LANES,
        batch_size=budget.collected // budget.minibatches,
        n_epochs=budget.epochs,
        learning_rate=budget.learning_rate,
        gamma=budget.discount,
        gae_lambda=budget.trace,
        ent_coef=budget.entropy,
        vf_coef=0.5,  # of the squared error; ours is half of it
        policy_kwargs={"log_std_init": budget.log_std, "optimizer_kwargs": {"betas": (0.9, 0.99), "eps": 1e-8}},
        rollout_buffer_class=CreditBuffer,
        rollout_buffer_kwargs={"env": paid},
        seed=seed,
        device="cpu",
    )
    before = evaluate_policy(model, judge, EPISODES, deterministic=False)[0]
    model.learn(budget.steps)
    return float(before), float(evaluate_policy(model, judge, EPISODES, deterministic=False)[0]), model.num_timesteps  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=list(BUDGETS))
    parser.add_argument("--sb3", action="store_true", help="Stable-Baselines3's PPO under our wrapper instead of our loop")
    parser.add_argument("--bonus", choices=["none", *WEIGHTS, "potential"], default="none")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--steps", type=int, default=0, help="default: those of the environment")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    budget = BUDGETS[args.environment]
    if args.steps:
        budget = dataclasses.replace(budget, steps=args.steps)
    if args.show:
        file = run_file(args.environment, args.bonus, budget)
        return print(yaml.safe_dump(file, sort_keys=False, default_flow_style=None, width=130))
    torch.set_num_threads(1)
    results = []
    train_one, who = (sb3, "SB3") if args.sb3 else (ours, "ours")
    for seed in range(args.first, args.first + args.seeds):
        start = time.process_time()
        torch.manual_seed(seed)
        results.append(train_one(args.environment, args.bonus, seed, budget))
        before, after, steps = results[-1]
        spent = time.process_time() - start
        told = f"{args.environment} {args.bonus} {who} seed {seed}: {before:.2f} -> {after:.2f}   {steps} steps, {spent:.0f} s"
        print(told, flush=True)
    befores, afters, _ = zip(*results, strict=True)
    print(f"mean {statistics.fmean(befores):.2f} -> {statistics.fmean(afters):.2f}, from {min(afters):.2f} to {max(afters):.2f}")
    return None


if __name__ == "__main__":
    main()
