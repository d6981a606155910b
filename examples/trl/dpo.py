"""DPO in TRL with a preference loss of payoff, by name.

python examples/trl/dpo.py --tiny                                      # a random model, on a CPU, half a minute
python examples/trl/dpo.py --model Qwen/Qwen3-0.6B --loss ipo          # any causal model of the hub; payoff methods --kind loss
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig

from payoff import find
from payoff.integrations.trl_dpo import PayoffDPOTrainer


def sums() -> Dataset:
    """Sums of two digits, the right one preferred to the one after it."""
    rows = [(f"{a}+{b}=", str(a + b), str(a + b + 1)) for a in range(10) for b in range(10)]
    return Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in rows])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--model", default="Qwen/Qwen3-0.6B")
    asked.add_argument("--loss", default="dpo")
    asked.add_argument("--beta", type=float, default=0.1)
    asked.add_argument("--tiny", action="store_true", help="a random model of a few thousand weights, on the CPU")
    asked.add_argument("--steps", type=int, default=80)
    given = asked.parse_args()
    out = Path(tempfile.mkdtemp())
    if given.tiny:
        from tiny import model

        given.model = model(out / "model")
    trainer = PayoffDPOTrainer(
        model=given.model,
        loss=partial(find(given.loss, "loss"), beta=given.beta),
        args=DPOConfig(
            output_dir=str(out / "run"),
            per_device_train_batch_size=16,
            max_steps=given.steps,
            learning_rate=1e-2 if given.tiny else 1e-6,
            logging_steps=max(1, given.steps // 8),
            use_cpu=given.tiny,
            bf16=not given.tiny,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=sums(),
        processing_class=AutoTokenizer.from_pretrained(given.model),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "pairs/accuracy" in entry]
    print(f"pairs in the right order: {logged[0]['pairs/accuracy']:.2f} at first, {logged[-1]['pairs/accuracy']:.2f} at the end")


if __name__ == "__main__":
    main()
