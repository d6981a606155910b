"""The reference answer behind what was reasoned: how likely the acting policy finds it, and rows to train on that end with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from payoff.catalogue import method
from payoff.pipeline import Policy, Start, concatenate_rewards
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, concatenate, fresh_ids

Keep = Literal["but-last-step", "all"]
MARK = "reference"  # in extras: which rows end with the reference; and of an item: what its row ends with
_NOTE, _ROWS = "reference_row", 64  # the item's field; rows asked of the policy at a time


@method("likelihood-rewards", kind="sampler", paper="arXiv:2602.03979")
def with_reference_likelihood(
    policy: Policy,
    starts: Sequence[Start],
    n: int,
    rng: torch.Generator,
    *,
    keep: Keep = "but-last-step",
    lead: str = "",
    base: bool = False,
) -> Trajectories:
    """Free rollouts, and beside each how likely the policy that acts finds the start's reference after the reasoning.

    items: "reference_logp", the log-probabilities of the reference's tokens: what the signals `likelihood-rewards` and `rlpr` read
    where they are given no policy of their own. So the reward is that of the policy as it is and not of a copy of the first one; it
    then changes with the policy, and the replay of this name has the rows through which it does.

    keep: the reasoning is all "but the last step", whose place the reference takes, or "all" that was written
    lead: text before the reference that leads up to it and is not scored, such as "Answer: "
    base: also "base_logp", the same without the reasoning, for `rlpr`

    Where the start has no field "reference", or an empty one, or the context is too short, nothing is written, and the signals have
    no verdict. One more pass for each, without gradient. Raises ValueError for an unknown `keep`, and a policy that writes no text.

    >>> from payoff.policies.embedded import transformer
    >>> policy = transformer(width=8, layers=1, heads=1, max_tokens=6)
    >>> start = Start("a", {"prompt": "1+2=", "reference": "3."})
    >>> traj = with_reference_likelihood(policy, [start], 2, torch.Generator().manual_seed(0), lead="#")
    >>> [len(item["reference_logp"]) for item in traj.items]
    [2, 2]
    """
    return note_references(policy, policy.rollout(starts, n, rng), keep=keep, lead=lead, base=base)


def note_references(
    policy: Policy, traj: Trajectories, *, keep: Keep = "but-last-step", lead: str = "", base: bool = False
) -> Trajectories:
    """What the sampler `likelihood-rewards` writes beside rollouts, of these rollouts."""
    asked: Any = policy
    if keep not in ("but-last-step", "all"):
        raise ValueError(f'likelihood-rewards: keep must be "but-last-step" or "all", got {keep!r}')
    if not hasattr(asked, "tokenizer") or len(traj.items) != len(traj):
        raise ValueError("likelihood-rewards: this policy writes no text, so it has no opinion of a reference")
    tokenizer, context = asked.tokenizer, getattr(asked.model, "context", None)
    front = tokenizer.encode(lead) if lead else []
    last = traj.step.amax(1, keepdim=True)
    cut = traj.length if keep == "all" else (traj.exists & (traj.step < last)).sum(1)
    items: list[dict[str, Any]] = [dict(item) for item in traj.items]
    for item, written, at in zip(items, traj.actions.tolist(), cut.tolist(), strict=True):
        reference = item.get("reference")
        if reference is None or str(reference) == "":
            continue
        ids = [*front, *tokenizer.encode(str(reference))]
        if context is None or len(item["prompt_ids"]) + at + len(ids) <= context:
            said = {"response": tokenizer.decode([*written[:at], *ids]), "tokens": [tokenizer.shown[i] for i in ids]}
            item[_NOTE] = {"at": at, "lead": len(front), "ids": ids, **said}
    noted = traj.replace(items=items)
    _write(asked, _rows(noted, [item.get(_NOTE) for item in items]), items, "reference_logp")
    if base:
        alone = [None if _NOTE not in item else {**item[_NOTE], "at": 0} for item in items]
        _write(asked, _rows(noted, alone), items, "base_logp")
    return noted


@method("likelihood-rewards", kind="replay", paper="arXiv:2602.03979", needs=("old",))
def with_reference_rows(traj: Trajectories, rewards: Rewards, rng: torch.Generator) -> tuple[Trajectories, Rewards]:
    """The rows as they are, and of each another one in which the reference stands behind its reasoning; extras["reference"] [N].

    For rewards that are themselves the policy's doing: the gradient of E[R] is that of the reasoning, R grad log pi, and that of
    R at the reasoning that was written, grad R. These rows are where the policy is evaluated for the second. Their own actions are
    the reference's tokens alone, logp["old"] is what the sampler of this name noted, and every channel is unknown on them: no
    statistic, baseline or other term counts them. The credit `reward-gradient` weighs them.

    They are in the group of the rollout they were made of, have new ids, and double what is evaluated. Other log-probabilities are
    taken to be "old", so that what is measured from them is 0 at first, and extras of each action are 0. Rows without a noted
    reference are left alone. `rng` is not asked. Raises ValueError for rollouts without "old".

    >>> from payoff.policies.embedded import transformer
    >>> from payoff.trajectories import place_outcome
    >>> policy, rng = transformer(width=8, layers=1, heads=1, max_tokens=6), torch.Generator().manual_seed(0)
    >>> traj = with_reference_likelihood(policy, [Start("a", {"prompt": "1+2=", "reference": "3."})], 2, rng, lead="#", keep="all")
    >>> paid = {"likelihood": place_outcome(torch.ones(2), torch.ones(2) > 0, traj)}
    >>> rows, rewards = with_reference_rows(traj, paid, rng)
    >>> rows.extras["reference"].tolist(), [item["response"][-3:] for item in rows.items[2:]], rows.own[2:].sum(1).tolist()
    ([False, False, True, True], ['#3.', '#3.'], [2, 2])
    """
    if "old" not in traj.logp:
        raise ValueError('likelihood-rewards: needs traj.logp["old"], the log-probabilities of the policy that acted')
    fresh = traj.replace(extras={MARK: torch.zeros(len(traj), dtype=torch.bool, device=traj.device)})
    more = _rows(fresh, [item.get(_NOTE) if "reference_logp" in item else None for item in traj.items])
    if not len(more):
        return fresh, rewards
    unknown = torch.zeros(len(more), 1, dtype=torch.bool, device=traj.device)
    why = dict.fromkeys(more.id.tolist(), "the reference, and not what was answered")
    none = {name: Channel(torch.zeros_like(unknown, dtype=c.value.dtype), unknown, why) for name, c in rewards.items()}
    rows = [fresh, more]
    return concatenate(rows), concatenate_rewards([rewards, none], rows)


def _rows(traj: Trajectories, notes: Sequence[Mapping[str, Any] | None]) -> Trajectories:
    """What stands before each noted place, and the reference behind it: of that only the reference is the policy's own action."""
    whose = torch.tensor([row for row, note in enumerate(notes) if note is not None], dtype=torch.int64, device=traj.device)
    told = [note for note in notes if note is not None]
    ids = [torch.tensor([*traj.actions[row, : note["at"]].tolist(), *note["ids"]]) for row, note in zip(whose.tolist(), told)]
    if not ids:
        return traj.select(whose)
    at, length = (torch.tensor(x, device=traj.device) for x in ([note["at"] for note in told], [len(x) for x in ids]))
    actions = pad_sequence(ids, batch_first=True).to(traj.device)
    position = torch.arange(actions.shape[1], device=traj.device)
    exists, kept = position < length[:, None], position < at[:, None]
    mask = exists & (position >= (at + torch.tensor([note["lead"] for note in told], device=traj.device))[:, None])
    before = torch.where(kept, _fitted(traj.step[whose], len(position)), -1)
    items = [_item(traj.items[row], note) for row, note in zip(whose.tolist(), told)]
    old = torch.zeros(mask.shape, dtype=torch.float64, device=traj.device)
    if all("reference_logp" in item for item in items):
        old[mask] = torch.tensor([x for item in items for x in item["reference_logp"]], dtype=torch.float64, device=traj.device)
    return Trajectories(
        mask=mask,
        length=length,
        group=traj.group[whose],
        step=torch.where(exists & ~kept, before.amax(1, keepdim=True) + 1, before).int(),
        stop=torch.full_like(length, int(StopReason.finished)),
        actions=actions,
        logp={name: old.to(logp) for name, logp in traj.logp.items()},
        id=fresh_ids(len(told)).to(traj.device),
        items=items,
        extras={name: _extra(name, tensor, whose, traj.width, len(position)) for name, tensor in traj.extras.items()},
    )


