"""Every registered advantage in one table: python benchmarks/advantages_all.py [NAME ...]

Each gets an outcome reward [N, T] with NaN in all padding, through the credit it is meant for, and is timed from there to the
advantage. Beside it stands verl's estimator of that kind on the same numbers, results compared first, where verl has one that
does not loop over rollouts (with --loops also those that do, once); and for all the time of four copies of the reward and its
validity, as much memory as has to be gone through anyway. Contenders take turns and the fastest round of each counts.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from advantages import RECYCLE, rollouts
from payoff.catalogue import find, index
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.pipeline import Transform
from payoff.trajectories import Channel, Trajectories

Contender = Callable[[], torch.Tensor]
OF_PAYMENTS = ("token-rate-baseline", "step-rate-baseline", "prime-rloo", "prime-scale")  # these come before the return
BY_ACTION = ("optimal-token-baseline", "turn-rloo", "turn-grpo", "remax")  # these are meant for a return-to-go
OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"convention": "verl"},
    "gpg": {"convention": "verl"},
    "reinforce-plus-plus": {"convention": "verl"},
    "reinforce-plus-plus-baseline": {"convention": "verl"},
    "optimal-token-baseline": {"align": "position", "squares": "sum_pi_squared"},
}
VERL = {  # ours -> verl's, and whether it loops over rollouts or groups in Python
    "grpo": ("grpo_vectorized", False),
    "rloo": ("rloo_vectorized", False),
    "remax": ("remax", False),
    "reinforce-plus-plus": ("reinforce_plus_plus", False),
    "subtract-values": ("gae", False),
    "opo": ("opo", True),
    "gpg": ("gpg", True),
    "grpo-passk": ("grpo_passk", True),
    "reinforce-plus-plus-baseline": ("reinforce_plus_plus_baseline", True),
    "optimal-token-baseline": ("optimal_token_baseline", True),
}


def main() -> None:
    if any(os.environ.get(name) is None for name in RECYCLE):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RECYCLE})
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which advantages (default: all)")
    parser.add_argument("--rollouts", type=int, default=65_536)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loops", action="store_true", help="also verl's estimators that loop over rollouts, once each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    channel, clean, traj = batch(options.rollouts, options.length, options.group)
    print(f"torch {torch.__version__}, {options.threads} threads, [{options.rollouts} x {options.length}], ", end="")
    print(f"groups of {options.group}, fp32, NaN in all padding\n")
    print(
        "| advantage | payoff, ms | four copies, ms | copies / payoff | verl, ms | verl / payoff |\n|---|---:|---:|---:|---:|---:|"
    )
    copies = lambda: torch.stack([(clean.value.clone().sum() + clean.valid.clone().sum()) for _ in range(4)])
    for name in sorted(name for kind, name in index() if kind == "advantage"):
        if options.names and name not in options.names:
            continue
        print(row(name, channel, clean, traj, copies, options.rounds, options.loops), flush=True)


def batch(n: int, t: int, group: int) -> tuple[Channel, Channel, Trajectories]:
    """The reward with and without NaN in padding, and trajectories that have all that any advantage reads."""
    clean, traj = rollouts(n, t, group)
    rng = torch.Generator().manual_seed(1)
    beyond = ~traj.exists
    spoilt = lambda x: torch.where(beyond, math.nan, x)
    uniform = lambda: spoilt(torch.rand(n, t, generator=rng))
    greedy = torch.zeros(n, dtype=torch.bool)
    greedy[::group] = True
    probability = torch.rand(n, t, generator=rng) * 0.9 + 0.05
    extras = {name: uniform() for name in ("entropy", "std", "gain", "times", "token_scores")}
    extras["sum_pi_squared"] = spoilt(probability.square() * 1.2)
    valid = torch.ones_like(clean.valid)
    traj = traj.replace(logp={name: spoilt(probability.log()) for name in ("old", "ref")}, extras={**extras, "greedy": greedy})
    return Channel(spoilt(clean.value), valid), Channel(clean.value, valid), traj


def path(name: str) -> Sequence[Transform]:
    part: Any = find(name, "advantage")
    part = part().eval() if isinstance(part, type) else functools.partial(part, **OPTIONS.get(name, {}))
    if name in OF_PAYMENTS:
        return [part, return_to_go]
    if name in BY_ACTION:
        return [return_to_go, part]
    return [functools.partial(lambda_return, trace=0.95) if name == "subtract-values" else total, part]


def row(name: str, channel: Channel, clean: Channel, traj: Trajectories, copies: Contender, rounds: int, loops: bool) -> str:
    try:
        steps = path(name)

        def ours() -> torch.Tensor:
            current = channel
            for step in steps:
                current = step(current, traj)
            return current.value

        contenders: dict[str, Contender] = {"payoff": ours, "copies": copies}
        result = ours()
    except (TypeError, ValueError) as error:
        return f"| {name} | {error} |"
    verl, looping = VERL.get(name, (None, False))
    if verl is not None and (loops or not looping):
        contenders["verl"] = peer(verl, clean, traj)
        compare(name, result, contenders["verl"](), traj)
    best = dict.fromkeys(contenders, math.inf)
    for turn in range(rounds):
        for label, run in contenders.items():
            if label == "verl" and looping and turn:
                continue
            start = time.perf_counter()
            run()
            best[label] = min(best[label], time.perf_counter() - start)
    cells = [best["payoff"] * 1e3, best["copies"] * 1e3, best["copies"] / best["payoff"]]
    cells += [best["verl"] * 1e3, best["verl"] / best["payoff"]] if "verl" in best else [math.nan] * 2
    return f"| {name} | " + " | ".join("" if math.isnan(x) else f"{x:.2f}" for x in cells) + " |"


def peer(name: str, clean: Channel, traj: Trajectories) -> Contender:
    """verl's estimator on the same numbers, padding cleaned for it."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    function, mask, index_ = get_adv_estimator_fn(name), traj.mask.float(), traj.group.numpy()
    logp, squares = (torch.where(traj.exists, x, 0) for x in (traj.logp["old"], traj.extras["sum_pi_squared"]))
    if name == "gae":
        return lambda: function(clean.value, traj.extras["values"][:, :-1], mask, 1.0, 0.95)[0]
    if name == "remax":
        earned = clean.value.sum(1)
        group = traj.group.long()
        baseline = torch.zeros(int(group.max()) + 1).index_add(0, group[traj.extras["greedy"]], earned[traj.extras["greedy"]])[
            group
        ]
        return lambda: function(clean.value, baseline, mask)[0]
    if name == "reinforce_plus_plus":
        return lambda: function(clean.value, mask, config=SimpleNamespace(gamma=1.0))[0]
    more = {"old_log_probs": logp, "sum_pi_squared": squares} if name == "optimal_token_baseline" else {}
    return lambda: function(clean.value.clone(), mask, index=index_, config={}, **more)[0]


def compare(name: str, ours: torch.Tensor, theirs: torch.Tensor, traj: Trajectories) -> None:
    """Fail where the two differ at a sampled action (for gae: up to the whitening that verl's has inside)."""
    here = traj.mask & ~traj.extras["greedy"][:, None] if name == "remax" else traj.mask
    x, y = ours.expand(here.shape)[here], theirs[here]
    if name == "subtract-values":
        x, y = ((z - z.mean()) / z.std() for z in (x, y))
    torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3, msg=lambda text: f"{name} differs from verl's: {text}")


if __name__ == "__main__":
    main()
