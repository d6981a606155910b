"""Does a query select what it should? SQL run over databases of the row's own, inside the sandbox, and compared outside of it.

A row's `reference` is {"setup": SQL that makes a database, or a list of these, one for each; "query": the right query}, and
perhaps "seconds" for each query (5) and "rows" at most (10,000). The query may read and nothing else: no PRAGMA, no ATTACH, no
writing, one statement.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.languages import run_sql
from payoff.sandbox.results import Ended, Limits, Result, SandboxError
from payoff.signals.code import final_code
from payoff.signals.tool_calls import jaccard

LONGEST = 20_000  # characters of a query
PARTS = ("execution", "syntax", "schema", "bigrams", "format")
_TAGGED = re.compile(
    r"\s*<think>(?:(?!</?(?:think|answer)>).)*</think>\s*<answer>(?:(?!</?(?:think|answer)>).)*</answer>\s*", re.DOTALL
)
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|\s+"  # 0: nothing
    r"|('(?:[^']|'')*')"  # 1: text
    r'|"([^"\n]*)"|`([^`\n]*)`|\[([^\[\]\n]*)\]'  # 2-4: quoted names
    r"|([^\W\d][\w$]*)"  # 5: names and words of the language
    r"|(\d[\w.]*|<>|<=|>=|!=|==|\|\||.)",  # 6: numbers and signs
    re.DOTALL,
)


class BadDatabaseError(ValueError):
    """A reference that holds no database and query that can be run."""


class Wanted(NamedTuple):
    """A reference, run: the databases, what the right query selects in each, its words, and the schema's names."""

    setups: tuple[str, ...]
    answers: tuple[tuple[list[str], list[tuple]], ...]
    words: tuple[str, ...]
    ordered: bool
    names: frozenset[str]
    limits: Limits
    rows: int


@method("sql-execution", kind="grader")
def sql_execution(response: str, reference: Any, *, isolation: str = "strict") -> Verdict:
    """1 where the query selects the same rows as the reference's query in every database, else 0 with the reason.

    The response is a query, or text whose last fenced block, or whose <answer>, holds it. Rows are compared as a multiset, in order
    where the right query has an ORDER BY of its own; columns by place, not by name. 1 is 1.0, floats are compared to ten digits,
    text is not a number, NULL is NULL.

    Gamed by a query that is wrong and right in the databases at hand (a constant, a missing condition): give several databases in
    which such queries differ. The right query must select something in one of them, or there is no verdict. An ORDER BY that
    leaves ties open compares an order that nobody promised.
    Cost: one run for every database, some milliseconds each; the right query's are remembered.
    No verdict for a reference that cannot be run, a lost run, and where the machine cannot give the level.

    >>> data = {"setup": "create table t (a); insert into t values (3), (4)", "query": "select sum(a) from t"}
    >>> sql_execution("select total(a) as s from t", data, isolation="process").value
    1.0
    >>> sql_execution("select a from t", data, isolation="process").reason
    'database 1 of 1: 2 rows, not 1'
    """
    parts = _judge(response, reference, isolation)
    return parts if isinstance(parts, Verdict) else Verdict(parts[0]["execution"], valid=True, reason=parts[1])


@method("sql-parts", kind="grader", paper="arXiv:2503.23157")
def sql_parts(response: str, reference: Any, *, isolation: str = "strict") -> Verdict:
    """The parts of Reasoning-SQL's reward as channels of their own, each in 0..1; reference as of `sql-execution`.

    execution: `sql-execution`
    syntax:    1 where the query runs in every database, whatever it selects
    schema:    |A and B| / |A or B| of the schema's tables and columns that the two queries name (1 if neither names any)
    bigrams:   the same of the sets of neighbouring words, without comments, names and words in lower case
    format:    1 for <think>...</think><answer>...</answer> and nothing else

    Names count by themselves, without what they belong to, and `*` names nothing. All but execution can be had without the right
    answer: by naming the tables and columns that the question speaks of, in dead conditions too.

    >>> data = {"setup": "create table t (a, b); insert into t values (3, 4)", "query": "select a from t"}
    >>> found = sql_parts("select b from t", data, isolation="process")
    >>> [(name, round(part, 3)) for name, part in found.value.items()]
    [('execution', 0.0), ('syntax', 1.0), ('schema', 0.333), ('bigrams', 0.2), ('format', 0.0)]
    """
    parts = _judge(response, reference, isolation)
    if isinstance(parts, Verdict):
        return parts._replace(value=dict.fromkeys(PARTS, 0.0))
    return Verdict(parts[0], valid=True, reason=parts[1])


