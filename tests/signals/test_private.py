import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff import _extras
from payoff.examples import four_answers
from payoff.signals.private import PrivacyBudgetError, PrivateVotes, privacy_spent
from payoff.trajectories import Trajectories, fresh_ids

RECORDS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))


def rollouts(seed: int = 0) -> Trajectories:
    points = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
    return four_answers().replace(id=fresh_ids(4), items=[{"embedding": row} for row in points.tolist()])


def votes(signal: PrivateVotes, traj: Trajectories) -> torch.Tensor:
    return signal(traj)["votes"].value.sum(1).double()


def test_every_record_votes_once_for_the_nearest():
    traj = rollouts()
    found = votes(PrivateVotes(private=RECORDS, noise=0.0), traj)
    points = torch.tensor([item["embedding"] for item in traj.items])
    nearest = [min(range(4), key=lambda j: float((record - points[j]).square().sum())) for record in RECORDS]
    assert found.tolist() == [nearest.count(j) for j in range(4)]
    assert found.sum() == 60


def test_rollouts_that_are_the_same_share_their_votes_so_that_a_collapsed_policy_is_paid_alike():
    traj = four_answers().replace(items=[{"embedding": [0.5, 0.5]}] * 4)
    assert votes(PrivateVotes(private=RECORDS, noise=0.0), traj).tolist() == [15.0] * 4


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.booleans())
def test_one_record_moves_the_votes_by_no_more_than_the_sensitivity(seed, tie):
    traj = rollouts(seed)
    if tie:
        traj = traj.replace(items=[traj.items[0], *traj.items[:1], *traj.items[2:]])
    other = torch.randn(1, 2, generator=torch.Generator().manual_seed(seed + 1))
    base = votes(PrivateVotes(private=RECORDS, noise=0.0), traj)
    added = votes(PrivateVotes(private=torch.cat([RECORDS, other]), noise=0.0), traj)
    swapped = votes(PrivateVotes(private=torch.cat([RECORDS[1:], other]), noise=0.0), traj)
    assert (added - base).norm() <= PrivateVotes(private=RECORDS).sensitivity + 1e-6
    assert (swapped - base).norm() <= PrivateVotes(private=RECORDS, neighbours="replace").sensitivity + 1e-6


def test_the_noise_is_normal_with_the_multiplier_times_the_sensitivity_and_centred_at_the_votes():
    exact = votes(PrivateVotes(private=RECORDS, noise=0.0), rollouts())
    signal = PrivateVotes(private=RECORDS, noise=3.0, neighbours="replace", seed=1)
    drawn = torch.stack([votes(signal, rollouts()) for _ in range(100)]) - exact
    spread = 3 * math.sqrt(2)
    assert drawn.mean().abs() < 4 * spread / math.sqrt(400)
    assert drawn.std() == pytest.approx(spread, rel=4 / math.sqrt(800))


def test_a_threshold_is_taken_off_after_the_release():
    exact = votes(PrivateVotes(private=RECORDS, noise=0.0), rollouts())
    cut = votes(PrivateVotes(private=RECORDS, noise=0.0, threshold=float(exact.median())), rollouts())
    assert torch.equal(cut, (exact - exact.median()).clamp(min=0))


@pytest.mark.parametrize(("noise", "releases", "delta"), [(5.0, 50, 1e-5), (1.0, 1, 1e-3), (20.0, 7, 1e-6)])
def test_the_account_is_the_exact_privacy_curve_of_repeated_normal_noise(noise, releases, delta):
    # The losses of T releases add up: privacy loss L ~ Normal(mu^2 / 2, mu^2), mu^2 = T / noise^2, and
    # delta(epsilon) = E max(0, 1 - exp(epsilon - L)), integrated here on a grid
    mu = math.sqrt(releases) / noise
    epsilon = privacy_spent(noise, releases, delta)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    lost = mu * mu / 2 + mu * z
    found = (density * (-torch.expm1(epsilon - lost)).clamp(min=0)).sum() * float(z[1] - z[0])
    assert float(found) == pytest.approx(delta, rel=1e-3)


