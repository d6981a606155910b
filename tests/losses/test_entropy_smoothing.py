import math

import pytest
import torch

from payoff.examples import four_answers
from payoff.losses.entropy_smoothing import ScheduledEntropySmoothing, TurnEntropy, entropy_smoothing
from payoff.losses.regularisers import entropy_bonus
from payoff.pipeline import Evaluation, everywhere
from payoff.recipes import train_arm
from payoff.trajectories import Channel

ONES = torch.ones(4, 1, dtype=torch.bool)
NOTHING = Channel(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool))  # a reward that nobody knows


def with_entropy(*by_position: float):
    traj = four_answers()
    return traj.replace(extras={"entropy": torch.where(traj.exists, torch.tensor(by_position), torch.nan)})


def slope(entropy: float, past: float, **options) -> float:
    """How the term changes with the entropy of one action."""
    traj = four_answers()
    given = torch.full((4, 3), entropy, requires_grad=True)
    output = entropy_smoothing(
        Evaluation(traj.logp["old"], {"entropy": given}), traj, Channel(torch.full((4, 1), past), ONES), **options
    )
    return float(torch.autograd.grad(output.terms[0, 0], given)[0][0, 0])


def test_the_memory_is_the_mean_over_updates_of_each_turns_mean():
    memory = TurnEntropy()
    traj = with_entropy(1.0, 0.4, 0.2)
    assert not memory(NOTHING, traj).value.any()
    memory.learn(traj, {})
    uneven = torch.tensor([[2.0, 1.0, 0.0], [4.0, 0.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    memory.learn(traj.replace(extras={"entropy": uneven}), {})
    # second update: turn 0 (2 + 4 + 2 + 0) / 4 = 2, turn 1 (1 + 0 + 2) / 3 = 1, turn 2 zero; with the first: 1.5, 0.7, 0.1
    found = memory(NOTHING, traj)
    torch.testing.assert_close(found.value, torch.where(traj.mask, torch.tensor([1.5, 0.7, 0.1]), 0))
    assert found.valid.all()  # whatever is unknown of the reward


def test_turns_that_nobody_reached_do_not_pull_the_mean_down():
    memory = TurnEntropy()
    traj = with_entropy(1.0, 0.4, 0.2)
    memory.learn(traj, {})
    memory.learn(traj.select(torch.tensor([3])), {})  # an update of one action
    torch.testing.assert_close(memory(NOTHING, traj).value[0], torch.tensor([1.0, 0.4, 0.2]))
    assert memory.learn(traj, {}) == {"turn_entropy/updates": 3.0, "turn_entropy/now": pytest.approx((4 + 3 * 0.4 + 2 * 0.2) / 9)}


def test_the_memory_is_of_steps_and_only_of_own_actions():
    traj = with_entropy(1.0, 3.0, 0.2)
    traj = traj.replace(
        step=torch.where(traj.exists, torch.tensor([0, 0, 1]), -1).int(), mask=traj.mask & torch.tensor([True, False, True])
    )
    memory = TurnEntropy()
    memory.learn(traj, {})
    torch.testing.assert_close(memory(NOTHING, traj).value[0], torch.tensor([1.0, 0.0, 0.2]))
    longer = traj.replace(step=torch.where(traj.exists, torch.tensor([0, 4, 9]), -1).int())
    assert memory(NOTHING, longer).value[0].tolist() == [1.0, 0.0, 0.0]  # a turn not reached before has no history


def test_an_update_in_which_nobody_acted_leaves_no_trace():
    memory, traj = TurnEntropy(), with_entropy(1.0, 0.4, 0.2)
    assert memory.learn(traj.replace(mask=torch.zeros_like(traj.mask)), {})["turn_entropy/now"] is None
    assert not memory(NOTHING, traj).value.any()


def test_the_memory_survives_a_checkpoint():
    memory, traj = TurnEntropy(), with_entropy(1.0, 0.4, 0.2)
    memory.learn(traj, {})
    restored = TurnEntropy()
    restored.load_state_dict(memory.state_dict())
    assert torch.equal(restored(NOTHING, traj).value, memory(NOTHING, traj).value)
    assert restored.learn(traj, {})["turn_entropy/updates"] == 2.0


@pytest.mark.parametrize(
    ("entropy", "factor"),  # past entropy 1, so the band is 0.8 to 1.2
    [(0.5, -2.0), (0.79, -2.0), (0.81, -1.0), (1.0, -1.0), (1.19, -1.0), (1.21, 0.0), (3.0, 0.0)],
)
def test_the_pull_doubles_below_the_band_and_ends_above_it(entropy, factor):
    assert slope(entropy, 1.0) == pytest.approx(factor)
    assert slope(entropy, 1.0, coefficient=2.0) == pytest.approx(2 * factor + 1)
    assert slope(entropy, 1.0, penalty="constant") == pytest.approx(-1.0)  # a constant has no gradient
    assert slope(entropy, 0.0) == pytest.approx(-1.0)  # no history


def test_values_by_hand_and_the_constant_penalty_stays_below_its_size():
    traj = four_answers()
    entropy = torch.tensor([[0.5, 1.0, 2.0]]).repeat(4, 1)
    evaluation = Evaluation(traj.logp["old"], {"entropy": entropy})
    past = Channel(torch.ones(4, 1), ONES)
    distance = entropy_smoothing(evaluation, traj, past)
    torch.testing.assert_close(distance.terms[0], torch.tensor([-0.5 + 0.3, -1.0, -2.0 + 0.8]))
    constant = entropy_smoothing(evaluation, traj, past, penalty="constant")
    torch.testing.assert_close(constant.terms[0], torch.tensor([-0.4, -1.0, -1.9]))
    # four first actions below, three second inside, two third above
    assert constant.metrics["below"] == pytest.approx(4 / 9)
    assert constant.metrics["above"] == pytest.approx(2 / 9)
    assert constant.metrics["smoothing"] == pytest.approx(0.1 * 6 / 9)
    assert constant.metrics["entropy"] == pytest.approx((4 * 0.5 + 3 + 2 * 2) / 9)


def test_the_mean_of_a_turn_is_compared_and_all_its_actions_are_pulled_alike():
    traj = four_answers()  # lengths 3, 2, 3, 1
    traj = traj.replace(
        step=torch.where(traj.exists, torch.tensor([0, 0, 1]), -1).int(), mask=traj.mask & torch.tensor([[1], [1], [0], [1]]).bool()
    )
    given = torch.tensor([[0.2, 1.0, 1.0], [1.4, 0.8, torch.nan], [5.0] * 3, [2.0, 5.0, 5.0]], requires_grad=True)
    past = Channel(torch.ones(4, 1), ONES)  # a band of 0.8 to 1.2
    output = entropy_smoothing(Evaluation(traj.logp["old"], {"entropy": given}), traj, past, level="turn")
    # turns: (0.2 + 1) / 2 = 0.6 and 1.0; (1.4 + 0.8) / 2 = 1.1; nothing; 2.0
    wanted = [[-0.2 + 0.2, -1.0 + 0.2, -1.0], [-1.4, -0.8, 0.0], [0.0] * 3, [-2.0 + 0.8, 0.0, 0.0]]
    torch.testing.assert_close(output.terms, torch.tensor(wanted))
    grad = torch.autograd.grad(output.terms.sum(), given)[0]
    assert grad.tolist() == [[-2.0, -2.0, -1.0], [-1.0, -1.0, 0.0], [0.0] * 3, [0.0, 0.0, 0.0]]
    constant = entropy_smoothing(Evaluation(traj.logp["old"], {"entropy": given}), traj, past, level="turn", penalty="constant")
    torch.testing.assert_close(constant.terms[0], torch.tensor([-0.1, -0.9, -1.0]))


def test_turns_before_the_first_have_no_band():
    traj = four_answers()
    evaluation, past = Evaluation(traj.logp["old"], {"entropy": torch.full((4, 3), 0.5)}), Channel(torch.ones(4, 1), ONES)
    assert entropy_smoothing(evaluation, traj, past, first_turn=2).terms[0].tolist() == pytest.approx([-0.5, -0.5, -0.2])
    assert torch.equal(entropy_smoothing(evaluation, traj, past, first_turn=3).terms, torch.where(traj.mask, -0.5, 0))


def test_the_penalty_fades_and_the_bonus_does_not():
    traj = four_answers()
    evaluation, past = Evaluation(traj.logp["old"], {"entropy": torch.full((4, 3), 0.5)}), Channel(torch.ones(4, 1), ONES)
    loss, factors, terms = ScheduledEntropySmoothing(over=5, coefficient=2.0), [], []
    for _ in range(7):
        factors.append(loss.factor)
        terms.append(float(loss(evaluation, traj, past).terms[0, 0]))
        again = ScheduledEntropySmoothing(over=5)
        again.load_state_dict(loss.state_dict())
        assert again.factor == loss.factor
        loss.learn(traj, {})
    # halves of 2 and 3 updates
    first, second = [0.8 + 0.2 * math.exp(-2 * k / 2) for k in range(3)], [0.8 * math.exp(-3 * k / 3) for k in (1, 2, 3)]
    assert factors == pytest.approx([*first, *second, second[-1]])
    assert terms == pytest.approx([-0.5 + 2 * w * 0.3 for w in factors], abs=1e-6)
    assert ScheduledEntropySmoothing(over=1).factor == 1.0


def test_without_a_band_or_a_history_it_is_the_entropy_bonus():
    traj = four_answers()
    evaluation = Evaluation(traj.logp["old"], {"entropy": torch.rand(4, 3)})
    bonus = entropy_bonus(evaluation, traj, everywhere({}, traj)).terms
    open_band = entropy_smoothing(evaluation, traj, everywhere({}, traj), lower=0.0, upper=math.inf).terms
    no_history = entropy_smoothing(evaluation, traj, Channel(torch.zeros(4, 1), ONES)).terms
    assert torch.equal(open_band, bonus)
    assert torch.equal(no_history, bonus)


def test_what_is_not_there_is_never_read():
    traj = with_entropy(1.0, 0.4, 0.2)
    memory = TurnEntropy()
    memory.learn(traj, {})
    given = traj.extras["entropy"].clone().requires_grad_()
    output = entropy_smoothing(Evaluation(traj.logp["old"], {"entropy": given}), traj, memory(NOTHING, traj), upper=1.0, lower=1.0)
    grad = torch.autograd.grad(output.terms.sum(), given)[0]
    assert output.terms.isfinite().all()
    assert grad.isfinite().all()
    assert not grad[~traj.mask].any()


@pytest.mark.slow  # importing all that a run file may name takes seconds
def test_a_run_file_reads_both_and_remembers_every_update():
    shape = {"vocabulary": 2, "horizon": 2}
    policy = {"paths": {"correct": ["total", "grpo"]}, "loss": "ppo-clip"}
    loss = {"name": "epo-scheduled", "over": 2}
    file = {
        "task": {"name": "tree", **shape},
        "policy": {"name": "tabular", **shape},
        "reward": {"correct": "tree-leaf"},
        "arms": {
            "epo": {"terms": {"policy": policy, "entropy": {"paths": {"correct": ["turn-entropy"]}, "loss": loss, "weight": 0.01}}}
        },
        "train": {"updates": 2, "starts": 2, "rollouts": 2},
        "evaluate": {"every": 0, "starts": 0},
    }
    history = train_arm(file, "epo", 0).history
    assert [line["turn_entropy/updates"] for line in history if "turn_entropy/updates" in line] == [1.0, 2.0]
    assert [line["epo/factor"] for line in history[1:]] == pytest.approx([0.8 + 0.2 * math.exp(-2), 0.8 * math.exp(-3)])
    assert history[-1]["turn_entropy/now"] == pytest.approx(math.log(2), rel=1e-2)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="epo: needs 0 <= lower <= 1 <= upper"):
        slope(1.0, 1.0, lower=1.1)
    with pytest.raises(ValueError, match="epo: coefficient, size and first_turn must be at least 0"):
        slope(1.0, 1.0, coefficient=-1.0)
    with pytest.raises(ValueError, match='level "action" or "turn"'):
        slope(1.0, 1.0, level="row")
    with pytest.raises(ValueError, match="over must be at least 1"):
        ScheduledEntropySmoothing(over=0)
    traj = four_answers()
    with pytest.raises(ValueError, match=r'epo: needs evaluation.more\["entropy"\]'):
        entropy_smoothing(Evaluation(traj.logp["old"], {}), traj, everywhere({}, traj))
    with pytest.raises(ValueError, match=r'turn_entropy: needs traj.extras\["entropy"\]'):
        TurnEntropy().learn(traj, {})
