import functools
import json
import random
import tracemalloc

import pytest
import torch
from torch import nn

from payoff.catalogue import method
from payoff.grading import signal
from payoff.pipeline import Verdict
from payoff.probes import PROBES, Case, probes_of, same_answer
from payoff.rewards import RewardError, as_signal, resolve_reward
from payoff.rows import RowError, from_rows, to_rows
from payoff.scoring import score_rows, validate
from payoff.tasks.chain import Chain
from payoff.tasks.reasoning_gym import ReasoningGym
from payoff.trajectories import Channel, place_outcome, place_steps
from payoff.validation import Bounds, told

# --- graders of all kinds


def equal(response, reference):
    return float(response == reference)


def contains(response, reference):
    return float(reference in response)


def strict(response, reference):
    return float(int(response) == int(reference))


def by_step(steps):
    return Verdict([None if step == "?" else float(len(step)) for step in steps])


def majority(response):
    return [float(response.count(one) > len(response) / 2) for one in response]


def signal_of_lengths(traj):
    value = torch.tensor([float(len(item["response"])) for item in traj.items])
    return {"length": place_outcome(value, value >= 0, traj)}


def signal_with_options(traj, threshold):
    return signal_of_lengths(traj)


class Module(nn.Module):
    def forward(self, traj):
        return signal_of_lengths(traj)


class Needy(nn.Module):
    def __init__(self, size):
        super().__init__()


def rows_of(*responses, **more):
    return [{"prompt": "p", "response": r, "reference": "2", **more} for r in responses]


# --- score


def test_rows_come_back_whole_in_order_with_reward_and_reason():
    rows = rows_of("2", "x", "3", level=4)
    scored = list(score_rows(rows, signal(strict, name="right"), batch_size=2))
    assert [row["reward"] for row in scored] == [{"right": 1.0}, {"right": None}, {"right": 0.0}]
    assert [list(row["reason"]) for row in scored] == [[], ["right"], []]
    assert "invalid literal" in scored[1]["reason"]["right"]
    assert [{k: v for k, v in row.items() if k not in ("reward", "reason")} for row in scored] == rows
    json.dumps(scored, allow_nan=False)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(batch_size):
    rows = [
        {"response": "", "steps": s, "prompt": str(k)} for k, s in enumerate([["a", "bb"], ["c"], ["?", "d"], ["e", "f", "gg"]])
    ]
    scored = list(score_rows(rows, signal(by_step), batch_size=batch_size))
    assert [row["reward"]["by_step"] for row in scored] == [3.0, 1.0, None, 4.0]
    assert [row["reward_steps"]["by_step"] for row in scored] == [[1.0, 2.0], [1.0], [None, 1.0], [1.0, 1.0, 2.0]]


def test_a_channel_that_pays_only_at_the_end_has_no_steps():
    (row,) = score_rows([{"response": "22", "reference": "22", "steps": ["2", "2"]}], signal(equal))
    assert "reward_steps" not in row
    assert row["reward"] == {"equal": 1.0}


def test_rows_are_scored_as_they_come():
    taken = []

    def source():
        for row in rows_of("2", "3", "4", "5", "6"):
            taken.append(row)
            yield row

    scored = score_rows(source(), signal(equal), batch_size=2)
    next(scored)
    assert len(taken) <= 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows():
    def peak(n):
        tracemalloc.start()
        for _ in score_rows(({"response": str(k), "reference": "7"} for k in range(n)), signal(equal), batch_size=64):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(200)
    assert peak(1600) < 1.5 * peak(400)


def test_numbers_are_written_as_the_grader_gave_them():
    (row,) = score_rows(rows_of("x"), signal(lambda response: 0.1, name="tenth"))
    assert row["reward"]["tenth"] == 0.1


