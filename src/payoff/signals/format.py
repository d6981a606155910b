"""Does the response have the form that was asked for? Graders of one rollout; they say nothing about its content."""

from __future__ import annotations

import re

from payoff.catalogue import method


@method("format", kind="grader")
def matches_format(response: str, *, pattern: str) -> float:
    r"""1 where the whole response matches a regular expression, else 0; "." matches line breaks too.

    A pattern that backtracks can take for ever on a response made for it: keep it simple, or give the signal a deadline.
    Raises re.error for what is no regular expression.

    >>> matches_format("3+4=7;#7.", pattern=r"(\d[+-]\d=\d;)*#\d\."), matches_format("#7. Really!", pattern=r"#\d\.")
    (1.0, 0.0)
    """
    return float(re.fullmatch(pattern, response, re.DOTALL) is not None)


@method("think-format", kind="grader")
def think_format(response: str) -> float:
    """1 where the response opens with <think>, closes it, and never opens another, else 0. What follows is free.

    >>> think_format("<think>3 and 4 make 7</think> 7"), think_format("7 <think>right?</think>")
    (1.0, 0.0)
    """
    return float(response.startswith("<think>") and response.count("<think>") == 1 and "</think>" in response)
