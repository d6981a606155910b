"""Circuits graded by simulation: what passes, what a reference must be, and what hostile designs get."""

import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from payoff.cli import app
from payoff.rewards import resolve_reward
from payoff.rows import from_rows
from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals.verilog import read_circuit, verilog_tests

NOT = {"module": "no", "inputs": {"a": 1}, "outputs": {"y": 1}, "cases": [{"in": {"a": k}, "out": {"y": 1 - k}} for k in (0, 1)]}
COUNTER = {
    "module": "counter",
    "inputs": {"clk": 1, "rst": 1},
    "outputs": {"q": 4},
    "clock": "clk",
    "cases": [
        [{"in": {"rst": 1}, "out": {"q": 0}}, {"in": {"rst": 0}, "out": {"q": 1}}, {"out": {"q": 2}}],
        [{"in": {"rst": 0}}, {"in": {"rst": 1}, "out": {"q": "0000"}}, {"in": {"rst": 0}, "out": {"q": "---1"}}],
    ],
}
PORTS = "input clk, input rst, output reg [3:0] q"


@pytest.fixture(scope="module")
def icarus():
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))


def design(inside, ports="input a, output y"):
    return f"module no({ports});\n{inside}\nendmodule"


def value(text, reference=NOT):
    verdict = verilog_tests(text, reference)
    assert verdict.valid, verdict.reason
    assert verdict.reason.isprintable()
    return verdict.value


@pytest.mark.usefixtures("icarus")
def test_the_share_of_tests_that_pass():
    assert value(design("assign y = ~a;")) == 1.0
    assert value(f"Inverts.\n```verilog\n{design('assign y = ~a;')}\n```") == 1.0
    half = verilog_tests(design("assign y = 1;"), NOT)
    assert half == (0.5, True, "test 2 of 2: y was 1, not 0")
    assert verilog_tests(design("assign y = 1;"), NOT, rule="all").value == 0.0
    assert verilog_tests(design("assign y = ~a;"), NOT, rule="all").value == 1.0


@pytest.mark.usefixtures("icarus")
def test_floating_and_unknown_outputs_are_never_right():
    assert "y was z" in verilog_tests(design(""), NOT).reason
    assert "y was x" in verilog_tests(design("reg r; assign y = r;"), NOT).reason


@pytest.mark.usefixtures("icarus")
def test_clocked_circuits_go_step_by_step_and_every_test_has_an_instance_of_its_own():
    right = f"module counter({PORTS}); always @(posedge clk) if (rst) q <= 0; else q <= q + 1; endmodule"
    assert value(right, COUNTER) == 1.0
    never_reset = f"module counter({PORTS}); initial q = 4'hf; always @(posedge clk) q <= q + 1; endmodule"
    # counts 0, 1, 2 and, from the start again, 0, 1 where 0 is wanted: one of two
    assert value(never_reset, COUNTER) == 0.5
    late = f"module counter({PORTS}); always @(negedge clk) if (rst) q <= 0; else q <= q + 1; endmodule"
    assert value(late, COUNTER) == 0.0


@pytest.mark.usefixtures("icarus")
def test_wide_ports_and_bits_that_do_not_matter():
    wide = {"module": "m", "inputs": {"a": 100}, "outputs": {"y": 101, "z": 2}}
    tests = {**wide, "cases": [{"in": {"a": 2**100 - 1}, "out": {"y": 2**100, "z": "-0"}}]}
    assert (
        value("module m(input [99:0] a, output [100:0] y, output [1:0] z); assign y = a + 1; assign z[0] = 0; endmodule", tests)
        == 1.0
    )


