"""Our own small transformer as a policy: the shipped checkpoint, a file, or fresh weights."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import torch

from payoff.catalogue import method
from payoff.policies.generation import usable_device
from payoff.policies.lm import LanguageModel
from payoff.policies.transformer import CharacterTokenizer, Transformer, load_transformer


@method("transformer", kind="policy")
def transformer(
    *,
    checkpoint: str | None = None,
    max_tokens: int = 72,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (".",),
    step_separator: str | None = ";",
    critic: bool = False,
    alphabet: str | None = None,
    context: int | None = None,
    width: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> LanguageModel:
    """Our own small transformer as a policy: a checkpoint of `payoff pretrain`, or fresh weights.

    checkpoint: a file, or "chain" for the shipped model of chained arithmetic; None: fresh weights drawn with `seed`.
    alphabet, context, width, layers, heads: the shape of a fresh model (by default the shipped one's: the digits and
    "+-=;#.", 84 positions, 128, 2, 4); beside a checkpoint they must be what it has. The rest: see `LanguageModel`.
    Raises ValueError for a file that is missing, no checkpoint, or of another shape, and for a stop string or a step
    separator that the alphabet cannot write.

    >>> from payoff.pipeline import Start
    >>> policy = transformer(width=16, layers=1, heads=2, max_tokens=5)
    >>> start = Start("a", {"prompt": "1+2="})
    >>> traj = policy.rollout([start], 3, torch.Generator().manual_seed(0))
    >>> len(traj), traj.width <= 5, traj.items[0]["prompt"]
    (3, True, '1+2=')
    """
    asked = {"context": context, "width": width, "layers": layers, "heads": heads}
    if checkpoint is None:
        tokenizer = CharacterTokenizer("0123456789+-=;#." if alphabet is None else alphabet)
        shape = {name: value for name, value in asked.items() if value is not None}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Transformer(vocabulary=tokenizer.vocabulary, **{"context": 84, **shape})
    else:
        model, tokenizer = _loaded(checkpoint)
        has = {**model.config, "alphabet": tokenizer.alphabet}
        for name, value in {**asked, "alphabet": alphabet}.items():
            if value not in (None, has[name]):
                raise ValueError(f"{checkpoint}: the checkpoint's {name} is {has[name]!r}, not {value!r}")
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    for name, text in [*(("stop", text) for text in stop), ("step_separator", step_separator or "")]:
        lacking = set(text) - set(tokenizer.alphabet)
        if lacking:
            raise ValueError(f"transformer: {name} {text!r} can never be written, the alphabet {tokenizer.alphabet!r} lacks it")
    return LanguageModel(
        model.to(usable_device("transformer", device)),
        tokenizer,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=stop,
        step_separator=step_separator,
        critic=critic,
    )


def _loaded(checkpoint: str) -> tuple[Transformer, CharacterTokenizer]:
    """The model and tokenizer of a file, or of the one that is shipped under this name."""
    folder = importlib.resources.files("payoff.policies") / "checkpoints"
    shipped = (
        sorted(file.name.removesuffix(".pt") for file in folder.iterdir() if file.name.endswith(".pt")) if folder.is_dir() else []
    )
    if checkpoint in shipped:
        with importlib.resources.as_file(folder / f"{checkpoint}.pt") as path:
            return load_transformer(path)
    if not Path(checkpoint).exists() and "/" not in checkpoint:
        raise ValueError(f"transformer: no checkpoint {checkpoint!r}: there is no such file, and the shipped ones are {shipped}")
    return load_transformer(checkpoint)
