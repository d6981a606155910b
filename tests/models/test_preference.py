"""The general preference model: what its score is whatever the weights, what it can fit that no reward can, and its files."""

import copy
import json

import pytest
import torch
from torch import nn

from payoff.credit.returns import total
from payoff.losses.nash_preferences import gpo
from payoff.models.preference import GeneralPreferenceModel, mean_scores, skew_score
from payoff.pipeline import Evaluation
from payoff.policies.embedded import transformer
from payoff.trajectories import Pairs, outcome

ANSWERS = [f"#{digit}." for digit in range(5)]


@pytest.fixture(scope="module")
def policy():
    made = transformer(width=8, layers=1, heads=1, context=16)
    torch.manual_seed(1)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(scope="module")
def traj(policy):
    return policy.read([{"prompt": "3-7=", "response": answer} for answer in ANSWERS])


def all_pairs(better):
    """Every pair of the five, the better one first."""
    index = [(i, j) for i in range(5) for j in range(5) if better(i, j)]
    return Pairs(torch.tensor(index), torch.ones(len(index)), torch.ones(len(index)))


CYCLIC = all_pairs(lambda i, j: (j - i) % 5 in (1, 2))  # each beats the two after it, as in a game of five hands
ORDERED = all_pairs(lambda i, j: i < j)


def model(policy, **options):
    defaults = {"epochs": 120, "learning_rate": 0.03, "batch_size": 10, "normalise": False, "temperature": 1.0}
    return GeneralPreferenceModel(policy=copy.deepcopy(policy), **{**defaults, **options})


@pytest.fixture(scope="module")
def fitted(policy, traj):
    made = model(policy)
    return made, made.fit(traj, CYCLIC)


def test_a_cycle_that_no_reward_orders_is_told_without_a_mistake(fitted):
    # At most 7 of the 10 pairs agree with an order: one that follows the cycle gets 4 + 3 right, as enumeration of all 120 says.
    assert fitted[1]["preference/accuracy"] == 1.0
    assert fitted[1]["preference/pairs"] == 10


def test_an_order_is_told_as_well(policy, traj):
    assert model(policy, gate=False).fit(traj, ORDERED)["preference/accuracy"] == 1.0


@pytest.mark.parametrize("options", [{}, {"gate": False, "normalise": True, "dimension": 6}])
def test_the_score_changes_sign_with_the_order_and_is_zero_against_itself(policy, traj, options):
    vector, scale = model(policy, **options).vectors(traj)
    for i in range(5):
        assert float(skew_score(vector[i], vector[i], scale[i]).detach()) == 0.0
        for j in range(5):
            there, back = skew_score(vector[i], vector[j], scale[i]), skew_score(vector[j], vector[i], scale[i])
            assert float(there.detach()) == -float(back.detach())


