"""Queries graded by what they select: what is equal, what partial rewards say, and that hostile queries get nothing."""

import json
import time

import pytest
from typer.testing import CliRunner

from payoff.cli import app
from payoff.rewards import resolve_reward
from payoff.rows import from_rows
from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals import sql
from payoff.signals.sql import reasoning_sql, sql_execution, sql_parts, sql_words

SHOP = """create table goods (id integer, name text, price real);
insert into goods values (1, 'pen', 1.5), (2, 'ink', 4), (3, 'pad', 4), (4, null, 0.5);
create table sales (good integer, day text); insert into sales values (1, 'mon'), (1, 'tue'), (3, 'mon');"""
OTHER = """create table goods (id integer, name text, price real); insert into goods values (1, 'pen', 9), (2, 'cup', 2);
create table sales (good integer, day text);"""
DEAR = {"setup": [SHOP, OTHER], "query": "select name from goods where price > 2"}


def right(query, reference=DEAR):
    verdict = sql_execution(query, reference, isolation="process")
    assert verdict.valid, verdict.reason
    return verdict.value


def parts(query, reference=DEAR):
    return sql_parts(query, reference, isolation="process").value


@pytest.mark.parametrize(
    ("query", "wanted", "same"),
    [
        ("select price from goods where name = 'ink'", "select 4", 1.0),  # 4.0 is 4
        ("select '4'", "select 4", 0.0),
        ("select 0.1 + 0.2", "select 0.3", 1.0),
        ("select 0.30001", "select 0.3", 0.0),
        ("select -0.0", "select 0", 1.0),
        ("select 9007199254740993", "select 9007199254740992", 0.0),
        ("select 1e12", "select 1000000000000", 1.0),
        ("select null", "select 0", 0.0),
        ("select null", "select null", 1.0),
        ("select x'61'", "select 'a'", 0.0),
        ("select id, name from goods", "select name, id from goods", 0.0),
        ("select id as other from goods", "select id from goods", 1.0),
        ("select id from goods order by id desc", "select id from goods", 1.0),
        ("select id from goods order by id desc", "select id from goods order by id", 0.0),
        ("select id from goods", "select id from (select id from goods order by id desc limit 4)", 1.0),
        ("select distinct good from sales", "select good from sales", 0.0),
        ("select good from sales group by good", "select distinct good from sales", 1.0),
    ],
)
def test_rows_are_compared_as_a_multiset_or_in_the_order_that_was_asked_for(query, wanted, same):
    assert right(query, {"setup": SHOP, "query": wanted}) == same


def test_a_query_that_is_right_by_chance_in_one_database_is_found_out_by_another():
    lucky = "select name from goods where id in (2, 3)"
    assert right(lucky, {**DEAR, "setup": SHOP}) == 1.0
    assert sql_execution(lucky, DEAR, isolation="process").reason == "database 2 of 2: other rows"


def test_the_parts_of_the_reference_itself_are_all_full():
    said = f"<think>Over two.</think>\n<answer>{DEAR['query']}</answer>"
    assert parts(said) == dict.fromkeys(sql.PARTS, 1.0)
    assert reasoning_sql(said, DEAR, isolation="process").value == 7.0
    assert reasoning_sql(said, DEAR, 0.0, isolation="process").value == 9.0  # whatever the judge says of a right one


def test_a_query_of_other_words_is_right_and_shares_few_pairs():
    found = parts("SELECT goods.NAME FROM goods WHERE NOT price <= 2")
    # words: select goods . name from goods where not price <= 2; pairs shared with the reference's 7: name from, from goods,
    # goods where, of 10 + 7 - 3
    assert found == {"execution": 1.0, "syntax": 1.0, "schema": 1.0, "bigrams": 3 / 14, "format": 0.0}


def test_no_wrong_query_has_more_than_a_right_one():
    worst_right = reasoning_sql(
        "with g(x, y) as (values ('ink', 4), ('pad', 4)) select x from g", {**DEAR, "setup": SHOP}, isolation="process"
    )
    stuffed = "<think>.</think><answer>select name from goods where price > 2 and 2 > 9</answer>"
    best_wrong = reasoning_sql(stuffed, {**DEAR, "setup": SHOP}, isolation="process")
    assert worst_right.value >= 4 > best_wrong.value > 3
    believed = reasoning_sql(stuffed, {**DEAR, "setup": SHOP}, 1.0, isolation="process").value
    assert (
        believed
        < reasoning_sql("select x.name from goods x where 2 < x.price", {**DEAR, "setup": SHOP}, 0.0, isolation="process").value
    )


