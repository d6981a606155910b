import math

import pytest
import torch
from scipy.optimize import minimize

from payoff.advantages.batch import batch_standardise
from payoff.contents import learners
from payoff.credit.returns import total
from payoff.examples import four_answers
from payoff.pipeline import weigh
from payoff.policies.tabular import Tabular, kl_divergence
from payoff.shaping.multipliers import ConstrainedMixing
from payoff.trajectories import Channel, outcome, place_outcome

SURE = torch.ones(4, dtype=torch.bool)


def paid(values, known=SURE):
    return place_outcome(torch.tensor(values), known, four_answers())


def learn(mixing, **returns):
    """One step from rollouts whose returns are all the same, so that their mean is exactly that."""
    return mixing.learn(four_answers(), {name: paid([x] * 4) for name, x in returns.items()})


def problem():
    """A policy over 9 sequences, and two rewards that go together."""
    rng = torch.Generator().manual_seed(5)
    policy = Tabular(3, 2, spread=0.7, seed=1)
    a, b = torch.randn(2, 9, generator=rng, dtype=torch.float64)
    return policy, {"a": a, "b": 0.4 * a + 0.9 * b}


def solved(policy, rewards, thresholds, kind):
    """The sequences' probabilities of least divergence under the constraints, by a general solver that knows no multipliers."""
    start = policy.probabilities().detach()

    def divergence(p):
        p = torch.tensor(p).clamp(min=1e-12).requires_grad_()
        value = kl_divergence(p, start)
        return float(value.detach()), torch.autograd.grad(value, p)[0].numpy()

    constraints = [{"type": "eq", "fun": lambda p: p.sum() - 1}]
    for name, threshold in thresholds.items():
        reward = rewards[name].numpy()
        constraints.append({"type": kind, "fun": lambda p, r=reward, c=threshold: float(p @ r - c)})
    options = {"ftol": 1e-14, "maxiter": 500}
    found = minimize(divergence, start.numpy(), jac=True, bounds=[(1e-9, 1)] * 9, constraints=constraints, options=options)
    assert found.success
    return torch.tensor(found.x)


def ascended(policy, rewards, mixing, scale, steps):
    """Dual ascent: the policy is at every step the best there is under the present weights, that of the divergence in `scale`s."""
    start = policy.probabilities().detach().log()
    for _ in range(steps):
        weight = mixing.weights
        p = (start + sum(weight[name] * rewards[name] for name in rewards) / (scale * weight["kl"])).softmax(0)
        mixing.ascend({name: float(p @ r) - float(c) for (name, r), c in zip(rewards.items(), mixing.threshold, strict=True)})
    return p


@pytest.mark.parametrize(
    ("constraint", "thresholds", "scale", "rate"),
    [
        ("at-least", {"a": 0.52, "b": 0.55}, 0.5, 2.0),  # both bind
        ("equal", {"a": 0.42, "b": -0.35}, 0.1, 0.2),  # b would rise with a, and has to be pushed down
        ("unsquashed", {"a": 0.52, "b": -0.5}, 1.0, 0.3),  # b is slack
    ],
)
def test_multipliers_converge_to_what_a_solver_finds(constraint, thresholds, scale, rate):
    policy, rewards = problem()
    mixing = ConstrainedMixing(thresholds, constraint=constraint, learning_rate=rate)
    p = ascended(policy, rewards, mixing, scale, 200)
    wanted = solved(policy, rewards, thresholds, "eq" if constraint == "equal" else "ineq")
    assert torch.allclose(p, wanted, atol=2e-4)
    # Stationary: log(p / start) is linear in the rewards with the weights' ratios as slopes, and only slack rewards have none.
    weight = mixing.weights
    slopes = torch.linalg.lstsq(
        torch.stack([rewards["a"], rewards["b"], torch.ones(9)], 1), (wanted / policy.probabilities().detach()).log()[:, None]
    ).solution[:2, 0]
    assert [weight[name] / (scale * weight["kl"]) for name in ("a", "b")] == pytest.approx(slopes.tolist(), abs=2e-2)
    if constraint == "equal":
        assert weight["b"] < 0 < weight["a"]
    if constraint == "unsquashed":
        assert weight["b"] == 0


