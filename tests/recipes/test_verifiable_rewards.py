"""What the recipes on verifiable rewards are made of: their worlds, and what their arms pay."""

import pytest
import torch

from payoff.policies.tabular import Tabular
from payoff.recipes import co_reward, dler, format_length_surrogate, m2rl, noisy_rlvr_correction, one_shot_rlvr
from payoff.recipes import reasoning_pattern_reward as patterns


def test_corrections_change_nothing_under_grpo_and_something_without():
    raw, backward, forward = (
        noisy_rlvr_correction.run(f"grpo-{way}-heavy", 0, updates=3) for way in ("noisy", "backward", "forward")
    )
    assert backward == pytest.approx(raw, abs=1e-12)
    assert forward == pytest.approx(raw, abs=1e-12)
    alone = [noisy_rlvr_correction.run(f"{way}-heavy", 0, updates=3, learning_rate=0.1) for way in ("noisy", "backward", "forward")]
    assert len({numbers["success"] for numbers in alone}) == 3


def test_voting_across_wordings_that_gave_the_same_answers_is_voting_within():
    across, within = co_reward.advantages("co"), co_reward.advantages("self")
    same = torch.arange(len(co_reward.BAGS))
    assert across.shape == within.shape == (84, 84, 4)
    assert torch.equal(across[same, same], within[same, same])
    own, other = co_reward.BAGS.index((3, 3, 0, 0)), co_reward.BAGS.index((1, 5, 0, 0))
    assert across[own, other].tolist() == [-1.0, 1.0, 0.0, 0.0]  # the other wording says answer 1: pays 0 and 1, mean and std 1/2
    assert within[own, other].abs().sum() == 0  # a tie pays both 1/2


def test_the_mean_update_on_labels_climbs_towards_the_right_answer_and_keeps_the_sum_of_logits():
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    moved = co_reward.drift(p, p, co_reward.advantages("truth"))
    assert moved.sum().item() == pytest.approx(0, abs=1e-12)
    assert moved[0, 0] > 0
    assert (moved[0, 1:] < 0).all()
    assert (moved[0, 1:] / p[0, 1:]).tolist() == pytest.approx([(moved[0, 1] / p[0, 1]).item()] * 3)  # wrong answers are alike


def test_all_lengths_are_equally_likely_at_first():
    policy = Tabular(2, dler.LONGEST, stop=1, starts=dler.PROMPTS, logits=dler.even_lengths())
    every = torch.zeros(dler.PROMPTS, dler.LONGEST, dtype=torch.float64)
    for length in (1, 9, 16):
        only = every.clone()
        only[:, length - 1] = 1
        assert dler.judged(policy, only)["accuracy"] == pytest.approx(1 / 16)
    assert dler.judged(policy, every + 1)["length"] == pytest.approx(8.5)


@pytest.mark.parametrize(("arm", "whole"), [("flipped-50", True), ("singly-40", False)])
def test_verdicts_are_turned_round_for_whole_groups_or_one_by_one(arm, whole):
    right = torch.ones(patterns.PROMPTS, 200, dtype=torch.float64)
    paid = patterns.paid(arm, right, right, torch.Generator().manual_seed(0))
    assert bool(((paid == 0).all(1) | (paid == 1).all(1)).all()) == whole
    assert 0 < paid.mean() < 1


def test_missed_verdicts_are_never_granted_to_wrong_answers_and_softened_ones_get_a_tenth():
    right = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(patterns.PROMPTS, 50)
    pattern = torch.full_like(right, 0.5)
    missed, softened = (
        patterns.paid(f"{arm}-40", right, pattern, torch.Generator().manual_seed(0)) for arm in ("missed", "softened")
    )
    assert (missed[right == 0] == 0).all()
    torch.testing.assert_close(softened, 0.05 + 0.95 * missed)


def test_phrases_make_answers_surer_only_where_they_are_not_hollow():
    helpful, pattern = patterns.traces(False)
    hollow, same = patterns.traces(True)
    assert torch.equal(pattern, same)
    work_and_three, four_works, slip = 0 * 216 + 3 * 36 + 4 * 6 + 5, 0, 1  # traces as numbers with digits of base 6
    assert helpful[[work_and_three, four_works, slip]].tolist() == pytest.approx([0.94, 0.4, 0.02])
    assert hollow[[work_and_three, four_works, slip]].tolist() == pytest.approx([0.4, 0.94, 0.02])
    assert pattern[[work_and_three, four_works]].tolist() == [1.0, 0.0]


def test_the_surrogate_pays_most_for_tags_at_half_of_the_limit_and_nothing_without_an_answer():
    paid = format_length_surrogate.surrogates()
    assert paid["format"][:, 0].tolist() == [1.0, 0.5, 0.0]
    assert paid["format-length"][:, 7].tolist() == [2.0, 1.5, 0.0]  # x = 8/16 = p, so f = 1
    assert paid["format-length"][2].max() <= 0
    skilled, unskilled = (format_length_surrogate.chances(skill, torch.Generator().manual_seed(0)) for skill in (True, False))
    assert skilled.max() == pytest.approx(0.9)
    assert unskilled.max() == pytest.approx(0.05)
    assert skilled[:, 2].max() == unskilled[:, 2].max() == 0


def test_a_policy_that_knows_nothing_is_right_once_in_ten():
    writer = one_shot_rlvr.Writer()
    for weight in writer.parameters():
        weight.data.zero_()
    prompts, right = one_shot_rlvr.all_prompts(torch.Generator().manual_seed(0))
    assert one_shot_rlvr.accuracy(writer, prompts, right).tolist() == pytest.approx([0.1] * 100)
    assert len({tuple(pair) for pair in prompts.tolist()}) == 100
    nothing = {name: torch.zeros_like(weight) for name, weight in m2rl.Writer().state_dict().items()}
    assert [m2rl.accuracy(nothing, number, 0) for number in range(3)] == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(("number", "right"), [(0, 2), (1, 6), (2, 8)])
def test_each_domain_asks_something_else_of_the_same_digits(number, right):
    prompts, digits = m2rl.domain(number, 0)
    asked = {tuple(prompt): digit for prompt, digit in zip(prompts.tolist(), digits.tolist(), strict=True)}
    assert len(asked) == 100
    assert asked[number, 4, 8] == right  # 12, -4 and 8


def test_learning_from_one_example_makes_its_answer_likelier():
    prompts, right = one_shot_rlvr.all_prompts(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    policy = one_shot_rlvr.Writer()
    before = one_shot_rlvr.accuracy(policy, prompts[:1], right[:1]).item()
    *_, after = one_shot_rlvr.train(policy, prompts[:1], right[:1], torch.Generator().manual_seed(0), 5, 0.01)
    assert one_shot_rlvr.accuracy(after, prompts[:1], right[:1]).item() > before
