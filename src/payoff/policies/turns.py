"""Rollouts in turns: the policy writes, an environment answers with text, and so on until one of them ends it.

The ids that were sampled are the ids that are trained: what was written is never encoded again, and what an environment says is
encoded once. Each turn reads the whole row anew before it writes, in one pass over ids that are known; no cache is kept between.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from payoff.pipeline import NonFiniteError, Response, Start
from payoff.policies.generation import Choice
from payoff.policies.token_text import TokenText
from payoff.policies.turn_rows import Answer, Dialogue, Row, as_trajectories
from payoff.policies.turn_writing import write_turns
from payoff.trajectories import StopReason, Trajectories, fresh_ids

_TABLES: weakref.WeakKeyDictionary[Any, dict[Any, TokenText]] = weakref.WeakKeyDictionary()


def rollout_turns(policy: Any, starts: Sequence[Start], n: int, rng: torch.Generator) -> Trajectories:
    """n rollouts of every start with its environment, row by row in the order of the starts; one group per start.

    policy: a `LanguageModel`; its `max_tokens` are those that it writes in all turns of a rollout together.

    mask: True on the policy's own tokens; what the environment says has log-probability 0. step: the turn. A rollout is finished
    where the environment says so, truncated by a budget, and in error where the environment raised, gave no answer in time, or said
    what the tokenizer cannot write; then the item's "failure" says why.
    items: as of a response; "response" is the last turn's own text, "steps" that of every turn, "turns" for each turn what was
    said, what was observed and the environment's reward (None where there was no answer); "outcome", "failure", "environment".

    Environments that are slow answer in threads, and a turn is written for whichever rows are ready. All rows are waited for, and
    stand where they would stand if all were equally fast; budgets count tokens and turns, never time. Each row has random numbers
    of its own, so that what it writes does not depend on who else was ready. `rng` moves by one draw.
    """
    for start in starts:
        if not isinstance(start.environment, Dialogue):
            raise ValueError(
                f"LanguageModel: start {start.id!r} has {'no' if start.environment is None else 'an'} environment"
                f"{' beside starts that have one' if start.environment is None else ' that takes no turns of text'}"
            )
    read = [policy._read(start._replace(environment=None)) for start in starts]
    groups = fresh_ids(len(starts)).tolist()
    for item in read:
        policy._room(len(item["prompt_ids"]), f"start {item['start']!r}")
    which = [k for k in range(len(starts)) for _ in range(n)]
    rows = [
        Row(id, groups[k], dict(read[k]), starts[k].environment, numbers, policy.max_tokens, policy.model.context)
        for id, k, numbers in zip(fresh_ids(len(which)).tolist(), which, _numbers(len(which), rng), strict=True)
    ]
    _converse(policy, rows)
    return as_trajectories(rows, _text(policy, rows[0].environment.ends))


def resume_turns(
    policy: Any,
    traj: Trajectories,
    rows: Int[Tensor, " R"],
    at: Int[Tensor, " R"],
    n: int,
    rng: torch.Generator,
    *,
    horizon: int | None = None,
    noisy: int | None = None,
) -> Trajectories:
    """n continuations of each prefix traj[rows, :at], each with an environment that has been told the same turns again.

    Ids are copied, those of the environment too: a prefix that ends in what it says, or just before, goes on to its end. An
    environment that answers the same turns otherwise puts the row into error. horizon, noisy: count own tokens.
    Raises ValueError when `at` lies outside 0..length, or when nothing can follow: the rollout is over there, or full.
    """
    kept = traj.select(rows).to("cpu")
    places, branches = at.tolist(), []
    for i, place in enumerate(places):
        branches += [(i, *_kept_turns(kept, i, place))] * n
    copies: list[Row] = []
    ids = fresh_ids(len(branches)).tolist()
    old = kept.logp.get("old", torch.zeros(kept.mask.shape))
    for id, (i, cut, complete), numbers in zip(ids, branches, _numbers(len(branches), rng), strict=True):
        item = dict(kept.items[i])
        row = Row(
            id,
            int(kept.group[i]),
            item,
            item["environment"],
            numbers,
            policy.max_tokens,
            policy.model.context,
            noisy=noisy,
            horizon=horizon,
        )
        row.ids, row.logp = kept.actions[i, :cut].tolist(), old[i, :cut].tolist()
        row.acted, row.step = kept.mask[i, :cut].tolist(), kept.step[i, :cut].tolist()
        row.turns = [dict(turn) for turn in item["turns"][:complete]]
        row.begun = [k for k, own, step in zip(row.ids, row.acted, row.step, strict=True) if own and step == complete]
        for k, turn in enumerate(row.turns):
            row.replay.append((turn["said"], turn["observed"], 1 + max(p for p, step in enumerate(row.step) if step == k)))
        if row.limit < 1 or complete >= row.environment.turns:
            raise ValueError(
                f"LanguageModel: resume of trajectory {int(kept.id[i])} at {places[i]} leaves no room for another token or turn"
            )
        copies.append(row)
    _converse(policy, copies)
    parents = [int(kept.id[i]) for i, _, _ in branches]
    text = _text(policy, copies[0].environment.ends)
    return as_trajectories(copies, text, parents=parents, forks=[places[i] for i, _, _ in branches])


def take_turns(traj: Trajectories, rows: Int[Tensor, " R"]) -> bool:
    """Whether any of these rows was rolled out with an environment that takes turns of text."""
    return bool(traj.items) and any(isinstance(traj.items[row].get("environment"), Dialogue) for row in rows.tolist())


# --- inside


def _kept_turns(traj: Trajectories, row: int, at: int) -> tuple[int, int]:
    """Where the prefix that is copied ends, at `at` or where the environment's text there does, and how many turns it completes."""
    id, length = int(traj.id[row]), int(traj.length[row])
    if not 0 <= at <= length:
        raise ValueError(f"LanguageModel: resume of trajectory {id} at {at}, which is outside 0..length = 0..{length}")
    turns = traj.items[row]["turns"]
    step, own = traj.step[row, :length], traj.mask[row, :length]
    if at == length and int(traj.stop[row]) != StopReason.truncated:
        raise ValueError(f"LanguageModel: resume of trajectory {id} at its end ({length}), where it is over")
    complete = 0
    while complete < len(turns) and turns[complete]["observed"] is not None:
        end = 1 + int((own & (step == complete)).nonzero().max())
        if end > at:
            break
        complete += 1
    last = int((step < complete).sum())
    if complete and turns[complete - 1]["over"]:
        raise ValueError(f"LanguageModel: resume of trajectory {id} at {at}, where its environment had ended it")
    return max(at, last), complete


