import inspect
import json
import os
import re
import sys

import pytest
import reasoning_gym
import torch
from reasoning_gym.factory import DATASETS

from payoff.rows import from_rows
from payoff.tasks.reasoning_gym import EVALUATES, ReasoningGym, known, names, reasoning_gym_score
from payoff.trajectories import outcome


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def answered(starts, respond):
    return from_rows([{**start.fields, "response": respond(start)} for start in starts])


def score(name, response, k=0, **options):
    entry = reasoning_gym.create_dataset(name, seed=1, size=k + 1, **options)[k]
    return reasoning_gym_score(response(entry) if callable(response) else response, entry)


def test_starts_repeat_for_a_seed_and_differ_for_another():
    of = lambda seed: [start.fields["prompt"] for start in ReasoningGym("chain_sum", seed=seed).starts(8, generator())]
    assert of(1) == of(1) != of(2)


def test_an_epoch_has_every_question_that_is_not_held_out_once():
    task = ReasoningGym("chain_sum", size=50, held_out=0.2)
    n = sum(not task._is_held_out(task._start(k, task._entry(k), 0)) for k in range(50))
    ids = [start.id for start in task.starts(2 * n, generator())]
    assert 30 < n < 50
    assert len(set(ids[:n])) == n
    assert set(ids[:n]) == set(ids[n:])
    assert ids[:n] != ids[n:]


def test_training_never_meets_a_held_out_question_even_where_there_are_few_questions():
    task = ReasoningGym("chain_sum", options={"max_terms": 2, "max_digits": 1}, size=400)
    held = {start.fields["prompt"] for start in task.held_out_starts(10)}
    assert len(held) == 10
    assert not held & {start.fields["prompt"] for start in task.starts(400, generator())}


def test_held_out_questions_do_not_depend_on_what_was_drawn_before():
    task = ReasoningGym("chain_sum")
    before = [start.fields["prompt"] for start in task.held_out_starts(20)]
    task.starts(30, generator())
    assert [start.fields["prompt"] for start in task.held_out_starts(10)] == before[:10]


def test_a_task_continued_from_its_state_draws_what_an_unbroken_one_draws():
    unbroken, resumed, rng = ReasoningGym("chain_sum", size=20), ReasoningGym("chain_sum", size=20), generator()
    unbroken.starts(7, rng)
    resumed.load_state_dict({k: v.clone() for k, v in unbroken.state_dict().items()})
    again = torch.Generator()
    again.set_state(rng.get_state())
    assert [s.id for s in unbroken.starts(25, rng)] == [s.id for s in resumed.starts(25, again)]


def test_the_truth_is_the_scorer_of_the_data_set():
    task = ReasoningGym("chain_sum")
    starts = task.starts(4, generator())
    traj = answered(starts, lambda start: f"  {start.fields['reference']}\n")
    assert outcome(task.truth(traj), traj)[0].tolist() == [1.0] * 4
    traj = answered(starts, lambda start: "no")
    assert outcome(task.truth(traj), traj)[0].tolist() == [0.0] * 4


def test_a_scorer_that_raises_gives_no_verdict_and_its_reason():
    task = ReasoningGym("prime_factorization")
    traj = answered(task.starts(1, generator()), lambda start: "seven")
    assert not outcome(task.truth(traj), traj)[1].any()
    assert "invalid literal for int()" in next(iter(task.truth(traj).reasons.values()))


def test_an_answer_may_have_to_stand_in_a_tag():
    task = ReasoningGym("chain_sum", answer_tag="answer")
    starts = task.starts(1, generator())
    says = lambda text: lambda start: text.format(start.fields["reference"])
    pays = lambda text: float(outcome(task.truth(traj := answered(starts, says(text))), traj)[0])
    assert pays("I think <answer>1</answer>, no: <answer> {} </answer> it is") == 1.0
    assert pays("{}") == 0.0


def test_rows_without_an_entry_are_scored_by_prompt_and_reference():
    assert reasoning_gym_score("7", reference="7", dataset="chain_sum") == 1.0
    with pytest.raises(ValueError, match="the data set must be named"):
        reasoning_gym_score("7", reference="7")