def test_more_releases_less_noise_and_a_smaller_delta_give_more_away():
    assert privacy_spent(5.0, 10, 1e-5) < privacy_spent(5.0, 20, 1e-5) < privacy_spent(4.0, 20, 1e-5) < privacy_spent(4.0, 20, 1e-7)
    assert privacy_spent(5.0, 40, 1e-5) == pytest.approx(privacy_spent(2.5, 10, 1e-5))  # four times the releases, half the noise


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_opacus_agrees_and_sampling_records_gives_less_away():
    accountants = pytest.importorskip("opacus.accountants")
    known = accountants.PRVAccountant()
    known.history = [(5.0, 1.0, 20)]
    assert privacy_spent(5.0, 20, 1e-5) == pytest.approx(known.get_epsilon(delta=1e-5), rel=0.02)
    assert privacy_spent(5.0, 20, 1e-5, sample_rate=0.1) < 0.3 * privacy_spent(5.0, 20, 1e-5)


def test_without_opacus_the_error_names_what_is_missing(monkeypatch):
    def gone(module: str):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(_extras.importlib, "import_module", gone)
    with pytest.raises(_extras.MissingExtraError, match="needs opacus"):
        privacy_spent(5.0, 20, 1e-5, sample_rate=0.1)
    assert privacy_spent(5.0, 20, 1e-5) > 0


def test_scoring_the_same_batch_again_releases_nothing_more():
    signal, traj = PrivateVotes(private=RECORDS, noise=5.0), rollouts()
    assert torch.equal(votes(signal, traj), votes(signal, traj))
    assert signal.releases == 1
    votes(signal, rollouts())
    assert signal.learn(traj, {}) == {"dp-rft/epsilon": privacy_spent(5.0, 2, 1e-5)}


def test_a_spent_budget_stops_before_anything_is_released():
    signal = PrivateVotes(private=RECORDS, noise=5.0, budget=1.0)
    affordable = max(n for n in range(20) if privacy_spent(5.0, n, 1e-5) <= 1)
    for _ in range(affordable):
        votes(signal, rollouts())
    with pytest.raises(PrivacyBudgetError, match=f"after {affordable} releases"):
        votes(signal, rollouts())
    assert signal.releases == affordable


def test_a_sample_rate_lets_so_many_records_vote():
    signal = PrivateVotes(private=RECORDS.repeat(100, 1), noise=0.0, sample_rate=0.25, seed=2)
    assert float(votes(signal, rollouts()).sum()) == pytest.approx(1500, abs=4 * math.sqrt(6000 * 0.25 * 0.75))


def test_a_checkpoint_counts_releases_goes_on_with_the_noise_and_holds_no_record(tmp_path):
    signal, other = PrivateVotes(private=RECORDS, noise=5.0), PrivateVotes(private=RECORDS, noise=5.0)
    votes(signal, rollouts())
    state = signal.state_dict()
    assert set(state) == {"_extra_state"}
    assert set(state["_extra_state"]) == {"releases", "rng"}
    torch.save(state, tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    traj = rollouts(3)
    assert torch.equal(votes(signal, traj), votes(other, traj))
    assert other.releases == 2


def test_records_may_lie_in_a_file_and_rollouts_be_embedded_by_a_function(tmp_path):
    torch.save(RECORDS, tmp_path / "records.pt")
    embed = lambda items: torch.tensor([item["embedding"] for item in items])
    assert torch.equal(
        votes(PrivateVotes(private=str(tmp_path / "records.pt"), noise=0.0, embed=embed), rollouts()),
        votes(PrivateVotes(private=RECORDS, noise=0.0), rollouts()),
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"noise": 0.0, "budget": 1.0}, "without noise no budget is kept"),
        ({"sample_rate": 0.5, "neighbours": "replace"}, 'neighbours: "add-remove"'),
        ({"private": torch.zeros(3)}, r"embeddings \[D, d\]"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        PrivateVotes(**{"private": RECORDS, **options})


def test_embeddings_of_another_width_are_an_error():
    traj = four_answers().replace(items=[{"embedding": [0.0]}] * 4)
    with pytest.raises(ValueError, match=r"must be \[N, d\] = \[4, 2\], got \[4, 1\]"):
        PrivateVotes(private=RECORDS)(traj)
