"""Does a circuit do what it should? Verilog simulated by Icarus inside the sandbox, its outputs compared outside of it.

A row's `reference` is {"module": "adder", "inputs": {"a": 8, "b": 8}, "outputs": {"sum": 9}, "cases": [...]}: ports and widths,
and tests. A test is {"in": {"a": 1, "b": 2}, "out": {"sum": 3}}, or a list of these, one after the other on one instance; an output
that is not named is not looked at, an input that is not named keeps its value (unknown at first). Values are whole numbers >= 0 or
texts of 0, 1 and, for an output, "-" for any. "clock": the input that falls and rises once in every step; the others are set in
between, and the outputs read at the end. "seconds" for compiling and for simulating (10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from payoff.catalogue import method
from payoff.pipeline import Verdict
from payoff.sandbox.handle import Sandbox
from payoff.sandbox.languages import run_verilog
from payoff.sandbox.results import Ended, Limits, SandboxError
from payoff.signals.code import final_code

WIDEST, MOST_STEPS, LONGEST = 4096, 20_000, 200_000  # bits of a port; steps of all tests; characters of a design
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_LINE = re.compile(r"@payoff (\d+) (\d+) (\d+) ([01xz]+)", re.ASCII)
_BENCH = "payoff_bench"
Step = tuple[dict[str, str], dict[str, str]]


class BadCircuitError(ValueError):
    """A reference that holds no tests of a circuit."""


class Circuit(NamedTuple):
    """A reference, read: the module, widths of its ports, the clock or "", and the tests as steps of bits by port."""

    module: str
    inputs: dict[str, int]
    outputs: dict[str, int]
    clock: str
    tests: list[list[Step]]
    seconds: float


@method("verilog-tests", kind="grader", paper="arXiv:2508.18462")
def verilog_tests(response: str, reference: Any, *, rule: Literal["share", "all"] = "share") -> Verdict:
    """The share of tests that a Verilog design passes (VeriRL's pass rate), or with `rule` "all" 1 for passing every one, else 0.

    response: the design, bare or as the last complete fenced block. Every test has an instance of its own; a test is passed when
    every bit that is looked at, at every step, is what it should be: an unknown or floating bit never is.
    reference: see the module

    The bench is made here and holds inputs alone. What it prints is read strictly, and any answer given twice is wrong, so a
    design that prints answers of its own must know the right ones; nor does it profit from ending the simulation. What it can do is
    act as no circuit does: compute its outputs in tasks and loops, or see the next test's inputs through the bench's names.
    An instance that never comes to rest, or too much output, stops the simulation: what was not reached fails.
    The sandbox is "strict", alone in which programs can be started. Cost: two runs, 0.1 s together for small designs.
    No verdict where Icarus or the sandbox cannot be had, for a reference without tests, and for a lost run.
    Raises ValueError for another rule.

    >>> tests = {"module": "no", "inputs": {"a": 1}, "outputs": {"y": 1}, "cases": [{"in": {"a": 0}, "out": {"y": 1}}]}
    >>> verilog_tests("```verilog\\nmodule no(input a, output y);", tests).reason
    'no design: a fenced block is not closed'
    >>> verilog_tests("module no(input a, output y); assign y = ~a; endmodule", {**tests, "cases": []}).reason
    'reference: "cases" must be a list with at least one test'
    """
    if rule not in ("share", "all"):
        raise ValueError(f'verilog_tests: rule must be "share" or "all", got {rule!r}')
    try:
        circuit = read_circuit(reference)
    except BadCircuitError as error:
        return Verdict(0.0, valid=False, reason=f"reference: {error}")
    design = final_code(response)
    if design is None or len(design) > LONGEST:
        why = "a fenced block is not closed" if "```" in response else "empty"
        return Verdict(0.0, valid=True, reason=f"no design: {why if design is None else f'more than {LONGEST} characters'}")
    limits = Limits(
        cpu=circuit.seconds, wall=circuit.seconds, memory=1 << 30, scratch=32 << 20, output=8 << 20, processes=32, files=128
    )
    try:
        # The bench comes first, so that no macro of the design changes it.
        compiled, run = run_verilog(Sandbox("strict"), [bench(circuit), design], top=_BENCH, limits=limits)
    except SandboxError as error:
        return Verdict(0.0, valid=False, reason=f"cannot be judged here: {error}")
    if run.ended is Ended.LOST:
        return Verdict(0.0, valid=False, reason=f"lost: {run.reason}")
    if not compiled:
        said = " ".join("".join(c if c.isprintable() else " " for c in (run.stderr or run.stdout)[:300]).split())
        return Verdict(0.0, valid=True, reason=f"does not compile: {said or run.reason}")
    passes, why = _passes(run.stdout, circuit)
    if why and run.ended is not Ended.FINISHED:
        why = f"{why} ({run.reason})"
    passed = sum(passes)
    return Verdict(passed / len(passes) if rule == "share" else float(passed == len(passes)), valid=True, reason=why)


def bench(circuit: Circuit) -> str:
    """A test bench that sets the inputs of all tests and prints the outputs, "@payoff test step port bits".

    >>> print(bench(Circuit("no", {"a": 1}, {"y": 1}, "", [[({"a": "0"}, {"y": "1"})]], 1.0)))
    `timescale 1ns/1ps
    module payoff_bench;
    reg [0:0] i0_0; wire [0:0] o0_0;
    no t0(.a(i0_0), .y(o0_0));
    initial begin
    i0_0 = 1'b0; #10;
    $display("\\n@payoff 0 0 0 %b", o0_0);
    $finish;
    end
    endmodule
    """
    inputs, outputs = list(circuit.inputs), list(circuit.outputs)
    lines = ["`timescale 1ns/1ps", f"module {_BENCH};"]
    for k in range(len(circuit.tests)):
        ports = [f"reg [{circuit.inputs[name] - 1}:0] i{k}_{j};" for j, name in enumerate(inputs)]
        ports += [f"wire [{circuit.outputs[name] - 1}:0] o{k}_{j};" for j, name in enumerate(outputs)]
        joined = [f".{name}(i{k}_{j})" for j, name in enumerate(inputs)] + [f".{name}(o{k}_{j})" for j, name in enumerate(outputs)]
        lines += [" ".join(ports), f"{circuit.module} t{k}({', '.join(joined)});"]
    lines.append("initial begin")
    for k, steps in enumerate(circuit.tests):
        clock = f"i{k}_{inputs.index(circuit.clock)}" if circuit.clock else ""
        for number, (given, _) in enumerate(steps):
            low = [f"{clock} = 1'b0; #10;"] if clock else []
            sets = [f"i{k}_{inputs.index(name)} = {circuit.inputs[name]}'b{bits};" for name, bits in given.items()]
            lines.append(" ".join([*low, *sets, "#10;", *([f"{clock} = 1'b1; #10;"] if clock else [])]))
            lines += [f'$display("\\n@payoff {k} {number} {j} %b", o{k}_{j});' for j in range(len(outputs))]
    return "\n".join([*lines, "$finish;", "end", "endmodule"])


def _passes(printed: str, circuit: Circuit) -> tuple[list[bool], str]:
    """Which tests are passed, and the first thing that is wrong."""
    found: dict[tuple[int, int, int], str] = {}
    for line in printed.split("\n"):
        if match := _LINE.fullmatch(line):
            place = (int(match[1][:9]), int(match[2][:9]), int(match[3][:9]))
            found[place] = "" if place in found else match[4]
    passes, first = [], ""
    for k, steps in enumerate(circuit.tests):
        why = ""
        for number, (_, wanted) in enumerate(steps):
            for j, name in enumerate(circuit.outputs):
                bits, right = found.get((k, number, j)), wanted.get(name, "")
                if not why and (bits is None or not _agree(bits, right, circuit.outputs[name])):
                    at = f"step {number + 1}: " if len(steps) > 1 else ""
                    said = (
                        "nothing was printed" if bits is None else f"{name} was {bits[:64]}" if bits else "printed more than once"
                    )
                    why = f"test {k + 1} of {len(circuit.tests)}: {at}{said}" + (f", not {right[:64]}" if bits else "")
        passes.append(not why)
        first = first or why
    return passes, first


def _agree(bits: str, wanted: str, width: int) -> bool:
    return len(bits) == width and all(w == "-" or b == w for b, w in zip(bits, wanted or "-" * width, strict=True))


def read_circuit(reference: Any) -> Circuit:
    """A reference as ports and tests; BadCircuitError says what is wrong with it."""
    if not isinstance(reference, Mapping):
        raise BadCircuitError(f"an object with tests is needed, got {type(reference).__name__}")
    known = {"module", "inputs", "outputs", "clock", "cases", "seconds"}
    if unknown := sorted(set(map(str, reference)) - known):
        raise BadCircuitError(f"unknown field {unknown[0]!r}")
    module, clock = reference.get("module"), reference.get("clock", "")
    if not isinstance(module, str) or not _NAME.fullmatch(module) or module == _BENCH:
        raise BadCircuitError(f'"module" must be the name of a module, got {module!r}')
    inputs, outputs = (_ports(reference.get(name), name) for name in ("inputs", "outputs"))
    if clock and inputs.get(clock) != 1:
        raise BadCircuitError(f'"clock" must be an input of one bit, got {clock!r}')
    cases = reference.get("cases")
    if not isinstance(cases, list | tuple) or not cases:
        raise BadCircuitError('"cases" must be a list with at least one test')
    settable = {name: width for name, width in inputs.items() if name != clock}
    tests = [_test(case, number, settable, outputs) for number, case in enumerate(cases, 1)]
    if sum(map(len, tests)) > MOST_STEPS:
        raise BadCircuitError(f"more than {MOST_STEPS} steps")
    seconds = reference.get("seconds", 10.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise BadCircuitError(f"seconds must be a number in 0..3600, got {seconds!r}")
    return Circuit(module, inputs, outputs, clock, tests, float(seconds))


def _ports(ports: Any, name: str) -> dict[str, int]:
    if not isinstance(ports, Mapping) or (name == "outputs" and not ports):
        raise BadCircuitError(f'"{name}" must be an object from ports to their widths')
    for port, width in ports.items():
        if not isinstance(port, str) or not _NAME.fullmatch(port):
            raise BadCircuitError(f"{port!r} is no name of a port")
        if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= WIDEST:
            raise BadCircuitError(f"the width of {port} must be a whole number in 1..{WIDEST}, got {width!r}")
    return dict(ports)


def _test(case: Any, number: int, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> list[Step]:
    steps = case if isinstance(case, list | tuple) else [case]
    read = []
    for step in steps:
        if not isinstance(step, Mapping) or set(step) - {"in", "out"}:
            raise BadCircuitError(f'case {number} must have "in" and "out"')
        given, wanted = step.get("in", {}), step.get("out", {})
        if not isinstance(given, Mapping) or not isinstance(wanted, Mapping):
            raise BadCircuitError(f'case {number}: "in" and "out" must be objects')
        read.append((_bits(given, inputs, number, "01"), _bits(wanted, outputs, number, "01-")))
    if not any(set("".join(wanted.values())) - {"-"} for _, wanted in read):
        raise BadCircuitError(f"case {number} looks at no output")
    return read


def _bits(values: Mapping, ports: Mapping[str, int], number: int, signs: str) -> dict[str, str]:
    found = {}
    for name, value in values.items():
        if name not in ports:
            raise BadCircuitError(f"case {number}: there is no such port as {name!r}")
        width = ports[name]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << width:
            value = format(value, f"0{width}b")
        if not isinstance(value, str) or len(value) != width or set(value) - set(signs):
            raise BadCircuitError(f"case {number}: {name} must be a number of {width} bits, or so many of {' '.join(signs)}")
        found[name] = value
    return found
