"""Reward functions of TRL by name: handed what TRL hands, in batches, with None as no verdict."""

import pytest

from payoff.arguments import MissingFieldError
from payoff.foreign import RewardError, foreign_reward, is_foreign
from payoff.rewards import resolve_reward
from payoff.rows import RowError, from_rows
from payoff.scoring import score_rows

SOURCE = """
import asyncio
CALLS = []

def length(completions, **kwargs):
    CALLS.append(len(completions))
    return [float(len(c)) for c in completions]

def content(completions, **kwargs):
    return [len(c[0]["content"]) for c in completions]

def typed(completions: list[list[dict]], **kwargs):
    return [len(c[0]["content"]) for c in completions]

def same(prompts, completions, solution):
    return [None if s is None else float(c == s) for c, s in zip(completions, solution)]

def fragile(completions, **kwargs):
    CALLS.append(len(completions))
    return [1.0 / len(c) for c in completions]

def short(completions, **kwargs):
    return [1.0]

def odd(completions, **kwargs):
    return [float("nan"), "high", [1, 2], True][: len(completions)]

def whole(prompts, completions, **kwargs):
    return [float(len(prompts))] * len(prompts)

def logs(completions, trainer_state, log_extra, log_metric, **kwargs):
    log_extra("x", [1]); log_metric("y", 1.0)
    return [float(trainer_state.global_step)] * len(completions)

async def later(completions, **kwargs):
    await asyncio.sleep(0)
    return [2.0] * len(completions)

def tokens(completion_ids, **kwargs):
    return [float(sum(ids)) for ids in completion_ids]

def get_scaled(scale, offset=0):
    def scaled(completions, **kwargs):
        return [scale * len(c) + offset for c in completions]
    return scaled

def seen(prompts, completions, **kwargs):
    assert sorted(kwargs) == sorted(["source", "reference", "response", "trainer_state", "log_extra", "log_metric"]), sorted(kwargs)
    assert kwargs["source"] == ["a", None] and prompts == ["p", [{"role": "user", "content": "q"}]]
    return [0.0, float(completions[1] == [{"role": "assistant", "content": "s"}])]
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "rewards.py").write_text(SOURCE)
    return f"trl:{tmp_path}/rewards.py"


def calls_of(signal):
    return signal.grader.function.__globals__["CALLS"]


def test_text_rows_are_handed_over_as_text_and_many_at_once(file, scores):
    signal = foreign_reward(f"{file}:length", batch=100)
    numbers, _ = scores(signal, [{"prompt": "p", "response": "x" * k} for k in range(250)])
    assert numbers == [float(k) for k in range(250)]
    assert calls_of(signal) == [100, 100, 50]


def test_rows_whose_prompt_is_messages_get_messages(file, scores):
    rows = [{"prompt": [{"role": "user", "content": "hi"}], "response": "four"}]
    assert scores(foreign_reward(f"{file}:content"), rows)[0] == [4.0]


def test_an_annotation_or_an_option_decides_the_format(file, scores):
    rows = [{"prompt": "hi", "response": "four"}]
    assert scores(foreign_reward(f"{file}:typed"), rows)[0] == [4.0]
    assert scores(foreign_reward(f"{file}:content?format=conversational"), rows)[0] == [4.0]
    numbers, reasons = scores(foreign_reward(f"{file}:content"), rows)
    assert numbers == [None]
    assert "format=conversational" in reasons[0]


def test_every_column_arrives_under_its_own_name_and_none_where_a_row_lacks_it(file, scores):
    rows = [
        {"prompt": "p", "response": "r", "source": "a", "reference": "1"},
        {"prompt": [{"role": "user", "content": "q"}], "response": "s", "reference": "2"},
    ]
    assert scores(foreign_reward(f"{file}:seen"), rows) == ([0.0, 1.0], [None, None])


def test_the_reference_stands_for_the_answer_a_function_asks_for_under_another_name(file, scores):
    rows = [{"prompt": "p", "response": "4", "reference": "4"}, {"prompt": "p", "response": "5", "reference": "4"}]
    signal = foreign_reward(f"{file}:same")
    assert scores(signal, rows)[0] == [1.0, 0.0]
    numbers, _ = scores(signal, [{**row, "solution": "5"} for row in rows])
    assert numbers == [0.0, 1.0]


def test_a_missing_column_names_the_fields_there_are(file):
    with pytest.raises(MissingFieldError, match=r"'solution', which no row has; the rows have prompt, response, solutoin; did you"):
        foreign_reward(f"{file}:same")(from_rows([{"prompt": "p", "response": "r", "solutoin": "4"}]))
    with pytest.raises(RowError, match="solution"):
        list(score_rows([{"prompt": "p", "response": "r"}], foreign_reward(f"{file}:same")))


def test_a_row_without_the_column_costs_that_row(file, scores):
    rows = [{"prompt": "p", "response": "4", "solution": "4"}, {"prompt": "p", "response": "4"}, {"prompt": "p", "solution": "4"}]
    numbers, reasons = scores(foreign_reward(f"{file}:same"), rows)
    assert numbers == [1.0, None, None]
    assert "'solution'" in reasons[1]
    assert "'response'" in reasons[2]


def test_none_is_no_verdict(file, scores):
    rows = [{"prompt": "p", "response": "4", "solution": None}, {"prompt": "p", "response": "4", "solution": "4"}]
    assert scores(foreign_reward(f"{file}:same"), rows) == ([None, 1.0], ["no verdict", None])


def test_what_is_no_number_is_no_verdict_and_a_wrong_count_is_none_for_all(file, scores):
    rows = [{"prompt": "p", "response": "r"}] * 4
    numbers, reasons = scores(foreign_reward(f"{file}:odd"), rows)
    assert numbers == [None, None, None, 1.0]
    assert reasons[0] == "gave nan"
    assert "str" in reasons[1]
    assert "list" in reasons[2]
    numbers, reasons = scores(foreign_reward(f"{file}:short"), rows)
    assert numbers == [None] * 4
    assert reasons[0] == "gave 1 answers for 4 members"


def test_a_row_that_the_function_cannot_bear_costs_itself_alone(file, scores):
    signal = foreign_reward(f"{file}:fragile")
    numbers, reasons = scores(signal, [{"prompt": "p", "response": "x" * (k != 77)} for k in range(128)])
    assert [k for k, number in enumerate(numbers) if number is None] == [77]
    assert "ZeroDivisionError" in reasons[77]
    assert len(calls_of(signal)) == 1 + 2 * 7  # the whole, then two halves of every part that failed: 64 ... 1


def test_a_function_that_always_raises_is_not_asked_for_every_row(file, scores):
    signal = foreign_reward(f"{file}:fragile")
    numbers, _ = scores(signal, [{"prompt": "p", "response": ""}] * 256)
    assert numbers == [None] * 256
    assert len(calls_of(signal)) <= 65


def test_groups_and_batches_are_handed_over_whole_on_request(file, scores):
    rows = [{"prompt": str(k % 4), "response": "r"} for k in range(12)]  # four groups of three
    assert scores(foreign_reward(f"{file}:whole", sees="group", batch=7), rows)[0] == [6.0] * 12
    assert scores(foreign_reward(f"{file}:whole", sees="batch"), rows)[0] == [12.0] * 12
    assert scores(foreign_reward(f"{file}:whole", batch=5), rows)[0] == [5.0] * 10 + [2.0] * 2


def test_the_trainers_own_arguments_are_there(file, scores):
    assert scores(foreign_reward(f"{file}:logs"), [{"prompt": "p", "response": "r"}])[0] == [0.0]


def test_coroutines_run_to_their_end(file, scores):
    assert scores(foreign_reward(f"{file}:later"), [{"prompt": "p", "response": "r"}] * 3)[0] == [2.0] * 3


def test_recorded_tokens_are_the_completion_ids_and_text_has_none(file):
    signal = foreign_reward(f"{file}:tokens")
    recorded = from_rows([{"response": "r", "tokens": [5, 6]}, {"response": "s", "tokens": [7]}])
    assert signal(recorded)["tokens"].value.sum(1).tolist() == [11.0, 7.0]
    with pytest.raises(MissingFieldError, match="tokenizer=NAME"):
        signal(from_rows([{"prompt": "p", "response": "r"}]))


def test_a_function_that_makes_a_reward_gets_its_arguments_from_the_name(file, scores):
    signal = resolve_reward(f"{file}:get_scaled?scale=2&offset=0.5")
    assert scores(signal, [{"prompt": "p", "response": "abc"}])[0] == [6.5]
    with pytest.raises(RewardError, match=r"needs scale: write trl:.*\?scale=\.\.\."):
        foreign_reward(f"{file}:get_scaled")
    with pytest.raises(RewardError, match="no option 'scael'; did you mean scale"):
        foreign_reward(f"{file}:get_scaled?scael=2")
    with pytest.raises(RewardError, match="no option 'fromat'; did you mean format"):
        foreign_reward(f"{file}:length?fromat=text")


def test_workers_deadlines_and_the_cache_work_as_for_graders(file, scores):
    rows = [{"prompt": "p", "response": "x" * (k % 3)} for k in range(20)]
    signal = foreign_reward(f"{file}:length", workers=1, deadline=20.0, batch=8)
    try:
        assert scores(signal, rows)[0] == [float(k % 3) for k in range(20)]
    finally:
        signal.close()
    signal = foreign_reward(f"{file}:length", cache=True)
    assert scores(signal, rows)[0] == scores(signal, rows)[0] == [float(k % 3) for k in range(20)]
    assert calls_of(signal)[-1] == 3
    assert sum(calls_of(signal)) == 3


def test_padding_and_the_order_of_rows_change_nothing(file):
    signal = foreign_reward(f"{file}:length", batch=2)
    traj = from_rows([{"prompt": str(k % 2), "response": "x" * k, "steps": ["x"] * max(k, 1)} for k in range(5)])
    value = signal(traj)["length"].value.sum(1)
    assert value.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    order = [3, 1, 4, 0, 2]
    import torch

    assert signal(traj.select(torch.tensor(order)))["length"].value.sum(1).tolist() == [float(k) for k in order]
    assert signal(traj.select(torch.tensor([], dtype=torch.int64)))["length"].value.shape[0] == 0


def test_what_cannot_be_found_is_said_in_one_line_with_the_nearest_name(file):
    for spec, told in [
        (f"{file}:lenght", "did you mean 'length'"),
        ("trl:trl.rewards:acuracy_reward", "did you mean 'accuracy_reward'"),
        ("trl:nowhere.py:f", "no such file"),
        ("trl:", "names nothing"),
        (f"{file}:length?format=json", "format must be one of auto, text, conversational"),
        (f"{file}:length?batch=many", "batch must be a whole number"),
        (f"{file}:length?batch=0", "batch must be at least 1"),
        (f"{file}:length?batch", "NAME=VALUE"),
    ]:
        with pytest.raises(RewardError) as raised:
            resolve_reward(spec)
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(RewardError, match="did you mean trl:"):
        foreign_reward("tlr:x.py:f")
    assert not is_foreign("answer-match")
    assert not is_foreign("rewards.py:length")


# --- what TRL ships


def test_the_rewards_that_trl_ships_judge_as_in_its_documentation(scores):
    rows = [
        {"prompt": "1/3?", "response": r"My answer is \boxed{\frac{1}{3}}", "reference": r"\frac{1}{3}"},
        {"prompt": "1/3?", "response": r"My answer is \boxed{\frac{1}{2}}", "reference": r"\frac{1}{3}"},
    ]
    assert scores(resolve_reward("trl:trl.rewards:accuracy_reward"), rows)[0] == [1.0, 0.0]
    thought = [{**row, "response": f"<think>{row['response']}</think>{row['response']}"} for row in rows]
    assert scores(resolve_reward("trl:trl.rewards:reasoning_accuracy_reward"), thought)[0] == [1.0, 0.0]
    assert scores(resolve_reward("trl:trl.rewards:think_format_reward"), [rows[0], thought[0]])[0] == [0.0, 1.0]


def test_the_rewards_that_trl_makes_read_the_recorded_tokens():
    repeated = from_rows([{"response": "a", "tokens": [1, 2, 3, 4]}, {"response": "b", "tokens": [5] * 5}])
    signal = resolve_reward("trl:trl.rewards:get_repetition_penalty_reward?ngram_size=2&max_penalty=-1.0")
    assert signal(repeated)[signal.name].value.sum(1).tolist() == [0.0, -0.75]
    long = from_rows([{"response": "a", "tokens": [1] * 90}, {"response": "b", "tokens": [1] * 101}])
    signal = resolve_reward("trl:trl.rewards:get_soft_overlong_punishment?max_completion_len=100&soft_punish_cache=20")
    assert signal(long)[signal.name].value.sum(1).tolist() == [-0.5, -1.0]
    rows = [{"prompt": "p", "response": r"\boxed{2}", "reference": "2", "tokens": [1] * n} for n in (1, 100)]
    signal = resolve_reward("trl:trl.rewards:get_cosine_scaled_reward?max_len=100")
    first, last = signal(from_rows(rows))[signal.name].value.sum(1).tolist()
    assert last == pytest.approx(0.5)
    assert 0.99 < first <= 1.0
