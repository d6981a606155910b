"""A small Llama with a real tokenizer, made on the spot and stored as `transformers` stores it."""

import pytest
import torch

TEXT = [
    "Compute 3+4 and then subtract 5.\nStep 1: 3+4=7.\nStep 2: 7-5=2.\n\nThe answer is 2.",
    "What is 12 times 3?\nStep 1: 10*3=30.\nStep 2: 2*3=6.\nStep 3: 30+6=36.\n\nThe answer is 36.",
    "Die Größe ist 5 €, naïve Übung: 三十六。 The answer is 36. stop here, then go on.",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def store_llama(folder, *, scale=1.0, bos=True, **shape):
    """Write a Llama with random weights (times `scale`, so that it is not too even) and a byte-level BPE tokenizer to `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
    words.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    if bos:
        words.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    sizes = {
        "vocab_size": len(tokenizer) + 2,  # as many models do: more rows than tokens
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **shape,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """The folder of a small Llama whose next token is neither certain nor quite open."""
    return store_llama(tmp_path_factory.mktemp("llama"), scale=6.0)
