"""A repaired program and what was said about it: tests decide about the one, likeness of meaning about the other (SecRepair)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.results import SandboxError
from payoff.signals.code import BadTestsError, final_code, read_tests, run_tests

LONGEST = 20_000  # characters of a description
_WORD = re.compile(r"\w+")
_BLOCK = re.compile(r"^ {0,3}```[^`]*?^ {0,3}```[ \t]*$", re.DOTALL | re.MULTILINE)


@method("secrepair", kind="grader", paper="arXiv:2401.03374")
def secrepair(
    response: str,
    reference: Any,
    *,
    encode: Callable[[str], Tensor] | None = None,
    unlike: float = 0.0,
    repaired: float = 0.5,
    isolation: str = "strict",
) -> Verdict:
    """How near a description of a repair comes to the reference's in meaning, paid only where the repair holds (SecRepair).

    F = 2 P R / (P + R) of `similarity`, as (F - unlike) / (1 - unlike), not below 0. Where the reference has tests:
    0 unless the program passes every one, else repaired + (1 - repaired) F.

    reference: the description; or {"description": text, "behaviour": tests, "exploits": tests}, each as of `code-tests`: what the
               program must still do, and what it must answer to input that used to break it
    response:  the repaired program as the last fenced block, if there are tests, and the description around the blocks
    encode:    text -> embeddings [tokens, d] of a frozen encoder; None: words, each like itself alone
    unlike:    the F of texts that have nothing to do with one another, about 0.8 for contextual embeddings and 0 for words

    The paper's reward is F alone, of the description; that says nothing about security. `repaired` = 1 leaves F out.
    Range 0..1: a repair that holds has at least `repaired`, any other 0. F is gamed by word salad: neither order nor negation
    counts, and likely words score without a sentence. The tests are gamed by refusing every input that looks odd, unless
    `behaviour` has such input that is fine. Cost: the tests, and the product of the texts' lengths.
    No verdict without a description of at least a token, for tests that cannot be read, a lost run, or a level that cannot be had.
    Raises ValueError for numbers outside 0..1, `unlike` = 1 included, and embeddings that are no matrix.

    >>> secrepair("bounds are checked", "the bounds are checked").value  # P = 1, R = 3/4
    0.8571428571428571
    >>> tests = {"entry_point": "at", "cases": [{"args": [[7], 3], "returns": None}]}
    >>> said = "Checks it.\\n```python\\ndef at(x, k): return x[k]{}\\n```"
    >>> repair = {"description": "Checks it.", "exploits": tests}
    >>> [secrepair(said.format(end), repair, isolation="process").value for end in ("", " if 0 <= k < len(x) else None")]
    [0.0, 1.0]
    """
    if not 0 <= unlike < 1 or not 0 <= repaired <= 1:
        raise ValueError(f"secrepair: 0 <= unlike < 1 and 0 <= repaired <= 1 must hold, got {unlike} and {repaired}")
    wanted = reference.get("description") if isinstance(reference, Mapping) else reference
    if not isinstance(wanted, str) or not _tokens(wanted, encode):
        return Verdict(0.0, valid=False, reason="reference: a description is needed")
    tested = isinstance(reference, Mapping) and ("behaviour" in reference or "exploits" in reference)
    if tested and (failed := _failed(response, reference, isolation)) is not None:
        return failed
    said = _BLOCK.sub(" ", response[: 10 * LONGEST]) if tested else response
    near = max(0.0, (similarity(said[:LONGEST], wanted[:LONGEST], encode) - unlike) / (1 - unlike))
    return Verdict(repaired + (1 - repaired) * near if tested else near)


def similarity(text: str, other: str, encode: Callable[[str], Tensor] | None = None) -> float:
    """2 P R / (P + R) with P = mean_i max_j x_i . y_j and R = mean_j max_i x_i . y_j over unit embeddings; 0 where P + R <= 0.

    The F1 of BERTScore without weights by rarity; symmetric, 1 for the same text, at most 1. A text without tokens has 0.

    >>> similarity("a b", "b a"), similarity("a", ""), similarity("a b", "a c")
    (1.0, 0.0, 0.5)
    """
    mine, theirs = _tokens(text, encode), _tokens(other, encode)
    if not mine or not theirs:
        return 0.0
    if encode is None:
        precision = sum(map(set(theirs).__contains__, mine)) / len(mine)
        recall = sum(map(set(mine).__contains__, theirs)) / len(theirs)
    else:
        table = _unit(encode(text)) @ _unit(encode(other)).T
        precision, recall = float(table.amax(1).mean()), float(table.amax(0).mean())
    return max(0.0, 2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def _tokens(text: str, encode: Callable[[str], Tensor] | None) -> list[str]:
    return _WORD.findall(text.lower()) if encode is None else ["token"] * bool(text.strip())


def _unit(embeddings: Tensor) -> Float[Tensor, "M d"]:
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"secrepair: encode must give embeddings [tokens, d], got {list(embeddings.shape)}")
    return torch.nn.functional.normalize(embeddings.detach().double(), dim=1)


def _failed(response: str, reference: Mapping, isolation: str) -> Verdict | None:
    """The verdict where the repair does not hold, or cannot be judged; else None."""
    suites = []
    for name in ("behaviour", "exploits"):
        if name in reference:
            try:
                suites.append((name, read_tests(reference[name])))
            except BadTestsError as error:
                return Verdict(0.0, valid=False, reason=f"reference: {name}: {error}")
    code = final_code(response)
    if code is None or ("```" not in response and "~~~" not in response):
        return Verdict(0.0, valid=True, reason="no code: no complete fenced block")
    for name, tests in suites:
        try:
            outcome = run_tests(code, tests, Sandbox(isolation), until_failure=True)
        except SandboxError as error:
            return Verdict(0.0, valid=False, reason=f"cannot be judged here: {error}")
        if outcome.lost:
            return Verdict(0.0, valid=False, reason=f"lost: {outcome.lost}")
        if outcome.passed < outcome.tests:
            return Verdict(0.0, valid=True, reason=f"{name}: {outcome.reason}")
    return None
