"""The chain task: its reading of hand-written responses, its teacher, its truth and its graders, gameable ones included."""

import math
import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from payoff.catalogue import index
from payoff.grading import signal
from payoff.tasks.chain import (
    ALPHABET,
    Chain,
    chain_answer,
    chain_answer_lenient,
    chain_format,
    chain_needed_steps,
    chain_result,
    chain_solution,
    chain_start,
    chain_steps,
    noisy_answer,
    read_solution,
    step_result,
)
from payoff.tasks.chain_teacher import Noise, hard_facts, write_solution
from payoff.trajectories import Trajectories, outcome

PROMPT = "3-7+7-5="  # 3-7 = -4 = 6, 6+7 = 13 = 3, 3-5 = -2 = 8
RIGHT = "3-7=6;6+7=3;3-5=8;#8."
prompts = st.integers(2, 8).flatmap(
    lambda n: st.tuples(st.lists(st.sampled_from("0123456789"), min_size=n, max_size=n), st.text("+-", min_size=n, max_size=n)).map(
        lambda parts: "".join(a + b for a, b in zip(*parts, strict=True))[:-1] + "="
    )
)


def pieces(response: str) -> list[str]:
    """Cut as a policy cuts at the step separator: it belongs to the step it closes."""
    return re.findall("[^;]*;|[^;]+$", response)


def rollouts(prompt: str, responses: list[str]) -> Trajectories:
    """Responses as trajectories of one action a character, the last row's padding included."""
    width = max(map(len, responses)) + 2
    length = torch.tensor([max(len(response), 1) for response in responses])
    exists = torch.arange(width) < length[:, None]
    step = torch.tensor([[response[:t].count(";") for t in range(width)] for response in responses])
    start = chain_start(prompt)
    return Trajectories(
        mask=exists,
        length=length,
        group=torch.zeros(len(responses), dtype=torch.int64),
        step=torch.where(exists, step, -1),
        stop=torch.zeros(len(responses), dtype=torch.int64),
        actions=torch.zeros(len(responses), width, dtype=torch.int64),
        items=[{**start.fields, "start": start.id, "response": response, "steps": pieces(response)} for response in responses],
    )


def flags(response: str) -> str:
    """One letter a step: n needed, r repeated, s superfluous, a astray, x malformed; a capital where the arithmetic is wrong."""
    letters = []
    for step in read_solution(PROMPT, response).steps:
        letter = "n" if step.needed else "r" if step.repeated else "s" if step.superfluous else "a" if step.astray else "x"
        letters.append(letter if step.correct or letter == "x" else letter.upper())
    return "".join(letters)


