"""The reward side of verl: keys that stay, verdicts that are missing, and verl's own reward loop around our manager."""

import asyncio
import json
import math

import numpy as np
import pytest
import torch

from payoff.integrations.hosted import row_reward
from payoff.integrations.verl_reward import compute_score, extras_of, row_of, section
from payoff.rewards import RewardError

GRADERS = """
def right(response, reference, level=0):
    if response == "broken":
        raise RuntimeError("the parser broke")
    return float(response == reference) + level

def by_step(steps):
    return [float(len(step)) for step in steps]
"""


class Letters:
    """A tokenizer whose id 1 is an end without text, 0 padding, and 2 on are letters; 29 a semicolon."""

    eos_token_id = 1

    def decode(self, ids, skip_special_tokens=True):
        return "".join(";" if int(i) == 29 else chr(95 + int(i)) for i in ids if int(i) > 1)


@pytest.fixture(autouse=True)
def fresh():
    row_reward.cache_clear()


@pytest.fixture
def graders(tmp_path):
    path = tmp_path / "graders.py"
    path.write_text(GRADERS)
    return path


def test_every_row_has_the_same_keys_whatever_happened_to_it(graders):
    rows = [compute_score("s", text, "4", {"level": 0}, reward=f"{graders}:right") for text in ("4", "broken", "5")]
    assert len({tuple(row) for row in rows}) == 1
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.0]
    assert [row["reward_valid"] for row in rows] == [1.0, 0.0, 1.0]
    assert "the parser broke" in rows[1]["reward_reason"]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}  # as verl collects them
    assert columns["right_valid"].tolist() == [1.0, 0.0, 1.0]


def test_a_row_without_verdict_is_the_number_asked_for(graders):
    assert math.isnan(compute_score("s", "broken", "4", reward=f"{graders}:right", invalid=math.nan)["score"])
    assert compute_score("s", "broken", "4", None, reward=f"{graders}:right", invalid=-1.0)["score"] == -1.0


def test_graders_see_the_extra_information_by_name_and_stored_rollouts_in_it_change_nothing(graders):
    extra = {"level": 2, "tokens": [1, 2], "group": 7, "steps": ["a"]}
    assert compute_score("s", "4", "4", extra, reward=f"{graders}:right")["score"] == 3.0


def test_graders_of_steps_get_those_of_the_response_and_not_the_data_sets(graders):
    score = lambda extra, **how: compute_score("s", "a;bcd", "x", extra, reward=f"{graders}:by_step", **how)
    cut = score({"steps": ["of", "the data"]}, step_separator=";")
    assert (cut["score"], cut["reward_valid"], cut["reward_reason"], cut["reward_payments"]) == (5.0, 1.0, "", "")
    assert score(None)["score"] == 5.0
    assert compute_score("s", "look; 7", "7", {"steps": ["look", "7"]}, reward="mgpo")["score"] == 1.0
    assert compute_score("s", "7; look", "7", {}, reward="mgpo", step_separator="; ")["score"] == 0.0


def test_a_channel_may_not_take_the_name_of_a_key_of_verls(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("reward: {score: length}\n")
    with pytest.raises(RewardError, match="needs the key 'score'; give the channel another name"):
        compute_score("s", "4", "4", reward=str(run))


def test_a_response_of_tokens_has_steps_and_payments_where_they_are_paid(graders, tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text(f"reward: {{process: '{graders}:by_step'}}\n")
    ids = torch.tensor([2, 29, 3, 4, 1])  # a ; b c END
    traj = row_of(ids, torch.ones(5), {"reward_model": {"ground_truth": "x"}, "extra_info": {"index": 3}}, Letters(), separator=";")
    assert (traj.items[0]["steps"], traj.items[0]["response"], traj.items[0]["reference"]) == (["a;", "bc"], "a;bc", "x")
    columns = extras_of(row_reward(str(run)).of(traj.check())[0], tokens=True)
    assert json.loads(columns["reward_payments"]) == {"process": [[1, 2.0], [4, 2.0]]}
    assert columns["process"] == 4.0


def test_the_section_refuses_what_means_nothing():
    assert section({"payoff": None}) == {}
    assert section({"payoff": {"reward": "a", "term": None}}) == {"reward": "a"}
    with pytest.raises(ValueError, match=r"payoff\.rewards: no such option; there are reward"):
        section({"payoff": {"rewards": "a"}})


@pytest.mark.slow
def test_verls_reward_loop_runs_the_manager_by_its_name(graders, tmp_path):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager, resolve_reward_manager_cls

    import payoff.integrations.verl_plugin  # noqa: F401

    run = tmp_path / "run.yaml"
    run.write_text(
        f"reward: {{correct: '{graders}:right', length: length}}\nterms: {{t: {{paths: {{correct: [total]}}, loss: ppo-clip}}}}\n"
    )
    config = OmegaConf.create(
        {
            "reward": {"reward_manager": {"source": "register", "name": "payoff"}, "custom_reward_function": {"path": None}},
            "payoff": {"reward": str(run)},
        }
    )
    manager = load_reward_manager(config, Letters(), reward_router_address=None, reward_model_tokenizer=None)
    responses = torch.tensor([[2, 3, 1], [4, 1, 0]])
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    prompts = torch.tensor([[5], [5]])
    columns = {
        "data_source": ["s", "s"],
        "reward_model": [{"ground_truth": "ab"}, {"ground_truth": "ab"}],
        "extra_info": [{}, {}],
        "raw_prompt": [[{"role": "user", "content": "hi"}]] * 2,
    }
    data = DataProto.from_dict(
        {"prompts": prompts, "responses": responses, "input_ids": torch.cat([prompts, responses], 1), "attention_mask": attention},
        {name: np.array([None, *values], dtype=object)[1:] for name, values in columns.items()},
    )
    found = [manager.loop.run_until_complete(manager.run_single(data[i : i + 1])) for i in range(2)]
    assert [row["reward_score"] for row in found] == [1.0, 0.0]
    assert [row["reward_extra_info"]["length"] for row in found] == [3.0, 2.0]
    scores = resolve_reward_manager_cls(config).assemble_rm_scores(data, [row["reward_score"] for row in found])
    assert scores.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert asyncio.iscoroutinefunction(manager.run_single)
