"""Are signs of reflection signs of being right? How often they come, and their correlation with it, tested by permutation."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.intervals import Interval, wilson

# Of second thoughts, ours: what models write when they turn back.
MARKERS = (
    "wait",
    "hold on",
    "hmm",
    "aha",
    "on second thought",
    "let me check",
    "let me verify",
    "let me recheck",
    "let me reconsider",
    "let me think again",
    "double check",
    "try again",
    "that is not right",
    "that's not right",
    "i made a mistake",
    "alternatively",
)


class MarkerCorrelation(NamedTuple):
    """What is found of markers in answers, of which some are right.

    rate:        share of answers with a marker (Wilson, as if answers were independent); None without answers
    right_with:  share of the answers with a marker that are right; None where none has one
    right_without: of those without
    correlation: the point-biserial one of presence and being right, -1 .. 1; within prompts, where prompts are told. None where
                 it has no meaning: all right or all wrong, all with or all without, in every prompt
    p:           chance of a correlation at least as far from its mean, either way, if markers were dealt out anew among the
                 answers of each prompt: exact, every deal counted, no sampling. None as for the correlation
    n:           answers with a verdict
    """

    rate: Interval | None
    right_with: float | None
    right_without: float | None
    correlation: float | None
    p: float | None
    n: int


def marker_correlation(
    responses: Sequence[str],
    right: Sequence[float | int | None],
    prompts: Sequence[Hashable] | None = None,
    *,
    markers: Sequence[str] = MARKERS,
) -> MarkerCorrelation:
    """Whether answers that turn back are more often right: "aha" before any training predicts nothing (RL with cold start).

    right:   above 1/2 is right; None: without verdict, left out
    prompts: which answers are of one prompt. Hard prompts bring both more second thoughts and more errors, so that without them a
             correlation says as much of the prompts; with them it is of deviations from each prompt's mean, and permutations stay
             within prompts
    markers: presence counts, not number; whole words, any case

    Read it of a model before it is trained, and again afterwards: markers that do not go with being right are style, and a reward
    for them (`reasoning-pattern-reward`) buys style. The test assumes that answers to one prompt are exchangeable.
    Raises ValueError for lists of unlike length and for no markers.

    >>> said = ["Wait, no: 7.", "7", "Hmm. 8", "Let me check: 7.", "8", "8"]
    >>> found = marker_correlation(said, [1, 1, 0, 1, 0, 0])
    >>> found.rate.value, round(found.correlation, 3), round(found.p, 3)
    (0.5, 0.333, 1.0)
    """
    names = range(1) if prompts is None else prompts
    if len(right) != len(responses) or (prompts is not None and len(prompts) != len(responses)) or not markers:
        raise ValueError(
            "marker_correlation: as many verdicts (and prompts) as responses, and markers, are needed, got "
            f"{len(responses)} responses, {len(right)} verdicts, {len(names)} prompts and {len(markers)} markers"
        )
    either = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(marker) for marker in markers)})(?!\w)", re.IGNORECASE)
    kept = [k for k, verdict in enumerate(right) if verdict is not None]
    marked = torch.tensor([either.search(responses[k]) is not None for k in kept], dtype=torch.float64)
    good = torch.tensor([float(right[k] or 0) > 0.5 for k in kept], dtype=torch.float64)
    number: dict[Hashable, int] = {}
    of = torch.tensor([number.setdefault(None if prompts is None else prompts[k], len(number)) for k in kept], dtype=torch.int64)
    sums = [torch.zeros(len(number), dtype=torch.float64).index_add(0, of, x) for x in (torch.ones_like(marked), marked, good)]
    n, with_, correct = sums
    share = lambda where: float(good[where].mean()) if bool(where.any()) else None
    spread = float(((with_ - with_.square() / n).sum() * (correct - correct.square() / n).sum()).sqrt())
    both, expected = float(marked @ good), float((with_ * correct / n).sum())
    informative = ((with_ > 0) & (with_ < n) & (correct > 0) & (correct < n)).any() if len(number) else False
    return MarkerCorrelation(
        rate=wilson(int(marked.sum()), len(kept)) if kept else None,
        right_with=share(marked > 0),
        right_without=share(marked == 0),
        correlation=(both - expected) / spread if informative else None,
        p=_two_sided(both, expected, n, with_, correct) if informative else None,
        n=len(kept),
    )


def _two_sided(
    both: float, expected: float, n: Float64[Tensor, " G"], with_: Float64[Tensor, " G"], right: Float64[Tensor, " G"]
) -> float:
    """The chance that the answers with both, dealt anew within prompts, are as far from their mean as these."""
    chances = torch.ones(1, dtype=torch.float64)
    for size, marked, good in zip(n.tolist(), with_.tolist(), right.tolist(), strict=True):
        here = _hypergeometric(int(size), int(marked), int(good))
        # The sum over prompts: of independent counts, the convolution of their chances.
        chances = torch.nn.functional.conv1d(chances[None, None], here.flip(0)[None, None], padding=len(here) - 1)[0, 0]
    away = (torch.arange(len(chances), dtype=torch.float64) - expected).abs()
    return min(1.0, float(chances[away >= abs(both - expected) - 1e-9].sum()))


def _hypergeometric(size: int, marked: int, good: int) -> Float64[Tensor, " K"]:
    """The chances of k = 0 .. min(marked, good) answers with both."""
    k = torch.arange(min(marked, good) + 1, dtype=torch.float64)
    choose = lambda a, b: torch.lgamma(a + 1) - torch.lgamma(b + 1) - torch.lgamma(a - b + 1)
    full = lambda value: torch.full_like(k, value)
    possible = k >= marked + good - size
    rest = torch.where(possible, full(marked) - k, 0)
    log = choose(full(good), k) + choose(full(size - good), rest.clamp(max=size - good)) - choose(full(size), full(marked))
    return torch.where(possible, log.exp(), 0)
