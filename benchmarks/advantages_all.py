"""Every registered advantage in one table: python benchmarks/advantages_all.py [NAME ...]

Each gets an outcome reward [N, T] with NaN in all padding through the credit it is meant for, and is timed from that credit to a
weight written out for every action, zeros in padding; and once more from the reward on, credit included. Beside it stand

- four plain copies of the [N, T] tensors that it works on: the reward, where the policy acted, and what `READS` names; twice, as
  most of their time goes into the system's handing out fresh memory: as a process has it by default, which is the first column, and
  in all others with memory that is used again, where only work is compared;
- the floor: four copies, or just those sorts, running sums, scatters into steps, maskings and exponentials of [N, T] that the
  formula asks for however it is written (`FLOORS`), each timed alone on such tensors; whichever takes longer;
- verl's estimator of that kind on the same numbers, results compared first, where verl has one that does not loop over rollouts
  (with --loops also those that do, once). It begins at the reward, so it is compared with the time that includes the credit.

Processor time of this process, contenders in turn, the fastest round of each: a busy machine hardly shows. `--write FILE` puts the
table between the marks of that file (docs/estimators.md has it).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from advantages import RECYCLE, rollouts
from payoff.advantages.actions import written_out
from payoff.advantages.arrays import ascending_, changes, clean, positions, ranks
from payoff.advantages.stretches import stretches
from payoff.catalogue import find, index
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.made_pages import rewritten
from payoff.pipeline import Transform
from payoff.trajectories import Channel, Trajectories

Contender = Callable[[], Any]
MARK = "<!-- made by: python benchmarks/advantages_all.py --write docs/estimators.md -->"
OF_PAYMENTS = ("token-rate-baseline", "step-rate-baseline", "prime-rloo", "prime-scale", "igpo")  # these come before the return
BY_ACTION = (
    "capo",
    "exact-optimal-token-baseline",
    "optimal-token-baseline",
    "portool",
    "turn-grpo",
    "turn-rloo",
    "whiten",
)  # meant for a return-to-go
OPTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"convention": "verl"},
    "gpg": {"convention": "verl"},
    "reinforce-plus-plus": {"convention": "verl"},
    "reinforce-plus-plus-baseline": {"convention": "verl"},
    "exact-optimal-token-baseline": {"align": "position"},
    "optimal-token-baseline": {"align": "position"},
}
VERL = {  # ours -> verl's, and whether it loops over rollouts or groups in Python
    "grpo": ("grpo_vectorized", False),
    "rloo": ("rloo_vectorized", False),
    "remax": ("remax", False),
    "reinforce-plus-plus": ("reinforce_plus_plus", False),
    "subtract-values": ("gae", False),
    "whiten": ("masked_whiten", False),
    "opo": ("opo", True),
    "gpg": ("gpg", True),
    "grpo-passk": ("grpo_passk", True),
    "reinforce-plus-plus-baseline": ("reinforce_plus_plus_baseline", True),
    "exact-optimal-token-baseline": ("optimal_token_baseline", True),
}
READS = {  # besides the reward and where the policy acted
    "aem": ("step", "entropy"),
    "canon": ("entropy",),
    "duration-aware-pg": ("durations",),
    "igpo": ("step",),
    "exact-optimal-token-baseline": ("old", "sum_pi_squared"),
    "optimal-token-baseline": ("old",),
    "oreal": ("token_scores",),
    "oreal-top": ("token_scores",),
    "portool": ("step",),
    "step-rate-baseline": ("step",),
    "subtract-values": ("values",),
    "tempflow-grpo": ("std",),
    "token-rate-baseline": ("step",),
    "turn-grpo": ("step",),
    "turn-rloo": ("step",),
    "vppo": ("old", "corrupted"),
}
FLOORS = {  # operations on [N, T] that the formula asks for, however it is written
    "aem": ("stretches", "step sums", "gather", "mask"),
    "canon": ("mask", "sum", "mask"),
    "capo": ("mask", "sum", "sum", "mask"),
    "dancegrpo": ("ticket", "mask"),
    "igpo": ("stretches", "step sums", "mask"),
    "exact-optimal-token-baseline": ("mask", "exp", "mask", "cumsum", "mask", "rows", "rows", "rows", "rows", "mask"),
    "optimal-token-baseline": ("mask", "exp", "mask", "cumsum", "mask", "rows", "rows", "rows", "rows", "mask"),
    "oreal": ("mask", "cumsum", "exp", "mask"),
    "oreal-top": ("mask", "cumsum", "exp", "mask", "select", "mask"),
    "portool": ("stretches", "gather", "mask"),
    "prime-rloo": ("mask", "sum", "mask"),
    "prime-scale": ("mask", "cumsum", "sum", "sum"),
    "step-rate-baseline": ("stretches", "mask", "sum", "mask"),
    "tempflow-grpo": ("mask", "sum", "mask"),
    "token-rate-baseline": ("stretches", "mask", "sum", "mask"),
    "turn-grpo": ("stretches", "gather", "gather", "mask"),
    "turn-rloo": ("stretches", "gather", "mask"),
    "vppo": ("mask", "mask", "expm1", "sum", "select", "mask"),
    "whiten": ("mask", "sum", "sum", "mask"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which advantages (default: all)")
    parser.add_argument("--rollouts", type=int, default=65_536)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of a rollout of full length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loops", action="store_true", help="also verl's estimators that loop over rollouts, once each")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks of this file")
    parser.add_argument("--fresh", action="store_true", help="only alone / four copies, memory as by default, as JSON")
    options = parser.parse_args()
    if not options.fresh and any(os.environ.get(name) is None for name in RECYCLE):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RECYCLE})
    torch.set_num_threads(options.threads)
    channel, clean, traj = batch(options.rollouts, options.length, options.group, options.steps)
    names = sorted(name for kind, name in index() if kind == "advantage" and (not options.names or name in options.names))
    if options.fresh:
        json.dump({name: against_copies(name, channel, traj, options.rounds) for name in names}, sys.stdout)
        return
    fresh = in_fresh_memory()
    floors = primitives(traj, options.rounds)
    title = (
        f"torch {torch.__version__}, {options.threads} thread{'s' * (options.threads > 1)}, "
        f"[{options.rollouts} x {options.length}], groups of {options.group}, up to {options.steps} steps, fp32, NaN in all padding"
    )
    lines = [
        title,
        "",
        "| advantage | alone / four copies | used again: alone, ms | four copies | alone / four copies | floor | alone / floor "
        "| with credit | verl | with / verl |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for name in names:
        lines.append(row(name, channel, clean, traj, fresh[name], floors, options.rounds, options.loops))
        print(lines[-1], flush=True)
    if options.write is not None:
        page = rewritten(options.write.read_text(encoding="utf-8"), "\n".join(lines), MARK)
        options.write.write_text(page, encoding="utf-8")


def batch(n: int, t: int, group: int, steps: int) -> tuple[Channel, Channel, Trajectories]:
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
    extras["durations"] = uniform() + 0.1
    extras["sum_pi_squared"] = spoilt(probability.square() * 1.2)
    valid = torch.ones(n, 1, dtype=torch.bool)
    logp = {name: spoilt(probability.log()) for name in ("old", "ref")}
    logp["corrupted"] = logp["old"] + 0.3 * torch.randn(n, t, generator=rng)
    number = (torch.arange(t) * steps // t).expand(n, t)
    traj = traj.replace(logp=logp, extras={**extras, "greedy": greedy}, step=torch.where(traj.exists, number, -1).int())
    return Channel(spoilt(clean.value), valid), Channel(clean.value, valid), traj


def path(name: str) -> tuple[Transform | None, Transform, Transform | None]:
    """The credit before it, the advantage, and what follows it where it comes before the credit."""
    part: Any = find(name, "advantage")
    part = part().eval() if isinstance(part, type) else functools.partial(part, **OPTIONS.get(name, {}))
    if name in OF_PAYMENTS:
        return None, part, return_to_go
    if name in BY_ACTION:
        return return_to_go, part, None
    return functools.partial(lambda_return, trace=0.95) if name == "subtract-values" else total, part, None


def primitives(traj: Trajectories, rounds: int) -> dict[str, float]:
    """Seconds of the operations in `FLOORS`, each alone on tensors of this size."""
    spoilt, own = traj.extras["std"], traj.mask
    x = torch.where(own, spoilt, 0)
    group = traj.group.long()
    by_group = torch.zeros(int(group.max()) + 1, x.shape[1])
    flat, number = traj.step.flatten(), torch.arange(x.numel(), dtype=torch.int32).view(x.shape)
    parts = stretches(traj)
    each = torch.rand(len(parts.step))
    runs = {
        "mask": lambda: clean(spoilt, own),
        "sum": lambda: x.sum(1),
        "stretches": lambda: positions(changes(flat)),
        "gather": lambda: parts.spread(each),
        "step sums": lambda: parts.sums(x),
        "rows": lambda: by_group.index_add(0, group, x),
        "cumsum": lambda: x.cumsum(1),
        "exp": x.exp,
        "expm1": x.expm1,
        "ticket": lambda: (number ^ (number >> 29)) * 31,
        "select": lambda: ascending_(ranks(x.clone())),
    }
    return timed(runs, rounds)


def timed(contenders: dict[str, Contender], rounds: int, once: Sequence[str] = ()) -> dict[str, float]:
    """The fastest round of each, in seconds of this process's processor time; they take turns."""
    best = dict.fromkeys(contenders, math.inf)
    for turn in range(rounds):
        for label, run in contenders.items():
            if not (turn and label in once):
                start = time.process_time()
                run()
                best[label] = min(best[label], time.process_time() - start)
    return best


