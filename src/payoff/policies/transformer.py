"""A small decoder-only transformer of our own, its character tokenizer, its cache and its file: the embedded language model.

What samples from it and scores with it lives in `payoff.policies.lm`; nothing here knows of trajectories.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff.files import replacing

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


class Cache:
    """Keys and values of what the model has read, one slot per position, written in place.

    A token's slot is its position. So rows of different lengths need no padding inside: what lies beyond a row's position is
    hidden from it by that alone, and is written over when the row gets there. `used` slots hold something in some row.
    """

    def __init__(self, model: Transformer, rows: int, capacity: int) -> None:
        weight = model.embed.weight
        shape = (rows, model.heads, capacity, model.width // model.heads)
        # Zeros, because a hidden slot still takes part as probability 0 times its value, which must not be NaN.
        self.keys = [torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in model.blocks]
        self.values = [torch.zeros_like(k) for k in self.keys]
        self.used = 0

    def __len__(self) -> int:
        return len(self.keys[0])

    @property
    def capacity(self) -> int:
        """How many positions there is room for."""
        return self.keys[0].shape[2]

    def select(self, rows: Int[Tensor, " M"]) -> None:
        """Keep these rows, in this order; repeats are allowed. Rows that stay where they are cost nothing."""
        m, used = len(rows), self.used
        if m > len(self):
            for stored in (self.keys, self.values):
                for i, old in enumerate(stored):
                    stored[i] = old.new_zeros(m, *old.shape[1:])
                    stored[i][:, :, :used] = old[rows, :, :used]
            return
        moved = (rows != torch.arange(m, device=rows.device)).nonzero().squeeze(1)
        source = rows[moved]
        for stored in (self.keys, self.values):
            for i, old in enumerate(stored):
                if len(moved):
                    old[moved, :, :used] = old[source, :, :used]
                stored[i] = old[:m]

    def write(
        self, layer: int, keys: Float[Tensor, "N H L D"], values: Float[Tensor, "N H L D"], slots: Slots
    ) -> tuple[Float[Tensor, "N H S D"], Float[Tensor, "N H S D"]]:
        """Store what a layer has just computed and give all that it may look at."""
        for stored, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if slots.rows is None:
                stored[:, :, slots.start : slots.end] = new
            else:
                stored[slots.rows, :, slots.positions] = new.transpose(1, 2)
        return self.keys[layer][:, :, : slots.end], self.values[layer][:, :, : slots.end]


class Slots:
    """Where the tokens of one pass stand, and so what each may look at: everything up to its own position."""

    def __init__(self, tokens: Int[Tensor, "N L"], cache: Cache | None, positions: Int[Tensor, "N L"] | None) -> None:
        n, length = tokens.shape
        self.rows: Tensor | None = None
        self.mask: Tensor | None = None
        self.causal = False
        if positions is None:
            self.start = cache.used if cache is not None else 0
            self.end = self.start + length
            self.positions: Tensor | slice = slice(self.start, self.end)
            self.causal = length > 1 and self.start == 0
            if length > 1 and self.start > 0:
                reach = torch.arange(self.start, self.end, device=tokens.device)
                self.mask = torch.arange(self.end, device=tokens.device) <= reach[:, None]
            return
        self.positions = positions
        self.start, self.end = 0, int(positions.max()) + 1
        if cache is None:
            self.mask = (positions[:, None, :] <= positions[:, :, None])[:, None]
        else:
            self.end = max(self.end, cache.used)
            self.rows = torch.arange(n, device=tokens.device)[:, None]
            self.mask = (torch.arange(self.end, device=tokens.device) <= positions[:, :, None])[:, None]


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each on the normalised stream and added back to it."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.norm_attention = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "N L W"], slots: Slots, cache: Cache | None) -> Float[Tensor, "N L W"]:
        n, length, width = x.shape
        heads = self.attend(self.norm_attention(x)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            key, value = cache.write(self.layer, key, value, slots)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=slots.mask, is_causal=slots.causal)
        x = x + self.attention_out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp_out(F.gelu(self.expand(self.norm_mlp(x))))


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
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads, layer) for layer in range(layers))
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

    def cache(self, rows: int, capacity: int | None = None) -> Cache:
        """An empty cache for `rows` rows of at most `capacity` positions (default: the whole context)."""
        return Cache(self, rows, self.context if capacity is None else capacity)

    def forward(
        self,
        tokens: Int[Tensor, "N L"],
        *,
        cache: Cache | None = None,
        positions: Int[Tensor, "N L"] | None = None,
        hidden: bool = False,
    ) -> Float[Tensor, "N L V"] | tuple[Float[Tensor, "N L V"], Float[Tensor, "N L W"]]:
        """Logits of the token after each token; with `hidden` also the normalised last layer they are read from.

        cache: what came before; it is added to. positions: where each token stands; by default all rows go on from the
        slots in use (from 0 without a cache). Give them when rows of different lengths go on, each from its own end.
        Raises ValueError when a position lies outside the context or the cache.
        """
        features = self.features(tokens, cache=cache, positions=positions)
        return (self.logits(features), features) if hidden else self.logits(features)

    def features(
        self, tokens: Int[Tensor, "N L"], *, cache: Cache | None = None, positions: Int[Tensor, "N L"] | None = None
    ) -> Float[Tensor, "N L W"]:
        """The normalised last layer at each token: what `logits` reads."""
        slots = Slots(tokens, cache, positions)
        room = self.context if cache is None else min(self.context, cache.capacity)
        if slots.end > room:
            what = "the context" if room == self.context else "the cache"
            raise ValueError(f"Transformer: {slots.end} tokens are more than {what} holds ({room})")
        x = self.embed(tokens) + self.position.weight[slots.positions]
        for block in self.blocks:
            x = block(x, slots, cache)
        if cache is not None:
            cache.used = slots.end
        return self.norm(x)

    def logits(self, features: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch V"]:
        """Logits from features of any leading shape, PAD excluded."""
        return F.linear(features, self.head.weight, self.exclusion)

    def score(
        self, tokens: Int[Tensor, "N L"], rows: Int[Tensor, " M"], columns: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M V"], Float[Tensor, "M W"]]:
        """Logits and features at the given places of rows that are padded at the end; nothing else reaches the head."""
        features = self.features(tokens).flatten(0, 1).index_select(0, rows * tokens.shape[1] + columns)
        return self.logits(features), features

    def session(self, contexts: Sequence[Sequence[int]], copies: int, room: int) -> Session:
        """Read these contexts once each, and be ready to go on with `copies` of each for up to `room` tokens."""
        return Session(self, contexts, copies, room)

    def frozen(self) -> Transformer:
        """A copy that does not learn."""
        return copy.deepcopy(self).requires_grad_(False)

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


class Session:
    """Rows being written, one token a pass. `logits` [N, V] are those of the next token; contexts may differ in length."""

    @torch.inference_mode()
    def __init__(self, model: Transformer, contexts: Sequence[Sequence[int]], copies: int, room: int) -> None:
        lengths = [len(context) for context in contexts]
        longest = max(lengths)
        tokens = torch.tensor([[*context, *[0] * (longest - len(context))] for context in contexts], device=model.device)
        self.model = model
        self.cache = model.cache(len(contexts), min(longest + room, model.context))
        features = model.features(tokens, cache=self.cache)
        ends = torch.tensor(lengths, device=model.device)
        rows = torch.arange(len(contexts), device=model.device)
        self.logits = model.logits(features[rows, ends - 1])
        self.next = None if min(lengths) == longest else ends[:, None]  # all rows stand at the same place: no positions needed
        if copies > 1:
            self.keep(rows.repeat_interleave(copies))

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, " N"]) -> None:
        """Append one token to every row."""
        features = self.model.features(tokens[:, None], cache=self.cache, positions=self.next)
        self.logits = self.model.logits(features[:, 0])
        if self.next is not None:
            self.next = self.next + 1

    @torch.inference_mode()
    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Go on with these rows, in this order."""
        self.cache.select(rows)
        self.logits = self.logits[rows]
        if self.next is not None:
            self.next = self.next[rows]


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
