"""The factors of a latent reward, written as code by a language model and tried before anything learns from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.sandbox import Limits, Sandbox

_TASK = """\
A task for reinforcement learning pays only at the end of an episode. Write the factors that its hidden reward of every step may
depend on.

Task: {task}
State, a list of {states} numbers: {state}
Action, a list of {actions} numbers: {action}

Answer with one Python function, in a code block, that needs nothing but the standard library:

def factors(state, action):
    ... return a list of numbers, always as many
"""
_MEND = "{asked}\nYour last answer was:\n\n```python\n{source}```\n\nTried out, it failed: {problem}\nAnswer again, mended."
_CHOOSE = "{asked}\nHere are {count} answers. Write the best of them, or one function that joins them.\n\n{answers}"
_BLOCK = re.compile(r"```(?:python)?[^\n]*\n(.*?)```", re.DOTALL)
Step = tuple[Sequence[float], Sequence[float]]


class Written(NamedTuple):
    """A program that has been tried: how many factors it gives, how often the model was asked, and what was wrong on the way."""

    source: str
    size: int
    asked: int
    problems: tuple[str, ...]


@method("lare", kind="design", paper="arXiv:2412.11120")
def write_factors(
    ask: Callable[[str], str],
    *,
    task: str,
    state: str,
    action: str,
    tried_on: Sequence[Step],
    candidates: int = 5,
    mends: int = 3,
    sandbox: Sandbox | None = None,
) -> Written:
    """Have a language model write the factors of a step as code, choose among several answers, and try them out (LaRe).

    `ask` is called `candidates` times with the task, then, with more than one answer that could be read, once to choose or merge;
    what comes out is run in the sandbox on every step of `tried_on` (random states and actions do), and what went wrong is sent
    back, at most `mends` times. Good code gives the same count of finite numbers for every step, and the same numbers when asked
    again. The program is the `code` of the signal `lare`, with `size` factors.

    task, state, action: what is to be done, and what the numbers of a state and of an action mean, in words
    Raises ValueError where nothing that was written passes, with the last reason, and for counts below 1 or no steps to try.

    >>> answers = iter(["```python\\ndef factors(state, action):\\n    return [state[1], nonsense]\\n```",
    ...                 "```python\\ndef factors(state, action):\\n    return [state[1], action[0] ** 2]\\n```"])
    >>> steps = [([0.0, 1.0], [0.5]), ([1.0, -1.0], [0.0])]
    >>> found = write_factors(lambda prompt: next(answers), task="Swing up.", state="angle, speed", action="torque",
    ...                       tried_on=steps, candidates=1, sandbox=Sandbox(level="process"))
    >>> found.size, found.asked, found.problems
    (2, 2, ("NameError: name 'nonsense' is not defined",))
    """
    if candidates < 1 or mends < 0 or not tried_on:
        raise ValueError(f"lare: candidates must be at least 1, mends at least 0 and some steps tried, got {candidates}, {mends}")
    sandbox = sandbox or Sandbox()
    states, actions = len(tried_on[0][0]), len(tried_on[0][1])
    prompt = _TASK.format(task=task, states=states, state=state, actions=actions, action=action)
    said = [_source(ask(prompt)) for _ in range(candidates)]
    sources = [source for source in said if source]
    asked, problems = candidates, ["an answer without a function `factors`"] * (candidates - len(sources))
    source = sources[0] if sources else ""
    if len(sources) > 1:
        answers = "\n\n".join(f"```python\n{s}```" for s in sources)
        source = _source(ask(_CHOOSE.format(asked=prompt, count=len(sources), answers=answers))) or source
        asked += 1
    for left in range(mends, -1, -1):
        size, problem = tried(source, tried_on, sandbox)
        if not problem:
            return Written(source, size, asked, tuple(problems))
        problems.append(problem)
        if left:
            source = _source(ask(_MEND.format(asked=prompt, source=source, problem=problem))) or source
            asked += 1
    raise ValueError(f"lare: no code that works after {asked} answers; the last: {problems[-1]}")


def tried(source: str, steps: Sequence[Step], sandbox: Sandbox) -> tuple[int, str]:
    """How many factors a program gives for every step, and what is wrong with it: nothing is "".

    >>> code = "def factors(state, action): return [state[0]] * len(action)"
    >>> tried(code, [([1.0], [0.0]), ([1.0], [])], Sandbox(level="process"))
    (0, 'gave 1 numbers for one step and 0 for another')
    """
    if "def factors(" not in source:
        return 0, "there is no function `factors`"
    calls: list[Any] = [(([float(x) for x in state], [float(x) for x in action]), {}) for state, action in steps]
    cases = sandbox.call_function(source, "factors", calls + calls[:1], limits=Limits(cpu=10, wall=10))
    for case in cases:
        if not case.returned:
            return 0, case.reason
        if not isinstance(case.value, list | tuple) or not all(isinstance(x, int | float) and math.isfinite(x) for x in case.value):
            return 0, f"gave {str(case.value)[:60]}, which is no list of finite numbers"
    sizes = [len(case.value) for case in cases]
    if 0 in sizes or len(set(sizes)) > 1:
        odd = next((n for n in sizes if n != sizes[0]), 0)
        return 0, f"gave {sizes[0]} numbers for one step and {odd} for another" if sizes[0] != odd else "gave no numbers"
    if cases[0].value != cases[-1].value:
        return 0, "gave other numbers for the same step when asked again"
    return sizes[0], ""


def _source(answer: str) -> str:
    """The code of an answer: its last block that defines the function, or all of it; "" where there is none."""
    blocks = [block for block in _BLOCK.findall(answer) if "def factors(" in block] or [answer]
    return blocks[-1].strip() + "\n" if "def factors(" in blocks[-1] else ""
