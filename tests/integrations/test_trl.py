"""The conversions against TRL's own trainer: a tiny Llama generates and scores, and TRL's own loss reads what comes back."""

import math

import pytest
import torch

from payoff.integrations.trl import advantages_from_trl, from_trl, to_trl, trl_advantages, with_advantages
from payoff.integrations.trl_rewards import reward_function
from payoff.rewards import resolve_reward
from payoff.rows import from_rows
from payoff.trajectories import Channel, StopReason, constant, outcome

EOS, PAD = 1, 0


def batch(**more):
    """Two prompts of two completions each, as the trainer returns them; `7` is an ordinary token, `1` ends."""
    return {
        "prompt_ids": torch.tensor([[PAD, 4], [PAD, 4], [5, 6], [5, 6]]),
        "prompt_mask": torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1]]),
        "completion_ids": torch.tensor([[7, EOS, PAD], [7, 7, 7], [EOS, PAD, PAD], [7, 7, EOS]]),
        "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]),
        "advantages": torch.tensor([0.5, -0.5, 1.0, -1.0]),
        "num_items_in_batch": torch.tensor(9),
        **more,
    }


INPUTS = [{"prompt": "a", "reference": "1"}] * 2 + [{"prompt": "b", "reference": "2"}] * 2


def test_a_batch_of_trls_becomes_trajectories_worked_by_hand():
    logp = -torch.arange(12.0).reshape(4, 3) / 10
    traj = from_trl(batch(old_per_token_logps=logp, sampling_per_token_logps=logp - 1), INPUTS, ends=[EOS]).check()
    assert traj.length.tolist() == [2, 3, 1, 3]
    assert traj.mask.sum(1).tolist() == [2, 3, 1, 3]
    assert traj.step.tolist() == [[0, 0, -1], [0, 0, 0], [0, -1, -1], [0, 0, 0]]
    assert [StopReason(s).name for s in traj.stop.tolist()] == ["finished", "truncated", "finished", "finished"]
    assert traj.group[0] == traj.group[1] != traj.group[2] == traj.group[3]
    assert set(traj.logp) == {"old", "sampling"}
    assert torch.equal(traj.logp["old"], logp)
    assert traj.items[2] == {"prompt": "b", "reference": "2", "prompt_ids": [5, 6]}
    assert traj.items[0]["prompt_ids"] == [4]


def test_without_the_end_tokens_a_completion_with_room_left_is_finished():
    assert from_trl(batch()).stop.tolist() == [0, 1, 0, 1]


def test_tool_text_exists_and_is_not_the_policys():
    tools = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]])
    traj = from_trl(batch(tool_mask=tools))
    assert traj.length.tolist() == [2, 3, 1, 3]
    assert traj.mask[1].tolist() == [True, False, True]


def test_a_completion_that_trl_has_masked_whole_is_truncated_and_acts_nowhere():
    masked = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    traj = from_trl(batch(completion_mask=masked), ends=[7]).check()
    assert traj.length[1] == 1
    assert not traj.mask[1].any()
    assert traj.stop[1] == StopReason.truncated


def test_a_prompt_that_stands_twice_in_a_batch_is_two_groups():
    twice = batch(prompt_ids=torch.full((4, 2), 5), prompt_mask=torch.ones(4, 2, dtype=torch.long))
    assert len(from_trl(twice).group.unique()) == 1
    group = from_trl(twice, num_generations=2).group
    assert group[0] == group[1] != group[2] == group[3]


def test_a_slice_that_cuts_a_group_keeps_its_halves_apart_from_other_groups():
    part = {name: x[1:] if x.ndim else x for name, x in batch().items()}
    group = from_trl(part, num_generations=2).group
    assert group[0] != group[1] == group[2]


def test_one_number_per_trajectory_stays_one_and_no_verdict_is_zero():
    traj = from_trl(batch())
    value, valid = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True])
    assert trl_advantages(constant(value, valid), traj).tolist() == [1.0, 0.0, 3.0, 4.0]


def test_a_number_per_action_is_zero_off_the_mask_whatever_stands_there():
    traj = from_trl(batch(tool_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]])))
    value = torch.where(traj.mask, 2.0, torch.nan)
    valid = torch.ones(4, 3, dtype=torch.bool)
    valid[3, 0] = False
    assert trl_advantages(Channel(value, valid), traj).tolist() == [[2, 2, 0], [2, 0, 2], [2, 0, 0], [0, 2, 2]]


def test_trajectories_come_back_through_trls_form():
    logp = -torch.ones(4, 3)
    output = batch(ref_per_token_logps=logp, tool_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]))
    traj = from_trl(output, INPUTS)
    again = to_trl(traj, advantages_from_trl(output, traj), pad=PAD)
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "tool_mask"):
        assert torch.equal(again[name], output[name]), name
    assert again["num_items_in_batch"] == 8
    assert torch.equal(again["ref_per_token_logps"] * output["completion_mask"], logp * output["completion_mask"])


def test_other_advantages_leave_the_rest_of_the_batch_as_it_is():
    output = batch()
    traj = from_trl(output)
    changed = with_advantages(output, constant(torch.arange(4.0), torch.ones(4, dtype=torch.bool)), traj)
    assert changed["advantages"].tolist() == [0, 1, 2, 3]
    assert all(changed[name] is output[name] for name in output if name != "advantages")
    assert output["advantages"][0] == 0.5


def one():
    return from_trl(batch()).select(torch.tensor([0]))


