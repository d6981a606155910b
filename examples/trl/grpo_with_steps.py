"""GRPO in TRL with a reward for every step, return-to-go and a leave-one-out baseline.

    python examples/trl/grpo_with_steps.py --tiny                     # a random model, on a CPU, a minute
    python examples/trl/grpo_with_steps.py --model Qwen/Qwen3-0.6B    # any causal model of the hub

The policy is asked for rising numbers, one a line. A line that holds a number above the last one is paid where it ends, so the
tokens of a good line are told apart from those of a bad one in the same completion; TRL alone pays completions.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig

from payoff import Verdict, join, signal, weigh
from payoff.advantages.group import leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.integrations.trl_rewards import reward_function
from payoff.integrations.trl_trainer import PayoffGRPOTrainer
from payoff.losses.aggregation import token_mean
from payoff.losses.policy_gradient import ppo_clip


def rising(steps: list[str]) -> list[float]:
    """1 for a line that is a number above all before it, -0.2 for any other."""
    paid, highest = [], -1
    for step in steps:
        number = int(step) if step.strip().isascii() and step.strip().isdigit() else -1
        paid.append(1.0 if number > highest else -0.2)
        highest = max(highest, number)
    return paid


def brief(response: str) -> float | Verdict:
    """Short answers are better, and an empty one cannot be judged."""
    return 1 / (1 + len(response) / 10) if response else Verdict(0.0, False, "empty")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--model", default="Qwen/Qwen3-0.6B")
    asked.add_argument("--tiny", action="store_true", help="a random model of a few thousand weights, on the CPU")
    asked.add_argument("--steps", type=int, default=80)
    given = asked.parse_args()
    out = Path(tempfile.mkdtemp())
    if given.tiny:
        from tiny import model

        given.model = model(out / "model")
    prompts = [f"{k}\n" if given.tiny else f"Count up from {k}, one number a line and nothing else.\n" for k in range(8)]
    trainer = PayoffGRPOTrainer(
        model=given.model,
        reward_funcs=reward_function(join({"rising": signal(rising), "brief": signal(brief)}), weights={"rising": 1.0}),
        target=weigh(
            {"rising": [return_to_go, leave_one_out], "brief": [total, leave_one_out]},
            mix={"rising": 1.0, "brief": 0.1},
            missing="skip",
        ),
        loss=partial(ppo_clip, high=0.28),
        aggregation=token_mean,
        separator="\n",
        args=GRPOConfig(
            output_dir=str(out / "run"),
            per_device_train_batch_size=32,
            num_generations=8,
            max_completion_length=12 if given.tiny else 64,
            max_steps=given.steps,
            learning_rate=1e-2 if given.tiny else 1e-6,
            beta=0.0,
            logging_steps=max(1, given.steps // 8),
            use_cpu=given.tiny,
            bf16=not given.tiny,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(given.model, padding_side="left"),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "payoff/rising" in entry]
    print(f"paid for rising lines: {logged[0]['payoff/rising']:.2f} at first, {logged[-1]['payoff/rising']:.2f} at the end")


if __name__ == "__main__":
    main()