@pytest.mark.usefixtures("icarus")
@pytest.mark.parametrize(
    ("text", "most"),
    [
        (design('initial $display("@payoff 0 0 0 1"); assign y = a;'), 0.0),  # an answer of its own besides the bench's
        (design('initial begin $display("@payoff 0 0 0 1"); $display("@payoff 1 0 0 1"); #1 $finish; end'), 0.0),
        (design('initial begin $write("all tests passed"); $finish; end'), 0.0),
        (design("initial $finish(0); assign y = ~a;"), 0.0),
        (design("initial $stop; assign y = a;"), 0.0),
        (design('initial $system("echo @payoff 0 0 0 1"); assign y = ~a;'), 0.0),
        (design('integer f; initial begin f = $fopen("/etc/passwd", "r"); if (f != 0) $finish; end assign y = a;'), 0.0),
        (design('integer f; initial begin f = $fopen("simulation", "w"); $fdisplay(f, "x"); end assign y = a;'), 0.0),
        (design('reg [7:0] m[0:9]; initial $readmemh("/etc/passwd", m); assign y = m[0];'), 0.0),
        (design('initial $dumpfile("/etc/dump"); initial $dumpvars; assign y = a;'), 0.0),
        (design('initial $value$plusargs("x=%d", y);', "input a, output reg y"), 0.0),
        ('`include "/etc/passwd"\n' + design("assign y = ~a;"), 0.0),
        ('`include "source0.v"\n' + design("assign y = ~a;"), 0.0),
        ("module payoff_bench; endmodule\n" + design("assign y = ~a;"), 0.0),
        (design("initial force payoff_bench.o1_0 = 1; assign y = 1;"), 0.5),
        (design("initial $deposit(y, 1);"), 0.5),
        ("`define display finish\n`timescale 1ps/1ps\n" + design("assign y = a;"), 0.0),
        ("`a" + "`define a `a\n" * 50, 0.0),
        ("module no(input a, output y); no n(a, y); endmodule", 0.0),  # an endless tree of itself
        ("(" * 100_000, 0.0),
        (design("assign y = {1000000000{a}};"), 0.0),
        ("\x00\x1b[2J" + design("assign y = a;"), 0.0),
        ("", 0.0),
    ],
)
def test_hostile_designs_get_no_more_than_they_compute(text, most):
    began = time.monotonic()
    assert value(text, {**NOT, "seconds": 2}) <= most
    assert time.monotonic() - began < 8


@pytest.mark.usefixtures("icarus")
@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("reg r = 0; initial forever r = ~r; assign y = ~a;", "longer than 1 s"),
        ('initial forever $display("%s", "x"); assign y = ~a;', "nothing was printed (it wrote more"),
    ],
)
def test_a_simulation_without_end_is_stopped(inside, why):
    began = time.monotonic()
    verdict = verilog_tests(design(inside), {**NOT, "seconds": 1})
    assert verdict.valid
    assert verdict.value == 0.0
    assert why in verdict.reason or "longer than 1 s" in verdict.reason
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"module": "no;"}, '"module" must be the name'),
        ({"module": "payoff_bench"}, '"module" must be the name'),
        ({"inputs": {"a b": 1}}, "is no name of a port"),
        ({"inputs": {"a": 0}}, "the width of a"),
        ({"inputs": {"a": True}}, "the width of a"),
        ({"outputs": {}}, '"outputs" must be'),
        ({"clock": "y"}, '"clock" must be an input'),
        ({"cases": []}, "at least one test"),
        ({"cases": [{"in": {"a": 1}}]}, "case 1 looks at no output"),
        ({"cases": [{"out": {"y": "-"}}]}, "case 1 looks at no output"),
        ({"cases": [{"out": {"y": 2}}]}, "must be a number of 1 bits"),
        ({"cases": [{"out": {"y": "x"}}]}, "must be a number of 1 bits"),
        ({"cases": [{"in": {"b": 1}, "out": {"y": 1}}]}, "no such port as 'b'"),
        ({"cases": [{"given": 1}]}, 'must have "in" and "out"'),
        ({"seconds": 0}, "seconds must be"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_a_reference_that_holds_no_tests_gives_no_verdict(change, why):
    verdict = verilog_tests(design("assign y = ~a;"), {**NOT, **change})
    assert not verdict.valid
    assert why in verdict.reason
    assert not verilog_tests("", None).valid


def test_without_icarus_there_is_no_verdict(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    verdict = verilog_tests(design("assign y = ~a;"), NOT)
    assert not verdict.valid
    assert "iverilog is not installed" in verdict.reason


def test_a_lost_run_gives_no_verdict(monkeypatch):
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, "strict", (), "the sandbox's server died", b"")
    monkeypatch.setattr("payoff.signals.verilog.run_verilog", lambda *a, **k: (False, lost))
    assert verilog_tests(design("assign y = ~a;"), NOT) == (0.0, False, "lost: the sandbox's server died")


def test_references_are_read_whole():
    circuit = read_circuit(COUNTER)
    assert (circuit.clock, len(circuit.tests), circuit.tests[0][1]) == ("clk", 2, ({"rst": "0"}, {"q": "0001"}))


@pytest.mark.usefixtures("icarus")
def test_rows_are_scored_by_name_twice_the_same(tmp_path):
    rows = [{"response": design(inside), "reference": NOT} for inside in ("assign y = ~a;", "assign y = 0;", "assign")]
    assert resolve_reward("verilog-tests")(from_rows(rows))["verilog-tests"].value.sum(1).tolist() == [1.0, 0.5, 0.0]
    data, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = CliRunner().invoke(app, ["score", "--reward", "verilog-tests", "--data", str(data), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["reward"]["verilog-tests"] for line in out.read_text().splitlines()] == [1.0, 0.5, 0.0]