def _item(item: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
    """The item of a row that ends with the reference."""
    kept = [*item.get("tokens", [])[: note["at"]]]
    text, whole = "".join(note["tokens"]), note["response"]
    steps: list[str] = []
    rest = whole
    for step in item.get("steps", []):
        if not rest.startswith(step) or len(rest) <= len(text):
            break
        steps, rest = [*steps, step], rest[len(step) :]
    return {**item, "response": whole, "tokens": [*kept, *note["tokens"]], "steps": [*steps, rest]}


def _extra(name: str, tensor: Tensor, whose: Int[Tensor, " M"], before: int, width: int) -> Tensor:
    """An extra of the new rows: the number of the rollout they come from, and 0 for what belongs to single actions."""
    if name == MARK:
        return torch.ones(len(whose), dtype=torch.bool, device=tensor.device)
    if tensor.ndim == 1:
        return tensor[whose]
    return tensor.new_zeros(len(whose), width + tensor.shape[1] - before, *tensor.shape[2:])


def _fitted(tensor: Tensor, width: int) -> Tensor:
    missing = width - tensor.shape[1]
    return tensor[:, :width] if missing <= 0 else torch.nn.functional.pad(tensor, (0, missing), value=-1)


@torch.no_grad()
def _write(policy: Any, rows: Trajectories, items: Sequence[dict[str, Any]], field: str) -> None:
    """Notes what the policy says of the reference's tokens in every item that has a row."""
    noted = iter([item for item in items if _NOTE in item])
    for some in torch.arange(len(rows), device=rows.device).split(_ROWS):
        part = rows.select(some)
        for said, own in zip(policy.evaluate(part).logp, part.mask, strict=True):
            next(noted)[field] = [min(x, 0.0) for x in said[own].tolist()]
