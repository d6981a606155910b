"""Every recipe: complete, able to run, and its stored results say what its stored numbers say."""

import importlib.util
import math
import shutil
import sys
from functools import partial

import pytest

from payoff.intervals import paired_difference
from payoff.policies import flow_models
from payoff.recipe_code import code_hash
from payoff.recipes import Effect, find_recipe, names
from payoff.recipes.worlds import games, repair_turns, search_sizes, tool_turns, turns
from payoff.recipes.worlds.dialogue_learning import learn
from payoff.reproduction import conclude, judge, stored_results
from payoff.sandbox import Sandbox, SandboxError

STORED = stored_results()
NEEDS = {
    **dict.fromkeys(("verpo", "p-grpo", "duration-aware-pg", "reasoning-sql", "b-coder"), "sandbox"),
    "verirl": "iverilog",
    "revibranch": "pyscipopt",
    **dict.fromkeys(("multi-turn-agentic-recipe-tools", "multi-turn-agentic-recipe-repair"), "sandbox"),
    **dict.fromkeys(("multi-turn-agentic-recipe-text-world", "multi-turn-agentic-recipe-played-games"), "textworld"),
}
SMALL = {"updates": 1, "held_out": 4, "rollouts": 2, "judged": 4, "starts": 4, "tokens": 300, "programs": 3}
FEWER = {
    "bleuberi": {"PROMPTS": 1},
    "bnpo": {"BATCHES": 20},
    "duration-aware-pg": {"WORKERS": 1},
    "revibranch": {"HELD_OUT": 2},
    "rlfr": {"EXPERT": 8, "SEEN": 4},
    "sparse-po": {"TAUGHT": 20},
    "verirl": {"CHILDREN": 1},
    "multi-turn-agentic-recipe-transfer": {"QUESTIONS": 8},
    "multi-turn-agentic-recipe-demonstrations": {"QUESTIONS": 8, "STEPS": 2},
    "multi-turn-agentic-recipe-played-games": {"HELD_OUT": 4, "STEPS": 2},
    "multi-turn-agentic-recipe-tools": {"learn": partial(learn, starts=2, rollouts=2)},
    "multi-turn-agentic-recipe-repair": {"learn": partial(learn, starts=2, rollouts=2)},
}  # constants of a recipe's module that would cost seconds
LONG = {name for name, what in NEEDS.items() if what == "textworld"}  # to import it takes seconds; their parts have other tests
LONG.add("multi-turn-agentic-recipe-repair")  # so do its files; it runs what the one of tools runs


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_called_like_its_file_and_explains_itself(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.paper.startswith(("arXiv:", "doi:"))
    assert "Not tested" in recipe.test  # what the small experiment leaves out
    assert len(recipe.arms) >= 2
    assert recipe.seeds >= 5
    assert code_hash(recipe)


@pytest.fixture(scope="module")
def missing():
    """What recipes need and this machine has not."""
    lacking = {package for package in ("pyscipopt", "textworld") if importlib.util.find_spec(package) is None}
    try:
        Sandbox().run_python("")
    except SandboxError:
        return lacking | {"sandbox", "iverilog"}
    return lacking if shutil.which("iverilog") else lacking | {"iverilog"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.exhaustive) if name in LONG else name for name in names()])
def test_every_arm_runs_with_a_small_budget_and_gives_every_measure(name, missing, monkeypatch):
    if NEEDS.get(name) in missing:
        pytest.skip(f"no {NEEDS[name]} here")
    recipe = find_recipe(name)
    for constant, value in FEWER.get(name, {}).items():
        monkeypatch.setattr(sys.modules[recipe.run.__module__], constant, value)
    fit = flow_models.fit_velocity
    monkeypatch.setattr(flow_models, "fit_velocity", lambda *of, steps, **how: fit(*of, steps=min(steps, 5), **how))
    taught = turns._taught
    monkeypatch.setattr(turns, "_taught", lambda steps: taught(30))
    of_sizes = search_sizes._taught
    monkeypatch.setattr(search_sizes, "_taught", lambda sizes, useless, skips, steps: of_sizes(sizes, useless, skips, 2))
    for world in (tool_turns, repair_turns):
        of_words, speaker = world._taught, world.speaker
        monkeypatch.setattr(world, "_taught", lambda steps, of_words=of_words: of_words(2))
        monkeypatch.setattr(world, "speaker", lambda *of, speaker=speaker, **how: speaker(*of, **{**how, "max_tokens": 8}))
    of_games = games._taught
    monkeypatch.setattr(games, "_taught", lambda steps: of_games(2))
    monkeypatch.setattr(games, "SCRIPTED", 4)
    small = {key: value for key, value in SMALL.items() if key in recipe.budget}
    assert small
    for arm in recipe.arms:
        numbers = recipe.run(arm, 0, **small)
        assert set(numbers) == set(recipe.measures)
        assert all(math.isfinite(value) for value in numbers.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["par", "g-ra", "rloo"])
def test_a_run_depends_on_arm_and_seed_alone(name):
    recipe = find_recipe(name)
    arm = list(recipe.arms)[-1]
    first, again, other = (recipe.run(arm, seed, updates=2) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", sorted(STORED))
def test_stored_verdicts_follow_from_the_stored_numbers(name):
    results = STORED[name]
    assert results["status"] == "finished"
    assert results["own_budget"]
    for effect in results["effects"]:

        def numbers(arm, measure=effect["measure"]):
            return {int(seed): run["numbers"][measure] for seed, run in results["arms"][arm]["seeds"].items()}

        difference = paired_difference(numbers(effect["arm"]), numbers(effect["baseline"]))
        assert (difference.value, difference.low, difference.high) == pytest.approx(
            (effect["value"], effect["low"], effect["high"])
        )
        keys = ("measure", "arm", "baseline", "claims", "delta", "size")
        assert judge(Effect(**{key: effect[key] for key in keys}), difference) == effect["verdict"]
    assert results["verdict"] == conclude([effect["verdict"] for effect in results["effects"]])


@pytest.mark.parametrize("name", sorted(STORED))
def test_stored_results_name_the_machine_and_nothing_more_of_it(name):
    results = STORED[name]
    assert set(results["machine"]) == {"system", "processor", "cores"}
    assert results["command"] == f"payoff reproduce {name}"
    assert "/" not in results["machine"]["processor"]


def test_par_pays_the_overpaid_answer_more_than_any_other_and_tells_the_truth_of_the_rest():
    from payoff.recipes.par import BONUS, PROMPTS, Answers

    tree = Answers(seed=3).tree
    for prompt in range(PROMPTS):
        proxy, truth = tree.proxy(prompt), tree.leaves(prompt)
        assert int((proxy != truth).sum()) == 1
        assert float(proxy.max()) == pytest.approx(float(truth.max()) + BONUS)
        assert int(proxy.argmax()) == int(truth.argmin())
