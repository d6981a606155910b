"""Denoising as acting: exact log-densities, the ODE from anywhere, branches, and nothing read off the trajectory."""

import pytest
import torch
from torch import nn

from payoff.pipeline import Start
from payoff.policies.denoising import schedule, signal_and_noise
from payoff.policies.flow import Flow
from payoff.policies.flow_networks import VelocityMLP
from payoff.tasks.mixture import Mixture
from payoff.trajectories import StopReason, concatenate, log_ratio, outcome, place_outcome

STARTS = [Start("a", {"condition": 1}), Start("b", {"condition": 0})]


class Analytic(nn.Module):
    """The velocity that a perfect network of a mixture has."""

    def __init__(self, mixture, path="rectified"):
        super().__init__()
        self.mixture, self.path = mixture, path
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # says the dtype

    def forward(self, x, t, condition):
        return self.mixture.velocity(x, *signal_and_noise(t, self.path))


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Flow(VelocityMLP(2, width=16, classes=2), (2,), schedule(5)).double()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ode(policy, state, at, condition):
    """Euler steps of the flow, written out."""
    t = torch.linspace(1, 0, policy.steps + 1, dtype=torch.float64)
    for k in range(at, policy.steps):
        state = state - (t[k] - t[k + 1]) * policy.network(state, t[k].expand(len(state)), condition)
    return state


# --- rollouts


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("options", [{}, {"path": "ddpm"}, {"noise": "constant", "last_clean": True}])
def test_a_steps_log_probability_is_the_normal_density_of_its_transition(reduce, options):
    torch.manual_seed(1)
    table = schedule(5, **options)
    policy = Flow(VelocityMLP(3, width=8), (3,), table, reduce=reduce).double()
    traj = policy.rollout(STARTS, 4, rng())
    latents = traj.extras["latents"]
    with torch.no_grad():
        for k in range(5):
            x, t = latents[:, k], table.times[k].expand(8)
            mean = table.keep[k] * x - table.gain[k] * policy.network(x, t, torch.zeros(8, dtype=torch.int64))
            if table.std[k] == 0:
                torch.testing.assert_close(latents[:, k + 1], mean)
                assert not traj.mask[:, k].any()
                assert not traj.logp["old"][:, k].any()
                continue
            density = torch.distributions.Normal(mean, table.std[k]).log_prob(latents[:, k + 1])
            torch.testing.assert_close(traj.logp["old"][:, k], density.sum(1) if reduce == "sum" else density.mean(1))
            torch.testing.assert_close(traj.extras["old_mean"][:, k], mean)
    assert traj.mask.sum() == 8 * int((table.std > 0).sum())
    assert torch.equal(traj.actions, latents[:, 1:])


def test_rollouts_come_in_groups_with_what_a_reader_wants_to_know(policy):
    traj = policy.rollout(STARTS, 3, rng()).check()
    assert traj.group.tolist() == [traj.group[0]] * 3 + [traj.group[3]] * 3
    assert traj.group[0] != traj.group[3]
    assert traj.extras["condition"].tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(traj.extras["times"][2], torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64))
    item = traj.items[4]
    assert item["start"] == "b"
    assert item["sample"] == traj.actions[4, -1].tolist()
    assert item["tokens"] == item["steps"] == ["t=0.80", "t=0.60", "t=0.40", "t=0.20", "t=0.00"]
    assert (traj.stop == StopReason.finished).all()


def test_samples_have_the_law_of_the_data_under_ode_and_sde():
    mixture = Mixture(modes=3, radius=2.0, spread=0.3).distribution
    for level in (0.0, 0.7):
        policy = Flow(Analytic(mixture), (2,), schedule(40, level=level))
        end = policy.rollout([Start("a", {})], 4000, rng()).actions[:, -1]
        part = torch.cdist(end, mixture.means).argmin(1)
        share = part.bincount(minlength=3) / 4000
        assert (share - 1 / 3).abs().max() < 0.03  # 4 standard deviations of a share of 4000
        inner = (end - mixture.means[part]).square().mean().sqrt()
        assert float(inner) == pytest.approx(0.3, rel=0.06)


