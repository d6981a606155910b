import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from payoff.examples import four_answers
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import everywhere
from payoff.policies.tabular import Tabular
from payoff.sampling.superbatch import best_of_superbatch
from payoff.trajectories import Rewards, Trajectories, place_outcome

WORTH = torch.tensor([0.5, 2.0, -1.0, 2.0]).double()  # two equally good ones: ties are shared


def paid(traj: Trajectories, value: Tensor, valid: Tensor | None = None) -> Rewards:
    return {"score": place_outcome(value, torch.ones(len(traj), dtype=torch.bool) if valid is None else valid, traj)}


def expected_gradient(policy: Tabular, size: int, **options) -> Float[Tensor, " P"]:
    """Of the likelihood of the kept rows, over every superbatch of `size` rollouts that can be drawn."""
    all_of = policy.sequences()
    draws = torch.cartesian_prod(*[torch.arange(4)] * size).reshape(-1, size)
    chance = policy.probabilities().detach()[draws].prod(1)
    traj = all_of.select(draws.flatten()).replace(
        id=torch.arange(draws.numel()), group=torch.arange(len(draws)).repeat_interleave(size)
    )
    rows = best_of_superbatch(paid(traj, WORTH[draws.flatten()]), traj, **options)
    kept = traj.select(rows)
    terms = policy_gradient(policy.evaluate(kept), kept, everywhere({}, kept)).terms.sum(1)
    (terms * chance[kept.group] / options.get("k", 1)).sum().backward()
    found = -policy.logits.grad.flatten().clone()
    policy.logits.grad = None
    return found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_in_expectation_it_follows_the_likelihood_of_the_best_of_the_superbatch(size):
    policy = Tabular(2, 2, spread=1.0, seed=3)
    found = expected_gradient(policy, size)
    (policy.best_of_n(WORTH, size).detach() @ policy.probabilities().log()).backward()
    assert torch.allclose(found, policy.logits.grad.flatten(), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_keeping_all_of_it_is_imitation_of_oneself_and_leads_nowhere_on_average(size):
    assert expected_gradient(Tabular(2, 2, spread=1.0, seed=3), size, k=size).abs().max() < 1e-12


def test_length_is_charged_by_the_logarithm_of_the_characters():
    traj = four_answers().replace(items=[{"response": text} for text in ("long answer", "no", "", "x")])
    score = torch.tensor([1.0, 0.9, 0.5, 0.5])
    assert best_of_superbatch(paid(traj, score), traj).tolist() == [0, 2]
    # 1 - 0.1 log 11 = 0.76 < 0.9 - 0.1 log 2 = 0.83; an empty answer is charged like one character: the tie goes to the smaller id
    assert best_of_superbatch(paid(traj, score), traj, length_penalty=0.1).tolist() == [1, 2]


def test_without_text_actions_are_counted():
    traj = four_answers().replace(items=[{}] * 4)
    assert best_of_superbatch(paid(traj, torch.tensor([1.0, 0.99, 1.0, 0.99])), traj, length_penalty=0.5).tolist() == [1, 3]


def test_members_of_a_group_lie_anywhere_and_those_without_a_verdict_are_never_taken():
    traj = four_answers().replace(group=torch.tensor([7, 3, 3, 7]))
    known = torch.tensor([True, False, True, True])
    assert best_of_superbatch(paid(traj, torch.tensor([1.0, 9.0, 0.0, 2.0]), known), traj).tolist() == [2, 3]
    assert best_of_superbatch(paid(traj, torch.zeros(4), torch.zeros(4, dtype=torch.bool)), traj).tolist() == []


def test_mistakes_are_named():
    traj = four_answers()
    with pytest.raises(ValueError, match="k must be at least 1"):
        best_of_superbatch(paid(traj, torch.zeros(4)), traj, k=0)
    with pytest.raises(KeyError, match="no reward channel 'reward'"):
        best_of_superbatch(paid(traj, torch.zeros(4)), traj, by="reward")
