"""Visited states a second on the hypergrid, side by side: payoff and torchgfn, the same grid, batch, network and loss.

Trajectory balance with a uniform backward policy, an MLP of two hidden layers on one-hot coordinates, Adam, one thread each. Two
numbers: rollouts alone, and whole training steps (payoff's through the training loop with all its metrics; torchgfn's as its
examples write them, with the log-probabilities kept from sampling), the fused optimiser on both sides. The two take turns, in
processes of their own, and seconds are those that a process has worked.

    python benchmarks/gflownet.py --torchgfn PYTHON [--dimensions 2] [--side 8] [--batch 16] [--hidden 256] [--rounds 5]

PYTHON is an interpreter that has torchgfn, which needs NumPy 1 (or the environment variable PAYOFF_TORCHGFN_PYTHON). Without one
only payoff is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

Piece = Callable[[], int]  # does one rollout or one step, and says how many states it visited


def payoff_pieces(args: argparse.Namespace) -> dict[str, Piece]:
    """A rollout and a training step of payoff."""
    from payoff.losses.gflownet import trajectory_balance, trajectory_mean
    from payoff.parts import Parts, Progress, Settings
    from payoff.pipeline import Term, weigh
    from payoff.policies.gflownet import Gflownet
    from payoff.signals.construction import log_reward
    from payoff.tasks.hypergrid import Hypergrid
    from payoff.update import update

    task = Hypergrid(args.dimensions, args.side)
    policy = Gflownet(task, hidden=args.hidden)
    parts = Parts(policy, task, log_reward, {"tb": Term(weigh({"log_reward": []}), trajectory_balance, trajectory_mean)})
    progress, rng = Progress(), torch.Generator().manual_seed(0)
    progress.optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    settings = Settings(starts=1, rollouts=args.batch, gradient_clip=0.0)

    def rollout() -> int:
        return int(policy.rollout(task.starts(1, rng), args.batch, rng).length.sum())

    def step() -> int:
        batch, _ = update(parts, settings, progress)
        return int(batch.traj.length.sum())

    return {"rollout": rollout, "step": step}


def torchgfn_pieces(args: argparse.Namespace) -> dict[str, Piece]:
    """The same two of torchgfn."""
    from gfn.estimators import DiscretePolicyEstimator
    from gfn.gflownet import TBGFlowNet
    from gfn.gym import HyperGrid
    from gfn.preprocessors import KHotPreprocessor
    from gfn.utils.modules import MLP

    env = HyperGrid(args.dimensions, args.side, validate_modes=False)
    seen = KHotPreprocessor(args.side, args.dimensions)
    net = MLP(input_dim=seen.output_dim, output_dim=env.n_actions, hidden_dim=args.hidden, n_hidden_layers=2)
    forward = DiscretePolicyEstimator(net, env.n_actions, preprocessor=seen)
    backward = DiscretePolicyEstimator.uniform(env.n_actions, preprocessor=seen)
    method = TBGFlowNet(forward, backward)
    weights = [{"params": net.parameters(), "lr": 1e-3}, {"params": method.logz_parameters(), "lr": 0.1}]
    optimiser = torch.optim.AdamW(weights, weight_decay=0.0, fused=True)

    def rollout() -> int:
        with torch.no_grad():
            return int(method.sample_trajectories(env, args.batch, save_logprobs=True).terminating_idx.sum())

    def step() -> int:
        trajectories = method.sample_trajectories(env, args.batch, save_logprobs=True)
        loss = method.loss(env, trajectories, recalculate_all_logprobs=False)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return int(trajectories.terminating_idx.sum())

    return {"rollout": rollout, "step": step}


def rate(piece: Piece, seconds: float) -> float:
    """Visited states a second of this process's own time, so that what else the machine does is left out; over so long at least."""
    states, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        states += piece()
    return states / spent


def serve(pieces: dict[str, Piece], seconds: float) -> None:
    """Answer every name read with a rate, so that another process can take turns with this one."""
    for line in sys.stdin:
        print(json.dumps(rate(pieces[line.strip()], seconds)), flush=True)


def asked(worker: subprocess.Popen[str], name: str) -> float:
    """The rate that the other process answers."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    return float(json.loads(worker.stdout.readline()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torchgfn", default=os.environ.get("PAYOFF_TORCHGFN_PYTHON", ""), help="an interpreter with torchgfn")
    for name, default in (("dimensions", 2), ("side", 8), ("batch", 16), ("hidden", 256), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.serve:
        return serve(torchgfn_pieces(args), args.seconds)
    ours = payoff_pieces(args)
    print(f"hypergrid {args.dimensions} x {args.side}, batch {args.batch}, hidden {args.hidden} x 2, one thread")
    if not args.torchgfn:
        print("torchgfn: skipped, no interpreter given (--torchgfn or PAYOFF_TORCHGFN_PYTHON)")
        for name, piece in ours.items():
            print(f"{name:8} payoff {rate(piece, args.seconds):10,.0f} visited states / s")
        return None
    options = [f"--{name}={getattr(args, name)}" for name in ("dimensions", "side", "batch", "hidden", "seconds")]
    command = [args.torchgfn, "-W", "ignore", __file__, "--serve", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        for name, piece in ours.items():
            rate(piece, 0.2), asked(worker, name)  # both warm
            pairs = [(rate(piece, args.seconds), asked(worker, name)) for _ in range(args.rounds)]
            mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratios = sorted(a / b for a, b in pairs)
            print(
                f"{name:8} payoff {mine:10,.0f}   torchgfn {theirs:10,.0f} visited states / s   "
                f"{statistics.median(ratios):5.1f} times ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            )
        if worker.stdin:
            worker.stdin.close()
    return None


if __name__ == "__main__":
    main()
