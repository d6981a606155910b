"""One reward for rows of many kinds: a router by a field of the rows, a similarity of open answers, verifiers named by the rows."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from payoff.catalogue import find, index, method
from payoff.pipeline import Verdict
from payoff.signals.answers import Reference, answer_match, final_answer
from payoff.signals.bleu import LONGEST, texts_of
from payoff.signals.tags import in_order
from payoff.trajectories import Channel, Rewards, StopReason, Trajectories, place_outcome

_NUMBER = re.compile(r"(?:(?<![\w)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)", re.ASCII)
_WORD = re.compile(r"\w+")
_MOST_TOKENS = 4096  # of either text, as the table of similarities has their product
_NO_REFERENCE = Verdict(0.0, valid=False, reason="no reference to compare the answer with")


@method("bmas", kind="grader", paper="arXiv:2505.24164")
def bmas(response: str, reference: Reference, *, policy: Any = None) -> float | Verdict:
    """How near every token of an answer comes to one of the reference, and the other way round (BMAS).

    With unit embeddings e of m and n tokens, S_ij = e_i . e_j: (mean_i max_j S_ij + mean_j max_i S_ij) / 2; of several references
    the best.

    policy: a language model whose tokens and input embeddings are taken, as it starts (a run file gives it, frozen); None: words,
            each equal only to itself, so that it is the mean of the shares of words that the other text has
    The text is that of the final answer, see `final_answer`. Range -1 .. 1 (0 .. 1 without a policy), 1 for the same bag of tokens.
    Cost: the product of the lengths, of 4096 tokens of either at most: 10 ms for two texts of 500. Gamed by word salad: order,
    repetition and negation count for nothing. No answer: 0; no verdict without a reference that has a token.

    >>> bmas("the red cube", "cube red the red"), bmas("the red cube", "a red ball")
    (1.0, 0.3333333333333333)
    """
    answer, wanted = final_answer(response), texts_of(reference)
    table = None if policy is None else _embeddings(policy)
    cut = _WORD.findall if policy is None else policy.tokenizer.encode
    of = [tokens for one in wanted if (tokens := cut(one[:LONGEST].lower() if policy is None else one[:LONGEST])[:_MOST_TOKENS])]
    if not of:
        return _NO_REFERENCE
    said = cut(answer[:LONGEST].lower() if policy is None else answer[:LONGEST])[:_MOST_TOKENS] if answer else []
    if not said:
        return 0.0
    if table is None:
        return max((_share(said, one) + _share(one, said)) / 2 for one in of)
    return max(best_match(table[torch.tensor(said)], table[torch.tensor(one)]) for one in of)


@method("mixed-r1", kind="grader", paper="arXiv:2505.24164")
def mixed_r1(
    response: str,
    reference: Any,
    kind: str,
    *,
    form: Sequence[str] = ("think", "answer"),
    tolerance: float = 0.05,
    policy: Any = None,
) -> float | Verdict:
    """Form + the reward of the row's kind, 0 to 2 (Mixed-R1's router): 1 for the tags in order, and up to 1 for the answer.

    kind, a field of the rows: "match": 1 for the reference as text or number (`answer-match`); "chart": the same, numbers within
    `tolerance` of the reference; "box": intersection over union of the first four numbers and the reference's x1, y1, x2, y2;
    "open": `bmas`, 0 where it is below.

    Cost: that of the kind, "open" dearest. Gamed as its parts are; kinds differ in what a guess earns ("open" pays word salad,
    "box" the whole picture), so compare within groups, or normalise by kind. No verdict for another kind, or for a reference that
    does not fit. Raises ValueError for a tolerance below 0.

    >>> mixed_r1("<think>left</think><answer>[0, 0, 2, 2]</answer>", [0, 0, 2, 1], "box"), mixed_r1("10.2", "10", "chart")
    (1.5, 1.0)
    """
    right: float | Verdict
    if kind in ("match", "chart"):
        right = answer_match(response, reference, tolerance=tolerance if kind == "chart" else 0.0)
    elif kind == "box":
        right = _box_score(response, reference)
    elif kind == "open":
        right = bmas(response, reference, policy=policy)
    else:
        return Verdict(0.0, valid=False, reason=f"kind must be match, chart, box or open, got {str(kind)[:60]!r}")
    return right if isinstance(right, Verdict) else in_order(response, form) + max(0.0, right)


@method("last-number", kind="grader")
def last_number(response: str, reference: Reference) -> float | Verdict:
    """1 where the last number anywhere in a response is the reference, as exact fractions, else 0 (the usual GSM8K verifier).

    Commas between thousands are left out. A reference is read in the same way: its last number, so that a whole solution will do.
    Cost: linear. Gamed by naming a number last that was no answer, and by going on until one is right: `math-answer` reads what is
    marked as the answer. No verdict for a reference without a number.

    >>> last_number("5 apples and 3 are 8.", "5 + 3 = <<5+3=8>>8\\n#### 8"), last_number("8, I checked it 2 times", 8)
    (1.0, 0.0)
    """
    wanted = [number for one in texts_of(reference) if (number := _last(one)) is not None]
    if not wanted:
        return Verdict(0.0, valid=False, reason="no number in the reference")
    said = _last(response)
    return float(said is not None and any(answer_match(said, one) == 1.0 for one in wanted))


@method("tulu3-rlvr", kind="signal", paper="arXiv:2411.15124")
def tulu3_rlvr(
    traj: Trajectories,
    *,
    alpha: float = 10.0,
    unfinished: float | None = -10.0,
    allowed: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Rewards:
    """alpha times what the verifiers named by a row give, summed up (RLVR), as the channel "tulu3-rlvr", paid at the end.

    Every item names its `verifier`: a registered grader, given the item's fields by name, or a list of such names, or of mappings
    {"name": ..., "weight": 1, "reference": ...}; the reference is the item's own unless the entry has one. Options are the run's,
    never the data's: `options` is {grader: {option: value}}, and only graders in `allowed` are called (None: all registered).
    A trajectory that did not finish by itself has `unfinished` instead, whatever it says; None: it is scored as any other.
    The paper takes KL to the reference off every token: add `kl-penalty` with a weight beside this one.

    Range: min(unfinished, 0) .. alpha times the sum of weights. Cost: that of the verifiers. Gamed as they are; only alpha over the
    weight of the KL matters where advantages are not normalised. An unknown verifier, one that raises or has no verdict: no verdict
    for the row, with the reason, never 0. Raises ValueError for trajectories without items, and an alpha that is not positive.

    >>> from payoff.examples import four_answers
    >>> traj = four_answers()
    >>> traj = traj.replace(items=[{**item, "verifier": "last-number"} for item in traj.items])
    >>> tulu3_rlvr(traj)["tulu3-rlvr"].value.sum(1)
    tensor([10.,  0., 10.,  0.])
    """
    if not alpha > 0:
        raise ValueError(f"tulu3_rlvr: alpha must be > 0, got {alpha}")
    if len(traj.items) != len(traj):
        raise ValueError("tulu3_rlvr: these trajectories have no items, so what they say is not known")
    chosen = {name.replace("_", "-"): dict(given) for name, given in (options or {}).items()}
    known_names = {name for kind, name in index() if kind == "grader"}
    if allowed is not None:
        known_names &= {name.replace("_", "-") for name in allowed}
    numbers: list[float] = []
    reasons: dict[int, str] = {}
    for item, stop, id in zip(traj.items, traj.stop.tolist(), traj.id.tolist(), strict=True):
        if unfinished is not None and stop != StopReason.finished:
            numbers.append(unfinished)
            continue
        said = _verified(item, known_names, chosen)
        if isinstance(said, str):
            reasons[id] = said
        numbers.append(0.0 if isinstance(said, str) else alpha * said)
    value = torch.tensor(numbers, dtype=torch.get_default_dtype(), device=traj.device)
    known = torch.tensor([id not in reasons for id in traj.id.tolist()], dtype=torch.bool, device=traj.device)
    channel: Channel = place_outcome(value, known, traj, reasons)
    return {"tulu3-rlvr": channel}


def best_match(a: Float[Tensor, "m D"], b: Float[Tensor, "n D"]) -> float:
    """The two directions of best matches of rows by cosine, averaged: BMAS of embeddings. A row of zeros is like nothing.

    >>> best_match(torch.eye(2), torch.tensor([[2.0, 0.0]]))
    0.75
    """
    a, b = (x.double() / x.double().norm(dim=1, keepdim=True).clamp(min=1e-12) for x in (a, b))
    similar = a @ b.T
    return float((similar.amax(1).mean() + similar.amax(0).mean()) / 2)


def _embeddings(policy: Any) -> Float[Tensor, "V D"]:
    """The input embeddings of a language model: its table with a row for every token."""
    model = getattr(policy, "model", None)
    if model is None or not hasattr(policy, "tokenizer"):
        raise ValueError(f"bmas: needs a language model, and {type(policy).__name__} is none")
    network = getattr(model, "network", None)
    if network is not None:
        return network.get_input_embeddings().weight.detach().cpu()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    fit = [table for table in tables if len(table) == model.vocabulary]
    if not fit:
        raise ValueError(f"bmas: {type(model).__name__} has no table of embeddings of its {model.vocabulary} tokens")
    return fit[0].detach().cpu()


def _share(a: Sequence[str], b: Sequence[str]) -> float:
    return sum(word in set_b for set_b in (set(b),) for word in a) / len(a)


def _box_score(response: str, reference: Any) -> float | Verdict:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    numbers = reference if isinstance(reference, list | tuple) else _NUMBER.findall(str(reference or ""))
    try:
        wanted = [float(str(number).replace(",", "")) for number in numbers]
    except ValueError:
        wanted = []
    if len(wanted) != 4 or not (wanted[0] < wanted[2] and wanted[1] < wanted[3] and all(abs(x) < 1e300 for x in wanted)):
        return Verdict(0.0, valid=False, reason=f"the reference must be x1 < x2 and y1 < y2, got {str(reference)[:80]}")
    said = [float(number) for number in re.findall(r"-?\d{1,9}(?:\.\d{1,9})?", final_answer(response) or "")[:4]]
    if len(said) != 4 or not (said[0] < said[2] and said[1] < said[3]):
        return 0.0
    size = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    shared = [max(said[0], wanted[0]), max(said[1], wanted[1]), min(said[2], wanted[2]), min(said[3], wanted[3])]
    both = max(0.0, shared[2] - shared[0]) * max(0.0, shared[3] - shared[1])
    return both / (size(said) + size(wanted) - both)


def _last(text: str) -> str | None:
    numbers = _NUMBER.findall(text[-LONGEST:])
    return numbers[-1].replace(",", "") if numbers else None


def _verified(item: Mapping[str, Any], known: Set[str], options: Mapping[str, Mapping[str, Any]]) -> float | str:
    """The weighted sum of what an item's verifiers give, or why there is none."""
    named = item.get("verifier")
    entries = [named] if isinstance(named, str | Mapping) else named
    if not isinstance(entries, list | tuple) or not entries:
        return "the row names no verifier"
    total = 0.0
    for entry in entries:
        fields = {"name": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
        name, weight = str(fields.pop("name", None)).replace("_", "-"), fields.pop("weight", 1.0)
        reference = fields.pop("reference", item.get("reference"))
        if name not in known:
            return f"unknown verifier {name[:60]!r}"
        if fields or not isinstance(weight, int | float):
            return f"verifier {name!r}: only a name, a weight (a number) and a reference may be given, got {sorted(fields)}"[:200]
        grader, there = find(name, "grader"), {**item, "reference": reference}
        asked = [p.name for p in inspect.signature(grader).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        try:
            said = grader(**{field: there[field] for field in asked if field in there}, **options.get(name, {}))
        except Exception as error:  # whatever a row makes a verifier do is that row's, and named in its reason
            return f"verifier {name!r}: {type(error).__name__}: {str(error)[:200]}"
        if isinstance(said, Verdict) and not said.valid:
            return f"verifier {name!r}: {said.reason}"
        value = said.value if isinstance(said, Verdict) else said
        if not isinstance(value, int | float) or not math.isfinite(weight * value):
            return f"verifier {name!r} gave {str(value)[:60]}, which is no number"
        total += weight * value
    return total
