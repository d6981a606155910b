"""From the name of a reward to a signal: registered ones, scorers of reasoning-gym, functions, run files, other people's."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from payoff.catalogue import find, index, nearest
from payoff.contents import part_name
from payoff.grading import GraderSignal, load_callable, signal
from payoff.pipeline import Signal

KINDS = ("grader", "signal")


class RewardError(ValueError):
    """No such reward, or one that cannot be used this way; one line that says what there is instead."""


def resolve_reward(
    spec: str,
    *,
    run: Callable[[Path], Signal] | None = None,
    workers: int = 0,
    deadline: float | None = None,
    cache: bool = False,
) -> Signal:
    """The reward that a text names, as a signal.

    spec: a registered grader or signal; `reasoning-gym:NAME`, the scorer of that data set; FILE.py:FUNCTION or
          package.module:function; a run file, which `run` turns into a signal; or one that `payoff.foreign` knows: trl:, verl:,
          hf:, judge:, http:// or https://
    workers, deadline, cache: how a grader is run, as `payoff.grading.signal` takes them

    Raises RewardError for everything that can be wrong with the name, with the nearest one there is.

    >>> from payoff.rows import from_rows
    >>> sorted(resolve_reward("reasoning-gym:chain_sum")(from_rows([{"response": "3", "reference": "3"}])))
    ['reasoning-gym:chain_sum']
    """
    lift: dict[str, Any] = {"workers": workers, "deadline": deadline, "cache": cache}
    from payoff.foreign import foreign_reward, is_foreign

    if is_foreign(spec):
        return foreign_reward(spec, **lift)
    if spec.endswith((".yaml", ".yml")):
        if run is None:
            raise RewardError(f"{spec}: a run file cannot be used here; name a grader or a signal")
        return run(Path(spec))
    try:
        if spec.startswith("reasoning-gym:"):
            scorer = find("reasoning-gym-score", "grader")
            known = inspect.getmodule(scorer).known  # type: ignore[union-attr]
            return signal(functools.partial(scorer, dataset=known(spec)), name=spec, **lift)
        if ":" in spec or spec.endswith(".py"):
            part = load_callable(spec)
            return as_signal(part, part_name(part), **lift)
        name = spec.replace("_", "-")
        kind = next((kind for kind in KINDS if (kind, name) in index()), None)
        if kind is not None:
            return as_signal(find(name, kind), name, **lift)
    except (LookupError, ImportError, OSError, ValueError, TypeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise RewardError(f"reward {json.dumps(spec)}: {one_line(message)}") from None
    raise RewardError(_unknown(spec, name))


def as_signal(part: Callable[..., Any], name: str, **lift: Any) -> Signal:
    """A signal as it is, an instance of a signal class, a grader lifted as `name` with the options of `payoff.grading.signal`.

    A callable is a signal when it is registered as one, is a module, or takes `traj` first; every other one is a grader.
    """
    plain = part
    while isinstance(plain, functools.partial):
        plain = plain.func
    record = getattr(plain, "__method__", None)
    if record is not None and record.kind not in KINDS:
        raise RewardError(f"{record.name!r} is a {record.kind}, and a reward is a grader or a signal")
    if record is not None and record.kind == "grader":
        return signal(part, name=name, sees=record.sees, **lift)
    if inspect.isclass(part):
        part = _without_options(part, name)
    if isinstance(part, nn.Module | GraderSignal):
        return part
    parameters = list(inspect.signature(part).parameters.values())
    if record is None and not (parameters and parameters[0].name == "traj"):
        return signal(part, name=name, **lift)
    _refuse_options(parameters[1:], name)
    return part


def _without_options(part: Callable[..., Any], name: str) -> Any:
    _refuse_options(list(inspect.signature(part).parameters.values()), name)
    return part()


def _refuse_options(parameters: Sequence[inspect.Parameter], name: str) -> None:
    lost = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if lost:
        raise RewardError(f"reward {name!r} needs options ({', '.join(lost)}); give them in a run file")


def _unknown(spec: str, name: str) -> str:
    names = sorted({n for kind, n in index() if kind in KINDS})
    other = [kind for kind, n in index() if n == name]
    like = nearest(name, names)
    hint = f"; it is a {other[0]}" if other else f"; did you mean {like[0]}?" if like else ""
    hint = hint or (
        "; a function in a file is FILE.py:FUNCTION" if spec.endswith(".py") else "; list: payoff methods --kind grader"
    )
    return f"unknown reward {json.dumps(spec)}{hint}"


def one_line(text: Any) -> str:
    return " ".join(str(text).split())
