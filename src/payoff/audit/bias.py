"""Does the reward follow what it should not: length, form, tone, place, source?

Observed: the correlation of reward and feature once the truth is taken out of both, so that a reward is not blamed for right
answers that happen to be long. `bias_pairs` has the other half, the same responses with one thing added: a correlation may have
other causes, a pair has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from payoff.audit.attempts import Evidence, gather, text_of
from payoff.audit.bias_pairs import Feature, answer_position, dense_clusters, measured, paired, position, shown
from payoff.audit.measurement import Measurement
from payoff.audit.residuals import explained_by, partial_rank_correlation, size_of
from payoff.audit.scorer import Row, Score
from payoff.intervals import Interval

SLICES = ("source", "subset", "category", "domain", "difficulty", "language")
FEWEST_IN_SLICE = 10
_SURE = re.compile(
    r"\b(certain(ly)?|definite(ly)?|clear(ly)?|obvious(ly)?|undoubtedly|without (any )?doubt|absolutely|sure)\b", re.I
)
_UNSURE = re.compile(r"\b(maybe|perhaps|might|possibly|probably|not sure|i think|guess|likely|seems?|unsure|could be)\b", re.I)
_MARKS = re.compile(r"^\s{0,3}(#{1,6} |[-*+] |\d+[.)] |> |\|)|\*\*[^*\n]+\*\*|`[^`\n]+`|^```", re.M)


FEATURES: dict[str, Feature] = {
    "length": Feature(
        "Does the reward follow length, at equal truth?",
        lambda text: float(len(text)),
        "Charge for length, or take out of the reward what length explains.",
        ("length-penalty", "soft-overlong", "par"),
    ),
    "format": Feature(
        "Does the reward follow lists, headings and bold type, at equal truth?",
        lambda text: float(len(_MARKS.findall(text))),
        "Score the text without its markup, or bound what form can earn.",
        ("g-ra", "clamp", "par"),
    ),
    "style": Feature(
        "Does the reward follow long words, at equal truth?",
        lambda text: sum(map(len, words)) / len(words) if (words := re.findall(r"\w+", text)) else 0.0,
        "Bound the reward, and compare responses in one style.",
        ("par", "clamp"),
    ),
    "confidence": Feature(
        "Does the reward follow how sure a response sounds, at equal truth?",
        lambda text: float(len(_SURE.findall(text)) - len(_UNSURE.findall(text))),
        "Let an exact check decide where there is one.",
        ("g-ra", "par"),
    ),
}


def bias(
    score: Score,
    rows: Sequence[Row],
    *,
    gold: str | None = None,
    seed: int = 0,
    own: str | None = None,
    slices: Sequence[str] = SLICES,
    limit: int | None = 2000,
    template: str | None = None,
    bound: float = 0.2,
    paired_bound: float = 0.05,
) -> list[Measurement]:
    """All measures of bias that the rows allow; those that they do not allow say why.

    bias-<feature>:         |partial rank correlation| of reward and feature given the truth; without a gold field it is only told
    bias-<feature>-paired:  how much one addition raises the reward of the same response, in units of its range
    bias-answer-position:   how much more is paid for a right answer before a wrong one than for a wrong one before a right one
    bias-position:          rows with `other`, the response compared with: what is paid for standing first, 0 for none
    bias-self-preference:   |partial rank correlation| with the row's `source` being `own`, the judge's own
    bias-source-scale:      the share of what the truth leaves that `source` explains, by level and slope
    bias-wrong-sign:        the rank correlation of reward and truth in the worst slice, by the fields `slices`

    bound: the largest correlation (or share) that is still good; paired_bound: the largest rise. All intervals count prompts.

    >>> from payoff.audit.scorer import Scorer
    >>> from payoff.grading import signal
    >>> def longer(response, reference): return (reference in response) + len(response) / 100
    >>> rows = [{"prompt": f"{k}?", "response": "so " * (k % 7) + str(k % 2), "reference": "1", "ok": k % 2} for k in range(60)]
    >>> found = {m.name: m.result for m in bias(Scorer(signal(longer)), rows, gold="ok")}
    >>> found["bias-length"], found["bias-length-paired"], found["bias-position"]
    ('fails', 'fails', 'not applicable')
    """
    evidence = gather(score, rows, gold=gold, limit=limit, seed=seed, template=template)
    kept = [i for i, reward in enumerate(evidence.reward) if reward is not None]
    data = _Data.of(evidence, kept, known=gold is not None)
    found = [_observed(name, feature, data, bound) for name, feature in FEATURES.items()]
    found += paired(score, evidence, kept, paired_bound, FEATURES)
    found.append(answer_position(score, evidence, seed, paired_bound))
    found.append(position(score, evidence, paired_bound))
    found.append(_self_preference(data, own, bound))
    found.append(_source_scale(data, bound, seed))
    found.append(_wrong_sign(data, slices))
    return found


class _Data(NamedTuple):
    """The rows with a verdict, and with a truth where a gold field is named, as columns. `place` are their numbers."""

    evidence: Evidence
    place: list[int]
    reward: Float64[Tensor, " N"]
    truth: Float64[Tensor, " N"] | None
    cluster: Int64[Tensor, " N"]

    @classmethod
    def of(cls, evidence: Evidence, kept: Sequence[int], *, known: bool) -> _Data:
        place = [i for i in kept if not known or evidence.truth[i] is not None]
        reward = torch.tensor([evidence.reward[i] or 0.0 for i in place], dtype=torch.float64)
        truth = torch.tensor([evidence.truth[i] or 0.0 for i in place], dtype=torch.float64) if known else None
        return cls(evidence, place, reward, truth, dense_clusters([evidence.rows[i] for i in place], place))

    def texts(self) -> list[str]:
        return [text_of(self.evidence.rows[i].get("response")) for i in self.place]

    def column(self, name: str) -> list[Any]:
        return [self.evidence.rows[i].get(name) for i in self.place]


# --- observed


def _observed(name: str, feature: Feature, data: _Data, bound: float) -> Measurement:
    x = torch.tensor([feature.of(text) for text in data.texts()], dtype=torch.float64)
    return _correlated(name, feature, x, data, bound, f"{feature.question.split('follow ')[-1].split(',')[0]}")


def _correlated(name: str, feature: Feature, x: Float64[Tensor, " N"], data: _Data, bound: float, what: str) -> Measurement:
    estimate, parts = partial_rank_correlation(data.reward, x, data.cluster, given=data.truth)
    if estimate is None:
        return measured(name, feature.question, None, note=f"{what} does not vary, or follows from the truth, on these rows")
    note = f"correlation {estimate.value:+.2f} on {len(data.place)} responses"
    if data.truth is None:
        note += "; without a gold field nothing can be taken out, and it may be what right answers have in common: only told"
    sign = 1.0 if estimate.value >= 0 else -1.0
    order = x.sort().indices
    bins = [part for part in order.chunk(min(10, max(1, len(order)))) if len(part)]
    return measured(
        name,
        feature.question,
        size_of(estimate),
        bound=bound if data.truth is not None else None,
        worst=1.0,
        unit="rank correlation",
        advice=feature.advice,
        remedies=feature.remedies,
        examples=shown(data.evidence, data.place, (sign * parts).tolist(), {name: x.tolist()}),
        series={"feature": [float(x[b].mean()) for b in bins], "reward": [float(data.reward[b].mean()) for b in bins]},
        note=note,
    )


def _self_preference(data: _Data, own: str | None, bound: float) -> Measurement:
    feature = Feature(
        "Does the judge pay its own source more, at equal truth?",
        len,
        "Judge with another model than the one that wrote the responses.",
        ("par-mean-std", "grpo"),
    )
    if own is None:
        return measured("self-preference", feature.question, None, note="the judge's own source is not named")
    x = torch.tensor([float(source == own) for source in data.column("source")], dtype=torch.float64)
    return _correlated("self-preference", feature, x, data, bound, f"whether a row's source is {own!r}")


def _source_scale(data: _Data, bound: float, seed: int) -> Measurement:
    question = "Is the reward on one scale for all sources?"
    sources = data.column("source")
    names = {name: k for k, name in enumerate(dict.fromkeys(str(s) for s in sources if s is not None))}
    kept = torch.tensor([s is not None for s in sources], dtype=torch.bool)
    if data.truth is None or len(names) < 2:
        why = "needs a gold field" if data.truth is None else "the rows name no two sources"
        return measured("source-scale", question, None, note=why)
    label = torch.tensor([names[str(s)] for s in sources if s is not None])
    y, truth = data.reward[kept], data.truth[kept]
    estimate = explained_by(y, label, truth, data.cluster[kept], seed=seed)
    if estimate is None:
        return measured("source-scale", question, None, note="too few rows for so many sources")
    means = {name: float(y[label == k].mean()) for name, k in names.items()}
    low, high = min(means, key=lambda n: means[n]), max(means, key=lambda n: means[n])
    return measured(
        "source-scale",
        question,
        estimate,
        bound=bound,
        worst=1.0,
        unit="share of what the truth leaves",
        advice="Standardise the reward within each source, or compare within groups of one prompt.",
        remedies=("par-mean-std", "grpo", "par-min-max"),
        series={"mean": list(means.values())},
        note=f"mean reward {means[low]:.3g} for {low!r}, {means[high]:.3g} for {high!r}, of {len(means)} sources",
    )


def _wrong_sign(data: _Data, slices: Sequence[str]) -> Measurement:
    question = "Does the reward rise with the truth in every slice of the rows?"
    if data.truth is None:
        return measured("wrong-sign", question, None, note="needs a gold field")
    groups: dict[str, list[int]] = {"all rows": list(range(len(data.place)))}
    for field in slices:
        for k, value in enumerate(data.column(field)):
            if isinstance(value, str | int | float | bool):
                groups.setdefault(f"{field} = {value}", []).append(k)
    groups = {name: of for name, of in groups.items() if len(of) >= FEWEST_IN_SLICE}
    found: dict[str, Interval] = {}
    parts: dict[str, list[float]] = {}
    for name, of in groups.items():
        index = torch.tensor(of)
        estimate, part = partial_rank_correlation(
            data.reward[index], data.truth[index], data.cluster[index], level=1 - 0.05 / len(groups)
        )
        if estimate is not None and estimate.high is not None:
            found[name], parts[name] = estimate, part.tolist()
    if not found:
        return measured("wrong-sign", question, None, note="no slice of ten rows in which the truth varies")
    worst = min(found, key=lambda name: (found[name].high, found[name].value))
    places = [data.place[k] for k in groups[worst]]
    return measured(
        "wrong-sign",
        question,
        found[worst],
        bound=0.0,
        bad="below",
        worst=-1.0,
        unit="rank correlation with the truth",
        advice="Leave this slice out, or correct the reward there.",
        remedies=("g-ra", "answer-match", "valid-only"),
        examples=shown(data.evidence, places, [-p for p in parts[worst]], {}) if found[worst].value < 0 else (),
        series={"correlation": [e.value for e in found.values()], "n": [float(e.n) for e in found.values()]},
        note=f"worst of {len(found)} slices: {worst}; the level is corrected for their number",
    )