def alone_and_copies(name: str, channel: Channel, traj: Trajectories) -> dict[str, Contender]:
    """The advantage from the credit that it is meant for to weights written out, and four copies of what it works on."""
    credit, part, _ = path(name)
    given = channel if credit is None else credit(channel, traj)
    columns = {"step": traj.step, **traj.logp, **traj.extras}
    read = [channel.value, traj.mask, *(columns[tensor] for tensor in READS.get(name, ()))]
    return {"alone": lambda: written_out(part(given, traj), traj), "copies": lambda: [x.clone() for _ in range(4) for x in read]}


def against_copies(name: str, channel: Channel, traj: Trajectories, rounds: int) -> float:
    best = timed(alone_and_copies(name, channel, traj), rounds)
    return best["alone"] / best["copies"]


def in_fresh_memory() -> dict[str, float]:
    """Alone / four copies in a process of its own, whose large results are memory that the system hands out for each."""
    usual = {name: value for name, value in os.environ.items() if name not in RECYCLE}
    asked = [argument for argument in sys.argv[1:] if argument != "--loops"]
    done = subprocess.run([sys.executable, __file__, *asked, "--fresh"], env=usual, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def row(
    name: str,
    channel: Channel,
    clean: Channel,
    traj: Trajectories,
    fresh: float,
    floors: dict[str, float],
    rounds: int,
    loops: bool,
) -> str:
    credit, part, then = path(name)

    def whole() -> torch.Tensor:
        weights = part(channel if credit is None else credit(channel, traj), traj)
        return written_out(weights if then is None else then(weights, traj), traj)

    contenders = {**alone_and_copies(name, channel, traj), "whole": whole}
    verl, looping = VERL.get(name, (None, False))
    if verl is not None and (loops or not looping):
        contenders["verl"] = peer(verl, clean, traj)
        compare(name, whole(), contenders["verl"](), traj)
    best = timed(contenders, rounds, once=["verl"] if looping else [])
    floor = max(best["copies"], sum(floors[operation] for operation in FLOORS.get(name, ())))
    alone, copies = best["alone"], best["copies"]
    numbers = [fresh, alone * 1e3, copies * 1e3, alone / copies, floor * 1e3, alone / floor]
    numbers += [best["whole"] * 1e3, *([best["verl"] * 1e3, best["whole"] / best["verl"]] if "verl" in best else [])]
    cells = [f"{x:.2f}" if place in (0, 3, 5, 8) else f"{x:.0f}" for place, x in enumerate(numbers)]
    return f"| {name} | " + " | ".join([*cells, "", ""][:9]) + " |"


def peer(name: str, clean: Channel, traj: Trajectories) -> Contender:
    """verl's estimator on the same numbers, padding cleaned for it."""
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.utils.torch_functional import masked_whiten

    if name == "masked_whiten":
        mask = traj.mask.float()
        return lambda: masked_whiten(clean.value.flip(1).cumsum(1).flip(1), mask) * mask
    function, mask, index_ = get_adv_estimator_fn(name), traj.mask.float(), traj.group.numpy()
    logp, squares = (torch.where(traj.exists, x, 0) for x in (traj.logp["old"], traj.extras["sum_pi_squared"]))
    if name == "gae":
        return lambda: function(clean.value, traj.extras["values"][:, :-1], mask, 1.0, 0.95)[0]
    if name == "remax":
        earned = clean.value.sum(1)
        group, greedy = traj.group.long(), traj.extras["greedy"]
        baseline = torch.zeros(int(group.max()) + 1).index_add(0, group[greedy], earned[greedy])[group]
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
