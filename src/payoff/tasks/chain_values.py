"""What a scripted teacher's solution of chained arithmetic is worth at every point of it, exactly: dynamic programming.

The teacher (`tasks.chain_teacher`) writes each operation rightly or wrongly, pads, and answers. Whether the answer will be right
depends on how many operations are done and on the running result alone; so do values, and advantages follow.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.tasks.chain import STEP_END, chain_result, read_solution, step_result
from payoff.tasks.chain_teacher import Noise


def teacher_values(prompt: str, noise: Noise) -> Float64[Tensor, "K 10"]:
    """V[k, r]: the probability that the teacher answers rightly, once k operations are done and r is written as their result.

    V[K, r] = 1 - wrong_answer if r is right, else wrong_answer / 9; V[k, r] = sum_r' P(r' | r, operation k) V[k + 1, r'].
    Superfluous steps change neither k nor r, and so no value. One row for every k from 0 to the number of operations.
    Raises ValueError for a teacher that skips terms (what it did cannot be read from what it wrote), and for no prompt.

    >>> teacher_values("3-7=", Noise(wrong_result=0.1))[0, 3].item()
    0.9
    """
    if noise.skipped_term:
        raise ValueError("teacher_values: a teacher that skips terms is in a state that its text does not show")
    right = int(chain_result(prompt))
    operations = list(zip(prompt[1:-1:2], prompt[2:-1:2], strict=True))
    value = torch.full((len(operations) + 1, 10), noise.wrong_answer / 9, dtype=torch.float64)
    value[-1, right] = 1 - noise.wrong_answer
    for k in reversed(range(len(operations))):
        operator, term = operations[k]
        for left in range(10):
            chance = torch.full((10,), noise.wrong_result / 9, dtype=torch.float64)
            chance[int(step_result(str(left), operator, term))] = 1 - noise.wrong_result
            believed = noise.hard.get((str(left), operator, term))
            if believed is not None:
                chance *= 1 - noise.believed
                chance[int(believed)] += noise.believed
            value[k, left] = chance @ value[k + 1]
    return value


def teacher_advantages(prompt: str, response: str, noise: Noise, *, value: Float64[Tensor, "K 10"] | None = None) -> list[float]:
    """The true advantage of every piece the teacher wrote, steps and then the answer: how much it moved P(the answer is right).

    A step that is needed: V[k + 1, written] - V[k, result before]; one that is superfluous or a copy: 0; the answer: whether it is
    right minus V[K, result]. Added up they are whether the answer is right minus V[0, first term].
    value: `teacher_values(prompt, noise)`, where it is known already

    Raises ValueError for prompts on which a copy could be read as the next operation (a term 0 after the first, or twice the same
    operation in a row), and for what this teacher does not write.

    >>> teacher_advantages("3-7=", "3-7=6;6+0=6;#6.", Noise(wrong_result=0.25, superfluous=0.5))
    [0.25, 0.0, 0.0]
    """
    value = teacher_values(prompt, noise) if value is None else value
    operations = list(zip(prompt[1:-1:2], prompt[2:-1:2], strict=True))
    if any(term == "0" for _, term in operations) or any(a == b for a, b in pairwise(operations)):
        raise ValueError(f"teacher_advantages: in {prompt!r} a superfluous step may read like one that is needed")
    reading = read_solution(prompt, response)
    done, result = 0, int(prompt[0])
    found = []
    for step in reading.steps:
        if step.needed:
            written = int(step.text[-2])
            found.append(float(value[done + 1, written] - value[done, result]))
            done, result = done + 1, written
        elif step.repeated or step.superfluous:
            found.append(0.0)
        else:
            raise ValueError(f"teacher_advantages: {step.text!r} in {response!r} is no step of this teacher")
    if reading.missing or reading.answer is None:
        raise ValueError(f"teacher_advantages: {response!r} takes not every term and gives one answer")
    return [*found, float(reading.answer == chain_result(prompt)) - float(value[done, result])]


def pieces(response: str) -> list[str]:
    """A response cut behind every `;`: its steps, then its answer.

    >>> pieces("3-7=6;#6.")
    ['3-7=6;', '#6.']
    """
    *steps, rest = response.split(STEP_END)
    return [step + STEP_END for step in steps] + ([rest] if rest else [])
