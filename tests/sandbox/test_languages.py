"""C, C++, SQL and Verilog in the sandbox."""

import shutil

import pytest

from payoff.sandbox import Ended, Limits, Sandbox, SandboxError, examine
from payoff.sandbox.languages import compile_program, run_compiled, run_sql, run_verilog

TABLE = "create table t (a integer, b text); insert into t values (1, 'x'), (2, null), (3, 'z');"


@pytest.fixture
def strict():
    sandbox = Sandbox()
    try:
        sandbox.run_python("")
    except SandboxError as error:
        pytest.skip(str(error))
    return sandbox


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")


@needs_gcc
def test_c_compiles_once_and_runs_on_many_inputs(strict):
    source = '#include <stdio.h>\nint main(void) { int a; if (scanf("%d", &a) != 1) return 3; printf("%d\\n", 2 * a); return 0; }'
    compiled = compile_program(strict, "c", source)
    assert compiled.program, compiled.run
    assert [run_compiled(strict, compiled.program, stdin=str(k)).stdout for k in (1, 21)] == ["2\n", "42\n"]
    assert run_compiled(strict, compiled.program).exit_code == 3


@needs_gcc
def test_a_program_that_aborts_ends_with_its_signal(strict):
    compiled = compile_program(strict, "c", "#include <stdlib.h>\nint main(void) { abort(); }")
    run = run_compiled(strict, compiled.program)
    assert (run.ended, run.exit_code) == (Ended.ERROR, -6)


@needs_gcc
def test_what_does_not_compile_says_why(strict):
    compiled = compile_program(strict, "c", "int main({")
    assert compiled.program is None
    assert "expected" in compiled.run.stderr


@needs_gcc
def test_limits_hold_for_compiled_programs(strict):
    compiled = compile_program(strict, "c", "int main(void) { for (;;); }")
    assert run_compiled(strict, compiled.program, limits=Limits(wall=0.3)).ended is Ended.TIME


def test_programs_are_refused_at_the_weaker_level():
    with pytest.raises(SandboxError, match='at the level "strict" only'):
        compile_program(Sandbox("process"), "c", "int main(void) { return 0; }")
    with pytest.raises(ValueError, match="language must be one of c, cpp"):
        compile_program(Sandbox("process"), "fortran", "")


def test_a_missing_tool_is_named_with_its_package(strict, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    with pytest.raises(SandboxError, match="apt-get install iverilog"):
        run_verilog(strict, ["module t; endmodule"])


@needs_icarus
def test_verilog_compiles_and_simulates(strict):
    compiled, run = run_verilog(strict, ['module t; initial begin $display("sum %0d", 2 + 3); $finish; end endmodule'])
    assert compiled
    assert run.stdout == "sum 5\n"
    compiled, run = run_verilog(strict, ["module t; wire = ; endmodule"])
    assert not compiled
    assert "syntax error" in run.stderr + run.stdout


@pytest.mark.parametrize("level", ["strict", "process"])
def test_sql_gives_rows_and_their_types(level, request):
    sandbox = request.getfixturevalue("strict") if level == "strict" else Sandbox(level)
    assert run_sql(sandbox, TABLE, "select a, b, a / 2.0 as half from t order by a desc").value == (
        ["a", "b", "half"],
        [(3, "z", 1.5), (2, None, 1.0), (1, "x", 0.5)],
    )


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("insert into t values (4, 'w')", "not authorized"),
        ("drop table t", "not authorized"),
        ("attach '/etc/passwd' as p", "not authorized"),
        ("pragma table_info(t)", "not authorized"),
        ("select load_extension('x')", "not authorized"),
        ("select 1; select 2", "one statement"),
        ("select * from missing", "no such table"),
        ("select zeroblob(2000000000)", "Error"),
        ("select t.a from t, t t2, t t3, t t4, t t5, t t6, t t7, t t8, t t9", "more than 10000 rows"),
    ],
)
def test_sql_that_does_more_than_read_gives_no_rows(query, why):
    run = run_sql(Sandbox("process"), TABLE, query)
    assert run.value is None
    assert run.ended is Ended.ERROR
    assert why in run.reason


def test_sql_without_end_is_stopped():
    endless = "with recursive r(x) as (select 1 union all select x + 1 from r) select count(*) from r"
    run = run_sql(Sandbox("process"), TABLE, endless, limits=Limits(wall=0.3))
    assert (run.ended, run.value) == (Ended.TIME, None)


def test_a_setup_that_fails_is_the_callers_mistake():
    with pytest.raises(ValueError, match="setup cannot be executed"):
        run_sql(Sandbox("process"), "create tabel t", "select 1")


def test_examine_names_every_level_as_working_or_missing():
    found = examine()
    lines = found["works"] + found["missing"]
    assert all(sum(line.startswith(f"sandbox {level}: ") for line in lines) == 1 for level in ("strict", "process"))
    assert any(line.startswith("sandbox process: ") and "seccomp" in line for line in found["works"])