SLOW = {
    "arc_agi",
    "figlet_font",
    "futoshiki",
    "group_anagrams",
    "intermediate_integration",
    "knight_swap",
    "quantum_lock",
    "zebra_puzzles",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names() if n != "composite"])
def test_the_right_answer_scores_1_also_from_a_file(name):
    task = ReasoningGym(name, size=1)
    entry = task._entry(0)
    stored = json.loads(json.dumps(entry))
    if entry["answer"] is None:
        pytest.skip("names no single right answer")
    assert reasoning_gym_score(entry["answer"], entry) == 1.0
    assert reasoning_gym_score(entry["answer"], stored) == 1.0
    assert reasoning_gym.get_score_answer_fn(name)(entry["answer"], entry) == 1.0


# --- what the package's scorers pay for: facts about the installed version, which the README and the docstrings state


def test_the_inherited_scorer_pays_a_list_of_guesses_by_the_share_of_the_right_one():
    # "14" among ten numbers of two digits and nine spaces: 2 of 29 characters
    entry = {"question": "9 + 5 =", "answer": "14", "metadata": {"source_dataset": "chain_sum"}}
    assert reasoning_gym_score("10 11 12 13 14 15 16 17 18 19", entry) == 2 / 29
    assert reasoning_gym_score("10 11 12 13 15 16 17 18 19 20", entry) == 0.0


def test_the_inherited_scorer_pays_a_wrong_sign_most_of_the_reward():
    entry = {"question": "9 + 5 =", "answer": "14", "metadata": {"source_dataset": "chain_sum"}}
    assert reasoning_gym_score("-14", entry) == 2 / 3


def test_game_of_life_halting_pays_any_answer_in_full():
    assert score("game_of_life_halting", "I don't know") == 1.0


def test_puzzle24_pays_one_fixed_answer_on_every_puzzle_in_full():
    assert [score("puzzle24", "4*6*1*1", k) for k in range(3)] == [1.0] * 3


def test_gsm_symbolic_ignores_the_sign_and_reads_only_the_first_number():
    assert score("gsm_symbolic", lambda entry: f"-{entry['answer']} or 7") == 1.0


def test_what_prints_while_scoring_does_not_reach_standard_output(capsys):
    score("tower_of_hanoi", "Move disk 1 from Peg 2 to Peg 447")
    assert capsys.readouterr().out == ""


def test_scorers_that_evaluate_answers_as_python_are_named():
    source = lambda name: inspect.getsource(sys.modules[DATASETS[name][0].__module__])
    assert {name for name in names() if re.search(r"\b(eval|parse_expr)\(answer\b", source(name))} == EVALUATES
    score("n_queens", "__import__('os').environ.update(PAYOFF_EVALUATED='1')")
    assert os.environ.pop("PAYOFF_EVALUATED", None) == "1"


# --- bad input


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("chain_sums", {}, "reasoning-gym has no data set 'chain_sums'; did you mean chain_sum?"),
        ("xyzzy", {}, "reasoning-gym has no data set 'xyzzy'; all names"),
        (
            "chain_sum",
            {"min_term": 2},
            "reasoning-gym:chain_sum has no option 'min_term'; did you mean 'min_terms'?; its options: ",
        ),
        ("chain_sum", {"min_terms": 0}, "reasoning-gym:chain_sum: min_terms must be positive"),
        ("composite", {}, "reasoning-gym:composite: Must specify at least one dataset"),
    ],
)
def test_bad_names_and_options_are_one_line(name, options, says):
    with pytest.raises(ValueError) as caught:
        ReasoningGym(name, options=options)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_share_that_takes_every_question_is_an_error():
    task = ReasoningGym("chain_sum", size=3, held_out=0.999999)
    with pytest.raises(ValueError, match="all 3 questions fall into the held-out share"):
        task.starts(1, generator())


def test_hyphens_and_the_short_form_name_the_same_data_set():
    assert known("chain-sum") == known("reasoning-gym:chain_sum") == "chain_sum"
