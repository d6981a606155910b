"""Run files: what they mean, where each value came from, and what a mistake looks like."""

import json

import jsonschema
import pytest
import yaml

from payoff.config import ConfigError, RunFile, json_schema, load_run, print_config
from payoff.yaml_marks import YamlError, parse_value, parse_yaml, read_yaml

GOOD = """\
title: small
task: {name: chain, terms: 3}
policy: {name: transformer, checkpoint: chain}
reward:
  correct: chain-answer
terms:
  policy:
    paths:
      correct: [total, rloo]
    loss: {name: ppo-clip, low: 0.1}
train:
  updates: 3
  learning_rate: 2e-4
"""


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("no", "on", "0o7", "1_000", "2001-01-01", "12:30")],
        *[("1e-4", 1e-4), ("08", 8), (".5", 0.5), ("-.inf", float("-inf")), ("true", True), ("~", None)],
        *[("[1, a]", [1, "a"]), ("{a: no}", {"a": "no"})],
    ],
)  # fmt: skip
def test_scalars_are_read_as_a_person_means_them(text, value):
    assert parse_value(text) == value


def test_a_key_given_twice_is_an_error_that_names_both_lines():
    with pytest.raises(YamlError, match=r"x:3: the key 'a' is given twice \(first in line 1\)"):
        parse_yaml("a: 1\nb: 2\na: 3\n", "x")


def test_python_objects_are_never_built():
    with pytest.raises(YamlError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.system [true]\n", "x")


@pytest.mark.parametrize("text", ["a: [1,\n", "a:\n\t- b\n", "a: b: c\n", "'open\n"])
def test_malformed_yaml_names_the_line(text):
    with pytest.raises(YamlError, match=r"^x:\d+: is not valid YAML"):
        parse_yaml(text, "x")


def test_files_that_cannot_be_read_say_why(tmp_path):
    with pytest.raises(YamlError, match="there is no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(YamlError, match="is a folder"):
        read_yaml(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(YamlError, match=r"not UTF-8 text \(byte 3\)"):
        read_yaml(tmp_path / "bytes.yaml")
    with pytest.raises(YamlError, match="is empty"):
        read_yaml(write(tmp_path, "# nothing\n"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("updates: 3", "updats: 3", r"run.yaml:12: train.updats: unknown key 'updats'; did you mean updates\?"),
        ("updates: 3", "updates: three", r"run.yaml:12: train.updates: should be a valid integer.*\"three\""),
        ("updates: 3", "updates: 0", r"run.yaml:12: train.updates: should be greater than or equal to 1, is 0"),
        ("updates: 3", "terms: 3", r"run.yaml:12: train.terms: unknown key 'terms'"),
        ("title: small", "titel: small", r"run.yaml:1: titel: unknown key 'titel'; did you mean title\?"),
        ("title: small", "seed: 3", r"run.yaml:1: seed: unknown key 'seed'; this key belongs under 'train'"),
        ("task: {name: chain, terms: 3}\n", "", r"run.yaml: the key 'task' is missing"),
        ("  learning_rate: 2e-4", "  learning_rate: -1", r"run.yaml:13: train.learning_rate: should be greater than 0, is -1"),
        ("[total, rloo]", "total", r"run.yaml:9: terms.policy.paths.correct: should be a valid list, is \"total\""),
        ("    loss: {name: ppo-clip, low: 0.1}\n", "", r"run.yaml:8: terms.policy: the key 'loss' is missing"),
        ("    loss:", "    missing: ignore\n    loss:", r"run.yaml:10: terms.policy.missing: .*allowed: drop or skip"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_place_found_and_allowed(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        load_run(write(tmp_path, GOOD.replace(old, new)))
    import re

    assert re.search(message, str(error.value)), str(error.value)
    assert len(error.value.faults) == 1


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD.replace("updates: 3", "updats: 3").replace("title", "titel")
    with pytest.raises(ConfigError) as error:
        load_run(write(tmp_path, text))
    assert len(error.value.faults) == 2


def test_overrides_are_typed_like_the_file_and_reach_into_parts(tmp_path):
    path = write(tmp_path, GOOD)
    run = load_run(path, ["train.updates=7", "terms.policy.loss.high=0.3", "reward.correct.partial=true", "title=a b"]).run
    assert run.train.updates == 7
    assert run.terms["policy"].loss.options == {"low": 0.1, "high": 0.3}
    assert run.reward["correct"].options == {"partial": True}
    assert run.title == "a b"
    assert load_run(path, ["terms.policy.paths.correct.1=grpo"]).run.terms["policy"].paths["correct"][1].name == "grpo"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.updates", "is not an override; write key=value"),
        ("=3", "is not an override"),
        ("train.updates=x", "command line: train.updates: should be a valid integer"),
        ("train.update=3", "did you mean updates"),
        ("terms.policy.paths.correct.9=grpo", "has items 0 to 1, not '9'"),
        ("train.updates.deep=1", "has no keys"),
        ("title=[1", "is not valid YAML"),
    ],
)
def test_a_wrong_override_says_so(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_run(write(tmp_path, GOOD), [override])


def test_the_printed_file_runs_again_and_says_where_each_value_came_from(tmp_path):
    path = write(tmp_path, GOOD)
    loaded = load_run(path, ["train.updates=7"])
    text = print_config(loaded)
    assert "  updates: 7  # command line" in text
    assert f"  low: 0.1  # {path}:10" in text.replace("      low", "  low")
    assert "  epochs: 1  # default" in text
    again = load_run(write(tmp_path, text))
    assert again.run == loaded.run
    assert again.hash == loaded.hash


def test_the_hash_follows_what_changes_results_and_nothing_else(tmp_path):
    path = write(tmp_path, GOOD)
    base = load_run(path).hash
    assert load_run(path, ["title=other"]).hash == base
    assert load_run(path, ["scoring.workers=2"]).hash == base
    assert load_run(path, ["train.seed=1"]).hash != base
    assert load_run(path, ["reward.correct=chain-format"]).hash != base


def test_an_arm_replaces_what_it_names(tmp_path):
    terms = "{policy: {paths: {format: [total]}, loss: policy-gradient}}"
    text = GOOD + "arms:\n  a: {}\n  b: {reward: {format: chain-format}, terms: " + terms + "}\n"
    run = load_run(write(tmp_path, text)).run
    assert run.arm("a").reward == run.reward
    assert list(run.arm("b").reward) == ["format"]
    assert run.arm("b").terms["policy"].loss.name == "policy-gradient"
    assert run.arm("b").arms == {}


def test_the_schema_accepts_what_the_models_accept(tmp_path):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))
    data = parse_yaml(GOOD, "x").data
    assert not list(validator.iter_errors(data))
    assert not list(validator.iter_errors(json.loads(json.dumps(load_run(write(tmp_path, GOOD)).run.model_dump(mode="json")))))
    assert list(validator.iter_errors({**data, "titel": 1}))
    assert set(schema["properties"]) == set(RunFile.model_fields)


def test_every_shipped_run_file_is_valid():
    from importlib import resources

    for path in (resources.files("payoff") / "run_files").rglob("*.yaml"):
        load_run(path)
        assert yaml.safe_load(path.read_text())
