import json
import shutil

import pytest
import torch

from payoff.pipeline import Start
from payoff.policies.lm import LanguageModel
from payoff.policies.pretrained import HubModel, HubTokenizer, pretrained
from payoff.trajectories import StopReason

PROMPTS = ["What is 3+4?", "Step", "Compute 三十六 € and then go on, stop here", "36."]
STARTS = [Start(str(i), {"prompt": prompt}) for i, prompt in enumerate(PROMPTS)]


def seed(number=0):
    return torch.Generator().manual_seed(number)


def plain(network, item, actions):
    """Log-probabilities of a response from one unpadded row."""
    ids = torch.tensor([[*item["prompt_ids"], *actions]])
    with torch.no_grad():
        logits = network(input_ids=ids).logits[0, len(item["prompt_ids"]) - 1 : -1]
    return logits.float().log_softmax(-1)[torch.arange(len(actions)), torch.tensor(actions)]


def agrees_with_the_unpadded_row(policy, traj, atol=1e-4):
    evaluated = policy.evaluate(traj).logp
    for row, item in enumerate(traj.items):
        n = int(traj.length[row])
        expected = plain(policy.model.network, item, traj.actions[row, :n].tolist())
        torch.testing.assert_close(traj.logp["old"][row, :n], expected, atol=atol, rtol=0)
        torch.testing.assert_close(evaluated[row, :n], expected, atol=atol, rtol=0)


SIZES = {"vocab_size": 332, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
NETWORKS = {
    "gpt2 (learned positions)": ("GPT2LMHead", {"vocab_size": 332, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neox (parallel blocks)": ("GPTNeoX", {**SIZES, "max_position_embeddings": 64}),
    "mistral (window of 6)": ("Mistral", {**SIZES, "num_key_value_heads": 2, "sliding_window": 6}),
    "qwen3": ("Qwen3", {**SIZES, "num_key_value_heads": 2, "head_dim": 8}),
    "gemma2 (capped logits, window)": (
        "Gemma2",
        {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 2.0},
    ),
    "granite (scaled logits)": ("Granite", {**SIZES, "num_key_value_heads": 2, "logits_scaling": 3.0}),
    "bloom (no positions)": ("Bloom", {"vocab_size": 332, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_families_of_models_agree_with_their_unpadded_rows(name, llama):
    import transformers

    family, sizes = NETWORKS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family.removesuffix('LMHead')}Config")(**sizes, bos_token_id=0, eos_token_id=1)
    kind = f"{family}Model" if family.endswith("LMHead") else f"{family}ForCausalLM"
    network = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    words = transformers.AutoTokenizer.from_pretrained(llama)
    model = HubModel(network)
    policy = LanguageModel(model, HubTokenizer(words, vocabulary=332, ends=frozenset({1})), max_tokens=14, stop=("t",))
    traj = policy.rollout(STARTS, 3, seed()).check()
    assert len(set(traj.length.tolist())) >= 3
    agrees_with_the_unpadded_row(policy, traj)
    again = policy.resume(traj, torch.tensor([0, 4, 7]), torch.tensor([3, 0, 1]).minimum(traj.length[[0, 4, 7]] - 1), 2, seed())
    agrees_with_the_unpadded_row(policy, again)


def test_dropout_never_acts(llama):
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=332, n_positions=64, n_embd=32, n_layer=1, n_head=4, resid_pdrop=0.5, embd_pdrop=0.5
    )
    words = HubTokenizer(transformers.AutoTokenizer.from_pretrained(llama), vocabulary=332, ends=frozenset({1}))
    policy = LanguageModel(HubModel(transformers.GPT2LMHeadModel(config)), words, max_tokens=6)
    policy.train()
    traj = policy.rollout(STARTS, 2, seed())
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], atol=1e-4, rtol=0)


def test_bfloat16_weights_give_float32_log_probabilities(llama):
    policy = pretrained(model=llama, dtype="bfloat16", max_tokens=8)
    traj = policy.rollout(STARTS, 2, seed())
    evaluated = policy.evaluate(traj).logp
    assert evaluated.dtype == traj.logp["old"].dtype == torch.float32
    assert next(policy.model.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(evaluated, traj.logp["old"], atol=0.3, rtol=0)


# --- text


def test_the_prompt_begins_as_its_tokenizer_begins_texts(llama):
    policy = pretrained(model=llama, max_tokens=2)
    assert policy.tokenizer.prompt("Step")[1][0] == 0  # the begin token, once
    assert policy.tokenizer.prompt("Step")[1].count(0) == 1


def test_messages_go_through_the_chat_template_and_text_only_if_asked(llama):
    messages = [{"role": "user", "content": "36."}]
    written = "<|user|>36.<|end|><|assistant|>"
    policy = pretrained(model=llama, max_tokens=3, stop=())
    traj = policy.rollout([Start("a", {"prompt": messages})], 1, seed())
    assert traj.items[0]["prompt"] == written
    assert traj.items[0]["messages"] == messages
    assert policy.tokenizer.tokenizer.decode(traj.items[0]["prompt_ids"]) == written  # no second begin token
    assert policy.rollout([Start("a", {"prompt": "36."})], 1, seed()).items[0]["prompt"] == "36."
    asked = pretrained(model=llama, max_tokens=3, chat=True).rollout([Start("a", {"prompt": "36."})], 1, seed())
    assert asked.items[0]["prompt_ids"] == traj.items[0]["prompt_ids"]
    bare = traj.replace(items=[{"prompt": written, "messages": messages}])
    assert torch.equal(policy.evaluate(bare).logp, policy.evaluate(traj).logp)


def test_a_response_ends_at_every_end_token_and_does_not_show_it(llama, tmp_path):
    folder = tmp_path / "two_ends"
    shutil.copytree(llama, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 40]}))
    policy = pretrained(model=str(folder), max_tokens=40)
    assert policy.tokenizer.ends == {1, 40}
    traj = policy.rollout(STARTS[1:2], 200, seed())
    over = traj.stop == StopReason.finished
    last = traj.actions[torch.arange(200), traj.length - 1]
    assert set(last[over].tolist()) == {1, 40}
    assert not set(last[~over].tolist()) & {1, 40}
    shown = policy.tokenizer.tokenizer.convert_ids_to_tokens(40)
    for row in over.nonzero()[:, 0].tolist():
        ids = traj.actions[row, : traj.length[row]].tolist()
        assert traj.items[row]["response"] == policy.tokenizer.decode(ids[:-1])
        assert traj.items[row]["tokens"][-1] in ("<|end|>", shown)