def test_the_same_generator_gives_the_same_rollouts(policy):
    first, second = (policy.rollout(STARTS, 2, rng(3)) for _ in range(2))
    assert torch.equal(first.actions, second.actions)
    assert not torch.equal(first.actions, policy.rollout(STARTS, 2, rng(4)).actions)


def test_a_group_can_share_its_start_noise(policy):
    policy.start_noise = "group"
    first = policy.rollout(STARTS, 3, rng()).extras["latents"][:, 0]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[3])


def test_one_sampled_step_makes_branches_that_differ_in_it_alone(policy):
    policy.acts = "one"
    traj = policy.rollout([STARTS[0]] * 6, 4, rng()).check()
    assert (traj.mask.sum(1) == 1).all()
    assert torch.equal(traj.mask, traj.own)
    place = traj.mask.int().argmax(1)
    assert torch.equal(place, traj.fork)
    assert len(place.unique()) > 1
    for g in range(6):
        rows = range(4 * g, 4 * g + 4)
        at = int(place[4 * g])
        latents = traj.extras["latents"][list(rows)]
        assert (place[list(rows)] == at).all()
        assert (latents[:, : at + 1] == latents[:1, : at + 1]).all()  # bit for bit
        assert len(latents[:, at + 1].unique(dim=0)) == 4
        torch.testing.assert_close(latents[:, -1], ode(policy, latents[:, at + 1], at + 1, traj.extras["condition"][list(rows)]))
        assert len(traj.parent[list(rows)].unique()) == 1
    assert not torch.isin(traj.parent, traj.id).any()


# --- resuming


def test_without_noise_resuming_is_the_ode_from_any_state(policy):
    traj = policy.rollout(STARTS, 2, rng())
    for at in range(5):
        rows = torch.tensor([0, 3])
        branch = policy.resume(traj, rows, torch.full((2,), at), 1, rng(), noisy=0).check()
        wanted = ode(policy, traj.extras["latents"][rows, at], at, traj.extras["condition"][rows])
        torch.testing.assert_close(branch.extras["latents"][:, -1], wanted)
        assert not branch.own.any()
        assert torch.equal(branch.mask[:, :at], traj.mask[rows, :at])
        assert torch.equal(branch.extras["latents"][:, : at + 1], traj.extras["latents"][rows, : at + 1])


def test_an_ode_trajectory_acts_nowhere_and_is_paid_at_its_end():
    policy = Flow(VelocityMLP(2, width=8), (2,), schedule(4, level=0.0))
    traj = policy.rollout(STARTS, 2, rng()).check()
    assert not traj.mask.any()
    assert traj.length.tolist() == [4] * 4
    paid = place_outcome(torch.arange(4.0), torch.ones(4, dtype=torch.bool), traj)
    assert paid.value[:, 3].tolist() == outcome(paid, traj)[0].tolist() == [0, 1, 2, 3]
    evaluation = policy.evaluate(traj, frozenset({"mean", "entropy"}))
    assert not evaluation.logp.any()
    evaluation.logp.sum().backward()
    assert all(not p.grad.any() for p in policy.parameters())


def test_branches_from_different_states_have_their_own_noise_horizon_and_past(policy):
    traj = policy.rollout(STARTS, 2, rng())
    rows, at = torch.tensor([1, 2]), torch.tensor([0, 3])
    branch = policy.resume(traj, rows, at, 2, rng(5), horizon=2, noisy=1).check()
    assert branch.length.tolist() == [2, 2, 5, 5]
    assert branch.stop.tolist() == [StopReason.truncated] * 2 + [StopReason.finished] * 2
    assert branch.fork.tolist() == [0, 0, 3, 3]
    assert branch.parent.tolist() == traj.id[[1, 1, 2, 2]].tolist()
    assert branch.group.tolist() == traj.group[[1, 1, 2, 2]].tolist()
    assert branch.own.int().tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]
    assert branch.mask[3].tolist() == [True, True, True, True, False]
    assert torch.equal(branch.logp["old"][2, :3], traj.logp["old"][2, :3])
    again = policy.evaluate(branch).logp
    torch.testing.assert_close(torch.where(branch.mask, again, 0), branch.logp["old"])
    assert branch.items[0]["sample"] == branch.extras["latents"][0, 2].tolist()
    assert branch.items[0]["tokens"] == ["t=0.80", "t=0.60"]


