"""A plain grader as a signal: how it gets its arguments, what its answers mean, and where they lie."""

import contextlib
import copy
import fractions
import functools
import math
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from payoff import grading
from payoff.contents import inside, sees
from payoff.examples import four_answers
from payoff.grading import (
    GraderSignal,
    MissingFieldError,
    UnfitGraderError,
    signal,
)
from payoff.pipeline import Verdict, chain, checked_rewards, join
from payoff.trajectories import StopReason, Trajectories, outcome, per_step


def rollouts(responses, *, group=None, steps=None, first_id=0, **fields):
    """One trajectory per response, of as many actions as it has steps (1 where none are given); ids from `first_id`."""
    n = len(responses)
    steps = torch.tensor(steps or [1] * n, dtype=torch.int64)
    position = torch.arange(int(steps.max()) if n else 1).repeat(n, 1)
    exists = position < steps[:, None]
    return Trajectories(
        mask=exists,
        length=steps,
        group=torch.zeros(n, dtype=torch.int64) if group is None else torch.tensor(group),
        step=torch.where(exists, position, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=position.clone(),
        id=torch.arange(first_id, first_id + n),
        items=[{"response": r, **{name: column[i] for name, column in fields.items()}} for i, r in enumerate(responses)],
    )


def answering(answer):
    """A grader that gives this answer to the response "x" and 1 to every other."""

    def grader(response):
        return answer if response == "x" else 1.0

    return grader


def of_one(answer):
    """(value, valid, reason) of a single trajectory of one action to whom a grader answers so."""
    (channel,) = signal(answering(answer), name="r")(rollouts(["x"])).values()
    value, valid = outcome(channel, rollouts(["x"]))
    return float(value), bool(valid), channel.reasons.get(0)


def mixed(response):
    """One kind of answer after the other."""
    n = int(response)
    kinds = [n / 7, True, None, math.nan, "yes", [0.5, 1.0], {"a": n, "b": None}, {"a": 0.5}, 10**400, object()]
    if n % 11 == 10:
        raise ValueError(f"row {n}")
    return kinds[n % 11]


def assert_same_rewards(one, other):
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name].value, other[name].value)
        assert torch.equal(one[name].valid, other[name].valid)
        assert one[name].reasons == other[name].reasons
        assert list(one[name].reasons) == list(other[name].reasons)


# --- arguments by name


def test_arguments_are_filled_by_name_from_the_row():
    seen = []

    def grader(reference, item, response, id):
        seen.append((reference, item["prompt"], response, id))
        return 0

    signal(grader)(four_answers())
    assert seen == [("2", "1+1=", "2", 0), ("2", "1+1=", "3", 1), ("5", "2+3=", "5", 2), ("5", "2+3=", "", 3)]


def test_an_optional_argument_is_filled_only_where_the_row_has_the_field():
    traj = rollouts(["a", "b"])
    traj.items[1]["hint"] = "yes"
    seen = []

    def grader(response, hint="none", *, other="default"):
        seen.append((response, hint, other))
        return 1

    signal(grader)(traj)
    assert seen == [("a", "none", "default"), ("b", "yes", "default")]


def test_keyword_only_arguments_and_fields_after_a_gap_go_by_name():
    seen = []

    def grader(prompt="p", response="r", *, level):
        seen.append((prompt, response, level))
        return 1

    signal(grader)(rollouts(["a"], level=[3]))
    assert seen == [("p", "a", 3)]


def test_double_star_gets_the_fields_that_no_argument_takes():
    seen = []

    def grader(response, **others):
        seen.append(others)
        return 1

    signal(grader)(rollouts(["a", "b"], level=[1, 2], source=["s", "t"]))
    assert seen == [{"level": 1, "source": "s"}, {"level": 2, "source": "t"}]


