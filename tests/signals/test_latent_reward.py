"""Code that a model wrote is run in the sandbox, for a whole batch at once, and fails aloud."""

import pytest
import torch

from payoff.examples import four_answers
from payoff.models.return_decomposition import ReturnDecomposition
from payoff.signals.latent_reward import LatentReward
from payoff.trajectories import place_outcome

CODE = "def factors(state, action):\n    return [state[0] * action[0], 1]\n"


def traj():
    states = torch.arange(4.0).repeat(4, 1)
    states[torch.arange(4) > four_answers().length[:, None]] = torch.nan
    return four_answers().replace(extras={"observations": states[..., None]})


def test_it_is_the_model_with_these_factors(tmp_path):
    path = tmp_path / "factors.py"
    path.write_text(CODE)
    rewards = {"correct": place_outcome(torch.tensor([5.0, 1.0, 5.0, 0.0]), torch.ones(4) > 0, traj())}
    by_hand = lambda traj: torch.stack([traj.extras["observations"][:, :-1, 0] * traj.actions, torch.ones(traj.mask.shape)], 2)
    found = []
    for make in (
        lambda **o: LatentReward(code=str(path), level="process", **o),
        lambda **o: ReturnDecomposition(encoder=by_hand, **o),
    ):
        torch.manual_seed(0)
        model = make(size=2, hidden=8, steps=3, updates=5)
        model.learn(traj(), rewards)
        found.append(model(traj())["latent"].value)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def factors(state, action): return [1 / state[0], 1]", "ZeroDivisionError"),
        ("def factors(state, action): return [state[0]]", "no 2 finite numbers"),
        ("def factors(state, action): return open('/etc/passwd').read()", "failed"),
        ("def other(state): return []", "defines no function factors"),
    ],
)
def test_code_that_does_not_do_is_refused_with_its_reason(code, error):
    with pytest.raises(ValueError, match=error):
        LatentReward(code=code, size=2, level="process", hidden=4)(traj())


def test_nothing_is_run_in_this_process():
    code = "import os\ndef factors(state, action):\n    return [float(os.getpid()), 1.0]"
    import os

    model = LatentReward(code=code, size=2, level="process", hidden=4)
    assert float(model.encoder(traj())[0, 0, 0]) != os.getpid()
