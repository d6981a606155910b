"""verl's compute_score by name: its four arguments, numbers and dicts, ground truths where verl and we keep them."""

import pytest

from payoff.arguments import MissingFieldError
from payoff.foreign import RewardError, foreign_reward
from payoff.rewards import resolve_reward
from payoff.rows import from_rows

SOURCE = """
CALLS = []

def compute_score(data_source, solution_str, ground_truth, extra_info=None, strict=True):
    if solution_str == "boom":
        raise KeyError("boom")
    return float(solution_str == ground_truth if strict else ground_truth in solution_str)

def with_extras(data_source, solution_str, ground_truth, extra_info):
    if solution_str == "none":
        return {"acc": 1}
    return {"score": float(solution_str == ground_truth), "acc": 0.25, "pred": solution_str, "turns": extra_info["num_turns"]}

def says(data_source, solution_str, ground_truth, extra_info):
    extra_info["seen"] = True
    return len(data_source) + extra_info.get("bonus", 0)

def in_batches(data_sources, solution_strs, ground_truths, extra_infos):
    CALLS.append(len(solution_strs))
    return [{"score": float(s == g)} for s, g in zip(solution_strs, ground_truths)]

def too_few(data_sources, solution_strs, ground_truths, extra_infos):
    return [1.0]

async def later(solution_str, ground_truth, **kwargs):
    if solution_str == "boom":
        raise ValueError("boom")
    return float(solution_str == ground_truth)

def other(completions):
    return 1.0
"""
ROWS = [{"prompt": "p", "response": "4", "reference": "4"}, {"prompt": "p", "response": "so 4", "reference": "4"}]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "scores.py").write_text(SOURCE)
    return f"verl:{tmp_path}/scores.py"


def test_a_function_gets_solution_and_ground_truth(file, scores):
    assert scores(resolve_reward(f"{file}:compute_score"), ROWS)[0] == [1.0, 0.0]


def test_more_arguments_come_from_the_name(file, scores):
    assert scores(resolve_reward(f"{file}:compute_score?strict=false"), ROWS)[0] == [1.0, 1.0]
    with pytest.raises(RewardError, match="no option 'strcit'; did you mean strict"):
        foreign_reward(f"{file}:compute_score?strcit=false")


def test_an_exception_costs_its_row(file, scores):
    numbers, reasons = scores(foreign_reward(f"{file}:compute_score"), [*ROWS, {**ROWS[0], "response": "boom"}])
    assert numbers == [1.0, 0.0, None]
    assert reasons[2] == "KeyError: 'boom'"


def test_of_a_dict_the_score_is_paid_or_another_entry(file, scores):
    rows = [*ROWS, {**ROWS[0], "response": "none"}]
    numbers, reasons = scores(foreign_reward(f"{file}:with_extras"), rows)
    assert numbers == [1.0, 0.0, None]
    assert reasons[2] == "gave a dict without 'score': acc"
    assert scores(foreign_reward(f"{file}:with_extras?key=acc"), rows)[0] == [0.25, 0.25, 1.0]
    assert scores(foreign_reward(f"{file}:with_extras?key=pred"), ROWS)[1][0].startswith("gave a str")


def test_verls_own_columns_come_first_and_are_not_written_into(file, scores):
    info = {"bonus": 10}
    row = {"response": "4", "reference": "5", "reward_model": {"ground_truth": "4"}, "data_source": "abc", "extra_info": info}
    assert scores(foreign_reward(f"{file}:compute_score"), [row])[0] == [1.0]
    assert scores(foreign_reward(f"{file}:says"), [row])[0] == [13.0]
    assert info == {"bonus": 10}
    assert scores(foreign_reward(f"{file}:says?data_source=four"), ROWS[:1])[0] == [4.0]


def test_functions_of_batches_are_called_with_many(file, scores):
    signal = foreign_reward(f"{file}:in_batches", batch=3)
    assert scores(signal, ROWS * 4)[0] == [1.0, 0.0] * 4
    assert signal.grader.function.__globals__["CALLS"] == [3, 3, 2]
    numbers, reasons = scores(foreign_reward(f"{file}:too_few"), ROWS)
    assert numbers == [None, None]
    assert reasons[0] == "gave 1 answers for 2 members"


def test_coroutines_run_side_by_side_and_fail_alone(file, scores):
    numbers, reasons = scores(foreign_reward(f"{file}:later"), [*ROWS, {**ROWS[0], "response": "boom"}])
    assert numbers == [1.0, 0.0, None]
    assert reasons[2] == "ValueError: boom"


def test_without_a_ground_truth_there_is_no_verdict(file, scores):
    numbers, reasons = scores(foreign_reward(f"{file}:compute_score"), [ROWS[0], {"prompt": "p", "response": "4"}])
    assert numbers == [1.0, None]
    assert reasons[1] == "there is no ground truth"
    with pytest.raises(MissingFieldError, match=r"reward_model\['ground_truth'\], ground_truth or reference; the rows have prompt"):
        foreign_reward(f"{file}:compute_score")(from_rows([{"prompt": "p", "response": "4"}]))


def test_a_function_that_verl_could_not_call_is_refused(file):
    with pytest.raises(RewardError, match="takes completions; verl calls a reward function with data_source, solution_str"):
        foreign_reward(f"{file}:other")


def test_workers_grade_with_a_deadline(file, scores):
    signal = foreign_reward(f"{file}:compute_score", workers=1, deadline=20.0)
    try:
        assert scores(signal, ROWS)[0] == [1.0, 0.0]
    finally:
        signal.close()


def test_verls_own_router_goes_by_the_data_source(scores):
    signal = resolve_reward("verl:verl.utils.reward_score:default_compute_score")
    rows = [
        {"response": "so it is #### 72", "reference": "72", "data_source": "openai/gsm8k"},
        {"response": "so it is #### 71", "reference": "72", "data_source": "openai/gsm8k"},
        {"response": r"thus \boxed{\frac12}", "reference": r"\frac{1}{2}", "data_source": "lighteval/MATH"},
        {"response": "Answer: 7", "reference": "7", "data_source": "math_dapo"},
        {"response": "72", "reference": "72", "data_source": "my own"},
    ]
    numbers, reasons = scores(signal, rows)
    assert numbers == [1.0, 0.0, 1.0, 1.0, None]
    assert "NotImplementedError" in reasons[4]
    assert "my own" in reasons[4]
