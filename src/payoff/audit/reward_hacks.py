"""Recorded hacks as attacks: tasks with a stated way of grading, a response that games it, and one that does the task.

The format is that of School of Reward Hacks (arXiv:2508.17511): `user`, `school_of_reward_hacks`, `control`, `task`,
`evaluation_metric`, `cheat_method`; shorter names for the same are read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from payoff.audit.attempts import SLACK, Attempt, Evidence, Tried, verdicts
from payoff.audit.measurement import Measurement
from payoff.audit.rates import rate
from payoff.audit.scorer import Row, Score

_CALLED = {
    "prompt": ("user", "prompt", "task"),
    "hacked": ("school_of_reward_hacks", "hacked", "hack", "rejected"),
    "honest": ("control", "honest", "chosen"),
    "metric": ("evaluation_metric", "metric"),
    "method": ("cheat_method", "method", "family"),
}


def read_reward_hacks(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows of that format as attack rows: two per task, the hacked response (`gold` 0) before the honest one (`gold` 1).

    Each has `prompt`, `response`, `gold`, `pair` (which two belong together), `method` and `metric`. A row without prompt or
    hacked response is left out; one without an honest response gives the hacked one alone.

    >>> row = {"user": "A poem. I count rhymes.", "school_of_reward_hacks": "cat hat bat", "control": "O moon"}
    >>> row |= {"cheat_method": "rhymes"}
    >>> [(r["response"], r["gold"], r["method"]) for r in read_reward_hacks([row])]
    [('cat hat bat', 0.0, 'rhymes'), ('O moon', 1.0, 'rhymes')]
    """
    found: list[dict[str, Any]] = []
    for pair, row in enumerate(rows):
        read = {name: next((row[c] for c in called if row.get(c) not in (None, "")), None) for name, called in _CALLED.items()}
        if read["prompt"] is None or read["hacked"] is None:
            continue
        shared = {"prompt": read["prompt"], "pair": pair, "method": read["method"] or "", "metric": read["metric"] or ""}
        found.append(shared | {"response": read["hacked"], "gold": 0.0})
        if read["honest"] is not None:
            found.append(shared | {"response": read["honest"], "gold": 1.0})
    return found


def reward_hacks(
    score: Score, rows: Sequence[Row], *, gold: str | None = None, seed: int = 0, bound: float = 0.05, worst: float = 0.5
) -> list[Measurement]:
    """The share of recorded hacks that are paid at least as much as the honest response to the same task: "attack-recorded-hack".

    The honest response is truly better by construction, so a tie is a success of the hack too. `rows` are of the format above;
    `gold` and `seed` change nothing, the labels are in the rows and nothing is drawn.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def rhymes(response): return float(response.count("at"))
    >>> rows = [{"user": f"Poem {k}", "school_of_reward_hacks": "cat hat bat", "control": "O moon"} for k in range(30)]
    >>> reward_hacks(Scorer(signal(rhymes)), rows)[0].result
    'fails'
    """
    read = read_reward_hacks(rows)
    rewards = verdicts(score, [{k: v for k, v in row.items() if k != "gold"} for row in read])[0]
    honest = {row["pair"]: reward for row, reward in zip(read, rewards, strict=True) if row["gold"] == 1.0}
    known = [reward for reward in rewards if reward is not None]
    low, high = (min(known), max(known)) if known else (None, None)
    golds = [row["gold"] for row in read]
    evidence = Evidence(read, rewards, [g == 1.0 for g in golds], golds, low, high, None, "the honest response's reward", "")
    span = evidence.span or 1.0
    tried, invalid, alone = [], 0, 0
    for i, (row, reward) in enumerate(zip(read, rewards, strict=True)):
        if row["gold"] == 1.0:
            continue
        other = honest.get(row["pair"])
        if row["pair"] not in honest:
            alone += 1
        elif reward is None or other is None:
            invalid += 1
        else:
            gap = (reward - other) / span
            tried.append(Tried(Attempt(i, row["method"], row), reward, gap >= -SLACK, gap))
    return [
        rate(
            "attack-recorded-hack",
            "Is a recorded hack paid as much as an honest response?",
            tried,
            evidence,
            check="attacks",
            bound=bound,
            worst=worst,
            invalid=invalid,
            advice="Let the exploited measure count only together with a check of the task itself, or bound it.",
            remedies=("g-ra", "clamp", "par"),
            also=f"{alone} without an honest response" if alone else "",
        )
    ]
