"""From a run file to the things it names: every name looked up, every option checked, before anything is spent."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from payoff._extras import MissingExtraError
from payoff.catalogue import find, index
from payoff.config import ConfigError, Loaded, OnPart, Part, RunFile, TermFile, did_you_mean
from payoff.grading import load_callable
from payoff.parts import Parts, Settings, check_needs, check_settings
from payoff.pipeline import Signal, Term, everywhere, join, on, pair, weigh
from payoff.rewards import as_signal
from payoff.yaml_marks import Path_

TRANSFORMS = ("credit", "advantage", "shaping")
REWARDS = ("signal", "grader", "model")


class OptionError(ValueError):
    """An option that a method does not have, lacks, or has another type."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def build(loaded: Loaded, arm: str = "", seed: int | None = None) -> tuple[Parts, Settings]:
    """Everything one run works with, ready for `payoff.train.train`; ConfigError lists every mistake with its line."""
    run = loaded.run.arm(arm) if arm else loaded.run
    seed = run.train.seed if seed is None else seed
    faults: list[str] = []

    def make(path: Path_, part: Part, kinds: Sequence[str], **given: Any) -> Any:
        in_arm = ("arms", arm, *path)
        where = in_arm if in_arm in loaded.marks else path
        try:
            return resolve(part, kinds, given)
        except OptionError as error:
            faults.append(loaded.fault((*where, error.option) if error.option else where, str(error)))
        except MissingExtraError as error:
            faults.append(loaded.fault(where, str(error)))
        except (LookupError, ImportError, ValueError, TypeError, OSError) as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
            faults.append(loaded.fault(where, str(message)))
        return None

    torch.manual_seed(seed)
    if not run.terms:
        faults.append(loaded.fault((), "there is nothing to train: `terms` is empty"))
    task = make(("task",), run.task, ("task",))
    policy = make(("policy",), run.policy, ("policy",), task=task)
    reference = None if policy is None else _frozen(policy)
    parts_of = functools.partial(_parts, make, policy=policy)
    asked = {
        key: make((key,), part, (key,), policy=policy, task=task)
        for key in ("curriculum", "sampler", "replay")
        if (part := getattr(run, key)) is not None
    }
    signals = {
        channel: _lifted(make(("reward", channel), part, REWARDS, policy=policy), channel, run)
        for channel, part in run.reward.items()
    }
    shapings = [
        on(part.on, *parts_of(("shaping", i, "do"), part.do, TRANSFORMS))
        if isinstance(part, OnPart)
        else make(("shaping", i), part, ("shaping",))
        for i, part in enumerate(run.shaping)
    ]
    selections = parts_of(("selection",), run.selection, ("selection",))
    terms = {name: _term(("terms", name), term, run, make, parts_of, policy, faults, loaded) for name, term in run.terms.items()}
    if not signals and not faults:
        faults.append(loaded.fault((), "there is no reward: `reward` names no channel"))
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    made = {channel: part for channel, part in signals.items() if part is not None}  # all: what is not made is a fault above
    parts = Parts(policy, task, join(made), terms, shapings, selections, reference, **asked)
    options = {name: getattr(run.train, name) for name in Settings.__dataclass_fields__ if name in type(run.train).model_fields}
    settings = Settings(
        **{**options, "seed": seed},
        evaluate_every=run.evaluate.every,
        evaluation_starts=run.evaluate.starts,
        sampled_rollouts=run.evaluate.sampled_rollouts,
        continuations=run.evaluate.continuations,
    )
    try:
        check_settings(settings, parts)
        check_needs(parts)
    except ValueError as error:
        raise ConfigError([f"{loaded.source}: {error}"]) from None
    return parts, settings


def resolve(part: Part, kinds: Sequence[str], given: Mapping[str, Any] | None = None) -> Any:
    """The function with its options bound, or the object a class or constructor makes.

    given: what the run itself provides to a part that has a parameter of that name: a copy of the policy as it starts, as `policy`
    (and of the task, as `task`), or as `trained` the very policy that is trained.
    Raises LookupError for an unknown name, OptionError for options that do not fit.
    """
    target, options = _target(part, kinds)
    makes = inspect.isclass(target) or getattr(getattr(target, "__method__", None), "kind", "") in ("task", "policy")
    bound = check_options(target, options, all_parameters=makes)
    for name, value in (given or {}).items():
        if name in option_parameters(target, all_parameters=makes) and name not in bound and value is not None:
            bound[name] = value if name == "trained" else copy.deepcopy(value)
    if makes:
        return target(**bound)
    return functools.partial(target, **bound) if bound else target


def option_parameters(target: Callable[..., Any], *, all_parameters: bool) -> dict[str, inspect.Parameter]:
    """What may be set by name: everything of what is made once, the keyword-only parameters of a plain function."""
    kinds = {inspect.Parameter.KEYWORD_ONLY} | ({inspect.Parameter.POSITIONAL_OR_KEYWORD} if all_parameters else set())
    return {name: p for name, p in inspect.signature(target).parameters.items() if p.kind in kinds}


