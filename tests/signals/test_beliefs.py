"""Messages are paid for belief in the truth."""

import itertools
import math

import pytest

from payoff.signals.beliefs import player_reward, speaking


def test_a_discussion_sums_to_what_was_believed_last_minus_first():
    surveys = [[0.25, 0.25], [0.4, 0.1], [0.9, 0.6]]
    steps = [[list(a), list(b)] for a, b in itertools.pairwise(surveys)]
    assert sum(speaking(steps).value) == pytest.approx(1.5 - 0.5)
    assert speaking(steps, team=False).value == pytest.approx([-x for x in speaking(steps).value])


def test_before_exact_bayesian_listeners_no_message_costs_on_average():
    # Truth z in two, message m says z with probability q: E[b(z | m) - b(z)] over z and m, with a prior of p
    for p, q in itertools.product((0.2, 0.5), (0.5, 0.7, 1.0)):
        prior, expected = (p, 1 - p), 0.0
        for z, m in itertools.product((0, 1), (0, 1)):
            likelihood = [q if m == one else 1 - q for one in (0, 1)]
            evidence = prior[0] * likelihood[0] + prior[1] * likelihood[1]
            after = prior[z] * likelihood[z] / evidence if evidence else 0.0
            expected += prior[z] * likelihood[z] * speaking([[[prior[z]], [after]]]).value[0]
        assert expected == pytest.approx(0) if q == 0.5 else expected > 0


@pytest.mark.parametrize("beliefs", [[], [[[0.5]]], [[[0.5], [0.5, 0.5]]], [[[0.5], [1.5]]], [[[math.nan], [0.5]]]])
def test_what_is_no_belief_has_no_verdict(beliefs):
    assert not speaking(beliefs).valid


def test_a_players_reward_is_winning_the_first_survey_and_what_messages_add():
    surveys = [[0.25, 0.25], [0.4, 0.1], [0.9, 0.6]]
    steps = [[list(a), list(b)] for a, b in itertools.pairwise(surveys)]
    for team, sign in ((True, 1), (False, -1)):
        paid = player_reward(1.0, [steps[0], None, steps[1]], first=surveys[0], team=team).value
        # 1 win + 0.2 (0.5 - 1) + (1.5 - 0.5), the last two with the side's sign
        assert sum(paid) == pytest.approx(1 + sign * (0.2 * -0.5 + 1.0))
        assert paid[0] == pytest.approx(sign * (0.2 * -0.5 + 0.0))
        assert paid[1] == 0.0  # what others came to believe while it acted is not its message's
    team, adversary = (speaking(steps, team=side).value for side in (True, False))
    assert [a + b for a, b in zip(team, adversary, strict=True)] == pytest.approx([0, 0])  # zero-sum between the sides
    assert speaking(steps[:1]).value == team[:1]  # cutting a discussion short changes nothing before
    assert player_reward(False).value == 0.0
    for bad in ({"won": None}, {"won": 2}, {"won": 1, "beliefs": [[[0.5], [1.5]]]}, {"won": 1, "first": [2.0]}):
        assert not player_reward(**bad).valid


@pytest.mark.parametrize("beliefs", [["no"], [[0.1, 0.2]], [[["0.1"], ["0.2"]]], [{"before": [0.1], "after": [0.2]}]])
def test_lists_of_other_shapes_have_no_verdict_and_say_so(beliefs):
    for told in (speaking(beliefs), player_reward(1, beliefs)):
        assert not told.valid
        assert told.reason.startswith("step 1: ")
