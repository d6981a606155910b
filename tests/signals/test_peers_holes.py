"""The holes that were found in other libraries' rewards, each with the tests that show it closed here.

What a list of names cannot show is tried at the end of this file: verdicts that others gave wrongly, and data that others ran.
"""

import base64
import itertools
import pickle
import re
from pathlib import Path

import pytest

from payoff.grading import signal
from payoff.pipeline import Verdict
from payoff.rows import from_rows
from payoff.signals.answers import answer_match
from payoff.signals.code import code_tests
from payoff.signals.last_turn import last_turn
from payoff.signals.math_answers import math_answer
from payoff.signals.mixed import last_number
from payoff.signals.sql import sql_execution
from payoff.trajectories import outcome

TESTS = Path(__file__).parents[1]
# What went wrong elsewhere -> file under tests, and the test there.
CLOSED = {
    "an exception, a timeout or a dead judge became the reward 0": [
        "test_grading.py::test_an_exception_is_an_invalid_verdict_with_its_name_and_message",
        "test_workers.py::test_ten_members_that_hang_die_raise_and_talk_cost_one_verdict_each",
        "foreign/test_chat_client.py::test_a_fault_that_stays_is_no_verdict_with_its_reason",
        "foreign/test_reward_server.py::test_nobody_there_is_no_verdict",
    ],
    "a missing verdict was counted by the trainer": [
        "integrations/test_trl_trainer.py::test_no_verdict_has_no_gradient_and_is_in_no_statistic",
        "integrations/test_verl_trainer.py::test_a_row_without_verdict_trains_nothing_and_is_in_no_baseline",
        "integrations/test_openrlhf.py::test_scores_stay_in_their_range_and_a_missing_verdict_is_the_number_asked_for",
    ],
    "one sample without verdict handed the whole batch to the reward model": [
        "test_grading.py::test_one_verdict_that_fails_changes_nothing_in_other_trajectories",
    ],
    "the keys of a reward's dict were those of the first sample": [
        "test_grading.py::test_channels_given_once_stay_when_a_whole_batch_fails",
        "integrations/test_verl_reward.py::test_every_row_has_the_same_keys_whatever_happened_to_it",
    ],
    "alarms work in the main thread alone": [
        "signals/test_math_answers.py::test_threads_and_forked_children_get_verdicts_too",
        "sandbox/test_handle.py::test_time_limits_hold_in_threads_against_one_long_call",
    ],
    "a timeout stopped the waiting and not the work": [
        "test_workers.py::test_a_deadline_holds_against_long_calls_into_c_and_against_deaf_graders",
        "signals/test_math_answers.py::test_a_comparison_that_does_not_end_is_killed_and_the_next_one_works",
    ],
    "four answers stuck in C stopped the pool, and all later ones scored 0": [
        "signals/test_math_answers.py::test_a_process_that_stops_answering_costs_one_verdict_and_no_more",
        "test_workers.py::test_the_deadline_is_of_one_item_and_not_of_the_batch",
    ],
    "managers and killed children were left behind": [
        "test_workers.py::test_no_process_no_zombie_and_no_descriptor_is_left_behind",
        "sandbox/test_handle.py::test_many_runs_leak_neither_descriptors_nor_processes_nor_memory",
    ],
    "programs ran in the scorer's process, network, user and environment": [
        "attacks/test_corpus.py::test_no_attack_succeeds",
        "attacks/test_corpus.py::test_no_honest_program_fails",
        "attacks/test_corpus.py::test_nothing_outlives_the_attempts",
    ],
    "a weaker sandbox than was asked for, without a word": [
        "sandbox/test_without_namespaces.py::test_the_default_fails_closed_with_a_sentence_that_names_the_way_out",
    ],
    "a program's own __eq__ and types decided": ["sandbox/test_plain.py::test_values_of_other_types_are_other_values"],
    "the first box counted where the last was broken": [
        "signals/test_math_answers.py::test_exactly_the_one_final_answer_counts",
    ],
    "equal answers in other forms were refused, unequal ones paid": [
        "signals/test_math_answers.py::test_every_form_of_an_answer_is_paid_and_no_near_miss",
        "signals/test_math_answers.py::test_math_verify_alone_is_wrong_more_often_on_both",
    ],
    "boxes printed again and again were paid": [
        "signals/test_grounding.py::test_repeating_every_box_costs_half_with_the_factor_and_nothing_without",
    ],
    "the judge preferred a place, differed between runs, could be told what to say": [
        "foreign/test_judge_pairs.py::test_who_sees_only_the_place_knows_nothing_or_says_a_half",
        "foreign/test_judge.py::test_another_seed_is_another_request",
        "foreign/test_judge.py::test_a_quoted_response_cannot_forge_its_end",
        "foreign/test_chat_schema.py::test_only_one_object_with_score_and_reason_is_a_judgement",
    ],
    "judges had no limits of rate and cost": [
        "foreign/test_chat_ledger.py::test_rates_hold_in_every_window_of_a_minute",
        "foreign/test_chat_ledger.py::test_nothing_is_sent_that_could_go_over_the_limit",
    ],
    "a served reward model scored otherwise than the trained one": [
        "foreign/test_reward_model.py::test_scores_are_those_of_every_row_alone_whatever_pads_and_where",
        "audit/test_health.py::test_a_rounded_path_is_in_parity_and_one_with_a_wrong_template_is_not",
    ],
    "a reward function could not see its group across processes": [
        "integrations/test_trl_rewards.py::test_a_group_that_is_spread_over_processes_is_scored_whole_in_each",
        "integrations/test_verl_trainer.py::test_a_reward_that_sees_its_group_is_scored_where_the_group_is",
    ],
    "step and turn rewards were not paid where they were earned": [
        "integrations/test_trl_rewards.py::test_steps_lie_on_tokens_where_there_is_a_tokenizer_and_are_actions_where_there_is_none",
        "integrations/test_verl_trainer.py::test_channels_go_down_their_own_paths_and_steps_are_paid_where_they_lie",
    ],
    "a rounding error became an advantage of 7428; NaN poisoned a group": [
        "test_sets.py::test_equal_members_have_exactly_their_value_as_mean_and_zero_spread",
        "test_sets.py::test_members_without_verdict_take_part_in_nothing_and_cannot_poison_it",
    ],
    "groups were filtered by the shaped score": [
        "test_update.py::test_selections_go_by_what_was_scored_and_not_by_what_shaping_made_of_it",
    ],
    "groups that were all paid alike passed a filter by their mean": [
        "sampling/test_filters.py::test_equal_means_equal_for_any_value_and_not_only_for_zeros_and_ones",
    ],
    "a turn's baseline depended on when its own rollout had stopped": [
        "advantages/test_turns.py::test_leaving_oneself_out_by_turn_is_unbiased_however_the_rollouts_stop",
    ],
    "the reward rose while what it stands for fell, and nobody was told": [
        "audit/test_alarms.py::test_each_alarm_is_raised_by_what_it_is_for",
    ],
    "the reward that was reported was not the weighted one": [
        "shaping/test_mixing.py::test_the_sum_is_weighted_and_the_summands_stay",
        "audit/test_alarms.py::test_weights_decide_which_channel_makes_the_rise",
    ],
    "what a row's data said was taken for an option of its verifier": [
        "test_grading.py::test_no_field_of_the_rows_sets_an_option_of_a_registered_grader",
        "signals/test_mixed.py::test_options_and_what_is_allowed_are_the_runs",
    ],
    "the data set's own steps were taken for the response's": [
        "integrations/test_verl_reward.py::test_graders_of_steps_get_those_of_the_response_and_not_the_data_sets",
    ],
}