@method("reasoning-sql", kind="grader", paper="arXiv:2503.23157")
def reasoning_sql(
    response: str,
    reference: Any,
    judgement: Any = None,
    *,
    execution: float = 3.0,
    judge: float = 2.0,
    syntax: float = 1.0,
    schema: float = 1.0,
    bigrams: float = 1.0,
    form: float = 1.0,
    isolation: str = "strict",
) -> Verdict:
    """A weighted sum of partial rewards of a query (Reasoning-SQL): 3 execution + 2 judge + syntax + schema + bigrams + format.

    The parts are those of `sql-parts`. judge: the row's `judgement` in 0..1, somebody's opinion of a query that selects the wrong
    rows; one that selects the right ones has 1 there, so that no opinion beats it. Rows without a judgement have no such part.

    Range 0..7, with a judgement 0..9. At these weights a right query has at least 4 and a wrong one at most 4 (6 and 6 with a
    judge), which takes all of a wrong one's other parts and none of the right one's; `execution` > `schema` + `bigrams` + `form`
    puts every right query strictly ahead. A weight of 0 takes a part away.
    Gamed as `sql-parts` says, by up to 4 of 7, and through the judge. No verdict where `sql-execution` has none, and for a
    judgement that is no number in 0..1. Raises ValueError for a negative weight.

    >>> data = {"setup": "create table t (a, b); insert into t values (3, 4)", "query": "select a from t"}
    >>> queries = ("select a from t", "select t.a from t", "select b from t", "selec")
    >>> [round(reasoning_sql(query, data, isolation="process").value, 2) for query in queries]
    [6.0, 5.33, 1.53, 0.0]
    """
    weights = {"execution": execution, "syntax": syntax, "schema": schema, "bigrams": bigrams, "format": form}
    if min(*weights.values(), judge) < 0:
        raise ValueError(f"reasoning_sql: weights must be >= 0, got {weights} and judge {judge}")
    if judgement is not None and not (isinstance(judgement, int | float) and 0 <= judgement <= 1):
        return Verdict(0.0, valid=False, reason=f"a judgement is a number in 0..1, got {judgement!r:.40}")
    parts = _judge(response, reference, isolation)
    if isinstance(parts, Verdict):
        return parts
    found, why = parts
    total = sum(weight * found[name] for name, weight in weights.items())
    if judgement is not None:
        total += judge * max(float(judgement), found["execution"])
    return Verdict(total, valid=True, reason=why)


def _judge(response: str, reference: Any, isolation: str) -> Verdict | tuple[dict[str, float], str]:
    """The parts and why there is no more, or no verdict."""
    sandbox = Sandbox(isolation)
    try:
        wanted = _wanted(*read_database(reference), sandbox)
    except BadDatabaseError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}")
    except (_LostError, SandboxError) as error:
        return Verdict(0.0, valid=False, reason=str(error))
    parts = dict.fromkeys(PARTS, 0.0)
    parts["format"] = float(_TAGGED.fullmatch(response[: 10 * LONGEST]) is not None)
    query = _query(response)
    if query is None or len(query) > LONGEST:
        return parts, "no query" if query is None else f"a query of more than {LONGEST} characters"
    words = sql_words(query)
    parts["schema"] = jaccard(sorted(wanted.names & set(words)), sorted(wanted.names & set(wanted.words)))
    parts["bigrams"] = jaccard(_pairs(words), _pairs(wanted.words))
    try:
        parts["execution"], parts["syntax"], why = _compare(query, wanted, sandbox)
    except _LostError as error:
        return Verdict(0.0, valid=False, reason=str(error))
    return parts, why


class _LostError(RuntimeError):
    """A run that says nothing about the query."""


def _compare(query: str, wanted: Wanted, sandbox: Sandbox) -> tuple[float, float, str]:
    """Whether the rows are right, whether the query ran, and the first thing that is wrong."""
    first = ""
    for number, (setup, (columns, rows)) in enumerate(zip(wanted.setups, wanted.answers, strict=True), 1):
        run = _run(sandbox, setup, query, wanted)
        if run.value is None:
            return 0.0, 0.0, run.reason[:200]
        given, mine = run.value
        if not given:
            return 0.0, 0.0, "no statement that selects"
        why = _difference(len(given), mine, len(columns), rows, wanted.ordered)
        first = first or (why and f"database {number} of {len(wanted.setups)}: {why}")
    return float(not first), 1.0, first


def _difference(width: int, rows: list[tuple], wide: int, wanted: list[tuple], ordered: bool) -> str:
    if width != wide:
        return f"{width} columns, not {wide}"
    if len(rows) != len(wanted):
        return f"{len(rows)} rows, not {len(wanted)}"
    mine, theirs = ([tuple(map(_cell, row)) for row in table] for table in (rows, wanted))
    if mine == theirs:
        return ""
    same = Counter(mine) == Counter(theirs)
    return "" if same and not ordered else "another order" if same else "other rows"


