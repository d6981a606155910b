"""verl: a `DataProto` as trajectories and rewards, and rewards, advantages and whole batches as a `DataProto`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from payoff._extras import require
from payoff.integrations.token_batches import completions_of, groups_of, prompts_of, renamed, stops_of, weights, written
from payoff.trajectories import Channel, Rewards, Trajectories, place_outcome

LOGP = {"old_log_probs": "old", "ref_log_prob": "ref", "rollout_log_probs": "rollout"}
REWARDS = ("token_level_rewards", "token_level_scores", "rm_scores")


def from_verl(
    data: Any, *, tokenizer: Any = None, ends: Collection[int] | None = None, step: Int[Tensor, "N T"] | None = None
) -> Trajectories:
    """A `DataProto` with prompts and responses as trajectories of response tokens, T as wide as verl's.

    Groups are the `uid`s, without them the prompts. What the attention mask covers exists; what `response_mask` covers is the
    policy's. A critic's `values` become `extras["values"]` with 0 for the state at the end; `sum_pi_squared` keeps its name there.
    Items: every column of the non-tensor batch, `prompt_ids`, `prompt` (from `raw_prompt`), `reference` (from
    `reward_model["ground_truth"]`), and, with a tokenizer, `response` and `tokens`.
    ends: the tokens that end a response (default: the tokenizer's); see `stops_of` for none
    step: the step of every token, such as `turns_of(response_mask)`; without it all are one step

    Raises ValueError where the batch lacks a part.
    """
    tensors = dict(data.batch.items())
    lost = [name for name in ("responses", "attention_mask") if name not in tensors]
    if lost:
        raise ValueError(f"from_verl: the batch has no {lost[0]!r}; it has {sorted(tensors)}")
    ids = tensors["responses"]
    n, t = ids.shape
    exists = tensors["attention_mask"][:, -t:].bool()
    count = exists.sum(1)
    length = count.clamp(min=1)
    on = torch.arange(t, device=ids.device) < length[:, None]
    rows = [{name: column[i] for name, column in data.non_tensor_batch.items()} for i in range(n)]
    prompts = _prompts(tensors, t)
    keys = [row.get("uid", prompts[i] if prompts else i) for i, row in enumerate(rows)]
    if ends is None and getattr(tokenizer, "eos_token_id", None) is not None:
        ends = [tokenizer.eos_token_id]
    extras = {}
    if "values" in tensors:
        extras["values"] = torch.nn.functional.pad(torch.where(on, tensors["values"].float(), 0), (0, 1))
    if "sum_pi_squared" in tensors:
        extras["sum_pi_squared"] = torch.where(on, tensors["sum_pi_squared"].float(), 0)
    return Trajectories(
        mask=exists & tensors["response_mask"].bool() if "response_mask" in tensors else exists,
        length=length,
        group=groups_of(keys).to(ids.device),
        step=torch.where(on, 0 if step is None else step, -1).int(),
        stop=stops_of(ids, length, count > 0, ends),
        actions=ids,
        logp=renamed(tensors, LOGP, lambda logp: logp.float()),
        items=[
            {
                **row,
                **_standard(row),
                **({"prompt_ids": list(prompts[i])} if prompts else {}),
                **written(ids[i, :k].tolist(), tokenizer),
            }
            for i, (row, k) in enumerate(zip(rows, count.tolist(), strict=True))
        ],
        extras=extras,
    )


def rewards_from_verl(data: Any, traj: Trajectories) -> Rewards:
    """The rewards that a `DataProto` carries: `score` from its token-level tensor, and each of its reward manager's own numbers.

    The tensor is the first there is of token_level_rewards, token_level_scores and rm_scores; the numbers are the columns that
    `meta_info["reward_extra_keys"]` names, as outcomes. verl knows no invalid verdict: everything is valid but what is not finite.
    """
    rewards: Rewards = {}
    found = next((data.batch[name] for name in REWARDS if name in data.batch.keys()), None)  # noqa: SIM118
    if found is not None:
        value = torch.where(traj.exists, found.float(), 0)
        rewards["score"] = Channel(torch.nan_to_num(value, 0, 0, 0), torch.isfinite(value))
    for name in data.meta_info.get("reward_extra_keys", ()):
        try:
            value = torch.tensor([float(x) for x in data.non_tensor_batch[name]], device=traj.device)
        except (TypeError, ValueError, KeyError):
            continue  # texts among the extras, such as the extracted answer
        rewards[name] = place_outcome(torch.nan_to_num(value, 0, 0, 0), torch.isfinite(value), traj)
    return rewards


def to_verl(traj: Trajectories, *, pad: int) -> Any:
    """Trajectories as a `DataProto`: prompts, responses, masks, positions, log-probabilities, values, and the items as columns.

    pad: the tokenizer's padding token. Items must have `prompt_ids`. `uid` is the group's number as text.
    """
    prompts, prompt_mask = prompts_of(traj, pad)
    responses = completions_of(traj, pad)
    attention = torch.cat([prompt_mask, traj.exists.long()], 1)
    tensors = {
        "prompts": prompts,
        "responses": responses,
        "response_mask": traj.mask.long(),
        "input_ids": torch.cat([prompts, responses], 1),
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
    }
    tensors |= {theirs: torch.where(traj.exists, traj.logp[ours], 0) for theirs, ours in LOGP.items() if ours in traj.logp}
    if "values" in traj.extras:
        tensors["values"] = torch.where(traj.exists, traj.extras["values"][:, : traj.width], 0)
    columns: dict[str, list[Any]] = {"uid": [str(group) for group in traj.group.tolist()]}
    for name in dict.fromkeys(name for item in traj.items for name in item if name not in ("prompt_ids", "uid")):
        columns[name] = [item.get(name) for item in traj.items]
    return require("verl", "a batch for verl").DataProto.from_dict(tensors, {name: _column(x) for name, x in columns.items()})


def with_rewards(data: Any, reward: Channel, traj: Trajectories, *, fill: float | None = None) -> Any:
    """The same batch with this reward as token_level_scores and token_level_rewards.

    verl counts every number in its group statistics, so a reward without verdict somewhere is refused, unless `fill` stands for
    it: then compute the advantages here and use `with_advantages`.
    """
    unknown = traj.exists & ~reward.valid
    if fill is None and bool(unknown.any()):
        rows = int(unknown.any(1).sum())
        raise ValueError(f"with_rewards: {rows} trajectories have no verdict, which verl cannot say; give it advantages, or `fill`")
    value = torch.where(unknown, fill or 0.0, torch.where(traj.exists, reward.value, 0))
    return _with(data, {"token_level_scores": value, "token_level_rewards": value.clone()})


def with_advantages(data: Any, advantage: Channel, traj: Trajectories, *, returns: Tensor | None = None) -> Any:
    """The same batch with these weights of actions as `advantages`, and as `returns` unless others are given.

    0 without verdict: such an action trains nothing and still counts in verl's means.
    """
    value = weights(advantage, traj)
    return _with(data, {"advantages": value, "returns": value.clone() if returns is None else returns})


def _with(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    batch = data.batch.clone(recurse=False)
    for name, value in tensors.items():
        batch[name] = value
    return type(data)(batch=batch, non_tensor_batch=dict(data.non_tensor_batch), meta_info=dict(data.meta_info))


def _prompts(tensors: Mapping[str, Tensor], t: int) -> list[tuple[int, ...]] | None:
    if "prompts" not in tensors:
        return None
    mask = tensors["attention_mask"][:, :-t].bool().cpu()
    return [tuple(row[keep].tolist()) for row, keep in zip(tensors["prompts"].cpu(), mask, strict=True)]


def _standard(row: Mapping[str, Any]) -> dict[str, Any]:
    """verl's names for prompt and reference as ours, where ours are not there."""
    model = row.get("reward_model")
    found = {"prompt": row.get("raw_prompt"), "reference": model.get("ground_truth") if isinstance(model, Mapping) else None}
    return {name: value for name, value in found.items() if value is not None and name not in row}


def _column(values: list[Any]) -> np.ndarray:
    """A column of objects, whatever they are: numpy would make a matrix of lists of equal length."""
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column
