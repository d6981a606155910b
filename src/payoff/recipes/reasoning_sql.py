"""Reasoning-SQL: do partial rewards of a query find right ones sooner than its execution alone?

payoff reproduce reasoning-sql
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from payoff.advantages.group import grpo
from payoff.grading import signal
from payoff.recipes import Effect, Recipe
from payoff.recipes.worlds.writing import Choices, climb, judged, mean_worth, write, writer
from payoff.signals.sql import sql_parts
from payoff.trajectories import constant

SCHEMA = (
    "create table singer (id integer, name text, country text, age integer);"
    "create table concert (id integer, singer integer, year integer, city text);"
)
SELECTS = ("count(*)", "name", "city", "avg(age)")
TABLES = ("singer", "concert", "singer join concert on singer.id = concert.singer")
CONDITIONS = ("", " where country = 'France'", " where year > 2014", " where age < 30")
ENDS = ("", " order by age", " group by city")
PLACES = (len(SELECTS), len(TABLES), len(CONDITIONS), len(ENDS))
# How many singers are French; the young ones' names by age; where concerts were after 2014; how old on average those who then
# sang were; who sang then.
WANTED = ((0, 0, 1, 0), (1, 0, 3, 1), (2, 1, 2, 0), (3, 2, 2, 0), (1, 2, 2, 0))
LEAN = 1.0  # nats for every right part before training, as a policy has that was taught a little
SURFACE = {"syntax": 1.0, "schema": 1.0, "bigrams": 1.0, "format": 1.0}
WEIGHTS = {
    "execution": {"execution": 3.0},
    "partial": {"execution": 3.0, **SURFACE},  # `reasoning-sql` without a judge
}
RATE = 0.24
PARTS = signal(sql_parts, name="sql", cache=True)


def query(choices: Choices) -> str:
    """The SQL that the choices stand for."""
    select, table, condition, end = choices
    return f"select {SELECTS[select]} from {TABLES[table]}{CONDITIONS[condition]}{ENDS[end]}"


@lru_cache(maxsize=8)
def database(number: int) -> str:
    """SQL that makes a database with other rows for every number; 0 is the one that rewards come from."""
    rng = torch.Generator().manual_seed(number)
    draw = lambda most: int(torch.randint(most, (1,), generator=rng))
    countries, cities = ("France", "Chile", "Japan"), ("Lyon", "Kyoto", "Arica", "Osaka")
    singers = [f"({k}, 'Name {k}', '{countries[draw(3)]}', {18 + (7 * k + draw(5)) % 40})" for k in range(12)]
    concerts = [f"({k}, {draw(12)}, {2010 + draw(9)}, '{cities[draw(4)]}')" for k in range(20)]
    return f"{SCHEMA}insert into singer values {', '.join(singers)};insert into concert values {', '.join(concerts)};"


@lru_cache(maxsize=4096)
def rows(text: str, number: int) -> list[tuple] | None:
    """What a query of this language selects in a database, in this process; None where it cannot be run."""
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(database(number))
        try:
            return connection.execute(text).fetchall()
        except sqlite3.Error:
            return None


def right(prompt: int, choices: Choices) -> float:
    """1 where the query selects what the wanted one does, in three databases that no reward was taken from; else 0."""
    ordered = WANTED[prompt][3] == 1
    for number in (1, 2, 3):
        mine, theirs = rows(query(choices), number), rows(query(WANTED[prompt]), number)
        if mine is None or theirs is None or (mine != theirs if ordered else Counter(mine) != Counter(theirs)):
            return 0.0
    return 1.0


def say(prompt: int, choices: Choices) -> Mapping[str, Any]:
    text = f"<think>Which table?</think><answer>{query(choices)}</answer>"
    return {"response": text, "reference": {"setup": database(0), "query": query(WANTED[prompt])}}


def lean(prompt: int, before: Choices) -> list[float]:
    place = len(before)
    return [LEAN * (choice == WANTED[prompt][place]) for choice in range(PLACES[place])]


def run(arm: str, seed: int, *, updates: int = 40, rollouts: int = 8) -> Mapping[str, float]:
    """A table writes SQL, is paid for what it does in a real SQLite database, learns by GRPO, and is judged in other databases."""
    rng = torch.Generator().manual_seed(seed)
    policy = writer(PLACES, len(WANTED), seed=seed, lean=lean if arm.startswith("taught") else None)
    first = sum(mean_worth(policy, PLACES, right)) / len(WANTED)
    optimiser = torch.optim.Adam(policy.parameters(), lr=RATE)
    silent, area = 0.0, 0.0
    for _ in range(updates):
        texts = write(policy, rollouts, rng, say)
        parts = PARTS(texts)
        paid = torch.stack(
            [weight * judged(parts[name], texts) for name, weight in WEIGHTS[arm.removeprefix("taught-")].items()]
        ).sum(0)
        advantage = grpo(constant(paid, torch.ones(len(paid), dtype=torch.bool)), texts)
        silent += float((advantage.value.view(len(WANTED), rollouts) == 0).all(1).double().mean()) / updates
        area += sum(right(item["table"], tuple(row)) for item, row in zip(texts.items, texts.actions.tolist())) / len(texts)
        climb(policy, optimiser, texts, advantage)
    return {
        "first": first,
        "right": sum(mean_worth(policy, PLACES, right)) / len(WANTED),
        "area": area / updates,
        "silent_groups": silent,
    }


RECIPE = Recipe(
    name="reasoning-sql",
    claim=(
        "Partial rewards of a query (that it runs, names the right tables and columns, shares word pairs, has the right form) "
        "beside its execution bring right queries sooner than execution alone, with fewer groups that say nothing."
    ),
    paper="arXiv:2503.23157",
    test=(
        f"{len(WANTED)} questions about two tables; queries are put together at four places, 144 texts in all for each, and run in "
        "SQLite in the sandbox, on one database; whether they are right is found on three others. A tabular policy, random at "
        f"first or (taught) leaning e^{LEAN:g} to every right part, learns by GRPO in groups of 8 with Adam for 40 updates. The "
        "learning rate is the best of 0.06, 0.12 and 0.24 for both arms on seeds 95 and 96, which are not among those reported; "
        "there execution alone was ahead already. The form, another choice there, was then fixed to save time: all queries have "
        "it. Not tested: the judge, whole schemas, fine-tuning on queries, and language models, whose parts share what they learn, "
        "where a table learns each question and each beginning of a query by itself."
    ),
    arms={
        "execution": "3 for a query that selects the right rows",
        "partial": "the same, plus 1 each for running, schema, word pairs and form",
        "taught-execution": "execution, from the policy that was taught a little",
        "taught-partial": "partial, from the policy that was taught a little",
    },
    measures={
        "first": "probability of a right query before training, mean over questions (exact)",
        "right": "the same after training",
        "area": "share of right queries over the whole training",
        "silent_groups": "share of training groups in which all queries earned the same",
    },
    effects=(
        Effect("area", "partial", "execution", "higher", delta=0.03),
        Effect("area", "taught-partial", "taught-execution", "higher", delta=0.03),
        Effect("silent_groups", "partial", "execution", "lower", delta=0.1),
    ),
    run=run,
    methods=("grader:sql-parts", "grader:reasoning-sql", "advantage:grpo", "policy:tabular"),
)