def test_what_was_cut_short_can_be_continued_after_trimming(policy):
    short = policy.resume(policy.rollout(STARTS, 1, rng()), torch.tensor([0]), torch.tensor([0]), 1, rng(), horizon=2)
    assert short.width == 2
    whole = policy.resume(short, torch.tensor([0]), torch.tensor([2]), 1, rng(), noisy=0)
    wanted = ode(policy, short.extras["latents"][:, 2], 2, short.extras["condition"])
    torch.testing.assert_close(whole.extras["latents"][:, -1], wanted)


def test_resuming_where_nothing_is_left_is_refused(policy):
    traj = policy.rollout(STARTS, 1, rng())
    for at in (-1, 5, 6):
        with pytest.raises(ValueError, match=f"cannot be continued from step {at}"):
            policy.resume(traj, torch.tensor([0]), torch.tensor([at]), 1, rng())
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        policy.resume(traj, torch.tensor([0]), torch.tensor([0]), 1, rng(), horizon=0)


# --- evaluating


def test_the_ratio_is_one_at_the_policy_that_sampled(policy):
    traj = policy.rollout(STARTS, 4, rng())
    assert log_ratio(policy.evaluate(traj).logp, traj.logp["old"], traj).abs().max() < 1e-12
    single = Flow(VelocityMLP(2, width=16), (2,), schedule(5))
    traj = single.rollout(STARTS, 4, rng())
    assert log_ratio(single.evaluate(traj).logp, traj.logp["old"], traj).abs().max() < 1e-5  # far below clip ranges of 1e-4


