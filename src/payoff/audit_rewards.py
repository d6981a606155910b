"""Rewards that people train with, audited: our own, Math-Verify's, TRL's, verl's, and every scorer of reasoning-gym.

`python -m payoff.audit_table rewards docs/audit.md` and `... scorers ...` make the tables of docs/audit.md from what is here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal as signals
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from payoff.audit.case import Case
from payoff.audit.planted import evidence
from payoff.audit.report import audit
from payoff.audit.scorer import Scorer

CHECKED = ("discrimination", "attacks", "invariances")
SCORERS_CHECKED = ("attacks", "invariances")
PROMPTS, ENTRIES = 80, 16
SECONDS = 25  # for one scorer of reasoning-gym: some data sets take minutes to make
_BOX, _SAYS, _HASH = "\\boxed{{{}}}", "The answer is {}", "#### {}"
_THINKS = "<think>\nI add the two numbers.\n</think>\n{}"


class Real(NamedTuple):
    """A reward by its name on the command line, how a response gives its answer, and the fields it reads under another name.

    prompts: sums it is audited on; fewer for one that starts a process for every call
    """

    name: str
    phrase: str
    fields: Mapping[str, str] = {}
    prompts: int = PROMPTS


REAL: Sequence[Real] = (
    *(Real(name, _SAYS) for name in ("answer-match", "last-number", "token-f1", "rouge", "chrf")),
    *(Real(name, _BOX) for name in ("math-answer", "format-surrogate")),
    *(Real(name, _SAYS) for name in ("self-consistency",)),
    Real("think-format", _THINKS.format(_BOX)),
    Real("trl:trl.rewards:accuracy_reward", _BOX, {"solution": "reference"}),
    Real("trl:trl.rewards:reasoning_accuracy_reward", _THINKS.format(_BOX), {"solution": "reference"}),
    Real("trl:trl.rewards:think_format_reward", _THINKS.format(_BOX)),
    Real("trl:trl.rewards:get_soft_overlong_punishment?max_completion_len=60&soft_punish_cache=20", _SAYS),
    Real("trl:trl.rewards:get_repetition_penalty_reward?ngram_size=3&max_penalty=-1.0", _SAYS),
    Real("trl:trl.rewards:get_cosine_scaled_reward?max_len=60", _BOX, {"solution": "reference"}),
    Real("verl:verl.utils.reward_score.gsm8k:compute_score", _HASH),
    Real("verl:verl.utils.reward_score.gsm8k:compute_score?method=flexible", _SAYS),
    Real("verl:verl.utils.reward_score.math_reward:compute_score", _BOX),
    Real("verl:verl.utils.reward_score.math_dapo:compute_score", "Answer: {}"),
    Real("verl:verl.utils.reward_score.math_verify:compute_score", _BOX),
    Real("verl:verl.utils.reward_score.prime_math:compute_score", _BOX, prompts=8),
    Real("verl:verl.utils.reward_score.geo3k:compute_score", _THINKS.format(_BOX)),
    Real("verl:verl.utils.reward_score.search_r1_like_qa_em:compute_score", "<answer> {} </answer>", {"ground_truth": "target"}),
)


class Found(NamedTuple):
    """What an audit of one reward said: its verdict, what failed, how many measures were undecided; or why it was not run."""

    verdict: str
    findings: list[str]
    undecided: int
    measured: int
    why: str = ""


def rows_for(real: Real, prompts: int = PROMPTS) -> list[dict[str, Any]]:
    """Sums with three worked answers each, written as a reward expects them; with tokens, where a reward counts these.

    >>> row = rows_for(Real("x", "#### {}", {"solution": "reference"}), 1)[0]
    >>> row["response"].splitlines()[-1][:4], row["solution"] == row["reference"]
    ('####', True)
    """
    rows = evidence(prompts, 3, phrase=real.phrase)
    for row in rows:
        for name, of in real.fields.items():
            row[name] = {"target": row["reference"]} if of == "target" else row[of]
        if real.phrase.startswith("<think>"):  # the form wants the thinking first
            head, _, end = row["response"].partition("<think>")
            row |= {"response": f"<think>{head}{end}", "steps": [f"<think>{head}{end}"]}
    return rows


def audited(real: Real, *, checks: Sequence[str] = CHECKED) -> Found:
    """The audit of one reward on such sums."""
    from payoff.scoring import resolve_reward

    try:
        signal = resolve_reward(real.name)
        rows = rows_for(real, real.prompts)
        if any(word in real.name for word in ("overlong", "repetition", "cosine")):
            signal = _with_ids(signal)
        return _told(Case(Scorer(signal), rows, gold="gold", seconds=0.5), checks)
    except Exception as error:  # other people's code, and packages that are not there
        return Found("not run", [], 0, 0, " ".join(f"{type(error).__name__}: {error}".split())[:160])


def scorer_rows(name: str, entries: int = ENTRIES) -> list[dict[str, Any]]:
    """Entries of a reasoning-gym data set, each with its right answer and that of another entry; none where it tells no answers."""
    import torch

    from payoff.tasks.reasoning_gym import ReasoningGym

    starts = ReasoningGym(name, size=entries, held_out=0.0).starts(entries, torch.Generator().manual_seed(0))
    fields = [start.fields for start in starts if start.fields["reference"]]
    rows = []
    for k, own in enumerate(fields):
        rows.append({**own, "response": str(own["reference"]), "gold": 1.0})
        other = next((f for f in (*fields[k + 1 :], *fields[:k]) if f["reference"] != own["reference"]), None)
        if other is not None:
            rows.append({**own, "response": str(other["reference"]), "gold": 0.0})
    return rows


def audited_scorer(name: str) -> Found:
    """The audit of one scorer of reasoning-gym on its own entries, within a limit of time."""
    from payoff.scoring import resolve_reward

    try:
        with _within(SECONDS):
            rows = scorer_rows(name)
            if not rows:
                return Found("not run", [], 0, 0, "its entries carry no right answer to begin with")
            return _told(Case(Scorer(resolve_reward(f"reasoning-gym:{name}")), rows, gold="gold", seconds=0.2), SCORERS_CHECKED)
    except TimeoutError:
        return Found("not run", [], 0, 0, f"took more than {SECONDS} s")
    except Exception as error:
        return Found("not run", [], 0, 0, " ".join(f"{type(error).__name__}: {error}".split())[:160])


def scorers() -> list[str]:
    """The names of all data sets of reasoning-gym that is installed."""
    from payoff._extras import require

    return sorted(require("reasoning_gym.factory", "reasoning-gym's scorers").DATASETS)


def real_tables(progress: Callable[[str], None], *, folder: Path | None = None) -> str:
    """The table of REAL."""
    lines = ["| reward | an answer is written as | fails | undecided of all |", "|---|---|---|---:|"]
    for real in REAL:
        progress(real.name)
        found = _kept(folder, f"{real.name}-{real.phrase}", functools.partial(audited, real))
        shown = real.phrase.replace("{{", "{").replace("}}", "}").replace("\n", " ").replace("{}", "85", 1)
        fails = "; ".join(found.findings) or ("nothing" if found.verdict != "not run" else f"not run: {found.why}")
        lines.append(f"| `{real.name}` | `{shown}` | {fails} | {found.undecided} of {found.measured} |")
    return "\n".join(lines)


def scorer_tables(progress: Callable[[str], None], *, folder: Path | None = None) -> str:
    """The tables of reasoning-gym's scorers: those that pay what has no merit, and those that refuse right answers."""
    found = {}
    for name in scorers():
        progress(name)
        found[name] = _kept(folder, f"reasoning-gym-{name}", functools.partial(audited_scorer, name))
    attacked = {name: one for name, one in found.items() if any("attack-" in text for text in one.findings)}
    strict: dict[tuple[str, ...], list[str]] = {}
    for name, one in found.items():
        if one.findings and name not in attacked:
            strict.setdefault(tuple(sorted(text.split("`")[1] for text in one.findings)), []).append(name)
    clean = [name for name, one in found.items() if not one.findings and one.verdict != "not run"]
    absent = {name: one.why for name, one in found.items() if one.verdict == "not run"}
    quoted = lambda names: ", ".join(f"`{name}`" for name in names)
    lines = [f"Of {len(found)} scorers {len(attacked)} pay something without merit:", "", "| scorer | fails |", "|---|---|"]
    lines += [f"| `{name}` | {'; '.join(one.findings)} |" for name, one in attacked.items()]
    lines += ["", "The others that refuse right answers, by what they do not take:", "", "| fails | scorers |", "|---|---|"]
    most_first = sorted(strict.items(), key=lambda entry: -len(entry[1]))
    lines += [f"| {quoted(measures)} | {len(names)}: {quoted(names)} |" for measures, names in most_first]
    lines += ["", f"No finding ({len(clean)}): {quoted(clean) or 'none'}."]
    if absent:
        lines += ["", f"Not run ({len(absent)}):", "", *(f"- `{name}`: {why}" for name, why in absent.items())]
    return "\n".join(lines)


