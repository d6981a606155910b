"""Writing tokens: from the model's logits to sampled rows, one batched pass per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from payoff.policies.decoder import Packed
from payoff.policies.token_text import TokenText

_BLOCK = 128  # uniform numbers are drawn for this many tokens of every row at a time
_SHARE = 8  # ended rows leave the batch once they are at least one in this many


@runtime_checkable
class Session(Protocol):
    """Rows being written; `logits` [N, V] are those of each row's next token."""

    logits: Tensor

    def step(self, tokens: Int[Tensor, " N"]) -> None:
        """Append one token to every row."""

    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Go on with these rows, in this order."""


@runtime_checkable
class CausalModel(Protocol):
    """What a `LanguageModel` needs of the network inside it (a `torch.nn.Module`)."""

    vocabulary: int
    choices: int  # ids below this one can be chosen
    width: int  # of the state a token is chosen from
    context: int | None  # the most tokens it can read, where there is a limit
    device: torch.device

    def score(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Logits [M, V] after, and states [M, D] at, the tokens that are asked for."""

    def session(self, contexts: Sequence[Sequence[int]], copies: int, room: int) -> Session:
        """Read each context once, then go on with `copies` of each for up to `room` tokens."""

    def frozen(self) -> CausalModel:
        """What does not learn: a copy, or the same weights without their adapters."""


