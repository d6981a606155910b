"""Denoising policies by name: a network fitted to a task's data before anything is rewarded, kept in a file where one is named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from payoff.catalogue import find, method
from payoff.files import replacing
from payoff.policies import denoising
from payoff.policies.denoising import schedule
from payoff.policies.flow import Flow
from payoff.policies.flow_networks import Data, PatchTransformer, VelocityMLP, fit_velocity

FORMAT = "payoff flow 1"
DEFAULTS = {  # what fits points in a few seconds and 8 x 8 images in about half a minute of one core
    "mlp": {"width": 64, "layers": 3, "steps": 2500, "batch": 256, "rate": 5e-3},
    "patches": {"width": 96, "layers": 2, "steps": 2000, "batch": 128, "rate": 3e-3},
}


@method("flow", kind="policy")
def flow(
    data: str = "mixture",
    *,
    data_options: Mapping[str, Any] | None = None,
    path: denoising.Path = "rectified",
    steps: int = 10,
    noise: denoising.Noise | None = None,
    level: float | list[float] | None = None,
    shift: float = 1.0,
    last_clean: bool = False,
    reduce: denoising.Reduce = "mean",
    start_noise: Literal["own", "group"] = "own",
    acts: Literal["all", "one"] = "all",
    network: Literal["mlp", "patches"] | None = None,
    width: int | None = None,
    layers: int | None = None,
    conditional: bool = False,
    critic: bool = False,
    pretrain_steps: int | None = None,
    pretrain_batch: int | None = None,
    pretrain_rate: float | None = None,
    checkpoint: str | None = None,
    seed: int = 0,
) -> Flow:
    """A flow or diffusion model of a task's data as a policy, fitted from scratch: each denoising step is an action.

    data, data_options: the task whose data the network is fitted to, and its options (give the ones that the run's task has)
    path, steps, noise, level, shift, last_clean: the sampler, see `schedule`: "rectified" is a rectified flow, "ddpm" is DDPM
    reduce, start_noise, acts: see `Flow`; the log-probability of a step is the mean over dimensions unless reduce is "sum"
    network:     "mlp", or "patches", a transformer over the quarters of a small image; None: what suits the data
    conditional: the network is told the class that data and starts carry as `condition`
    critic:      also a network of values, not fitted beforehand
    width, layers, pretrain_steps, pretrain_batch, pretrain_rate: of the network and the fit; None: `DEFAULTS` of that network
    checkpoint:  a file for the fitted weights: read where it exists, else written after fitting
    seed:        of weights and fitting; the fit takes seconds for points and about a minute for images

    Raises LookupError for an unknown task, ValueError for one without data, for options out of range, and for a checkpoint that
    is none or was made with other options.

    >>> policy = flow("mixture", pretrain_steps=2, width=8, layers=1, steps=4)
    >>> policy.shape, policy.steps, policy.reduce
    ((2,), 4, 'mean')
    """
    table = schedule(steps, path=path, noise=noise, level=level, shift=shift, last_clean=last_clean)
    task: Any = find(data, "task")(**(data_options or {}))
    if not hasattr(task, "data") or not hasattr(task, "shape"):
        raise ValueError(f"flow: the task {data!r} has no data to fit a network to")
    shape = tuple(task.shape)
    kind = network or ("patches" if len(shape) == 2 else "mlp")
    classes = int(task.classes) if conditional else 0
    if kind not in DEFAULTS:
        raise ValueError(f'flow: network must be "mlp" or "patches", got {kind!r}')
    asked = {"width": width, "layers": layers, "steps": pretrain_steps, "batch": pretrain_batch, "rate": pretrain_rate}
    chosen: dict[str, Any] = {**DEFAULTS[kind], **{name: value for name, value in asked.items() if value is not None}}
    made = {"data": data, "data_options": dict(data_options or {}), "path": path, "network": kind, "classes": classes, "seed": seed}
    made |= chosen
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(kind, shape, chosen["width"], chosen["layers"], classes)
        judge = VelocityMLP(math.prod(shape), width=chosen["width"], layers=2, classes=classes, outputs=1) if critic else None
    if checkpoint is None or not Path(checkpoint).exists():
        fit = {"steps": chosen["steps"], "batch": chosen["batch"], "learning_rate": chosen["rate"], "seed": seed}
        fit_velocity(model, cast(Data, task.data), path=path, **fit)
        if checkpoint is not None:
            _save(Path(checkpoint), model, made)
    else:
        _load(Path(checkpoint), model, made)
    return Flow(model, shape, table, reduce=reduce, start_noise=start_noise, acts=acts, critic=judge)


def _network(kind: str, shape: Sequence[int], width: int, layers: int, classes: int) -> nn.Module:
    if kind == "mlp":
        return VelocityMLP(math.prod(shape), width=width, layers=layers, classes=classes)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f'flow: network "patches" is for square images, and samples of this task have the shape {tuple(shape)}')
    patch = max(size for size in range(1, max(shape[0] // 2, 1) + 1) if shape[0] % size == 0)
    return PatchTransformer(shape[0], patch=patch, width=width, layers=layers, classes=classes)


def _save(file: Path, model: nn.Module, made: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        torch.save({"format": FORMAT, "made": json.dumps(made, sort_keys=True), "weights": model.state_dict()}, partial)


def _load(file: Path, model: nn.Module, made: Mapping[str, Any]) -> None:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"flow: {file} cannot be read ({str(error).splitlines()[0][:160]})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"flow: {file} is no checkpoint of a flow policy")
    was = json.loads(state["made"])
    odd = [name for name in made if json.loads(json.dumps(made[name])) != was.get(name)]
    if odd:
        raise ValueError(f"flow: {file} was made with {odd[0]} {was.get(odd[0])!r}, and this run asks for {made[odd[0]]!r}")
    model.load_state_dict(state["weights"])
