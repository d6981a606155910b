"""Any causal language model of `transformers` as a policy, by folder or hub name, with LoRA through `peft` where wanted."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from payoff._extras import require
from payoff.catalogue import method
from payoff.policies.decoder import Packed, Writing, score
from payoff.policies.generation import Session, usable_device
from payoff.policies.llama import LlamaDecoder, as_decoder
from payoff.policies.lm import LanguageModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HubTokenizer:
    """A tokenizer of `transformers` as `LanguageModel` sees it.

    ends: ids that end a response (none of their text is shown in it); `end` is the one that the tokenizer itself writes, if any.
    chat: False: a text prompt is read as it is; True: as one user message through the chat template. A list of messages always
    goes through the template.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, ends: frozenset[int], chat: bool = False) -> None:
        self.tokenizer, self.vocabulary, self.ends, self.chat = tokenizer, vocabulary, ends, chat
        self.end: int | None = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else None
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError("pretrained: chat is true, and this tokenizer has no chat template")

    def prompt(self, prompt: Any) -> tuple[str, list[int]]:
        """A start's prompt as text and ids; ValueError for a chat without a template, or neither text nor messages."""
        if isinstance(prompt, str):
            if not self.chat:
                return prompt, list(self.tokenizer(prompt)["input_ids"])
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, Sequence) or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in prompt):
            raise ValueError(
                f"pretrained: a prompt must be text or a list of messages with role and content, got {type(prompt).__name__}"
            )
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError("pretrained: the prompt is a list of messages, and this tokenizer has no chat template")
        text = self.tokenizer.apply_chat_template([dict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
        return text, list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has written them already

    def encode(self, text: str) -> list[int]:
        """The ids of a response's text; ValueError where the tokenizer has no way to write it."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
            raise ValueError(f"pretrained: the tokenizer cannot write all of {text[:40]!r}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of several tokens, special ones and end tokens left out."""
        ids = [i for i in ids if i not in self.ends]
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @cached_property
    def pieces(self) -> list[str]:
        """The text each id adds behind other text: decoded behind an anchor, since some tokenizers drop a leading space."""
        silent = {*self.ends, *self.tokenizer.all_special_ids}
        known = len(self.tokenizer)
        encoded = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        anchor = [encoded[-1]] if encoded and encoded[-1] not in silent else []
        texts = self.tokenizer.batch_decode(
            [[*anchor, i] for i in range(min(known, self.vocabulary))], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        before = len(self.decode(anchor))
        pieces = ["" if i in silent else text[before:] for i, text in enumerate(texts)]
        return pieces + [""] * (self.vocabulary - len(pieces))  # a model may have more rows than its tokenizer has tokens

    @cached_property
    def shown(self) -> list[str]:
        """How each id is shown: its text, or its name where it has no text of its own."""
        count = min(len(self.tokenizer), self.vocabulary)
        names = self.tokenizer.convert_ids_to_tokens(list(range(count)))
        names += [f"<{i}>" for i in range(count, self.vocabulary)]
        return [piece if piece and "\ufffd" not in piece else str(name) for piece, name in zip(self.pieces, names, strict=True)]


class HubModel(nn.Module):
    """A causal model of `transformers` (with or without `peft` around it) as `LanguageModel` sees it."""

    def __init__(self, network: Any) -> None:  # a module of `transformers` or `peft`, with methods a plain module lacks
        super().__init__()
        self.network = network
        head = network.get_output_embeddings()
        if head is None:
            raise ValueError(f"pretrained: {type(network).__name__} has no output embeddings, so it is no causal language model")
        self.width = int(head.in_features if hasattr(head, "in_features") else head.weight.shape[1])
        self.vocabulary = self.choices = int(head.out_features if hasattr(head, "out_features") else head.weight.shape[0])
        config = network.config.get_text_config() if hasattr(network.config, "get_text_config") else network.config
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.depth = int(config.num_hidden_layers)
        bare = network.get_base_model() if hasattr(network, "peft_config") else network
        self._takes = frozenset(inspect.signature(bare.forward).parameters)

    @property
    def device(self) -> torch.device:
        """Where the input embeddings are."""
        return self.network.get_input_embeddings().weight.device

    def score(self, packed: Packed, kept: list[Tensor] | None = None) -> tuple[Float[Tensor, "M V"], Float[Tensor, "M D"]]:
        """Logits after, and last-layer states at, the tokens that are asked for; kept takes what every layer makes of them.

        A model whose pieces are not known reads padded rows. It needs no mask: no token looks at what comes later. Only the places
        asked for reach its head, whatever it does with its logits (a cap, a scale), because states are picked out on their way in.
        """
        decoder = self._decoder()
        if decoder is not None:
            return score(decoder, packed, kept)
        flat = packed.source[packed.asked]
        with self._picking(flat) as picked:
            output = self.network(input_ids=packed.rows, use_cache=False, output_hidden_states=kept is not None)
        if kept is not None:
            kept += [states.flatten(0, 1).index_select(0, flat) for states in output.hidden_states[1:]]
        return output.logits[0], picked[0]

    def session(self, contexts: Sequence[Sequence[int]], copies: int, room: int) -> Session:
        """Read these contexts once each, and be ready to go on with `copies` of each."""
        decoder = self._decoder()
        if decoder is not None:
            return Writing(decoder, contexts, copies, room, self.device)
        return HubSession(self, contexts, copies)

    def frozen(self) -> nn.Module:
        """With LoRA the same weights without the adapters; otherwise a copy that does not learn."""
        return AdaptersOff(self) if hasattr(self.network, "disable_adapter") else copy.deepcopy(self).requires_grad_(False)

    def _decoder(self) -> LlamaDecoder | None:
        """The model's pieces where they are known; made anew each time, so that it always speaks of the weights as they are."""
        return as_decoder(self.network.get_base_model() if hasattr(self.network, "peft_config") else self.network)

    def takes(self, name: str) -> bool:
        """Whether the model's forward has an argument of this name."""
        return name in self._takes

    @contextlib.contextmanager
    def _picking(self, flat: Int[Tensor, " M"]):
        """Let only these of the N x L states into the head; they are put into the list that is given."""
        picked: list[Tensor] = []

        def pick(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states, *rest = arguments
            picked.append(states.flatten(0, -2).index_select(0, flat))
            return picked[0][None], *rest

        hook = self.network.get_output_embeddings().register_forward_pre_hook(pick)
        try:
            yield picked
        finally:
            hook.remove()


class AdaptersOff(nn.Module):
    """A `HubModel` with its LoRA adapters switched off while it is asked; it owns no weights, and never learns."""

    def __init__(self, model: HubModel) -> None:
        super().__init__()
        self._shared = (model,)  # in a tuple, so that the weights are not counted, saved or moved a second time
        self.width, self.vocabulary, self.choices, self.context = model.width, model.vocabulary, model.choices, model.context
        self.depth = model.depth

    @property
    def device(self) -> torch.device:
        """Where the shared weights are."""
        return self._shared[0].device

    @torch.no_grad()
    def score(self, packed: Packed, kept: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """As `HubModel.score`, without adapters or gradient."""
        with self._shared[0].network.disable_adapter():
            return self._shared[0].score(packed, kept)

    def session(self, contexts: Sequence[Sequence[int]], copies: int, room: int) -> HubSession:
        """As `HubModel.session`, without adapters."""
        return HubSession(self._shared[0], contexts, copies, self._shared[0].network.disable_adapter)

    def frozen(self) -> AdaptersOff:
        """Itself: it never learns."""
        return self


class HubSession:
    """Rows being written, one token a pass. Shorter contexts are padded in front and masked; without padding there is no mask."""

    def __init__(
        self, model: HubModel, contexts: Sequence[Sequence[int]], copies: int, within: Any = contextlib.nullcontext
    ) -> None:
        lengths = [len(context) for context in contexts]
        longest = max(lengths)
        device = model.device
        tokens = torch.tensor([[*[0] * (longest - len(context)), *context] for context in contexts], device=device)
        self.model, self.within = model, within
        self.mask: Tensor | None = None
        self.next: Tensor | None = None
        how: dict[str, Any] = {}
        if min(lengths) < longest:
            self.next = torch.tensor(lengths, device=device)[:, None]
            self.mask = (torch.arange(longest, device=device) >= longest - self.next).long()
            how = self._places((self.mask.cumsum(1) - 1).clamp(min=0))
        rows = torch.arange(len(contexts), device=device)
        with within(), model._picking(rows * longest + longest - 1):
            out = model.network(input_ids=tokens, use_cache=True, **how)
        self.logits, self.cache = out.logits[0], out.past_key_values
        if copies > 1:
            self.keep(rows.repeat_interleave(copies))

    def step(self, tokens: Int[Tensor, " N"]) -> None:
        """Append one token to every row."""
        how: dict[str, Any] = {}
        if self.mask is not None and self.next is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
            how = self._places(self.next)
            self.next = self.next + 1
        with self.within():
            out = self.model.network(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True, **how)
        self.logits, self.cache = out.logits[:, -1], out.past_key_values

    def keep(self, rows: Int[Tensor, " M"]) -> None:
        """Go on with these rows, in this order."""
        self.cache.reorder_cache(rows)
        self.logits = self.logits[rows]
        if self.mask is not None and self.next is not None:
            self.mask, self.next = self.mask[rows], self.next[rows]

    def _places(self, positions: Int[Tensor, "N L"]) -> dict[str, Any]:
        """The mask, and the positions for models that take them."""
        how: dict[str, Any] = {"attention_mask": self.mask}
        if self.model.takes("position_ids"):
            how["position_ids"] = positions
        return how


@method("pretrained", kind="policy")
def pretrained(
    *,
    model: str,
    lora: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    chat: bool | None = None,
    max_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    step_separator: str | None = "\n",
    critic: bool = False,
    seed: int = 0,
) -> LanguageModel:
    """A causal language model of `transformers` as a policy, from a folder or from the hub.

    model:  a folder with a model and its tokenizer, or a name on the hub such as "Qwen/Qwen3-0.6B"
    lora:   options of `peft.LoraConfig` (r, lora_alpha, target_modules ...); by default all linear layers are adapted. Only the
            adapters learn then, from weights drawn with `seed`. None: every weight learns
    dtype:  float32, bfloat16 or float16, of the model's weights; log-probabilities are computed in float32
    chat:   True: a text prompt is one user message in the tokenizer's chat template; False, None: it is read as it is. A prompt
            that is a list of messages goes through the template in any case
    The rest: see `LanguageModel`. A response also ends at the end tokens of the tokenizer and of the generation settings.
    Raises ValueError for a folder that is missing or holds no model, a hub name that cannot be reached, a device, dtype or LoRA
    option that does not exist, and LoRA target modules the model does not have.
    """
    transformers = require("transformers", "a pretrained policy")
    if dtype not in _DTYPES:
        raise ValueError(f"pretrained: dtype must be one of {sorted(_DTYPES)}, got {dtype!r}")
    place = usable_device("pretrained", device)
    adapters = None if lora is None else _lora_config(lora)
    network, found = _from_pretrained(
        transformers.AutoModelForCausalLM, model, "model", dtype=_DTYPES[dtype], output_loading_info=True
    )
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise ValueError(f"pretrained: the model {model!r} lacks {len(lacking)} of its weights, such as {lacking[0]}")
    words = _from_pretrained(transformers.AutoTokenizer, model, "tokenizer")
    if adapters is not None:
        network = _with_lora(network, adapters, seed)
    more = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    ends = {words.eos_token_id, *(more if isinstance(more, list | tuple) else [more])} - {None}
    seen = HubModel(network.to(place))
    return LanguageModel(
        seen,
        HubTokenizer(words, vocabulary=seen.vocabulary, ends=frozenset(ends), chat=bool(chat)),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop=stop,
        step_separator=step_separator,
        critic=critic,
    )


def _from_pretrained(kind: Any, name: str, what: str, **options: Any) -> Any:
    """Load from a folder or the hub, or say in one line why not."""
    folder = Path(name).expanduser()
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if is_path and not folder.is_dir():
        raise ValueError(f"pretrained: no folder {name!r}")
    local = folder.is_dir()
    if local and what == "model" and not (folder / "config.json").is_file():
        raise ValueError(f"pretrained: folder {name!r} holds no model (no config.json)")
    try:
        with _without_bars():
            return kind.from_pretrained(str(folder) if local else name, **options)
    except Exception as error:  # of many libraries; all mean that this cannot be loaded
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 200 else reason[:197] + "..."
        if local:
            raise ValueError(f"pretrained: cannot load the {what} in folder {name!r}: {reason}") from error
        raise ValueError(
            f"pretrained: cannot get the {what} {name!r} from the hub, and there is no such folder (offline, misspelt, or without "
            f"access?): {reason}"
        ) from error


@contextlib.contextmanager
def _without_bars():
    """No progress bars of `transformers` where there is no terminal to draw them on."""
    logging = require("transformers.utils.logging", "a pretrained policy")
    drop = logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if drop:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if drop:
            logging.enable_progress_bar()


def _lora_config(options: Mapping[str, Any]) -> Any:
    """The options as peft's own configuration, or ValueError for one that does not exist or has an impossible value."""
    peft = require("peft", "LoRA")
    known = sorted(f.name for f in dataclasses.fields(peft.LoraConfig) if f.init)
    for name in options:
        if name not in known:
            usual = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}  # what other tools call them
            like = [usual[name]] if name in usual else difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"pretrained: unknown LoRA option {name!r}" + (f"; did you mean {like[0]}?" if like else ""))
    try:
        return peft.LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **options})
    except (ValueError, TypeError) as error:
        raise ValueError(f"pretrained: LoRA: {' '.join(str(error).split())}") from None


def _with_lora(network: nn.Module, config: Any, seed: int) -> nn.Module:
    """The network with fresh adapters, its own weights frozen."""
    peft = require("peft", "LoRA")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return peft.get_peft_model(network, config)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        if "not found in the base model" in reason:
            names = sorted({name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)})
            targets = config.target_modules
            asked = sorted(targets) if isinstance(targets, set) else targets
            reason = f"target_modules {asked!r} not found; the model's linear layers are {names}"
        raise ValueError(f"pretrained: LoRA: {reason}") from None
