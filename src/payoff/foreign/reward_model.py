"""Reward models: sequence classifiers of `transformers` from a folder or the hub, one score per prompt and response."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from payoff._extras import require
from payoff.arguments import MissingFieldError
from payoff.catalogue import nearest
from payoff.foreign.batches import Graded, Row, is_conversation, items_of, no_verdict, said, verdict
from payoff.trajectories import Trajectories
from payoff.worker_process import explain

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
JOINS = ("auto", "chat", "pair", "text")


def reward_model(
    place: str,
    *,
    label: str = "",
    dtype: str = "float32",
    device: str = "auto",
    batch: int = 16,
    join: str = "auto",
    truncate: bool = False,
    longest: int = 0,
    revision: str = "main",
) -> RewardModel:
    """The sequence classifier of a folder or of the hub, ready to be called with rows. Code that comes with a model is not run.

    label:    whose logit is the reward, by name or number; by default the last (of one label, the only one)
    dtype:    float32, bfloat16, float16 or float64; device: cpu, cuda, cuda:1 ...; auto: cuda where there is one
    batch:    rows of one pass; rows of like length go together
    join:     how prompt and response become a text: "chat" by the tokenizer's template, "pair" as two segments, "text" one after
              the other; "auto": the template where there is one, else a pair where the tokenizer separates them, else text
    truncate: cut what is too long as the tokenizer cuts; without it such a row has no verdict
    longest:  tokens the model may be given (0: what model and tokenizer can bear)

    Raises ValueError for an option out of range and for a model without a trained head, OSError where there is no such model.
    """
    transformers = require("transformers", "a reward model")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, is {dtype!r}")
    if join not in JOINS:
        raise ValueError(f"join must be one of {', '.join(JOINS)}, is {join!r}")
    if longest < 0:
        raise ValueError(f"longest must be at least 0, is {longest}")
    folder = Path(place).expanduser()
    if place.startswith((".", "/", "~")) and not folder.is_dir():
        like = nearest(folder.name, sorted(p.name for p in folder.parent.iterdir())) if folder.parent.is_dir() else []
        raise FileNotFoundError(f"no such folder{f'; did you mean {folder.with_name(like[0])}?' if like else ''}")
    source = str(folder) if folder.is_dir() else place
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with _without_bars(transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
        model, told = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, dtype=DTYPES[dtype], output_loading_info=True
        )
    untrained = sorted(told["missing_keys"]) + sorted(str(x) for x in told.get("mismatched_keys", ()))
    if untrained:
        raise ValueError(f"not a reward model: its weights lack {', '.join(untrained[:3])}, which would be random")
    model = model.eval().to(device)
    if join == "auto":
        separates = tokenizer.sep_token is not None and tokenizer.cls_token is not None
        join = "chat" if getattr(tokenizer, "chat_template", None) else "pair" if separates else "text"
    if join == "chat" and not getattr(tokenizer, "chat_template", None):
        raise ValueError("join=chat needs a chat template, and this tokenizer has none")
    return RewardModel(
        model,
        tokenizer,
        name=Path(source).name,
        label=_label(label, model.config),
        batch=batch,
        join=join,
        truncate=truncate,
        longest=longest or _bearable(model.config, tokenizer),
    )


class RewardModel:
    """One logit of a classifier for each row. Rows are padded on the right whatever the tokenizer would do, and masked there."""

    sees: Literal["item", "group", "batch"] = "item"
    batch: int | None = None  # it is given all rows, so that like lengths meet

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, label: int, batch: int, join: str, truncate: bool, longest: int
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.model, self.tokenizer, self.name, self.label = model, tokenizer, name, label
        self.size, self.join, self.truncate, self.longest = batch, join, truncate, longest
        self.counts: dict[str, int | float] = {"tokens": 0, "padding": 0, "passes": 0}

    def rows(self, traj: Trajectories) -> tuple[list[dict[str, Any]], dict[int, str]]:
        items = items_of(traj)
        for field in ("prompt", "response"):
            if items and not any(item.get(field) is not None for item in items):
                fields = ", ".join(sorted({str(name) for item in items for name in item}))
                raise MissingFieldError(f"{self.name} reads {field!r}, which no row has; the rows have {fields or 'no fields'}")
        rows = [{"prompt": item.get("prompt"), "response": said(item.get("response"))} for item in items]
        lost = {k: f"there is no {name!r}" for k, row in enumerate(rows) for name in reversed(row) if row[name] is None}
        return rows, lost

    def __call__(self, item: Sequence[Row]) -> Sequence[Graded]:
        answers: list[Graded] = [no_verdict("not scored")] * len(item)
        encoded: dict[int, Mapping[str, list[int]]] = {}
        for k, row in enumerate(item):
            try:
                tokens = self._encoded(row)
            except Exception as error:  # a template may refuse a conversation, and says so by raising
                answers[k] = no_verdict(explain(error))
                continue
            n = len(tokens["input_ids"])
            if not n:
                answers[k] = no_verdict("there is not a single token to read")
            elif n > self.longest:
                answers[k] = no_verdict(f"is {n} tokens long, and the model reads {self.longest} at most")
            else:
                encoded[k] = tokens
        order = sorted(encoded, key=lambda k: len(encoded[k]["input_ids"]), reverse=True)  # what does not fit fails at once
        for first in range(0, len(order), self.size):
            part = order[first : first + self.size]
            for k, score in zip(part, self._scores([encoded[k] for k in part]), strict=True):
                answers[k] = verdict(score)
        return answers

    def _encoded(self, row: Row) -> Mapping[str, list[int]]:
        """The tokens of a row; a template writes its own special tokens, everything else gets those of the tokenizer."""
        prompt, response = row["prompt"], row["response"]
        cut = {"truncation": True, "max_length": self.longest} if self.truncate else {}
        if self.join == "chat":
            asked = [dict(m) for m in prompt] if is_conversation(prompt) else [{"role": "user", "content": prompt}]
            messages = [*asked, {"role": "assistant", "content": response}]
            text = self.tokenizer.apply_chat_template(messages, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False, **cut)
        if is_conversation(prompt):
            if len(prompt) > 1:
                raise ValueError("the prompt is a conversation, and this model has no chat template")
            prompt = prompt[0]["content"]
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt is a {type(prompt).__name__}, not text")
        return self.tokenizer(prompt, response, **cut) if self.join == "pair" else self.tokenizer(prompt + response, **cut)

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Mapping[str, list[int]]]) -> list[float]:
        ids = [row["input_ids"] for row in rows]
        width = max(map(len, ids))
        config = self.model.config.get_text_config()
        own = config.pad_token_id
        # A model that knows no padding token reads its score at the last token, whatever that is. In a batch it needs one to find
        # that place, so it gets a token which these rows do not have: every row is then read where it would be read alone.
        pad = own if own is not None and own >= 0 else _unused(ids, self.model.get_input_embeddings().num_embeddings)
        device = self.model.device
        fill = lambda row, value: [*row, *[value] * (width - len(row))]
        given = {"input_ids": torch.tensor([fill(row, pad) for row in ids], device=device)}
        given["attention_mask"] = torch.tensor([fill([1] * len(row), 0) for row in ids], device=device)
        if "token_type_ids" in rows[0] and getattr(config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = torch.tensor([fill(row["token_type_ids"], 0) for row in rows], device=device)
        config.pad_token_id = pad
        try:
            logits = self.model(**given).logits
        finally:
            config.pad_token_id = own
        self.counts["tokens"] += sum(map(len, ids))
        self.counts["padding"] += width * len(ids) - sum(map(len, ids))
        self.counts["passes"] += 1
        return logits[:, self.label].float().tolist()


@contextlib.contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """No progress bars between the lines of a command."""
    said = transformers.utils.logging
    shown = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            said.enable_progress_bar()


def _unused(ids: Sequence[Sequence[int]], vocabulary: int) -> int:
    """A token that stands in none of these rows."""
    there = {token for row in ids for token in row}
    return next(token for token in range(vocabulary - 1, -1, -1) if token not in there)


def _label(label: str, config: Any) -> int:
    names = {str(name): int(k) for name, k in (config.label2id or {}).items()}
    if not label:
        return config.num_labels - 1
    if label in names:
        return names[label]
    if label.isdecimal() and int(label) < config.num_labels:
        return int(label)
    like = nearest(label, list(names))
    there = f"did you mean {like[0]}?" if like else f"there are: {', '.join(names)}"
    raise ValueError(f"no label {label!r}; {there}")


def _bearable(config: Any, tokenizer: Any) -> int:
    """Tokens that both model and tokenizer can bear; a tokenizer without a limit says an absurdly large number."""
    text = config.get_text_config()
    known = [getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_sequence_length")]
    limits = [n for n in known if isinstance(n, int) and n > 0]
    if getattr(text, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "longformer") and limits:
        limits = [n - 2 for n in limits]  # their positions begin behind that of the padding token
    return int(min([*limits, tokenizer.model_max_length]))
