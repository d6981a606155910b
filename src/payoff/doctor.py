"""What this machine and the installed packages really offer."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
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

VERL_REGISTRIES = {  # where a run of verl looks names up
    "advantage estimators": "verl.trainer.ppo.core_algos:ADV_ESTIMATOR_REGISTRY",
    "policy losses": "verl.trainer.ppo.core_algos:POLICY_LOSS_REGISTRY",
    "reward managers": "verl.experimental.reward_loop.reward_manager.registry:REWARD_MANAGER",
    "v1 trainers": "verl.trainer.ppo.v1.trainer_base:TRAINER_REGISTRY",
}
VERL_PROBE = """
import importlib, json, sys, verl
from importlib.metadata import entry_points
found = {"entry point": [e.value for e in entry_points(group="verl.plugins") if e.name == "payoff"], "version": verl.__version__}
for what, place in json.loads(sys.argv[1]).items():
    module, _, name = place.partition(":")
    try:
        importlib.import_module(module.rpartition(".")[0])
        found[what] = sorted(n for n in getattr(importlib.import_module(module), name) if n.startswith("payoff"))
    except Exception as error:
        found[what] = f"{type(error).__name__}: {error}".splitlines()[0]
print("FOUND" + json.dumps(found))
"""

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the name differs from the module's


def examine(*, verl: bool = False) -> dict[str, Any]:
    """Three groups: what works, what is missing with the command that installs it, and what was measured.

    verl: also start a process as verl starts its workers, and look for payoff's names in its registries. verl swallows what goes
    wrong while it loads a plugin, so a missing name says nothing until it is used.
    """
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
    if verl:
        there, lost = verl_names()
        works += there
        missing += lost
    return {"works": works, "missing": missing, "measured": _measured()}


def verl_names(timeout: float = 300) -> tuple[list[str], list[str]]:
    """(payoff's names that a fresh process finds in verl's registries, what is not there and why)."""
    if importlib.util.find_spec("verl") is None:
        return [], ['verl: pip install "payoff[verl]"']
    command = [sys.executable, "-c", VERL_PROBE, json.dumps(VERL_REGISTRIES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return [], [f"verl: not imported within {timeout:.0f} s"]
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND")), "")
    if not line:
        return [], [f"verl cannot be imported: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"]
    return _read_names(json.loads(line.removeprefix("FOUND")))


def _read_names(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    works: list[str] = []
    missing: list[str] = []
    version = found["version"]
    if not found["entry point"]:
        missing.append(f"verl {version}: payoff has no entry point in the group verl.plugins here; install payoff again")
    for what in VERL_REGISTRIES:
        names = found[what]
        if isinstance(names, str):
            missing.append(f"verl {version}, {what}: {names}")
        elif names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            works.append(f"verl {version}, {what}: {', '.join(names[:4])}{more}")
        else:
            missing.append(f"verl {version}, {what}: none of payoff's; does VERL_USE_EXTERNAL_PLUGINS leave it out?")
    return works, missing


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