def test_a_point_inside_a_concave_front_is_reached_by_a_constraint_and_by_no_fixed_weights():
    angle = torch.linspace(0, math.pi / 2, 9, dtype=torch.float64)
    a, b = angle.cos() ** 3, angle.sin() ** 3
    for w in torch.linspace(0, 1, 101).tolist():  # the best answer under any weights is one of the two extremes
        assert int((w * a + (1 - w) * b).argmax()) in (0, 8)
    for threshold in (0.25, 0.5, 0.75):
        mixing = ConstrainedMixing({"a": threshold}, objective="b", constraint="unsquashed", learning_rate=0.1, momentum=0.0)
        for _ in range(80):  # b less a twentieth of the divergence is what is maximised
            p = ((b + mixing.weights["a"] * a) / 0.05).softmax(0)  # the uniform policy is where it starts
            mixing.ascend({"a": float(p @ a) - threshold})
        assert float(p @ a) == pytest.approx(threshold, abs=1e-3)
        assert float(p @ b) > 0.9 * (1 - threshold)


def test_steps_are_those_of_sgd_with_momentum_on_the_papers_loss():
    # sum_k s(l_k) v_k, rate 1, momentum 1/2, from l = 0, threshold 0.
    # sigmoid: slope 1/4 at 0, so v = 1 gives velocity 0.25 and l = -0.25, where the slope is 0.437823 x 0.562177 = 0.246134;
    # v = -2 gives velocity 0.125 - 0.492268 = -0.367268 and l = 0.117268.
    # tanh: slope 1, so v = 1 gives velocity 1 and l = -1, where the slope is 1 - 0.761594^2 = 0.419974; v = 1 again gives
    # velocity 0.919974 and l = -1.919974. Unsquashed: velocities -2 and -1 - 4, cut at l >= 0 once v > 0.
    for constraint, returns, expected in (
        ("at-least", (1.0, -2.0), (-0.25, 0.117268)),
        ("equal", (1.0, 1.0), (-1.0, -1.919974)),
        ("unsquashed", (-2.0, -4.0), (2.0, 7.0)),
        ("unsquashed", (-2.0, 9.0), (2.0, 0.0)),
    ):
        mixing = ConstrainedMixing({"a": 0.0}, constraint=constraint, spread=0.0, learning_rate=1.0, momentum=0.5)
        for a, multiplier in zip(returns, expected, strict=True):
            learn(mixing, a=a)
            assert float(mixing.multiplier) == pytest.approx(multiplier, abs=1e-6)


def test_weights_start_at_halves_and_add_up_to_the_number_of_rewards():
    mixing = ConstrainedMixing({"a": 1.0, "b": 1.0, "c": 1.0}, spread=0.0)
    assert mixing.weights == {"kl": 1.5, "a": 0.5, "b": 0.5, "c": 0.5}
    learn(mixing, a=5.0, b=-5.0, c=1.0)
    assert mixing.weights["a"] < 0.5 < mixing.weights["b"]
    assert mixing.weights["c"] == 0.5  # at its threshold
    assert sum(mixing.weights.values()) == pytest.approx(3.0)


def test_one_reward_far_below_its_threshold_takes_all_weight_from_the_objective():
    mixing = ConstrainedMixing({"a": 100.0}, learning_rate=10.0)
    for _ in range(5):
        learn(mixing, a=0.0)
    assert mixing.weights["a"] == pytest.approx(1.0)
    assert mixing.weights["kl"] == pytest.approx(0.0, abs=1e-6)


