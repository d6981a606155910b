"""Writing one turn of several rows at once, each row with numbers of its own, so that who else is written matters to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.policies.generation import CausalModel, Choice, sample, scaled
from payoff.policies.token_text import TokenText

_SHARE = 8  # ended rows leave the batch once they are at least one in this many


class Turn(NamedTuple):
    """What one row wrote: ids as sampled, their log-probabilities, and whether a stop string or an end token closed it."""

    tokens: list[int]
    logp: list[float]
    closed: bool


def write_turns(
    model: CausalModel,
    text: TokenText,
    choice: Choice,
    contexts: Sequence[Sequence[int]],
    limits: Sequence[int],
    numbers: Float[Tensor, "N L"],
    noisy: Sequence[int],
    begun: Sequence[Sequence[int]],
) -> list[Turn]:
    """Go on from these ids, exactly as they are, until each row ends its turn or has its limit of tokens.

    numbers: in [0, 1), float64, that choose the tokens of each row; what a row writes depends on its own alone (and on how the
             machine rounds sums in batches of other sizes). noisy: so many tokens of each row are sampled, the rest are the most
             likely ones. begun: what of each context belongs to this turn already, where a stop string may have begun.

    Every distinct context is read once. Log-probabilities are those at the temperature before any truncation, as for responses.
    """
    with torch.inference_mode():
        tokens, logp, count, closed = _written(model, text, choice, contexts, limits, numbers, noisy, begun)
    ends = count.tolist()
    ids, logps, shut = tokens.tolist(), logp.tolist(), closed.tolist()
    return [Turn(ids[i][:n], logps[i][:n], shut[i]) for i, n in enumerate(ends)]


def _written(
    model: CausalModel,
    text: TokenText,
    choice: Choice,
    contexts: Sequence[Sequence[int]],
    limits: Sequence[int],
    numbers: Float[Tensor, "N L"],
    noisy: Sequence[int],
    begun: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "N L"], Float[Tensor, "N L"], Int[Tensor, " N"], Bool[Tensor, " N"]]:
    device, n, most = model.device, len(contexts), max(limits)
    limit = torch.tensor(limits, device=device)
    sampled = torch.tensor([0 if choice.temperature == 0 else k for k in noisy], device=device)
    numbers = numbers.to(device)
    tokens = torch.zeros(n, most, dtype=torch.int64, device=device)
    logp = torch.zeros(n, most, device=device)
    count = torch.zeros(n, dtype=torch.int64, device=device)
    closed = torch.zeros(n, dtype=torch.bool, device=device)
    rows = torch.arange(n, device=device)  # the row that each place of the batch writes
    going = torch.ones_like(closed)  # places whose row has not ended
    session = _session(model, contexts, most)

    def recent(place: int, size: int) -> list[int]:
        row = int(rows[place])
        return [*begun[row], *tokens[row, : t + 1].tolist()][-size:]

    for t in range(most):
        logits = scaled(session.logits, choice.temperature)
        token = logits.argmax(-1)
        drawn = t < sampled[rows]
        if drawn.any():
            chosen = sample(logits.softmax(-1), numbers[rows, t], top_k=choice.top_k, top_p=choice.top_p)
            token = torch.where(drawn, chosen, token)
        tokens[rows, t] = token
        logp[rows, t] = logits.log_softmax(-1).gather(1, token[:, None])[:, 0].to(logp.dtype)
        shut = text.ended(token, recent) & going
        full = limit[rows] == t + 1
        over = going & (shut | full)
        count[rows[over]] = t + 1
        closed[rows[shut]] = True
        going &= ~over
        left = int(going.sum())
        if not left:
            break
        if bool(full.any()) or (len(rows) - left) * _SHARE >= len(rows):  # a full row has no place for one more, even ignored
            stay = torch.arange(left, device=device)
            stay[~going[:left]] = going[left:].nonzero()[:, 0] + left
            session.keep(stay)
            rows, token, going = rows[stay], token[stay], going[stay]
        session.step(token)
    return tokens, logp, count, closed


def _session(model: CausalModel, contexts: Sequence[Sequence[int]], room: int):
    """Rows ready to be written, equal contexts read once."""
    number: dict[tuple[int, ...], int] = {}
    which = [number.setdefault(tuple(context), len(number)) for context in contexts]
    session = model.session([list(context) for context in number], 1, room)
    if len(number) < len(which):
        session.keep(torch.tensor(which, device=model.device))
    return session
