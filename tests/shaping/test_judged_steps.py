"""CAPO's votes and four levels, ReNorm's four corners; and what each of them climbs."""

import functools

import pytest
import torch

from payoff.advantages.action_level import standardised_actions
from payoff.advantages.group import grpo
from payoff.credit.returns import immediate, return_to_go, total
from payoff.enumeration import every_sequence, paid
from payoff.exact import bias, compare, credit_gradient, exact_gradient
from payoff.examples import four_answers
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.shaping.judged_steps import centred_together, vote
from payoff.trajectories import Channel, outcome, place_outcome, place_steps

F64 = torch.float64
POLICY = Tabular(3, 3, stop=2, spread=1.0, seed=1)
TREE = POLICY.tree
LEAVES = every_sequence(POLICY)
ALL = torch.ones(4, 1, dtype=torch.bool)
RIGHT = (torch.arange(len(TREE)) % 4 == 1).to(F64)


def of_prefix(seed: int) -> torch.Tensor:
    """A number in [0, 1] for every action, which depends on nothing later, [L, T]."""
    table = torch.rand(TREE.prefix_count * 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return torch.where(TREE.exists, table[TREE.edge], 0)


def says(*rows, valid=ALL) -> Channel:
    return Channel(torch.tensor(rows).expand(4, -1).clone(), valid)


# --- capo


@pytest.mark.parametrize(
    ("voting", "wanted"),
    # judges say (0 1 1), (0 0 1), (0 1 1), (0 0 1): shares 0, 1/2, 1; half is no majority
    [("intersection", [0, 0, -1]), ("majority", [0, 0, -1]), ("average", [0, -0.5, -1])],
)
def test_votes_are_counted(voting, wanted):
    critiques = {f"critique/{i}": says(0.0, float(i % 2), 1.0) for i in range(4)}
    found = vote({**critiques, "other": says(1.0)}, four_answers(), voting=voting)
    assert found["flaws"].value[0].tolist() == wanted
    assert set(found) == {*critiques, "other", "flaws"}


def test_a_judge_without_a_verdict_does_not_vote_and_a_step_nobody_judged_is_unknown():
    valid = torch.tensor([[True, False, True]]).repeat(4, 1)
    critiques = {"critique/1": says(1.0, torch.nan, 1.0, valid=valid), "critique/2": says(0.0, torch.nan, 1.0, valid=valid)}
    found = vote(critiques, four_answers())["flaws"]
    assert found.value[0].tolist() == [0, 0, -1]
    assert found.valid[0].tolist() == [True, False, True]
    two = {"critique/1": says(1.0, 1.0, 1.0, valid=valid), "critique/2": says(1.0, 1.0, 1.0)}
    assert vote(two, four_answers())["flaws"].value[0].tolist() == [-1, -1, -1]


def test_with_one_judge_the_three_ways_agree_and_the_channel_itself_is_read():
    found = [vote({"critique": says(0.0, 1.0, 0.0)}, four_answers(), voting=v) for v in ("intersection", "majority", "average")]
    assert all(torch.equal(x["flaws"].value, found[0]["flaws"].value) for x in found)
    assert found[0]["flaws"].value[0].tolist() == [0, -1, 0]


def test_independent_judges_all_blame_a_right_step_with_probability_q_to_the_m():
    # every one of the 2^3 sets of verdicts of three judges on one step, each a trajectory of its own
    q, traj = 0.3, four_answers().select(torch.full((8,), 3))
    verdicts = torch.tensor([[(i >> judge) & 1 for judge in range(3)] for i in range(8)])
    chance = torch.where(verdicts == 1, q, 1 - q).prod(1)
    known = torch.ones(8, 1, dtype=torch.bool)
    critiques = {f"critique/{j}": Channel(verdicts[:, j : j + 1].float(), known) for j in range(3)}
    blamed = lambda voting: float(-(chance @ vote(critiques, traj, voting=voting)["flaws"].value[:, 0]))
    assert blamed("intersection") == pytest.approx(q**3)
    assert blamed("majority") == pytest.approx(3 * q**2 * (1 - q) + q**3)
    assert blamed("average") == pytest.approx(q)


def capo(then=(), weights=(2.0, 1.0), flaws=immediate):
    return weigh({"right": [total], "flaws": [flaws]}, mix={"right": weights[0], "flaws": weights[1]}, then=then)


def test_a_token_has_one_of_four_weights():
    traj = four_answers().replace(step=torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int())
    wrong = place_steps(torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), torch.ones(4, 2, dtype=torch.bool), traj)
    right = place_outcome(torch.tensor([1.0, 1.0, 0.0, 0.0]), ALL[:, 0], traj)
    found = capo()(vote({"right": right, "critique": wrong}, traj), traj).value
    assert torch.where(traj.exists, found, 0).tolist() == [[2, 2, 1], [2, 2, 0], [-1, 0, 0], [-1, 0, 0]]


def test_without_flaws_and_with_one_length_it_is_grpo():
    traj = four_answers().select(torch.tensor([0, 2, 0, 2])).replace(group=torch.tensor([0, 0, 0, 1]))
    right = place_outcome(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=F64), ALL[:, 0], traj)
    rewards = vote({"right": right, "critique": Channel(torch.zeros(4, 1, dtype=F64), ALL)}, traj)
    found = capo([functools.partial(standardised_actions, eps=0.0)])(rewards, traj)
    torch.testing.assert_close(found.value, grpo(total(right, traj), traj).value.expand(4, 3))


