"""Programs graded by tests that weigh by how hard they are for the group: VeRPO's reward, with the tests run in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.results import SandboxError
from payoff.signals.check_weights import check_weights
from payoff.signals.code import BadTestsError, Suite, final_code, read_tests, run_tests

CHANNELS = ("verpo-turns", "verpo-outcome")


@method("verpo-tests", kind="grader", paper="arXiv:2601.03525", sees="group")
def verpo_tests(
    response: Sequence[str],
    reference: Sequence[Any],
    steps: Sequence[Sequence[str]] = (),
    *,
    turns: bool = False,
    bandwidth: float = 0.1,
    difficulty: float = 2.0,
    floor: float = 1e-6,
    discount: float = 0.95,
    isolation: str = "strict",
) -> list[Verdict]:
    """The signal `verpo` of code: every program of a group is run on all tests, and hard tests weigh more, many alike as one.

    verpo-turns: sum_u w_u p_ku, where p_ku says whether turn k passes test u, w_u = exp(-difficulty rho_u) / (N(rho_u) + floor),
    rho_u the share of the group's programs that pass it and N the density of such shares (see `verpo`, whose options these are).
    verpo-outcome: discount^turns where the last program passes every test, else 0.

    response, reference: as of `code-tests`; the reference of a group is one and the same
    turns: whether each step is a turn that holds a program of its own, and is paid at its end; else the response is the only turn

    The paper's advantage is both, each less its mean over the group, the first times a half or so: for one turn, pay
    verpo-outcome + 0.5 verpo-turns and subtract the group's mean (`dr-grpo`). Range: 0 .. number of different pass rates, and 0..1.
    Of two programs of a group, the one that passes all that the other does and more has more. Gamed by special-casing: answers
    cannot be read (see docs/sandbox.md), but few tests that are known by heart can be met one by one, and a test that few pass
    pays best. Cost: every test of every different program of the group; none stops at the first failure.
    No verdict for a program whose run was lost, which has no part in the weights either, for one with another reference than the
    group's first, and for the whole group where the reference holds no tests or the machine cannot give the level.
    Raises ValueError for a bandwidth or floor that is not positive or a discount outside 0..1.

    >>> tests = {"entry_point": "f", "cases": [{"args": [k], "returns": k} for k in (0, 1, 2)]}
    >>> programs = ["def f(k): return 0", "def f(k): return k"]
    >>> found = [verdict.value for verdict in verpo_tests(programs, [tests] * 2, isolation="process")]
    >>> [(round(value["verpo-turns"], 3), value["verpo-outcome"]) for value in found]  # w = exp(-2), exp(-1) / 2, exp(-1) / 2
    [(0.135, 0.0), (0.503, 0.95)]
    """
    if not bandwidth > 0 or not floor > 0 or not 0 <= discount <= 1:
        raise ValueError(
            f"verpo_tests: bandwidth and floor must be positive and discount in 0..1, got {bandwidth}, {floor} and {discount}"
        )
    try:
        tests = read_tests(reference[0] if reference else None)
    except BadTestsError as error:
        return [_none(f"reference: {error}")] * len(response)
    sandbox = Sandbox(isolation)
    known: dict[str | None, tuple[list[bool], str, str]] = {}
    tables: list[list[list[bool]] | str] = []
    reasons = []
    for row, text in enumerate(response):
        if reference[row] != reference[0]:
            tables.append("another reference than the first of its group")
            reasons.append("")
            continue
        table, lost, why = [], "", ""
        for turn in steps[row] if turns and steps else [text]:
            code = final_code(turn)
            try:
                if code not in known:
                    known[code] = _passes(code, tests, sandbox)
            except SandboxError as error:
                return [_none(f"cannot be judged here: {error}")] * len(response)
            passes, why, gone = known[code]
            lost = lost or gone
            table.append(passes)
        tables.append(f"lost: {lost}" if lost else table)
        reasons.append(why)
    rows = [torch.tensor(table, dtype=torch.float64) for table in tables if not isinstance(table, str)]
    if not rows:
        return [_none(str(table)) for table in tables]
    weight = check_weights(torch.cat(rows).mean(0), bandwidth, difficulty, floor)
    found = iter(rows)
    return [
        _none(table) if isinstance(table, str) else _verdict(next(found), weight, discount, turns, why)
        for table, why in zip(tables, reasons, strict=True)
    ]


def _verdict(table: torch.Tensor, weight: torch.Tensor, discount: float, turns: bool, why: str) -> Verdict:
    paid = [round(float(one), 7) for one in table @ weight]
    outcome = discount ** len(table) * float(table[-1].all())
    return Verdict({"verpo-turns": paid if turns else paid[-1], "verpo-outcome": outcome}, valid=True, reason=why)  # type: ignore[dict-item]


def _passes(code: str | None, tests: Suite, sandbox: Sandbox) -> tuple[list[bool], str, str]:
    """Test by test, the first failure, and why the run was lost."""
    count = len(tests.calls) + len(tests.programs)
    if code is None:
        return [False] * count, "no code", ""
    outcome = run_tests(code, tests, sandbox)
    return [*outcome.passes, *[False] * (count - len(outcome.passes))], outcome.reason, outcome.lost


def _none(why: str) -> Verdict:
    return Verdict(dict.fromkeys(CHANNELS, 0.0), valid=False, reason=why)
