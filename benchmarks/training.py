"""Whole training steps a second, side by side: TRL's GRPOTrainer, payoff on the same Llama, payoff on its own transformer.

The same tiny Llama (made here, random weights), the same prompts, group size, lengths, optimiser and learning rate, one gradient
step a batch, no reference model, one thread each, in turn within one process. Also the share of payoff's step that is spent
outside the model's own forward and backward passes.

    python benchmarks/training.py [--updates 30] [--tokens 32]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

ALPHABET = "0123456789+-=;#."
LAYERS, HEADS = 2, 4


def make_llama(folder: Path, context: int, width: int) -> None:
    """A small Llama with a character tokenizer, saved as a hub model is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate([*ALPHABET, "<pad>", "<end>"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=context,
        pad_token_id=len(ALPHABET), eos_token_id=len(ALPHABET) + 1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def trl_seconds(folder: Path, prompts: list[str], args: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of every training step of TRL, and the mean length of its completions."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lengths: list[int] = []

    def reward(completion_ids, **_):
        lengths.extend(len(ids) for ids in completion_ids)
        return [float(len(ids)) for ids in completion_ids]

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            marks.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=args.starts * args.rollouts, num_generations=args.rollouts,
        max_completion_length=args.tokens, max_steps=args.updates + 1, learning_rate=1e-6, beta=0.0, temperature=1.0, use_cpu=True,
        report_to=[], logging_strategy="no", save_strategy="no", bf16=False, fp16=False, gradient_checkpointing=False,
        disable_tqdm=True, lr_scheduler_type="constant", dataloader_num_workers=0,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = GRPOTrainer(model=str(folder), reward_funcs=reward, args=config, train_dataset=data, callbacks=[Clock()])
        trainer.train()
    return [b - a for a, b in itertools.pairwise(marks)], statistics.fmean(lengths)


def payoff_seconds(policy: str, prompts: Path, args: argparse.Namespace) -> tuple[list[float], float, float]:
    """Seconds of every training step of payoff, the mean length of its responses, and the share outside the model's passes."""
    from payoff.build import build
    from payoff.config import Loaded, RunFile
    from payoff.parts import Progress
    from payoff.update import update
    from payoff.yaml_marks import parse_yaml

    text = f"""
    task: {{name: dataset, data: {prompts}}}
    policy: {policy}
    reward: {{length: length}}
    terms: {{policy: {{paths: {{length: [total, grpo]}}, loss: ppo-clip, aggregation: sequence-mean-token-mean}}}}
    train: {{updates: {args.updates}, starts: {args.starts}, rollouts: {args.rollouts}, learning_rate: 1e-6}}
    """
    run = RunFile.model_validate(parse_yaml(text, "benchmark").data)
    parts, settings = build(Loaded(run, {}, "benchmark", []))
    progress = Progress()
    progress.optimiser = torch.optim.AdamW(parts.policy.parameters(), lr=1e-6, fused=True)
    times, lengths, inside = [], [], _model_clock(parts.policy)
    for number in range(args.updates + 2):
        if number == 2:
            inside.seconds = 0.0
        start = time.perf_counter()
        _, metrics = update(parts, settings, progress)
        times.append(time.perf_counter() - start)
        lengths.append(metrics["length"])
        progress.update += 1
    return times[2:], statistics.fmean(lengths), 1 - inside.seconds / sum(times[2:])


class _model_clock:
    """Seconds inside the network: forward passes through its modules, and every backward pass."""

    def __init__(self, policy) -> None:
        self.seconds, self.depth = 0.0, 0
        network = policy.model

        def timed(function):
            def call(*args, **options):
                if self.depth:
                    return function(*args, **options)
                self.depth += 1
                start = time.perf_counter()
                try:
                    return function(*args, **options)
                finally:
                    self.seconds += time.perf_counter() - start
                    self.depth -= 1

            return call

        network.score = timed(network.score)
        session = network.session

        def timed_session(*args, **options):
            made = timed(session)(*args, **options)
            made.step = timed(made.step)
            return made

        network.session = timed_session
        torch.Tensor.backward = timed(torch.Tensor.backward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("updates", 30), ("starts", 4), ("rollouts", 4), ("tokens", 32), ("threads", 1), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    digits = torch.randint(0, 10, (256, 6), generator=generator).tolist()
    prompts = ["+".join(map(str, row)) + "=" for row in digits]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_llama(folder, 12 + args.tokens, args.width)
        rows = folder / "prompts.jsonl"
        rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        own = (
            f'{{name: transformer, alphabet: "{ALPHABET}", context: {12 + args.tokens}, width: {args.width}, layers: {LAYERS}, '
            f'heads: {HEADS}, max_tokens: {args.tokens}, step_separator: ";"}}'
        )
        llama = f"{{name: pretrained, model: {folder}, max_tokens: {args.tokens}}}"
        trl, trl_length = trl_seconds(folder, prompts, args)
        same, same_length, same_share = payoff_seconds(llama, rows, args)
        mine, mine_length, mine_share = payoff_seconds(own, rows, args)
    base = statistics.median(trl)
    print(f"{args.starts} prompts x {args.rollouts} rollouts, at most {args.tokens} tokens, {args.threads} thread(s)")
    for name, times, length in (
        ("TRL GRPOTrainer, Llama", trl, trl_length),
        ("payoff, the same Llama", same, same_length),
        ("payoff, own transformer", mine, mine_length),
    ):
        each = statistics.median(times)
        print(f"  {name:<24} {1 / each:6.2f} steps/s   mean length {length:4.1f}   {base / each:5.2f} times TRL")
    print(f"  outside the model's passes: {100 * same_share:.1f} % (Llama), {100 * mine_share:.1f} % (own transformer)")


if __name__ == "__main__":
    main()
