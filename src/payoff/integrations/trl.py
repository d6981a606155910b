"""TRL: the dict of `GRPOTrainer._generate_and_score_completions` as trajectories, and weights of actions as its `advantages`.

TRL hands every process its own slice of the batch, and a group may be cut by it: what sees groups belongs after TRL has gathered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from payoff.integrations.token_batches import completions_of, groups_of, prompts_of, renamed, stops_of, weights, written
from payoff.trajectories import Channel, Trajectories, constant

LOGP = {"old_per_token_logps": "old", "ref_per_token_logps": "ref", "sampling_per_token_logps": "sampling"}


def from_trl(
    output: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]] = (),
    *,
    num_generations: int | None = None,
    tokenizer: Any = None,
    ends: Collection[int] | None = None,
    step: Int[Tensor, "N T"] | None = None,
) -> Trajectories:
    """The batch that `_generate_and_score_completions(inputs)` gives, as trajectories of completion tokens, T as wide as TRL's.

    inputs:          the data set's rows it was called with: they become the items, with `prompt_ids` and, with a tokenizer,
                     `response` and `tokens`
    num_generations: rows with one prompt are a group; a prompt that stands twice in the batch is two groups of this size
    ends:            the tokens that end a completion (default: the tokenizer's); see `stops_of` for none
    step:            the step of every token; without it all are one step

    Tokens of tools exist and are not the policy's. TRL computes "old" only where it differs from the current policy. On request it
    empties the mask of truncated completions (`mask_truncated_completions`): such a one is one token long, not acted, truncated.
    Raises ValueError where the batch lacks a part or inputs are not one per row.
    """
    lost = [name for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask") if name not in output]
    if lost:
        raise ValueError(f"from_trl: the batch has no {lost[0]!r}; it has {sorted(output)}")
    ids, exists = output["completion_ids"], output["completion_mask"].bool()
    if len(inputs) not in (0, len(ids)):
        raise ValueError(f"from_trl: inputs must be one per row ({len(ids)}), got {len(inputs)}")
    mask = exists if output.get("tool_mask") is None else exists & output["tool_mask"].bool()
    count = exists.sum(1)
    length = count.clamp(min=1)
    on = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
    prompts = [row[keep.bool()].tolist() for row, keep in zip(output["prompt_ids"].cpu(), output["prompt_mask"].cpu(), strict=True)]
    if ends is None and getattr(tokenizer, "eos_token_id", None) is not None:
        ends = [tokenizer.eos_token_id]
    completions = [row[:n].tolist() for row, n in zip(ids.cpu(), count.tolist(), strict=True)]
    return Trajectories(
        mask=mask,
        length=length,
        group=groups_of([tuple(p) for p in prompts], num_generations).to(ids.device),
        step=torch.where(on, 0 if step is None else step, -1).int(),
        stop=stops_of(ids, length, count > 0, ends),
        actions=ids,
        logp=renamed(output, LOGP, lambda logp: logp.float()),
        items=[
            {**dict(row), "prompt_ids": prompt, **written(completion, tokenizer)}
            for row, prompt, completion in zip(inputs or [{}] * len(ids), prompts, completions, strict=True)
        ],
    )


def to_trl(traj: Trajectories, advantage: Channel, *, pad: int) -> dict[str, Any]:
    """Trajectories and the weights of their actions as the dict that `GRPOTrainer._compute_loss` takes.

    pad: the tokenizer's padding token. Items must have `prompt_ids`. `tool_mask` is there when the policy did not act somewhere.
    """
    prompt_ids, prompt_mask = prompts_of(traj, pad)
    output: dict[str, Any] = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completions_of(traj, pad),
        "completion_mask": traj.exists.long(),
        "advantages": trl_advantages(advantage, traj),
        "num_items_in_batch": traj.mask.sum(),
    }
    for theirs, ours in LOGP.items():
        if ours in traj.logp:
            output[theirs] = torch.where(traj.exists, traj.logp[ours], 0)
    if (traj.exists & ~traj.mask).any():
        output["tool_mask"] = (traj.mask | ~traj.exists).long()
    return output


def with_advantages(output: Mapping[str, Any], advantage: Channel, traj: Trajectories) -> dict[str, Any]:
    """The same batch of TRL's with other advantages: what an override of `_generate_and_score_completions` returns.

    Raises ValueError where the trajectories are not those of this batch.
    """
    if traj.mask.shape != output["completion_mask"].shape:
        shapes = list(traj.mask.shape), list(output["completion_mask"].shape)
        raise ValueError(f"with_advantages: the trajectories are {shapes[0]}, the batch is {shapes[1]}")
    return {**output, "advantages": trl_advantages(advantage, traj)}


def trl_advantages(advantage: Channel, traj: Trajectories) -> Float[Tensor, "N ..."]:
    """[N] where the channel is one column, else [N, T]; 0 without verdict: such an action still counts in TRL's means."""
    if advantage.value.shape[1] == 1 and advantage.valid.shape[1] == 1:
        return torch.where(advantage.valid, advantage.value, 0)[:, 0]
    return weights(advantage, traj)


def advantages_from_trl(output: Mapping[str, Any], traj: Trajectories) -> Channel:
    """The advantages that TRL has computed, as a channel. TRL's 0 for "every reward function gave None" is a 0 here too."""
    value = output["advantages"].float()
    if value.ndim == 1:
        return constant(value, torch.ones_like(value, dtype=torch.bool))
    return Channel(value, torch.ones_like(value, dtype=torch.bool))
