"""One stored rollout as HTML, its tokens tinted by the credit each got. The palette is in page.css, the limits come from here.

Below zero orange with a bar beneath, above zero blue with a bar above, exactly zero untinted; four steps each way up to the limit,
the 98th percentile of all examples shown, beyond it underlined twice. The same steps are in page.js, which switches channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from payoff.report_page.examples import Example
from payoff.report_page.pictures import picture_html
from payoff.report_page.runs import number
from payoff.report_page.wording import attribute, cut, markup, plural, short

CLIP = 0.98
MANY, WIDE = 24, 32  # steps of one token each beyond which they share rows, of so many characters
Record = dict[str, Any]


def record(example: Example, row: Mapping[str, Any], *, longest: int = 2000) -> Record:
    """What the page keeps of a stored row: at most `longest` tokens and ten times as many characters, numbers to five digits."""
    r = example.rollout
    tokens = [str(token) for token in _list(row.get("tokens"))]
    mask = [bool(own) for own in _list(row.get("mask"))] or [True] * len(tokens)
    n = min(len(tokens), len(mask), longest)
    steps = [int(number(step) or 0) for step in _list(row.get("step"))]
    kept: Record = {
        "arm": r.arm,
        "seed": r.seed,
        "update": r.update,
        "phase": r.phase,
        "id": row.get("id"),
        "start": row.get("start"),
    }
    kept |= {key: cut(_text(row.get(key)), 10 * longest) for key in ("prompt", "response", "reference")}
    kept |= {
        "truth": r.truth,
        "total": r.total,
        "group_mean": number(row.get("group_mean")),
        "stop": str(row.get("stop") or "not stored"),
    }
    kept["reward"] = {str(k): _digits(v) for k, v in _dict(row.get("reward")).items()}
    kept["reason"] = {str(k): cut(_text(v), 500) for k, v in _dict(row.get("reason")).items() if v}
    kept["step_reward"] = {str(k): [_digits(v) for v in _list(values)] for k, values in _dict(row.get("step_reward")).items()}
    kept["length"] = sum(mask[: len(tokens)])
    kept |= {
        "tokens": tokens[:n],
        "mask": [int(own) for own in mask[:n]],
        "step": (steps + [0] * n)[:n],
        "left_out": len(tokens) - n,
    }
    for key in ("credit", "logp"):
        kept[key] = ([_digits(value) for value in _list(row.get(key))] + [None] * n)[:n]
    kept["picture"] = picture_html(row.get("picture"))
    return kept


def channels(records: Sequence[Record]) -> list[str]:
    """What tokens can be tinted by: credit, every channel paid by step, and how surprising the token was."""
    paid = sorted({name for r in records for name, values in r["step_reward"].items() if values})
    return ["credit", *(f"step reward: {name}" for name in paid), "surprise"]


def values(r: Record, channel: str) -> list[float | None]:
    """The number of every token in a channel; None where there is none: off the policy's own tokens, or without verdict."""
    if channel == "credit":
        found = r["credit"]
    elif channel == "surprise":
        found = [None if logp is None else -logp for logp in r["logp"]]
    else:
        paid = r["step_reward"].get(channel.removeprefix("step reward: "), [])
        found = [paid[step] if 0 <= step < len(paid) else None for step in r["step"]]
    return [value if own else None for value, own in zip(found, r["mask"])]


def limit(records: Sequence[Record], channel: str) -> float:
    """The end of a channel's colour scale: the 98th percentile of the absolute values of these examples (nearest rank)."""
    sizes = sorted(abs(value) for r in records for value in values(r, channel) if value is not None)
    return sizes[math.ceil(CLIP * len(sizes)) - 1] if sizes else 0.0


def level(value: float, most: float) -> int:
    """The step of a value on the scale: 0 only at exactly 0, sign kept, 4 at the limit and beyond.

    >>> level(0.0, 1.0), level(1e-9, 1.0), level(-0.6, 1.0), level(7.0, 1.0)
    (0, 1, -3, 4)
    """
    if value == 0 or most <= 0:
        return 0 if value == 0 else int(math.copysign(4, value))
    return int(math.copysign(min(4, max(1, math.ceil(4 * abs(value) / most - 1e-12))), value))


