"""Is a response as long as it was asked to be?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from payoff.catalogue import method
from payoff.pipeline import Verdict


@method("target-length", kind="grader", paper="arXiv:2411.15124")
def target_length(
    response: str,
    target_length: Any,
    tokens: Sequence[Any] | None = None,
    *,
    scale: float = 8192.0,
    one_sided: bool = False,
    unit: Literal["words", "characters", "tokens"] = "words",
) -> float | Verdict:
    """1 - |L - wanted| / scale, at least 0: how near a response comes to the length its row asks for (Tulu 3's length verifiers).

    target_length: a field of the rows, how long it should be
    tokens:        a field that rollouts of this package's language models have, counted with unit "tokens", as the paper does;
                   stored rows have none of it
    scale:         what difference is worth nothing, the greatest length there is
    one_sided:     1 for whatever is shorter than wanted: a limit, and no length to aim for

    Range 0..1. Cost: none. Gamed by filler up to the length, or, one-sided, by saying nothing: it reads no sense. A small `scale`
    makes it sharp; with the default 100 tokens too many cost 0.012. No verdict without a wanted length that is a number of at
    least 0, and for "tokens" without tokens. Raises ValueError for a scale that is not positive and another unit.

    >>> target_length("one two three", 5, scale=4.0), target_length("a b", 5, scale=4.0, one_sided=True)
    (0.5, 1.0)
    """
    if not scale > 0 or unit not in ("tokens", "words", "characters"):
        raise ValueError(
            f'target_length: scale > 0 and unit "tokens", "words" or "characters" are needed, got {scale} and {unit!r}'
        )
    known = isinstance(target_length, int | float) and not isinstance(target_length, bool)
    if not known or not 0 <= target_length <= sys.float_info.max:
        return Verdict(0.0, valid=False, reason=f"target_length must be a number of at least 0, got {str(target_length)[:40]}")
    if unit == "tokens" and tokens is None:
        return Verdict(0.0, valid=False, reason='the row has no tokens to count; choose unit: "words" or "characters"')
    length = len(tokens or ()) if unit == "tokens" else len(response.split()) if unit == "words" else len(response)
    beyond = length - target_length
    return 1.0 if one_sided and beyond <= 0 else max(0.0, 1 - abs(beyond) / scale)
