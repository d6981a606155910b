"""The soft overlong punishment is what verl's DAPO reward manager adds."""

from types import SimpleNamespace

import pytest
import torch

from payoff.shaping.length import soft_overlong
from payoff.trajectories import Trajectories, outcome, place_outcome


class Tokenizer:
    eos_token = "<end>"

    def decode(self, ids, skip_special_tokens):
        return "x" * len(ids)


@pytest.mark.slow
def test_soft_overlong_is_that_of_verl():
    import numpy as np
    from verl import DataProto
    from verl.workers.reward_manager.dapo import DAPORewardManager

    limit, margin, factor, right = 9, 4, 0.5, [1.0, 0.0, 1.0, 1.0, 0.0]
    length = torch.tensor([1, 5, 6, 8, 9])
    n = len(length)
    mask = torch.arange(limit) < length[:, None]
    ids = {"prompts": torch.ones(n, 2, dtype=torch.int64), "responses": torch.ones(n, limit, dtype=torch.int64)}
    ids["attention_mask"] = torch.cat([torch.ones(n, 2), mask], 1).long()
    texts = np.array([{"ground_truth": r} for r in right], dtype=object)
    data = DataProto.from_dict(ids, {"reward_model": texts, "data_source": np.array(["x"] * n, dtype=object)})
    buffer = SimpleNamespace(enable=True, len=margin, penalty_factor=factor, log=False)
    score = lambda data_source, solution_str, ground_truth, extra_info: ground_truth
    manager = DAPORewardManager(Tokenizer(), 0, score, max_resp_len=limit, overlong_buffer_cfg=buffer)
    theirs = manager(data).sum(1)

    zeros = torch.zeros(n, dtype=torch.int64)
    traj = Trajectories(mask, length, zeros, torch.where(mask, 0, -1).int(), zeros, ids["responses"])
    channel = place_outcome(torch.tensor(right), torch.ones(n, dtype=torch.bool), traj)
    ours = outcome(soft_overlong(channel, traj, limit=limit, margin=margin, penalty=factor), traj)[0]
    assert ours.tolist() == pytest.approx(theirs.tolist())
    assert ours.tolist() == pytest.approx([1, 0, 1 - 0.125, 1 - 0.375, -0.5])
