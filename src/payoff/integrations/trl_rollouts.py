"""TRL: completions as a trainer hands them over, as trajectories; and those of all processes as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from payoff.foreign.batches import is_conversation, said
from payoff.integrations.token_batches import cut_behind, groups_of, stops_of
from payoff.pipeline import concatenate_rewards
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, concatenate, fresh_ids


class Call(NamedTuple):
    """Completions as TRL hands them to a reward function, and what only a trainer knows of them.

    acted: per completion 1 where the policy wrote the token and 0 where a tool did; None: it wrote all.
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]] | None
    columns: Mapping[str, Sequence[Any]]
    prompt_ids: Sequence[Sequence[int]] | None = None
    acted: Sequence[Sequence[int]] | None = None


class StepText:
    """Where the steps of a completion end in its tokens: as `payoff.policies.lm` cuts what it has written."""

    def __init__(self, tokenizer: Any, separator: str | None) -> None:
        if separator == "":
            raise ValueError("separator must be a string that is not empty, or None")
        self.tokenizer, self.separator = tokenizer, separator
        self._size = 0
        self._text: Any = None  # tables over the vocabulary, made when the first completion is cut

    def __call__(self, ids: Int[Tensor, "N T"], length: Int[Tensor, " N"]) -> tuple[Int[Tensor, "N T"], list[dict[str, Any]]]:
        """The step of every token [N, T], and of every row its response, the texts of its steps, and its tokens as shown."""
        most = max(len(self.tokenizer), int(ids.max()) + 1 if ids.numel() else 0)
        if self._text is None or most > self._size:
            from payoff.policies.pretrained import HubTokenizer
            from payoff.policies.token_text import TokenText

            words = HubTokenizer(self.tokenizer, vocabulary=most, ends=frozenset())
            self._size, self._text = most, TokenText(words, most, (), self.separator, torch.device("cpu"))
        return self._text.texts(ids, length)

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "separator": self.separator, "_size": 0, "_text": None}


