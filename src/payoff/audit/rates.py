"""How often what was tried went wrong: a share by prompts, of the worst variant where one surely stands out; its worst cases."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from payoff.audit.attempts import Evidence, Tried, cluster_of, references_of, text_of
from payoff.audit.intervals_by_cluster import share_of, sum_by
from payoff.audit.measurement import Measurement
from payoff.intervals import Interval, wilson

SHOWN = 10  # examples of a measurement
CUT = 2000  # characters of a text in an example


def rate(
    name: str,
    question: str,
    tried: Sequence[Tried],
    evidence: Evidence,
    *,
    check: Literal["attacks", "invariances"],
    bound: float,
    worst: float,
    needs: int = 5,
    excluded: int = 0,
    invalid: int = 0,
    advice: str = "",
    remedies: tuple[str, ...] = (),
    also: str = "",
) -> Measurement:
    """The share of attempts that hit, its interval by prompts, the worst of them, and every count that a reader needs."""
    left_out = [f"{excluded} left out: right by comparison with the reference or by the truth"] if excluded else []
    left_out += [f"{invalid} without verdict"] if invalid else []
    left_out += [also] if also else []
    if not tried:
        why = "; ".join(["nothing to try on these rows", *left_out])
        return Measurement(name, check, question, None, bound=bound, worst=worst, needs=needs, note=why)
    clusters = [cluster_of(evidence.rows[t.attempt.row], t.attempt.row) for t in tried]
    estimate = share_by([t.hit for t in tried], clusters)
    hits = sum(t.hit for t in tried)
    note = [f"{hits} of {len(tried)} attempts on {len(set(clusters))} prompts"]
    if not hits:
        note[0] += f"; a rate up to {estimate.high:.2g} remains possible" if estimate and estimate.high is not None else ""
    by_variant: dict[str, list[bool]] = {}
    for t in tried:
        by_variant.setdefault(t.attempt.variant, []).append(t.hit)
    rates = {variant: wilson(sum(of), len(of)) for variant, of in by_variant.items()}
    if hits and len(rates) > 1:
        most = max(rates, key=lambda variant: (rates[variant].value, rates[variant].n))
        note.append(f"most by {most!r}: {sum(by_variant[most])} of {rates[most].n}")
        if check == "attacks":
            estimate = _surely_more(tried, clusters, estimate, note)
    return Measurement(
        name,
        check,
        question,
        estimate,
        bound=bound,
        worst=worst,
        unit="share of attempts",
        advice=advice,
        remedies=remedies,
        examples=worst_examples(tried, evidence),
        series={
            "rate": [r.value for r in rates.values()],
            "low": [r.low or 0.0 for r in rates.values()],
            "high": [r.high or 0.0 for r in rates.values()],
            "n": [float(r.n) for r in rates.values()],
        },
        needs=needs,
        note="; ".join(note + left_out),
    )


def _surely_more(tried: Sequence[Tried], clusters: Sequence[Hashable], whole: Interval | None, note: list[str]) -> Interval | None:
    """The share of the one variant that succeeds surely more often than all together, if there is one: a policy will find it.

    The worst of V variants is read at level 1 - 0.05 / V, so that the luckiest of many does not pass for a flaw.
    """
    variants = sorted({t.attempt.variant for t in tried})
    found = whole
    for variant in variants:
        of = [(t.hit, where) for t, where in zip(tried, clusters, strict=True) if t.attempt.variant == variant]
        own = share_by([hit for hit, _ in of], [where for _, where in of], level=1 - 0.05 / len(variants))
        if own is None or own.low is None or found is None or found.low is None or own.n < 10:
            continue
        if whole is not None and own.low > (found.low if found is not whole else whole.high or 1.0):
            found = own
    if found is not whole and whole is not None:
        note.append(f"the number is of that worst variant; of all together {whole.value:.3g}")
    return found


def share_by(hits: Sequence[bool | float], clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval | None:
    """The share of hits among attempts, its interval by clusters; None for no attempts. A half is a draw.

    >>> i = share_by([True, False, False, False] * 20, [k // 4 for k in range(80)])
    >>> i.value, i.n
    (0.25, 20)
    """
    names = {name: k for k, name in enumerate(dict.fromkeys(clusters))}
    index = torch.tensor([names[name] for name in clusters], dtype=torch.int64)
    hit = torch.tensor([float(h) for h in hits], dtype=torch.float64)
    return share_of(sum_by(hit, index, len(names)), sum_by(torch.ones_like(hit), index, len(names)), level=level)


def worst_examples(tried: Iterable[Tried], evidence: Evidence, *, shown: int = SHOWN) -> tuple[Mapping[str, Any], ...]:
    """The hits with the largest gap, at most two per prompt; those whose texts are nearly the same are one, with their count."""
    found = sorted((t for t in tried if t.hit), key=lambda t: -t.gap)
    alike = Counter(_likeness(t) for t in found)
    kept: list[Mapping[str, Any]] = []
    shapes: set[Hashable] = set()
    prompts: Counter[Hashable] = Counter()
    for t in found:
        row, shape = evidence.rows[t.attempt.row], _likeness(t)
        place = cluster_of(row, t.attempt.row)
        if shape in shapes or prompts[place] == 2:
            continue
        shapes.add(shape)
        prompts[place] += 1
        kept.append(
            {
                "row": t.attempt.row,
                "variant": t.attempt.variant,
                "prompt": cut(text_of(t.attempt.changed.get("prompt"))),
                "response": cut(text_of(t.attempt.changed.get("response"))),
                "reference": cut("; ".join(references_of(row))),
                "reward": t.reward,
                "unchanged": cut(text_of(row.get("response"))),
                "reward_unchanged": evidence.reward[t.attempt.row],
                "threshold": evidence.threshold,
                "gap": t.gap,
                "alike": alike[shape],
                "hits": len(found),
            }
        )
        if len(kept) == shown:
            break
    return tuple(kept)


def cut(text: str) -> str:
    return text if len(text) <= CUT else f"{text[:CUT]} ... ({len(text)} characters)"


def _likeness(t: Tried) -> Hashable:
    """Texts that differ in digits, case and blank space alone look the same to a reader."""
    text = re.sub(r"\d+", "0", text_of(t.attempt.changed.get("response"))[:400].casefold())
    return t.attempt.variant, " ".join(text.split())[:120]
