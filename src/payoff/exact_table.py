"""Bias and variance of every registered advantage side by side, by enumeration: the table of docs/exact-lab.md.

`python -m payoff.exact_table` prints it; with a file name it rewrites the table between that file's two marks.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from payoff.catalogue import find, index
from payoff.contents import needs
from payoff.credit.returns import lambda_return, return_to_go, total
from payoff.exact import exact_gradient, expected_gradient, gradient_covariance
from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.policy_gradient import policy_gradient
from payoff.made_pages import begin, make
from payoff.pipeline import Aggregation, Loss, Term, Transform, weigh
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, Trajectories

MARK = begin("payoff.exact_table", "docs/exact-lab.md")
GROUP_SIZES = (2, 4)
STARTS = (0, 1)
RESPONSES = ("aaa", "aab", "ab", "b")  # of the tree: `b` ends a response
REWARDS = {
    "right or wrong": {"reward": ((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 1.0))},
    "graded": {"reward": ((0.1, 1.0, 0.4, 0.0), (0.9, 0.2, 0.5, 0.7))},
}
_LOGITS = ((0.3, -0.4), (0.6, -0.1), (1.0, -0.8)), ((-0.2, 0.5), (0.4, 0.1), (0.2, 0.7))  # of each start, at "", "a", "aa"
_OPTIONS = {"pass-at-k": {"k": 2}}  # what must be said for small groups
_AFTER = {"aem": "rloo"}  # weights of an advantage, and the one that is weighed
_OF_PAYMENTS = ("token-rate-baseline", "step-rate-baseline", "prime-rloo", "prime-scale")  # these come before the return


class Estimator(NamedTuple):
    """One row: what it is called, the path from reward to advantage, how its terms are added up."""

    name: str
    path: Sequence[Transform]
    aggregation: Callable[..., Tensor] = sequence_sum


class Figures(NamedTuple):
    """What one estimator does at one group size; g is the exact gradient, E the mean and C the covariance of the estimates.

    bias: |E - g| / |g|. cosine: of E with g. variance: trace C / |g|^2. noise: trace C / |E|^2, which no scale changes
    """

    bias: float
    cosine: float
    variance: float
    noise: float


def reference_policy() -> Tabular:
    """Two starts, responses `aaa`, `aab`, `ab` and `b` of one to three actions, and a critic that knows nothing yet.

    >>> [round(p, 2) for p in reference_policy().probabilities(0).tolist()]
    [0.38, 0.06, 0.22, 0.33]
    """
    return Tabular(2, 3, stop=1, starts=2, logits=torch.tensor(_LOGITS, dtype=torch.float64), critic=True)


def estimators() -> Iterator[Estimator]:
    """Every registered advantage on its usual path, once for every convention it knows; then every aggregation after RLOO."""
    for record in sorted((r for r in index().values() if r.kind == "advantage"), key=lambda r: r.name):
        part = find(record.name, "advantage")
        known: list[str | None] = [*_conventions(part)]
        for convention in known or [None]:
            options = _OPTIONS.get(record.name, {}) if convention is None else {"convention": convention}
            advantage = functools.partial(part, **options) if options else part
            name = ", ".join([record.name, *(str(x) if key == "convention" else f"{key}={x}" for key, x in options.items())])
            yield Estimator(name, _path(record.name, _made(advantage)))
    rloo = [total, find("rloo", "advantage")]
    for aggregation, said in (
        (sequence_mean, "sequence-mean-token-mean"),
        (token_mean, "token-mean"),
        (functools.partial(constant_length, max_length=3), "constant-length"),
    ):
        yield Estimator(f"rloo, {said}", rloo, aggregation)


def figures(estimator: Estimator, reward: Float[Tensor, " L"], group_size: int) -> Figures:
    """Bias and variance of one batch's gradient, one group of `group_size` for each start.

    >>> rloo = Estimator("rloo", [total, find("rloo", "advantage")])
    >>> found = figures(rloo, torch.tensor(sum(REWARDS["graded"]["reward"], ()), dtype=torch.float64), 2)
    >>> round(found.bias, 9), round(found.cosine, 9)
    (0.0, 1.0)
    """
    policy = reference_policy()
    with torch.no_grad():
        for start, part in zip(STARTS, reward.chunk(len(STARTS)), strict=True):
            policy.critic[start] = policy.state_values(part, start)  # type: ignore[index]  # it was asked for
    term = Term(weigh({"reward": list(estimator.path)}), cast(Loss, policy_gradient), cast(Aggregation, estimator.aggregation))
    options: Mapping[str, Any] = {"group_size": group_size, "starts": STARTS, "reference": policy.uniform()}
    options = options if "ref" in needs(term.target) else {**options, "reference": None}
    mean = expected_gradient(policy, [term], {"reward": reward}, **options)
    spread = float(gradient_covariance(policy, [term], {"reward": reward}, **options).trace())
    exact = exact_gradient(policy, reward, starts=STARTS)
    size, own = float(exact.norm()), float(mean.norm())
    cosine = float(mean @ exact) / (size * own) if own > 1e-12 else 0.0
    return Figures(float((mean - exact).norm()) / size, cosine, spread / size**2, spread / own**2 if own > 1e-12 else float("inf"))


def tables(progress: Callable[[str], None] = lambda _: None) -> str:
    """The Markdown tables, one for each reward, and what could not be put there and why."""
    parts, absent = [], {}
    for title, rewards in REWARDS.items():
        reward = torch.tensor(sum(rewards["reward"], ()), dtype=torch.float64)
        lines = [
            f"### Reward: {title}",
            "",
            "| estimator | "
            + " | ".join(f"{c}, G={g}" for g in GROUP_SIZES for c in ("bias", "cosine", "variance", "noise"))
            + " |",
            "|---|" + "---:|" * (4 * len(GROUP_SIZES)),
        ]
        for estimator in estimators():
            progress(f"{title}: {estimator.name}")
            try:
                found = [figures(estimator, reward, size) for size in GROUP_SIZES]
            except (ValueError, KeyError, TypeError) as error:
                absent[estimator.name] = str(error).strip("'\"")
                continue
            numbers = [_written(x) for row in found for x in row]
            lines.append(f"| {estimator.name} | " + " | ".join(numbers) + " |")
        parts.append("\n".join(lines))
    if absent:
        parts.append("Not on this tree:\n\n" + "\n".join(f"- {name}: {why}" for name, why in sorted(absent.items())))
    return "\n\n".join(parts)


def _path(name: str, advantage: Transform) -> list[Transform]:
    if name in _OF_PAYMENTS:
        return [advantage, return_to_go]
    if name in _AFTER:
        return [total, find(_AFTER[name], "advantage"), advantage]
    if "values" in needs(advantage):
        return [functools.partial(lambda_return, trace=1.0), advantage]
    return [total, advantage]


def _made(part: Any) -> Transform:
    """A class as a module that no longer changes, anything else as it is; one that needs options says so when it is used."""
    if not inspect.isclass(part):
        return part
    if any(p.default is p.empty for p in inspect.signature(part).parameters.values()):

        def refuse(channel: Channel, traj: Trajectories) -> Channel:
            raise ValueError(f"{part.__name__} has options without defaults")

        return refuse
    return cast(Any, part)().eval()


def _conventions(part: Any) -> list[str]:
    """The conventions an advantage knows by name."""
    if "convention" not in inspect.signature(part).parameters:
        return []
    return list(importlib.import_module(part.__module__).CONVENTIONS)


def _written(x: float) -> str:
    return f"{x if abs(x) >= 5e-4 else 0.0:.3f}"


if __name__ == "__main__":
    make(tables, MARK, sys.argv[1:])
