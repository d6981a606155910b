"""Is what was said for one response given to another? Caches that remember the prompt and forget the response."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from payoff.audit.attacks import cases_of
from payoff.audit.attempts import Evidence, altered, cluster_of, references_of, text_of, verdicts
from payoff.audit.measurement import Measurement
from payoff.audit.rates import cut, share_by
from payoff.audit.scorer import Row, Score


class Two(NamedTuple):
    """Two different responses to one prompt, the one that should be paid more first."""

    place: int
    row: Row
    one: str
    two: str


def prompt_cache(
    score: Score, evidence: Evidence, *, seed: int = 0, tolerance: float = 1e-3, prompts: int = 100, bound: float = 0.05
) -> list[Measurement]:
    """Two measurements, each over two responses a and b, one right and one not, to the same prompt.

    consistency-prompt-cache:     a and b are scored in this order and in the other one, in one call and in calls of their own. A
                                  hit: a's reward depends on which came first, and not on chance, for the same order again gives
                                  the same. Every order has the prompt with another number of line ends behind it, so that what
                                  was remembered before does not count; a reward that refuses these leaves the question open.
    consistency-response-ignored: a and b get exactly the same, although the reward tells prompts apart. A hit is a cache that
                                  outlives this audit, or a reward that reads only prompts; also plain failure to tell them apart,
                                  which is why half of all prompts may hit.
    """
    pairs = pairs_of(evidence, seed)[:prompts]
    same = tolerance * (evidence.span or 1.0)
    return [_cache(score, pairs, same, bound), _ignored(score, evidence, pairs, same)]


def pairs_of(evidence: Evidence, seed: int) -> list[Two]:
    """Per prompt a right response and a wrong one; where there is none of either, the reference, and another row's or nothing."""
    places: dict[Hashable, list[int]] = {}
    for i, row in enumerate(evidence.rows):
        places.setdefault(cluster_of(row, i), []).append(i)
    cases = cases_of(evidence, seed)
    found = []
    for of in places.values():
        texts: Mapping[bool, list[str]] = {
            ok: [text_of(evidence.rows[i]["response"]) for i in of if evidence.right[i] is ok and evidence.rows[i].get("response")]
            for ok in (True, False)
        }
        row, case = evidence.rows[of[0]], cases[of[0]]
        stated = [evidence.phrase(one) for one in references_of(row)]
        unlabelled = [text_of(evidence.rows[i].get("response")) for i in of if evidence.rows[i].get("response")]
        one = next(iter([*texts[True], *stated, *unlabelled]), None)
        others = [*texts[False], *map(case.phrase, case.others[:1]), *unlabelled[1:], ""]
        two = next((text for text in others if text != one), None)
        if one and two is not None and text_of(row.get("prompt")):
            found.append(Two(of[0], row, one, two))
    return found


def _cache(score: Score, pairs: Sequence[Two], same: float, bound: float) -> Measurement:
    question = "Does a response's reward not depend on what else was said to the same prompt?"
    row = lambda pair, text, ends: altered(pair.row, text, prompt=_ended(pair.row["prompt"], ends))
    # In one call: a before b, b before a, and a before b once more.
    together = []
    for ends, first in ((1, True), (2, False), (3, True)):
        asked = [row(p, text, ends) for p in pairs for text in ((p.one, p.two) if first else (p.two, p.one))]
        together.append(verdicts(score, asked)[0][0 if first else 1 :: 2])
    # In calls of their own: a first, b first, and a first once more.
    apart = []
    for ends, first in ((4, True), (5, False), (6, True)):
        if not first:
            verdicts(score, [row(p, p.two, ends) for p in pairs])
        apart.append(verdicts(score, [row(p, p.one, ends) for p in pairs])[0])
    hits, worst, lost = [], [], 0
    for k, pair in enumerate(pairs):
        moved = [_moved(runs[0][k], runs[1][k], runs[2][k], same) for runs in (together, apart)]
        known = [gap for gap in moved if gap is not None]
        if not known:
            lost += 1
            continue
        hits.append(max(known) > 0)
        if hits[-1]:
            worst.append(_example(pair, max(known), together[0][k], together[1][k]))
    if not hits:
        why = f"no pair with verdicts: {lost} prompts were refused with line ends behind them" if lost else "no prompt to ask about"
        return _measure("prompt-cache", question, None, bound, note=why)
    note = f"{sum(hits)} of {len(hits)} prompts, each with two responses in both orders, in one call and in several"
    return _measure(
        "prompt-cache",
        question,
        share_by(hits, range(len(hits))),
        bound,
        examples=tuple(sorted(worst, key=lambda e: -e["gap"])[:10]),
        note=note + (f"; {lost} without verdict" if lost else ""),
    )


def _moved(ahead: float | None, behind: float | None, again: float | None, same: float) -> float | None:
    """By how much a's reward differs where b was asked first; 0 where it differs without that too."""
    if ahead is None or behind is None or again is None:
        return None
    return abs(ahead - behind) if abs(ahead - behind) > same and abs(ahead - again) <= same else 0.0


def _ignored(score: Score, evidence: Evidence, pairs: Sequence[Two], same: float) -> Measurement:
    question = "Does the reward read the response?"
    rewards = verdicts(score, [altered(p.row, text) for p in pairs for text in (p.one, p.two)])[0]
    both = [(p, a, b) for p, a, b in zip(pairs, rewards[::2], rewards[1::2], strict=True) if a is not None and b is not None]
    values = [reward for reward in rewards if reward is not None]
    if not both or max(values) - min(values) <= same:
        why = "the reward is the same for all prompts and responses" if both else "no pair with verdicts"
        return _measure("response-ignored", question, None, 0.5, worst=1.0, note=why)
    hits = [abs(a - b) <= same for _, a, b in both]
    shown = [_example(p, 1.0, a, b) for (p, a, b), hit in zip(both, hits, strict=True) if hit][:10]
    return _measure(
        "response-ignored",
        question,
        share_by(hits, range(len(hits))),
        0.5,
        worst=1.0,
        examples=tuple(shown),
        note=f"{sum(hits)} of {len(hits)} prompts with two responses that get the same",
    )


def _ended(prompt: Any, ends: int) -> Any:
    """A prompt with line ends behind it; of a conversation, behind its last message."""
    if isinstance(prompt, str):
        return prompt + "\n" * ends
    if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[-1], Mapping):
        return [*prompt[:-1], {**prompt[-1], "content": text_of(prompt[-1].get("content")) + "\n" * ends}]
    return prompt


def _example(pair: Two, gap: float, first: float | None, second: float | None) -> Mapping[str, Any]:
    return {
        "row": pair.place,
        "prompt": cut(text_of(pair.row.get("prompt"))),
        "response": cut(pair.one),
        "response_against": cut(pair.two),
        "reward": first,
        "reward_against": second,
        "gap": gap,
    }


def _measure(name: str, question: str, estimate: Any, bound: float, *, worst: float = 0.5, **rest: Any) -> Measurement:
    return Measurement(
        f"consistency-{name}",
        "consistency",
        question,
        estimate,
        bound=bound,
        worst=worst,
        unit="share of prompts",
        advice="Let the cache remember everything the reward reads: prompt, response, reference and the reward's own options.",
        needs=5,
        **rest,
    )
