"""Evidence from a policy: rows with the task's truth from a run file and from a run's checkpoint, and through the command."""

import json

import pytest

from payoff.audit.sampled import EvidenceError, sampled_rows
from payoff.cli import main

RUN = """
task: {name: tree, vocabulary: 2, horizon: 2, prompts: 3, leaf_rewards: {ab: 1.0}}
policy: {name: tabular, vocabulary: 2, horizon: 2, starts: 3}
reward: {pay: tree-leaf}
terms: {policy: {paths: {pay: [total, rloo]}, loss: policy-gradient, aggregation: token-mean}}
train: {updates: 2, starts: 3, rollouts: 4, learning_rate: 1.0}
evaluate: {every: 0, starts: 2}
"""


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampled") / "run.yaml"
    path.write_text(RUN)
    return path


def test_rows_of_an_untrained_policy_have_groups_responses_and_the_truth(run_file):
    rows = sampled_rows(str(run_file), prompts=7, samples=5)
    assert len(rows) == 35
    assert len({row["group"] for row in rows}) == 7
    assert all(row["gold"] == float(row["response"] == "ab") for row in rows)
    again = sampled_rows(str(run_file), prompts=7, samples=5)
    assert [row["response"] for row in rows] == [row["response"] for row in again]


def test_another_task_gives_starts_and_truth_by_name_or_with_options(run_file):
    rows = sampled_rows(
        str(run_file), prompts=3, samples=8, task="{name: tree, vocabulary: 2, horizon: 2, prompts: 3, leaf_rewards: {aa: 1.0}}"
    )
    assert all(row["gold"] == float(row["response"] == "aa") for row in rows)
    for task, said in (("{name: tree", "cannot be read"), ("[tree]", "write a name"), ("{terms: 3}", "write a name")):
        with pytest.raises(EvidenceError, match=said):
            sampled_rows(str(run_file), task=task)
    with pytest.raises(LookupError, match="unknown task 'trea'; did you mean tree"):
        sampled_rows(str(run_file), task="trea")
    with pytest.raises(EvidenceError, match="has no arm 'sum'"):
        sampled_rows(str(run_file), arm="sum")


def test_a_policy_without_a_run_file_is_asked_the_task_that_is_named(tmp_path):
    policy = "{name: tabular, vocabulary: 2, horizon: 2, starts: 3}"
    task = "{name: tree, vocabulary: 2, horizon: 2, prompts: 3, leaf_rewards: {aa: 1.0}}"
    rows = sampled_rows(policy, prompts=11, samples=4, task=task)
    assert len({row["group"] for row in rows}) == 11
    assert all(row["gold"] == float(row["response"] == "aa") for row in rows)
    with pytest.raises(EvidenceError, match="--task says what to ask it"):
        sampled_rows(policy)
    with pytest.raises(EvidenceError, match="model: FOLDER"):
        sampled_rows("{terms: 3}", task=task)
    (tmp_path / "config.json").write_text("{}")  # as a model of transformers has
    with pytest.raises(EvidenceError, match="--task says what to ask it"):
        sampled_rows(str(tmp_path))


def test_what_names_no_policy_is_told(tmp_path):
    with pytest.raises(EvidenceError, match="neither a run file"):
        sampled_rows(str(tmp_path / "absent.yaml"))
    with pytest.raises(EvidenceError, match="no checkpoint in this folder"):
        sampled_rows(str(tmp_path))


def test_the_command_samples_trains_on_nothing_and_reads_a_checkpoint(run_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        return end.value.code, capsys.readouterr().out

    base = (
        "audit",
        "--reward",
        "tree-leaf",
        "--only",
        "discrimination,learnability",
        "--prompts",
        "30",
        "--samples",
        "4",
        "--json",
    )
    _, out = run(*base, "--policy", str(run_file))
    found = json.loads(out)["results"]
    assert (found["rows"], found["prompts"]) == (120, 30)
    by = {m["measure"]: m for m in found["measurements"]}
    assert by["auc"]["estimate"] == 1.0
    run("train", str(run_file), "--out", "trained", "--quiet")
    _, out = run(*base, "--policy", "trained", "--fresh")
    assert json.loads(out)["results"]["rows"] == 120
    code, out = run(*base, "--policy", str(run_file), "--data", "rows.jsonl")
    assert code == 2
    assert "one of --data, --policy and --transitions" in json.loads(out)["errors"][0]["message"]
