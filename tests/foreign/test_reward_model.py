"""Reward models by name: the model's own score for each row, whatever is padded, batched or sorted around it."""

import pytest
import torch

from payoff.arguments import MissingFieldError
from payoff.foreign import RewardError, foreign_reward
from payoff.rewards import resolve_reward
from payoff.rows import from_rows

TEXT = ["Compute 3+4 and then subtract 5.\nThe answer is 2.", "What is 12 times 3? The answer is 36. Die Größe ist 5 €: 三十六。"]
TEMPLATE = "<|begin|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
ROWS = [
    {"prompt": "3+4=", "response": "7"},
    {"prompt": "What is 12 times 3?", "response": "The answer is 36, since 12 is 10 and 2."},
    {"prompt": "5-3=", "response": "2 x"},
    {"prompt": "Größe?", "response": ""},
    {"prompt": "And then subtract 5.", "response": "I would say that the answer is 2."},
]


def store(folder, *, labels=1, pad=None, template=TEMPLATE, side="right", causal=False, longest=64, dtype=None, **names):
    """A small Llama with a random score and its tokenizer, as `transformers` stores them; pad: what the model's config says."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    words.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template, tokenizer.padding_side = template, side
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=longest, num_labels=labels, **sizes, **names)
    config.pad_token_id = pad
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (LlamaForCausalLM if causal else LlamaForSequenceClassification)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def alone(folder, texts, label=-1):
    """The model's own logits, one text a pass and nothing padded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        passes = [model(input_ids=torch.tensor([tokenizer(t, add_special_tokens=False)["input_ids"]])) for t in texts]
    return [one.logits[0, label].item() for one in passes]


def chat(row):
    return f"<|begin|><|user|>{row['prompt']}<|end|><|assistant|>{row['response']}<|end|>"


def spread(numbers):
    return max(numbers) - min(numbers)


@pytest.mark.parametrize("pad", [None, 1, 2], ids=["no padding token", "the end token pads", "a token of its own pads"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_those_of_every_row_alone_whatever_pads_and_where(tmp_path, scores, pad, side):
    store(tmp_path, pad=pad, side=side)
    expected = alone(tmp_path, [chat(row) for row in ROWS])
    assert spread(expected) > 0.5
    for batch in (1, 2, 5):
        numbers, _ = scores(foreign_reward(f"hf:{tmp_path}?batch={batch}"), ROWS)
        assert numbers == pytest.approx(expected, abs=1e-4)


def test_a_model_without_a_padding_token_reads_the_end_token_when_it_is_the_last(tmp_path):
    unpadded, padded = alone(store(tmp_path / "a"), [chat(ROWS[1])]), alone(store(tmp_path / "b", pad=1), [chat(ROWS[1])])
    assert abs(unpadded[0] - padded[0]) > 1e-3  # so the two conventions of the test above do differ


def test_the_order_of_rows_changes_nothing_and_padding_is_small(tmp_path, scores):
    signal = resolve_reward(f"hf:{store(tmp_path)}?batch=2")
    there = scores(signal, ROWS)[0]
    assert scores(signal, ROWS[::-1])[0] == pytest.approx(there[::-1], abs=1e-5)
    lengths = [len(signal.grader.tokenizer(chat(row), add_special_tokens=False)["input_ids"]) for row in ROWS]
    first, second, third, fourth, _ = sorted(lengths, reverse=True)
    assert signal.stats["padding"] == 2 * ((first - second) + (third - fourth))  # neighbours in length share a pass
    assert signal.stats["tokens"] == 2 * sum(lengths)
    assert signal.stats["passes"] == 6


def test_without_a_template_prompt_and_response_are_one_text(tmp_path, scores):
    store(tmp_path, template=None)
    expected = alone(tmp_path, [f"<|begin|>{row['prompt']}{row['response']}" for row in ROWS])
    assert scores(foreign_reward(f"hf:{tmp_path}"), ROWS)[0] == pytest.approx(expected, abs=1e-4)
    talk = [{"prompt": [{"role": "user", "content": "3+4="}], "response": "7"}]
    assert scores(foreign_reward(f"hf:{tmp_path}"), talk)[0] == pytest.approx(expected[:1], abs=1e-4)
    numbers, reasons = scores(foreign_reward(f"hf:{tmp_path}"), [{**talk[0], "prompt": talk[0]["prompt"] * 2}])
    assert numbers == [None]
    assert "no chat template" in reasons[0]


def test_messages_go_through_the_template(tmp_path, scores):
    store(tmp_path)
    talk = [{"role": "user", "content": "3+4="}, {"role": "assistant", "content": "7"}, {"role": "user", "content": "-5="}]
    text = "<|begin|>" + "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in talk) + "<|assistant|>2<|end|>"
    numbers, _ = scores(foreign_reward(f"hf:{tmp_path}"), [{"prompt": talk, "response": "2"}])
    assert numbers == pytest.approx(alone(tmp_path, [text]), abs=1e-4)


def test_a_template_that_refuses_a_conversation_costs_that_row(tmp_path, scores):
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    store(tmp_path, template=refuses)
    odd = {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "response": "z"}
    numbers, reasons = scores(foreign_reward(f"hf:{tmp_path}"), [odd, ROWS[0]])
    assert numbers[0] is None
    assert "no system role" in reasons[0]
    assert numbers[1] is not None


def test_what_is_too_long_has_no_verdict_unless_cutting_is_asked_for(tmp_path, scores):
    store(tmp_path, longest=32)
    rows = [ROWS[0], {"prompt": "p", "response": "x y " * 30}]
    numbers, reasons = scores(foreign_reward(f"hf:{tmp_path}"), rows)
    assert numbers[0] is not None
    assert numbers[1] is None
    assert reasons[1].endswith("tokens long, and the model reads 32 at most")
    cut = scores(foreign_reward(f"hf:{tmp_path}?truncate=true"), rows)[0]
    assert cut[0] == pytest.approx(numbers[0], abs=1e-5)
    assert cut[1] is not None
    assert scores(foreign_reward(f"hf:{tmp_path}?longest=4"), rows)[0] == [None, None]


def test_of_several_labels_the_last_or_the_named_one_is_paid(tmp_path, scores):
    store(tmp_path, labels=3, id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})
    texts = [chat(row) for row in ROWS]
    for options, label in (("", 2), ("?label=bad", 0), ("?label=1", 1)):
        numbers, _ = scores(foreign_reward(f"hf:{tmp_path}{options}"), ROWS)
        assert numbers == pytest.approx(alone(tmp_path, texts, label), abs=1e-4)
    with pytest.raises(RewardError, match="no label 'goood'; did you mean good"):
        foreign_reward(f"hf:{tmp_path}?label=goood")
    with pytest.raises(RewardError, match="no label '3'"):
        foreign_reward(f"hf:{tmp_path}?label=3")


def test_half_precision_is_near_and_not_the_same(tmp_path, scores):
    store(tmp_path)
    exact, near = (scores(foreign_reward(f"hf:{tmp_path}", dtype=dtype), ROWS)[0] for dtype in ("float32", "bfloat16"))
    assert near != exact
    assert torch.tensor(near).sub(torch.tensor(exact)).abs().max() < 0.5 * spread(exact)


def test_an_encoder_reads_prompt_and_response_as_a_pair(tmp_path, scores):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    config = BertConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0) if parameter.ndim > 1 else None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pairs = [("a b c", "d"), ("a", "e f g h"), ("a d", "d")]
    with torch.inference_mode():
        expected = [model(**tokenizer(a, b, return_tensors="pt")).logits.item() for a, b in pairs]
    rows = [{"prompt": a, "response": b} for a, b in pairs]
    signal = foreign_reward(f"hf:{tmp_path}")
    assert signal.grader.join == "pair"
    assert scores(signal, rows)[0] == pytest.approx(expected, abs=1e-4)


