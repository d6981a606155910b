"""A language model small enough to train on a CPU while one watches: random weights, one token per character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHARACTERS = "0123456789+=;# \n"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}={% endfor %}"


def tokenizer() -> Any:
    """One token per character, and three special ones in front."""
    words = ["<pad>", "<end>", "<unknown>", *CHARACTERS]
    raw = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unknown>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        padding_side="left",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def model(folder: Path, *, seed: int = 0, width: int = 32) -> str:
    """A model of Llama's kind with random weights, written to a folder with its tokenizer; gives the folder's name."""
    words = tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