def test_pieces_of_a_byte_level_tokenizer_join_to_its_text(llama):
    words = pretrained(model=llama).tokenizer
    text = "Step 1: 3+4=7.\n\n The answer\tis   36"
    ids = words.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(words.pieces[i] for i in ids) == text == words.decode(ids)
    assert len(words.pieces) == len(words.shown) == 332
    assert words.pieces[0] == words.pieces[1] == words.pieces[331] == ""
    assert words.shown[1] == "<|end|>"
    assert words.shown[331] == "<331>"
    part = words.tokenizer("三", add_special_tokens=False)["input_ids"]
    assert words.decode(part) == "三"


def test_pieces_keep_the_space_that_some_tokenizers_drop_from_a_first_word():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE(unk_token="<unk>"))
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    built.train_from_iterator(
        ["a the answer is the sum a"] * 3, trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="</s>", unk_token="<unk>")
    words = HubTokenizer(tokenizer, vocabulary=len(tokenizer), ends=frozenset({1}))
    the = tokenizer.convert_tokens_to_ids("\u2581the")
    assert tokenizer.decode([the]) == "the"
    assert words.pieces[the] == " the"


def test_a_stop_string_over_several_tokens_ends_the_response(llama):
    policy = pretrained(model=llama, max_tokens=12, stop=("on th", "s4"))
    ids = policy.tokenizer.tokenizer("and on then", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    words = policy._token_text()
    for t in range(len(ids)):
        done = words.ended(torch.tensor(ids[t : t + 1]), lambda place, size, t=t: ids[: t + 1][-size:])
        assert bool(done[0]) == ("on th" in policy.tokenizer.decode(ids[: t + 1]))


# --- LoRA


def test_lora_trains_adapters_only_and_its_reference_is_the_base_without_a_copy(llama):
    policy, base = pretrained(model=llama, lora={"r": 4}, max_tokens=8), pretrained(model=llama, max_tokens=8)
    learned = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    traj = policy.rollout(STARTS, 2, seed())
    assert torch.equal(policy.evaluate(traj).logp, base.evaluate(traj).logp)  # a fresh adapter changes nothing
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    traj = policy.rollout(STARTS, 2, seed())
    frozen = policy.reference()
    assert list(frozen.parameters()) == []
    assert torch.equal(frozen.evaluate(traj).logp, base.evaluate(traj).logp)
    assert (frozen.evaluate(traj).logp - policy.evaluate(traj).logp).abs().max() > 0.1
    assert torch.equal(frozen.rollout(STARTS, 2, seed(3)).actions, base.rollout(STARTS, 2, seed(3)).actions)
    torch.testing.assert_close(policy.evaluate(traj).logp, traj.logp["old"], atol=1e-4, rtol=0)  # and is on again
    assert frozen.reference().model is frozen.model


def test_adapters_are_drawn_from_their_seed_and_leave_the_global_generator_alone(llama):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    a, b, c = (
        {n: p.detach().clone() for n, p in pretrained(model=llama, lora={"r": 2}, seed=s).named_parameters() if "lora_A" in n}
        for s in (0, 0, 1)
    )
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


# --- mistakes


def broken(llama, folder, change):
    shutil.copytree(llama, folder)
    change(folder)
    return str(folder)


def test_every_mistake_is_one_line(llama, tmp_path):
    from safetensors.torch import load_file, save_file

    def no_tokenizer(folder):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)

    def lose_a_weight(folder):
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    (tmp_path / "empty").mkdir()
    cases = [
        ({"model": "/no/such/folder"}, "no folder '/no/such/folder'"),
        ({"model": "./nowhere"}, "no folder './nowhere'"),
        ({"model": str(tmp_path / "empty")}, "holds no model"),
        ({"model": "someone/some-model"}, "cannot get the model 'someone/some-model' from the hub"),
        ({"model": broken(llama, tmp_path / "w", lambda f: (f / "model.safetensors").unlink())}, "cannot load the model in folder"),
        (
            {"model": broken(llama, tmp_path / "c", lambda f: (f / "config.json").write_text("{"))},
            "cannot load the model in folder",
        ),
        ({"model": broken(llama, tmp_path / "s", lambda f: (f / "model.safetensors").write_bytes(b"x"))}, "cannot load the model"),
        ({"model": broken(llama, tmp_path / "t", no_tokenizer)}, "cannot load the tokenizer in folder"),
        ({"model": llama, "dtype": "int8"}, "dtype must be one of .*, got 'int8'"),
        ({"model": llama, "device": "gpu7"}, "device 'gpu7' cannot be used"),
        ({"model": llama, "lora": {"rank": 3}}, "unknown LoRA option 'rank'; did you mean r\\?"),
        ({"model": llama, "lora": {"lora_alfa": 3}}, "unknown LoRA option 'lora_alfa'; did you mean lora_alpha?"),
        ({"model": llama, "lora": {"r": -1}}, "LoRA: .*-1"),
        ({"model": llama, "lora": {"target_modules": ["wq"]}}, r"target_modules \['wq'\] not found; .* are \['down_proj'"),
        ({"model": llama, "lora": {"target_modules": ".*wq"}}, r"target_modules '\.\*wq' not found"),
        ({"model": llama, "top_p": 3.0}, "top_p must be above 0"),
        ({"model": broken(llama, tmp_path / "l", lose_a_weight)}, "lacks 1 of its weights, such as model.norm.weight"),
    ]
    for options, said in cases:
        with pytest.raises(ValueError, match=said) as caught:
            pretrained(**options)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_prompts_a_tokenizer_cannot_take_are_named(llama, tmp_path):
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(llama)
    for prompt in (3, [1, 2], [{"content": "no role"}], {"role": "user", "content": "one message"}):
        with pytest.raises(ValueError, match="must be text or a list of messages"):
            HubTokenizer(words, vocabulary=332, ends=frozenset()).prompt(prompt)
    words.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        HubTokenizer(words, vocabulary=332, ends=frozenset()).prompt([{"role": "user", "content": "1"}])
    with pytest.raises(ValueError, match="chat is true, and this tokenizer has no chat template"):
        HubTokenizer(words, vocabulary=332, ends=frozenset(), chat=True)