@pytest.mark.parametrize(
    ("response", "steps", "answer", "missing"),
    [
        pytest.param(RIGHT, "nnn", "8", 0, id="correct"),
        pytest.param("3-7=5;5+7=2;2-5=7;#7.", "Nnn", "7", 0, id="a wrong result is charged once, to the step that writes it"),
        pytest.param("3-7=6;3-7=6;6+7=3;3-5=8;#8.", "nrnn", "8", 0, id="repeated"),
        pytest.param("3-7=6;6+7=3;3-7=6;3-5=8;#8.", "nnrn", "8", 0, id="repeated later"),
        pytest.param("3-7=6;6+0=6;6+7=3;3+0=3;3-5=8;#8.", "nsnsn", "8", 0, id="superfluous"),
        pytest.param("3+0=3;3-7=6;6+7=3;3-5=8;#8.", "snnn", "8", 0, id="superfluous at once"),
        pytest.param("3+1=3;3-7=6;6+7=3;3-5=8;#8.", "Snnn", "8", 0, id="superfluous and wrong"),
        pytest.param("3+7=0;0-5=5;#5.", "aa", "5", 3, id="skipped term: what builds on it is astray as well"),
        pytest.param("3-7=6;6-5=1;6+7=3;3-5=8;#8.", "nann", "8", 0, id="a skipped term taken after all"),
        pytest.param("3+7=0;#0.", "a", "0", 3, id="another operator"),
        pytest.param("3-7=6;;6+7=3;3-5=8;#8.", "nxnn", "8", 0, id="an empty piece is malformed"),
        pytest.param("3-7=6;6+7=13;3-5=8;#8.", "nxa", "8", 2, id="two digits are malformed"),
        pytest.param("3 - 7=6;#8.", "x", "8", 3, id="spaces are malformed"),
        pytest.param("3-7=6;6+7=3;3-5=8;", "nnn", None, 0, id="no answer"),
        pytest.param("3-7=6;6+7=3;3-5=", "nn", None, 1, id="cut short"),
        pytest.param("3-7=6;6+7=3;3-5=8;#8", "nnn", None, 0, id="answer without full stop"),
        pytest.param("3-7=6;6+7=3;3-5=8;#8.#8.", "nnn", None, 0, id="answered twice"),
        pytest.param("3-7=6;6+7=3;3-5=8;#1;#8.", "nnnx", "8", 0, id="an answer as a step is malformed, the last one counts"),
        pytest.param("3-7=6;6+7=3;3-5=8;#8.ok", "nnn", None, 0, id="text after the answer"),
        pytest.param("3-7=6;6+7=3;3-5=8;#8.\n", "nnn", None, 0, id="a line break after the answer"),
        pytest.param("3-7=6;6+7=3;3-5=8;#٨.", "nnn", None, 0, id="only ASCII digits are digits"),
        pytest.param("#8.", "", "8", 3, id="answer alone"),
        pytest.param("", "", None, 3, id="empty"),
    ],
)
def test_hand_written_responses_are_read_exactly(response, steps, answer, missing):
    reading = read_solution(PROMPT, response)
    assert flags(response) == steps
    assert reading.answer == answer
    assert reading.missing == missing
    assert "".join(step.text for step in reading.steps) + reading.rest == response


def test_a_step_that_adds_zero_is_needed_where_the_prompt_adds_zero():
    once, twice = read_solution("5+0+0=", "5+0=5;5+0=5;#5."), read_solution("5+0=", "5+0=5;5+0=5;#5.")
    assert [step.needed for step in once.steps] == [True, True]
    assert [step.needed for step in twice.steps] == [True, False]
    assert twice.steps[1].repeated


def test_every_answer_is_listed_wherever_it_stands():
    assert read_solution(PROMPT, "#1;3-7=6;#2#3.").answers == ("1", "2", "3")


@given(prompts, st.text(ALPHABET, max_size=40))
def test_a_well_formed_step_is_exactly_one_of_needed_repeated_superfluous_and_astray(prompt, response):
    reading = read_solution(prompt, response)
    for step in reading.steps:
        assert step.needed + step.repeated + step.superfluous + step.astray == step.well_formed
        assert step.well_formed or not step.correct
    assert reading.missing + sum(step.needed for step in reading.steps) == prompt.count("+") + prompt.count("-")


@pytest.mark.parametrize("prompt", ["", "3=", "3+=", "3+7", "13+7=", "3*7=", "3+7==", "3+7=\n", "x+1="])
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="a prompt is digits"):
        read_solution(prompt, RIGHT)


@given(prompts)
def test_the_reference_is_the_value_of_the_prompt_as_python_computes_it(prompt):
    assert chain_result(prompt) == str(eval(prompt[:-1]) % 10)


@given(prompts, st.integers(0, 2**32))
def test_a_teacher_without_noise_writes_the_solution_and_only_needed_correct_steps(prompt, seed):
    response = write_solution(prompt, Noise(), random.Random(seed))
    reading = read_solution(prompt, response)
    assert response == chain_solution(prompt)
    assert all(step.needed and step.correct for step in reading.steps)
    assert reading.missing == 0
    assert outcome(Chain().truth(rollouts(prompt, [response])), rollouts(prompt, [response]))[0].tolist() == [1.0]


def test_the_truth_is_paid_at_the_end_and_always_known():
    responses = [RIGHT, "3-7=6;#8.", "#8.", "3-7=6;6+7=3;3-5=8;#3.", "3-7=6;6+7=3;3-5=8;", "", "#8;", "#8.#8.", "#8;#3."]
    traj = rollouts(PROMPT, responses)
    channel = Chain().truth(traj)
    assert channel.valid.all()
    assert outcome(channel, traj)[0].tolist() == [1.0, 1.0, 1.0] + [0.0] * 6
    assert channel.value[0, len(RIGHT) - 1] == 1


