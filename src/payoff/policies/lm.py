"""The language model as a policy: it samples responses to prompts, continues them, and scores what was sampled.

What differs between our own transformer and a pretrained model is behind `generation.CausalModel` and `token_text.Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from payoff.pipeline import Evaluation, NonFiniteError, Start
from payoff.policies.decoder import pack
from payoff.policies.generation import Choice, Generated, generate, scaled
from payoff.policies.token_text import TokenText
from payoff.policies.turns import resume_turns, rollout_turns, take_turns
from payoff.trajectories import StopReason, Trajectories, fresh_ids


class LanguageModel(nn.Module):
    """A causal language model that acts by writing tokens: one action is one token of its response.

    max_tokens:     most tokens of a response; the model's context may allow fewer, and a response ends there as truncated
    temperature:    logits are divided by it, in sampling and in `evaluate`; 0 takes the most likely token, and then every
                    log-probability is that of temperature 1
    top_k, top_p:   sample among the k most likely tokens, then among the fewest whose probability reaches p; 0 and 1: all
    stop:           strings that end a response as finished, as do the tokenizer's end tokens; each belongs to the response
    step_separator: the text that closes a step, and belongs to it; None: a response is one step. A token with more behind
                    the separator belongs to the step it begins in, so that every token lies in exactly one step
    critic:         adds a linear head that gives the value of every state

    Recorded log-probabilities are those of the distribution at `temperature` before any truncation, as TRL and verl do it:
    top_k and top_p change which tokens are sampled, not the number that is written down for them.
    Dropout never acts, in training mode either: with it, the same weights would give two different log-probabilities.

    `offers` says what `evaluate` gives. All randomness comes from the generator that is handed in, which moves by one
    draw a call; the same generator state gives the same response to a row whatever the other rows do.
    """

    offers: frozenset[str]

    def __init__(
        self,
        model: Any,  # a `CausalModel` that is a `torch.nn.Module`
        tokenizer: Any,
        *,
        max_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        step_separator: str | None = "\n",
        critic: bool = False,
    ) -> None:
        super().__init__()
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        for name, value, ok, allowed in (
            ("max_tokens", max_tokens, max_tokens >= 1, "at least 1"),
            ("temperature", temperature, 0 <= temperature < float("inf"), "at least 0"),
            ("top_k", top_k, top_k >= 0, "at least 0 (0: all tokens)"),
            ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
            ("stop", stop, all(stop), "strings that are not empty"),
            ("step_separator", step_separator, step_separator != "", "a string that is not empty, or None"),
        ):
            if not ok:
                raise ValueError(f"LanguageModel: {name} must be {allowed}, got {value!r}")
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens, self.temperature, self.top_k, self.top_p = max_tokens, temperature, top_k, top_p
        self.stop, self.step_separator = stop, step_separator
        self.value_head = nn.Linear(model.width, 1, device=model.device) if critic else None
        if self.value_head is not None:  # the first values are 0 and move no weight of the model
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        always = {"entropy", "mean_logp", "sum_pi_squared", "logits", "hidden", "layers"}
        self.offers = frozenset(always | ({"values"} if critic else set()))
        self._text: TokenText | None = None
        self.train(False)

    def train(self, mode: bool = True) -> LanguageModel:
        """Keeps the modules in evaluation mode, whatever `mode` says: see the class on dropout."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where trajectories come from."""
        return self.model.device

    @property
    def width(self) -> int:
        """How many numbers a hidden state has."""
        return self.model.width

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        return self.model.depth

    def rollout(self, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
        """n responses to every start's field "prompt", row by row in the order of the starts; one group per start.

        items: the start's fields, "start" (its id), "prompt" (text), "prompt_ids", "response", "steps" (texts), "tokens" (as
        shown); "messages" where the prompt was a chat. Starts with an environment are taken in turns: see
        `payoff.policies.turns.rollout_turns`. Raises ValueError for no starts, n < 1, a prompt that is missing, empty
        or leaves no room in the context; NonFiniteError where the model's logits are not finite.
        """
        if not starts or n < 1:
            raise ValueError(f"LanguageModel: rollout needs at least one start and n >= 1, got {len(starts)} starts and n = {n}")
        if any(start.environment is not None for start in starts):
            return rollout_turns(self, starts, n, rng)
        read = [self._read(start) for start in starts]
        limits = [self._room(len(item["prompt_ids"]), f"start {item['start']!r}") for item in read]
        generated = self._generate([item["prompt_ids"] for item in read], limits, rng, copies=n)
        return self._trajectories(
            generated,
            items=[item for item in read for _ in range(n)],
            group=fresh_ids(len(starts)).to(self.device).repeat_interleave(n),
        )

    def resume(
        self,
        traj: Trajectories,
        rows: Int[Tensor, " R"],
        at: Int[Tensor, " R"],
        n: int,
        rng: torch.Generator,
        *,
        horizon: int | None = None,
        noisy: int | None = None,
    ) -> Trajectories:
        """n continuations of each prefix traj[rows, :at], in the order of `rows`; same group, parent the row's id, fork `at`.

        The prefix is copied with its log-probabilities; only what follows is the new row's own. `horizon`: at most this many
        more tokens, and no more than `max_tokens` in all; a row that ends there is truncated. `noisy`: the first so many
        are sampled and the rest are the most likely ones.
        Raises ValueError when `at` lies outside 0..length, or when nothing can follow: the row has finished there, or is full.
        """
        if n < 1 or not len(rows) or (horizon is not None and horizon < 1) or (noisy is not None and noisy < 0):
            raise ValueError(
                f"LanguageModel: resume needs rows, n >= 1, horizon >= 1 and noisy >= 0, "
                f"got {len(rows)} rows, n = {n}, horizon = {horizon}, noisy = {noisy}"
            )
        if take_turns(traj, rows):
            return resume_turns(self, traj, rows, at, n, rng, horizon=horizon, noisy=noisy)
        kept = traj.select(rows).to(self.device)
        at = at.to(self.device).long()
        ids, prompts = kept.id.tolist(), self._prompts(kept)
        limits = []
        for id, place, length, stop, prompt in zip(
            ids, at.tolist(), kept.length.tolist(), kept.stop.tolist(), prompts, strict=True
        ):
            if not 0 <= place <= length:
                raise ValueError(f"LanguageModel: resume of trajectory {id} at {place}, which is outside 0..length = 0..{length}")
            if place == length and stop != StopReason.truncated:
                raise ValueError(f"LanguageModel: resume of trajectory {id} at its end ({length}), where it is over")
            more = self._room(len(prompt), f"trajectory {id}") - place
            if more < 1:
                raise ValueError(f"LanguageModel: resume of trajectory {id} at {place} leaves no room for a token")
            limits.append(more if horizon is None else min(more, horizon))
        actions = kept.actions.tolist()
        written = [actions[i][:place] for i, place in enumerate(at.tolist())]
        contexts = [[*prompt, *prefix] for prompt, prefix in zip(prompts, written, strict=True)]
        generated = self._generate(contexts, limits, rng, copies=n, noisy=noisy, written=written)
        repeat = torch.arange(len(rows), device=self.device).repeat_interleave(n)
        return self._trajectories(
            generated,
            items=[item for item in kept.items for _ in range(n)],
            group=kept.group[repeat],
            prefix=kept.select(repeat),
            at=at[repeat],
        )

    def evaluate(self, traj: Trajectories, want: frozenset[str] = frozenset()) -> Evaluation:
        """Log-probabilities [N, T] of the recorded tokens where the policy acted, 0 elsewhere, with gradient.

        more: entropy [N, T] of the distribution at the temperature, sum_pi_squared [N, T] of its probabilities, and mean_logp
        [N, T], the mean of its log-probabilities over the tokens that can be chosen, all 0 where nothing was acted; hidden
        [N, T+1, D], the states before each action and, at index length, after the last; layers [N, T+1, depth, D] what each layer
        makes of these places, last of all `hidden`; values [N, T+1] of the states; 0 beyond.
        Raises ValueError for something wanted that is not offered, or for rows longer than the model's context.
        """
        if want - self.offers:
            raise ValueError(f"LanguageModel: cannot give {sorted(want - self.offers)}; offers {sorted(self.offers)}")
        traj = traj.to(self.device)
        prompts = self._prompts(traj)
        wide = bool(want & {"values", "hidden", "layers"})
        states = traj.length + wide  # how many states of each row are looked at
        looked = torch.arange(traj.width + 1, device=self.device) < states[:, None] if wide else traj.mask
        rows, places = looked.nonzero(as_tuple=True)
        packed = pack(prompts, traj.actions.long(), states - 1, looked)
        longest = packed.grid.shape[1]
        if self.model.context is not None and longest > self.model.context:
            raise ValueError(f"LanguageModel: rows of {longest} tokens are longer than the model's context of {self.model.context}")
        kept: list[Tensor] = []
        logits, state = self.model.score(packed, kept) if "layers" in want else self.model.score(packed)
        acted = torch.ones_like(rows, dtype=torch.bool)
        if wide:
            acted = places < traj.length[rows]
            acted &= traj.mask[rows, places.clamp(max=traj.width - 1)]
            logits = logits[acted]
        logits = scaled(logits, self.temperature)
        log_total = logits.logsumexp(-1)
        chosen = traj.actions[rows[acted], places[acted]].long()
        where = (rows[acted], places[acted])

        def on_grid(values: Tensor, extra: int = 0, where: tuple[Tensor, Tensor] = where) -> Tensor:
            return values.new_zeros(len(traj), traj.width + extra, *values.shape[1:]).index_put(where, values)

        more: dict[str, Tensor] = {}
        if "entropy" in want:
            probability = (logits - log_total[:, None]).exp()
            mean = (probability * torch.where(probability > 0, logits, 0)).sum(-1)
            more["entropy"] = on_grid(log_total - mean)
        if "mean_logp" in want:
            more["mean_logp"] = on_grid(logits[:, : self.model.choices].mean(-1) - log_total)
        if "sum_pi_squared" in want:
            more["sum_pi_squared"] = on_grid(((2 * logits).logsumexp(-1) - 2 * log_total).exp())
        if "logits" in want:
            more["logits"] = on_grid(logits)
        if "hidden" in want:
            more["hidden"] = on_grid(state, 1, (rows, places))
        if kept:
            more["layers"] = on_grid(torch.stack([*kept[:-1], state], 1), 1, (rows, places))
        if "values" in want and self.value_head is not None:  # it is there: offered only with a critic
            values = self.value_head(state.to(self.value_head.weight.dtype))[:, 0]
            more["values"] = on_grid(values, 1, (rows, places))
        return Evaluation(on_grid(logits.gather(1, chosen[:, None])[:, 0] - log_total), more)

    def read(self, rows: Sequence[Mapping[str, Any]], *, ended: bool = False) -> Trajectories:
        """Stored responses as rollouts: the text of "prompt" (or "messages") and "response" encoded, steps cut as in `rollout`.

        items: the row's fields and those of a rollout; rows of the same prompt are a group. logp["old"] is this policy's own, and
        every response counts as finished. Text may be encoded otherwise than it was sampled, and has no end token, unless it is
        `ended`: then the tokenizer's own (if it has one) follows a response that neither an end token nor a stop string closes.
        Raises ValueError with the row's number (from 1) for a missing or empty text, one that the tokenizer cannot write, or more
        tokens than the context holds.

        >>> from payoff.policies.embedded import transformer
        >>> policy = transformer(width=8, layers=1, heads=1)
        >>> traj = policy.read([{"prompt": "3-7=", "response": "3-7=6;#6."}])
        >>> traj.items[0]["steps"], traj.step[0].tolist()
        (['3-7=6;', '#6.'], [0, 0, 0, 0, 0, 0, 1, 1, 1])
        """
        if not rows:
            raise ValueError("LanguageModel: read needs at least one row")
        items, actions = [], []
        for number, row in enumerate(rows, 1):
            try:
                prompt = row.get("messages", row.get("prompt"))
                item = self._read(Start(str(row.get("start", number)), {**row, "prompt": prompt}))
                ids = self._encoded(row.get("response"), ended)
            except ValueError as error:
                raise ValueError(f"LanguageModel: row {number}: {error}") from None
            size, context = len(item["prompt_ids"]) + len(ids), self.model.context
            if context is not None and size > context:
                raise ValueError(f"LanguageModel: row {number} has {size} tokens, more than the model's context of {context}")
            items.append(item)
            actions.append(torch.tensor(ids, device=self.device))
        length = torch.tensor([len(ids) for ids in actions], device=self.device)
        tokens = nn.utils.rnn.pad_sequence(actions, batch_first=True)
        mask = torch.arange(tokens.shape[1], device=self.device) < length[:, None]
        step, texts = self._token_text().texts(tokens, length)
        same = {tuple(item["prompt_ids"]): None for item in items}
        groups = dict(zip(same, fresh_ids(len(same)).tolist(), strict=True))
        traj = Trajectories(
            mask=mask,
            length=length,
            group=torch.tensor([groups[tuple(item["prompt_ids"])] for item in items], device=self.device),
            step=step,
            stop=torch.full_like(length, int(StopReason.finished)),
            actions=tokens,
            id=fresh_ids(len(length)).to(self.device),
            items=[{**item, **text} for item, text in zip(items, texts, strict=True)],
        )
        logp = torch.zeros(mask.shape, device=self.device)
        with torch.no_grad():
            for some in torch.arange(len(traj), device=self.device).split(64):
                part = self.evaluate(traj.select(some)).logp
                logp[some, : part.shape[1]] = part.to(logp.dtype)
        return traj.replace(logp={"old": logp})

    def reference(self) -> LanguageModel:
        """The policy as it is now, frozen: what `logp["ref"]` comes from.

        A copy of the weights; with LoRA the same weights with the adapters off, so that nothing is copied, and then it is the
        model before any training, whenever it is asked for.

        >>> from payoff.policies.embedded import transformer
        >>> policy = transformer(width=8, layers=1, heads=1, context=8)
        >>> any(p.requires_grad for p in policy.reference().parameters())
        False
        """
        return LanguageModel(
            self.model.frozen(),
            self.tokenizer,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=self.stop,
            step_separator=self.step_separator,
        )

    # --- inside

    def _encoded(self, response: Any, ended: bool) -> list[int]:
        """The ids of a stored response, with the token that ends it where that is asked for and lacking."""
        if not isinstance(response, str) or not response:
            raise ValueError(f"a response must be text that is not empty, got {response!r}")
        ids, end = self.tokenizer.encode(response), getattr(self.tokenizer, "end", None)
        if not ended or end is None or ids[-1] in self.tokenizer.ends or response.endswith(self.stop):
            return ids
        return [*ids, end]

    def _read(self, start: Start) -> dict[str, Any]:
        """What the item of every response to this start holds."""
        if start.environment is not None:
            raise ValueError(f"LanguageModel: start {start.id!r} has an environment; a language model answers a prompt only")
        if "prompt" not in start.fields:
            raise ValueError(f"LanguageModel: start {start.id!r} has no field 'prompt'; it has {sorted(start.fields)}")
        prompt = start.fields["prompt"]
        text, ids = self.tokenizer.prompt(prompt)
        if not ids:
            raise ValueError(f"LanguageModel: the prompt of start {start.id!r} is empty")
        item = {**start.fields, "start": start.id, "prompt": text, "prompt_ids": ids}
        return item if isinstance(prompt, str) else {**item, "messages": prompt}

    def _room(self, prompt: int, whose: str) -> int:
        """How many tokens a response to a prompt of this many may have."""
        context = self.model.context
        room = self.max_tokens if context is None else min(self.max_tokens, context - prompt)
        if room < 1:
            raise ValueError(
                f"LanguageModel: the prompt of {whose} has {prompt} tokens and leaves no room in a context of {context}"
            )
        return room

    def _prompts(self, traj: Trajectories) -> list[list[int]]:
        """The prompt's ids of every row: recorded, or read anew from rows that only have text."""
        if len(traj.items) != len(traj):
            raise ValueError("LanguageModel: these trajectories have no items, so their prompts are not known")
        return [
            item["prompt_ids"] if "prompt_ids" in item else self.tokenizer.prompt(item.get("messages", item["prompt"]))[1]
            for item in traj.items
        ]

    def _trajectories(
        self,
        generated: Generated,
        *,
        items: Sequence[Mapping[str, Any]],
        group: Int[Tensor, " N"],
        prefix: Trajectories | None = None,
        at: Int[Tensor, " N"] | None = None,
    ) -> Trajectories:
        """What was generated, behind the first `at` actions of `prefix` where there is one."""
        length = generated.count if at is None else at + generated.count
        place = torch.arange(int(length.max()), device=self.device)
        exists = place < length[:, None]
        if prefix is None or at is None:
            new = mask = exists
            actions, logp = generated.tokens[:, : len(place)], generated.logp[:, : len(place)]
        else:
            new = exists & (place >= at[:, None])
            source = (place - at[:, None]).clamp(0, generated.tokens.shape[1] - 1)
            old = prefix.logp.get("old", torch.zeros_like(prefix.mask, dtype=torch.float32))
            actions = torch.where(new, generated.tokens.gather(1, source), _fitted(prefix.actions, len(place)))
            logp = torch.where(new, generated.logp.gather(1, source), _fitted(old, len(place)))
            mask = new | (exists & _fitted(prefix.mask, len(place)))
        id = fresh_ids(len(length)).to(self.device)
        bad = new & ~torch.isfinite(logp)
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            part = f"language model, writing token {column} of a response to start {items[row].get('start')!r}"
            raise NonFiniteError(part, int(id[row]), float(logp[row, column]))
        actions = torch.where(exists, actions, 0)
        step, texts = self._token_text().texts(actions, length)
        return Trajectories(
            mask=mask,
            length=length,
            group=group,
            step=step,
            stop=torch.where(generated.finished, int(StopReason.finished), int(StopReason.truncated)),
            actions=actions,
            logp={"old": torch.where(mask, logp, 0)},
            id=id,
            parent=None if prefix is None else prefix.id,
            fork=at,
            items=[{**item, **text} for item, text in zip(items, texts, strict=True)],
        )

    def _generate(self, contexts: Sequence[Sequence[int]], limits: Sequence[int], rng: torch.Generator, **how: Any) -> Generated:
        choice = Choice(self.temperature, self.top_k, self.top_p)
        return generate(self.model, self._token_text(), choice, contexts, limits, rng, **how)

    def _token_text(self) -> TokenText:
        """Tables of the tokens' texts, made when the first response is written."""
        if self._text is None or self._text.device != self.device:
            self._text = TokenText(self.tokenizer, self.model.vocabulary, self.stop, self.step_separator, self.device)
        return self._text


def _fitted(tensor: Tensor, width: int) -> Tensor:
    """The first `width` columns, with zeros behind where there are fewer."""
    missing = width - tensor.shape[1]
    return tensor[:, :width] if missing <= 0 else torch.cat([tensor, tensor.new_zeros(len(tensor), missing)], 1)