def test_weights_take_parts_away():
    only = dict.fromkeys(("judge", "syntax", "schema", "bigrams", "form"), 0.0)
    assert reasoning_sql(DEAR["query"], DEAR, execution=1.0, isolation="process", **only).value == 1.0
    with pytest.raises(ValueError, match="weights must be >= 0"):
        reasoning_sql("", DEAR, schema=-1.0)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("attach database '/tmp/stolen.db' as x", "not authorized"),
        ("attach database 'file:/etc/passwd?mode=ro' as x", "not authorized"),
        ("pragma writable_schema = 1", "not authorized"),
        ("select * from pragma_table_info('goods')", "not authorized"),
        ("select * from pragma_database_list", "not authorized"),
        ("update goods set price = 9", "not authorized"),
        ("delete from sales", "not authorized"),
        ("create temp table goods as select 1", "not authorized"),
        ("vacuum into '/tmp/stolen.db'", "authorization denied"),
        ("reindex", "no statement that selects"),
        ("", "no query"),
        ("begin", "not authorized"),
        ("select writefile('/tmp/x', 'y')", "no such function"),
        ("select readfile('/etc/passwd')", "no such function"),
        ("select load_extension('/tmp/x.so')", "not authorized"),
        ("select name from goods where price > 2; drop table goods", "one statement"),
        ("explain select 1", ""),
        ("select randomblob(1000000000)", ""),
        ("select printf('%.*c', 900000000, 'x')", ""),
        ("select name from goods where name like '" + "%a" * 5000 + "'", ""),
        ("select " + "(" * 3000 + "1" + ")" * 3000, ""),
        ("select 1" + " union all select 1" * 1000, ""),
        ("select group_concat(a.name) from goods a, goods b, goods c, goods d, goods e, goods f, goods g, goods h, goods i", ""),
    ],
)
def test_hostile_queries_get_nothing_and_harm_nothing(query, why):
    verdict = sql_execution(query, {**DEAR, "seconds": 2}, isolation="process")
    assert (verdict.valid, verdict.value) == (True, 0.0)
    assert verdict.reason.isprintable()
    assert why in verdict.reason
    assert right(DEAR["query"]) == 1.0


def test_queries_without_end_are_stopped_in_time():
    endless = "with recursive r(x) as (select 1 union all select x + 1 from r) select count(*) from r"
    began = time.monotonic()
    verdict = sql_execution(endless, {**DEAR, "seconds": 0.3}, isolation="process")
    assert verdict.value == 0.0
    assert "longer than 0.3 s" in verdict.reason
    assert time.monotonic() - began < 3


def test_words_that_would_be_slow_to_read_are_not():
    began = time.monotonic()
    for text in ("[" * 20_000, "'" * 19_999, "/*" * 10_000, '"' * 19_999, "-" * 20_000, "`a" * 9_999, "a" * 10**7):
        sql_words(text)
        parts("<think>" * 5 + text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (None, "an object with a database"),
        ("select 1", "got text"),
        ({"query": "select 1"}, '"setup" must be SQL'),
        ({"setup": [], "query": "select 1"}, '"setup" must be SQL'),
        ({"setup": SHOP, "query": " "}, '"query" must be SQL'),
        ({**DEAR, "extra": 1}, "unknown field 'extra'"),
        ({**DEAR, "seconds": 0}, "seconds must be a number"),
        ({**DEAR, "rows": 0}, "rows must be a whole number"),
        ({"setup": "create tabel t", "query": "select 1"}, "setup cannot be executed"),
        ({"setup": SHOP, "query": "select nothing"}, "its query fails in database 1"),
        ({"setup": SHOP, "query": "select name from goods where price > 99"}, "selects nothing in any database"),
    ],
)
def test_a_reference_that_judges_nothing_gives_no_verdict(reference, why):
    for grader in (sql_execution, sql_parts, reasoning_sql):
        verdict = grader("select 1", reference, isolation="process")
        assert not verdict.valid
        assert why in verdict.reason


def test_a_judgement_that_is_no_share_gives_no_verdict():
    for judgement in (2.0, -1, float("nan"), "yes"):
        assert not reasoning_sql(DEAR["query"], DEAR, judgement, isolation="process").valid


def test_a_lost_run_gives_no_verdict(monkeypatch):
    assert right(DEAR["query"]) == 1.0  # the right query's rows are remembered
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, "process", (), "the sandbox's server died", b"")
    monkeypatch.setattr(Sandbox, "run", lambda self, *a, **k: lost)
    assert sql_execution("select 1", DEAR, isolation="process") == (0.0, False, "lost: the sandbox's server died")
    assert not sql_execution("select 1", {**DEAR, "seconds": 4}, isolation="process").valid


def test_every_grader_scores_rows_by_its_name_twice_the_same(tmp_path):
    rows = [{"response": f"```sql\n{query}\n```", "reference": DEAR} for query in (DEAR["query"], "select id from goods", "selec")]
    traj = from_rows(rows)
    for level in ("strict", "process"):
        if level == "strict" and not _strict():
            continue
        values = [sql_execution(row["response"], row["reference"], isolation=level).value for row in rows]
        assert values == [1.0, 0.0, 0.0]
    if not _strict():
        pytest.skip("the level strict cannot be had here")
    assert sorted(resolve_reward("sql-parts")(traj)) == sorted(sql.PARTS)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "scored.jsonl"
    result = CliRunner().invoke(app, ["score", "--reward", "reasoning-sql", "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = [json.loads(line)["reward"]["reasoning-sql"] for line in out.read_text().splitlines()]
    assert found == pytest.approx(resolve_reward("reasoning-sql")(traj)["reasoning-sql"].value.sum(1).tolist())
    assert found[0] == 6.0 > found[1] > found[2] == 0.0


def _strict():
    try:
        Sandbox().run_python("")
    except SandboxError:
        return False
    return True
