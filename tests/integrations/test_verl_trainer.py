"""What payoff's trainer computes from a batch in verl's queue; queue and base trainer are restated where verl's are not here."""

import sys
import types

import pytest
import torch

from payoff.config import ConfigError
from payoff.integrations.hosted import row_reward
from payoff.integrations.verl_reward import extras_of, row_of

pytestmark = pytest.mark.slow  # importing verl takes seconds
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


GROUP = '''
class Best:
    """1 for the longest response of its group: what no reward worker can see."""
    sees = "group"

    def __call__(self, traj):
        import torch
        from payoff.trajectories import place_outcome
        length = torch.tensor([float(len(item["response"])) for item in traj.items])
        best = [length[i] == max(length[j] for j in range(len(traj)) if traj.group[j] == traj.group[i]) for i in range(len(traj))]
        return {"best": place_outcome(torch.tensor(best).float(), torch.ones(len(traj), dtype=torch.bool), traj)}
'''
RUN = """
reward: {correct: graders.py:right, process: graders.py:by_step}
terms: {t: {paths: {correct: [total, rloo], process: [immediate]}, mix: {correct: 1.0, process: 0.5}, loss: dual-clip}}
"""


@pytest.fixture(scope="module", autouse=True)
def verl():
    return pytest.importorskip("verl")


@pytest.fixture
def run_file(tmp_path):
    row_reward.cache_clear()
    (tmp_path / "graders.py").write_text(GRADERS + GROUP)

    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


def queue_of(run, rows, separator=None):
    """Rows as verl's agent loop puts them into its queue: (uid, response, mask, reference), scored by our reward manager."""
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    fields = []
    for uid, response, mask, reference in rows:
        ids = torch.tensor(response)
        columns = {"reward_model": {"ground_truth": reference}, "data_source": "s"}
        graded = row_reward(run).of(row_of(ids, torch.ones(len(ids)), columns, Letters(), separator=separator))[0]
        extra = extras_of(graded, tokens=True)
        scores = torch.zeros(len(ids))
        scores[-1] = extra["score"]
        fields.append(
            {
                **columns,
                "uid": uid,
                "prompts": torch.tensor([5, 6] if uid == "a" else [7]),
                "responses": ids,
                "response_mask": torch.tensor(mask),
                "rm_scores": scores,
                "old_log_probs": -torch.ones(len(ids)),
                "extra_fields": {"reward_extra_info": extra},
                "raw_prompt": [{"role": "user", "content": "hi"}],
            }
        )
    return list_of_dict_to_tensordict(fields)


ROWS = [
    ("a", [2, 29, 3, 1], [1, 1, 1, 1], "a;b"),  # a ; b END
    ("a", [2, 2, 2], [1, 0, 1], "a;b"),
    ("b", [3, 1], [1, 1], "b"),
    ("b", [4], [1], "b"),
]
KEYS = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]


