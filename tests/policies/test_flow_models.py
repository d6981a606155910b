"""Denoising policies by name: fitting, checkpoints, run files, and training by the spine's methods unchanged."""

import pytest
import torch

from payoff.build import build
from payoff.config import load_run
from payoff.parts import Settings
from payoff.pipeline import Start
from payoff.policies.flow_models import flow
from payoff.policies.flow_networks import PatchTransformer, VelocityMLP, fit_velocity
from payoff.train import evaluate, train

TINY = {"width": 8, "layers": 1, "pretrain_steps": 3, "steps": 4}

RUN = """
task: {{name: mixture, modes: 4}}
policy: {{name: flow, data: mixture, data_options: {{modes: 4}}, pretrain_steps: 600, width: 32, layers: 2, steps: 6, {policy}}}
reward: {{near: {reward}}}
terms:
  policy:
    paths: {{near: [{path}]}}
    loss: {loss}
    aggregation: {{name: constant-length, max_length: 6}}
train: {{updates: 25, starts: 2, rollouts: 32, learning_rate: 0.002, {train}}}
evaluate: {{every: 0, starts: 0}}
"""


def built(tmp_path, **text):
    file = tmp_path / "run.yaml"
    file.write_text(RUN.format(**{"policy": "", "reward": "mixture-distance", "train": "", **text}))
    return build(load_run(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        {"path": "total, rloo", "loss": "policy-gradient"},
        {"path": "total, grpo", "loss": "ppo-clip", "train": "epochs: 2, minibatches: 2"},
        {"path": "total, flow-grpo, tempflow-grpo", "loss": "{name: ppo-clip, low: 0.01, high: 0.01}", "policy": "acts: one"},
        {"path": "total, dancegrpo", "loss": "ppo-clip", "policy": "noise: constant, start_noise: group, last_clean: true"},
        {"path": "total, grpo", "loss": "{name: grpo-guard, low: 0.1, high: 0.1}", "train": "epochs: 2"},
        {
            "path": "immediate, {name: standardise, over: step, unit: step}",
            "loss": "policy-gradient",
            "reward": "{name: densegrpo, reward: mixture-distance}",
        },
    ],
    ids=["rloo", "ppo-clip", "tempflow", "dance", "guard", "dense"],
)
def test_methods_named_in_a_run_file_train_it(tmp_path, text):
    parts, settings = built(tmp_path, **text)
    starts = parts.task.starts(400, torch.Generator().manual_seed(9))

    def truth():
        traj = parts.policy.rollout(starts, 1, torch.Generator().manual_seed(8))
        near = torch.tensor([item["sample"] for item in traj.items]) - torch.tensor([2.0, 0.0])
        return float(-near.norm(dim=1).mean())

    before = truth()
    history = train(parts, settings).history
    assert truth() > before + 0.25  # of 2 to 3 at first: three of four modes are away from the goal
    assert history[-1]["invalid"] == 0


def test_the_loop_evaluates_truth_and_distance_from_where_it_started(tmp_path):
    parts, _ = built(tmp_path, path="total, rloo", loss="policy-gradient")
    metrics = evaluate(parts, Settings(evaluation_starts=20), 0)
    assert 0 <= metrics["truth"] <= 1
    assert metrics["kl"] == pytest.approx(0, abs=1e-4)
    assert metrics["evaluation_length"] == 6


def test_a_network_fitted_to_a_gaussian_comes_to_the_least_loss_there_is():
    data = lambda n, rng: (1.0 + 0.5 * torch.randn(n, 1, generator=rng), torch.zeros(n, dtype=torch.int64))
    torch.manual_seed(0)
    losses = fit_velocity(VelocityMLP(1, width=32, layers=2), data, steps=400)
    # Var[eps - x0 | x_t] = 1 + s^2 - (t - (1 - t) s^2)^2 / ((1 - t)^2 s^2 + t^2); its mean over t for s = 1/2 is pi / 4 = 0.785
    t = torch.linspace(0, 1, 10001, dtype=torch.float64)
    least = float((1.25 - (t - (1 - t) / 4) ** 2 / ((1 - t) ** 2 / 4 + t**2)).mean())
    assert sum(losses[-100:]) / 100 == pytest.approx(least, rel=0.05)
    assert losses[0] > 1.3 * least


def test_a_network_told_the_class_gives_samples_of_it():
    policy = flow("mixture", data_options={"modes": 2}, conditional=True, pretrain_steps=500, width=32, layers=2, steps=8)
    starts = [Start("r", {"condition": 0}), Start("l", {"condition": 1})]
    x = policy.rollout(starts, 60, torch.Generator().manual_seed(0)).actions[:, -1, 0]
    assert (x[:60] > 0).double().mean() > 0.95
    assert (x[60:] < 0).double().mean() > 0.95


def test_patches_are_put_back_where_they_came_from():
    torch.manual_seed(0)
    network = PatchTransformer(6, patch=2, width=8, layers=0, heads=2)
    with torch.no_grad():  # without layers and norm each patch goes through one linear map: make it the identity
        network.norm, network.place = torch.nn.Identity(), torch.nn.Parameter(torch.zeros(9, 8))
        for layer, matrix in ((network.into, torch.eye(8, 4)), (network.out, torch.eye(4, 8))):
            layer.weight.copy_(matrix)
            layer.bias.zero_()
    x = torch.randn(3, 36)
    torch.testing.assert_close(network(x, torch.ones(3), torch.zeros(3, dtype=torch.int64)), x)
    assert network(x[:0], torch.ones(0), torch.zeros(0, dtype=torch.int64)).shape == (0, 36)
    with pytest.raises(ValueError, match="patch must divide"):
        PatchTransformer(6, patch=4)


def test_a_checkpoint_is_written_once_read_after_and_refused_for_other_options(tmp_path):
    file = tmp_path / "deep" / "flow.pt"
    first = flow("mixture", checkpoint=str(file), **TINY)
    stamp = file.stat().st_mtime_ns
    again = flow("mixture", checkpoint=str(file), **{**TINY, "steps": 9})  # the sampler is no part of it
    assert file.stat().st_mtime_ns == stamp
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="was made with seed 0, and this run asks for 1"):
        flow("mixture", checkpoint=str(file), seed=1, **TINY)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        flow("mixture", checkpoint=str(file), **TINY)
    torch.save({"format": "other"}, file)
    with pytest.raises(ValueError, match="no checkpoint of a flow policy"):
        flow("mixture", checkpoint=str(file), **TINY)


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn_from():
    state = torch.get_rng_state()
    one, two, other = (flow("mixture", seed=seed, **TINY) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    parameters = lambda policy: torch.cat([p.flatten() for p in policy.parameters()])
    assert torch.equal(parameters(one), parameters(two))
    assert not torch.equal(parameters(one), parameters(other))


def test_images_get_patches_and_a_critic_when_asked():
    pytest.importorskip("sklearn")
    policy = flow("digits", pretrain_steps=1, width=8, layers=1, steps=3, critic=True, path="ddpm")
    assert isinstance(policy.network, PatchTransformer)
    traj = policy.rollout([Start("a", {})], 2, torch.Generator().manual_seed(0)).check()
    assert traj.mask.tolist() == [[True, True, False]] * 2
    assert policy.evaluate(traj, frozenset({"values"})).more["values"].shape == (2, 4)


def test_names_that_fit_no_data_are_refused():
    with pytest.raises(LookupError, match="mixtur"):
        flow("mixtur")
    with pytest.raises(ValueError, match="no data to fit"):
        flow("tree")
    with pytest.raises(ValueError, match="square images"):
        flow("mixture", network="patches")