def island(records: Sequence[Record]) -> str:
    """The records as JSON that no markup can end: letters beyond ASCII and every < are escaped."""
    names = channels(records)
    examples = [{key: value for key, value in r.items() if key != "picture"} for r in records]
    data = {"channels": names, "limits": {name: limit(records, name) for name in names}, "examples": examples}
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def example_html(
    example: Example, r: Record, index: int, most: float, *, opened: bool, beside: Record | None = None, column: bool = False
) -> str:
    """One example: what it is in a line, then prompt, verdicts, legend and tokens. A column has no prompt and no fold."""
    said = [f"<b>own reward {short(r['total'])}</b>", f"<b>truth {_truth(r['truth'])}</b>"]
    if not column:
        said += [f"<span>seed {r['seed']}</span>", f"<span>{r['phase']}, update {r['update']}</span>"]
    if example.gap is not None:
        said.append(f"<span>gap {100 * example.gap:.0f} %</span>")
    if example.alike:
        said.append(f"<span>{plural(example.alike, 'more rollout')} with the same response</span>")
    if not column:
        said.append(f'<code class="snip">{markup(cut(" ".join(r["prompt"].split()), 200))}</code>')
    head = f'<span class="tag">{markup(r["arm"])}</span> {" ".join(said)}'
    body = ("" if column else prompt_html(r)) + _facts(r) + r["picture"]
    body += _legend(r, most) + _tokens(r, most) + _beside(beside)
    body += '<p class="js"><button type="button" data-copy>Copy as JSON</button></p>'
    marks = f'class="ex" data-i="{index}" data-arm="{attribute(r["arm"])}" data-phase="{r["phase"]}"'
    if column:
        return f'<article {marks}><p class="exhead">{head}</p>{body}</article>'
    return f"<article {marks}><details{' open' * opened}><summary>{head}</summary>{body}</details></article>"


def prompt_html(r: Record) -> str:
    """The prompt, folded past six lines, and the reference answer where one is stored."""
    lines = r["prompt"].split("\n")
    reference = f'<p class="ref">reference <code>{markup(cut(r["reference"], 300))}</code></p>' if r["reference"] else ""
    if len(lines) <= 6 and len(r["prompt"]) <= 600:
        return f'<pre class="prompt">{markup(r["prompt"])}</pre>{reference}'
    first = cut("\n".join(lines[:2]), 160)
    whole = f'<pre class="prompt">{markup(r["prompt"])}</pre>'
    rest = f'<details class="fold"><summary>Whole prompt ({plural(len(lines), "line")})</summary>{whole}</details>'
    return f'<pre class="prompt">{markup(first)}</pre>{rest}{reference}'


def _facts(r: Record) -> str:
    facts = [(name, "no verdict" if value is None else short(value)) for name, value in r["reward"].items()]
    facts += [("mean of its group", short(r["group_mean"])), ("own tokens", str(r["length"])), ("stop", r["stop"])]
    told = "".join(f"<div><dt>{markup(name)}</dt><dd>{markup(value)}</dd></div>" for name, value in facts)
    why = "".join(f'<p class="why">{markup(name)}: {markup(reason)}</p>' for name, reason in r["reason"].items())
    return f'<dl class="facts">{told}</dl>{why}'


def _legend(r: Record, most: float) -> str:
    if not r["tokens"]:
        return ""
    known = [value for value in values(r, "credit") if value is not None]
    clipped = sum(abs(value) > most for value in known)
    swatches = "".join(f'<i class="{kind}"></i>' for kind in ("n4", "n3", "n2", "n1", "z", "p1", "p2", "p3", "p4"))
    text = f"sum over trajectory {short(sum(known), sign=True) if known else '–'}, {clipped} of {len(known)} clipped"
    low, high = f'<span class="lo">{short(-most)}</span>', f'<span class="hi">{short(most, sign=True)}</span>'
    bar = f'<span class="bar" aria-hidden="true">{swatches}</span>'
    scale = f'<span class="nw">{low} {bar} {high}</span>'
    return f'<p class="scale"><span class="chan">credit</span> {scale} <span class="sum">{text}</span></p>'