def _cell(value: Any) -> tuple[str, Any]:
    """A value that is equal to that of the same number, and to nothing of another kind."""
    if isinstance(value, float) and value.is_integer() and 1e10 <= abs(value) < 2.0**53:
        value = int(value)
    if isinstance(value, int):
        return "number", value if abs(value) >= 10**10 else format(float(value), ".10g")
    if isinstance(value, float):
        return "number", format(value + 0.0, ".10g")
    return type(value).__name__, value


def _query(response: str) -> str | None:
    """The SQL of a response: in its <answer>, if it has one, the last complete fenced block or all of it."""
    _, opened, rest = response.rpartition("<answer>")
    inside, closed, _ = rest.partition("</answer>")
    code = final_code(inside if opened and closed else response)
    return code.strip() if code is not None else None


def sql_words(query: str) -> tuple[str, ...]:
    """The words of a query, without comments; names and words in lower case and without quotes, texts as they are.

    >>> sql_words('SELECT "A".b -- all\\nFROM [t] WHERE x >= \\'It\\'')
    ('select', 'a', '.', 'b', 'from', 't', 'where', 'x', '>=', "'It'")
    """
    words = []
    for match in _TOKEN.finditer(query[:LONGEST]):
        kind = match.lastindex
        if kind:
            words.append(match[kind] if kind == 1 else match[kind].lower())
    return tuple(words)


def _pairs(words: Sequence[str]) -> list[str]:
    return sorted({f"{a} {b}" for a, b in itertools.pairwise(words)})


def _ordered(words: Sequence[str]) -> bool:
    """Whether the whole of a query, not a part in parentheses, is put in order."""
    depth = 0
    for word, following in zip(words, [*words[1:], ""]):
        depth += (word == "(") - (word == ")")
        if depth == 0 and (word, following) == ("order", "by"):
            return True
    return False


def read_database(reference: Any) -> tuple[tuple[str, ...], str, float, int]:
    """A reference as databases, the right query, seconds and rows; BadDatabaseError says what is wrong with it."""
    if isinstance(reference, str):
        try:
            reference = json.loads(reference)
        except ValueError:
            raise BadDatabaseError("an object with a database is needed, got text") from None
    if not isinstance(reference, Mapping):
        raise BadDatabaseError(f"an object with a database is needed, got {type(reference).__name__}")
    if unknown := sorted(set(reference) - {"setup", "query", "seconds", "rows"}):
        raise BadDatabaseError(f"unknown field {unknown[0]!r}")
    setup, query = reference.get("setup"), reference.get("query")
    setups = (setup,) if isinstance(setup, str) else tuple(setup) if isinstance(setup, list | tuple) else ()
    if not setups or not all(isinstance(one, str) for one in setups):
        raise BadDatabaseError('"setup" must be SQL, or a list of at least one')
    if not isinstance(query, str) or not query.strip() or len(query) > LONGEST:
        raise BadDatabaseError(f'"query" must be SQL of at most {LONGEST} characters')
    seconds, rows = reference.get("seconds", 5.0), reference.get("rows", 10_000)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise BadDatabaseError(f"seconds must be a number in 0..3600, got {seconds!r}")
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 < rows <= 1_000_000:
        raise BadDatabaseError(f"rows must be a whole number in 1..1,000,000, got {rows!r}")
    return setups, query, float(seconds), rows


@functools.lru_cache(maxsize=256)
def _wanted(setups: tuple[str, ...], query: str, seconds: float, rows: int, sandbox: Sandbox) -> Wanted:
    words = sql_words(query)
    wanted = Wanted(setups, (), words, _ordered(words), frozenset(), Limits(wall=seconds, cpu=seconds), rows)
    answers = []
    for number, setup in enumerate(setups, 1):
        run = _run(sandbox, setup, query, wanted)
        if run.value is None:
            raise BadDatabaseError(f"its query fails in database {number}: {run.reason[:200]}")
        answers.append(run.value)
    if not any(selected for _, selected in answers):
        raise BadDatabaseError("its query selects nothing in any database, which any empty query would equal")
    listed = _run(sandbox, setups[0], _TABLES, wanted).value
    tables = [str(name) for (name,) in (listed[1] if listed else ())]
    names = {table.lower() for table in tables}
    for table in tables:
        found = _run(sandbox, setups[0], f"select * from {_quoted(table)} limit 0", wanted).value
        names |= {str(column).lower() for column in (found[0] if found else ())}
    return wanted._replace(answers=tuple(answers), names=frozenset(names))


_TABLES = "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite\\_%' escape '\\'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _run(sandbox: Sandbox, setup: str, query: str, wanted: Wanted) -> Result:
    try:
        run = run_sql(sandbox, setup, query, rows=wanted.rows, limits=wanted.limits)
    except ValueError as error:
        raise BadDatabaseError(str(error)) from None
    if run.ended is Ended.LOST:
        raise _LostError(f"lost: {run.reason}")
    return run
