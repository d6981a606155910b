"""What a composed part holds inside: its name, everything it is made of, what it reads, how much it must see, and what learns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from payoff.trajectories import Rewards, Trajectories

RECORDED = "old:"  # before the name of what is needed as it was when the batch was made


def part_name(part: Any) -> str:
    """What an error or a report calls a part: its registered name, or the function's."""
    record = getattr(part, "__method__", None)
    if record is not None:
        return record.name
    if isinstance(part, functools.partial):
        return part_name(part.func)
    return getattr(part, "__name__", type(part).__name__)


def inside(part: Any) -> Iterator[Any]:
    """A part and everything it is made of: functions, modules, partials' arguments, the elements of lists and dicts, each once."""
    seen: set[int] = set()

    def walk(x: Any) -> Iterator[Any]:
        if id(x) in seen or isinstance(x, str | bytes | Tensor | int | float | None):
            return
        seen.add(id(x))
        if isinstance(x, Mapping):
            children: Sequence[Any] = list(x.values())
        elif isinstance(x, list | tuple | set | frozenset):
            children = list(x)
        else:
            yield x
            if isinstance(x, functools.partial):
                children = [x.func, *x.args, *x.keywords.values()]
            elif isinstance(x, nn.Module):
                children = [getattr(x, "parts", None), getattr(x, "paths", None), *x.children()]
            else:
                children = [getattr(x, "__self__", None), getattr(x, "__wrapped__", None)]
        for child in children:
            yield from walk(child)

    yield from walk(part)


def needs(part: Any) -> frozenset[str]:
    """What a part and everything inside it reads: "ref" and "old" log-probabilities, "values", "entropy", "mean" ...

    A loss that reads something both as it is and as it was when the batch was made needs it twice: "mean_logp", "old:mean_logp"
    (the second is in `traj.extras["mean_logp"]`). Checked against what the policies offer before the first rollout.
    """
    records = (getattr(x, "__method__", None) for x in inside(part))
    declared = (getattr(x, "needs", None) for x in inside(part))
    return frozenset().union(*(record.needs for record in records if record), *(d for d in declared if isinstance(d, frozenset)))


def read_now(names: Iterable[str]) -> frozenset[str]:
    """Of what is needed, what is read of the policy as it is when the part runs."""
    return frozenset(name for name in names if not name.startswith(RECORDED))


def recorded(names: Iterable[str]) -> frozenset[str]:
    """Of what is needed, what must be kept of the policy that acted, without its mark."""
    return frozenset(name.removeprefix(RECORDED) for name in names if name.startswith(RECORDED))


def sees(part: Any) -> Literal["item", "group", "batch"]:
    """How much a part must see at once to be right: the widest of everything inside it."""
    order = ("item", "group", "batch")
    widest = 0
    for x in inside(part):
        record = getattr(x, "__method__", None)
        for said in (record and record.sees, getattr(x, "sees", None)):
            if said in order:
                widest = max(widest, order.index(said))
    return order[widest]  # type: ignore[return-value]


@runtime_checkable
class Learner(Protocol):
    """A `torch.nn.Module` that learns from the batches that are trained on."""

    training: bool

    def learn(self, traj: Trajectories, rewards: Rewards) -> Mapping[str, float | None]:
        """Learn from these rows and their rewards; the metrics are logged."""


def learners(part: Any) -> list[Learner]:
    """Every module inside that learns (has `learn(traj, rewards) -> metrics`), through partials, in a fixed order."""
    return [cast(Learner, x) for x in inside(part) if isinstance(x, nn.Module) and callable(getattr(x, "learn", None))]


def outermost_modules(parts: Any) -> Iterator[nn.Module]:
    """The outermost modules inside the parts: what must be registered as a submodule."""
    below: set[int] = set()
    for x in inside(parts):
        if isinstance(x, nn.Module) and id(x) not in below:
            below.update(id(m) for m in x.modules())
            yield x
