"""Alarms in TRL: what it logs becomes our metrics, and its own trainer on a gamed reward raises the alarm."""

import numpy as np
import pytest

pytest.importorskip("transformers")

import transformers

from payoff.integrations.trl_alarms import AlarmCallback, metrics_from_trl


def state(step=0, history=(), main=True):
    return transformers.TrainerState(global_step=step, log_history=list(history), is_world_process_zero=main)


def logged(step, truth, **more):
    """What TRL 1 logs in a step, less what nobody reads."""
    return {
        "loss": 0.0,
        "reward": step / 20,
        "reward_std": 0.4,
        "frac_reward_zero_std": 0.25,
        "completions/mean_length": 20.0,
        "entropy": 0.5,
        "rewards/paid/mean": step / 20,
        "rewards/paid/std": 0.4,
        "rewards/answer/mean": truth,
        "rewards/answer/std": 0.1,
        **more,
    }


def falling(step):
    return 0.9 - step / 60 + 0.03 * np.sin(5 * step)


def run(callback, logs, *, state_of=state, first=1):
    """Log as transformers' Trainer does: the history first, then the callbacks."""
    control, at = transformers.TrainerControl(), state_of()
    callback.on_train_begin(None, at, control)
    for step, entry in enumerate(logs, first):
        at.global_step = step
        at.log_history.append({**entry, "step": step})
        callback.on_log(None, at, control, logs=entry)
    return at, control


GAMED = [logged(k, falling(k)) for k in range(1, 41)]


def test_what_trl_logs_becomes_the_metrics_of_our_loop():
    assert metrics_from_trl(logged(2, 0.5)) == {
        "reward": 0.1,
        "zero_spread": 0.25,
        "length": 20.0,
        "entropy": 0.5,
        "reward/paid": 0.1,
        "reward/answer": 0.5,
    }
    assert metrics_from_trl({"eval_reward": 1.0, "eval_rewards/answer/mean": 0.5}) == {}


@pytest.mark.parametrize(("given", "name"), [({"checker": "answer"}, "checker-part"), ({"truth": "answer"}, "reward-truth-part")])
def test_a_reward_function_of_weight_zero_is_the_checker_or_the_truth(given, name):
    told = []
    at, control = run(AlarmCallback(**given, tell=told.append), GAMED)
    assert [(alarm.name, alarm.update) for alarm in told] == [(name, 32)]
    assert at.log_history[31][f"alarm/{name}"] == told[0].severity
    assert not any(key.startswith("alarm/") for entry in at.log_history[:31] for key in entry)
    assert not control.should_training_stop


def test_truth_of_evaluations_goes_with_the_step_that_follows_and_costs_no_row():
    logs = []
    callback = AlarmCallback(truth="answer", window=64)
    for k in range(1, 65):
        entry = {name: value for name, value in logged(k, 0.0).items() if not name.startswith("rewards/answer")}
        logs += [(k, entry)]
        if k % 8 == 0:
            logs += [(k, {"eval_reward": 1.0, "eval_rewards/answer/mean": 0.9 - k / 100})]
    at, control = state(), transformers.TrainerControl()
    for step, entry in logs:
        at.global_step = step
        callback.on_log(None, at, control, logs=dict(entry))
    assert callback.alarms.seen == 64
    known = [(row["update"], row["truth"]) for row in callback.alarms.rows if "truth" in row]
    assert known == [(k + 1, 0.9 - k / 100) for k in range(8, 64, 8)]
    assert [alarm.name for alarm in callback.alarms.raised] == ["reward-truth-part"]


def test_an_alarm_can_end_training_and_only_the_main_process_tells():
    told = []
    callback = AlarmCallback(checker="answer", stop_on=["checker-part"], tell=told.append)
    _, control = run(callback, GAMED, state_of=lambda: state(main=False))
    assert control.should_training_stop
    assert not told
    with pytest.raises(ValueError, match="'checker-parts' is no alarm; there are reward-truth-part, checker-part"):
        AlarmCallback(stop_on=["checker-parts"])


def test_a_run_that_continues_takes_its_log_history_and_tells_nothing_twice():
    whole, told = AlarmCallback(checker="answer"), []
    at, _ = run(whole, GAMED[:36])
    later = AlarmCallback(checker="answer", tell=told.append)
    run(later, GAMED[36:], state_of=lambda: state(36, at.log_history), first=37)
    assert not told
    assert later.alarms.raised == whole.alarms.raised
    early = AlarmCallback(checker="answer", tell=told.append)
    run(early, GAMED[20:], state_of=lambda: state(20, at.log_history[:20]), first=21)
    assert [alarm.update for alarm in told] == [32]


def test_the_summary_at_the_end_and_a_step_logged_twice_are_no_rows():
    callback = AlarmCallback()
    at, control = run(callback, GAMED[:3])
    callback.on_log(None, at, control, logs=dict(GAMED[2]))
    callback.on_log(None, at, control, logs={"train_runtime": 1.0, "reward": 1.0})
    callback.on_log(None, at, control, logs=None)
    assert callback.alarms.seen == 3


def test_by_default_a_warning_is_logged(caplog):
    run(AlarmCallback(checker="answer"), GAMED)
    (record,) = caplog.records
    assert record.getMessage().startswith("finding checker-part: Over steps 1 to 32 the reward rises by ")


# --- the real trainer


def paid_for_one_word(completions, **_):
    """The planted flaw: it pays for one word, wherever it stands."""
    return [c.split().count("w5") / 8 for c in completions]


def variety(completions, **_):
    """What was wanted: different words."""
    return [len(set(c.split())) / 8 for c in completions]


@pytest.mark.slow
def test_the_real_trainer_on_a_gamed_reward_raises_the_finding_and_on_the_truth_none(tmp_path):
    datasets, trl, torch = (pytest.importorskip(name) for name in ("datasets", "trl", "torch"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<eos>", "<unk>", *(f"w{k}" for k in range(13))]
    raw = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    found = {}
    for name, rewards in (("gamed", [paid_for_one_word, variety]), ("clean", [variety, paid_for_one_word])):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        )  # fmt: skip
        options = trl.GRPOConfig(
            output_dir=str(tmp_path / name), per_device_train_batch_size=16, num_generations=8, max_completion_length=8,
            use_cpu=True, bf16=False, report_to=[], beta=0.0, logging_steps=1, max_steps=64, learning_rate=3e-3, seed=0,
            reward_weights=[1.0, 0.0], save_strategy="no", lr_scheduler_type="constant", disable_tqdm=True,
        )  # fmt: skip
        callback = AlarmCallback(truth="variety")
        trainer = trl.GRPOTrainer(
            model=transformers.LlamaForCausalLM(config),
            reward_funcs=rewards,
            args=options,
            train_dataset=datasets.Dataset.from_list([{"prompt": "w1 w2 w3"}, {"prompt": "w4"}]),
            processing_class=tokenizer,
            callbacks=[callback],
        )
        trainer.train()
        found[name] = {alarm.name: alarm for alarm in callback.alarms.raised}
        assert callback.alarms.seen == 64
        marked = {key for entry in trainer.state.log_history for key in entry if key.startswith("alarm/")}
        assert marked == {f"alarm/{alarm}" for alarm in found[name]}
    assert "reward-truth-part" in found["gamed"]
    assert not any(alarm.kind == "finding" for alarm in found["clean"].values())
