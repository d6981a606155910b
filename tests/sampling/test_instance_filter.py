import pytest
import torch

from payoff.advantages.group import leave_one_out
from payoff.credit.returns import total
from payoff.exact import exact_gradient, gradient_covariance
from payoff.losses.aggregation import sequence_sum
from payoff.losses.policy_gradient import policy_gradient
from payoff.pipeline import Term, weigh
from payoff.policies.tabular import Tabular
from payoff.sampling.instance_filter import InstanceFilter
from payoff.tasks.tree import Tree
from payoff.trajectories import place_outcome


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tried(prompt: int, values: list[float | None]):
    start = Tree(prompts=4).held_out_starts(4)[prompt]
    traj = Tabular(3, 3).rollout([start], len(values), rng())
    value, known = torch.tensor([float(v or 0) for v in values]), torch.tensor([v is not None for v in values])
    return traj, {"correct": place_outcome(value, known, traj)}


def test_a_start_is_left_out_once_all_its_trials_have_failed_and_stays_out():
    curriculum = InstanceFilter(trials=4)
    curriculum.learn(*tried(0, [0, 0]))
    assert not curriculum.left_out("tree-0")
    assert curriculum.learn(*tried(0, [0, 0])) == {"rif-rft/starts": 1.0, "rif-rft/left_out": 1.0}
    assert {s.id for s in curriculum(Tree(prompts=4), 3, rng())} == {"tree-1", "tree-2", "tree-3"}


def test_one_success_keeps_a_start_for_good():
    curriculum = InstanceFilter(trials=2)
    curriculum.learn(*tried(0, [0, 1]))
    for _ in range(5):
        curriculum.learn(*tried(0, [0, 0]))
    assert not curriculum.left_out("tree-0")


def test_rollouts_without_a_verdict_are_no_trial_and_the_threshold_must_be_exceeded():
    curriculum = InstanceFilter(trials=2, threshold=0.5)
    curriculum.learn(*tried(0, [None, None, 0]))
    curriculum.learn(*tried(1, [0.5, 0.5]))
    assert [curriculum.left_out(f"tree-{i}") for i in range(3)] == [False, True, False]


def test_starts_always_or_never_solved_move_nothing_by_rollouts_and_are_moved_by_labels():
    """E |(R - p) grad log pi|^2 of one softmax, two of three answers right: 0 where p is; -grad log pi of a label is not."""
    moved, taught = [], []
    for p in (1e-9, 0.5, 1 - 1e-9):
        policy = Tabular(3, 1, logits=torch.tensor([[p / 2, p / 2, 1 - p]], dtype=torch.float64).log())
        reward = {"x": torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)}
        alone = Term(weigh({"x": [total, leave_one_out]}), policy_gradient, sequence_sum)
        gradient = exact_gradient(policy, reward["x"])
        moved.append(float(gradient_covariance(policy, [alone], reward, group_size=2).trace() + gradient.square().sum()))
        label = policy.evaluate(policy.sequences()).logp[0].sum()
        taught.append(float(torch.autograd.grad(label, policy.logits)[0].norm()))
    assert moved[0] < 1e-7 > moved[2]
    assert moved[1] > 0.1
    assert min(taught) > 0.5


@pytest.mark.parametrize(("rate", "trials"), [(0.1, 8), (0.3, 4)])
def test_the_share_that_is_left_out_is_that_of_unlucky_trials(rate, trials):
    # of starts with success rate p, (1 - p)^trials are left out
    won = torch.rand(4000, trials, generator=rng(), dtype=torch.float64) < rate
    curriculum = InstanceFilter(trials=trials)
    curriculum.record = {str(i): (int(row.sum()), trials) for i, row in enumerate(won)}
    expected = (1 - rate) ** trials
    found = sum(map(curriculum.left_out, curriculum.record)) / 4000
    assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_where_everything_is_left_out_the_task_still_gives_starts_and_few_come_again():
    curriculum = InstanceFilter(trials=1)
    curriculum.learn(*tried(0, [0]))
    assert [s.id for s in curriculum(Tree(prompts=1), 2, rng())] == ["tree-0", "tree-0"]
    assert [s.id for s in curriculum(Tree(prompts=2), 3, rng())] == ["tree-1"] * 3


def test_state_survives_a_checkpoint(tmp_path):
    curriculum, other = InstanceFilter(trials=2), InstanceFilter(trials=2)
    curriculum.learn(*tried(0, [0, 0]))
    torch.save(curriculum.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert other.record == {"tree-0": (0, 2)}
    assert other.left_out("tree-0")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="trials and pool must be at least 1"):
        InstanceFilter(trials=0)
    with pytest.raises(KeyError, match="rif-rft: no reward channel 'correct'"):
        InstanceFilter().learn(tried(0, [1])[0], {})
