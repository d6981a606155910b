"""Novelty: what is met pays less the next time, and only states that were reached count."""

from collections import Counter

import pytest
import torch

from payoff.examples import four_answers
from payoff.signals.novelty import CountNovelty, NearestNeighbourNovelty, RandomNetworkDistillation, nearest_distance

PAID = 1.2020569  # zeta(3)


def walk(rows: list[list[float]]):
    states = torch.tensor(rows)[..., None]
    return four_answers().replace(extras={"observations": states})


ROWS = [[0.0, 1.0, 2.0, 1.0], [0.0, 1.0, 1.0, 9.0], [0.0, 2.0, 2.0, 2.0], [0.0, 5.0, 9.0, 9.0]]


def test_counts_are_those_of_the_states_reached_in_earlier_batches():
    traj, counts = walk(ROWS), CountNovelty(power=1.0)
    assert counts(traj)["novelty"].value.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert counts.learn(traj, {}) == {"novelty/states": 3.0}
    # reached within the lengths 3, 2, 3, 1: state 1 four times, 2 four times, 5 once; the first state 0 and the padding 9 never
    assert counts(traj)["novelty"].value[0].tolist() == pytest.approx([1 / 5, 1 / 5, 1 / 5])
    assert counts(traj)["novelty"].value[3].tolist() == pytest.approx([1 / 2, 0, 0])
    fresh = counts(walk([[5.0, 0.0, 9.0, 7.0]] * 4))["novelty"].value
    assert fresh[0].tolist() == [1, 1, 1]


def test_counts_of_many_batches_are_those_of_a_dictionary():
    generator, counts, met = torch.Generator().manual_seed(0), CountNovelty(power=1.0), Counter()
    for spread in (3, 8, 8, 40, 1):
        rows = torch.randint(-spread, spread + 1, (4, 4), generator=generator).float()
        expected = [1 / (1 + met[state]) for state in rows[:3:2, 1:].flatten().tolist()]  # rows 0 and 2 are full
        assert counts(walk(rows.tolist()))["novelty"].value[:3:2].flatten().tolist() == pytest.approx(expected)
        counts.learn(walk(rows.tolist()), {})
        met.update(state for row, length in zip(rows.tolist(), (3, 2, 3, 1)) for state in row[1 : 1 + length])
        assert len(counts.keys) == len(met)
        assert bool((counts.keys.diff() > 0).all())


def test_the_kth_visit_of_an_episode_pays_k_to_minus_power_and_cannot_be_farmed():
    traj = walk(ROWS)
    once = CountNovelty(power=3.0, scope="episode")(traj)["novelty"].value
    # row 0 reaches 1, 2, 1: the second 1 pays 1 / 8; row 2 reaches 2, 2, 2
    assert once.tolist() == [[1, 1, 0.125], [1, 0.125, 0], [1, 0.125, pytest.approx(1 / 27)], [1, 0, 0]]
    assert CountNovelty(power=0.0, scope="episode")(traj)["novelty"].value[2].tolist() == [1, 1, 1]
    assert float(once[2].sum()) < PAID


def test_states_within_one_cell_are_one_state_and_dimensions_are_not_mixed_up():
    near = walk([[0.0, 1.02, 0.98, 1.3]] * 4)
    assert CountNovelty(power=1.0, scope="episode", resolution=0.1)(near)["novelty"].value[0].tolist() == [1, 0.5, 1]
    swapped = four_answers().replace(extras={"observations": torch.tensor([[[0, 0], [1, 2], [2, 1], [-1, -2]]] * 4).float()})
    assert CountNovelty(scope="episode")(swapped)["novelty"].value[0].tolist() == [1, 1, 1]


def test_many_states_are_told_apart():
    grid = torch.cartesian_prod(torch.arange(-50.0, 50), torch.arange(-50.0, 50))
    rows = grid.reshape(100, 100, 2)
    traj = four_answers().select(torch.zeros(100, dtype=torch.int64))
    exists = torch.ones(100, 99, dtype=torch.bool)
    traj = type(traj)(
        mask=exists,
        length=torch.full((100,), 99),
        group=torch.arange(100),
        step=torch.arange(99).repeat(100, 1).int(),
        stop=torch.zeros(100, dtype=torch.int64),
        actions=torch.zeros(100, 99),
        extras={"observations": rows},
    )
    assert CountNovelty().learn(traj, {})["novelty/states"] == 100 * 99


