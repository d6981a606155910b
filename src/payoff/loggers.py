"""Metrics to the dashboards people already have: TensorBoard, Weights & Biases, trackio. Each is optional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from payoff._extras import require


@runtime_checkable
class Logger(Protocol):
    """Takes numbers by name at an update; nulls are left out."""

    def log(self, metrics: Mapping[str, Any], update: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, name: str) -> None:
        require("tensorboard", "the logger tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        for key, value in metrics.items():
            if value is not None:
                self.writer.add_scalar(key, value, update)

    def close(self) -> None:
        self.writer.close()


class _Dashboard:
    """wandb and trackio, whose calls are the same."""

    def __init__(self, module: str, folder: Path, name: str) -> None:
        self.module = require(module, f"the logger {module}")
        options = {"dir": str(folder)} if module == "wandb" else {}
        self.run = self.module.init(project="payoff", name=name, **options)

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        self.module.log({key: value for key, value in metrics.items() if value is not None}, step=update)

    def close(self) -> None:
        self.module.finish()


def open_logger(kind: str, folder: Path, name: str) -> Logger:
    """A logger by name: "tensorboard", "wandb" or "trackio"; MissingExtraError where it is not installed."""
    return _TensorBoard(folder, name) if kind == "tensorboard" else _Dashboard(kind, folder, name)