def test_the_truth_does_not_trust_the_row_s_own_reference():
    traj = rollouts(PROMPT, ["#3."])
    traj.items[0]["reference"] = "3"
    assert outcome(Chain().truth(traj), traj)[0].item() == 0


def test_starts_repeat_from_the_seed_and_carry_their_solution():
    task = Chain(terms=5)
    first, second = (task.starts(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second
    for start in first:
        assert start.id == f"chain:{start.fields['prompt']}"
        assert len(start.fields["prompt"]) == 10
        assert start.fields["solution"].endswith(f"#{start.fields['reference']}.")
        assert chain_answer(start.fields["solution"], start.fields["reference"]) == 1


def test_held_out_prompts_are_distinct_the_same_for_ever_and_never_drawn_for_training():
    task = Chain(terms=2, held_out=100)  # 200 prompts in all, so that chance would draw held-out ones
    kept = [start.fields["prompt"] for start in task.held_out_starts()]
    drawn = {start.fields["prompt"] for start in task.starts(5000, torch.Generator().manual_seed(0))}
    assert len(set(kept)) == 100
    assert not drawn & set(kept)
    assert len(drawn) == 100  # and every other prompt comes up
    assert task.held_out_starts(10) == task.held_out_starts()[:10]
    assert [start.id for start in Chain().held_out_starts(3)] == GOLDEN_HELD_OUT


GOLDEN_HELD_OUT = ["chain:4+9+3+0+3-9=", "chain:7-3-7-3-1+6=", "chain:6-9+8+6+6-8="]  # by running once: never to change


@pytest.mark.parametrize("options", [{"terms": 1}, {"terms": 2, "held_out": 101}, {"held_out": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="chain: "):
        Chain(**options)


def test_more_held_out_starts_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.256"):
        Chain().held_out_starts(257)


# --- graders

SUPERFLUOUS = "3-7=6;6+0=6;6+7=3;6+7=3;3-5=9;#9."  # needed, superfluous, needed, repeated, needed but wrong; 9 for 8


@pytest.mark.parametrize(
    ("grader", "right", "gamed", "empty"),
    [
        (chain_steps, [1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [0]),
        (chain_needed_steps, [1, 1, 1, 0], [1, 0, 1, 0, 0, 0], [0]),
    ],
)
def test_step_graders_give_one_number_per_piece_and_one_for_nothing(grader, right, gamed, empty):
    for response, expected in ((RIGHT, right), (SUPERFLUOUS, gamed), ("", empty)):
        arguments = (PROMPT,) if grader is chain_needed_steps else ()
        assert grader(*arguments, pieces(response)).value == expected


def test_step_graders_are_valid_signals_on_rollouts_and_pay_each_step_where_it_ends():
    traj = rollouts(PROMPT, [SUPERFLUOUS, RIGHT[:-1], "#8.", ""])
    for grader, per_row in ((chain_steps, [4.0, 3.0, 0.0, 0.0]), (chain_needed_steps, [2.0, 3.0, 0.0, 0.0])):
        (channel,) = signal(grader)(traj).values()
        assert channel.valid.all()
        assert outcome(channel, traj)[0].tolist() == per_row
        assert channel.value[0].nonzero()[0].item() == 5  # the first step's ";"


def test_an_unfinished_step_is_not_graded_and_a_malformed_one_is_wrong():
    assert chain_steps(["3-7=6;", ";", "6+7"], wrong=-1.0, ungraded=0.5).value == [1, -1, 0.5]
    assert chain_steps(["3-7=6;", ";", "6+7=3;3-5=8;"]).value == [1, 0, 0]
    assert chain_needed_steps(PROMPT, ["3-7=6;", "6+7"]).value == [1, 0]


def test_signed_steps_are_neutral_to_a_minimum_at_the_answer_but_pay_no_answer_without_steps():
    signed = {"wrong": -1.0, "ungraded": 1.0}
    assert chain_steps(pieces(RIGHT), **signed).value == [1, 1, 1, 1]
    assert chain_steps(pieces(SUPERFLUOUS), **signed).value == [1, 1, 1, 1, -1, 1]
    assert chain_steps(["#8."], **signed).value == [-1]


@pytest.mark.parametrize("padding", ["3+0=3;", "3-7=6;"])
def test_padding_raises_the_sum_of_the_gameable_grader_and_leaves_the_truth_and_the_honest_grader(padding):
    for n in range(1, 8):
        padded = padding * n + RIGHT
        assert sum(chain_steps(pieces(padded)).value) == 3 + n
        assert sum(chain_needed_steps(PROMPT, pieces(padded)).value) == 3
        traj = rollouts(PROMPT, [RIGHT, padded])
        assert outcome(Chain().truth(traj), traj)[0].tolist() == [1.0, 1.0]


@given(prompts, st.lists(st.tuples(*map(st.sampled_from, ("0123456789", "+-", "0123456789", "0123456789"))), max_size=12))
def test_no_response_gets_more_from_the_honest_grader_than_the_solution_does(prompt, steps):
    response = "".join(f"{a}{operator}{b}={c};" for a, operator, b, c in steps)
    solution = chain_solution(prompt)
    assert sum(chain_needed_steps(prompt, pieces(response)).value) <= sum(chain_needed_steps(prompt, pieces(solution)).value)


@pytest.mark.parametrize(
    ("response", "strict", "lenient", "format"),
    [
        (RIGHT, 1, 1, 1),
        ("3-7=6;#1;#8;#3.", 0, 1, 0),  # the lenient grader takes any answer, the strict one the last
        ("3-7=6;#8.#3.", 0, 1, 0),
        ("0+0=9;#1.", 0, 0, 1),  # well written, nothing else
        ("#8.", 1, 1, 0),
        ("3-7=6;#8", 0, 1, 0),
        ("3-7=6;#8. ", 0, 1, 0),
        ("8", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_answer_and_format_graders(response, strict, lenient, format):
    assert (chain_answer(response, "8"), chain_answer_lenient(response, "8"), chain_format(response)) == (strict, lenient, format)


@given(prompts, st.text(ALPHABET, max_size=30))
def test_the_strict_answer_grader_is_the_truth_and_never_above_the_lenient_one(prompt, response):
    reference = chain_result(prompt)
    truth = outcome(Chain().truth(rollouts(prompt, [response])), rollouts(prompt, [response]))[0].item()
    assert truth == chain_answer(response, reference) <= chain_answer_lenient(response, reference)
    assert (read_solution(prompt, response).answer == reference) == (truth == 1)


@pytest.mark.parametrize(("response", "rate_of_one"), [("#6.", 0.7), ("#5.", 0.15)])
def test_noise_rates_hold_to_a_binomial_interval(response, rate_of_one):
    n = 20_000
    ones = sum(
        noisy_answer("3-7=", f"3{'+' * i}7;{response}", "6", false_positive=0.15, false_negative=0.3) for i in range(200)
    ) + sum(noisy_answer(f"p{i}", f"s;{response}", "6", false_positive=0.15, false_negative=0.3) for i in range(n - 200))
    assert abs(ones / n - rate_of_one) < 4 * math.sqrt(rate_of_one * (1 - rate_of_one) / n)


def test_a_noisy_verdict_never_changes_but_depends_on_prompt_response_and_seed():
    verdicts = lambda **options: [noisy_answer(f"p{i}", "#6.", "6", false_negative=0.5, **options) for i in range(64)]
    assert verdicts() == verdicts()
    assert verdicts() != verdicts(seed=1)
    assert len(set(verdicts())) == 2
    assert len({noisy_answer("p", f"{i};#6.", "6", false_negative=0.5) for i in range(64)}) == 2
    assert noisy_answer("3-7=", "3-7=6;#6.", "6", false_positive=0.0, false_negative=0.5) == GOLDEN_VERDICT


GOLDEN_VERDICT = 1.0  # by running once: other machines and versions must agree


@pytest.mark.parametrize("rates", [{"false_positive": 1.5}, {"false_negative": -0.1}, {"false_negative": math.nan}])
def test_impossible_noise_rates_are_refused(rates):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        noisy_answer("3-7=", "#6.", "6", **rates)


def test_task_and_graders_are_in_the_catalogue():
    names = {"chain-answer", "chain-answer-lenient", "chain-format", "chain-steps", "chain-needed-steps", "chain-answer-noisy"}
    assert names <= {name for kind, name in index() if kind == "grader"}
    assert ("task", "chain") in index()


# --- the teacher


def taught(noise: Noise, n: int = 1000, prompt: str = "3-7+7-5-9-4=") -> list[str]:
    rng = random.Random(0)
    return [write_solution(prompt, noise, rng) for _ in range(n)]


def share(hits: int, n: int, expected: float) -> bool:
    return abs(hits / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_wrong_results_come_at_their_rate_and_are_carried_on_from():
    readings = [read_solution("3-7+7-5-9-4=", response) for response in taught(Noise(wrong_result=0.13))]
    steps = [step for reading in readings for step in reading.steps]
    assert all(step.needed for step in steps)
    assert share(sum(not step.correct for step in steps), len(steps), 0.13)


def test_skipped_terms_and_wrong_answers_come_at_their_rates():
    assert share(sum(5 - response.count(";") for response in taught(Noise(skipped_term=0.03))), 5_000, 0.03)
    wrong = sum(not response.endswith("#1.") for response in taught(Noise(wrong_answer=0.1)))  # 3-7+7-5-9-4 = -15 = 5
    right = sum(response.endswith("#5.") for response in taught(Noise(wrong_answer=0.1)))
    assert share(right, 1000, 0.9)
    assert share(1000 - wrong, 1000, 0.1 / 9)  # each wrong digit equally often


def test_superfluous_steps_come_at_their_rate_change_nothing_and_stay_within_the_limit():
    readings = [read_solution("3-7+7-5-9-4=", response) for response in taught(Noise(superfluous=0.05))]
    extra = [step for reading in readings for step in reading.steps if not step.needed]
    # each of 5,000 places gets 0.05 * (1 + 1/2 + 1/4 + ...) = 0.1 of them; their number's variance is under 0.3
    assert abs(len(extra) / 5_000 - 0.1) < 4 * math.sqrt(0.3 / 5_000)
    assert all(step.correct for step in extra)
    assert all(reading.missing == 0 and reading.answer == "5" for reading in readings)
    assert max(map(len, taught(Noise(superfluous=1.0)))) <= 72


def test_believed_facts_are_wrong_in_the_same_way_every_time():
    noise = Noise(believed=1.0, hard={("6", "+", "7"): "4"})
    assert taught(noise, 1) == ["3-7=6;6+7=4;4-5=9;9-9=0;0-4=6;#6."]
    steps = [response[6:12] for response in taught(Noise(believed=0.6, hard=noise.hard))]
    assert share(steps.count("6+7=4;"), 1000, 0.6)
    assert share(steps.count("6+7=3;"), 1000, 0.4)


def test_hard_facts_are_distinct_never_right_and_never_about_zero():
    facts = hard_facts(180, random.Random(0))  # all there are: 10 left digits, two operators, nine right digits
    assert len(facts) == 180
    assert all(right != "0" and result != step_result(left, operator, right) for (left, operator, right), result in facts.items())
    assert hard_facts(45, random.Random(1)) == hard_facts(45, random.Random(1)) != hard_facts(45, random.Random(2))


def test_a_scaled_noise_has_every_rate_scaled_and_the_same_hard_facts():
    noise = Noise(0.1, 0.2, 0.3, 0.4, 0.5, {("1", "+", "1"): "3"}).scaled(0.5)
    assert noise == Noise(0.05, 0.1, 0.15, 0.2, 0.25, {("1", "+", "1"): "3"})


def test_impossible_teacher_rates_are_refused():
    with pytest.raises(ValueError, match="Noise: superfluous"):
        Noise(superfluous=1.1)