def test_a_signal_that_sees_groups_finds_them_wherever_their_rows_stand():
    rows = [{"response": r, "group": g} for r, g in (("a", 1), ("x", 2), ("b", 1), ("x", 2), ("a", 1), ("y", 2))]
    whole = list(score_rows(rows, signal(majority, sees="group"), batch_size=2))
    assert [row["reward"]["majority"] for row in whole] == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    assert [row["response"] for row in whole] == [row["response"] for row in rows]
    ordered = sorted(rows, key=lambda row: row["group"])
    adjacent = list(score_rows(ordered, signal(majority, sees="group"), batch_size=2, adjacent=True))
    assert [row["reward"]["majority"] for row in adjacent] == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_rows_of_one_prompt_are_a_group_where_none_is_named():
    rows = [{"prompt": p, "response": r} for p, r in (("q", "a"), ("w", "b"), ("q", "a"), ("q", "c"))]
    assert [row["reward"]["majority"] for row in score_rows(rows, signal(majority, sees="group"))] == [1.0, 1.0, 1.0, 0.0]


def test_a_signal_that_sees_the_batch_gets_all_rows_at_once():
    rows = [{"prompt": str(k), "response": r} for k, r in enumerate("aab")]
    assert [row["reward"]["majority"] for row in score_rows(rows, signal(majority, sees="batch"), batch_size=1)] == [1.0, 1.0, 0.0]


def test_groups_that_are_not_adjacent_after_all_are_an_error():
    rows = [{"group": g, "response": "a"} for g in (1, 2, 1)]
    with pytest.raises(RowError, match=r"r.jsonl row 3: its group was met before"):
        list(score_rows(rows, signal(majority, sees="group"), adjacent=True, source="r.jsonl"))


def test_rewards_that_a_row_has_already_are_kept():
    (row,) = score_rows(
        [{"response": "2", "reference": "2", "reward": {"old": None}, "reason": {"old": "why", "equal": "no"}}], signal(equal)
    )
    assert row["reward"] == {"old": None, "equal": 1.0}
    assert row["reason"] == {"old": "why"}
    (row,) = score_rows([{"response": "2", "reference": "2", "reward": 0.5}], signal(equal))
    assert row["reward"] == {"reward": 0.5, "equal": 1.0}


def test_recorded_rows_with_ids_of_several_runs_keep_their_own_reasons():
    rows = [{"tokens": [1], "id": 7, "response": r, "reference": "2"} for r in ("x", "2", "y")]
    reasons = [row["reason"].get("strict", "") for row in score_rows(rows, signal(strict))]
    assert ["'x'" in reasons[0], reasons[1], "'y'" in reasons[2]] == [True, "", True]


def test_recorded_rewards_are_summed_over_what_exists():
    traj = from_rows([{"tokens": [1, 2, 3], "step": [0, 0, 1]}, {"tokens": [4]}])
    steps = torch.tensor([[2.0, 3.0], [5.0, 99.0]])
    paid = lambda traj: {"s": place_steps(steps, torch.ones(2, 2, dtype=torch.bool), traj)}
    assert [(row["reward"], row["reward_steps"]) for row in score_rows(to_rows(traj), paid)] == [
        ({"s": 5.0}, {"s": [2.0, 3.0]}),
        ({"s": 5.0}, {"s": [5.0]}),
    ]


def test_no_rows_give_no_rows():
    assert list(score_rows([], signal(equal))) == []
    assert list(score_rows([], signal(majority, sees="group"))) == []


@pytest.mark.parametrize(
    ("rows", "reward", "says"),
    [
        ([{"response": "2"}], equal, "r.jsonl: equal reads 'reference', which no row has; the rows have response"),
        ([{"response": "2"}, {"tokens": "a"}], equal, "r.jsonl row 2: tokens must be numbers"),
    ],
)
def test_rows_that_a_reward_cannot_read_are_named(rows, reward, says):
    with pytest.raises(RowError) as caught:
        list(score_rows(rows, signal(reward), source="r.jsonl"))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@method("needs-ref", kind="signal", needs=("ref",))
def needs_ref(traj):
    return signal_of_lengths(traj)


def test_a_reward_that_reads_what_rows_do_not_record_is_refused_before_it_runs():
    with pytest.raises(RowError, match=r"rows: reward 'needs-ref' reads ref, which these rows do not record"):
        list(score_rows(rows_of("2"), needs_ref))
    (row,) = score_rows([{"tokens": [1], "logp": {"ref": [-1.0]}, "response": "abc"}], needs_ref)
    assert row["reward"] == {"length": 3.0}


# --- resolve


