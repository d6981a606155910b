"""The conversions against verl's own DataProto and its own estimators."""

import numpy as np
import pytest
import torch

from payoff.integrations.verl import from_verl, rewards_from_verl, to_verl, with_advantages, with_rewards
from payoff.trajectories import Channel, StopReason, constant, outcome, place_outcome

EOS, PAD = 1, 0


@pytest.fixture(scope="module")
def proto():
    return pytest.importorskip("verl").DataProto


def batch(proto, **more):
    """Two prompts of two responses each; the second response has tool text in its middle."""
    prompts = torch.tensor([[PAD, 4], [PAD, 4], [5, 6], [5, 6]])
    responses = torch.tensor([[7, EOS, PAD], [7, 8, 7], [EOS, PAD, PAD], [7, 7, EOS]])
    attention = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    tensors = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses], 1),
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
        "response_mask": torch.tensor([[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 1]]),
        **more,
    }
    columns = {
        "uid": ["a", "a", "b", "b"],
        "data_source": ["gsm8k"] * 4,
        "reward_model": [{"ground_truth": str(k), "style": "rule"} for k in range(4)],
        "raw_prompt": [[{"role": "user", "content": "hi"}]] * 4,
        "acc": [1.0, 0.0, 1.0, float("nan")],
        "pred": ["4", None, "5", "6"],
    }
    objects = {name: np.array([None, *values], dtype=object)[1:] for name, values in columns.items()}
    return proto.from_dict(tensors, objects, meta_info={"reward_extra_keys": ["acc", "pred"]})


def test_a_batch_of_verls_becomes_trajectories_worked_by_hand(proto):
    logp = -torch.arange(12.0).reshape(4, 3) / 10
    more = {"values": logp + 5, "sum_pi_squared": torch.full((4, 3), 0.5)}
    traj = from_verl(batch(proto, old_log_probs=logp, ref_log_prob=logp - 1, **more), ends=[EOS]).check()
    assert traj.length.tolist() == [2, 3, 1, 3]
    assert traj.mask.tolist() == [[True, True, False], [True, False, True], [True, False, False], [True, True, True]]
    assert [StopReason(s).name for s in traj.stop.tolist()] == ["finished", "truncated", "finished", "finished"]
    assert traj.group[0] == traj.group[1] != traj.group[2] == traj.group[3]
    assert torch.equal(traj.logp["old"], logp)
    assert traj.extras["values"].shape == (4, 4)
    assert traj.extras["values"][2].tolist() == pytest.approx([4.4, 0, 0, 0])
    assert traj.extras["sum_pi_squared"][2].tolist() == [0.5, 0, 0]
    item = traj.items[1]
    assert (item["reference"], item["prompt_ids"], item["data_source"], item["uid"]) == ("1", [4], "gsm8k", "a")
    assert item["prompt"][0]["content"] == "hi"


def test_without_uids_rows_with_one_prompt_are_a_group_and_without_a_response_mask_all_is_acted(proto):
    data = batch(proto)
    del data.non_tensor_batch["uid"], data.batch["response_mask"]
    traj = from_verl(data)
    assert traj.group[0] == traj.group[1] != traj.group[2] == traj.group[3]
    assert torch.equal(traj.mask, traj.exists)


def test_a_batch_comes_back_through_trajectories(proto):
    data = batch(proto, old_log_probs=-torch.ones(4, 3), rollout_log_probs=-torch.ones(4, 3), values=torch.ones(4, 3))
    again = to_verl(from_verl(data), pad=PAD)
    on = data.batch["attention_mask"][:, -3:].bool()
    for name in ("prompts", "responses", "input_ids", "attention_mask", "position_ids", "response_mask"):
        assert torch.equal(again.batch[name], data.batch[name]), name
    for name in ("old_log_probs", "rollout_log_probs", "values"):
        assert torch.equal(again.batch[name], torch.where(on, data.batch[name], 0)), name
    assert list(again.non_tensor_batch["reward_model"]) == list(data.non_tensor_batch["reward_model"])
    uid = again.non_tensor_batch["uid"]
    assert uid[0] == uid[1] != uid[2] == uid[3]
    assert len(type(again).concat([again, again])) == 8


