import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from payoff.examples import four_answers
from payoff.losses.aggregation import constant_length, sequence_mean, sequence_sum, token_mean
from payoff.losses.policy_gradient import ppo_clip
from payoff.pipeline import Evaluation
from payoff.trajectories import Channel, Trajectories

TRAJ = four_answers()  # lengths 3, 2, 3, 1
ALL_VALID = Channel(torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
ALL = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "sequence_sum": sequence_sum,
    "constant_length": lambda target, traj: constant_length(target, traj, max_length=7),
}


def rows(*weights: float) -> torch.Tensor:
    return torch.where(TRAJ.mask, torch.tensor(weights)[:, None], 0.0)


def test_closed_forms():
    torch.testing.assert_close(token_mean(ALL_VALID, TRAJ), rows(1 / 9, 1 / 9, 1 / 9, 1 / 9))
    torch.testing.assert_close(sequence_mean(ALL_VALID, TRAJ), rows(1 / 12, 1 / 8, 1 / 12, 1 / 4))
    torch.testing.assert_close(sequence_sum(ALL_VALID, TRAJ), rows(1 / 4, 1 / 4, 1 / 4, 1 / 4))
    torch.testing.assert_close(constant_length(ALL_VALID, TRAJ, max_length=10), rows(1 / 40, 1 / 40, 1 / 40, 1 / 40))


def test_what_does_not_count_is_in_no_denominator():
    # The second trajectory has no verdict; of the third only the last action has one.
    valid = torch.tensor([[True] * 3, [False] * 3, [False, False, True], [True] * 3])
    target = Channel(torch.zeros(4, 3), valid)
    only = lambda *weights: torch.where(TRAJ.mask & valid, torch.tensor(weights)[:, None], 0.0)
    torch.testing.assert_close(token_mean(target, TRAJ), only(1 / 5, 0, 1 / 5, 1 / 5))
    torch.testing.assert_close(sequence_mean(target, TRAJ), only(1 / 9, 0, 1 / 3, 1 / 3))
    torch.testing.assert_close(sequence_sum(target, TRAJ), only(1 / 3, 0, 1 / 3, 1 / 3))
    torch.testing.assert_close(constant_length(target, TRAJ, max_length=2), only(1 / 6, 0, 1 / 6, 1 / 6))


def test_tool_text_and_the_shared_beginning_of_a_branch_do_not_count():
    traj = TRAJ.replace(
        mask=TRAJ.mask & torch.tensor([[True, False, True]]),
        parent=torch.tensor([-1, -1, 0, -1]),
        fork=torch.tensor([0, 0, 1, 0]),
    )
    counts = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(token_mean(ALL_VALID, traj), counts / 5)
    torch.testing.assert_close(sequence_mean(ALL_VALID, traj), counts / torch.tensor([[8], [4], [4], [4]]))


@pytest.mark.parametrize("aggregation", ALL.values(), ids=ALL)
def test_a_batch_in_which_nothing_counts_has_weights_zero(aggregation):
    assert not aggregation(Channel(torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool)), TRAJ).any()
    traj = TRAJ.replace(mask=torch.zeros(4, 3, dtype=torch.bool))
    assert not aggregation(ALL_VALID, traj).any()


@pytest.mark.parametrize("aggregation", ALL.values(), ids=ALL)
def test_weights_come_from_masks_alone(aggregation):
    noise = Channel(torch.full((4, 3), torch.nan), torch.ones(4, 1, dtype=torch.bool))
    assert torch.equal(aggregation(noise, TRAJ), aggregation(ALL_VALID, TRAJ))


def test_weights_have_the_targets_dtype():
    assert token_mean(Channel(torch.zeros(4, 1, dtype=torch.float64), ALL_VALID.valid), TRAJ).dtype == torch.float64


def test_constant_length_weighs_an_action_alike_in_batches_of_any_length():
    longer = Trajectories(
        mask=torch.ones(4, 30, dtype=torch.bool),
        length=torch.full((4,), 30),
        group=torch.zeros(4, dtype=torch.int64),
        step=torch.zeros(4, 30, dtype=torch.int32),
        stop=torch.zeros(4, dtype=torch.int64),
        actions=torch.zeros(4, 30),
    )
    short, long = (constant_length(ALL_VALID, traj, max_length=50) for traj in (TRAJ, longer))
    assert set(short[TRAJ.mask].tolist()) == set(long.unique().tolist())


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="max_length must be at least 1"):
        constant_length(ALL_VALID, TRAJ, max_length=0)


@settings(deadline=None)
@given(st.data())
@pytest.mark.parametrize("aggregation", ALL.values(), ids=ALL)
def test_the_gradient_of_a_batch_is_the_sum_of_those_of_its_parts_however_it_is_cut(aggregation, data):
    n, t = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    length = torch.tensor(data.draw(st.lists(st.integers(1, t), min_size=n, max_size=n)))
    seed = data.draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    exists = torch.arange(t) < length[:, None]
    old = -torch.rand(n, t, generator=generator, dtype=torch.float64)
    traj = Trajectories(
        mask=exists & (torch.rand(n, t, generator=generator) < 0.8),
        length=length,
        group=torch.zeros(n, dtype=torch.int64),
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t),
        logp={"old": old},
    )
    target = Channel(torch.randn(n, t, generator=generator, dtype=torch.float64), torch.rand(n, 1, generator=generator) < 0.8)
    table = (old + 0.1 * torch.randn(n, t, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = aggregation(target, traj)

    def gradient(cuts: list[torch.Tensor]) -> torch.Tensor:
        table.grad = None
        for part in cuts:
            some = traj.select(part)
            cut = Channel(target.value[part, : some.width], target.valid[part])
            output = ppo_clip(Evaluation(table[part, : some.width], {}), some, cut)
            (output.terms * weights[part, : some.width]).sum().backward()
        return table.grad

    whole = gradient([torch.arange(n)]).clone()
    owner = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    cuts = [part for k in range(3) if len(part := (owner == k).nonzero().squeeze(1))]
    torch.testing.assert_close(gradient(cuts), whole)
