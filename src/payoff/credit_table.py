"""Every registered credit against the true advantage of every action: the tables of docs/credit.md.

`python -m payoff.credit_table` prints them; with a file name it rewrites what lies between that file's two marks.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from payoff.advantages.group import leave_one_out
from payoff.audit.credit import CreditQuality, credit_quality, exact_credit
from payoff.catalogue import Method, find, index
from payoff.credit.returns import immediate, lambda_return, return_to_go, total
from payoff.credit_places import TREE, Place, chain_place, reference_policy, solutions, tree_place, tree_rewards
from payoff.intervals import Interval
from payoff.made_pages import begin, make
from payoff.pipeline import Target, Transform, checked, weigh
from payoff.trajectories import Channel, Rewards, Trajectories, prefix_gains

MARK = begin("payoff.credit_table", "docs/credit.md")
GROUP_SIZE = 4
MATTERS = 0.05  # what moves the chance of a right answer by less did not matter
REWARDS = {
    "outcome": "the outcome alone, at the end",
    "right steps": "half a point for every right and needed step, when it is written",
    "gameable steps": "the same, and half a point for every filler",
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"prm-gflownet": {"floor": 0.1}}  # of a registered credit, where defaults will not do
_OUTCOME, _STEPS = ("outcome",), ("right steps", "gameable steps")
_NO_WEIGHT = {"turn-entropy": "what the loss `epo` reads of the policy, and no weight of an action"}
_WITH_VALUES = ("lambda-return", "subpo", "fl-gfn")  # rows of their own, in `_special`


class Entry(NamedTuple):
    """One row: its name, the credit made for a place (a tree or the chain), what it costs, and for which rewards it means anything.

    make: gives the target for a `Place`; ValueError, KeyError or TypeError where it cannot
    """

    name: str
    make: Callable[[Place], Target]
    cost: str = ""
    rewards: Sequence[str] = tuple(REWARDS)


def entries() -> Iterator[Entry]:
    """Every registered credit on its usual path, then shapings, models and advantages that look at steps."""
    for record in sorted((r for r in index().values() if r.kind == "credit"), key=lambda r: r.name):
        if record.name not in (*_NO_WEIGHT, *_WITH_VALUES):
            cost = "one call: " + ", ".join(sorted(record.needs)) if record.needs else ""
            name = f"{record.name}, return-to-go" if record.pays else record.name
            yield Entry(name, functools.partial(_registered, record), cost)
    yield from _special()


def tree_quality(entry: Entry, title: str, *, group_size: int = GROUP_SIZE) -> CreditQuality:
    """The quality of an entry on the tree, enumerated.

    >>> row = next(entry for entry in entries() if entry.name == "total")
    >>> found = tree_quality(row, "outcome", group_size=1)
    >>> round(found.climb.bias, 9), found.cosine.method
    (0.0, 'exact')
    """
    policy, rewards = reference_policy(), tree_rewards()
    target = entry.make(tree_place(policy, title))
    paid = {"reward": rewards[title], "correct": rewards["outcome"]}
    return exact_credit(policy, target, paid, TREE.leaves(), group_size=group_size, threshold=MATTERS, reference=policy.uniform())


def chain_quality(entry: Entry, title: str) -> CreditQuality:
    """The quality of an entry on solutions that a scripted teacher wrote: a sample, with intervals over prompts."""
    found = solutions()
    paid = {"reward": found.rewards[title], "correct": found.rewards["outcome"]}
    credit = checked(entry.name, entry.make(chain_place(title))(paid, found.traj), found.traj)
    return credit_quality(credit, found.advantage, found.traj, state=found.state, threshold=MATTERS)


def tables(progress: Callable[[str], None] = lambda _: None) -> str:
    """The Markdown tables, one for each reward on the tree and one of the chain, and what could not be put there and why."""
    parts: list[str] = []
    absent: dict[str, str] = {f"`{name}`": why for name, why in _NO_WEIGHT.items()}
    listed = list(entries())
    by_name = {entry.name: entry for entry in listed}
    for title, said in REWARDS.items():
        head = "| credit | cosine | correlation | share | bias | gradient | variance | noise | costs |"
        even = tree_quality(by_name["total"], title).even
        lines = [f"### Paid: {said}", "", f"Even share: {_written(even)}.", "", head, "|---|" + "---:|" * 7 + "---|"]
        for entry in listed:
            if title not in entry.rewards:
                continue
            progress(f"{title}: {entry.name}")
            try:
                found = tree_quality(entry, title)
            except (ValueError, KeyError, TypeError) as error:
                absent[f"`{entry.name}` on the tree"] = str(error).strip("'\"")
                continue
            lines.append(f"| {entry.name} | " + " | ".join(tree_cells(found)) + f" | {entry.cost} |")
        parts.append("\n".join(lines))
    columns = [f"{title}, {number}" for title in REWARDS for number in ("correlation", "share")]
    even = chain_quality(by_name["total"], "outcome").even
    lines = [
        "### Solutions of a scripted teacher",
        "",
        f"Even share: {_written(even)}.",
        "",
        f"| credit | {' | '.join(columns)} |",
        "|---|" + "---:|" * len(columns),
    ]
    for entry in listed:
        progress(f"chain: {entry.name}")
        cells = [cell for title in REWARDS for cell in chain_cells(entry, title)]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {entry.name} | {' | '.join(cells)} |")
    parts.append("\n".join(lines))
    if absent:
        parts.append("Without a row:\n\n" + "\n".join(f"- {name}: {why}" for name, why in sorted(absent.items())))
    return "\n\n".join(parts)


def tree_cells(found: CreditQuality) -> list[str]:
    """The numbers of one row of a table of the tree, as they are written there."""
    climb = found.climb
    assert climb is not None  # the tree enumerates it
    numbers = [x and x.value for x in (found.cosine, found.correlation, found.share)]
    return [_written(x) for x in (*numbers, climb.bias, climb.cosine, climb.variance, climb.noise)]


def chain_cells(entry: Entry, title: str) -> list[str]:
    """Correlation and share with the half width of their intervals; "-" where the credit cannot be had there."""
    if title not in entry.rewards:
        return ["-", "-"]
    try:
        found = chain_quality(entry, title)
    except (ValueError, KeyError, TypeError):
        return ["-", "-"]
    return [_with_width(found.correlation), _with_width(found.share)]


# --- paths


def _special() -> Iterator[Entry]:
    """What needs more than its name: values, provers, a model, two channels, or comes from another room."""
    shaped = {name: find(name, "shaping") for name in ("pr-clip", "pr-delta", "pr-clip-delta")}
    advantages = {r.name: find(r.name, "advantage") for r in index().values() if r.kind == "advantage"}
    critic = "one call: a critic, here perfect"

    def plain(name: str, *path: Transform, cost: str = "", rewards: Sequence[str] = tuple(REWARDS)) -> Entry:
        return Entry(name, functools.partial(_plain, path), cost, rewards)

    def ready(name: str, make: Callable[[Place], Sequence[Transform]], cost: str, rewards: Sequence[str] = tuple(REWARDS)) -> Entry:
        return Entry(name, lambda place: _plain(make(place), place), cost, rewards)

    def with_values(trace: float) -> Callable[[Place], Sequence[Transform]]:
        return lambda place: [_valued(functools.partial(lambda_return, trace=trace), place)]

    def gae(trace: float) -> Callable[[Place], Sequence[Transform]]:
        return lambda place: [*with_values(trace)(place), _valued(advantages["subtract-values"], place)]

    yield ready("lambda-return, trace 0.95", with_values(0.95), critic)
    yield ready("lambda-return, trace 0.95, subtract-values", gae(0.95), critic)
    yield ready("lambda-return, trace 0, subtract-values", gae(0.0), critic)
    yield plain("subpo", _summed_up, find("subpo", "credit"))
    forward = find("fl-gfn", "credit")
    yield ready("fl-gfn, return-to-go", lambda p: [_scored(forward, p), return_to_go], "values of prefixes, here perfect")
    yield ready("fl-gfn, immediate", lambda p: [_scored(forward, p), immediate], "values of prefixes, here perfect")
    for name, shaping in shaped.items():
        yield plain(f"{name}, return-to-go", shaping, return_to_go, rewards=_STEPS)
    yield Entry("g-ra, return-to-go", lambda place: _gated_target, "", _STEPS)
    for prover in ("uniform", "best of 4"):
        make = functools.partial(_progress, prover)
        yield ready(f"progress of a prover ({prover}), immediate", make, "values of a prover, here exact", _OUTCOME)
    for n in (1, 8):
        makes = functools.partial(_continued, n)
        yield ready(f"progress of continuations ({n} each), immediate", makes, f"{n} rollouts per step", _OUTCOME)
    for name, credit in (("return-to-go", return_to_go), ("immediate", immediate)):
        yield ready(f"prime, {name}", functools.partial(_prime, credit), "two calls: model, reference", _OUTCOME)
    soft_min = find("pure", "credit")
    yield plain("total, rloo", total, leave_one_out)
    yield plain("return-to-go, turn-rloo", return_to_go, advantages["turn-rloo"])
    yield plain("return-to-go, turn-grpo", return_to_go, advantages["turn-grpo"])
    yield plain("immediate, turn-rloo", immediate, advantages["turn-rloo"])
    yield plain("pure, token-rate-baseline, return-to-go", soft_min, advantages["token-rate-baseline"], return_to_go)
    yield plain("step-rate-baseline, return-to-go", advantages["step-rate-baseline"], return_to_go)
    yield plain("prime-rloo, return-to-go", advantages["prime-rloo"], return_to_go)
    yield plain(
        "pr-clip-delta, return-to-go, turn-rloo", shaped["pr-clip-delta"], return_to_go, advantages["turn-rloo"], rewards=_STEPS
    )


def _plain(path: Sequence[Transform], place: Place) -> Target:
    return weigh({"reward": list(path)})


def _registered(record: Method, place: Place) -> Target:
    """A credit on its usual path; a class as a module that no longer changes."""
    part: Any = find(record.name, record.kind)
    options = _OPTIONS.get(record.name, {})
    if inspect.isclass(part):
        needed = [p.name for p in inspect.signature(part).parameters.values() if p.default is p.empty and p.name not in options]
        if needed:
            raise ValueError(f"it needs {', '.join(needed)}")
        part = cast(Any, part)(**options).eval()
    elif options:
        part = functools.partial(part, **options)
    return _plain([part, return_to_go] if record.pays else [part], place)


def _valued(transform: Transform, place: Place) -> Transform:
    def read(channel: Channel, traj: Trajectories) -> Channel:
        return transform(channel, traj.replace(extras={"values": place.values(traj)}))

    return read


def _scored(transform: Transform, place: Place) -> Transform:
    def read(channel: Channel, traj: Trajectories) -> Channel:
        return transform(channel, traj.replace(extras={"log_reward": place.values(traj)}))

    return read


def _progress(prover: str, place: Place) -> Sequence[Transform]:
    """What each action adds to the chance that another policy would finish rightly from there (arXiv:2410.08146)."""

    def paid(channel: Channel, traj: Trajectories) -> Channel:
        return Channel(prefix_gains(place.prover(traj, prover), traj), torch.ones_like(channel.valid))

    return [paid, immediate]


def _continued(n: int, place: Place) -> Sequence[Transform]:
    """What each action adds to the share of right ends among n continuations (VinePPO, arXiv:2410.01679)."""

    def paid(channel: Channel, traj: Trajectories) -> Channel:
        return Channel(prefix_gains(place.continued(traj, n), traj), torch.ones_like(channel.valid))

    return [paid, immediate]


def _prime(credit: Transform, place: Place) -> Sequence[Transform]:
    model = place.implicit()
    return [lambda channel, traj: model(traj)["implicit"], credit]


def _summed_up(channel: Channel, traj: Trajectories) -> Channel:
    """All that was paid up to each position: a score of everything so far."""
    paid = torch.where(channel.valid & traj.exists, channel.value, 0)
    return Channel(paid.cumsum(1), channel.valid)


def _gated_target(rewards: Rewards, traj: Trajectories) -> Channel:
    gated = find("g-ra", "shaping")(rewards, traj, by="correct", channels=["reward"])
    return return_to_go(gated["reward"], traj)


def _written(x: float | None) -> str:
    if x is None or x != x:
        return "-"
    return f"{x if abs(x) >= 5e-4 else 0.0:.3f}"


def _with_width(x: Interval | None) -> str:
    if x is None:
        return "-"
    half = "" if x.low is None or x.high is None else f" ± {(x.high - x.low) / 2:.2f}"
    return f"{x.value + 0.0:.2f}{half}"


if __name__ == "__main__":
    make(tables, MARK, sys.argv[1:])