def _tokens(r: Record, most: float) -> str:
    """The response, a row per step: its number, its tokens, what it was paid. Plain text where no tokens are stored.

    Many steps of one short token each, as an episode's actions are, share rows: the number of the first, what all were paid.
    """
    if not r["tokens"]:
        return f'<pre class="answer">{markup(r["response"]) or "(empty response)"}</pre>'
    rows, steps, credit = [], r["step"], values(r, "credit")
    for begin, end in _rows(r):
        own, spans = range(begin, end), []
        for i in own:
            last = i == end - 1 or steps[i + 1] != steps[i]
            spans.append(_token(r["tokens"][i], bool(r["mask"][i]), credit[i], most, last=last) + " " * (last and i < end - 1))
        there = list(dict.fromkeys(steps[i] for i in own))
        paid = " ".join(_paid(name, paid, there) for name, paid in r["step_reward"].items())
        margin = f'<span class="sn">{steps[begin] + 1}</span>'
        rows.append(f'<div class="st">{margin}<span class="tk">{"".join(spans)}</span><span class="pd">{paid}</span></div>')
    more = f'<p class="why">{plural(r["left_out"], "more token")} not shown.</p>' if r["left_out"] else ""
    label = f"Response in tokens, tinted by credit. Arrow keys move from token to token; {plural(len(r['tokens']), 'token')}."
    return f'<div class="toks" tabindex="0" role="group" aria-label="{attribute(label)}">{"".join(rows)}</div>{more}'


def _token(text: str, own: bool, credit: float | None, most: float, *, last: bool) -> str:
    kind = "off" if not own else "inv" if credit is None else ""
    if credit:
        step = level(credit, most)
        kind = f"{'p' if step > 0 else 'n'}{abs(step)}" + (" c" if abs(credit) > most else "")
    return f'<span class="{kind}">{shown(text, last=last)}</span>' if kind else f"<span>{shown(text, last=last)}</span>"


def shown(text: str, *, last: bool) -> str:
    """A token's text with what is invisible made visible; a line break at the end of a row needs no second one."""
    if not text:
        return '<span class="hid">empty</span>'
    if last:
        bare = text.rstrip(" ")
        text = bare + "·" * (len(text) - len(bare))
    text = text.replace("\t", "→\t").replace("\r\n", "\n").replace("\n", "↵\n")
    return markup(text.removesuffix("\n") if last else text)


def _rows(r: Record) -> list[tuple[int, int]]:
    """Where rows of tokens begin and end: at steps, or for many steps of one short token each, after so many of them."""
    steps = r["step"]
    cuts = [0, *(i for i in range(1, len(steps)) if steps[i] != steps[i - 1]), len(steps)]
    longest = max(map(len, r["tokens"]))
    if len(cuts) - 1 == len(steps) > MANY and longest < WIDE // 2:
        cuts = [*range(0, len(steps), WIDE // (longest + 1)), len(steps)]
    return list(pairwise(cuts))


def _paid(name: str, paid: Sequence[float | None], steps: Sequence[int]) -> str:
    here = [paid[step] for step in steps if 0 <= step < len(paid)]
    if not here:
        return ""
    known = [value for value in here if value is not None]
    told = "no verdict" if len(known) < len(here) else short(sum(known), sign=True)
    return f"<span>{markup(name)} {told}</span>"


def _beside(best: Record | None) -> str:
    if best is None:
        return ""
    head = f"Truest of its group: own reward {short(best['total'])}, truth {_truth(best['truth'])}"
    return f'<p class="besthead">{head}</p><pre class="answer">{markup(cut(best["response"], 2000)) or "(empty response)"}</pre>'


def _truth(value: float | None) -> str:
    return "not known" if value is None else short(value)


def _digits(value: object) -> float | None:
    found = number(value)
    return None if found is None else float(f"{found:.5g}")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
