"""Advantages against verl's, on the same inputs, results compared first: python benchmarks/advantages.py

GRPO and RLOO from an outcome reward channel [N, T] through `total`, payments in padding and unknown verdicts never read. Each
contender runs in turn, several rounds, and the fastest round counts, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from payoff.advantages.actions import written_out
from payoff.advantages.baselines import subtract_values
from payoff.advantages.batch import reinforce_plus_plus, whiten
from payoff.advantages.group import grpo, leave_one_out
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.trajectories import Channel, Trajectories, place_outcome

Contenders = dict[str, tuple[int, Callable[[], torch.Tensor]]]  # label -> (rounds, what it computes)


# Without these, every result of 32 MB or more is fresh memory, and the time goes into the kernel's page faults: whoever allocates
# more of them looks slow, and is. With them memory is recycled, and the arithmetic alone is compared.
RECYCLE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


def main() -> None:
    if any(os.environ.get(name) is None for name in RECYCLE):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RECYCLE})
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=65_536)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, groups of {options.group}, fp32")
    for length in (options.length, 1):
        batch = rollouts(options.rollouts, length, options.group)
        for name, ours in (("grpo", lambda c, t: grpo(c, t, convention="verl")), ("rloo", leave_one_out)):
            report(f"{name} [{options.rollouts} x {length}]", group_estimators(name, ours, *batch, options.rounds), batch[1].mask)
    # What works on every token takes more memory, and its peers loop over T only.
    batch = rollouts(options.rollouts // 4, options.length, options.group)
    for name, contenders in token_estimators(*batch, options.rounds).items():
        report(f"{name} [{options.rollouts // 4} x {options.length}]", contenders, batch[1].mask)


def rollouts(n: int, t: int, group: int) -> tuple[Channel, Trajectories]:
    rng = torch.Generator().manual_seed(0)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    mask = torch.arange(t) < length[:, None]
    traj = Trajectories(
        mask=mask,
        length=length,
        group=torch.arange(n) // group,
        step=torch.where(mask, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int8),
        extras={"values": torch.rand(n, t + 1, generator=rng)},
    )
    return place_outcome(torch.rand(n, generator=rng), torch.ones(n, dtype=torch.bool), traj), traj


def group_estimators(name: str, ours: Callable, channel: Channel, traj: Trajectories, rounds: int) -> Contenders:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    index = traj.group.numpy()  # verl's own are arrays of strings, which cost it more
    as_passed, as_float = traj.mask.long(), traj.mask.float()
    loop, vectorised = get_adv_estimator_fn(name), get_adv_estimator_fn(f"{name}_vectorized")
    known = torch.ones(len(traj), 1, dtype=torch.bool)
    column = lambda: ours(total(channel, traj), traj).value
    return {
        "payoff, [N, 1] as losses read it": (rounds, lambda: column().expand(traj.mask.shape)),
        "payoff, written out and masked": (rounds, lambda: written_out(Channel(column(), known), traj)),
        "verl, loop": (1, lambda: loop(channel.value, as_float, index=index)[0]),
        "verl, vectorised, int64 mask (its own)": (rounds, lambda: vectorised(channel.value, as_passed, index=index)[0]),
        "verl, vectorised, float mask": (rounds, lambda: vectorised(channel.value, as_float, index=index)[0]),
    }


def token_estimators(channel: Channel, traj: Trajectories, rounds: int) -> dict[str, Contenders]:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    mask, values = traj.mask.float(), traj.extras["values"][:, :-1]
    gae, plus = get_adv_estimator_fn("gae"), get_adv_estimator_fn("reinforce_plus_plus")
    return {
        "gae, whitened": {
            "payoff": (rounds, lambda: whiten(subtract_values(lambda_return(channel, traj), traj), traj).value),
            "verl": (rounds, lambda: gae(channel.value, values, mask, 1.0, 0.95)[0]),
        },
        "reinforce++, discount 0.99": {
            "payoff": (
                rounds,
                lambda: reinforce_plus_plus(return_to_go(channel, traj, discount=0.99), traj, convention="verl").value,
            ),
            "verl": (rounds, lambda: plus(channel.value, mask, config=SimpleNamespace(gamma=0.99))[0]),
        },
        "reinforce++, no discount": {
            "payoff": (rounds, lambda: reinforce_plus_plus(total(channel, traj), traj, convention="verl").value),
            "verl": (rounds, lambda: plus(channel.value, mask, config=SimpleNamespace(gamma=1.0))[0]),
        },
    }


def report(title: str, contenders: Contenders, mask: torch.Tensor) -> None:
    """Check that all agree on the policy's actions, then time them in turn."""
    results = {label: run().expand(mask.shape)[mask] for label, (_, run) in contenders.items()}
    first = next(iter(results.values()))
    for label, result in results.items():
        torch.testing.assert_close(result, first, rtol=1e-4, atol=1e-4, msg=lambda text, label=label: f"{label} differs: {text}")
    best = dict.fromkeys(contenders, float("inf"))
    for turn in range(max(rounds for rounds, _ in contenders.values())):
        for label, (rounds, run) in contenders.items():
            if turn < rounds:
                start = time.perf_counter()
                run()
                best[label] = min(best[label], time.perf_counter() - start)
    ours = [seconds for label, seconds in best.items() if label.startswith("payoff")]
    print(f"\n{title}")
    for label, seconds in best.items():
        ratios = (
            "" if label.startswith("payoff") else "   payoff is " + ", ".join(f"{seconds / own:.1f}x" for own in ours) + " as fast"
        )
        print(f"  {label:40}{seconds * 1e3:9.2f} ms{ratios}")


if __name__ == "__main__":
    main()
