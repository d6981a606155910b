"""Every mistake a person can make ends in one clear line, exit code 2, no traceback, and nothing overwritten."""

import contextlib
import errno
import io
import json
import os
import re
from pathlib import Path

import pytest

from payoff.cli import main

RUN = """\
title: t
task: {name: chain, terms: 2, held_out: 20}
policy: {name: transformer, alphabet: "0123456789+-=;#.", context: 40, width: 16, layers: 1, heads: 2, max_tokens: 8, stop: ["."]}
reward: {correct: chain-answer}
terms:
  policy: {paths: {correct: [total, rloo]}, loss: ppo-clip}
train: {updates: 2, starts: 2, rollouts: 2}
evaluate: {every: 0, starts: 4}
"""
ROWS = '{"prompt": "1+1=", "response": "2", "reference": "2"}\n{"prompt": "2+2=", "response": "5", "reference": "4"}\n'
GRADERS = """
import os, time
def good(response, reference): return float(response == reference)
def raises(response): raise RuntimeError("boom")
def text(response): return "yes"
def wants_more(response, rubric): return 1.0
def hangs(response):
    while True: pass
def _private(response): return 0.0
number = 3
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a good run file, good rows and graders, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    Path("rows.jsonl").write_text(ROWS)
    Path("graders.py").write_text(GRADERS)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


def spoil(old: str, new: str) -> None:
    assert old in RUN
    Path("run.yaml").write_text(RUN.replace(old, new))


SCORE = ("score", "--reward", "graders.py:good", "--data", "rows.jsonl", "--out", "out.jsonl")


def score(**options: str) -> list[str]:
    chosen = {"reward": "graders.py:good", "data": "rows.jsonl", "out": "out.jsonl", **options}
    return ["score", *(word for name, value in chosen.items() for word in (f"--{name}", value))]


MISTAKES: list[tuple[str, dict, list[str], str]] = [
    # what, files to write first, the command, what the line says
    ("no such command", {}, ["trian", "run.yaml"], "train"),
    ("no such option", {}, ["train", "run.yaml", "--outt", "x"], "--outt"),
    ("no run file", {}, ["train"], "RUN.yaml"),
    ("missing run file", {}, ["train", "runn.yaml"], "runn.yaml: there is no such file"),
    ("no shipped run file of that name", {}, ["compare", "hypergid"], "chain, hypergrid, mixture"),
    ("a folder as run file", {}, ["train", "."], "is a folder"),
    ("empty run file", {"run.yaml": ""}, ["train", "run.yaml"], "is empty"),
    ("a list as run file", {"run.yaml": "- 1\n"}, ["train", "run.yaml"], "must be a mapping of sections"),
    ("malformed YAML", {"run.yaml": RUN + "x: [1\n"}, ["train", "run.yaml"], r"run.yaml:\d+: is not valid YAML"),
    ("bytes as run file", {"run.yaml": b"\xff\xfe\x00"}, ["train", "run.yaml"], "not UTF-8|not valid YAML"),
    ("a key twice", {"run.yaml": RUN + "title: u\n"}, ["train", "run.yaml"], "'title' is given twice"),
    ("unknown key", {}, ["train", "run.yaml", "train.updaets=3"], "did you mean updates"),
    ("wrong type", {}, ["train", "run.yaml", "train.updates=many"], "train.updates: should be a valid integer.*many"),
    ("out of range", {}, ["train", "run.yaml", "train.learning_rate=-1"], "greater than 0, is -1"),
    ("no override", {}, ["train", "run.yaml", "updates"], "write key=value"),
    ("unknown task", {}, ["train", "run.yaml", "task.name=chian"], "unknown task 'chian'; did you mean chain"),
    ("unknown policy", {}, ["train", "run.yaml", "policy=transfromer"], "did you mean transformer"),
    ("unknown grader", {}, ["train", "run.yaml", "reward.correct=chain-anwser"], "did you mean chain-answer"),
    ("unknown transform", {}, ["train", "run.yaml", "terms.policy.paths.correct.1=rlo"], "did you mean rloo"),
    ("wrong kind", {}, ["train", "run.yaml", "terms.policy.loss=rloo"], "'rloo' is a advantage|'rloo' is an advantage"),
    ("unknown option", {}, ["train", "run.yaml", "terms.policy.loss.clip=0.1"], "has no option 'clip'"),
    ("option of wrong type", {}, ["train", "run.yaml", "terms.policy.loss.low=x"], "low should be a valid number"),
    ("option out of range", {}, ["train", "run.yaml", "task.terms=1"], "terms"),
    ("path without channel", {}, ["train", "run.yaml", "terms.policy.paths={corect: [total]}"], "did you mean correct"),
    ("mix of another channel", {}, ["train", "run.yaml", "terms.policy.mix={other: 1}"], "only in one of them"),
    ("group of one", {}, ["train", "run.yaml", "train.rollouts=1"], "train.rollouts is 1.*needs at least 2"),
    ("too many minibatches", {}, ["train", "run.yaml", "train.minibatches=9"], "more than the 4 rollouts"),
    ("needs nobody meets", {}, ["train", "run.yaml", "terms.policy.paths.correct=[lambda-return]"], "needs \\['values'\\].*critic"),
    ("no terms", {}, ["train", "run.yaml", "terms={}"], "nothing to train"),
    ("no reward", {}, ["train", "run.yaml", "reward={}"], "no reward"),
    ("no arms", {}, ["compare", "run.yaml"], "has no arms to compare"),
    ("unknown arm", {}, ["train", "run.yaml", "--arm", "x"], "has no arm 'x'"),
    ("unknown baseline", {}, ["compare", "compare.baseline=x"], "no arm 'x'"),
    ("missing checkpoint", {}, ["train", "run.yaml", "policy.checkpoint=none.pt"], "none.pt"),
    ("not a checkpoint", {"bad.pt": "hello"}, ["train", "run.yaml", "policy.checkpoint=bad.pt"], "bad.pt"),
    ("a prompt outside the alphabet", {}, ["train", "run.yaml", "policy.alphabet='0123456789+-;#.'"], "="),
    ("missing grader file", {}, score(reward="none.py:good"), "none.py"),
    ("missing function", {}, score(reward="graders.py:goood"), "did you mean.*good"),
    ("not a function", {}, score(reward="graders.py:number"), "number"),
    ("file that raises", {"graders.py": "1/0\n"}, score(), "graders.py.*ZeroDivisionError"),
    ("file with a syntax error", {"graders.py": "def f(:\n"}, score(), "graders.py"),
    ("unknown reward", {}, score(reward="answer-mach"), "did you mean answer-match"),
    ("missing data", {}, score(data="none.jsonl"), "none.jsonl"),
    ("empty data", {"rows.jsonl": ""}, score(), "rows.jsonl.*(empty|no rows)"),
    ("malformed line", {"rows.jsonl": ROWS + '{"a": \n'}, score(), "rows.jsonl.*line 3|rows.jsonl:3"),
    ("a line that is no object", {"rows.jsonl": ROWS + "[1]\n"}, score(), "rows.jsonl.*(line 3|:3)"),
    ("missing column", {}, score(reward="graders.py:wants_more"), "rubric"),
    ("unknown format", {"rows.xyz": "x"}, score(data="rows.xyz"), "rows.xyz"),
    ("bytes as rows", {"rows.jsonl": b"\xff\xfe{}"}, score(), "rows.jsonl.*UTF-8"),
    ("out exists", {"out.jsonl": "precious"}, score(), "out.jsonl.*exists"),
    ("out in no folder", {}, score(out="nowhere/out.jsonl"), "nowhere"),
    ("out of unknown kind", {}, score(out="out.what"), "out.what"),
    ("map without equals", {}, [*score(), "--map", "reference"], "FIELD=COLUMN"),
    ("map to a missing column", {}, [*score(), "--map", "reference=answr"], "answr"),
    ("deadline without workers", {}, [*score(), "--deadline", "1"], "workers"),
    ("no gold field", {}, ["validate", "--reward", "graders.py:good", "--data", "rows.jsonl", "--gold", "gold"], "gold"),
    ("unknown kind", {}, ["methods", "--kind", "credits"], "did you mean credit"),
    ("unknown reasoning-gym task", {}, score(reward="reasoning-gym:chain_smu"), "chain_sum"),
    ("a bad colour", {}, ["--color", "pink", "methods"], "auto, always or never"),
    ("pretrain on nothing", {}, ["pretrain", "maze"], "allowed: chain"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "files", "command", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_ends_in_one_line_and_exit_code_2(place, what, files, command, message):
    for name, content in files.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    code, out, err = run(*command)
    assert code == 2, (code, out, err)
    assert "Traceback" not in out + err
    assert re.search(message, err), err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    after = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path: text for path, text in after.items() if path in before} == before
    assert not [path for path in after if path.suffix == ".tmp"]


def test_there_are_more_than_forty_of_them():
    assert len(MISTAKES) >= 55


@pytest.mark.parametrize("grader", ["raises", "text"])
def test_a_graders_own_failure_is_an_invalid_verdict_with_its_reason(place, grader):
    code, out, err = run(*score(reward=f"graders.py:{grader}"))
    assert code == 0, err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == [{grader: None}] * 2
    assert all(row["reason"][grader] for row in rows)
    assert "2 invalid" in out


@pytest.mark.slow
def test_a_grader_that_hangs_is_killed_and_the_others_are_scored(place):
    code, out, err = run(*score(reward="graders.py:hangs"), "--workers", "1", "--deadline", "0.3")
    assert code == 0, err
    assert "deadline" in out


def test_a_training_run_whose_grader_fails_stops_past_the_stated_share(place):
    code, _, err = run("train", "run.yaml", "reward.correct=graders.py:raises", "--out", "r")
    assert code == 2
    assert re.search(r"4 of 4 rollouts have no verdict \(4 x RuntimeError: boom\)", err), err
    assert json.loads(Path("r/results.json").read_text())["status"] == "failed"


def test_another_run_file_does_not_mix_into_a_folder(place):
    code, _, err = run("train", "run.yaml", "--out", "r")
    assert code == 0, err
    first = Path("r/results.json").read_text()
    code, _, err = run("train", "run.yaml", "train.updates=3", "--out", "r")
    assert code == 2
    assert "train.updates was 2, is 3" in err
    assert "--fresh" in err
    assert Path("r/results.json").read_text() == first
    code, _, err = run("train", "run.yaml", "train.updates=3", "--out", "r", "--fresh")
    assert code == 0, err
    assert [path for path in place.iterdir() if path.name.startswith("r-until-")]


def test_a_folder_that_is_no_run_folder_is_left_alone(place):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    code, _, err = run("train", "run.yaml", "--out", "mine")
    assert code == 2
    assert "is not a run folder" in err
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(place):
    Path("locked").mkdir(mode=0o500)
    code, _, err = run("train", "run.yaml", "--out", "locked/r")
    assert code == 2
    assert "locked" in err


def test_a_full_disk_is_told_in_a_line(place, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "r/results.json")

    monkeypatch.setattr("payoff.runs.write_text", full)
    code, _, err = run("train", "run.yaml", "--out", "r")
    assert code == 2
    assert "no space left" in err


def test_json_is_one_object_also_on_failure(place):
    for command in (score(data="none.jsonl"), ["train", "none.yaml"], ["methods", "--kind", "x"], ["nothing"]):
        code, out, _err = run(*command, "--json")
        answer = json.loads(out)
        assert code == answer["exit_code"] == 2
        assert answer["errors"][0]["message"]


def test_init_overwrites_nothing(place):
    assert run("init", "new")[0] == 0
    Path("new/reward.py").write_text("mine")
    code, _, err = run("init", "new")
    assert code == 2
    assert "exists already" in err
    assert Path("new/reward.py").read_text() == "mine"
