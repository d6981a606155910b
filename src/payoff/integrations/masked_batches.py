"""What estimators and losses of token trainers are given: rewards, masks and group names as plain tensors, as trajectories.

Such a trainer knows no step, no verdict that is missing, no text. Steps are the turns that a mask shows; a reward that is not a
number has no verdict.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from payoff.credit.returns import return_to_go
from payoff.integrations.token_batches import groups_of, weights
from payoff.pipeline import Evaluation, Loss, Transform, weigh
from payoff.trajectories import Channel, StopReason, Trajectories


class Estimated(NamedTuple):
    """What an estimator of such a trainer gives back: the weight of every action, and what is paid from it on."""

    advantages: Float[Tensor, "N T"]
    returns: Float[Tensor, "N T"]


def turns_of(mask: Bool[Tensor, "N T"]) -> Int[Tensor, "N T"]:
    """The turn that each position belongs to: a turn begins where the policy acts after it did not, and takes in the answer to it.

    What comes before the first action belongs to turn 0.

    >>> turns_of(torch.tensor([[True, True, False, True, False], [False, True, True, True, False]])).tolist()
    [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    """
    begins = mask & ~torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return (begins.cumsum(1) - 1).clamp(min=0).int()


def trajectories_of(
    mask: Shaped[Tensor, "N T"],
    *,
    index: Iterable[Any] | None = None,
    paid: Float[Tensor, "N T"] | None = None,
    logp: Mapping[str, Float[Tensor, "N T"]] | None = None,
    values: Float[Tensor, "N T"] | None = None,
) -> Trajectories:
    """The rows of a masked batch: a row ends with its last action, or with its last payment where that comes later.

    index: the group of each row (without it every row is one); values: a critic's, 0 for the state at the end. What a trainer
    cuts off it does not say, so every row has finished.

    >>> traj = trajectories_of(torch.tensor([[1, 1, 0], [1, 0, 0]]), index=["a", "a"])
    >>> traj.length.tolist(), bool(traj.group[0] == traj.group[1])
    ([2, 1], True)
    """
    acts = mask.bool()
    there = acts if paid is None else acts | (paid != 0)  # not-a-number is not 0: a missing verdict lies somewhere too
    n, t = acts.shape
    position = torch.arange(1, t + 1, device=acts.device)
    length = torch.where(there, position, 0).amax(1).clamp(min=1) if t else position.new_ones(n)
    on = position <= length[:, None]
    group = groups_of(list(range(n)) if index is None else [_plain(key) for key in index])
    extras = {} if values is None else {"values": torch.nn.functional.pad(torch.where(on, values.float(), 0), (0, 1))}
    return Trajectories(
        mask=acts,
        length=length,
        group=group.to(acts.device),
        step=torch.where(on, turns_of(acts), -1).int(),
        stop=torch.full((n,), int(StopReason.finished), device=acts.device),
        actions=torch.zeros_like(acts, dtype=torch.int64),
        logp=dict(logp or {}),
        extras=extras,
    )


def channel_of(paid: Float[Tensor, "N T"]) -> Channel:
    """A reward tensor as a channel: without verdict where it is not finite."""
    known = torch.isfinite(paid)
    return Channel(torch.where(known, paid, 0).float(), known)


def estimate(
    paid: Float[Tensor, "N T"],
    mask: Shaped[Tensor, "N T"],
    path: Sequence[Transform],
    *,
    index: Iterable[Any] | None = None,
) -> Estimated:
    """Rewards of tokens down a path of credits and advantages.

    A weight is 0 where the policy did not act and where there is no verdict: a reward that is not finite takes part in no
    statistic and trains nothing. Returns are what is paid from each action on, undiscounted, 0 likewise.

    >>> from payoff.advantages.group import leave_one_out
    >>> from payoff.credit.returns import total
    >>> paid = torch.tensor([[0.0, 1.0], [0.0, 0.0], [float("nan"), 0.0]])
    >>> mask = torch.tensor([[1, 1], [1, 1], [1, 0]])
    >>> estimate(paid, mask, [total, leave_one_out], index=["a", "a", "a"]).advantages
    tensor([[ 1.,  1.],
            [-1., -1.],
            [ 0.,  0.]])
    """
    with torch.no_grad():
        traj = trajectories_of(mask, index=index, paid=paid)
        channel = channel_of(paid)
        advantage = cast(Channel, weigh({"score": list(path)})({"score": channel}, traj))
        return Estimated(weights(advantage, traj), weights(return_to_go(channel, traj), traj))


def loss_terms(
    loss: Loss,
    logp: Float[Tensor, "N T"],
    old: Float[Tensor, "N T"],
    advantages: Float[Tensor, "N #T"],
    mask: Shaped[Tensor, "N T"],
    *,
    ref: Float[Tensor, "N T"] | None = None,
) -> tuple[Float[Tensor, "N T"], dict[str, float]]:
    """(one term per token, 0 off the mask, with gradient; the loss's metrics): what the trainer averages in its own way.

    Raises ValueError where the loss gives one number per trajectory or pair, which such a trainer has no place for.
    """
    acts = mask.bool()
    given = {"old": old.detach()} | ({} if ref is None else {"ref": ref.detach()})
    traj = trajectories_of(mask, logp=given)
    known = torch.isfinite(advantages)
    target = Channel(torch.where(known, advantages, 0).detach().float(), known)
    found = loss(Evaluation(logp, {}), traj, target)
    if found.terms.shape != acts.shape:
        shape = list(found.terms.shape)
        raise ValueError(f"loss_terms: the loss gives {shape}, and this trainer averages one term per token, {list(acts.shape)}")
    return torch.where(acts, found.terms, 0), dict(found.metrics)


def with_options(part: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """A part with those of the options that it has; the others are not its business."""
    plain = part.func if isinstance(part, functools.partial) else part
    known = {name for name, p in inspect.signature(plain).parameters.items() if p.kind is p.KEYWORD_ONLY}
    bound = part.keywords if isinstance(part, functools.partial) else {}
    mine = {name: value for name, value in options.items() if name in known and name not in bound}
    return functools.partial(part, **mine) if mine else part


def _plain(key: Hashable) -> Hashable:
    """Numpy's scalars and tensors of one number by their value, so that equal ones are one group."""
    item = getattr(key, "item", None)
    return item() if callable(item) else key


def step_texts(
    ids: Int[Tensor, " T"], mask: Bool[Tensor, " T"], tokenizer: Any, separator: str | None
) -> tuple[Int[Tensor, " T"], list[str]]:
    """(the step of every token, the text of every step) of one response.

    A step ends with the token that completes the separator, which belongs to it, and where the policy's turn ends; without a
    separator steps are turns. Texts are without special tokens.
    """
    turn = turns_of(mask[None])[0]
    opens = torch.nn.functional.pad(turn[1:] != turn[:-1], (1, 0))
    if separator:
        pieces = [tokenizer.decode([i], skip_special_tokens=True) for i in ids.tolist()]
        text, at = "".join(pieces), 0
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0)
        while (found := text.find(separator, at)) >= 0:
            at = found + len(separator)
            closes = int(torch.searchsorted(ends, at))  # the first token with which the text reaches the separator's end
            if closes + 1 < len(ids) and at < len(text):  # a token without text behind it opens no step of its own
                opens[closes + 1] = True
    step = opens.cumsum(0).int()
    rows = [ids[step == k].tolist() for k in range(int(step.max()) + 1 if len(step) else 0)]
    return step, [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
