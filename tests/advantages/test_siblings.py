"""PORTool's comparison of steps: what branches is in tests/credit/test_tree_values.py; here rollouts that share nothing."""

import pytest
import torch

from payoff.advantages.siblings import against_siblings
from payoff.trajectories import Channel, Trajectories


@pytest.mark.parametrize("dense", [False, True], ids=["whole rollouts unknown", "single payments unknown"])
def test_rollouts_without_parents_are_those_of_which_nobody_left_another(dense):
    rng = torch.Generator().manual_seed(0)
    n, t = 24, 9
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    alone = Trajectories(
        mask=exists & (torch.rand(n, t, generator=rng) > 0.3),
        length=length,
        group=torch.randint(0, 5, (n,), generator=rng),
        step=torch.where(exists, torch.arange(t) // 3, -1),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
    )
    branched = alone.replace(parent=torch.full((n,), -1), fork=torch.zeros(n, dtype=torch.int64))
    valid = torch.rand(n, t if dense else 1, generator=rng) > 0.2
    credit = Channel(torch.where(exists & valid, torch.randn(n, t, generator=rng), torch.nan), valid)
    found, wanted = against_siblings(credit, alone), against_siblings(credit, branched)
    assert found.value.any()
    torch.testing.assert_close(found.value, wanted.value, rtol=0, atol=1e-6)
    assert torch.equal(found.valid, wanted.valid)
