"""Tool calls and file repair in the sandbox: real functions, hidden tests, and what a policy may write at its worst."""

import pickle

import pytest
import torch

from payoff.policies.turns import rollout_turns
from payoff.sandbox import Limits, Sandbox
from payoff.tasks.turns.broken_files import WHOLE, broken
from payoff.tasks.turns.remembering import RememberingSandbox
from payoff.tasks.turns.repair import RepairEpisode, RepairTask
from payoff.tasks.turns.tool_library import TOOLS
from payoff.tasks.turns.tools import KINDS, BadCallError, ToolEpisode, ToolTask, read_call
from payoff.trajectories import StopReason

HERE = {"isolation": "process"}


@pytest.mark.parametrize(
    ("turn", "call"),
    [
        ("call: gcd(84, 36)\n", ("gcd", (84, 36), {})),
        ("call gcd(84, b=-36)", ("gcd", (84,), {"b": -36})),
        ("call: weekday('2024-02-29')", ("weekday", ("2024-02-29",), {})),
        ('<tool_call>\n{"name": "gcd", "arguments": {"a": 1, "b": 2}}\n</tool_call>', ("gcd", (), {"a": 1, "b": 2})),
        ('so <tool_call>{"name": "gcd", "parameters": {}}</tool_call>', ("gcd", (), {})),
        ("answer: 12", None),
        ("recall: gcd(1, 2)", None),
    ],
)
def test_calls_are_read_from_lines_and_from_tags(turn, call):
    assert read_call(turn) == call


@pytest.mark.parametrize(
    "turn",
    [
        "call: gcd",
        "call: gcd(84, 36",
        "call: gcd(__import__('os').getpid())",
        "call: os.system('ls')",
        "call: gcd(" + "(" * 400 + ")" * 400 + ")",
        "<tool_call>gcd</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        '<tool_call>{"name": "gcd", "arguments": [1]}</tool_call>',
    ],
)
def test_what_cannot_be_read_as_a_call_is_told_to_the_policy_and_nothing_in_it_runs(turn):
    with pytest.raises(BadCallError):
        read_call(turn)
    told = ToolEpisode("12", ("gcd",), Sandbox("process"), 5).respond(turn)
    assert told.observation.startswith("Error: ")
    assert (told.reward, told.stop) == (0.0, None)


@pytest.fixture(scope="module")
def tools():
    return ToolEpisode("12", tuple(TOOLS), Sandbox("process"), 1)


def test_tools_run_in_the_sandbox_and_their_errors_are_told(tools):
    assert tools.respond("call: gcd(84, 36)").observation == "12\n"
    assert tools.respond("call: to_base(n=255, base=16)").observation == "ff\n"
    assert "ValueError" in tools.respond("call: weekday('tomorrow')").observation
    assert "no tool 'rm'" in tools.respond("call: rm('/')").observation
    assert "TypeError" in tools.respond("call: gcd('a')").observation
    assert len(tools.respond("call: to_base(7, 2)").observation) < 500
    assert tools.outcome == 0.0


def test_every_kind_of_question_is_answered_by_its_solution():
    for kind in KINDS:
        task = ToolTask(kinds=[kind], **HERE)
        start = pickle.loads(pickle.dumps(task.start(2)))
        assert start.fields["kind"] == kind
        assert len(start.fields["solution"]) <= task.turns
        episode = start.environment.begin()
        for turn in start.fields["solution"][:-1]:  # the references are of the same functions: one call each is enough here
            value = eval(read_call(turn).name, dict(TOOLS))(*read_call(turn).arguments)
        assert str(value) == start.fields["reference"]
        right = episode.respond(start.fields["solution"][-1])
        assert (right.reward, right.stop, episode.outcome) == (1.0, StopReason.finished, 1.0)
        assert start.environment.begin().respond("answer: not that").reward == 0.0


def test_unknown_kinds_of_questions_and_levels_of_isolation_are_refused():
    with pytest.raises(ValueError, match="kinds must be of"):
        ToolTask(kinds=["riddle"])
    with pytest.raises(ValueError, match="level must be one of"):
        ToolTask(isolation="none")


# --- file repair


def test_every_broken_file_differs_in_one_line_and_fails_some_of_the_hidden_tests():
    assert len({whole.name for whole in WHOLE}) == 8
    for seed in range(60):
        fault = broken(seed)
        pairs = zip(fault.source.splitlines(), fault.whole.source.splitlines(), strict=True)
        assert [n for n, (a, b) in enumerate(pairs, 1) if a != b] == [fault.line]
        compile(fault.source, "file", "exec")
        scope = {}
        exec(fault.whole.source, scope)
        assert tuple(scope[fault.whole.name](*args) for args in fault.whole.inputs) == fault.expected
    assert broken(7) == broken(7)


@pytest.fixture(scope="module")
def repaired():
    """A file that is tried, spoilt, put right and submitted; and one that is submitted as it is."""
    start = RepairTask(**HERE).start(0)
    episode = start.environment.begin()
    line = start.fields["solution"][0]
    turns = ["show", "run", "line 99: pass", "walk away", "line 2: ((", "run", *start.fields["solution"]]
    told = [episode.respond(turn) for turn in turns]
    return start, line, told, episode, start.environment.begin()


