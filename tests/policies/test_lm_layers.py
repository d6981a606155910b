"""What every layer makes of every place, as RLFR and SparsePO read it."""

import pytest
import torch

from payoff.models.flow_reward import FlowReward
from payoff.policies.embedded import transformer

WANT = frozenset({"hidden", "layers", "values"})


@pytest.fixture(scope="module")
def policy():
    return transformer(width=16, layers=3, heads=2, context=24, critic=True)


def test_the_last_layers_states_become_the_hidden_ones_and_none_reads_padding(policy):
    traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}, {"prompt": "1+1=", "response": "#2."}])
    more = policy.evaluate(traj, WANT).more
    assert more["layers"].shape == (2, traj.width + 1, 3, 16)
    assert torch.equal(more["layers"][:, :, -1], more["hidden"])
    here = torch.arange(traj.width + 1) <= traj.length[:, None]
    assert all((more["layers"][:, :, k] - more["layers"][:, :, k + 1])[here].abs().max() > 1e-3 for k in range(2))
    assert (more["layers"][~here] == 0).all()
    alone = policy.evaluate(traj.select(torch.tensor([1])), WANT).more["layers"]
    torch.testing.assert_close(alone, more["layers"][1:, : alone.shape[1]])


def test_a_flow_of_several_layers_reads_them(policy, tmp_path):
    path = tmp_path / "expert.jsonl"
    path.write_text('{"prompt": "3-7=", "response": "3-7=6;#6."}\n')
    model = FlowReward(policy=policy, labelled=str(path), depth=1, layers=[0.25, 0.5, 0.75])
    traj = policy.read([{"prompt": "3-7=", "response": "3-7=5;#5."}])
    traj = traj.replace(extras={"layers": policy.evaluate(traj, WANT).more["layers"].detach()})
    assert model(traj)["flow"].value.shape == traj.mask.shape
