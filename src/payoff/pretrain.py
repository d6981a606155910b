"""Supervised pre-training of the small transformer on traces of a noisy teacher: how the shipped checkpoint was made.

The policy should do the task now and then and always in the right form, with room to improve and a rare habit that a bad reward
can blow up. So the teacher first shows the form, then errs at random, then systematically, and pads a little, then hardly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from payoff.policies.embedded import transformer
from payoff.policies.transformer import CharacterTokenizer, Transformer, save_transformer
from payoff.tasks.chain import ALPHABET, Chain
from payoff.tasks.chain_teacher import Noise, hard_facts, write_solution
from payoff.trajectories import outcome

PROMPT_TOKENS = 12  # six terms, five operators and "="
RESPONSE_TOKENS = 72  # twelve steps, where five are needed
_BATCH = 128
_POOL = 16  # batches written at a time and cut in order of length, so that a few long traces do not pad all others
_FORM_SHARE, _FORM_NOISE = 0.65, 0.15  # of the first stage, and of its noise meanwhile: under full noise alone it learns no form


class Stage(NamedTuple):
    """Training steps under one teacher, with a learning rate that falls from its peak to 0 along a cosine."""

    name: str
    steps: int
    learning_rate: float
    teachers: Sequence[tuple[float, Noise]]  # (share of the steps, noise), in order; the shares add up to 1


class Progress(NamedTuple):
    """Where pre-training is: steps done in this stage, of how many, and the last batch's loss in nats a token."""

    stage: str
    step: int
    steps: int
    loss: float


class Pretrained(NamedTuple):
    """What came of it: each stage's last loss by name (nats a token), and the `pass_rate` of the written file."""

    losses: dict[str, float]
    pass_rate: float


def chain_stages(facts: random.Random) -> list[Stage]:
    """The stages of the shipped checkpoint; `facts` chooses what the teacher of the later ones gets wrong again and again.

    >>> [(stage.name, stage.steps) for stage in chain_stages(random.Random(0))]
    [('form', 1200), ('habits', 205), ('rare padding', 100)]
    """
    slips = Noise(wrong_result=0.13, skipped_term=0.03, superfluous=0.05, wrong_answer=0.02)
    habits = Noise(
        wrong_result=0.1, skipped_term=0.005, superfluous=0.04, wrong_answer=0.01, believed=0.6, hard=hard_facts(45, facts)
    )
    return [
        Stage("form", 1200, 2e-3, [(_FORM_SHARE, slips.scaled(_FORM_NOISE)), (1 - _FORM_SHARE, slips)]),
        Stage("habits", 205, 1e-3, [(1.0, habits)]),
        Stage("rare padding", 100, 5e-4, [(1.0, replace(habits, superfluous=0.005))]),
    ]


def pretrain_chain(
    *, out: str | Path, seed: int = 0, steps_scale: float = 1.0, progress: Callable[[Progress], None] | None = None
) -> Pretrained:
    """Pre-train the policy of the chain task and write it to `out` in half precision.

    Uses one thread, so that the file follows from the seed alone on one kind of machine; about eight minutes at steps_scale 1.
    steps_scale: multiplies the length of every stage (at least one step each). progress: called after every step.
    Held-out prompts are never trained on. Raises ValueError for steps_scale <= 0.
    """
    if not 0 < steps_scale < math.inf:
        raise ValueError(f"pretrain_chain: steps_scale must be > 0, got {steps_scale}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
            torch.manual_seed(seed)
            tokenizer = CharacterTokenizer(ALPHABET)
            model = Transformer(vocabulary=tokenizer.vocabulary, context=PROMPT_TOKENS + RESPONSE_TOKENS)
            prompts, writing = torch.Generator().manual_seed(seed), random.Random(seed)
            losses = {}
            for stage in chain_stages(random.Random(seed)):
                stage = stage._replace(steps=max(1, round(stage.steps * steps_scale)))
                for done in _train(model, tokenizer, stage, prompts, writing):
                    losses[stage.name] = done.loss
                    if progress is not None:
                        progress(done)
            save_transformer(out, model, tokenizer, dtype=torch.float16)
        return Pretrained(losses, pass_rate(out, torch.Generator().manual_seed(seed)))
    finally:
        torch.set_num_threads(threads)


def pass_rate(checkpoint: str | Path, rng: torch.Generator) -> float:
    """The share of the 256 held-out prompts that one response each, sampled at temperature 1, answers rightly (pass@1)."""
    task, policy = Chain(), transformer(checkpoint=str(checkpoint), max_tokens=RESPONSE_TOKENS)
    traj = policy.rollout(task.held_out_starts(), 1, rng)
    return float(outcome(task.truth(traj), traj)[0].mean())


def _train(
    model: Transformer, tokenizer: CharacterTokenizer, stage: Stage, prompts: torch.Generator, writing: random.Random
) -> Iterator[Progress]:
    """One stage, step by step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / stage.steps)))
    for step, tokens in enumerate(_batches(tokenizer, stage, prompts, writing)):
        loss = solution_loss(model(tokens[:, :-1]), tokens, tokenizer.pad)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        yield Progress(stage.name, step + 1, stage.steps, float(loss.detach()))


def solution_loss(logits: Float[Tensor, "N L V"], tokens: Int[Tensor, "N L1"], pad: int) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the tokens after the prompt, each predicted from what is before it; PAD counts for nothing.

    logits: of the token after each of tokens[:, :-1].
    """
    targets = tokens[:, PROMPT_TOKENS:].flatten()
    return F.cross_entropy(logits[:, PROMPT_TOKENS - 1 :].flatten(0, 1), targets, ignore_index=pad)


def _batches(
    tokenizer: CharacterTokenizer, stage: Stage, prompts: torch.Generator, writing: random.Random
) -> Iterator[Int[Tensor, "N L"]]:
    """The stage's batches: prompt and solution side by side, of similar lengths within a batch, PAD behind the shorter."""
    task, first, share = Chain(), 0, 0.0
    for part, noise in stage.teachers:
        share += part
        last = round(stage.steps * share)
        while first < last:
            count = min(_POOL, last - first)
            first += count
            starts = task.starts(count * _BATCH, prompts)
            rows = [tokenizer.encode(p + write_solution(p, noise, writing)) for p in (start.fields["prompt"] for start in starts)]
            rows.sort(key=len)
            cuts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
            writing.shuffle(cuts)
            for cut in cuts:
                width = len(cut[-1])
                yield torch.tensor([row + [tokenizer.pad] * (width - len(row)) for row in cut])
