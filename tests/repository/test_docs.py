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
    terms = list(data.get("terms", {}).values())
    parts = [*(data.get(section) for section in ("task", "policy") if section in data), *data.get("reward", {}).values()]
    parts += [part for term in terms for path in (*term.get("paths", {}).values(), term.get("then", [])) for part in path]
    parts += [term[key] for term in terms for key in ("loss", "aggregation") if key in term]
    names = {part if isinstance(part, str) else part["name"] for part in parts}
    return {name for name in names if ":" not in name}


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
