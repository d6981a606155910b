"""A small decoder-only transformer of our own, its character tokenizer and its file: the embedded language model.

What runs it lives in `payoff.policies.decoder`, what samples from it in `payoff.policies.lm`; nothing here knows of trajectories.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.files import replacing
from payoff.policies.decoder import Packed, Places, Writing, attend, score

EXCLUDED = -1e9  # the logit of PAD: its probability is exactly 0, yet probability times logit stays a number
_FORMAT = "payoff transformer 1"


class CharacterTokenizer:
    """One token per character of `alphabet`, in its order, and PAD after them, which stands for no text and is never sampled.

    Raises ValueError for an empty alphabet or a character that occurs twice.

    >>> digits = CharacterTokenizer("0123456789+=")
    >>> digits.encode("1+1="), digits.decode([2]), digits.pad
    ([1, 10, 1, 11], '2', 12)
    """

    def __init__(self, alphabet: str) -> None:
        if not alphabet:
            raise ValueError("CharacterTokenizer: the alphabet is empty")
        twice = sorted({c for c in alphabet if alphabet.count(c) > 1})
        if twice:
            raise ValueError(f"CharacterTokenizer: the alphabet holds {twice[0]!r} more than once")
        self.alphabet = alphabet
        self.pad = len(alphabet)
        self.ends: frozenset[int] = frozenset()  # no id ends a text by itself; stop strings do
        self.pieces = [*alphabet, ""]
        self.shown = [*alphabet, "<pad>"]
        self._id = {character: i for i, character in enumerate(alphabet)}

    @property
    def vocabulary(self) -> int:
        """How many token ids there are, PAD included."""
        return len(self.alphabet) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text's characters; ValueError names the first character that is not in the alphabet."""
        try:
            return [self._id[character] for character in text]
        except KeyError as unknown:
            raise ValueError(
                f"CharacterTokenizer: {unknown.args[0]!r} (in {_short(text)!r}) is not one of the characters {self.alphabet!r}"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens; PAD gives none."""
        return "".join([self.pieces[i] for i in ids])

    def token(self, id: int) -> str:
        """How to show one token to a reader."""
        return self.shown[id]

    def prompt(self, prompt: Any) -> tuple[str, list[int]]:
        """A start's prompt as text and ids; ValueError when it is no text."""
        if not isinstance(prompt, str):
            raise ValueError(f"CharacterTokenizer: a prompt must be text, got {type(prompt).__name__}")
        return prompt, self.encode(prompt)


class Block(nn.Module):
    """The weights of attention, then of a two-layer perceptron, each on the normalised stream and added back to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)


class BlockLayer:
    """A block as `payoff.policies.decoder` runs it: its weights taken out once, which saves most of the time between products."""

    def __init__(self, block: Block) -> None:
        self.heads = block.heads
        self.first, self.second = _norm(block.norm_attention), _norm(block.norm_mlp)
        self.attend, self.out = _product(block.attend), _product(block.attention_out)
        self.expand, self.last = _product(block.expand), _product(block.mlp_out)

    def project(
        self, x: Float[Tensor, "*P W"], places: Places
    ) -> tuple[Float[Tensor, "*P H D"], Float[Tensor, "*P H D"], Float[Tensor, "*P H D"]]:
        """Queries, keys and values of these states."""
        query, key, value = self.attend(self.first(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return query, key, value

    def absorb(self, x: Float[Tensor, "*P W"], seen: Float[Tensor, "*P W"]) -> Float[Tensor, "*P W"]:
        """The states after what attention saw, and after the perceptron."""
        x = x + self.out(seen)
        return x + self.last(F.gelu(self.expand(self.second(x))))


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    return partial(F.linear, weight=layer.weight, bias=layer.bias)


def _norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    return partial(torch.layer_norm, normalized_shape=norm.normalized_shape, weight=norm.weight, bias=norm.bias, eps=norm.eps)


class Transformer(nn.Module):
    """Decoder-only transformer: learned positions, pre-norm, GELU, untied head. The last id of the vocabulary is PAD.

    PAD has the logit `EXCLUDED` wherever the model is asked, so no probability ever falls on it. Rows of a batch may differ
    in length: pad them at the end with any id and ignore what comes out there; no real position looks at a later one.

    vocabulary: token ids, PAD included; context: positions. width must be a multiple of heads (ValueError otherwise).

    >>> model = Transformer(vocabulary=5, context=8, width=16, layers=1, heads=2)
    >>> model(torch.tensor([[0, 1, 2]])).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, *, vocabulary: int, context: int, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "context": context, "width": width, "layers": layers, "heads": heads}
        for name, size in sizes.items():
            least = 2 if name == "vocabulary" else 1
            if size < least:
                raise ValueError(f"Transformer: {name} must be at least {least}, got {size}")
        if width % heads:
            raise ValueError(f"Transformer: width must be a multiple of heads, got width {width} and heads {heads}")
        self.vocabulary, self.context, self.width, self.heads = vocabulary, context, width, heads
        self.scale: float | None = None
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        exclusion = torch.zeros(vocabulary)
        exclusion[-1] = EXCLUDED
        self.exclusion: Tensor
        self.register_buffer("exclusion", exclusion, persistent=False)
        self._initialise()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    @property
    def choices(self) -> int:
        """Ids below this one can be chosen: all but PAD."""
        return self.vocabulary - 1

    @property
    def config(self) -> dict[str, int]:
        """The arguments that make a model of this shape."""
        return {
            "vocabulary": self.vocabulary,
            "context": self.context,
            "width": self.width,
            "layers": len(self.blocks),
            "heads": self.heads,
        }

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return len(self.blocks)

    @property
    def layers(self) -> Sequence[BlockLayer]:
        """The blocks, in order."""
        return [BlockLayer(block) for block in self.blocks]  # type: ignore[arg-type]

    @property
    def cache_shape(self) -> tuple[int, int]:
        """Heads of keys and values, and their size."""
        return self.heads, self.width // self.heads

    def forward(self, tokens: Int[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Logits of the token after each token of rows that are padded at the end.

        Raises ValueError when the rows are longer than the context.
        """
        return self.logits_and_states(tokens)[0]

    def logits_and_states(self, tokens: Int[Tensor, "N L"]) -> tuple[Float[Tensor, "N L V"], Float[Tensor, "N L W"]]:
        """As `forward`, with the normalised last states that the logits are read from."""
        self._check(tokens.shape[1])
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.read_in(tokens, places)
        for block in self.layers:
            query, key, value = (part.transpose(1, 2) for part in block.project(x, places))
            x = block.absorb(x, attend(query, key, value, self.scale, causal=True).transpose(1, 2).flatten(2))
        return self.read_out(x)

    def places(self, positions: Int[Tensor, "*P"]) -> Places:
        """The learned embeddings of these positions."""
        return (F.embedding(positions, self.position.weight),)

    def read_in(self, tokens: Int[Tensor, "*P"], places: Places) -> Float[Tensor, "*P W"]:
        """What the first block reads."""
        return F.embedding(tokens, self.embed.weight) + places[0]

    def read_out(self, x: Float[Tensor, "*P W"]) -> tuple[Float[Tensor, "*P V"], Float[Tensor, "*P W"]]:
        """Logits, PAD excluded, and the normalised states they are read from."""
        state = _norm(self.norm)(x)
        return F.linear(state, self.head.weight, self.exclusion), state

    def score(self, packed: Packed, kept: list[Tensor] | None = None) -> tuple[Float[Tensor, "M V"], Float[Tensor, "M W"]]:
        """Logits after, and states at, the tokens that are asked for; ValueError when rows are longer than the context."""
        self._check(packed.grid.shape[1])
        return score(self, packed, kept)

    def session(self, contexts: Sequence[Sequence[int]], copies: int, room: int) -> Writing:
        """Read these contexts once each, and be ready to go on with `copies` of each for up to `room` tokens."""
        return Writing(self, contexts, copies, room, self.device)

    def frozen(self) -> Transformer:
        """A copy that does not learn."""
        return copy.deepcopy(self).requires_grad_(False)

    def _check(self, length: int) -> None:
        if length > self.context:
            raise ValueError(f"Transformer: {length} tokens are more than the context holds ({self.context})")

    def _initialise(self) -> None:
        """Normal weights of standard deviation 0.02; what is added to the stream is divided by its square root of additions."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.attention_out, block.mlp_out):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * len(self.blocks)))


def save_transformer(
    path: str | Path, model: Transformer, tokenizer: CharacterTokenizer, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write model and tokenizer to one file, weights as `dtype` (float16 halves it), whole or not at all."""
    path = Path(path)
    content = {
        "format": _FORMAT,
        "config": model.config,
        "alphabet": tokenizer.alphabet,
        "weights": {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(content, file)


def load_transformer(path: str | Path) -> tuple[Transformer, CharacterTokenizer]:
    """The model (float32, on the CPU) and tokenizer of a file that `save_transformer` wrote.

    Raises ValueError naming the file when it is missing, is no such checkpoint, or its weights do not fit its own shape.
    """
    content = _read(Path(path))
    try:
        tokenizer = CharacterTokenizer(content["alphabet"])
        with torch.random.fork_rng(devices=[]):  # drawing weights that are replaced at once must not move the global generator
            model = Transformer(**content["config"])
        model.load_state_dict(content["weights"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        detail = _short(" ".join(str(error).split()), 160)
        raise ValueError(f"{path}: the checkpoint does not fit the shape it states ({detail})") from None
    if model.vocabulary != tokenizer.vocabulary:
        raise ValueError(
            f"{path}: the model has {model.vocabulary} tokens, its alphabet {tokenizer.vocabulary} with PAD; they do not fit"
        )
    return model, tokenizer


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, or ValueError in one line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint file")
    try:
        with warnings.catch_warnings(action="ignore"):  # about files that are refused just below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a transformer checkpoint of payoff")
    return content


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
