"""Self-certainty: the distance of every choice from even odds, by closed forms."""

import math

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.embedded import transformer
from payoff.policies.tabular import Tabular
from payoff.recipes import train_arm
from payoff.signals.self_certainty import self_certainty
from payoff.trajectories import outcome

NAN = float("nan")


def certainty(policy, traj, **options):
    more = policy.evaluate(traj, frozenset({"mean_logp"})).more
    channel = self_certainty(traj.replace(extras={"mean_logp": more["mean_logp"].detach()}), **options)["self-certainty"]
    return outcome(channel, traj)


def test_even_choices_have_no_certainty_whatever_the_length():
    policy = Tabular(4, 3, stop=3)
    value, known = certainty(policy, policy.sequences(), vocabulary=4)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0)
    assert known.all()


def test_it_is_the_mean_over_positions_of_the_kl_from_even_odds():
    policy = Tabular(3, 2, spread=2.0, seed=1)
    traj = policy.sequences()
    value, _ = certainty(policy, traj, vocabulary=3)
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    rows = policy.logits[0].detach().log_softmax(1)
    for row, first in enumerate(traj.actions[:, 0].tolist()):
        kl = [float((uniform * (uniform.log() - rows[prefix])).sum()) for prefix in (0, 1 + first)]
        assert float(value[row]) == pytest.approx(sum(kl) / 2, abs=1e-12)


def test_without_the_vocabulary_only_a_constant_is_missing():
    policy = Tabular(3, 2, spread=2.0, seed=1)
    with_, without = (certainty(policy, policy.sequences(), **o)[0] for o in ({"vocabulary": 3}, {}))
    torch.testing.assert_close(without - with_, torch.full_like(with_, math.log(3)))


def test_equal_entropies_may_have_different_certainty():
    # (3/4, 1/8, 1/8) and (p, q, q) with p < 1/3 and the same entropy: there one choice is all but impossible
    entropy = lambda p: -p * math.log(p) - (1 - p) * math.log((1 - p) / 2)
    target = entropy(0.75)
    low, high = 1e-6, 1 / 3
    for _ in range(100):
        p = (low + high) / 2
        low, high = (p, high) if entropy(p) < target else (low, p)
    found = []
    for odds in ([0.75, 0.125, 0.125], [p, (1 - p) / 2, (1 - p) / 2]):
        policy = Tabular(3, 1, logits=torch.tensor([odds], dtype=torch.float64).log())
        found.append(float(certainty(policy, policy.sequences(), vocabulary=3)[0][0]))
    assert found[1] > found[0] + 0.3


def test_what_is_impossible_or_never_acted_has_no_verdict_and_says_why():
    forbidden = Tabular(2, 2, logits=torch.tensor([[0.0, 0.0], [0.0, -math.inf], [1.0, 0.0]], dtype=torch.float64))
    traj = forbidden.sequences().select(torch.tensor([0, 2]))  # aa passes the prefix where b is impossible, ba does not
    more = forbidden.evaluate(traj, frozenset({"mean_logp"})).more
    traj = traj.replace(extras=more, mask=torch.tensor([[True, True], [False, False]]))
    found = self_certainty(traj)["self-certainty"]
    assert outcome(found, traj)[1].tolist() == [False, False]
    assert list(found.reasons.values()) == ["an action that was impossible", "no action of its own"]
    assert set(found.reasons) == set(traj.id.tolist())


def test_only_own_actions_count_and_padding_is_not_read():
    policy = transformer(width=8, layers=1, heads=1, max_tokens=6, stop=(";",))
    traj = policy.rollout([Start("a", {"prompt": "1+2="})], 12, torch.Generator().manual_seed(0))
    assert len(traj.length.unique()) > 1
    mean = policy.evaluate(traj, frozenset({"mean_logp"})).more["mean_logp"].detach()
    plain = self_certainty(traj.replace(extras={"mean_logp": mean}))["self-certainty"]
    holes = self_certainty(traj.replace(extras={"mean_logp": torch.where(traj.exists, mean, NAN)}))["self-certainty"]
    assert torch.equal(outcome(plain, traj)[0], outcome(holes, traj)[0])
    half = traj.mask & (torch.arange(traj.width) % 2 == 0)
    some = self_certainty(traj.replace(mask=half, extras={"mean_logp": torch.where(half, mean, NAN)}))["self-certainty"]
    assert float(outcome(some, traj)[0][0]) == pytest.approx(-float(mean[0, half[0]].mean()), rel=1e-5)


def test_it_asks_for_what_it_reads_and_refuses_to_guess():
    assert self_certainty.__method__.needs == {"mean_logp"}
    traj = Tabular(2, 1).sequences()
    with pytest.raises(ValueError, match=r"needs traj\.extras"):
        self_certainty(traj)
    with pytest.raises(ValueError, match="vocabulary must be at least 1, got 0"):
        self_certainty(traj.replace(extras={"mean_logp": torch.zeros(2, 1)}), vocabulary=0)


def test_in_a_run_file_the_loop_asks_the_policy_for_what_it_reads():
    term = {"paths": {"sure": ["total", "rloo"]}, "loss": "policy-gradient", "aggregation": "sequence-mean-token-sum"}
    shape = {"vocabulary": 3, "horizon": 2}
    file = {
        "task": {"name": "tree", **shape},
        "policy": {"name": "tabular", **shape, "spread": 1.0},
        "reward": {"sure": "self-certainty"},
        "terms": {"policy": term},
        "train": {"updates": 2, "starts": 1, "rollouts": 8, "learning_rate": 0.1},
        "evaluate": {"every": 0, "starts": 0},
    }
    assert train_arm(file, "", 0).last("reward/sure") > math.log(3)  # minus the mean log-probability of three choices