def nothing(traj):
    return constant(torch.zeros(len(traj)), torch.ones(len(traj), dtype=torch.bool))


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda: from_trl({"prompt_ids": torch.ones(1, 1)}), "from_trl: the batch has no 'prompt_mask'"),
        (lambda: from_trl(batch(), INPUTS[:2]), "from_trl: inputs must be one per row (4), got 2"),
        (lambda: with_advantages(batch(), nothing(one()), one()), "the trajectories are [1, 2], the batch is [4, 3]"),
        (lambda: to_trl(one().replace(items=()), nothing(one()), pad=PAD), "has no prompt_ids"),
    ],
)
def test_batches_that_do_not_fit_are_one_line(run, says):
    with pytest.raises(ValueError) as caught:
        run()
    assert says in str(caught.value)


# --- the real trainer


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    trl = pytest.importorskip("trl")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *(f"w{k}" for k in range(13))]
    raw = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=EOS,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("trl")
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")  # a folder, because TRL loads its reference anew
    options = trl.GRPOConfig(
        output_dir=str(folder / "runs"), per_device_train_batch_size=4, num_generations=2, max_completion_length=8,
        use_cpu=True, bf16=False, report_to=[], beta=0.1, num_iterations=2, logging_steps=10_000, seed=0,
    )  # fmt: skip
    return trl.GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=lambda completions, **_: [float(len(c.split()) % 3) for c in completions],
        args=options,
        train_dataset=datasets.Dataset.from_list([{"prompt": "w1 w2 w3"}, {"prompt": "w4"}]),
        processing_class=tokenizer,
    )


@pytest.mark.slow
def test_the_real_trainers_batch_is_read_and_its_own_loss_reads_it_back(trainer):
    inputs = [{"prompt": p, "level": k} for k, p in enumerate(("w1 w2 w3", "w1 w2 w3", "w4", "w4"))]
    trainer.model.train()
    output = trainer._generate_and_score_completions(inputs)
    traj = from_trl(output, inputs, num_generations=2, tokenizer=trainer.processing_class).check()
    assert traj.group[0] == traj.group[1] != traj.group[2] == traj.group[3]
    assert [item["level"] for item in traj.items] == [0, 1, 2, 3]
    assert traj.items[2]["prompt_ids"] == trainer.processing_class("w4")["input_ids"]
    assert set(traj.logp) == {"old", "ref"}
    ended = [EOS in row[:n] for row, n in zip(output["completion_ids"].tolist(), traj.length.tolist(), strict=True)]
    assert [s == StopReason.finished for s in traj.stop.tolist()] == ended
    assert traj.items[0]["response"].split() == [t for t in traj.items[0]["tokens"] if t not in ("<eos>", "<pad>")]

    trainer.current_gradient_accumulation_steps = 1
    loss = lambda given: trainer._compute_loss(trainer.model, given).detach()
    theirs = loss(output)
    advantage = advantages_from_trl(output, traj)
    assert torch.allclose(loss(to_trl(traj, advantage, pad=PAD)), theirs, atol=1e-6)
    each = Channel(advantage.value.expand(traj.mask.shape).clone(), traj.exists.clone())
    assert torch.allclose(loss(with_advantages(output, each, traj)), theirs, atol=1e-6)
    assert not torch.allclose(loss(with_advantages(output, each._replace(value=2 * each.value), traj)), theirs, atol=1e-6)


@pytest.mark.slow
def test_a_step_of_trls_own_trainer_with_several_signals_pays_what_they_say_of_its_rows(trainer, tmp_path):
    import datasets
    import trl

    names = ["token-f1", "ifeval", "majority-agreement", "repetition", "stated-confidence", "length"]
    asked = [{"id": "keywords:frequency", "keyword": "w4", "frequency": 2, "relation": "less than"}, {"id": "punctuation:no_comma"}]
    rows = [{"prompt": prompt, "reference": "w4 w5 w6", "instructions": asked} for prompt in ("w1 w2 w3", "w4")]
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_completion_length=8, use_cpu=True,
        bf16=False, report_to=[], max_steps=1, seed=0, save_strategy="no", disable_tqdm=True, logging_steps=1, learning_rate=0.1,
    )  # fmt: skip
    made = trl.GRPOTrainer(
        model=trainer.model,
        reward_funcs=[reward_function(name) for name in names],
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=trainer.processing_class,
    )
    before = [value.detach().clone() for value in made.model.parameters()]
    made.train()
    assert any(not torch.equal(a, b) for a, b in zip(made.model.parameters(), before, strict=True))
    texts, paid = list(made._logs["completion"]), made._logs["rewards"]
    assert list(paid) == names
    said = [{**rows[0], "prompt": p, "response": text} for p, text in zip(made._logs["prompt"], texts, strict=True)]
    traj = from_rows(said)
    for name in names[:-1]:  # rows do not say how many tokens they had
        value, valid = outcome(resolve_reward(name)(traj)[name], traj)
        theirs = [None if x is None or math.isnan(x) else x for x in paid[name]]
        assert theirs == [pytest.approx(x) if ok else None for x, ok in zip(value.tolist(), valid.tolist(), strict=True)], name
    assert theirs == [None] * 4  # none of them states a confidence
    told = made.state.log_history[0]
    assert told["payoff/stated-confidence/no_verdict"] == 1.0
    assert told["payoff/length"] == pytest.approx(told["rewards/length/mean"])