def test_the_gradient_of_log_probabilities_is_their_finite_difference(policy):
    traj = policy.rollout(STARTS, 3, rng())
    weight = torch.randn(traj.mask.shape, generator=rng(1), dtype=torch.float64)
    parameters = list(policy.parameters())
    way = [torch.randn(p.shape, generator=rng(2), dtype=torch.float64) for p in parameters]
    gradient = torch.autograd.grad((weight * policy.evaluate(traj).logp).sum(), parameters)
    slope = sum(float((g * w).sum()) for g, w in zip(gradient, way))
    ends = []
    for h in (1e-5, -2e-5):
        with torch.no_grad():
            for p, w in zip(parameters, way):
                p += h * w
            ends.append(float((weight * policy.evaluate(traj).logp).sum()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_what_it_offers_is_what_it_says(policy):
    policy.reduce = "sum"
    traj = policy.rollout(STARTS, 2, rng())
    traj = policy.resume(traj, torch.arange(4), torch.tensor([1, 0, 2, 4]), 1, rng(), horizon=2, noisy=1)
    more = policy.evaluate(traj, policy.offers).more
    latents, t = traj.extras["latents"], torch.linspace(1, 0, 6, dtype=torch.float64)
    for row in range(4):
        for k in range(traj.width):
            x, condition = latents[row : row + 1, k], traj.extras["condition"][row : row + 1]
            if not traj.exists[row, k]:
                assert not any(more[name][row, k].any() for name in ("velocity", "clean", "mean", "std", "entropy"))
                continue
            velocity = policy.network(x, t[k : k + 1], condition)
            torch.testing.assert_close(more["velocity"][row, k], velocity[0])
            torch.testing.assert_close(more["clean"][row, k], (x - t[k] * velocity)[0])
            assert more["std"][row, k] == policy.table.std[k]
            if traj.mask[row, k]:
                mean = policy.table.keep[k] * x - policy.table.gain[k] * velocity
                torch.testing.assert_close(more["mean"][row, k], mean[0])
                entropy = torch.distributions.Normal(mean, policy.table.std[k]).entropy().sum()
                torch.testing.assert_close(more["entropy"][row, k], entropy)
            else:
                assert not more["mean"][row, k].any()
                assert not more["entropy"][row, k].any()
        for k in range(traj.width + 1):
            x = latents[row : row + 1, k]
            wanted = ode(policy, x, k, traj.extras["condition"][row : row + 1])[0] if k <= traj.length[row] else torch.zeros(2)
            torch.testing.assert_close(more["completed"][row, k].detach(), wanted.detach().double())


def test_values_come_from_the_critic_at_every_state():
    torch.manual_seed(0)
    critic = VelocityMLP(2, width=8, outputs=1)
    policy = Flow(VelocityMLP(2, width=8), (2,), schedule(3), critic=critic)
    assert "values" in policy.offers
    traj = policy.rollout(STARTS, 2, rng())
    values = policy.evaluate(traj, frozenset({"values"})).more["values"]
    assert values.shape == (4, 4)
    last = critic(traj.extras["latents"][:, 3], torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(values[:, 3], last[:, 0])


def test_padding_is_never_read_and_rows_do_not_mix(policy):
    whole = policy.rollout(STARTS, 2, rng())
    traj = concatenate([policy.resume(whole, torch.tensor([0, 1]), torch.tensor([0, 1]), 1, rng(), horizon=2), _branched(whole)])
    want = policy.offers
    clean = policy.evaluate(traj, want)
    beyond = torch.arange(traj.width + 1) > traj.length[:, None]
    latents = torch.where(beyond[..., None], torch.nan, traj.extras["latents"])
    dirty = traj.replace(
        actions=torch.where(traj.exists[..., None], traj.actions, torch.nan),
        logp={"old": torch.where(traj.exists, traj.logp["old"], torch.nan)},
        extras={"latents": latents, "old_mean": torch.where(traj.exists[..., None], traj.extras["old_mean"], torch.nan)},
    )
    order = torch.tensor([3, 0, 2, 1])
    for other, rows in ((dirty, torch.arange(4)), (dirty.select(order), order)):
        found = policy.evaluate(other, want)
        torch.testing.assert_close(found.logp, clean.logp[rows])
        for name in want:
            torch.testing.assert_close(found.more[name], clean.more[name][rows])
    branch = policy.resume(dirty, torch.tensor([0]), torch.tensor([2]), 1, rng(), noisy=0)
    assert branch.extras["latents"].isfinite().all()


def _branched(traj):
    """Rows of a batch as if they had left a parent at action 0, so that they go with branches."""
    rows = traj.select(torch.tensor([2, 3]))
    return rows.replace(parent=rows.id, fork=torch.zeros_like(rows.id))


def test_positive_densities_pass_the_check_and_nan_does_not(policy):
    sharp = Flow(policy.network, (2,), schedule(5, level=0.01)).double()
    traj = sharp.rollout(STARTS, 1, rng())
    assert (traj.logp["old"] > 1).any()
    traj.select(torch.tensor([0])).check()
    with pytest.raises(ValueError, match="NaN"):
        traj.replace(logp={"old": traj.logp["old"] * torch.nan}).check()


def test_images_are_shown_as_ink():
    traj = Flow(VelocityMLP(4, width=8), (2, 2), schedule(2, level=0.0)).rollout([Start("a", {})], 1, rng())
    assert [len(line) for line in traj.items[0]["response"].split("\n")] == [2, 2]


def test_options_and_wishes_that_make_no_sense_are_refused(policy):
    with pytest.raises(ValueError, match=r"cannot give \['hidden'\]"):
        policy.evaluate(policy.rollout(STARTS, 1, rng()), frozenset({"hidden"}))
    with pytest.raises(ValueError, match="at most 5 steps"):
        policy.evaluate(Flow(policy.network, (2,), schedule(6)).double().rollout(STARTS, 1, rng()))
    for options, message in (
        ({"table": schedule(3, level=0.0), "acts": "one"}, "needs a step that has noise"),
        ({"shape": ()}, "at least one number"),
    ):
        with pytest.raises(ValueError, match=message):
            Flow(policy.network, **{"shape": (2,), **options})
