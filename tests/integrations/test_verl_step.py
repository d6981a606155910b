"""verl's own engine takes a step on a payoff loss with payoff advantages, in one process on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process that imports verl takes seconds


@pytest.fixture
def tiny(tmp_path):
    pytest.importorskip("verl")
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(32)}, unk_token="t3"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1").save_pretrained(tmp_path)
    return tmp_path


def test_a_step_of_verls_engine_raises_what_was_better_than_the_others(tiny):
    command = [sys.executable, str(Path(__file__).with_name("verl_step.py")), str(tiny), str(tiny / "rendezvous")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("FOUND")), "")
    assert line, done.stderr[-3000:]
    found = json.loads(line.removeprefix("FOUND"))
    assert found["advantages"] == [0.5, -1.0, 0.5, 0.0]  # against the mean of the others that have a verdict
    assert found["moved"][0] > 0
    assert found["moved"][2] > 0
    assert found["moved"][1] < 0
    assert {"actor/clip_fraction", "actor/pg_loss", "grad_norm"} <= set(found["metrics"])