def test_no_field_of_the_rows_sets_an_option_of_a_registered_grader():
    from payoff.signals.answers import answer_match

    rows = rollouts(["4.4"], reference=["4"], tolerance=[0.5])
    assert signal(answer_match, name="match")(rows)["match"].value.sum() == 0
    assert signal(functools.partial(answer_match, tolerance=0.5), name="match")(rows)["match"].value.sum() == 1

    def mine(response, *, tolerance=0.0):  # a user's own grader takes whatever the rows have by that name
        return tolerance

    assert float(signal(mine)(rows)["mine"].value.sum()) == 0.5


def test_what_a_partial_binds_stays_bound():
    seen = []

    def grader(response, level=0, *, tolerance=0.5, **others):
        seen.append((response, level, tolerance, others))
        return 1

    signal(functools.partial(functools.partial(grader, tolerance=0.1), level=7))(rollouts(["a"], level=[3], tolerance=[9.0]))
    assert seen == [("a", 7, 0.1, {})]


def test_a_grader_without_arguments_grades_every_row():
    assert signal(lambda: 2.0, name="two")(rollouts(["a"] * 3))["two"].value.tolist() == [[2.0]] * 3


def test_methods_and_callable_objects_are_graders():
    class Weight:
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, response):
            return self.weight * len(response)

        def half(self, response):
            return self(response) / 2

    assert signal(Weight(3))(rollouts(["ab"]))["Weight"].value.tolist() == [[6.0]]
    assert signal(Weight(3).half)(rollouts(["ab"]))["half"].value.tolist() == [[3.0]]


def test_an_argument_that_no_row_has_is_an_error_that_names_grader_field_and_fields():
    def checker(response, referense):
        return 1

    with pytest.raises(MissingFieldError) as caught:
        signal(checker)(four_answers())
    text = str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert "checker" in text
    assert "'referense'" in text
    assert "prompt, reference, response" in text
    assert "did you mean 'reference'?" in text


def test_rows_without_fields_are_named_as_such():
    traj = four_answers().replace(items=())
    with pytest.raises(MissingFieldError, match="the rows have no fields"):
        signal(answering(1), name="g")(traj)
    assert signal(lambda item, id: id + len(item), name="g")(traj)["g"].value.sum(1).tolist() == [0, 1, 2, 3]


def test_an_argument_that_some_rows_lack_makes_these_invalid_and_no_others():
    traj = rollouts(["a", "b", "c"])
    for row in (0, 2):
        traj.items[row]["reference"] = "c"

    def same(response, reference):
        return response == reference

    channel = signal(same)(traj)["same"]
    assert channel.valid.tolist() == [[True], [False], [True]]
    assert channel.value.tolist() == [[0.0], [0.0], [1.0]]
    assert channel.reasons == {1: "there is no 'reference', which same reads"}


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        (lambda response, /: 1, "cannot be filled by name"),
        (lambda *responses: 1, "cannot be filled by name"),
        (len, "cannot be filled by name"),
        (dict, "cannot be read|cannot be filled"),
        (nn.Linear(1, 1), "cannot be filled by name"),
        (signal(lambda response: 1), "not a plain grader"),
    ],
)
def test_graders_whose_arguments_have_no_names_are_refused_when_lifted(grader, says):
    with pytest.raises(TypeError, match=says) as caught:
        signal(grader)
    assert isinstance(caught.value, UnfitGraderError)


