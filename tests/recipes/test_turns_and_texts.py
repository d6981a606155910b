"""The worlds of two recipes, by hand: what counts as good there, and that the arms are trained on what they say."""

import pytest
import torch

from payoff.policies.tabular import Tabular
from payoff.recipes import aem, bleuberi, expected


def test_agreement_is_the_share_of_unlike_pairs_that_the_reward_orders_ties_half():
    # quality tells 0 from 1 (chance 0.5 x 0.3) and from 2 (0.5 x 0.2); the reward ties the first and orders the second.
    p, quality = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([1.0, 0.0, 0.0])
    assert bleuberi.agreement(p, torch.tensor([1.0, 1.0, 0.0]), quality) == pytest.approx((0.15 / 2 + 0.1) / 0.25)


def test_quality_agrees_with_itself_its_reverse_never_and_a_constant_half_the_time():
    p, quality = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([1.0, 0.5, 0.5, 0.0])
    for reward, share in ((quality, 1.0), (-quality, 0.0), (torch.ones(4), 0.5)):
        assert bleuberi.agreement(p, reward, quality) == pytest.approx(share)


def test_quality_is_a_third_for_each_right_part_and_nothing_for_a_denial():
    one = bleuberi.question(2)
    graded = dict(zip(one.texts, one.quality.tolist(), strict=True))
    assert graded["the train leaves from platform three at noon today"] == 1.0
    assert graded["the bus arrives at track three at noon today"] == pytest.approx(2 / 3)
    assert graded["the bus arrives at track one at noon today"] == pytest.approx(1 / 3)
    assert graded["the train leaves not from platform three at noon today"] == 0.0
    assert graded[""] == 0.0
    # four openings are of the train, three verbs deny nothing, one platform, three ways to say noon
    assert int((one.quality == 1).sum()) == 4 * 3 * 3


@pytest.fixture(scope="module")
def trained():
    """(before, after) of every arm on one question; the arms begin as the same policy."""
    patch = pytest.MonkeyPatch()
    patch.setattr(bleuberi, "PROMPTS", 1)
    yield {arm: (bleuberi.run(arm, 3, updates=0), bleuberi.run(arm, 3, updates=6)) for arm in bleuberi.RECIPE.arms}
    patch.undo()


def test_before_any_update_all_arms_have_the_quality_of_one_random_policy(trained):
    policy = Tabular(bleuberi.VOCABULARY, 4, starts=1, spread=0.5, seed=3)
    first = expected(policy, lambda k: bleuberi.question(0).quality, 1)
    assert {arm: before["quality"] for arm, (before, _) in trained.items()} == dict.fromkeys(trained, pytest.approx(first))


def test_agreement_is_of_the_first_policy_and_one_for_the_quality_itself(trained):
    assert all(before["agreement"] == after["agreement"] for before, after in trained.values())
    assert trained["quality"][0]["agreement"] == pytest.approx(1)
    # an exact check ties nearly all pairs, so it is little better than a coin
    assert 0.5 < trained["exact"][0]["agreement"] < trained["bleu-1"][0]["agreement"] < 1


def test_climbing_quality_itself_gains_most(trained):
    gained = {arm: after["quality"] - before["quality"] for arm, (before, after) in trained.items()}
    assert gained["quality"] == max(gained.values())
    assert min(gained["quality"], gained["bleu-5"]) > 0.05


def test_as_many_courses_succeed_for_every_prompt_as_is_said_and_seeds_differ():
    first, again, other = aem.solving(0), aem.solving(0), aem.solving(1)
    assert first == again
    assert first != other
    assert [len(row) for row in first] == [aem.RIGHT] * aem.PROMPTS
    assert {value for row in first for value in row.values()} == {1.0}


def test_both_arms_begin_at_one_policy_and_the_weights_tell_them_apart():
    plain = aem.run("grpo", 5, updates=2)
    weighed = aem.run("aem", 5, updates=2)
    assert plain["truth"] != weighed["truth"]
    assert plain["truth"] == aem.run("grpo", 5, updates=2)["truth"]
    assert abs(plain["truth"] - weighed["truth"]) < 0.01  # two small updates from one policy
