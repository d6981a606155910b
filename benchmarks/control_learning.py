"""Control: what short trainings reach, with our actor-critic in our loop and with Stable-Baselines3's PPO under our wrapper.

Both get the same environment steps, networks, discounts, optimiser, epochs, minibatches, entropy weight, bonus and scale of the
observations. What differs: our update takes so many whole episodes, each from its own start, SB3's a fixed number of steps. Each
line is one training: the environment's own return on episodes that are never trained on, before (a policy that knows nothing) and
after. `--show` prints the run file, which is what `payoff train` takes, instead of training.

    python benchmarks/control_learning.py Reacher-v5 [--sb3] [--bonus none|counts|knn|rnd|potential] [--seeds 2] [--steps N]

`all` trains everything in the tables of docs/control.md, appends each result to the file that `--store` names and leaves out
what is stored there already, so that it may be stopped at any time (`--minutes` does) and called again; `--table` writes the
tables.

    python benchmarks/control_learning.py all --store benchmarks/control_learning.jsonl [--minutes 9] [--table docs/control.md]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from payoff.made_pages import rewritten

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
    "Reacher-v5": Budget(60_000, 48, 2400, discount=0.9, log_std=-0.5),
    "Hopper-v5": Budget(50_000, 16, 2048, log_std=-0.5, scale=0.1),
    "minigrid:MiniGrid-DoorKey-5x5-v0": Budget(40_000, 16, 1024, epochs=4, learning_rate=1e-3, entropy=0.01, max_steps=100),
    "minigrid:MiniGrid-MultiRoom-N2-S4-v0": Budget(30_000, 32, 1024, epochs=4, learning_rate=1e-3, entropy=0.01),
    "minigrid:MiniGrid-MultiRoom-N4-S5-v0": Budget(60_000, 16, 1024, epochs=4, learning_rate=1e-3, entropy=0.01),
}


SPARSE = ("minigrid:MiniGrid-MultiRoom-N2-S4-v0", "minigrid:MiniGrid-DoorKey-5x5-v0")
TOLD = ("CartPole-v1", "Reacher-v5", "Hopper-v5", *SPARSE)
SEEDS = 3
TITLES = {
    "none": "no bonus",
    "counts": "`count-novelty`, weight 0.01",
    "knn": "`knn-novelty`, weight 0.001",
    "rnd": "`rnd`, weight 0.01",
    "potential": "a potential: 1 while the key is carried",
}
MARK = "<!-- made by: python benchmarks/control_learning.py all --table docs/control.md -->"


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

    from payoff.integrations.sb3 import CreditBuffer, RewardVecEnv, connect
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
        seed=seed,
        device="cpu",
    )
    connect(model)
    before = evaluate_policy(model, judge, EPISODES, deterministic=False)[0]
    model.learn(budget.steps)
    return float(before), float(evaluate_policy(model, judge, EPISODES, deterministic=False)[0]), model.num_timesteps  # type: ignore[arg-type]


def trained(environment: str, bonus: str, who: str, seed: int, budget: Budget) -> dict[str, Any]:
    """One training, as a line of the store; told as it ends."""
    start = time.process_time()
    torch.manual_seed(seed)
    before, after, steps = (sb3 if who == "SB3" else ours)(environment, bonus, seed, budget)
    spent = time.process_time() - start
    print(f"{environment} {bonus} {who} seed {seed}: {before:.2f} -> {after:.2f}   {steps} steps, {spent:.0f} s", flush=True)
    return {
        "environment": environment,
        "bonus": bonus,
        "who": who,
        "seed": seed,
        "asked": budget.steps,
        "steps": steps,
        "before": round(before, 4),
        "after": round(after, 4),
        "seconds": round(spent, 1),
    }


def plan() -> Iterator[tuple[str, str, str, int]]:
    """(environment, bonus, who, seed) of everything in the tables."""
    for environment in TOLD:
        for who in ("ours", "SB3"):
            for seed in range(SEEDS):
                yield environment, "none", who, seed
    for seed in range(SEEDS):
        for environment in SPARSE:
            for bonus in (*WEIGHTS, *(["potential"] if "DoorKey" in environment else [])):
                yield environment, bonus, "ours", seed


def stored(path: Path) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """What was trained already with as many steps as are asked for now."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return {
        (one["environment"], one["bonus"], one["who"], one["seed"]): one
        for one in lines
        if one["asked"] == BUDGETS[one["environment"]].steps
    }