def test_charging_steps_at_once_climbs_no_sum_of_payments_and_to_the_end_it_climbs_its_own():
    wrong = of_prefix(0).round()
    rewards = vote({"right": paid({"x": RIGHT})(LEAVES)["x"], "critique": paid({"x": wrong})(LEAVES)["x"]}, LEAVES)
    wanted = exact_gradient(POLICY, 2 * RIGHT - wrong.sum(1))
    climbed = credit_gradient(POLICY, capo(flaws=return_to_go)(rewards, LEAVES))
    torch.testing.assert_close(climbed, wanted, rtol=0, atol=1e-9)
    at_once = credit_gradient(POLICY, capo()(rewards, LEAVES))
    assert compare(at_once, wanted).residual > 0.05
    assert compare(at_once, exact_gradient(POLICY, RIGHT)).residual > 0.05


def test_counting_tokens_turns_the_expected_gradient_where_lengths_differ():
    plain = lambda policy, table: bias(policy, [term], {"x": table}, table)
    term = Term(weigh({"x": [total, standardised_actions]}), policy_gradient, sequence_sum)
    assert plain(POLICY, RIGHT).residual > 0.05
    fixed = Tabular(2, 2, spread=1.0, seed=1)
    assert plain(fixed, torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=F64)).residual < 1e-5


def test_there_must_be_critiques_that_say_yes_or_no():
    with pytest.raises(KeyError, match=r"no reward channel 'critique' or 'critique/...'; there are \['right'\]"):
        vote({"right": says(1.0)}, four_answers())
    with pytest.raises(ValueError, match=r"1 for a wrong step and 0 for another, got 0.5"):
        vote({"critique": says(0.5)}, four_answers())


# --- ppr-renorm


def renormed(scores: torch.Tensor, right: torch.Tensor) -> Channel:
    rewards = {"process": paid({"x": scores})(LEAVES)["x"], "correct": paid({"x": right})(LEAVES)["x"]}
    return centred_together(rewards, LEAVES)["renorm"]


@pytest.mark.parametrize(("score", "right", "wanted"), [(0.0, 0.0, -1), (0.0, 1.0, 0), (1.0, 0.0, 0), (1.0, 1.0, 1)])
def test_agreement_is_worth_one_and_disagreement_nothing(score, right, wanted):
    rewards = {"process": says(score), "correct": place_outcome(torch.full((4,), right), ALL[:, 0], four_answers())}
    assert centred_together(rewards, four_answers())["renorm"].value[0].tolist() == [wanted, wanted, right]


def test_a_failure_never_gains_by_more_turns_and_k_turns_are_worth_at_most_k():
    found = renormed(of_prefix(0), RIGHT)
    assert (found.value[RIGHT == 0] <= 0).all()
    assert (found.value.sum(1).abs() <= TREE.length).all()
    torch.testing.assert_close(found.value.gather(1, TREE.length[:, None] - 1)[:, 0], RIGHT)


def test_the_half_cancels_among_others_of_the_same_number_of_turns_and_not_among_lengths():
    fixed = Tabular(2, 2, spread=1.0, seed=1)
    right = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=F64)
    same = fixed.sequences()
    scores = torch.tensor([[0.2, 0.0], [0.2, 0.0], [0.9, 0.0], [0.9, 0.0]], dtype=F64)
    pay = lambda traj, table, score: centred_together(
        {"process": paid({"x": score})(traj)["x"], "correct": paid({"x": table})(traj)["x"]}, traj
    )["renorm"]
    sums = scores[:, 0] + 2 * right  # the same without the halves
    climbed = credit_gradient(fixed, total(pay(same, right, scores), same))
    torch.testing.assert_close(climbed, exact_gradient(fixed, sums), rtol=0, atol=1e-9)
    free = of_prefix(0) * (torch.arange(3) < TREE.length[:, None] - 1)
    whole = free.sum(1) + TREE.length * RIGHT
    climbed = credit_gradient(POLICY, total(renormed(of_prefix(0), RIGHT), LEAVES))
    assert compare(climbed, exact_gradient(POLICY, whole)).residual > 0.05


def test_the_total_climbs_what_is_paid_and_a_return_to_go_does_not():
    found = renormed(of_prefix(0), RIGHT)
    wanted = exact_gradient(POLICY, found.value.sum(1))
    torch.testing.assert_close(credit_gradient(POLICY, total(found, LEAVES)), wanted, rtol=0, atol=1e-9)
    assert compare(credit_gradient(POLICY, return_to_go(found, LEAVES)), wanted).residual > 0.05


def test_an_unknown_score_costs_its_turn_and_an_unknown_outcome_all_turns():
    valid = ALL.repeat(1, 3)
    valid[0, 0] = False
    valid[2, 2] = False  # the last turn's score is not read
    correct = place_outcome(torch.ones(4), torch.tensor([True, False, True, True]), four_answers())
    found = centred_together({"process": says(0.5, valid=valid), "correct": correct}, four_answers())["renorm"]
    assert (found.valid & four_answers().exists).tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert outcome(found, four_answers())[0].tolist() == [0, 0, 2, 1]


def test_scores_outside_their_range_and_missing_channels_are_refused():
    correct = place_outcome(torch.ones(4), ALL[:, 0], four_answers())
    with pytest.raises(ValueError, match=r"'process' must lie in 0..1, got 2.0"):
        centred_together({"process": says(2.0), "correct": correct}, four_answers())
    with pytest.raises(ValueError, match=r"'correct' must lie in 0..1, got -1.0"):
        centred_together(
            {"process": says(0.5), "correct": place_outcome(-torch.ones(4), ALL[:, 0], four_answers())}, four_answers()
        )
    with pytest.raises(KeyError, match="no reward channel 'process'"):
        centred_together({"correct": correct}, four_answers())