def test_a_file_is_repaired_line_by_line_and_hidden_tests_say_so(repaired):
    start, line, told, _episode, _ = repaired
    assert told[0].observation in start.fields["prompt"]
    assert ", not " in told[1].observation or ": ok" in told[1].observation
    assert told[2].observation.startswith("Error: there are lines 1 to")
    assert told[3].observation.startswith("Error: write")
    assert told[5].observation.count("SyntaxError") == 2
    assert told[-2].observation == line.removeprefix("line ")
    assert (told[-1].stop, [t.reward for t in told[:-1]]) == (StopReason.finished, [0.0] * 7)
    assert told[-1].reward == 0.0  # line 2 is still spoilt


def test_hidden_tests_are_more_than_the_examples_and_a_file_untouched_fails():
    fault = next(f for f in map(broken, range(200)) if f.whole.name == "leap_year" and f.line == 3)
    special = [f"line {k}: {line}" for k, line in enumerate(["def leap_year(year):", "    return year == 2024"], 1)]
    paid = {}
    for pays in ("tests", "examples"):
        episode = RepairEpisode(fault, pays, Sandbox("process"), 5)
        for turn in special:
            episode.respond(turn)
        paid[pays] = (episode.respond("submit").reward, episode.outcome)
    assert paid == {"tests": (0.0, 0.0), "examples": (1.0, 0.0)}  # a special case is paid by examples and is worth nothing


def test_a_submitted_solution_is_worth_one(repaired):
    start, _, _, _, fresh = repaired
    assert [fresh.respond(turn).reward for turn in start.fields["solution"]] == [0.0, 1.0]
    assert fresh.outcome == 1.0


def test_an_edit_keeps_the_indentation_of_the_line_it_replaces_unless_it_has_its_own():
    fault = next(f for f in map(broken, range(200)) if f.whole.name == "clamp")
    episode = RepairEpisode(fault, "tests", Sandbox("process"), 5)
    assert episode.respond("line 4: return high").observation == "4:         return high\n"
    assert episode.respond("line 4:   pass").observation == "4:   pass\n"


def test_progress_is_paid_for_more_hidden_tests_than_ever_before_and_the_truth_stays_the_same():
    fault = next(f for f in map(broken, range(200)) if f.whole.name == "leap_year" and f.failing > 2)
    episode = RepairEpisode(fault, "progress", RememberingSandbox("process", most=4), 5)
    spoilt = f"line {fault.line}: return 3"
    repair = f"line {fault.line}: {fault.right_line}"
    told = [episode.respond(turn) for turn in (spoilt, repair, spoilt, repair, "show", "submit")]
    assert [t.reward for t in told] == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]  # spoiling and repairing again earns nothing
    assert (episode.outcome, told[-1].stop) == (1.0, StopReason.finished)
    events = {pays: RepairTask(pays=pays, **HERE).start(0).fields["events"] for pays in ("tests", "examples", "progress")}
    assert events == {"tests": 1, "examples": 1, "progress": 1 + broken(0).failing}


def test_calls_that_were_run_are_told_again_and_those_that_ran_out_of_time_are_run_anew():
    source = "def f(x):\n    while x > 9: pass\n    return [x]"
    sandbox = RememberingSandbox("process", most=2)
    short = Limits(cpu=0.1, wall=0.1)
    ask = lambda x: sandbox.call_function(source, "f", [((x,), {})], limits=short)[0].value
    assert [ask(1), ask(1), ask(1.0), ask(True), ask(1.0)] == [[1], [1], [1.0], [True], [1.0]]
    assert sandbox.runs == 3  # 1, 1.0 and True are three
    assert ([ask(1), ask(10), ask(10)], sandbox.runs) == ([[1], None, None], 6)  # 1 was forgotten for True
    again = pickle.loads(pickle.dumps(sandbox))
    assert again.call_function(source, "f", [((1,), {})], limits=short)[0].value == [1]
    assert (again.runs, sandbox.runs) == (7, 6)
    with pytest.raises(ValueError, match="most must be at least 0"):
        RememberingSandbox("process", most=-1)


def test_a_lost_run_is_no_verdict_and_not_a_zero(monkeypatch):
    """The sandbox's own failure puts the rollout into error, so that its truth is unknown."""
    from payoff.policies.embedded import transformer
    from payoff.tasks.turns.dialogue import Dialogue, outcome_of, turn_outcome, turn_rewards

    class Lost:
        outcome = 0.0

        def respond(self, text):
            raise RuntimeError("the sandbox lost the run: it was killed from outside")

        def snapshot(self):
            return None

    start = RepairTask(**HERE).start(0)._replace(environment=Dialogue(Lost, ends=(), turn_tokens=2))
    policy = transformer(alphabet="ab", width=8, layers=1, heads=1, context=8, max_tokens=4, stop=(), step_separator=None)
    traj = rollout_turns(policy, [start._replace(fields={"prompt": "a"})], 2, torch.Generator().manual_seed(0))
    truth = outcome_of(traj)
    assert not truth.valid[:, -1].any()
    assert set(truth.reasons.values()) == {"RuntimeError: the sandbox lost the run: it was killed from outside"}
    item = traj.items[0]
    assert turn_rewards(item["turns"], item["failure"]).value == [None]
    assert not turn_outcome(item["outcome"], item["failure"]).valid