def test_the_rewards_a_batch_carries_are_channels(proto):
    scores = torch.zeros(4, 3)
    scores[0, 1], scores[1, 1], scores[1, 2] = 1.0, 0.25, 0.5
    data = batch(proto, rm_scores=scores)
    traj = from_verl(data)
    rewards = rewards_from_verl(data, traj)
    assert set(rewards) == {"score", "acc"}
    assert outcome(rewards["score"], traj)[0].tolist() == [1.0, 0.75, 0.0, 0.0]
    value, valid = outcome(rewards["acc"], traj)
    assert value.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert valid.tolist() == [True, True, True, False]


def test_what_stands_in_the_padding_is_not_read(proto):
    dirty = lambda: torch.where(batch(proto).batch["attention_mask"][:, -3:].bool(), 0.5, torch.nan)
    data = batch(proto, token_level_rewards=dirty(), values=dirty())
    traj = from_verl(data)
    assert outcome(rewards_from_verl(data, traj)["score"], traj)[0].tolist() == [1.0, 1.5, 0.5, 1.5]
    assert torch.isfinite(traj.extras["values"]).all()
    nan = Channel(dirty(), torch.ones(4, 3, dtype=torch.bool))
    assert torch.isfinite(with_advantages(data, nan, traj).batch["advantages"]).all()
    assert torch.isfinite(with_rewards(data, nan, traj).batch["token_level_rewards"]).all()


def test_verls_own_estimator_reads_rewards_given_here(proto):
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    data = batch(proto)
    traj = from_verl(data)
    value = torch.tensor([1.0, 0.0, 0.5, 0.25])
    data = with_rewards(data, place_outcome(value, value > -1, traj), traj)
    advantages, _ = compute_grpo_outcome_advantage(
        data.batch["token_level_rewards"], data.batch["response_mask"], data.non_tensor_batch["uid"]
    )
    # two members: (r - mean) / (std + 1e-6) with std = |r1 - r2| / sqrt 2, so +-sqrt(1/2)
    each = torch.tensor([1, -1, 1, -1])[:, None] * 0.5**0.5
    assert torch.allclose(advantages, each * data.batch["response_mask"], atol=1e-5)
    assert data.batch["token_level_scores"][1].tolist() == [0.0, 0.0, 0.0]


def test_advantages_are_written_for_own_actions_and_are_the_returns_too(proto):
    data = batch(proto)
    traj = from_verl(data)
    written = with_advantages(data, constant(torch.arange(1.0, 5.0), torch.tensor([True, True, False, True])), traj)
    assert written.batch["advantages"].tolist() == [[1, 1, 0], [2, 0, 2], [0, 0, 0], [4, 4, 4]]
    assert torch.equal(written.batch["returns"], written.batch["advantages"])
    assert "advantages" not in data.batch.keys()  # noqa: SIM118
    own = with_advantages(data, constant(torch.ones(4), torch.ones(4) > 0), traj, returns=torch.full((4, 3), 9.0))
    assert own.batch["returns"][0, 0] == 9.0


def test_a_reward_without_verdict_is_refused_because_verl_would_count_it(proto):
    data = batch(proto)
    traj = from_verl(data)
    reward = place_outcome(torch.ones(4), torch.tensor([True, False, True, True]), traj)
    with pytest.raises(ValueError, match="1 trajectories have no verdict, which verl cannot say"):
        with_rewards(data, reward, traj)
    filled = with_rewards(data, reward, traj, fill=-1.0).batch["token_level_rewards"]
    assert filled.sum(1).tolist() == [1.0, -1.0, 1.0, 1.0]


def test_a_batch_without_responses_is_one_line(proto):
    with pytest.raises(ValueError, match="from_verl: the batch has no 'responses'; it has"):
        from_verl(proto.from_dict({"input_ids": torch.ones(2, 2)}))


def test_continuous_actions_are_no_batch_for_verl(proto):
    traj = from_verl(batch(proto))
    with pytest.raises(ValueError, match="the actions are no token ids"):
        to_verl(traj.replace(actions=traj.actions.float()), pad=PAD)