def test_every_hole_has_tests_that_exist():
    texts = {}
    for tests in CLOSED.values():
        for test in tests:
            file, _, name = test.partition("::")
            text = texts.setdefault(file, (TESTS / file).read_text(encoding="utf-8"))
            assert re.search(rf"^def {name}\(", text, flags=re.MULTILINE), test


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("3x+4y+14=0", "3x-y+13=0"),
        ("0.0000000001", "0.0000000002"),
        ("1e-30", "0"),
        ("(1, 2)", "(2, 1)"),
        ("(1, 2, 3)", "(1, 2)"),
        ("cannot be determined", "7"),
        ("7, 8 or 9", "8"),
        ("not 7", "7"),
    ],
)
def test_answers_that_others_paid_are_wrong_in_either_direction(said, right):
    assert math_answer(rf"\boxed{{{said}}}", right) == 0.0
    if "," not in said and " " not in said:
        assert math_answer(rf"\boxed{{{right}}}", said) == 0.0


def test_listing_numbers_until_one_is_right_earns_nothing_from_what_reads_an_answer():
    listed = "It may be " + ", ".join(map(str, range(30)))
    assert [grade(listed, "7") for grade in (answer_match, math_answer, last_number)] == [0.0, 0.0, 0.0]
    assert last_turn([listed, listed], "7") == 0.0


def test_a_broken_last_box_is_no_answer_and_no_earlier_one_takes_its_place():
    for said in (r"\boxed{7}. So \boxed{8", r"\boxed{7} <answer>8", r"\boxed{7} \boxed{}"):
        assert answer_match(said, "7") == math_answer(said, "7") == 0.0


def test_a_reference_that_cannot_be_read_pays_nobody():
    for reference in (None, "", [], [None], {"answer": "7"}, [{"answer": "7"}]):
        for grade in (answer_match, math_answer, last_number):
            for said in ("7", "answer", "None", ""):
                told = grade(said, reference)
                assert isinstance(told, Verdict), (reference, said)
                assert not told.valid


def test_an_exception_that_is_no_exception_to_others_costs_its_row_alone():
    class TimedOut(BaseException):
        """As Math-Verify's, which `except Exception` lets through."""

    def grade(response):
        if response == "slow":
            raise TimedOut("5 seconds")
        return 1.0

    traj = from_rows([{"response": text} for text in ("a", "slow", "b")])
    channel = signal(grade)(traj)["grade"]
    assert outcome(channel, traj)[1].tolist() == [True, False, True]
    assert [*channel.reasons.values()] == ["TimedOut: 5 seconds"]


def test_tests_in_the_data_are_data_and_are_never_unpickled_or_run(tmp_path):
    flag = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return Path.touch, (flag,)

    packed = pickle.dumps(Payload())
    code = f"open({str(flag)!r}, 'w')"
    for tests in (base64.b64encode(packed).decode(), code, [code], {"cases": [{"args": [], "returns": packed}]}):
        assert not code_tests("x = 1", tests, isolation="process").valid
    assert not sql_execution("select 1", base64.b64encode(packed).decode(), isolation="process").valid
    assert not flag.exists()


def test_a_response_that_is_no_text_is_named_in_the_reason():
    rows = [{"response": said, "reference": "7"} for said in (None, 7, ["7"], "7")]
    channel = signal(math_answer, name="right")(traj := from_rows(rows))["right"]
    assert outcome(channel, traj)[1].tolist() == [False, False, False, True]
    for reason, kind in itertools.zip_longest(channel.reasons.values(), ("null", "int", "list")):
        assert reason.startswith(f"the response is {kind}, not text (")