def test_channels_go_down_their_own_paths_and_steps_are_paid_where_they_lie(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, over_sessions

    run = run_file(RUN)
    found = over_sessions(TermOfVerl(run, separator=";", tokenizer=Letters()), queue_of(run, ROWS, ";"), KEYS, [False] * 4)
    # correct: 1 against 0 in both groups, so +-1; process: half of what the own step earned: "a;" 2, "b" 1; "aaa" 3 in a step that
    # spans the tool's turn, so that the policy's first turn earns nothing of it; "b" 1; "c" 1.
    assert found.advantages[0].tolist() == [2.0, 2.0, 1.5, 1.5]
    assert found.advantages[1].tolist() == [-1.0, 0.0, 0.5, 0.0]
    assert found.advantages[2].tolist() == [1.5, 1.5, 0.0, 0.0]
    assert found.advantages[3].tolist() == [-0.5, 0.0, 0.0, 0.0]
    assert found.metrics["payoff/correct/mean"] == 0.5
    assert found.metrics["payoff/weighed"] == 1.0


def test_a_row_without_verdict_trains_nothing_and_is_in_no_baseline(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, over_sessions

    run = run_file("reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total, rloo]}, loss: ppo-clip}}\n")
    broken = [ord(c) - 95 for c in "broken"]
    rows = [*ROWS[:2], ("a", broken, [1] * 6, "a;b"), ("b", [3], [1], "b")]
    found = over_sessions(TermOfVerl(run), queue_of(run, rows), ["a_0_0", "a_1_0", "a_2_0", "b_0_0"], [False] * 4)
    assert found.advantages[:, 0].tolist() == [1.0, -1.0, 0.0, 0.0]
    assert found.advantages[2].abs().sum() == 0
    assert found.metrics["payoff/correct/valid"] == 0.75
    assert found.metrics["payoff/weighed"] == pytest.approx(7 / 13)


def test_a_session_of_several_outputs_is_one_rollout_and_padding_is_none(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, over_sessions

    run = run_file("reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total, rloo]}, loss: ppo-clip}}\n")
    rows = [("a", [2], [1], "b"), ("a", [3, 3], [0, 1], "bb"), ("a", [4, 4], [1, 1], "b"), ("pad", [1], [0], "")]
    found = over_sessions(TermOfVerl(run), queue_of(run, rows), ["a_0_0", "a_0_1", "a_1_0", "pad_0_0"], [False, False, False, True])
    # Two rollouts: a_0, judged by its last output (right), and a_1 (wrong).
    assert found.advantages.tolist() == [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]


def test_a_reward_that_sees_its_group_is_scored_where_the_group_is(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, over_sessions

    run = run_file(
        "reward: {correct: graders.py:right, best: graders.py:Best}\n"
        "terms: {t: {paths: {correct: [total, rloo], best: [total]}, mix: {correct: 1, best: 10}, loss: ppo-clip}}\n"
    )
    found = over_sessions(TermOfVerl(run, tokenizer=Letters()), queue_of(run, ROWS), KEYS, [False] * 4)
    assert found.advantages[:, 0].tolist() == [11.0, 9.0, 11.0, 9.0]


def test_a_critic_gives_gae_and_learns_what_verls_learns(run_file):
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    from payoff.integrations.verl_trainer import TermOfVerl, batch_of

    run = run_file(
        "reward: {correct: graders.py:right}\n"
        "terms: {t: {paths: {score: [{name: lambda-return, trace: 0.8}, subtract-values, whiten]}, loss: ppo-clip}}\n"
    )
    rows = [
        ("a", [2, 29, 3], [1, 1, 1], "a;b"),
        ("a", [2, 2, 3], [1, 0, 1], "b"),
        ("b", [3, 3], [1, 1], "bb"),
        ("b", [4], [1], "b"),
    ]
    row_reward.cache_clear()
    reward_run = run.replace("run.yaml", "reward.yaml")
    open(reward_run, "w").write("reward: {correct: graders.py:right}\n")  # noqa: SIM115
    data, extras = batch_of(queue_of(reward_run, rows))
    data.batch["values"] = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    found = TermOfVerl(run, lam=0.8)(data, extras)
    advantages, returns = compute_gae_advantage_return(
        data.batch["rm_scores"], data.batch["values"], data.batch["response_mask"].float(), gamma=1.0, lam=0.8
    )
    on = data.batch["response_mask"].bool()
    torch.testing.assert_close(found.advantages[on], advantages[on], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.returns[on], returns[on], rtol=1e-5, atol=1e-5)


def test_several_rewards_normalised_apart_are_gdpo(run_file):
    import numpy as np
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage

    from payoff.integrations.verl_trainer import TermOfVerl, batch_of

    path = "[total, {name: grpo, convention: verl}]"
    run = run_file(
        "reward: {correct: graders.py:right, length: length}\n"
        f"terms: {{t: {{paths: {{correct: {path}, length: {path}}}, mix: {{correct: 1, length: -0.5}}, "
        "then: [whiten], loss: ppo-clip}}\n"
    )
    data, extras = batch_of(queue_of(run, ROWS))
    found = TermOfVerl(run)(data, extras)
    config = AlgoConfig(gdpo_reward_keys=["correct", "length"], gdpo_reward_weights=[1.0, -0.5])
    columns = {name: np.array([row[name] for row in extras]) for name in ("correct", "length")}
    theirs, _ = compute_gdpo_outcome_advantage(
        data.batch["rm_scores"],
        data.batch["response_mask"],
        data.non_tensor_batch["uid"],
        config=config,
        non_tensor_batch=columns,
        batch=data.batch,
    )
    torch.testing.assert_close(found.advantages, theirs, rtol=1e-5, atol=1e-5)


def test_kl_in_the_reward_is_a_channel(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, batch_of

    run = run_file(
        "reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total], kl: [return-to-go]}, loss: ppo-clip}}\n"
    )
    row_reward.cache_clear()
    open(run.replace("run.yaml", "reward.yaml"), "w").write("reward: {correct: graders.py:right}\n")  # noqa: SIM115
    data, extras = batch_of(queue_of(run.replace("run.yaml", "reward.yaml"), ROWS[2:]))
    data.batch["token_level_rewards"] = data.batch["rm_scores"] - 0.25 * data.batch["attention_mask"][:, -2:]
    assert TermOfVerl(run)(data, extras).advantages.tolist() == [[0.5, 0.75], [-0.25, 0.0]]


def test_what_cannot_be_had_is_refused_with_its_reason(run_file):
    from payoff.integrations.verl_trainer import TermOfVerl, batch_of

    learning = run_file(
        "reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total, running-mean]}, loss: ppo-clip}}\n"
    )
    with pytest.raises(ConfigError, match="running-mean remembers or learns, and verl's checkpoints would not hold what it knows"):
        TermOfVerl(learning)
    run = run_file(
        "reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total, subtract-values]}, loss: ppo-clip}}\n"
    )
    data, extras = batch_of(queue_of(run, ROWS))
    with pytest.raises(ValueError, match="something reads 'values'"):
        TermOfVerl(run)(data, extras)
    plain = run_file("reward: {correct: graders.py:right}\nterms: {t: {paths: {correct: [total]}, loss: ppo-clip}}\n")
    with pytest.raises(ValueError, match="rows carry no reward_valid"):
        TermOfVerl(plain)(data, [{"score": 1.0}] * 4)


class Batch:
    """What verl calls KVBatchMeta: which rows of the queue are meant."""

    partition_id = "train"

    def __init__(self, keys):
        self.keys, self.tags = keys, [{"status": "success"} for _ in keys]


def test_the_trainer_replaces_what_verls_method_wrote_and_nothing_else(run_file, monkeypatch):
    from omegaconf import OmegaConf

    from payoff.integrations.verl_trainer import trainer_class

    run = run_file(
        RUN.replace("process: graders.py:by_step", "length: length")
        .replace("process: [immediate]", "length: [total]")
        .replace("process: 0.5", "length: 0.0")
    )
    stored = queue_of(run, ROWS)
    written = {}
    queue = types.ModuleType("transfer_queue")
    queue.kv_batch_get = lambda keys, partition_id, select_fields: stored.select(*[f for f in select_fields if f in stored.keys()])  # noqa: SIM118
    queue.kv_batch_put = lambda keys, partition_id, fields: written.update(fields.items()) or Batch(keys)
    monkeypatch.setitem(sys.modules, "transfer_queue", queue)

    class PPOTrainerSync:
        """verl's, as far as our subclass touches it."""

        def __init__(self, config):
            self.config, self.tokenizer = config, Letters()
            assert config.trainer.v1.trainer_mode == "sync"  # which replay buffer it takes depends on the name

        def _compute_advantage(self, batch, metrics):
            metrics["verl"] = 1.0
            written["advantages"] = "verl's"
            return batch

    config = OmegaConf.create(
        {"payoff": {"reward": run}, "algorithm": {"gamma": 1.0, "lam": 1.0}, "trainer": {"v1": {"trainer_mode": "payoff_sync"}}}
    )
    trainer = trainer_class(PPOTrainerSync, "sync")(config)
    metrics = {}
    result = trainer._compute_advantage(Batch(KEYS), metrics)
    assert [row.tolist() for row in written["advantages"].unbind()] == [[1.0] * 4, [-1.0, 0.0, -1.0], [1.0, 1.0], [-1.0]]
    assert set(written) == {"advantages", "returns"}
    assert {"verl", "payoff/correct/mean", "payoff/weighed"} <= set(metrics)
    assert (result.keys, type(trainer).__name__) == (KEYS, "PayoffPPOTrainerSync")
    config.payoff.reward = "answer-match"
    with pytest.raises(ConfigError, match=r"needs \+payoff\.reward=FILE\.yaml, found 'answer-match'"):
        trainer_class(PPOTrainerSync, "sync")(config)


def test_the_names_are_among_verls_trainers_where_its_queue_is_installed():
    pytest.importorskip("transfer_queue")
    from verl.trainer.ppo.v1 import PPOTrainer, get_trainer_cls

    from payoff.integrations.verl_plugin import register

    for mode in ("sync", "colocate_async", "separate_async"):
        ours = get_trainer_cls(f"payoff_{mode}")
        register()  # again, which changes nothing
        assert get_trainer_cls(f"payoff_{mode}") is ours
        assert issubclass(ours, PPOTrainer)
        assert issubclass(ours, get_trainer_cls(mode))