class Choice(NamedTuple):
    """How tokens are chosen; see `LanguageModel`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Generated(NamedTuple):
    """Rows as they were written; what lies beyond `count` means nothing."""

    tokens: Int[Tensor, "N T"]
    logp: Float[Tensor, "N T"]
    count: Int[Tensor, " N"]  # type: ignore[assignment]  # the field takes the place of tuple.count
    finished: Bool[Tensor, " N"]


def generate(
    model: CausalModel,
    text: TokenText,
    choice: Choice,
    contexts: Sequence[Sequence[int]],
    limits: Sequence[int],
    rng: torch.Generator,
    *,
    copies: int = 1,
    noisy: int | None = None,
    written: Sequence[Sequence[int]] | None = None,
) -> Generated:
    """Write `copies` rows after each context, each until it ends or has its context's limit of tokens.

    noisy: so many tokens are sampled and the rest are the most likely ones (None: all are sampled). written: what of each
    context is response already, where a stop string may have begun. Each context is read once, whatever `copies` is; rows
    that have ended leave the batch. `rng` moves by one draw, which seeds the numbers of all rows; a row's numbers depend on
    its place alone, not on how long other rows get.
    """
    limit = torch.tensor(limits, device=model.device).repeat_interleave(copies)
    sampled = torch.full_like(limit, max(limits) if noisy is None else noisy)
    begun = None if written is None else [ids for ids in written for _ in range(copies)]
    noise = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device)))
    most, block = max(limits), torch.empty(0)

    def numbers(t: int) -> Tensor:
        nonlocal block
        if t % _BLOCK == 0:  # for all rows, ended or not, so that no row's numbers depend on the others
            block = torch.rand(len(limit), min(_BLOCK, most), generator=noise, dtype=torch.float64).T.to(model.device)
        return block[t % _BLOCK]

    with torch.inference_mode():
        found = write(model.session(contexts, copies, most), text, choice, limit, numbers, sampled, begun)
    return Generated(*(tensor.clone() for tensor in found))  # tensors that gradients may be taken through


def write(
    session: Session,
    text: TokenText,
    choice: Choice,
    limit: Int[Tensor, " N"],
    numbers: Callable[[int], Tensor],
    noisy: Int[Tensor, " N"],
    begun: Sequence[Sequence[int]] | None = None,
) -> Generated:
    """Go on with every row of a session until it ends or has its limit of tokens; rows that have ended leave the batch.

    numbers: called with 0, 1, ... for the numbers in [0, 1), float64 [N], that choose the tokens at that place. noisy: so many
    tokens of each row are sampled and the rest are the most likely ones. begun: what of each row is written already.
    Log-probabilities are those at the temperature before any truncation.
    """
    device, n = limit.device, len(limit)
    most, uneven = int(limit.max()), bool((limit != limit[0]).any())
    fewest_noisy, most_noisy = (0, 0) if choice.temperature == 0 else (int(noisy.min()), int(noisy.max()))
    tokens = torch.zeros(most, n, dtype=torch.int64, device=device)
    share = torch.ones(most, n, device=device)  # the probability of each token that was taken
    count = torch.full((n,), most, device=device)
    finished = torch.zeros(n, dtype=torch.bool, device=device)
    rows = torch.arange(n, device=device)  # the row that each place of the batch writes
    # By place, and written to the rows when places are given up: putting single rows down at every token is slow.
    length, closed = count.clone(), finished.clone()
    going = torch.ones_like(finished)  # places whose row has not ended
    left = n
    since = 0  # tokens from here on are not in `tokens` yet, because putting them there one by one is slow
    taken: list[Tensor] = []
    shares: list[Tensor] = []

    def recent(place: int, size: int) -> list[int]:
        """The last ids of a response, the part that was written before included."""
        row = int(rows[place])
        ids = [*tokens[max(since + len(taken) - size, 0) : since, row].tolist(), *(int(t[place]) for t in taken[-size:])]
        return [*begun[row][len(ids) - size :], *ids] if begun is not None and len(ids) < size else ids

    def put_down(end: int) -> None:
        """Write what is known of the rows that have places to the tensors of all rows."""
        tokens[since:end].index_copy_(1, rows, torch.stack(taken))
        share[since:end].index_copy_(1, rows, torch.cat(shares, 1).T)
        count.index_copy_(0, rows, length)
        finished.index_copy_(0, rows, closed)

    for t in range(most):
        probability = scaled(session.logits, choice.temperature).softmax(-1)
        if t < most_noisy:
            token = sample(probability, numbers(t)[rows], top_k=choice.top_k, top_p=choice.top_p)
            if t >= fewest_noisy:
                token = torch.where(t < noisy[rows], token, probability.argmax(-1))
        else:
            token = probability.argmax(-1)
        taken.append(token)
        shares.append(probability.gather(1, token[:, None]))
        ended = text.ended(token, recent)
        full = limit[rows] == t + 1 if uneven else None
        crowded = full is not None and bool(full.any())
        if crowded or ended.any():
            ended &= going
            closed |= ended
            if full is not None:
                ended |= full & going
            length.masked_fill_(ended, t + 1)
            going ^= ended
            left = int(going.sum())
        if not left or t + 1 == most:
            break
        if crowded or (len(rows) - left) * _SHARE >= len(rows):  # a full row has no place for another token, even an ignored one
            stay = _compact(going, left)
            session.keep(stay)
            put_down(t + 1)
            since, taken, shares = t + 1, [], []
            rows, token, going, length, closed = rows[stay], token[stay], going[stay], length[stay], closed[stay]
        session.step(token)
    put_down(since + len(taken))
    return Generated(tokens.T, share.log().T, count, finished)


def sample(
    probability: Float[Tensor, "N V"], uniform: Float[Tensor, " N"], *, top_k: int = 0, top_p: float = 1.0
) -> Int[Tensor, " N"]:
    """One token for every row, by inverting the distribution function at the row's number in [0, 1), a float64.

    top_k: only the k most likely tokens (0: all); top_p: of these, the fewest most likely ones whose share of the probability
    reaches p. What remains is scaled to 1. A token of probability 0 is never taken.

    >>> probability = torch.tensor([[0.5, 0.3, 0.2]])
    >>> [int(sample(probability, torch.tensor([u], dtype=torch.float64), top_k=2)) for u in (0.0, 0.6, 0.7)]
    [0, 0, 1]
    """
    ids = None
    if 0 < top_k < probability.shape[1]:
        probability, ids = probability.topk(top_k, dim=1)
    elif top_p < 1:
        probability, ids = probability.sort(dim=1, descending=True)
    if top_p < 1:
        wide = probability.double()
        before = wide.cumsum(1) - wide
        probability = torch.where(before < top_p * wide.sum(1, keepdim=True), probability, 0)
    reached = probability.cumsum(1, dtype=torch.float64)
    # A number below 1 is at most 1 - 2^-53, so that in float64 its product with the total stays below the total: what is found is
    # the first token whose sum lies above it, and so has probability. NaN would lie outside.
    aim = uniform[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, aim, right=True).clamp_(max=reached.shape[1] - 1)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def scaled(logits: Float[Tensor, "*batch V"], temperature: float) -> Float[Tensor, "*batch V"]:
    """Logits, in float32 at least, whose softmax is the distribution that log-probabilities are of."""
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return logits if temperature in (0, 1) else logits / temperature


def usable_device(whose: str, name: str) -> torch.device:
    """The device of this name, or ValueError when there is none."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{whose}: device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def _compact(going: Bool[Tensor, " n"], left: int) -> Int[Tensor, " left"]:
    """The places that go on, each where it was if it can be: the last ones fill the gaps of those that ended."""
    order = torch.arange(left, device=going.device)
    order[~going[:left]] = going[left:].nonzero()[:, 0] + left
    return order