def test_equality_pushes_a_reward_back_down_and_an_inequality_lets_it_be():
    equal, least = (ConstrainedMixing({"a": 0.0}, constraint=c, spread=0.0, learning_rate=1.0) for c in ("equal", "at-least"))
    for _ in range(3):
        learn(equal, a=1.0)
        learn(least, a=1.0)
    assert equal.weights["a"] < 0 < least.weights["a"]


def test_a_reward_without_verdicts_leaves_its_multiplier_and_its_momentum():
    mixing = ConstrainedMixing({"a": 0.0, "b": 0.0}, spread=0.0)
    learn(mixing, a=1.0, b=1.0)
    before = mixing.multiplier.clone(), mixing.velocity.clone()
    metrics = mixing.learn(four_answers(), {"a": paid([1.0] * 4), "b": paid([9.0] * 4, ~SURE)})
    assert mixing.multiplier[1] == before[0][1]
    assert mixing.velocity[1] == before[1][1]
    assert mixing.multiplier[0] < before[0][0]
    assert metrics["above_threshold/b"] is None
    assert metrics["above_threshold/a"] == 1.0


def test_only_known_returns_count_and_nothing_beyond_the_end():
    value = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, math.nan], [9.0, 9.0, 9.0], [4.0, math.nan, math.nan]])
    known = torch.tensor([[True] * 3, [True] * 3, [True, False, True], [True] * 3])
    metrics = ConstrainedMixing({"a": 1.0}).learn(four_answers(), {"a": Channel(value, known)})
    assert metrics["above_threshold/a"] == pytest.approx((6 + 2 + 4) / 3 - 1)


def test_in_a_target_it_mixes_normalised_advantages_and_is_found_as_a_learner():
    mixing = ConstrainedMixing({"a": 0.0}, spread=0.0)
    target = weigh({"a": [total, batch_standardise], "kl": [total, batch_standardise]}, mix=mixing)
    rewards = {"a": paid([0.0, 1.0, 0.0, 1.0]), "kl": paid([0.0, 0.0, -8.0, -8.0])}
    mixed = target(rewards, four_answers())
    # With divisor n - 1 both have standard deviation 1 / sqrt(4/3) of half their range: a is (-1, 1, -1, 1) and kl (1, 1, -1, -1)
    # times 0.866; half of each, whatever their units.
    assert mixed.value.expand(4, 3)[:, 0].tolist() == pytest.approx([0.0, 0.866, -0.866, 0.0], abs=1e-3)
    assert learners(target) == [mixing]
    assert "own_reward" in dir(target)
    assert outcome(target.own_reward(rewards, four_answers()), four_answers())[1].all()


def test_state_comes_back_and_goes_on_as_it_would_have():
    one, two = ConstrainedMixing({"a": 0.0, "b": 1.0}), ConstrainedMixing({"a": 5.0, "b": 5.0}, seed=9)
    learn(one, a=1.0, b=0.5)
    two.load_state_dict(one.state_dict())
    learn(one, a=0.3, b=0.5)
    learn(two, a=0.3, b=0.5)
    assert one.weights == two.weights
    two.hold({"a": 0.3, "b": 0.5})
    weights = {**two.weights}
    two.velocity.zero_()
    learn(two, a=0.3, b=0.5)
    assert two.weights == pytest.approx(weights, abs=1e-7)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no thresholds"):
        ConstrainedMixing({})
    with pytest.raises(ValueError, match="'kl' is the objective"):
        ConstrainedMixing({"kl": 1.0})
    with pytest.raises(ValueError, match="learning_rate > 0"):
        ConstrainedMixing({"a": 1.0}, learning_rate=0.0)
    mixing = ConstrainedMixing({"a": 1.0})
    with pytest.raises(ValueError, match=r"odd: \['kl'\]"):
        mixing({"a": paid([1.0] * 4)}, four_answers())
    with pytest.raises(KeyError, match="no reward channel 'a'"):
        mixing.learn(four_answers(), {"b": paid([1.0] * 4)})
    with pytest.raises(ValueError, match="thresholds must be of"):
        mixing.hold({"b": 1.0})