def rollouts(
    call: Call,
    *,
    fields: Mapping[str, str] | None = None,
    separator: str | None = None,
    steps: StepText | None = None,
    num_generations: int | None = None,
    ends: Sequence[int] | None = None,
    multiple: int = 1,
) -> Trajectories:
    """Completions as trajectories: one action per token, or per step of the text where a separator has no tokenizer to find it.

    Items hold the columns, `prompt` (text) and `response` (of a conversation the last message's), `messages` and `completion` of
    a conversation, `steps` (the whole response as one where nothing says how to cut it) and, with a tokenizer, `tokens`.
    multiple: T is rounded up to a multiple of it.
    """
    by_token = call.completion_ids is not None and (steps is not None or separator is None)
    items: list[dict[str, Any]] = []
    for row, (prompt, completion) in enumerate(zip(call.prompts, call.completions, strict=True)):
        item = {key: values[row] for key, values in call.columns.items()}
        item |= {ours: item[theirs] for ours, theirs in (fields or {}).items() if theirs in item}
        item |= {"prompt": _text(prompt), "response": said(completion) or ""}
        if is_conversation(prompt):
            item |= {"messages": prompt, "completion": completion}
        if call.prompt_ids is not None:
            item["prompt_ids"] = list(call.prompt_ids[row])
        items.append(item)
    if by_token:
        written = [list(ids) or [-1] for ids in call.completion_ids or ()]
    else:
        for item in items:
            item["steps"] = cut_behind(item["response"], separator)
        written = [[-1] * len(item["steps"]) for item in items]
    length = torch.tensor([len(ids) for ids in written], dtype=torch.int64)
    width = -(-max(map(len, written), default=1) // multiple) * multiple
    actions = torch.zeros(len(written), width, dtype=torch.int64)
    mask = torch.zeros(len(written), width, dtype=torch.bool)
    for row, ids in enumerate(written):
        actions[row, : len(ids)] = torch.tensor(ids)
        acted = [True] * len(ids) if call.acted is None or not by_token else [bool(k) for k in call.acted[row]]
        mask[row, : len(acted)] = torch.tensor(acted, dtype=torch.bool)
    exists = torch.arange(width) < length[:, None]
    step = torch.where(exists, 0 if by_token else torch.arange(width), -1).int()
    if by_token and steps is None:  # a column of that name would be the data set's, not what was written
        items = [{**item, "steps": [item["response"]]} for item in items]
    if by_token and steps is not None and len(written):
        step, texts = steps(actions.clamp(min=0), length)
        items = [{**item, "steps": text["steps"], "tokens": text["tokens"]} for item, text in zip(items, texts, strict=True)]
    there = torch.ones_like(length, dtype=torch.bool)
    return Trajectories(
        mask=mask & exists,
        length=length,
        group=groups_of([repr(prompt) for prompt in call.prompts], num_generations),
        step=step.int(),
        stop=stops_of(actions, length, there, ends) if by_token else torch.full_like(length, int(StopReason.finished)),
        actions=actions,
        items=items,
    )


def cut(rewards: Rewards, rows: Int[Tensor, " M"], traj: Trajectories) -> Rewards:
    """The rewards of these rows, trimmed as `Trajectories.select` trims."""
    width = int(traj.length[rows].max()) if len(rows) else 1
    return {name: Channel(c.value[rows, :width], c.valid[rows, :width], c.reasons) for name, c in rewards.items()}


def gathered(part: Any) -> tuple[list[Any], int]:
    """What every process has here, in their order, and which of them this one is; it must be called in all of them.

    >>> gathered("mine")
    (['mine'], 0)
    """
    from accelerate import PartialState

    if not PartialState._shared_state or PartialState().num_processes == 1:
        return [part], 0
    from accelerate.utils import gather_object

    return list(gather_object([part])), PartialState().process_index


def joined(calls: Sequence[Call]) -> Call:
    """The completions of all processes as one call; a column that some lack is None there."""
    if len(calls) == 1:
        return calls[0]
    flat = lambda name: None if getattr(calls[0], name) is None else [x for c in calls for x in getattr(c, name)]
    names = list(dict.fromkeys(key for c in calls for key in c.columns))
    columns = {key: [x for c in calls for x in c.columns.get(key, [None] * len(c.completions))] for key in names}
    return Call(flat("prompts"), flat("completions"), flat("completion_ids"), columns, flat("prompt_ids"), flat("acted"))  # type: ignore[arg-type]


def _text(prompt: Any) -> str:
    """A prompt as text: of a conversation the text of its messages."""
    if not is_conversation(prompt):
        return prompt if isinstance(prompt, str) else ""
    texts = []
    for message in prompt:
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        texts += [part for part in parts if part]
    return "\n".join(texts)


class Whole(NamedTuple):
    """The completions of all processes, several rewards of them, and which rows are this process' own."""

    traj: Trajectories
    rewards: Sequence[Rewards]
    own: Int[Tensor, " n"]


def whole_batch(traj: Trajectories, rewards: Sequence[Rewards], num_generations: int) -> Whole:
    """Bring the batch of all processes together; called in all of them. Items must have `prompt_ids`.

    Ids and groups are given anew where there are several processes, because each counts its own.
    """
    parts, mine = gathered((traj, list(rewards)))
    if len(parts) == 1:
        return Whole(traj, rewards, torch.arange(len(traj)))
    group = groups_of([tuple(item["prompt_ids"]) for part, _ in parts for item in part.items], num_generations)
    trajectories, channels, first = [], [], 0
    for part, given in parts:
        ids = fresh_ids(len(part))
        trajectories.append(part.replace(id=ids, group=group[first : first + len(ids)]))
        channels.append([renamed_reasons(one, part.id, ids) for one in given])
        first += len(ids)
    start = sum(len(part) for part, _ in parts[:mine])
    together = [concatenate_rewards([given[k] for given in channels], trajectories) for k in range(len(rewards))]
    return Whole(concatenate(trajectories), together, torch.arange(start, start + len(traj)))


def renamed_reasons(rewards: Rewards, old: Int[Tensor, " N"], new: Int[Tensor, " N"]) -> Rewards:
    """The same rewards of the same rows under other ids."""
    ids = dict(zip(old.tolist(), new.tolist(), strict=True))
    return {k: c._replace(reasons={ids[id]: why for id, why in c.reasons.items() if id in ids}) for k, c in rewards.items()}


def fitted(rewards: Rewards, width: int) -> Rewards:
    """The same rewards on trajectories that are padded to another width."""
    return {name: Channel(_fit(c.value, width), _fit(c.valid, width), c.reasons) for name, c in rewards.items()}


def rows_of(channel: Channel, rows: Int[Tensor, " M"], width: int) -> Channel:
    """These rows of a channel, its first `width` columns."""
    return Channel(channel.value[rows, :width], channel.valid[rows, :width], channel.reasons)


def _fit(tensor: Float[Tensor, "N A"] | Bool[Tensor, "N A"], width: int) -> Float[Tensor, "N B"] | Bool[Tensor, "N B"]:
    """One column as it is, else the first `width`, with zeros (or True) behind where there are fewer."""
    missing = width - tensor.shape[1]
    if tensor.shape[1] == 1 or missing == 0:
        return tensor
    fill = 1 if tensor.dtype == torch.bool else 0
    return tensor[:, :width] if missing < 0 else nn.functional.pad(tensor, (0, missing), value=fill)
