"""A teacher that writes solutions of chained arithmetic with controlled mistakes: what the small policy is pre-trained on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from payoff.tasks.chain import STEP_END, STOP, step_result

Fact = tuple[str, str, str]  # left, operator, right


@dataclass(frozen=True)
class Noise:
    """How a teacher errs; every rate is a probability, and all are 0 unless given.

    wrong_result: of a step, replaced by one of the nine wrong digits
    skipped_term: of leaving out a step
    superfluous:  per place after a step, the last one included, of a step nobody needs: `result+0=result`, `result-0=result` or
                  a copy of the step before; after one, another follows with probability one half
    wrong_answer: of an answer that is not the running result
    hard:         facts with the wrong result the teacher believes in, with probability `believed`

    Raises ValueError for a rate outside [0, 1].
    """

    wrong_result: float = 0.0
    skipped_term: float = 0.0
    superfluous: float = 0.0
    wrong_answer: float = 0.0
    believed: float = 0.0
    hard: Mapping[Fact, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("wrong_result", "skipped_term", "superfluous", "wrong_answer", "believed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Noise: {name} must lie in [0, 1], got {getattr(self, name)}")

    def scaled(self, share: float) -> Noise:
        """The same kinds of mistakes at `share` of their rates.

        >>> Noise(superfluous=0.5).scaled(0.5).superfluous
        0.25
        """
        names = ("wrong_result", "skipped_term", "superfluous", "wrong_answer", "believed")
        return replace(self, **{name: share * getattr(self, name) for name in names})


def write_solution(prompt: str, noise: Noise, rng: random.Random, *, most_steps: int = 11) -> str:
    """A response to the prompt, written as a teacher with this noise would; without noise it is `chain_solution(prompt)`.

    Later steps carry on from what is written, right or wrong. No superfluous step is added beyond `most_steps`.

    >>> write_solution("3-7+7=", Noise(), random.Random(0))
    '3-7=6;6+7=3;#3.'
    >>> write_solution("3-7+7=", Noise(superfluous=1.0), random.Random(0), most_steps=4)
    '3-7=6;3-7=6;6+7=3;6+7=3;#3.'
    """
    result, operations = prompt[0], list(zip(prompt[1:-1:2], prompt[2:-1:2], strict=True))
    written: list[str] = []
    room = most_steps - len(operations)
    for operator, term in operations:
        if rng.random() < noise.skipped_term:
            continue
        left, result = result, _believed(result, operator, term, noise, rng)
        written.append(f"{left}{operator}{term}={result}{STEP_END}")
        chance = noise.superfluous
        while room > 0 and rng.random() < chance:
            written.append(written[-1] if rng.random() < 0.5 else f"{result}{rng.choice('+-')}0={result}{STEP_END}")
            room, chance = room - 1, 0.5
    answer = _other_digit(result, rng) if rng.random() < noise.wrong_answer else result
    return f"{''.join(written)}#{answer}{STOP}"


def hard_facts(n: int, rng: random.Random) -> dict[Fact, str]:
    """n facts, none with 0 on the right, each with one wrong result to believe in.

    >>> facts = hard_facts(45, random.Random(0))
    >>> len(facts), any(result == step_result(*fact) for fact, result in facts.items())
    (45, False)
    """
    digits = "0123456789"
    facts = [(left, operator, right) for left in digits for operator in "+-" for right in digits[1:]]
    return {fact: _other_digit(step_result(*fact), rng) for fact in rng.sample(facts, n)}


def _believed(left: str, operator: str, right: str, noise: Noise, rng: random.Random) -> str:
    believed = noise.hard.get((left, operator, right))
    if believed is not None and rng.random() < noise.believed:
        return believed
    result = step_result(left, operator, right)
    return _other_digit(result, rng) if rng.random() < noise.wrong_result else result


def _other_digit(digit: str, rng: random.Random) -> str:
    return str((int(digit) + rng.randint(1, 9)) % 10)