def _converse(policy: Any, rows: Sequence[Row]) -> None:
    """Let every row go on until it stops."""
    threads = max(row.environment.concurrency for row in rows)
    try:
        if not threads:
            ready = list(rows)
            while ready:
                for row in _write(policy, ready):
                    row.hear(_ask(row), policy.tokenizer)
                ready = [row for row in ready if row.stop is None]
            return
        place = {row.id: k for k, row in enumerate(rows)}
        pending: dict[Future[Answer], Row] = {}
        with ThreadPoolExecutor(threads, "payoff-turns") as pool:
            ready = list(rows)
            while ready or pending:
                if ready:
                    pending |= {pool.submit(_ask, row): row for row in _write(policy, ready)}
                done = wait(pending, return_when=FIRST_COMPLETED).done if pending else set()
                answered = [(pending.pop(future), future.result()) for future in done]
                for row, answer in answered:
                    row.hear(answer, policy.tokenizer)
                ready = sorted((row for row, _ in answered if row.stop is None), key=lambda row: place[row.id])
    finally:
        for row in rows:
            if (close := getattr(row.session, "close", None)) is not None:
                close()
            row.session = None


def _write(policy: Any, rows: Sequence[Row]) -> list[Row]:
    """Write the turn of each of these rows; those whose environments are to be asked, or to begin."""
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(tuple(row.environment.ends), []).append(row)
    choice = Choice(policy.temperature, policy.top_k, policy.top_p)
    asking: list[Row] = []
    for ends, some in kinds.items():
        text, limits = _text(policy, ends), [row.limit for row in some]
        most = max(limits)
        numbers = torch.zeros(len(some), most, dtype=torch.float64)
        for k, (row, limit) in enumerate(zip(some, limits, strict=True)):
            numbers[k, :limit] = torch.rand(limit, generator=row.numbers, dtype=torch.float64)
        written = write_turns(
            policy.model,
            text,
            choice,
            [[*row.prompt, *row.ids] for row in some],
            limits,
            numbers,
            [most if row.noisy is None else row.noisy for row in some],
            [row.begun for row in some],
        )
        for row, turn in zip(some, written, strict=True):
            bad = [value for value in turn.logp if not value > -torch.inf]
            if bad:
                raise NonFiniteError(f"language model, writing a turn of start {row.item.get('start')!r}", row.id, bad[0])
            if row.wrote(turn, text) or not row.opened:  # one that never began has a first state, and an outcome, all the same
                asking.append(row)
    return asking if len(kinds) == 1 else [row for row in rows if row in asking]


def _ask(row: Row) -> Answer:
    """What the environment says to the row's last turn; it begins where it has not, and is told earlier turns again first."""
    responses, measures = [], []
    outcome = None
    try:
        if row.session is None:
            row.session = row.environment.begin()
            measures.append(dict(getattr(row.session, "measures", {})))
            for said, observed, _ in row.replay:
                responses.append(_response(row.session.respond(said)))
                measures.append(dict(getattr(row.session, "measures", {})))
                if responses[-1].observation != observed or responses[-1].stop is not None:
                    return Answer(responses, measures, None, "the environment answered the same turns in another way")
        if row.stop is None:
            responses.append(_response(row.session.respond(row.turns[-1]["said"])))
            measures.append(dict(getattr(row.session, "measures", {})))
        outcome = getattr(row.session, "outcome", None)
    except Exception as error:  # whatever an environment raises is its failure, told as the reason why there is no verdict
        return Answer(responses, measures, None, f"{type(error).__name__}: {error}"[:500])
    return Answer(responses, measures, outcome, "")


def _response(given: Any) -> Response:
    """The response as text, a finite number and a reason to stop or none; what cannot be read so raises."""
    reward = float(given.reward)
    if not math.isfinite(reward):
        raise ValueError(f"the environment's reward is {reward}")
    observed = given.observation if isinstance(given.observation, str) else str(given.observation)
    return Response(observed, reward, None if given.stop is None else StopReason(given.stop))


def _numbers(n: int, rng: torch.Generator) -> list[torch.Generator]:
    """A generator for every row, all from one draw."""
    first = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    seeds = torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(first)).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _text(policy: Any, ends: tuple[str, ...]) -> TokenText:
    """Tables of the tokens' texts for turns that end like this."""
    tables = _TABLES.setdefault(policy, {})
    key = (ends, policy.device)
    if key not in tables:
        stop = (*policy.stop, *(end for end in ends if end not in policy.stop))
        tables[key] = TokenText(policy.tokenizer, policy.model.vocabulary, stop, None, policy.device)
    return tables[key]