def test_a_reward_model_is_the_case_of_a_reward_and_a_one():
    reward = torch.tensor([2.0, -1.0, 0.5])
    vector = torch.stack([reward, torch.ones(3)], 1)
    assert skew_score(vector[0], vector[1], torch.ones(1)) == 3.0
    score = mean_scores(vector, torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(score, reward - reward.mean())


def test_any_antisymmetric_table_is_a_sum_of_blocks():
    # Real Schur form: A = Q B Q^T with B of 2 x 2 blocks (0, s; -s, 0), so that row a of Q sqrt(s) is the vector of a.
    rng = torch.Generator().manual_seed(0)
    half = torch.randn(4, 4, generator=rng, dtype=torch.float64)
    table = half - half.T
    values, vectors = torch.linalg.eigh(1j * table)  # Hermitian: eigenvalues come in pairs +-s
    blocks = [(values[k].item(), vectors[:, k]) for k in (2, 3)]
    columns = [(2 * s) ** 0.5 * part for s, u in blocks for part in (u.real, u.imag)]
    vector = torch.stack(columns, 1)
    found = skew_score(vector[:, None], vector[None], torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found.abs(), table.abs())
    torch.testing.assert_close(found * found[0, 1].sign(), table * table[0, 1].sign())


def test_means_are_over_the_rows_own_group_and_add_up_to_nothing(fitted):
    rng = torch.Generator().manual_seed(0)
    vector, scale = torch.randn(7, 4, generator=rng), torch.rand(7, 2, generator=rng)
    group = torch.tensor([5, 9, 5, 9, 5, 2, 9])
    scale = scale[torch.tensor([0, 1, 0, 1, 0, 2, 1])]  # lambda belongs to the start
    found = mean_scores(vector, scale, group)
    for i in range(7):
        others = (group == group[i]).nonzero().squeeze(1).tolist()
        by_hand = sum(float(skew_score(vector[i], vector[j], scale[i])) for j in others) / len(others)
        assert float(found[i]) == pytest.approx(by_hand, abs=1e-6)
    assert float(found[5]) == 0.0  # alone
    assert all(abs(float(found[group == g].sum())) < 1e-6 for g in (2, 5, 9))


def test_it_pays_at_the_end_and_the_loss_takes_the_sum(fitted, traj):
    channel = fitted[0](traj)["preference"]
    assert channel.valid.all()
    paid, known = outcome(channel, traj)
    assert known.all()
    assert (channel.value.gather(1, traj.length[:, None] - 1)[:, 0] == paid).all()
    assert abs(float(paid.sum())) < 1e-6
    terms = gpo(Evaluation(traj.logp["old"], {}), traj, total(channel, traj), beta=0.5).terms[:, 0]
    torch.testing.assert_close(terms, (paid / 0.5).square())


def test_weight_zero_and_label_half_teach_nothing_about_the_order(policy, traj):
    index = torch.tensor([[0, 1], [1, 0], [2, 3]])
    first = model(policy, gate=False)
    first.fit(traj, Pairs(index, torch.ones(3), torch.tensor([1.0, 0.0, 0.0])))
    vector, scale = first.vectors(traj)
    assert float(skew_score(vector[0], vector[1], scale[0]).detach()) > 0
    assert first.fit(traj, Pairs(index[:1], torch.tensor([0.5]), torch.ones(1)))["preference/accuracy"] is None


def test_only_the_heads_learn_unless_the_backbone_is_to(policy, traj, fitted):
    before, after = policy.state_dict(), fitted[0].backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    whole = model(policy, train_backbone=True, epochs=1)
    whole.fit(traj, CYCLIC)
    assert any(not torch.equal(before[name], tensor) for name, tensor in whole.backbone.state_dict().items())


def test_a_saved_model_scores_the_same_and_a_strange_file_is_refused(policy, traj, fitted, tmp_path):
    fitted[0].save(tmp_path / "model.pt")
    again = model(policy, weights=str(tmp_path / "model.pt"))
    assert torch.equal(again(traj)["preference"].value, fitted[0](traj)["preference"].value)
    with pytest.raises(ValueError, match="other options"):
        model(policy, dimension=6, weights=str(tmp_path / "model.pt"))
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="was not saved by this model"):
        model(policy, weights=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="no such file"):
        model(policy, weights=str(tmp_path / "none.pt"))


def test_pairs_are_read_from_rows(policy, traj, tmp_path):
    rows = [{"prompt": "3-7=", "chosen": ANSWERS[i], "rejected": ANSWERS[j]} for i, j in CYCLIC.index.tolist()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = model(policy, labelled=str(tmp_path / "pairs.jsonl"))
    vector, scale = read.vectors(traj)
    first, second = CYCLIC.index.T
    assert (skew_score(vector[first], vector[second], scale[first]) > 0).all()


def test_what_makes_no_sense_is_refused(policy, traj):
    for options in ({"dimension": 3}, {"temperature": 0.0}, {"epochs": 0}, {"weights": "a", "labelled": "b"}):
        with pytest.raises(ValueError, match="gpm-gpo"):
            GeneralPreferenceModel(policy=policy, **options)
    with pytest.raises(ValueError, match="no hidden states"):
        GeneralPreferenceModel(policy=object())
    with pytest.raises(ValueError, match="nothing has been fitted"):
        model(policy)(traj)
    with pytest.raises(ValueError, match="nothing to fit"):
        model(policy).fit(traj, Pairs(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0), torch.zeros(0)))
