"""Commands as a person or a program uses them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from payoff.cli import main

RUN = """\
title: small
task: {name: chain, terms: 2, held_out: 20}
policy: {name: transformer, alphabet: "0123456789+-=;#.", context: 40, width: 16, layers: 1, heads: 2, max_tokens: 8}
reward: {format: chain-format, length: length}
arms:
  format: {terms: {policy: {paths: {format: [total, rloo]}, loss: ppo-clip}}}
  length: {description: longer is better, terms: {policy: {paths: {length: [total, grpo]}, loss: ppo-clip}}}
train: {updates: 3, starts: 2, rollouts: 2}
evaluate: {every: 1, starts: 8}
compare: {seeds: 2}
"""


def payoff(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "payoff", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.slow
def test_compare_runs_every_arm_with_every_seed_and_the_same_command_keeps_them(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    first = payoff("compare", "run.yaml", "--out", "r", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert answer["status"] == "finished"
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert {arm: sorted(of["seeds"]) for arm, of in results["arms"].items()} == {"format": ["0", "1"], "length": ["0", "1"]}
    assert results["baseline"] == "format"
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000
    lines = (tmp_path / "r/arms/length/seed-1/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [0, 1, 2, 3]
    rollouts = [json.loads(line) for line in (tmp_path / "r/arms/length/seed-1/rollouts.jsonl").read_text().splitlines()]
    assert {r["phase"] for r in rollouts} == {"start", "middle", "end"}
    assert all(len(r["credit"]) == len(r["tokens"]) for r in rollouts)
    assert all(r["total"] == r["reward"]["length"] for r in rollouts)  # what this arm collects is the length alone
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "arms").rglob("metrics.jsonl")}
    again = payoff("compare", "run.yaml", "--out", "r", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "4 of 4 runs are finished already" in again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "r" / "arms").rglob("metrics.jsonl")}
    assert again.stderr.strip().splitlines()[-1] == "report: r/report.html"


def test_help_starts_without_torch_and_fast():
    code = "import sys; sys.argv = ['payoff', '--help']\nfrom payoff.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    done = subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout


def test_completion_offers_registered_methods_without_torch():
    environment = {**os.environ, "_PAYOFF_COMPLETE": "complete_bash", "COMP_WORDS": "payoff methods --kind cre", "COMP_CWORD": "3"}
    start = time.monotonic()
    done = payoff(env=environment)
    assert "credit" in done.stdout
    assert time.monotonic() - start < 20


def test_methods_lists_kinds_names_and_papers(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["methods", "--kind", "credit", "--json"])
    assert stop.value.code == 0
    listed = json.loads(capsys.readouterr().out)["results"]["methods"]
    assert {"total", "return-to-go", "immediate", "pure", "lambda-return"} <= {m["name"] for m in listed}


def test_no_color_leaves_no_escape_anywhere(tmp_path):
    done = payoff("train", "none.yaml", "--color", "never", cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
    assert payoff("--help", env={**os.environ, "NO_COLOR": "1"}).stdout.count("\x1b") == 0


def test_text_of_models_cannot_steer_the_terminal(capsys):
    from payoff.terminal import plain

    assert plain("a\x1b[2Jb\r\x07") == "a\\x1b[2Jb\\x0d\\x07"


def test_print_config_runs_again_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    texts = []
    for path in ("run.yaml", "again.yaml"):
        with pytest.raises(SystemExit):
            main(["compare", path, "--print-config"])
        texts.append(capsys.readouterr().out)
        Path("again.yaml").write_text(texts[0])
    strip = lambda text: [line.split("  # ")[0] for line in text.splitlines()]
    assert strip(texts[0]) == strip(texts[1])


def test_json_lines_tell_what_happens_and_end_with_the_one_object(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    done = payoff("train", "run.yaml", "train.updates=1", "--arm", "length", "--out", "r", "--json-lines", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *events, answer = map(json.loads, done.stdout.splitlines())
    assert answer["status"] == "finished"
    assert [e["event"] for e in events][-1] == "run"
    assert events[-1]["status"] == "finished"
    newest = [e for e in events if e["event"] == "evaluation"][-1]
    assert (newest["arm"], newest["seed"], newest["update"]) == ("length", 0, 1)
    assert 0 <= newest["truth"] <= 1


@pytest.mark.parametrize("arguments", [["methods"], ["methods", "--json"], ["methods", "--kind", "nothing"], ["no-such-command"]])
def test_with_qq_the_exit_code_is_all_there_is(arguments, capsys):
    with pytest.raises(SystemExit) as loud:
        main(arguments)
    assert "".join(capsys.readouterr()) != ""
    with pytest.raises(SystemExit) as silent:
        main([*arguments, "-qq"])
    assert "".join(capsys.readouterr()) == ""
    assert silent.value.code == loud.value.code


def test_the_environment_overrides_the_file_and_the_command_line_overrides_both(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(RUN)
    monkeypatch.setenv("PAYOFF_TRAIN__UPDATES", "7")
    monkeypatch.setenv("PAYOFF_TRAIN__STARTS", "5")
    monkeypatch.setenv("PAYOFF_REWARD", "nothing.py:here")  # another tool's; without a section and a key it is no override
    with pytest.raises(SystemExit) as end:
        main(["train", str(tmp_path / "run.yaml"), "train.starts=6", "--print-config"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "updates: 7" in shown
    assert "# environment PAYOFF_TRAIN__UPDATES" in shown
    assert "starts: 6" in shown
    monkeypatch.setenv("PAYOFF_TRIAN__UPDATES", "7")
    with pytest.raises(SystemExit) as end:
        main(["train", str(tmp_path / "run.yaml")])
    assert end.value.code == 2
    assert "trian" in capsys.readouterr().err


def test_scored_rows_say_why_where_that_is_asked_for(tmp_path, capsys):
    rows = [{"response": "It is 2.", "reference": "2"}, {"response": "a, b", "reference": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", "--reward", "answer-match", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--explain"])
    said = [json.loads(line)["explanation"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert "read as the final answer" in said[0]
    assert said[1] == "no reference to compare the answer with"
    assert f"row 2: {said[1]}" in capsys.readouterr().out


def test_a_signal_that_rows_are_not_enough_for_is_a_mistake_of_one_line(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"response": "2"}\n')
    command = ["score", "--reward", "igpo", "--data", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert capsys.readouterr().err.strip().startswith("error: reward 'igpo': information_gain: needs extras['reference_logp']")


def test_where_every_right_answer_is_refused_it_is_said_how_one_is_phrased(tmp_path, capsys):
    (tmp_path / "reward.py").write_text("def tagged(response, reference):\n    return float(response == f'#{reference}.')\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "reference": "2"}\n{"prompt": "1+2", "reference": "3"}\n')
    asked = ["validate", "--reward", f"{tmp_path}/reward.py:tagged", "--data", f"{tmp_path}/rows.jsonl"]
    for more, said in (([], True), (["--template", "#{reference}."], False)):
        with pytest.raises(SystemExit):
            main([*asked, *more])
        assert ("say how: --template" in capsys.readouterr().out) is said
