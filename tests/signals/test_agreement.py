import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.grading import signal
from payoff.signals.agreement import answer_key, co_reward, majority_agreement, majority_label, self_consistency

answers = st.lists(st.sampled_from(["7", "7.0", "8", "x", ""]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("said", "paid"),
    [
        (["7", "7", "8"], [1.0, 1.0, 0.0]),
        (["The answer is 7", r"\boxed{7.0}", "8"], [1.0, 1.0, 0.0]),
        (["1/2", "0.5", "2"], [1.0, 1.0, 0.0]),
        (["7", "8", "9"], [1 / 3, 1 / 3, 1 / 3]),
        (["7", "", ""], [1.0, 0.0, 0.0]),
        (["7"], [1.0]),
        (["", " "], [None, None]),
    ],
)
def test_the_majority_answer_is_paid(said, paid):
    assert majority_agreement(said) == paid


def test_a_tie_pays_what_drawing_a_label_pays_on_average():
    said = ["a", "b", "b", "a", "c"]
    drawn = [[float(one == label) for one in said] for label in ("a", "b")]
    assert majority_agreement(said) == [sum(pay) / 2 for pay in zip(*drawn, strict=True)]


def test_a_majority_that_is_too_small_gives_no_verdict():
    assert majority_agreement(["7", "7", "8", "9"], least=0.5) == [1.0, 1.0, 0.0, 0.0]
    assert majority_agreement(["7", "7", "8", "9"], least=0.51) == [None] * 4
    with pytest.raises(ValueError, match="least must lie"):
        majority_agreement(["7"], least=1.5)


@settings(max_examples=25, deadline=None)
@given(answers, st.randoms())
def test_order_does_not_matter(said, rng):
    order = list(range(len(said)))
    rng.shuffle(order)
    for grader in (majority_agreement, self_consistency):
        paid, shuffled = grader(said), grader([said[i] for i in order])
        assert shuffled == [paid[i] for i in order]


@settings(max_examples=25, deadline=None)
@given(answers)
def test_two_views_with_the_same_answers_are_paid_as_the_majority(said):
    n = len(said)
    paid = co_reward(said * 2, ["q"] * 2 * n, [0] * n + [1] * n)
    assert paid == majority_agreement(said) * 2


def test_self_consistency_estimates_the_chance_of_agreeing_without_bias():
    # three draws of a distribution: E[mean share] = sum p^2 by enumeration
    p = {"a": 0.5, "b": 0.3, "c": 0.2}
    total = 0.0
    for said in itertools.product(p, repeat=3):
        total += p[said[0]] * p[said[1]] * p[said[2]] * sum(self_consistency(list(said))) / 3
    assert total == pytest.approx(0.25 + 0.09 + 0.04)


def test_self_consistency_without_another_answer_is_unknown():
    assert self_consistency(["7"]) == [None]
    assert self_consistency(["", ""]) == [None, None]
    assert self_consistency(["7", "", "7"]) == [1.0, 0.0, 1.0]


def test_the_label_of_a_view_is_voted_for_by_the_others():
    said = ["1", "1", "2", "2", "2", "1"]
    assert co_reward(said, ["q"] * 6, [0, 0, 0, 1, 1, 1]) == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def test_pairs_are_kept_apart_in_any_order_of_rows():
    rows = [("7", "p", 0), ("7", "p", 1), ("8", "q", 0), ("9", "q", 1), ("5", "r", 0)]
    expected = {("7", "p", 0): 1.0, ("7", "p", 1): 1.0, ("8", "q", 0): 0.0, ("9", "q", 1): 0.0, ("5", "r", 0): None}
    for order in itertools.permutations(rows):
        assert co_reward(*map(list, zip(*order, strict=True))) == [expected[row] for row in order]


def test_a_view_nobody_answers_gives_the_other_no_verdict():
    assert co_reward(["7", "", " "], ["q"] * 3, [0, 1, 1]) == [None, 0.0, 0.0]


def test_more_than_two_views_vote_together():
    assert co_reward(["a", "b", "b"], ["q"] * 3, [0, 1, 2]) == [0.0, 0.5, 0.5]


def test_cross_view_labels_are_right_more_often_where_errors_are_independent():
    """Exactly, two rollouts of each view: view 0 answers a (right) with 0.6 and else b, view 1 a with 0.6 and else c."""
    own = cross = 0.0
    for first in itertools.product("ab", repeat=2):
        for second in itertools.product("ac", repeat=2):
            count = Counter(first + second)
            chance = 0.6 ** count["a"] * 0.4 ** (4 - count["a"])
            paid = co_reward(list(first + second), ["q"] * 4, [0, 0, 1, 1])
            cross += chance * sum(pay for pay, said in zip(paid, first + second, strict=True) if said != "a")
            self_paid = majority_agreement(list(first)) + majority_agreement(list(second))
            own += chance * sum(pay for pay, said in zip(self_paid, first + second, strict=True) if said != "a")
    assert cross == 0.0  # a wrong answer of one view is never the other's
    assert own > 0.5


def test_lifted_it_sees_each_group_by_value_whatever_the_order_of_rows():
    traj = four_answers()
    traj = traj.replace(items=[{"response": said} for said in ("7", "7", "8", "")])
    order = torch.tensor([2, 0, 3, 1])
    reward = signal(majority_agreement, name="m", sees="group")
    paid = reward(traj)["m"].value.sum(1)
    assert paid.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert torch.equal(reward(traj.select(order))["m"].value.sum(1), paid[order])


def test_keys_are_equal_as_answers_are():
    assert answer_key("1,000") == answer_key("The answer is 1e3.")
    assert answer_key("The  HAGUE") == answer_key("the hague.")
    assert answer_key("0.33") != answer_key("1/3")
    assert answer_key("#7.", pattern=r"#(\d)\.") == answer_key("7")
    assert answer_key("7", pattern="#") is None
    assert majority_label([None, "x"]) == {"x": 1.0}
