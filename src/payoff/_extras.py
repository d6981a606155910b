"""Optional dependencies: imported where they are used, with an error that names what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

_EXTRA_OF = {
    "transformers": "lm",
    "peft": "lm",
    "pyarrow": "data",
    "datasets": "data",
    "reasoning_gym": "gym",
    "math_verify": "text",
    "sacrebleu": "text",
    "rouge_score": "text",
    "nltk": "text",
    "trl": "trl",
    "verl": "verl",
    "tensorboard": "tensorboard",
    "sklearn": "flow",
    "gymnasium": "control",
    "stable_baselines3": "control",
    "minigrid": "control",
    "mujoco": "control",
    "scipy": "solvers",
    "pyscipopt": "scip",
    "opacus": "privacy",
    "textworld": "turns",
}


class MissingExtraError(ImportError):
    """Something optional is needed and not installed; the message says what to install."""


def require(module: str, for_what: str) -> ModuleType:
    """Import an optional module, or raise MissingExtraError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        extra = _EXTRA_OF.get(package)
        source = f'pip install "payoff[{extra}]"' if extra else f"pip install {package}"
        raise MissingExtraError(f"{for_what} needs {package}, which is not installed; install: {source}") from None
