"""Checkpoints of training: everything it continues from, in one file that is written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from payoff.files import replacing
from payoff.trajectories import reserve_ids

FORMAT = 1


def save_checkpoint(path: Path, modules: Sequence[nn.Module], progress: Any) -> None:
    """Write modules, optimiser, generators, counters and history: a reader sees the old file or the new one, never half of it."""
    state = {
        "format": FORMAT,
        "modules": [module.state_dict() for module in modules],
        "optimiser": progress.optimiser.state_dict(),
        "rng": progress.rng.get_state(),
        "global_rng": torch.get_rng_state(),
        "next_id": reserve_ids(0),
        "counters": {"update": progress.update, "rollouts": progress.rollouts, "seconds": progress.seconds},
        "history": progress.history,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path, modules: Sequence[nn.Module], progress: Any) -> None:
    """Continue from a checkpoint of the same parts; ValueError says in one line what does not fit."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0][:160]})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path}: is not a payoff checkpoint of format {FORMAT}")
    if len(modules) != len(state["modules"]):
        raise ValueError(f"{path}: holds the state of {len(state['modules'])} parts, this run has {len(modules)}")
    try:
        for module, its_state in zip(modules, state["modules"], strict=True):
            module.load_state_dict(its_state)
        progress.optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: was written by another model: {' '.join(str(error).split())[:300]}") from error
    progress.rng.set_state(state["rng"])
    torch.set_rng_state(state["global_rng"])
    reserve_ids(state["next_id"])
    progress.history = state["history"]
    for name, value in state["counters"].items():
        setattr(progress, name, value)
