"""Parity with verl's other estimators and with TRL's way of several rewards, through their own code."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from payoff.advantages.batch import batch_standardise, whiten
from payoff.advantages.group import grpo
from payoff.advantages.group_weights import gpg
from payoff.advantages.optimal_baselines import greedy_baseline, length_weighted_baseline, optimal_token_baseline
from payoff.advantages.pass_at_k import best_of_group
from payoff.credit.returns import return_to_go, total
from payoff.pipeline import weigh
from payoff.trajectories import Channel, Trajectories, constant, place_outcome


def batch(seed: int, *, tools: bool = True, least: int = 2, n: int = 60, t: int = 7, groups: int = 9):
    """Groups of mixed sizes in any order, each of at least `least`; tool text inside; rewards in 0..1, often 0."""
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(2, t + 1, (n,), generator=rng)
    exists = torch.arange(t) < length[:, None]
    mask = exists & ((torch.rand(n, t, generator=rng) > 0.2) if tools else exists)
    mask[:, 0] = True
    group = torch.cat([torch.arange(groups).repeat(least), torch.randint(0, groups, (n - least * groups,), generator=rng)])
    group = group[torch.randperm(n, generator=rng)]
    logits = torch.randn(n, t, 5, generator=rng).log_softmax(-1)
    traj = Trajectories(
        mask=mask,
        length=length,
        group=group,
        step=torch.where(exists, 0, -1).int(),
        stop=torch.zeros(n, dtype=torch.int64),
        actions=torch.zeros(n, t, dtype=torch.int64),
        logp={"old": torch.where(exists, logits[..., 0], 0)},
        extras={"sum_pi_squared": logits.exp().square().sum(-1)},
    )
    reward = torch.where(torch.rand(n, generator=rng) < 0.3, 0, torch.rand(n, generator=rng))
    return place_outcome(reward, torch.ones(n, dtype=torch.bool), traj), traj


def estimator(name: str, channel: Channel, traj: Trajectories, **options) -> torch.Tensor:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    index = np.array([f"prompt-{int(g)}" for g in traj.group], dtype=object)
    return get_adv_estimator_fn(name)(channel.value.clone(), traj.mask.float(), index=index, **options)[0]


def same(ours: Channel, theirs: torch.Tensor, traj: Trajectories | SimpleNamespace, rtol: float = 2e-6) -> None:
    torch.testing.assert_close(ours.value.expand(traj.mask.shape)[traj.mask], theirs[traj.mask], rtol=rtol, atol=2e-6)


@pytest.mark.parametrize("seed", range(2))
def test_verl_opo(seed):
    channel, traj = batch(seed)
    same(length_weighted_baseline(total(channel, traj), traj), estimator("opo", channel, traj), traj)


@pytest.mark.parametrize("seed", range(2))
def test_verl_gpg(seed):
    channel, traj = batch(seed, least=1)
    same(gpg(total(channel, traj), traj, convention="verl"), estimator("gpg", channel, traj), traj, rtol=1e-5)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_verl_grpo_passk(scale):
    channel, traj = batch(3)
    theirs = estimator("grpo_passk", channel, traj, config={"norm_adv_by_std_in_grpo": scale == "std"})
    same(best_of_group(total(channel, traj), traj, scale=scale), theirs, traj)


@pytest.mark.parametrize("seed", range(2))
def test_verl_remax(seed):
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    channel, traj = batch(seed)
    channel = Channel(torch.where(traj.mask, channel.value, 0), channel.valid)  # verl drops what is paid on tool text
    credit = return_to_go(channel, traj)
    first = torch.stack([(traj.group == g).nonzero()[0, 0] for g in range(9)])
    sampled = torch.ones(len(traj), dtype=torch.bool)
    sampled[first] = False
    baselines = credit.value[first, 0][traj.group]  # at the first action, which is an own one
    theirs = get_adv_estimator_fn("remax")(channel.value, baselines, traj.mask.float())[0]
    ours = greedy_baseline(credit, traj.replace(extras={"greedy": ~sampled}))
    assert not ours.valid[first].any()
    same(Channel(ours.value[sampled], ours.valid[sampled]), theirs[sampled], SimpleNamespace(mask=traj.mask[sampled]))


@pytest.mark.parametrize(("name", "align"), [("optimal_token_baseline", "position"), ("tir_optimal_token_baseline", "action")])
def test_verl_optimal_token_baselines(name, align):
    channel, traj = batch(5, tools=align == "action", least=1)  # by position verl's tail is right without tool text only
    paid = torch.rand(traj.mask.shape, generator=torch.Generator().manual_seed(1))
    channel = Channel(torch.where(traj.mask, paid, 0), channel.valid)
    squares = torch.where(traj.exists, traj.extras["sum_pi_squared"], 0)
    theirs = estimator(name, channel, traj, old_log_probs=traj.logp["old"], sum_pi_squared=squares)
    ours = optimal_token_baseline(return_to_go(channel, traj), traj, align=align, squares="sum_pi_squared")
    same(ours, theirs, traj, rtol=1e-5)


def gdpo(weights: dict[str, float], convention: str):
    """Every reward standardised in its group, summed by weight, the batch standardised: a path each, a mix and a last part."""
    last = batch_standardise if convention == "trl" else whiten
    return weigh(
        {name: [functools.partial(grpo, convention=convention)] for name in weights}, mix=weights, then=[last], missing="skip"
    )


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.3)])
def test_verl_gdpo(weights):
    channel, traj = batch(7, tools=False)
    rewards = {name: torch.rand(len(traj), generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ab")}
    prompt = 3
    theirs = estimator(
        "gdpo",
        channel,
        traj,
        config={"gdpo_reward_keys": ["a", "b"], "gdpo_reward_weights": list(weights)},
        non_tensor_batch={name: reward.numpy() for name, reward in rewards.items()},
        batch={
            "prompts": torch.zeros(len(traj), prompt, dtype=torch.int64),
            "attention_mask": torch.cat([torch.ones(len(traj), prompt, dtype=torch.int64), traj.exists.long()], 1),
        },
    )
    known = torch.ones(len(traj), dtype=torch.bool)
    target = gdpo(dict(zip("ab", weights, strict=True)), "verl")
    same(target({name: constant(reward, known) for name, reward in rewards.items()}, traj), theirs, traj, rtol=1e-5)


ONE = [1.0, 0.0, 0.0, 0.0, 0.2, 0.5, 0.25, 1.0, 0.9, 0.1, None, 0.6, 0.3, 0.7, 0.3, 0.3]
OTHER = [0.2, 0.4, 0.4, 9.0, None, 1.0, 2.0, 3.0, 0.0, 1.0, None, 5.0, 2.0, 0.0, 1.0, 7.0]


def first_reward(completions, **_):
    return ONE


def second_reward(completions, **_):
    return OTHER


@pytest.fixture(scope="module")
def tiny():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=1, **sizes)
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["normalize_then_sum", "sum_then_normalize"])
def test_trl_several_rewards(tiny, tmp_path, aggregation):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=16,
            num_generations=4,
            max_completion_length=2,
            beta=0.0,
            report_to=[],
            use_cpu=True,
            bf16=False,
            reward_weights=[1.0, 0.5],
            multi_objective_aggregation=aggregation,
        ),
        reward_funcs=[first_reward, second_reward],
        train_dataset=Dataset.from_list([{"prompt": "a b"}] * 4),
        processing_class=tokenizer,
    )
    trainer.model.train()
    theirs = trainer._generate_and_score_completions([{"prompt": "a b"}] * 16)["advantages"]
    traj = Trajectories(
        mask=torch.ones(16, 1, dtype=torch.bool),
        length=torch.ones(16, dtype=torch.int64),
        group=torch.arange(16) // 4,
        step=torch.zeros(16, 1, dtype=torch.int32),
        stop=torch.zeros(16, dtype=torch.int64),
        actions=torch.zeros(16, 1, dtype=torch.int64),
    )
    rewards = {
        name: constant(torch.tensor([r or 0.0 for r in given]), torch.tensor([r is not None for r in given]))
        for name, given in (("first", ONE), ("second", OTHER))
    }
    weights = {"first": 1.0, "second": 0.5}
    if aggregation == "normalize_then_sum":
        target = gdpo(weights, "trl")
    else:
        paths = {name: [] for name in weights}
        target = weigh(paths, mix=weights, then=[functools.partial(grpo, convention="trl")], missing="skip")
    found = target(rewards, traj)
    assert not found.valid[10]  # scored by neither
    torch.testing.assert_close(found.value[:, 0], theirs, rtol=5e-6, atol=5e-6)
