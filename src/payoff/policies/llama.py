"""Llama and its near relatives in `transformers`, seen as the pieces that `payoff.policies.decoder` runs.

Same weights, same numbers, without the per-token Python of the general model, and without computing a shared prompt again for each
of its responses. Adapters stay in place, because projections are called as the modules they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from payoff.policies.decoder import Places

_KNOWN = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})  # whose angles do not depend on how long the text gets


def as_decoder(network: Any) -> LlamaDecoder | None:
    """The pieces of a causal model of `transformers`, or None where it is of another make and has to be run as it is.

    Llama, Mistral, Qwen 2 and Qwen 3 qualify with full attention, unless their rotation changes with the length of the text, or
    the model is spread over several devices.
    """
    if type(network).__name__ not in _KNOWN or len(set(getattr(network, "hf_device_map", {}).values())) > 1:
        return None
    config, inner = network.config, network.model
    windows = [kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if windows or window is not None or getattr(inner.rotary_emb, "rope_type", None) not in _ROTATIONS:
        return None
    return LlamaDecoder(network)


class LlamaDecoder:
    """A Llama-like model as its pieces; it owns no weights, and changes with those of the model."""

    def __init__(self, network: Any) -> None:
        self.inner, self.head = network.model, network.get_output_embeddings()
        self.layers: Sequence[LlamaLayer] = [LlamaLayer(layer) for layer in self.inner.layers]
        attention, size = self.inner.layers[0].self_attn, self.layers[0].size
        self.scale: float | None = attention.scaling
        self.cache_shape = (int(attention.k_proj.out_features) // size, size)
        self.context: int | None = None  # positions are rotations, and there is one for every number

    def places(self, positions: Tensor) -> Places:
        """Cosine and sine of the angles that these positions turn queries and keys by."""
        cosine, sine = self.inner.rotary_emb(self.inner.embed_tokens.weight, positions[None])
        return cosine[0][:, None], sine[0][:, None]

    def read_in(self, tokens: Tensor, places: Places) -> Tensor:
        """The embeddings of these tokens."""
        return self.inner.embed_tokens(tokens)

    def read_out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the normalised states they are read from."""
        state = _norm(self.inner.norm)(x)
        return _product(self.head)(state), state


class LlamaLayer:
    """One layer of such a model, its weights taken out once."""

    def __init__(self, layer: Any) -> None:
        attention, perceptron = layer.self_attn, layer.mlp
        self.size = int(attention.head_dim)
        self.first, self.second = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.query, self.key, self.value = (_product(m) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
        self.out, self.gate, self.up = _product(attention.o_proj), _product(perceptron.gate_proj), _product(perceptron.up_proj)
        self.down, self.activation = _product(perceptron.down_proj), perceptron.act_fn
        self.norms = (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None

    def project(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned by their positions, and values."""
        x = self.first(x)
        query, key, value = (product(x).unflatten(-1, (-1, self.size)) for product in (self.query, self.key, self.value))
        if self.norms is not None:
            query, key = self.norms[0](query), self.norms[1](key)
        return _turned(query, *places), _turned(key, *places), value

    def absorb(self, x: Tensor, seen: Tensor) -> Tensor:
        """The states after what attention saw, and after the gated perceptron."""
        x = x + self.out(seen)
        inner = self.second(x)
        return x + self.down(self.activation(self.gate(inner)) * self.up(inner))


def _product(module: Any) -> Callable[[Tensor], Tensor]:
    """The module's product; one that is more than a plain linear layer (an adapter, a quantised one) is called as it is."""
    return partial(F.linear, weight=module.weight, bias=module.bias) if type(module) is nn.Linear else module


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    """Division by the root mean square over the last dimension, in float32, then the module's scale."""
    weight, epsilon = module.weight, module.variance_epsilon

    def normalised(x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
        return weight * wide.to(x.dtype)

    return normalised


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Each pair of halves turned by the angle of its position."""
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-second, first], -1) * sine
