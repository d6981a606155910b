"""What models that read a policy's hidden states share: the states behind steps and answers, stored pairs, and heads in files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.files import replacing
from payoff.row_files import read_rows
from payoff.trajectories import Channel, Pairs, Trajectories, per_step

HIDDEN = frozenset({"hidden"})  # what a policy is asked for
NARROWEST = 1e-6  # standard deviation of a hidden unit below which it says nothing


def step_ends(traj: Trajectories) -> tuple[Int[Tensor, "N S"], Bool[Tensor, "N S"]]:
    """(the last position of every step, 0 where there is none; which steps there are).

    >>> from payoff.examples import four_answers
    >>> step_ends(four_answers())[0].tolist()
    [[0, 1, 2], [0, 1, 0], [0, 1, 2], [0, 0, 0]]
    """
    position = torch.arange(traj.width, dtype=torch.float64, device=traj.device).expand(traj.mask.shape)
    last, exists, _ = per_step(Channel(position, torch.ones_like(traj.mask)), traj, "last")
    return last.long(), exists


def states_after(policy: Any, traj: Trajectories, actions: Int[Tensor, "N K"], *, batch_size: int = 64) -> Float[Tensor, "N K D"]:
    """The policy's hidden states after so many actions of each rollout (0: behind the prompt), `batch_size` rollouts at a time.

    They lie on the policy's device, and have a gradient where its weights do.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1)
    >>> traj = policy.read([{"prompt": "3-7=", "response": "#6."}])
    >>> states_after(policy, traj, torch.tensor([[0, 3]])).shape
    torch.Size([1, 2, 8])
    """
    parts = []
    for some in torch.arange(len(traj), device=traj.device).split(batch_size):
        hidden = policy.evaluate(traj.select(some), HIDDEN).more["hidden"]
        place = actions[some].to(hidden.device).long().clamp(max=hidden.shape[1] - 1)
        parts.append(hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[2])))
    return torch.cat(parts)


def stored_pairs(policy: Any, path: str, name: str) -> tuple[Trajectories, Pairs]:
    """Rows of prompt, chosen and rejected as rollouts, and which is better; ValueError where they cannot be read.

    >>> import json, tempfile
    >>> from payoff.policies.embedded import transformer
    >>> path = Path(tempfile.mkdtemp()) / "pairs.jsonl"
    >>> _ = path.write_text(json.dumps({"prompt": "3-7=", "chosen": "#6.", "rejected": "#5."}))
    >>> traj, pairs = stored_pairs(transformer(width=8, layers=1, heads=1), str(path), "example")
    >>> len(traj), pairs.index.tolist()
    (2, [[0, 1]])
    """
    rows = list(read_rows(path, required=("prompt", "chosen", "rejected")))
    if not rows:
        raise ValueError(f"{name}: {path}: holds no rows")
    traj = read_rollouts(policy, path, [{**row, "response": row[side]} for row in rows for side in ("chosen", "rejected")], name)
    index = torch.arange(len(traj), device=traj.device).view(-1, 2)
    return traj, Pairs(index, torch.ones(len(rows), device=traj.device), torch.ones(len(rows), device=traj.device))


def read_rollouts(policy: Any, path: str, rows: list[dict[str, Any]], name: str) -> Trajectories:
    """Rows of prompt and response as the policy reads them; ValueError, with `name` and the file, where it reads none or not these.

    >>> from payoff.policies.embedded import transformer
    >>> row = {"prompt": "3-7=", "response": "#6."}
    >>> len(read_rollouts(transformer(width=8, layers=1, heads=1), "rows.jsonl", [row], "example"))
    1
    """
    if not hasattr(policy, "read"):
        raise ValueError(f"{name}: this policy reads no stored text; call fit with rollouts of its own")
    try:
        return policy.read(rows)
    except ValueError as error:
        raise ValueError(f"{name}: {path}: {error}") from None


def save_heads(path: str | os.PathLike[str], name: str, state: Mapping[str, Tensor], policy: Any, *, trained: bool = False) -> None:
    """Write the tensors of the model `name` to one file, whole or not at all, with what tells the policy whose states they read.

    trained: the policy's own weights are among them, so that any policy of that shape will do

    >>> import tempfile
    >>> from payoff.policies.embedded import transformer
    >>> policy, path = transformer(width=8, layers=1, heads=1), Path(tempfile.mkdtemp()) / "heads.pt"
    >>> save_heads(path, "example", {"weight": torch.ones(2)}, policy)
    >>> load_heads(path, "example", {"weight": torch.zeros(2)}, policy)
    {'weight': tensor([1., 1.])}
    """
    content = {
        "format": _format(name),
        "state": {key: tensor.detach().cpu() for key, tensor in state.items()},
        "read_from": None if trained else _fingerprint(policy),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(content, file)


def load_heads(path: str | os.PathLike[str], name: str, state: Mapping[str, Tensor], policy: Any) -> dict[str, Tensor]:
    """What `save_heads` wrote, of the names and shapes of `state`.

    Raises ValueError in one line where there is no such file, it is damaged or another model's, its shapes are others, or it was
    fitted on the states of another policy. Nothing in the file is run.

    >>> load_heads("nowhere.pt", "example", {}, None)
    Traceback (most recent call last):
    ValueError: example: nowhere.pt: no such file
    """
    if not Path(path).is_file():
        raise ValueError(f"{name}: {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file: whatever zip, pickle and torch raise
        raise ValueError(f"{name}: {path}: cannot be read ({str(error).splitlines()[0][:120]})") from None
    found = content.get("state") if isinstance(content, dict) and content.get("format") == _format(name) else None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{name}: {path}: was not saved by this model")
    wanted, shapes = ({key: list(tensor.shape) for key, tensor in tensors.items()} for tensors in (state, found))
    for key in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(key) != shapes.get(key):
            had = f"{key} is {shapes.get(key, 'missing')} there and {wanted.get(key, 'missing')} here"
            raise ValueError(f"{name}: {path}: belongs to a model of other options, or to a policy of another shape ({had})")
    if content.get("read_from") not in (None, _fingerprint(policy)):
        raise ValueError(f"{name}: {path}: was fitted on the hidden states of another policy than this one")
    return found


def _format(name: str) -> str:
    return f"payoff {name} 1"


def _fingerprint(policy: Any) -> str:
    """What tells the weights that hidden states come from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in getattr(policy, "model", policy).state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