def test_a_model_without_a_trained_head_is_no_reward_model(tmp_path):
    store(tmp_path, causal=True)
    with pytest.raises(RewardError, match=r"not a reward model: its weights lack score\.weight"):
        foreign_reward(f"hf:{tmp_path}")


def test_mistakes_are_said_in_one_line(tmp_path):
    store(tmp_path / "reward-model", template=None)
    for spec, told in [
        (f"hf:{tmp_path}/reward-modle", "did you mean"),
        (f"hf:{tmp_path}/reward-model?dtype=int8", "dtype must be one of"),
        (f"hf:{tmp_path}/reward-model?join=chat", "this tokenizer has none"),
        (f"hf:{tmp_path}/reward-model?batch=0", "batch must be at least 1"),
        (f"hf:{tmp_path}/reward-model?truncat=1", "did you mean truncate"),
        ("hf:nobody/has-such-a-model", "nobody/has-such-a-model"),
    ]:
        with pytest.raises(RewardError) as raised:
            resolve_reward(spec)
        assert told in str(raised.value), spec
        assert "\n" not in str(raised.value)
    with pytest.raises(RewardError, match="neither worker processes nor a deadline"):
        resolve_reward(f"hf:{tmp_path}/reward-model", workers=2)


def test_rows_without_prompt_or_response_have_no_verdict(tmp_path, scores):
    signal = foreign_reward(f"hf:{store(tmp_path)}")
    numbers, reasons = scores(signal, [ROWS[0], {"response": "x"}, {"prompt": "x"}])
    assert numbers[0] is not None
    assert numbers[1:] == [None, None]
    assert "'prompt'" in reasons[1]
    assert "'response'" in reasons[2]
    with pytest.raises(MissingFieldError, match="reads 'prompt', which no row has; the rows have response"):
        signal(from_rows([{"response": "x"}]))


def test_a_score_that_is_no_number_is_no_verdict(tmp_path, scores):
    signal = foreign_reward(f"hf:{store(tmp_path)}")
    with torch.no_grad():
        signal.grader.model.score.weight.fill_(float("nan"))
    assert scores(signal, ROWS[:1]) == ([None], ["gave nan"])