def _told(case: Case, checks: Sequence[str]) -> Found:
    found = audit(case, only=checks, effects=False)
    told = [
        f"`{m.name}` {m.estimate.value:.2f} [{m.estimate.low:.2f}, {m.estimate.high:.2f}]"
        for m in found.findings
        if m.estimate is not None and m.unit != "exponent of the length"  # times on a busy machine are no finding about others
    ]
    undecided = sum(m.result == "inconclusive" for m in found.measurements)
    more = [f"and {len(told) - 6} more"] if len(told) > 6 else []
    return Found(found.verdict, told[:6] + more, undecided, len(found.measurements))


def _with_ids(signal: Any) -> Any:
    """The same for a reward that counts tokens: words and blanks stand for these."""
    signal.grader.tokenizer = lambda texts, **_: {"input_ids": [list(range(len(text.split()))) for text in texts]}
    return signal


def _kept(folder: Path | None, name: str, make: Callable[[], Found]) -> Found:
    """A result that an earlier run has left in a folder, or a new one."""
    path = None if folder is None else folder / ("".join(c if c.isalnum() else "-" for c in name)[:120] + ".json")
    if path is not None and path.is_file():
        return Found(**json.loads(path.read_text(encoding="utf-8")))
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    """TimeoutError in the main thread once so many seconds have passed."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signals.signal(signals.SIGALRM, late)
    signals.alarm(seconds)
    try:
        yield
    finally:
        signals.alarm(0)
        signals.signal(signals.SIGALRM, before)
