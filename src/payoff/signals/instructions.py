"""Does a response do what its prompt asks for, where a program can tell? Instructions are read from the row (IFEval)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.signals.bleu import LONGEST
from payoff.signals.instruction_checks import CHECKS, BadInstructionError, checked_arguments


@method("ifeval", kind="grader", paper="arXiv:2311.07911")
def ifeval(
    response: str,
    instructions: Any = None,
    instruction_id_list: Any = None,
    kwargs: Any = None,
    *,
    loose: bool = False,
    whole: bool = False,
) -> Verdict:
    """The share of its verifiable instructions that a response follows, in 0..1 (IFEval, instruction level).

    instructions: [{"id": "length_constraints:number_words", "num_words": 30, "relation": "at least"}, ...], with the names of the
                  25 kinds and of their arguments as in the published data, listed by `payoff.signals.instruction_checks.CHECKS`.
                  Or the fields of that data themselves, `instruction_id_list` and `kwargs`
    loose:        an instruction counts also where it holds without the first line, the last, both, or any of these and all
                  asterisks: so "Sure, here it is:" and bold type cost nothing
    whole:        1 where all are followed, else 0 (IFEval, prompt level)

    An empty response follows nothing, not even "no commas". The reason names what is not followed.
    Cost: linear, of the first 200,000 characters: some tens of microseconds per instruction. Gamed by text that has no use but to
    follow: keywords strewn in, filler up to a length; the checks read no sense, so gate by them or mix them with a judge; `loose`
    also pays some that fail the user. No verdict without instructions, for a kind or an argument that is unknown or missing.

    >>> asked = [{"id": "punctuation:no_comma"}, {"id": "keywords:existence", "keywords": ["sea"]}]
    >>> ifeval("The sea is wide, and deep.", asked)
    Verdict(value=0.5, valid=True, reason='not followed: punctuation:no_comma')
    >>> ifeval("The sea is wide.", asked, whole=True).value
    1.0
    """
    try:
        wanted = list(_instructions(instructions, instruction_id_list, kwargs))
        if not wanted:
            return Verdict(0.0, valid=False, reason="the row has no instructions")
        asked = [(id, checked_arguments(id, given)) for id, given in wanted]
    except BadInstructionError as error:
        return Verdict(0.0, valid=False, reason=str(error))
    forms = [form for form in (_forms(response[:LONGEST]) if loose else [response[:LONGEST]]) if form.strip()]
    lost = [id for id, arguments in asked if not any(CHECKS[id].holds(form, **arguments) for form in forms)]
    share = float(not lost) if whole else 1 - len(lost) / len(asked)
    return Verdict(share, reason=f"not followed: {', '.join(lost)}" if lost else f"all {len(asked)} instructions are followed")


def _instructions(instructions: Any, ids: Any, kwargs: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, arguments) of each instruction, in either form."""
    if instructions is None and ids is not None:
        given = [None] * len(ids) if kwargs is None else kwargs
        if len(given) != len(ids):
            raise BadInstructionError(f"{len(ids)} instructions, and arguments of {len(given)}")
        instructions = [{"id": id, **(arguments or {})} for id, arguments in zip(ids, given, strict=True)]
    if not isinstance(instructions, list | tuple):
        if instructions is None:
            return
        raise BadInstructionError(f"instructions must be a list, got {str(instructions)[:60]!r}")
    for one in instructions:
        if not isinstance(one, Mapping) or not isinstance(one.get("id"), str):
            raise BadInstructionError(f'an instruction must be {{"id": ..., and its arguments}}, got {str(one)[:60]!r}')
        yield one["id"], {name: value for name, value in one.items() if name != "id"}


def _forms(response: str) -> list[str]:
    """The response, and it without its first line, its last, and both; each also without asterisks."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [form.replace("*", "") for form in cut]
