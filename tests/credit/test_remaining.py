"""SubPO's credit: what is still to be gained."""

import pytest
import torch

from payoff.credit.remaining import remaining_gain
from payoff.credit.returns import return_to_go, total
from payoff.examples import four_answers
from payoff.policies.tabular import Tabular
from payoff.shaping.potentials import progress
from payoff.signals.set_functions import coverage
from payoff.trajectories import Channel, outcome, place_outcome

F64 = torch.float64
STEPS = torch.tensor([[0, 0, 1], [0, 0, -1], [0, 1, 1], [0, -1, -1]]).int()


@pytest.mark.parametrize("step", [None, STEPS])
def test_it_is_the_return_to_go_of_the_gains(step):
    traj = four_answers() if step is None else four_answers().replace(step=step)
    score = Channel(torch.randn(4, 3, dtype=F64), torch.ones(4, 1, dtype=torch.bool))
    gains = return_to_go(progress(score, traj, initial=0.5), traj)
    torch.testing.assert_close(remaining_gain(score, traj, initial=0.5).value, gains.value)


def test_marginal_and_terminal_form_have_one_expected_gradient_and_the_marginal_one_less_variance():
    # Two steps over three items, every sequence enumerated: grad J = sum_s p(s) sum_t grad log pi(a_t) C_t.
    policy = Tabular(3, 2, spread=0.7, seed=2)
    traj = policy.sequences()
    gains = coverage(traj, covers=[[1, 1, 0], [0, 1, 1], [0, 0, 1]], weights=[1.0, 2.0, 0.5])["coverage"]
    value, _ = outcome(gains, traj)
    score = Channel(gains.value.double().cumsum(1), gains.valid)
    sure = torch.ones(len(traj), dtype=torch.bool)
    probability = policy.probabilities().detach()

    def estimates(credit: Channel) -> torch.Tensor:
        rows = []
        for i in range(len(traj)):
            logp = policy.evaluate(traj).logp[i]
            weight = credit.value.expand(len(traj), traj.width)[i].detach()
            rows.append(torch.autograd.grad((logp * weight).sum(), policy.logits)[0].flatten())
        return torch.stack(rows)

    marginal = estimates(remaining_gain(score, traj))
    terminal = estimates(total(place_outcome(value.double(), sure, traj), traj))
    exact = torch.autograd.grad((policy.probabilities() * value.double()).sum(), policy.logits)[0].flatten()
    for rows in (marginal, terminal):
        torch.testing.assert_close((probability[:, None] * rows).sum(0), exact, rtol=0, atol=1e-12)
    spread = [(probability[:, None] * (rows - exact).square()).sum() for rows in (marginal, terminal)]
    assert spread[0] < spread[1]


def test_an_unknown_score_costs_only_what_needs_it():
    valid = torch.tensor([[True, False, True], [True, False, True], [True, True, True], [True, False, False]])
    score = Channel(torch.where(valid, torch.tensor([[1.0, 3.0, 4.0]]), torch.nan), valid, {1: "no"})
    found = remaining_gain(score, four_answers())
    # row 0: the second score is needed by the third action alone; row 1 lacks its last one
    assert (found.valid & four_answers().exists).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
        [True, False, False],
    ]
    assert found.value[0].tolist() == [4, 3, 0]
    assert found.reasons == {1: "no"}
