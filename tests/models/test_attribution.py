"""Shares of turns that add up to the outcome: what they are fitted to, that they bias nothing, and the script that differs."""

import pytest
import torch

from payoff.credit.returns import return_to_go
from payoff.credit.script_progress import remaining_turns
from payoff.exact import credit_gradient, exact_gradient
from payoff.examples import four_answers
from payoff.models.attribution import ProgressAttribution
from payoff.pipeline import Evaluation
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.trajectories import Channel, outcome, place_outcome

WORTH = torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)


class Seen(Tabular):
    """Its hidden state is the prefix itself, so that any function of the history is linear in it."""

    width = 15

    def __init__(self):
        super().__init__(2, 3, spread=1.0, seed=2)
        self.offers = self.offers | {"hidden"}

    @property
    def device(self):
        return self.logits.device

    def evaluate(self, traj, want=frozenset()):
        code = torch.zeros(len(traj), 1, dtype=torch.int64)
        for t in range(traj.width):
            code = torch.cat([code, 2 * code[:, -1:] + 1 + torch.where(traj.exists, traj.actions, 0)[:, t : t + 1]], 1)
        return Evaluation(super().evaluate(traj).logp, {"hidden": torch.nn.functional.one_hot(code.clamp(max=14), 15).float()})


@pytest.fixture(scope="module")
def fitted():
    policy = Seen()
    traj = policy.sequences()
    model = ProgressAttribution(policy=policy, executed_weight=0.0, learning_rate=0.2, epochs=100)
    told = model.fit_outcomes(traj, WORTH, torch.ones(8, dtype=torch.bool))
    return policy, traj, model, told


def test_where_it_can_be_the_shares_of_the_turns_add_up_to_the_outcome(fitted):
    _, traj, model, told = fitted
    assert torch.allclose(outcome(model(traj)["progress"], traj)[0].double(), WORTH, atol=5e-3)
    assert told["spa-rl/unexplained"] < 1e-4
    assert model.fit(traj, WORTH[:, None] / 3 * torch.ones(8, 3).double(), torch.ones(8, 3, dtype=torch.bool))["spa-rl/loss"] < 1e-4


def test_paid_in_place_of_the_outcome_they_bias_nothing(fitted):
    policy, _, model, _ = fitted
    climbed = credit_gradient(policy, lambda t: return_to_go(model(t)["progress"], t))
    assert torch.allclose(climbed, exact_gradient(policy, WORTH), atol=5e-3)


def test_closed_shares_bias_nothing_however_bad_the_fit():
    policy = Seen()
    model = ProgressAttribution(policy=policy, closed=True)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(1, 15, generator=torch.Generator().manual_seed(0)))

    def credit(traj):
        right = place_outcome(WORTH, torch.ones(8, dtype=torch.bool), traj)
        progress = model(traj)["progress"]
        return return_to_go(right._replace(value=right.value + progress.value), traj)

    traj = policy.sequences()
    assert outcome(model(traj)["progress"], traj)[0].abs().max() < 1e-5
    assert model(traj)["progress"].value.abs().max() > 0.5
    assert torch.allclose(credit_gradient(policy, credit), exact_gradient(policy, WORTH), atol=1e-6)


def test_one_turn_learns_the_expected_outcome_and_a_network_what_is_not_linear():
    torch.manual_seed(0)
    policy = transformer(width=8, layers=1, heads=1, context=24)
    rows = [{"prompt": "3-7=", "response": "#6."}] * 3 + [{"prompt": "3-7=", "response": "#6;#6."}]
    traj = policy.read(rows)
    value = torch.tensor([1.0, 0.0, 0.0, 5.0])
    model = ProgressAttribution(policy=policy, learning_rate=0.1, epochs=150, hidden=4)
    assert (model.score(traj)[0] == 0).all()  # before anything was learned
    state = torch.get_rng_state()
    model.fit_outcomes(traj, value, torch.tensor([True, True, True, False]))
    assert torch.equal(state, torch.get_rng_state())
    assert float(model.score(traj)[0][0, 0]) == pytest.approx(1 / 3, abs=0.02)


def test_it_learns_from_known_outcomes_until_it_has_seen_enough():
    policy = Seen()
    traj = policy.sequences()
    model = ProgressAttribution(policy=policy, batches=2, learning_rate=0.1)
    valid = torch.arange(8) % 2 == 0
    hidden = Channel(torch.where(valid, WORTH, torch.nan)[:, None].expand(8, 3) / 3, valid[:, None])
    other = ProgressAttribution(policy=policy, learning_rate=0.1)
    some = traj.select(valid.nonzero()[:, 0])
    other.learn(some, {"correct": Channel(hidden.value[valid], hidden.valid[valid])})
    assert model.learn(traj, {"correct": hidden})["spa-rl/loss"] > 0
    assert torch.equal(model.head.weight, other.head.weight)
    none = Channel(hidden.value, ~(valid | True)[:, None])
    assert model.learn(traj, {"correct": none}) == {"spa-rl/loss": None}
    assert model.learn(traj, {"correct": hidden}) == {"spa-rl/loss": None}  # two batches were seen
    with pytest.raises(KeyError, match="spa-rl: no reward channel 'correct'"):
        model.learn(traj, {})
    with pytest.raises(ValueError, match="hidden must be at least 0 and batches at least 1, got 0 and 0"):
        ProgressAttribution(policy=policy, batches=0)


def test_an_executed_turn_is_paid_its_part_and_padding_is_not_read():
    policy = Seen()
    traj = policy.sequences()
    traj = traj.replace(items=[{**item, "turns": [{"reward": 1.0}, {"reward": 0.0}]} for item in traj.items])
    model = ProgressAttribution(policy=policy, executed=lambda turn: float(turn["reward"] > 0))
    assert model(traj)["progress"].value[0].tolist() == [0.5, 0.0, 0.0]
    by_place = ProgressAttribution(policy=policy, executed="builtins:len", executed_weight=2.0)
    assert by_place(traj)["progress"].value[0].tolist() == [2.0, 2.0, 0.0]


def test_saved_shares_are_loaded(tmp_path, fitted):
    policy, traj, model, _ = fitted
    model.save(tmp_path / "shares.pt")
    again = ProgressAttribution(policy=policy, weights=str(tmp_path / "shares.pt"))
    assert torch.equal(again.score(traj)[0], model.score(traj)[0])


def test_the_script_pays_how_early_a_turn_comes_and_no_share():
    paid = Channel(torch.tensor([[0.0, 0.0, 2.0]]).repeat(4, 1), torch.tensor([[True], [True], [True], [False]]))
    credit = remaining_turns(paid, four_answers())
    #  group 0: 2 (three turns) against 0 (two turns: nothing is paid before the third); the last turn gets 0
    assert credit.value[:2].tolist() == [[4.0, 2.0, 0.0], [-2.0, 0.0, 0.0]]
    assert credit.value[2:].tolist() == [[0.0, 0.0, 0.0]] * 2  # alone in its group; unknown
    assert credit.valid[:, 0].tolist() == [True, True, True, False]
