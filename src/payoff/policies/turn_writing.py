"""Writing one turn of several rows at once, each row with numbers of its own, so that who else is written matters to nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.policies.generation import CausalModel, Choice, Session, write
from payoff.policies.token_text import TokenText


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
    device = model.device
    numbers = numbers.to(device)
    with torch.inference_mode():
        session = _session(model, contexts, max(limits))
        ask = (torch.tensor(limits, device=device), lambda t: numbers[:, t], torch.tensor(noisy, device=device))
        tokens, logp, count, closed = write(session, text, choice, *ask, begun)
    ids, logps, shut = tokens.tolist(), logp.tolist(), closed.tolist()
    return [Turn(ids[i][:n], logps[i][:n], shut[i]) for i, n in enumerate(count.tolist())]


def _session(model: CausalModel, contexts: Sequence[Sequence[int]], room: int) -> Session:
    """Rows ready to be written, equal contexts read once."""
    number: dict[tuple[int, ...], int] = {}
    which = [number.setdefault(tuple(context), len(number)) for context in contexts]
    session = model.session([list(context) for context in number], 1, room)
    if len(number) < len(which):
        session.keep(torch.tensor(which, device=model.device))
    return session
