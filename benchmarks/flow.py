"""The share of a training step of a denoising policy that is spent outside the network's own forward and backward passes.

A patch transformer on 8 x 8 digits (random weights: what is measured is time), rollouts, reward, advantage, loss and one optimiser
step, one thread. The network's passes are timed where they happen: its forward calls while sampling and evaluating, and the
backward pass from its output to its input. Importing and the first two updates are left out.

    python benchmarks/flow.py [--updates 8] [--rollouts 64] [--steps 10] [--network patches]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from payoff.advantages.flow_steps import flow_grpo
from payoff.credit.returns import total
from payoff.losses.aggregation import sequence_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.parts import Parts, Progress, Settings
from payoff.pipeline import Term, join, weigh
from payoff.policies.denoising import schedule
from payoff.policies.flow import Flow
from payoff.policies.flow_networks import PatchTransformer, VelocityMLP
from payoff.tasks.digits import Digits, digits_ink
from payoff.update import update


class Timed(nn.Module):
    """A network that adds up the seconds of its forward passes, and of the backward passes between its end and its start."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds, self.began = network, 0.0, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            x = x.detach().requires_grad_()  # so that the backward pass comes back to the input, and its end is seen
            x.register_hook(self._ended)
        began = time.perf_counter()
        out = self.network(x, t, condition)
        self.seconds += time.perf_counter() - began
        if torch.is_grad_enabled():
            out.register_hook(self._started)
        return out

    def _started(self, gradient: torch.Tensor) -> None:
        self.began = time.perf_counter()

    def _ended(self, gradient: torch.Tensor) -> None:
        self.seconds += time.perf_counter() - self.began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--network", choices=("patches", "mlp"), default="patches")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inner = PatchTransformer(8, patch=4, width=96, layers=2) if args.network == "patches" else VelocityMLP(64, width=256, layers=4)
    network = Timed(inner)
    policy = Flow(network, (8, 8), schedule(args.steps))
    term = Term(weigh({"ink": [total, flow_grpo]}), ppo_clip, sequence_mean)
    parts = Parts(policy, Digits(), join({"ink": digits_ink}), {"policy": term})
    settings = Settings(starts=2, rollouts=args.rollouts // 2)
    progress = Progress(optimiser=torch.optim.AdamW(policy.parameters(), lr=1e-4))
    shares, whole = [], []
    for number in range(args.updates + 2):
        network.seconds, began = 0.0, time.perf_counter()
        update(parts, settings, progress)
        spent = time.perf_counter() - began
        if number >= 2:  # the first ones allocate
            shares.append(1 - network.seconds / spent)
            whole.append(spent)
    print(f"{args.network}: {args.rollouts} rollouts of {args.steps} steps, {1e3 * statistics.median(whole):.0f} ms an update")
    print(f"outside the network's passes: {100 * statistics.median(shares):.1f} % (wanted: under 15 %)")


if __name__ == "__main__":
    main()
