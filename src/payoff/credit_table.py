"""Every credit against the true advantage of every action: the tables of docs/credit.md.

`python -m payoff.credit_table` prints them; with a file name it rewrites what lies between that file's two marks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from payoff.audit.credit import CreditQuality, credit_quality, exact_credit
from payoff.credit_entries import NO_ROW, REWARDS, Entry, entries
from payoff.credit_places import TREE, chain_place, reference_policy, solutions, tree_place, tree_rewards
from payoff.intervals import Interval
from payoff.made_pages import begin, make
from payoff.pipeline import checked

MARK = begin("payoff.credit_table", "docs/credit.md")
GROUP_SIZE = 4
MATTERS = 0.05  # what moves the chance of a right answer by less did not matter


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
    absent: dict[str, str] = {f"`{name}`": why for name, why in NO_ROW.items()}
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
