"""What the documentation shows is true: its examples run, its commands and methods exist, its run files are valid."""

import doctest
import re
from pathlib import Path

import pytest
import yaml

from payoff.catalogue import index
from payoff.cli import app
from payoff.config import RunFile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_on_pages_run(page):
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not result.failed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_pages_exist(page):
    for command in re.findall(r"(?:\./run|^ *payoff|`payoff|\$ payoff) ([a-z]+)", page.read_text(), flags=re.MULTILINE):
        assert command in COMMANDS | {"test"}, f"{page.name}: {command}"


def named_in(data: dict) -> set[str]:
    """The methods that part of a run file names, wherever a method may stand; functions of one's own left out."""
    arms = [data, *data.get("arms", {}).values()]  # an arm may replace any of these
    terms = [term for arm in arms for term in (arm.get("terms") or {}).values()]
    parts = [arm[place] for arm in arms for place in ("task", "policy", "curriculum", "sampler", "replay") if arm.get(place)]
    parts += [signal for arm in arms for signal in (arm.get("reward") or {}).values()]
    parts += [part for arm in arms for place in ("shaping", "selection") for part in arm.get(place) or ()]
    parts += [part for term in terms for path in (*term.get("paths", {}).values(), term.get("then", [])) for part in path]
    parts += [term[key] for term in terms for key in ("loss", "aggregation", "pairs", "mix") if key in term]
    parts += [inner for part in parts if isinstance(part, dict) for inner in part.get("do", ())]  # {on: channel, do: [...]}
    names = {part if isinstance(part, str) else part["name"] for part in parts if isinstance(part, str) or "name" in part}
    return {name for name in names if ":" not in name}


def test_every_place_of_a_run_file_where_a_method_may_stand_is_looked_at():
    data = yaml.safe_load(
        """
        task: t
        policy: {name: p, task: {name: ignored}}
        curriculum: c
        sampler: {name: s}
        replay: r
        reward: {correct: g, kl: {name: k}}
        shaping: [h, {name: i}, {on: correct, do: [j, {name: l}]}]
        selection: [m]
        terms:
          policy: {paths: {correct: [n, {name: o}]}, mix: {name: q}, then: [u], loss: v, aggregation: w, pairs: {name: x}}
          other: {mix: {correct: 1.0, kl: 0.1}, loss: "mine:loss"}
        arms: {one: {selection: [y], terms: {policy: {mix: z}}}}
        """
    )
    assert named_in(data) == set("tpcsrgkhijlmnoquvwxyz")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_run_files_on_pages_name_what_exists(page):
    registered = {name for _, name in index()}
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        data = yaml.safe_load(block)
        assert set(data) <= set(RunFile.model_fields)
        assert named_in(data) <= registered, named_in(data) - registered


def test_every_command_has_help():
    for command in app.registered_commands:
        assert command.callback.__doc__