@pytest.mark.parametrize(
    "spec", ["reasoning-gym:chain_sum", "reasoning-gym:chain-sum", f"{__file__}:equal", "payoff.tasks.chain:chain_format"]
)
def test_a_reward_is_found_by_name_file_or_module(spec):
    assert callable(resolve_reward(spec))


def test_registered_graders_and_options_of_running_them_are_passed_on():
    lifted = resolve_reward("reasoning_gym_score", cache=True)
    assert (lifted.name, lifted.cache) == ("reasoning-gym-score", True)


def test_a_run_file_is_left_to_who_can_read_it(tmp_path):
    assert resolve_reward("run.yaml", run=lambda path: (path, signal_of_lengths)[1]) is signal_of_lengths
    with pytest.raises(RewardError, match=r"run.yaml: a run file cannot be used here"):
        resolve_reward("run.yaml")


def test_signals_stay_as_they_are_and_classes_are_made():
    module = Module()
    assert as_signal(signal_of_lengths, "n") is signal_of_lengths
    assert as_signal(module, "n") is module
    assert isinstance(as_signal(Module, "n"), Module)
    lifted = signal(equal)
    assert as_signal(lifted, "n") is lifted


def test_a_partly_filled_grader_is_still_a_grader():
    bound = functools.partial(contains, reference="2")
    (row,) = score_rows([{"response": "12"}], as_signal(bound, "has-2"))
    assert row["reward"] == {"has-2": 1.0}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("reasoning-gym-scor", 'unknown reward "reasoning-gym-scor"; did you mean reasoning-gym-score?'),
        ("grpo-xyzzy-nothing", "list: payoff methods --kind grader"),
        ("dataset", 'unknown reward "dataset"; it is a task'),
        ("reasoning-gym:chain_sums", "did you mean chain_sum?"),
        ("gone.py:equal", "no such file"),
        (f"{__file__}:equall", "did you mean 'equal'?"),
        ("no_such_module:f", "no_such_module"),
        (f"{__file__}:signal_with_options", "needs options (threshold); give them in a run file"),
        (f"{__file__}:Needy", "needs options (size)"),
    ],
)
def test_a_reward_that_cannot_be_had_is_one_line(spec, says):
    with pytest.raises(RewardError) as caught:
        resolve_reward(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# --- validate


GOLDS = [{"prompt": f"What is {k} * 37?", "reference": str(k * 37)} for k in range(3, 33)]


def test_an_exact_match_holds():
    report = validate(signal(equal), GOLDS)
    assert (report.verdict, report.passed) == ("holds", True)
    assert report.refused.value == report.paid.value == 0.0
    assert report.paid.high == pytest.approx(0.1135, abs=1e-4)  # Wilson: z^2 / (n + z^2) at 0 of 30, z = 1.96
    assert {finding.probe for finding in report.findings} == {"gold"} | {probe.name for probe in PROBES}


def test_containing_the_right_answer_is_found_to_be_paid():
    report = validate(signal(contains), GOLDS)
    assert report.verdict == "fails"
    paid = {finding.probe for finding in report.findings if finding.wrong and finding.probe != "gold"}
    assert {"gold-prefixed", "gold-denied", "gold-then-other", "gold-among-many", "gold-buried", "sign-flipped"} <= paid
    assert not {"empty", "blank", "dont-know", "long-junk", "near-miss", "lookalikes", "format-only"} & paid
    assert report.paid.value == 1.0
    assert report.refused.value == 0.0


def test_a_reward_that_refuses_right_answers_fails_with_the_rows_it_refuses():
    def even(response, reference):
        return float(response == reference and int(response) % 2 == 0)

    report = validate(signal(even), GOLDS)
    assert report.verdict == "fails"
    assert report.refused.value == 0.5
    assert report.says.startswith("even refuses right answers in 50 % (33-67 %) of rows")
    assert all(int(attempt.response) % 2 for attempt in report.missed)


def test_answers_without_verdict_take_part_in_no_rate_and_leave_it_open_when_they_are_many():
    report = validate(signal(strict), GOLDS)
    assert report.verdict == "inconclusive"
    assert "costs a policy nothing" in report.says
    empty = next(finding for finding in report.findings if finding.probe == "empty")
    assert (empty.attempts, empty.invalid, empty.wrong, empty.rate.n, empty.rate.value, empty.mean) == (30, 30, 0, 0, None, None)
    assert sum(report.invalid.values()) == sum(finding.invalid for finding in report.findings)


def test_a_reward_that_never_knows_is_inconclusive():
    report = validate(signal(lambda response: None, name="silent"), GOLDS)
    assert report.verdict == "inconclusive"
    assert report.refused.value is None
    assert "no verdict on any of the right answers" in report.says


def test_bounds_say_how_much_is_asked():
    tenth = lambda response, reference: 0.9 if response == reference else 0.1
    assert validate(signal(tenth, name="t"), GOLDS).verdict == "fails"
    assert validate(signal(tenth, name="t"), GOLDS, bounds=Bounds(gold=0.9, junk=0.1)).verdict == "holds"
    assert validate(signal(tenth, name="t"), GOLDS, bounds=Bounds(gold=0.9, paid=1.0)).verdict == "holds"


@pytest.mark.parametrize("template", ["\\boxed{{reference}}", lambda answer, row: f"\\boxed{{{answer}}}"])
def test_an_answer_is_phrased_as_the_reward_expects(template):
    def boxed(response, reference):
        return float(response == f"\\boxed{{{reference}}}")

    assert validate(signal(boxed), GOLDS).refused.value == 1.0
    report = validate(signal(boxed), GOLDS, template=template)
    assert report.verdict == "holds"


def test_a_template_may_use_any_field_of_the_row():
    seen = []

    def grader(response, reference):
        seen.append(response)
        return float(response == f"{{x}} so {reference}: {int(reference) // 37}")

    rows = [{**row, "k": int(row["reference"]) // 37} for row in GOLDS]
    assert validate(signal(grader), rows, template="{x} so {reference}: {k}").refused.value == 0.0
    assert "{x} so 111: 3" in seen


def test_right_answers_and_probes_of_a_row_form_one_group():
    def best(response, reference):
        return [float(one == reference[0]) for one in response]

    report = validate(signal(best, sees="group"), GOLDS[:5])
    assert report.verdict == "holds"


def test_rows_without_a_right_answer_are_counted_and_still_probed():
    report = validate(signal(equal), [*GOLDS[:4], {"prompt": "open", "reference": None}])
    assert (report.rows, report.without_gold, report.refused.n, report.paid.n) == (5, 1, 4, 5)
    assert next(finding for finding in report.findings if finding.probe == "dont-know").attempts == 5


def test_of_several_channels_one_is_named():
    both = lambda response, reference: {"right": float(response == reference), "short": float(len(response) < 9)}
    assert validate(signal(both, name="both"), GOLDS, channel="right").verdict == "holds"
    assert validate(signal(both, name="both"), GOLDS, channel="short").verdict == "fails"
    with pytest.raises(RewardError, match="gives several channels, right, short: say which one"):
        validate(signal(both, name="both"), GOLDS)
    with pytest.raises(RewardError, match="gives no channel 'wrong'; it gives: right, short"):
        validate(signal(both, name="both"), GOLDS, channel="wrong")


def test_the_same_rows_and_seed_give_the_same_report():
    once = validate(signal(contains), GOLDS, seed=3).as_json()
    assert validate(signal(contains), GOLDS, seed=3).as_json() == once
    json.dumps(once, allow_nan=False)


def test_only_the_first_rows_are_tried():
    assert validate(signal(equal), iter(GOLDS), limit=7).rows == 7


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no rows"),
        ([{"prompt": "p", "answer": "2"}], "no row has a right answer under 'reference'; the first row has: prompt, answer"),
    ],
)
def test_nothing_to_validate_on_is_one_line(rows, says):
    with pytest.raises(RowError, match=says):
        validate(signal(equal), rows)


def test_at_most_two_examples_are_of_one_kind_or_one_row():
    report = validate(signal(contains), GOLDS)
    kinds = [attempt.probe for attempt in report.examples]
    rows = [attempt.row for attempt in report.examples]
    assert len(kinds) >= 6
    assert max(kinds.count(k) for k in kinds) <= 2
    assert max(rows.count(r) for r in rows) <= 2


def test_the_report_in_words_names_every_kind_and_shows_hostile_text_escaped():
    rows = [{"prompt": "p", "reference": f"\x1b[31m{k}"} for k in range(9)]
    text = told(validate(signal(contains), rows))
    assert text.splitlines()[0] == "contains   FAILS   9 rows, 18 kinds of answers"
    assert "x gold-buried" in text
    assert "+ empty" in text
    assert "\x1b" not in text


# --- probes


def case(gold, others=("5", "6", "7"), prompt="What?", phrase=lambda text: text):
    return Case(prompt, gold, list(others), phrase, random.Random(0))


def made(gold, **options):
    return {probe.name: text for probe, text in probes_of(case(gold, **options))}


def test_probes_of_a_number_worked_by_hand():
    texts = made("-42")
    assert texts["near-miss"] == "-41"
    assert texts["sign-flipped"] == "42"
    assert texts["gold-prefixed"] == "-742"
    assert texts["gold-denied"] == "not -42"
    assert texts["gold-then-other"] == "-42 or 5"
    assert texts["gold-among-many"] == "5, -42, 6, 7"
    assert texts["lookalikes"] == "-ЧƧ"


@pytest.mark.parametrize(
    ("gold", "near"),
    [
        ("cat", "ca"),
        ("Paris in May", " in May"),
        ("1 2\n3 4", "1 2\n3 5"),
        ("\\frac{3}{9}", "\\frac{3}{0}"),
        ("1.5", "2.5"),
        ("0", "1"),
    ],
)
def test_a_near_miss_is_wrong_by_one_digit_word_or_letter(gold, near):
    assert made(gold)["near-miss"] == near


def test_a_probe_that_would_be_right_is_left_out():
    assert "other-gold" in made("4", others=["5"])
    assert "other-gold" not in made("5.0", others=["5"])
    assert "one-word" not in made("The")
    assert "prompt-repeated" not in made("echo", prompt="Echo ")
    assert "lookalikes" not in made("-?!")


def test_without_a_right_answer_only_probes_that_need_none_are_made():
    assert set(made(None)) == {p.name for p in PROBES} - {
        "near-miss", "sign-flipped", "gold-prefixed", "gold-denied", "gold-then-other", "other-then-gold", "gold-among-many",
        "numbers-listed", "gold-buried", "lookalikes",
    }  # fmt: skip


def test_the_expected_form_is_used_without_an_answer():
    assert made("4", phrase=lambda text: f"<answer>{text}</answer>")["format-only"] == "<answer></answer>"
    assert "\\boxed{}" in made("4")["format-only"]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [("1,000", "1000.0", True), ("Yes ", "yes", True), ("a b", "ab", True), ("1", "-1", False), ("４", "4", False)],
)
def test_answers_are_the_same_but_for_case_space_and_notation(a, b, same):
    assert same_answer(a, b) is same


