"""Rewards by the likelihood of the reference: recorded, asked of a policy, and what they climb against a sampled answer."""

import math

import pytest
import torch

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import total
from payoff.enumeration import every_sequence
from payoff.exact import exact_gradient
from payoff.examples import four_answers
from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.signals.reference_likelihood import ReasonedProbability, ReferenceLikelihood
from payoff.trajectories import outcome

F64 = torch.float64


def scored(signal, *probabilities: list[float], base: list[float] | None = None) -> torch.Tensor:
    """Each row the reference tokens' probabilities; the outcome by row."""
    rows = [{"reference_logp": [math.log(p) if p else -math.inf for p in row]} for row in probabilities]
    rows = [{**row, **({"base_logp": [math.log(p) for p in base]} if base else {})} for row in rows]
    traj = four_answers().select(torch.arange(len(rows)) % 4).replace(items=rows)
    (channel,) = signal(traj).values()
    return outcome(channel, traj)[0]


def test_the_forms_of_one_reference():
    # tokens of probability 1/2 and 1/8
    row = [0.5, 0.125]
    wanted = {"log": math.log(1 / 16), "mean-log": math.log(1 / 4), "probability": 1 / 16, "mean-probability": 5 / 16}
    for form, number in wanted.items():
        assert float(scored(ReferenceLikelihood(form=form), row)[0]) == pytest.approx(number)


def test_of_one_token_product_and_mean_agree_and_of_more_the_mean_is_larger():
    product, mean = ReferenceLikelihood(form="probability"), ReferenceLikelihood(form="mean-probability")
    torch.testing.assert_close(scored(product, [0.3], [0.7]), scored(mean, [0.3], [0.7]))
    a, b = scored(product, [0.3, 0.9, 0.5]), scored(mean, [0.3, 0.9, 0.5])
    geometric = scored(ReferenceLikelihood(form="mean-log"), [0.3, 0.9, 0.5]).exp()
    assert float(a) < float(geometric) < float(b)


def test_one_impossible_token_ends_the_product_and_costs_the_mean_its_share():
    assert float(scored(ReferenceLikelihood(form="probability"), [0.8, 0.0])) == 0
    assert float(scored(ReferenceLikelihood(form="mean-probability"), [0.8, 0.0])) == pytest.approx(0.4)
    traj = four_answers().replace(items=[{"reference_logp": [-math.inf]}] * 4)
    assert not ReferenceLikelihood()(traj)["likelihood"].valid[0].all()


def test_leave_one_out_of_the_forms_has_the_worked_numbers():
    # four rollouts of probability .1 .2 .4 .8; log: l_i - mean of the others; probability: p_i - mean of the others
    rows = [[0.1], [0.2], [0.4], [0.8]]
    traj = four_answers().replace(
        group=torch.zeros(4, dtype=torch.int64), items=[{"reference_logp": [math.log(p)]} for (p,) in rows]
    )
    wanted = {"log": [-1.386294, -0.462098, 0.462098, 1.386294], "probability": [-0.366667, -0.233333, 0.033333, 0.566667]}
    for form, numbers in wanted.items():
        channel = ReferenceLikelihood(form=form)(traj)["likelihood"]
        found = leave_one_out(total(channel, traj), traj).value[:, 0]
        torch.testing.assert_close(found, torch.tensor(numbers), rtol=0, atol=1e-5)


def test_rlpr_pays_what_reasoning_added_and_nothing_for_what_it_took():
    signal = ReasonedProbability()
    assert scored(signal, [0.9, 0.5], [0.1, 0.1], base=[0.5, 0.4]).tolist() == pytest.approx([0.25, 0.0])
    assert scored(ReasonedProbability(debias=False), [0.9, 0.5]).tolist() == pytest.approx([0.7])


def test_rows_without_sound_numbers_have_no_verdict_and_say_why():
    items = [{"reference_logp": [-1.0]}, {}, {"reference_logp": [0.5]}, {"reference_logp": []}]
    channel = ReferenceLikelihood()(four_answers().replace(items=items))["likelihood"]
    assert outcome(channel, four_answers())[1].tolist() == [True, False, False, False]
    assert channel.reasons == {
        1: "no 'reference_logp'",
        2: "'reference_logp' is no list of log-probabilities",
        3: "no 'reference_logp'",
    }
    base = ReasonedProbability()(four_answers().replace(items=[{"reference_logp": [-1.0]}] * 4))["probability"]
    assert base.reasons[0] == "no 'base_logp'"
    with pytest.raises(ValueError, match="rlpr: these trajectories have no items"):
        ReasonedProbability()(four_answers().replace(items=()))