def test_coroutines_are_refused_when_lifted():
    async def judge(response):
        return 1.0

    with pytest.raises(UnfitGraderError, match="judge is a coroutine function"):
        signal(judge)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deadline": 1.0}, "needs workers"),
        ({"deadline": 0.0, "workers": 1}, "deadline must be"),
        ({"deadline": math.nan, "workers": 1}, "deadline must be"),
        ({"workers": -1}, "workers must be >= 0, got -1"),
        ({"sees": "all"}, "sees"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises((ValueError, TypeError), match=says):  # the checker of annotations may see a wrong word first
        signal(answering(1), **options)


# --- what an answer means


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (0.25, 0.25),
        (3, 3.0),
        (True, 1.0),
        (False, 0.0),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(-2), -2.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (torch.tensor(True), 1.0),
        (fractions.Fraction(1, 4), 0.25),
        (Verdict(0.75), 0.75),
        (Verdict(np.float32(0.5), True, "half right"), 0.5),
        ([0.5], 0.5),
        ((2,), 2.0),
        (np.array([1.5]), 1.5),
        (torch.tensor([1.5]), 1.5),
        ({"r": 0.5}, 0.5),
    ],
)
def test_a_number_of_any_kind_is_paid(answer, value):
    assert of_one(answer) == (value, True, None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no verdict"),
        (math.nan, "gave nan"),
        (math.inf, "gave inf"),
        (-math.inf, "gave -inf"),
        (np.float32("inf"), "gave inf"),
        (torch.tensor(math.nan), "gave nan"),
        (10**400, "gave a number too large for a float"),
        (1e300, "gave 1e+300, beyond the range of torch.float32"),
        ("yes", "gave a str ('yes'), not a number"),
        ("1.0", "gave a str ('1.0'), not a number"),
        (b"1", "gave a bytes, not a number"),
        (1j, "gave a complex, not a number"),
        (object(), "gave a object, not a number"),
        ({1.0}, "gave a set, not a number"),
        ((x for x in [1.0]), "gave a generator, not a number"),
        (Verdict(1.0, False), "no verdict"),
        (Verdict(1.0, False, "the judge\nis \x1b[31mdown"), "the judge\\nis \\x1b[31mdown"),
        (Verdict(None, True, "fine"), "no verdict"),
        (Verdict("x"), "gave a str ('x'), not a number"),
        ([], "gave 0 step values for 1 steps"),
        ([1.0, 2.0], "gave 2 step values for 1 steps"),
        ([None], "step 0: no verdict"),
        ([math.nan], "step 0: gave nan"),
        (["good"], "step 0: gave a str ('good'), not a number"),
        ([[1.0]], "step 0: gave a list, not a number"),
        ([1e300], "step 0: gave 1e+300, beyond the range of torch.float32"),
        ({}, "gave a mapping without channels"),
        ({1: 1.0}, "gave a mapping whose keys are not channel names"),
        ({"r": {"a": 1.0}}, "gave a dict, not a number"),
        ({"r": None}, "no verdict"),
    ],
)
def test_anything_else_is_invalid_with_its_reason_and_worth_nothing(answer, reason):
    assert of_one(answer) == (0.0, False, reason)


class Spiteful(Exception):
    def __str__(self):
        raise RuntimeError("no message either")


