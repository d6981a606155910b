"""Graders of your own: plain functions that name what they read, and answer with a number.

`response`, `reference`, `prompt` and `steps` (the response cut at its step separator) are filled in by name, and so is every
other field of a row. A number is paid at the end, a list of numbers is paid step by step, and None means "I cannot tell":
such a rollout takes part in nothing, and is counted.

Try them before any training:  payoff validate --reward reward.py:answer --data rows.jsonl --template "1+1=2;#{reference}."
"""

import re

STEP = re.compile(r"(\d)([+-])(\d)=(\d);")


def answer(response, reference):
    """1 when the response ends in the right answer, as in `3-7=6;6+7=3;#3.`, else 0."""
    last = response.split(";")[-1]
    return float(last == f"#{reference}.")


def steps_look_right(steps):
    """1 for every step that is right in itself, whatever it is for. A loophole: who repeats a right step is paid again."""
    verdicts = []
    for step in steps:
        match = STEP.fullmatch(step)
        if match is None:
            verdicts.append(0.0)
            continue
        left, sign, right, result = match.groups()
        expected = (int(left) + int(right) if sign == "+" else int(left) - int(right)) % 10
        verdicts.append(float(expected == int(result)))
    return verdicts