# --- asked of a policy


@pytest.fixture(scope="module")
def asked():
    policy = transformer(width=16, layers=1, heads=2, seed=3)
    rows = [
        {"prompt": "3-7=", "response": "3-7=6;#6.", "reference": "6."},
        {"prompt": "3-7=", "response": "#5.", "reference": "6."},
        {"prompt": "1+2+3=", "response": "1+2=3;3+3=6;#6.", "reference": "6"},
        {"prompt": "1+2+3=", "response": "1+2=3;", "reference": None},
    ]
    return policy, policy.read(rows)


def test_a_policy_scores_the_reference_in_the_place_of_the_last_step(asked):
    policy, traj = asked
    found = ReferenceLikelihood(policy=policy, lead="#")(traj)["likelihood"]
    value, valid = outcome(found, traj)
    for row, (prompt, before, reference) in enumerate(
        [("3-7=", "3-7=6;#", "6."), ("3-7=", "#", "6."), ("1+2+3=", "1+2=3;3+3=6;#", "6")]
    ):
        whole = policy.read([{"prompt": prompt, "response": before + reference}])
        assert float(value[row]) == pytest.approx(float(whole.logp["old"][0, len(before) :].sum()), abs=1e-5)
    assert valid.tolist() == [True, True, True, False]
    assert found.reasons == {int(traj.id[3]): "no reference"}


def test_all_that_was_written_can_be_kept_and_the_base_has_none_of_it(asked):
    policy, traj = asked
    found = outcome(ReferenceLikelihood(policy=policy, keep="all")(traj)["likelihood"], traj)[0]
    whole = policy.read([{"prompt": "3-7=", "response": "#5.6."}])
    assert float(found[1]) == pytest.approx(float(whole.logp["old"][0, 3:].sum()), abs=1e-5)
    gained = outcome(ReasonedProbability(policy=policy, lead="#")(traj)["probability"], traj)[0]
    assert float(gained[1]) == 0  # its one step is the answer, so that there was no reasoning
    assert (gained >= 0).all()


def test_it_learns_nothing_and_changes_no_weight_and_many_rows_are_asked_in_parts(asked):
    _, traj = asked
    signal = ReferenceLikelihood(policy=transformer(width=16, layers=1, heads=2, seed=3), lead="#")
    assert not any(p.requires_grad for p in signal.parameters())
    many = traj.select(torch.arange(4).repeat(40))
    value = outcome(signal(many)["likelihood"], many)[0]
    torch.testing.assert_close(value.view(40, 4), value[:4].expand(40, 4), rtol=0, atol=1e-5)


def test_rollouts_of_a_policy_are_scored_in_their_own_tokens():
    policy = transformer(width=16, layers=1, heads=2, seed=3, max_tokens=8)
    traj = policy.rollout([Start("a", {"prompt": "1+2=", "reference": "3"})], 3, torch.Generator().manual_seed(0))
    assert outcome(ReferenceLikelihood(policy=policy, lead="#")(traj)["likelihood"], traj)[1].all()


# --- what it climbs


def test_the_probability_climbs_what_a_sampled_answer_climbs_through_the_reasoning():
    """Two actions, the second the answer: the gradient by the first is that of the sampled reward, for any reference."""
    policy, reference = Tabular(3, 2, spread=1.0, seed=1), 1
    first = Tabular(3, 1, logits=policy.logits[0, :1].detach())
    reasoning = every_sequence(first)
    answer = policy.logits[0, 1:].log_softmax(1)[:, reference].detach()  # by the first action
    traj = reasoning.replace(items=[{"reference_logp": [float(answer[int(a)])]} for a in reasoning.actions[:, 0]])
    value = outcome(ReferenceLikelihood(form="probability")(traj)["likelihood"], traj)[0].to(F64)
    sampled = exact_gradient(policy, (policy.tree.actions[:, 1] == reference).to(F64)).view(-1, 3)[0]
    torch.testing.assert_close(exact_gradient(first, value), sampled, rtol=0, atol=1e-7)