class Resentful:
    """Fails whatever one asks of it."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no number in 'ab'"), "ValueError: no number in 'ab'"),
        (KeyError("k"), "KeyError: 'k'"),
        (AssertionError(), "AssertionError"),
        (SystemExit(1), "SystemExit: 1"),
        (GeneratorExit(), "GeneratorExit"),
        (RecursionError("deep"), "RecursionError: deep"),
        (ValueError("a\nb\t\x00\x1b[2J\u202e\ud800"), "ValueError: a\\nb\\t\\x00\\x1b[2J\\u202e\\ud800"),
        (Spiteful(), "Spiteful: (its message cannot be shown)"),
    ],
)
def test_an_exception_is_an_invalid_verdict_with_its_name_and_message(error, reason):
    def grader(response):
        raise error

    channel = signal(grader)(rollouts(["a"]))["grader"]
    assert channel.reasons == {0: reason}
    assert not channel.valid.any()
    assert channel.value.tolist() == [[0.0]]


def test_long_messages_are_cut_to_200_characters():
    def grader(response):
        raise ValueError("z" * 100_000)

    (reason,) = signal(grader)(rollouts(["a"]))["grader"].reasons.values()
    assert len(reason) == 200
    assert reason == "ValueError: " + "z" * 187 + "…"


def test_an_object_that_fails_whatever_one_asks_of_it_is_an_invalid_verdict():
    value, valid, reason = of_one(Resentful())
    assert (value, valid) == (0.0, False)
    assert reason.startswith("ZeroDivisionError")


def test_an_interrupt_is_the_users_and_stops_grading_in_process():
    def grader(response):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signal(grader)(rollouts(["a"]))


# --- where it lies


def test_an_outcome_lies_at_the_end_and_leaves_the_other_positions_known():
    traj = four_answers()  # lengths 3, 2, 3, 1
    channel = signal(lambda response, id: None if id == 2 else 1.0, name="r")(traj)["r"]
    assert channel.value.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert channel.valid.tolist() == [[True] * 3, [True] * 3, [True, True, False], [True] * 3]
    assert channel.value.dtype == torch.float32


def test_a_sequence_pays_each_step_and_a_bad_entry_only_loses_its_step():
    traj = four_answers()
    answers = {0: [1.0, None, 3.0], 1: [0.5, 0.25], 2: [1.0, math.nan, "x"], 3: [2.0]}
    channel = signal(lambda id: answers[id], name="process")(traj)["process"]
    value, exists, valid = per_step(channel, traj)
    assert value.tolist() == [[1, 0, 3], [0.5, 0.25, 0], [1, 0, 0], [2, 0, 0]]
    assert (exists & ~valid).tolist() == [[False, True, False], [False] * 3, [False, True, True], [False] * 3]
    assert channel.reasons == {0: "step 1: no verdict", 2: "step 1: gave nan; step 2: gave a str ('x'), not a number"}


def test_steps_of_several_actions_are_paid_at_their_last():
    traj = rollouts(["x"], steps=[4]).replace(step=torch.tensor([[0, 0, 1, 1]], dtype=torch.int32))
    assert signal(lambda: [1.0, 2.0], name="r")(traj)["r"].value.tolist() == [[0, 1, 0, 2]]


def test_a_failed_row_of_a_channel_with_step_numbers_is_unknown_at_every_step():
    traj = four_answers()
    answers = {0: [1.0, 2.0, 3.0], 1: None, 2: [1.0], 3: 5.0}  # row 2 has three steps; row 3 is paid once
    channel = signal(lambda id: answers[id], name="process")(traj)["process"]
    _, exists, valid = per_step(channel, traj)
    assert (exists & ~valid).tolist() == [[False] * 3, [True, True, False], [True] * 3, [False] * 3]
    assert channel.reasons == {1: "no verdict", 2: "gave 1 step values for 3 steps"}
    assert outcome(channel, traj)[0].tolist() == [6, 0, 0, 5]


def test_a_mapping_gives_several_channels_each_with_numbers_or_steps():
    traj = four_answers()
    given = {"correct": 1, "process": [0.5, None, 0.5], "format": Verdict(0, False, "no box")}
    rewards = signal(lambda id: given if id == 0 else {"correct": 0}, name="r")(traj)
    assert list(rewards) == ["correct", "process", "format"]
    assert outcome(rewards["correct"], traj)[0].tolist() == [1, 0, 0, 0]
    assert rewards["correct"].reasons == {}
    absent = "no verdict for this channel"
    assert rewards["process"].reasons == {0: "step 1: no verdict", 1: absent, 2: absent, 3: absent}
    assert rewards["format"].reasons == {0: "no box", 1: absent, 2: absent, 3: absent}
    assert not outcome(rewards["format"], traj)[1].any()


def test_an_invalid_verdict_of_channels_is_invalid_in_these():
    rewards = signal(lambda: Verdict({"a": 1.0, "b": 2.0}, False, "judge down"), name="r")(rollouts(["x"]))
    assert {name: channel.reasons for name, channel in rewards.items()} == {"a": {0: "judge down"}, "b": {0: "judge down"}}


def test_rows_that_answer_with_a_number_and_rows_that_name_channels_give_the_union():
    answers = {0: 1.0, 1: {"a": 2.0}, 2: None}
    rewards = signal(lambda id: answers[id], name="r")(rollouts(["x"] * 3))
    absent = "no verdict for this channel"
    assert list(rewards) == ["r", "a"]
    assert rewards["r"].value.tolist() == [[1.0], [0.0], [0.0]]
    assert rewards["r"].reasons == {1: absent, 2: "no verdict"}
    assert rewards["a"].value.tolist() == [[0.0], [2.0], [0.0]]
    assert rewards["a"].reasons == {0: absent, 2: "no verdict"}


def test_channels_given_once_stay_when_a_whole_batch_fails():
    def grader(response):
        if response == "bad":
            raise ValueError("no")
        return {"a": 1.0, "b": [1.0]}

    reward = signal(grader)
    assert list(reward(rollouts(["bad"]))) == ["grader"]  # nothing is known yet
    assert list(reward(rollouts(["good"]))) == ["a", "b"]
    failed = reward(rollouts(["bad", "bad"], steps=[2, 1]))
    assert list(failed) == ["a", "b"]
    assert failed["b"].valid.tolist() == [[False, False], [False, True]]


def test_no_trajectories_give_an_empty_channel():
    empty = four_answers().select(torch.tensor([], dtype=torch.int64))
    for traj in (empty, empty.replace(items=())):
        channel = signal(lambda response: 1.0, name="r")(traj)["r"]
        assert channel.value.shape == (0, 1)
        assert channel.reasons == {}


def test_trajectories_whose_environment_failed_are_graded_like_others():
    traj = four_answers().replace(stop=torch.full((4,), int(StopReason.error)))
    assert signal(lambda: 1.0, name="r")(traj)["r"].value.sum(1).tolist() == [1.0] * 4


def test_the_default_type_decides_the_range():
    torch.set_default_dtype(torch.float64)
    try:
        channel = signal(lambda: 1e300, name="r")(rollouts(["x"]))["r"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert channel.value.tolist() == [[1e300]]
    assert channel.reasons == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 43), min_size=1, max_size=12), st.data())
def test_one_verdict_that_fails_changes_nothing_in_other_trajectories(numbers, data):
    row = data.draw(st.integers(0, len(numbers) - 1))
    whole = rollouts([str(n) for n in numbers], steps=[2] * len(numbers))
    broken = rollouts([str(n) if i != row else "broken" for i, n in enumerate(numbers)], steps=[2] * len(numbers))
    others = [i for i in range(len(numbers)) if i != row]
    before, after = signal(mixed)(whole), signal(mixed)(broken)
    for name in after.keys() & before.keys():
        same_shape = [c.valid.expand(whole.mask.shape)[others] for c in (before[name], after[name])]
        assert torch.equal(before[name].value[others], after[name].value[others])
        known = [i for i in others if i not in before[name].reasons]
        assert torch.equal(same_shape[0][[others.index(i) for i in known]], same_shape[1][[others.index(i) for i in known]])
        assert {i: r for i, r in before[name].reasons.items() if i != row} == {
            i: r for i, r in after[name].reasons.items() if i != row
        }
        assert after[name].reasons[row].startswith("ValueError: invalid literal")


# --- groups and batches


def test_a_grader_of_groups_sees_lists_over_the_members_in_row_order():
    seen = []

    def rank(response, id):
        seen.append((response, id))
        return [sorted(response).index(r) for r in response]

    traj = rollouts(["c", "x", "a", "b", "y"], group=[7, 3, 7, 7, 3], first_id=10)
    reward = signal(rank, sees="group")
    assert reward(traj)["rank"].value.flatten().tolist() == [2, 0, 0, 1, 1]
    assert seen == [(["c", "a", "b"], [10, 12, 13]), (["x", "y"], [11, 14])]
    assert sees(reward) == "group"


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), min_size=1, max_size=8))
@settings(deadline=None)
def test_relabelling_the_groups_changes_nothing(names, group):
    def share(response):
        return [response.count(r) / len(response) for r in response]

    responses = [str(i % 3) for i in range(len(group))]
    one = signal(share, sees="group")(rollouts(responses, group=group))["share"]
    other = signal(share, sees="group")(rollouts(responses, group=[names[g] - 17 for g in group]))["share"]
    assert torch.equal(one.value, other.value)


def test_a_grader_of_batches_sees_all_rows_at_once():
    traj = rollouts(["a", "b", "a"], group=[0, 1, 2])
    channel = signal(lambda response: torch.tensor([response.count(r) for r in response]), sees="batch", name="r")(traj)["r"]
    assert channel.value.flatten().tolist() == [2, 1, 2]
    assert (
        signal(lambda response: [], sees="batch", name="r")(traj.select(torch.tensor([], dtype=torch.int64)))["r"].value.numel()
        == 0
    )


def test_a_wrong_count_makes_every_member_of_that_group_invalid_and_no_other():
    channel = signal(lambda response: [1.0, 2.0], sees="group", name="r")(rollouts(["a"] * 5, group=[0, 1, 0, 1, 1]))["r"]
    assert channel.valid.flatten().tolist() == [True, False, True, False, False]
    assert channel.reasons == dict.fromkeys([1, 3, 4], "gave 2 answers for 3 members")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no verdict"),
        (1.0, "gave a float, not one answer for each of 2 members"),
        (torch.tensor(1.0), "gave a Tensor, not one answer for each of 2 members"),
        ("ab", "gave a str, not one answer for each of 2 members"),
        ({"a": [1, 2]}, "gave a dict, not one answer for each of 2 members"),
        (Verdict([1.0, 2.0], False, "tie"), "tie"),
    ],
)
def test_an_answer_that_is_not_one_for_each_member_is_invalid_for_all(answer, reason):
    channel = signal(lambda response: answer, sees="group", name="r")(rollouts(["a", "b"]))["r"]
    assert channel.reasons == {0: reason, 1: reason}


def test_members_of_one_group_are_answered_each_in_its_own_way():
    answers = [1.0, None, {"a": 0.5}, Verdict(2.0), "x", [1.0, 2.0]]
    rewards = signal(lambda response: answers, sees="group", name="r")(rollouts(["a"] * 6, steps=[1, 1, 1, 1, 1, 2]))
    absent, wrong = "no verdict for this channel", "gave a str ('x'), not a number"
    assert rewards["r"].reasons == {1: "no verdict", 2: absent, 4: wrong}
    assert outcome(rewards["r"], rollouts(["a"] * 6, steps=[1, 1, 1, 1, 1, 2]))[0].tolist() == [1, 0, 0, 2, 0, 3]
    assert rewards["a"].reasons == {0: absent, 1: "no verdict", 3: absent, 4: wrong, 5: absent}


def test_an_exception_costs_its_group_alone():
    def grader(response):
        if "bad" in response:
            raise ValueError("no")
        return [1.0] * len(response)

    channel = signal(grader, sees="group")(rollouts(["a", "bad", "b", "c"], group=[0, 1, 1, 0]))["grader"]
    assert channel.reasons == {1: "ValueError: no", 2: "ValueError: no"}


def test_a_field_that_one_member_lacks_leaves_its_group_without_verdict_or_argument():
    traj = rollouts(["a", "b", "c", "d"], group=[0, 0, 1, 1], first_id=20)
    for row in (0, 2, 3):
        traj.items[row]["reference"] = "r"
    seen = []

    def needs_it(reference):
        return [1.0] * len(reference)

    def can_do_without(response, reference=None, **others):
        seen.append((reference, others))
        return [1.0] * len(response)

    reason = "there is no 'reference', which needs_it reads, in number 2 of the 2 graded together (trajectory 21)"
    assert signal(needs_it, sees="group")(traj)["needs_it"].reasons == {20: reason, 21: reason}
    for row in (1, 2, 3):
        traj.items[row]["level"] = row
    assert signal(can_do_without, sees="group")(traj)["can_do_without"].reasons == {}
    assert seen == [(None, {}), (["r", "r"], {"level": [2, 3]})]


# --- one part among others


def test_a_signal_fits_into_chains_and_joins_and_its_grader_is_found_inside():
    def correct(response, reference):
        return response == reference

    reward = signal(correct, sees="group", name="right")
    assert reward.name == reward.__name__ == "right"
    assert reward.__wrapped__ is correct
    composed = join({"x": chain(reward), "y": signal(answering(1.0))})
    assert correct in list(inside(composed))
    assert sees(composed) == "group"
    with contextlib.suppress(RuntimeError):
        composed(four_answers())
    checked_rewards("right", signal(correct)(four_answers()), four_answers())


def test_copies_and_pickles_carry_the_grader_its_options_and_the_channels():
    reward = signal(mixed, name="m", cache=True)
    before = reward(rollouts([str(n) for n in range(11)], steps=[2] * 11))
    for twin in (pickle.loads(pickle.dumps(reward)), copy.deepcopy(reward), copy.deepcopy(chain(reward)).parts[0]):
        assert isinstance(twin, GraderSignal)
        assert (twin.name, twin.cache, twin.sees) == ("m", True, "item")
        assert list(twin(rollouts(["10"]))) == list(before)  # a batch of nothing but failures still has every channel
    assert copy.deepcopy(signal(lambda response: 1.0))(rollouts(["a"]))["<lambda>"].value.item() == 1.0
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(signal(lambda response: 1.0))


# --- counters and cache


def counted(answer):
    calls = []

    def grader(response):
        calls.append(response)
        return answer(response) if callable(answer) else answer

    return grader, calls


def test_the_counters_say_what_was_graded_cached_and_invalid():
    reward = signal(lambda response: None if response == "b" else 1.0, cache=True)
    reward(rollouts(["a", "b", "a"]))
    reward(rollouts(["a", "c"]))
    stats = reward.stats
    assert (stats["graded"], stats["cached"], stats["invalid"]) == (3, 2, 1)
    assert 0 < stats["seconds"] < 10


def test_equal_items_are_graded_once_in_a_batch_and_never_again():
    grader, calls = counted(lambda r: {"1": 0.5, "2": None, "3": [1.0], "4": {"a": 1.0}}[r])
    reward = signal(grader, cache=True, name="r")
    plain = signal(grader, name="r")
    batch = rollouts(["1", "2", "1", "3", "4", "2"])
    first, second = reward(batch), reward(batch)
    assert calls == ["1", "2", "3", "4"]
    assert_same_rewards(first, plain(batch))
    assert_same_rewards(second, first)


def test_what_was_not_answered_is_asked_again():
    def fails(response):
        raise ValueError("busy")

    grader, calls = counted(fails)
    reward = signal(grader, cache=True)
    for _ in range(2):
        assert reward(rollouts(["a", "a"]))["grader"].reasons == {0: "ValueError: busy", 1: "ValueError: busy"}
    assert calls == ["a", "a"]


def test_the_key_is_the_value_and_type_of_what_the_grader_reads():
    grader, calls = counted(1.0)
    reward = signal(grader, cache=True)
    shared = "a long string that is not interned"
    reward(rollouts([(shared, shared), (shared, "".join(list(shared))), 1, 1.0, True, "1"], other=list(range(6))))
    assert len(calls) == 5  # the two pairs are equal; the numbers are of four types; `other` is not read
    reward(rollouts([[1, {"k": 2}], [1, {"k": 2}], [1, {"k": 3}], np.zeros(2), np.zeros(3)]))
    assert len(calls) == 9


def test_what_has_no_bytes_is_graded_every_time():
    grader, calls = counted(1.0)
    lock = threading.Lock()
    signal(grader, cache=True)(rollouts([lock, lock]))
    assert len(calls) == 2


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(monkeypatch):
    monkeypatch.setattr(grading, "REMEMBERED", 2)
    grader, calls = counted(1.0)
    reward = signal(grader, cache=True)
    for response in ("a", "b", "a", "c", "a", "b"):
        reward(rollouts([response]))
    assert calls == ["a", "b", "c", "b"]


def test_groups_are_remembered_as_a_whole():
    calls = []

    def grader(response):
        calls.append(response)
        return [float(k) for k in range(len(response))]

    reward = signal(grader, sees="group", cache=True)
    assert reward(rollouts(["a", "b", "a", "b"], group=[0, 0, 1, 1]))["grader"].value.flatten().tolist() == [0, 1, 0, 1]
    assert calls == [["a", "b"]]
    assert (reward.stats["graded"], reward.stats["cached"]) == (2, 2)
