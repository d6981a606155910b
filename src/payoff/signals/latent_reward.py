"""Latent rewards: the factors of a step are computed by code that a language model wrote, run where it can do no harm."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import method
from payoff.models.return_decomposition import ReturnDecomposition
from payoff.sandbox import Limits, Sandbox
from payoff.trajectories import Trajectories

ENTRY = "factors"
_ALL = """

def _factors_of_all(rows):
    return [[float(x) for x in factors(*row)] for row in rows]
"""


class WrittenFactors:
    """An encoder: what `factors(state, action)` of a program says of every step of a batch, as one call in the sandbox.

    source: the program; state and action come as lists of numbers (an action of one number as a list too), a list of numbers goes
            out
    size:   how many numbers
    level, wall: of the sandbox, and its seconds for a batch

    Raises ValueError where the program fails on any step, or gives another count of numbers or one that is not finite.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers().replace(extras={"observations": torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(4, 1)[..., None]})
    >>> WrittenFactors("def factors(state, action): return [state[0] * action[0]]", 1, level="process")(traj)[0, :, 0]
    tensor([0., 2., 6.])
    """

    def __init__(self, source: str, size: int, *, level: str = "strict", wall: float = 30.0, of: str = "observations") -> None:
        self.source, self.size, self.of = source, size, of
        self.sandbox, self.limits = Sandbox(level=level), Limits(cpu=wall, wall=wall, output=1 << 28)

    def __call__(self, traj: Trajectories) -> Float[Tensor, "N T D"]:
        states = traj.extras.get(self.of)
        if states is None or states.ndim != 3 or states.shape[1] != traj.width + 1:
            raise ValueError(f"lare: needs traj.extras[{self.of!r}] [N, T+1, D] with T = {traj.width}")
        here = traj.exists
        actions = traj.actions[..., None] if traj.actions.ndim == 2 else traj.actions.flatten(2)
        rows = [list(row) for row in zip(states[:, :-1][here].tolist(), actions[here].tolist(), strict=True)]
        (case,) = self.sandbox.call_function(self.source + _ALL, "_factors_of_all", [((rows,), {})], limits=self.limits)
        if not case.returned:
            raise ValueError(f"lare: the code for the factors failed: {case.reason}")
        found: Any = case.value
        if not isinstance(found, list) or len(found) != len(rows):  # the program may have put another function in the place of ours
            raise ValueError(f"lare: the code for the factors gave no list of {len(rows)} steps")
        for place, numbers in enumerate(found):
            sound = isinstance(numbers, list) and len(numbers) == self.size and all(isinstance(x, float) for x in numbers)
            if not sound or not all(map(math.isfinite, numbers)):
                raise ValueError(f"lare: the code for the factors gave no {self.size} finite numbers for step {place}")
        value = torch.zeros(*traj.mask.shape, self.size, device=traj.device)
        value[here] = torch.tensor(found, device=traj.device).view(-1, self.size)
        return value


@method("lare", kind="signal", paper="arXiv:2412.11120")
class LatentReward(ReturnDecomposition):
    """Pay every step what a network learned its written factors to be worth, from returns alone (LaRe), channel "latent".

    The model `return-decomposition` with factors computed by a program in the sandbox, which a language model wrote and
    `payoff.design.latent_reward.write_factors` tried out.

    code:  a file with the program, or its text: it defines `factors(state, action)`, from lists of numbers to `size` numbers
    level: "strict", or "process" where a container forbids namespaces

    Other options as the model has them; with `together`, for several agents, it is the paper's r_{i,t} = f(phi(s, a_i)).
    Raises ValueError for code without that function, and where it fails on a batch.

    >>> model = LatentReward(code="def factors(state, action): return [state[0], action[0] ** 2]", size=2, level="process")
    >>> model.size, model.encoder.size
    (2, 2)
    """

    def __init__(
        self,
        *,
        code: str,
        size: int,
        level: str = "strict",
        by: str = "correct",
        hidden: int = 256,
        steps: int = 64,
        learning_rate: float = 3e-4,
        capacity: int = 1024,
        updates: int = 50,
        batch_size: int = 64,
        unbiased: bool = True,
        of: str = "observations",
        together: str | None = None,
        seed: int = 0,
    ) -> None:
        source = code if "\n" in code or "def " in code else Path(code).expanduser().read_text(encoding="utf-8")
        if f"def {ENTRY}(" not in source:
            raise ValueError(f"lare: the code defines no function {ENTRY}(state, action)")
        super().__init__(
            size=size,
            encoder=WrittenFactors(source, size, level=level, of=of),
            by=by,
            hidden=hidden,
            steps=steps,
            learning_rate=learning_rate,
            capacity=capacity,
            updates=updates,
            batch_size=batch_size,
            unbiased=unbiased,
            of=of,
            together=together,
            seed=seed,
        )
