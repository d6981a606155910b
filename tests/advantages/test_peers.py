"""Parity with verl's registered estimators and with TRL's trainers, through their own code."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from payoff.advantages.batch import batch_standardise, group_mean_batch_std, reinforce_plus_plus, reinforce_plus_plus_baseline
from payoff.advantages.group import dr_grpo, grpo, leave_one_out
from payoff.credit.returns import return_to_go, total
from payoff.trajectories import Channel, Trajectories, constant, place_outcome


def batch(seed: int, n: int = 60, t: int = 7, groups: int = 9):
    """Groups of mixed sizes in any order, tool text inside, outcome rewards between 0 and 1 or equal within a group."""
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(1, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    mask = exists & (torch.rand(n, t, generator=rng) > 0.2)
    group = torch.cat([torch.randint(0, groups, (n - 1,), generator=rng), torch.tensor([groups])])  # the last is a group of one
    traj = Trajectories(
        mask=mask,
        length=length,
        group=group,
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
    )
    reward = torch.where(group % 4 == 0, 0.5, torch.rand(n, generator=rng))  # 0.5: equal, and exact in verl's mean too
    return place_outcome(reward, torch.ones(n, dtype=torch.bool), traj), traj


def estimator(name: str, channel: Channel, traj: Trajectories, **options) -> torch.Tensor:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    index = np.array([f"prompt-{int(g)}" for g in traj.group], dtype=object)
    if name != "reinforce_plus_plus":
        options["index"] = index
    return get_adv_estimator_fn(name)(channel.value.clone(), traj.mask.float(), **options)[0]


def same(ours: Channel, theirs: torch.Tensor, traj: Trajectories | SimpleNamespace, rtol: float = 2e-6) -> None:
    mask = traj.mask
    torch.testing.assert_close(ours.value.expand(mask.shape)[mask], theirs[mask], rtol=rtol, atol=2e-6)


def same_in(rows: torch.Tensor, ours: Channel, theirs: torch.Tensor, traj: Trajectories) -> None:
    same(Channel(ours.value[rows], ours.valid[rows]), theirs[rows], SimpleNamespace(mask=traj.mask[rows]))


@pytest.mark.parametrize("seed", range(3))
def test_verl_grpo(seed):
    channel, traj = batch(seed)
    ours = grpo(total(channel, traj), traj, convention="verl")
    same(ours, estimator("grpo", channel, traj), traj)
    same(ours, estimator("grpo_vectorized", channel, traj), traj)


@pytest.mark.parametrize("seed", range(3))
def test_verl_grpo_without_std_is_dr_grpo_but_for_groups_of_one(seed):
    channel, traj = batch(seed)
    ours = dr_grpo(total(channel, traj), traj)
    theirs = estimator("grpo", channel, traj, norm_adv_by_std_in_grpo=False)
    alone = traj.group.bincount()[traj.group] == 1
    assert alone.any()
    assert ours.value[alone].abs().max() == 0
    same_in(~alone, ours, theirs, traj)


@pytest.mark.parametrize("seed", range(3))
def test_verl_rloo(seed):
    channel, traj = batch(seed)
    ours = leave_one_out(total(channel, traj), traj)
    same(ours, estimator("rloo_vectorized", channel, traj), traj)
    several = traj.group.bincount()[traj.group] > 1  # of a group of one the loop version keeps the raw reward
    same_in(several, ours, estimator("rloo", channel, traj), traj)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_verl_reinforce_plus_plus(gamma):
    channel, traj = batch(5)
    channel = Channel(torch.where(traj.mask, channel.value, 0), channel.valid)  # verl drops what is paid on tool text
    theirs = estimator("reinforce_plus_plus", channel, traj, config=SimpleNamespace(gamma=gamma))
    credit = return_to_go(channel, traj, discount=gamma, per="action")
    same(reinforce_plus_plus(credit, traj, convention="verl"), theirs, traj, rtol=1e-5)


def test_verl_reinforce_plus_plus_baseline():
    channel, traj = batch(6)
    theirs = estimator("reinforce_plus_plus_baseline", channel, traj)
    same(reinforce_plus_plus_baseline(total(channel, traj), traj, convention="verl"), theirs, traj, rtol=1e-5)


def test_verl_itself_gives_equal_rewards_a_gradient_and_ours_does_not():
    traj = batch(0)[1].select(torch.arange(12)).replace(group=torch.zeros(12, dtype=torch.int64))
    channel = place_outcome(torch.full((12,), 0.97), torch.ones(12, dtype=torch.bool), traj)
    assert estimator("grpo", channel, traj).abs().max() > 0
    assert grpo(total(channel, traj), traj, convention="verl").value.abs().max() == 0


REWARDS = [1.0, 0.0, 0.0, 0.0, None, 0.5, 0.25, 1.0, 0.9, None, None, None, 0.3, 0.3, 0.3, 0.3]


def four_groups_of_four():
    known = torch.tensor([r is not None for r in REWARDS])
    value = torch.tensor([float("nan") if r is None else r for r in REWARDS])
    traj = Trajectories(
        mask=torch.ones(16, 1, dtype=torch.bool),
        length=torch.ones(16, dtype=torch.int64),
        group=torch.arange(16) // 4,
        step=torch.zeros(16, 1, dtype=torch.int32),
        stop=torch.zeros(16, dtype=torch.int64),
        actions=torch.zeros(16, 1, dtype=torch.int64),
    )
    return constant(value, known), traj


def preset_reward(completions, **_):
    return REWARDS


@pytest.fixture(scope="module")
def tiny():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def trainer_advantages(tiny, folder, trainer, config, **options) -> torch.Tensor:
    from datasets import Dataset

    model, tokenizer = tiny
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=2,
        beta=0.0,
        report_to=[],
        use_cpu=True,
        bf16=False,
        **options,
    )
    made = trainer(
        model=model,
        args=arguments,
        reward_funcs=preset_reward,
        train_dataset=Dataset.from_list([{"prompt": "a b"}] * 4),
        processing_class=tokenizer,
    )
    made.model.train()
    return made._generate_and_score_completions([{"prompt": "a b"}] * 16)["advantages"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale_rewards", "ours"),
    [
        ("group", lambda credit, traj: grpo(credit, traj, convention="trl")),
        ("batch", group_mean_batch_std),
        ("none", dr_grpo),
    ],
)
def test_trl_grpo_trainer(tiny, tmp_path, scale_rewards, ours):
    from trl import GRPOConfig, GRPOTrainer

    theirs = trainer_advantages(tiny, tmp_path, GRPOTrainer, GRPOConfig, scale_rewards=scale_rewards)
    result = ours(*four_groups_of_four()).value.squeeze(1)
    equal = slice(12, 16)  # TRL's rounding error over 1e-4; ours is exactly 0
    assert theirs[equal].abs().max() < 1e-3
    assert result[equal].abs().max() == 0
    torch.testing.assert_close(result[:12], theirs[:12], rtol=2e-6, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [False, True])
def test_trl_rloo_trainer(tiny, tmp_path, normalise):
    from trl import RLOOConfig, RLOOTrainer

    theirs = trainer_advantages(tiny, tmp_path, RLOOTrainer, RLOOConfig, normalize_advantages=normalise)
    credit, traj = four_groups_of_four()
    # a rollout that alone is scored in its group is unknown to TRL's batch statistics, where ours counts its 0
    credit.valid[8] = False
    result = leave_one_out(credit, traj)
    if normalise:
        result = batch_standardise(result, traj)
    torch.testing.assert_close(result.value.squeeze(1), theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_async_grpo_rollout_worker(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    worker = pytest.importorskip("trl.experimental.async_grpo.async_rollout_worker")
    loop = object.__new__(worker._AsyncRolloutLoop)
    loop.reward_func_names, loop._env_reward_types, loop._provides_rollout_reward = ["preset"], [], False
    credit, traj = four_groups_of_four()
    theirs = []
    for k in range(4):
        scores = REWARDS[4 * k : 4 * k + 4]
        loop.reward_funcs = [lambda completions, scores=scores, **_: scores]
        row = SimpleNamespace(input_ids=[1], completion_mask=[1], old_log_probs=[0.0])
        group = SimpleNamespace(
            prompts=[[]] * 4,
            completions=[[]] * 4,
            completions_ids=[[1]] * 4,
            completions_sequences=[[row]] * 4,
            reward_kwargs={},
            tool_call_counts=[0] * 4,
            tool_failure_counts=[0] * 4,
            env_rewards=[None] * 4,
            rollout_rewards=[None] * 4,
            model_version=0,
            group_id=k,
        )
        theirs += [sample.advantage for sample in asyncio.run(loop._score_group(group))]
    ours = grpo(credit, traj, convention="trl-async").value.squeeze(1)
    torch.testing.assert_close(ours, torch.tensor(theirs), rtol=2e-6, atol=2e-6)


# Trainers that are not installed here, their formulas said again in plain Python on one group.
PLAIN = {
    "openrlhf": lambda r: (r - r.mean()) / (r.std() + 1e-9),
    "skyrl": lambda r: (r - r.mean()) / (r.std() + 1e-6),
    "rllm": lambda r: (r - r.mean()) / (r.std(correction=0) + 1e-6),
    "open-instruct": lambda r: (r - r.mean()) / (r.std(correction=0) + 1e-8),
    "prime-rl": lambda r: r - r.mean(),
    "nemo-rl": lambda r: torch.stack([_nemo(r, i) for i in range(len(r))]),
}


def _nemo(r: torch.Tensor, i: int) -> torch.Tensor:
    others = torch.cat([r[:i], r[i + 1 :]])
    std = others.std() if len(others) > 1 else torch.tensor(0.0)
    centred = r[i] - others.mean()
    return centred / (std + 1e-6) if std > 0 else centred


@pytest.mark.parametrize("convention", PLAIN)
def test_conventions_of_trainers_that_cannot_be_imported_here(convention):
    rng = torch.Generator().manual_seed(1)
    rewards = [torch.rand(size, generator=rng, dtype=torch.float64) for size in (2, 3, 4, 8, 16)]
    rewards += [torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.3] * 5 + [0.9], dtype=torch.float64)]
    order = torch.randperm(sum(map(len, rewards)), generator=rng)
    traj = Trajectories(
        mask=torch.ones(len(order), 1, dtype=torch.bool),
        length=torch.ones(len(order), dtype=torch.int64),
        group=torch.cat([torch.full((len(r),), k) for k, r in enumerate(rewards)])[order],
        step=torch.zeros(len(order), 1, dtype=torch.int32),
        stop=torch.zeros(len(order), dtype=torch.int64),
        actions=torch.zeros(len(order), 1, dtype=torch.int64),
    )
    ours = grpo(constant(torch.cat(rewards)[order], torch.ones(len(order), dtype=torch.bool)), traj, convention=convention)
    theirs = torch.cat([PLAIN[convention](r) for r in rewards])[order]
    torch.testing.assert_close(ours.value.squeeze(1), theirs, rtol=1e-9, atol=1e-9)
