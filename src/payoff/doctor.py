"""What this machine and the installed packages really offer."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from payoff import __version__

EXTRAS = {
    "lm": {"transformers": "transformers causal language models", "peft": "LoRA"},
    "data": {"pyarrow": "Parquet files", "datasets": "Hugging Face data sets"},
    "gym": {"reasoning_gym": "the reasoning-gym tasks"},
    "text": {"math_verify": "mathematical equivalence of answers"},
    "trl": {"trl": "TRL trainers"},
    "verl": {"verl": "verl trainers"},
    "tensorboard": {"tensorboard": "metrics in TensorBoard"},
    "flow": {"sklearn": "the digits that flow policies draw"},
    "control": {"gymnasium": "environments", "stable_baselines3": "Stable-Baselines3", "minigrid": "MiniGrid", "mujoco": "MuJoCo"},
    "solvers": {"scipy": "linear programmes"},
}

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the name differs from the module's


def examine() -> dict[str, Any]:
    """Three groups: what works, what is missing with the command that installs it, and what was measured."""
    works = [f"payoff {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    missing: list[str] = []
    import torch

    from payoff import sandbox

    works.append(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        works += [f"device cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    else:
        missing.append("no CUDA device: everything runs on the CPU")
    for extra, packages in EXTRAS.items():
        for package, what in packages.items():
            if importlib.util.find_spec(package) is not None:
                works.append(f"{what}: {package} {metadata.version(DISTRIBUTIONS.get(package, package.replace('_', '-')))}")
            else:
                missing.append(f'{what}: pip install "payoff[{extra}]"')
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    (works if chromium else missing).append("a browser for the report's tests" + (f": {chromium}" if chromium else " (chromium)"))
    isolation = sandbox.examine()
    works += isolation["works"]
    missing += isolation["missing"]
    return {"works": works, "missing": missing, "measured": _measured()}


def _measured() -> list[str]:
    import torch

    from payoff.runs import available_cores

    a = torch.randn(512, 512)
    a @ a
    start = time.perf_counter()
    for _ in range(8):
        a @ a
    rate = 8 * 2 * 512**3 / (time.perf_counter() - start) / 1e9
    told = [f"{available_cores()} of {os.cpu_count()} processors may be used", f"matrix products: {rate:.0f} Gflop/s"]
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free / 2**30
        start = time.perf_counter()
        path = os.path.join(folder, "probe")
        with open(path, "wb") as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())
        told.append(f"temporary folder: {free:.0f} GiB free, a synced megabyte in {1000 * (time.perf_counter() - start):.0f} ms")
    told.append(f"terminal: {'yes' if sys.stderr.isatty() else 'no'}, width {shutil.get_terminal_size().columns}")
    return told


def told(found: dict[str, Any]) -> str:
    """The three groups as text."""
    signs = {"works": "+", "missing": "-", "measured": " "}
    return "".join(f"{group}\n" + "".join(f"  {signs[group]} {line}\n" for line in lines) for group, lines in found.items())
