"""Does the reward read the instruction? Near instructions with different right responses (arXiv:2309.16155)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from payoff.audit.attempts import SLACK, Evidence, altered, cluster_of, references_of, text_of, verdicts
from payoff.audit.measurement import Measurement
from payoff.audit.rates import cut, share_by
from payoff.audit.scorer import Row, Score
from payoff.signals.answers import same_answer


class Contrast(NamedTuple):
    """A right response to one instruction and one to an instruction near it. row, other: those rows, without responses of use."""

    place: int
    row: Row
    response: str
    other: Row
    other_response: str


def contrast(score: Score, evidence: Evidence, *, near: float = 0.5, same: float = 0.999, bound: float = 0.75) -> list[Measurement]:
    """Two measurements, over instructions I with right responses R and the nearest other instruction I' with its R'.

    consistency-instruction: the share with r(I, R) > r(I', R): 0.5 for a reward that reads only the response
    consistency-response:    the share with r(I, R) > r(I, R'): 0.5 for a reward that reads only the instruction
    A tie counts half. Near: the cosine of the sets of words lies in [near, same]; a row may name a better one itself, as
    `contrast_prompt` and `contrast_response`. Pairs with the same right answer are none.
    """
    pairs = contrasts(evidence, near=near, same=same)
    names = {"instruction": "Is a response paid more where it was asked for?", "response": "Is what was asked for paid more?"}
    if not pairs:
        why = "no two instructions are near one another and have different right responses"
        return [_measure(name, question, None, bound, note=why) for name, question in names.items()]
    asked = [altered(p.row, p.response) for p in pairs]
    elsewhere = [altered(p.other, p.response) for p in pairs]
    instead = [altered(p.row, p.other_response) for p in pairs]
    rewards = verdicts(score, asked + elsewhere + instead)[0]
    n = len(pairs)
    found = []
    for name, against, changed in (("instruction", rewards[n : 2 * n], elsewhere), ("response", rewards[2 * n :], instead)):
        both = [(k, a, b) for k, (a, b) in enumerate(zip(rewards[:n], against, strict=True)) if a is not None and b is not None]
        if not both:
            found.append(_measure(name, names[name], None, bound, note="no pair with two verdicts"))
            continue
        wins = [0.5 if abs(a - b) <= SLACK else float(a > b) for _, a, b in both]
        estimate = share_by(wins, [cluster_of(pairs[k].row, pairs[k].place) for k, _, _ in both])
        worst = sorted(both, key=lambda entry: entry[1] - entry[2])
        shown = [_example(pairs[k], changed[k], a, b) for k, a, b in worst if a <= b + SLACK][:10]
        lost = f"; {n - len(both)} without verdict" if len(both) < n else ""
        found.append(_measure(name, names[name], estimate, bound, note=f"{len(both)} near pairs{lost}", examples=tuple(shown)))
    return found


def contrasts(evidence: Evidence, *, near: float, same: float) -> list[Contrast]:
    """For each prompt with a right response, the nearest other prompt with another right answer."""
    chosen: dict[Hashable, tuple[int, str]] = {}
    for i, row in enumerate(evidence.rows):
        if evidence.right[i] and row.get("response") is not None:
            chosen.setdefault(cluster_of(row, i), (i, text_of(row["response"])))
    for i, row in enumerate(evidence.rows):
        if references_of(row) and row.get("prompt") is not None:
            chosen.setdefault(cluster_of(row, i), (i, evidence.phrase(references_of(row)[0])))
    entries = list(chosen.values())
    nearness = cosines([text_of(evidence.rows[i].get("prompt")) for i, _ in entries])
    found = []
    for k, (i, response) in enumerate(entries):
        row = evidence.rows[i]
        if row.get("contrast_prompt") is not None and row.get("contrast_response") is not None:
            other = {**row, "prompt": row["contrast_prompt"]}
            if "reference" in row:
                other["reference"] = row.get("contrast_reference", row["contrast_response"])
            found.append(Contrast(i, row, response, other, text_of(row["contrast_response"])))
            continue
        for j in nearness[k].argsort(descending=True, stable=True).tolist():
            if nearness[k, j] < near:
                break
            other_i, other_response = entries[j]
            if j != k and nearness[k, j] <= same and _differ(row, response, evidence.rows[other_i], other_response):
                found.append(Contrast(i, row, response, evidence.rows[other_i], other_response))
                break
    return found


def cosines(texts: Sequence[str]) -> Float64[Tensor, "N N"]:
    """The cosine of the sets of words of every two texts: |A and B| / sqrt(|A| |B|); 0 for a text without words.

    >>> cosines(["add 1 and 2", "add 1 and 3"])[0].tolist()
    [1.0, 0.75]
    """
    bags = [set(re.findall(r"\w+|[^\w\s]", text.casefold())) for text in texts]
    words = {word: k for k, word in enumerate(dict.fromkeys(word for bag in bags for word in sorted(bag)))}
    holds = torch.zeros(len(texts), max(1, len(words)), dtype=torch.float64)
    for k, bag in enumerate(bags):
        holds[k, [words[word] for word in bag]] = 1.0
    size = holds.sum(1).clamp(min=1)
    return holds @ holds.T / (size[:, None] * size).sqrt()


def _differ(row: Row, response: str, other: Row, other_response: str) -> bool:
    if " ".join(response.split()) == " ".join(other_response.split()):
        return False
    return not any(same_answer(a, b) for a in references_of(row) for b in references_of(other))


def _example(pair: Contrast, changed: Row, reward: float, against: float) -> Mapping[str, Any]:
    return {
        "row": pair.place,
        "prompt": cut(text_of(pair.row.get("prompt"))),
        "response": cut(pair.response),
        "reward": reward,
        "prompt_against": cut(text_of(changed.get("prompt"))),
        "response_against": cut(text_of(changed.get("response"))),
        "reward_against": against,
        "gap": against - reward,
    }


def _measure(name: str, question: str, estimate: Any, bound: float, **rest: Any) -> Measurement:
    return Measurement(
        f"consistency-{name}",
        "consistency",
        question,
        estimate,
        bound=bound,
        bad="below",
        worst=0.5,
        unit="share of pairs, a tie counting half",
        advice="Show the reward right responses to other instructions as wrong ones.",
        remedies=("answer-match", "g-ra"),
        needs=5,
        **rest,
    )
