"""Recipes whose policies write programs, queries, circuits and calls: their truth and their graders agree where they should."""

import random
import shutil

import pytest
import torch

from payoff.recipes import duration_aware_pg, p_grpo, reasoning_sql, toolrl, verirl, verpo
from payoff.recipes.worlds.functions import PROBLEMS, program
from payoff.recipes.worlds.writing import writable, writer
from payoff.sandbox import Sandbox, SandboxError
from payoff.signals.sql import reasoning_sql as sql_reward
from payoff.signals.sql import sql_parts
from payoff.signals.tool_calls import toolrl as calls_reward
from payoff.signals.verilog import verilog_tests


@pytest.fixture(scope="module")
def sandbox():
    try:
        Sandbox().run_python("")
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def icarus(sandbox):
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")


def some(places, count):
    return random.Random(0).sample(writable(places)[0], count)


@pytest.mark.usefixtures("sandbox")
def test_verpo_a_program_without_exceptions_passes_the_tests_of_the_rule():
    assert verpo.passes(program((0, *PROBLEMS[0].right)), 0) == [True] * 16 + [False] * 4


def test_p_grpo_a_right_text_is_a_right_program_whatever_is_said_before():
    for problem, known in enumerate(PROBLEMS):
        for kinds in ((0, 0), (2, 1)):
            assert p_grpo.right_text(problem, (*kinds, *known.right[:-1])) == 1.0
        assert p_grpo.right_text(problem, (0, 0, (known.right[0] + 1) % 4, *known.right[1:-1])) == 0.0
    # Two sound sentences lean by two nats to the right rule; praise leans to nothing.
    assert p_grpo.lean(0, (0, 0)) == [2.0, 0.0, 0.0, 0.0]
    assert p_grpo.lean(0, (2, 2)) == [0.0] * 4


@pytest.mark.usefixtures("sandbox")
def test_reasoning_sql_weighs_its_parts_as_the_grader_does():
    for choices in (reasoning_sql.WANTED[1], *some(reasoning_sql.PLACES, 2)):
        item = reasoning_sql.say(1, choices)
        parts = sql_parts(item["response"], item["reference"]).value
        total = sum(weight * parts[name] for name, weight in reasoning_sql.WEIGHTS["partial"].items())
        assert total == pytest.approx(sql_reward(item["response"], item["reference"]).value)


def test_reasoning_sql_every_question_has_an_answer_that_differs_from_those_of_most_queries():
    rows, _ = writable(reasoning_sql.PLACES)
    for prompt, wanted in enumerate(reasoning_sql.WANTED):
        right = [choices for choices in rows if reasoning_sql.right(prompt, choices)]
        assert wanted in right
        assert len(right) <= 4  # of 144: those that put rows in an order that nobody asked for
        assert reasoning_sql.rows(reasoning_sql.query(wanted), 0)


def test_toolrl_is_right_exactly_where_the_grader_gives_all_there_is():
    for prompt, wanted in enumerate(toolrl.WANTED):
        for choices in ((0, *wanted), (1, *wanted), *some(toolrl.PLACES, 30)):
            item = toolrl.say(prompt, choices)
            assert (calls_reward(item["response"], item["reference"]).value == 4.0) == bool(toolrl.right(prompt, choices))


@pytest.mark.usefixtures("icarus")
def test_verirl_each_wrong_case_costs_a_quarter_of_the_tests_and_a_wrong_head_all():
    known = verirl.WANTED[0]
    for choices, share in ((known, 1.0), ((0, 1, *known[2:]), 0.75), ((0, 1, 2, 3, 0), 0.0)):
        verdict = verilog_tests(verirl.design(choices), verirl.reference(0))
        assert (verdict.valid, verdict.value) == (True, share)
    assert "does not compile" in verilog_tests(verirl.design((2, *known[1:])), verirl.reference(0)).reason


def test_verirl_revision_looks_at_the_head_first_and_blind_revision_anywhere():
    rng = torch.Generator().manual_seed(0)
    broken = verirl.Draft(0, (1, *verirl.WANTED[0][1:]), None)
    made = [verirl.revised(broken, 7, rng, blind=False) for _ in range(40)]
    assert {draft.choices[1:] for draft in made} == {broken.choices[1:]}
    assert {draft.revises for draft in made} == {7}
    assert sum(draft.choices[0] == 0 for draft in made) > 20  # 0.7 + 0.3 / 3 of them, 32
    assert len({draft.choices for draft in (verirl.revised(broken, 7, rng, blind=True) for _ in range(40))}) > 4


def test_verirl_agreement_counts_pairs_by_how_likely_they_are():
    # Faults 0, 1, 1 with chances 1/2, 1/4, 1/4: the best beats the second (1/8) and ties with the third (1/8, half).
    p, reward = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([1.0, 0.0, 1.0]).double()
    assert verirl.agreement(p, reward, torch.tensor([0, 1, 1])) == pytest.approx(0.75)


def test_duration_what_is_not_done_in_a_window_is_lost_or_carried_on(monkeypatch):
    monkeypatch.setattr(duration_aware_pg, "WORKERS", 2)
    best = (0, 0, 2, 2, 0, 0)
    assert duration_aware_pg.duration(best) == 7.0
    lean = lambda prompt, before: [50.0 * (k == best[len(before)]) for k in range(3)]
    policy = writer(duration_aware_pg.PLACES, 1, seed=0, lean=lean)
    rng = torch.Generator().manual_seed(0)
    for discards, ends in ((True, [2, 2, 2, 2]), (False, [2, 2, 2, 3])):  # windows of 16: by 64, nine times 7 has passed
        held = [None] * 2
        counts = [len(duration_aware_pg.collect(policy, rng, held, discards=discards)) for _ in range(4)]
        assert counts == [2 * count for count in ends]
    assert held[0].left == 6.0  # 70 - 64


@pytest.mark.usefixtures("sandbox")
def test_duration_programs_score_in_the_sandbox_what_they_score_here_and_slow_ones_score_best():
    assert duration_aware_pg.earned((0, 0, 2, 2, 0, 0)) == pytest.approx(duration_aware_pg.accuracy((0, 0, 2, 2, 0, 0)), abs=0.1)
    assert duration_aware_pg.accuracy((0, 0, 2, 2, 0, 0)) > duration_aware_pg.accuracy((0, 0, 2, 1, 0, 0)) + 0.05
    # Nothing but the right choice everywhere but in features and epochs submits anything; the last ones see four marks of five.
    for place, reached in ((0, (0, 0)), (1, (1, 1)), (4, (3, 3)), (5, (5, 4))):
        for wrong, marks in zip((1, 2), reached, strict=True):
            choices = tuple(wrong if k == place else 0 for k in range(6))
            assert duration_aware_pg.accuracy(choices) == 0.0
            assert duration_aware_pg.earned(choices) == pytest.approx(-10 + marks / 10)
