"""What the batches of token trainers have in common: padded prompts and completions, groups, ends, and weights as plain tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.trajectories import Channel, StopReason, Trajectories, fresh_ids


def groups_of(keys: Sequence[Hashable], size: int | None = None) -> Int[Tensor, " N"]:
    """A number for each key, the same for equal keys; with `size`, a key met more often begins a new group every `size` times.

    >>> groups = groups_of(["a", "a", "b", "a"], size=2)
    >>> bool(groups[0] == groups[1]), len(groups.unique())
    (True, 3)
    """
    met: dict[Hashable, int] = {}
    sets = []
    for key in keys:
        met[key] = met.get(key, 0) + 1
        sets.append((key, 0 if size is None else (met[key] - 1) // size))
    named = list(dict.fromkeys(sets))
    numbers = dict(zip(named, fresh_ids(len(named)).tolist(), strict=True))
    return torch.tensor([numbers[s] for s in sets], dtype=torch.int64)


def stops_of(
    ids: Int[Tensor, "N T"], length: Int[Tensor, " N"], there: Bool[Tensor, " N"], ends: Collection[int] | None
) -> Int[Tensor, " N"]:
    """Finished where the last token is one of `ends`, or, where these are not known, where there was room for more.

    there: False where the trainer has masked the whole completion, as they do with truncated ones.
    """
    if ends is None:
        finished = length < ids.shape[1]
    else:
        last = ids.gather(1, (length - 1)[:, None].long())[:, 0]
        finished = torch.isin(last, torch.tensor(sorted(ends), device=ids.device))
    return torch.where(finished & there, int(StopReason.finished), int(StopReason.truncated))


def written(ids: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    """A completion as text: the whole, without special tokens, and one display string per token; nothing without a tokenizer."""
    if tokenizer is None:
        return {}
    return {"response": tokenizer.decode(ids, skip_special_tokens=True), "tokens": [tokenizer.decode([i]) for i in ids]}


def cut_behind(text: str, separator: str | None) -> list[str]:
    """A text cut behind every separator; what is left behind the last one is a step where it is not empty. None: one step.

    >>> cut_behind("a;b;", ";"), cut_behind("a;b", None), cut_behind("", ";")
    (['a;', 'b;'], ['a;b'], [''])
    """
    if not separator:
        return [text]
    *closed, rest = text.split(separator)
    return [part + separator for part in closed] + ([rest] if rest or not closed else [])


def weights(channel: Channel, traj: Trajectories) -> Float[Tensor, "N T"]:
    """A channel as the plain number of every action: 0 without verdict, beyond the end and where the policy did not act."""
    known = traj.mask & channel.valid
    return torch.where(known, channel.value, 0)


def prompts_of(traj: Trajectories, pad: int) -> tuple[Int[Tensor, "N P"], Int[Tensor, "N P"]]:
    """(prompt ids, mask), padded on the left, from `prompt_ids` of the items; ValueError where an item has none."""
    for id, item in zip(traj.id.tolist(), traj.items or [{}] * len(traj), strict=True):
        if "prompt_ids" not in item:
            raise ValueError(f"trajectory {id} has no prompt_ids in its item, so its prompt's tokens are not known")
    width = max((len(item["prompt_ids"]) for item in traj.items), default=0)
    ids = torch.full((len(traj), width), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(traj.items):
        n = len(item["prompt_ids"])
        if n:
            ids[row, width - n :] = torch.as_tensor(item["prompt_ids"], dtype=torch.int64)
            mask[row, width - n :] = 1
    return ids.to(traj.device), mask.to(traj.device)


def completions_of(traj: Trajectories, pad: int) -> Int[Tensor, "N T"]:
    """The actions as token ids, padded on the right."""
    if traj.actions.ndim != 2 or traj.actions.is_floating_point():
        raise ValueError(f"the actions are no token ids: {traj.actions.dtype} {list(traj.actions.shape)}")
    return torch.where(traj.exists, traj.actions.long(), pad)


def renamed(
    tensors: Mapping[str, Tensor | None], names: Mapping[str, str], change: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """The tensors that are there, under other names."""
    return {ours: change(found) for theirs, ours in names.items() if (found := tensors.get(theirs)) is not None}