def train_all(path: Path, minutes: float) -> None:
    """Train what is missing in the store; nothing new is begun after so many minutes."""
    end = time.monotonic() + 60 * minutes
    for environment, bonus, who, seed in plan():
        if time.monotonic() < end and (environment, bonus, who, seed) not in stored(path):
            line = trained(environment, bonus, who, seed, BUDGETS[environment])
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    found, wanted = stored(path), list(plan())
    seconds = sum(found[piece]["seconds"] for piece in wanted if piece in found)
    done = sum(piece in found for piece in wanted)
    print(f"{done} of {len(wanted)} trainings are stored, {seconds / 60:.1f} minutes of one core in all")


def tables(path: Path) -> str:
    """The tables of docs/control.md: mean over seeds, and each seed's own return."""
    found = stored(path)

    def told(environment: str, bonus: str, who: str) -> str:
        after = [found[environment, bonus, who, seed]["after"] for seed in range(SEEDS) if (environment, bonus, who, seed) in found]
        if not after:
            return "not trained"
        digits = 0 if max(map(abs, after)) >= 100 else 1 if max(map(abs, after)) > 2 else 2
        return f"{statistics.fmean(after):.{digits}f} ({', '.join(f'{x:.{digits}f}' for x in after)})"

    def named(environment: str) -> str:
        limit = BUDGETS[environment].max_steps
        return environment.rpartition(":")[2] + (f", cut after {limit} steps" if limit else "")

    lines = ["| environment | steps | knows nothing | `actor-critic` | SB3's PPO |", "|---|---:|---:|---:|---:|"]
    for environment in TOLD:
        before = [one["before"] for (where, _, who, _), one in found.items() if where == environment and who == "ours"]
        nothing = f"{statistics.fmean(before):.{1 if abs(before[0]) > 2 else 2}f}" if before else ""
        sides = f"{told(environment, 'none', 'ours')} | {told(environment, 'none', 'SB3')}"
        lines.append(f"| {named(environment)} | {BUDGETS[environment].steps:,} | {nothing} | {sides} |")
    lines += [
        "",
        "| in our loop | " + " | ".join(named(environment) for environment in SPARSE) + " |",
        "|---|" + "---:|" * len(SPARSE),
    ]
    for bonus, title in TITLES.items():
        cells = [told(environment, bonus, "ours") for environment in SPARSE]
        lines.append(f"| {title} | " + " | ".join(cell if cell != "not trained" else "" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=["all", *BUDGETS])
    parser.add_argument("--sb3", action="store_true", help="Stable-Baselines3's PPO under our wrapper instead of our loop")
    parser.add_argument("--bonus", choices=["none", *WEIGHTS, "potential"], default="none")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--steps", type=int, default=0, help="default: those of the environment")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--store", type=Path, default=Path(__file__).with_suffix(".jsonl"), help="of `all`")
    parser.add_argument("--minutes", type=float, default=1e9, help="of `all`: begin no training after so many")
    parser.add_argument("--table", type=Path, help="of `all`: the page whose tables are written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.environment == "all":
        train_all(args.store, args.minutes)
        if args.table:
            page = rewritten(args.table.read_text(encoding="utf-8"), tables(args.store), MARK)
            args.table.write_text(page, encoding="utf-8")
        return print(tables(args.store))
    budget = BUDGETS[args.environment]
    if args.steps:
        budget = dataclasses.replace(budget, steps=args.steps)
    if args.show:
        file = run_file(args.environment, args.bonus, budget)
        return print(yaml.safe_dump(file, sort_keys=False, default_flow_style=None, width=130))
    who, seeds = "SB3" if args.sb3 else "ours", range(args.first, args.first + args.seeds)
    results = [trained(args.environment, args.bonus, who, seed, budget) for seed in seeds]
    befores, afters = ([one[when] for one in results] for when in ("before", "after"))
    print(f"mean {statistics.fmean(befores):.2f} -> {statistics.fmean(afters):.2f}, from {min(afters):.2f} to {max(afters):.2f}")
    return None


if __name__ == "__main__":
    main()
