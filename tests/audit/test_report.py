"""The audit as a whole, on rewards with a flaw and without one: the verdict, its JSON, its page and the command."""

import json
import random

import pytest

from payoff.audit.case import Case
from payoff.audit.checks import CHECKS
from payoff.audit.measurement import Measurement, worst_first
from payoff.audit.oversized import oversized
from payoff.audit.page import page
from payoff.audit.report import AuditError, audit, differences, from_json, gates, hit, told
from payoff.audit.scorer import Scorer
from payoff.cli import main
from payoff.grading import signal
from payoff.intervals import Interval, wilson
from payoff.signals.answers import answer_match


def sums(prompts=100, answers=4, seed=0):
    """Answers to sums, half of them right."""
    rng = random.Random(seed)
    rows = []
    for _ in range(prompts):
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        for _ in range(answers):
            ok = rng.random() < 0.5
            said = a + b if ok else a + b + rng.choice([-10, -1, 1, 10])
            rows.append({"prompt": f"{a}+{b}=", "response": f"The answer is {said}", "reference": str(a + b), "gold": float(ok)})
    return rows


@pytest.fixture(autouse=True)
def _small_giants(monkeypatch):
    """Very long responses have tests of their own; here they would be most of the time."""
    short = lambda *given, **options: oversized(*given, **options | {"seconds": 0.02, "sizes": (100, 1000), "kinds": ("filler",)})
    monkeypatch.setattr("payoff.audit.checks.oversized", short)


def lenient(response, reference):
    return float(reference in response)


def of(reward, rows=None, **options):
    return Case(Scorer(signal(reward)), rows or sums(), gold="gold", budget=200, **options)


def test_a_lenient_reward_fails_first_by_what_is_wrong_with_it_and_the_registered_one_has_no_finding():
    chosen = [name for name in CHECKS if name not in ("health", "distance")]  # how long it takes is the machine's
    few = sums(48, 2)
    flawed = audit(of(lenient, few), reward="lenient", only=chosen)
    clean = audit(of(answer_match, few), reward="answer_match", only=["discrimination", "attacks", "invariances", "bias", "noise"])
    assert flawed.verdict == "fails"
    assert flawed.findings[0].name in ("attack-hedged-answer", "attack-retracted-answer", "attack-buried-answer")
    assert [m.name for m in clean.findings] == []
    told_all = told(flawed)
    assert told_all.splitlines()[0].startswith("audit lenient   FAILS")
    assert "not tried: health" in told_all
    apart = differences(flawed, clean)
    assert "attack-hedged-answer" in apart
    document = page(flawed, command="payoff audit")
    assert document.count("<section") >= 8
    assert all(f'id="m-{m.name}"' in document for m in flawed.measurements)


def test_what_a_reward_gave_is_text_on_the_page():
    rows = [{**row, "response": row["response"] + "<script>alert(1)</script>"} for row in sums(10)]
    document = page(audit(of(lenient, rows), reward="<b>mine</b>", only=["discrimination", "attacks"]))
    assert "<script>alert(1)" not in document
    assert "<b>mine</b>" not in document
    assert "&lt;script&gt;alert(1)" in document


def test_finished_checks_are_read_back_until_what_they_depend_on_changes(tmp_path):
    asked = []

    def counting(response, reference):
        asked.append(response)
        return answer_match(response, reference)

    rows = sums(20)
    first = audit(of(counting, rows), only=["discrimination"], folder=tmp_path, key="a")
    before = len(asked)
    again = audit(of(counting, rows), only=["discrimination"], folder=tmp_path, key="a")
    assert len(asked) == before
    assert [m.as_json() for m in again.measurements] == [m.as_json() for m in first.measurements]
    audit(of(counting, rows), only=["discrimination"], folder=tmp_path, key="b")
    assert len(asked) > before
    (tmp_path / "discrimination.json").write_text("{half")
    assert audit(of(counting, rows), only=["discrimination"], folder=tmp_path, key="b").measurements


def test_a_measurement_survives_its_json():
    kept = Measurement(
        "auc",
        "discrimination",
        "Is it?",
        Interval(0.5, 0.4, 0.6, 9),
        bound=0.8,
        bad="below",
        worst=0.5,
        remedies=("g-ra",),
        needs=3,
    )
    assert from_json(json.loads(json.dumps(kept.as_json()))).as_json() == kept.as_json()
    missing = Measurement("brier", "noise", "Is it?", None, note="no gold")
    assert from_json(missing.as_json()).as_json() == missing.as_json()


def test_the_result_is_that_of_the_whole_interval_and_of_enough():
    def measured(value, low, high, n=50, **more):
        return Measurement("x", "c", "?", Interval(value, low, high, n), **{"bound": 0.1, "worst": 0.6, "needs": 10, **more})

    assert measured(0.3, 0.2, 0.4).result == "fails"
    assert measured(0.3, 0.2, 0.4).severity == pytest.approx(0.2)  # (0.2 - 0.1) / (0.6 - 0.1)
    assert measured(0.9, 0.8, 1.0).severity == 1.0
    assert measured(0.1, 0.05, 0.2).result == "inconclusive"
    assert measured(0.05, 0.02, 0.1).result == "holds"
    assert measured(0.3, 0.2, 0.4, n=5).result == "inconclusive"
    assert measured(0.3, None, None).result == "inconclusive"
    assert measured(0.3, 0.2, 0.4, bad="below", bound=0.5, worst=0.0).severity == pytest.approx(0.2)
    assert measured(0.3, 0.2, 0.4, bound=None).result == "not applicable"
    order = worst_first([measured(0.9, 0.7, 1.0), measured(0.05, 0.0, 0.1), measured(1.0, 0.9, 1.0), measured(0.1, 0.0, 0.2)])
    assert [m.estimate.value for m in order] == [1.0, 0.9, 0.1, 0.05]