def test_the_nearest_are_found_and_their_distances_averaged():
    x, reference = torch.randn(40, 3), torch.randn(30, 3)
    brute = torch.stack([(a - reference).norm(dim=1).sort().values[:4].mean() for a in x])
    torch.testing.assert_close(nearest_distance(x, reference, k=4), brute)
    torch.testing.assert_close(nearest_distance(x, reference[:2], k=4), nearest_distance(x, reference[:2], k=2))
    assert not nearest_distance(x, reference[:0], k=4).any()
    assert nearest_distance(reference, reference, k=1).abs().max() == 0  # exactly: a known state is no news


def test_what_was_met_is_no_longer_far_and_the_memory_is_a_fair_sample():
    traj = walk(ROWS)
    near = NearestNeighbourNovelty(k=1)
    assert not near(traj)["novelty"].value.any()
    near.learn(traj.select(torch.tensor([2])), {})
    assert near(traj)["novelty"].value.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0], [3, 0, 0]]
    small = NearestNeighbourNovelty(k=1, capacity=3)
    kept = torch.zeros(10)
    for seed in range(150):
        small = NearestNeighbourNovelty(k=1, capacity=3, seed=seed)
        for i in range(0, 10, 2):
            batch = four_answers().select(torch.tensor([1]))
            small.learn(batch.replace(extras={"observations": torch.tensor([[[0.0], [i], [i + 1]]])}), {})
        kept[small.memory[:, 0].long()] += 1
    assert small.met == 10
    assert len(small.memory) == 3
    share = kept / 150  # each of ten states is among the three with probability 0.3, standard error 0.037
    assert (share - 0.3).abs().max() < 0.15


def test_a_network_that_learned_a_state_pays_less_for_it_than_for_another():
    torch.manual_seed(0)
    rnd = RandomNetworkDistillation(size=1, learning_rate=1e-2)
    here, there = walk([[0.0, 0.1, -0.1, 0.2]] * 4), walk([[0.0, 3.0, -3.0, 4.0]] * 4)
    before = rnd.errors(here).sum()
    frozen = [p.clone() for p in rnd.target.parameters()]
    for _ in range(80):
        rnd.learn(here, {})
    assert rnd.errors(here).sum() < before / 10
    assert rnd.errors(there)[:, 0].mean() > 10 * rnd.errors(here)[:, 0].mean()
    assert all(torch.equal(a, b) for a, b in zip(frozen, rnd.target.parameters()))


def test_rnd_is_paid_in_units_of_its_discounted_sums():
    torch.manual_seed(0)
    rnd, traj = RandomNetworkDistillation(size=1, discount=0.5, learning_rate=1e-12), walk(ROWS)
    errors = rnd.errors(traj)
    rnd.learn(traj, {})
    sums = [
        float(sum(0.5 ** (k - t) * errors[i, k] for k in range(t, n))) for i, n in enumerate(traj.length.tolist()) for t in range(n)
    ]
    deviation = torch.tensor(sums, dtype=torch.float64).std(correction=0)
    torch.testing.assert_close(rnd(traj)["novelty"].value.double(), rnd.errors(traj).double() / deviation)


MAKERS = [CountNovelty, lambda: NearestNeighbourNovelty(k=2), lambda: RandomNetworkDistillation(size=1)]


@pytest.mark.parametrize("make", MAKERS)
def test_padding_and_the_order_of_rows_do_not_matter(make):
    traj = walk(ROWS)
    beyond = (torch.arange(4) > traj.length[:, None])[..., None]
    dirty = traj.replace(extras={"observations": traj.extras["observations"].masked_fill(beyond, torch.nan)})
    paid = []
    for given in (traj, dirty):
        torch.manual_seed(0)
        part = make()
        part.learn(given, {})
        paid.append(part(given)["novelty"].value)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(part(given.select(order))["novelty"].value, paid[-1][order])
    assert torch.equal(*paid)
    assert paid[0].isfinite().all()


@pytest.mark.parametrize("make", MAKERS)
def test_a_checkpoint_carries_what_was_met(make, tmp_path):
    traj, other = walk(ROWS), walk([[3.0, 4.0, 5.0, 6.0]] * 4)
    one, two = make(), make()
    one.learn(traj, {})
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for part in (one, two):
        torch.manual_seed(1)
        part.learn(other, {})
    assert torch.equal(one(traj)["novelty"].value, two(traj)["novelty"].value)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="power must be >= 0"):
        CountNovelty(power=-1.0)
    with pytest.raises(ValueError, match="resolution > 0"):
        CountNovelty(resolution=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        NearestNeighbourNovelty(k=0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        RandomNetworkDistillation(size=0)
    with pytest.raises(ValueError, match=r"needs traj.extras\['observations'\]"):
        CountNovelty()(four_answers())
    with pytest.raises(ValueError, match="have 1 dimensions"):
        RandomNetworkDistillation(size=2)(walk(ROWS))
