"""RLFR: the deviation of the best velocity is a conditional variance; what is kept is affine-invariant, sparse and bounded."""

import pytest
import torch

from payoff.contents import needs
from payoff.examples import four_answers
from payoff.models.flow_reward import FlowReward, kept_deviations, velocity_deviation
from payoff.policies.embedded import transformer
from payoff.trajectories import place_outcome

F64 = torch.float64


def latents(nan=True):
    states = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    if nan:
        states[torch.arange(4) > four_answers().length[:, None]] = torch.nan
    return four_answers().replace(extras={"hidden": states})


def test_the_best_velocity_leaves_the_conditional_variance():
    # target ~ N(mu, s^2) in each of two dimensions: u given x has the variance of u, s^2 + 1, less what x explains of it,
    # (tau s^2 - (1 - tau))^2 / (tau^2 s^2 + (1 - tau)^2)
    mu, s2, tau = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([0.25, 4.0], dtype=F64), 0.8
    slope = (tau * s2 - (1 - tau)) / (tau**2 * s2 + (1 - tau) ** 2)
    best = lambda x, time, condition, layer: mu + slope * (x - tau * mu)
    rng = torch.Generator().manual_seed(0)
    target = mu + s2.sqrt() * torch.randn(200_000, 2, generator=rng, dtype=F64)
    noise = torch.randn(target.shape, generator=rng, dtype=F64)
    found = velocity_deviation(best, target, target, torch.zeros(len(target), dtype=F64), noise)
    variance = s2 + 1 - slope * (tau * s2 - (1 - tau))
    torch.testing.assert_close(found.mean(), 4 * variance.mean(), rtol=0.01, atol=0)


def test_what_is_kept_knows_no_scale_reads_no_padding_and_is_bounded():
    rng = torch.Generator().manual_seed(0)
    deviation, where = torch.rand(6, 40, generator=rng), torch.rand(6, 40, generator=rng) > 0.2
    odd = torch.where(where, deviation, torch.nan)
    kept = kept_deviations(odd, where)
    torch.testing.assert_close(kept, kept_deviations(3 * odd + 2, where))
    assert not kept[~where].any()
    assert (kept.amax(1) == 1).all()
    assert ((kept == 0) | (kept > 0.6)).all()
    few = kept_deviations(odd, where, top=5)
    assert ((few != 0).sum(1) == 5).all()
    assert torch.equal(few.amax(1), kept.amax(1))
    both = kept_deviations(odd, where, two_sided=True, top=5)
    assert ((both > 0).sum(1) == 2).all()
    assert ((both < 0).sum(1) == 2).all()
    assert kept_deviations(torch.full((1, 4), 0.3), torch.ones(1, 4) > 0).abs().max() == 0
    assert kept_deviations(torch.rand(1, 1), torch.ones(1, 1) > 0).abs().max() == 0


def test_the_smallest_of_a_full_row_is_its_own_least():
    # The released code looks for the second smallest, taking the smallest for padding: its 4 of [1, 2, 4, 5] would be 2/3, not 3/4.
    row = torch.tensor([[1.0, 2.0, 4.0, 5.0]])
    assert kept_deviations(row, torch.ones(1, 4) > 0).tolist() == [[0, 0, 0.75, 1]]


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    model = FlowReward(size=3, depth=2, width=16, learning_rate=5e-3, epochs=60, draws=8)
    known = latents()
    return model, model.fit(known), known


def test_latents_that_were_fitted_deviate_less_than_strange_ones(fitted):
    model, metrics, known = fitted
    strange = known.replace(extras={"hidden": known.extras["hidden"].flip(2) + 3})
    assert metrics["rlfr/tokens"] == 9
    assert model.deviation(known)[known.own].mean() < 0.5 * model.deviation(strange)[known.own].mean()


def test_payments_are_none_where_nothing_was_written_and_never_above_zero(fitted):
    model, _, known = fitted
    paid = model(known)["flow"]
    assert (paid.value[~known.own] == 0).all()
    assert paid.value.max() <= 0
    assert paid.value.sum(1).min() >= -0.01 * 15
    assert paid.value[3].abs().max() == 0  # one token: nothing to compare it with
    model.coefficient = 0.0
    assert model(known)["flow"].value.abs().max() == 0
    model.coefficient = 0.01


def test_only_rollouts_let_through_are_learned_from_and_checkpoints_go_on(fitted):
    model, _, known = fitted
    right = place_outcome(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([True, True, True, False]), known)
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    nobody = place_outcome(torch.zeros(4), torch.ones(4) > 0, known)
    assert model.learn(known, {"correct": nobody}) == {"rlfr/loss": None, "rlfr/taken": 0.0}
    assert all(torch.equal(before[name], weight) for name, weight in model.network.state_dict().items())
    other = FlowReward(size=3, depth=2, width=16, learning_rate=5e-3)
    other.load_state_dict(model.state_dict())
    # What the rejected rollouts hold cannot matter.
    states = known.extras["hidden"].clone()
    states[1:] = 7.0
    metrics = model.learn(known, {"correct": right})
    assert metrics == other.learn(known.replace(extras={"hidden": states}), {"correct": right})
    assert metrics["rlfr/taken"] == 0.25
    with pytest.raises(KeyError, match="to choose by"):
        model.learn(known, {})


def test_the_following_neighbour_leaves_out_the_last_token_and_layers_are_averaged():
    known = latents()
    following = FlowReward(size=3, depth=1, width=8, condition="following").deviation(known)
    assert (following[torch.arange(4), known.length - 1] == 0).all()
    assert (following[0, :2] > 0).all()
    layers = known.replace(extras={"hidden": known.extras["hidden"][:, :, None].repeat(1, 1, 2, 1)})
    # A network that says 0 deviates by the size of the latent less the noise, whatever the layer.
    assert (FlowReward(size=3, depth=1, draws=4).deviation(layers)[known.own] > 0).all()


def test_layers_are_picked_by_their_share_of_the_depth():
    known, states = latents(), torch.randn(4, 4, 8, 3, generator=torch.Generator().manual_seed(1))
    some = FlowReward(size=3, depth=1, layers=[0.25, 0.5, 1.0])  # the second, fourth and eighth of eight
    picked = FlowReward(size=3, depth=1, of="picked")
    found = some.deviation(known.replace(extras={"layers": states}))
    assert torch.equal(found, picked.deviation(known.replace(extras={"picked": states[:, :, [1, 3, 7]]})))
    assert needs([some]) >= {"layers"}
    with pytest.raises(ValueError, match="layers are shares of the depth"):
        FlowReward(size=3, layers=[6.0])


def test_a_language_model_gives_the_latents_and_reads_expert_text(tmp_path):
    policy = transformer(width=8, layers=1, heads=1)
    path = tmp_path / "expert.jsonl"
    path.write_text('{"prompt": "3-7=", "response": "3-7=6;#6."}\n')
    model = FlowReward(policy=policy, labelled=str(path), depth=1)
    traj = policy.read([{"prompt": "3-7=", "response": "3-7=5;#5."}])
    traj = traj.replace(extras={"hidden": policy.evaluate(traj, frozenset({"hidden"})).more["hidden"].detach()})
    assert model(traj)["flow"].value.shape == traj.mask.shape
    for options, error in (({}, "give size"), ({"size": 2, "times": [1.0]}, "times"), ({"size": 2, "threshold": 1.0}, "threshold")):
        with pytest.raises(ValueError, match=error):
            FlowReward(**options)
    with pytest.raises(ValueError, match="needs traj"):
        model(four_answers())