def test_a_lenient_reader_of_the_expected_form_is_caught_by_many_answers_in_that_form():
    rows = [start.fields for start in Chain(terms=4).held_out_starts(20)]
    strict = validate(resolve_reward("chain-answer"), rows, template="#{reference}.")
    lenient = validate(resolve_reward("chain-answer-lenient"), rows, template="#{reference}.")
    assert strict.verdict == "holds"
    paid = {finding.probe: finding.rate.value for finding in lenient.findings}
    assert paid["gold-among-many"] == paid["numbers-listed"] == 1.0
    assert validate(resolve_reward("chain-answer"), rows, gold_field="solution").refused.value == 0.0


def test_real_scorers_are_caught_by_the_real_probes():
    def report(name):
        task = ReasoningGym(name)
        return validate(resolve_reward(f"reasoning-gym:{name}"), [start.fields for start in task.held_out_starts(10)])

    means = {finding.probe: finding.mean for finding in report("chain_sum").findings}
    assert means["gold"] == 1.0
    assert means["gold-then-other"] > 0.2
    assert means["sign-flipped"] > 0.2
    assert {f.probe: f.mean for f in report("game_of_life_halting").findings}["dont-know"] == 1.0
    assert report("shortest_path").verdict == "holds"


def test_channels_are_checked_like_everywhere():
    bad = lambda traj: {"x": Channel(torch.full((len(traj), 1), torch.nan), torch.ones(len(traj), 1, dtype=torch.bool))}
    with pytest.raises(ArithmeticError, match="gave nan for trajectory"):
        list(score_rows(rows_of("a"), bad))
