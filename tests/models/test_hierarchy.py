"""HERON: comparisons down a hierarchy, and a score that agrees with them."""

import itertools

import pytest
import torch

from payoff.examples import four_answers
from payoff.models.hierarchy import HierarchicalPreference, decide
from payoff.trajectories import Channel, Trajectories

NONE = torch.zeros(3)


def everyone(z: torch.Tensor, signs=None, margins=None) -> torch.Tensor:
    """[n, n]: the verdict on every ordered pair."""
    n, m = z.shape
    a, b = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    return decide(z[a], z[b], torch.ones(m) if signs is None else signs, torch.zeros(m) if margins is None else margins).reshape(
        n, n
    )


def test_without_margins_it_is_the_lexicographic_order():
    z = torch.tensor(list(itertools.product([0.0, 1.0, 2.0], repeat=3)))
    expected = [[(a > b) - (a < b) for b in map(tuple, z.tolist())] for a in map(tuple, z.tolist())]
    assert everyone(z).tolist() == expected


def test_verdicts_are_antisymmetric_and_equal_factors_have_none():
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    z[3] = z[7]
    label = everyone(z, margins=torch.tensor([0.5, 0.2, 0.0]))
    assert torch.equal(label, -label.T)
    assert label[3, 7] == 0


def test_no_increasing_transform_matters_without_margins_and_no_rescaling_with_them():
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).round()
    assert torch.equal(everyone(z), everyone(z.exp()))
    margins = torch.tensor([0.0, 0.5, 1.0])
    scaled = z * torch.tensor([1.0, 100.0, 0.01])
    assert torch.equal(everyone(z, margins=margins * z.std(0)), everyone(scaled, margins=margins * scaled.std(0)))
    assert torch.equal(everyone(z, signs=torch.tensor([-1.0, 1.0, 1.0])), everyone(z * torch.tensor([-1.0, 1.0, 1.0])))


def test_with_margins_comparisons_can_go_in_circles():
    # First factor decides only beyond 1: a over b by the second, b over c by the second, and c over a by the first.
    z = torch.tensor([[0.0, 3.0], [0.75, 2.0], [1.5, 1.0]])
    label = everyone(z, margins=torch.tensor([1.0, 0.0]))
    assert (label[0, 1], label[1, 2], label[2, 0]) == (1, 1, 1)


def lined_up(n: int = 40) -> Trajectories:
    """One-action rollouts whose reached state has two random coordinates."""
    states = torch.zeros(n, 2, 2)
    states[:, 1] = torch.randn(n, 2, generator=torch.Generator().manual_seed(5))
    one = torch.ones(n, 1)
    return Trajectories(
        mask=one > 0,
        length=torch.ones(n, dtype=torch.int64),
        group=torch.arange(n),
        step=torch.zeros(n, 1, dtype=torch.int32),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=one,
        extras={"observations": states},
    )


def channels(traj: Trajectories) -> dict[str, Channel]:
    x, sure = traj.extras["observations"][:, 1:], torch.ones(len(traj), 1, dtype=torch.bool)
    return {"safe": Channel((x[..., 0] > 0).float(), sure), "fast": Channel(1000 * x[..., 1], sure)}


@pytest.mark.parametrize("per", ["step", "trajectory"])
def test_what_is_learned_puts_the_first_factor_first_whatever_the_units_of_the_second(per):
    torch.manual_seed(0)
    traj = lined_up()
    model = HierarchicalPreference(
        factors=["safe", "fast"], size=2, hidden=32, steps=150, learning_rate=1e-2, margins=[0.0, 0.0], per=per
    )
    metrics = model.learn(traj, channels(traj))
    assert metrics["heron/accuracy"] > 0.95
    score, state = model.score(traj)[:, 0].detach(), traj.extras["observations"][:, 1]
    safe = state[:, 0] > 0
    assert score[safe].mean() > score[~safe].mean() + 1
    assert torch.corrcoef(torch.stack([score[safe], state[safe, 1]]))[0, 1] > 0.8
    paid = model(traj)["heron"].value
    assert abs(float(paid.mean())) < 1e-4
    assert float(paid.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_a_batch_without_a_decision_teaches_nothing():
    traj = lined_up(4)
    model = HierarchicalPreference(factors=["same"], size=2, hidden=4)
    before = [p.clone() for p in model.parameters()]
    sure = torch.ones(4, 1, dtype=torch.bool)
    assert model.learn(traj, {"same": Channel(torch.ones(4, 1), sure)}) == {"heron/decided": 0.0}
    assert model.learn(traj, {"same": Channel(torch.rand(4, 1), ~sure)}) == {"heron/decided": 0.0}
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_padding_is_not_read():
    traj = four_answers()
    states = torch.randn(4, 4, 1)
    beyond = (torch.arange(4) > traj.length[:, None])[..., None]
    height = Channel(torch.where(traj.exists, states[:, 1:, 0], torch.nan), torch.ones(4, 1, dtype=torch.bool))
    found = []
    for given in (states, states.masked_fill(beyond, torch.nan)):
        torch.manual_seed(0)
        model, here = HierarchicalPreference(factors=["height"], size=1, hidden=8), traj.replace(extras={"observations": given})
        model.learn(here, {"height": height})
        found.append(model(here)["heron"].value)
    assert torch.equal(*found)
    assert not found[0][~traj.exists].any()


def test_a_checkpoint_carries_the_optimiser(tmp_path):
    traj = lined_up()
    make = lambda: HierarchicalPreference(factors=["safe", "fast"], size=2, hidden=8)
    torch.manual_seed(0)
    one, two = make(), make()
    one.learn(traj, channels(traj))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for model in (one, two):
        torch.manual_seed(1)
        model.learn(traj, channels(traj))
    assert torch.equal(one(traj)["heron"].value, two(traj)["heron"].value)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least one factor"):
        HierarchicalPreference(factors=[], size=2)
    with pytest.raises(ValueError, match="a sign of 1 or -1"):
        HierarchicalPreference(factors=["a"], size=2, signs=[0.5])
    with pytest.raises(ValueError, match="no reward channel 'slow'"):
        HierarchicalPreference(factors=["slow"], size=2).learn(lined_up(), channels(lined_up()))
    with pytest.raises(ValueError, match="needs traj"):
        HierarchicalPreference(factors=["safe"], size=5)(lined_up())