def test_gates_speak_of_families_and_single_measures():
    found = audit(of(lenient, sums(10)), only=["discrimination", "attacks"])
    assert gates("attack_fpr>0.01,auc<0.9") == [("attack-fpr", ">", 0.01), ("auc", "<", 0.9)]
    assert hit(("attack-fpr", ">", 0.01), found).endswith("(> 0.01)")
    assert hit(("auc", "<", 0.5), found) is None
    for text in ("auc", "auc=3", "", "auc<much"):
        with pytest.raises(AuditError, match="--fail-on"):
            gates(text)
    with pytest.raises(AuditError, match="did you mean 'auc'"):
        hit(("aux", "<", 0.5), found)


@pytest.mark.parametrize(
    ("only", "said"), [(["atacks"], "did you mean 'attacks'"), (["zzz"], "there are discrimination")], ids=["near", "far"]
)
def test_an_unknown_check_is_named(only, said):
    with pytest.raises(AuditError, match=said):
        audit(of(answer_match), only=only)


def run(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["audit", *arguments])
    return end.value.code, capsys.readouterr()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def lenient(response, reference):\n    return float(reference in response)\n"
        "def raises(response, reference):\n    raise RuntimeError('no')\n"
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(10)))
    return tmp_path


BASE = ["--reward", "mine.py:lenient", "--data", "rows.jsonl", "--gold", "gold", "--only", "discrimination,attacks"]


def test_the_command_writes_its_report_and_exits_by_its_verdict(files, capsys):
    code, out = run([*BASE, "--json", "out.json"], capsys)
    assert code == 1
    found = json.loads((files / "out.json").read_text())
    assert {"measure", "severity", "estimate", "interval", "advice", "examples"} <= set(found["findings"][0])
    assert [f["severity"] for f in found["findings"]] == sorted((f["severity"] for f in found["findings"]), reverse=True)
    assert "FAILS" in out.out
    assert (files / "audits" / "mine.py-lenient" / "report.html").is_file()


def test_the_commands_json_alone_goes_to_standard_output(files, capsys):
    code, out = run([*BASE, "--json"], capsys)
    answer = json.loads(out.out)
    assert code == 1 == answer["exit_code"]
    assert answer["results"]["findings"][0]["measure"].startswith("attack-")


def test_a_damaged_line_costs_that_line_and_is_counted(files, capsys):
    path = files / "rows.jsonl"
    path.write_bytes(b'{"prompt": broken\n' + path.read_bytes() + b'[1, 2]\n{"prompt": "\xff"}\n')
    code, out = run([*BASE, "--json", "out.json"], capsys)
    assert code == 1
    assert "warning: 3 rows could not be read and were left out; the first: rows.jsonl line 1: is not JSON" in out.err
    found = json.loads((files / "out.json").read_text())
    assert (found["rows"], found["damaged_rows"]) == (40, 3)


def test_another_reward_is_audited_on_the_same_rows_and_counted_apart(files, capsys):
    code, out = run([*BASE, "--against", "mine.py:raises", "--json", "out.json"], capsys)
    assert code == 1
    found = json.loads((files / "out.json").read_text())
    assert (found["invalid"], found["against"]["invalid"]) == (0, 40)
    assert "mine.py:lenient against mine.py:raises, on the same 40 responses" in out.out
    code, out = run([*BASE, "--against", "mine.py:raises", "--json"], capsys)
    assert json.loads(out.out)["counts"]["by_reason"] == {}  # those of the reward, not of the other


def test_gates_decide_the_exit_code_alone(files, capsys):
    assert run([*BASE, "--fail-on", "auc<0.5"], capsys)[0] == 0
    code, out = run([*BASE, "--fail-on", "attack_fpr>0.5"], capsys)
    assert code == 1
    assert "gate: attack-" in out.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--gold", "golden"], "--gold golden: no row"),
        (["--only", "nothing"], "no check 'nothing'"),
        (["--fail-on", "x"], "--fail-on"),
        (["--data", "absent.jsonl"], "absent.jsonl"),
        (["--reward", "mine.py:lenent"], "lenent"),
        (["--channel", "nope"], "found 'nope': choose one of them"),
        (["--reward", "mine.py:raises"], "raises"),
    ],
)
def test_mistakes_end_in_one_line(files, capsys, change, said):
    code, out = run([*BASE, *change], capsys)
    lines = [line for line in out.err.splitlines() if line.startswith("error:")]
    if change[1] == "mine.py:raises":  # a grader that raises gives no verdict: counted, and nothing can be measured
        assert code == 3
        return
    assert code == 2
    assert len(lines) == 1
    assert said in lines[0]


def test_wilson_is_what_rates_are_told_with():
    rate = wilson(0, 76)
    assert rate.high == pytest.approx(0.0481, abs=5e-4)  # so 76 prompts without a success can hold a bound of 5 %
