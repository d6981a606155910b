"""Recipes run side by side, are kept, judged and stored; the verdict follows from where the interval lies."""

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys

import pytest

from payoff._extras import MissingExtraError
from payoff.cli import main
from payoff.config import ConfigError
from payoff.intervals import Interval
from payoff.recipe_code import bare, code_hash, definitions
from payoff.recipes import Effect, Recipe, find_recipe, names
from payoff.reproduction import (
    RecipeRun,
    conclude,
    describe,
    judge,
    reproduce,
    resolve_arguments,
    run_key,
    run_side_by_side,
    store_results,
)

TOY = '''\
"""A recipe whose numbers are known beforehand: new minus old is gain + seed / 10."""
from pathlib import Path

from payoff.recipes import Effect, Recipe


def run(arm, seed, *, gain=1.0, broken=-1, nan=-1):
    with Path(__file__).with_name("log").open("a") as file:
        file.write(f"{arm}-{seed}\\n")
    if arm == "new" and seed == broken:
        raise ZeroDivisionError("broke")
    if arm == "new" and seed == nan:
        return {"truth": float("nan")}
    return {"truth": seed + (gain + seed / 10 if arm == "new" else 0.0)}


RECIPE = Recipe(
    name="toy",
    claim="New beats old.",
    paper="arXiv:0000.00000",
    test="Arithmetic.",
    arms={"old": "nothing", "new": "something"},
    measures={"truth": "a number"},
    effects=(Effect("truth", "new", "old", "higher", delta=0.05),),
    run=run,
    methods=("credit:total",),
    seeds=3,
)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy recipe, importable here and in the processes that run it; and the runs that really happened."""
    (tmp_path / "toy_recipe.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("toy_recipe", None)
    recipe = importlib.import_module("toy_recipe").RECIPE
    yield recipe, lambda: (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []
    sys.modules.pop("toy_recipe", None)


def outcome(value):
    return {"status": "finished", "numbers": {"truth": value}, "seconds": 1.0, "error": None}


# --- the verdict


@pytest.mark.parametrize(
    ("claims", "size", "low", "high", "word"),
    [
        ("higher", 0.0, 0.02, 0.18, "reproduced"),
        ("higher", 0.0, -0.02, 0.18, "inconclusive"),
        ("higher", 0.0, -0.18, -0.02, "not reproduced"),  # the wrong side
        ("higher", 0.0, -0.18, 0.04, "not reproduced"),  # leaves out every difference that matters
        ("higher", 0.0, 0.01, 0.04, "not reproduced"),  # there, but too small to matter
        ("higher", 0.0, 0.01, 0.06, "reproduced"),
        ("higher", 0.2, 0.1, 0.3, "inconclusive"),
        ("higher", 0.2, 0.21, 0.3, "reproduced"),
        ("higher", 0.2, 0.1, 0.19, "not reproduced"),  # more than matters, and less than was claimed
        ("lower", 0.0, -0.18, -0.02, "reproduced"),
        ("lower", 0.0, 0.02, 0.18, "not reproduced"),
        ("lower", 0.2, -0.3, -0.21, "reproduced"),
        ("lower", 0.2, -0.3, -0.1, "inconclusive"),
        ("not lower", 0.0, -0.04, 0.1, "reproduced"),
        ("not lower", 0.0, -0.06, 0.1, "inconclusive"),
        ("not lower", 0.0, -0.2, -0.06, "not reproduced"),
        ("not lower", 0.0, -0.2, -0.01, "inconclusive"),
        ("higher", 0.0, None, None, "inconclusive"),
    ],
)
def test_where_the_interval_lies_decides_the_verdict(claims, size, low, high, word):
    effect = Effect("truth", "new", "old", claims, delta=0.05, size=size)
    middle = 0.0 if low is None else (low + high) / 2
    assert judge(effect, Interval(middle, low, high, 5)) == word


def test_without_any_pair_the_verdict_is_inconclusive():
    assert judge(Effect("truth", "new", "old", "higher", delta=0.05), None) == "inconclusive"


def test_a_claim_is_as_good_as_its_worst_effect():
    assert conclude(["reproduced", "reproduced"]) == "reproduced"
    assert conclude(["inconclusive", "reproduced"]) == "inconclusive"
    assert conclude(["inconclusive", "not reproduced"]) == "not reproduced"


def test_the_interval_is_the_paired_t_interval_of_the_seeds(toy):
    recipe, _ = toy
    outcomes = {RecipeRun("old", s): outcome(10.0 * s) for s in range(3)}
    outcomes |= {RecipeRun("new", s): outcome(10.0 * s + d) for s, d in enumerate((1.0, 1.1, 1.2))}
    effect = describe(recipe, outcomes, range(3), {}, "code")["effects"][0]
    # Differences 1, 1.1, 1.2: mean 1.1, deviation 0.1; t(2) = 4.302653, so half the width is 4.302653 * 0.1 / sqrt(3) = 0.248414.
    assert effect["value"] == pytest.approx(1.1)
    assert (effect["low"], effect["high"]) == pytest.approx((0.851586, 1.348414), abs=1e-6)
    assert (effect["n"], effect["method"], effect["verdict"]) == (3, "paired t", "reproduced")


def test_two_seeds_give_points_and_no_verdict(toy):
    recipe, _ = toy
    outcomes = {RecipeRun(arm, s): outcome(float(arm == "new")) for arm in recipe.arms for s in range(2)}
    results = describe(recipe, outcomes, range(2), recipe.budget, "code")
    assert results["effects"][0]["low"] is None
    assert results["verdict"] == "inconclusive"
    assert not results["own_budget"]


def test_a_seed_that_failed_is_never_left_out_of_a_verdict(toy):
    recipe, _ = toy
    outcomes = {RecipeRun(arm, s): outcome(float(arm == "new")) for arm in recipe.arms for s in range(5)}
    assert describe(recipe, outcomes, range(5), {}, "code")["verdict"] == "reproduced"
    outcomes[RecipeRun("old", 4)] = {"status": "failed", "numbers": {}, "seconds": 0.0, "error": "ValueError: no"}
    results = describe(recipe, outcomes, range(5), {}, "code")
    assert results["verdict"] == "inconclusive"
    assert results["status"] == "failed"
    assert "1 of 5 seeds have no pair" in results["effects"][0]["note"]


# --- recipes that make no sense


def test_an_effect_needs_a_difference_that_matters():
    with pytest.raises(ValueError, match="delta must be > 0"):
        Effect("truth", "new", "old", "higher", delta=0.0)
    with pytest.raises(ValueError, match="size must be 0 or at least delta"):
        Effect("truth", "new", "old", "higher", delta=0.1, size=0.05)


@pytest.mark.parametrize(
    ("effects", "told"),
    [
        ((), "nothing could refute it"),
        ((Effect("truth", "new", "odl", "higher", delta=0.1),), "no arm 'odl'"),
        ((Effect("turth", "new", "old", "higher", delta=0.1),), "no measure 'turth'"),
    ],
)
def test_a_recipe_names_only_what_it_has(toy, effects, told):
    recipe, _ = toy
    with pytest.raises(ValueError, match=told):
        Recipe("x", "", "", "", recipe.arms, recipe.measures, effects, recipe.run, ())


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(LookupError, match=r"unknown recipe 'pur'; did you mean pure\?"):
        find_recipe("pur")


def test_unknown_arguments_are_answered_with_the_nearest(toy):
    recipe, _ = toy
    assert resolve_arguments(recipe, {"gain": 2})["gain"] == 2.0
    with pytest.raises(ConfigError, match="did you mean gain"):
        resolve_arguments(recipe, {"gian": 2})


# --- the code under test


def test_the_hash_of_code_ignores_words_and_sees_everything_else():
    source = 'A = 1\n\n\ndef f(x):\n    """Says."""\n    return x + A  # why\n'
    same = '# A file.\nA = 1\ndef f(x):\n    """Says it\n    at length."""\n\n    return x + A\n'
    assert bare(source) == bare(same)
    assert bare(source) != bare(source.replace("x + A", "x - A"))
    assert bare('x = "# no comment"  # one') == 'x = "# no comment"'


def test_a_method_brings_what_it_uses_in_its_module_and_nothing_else():
    wanted = "A = 1\ndef helper(x):\n    return x + A\n@mark\ndef f(x):\n    return helper(x)"
    source = f"import math\n{wanted}\ndef other():\n    return math.pi"
    assert definitions(source, "f") == wanted


def test_the_methods_under_test_belong_to_the_code_and_must_be_registered(toy):
    recipe, _ = toy
    assert len(code_hash(recipe)) == 16
    assert code_hash(recipe) != code_hash(dataclasses.replace(recipe, methods=("credit:return-to-go",)))
    wrong = dataclasses.replace(recipe, methods=("credit:no-such",))
    with pytest.raises(LookupError, match="credit:no-such"):
        code_hash(wrong)


def test_a_kept_run_belongs_to_its_code_and_its_arguments(toy):
    recipe, _ = toy
    keys = {run_key(recipe, code, arguments) for code in "ab" for arguments in ({"gain": 1.0}, {"gain": 2.0})}
    assert len(keys) == 4


# --- running


@pytest.mark.slow
def test_every_arm_runs_with_every_seed_once_and_what_is_finished_is_kept(toy, tmp_path):
    recipe, log = toy
    heard = []
    results = reproduce(recipe, folder=tmp_path / "r", processes=1, on_run=lambda run, outcome: heard.append((run, outcome)))
    assert log() == ["old-0", "new-0", "old-1", "new-1", "old-2", "new-2"]
    assert results["verdict"] == "reproduced"
    assert results["arms"]["new"]["seeds"]["2"]["numbers"] == {"truth": 3.2}
    assert json.loads((tmp_path / "r" / "results.json").read_text()) == results
    assert [run for run, _ in heard] == [RecipeRun(arm, seed) for seed in range(3) for arm in ("old", "new")]

    again = reproduce(recipe, folder=tmp_path / "r", processes=1, seeds=3)
    assert len(log()) == 6
    assert again["effects"] == results["effects"]

    other = reproduce(recipe, folder=tmp_path / "r", processes=2, seeds=1, arguments={"gain": 3.0})
    assert len(log()) == 8
    assert other["arms"]["new"]["seeds"]["0"]["numbers"] == {"truth": 3.0}
    assert other["verdict"] == "inconclusive"


@pytest.mark.slow
def test_a_run_that_breaks_says_why_the_others_go_on_and_it_is_tried_again(toy, tmp_path):
    recipe, log = toy
    results = reproduce(recipe, folder=tmp_path / "r", processes=1, arguments={"broken": 1, "nan": 2})
    runs = results["arms"]["new"]["seeds"]
    assert [run["status"] for run in runs.values()] == ["finished", "failed", "failed"]
    assert runs["1"]["error"] == "ZeroDivisionError: broke"
    assert runs["2"]["error"] == "ValueError: measure 'truth' is nan"
    assert results["verdict"] == "inconclusive"
    assert len(log()) == 6
    with pytest.raises(ConfigError, match="not stored"):
        store_results(results, tmp_path)
    reproduce(recipe, folder=tmp_path / "r", processes=1, arguments={"broken": 1, "nan": 2})
    assert log()[6:] == ["new-1", "new-2"]


@pytest.mark.slow
def test_a_process_that_dies_fails_its_run_alone(toy, tmp_path):
    recipe, _ = toy
    (tmp_path / "toy_recipe.py").write_text(TOY.replace('raise ZeroDivisionError("broke")', "import os; os._exit(7)"))
    outcomes = dict(run_side_by_side(recipe, [RecipeRun("new", 0)], {"broken": 0}, 1))
    assert outcomes[RecipeRun("new", 0)]["status"] == "failed"
    assert "BrokenProcessPool" in outcomes[RecipeRun("new", 0)]["error"]


@pytest.mark.slow
def test_what_is_not_installed_ends_all_runs_with_one_line(toy, tmp_path):
    recipe, log = toy
    lacking = 'from payoff._extras import require; require("not_there", "the toy")'
    (tmp_path / "toy_recipe.py").write_text(TOY.replace('raise ZeroDivisionError("broke")', lacking))
    with pytest.raises(MissingExtraError, match="the toy needs not_there, which is not installed"):
        reproduce(recipe, folder=tmp_path / "r", processes=1, arguments={"broken": 0})
    assert log() == ["old-0", "new-0"]


def test_only_whole_runs_of_the_own_budget_are_stored(toy, tmp_path):
    recipe, _ = toy
    outcomes = {RecipeRun(arm, s): outcome(float(arm == "new")) for arm in recipe.arms for s in range(3)}
    results = describe(recipe, outcomes, range(3), recipe.budget, "code")
    assert json.loads(store_results(results, tmp_path).read_text()) == results
    for changed in (
        describe(recipe, outcomes, range(3), recipe.budget | {"gain": 9.0}, "code"),
        describe(recipe, outcomes, range(2), recipe.budget, "code"),
    ):
        with pytest.raises(ConfigError, match="its budget or seeds were changed"):
            store_results(changed, tmp_path)


# --- the command


def payoff(*arguments, **options):
    command = [sys.executable, "-m", "payoff", "reproduce", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.slow
def test_the_command_answers_in_one_object_and_expects_what_it_is_told(tmp_path, monkeypatch, capsys):
    small = ("g-ra", "updates=1", "--seeds", "1", "--processes", "1", "--json")
    done = payoff(*small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "inconclusive"
    assert answer["counts"] == {"runs": 3, "finished": 3}
    assert answer["results"]["recipes"][0]["arguments"] == {"updates": 1}
    monkeypatch.chdir(tmp_path)  # what has run is kept, so that asking again costs nothing
    for expected, code in (("reproduced", 1), ("inconclusive", 0)):
        with pytest.raises(SystemExit) as stopped:
            main(["reproduce", *small, "--expect", expected])
        assert stopped.value.code == code


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gra",), "unknown recipe 'gra'; did you mean g-ra?"),
        (("g-ra", "updats=1"), "did you mean updates?"),
        (("g-ra", "fast"), "write KEY=VALUE"),
        (("g-ra", "--expect", "true"), "--expect must be one of reproduced, not reproduced, inconclusive"),
        ((), "say which recipe"),
        (("--ledger", "--out", "no-such-folder"), "no-such-folder"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *arguments])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert told in said.err


def test_the_list_says_what_each_recipe_claims(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "--list", "--json"])
    assert stopped.value.code == 0
    rows = json.loads(capsys.readouterr().out)["results"]["recipes"]
    assert [row["name"] for row in rows] == names()
    assert all(row["claim"] for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interrupt_keeps_what_is_done_and_the_same_command_continues(tmp_path):
    command = [sys.executable, "-m", "payoff", "reproduce", "g-ra", "updates=4", "--processes", "1", "--seeds", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert "g-ra 1/6" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "continues" in rest
    kept = list((tmp_path / "runs" / "reproduce-g-ra").rglob("*-seed-*.json"))
    assert 1 <= len(kept) < 6
    assert json.loads((tmp_path / "runs" / "reproduce-g-ra" / "results.json").read_text())["status"] == "interrupted"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"({len(kept)} kept from before)" in done.stderr
