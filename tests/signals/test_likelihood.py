import pytest
import torch

from payoff.examples import four_answers
from payoff.signals.likelihood import kl_penalty
from payoff.trajectories import Trajectories, outcome

TRAJ = four_answers()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_k1_penalty_adds_up_to_minus_the_log_ratio_of_the_whole_response():
    traj = TRAJ.replace(logp={name: -torch.rand(4, 3, dtype=torch.float64) for name in ("old", "ref")})
    total, valid = outcome(kl_penalty(traj)["kl"], traj)
    expected = [float(traj.logp["ref"][i, :n].sum() - traj.logp["old"][i, :n].sum()) for i, n in enumerate(traj.length.tolist())]
    assert total.tolist() == pytest.approx(expected)
    assert valid.all()


@pytest.mark.parametrize(("estimator", "paid"), [("k1", -0.5), ("k2", -0.125), ("k3", -0.10653066)])
def test_golden_numbers_at_half_a_nat(estimator, paid):
    value = kl_penalty(TRAJ, estimator=estimator)["kl"].value
    torch.testing.assert_close(value, torch.where(TRAJ.mask, paid, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_it_is_verls_penalty_with_the_sign_of_a_reward(estimator):
    verl = pytest.importorskip("verl.trainer.ppo.core_algos")
    traj = TRAJ.replace(logp={"old": -torch.rand(4, 3), "ref": -3 * torch.rand(4, 3)})
    theirs = -verl.kl_penalty(traj.logp["old"], traj.logp["ref"], estimator)
    torch.testing.assert_close(kl_penalty(traj, estimator=estimator)["kl"].value, torch.where(traj.mask, theirs, 0.0))


def test_what_the_policy_did_not_write_in_this_row_pays_nothing():
    traj = TRAJ.replace(
        mask=TRAJ.mask & torch.tensor([[True, False, True]]),
        parent=torch.tensor([-1, -1, 0, -1]),
        fork=torch.tensor([0, 0, 1, 0]),
    )
    assert (kl_penalty(traj)["kl"].value != 0).int().tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_token_the_reference_finds_impossible_stays_finite(estimator):
    traj = TRAJ.replace(logp={"old": torch.full((4, 3), -400.0), "ref": torch.full((4, 3), -0.1)})
    assert kl_penalty(traj, estimator=estimator)["kl"].value.isfinite().all()


def test_it_carries_no_gradient():
    traj = TRAJ.replace(logp={"old": TRAJ.logp["old"].clone().requires_grad_()})
    assert not kl_penalty(traj)["kl"].value.requires_grad


def test_mistakes_are_named():
    bare = Trajectories(TRAJ.mask, TRAJ.length, TRAJ.group, TRAJ.step, TRAJ.stop, TRAJ.actions, {"old": TRAJ.logp["old"]})
    with pytest.raises(ValueError, match=r"needs traj.logp\['ref'\]"):
        kl_penalty(bare)
