"""The worlds that recipes share: what can be written, what is right in them, and that a recipe's hash covers them."""

import shutil

import pytest
import torch

from payoff import recipe_code
from payoff.recipe_code import code_hash, worlds
from payoff.recipes import find_recipe, names
from payoff.recipes.worlds.functions import PLACES, PROBLEMS, answers, program, right, suite
from payoff.recipes.worlds.writing import climb, judged, mean_worth, writable, write, writer
from payoff.sandbox import Sandbox, SandboxError
from payoff.signals.code import code_fraction
from payoff.trajectories import Channel, constant


@pytest.fixture(scope="module")
def sandbox():
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))


def test_a_writer_writes_what_there_is_and_nothing_else():
    places = (2, 3, 1)
    policy = writer(places, 2, seed=0)
    _, number = writable(places)
    for prompt in (0, 1):
        p = policy.probabilities(prompt).detach()
        assert float(p[number].sum()) == pytest.approx(1.0)
        assert float(p.sum()) == pytest.approx(1.0)
    assert mean_worth(policy, places, lambda prompt, choices: prompt + 1.0) == pytest.approx([1.0, 2.0])


def test_leaning_multiplies_the_odds_of_a_choice_after_what_it_looks_at():
    # The second choice leans by log 3 to the first one's number, for prompt 1 alone: 3 / 4 and 1 / 2.
    lean = lambda prompt, before: [float(torch.tensor(3.0).log()) * (prompt == 1 and before[:1] == (k,)) for k in range(2)]
    policy = writer((2, 2), 2, seed=0, spread=0.0, lean=lean)
    alike = mean_worth(policy, (2, 2), lambda prompt, choices: float(choices[0] == choices[1]))
    assert alike == pytest.approx([0.5, 0.75])


def test_a_step_makes_what_was_paid_more_likely_and_keeps_what_cannot_be_written_out():
    policy = writer((2, 3), 1, seed=0, spread=0.0)
    texts = write(policy, 8, torch.Generator().manual_seed(0), lambda prompt, choices: {"paid": float(choices[1] == 2)})
    paid = torch.tensor([item["paid"] for item in texts.items]).double()
    assert 0 < paid.sum() < 8
    optimiser = torch.optim.Adam(policy.parameters(), lr=0.1)
    climb(policy, optimiser, texts, constant(paid - paid.mean(), torch.ones(8, dtype=torch.bool)))
    assert mean_worth(policy, (2, 3), lambda prompt, choices: float(choices[1] == 2))[0] > 1 / 3 + 0.01
    assert float(policy.probabilities().detach()[6:].sum()) == 0
    assert not policy.logits.isnan().any()


def test_a_verdict_that_is_missing_ends_the_run_with_its_reason():
    texts = write(writer((2,), 1, seed=0), 2, torch.Generator().manual_seed(0), lambda prompt, choices: {})
    some = Channel(torch.ones(2, 1), torch.tensor([[True], [False]]), {int(texts.id[1]): "no sandbox"})
    with pytest.raises(RuntimeError, match="no sandbox"):
        judged(some, texts)


def test_one_program_of_each_problem_is_right():
    rows, _ = writable(PLACES)
    for problem in range(len(PROBLEMS)):
        assert [choices for choices in rows if right(problem, choices)] == [(1, *PROBLEMS[problem].right)]
    assert len({answers(program(choices)) for choices in rows if choices[0]}) == 4 * 3**4


@pytest.mark.usefixtures("sandbox")
def test_tests_tell_the_right_program_from_all_that_differ_in_one_place():
    for problem in (0, 2):
        known, share = PROBLEMS[problem], PROBLEMS[problem].ordinary / 20
        assert code_fraction(program((1, *known.right)), suite(problem)).value == 1.0
        assert code_fraction(program((0, *known.right)), suite(problem)).value == pytest.approx(share)  # the rule alone
        for place in range(5):
            wrong = list(known.right)
            wrong[place] = (wrong[place] + 1) % PLACES[1 + place]
            lost = share if place == 0 else (1 - share) / 4
            assert code_fraction(program((1, *wrong)), suite(problem)).value == pytest.approx(1 - lost)


def test_worlds_are_no_recipes_and_belong_to_the_hash_of_those_that_import_them(tmp_path, monkeypatch):
    assert "worlds" not in names()
    verpo, pure = find_recipe("verpo"), find_recipe("pure")
    before = code_hash(verpo), code_hash(pure)
    shutil.copytree(recipe_code.WORLDS, tmp_path / "worlds")
    monkeypatch.setattr(recipe_code, "WORLDS", tmp_path / "worlds")
    world = tmp_path / "worlds" / "writing.py"  # verpo imports it, and so does the world of functions
    text = world.read_text()
    world.write_text("# a remark\n\n" + text)
    assert (code_hash(verpo), code_hash(pure)) == before
    world.write_text(text.replace("spread: float = 0.5", "spread: float = 0.6"))
    assert code_hash(verpo) != before[0]
    assert code_hash(pure) == before[1]


def test_worlds_are_found_however_they_are_imported(tmp_path):
    forms = ("from payoff.recipes.worlds import functions", "import payoff.recipes.worlds.functions as f")
    for form in (*forms, "def run():\n    from payoff.recipes.worlds.functions import PLACES"):
        (tmp_path / "recipe.py").write_text(form)
        assert [path.stem for path in worlds(tmp_path / "recipe.py")] == ["functions", "writing"]