def check_options(target: Callable[..., Any], options: Mapping[str, Any], *, all_parameters: bool) -> dict[str, Any]:
    """The options converted to the types the parameters declare; only keyword-only parameters of a plain function are options."""
    parameters = option_parameters(target, all_parameters=all_parameters)
    label = getattr(getattr(target, "__method__", None), "name", target.__name__)
    for name in options:
        if name not in parameters:
            allowed = f"; its options: {', '.join(parameters)}" if parameters else "; it has none"
            raise OptionError(name, f"{label} has no option {name!r}{did_you_mean(name, list(parameters)) or allowed}")
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    bound = {}
    for name, value in options.items():
        try:
            bound[name] = _adapter(hints.get(name, Any)).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise OptionError(name, f"{label}: {name} {first['msg'].lower().replace('input ', '')}, is {value!r}") from None
    return bound


def _target(part: Part, kinds: Sequence[str]) -> tuple[Callable[..., Any], dict[str, Any]]:
    name, options = part.name, part.options
    prefix, colon, rest = name.partition(":")
    if not colon:
        hits = [kind for kind in kinds if (kind, name.replace("_", "-")) in index()]
        if hits:
            return find(name, hits[0]), options
        names = sorted({n for kind, n in index() if kind in kinds})
        hint = did_you_mean(name.replace("_", "-"), names)
        elsewhere = [kind for kind, n in index() if n == name.replace("_", "-")]
        if elsewhere:
            raise LookupError(f"{name!r} is a {elsewhere[0]}, and here a {' or '.join(kinds)} is needed")
        raise LookupError(f"unknown {' or '.join(kinds)} {name!r}{hint}    list: payoff methods --kind {kinds[0]}")
    hits = [kind for kind in kinds if (kind, prefix.replace("_", "-")) in index()]
    if hits:  # reasoning-gym:chain_sum is short for {name: reasoning-gym, dataset: chain_sum}
        target = find(prefix, hits[0])
        return target, {next(iter(inspect.signature(target).parameters)): rest, **options}
    return load_callable(name), options


def _adapter(hint: Any) -> Any:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=False))
    except Exception:  # pydantic refuses a config for models and dataclasses, which bring their own
        return TypeAdapter(hint)


def _parts(make: Callable[..., Any], path: Path_, parts: Sequence[Part], kinds: Sequence[str], policy: Any) -> list[Any]:
    return [make((*path, i), part, kinds, policy=policy) for i, part in enumerate(parts)]


def _lifted(part: Any, channel: str, run: RunFile) -> Signal | None:
    """A grader lifted to a signal; a signal as it is."""
    if part is None:
        return None
    if isinstance(part, nn.Module):
        return part
    how = run.scoring
    return as_signal(part, channel, workers=how.workers, deadline=how.deadline, cache=how.cache)


def _term(
    path: Path_, term: TermFile, run: RunFile, make: Any, parts_of: Any, policy: Any, faults: list[str], loaded: Loaded
) -> Term:
    loss = make((*path, "loss"), term.loss, ("loss",), policy=policy)
    aggregation = make((*path, "aggregation"), term.aggregation, ("aggregation",))
    if not term.paths:
        if term.mix or term.then or term.pairs:
            faults.append(loaded.fault((*path, "mix"), "a term without paths mixes and compares nothing"))
        return Term(everywhere, loss, aggregation, term.weight)
    if not run.shaping:
        for channel in term.paths:
            if channel.split("/")[0] not in run.reward:
                known = sorted(run.reward)
                hint = did_you_mean(channel, known) or f"; there are {known}"
                faults.append(loaded.fault((*path, "paths", channel, ""), f"no reward channel {channel!r}{hint}"))
    paths = {name: parts_of((*path, "paths", name), parts, TRANSFORMS) for name, parts in term.paths.items()}
    then = parts_of((*path, "then"), term.then, TRANSFORMS)
    mix = make((*path, "mix"), term.mix, ("mixing",), trained=policy) if isinstance(term.mix, Part) else term.mix
    pairing = None if term.pairs is None else make((*path, "pairs"), term.pairs, ("pairing",))
    if isinstance(term.mix, dict) and set(term.mix) != set(term.paths):
        odd = sorted(set(term.mix) ^ set(term.paths))
        faults.append(loaded.fault((*path, "mix"), f"mix and paths must name the same channels; {odd} are only in one of them"))
    if faults:
        return Term(everywhere, loss, aggregation, term.weight)
    target = weigh(paths, mix=mix, then=then, missing=term.missing)
    return Term(target if pairing is None else pair(target, pairing), loss, aggregation, term.weight)


def _frozen(policy: Any) -> Any:
    """The policy as it starts: what KL is measured from, and the reference where a part needs one."""
    own = getattr(policy, "reference", None)
    frozen = own() if callable(own) else copy.deepcopy(policy)
    for parameter in frozen.parameters() if own is None else ():
        parameter.requires_grad_(False)
    return frozen
