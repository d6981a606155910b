"""Commands about stored rows: what a reward gives them, and whether it keeps what it promises."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from payoff.commands import Json, Quiet, app
from payoff.terminal import Answer, event, run_command, say


def _complete_rewards(incomplete: str) -> list[str]:
    from payoff.catalogue import index

    return sorted(name for kind, name in index() if kind in ("grader", "signal") and name.startswith(incomplete))


Reward = Annotated[
    str,
    typer.Option(
        "--reward",
        help="a registered name, FILE.py:FUNCTION, package.module:function, reasoning-gym:NAME or a RUN.yaml; of other people: "
        "trl:FUNCTION, verl:FUNCTION, hf:FOLDER_OR_NAME, http://HOST/PATH, judge:BASE_URL#MODEL (docs/rewards-from-elsewhere.md)",
        autocompletion=_complete_rewards,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="rows: JSONL, CSV (also .gz), Parquet, a data set's folder or name on the hub, or reasoning-gym:NAME"
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="worker processes for a grader; 0: in this process")]
Deadline = Annotated[float | None, typer.Option("--deadline", help="seconds one answer may take, kept by killing; needs --workers")]
Cached = Annotated[bool, typer.Option("--cache", help="grade equal rows once")]
Mapped = Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="read FIELD from another column")]


@app.command()
def score(
    reward: Reward,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="where the scored rows go; its suffix says how: .jsonl, .csv, .parquet")],
    workers: Workers = 0,
    deadline: Deadline = None,
    cache: Cached = False,
    mapped: Mapped = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="say of every row why, in its field `explanation`; asks twice")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an --out that exists")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a reward to stored rows: each comes back with its reward and, where there is no verdict, the reason."""

    def work() -> Answer:
        from payoff.row_files import check_writable, write_rows
        from payoff.scoring import score_rows

        check_writable(out, overwrite=overwrite)
        signal = reward_named(reward, workers, deadline, cache)
        tally = _Tally(quiet or as_json)
        rows = score_rows(rows_of(data, mapped), signal, source=data)
        if explain:
            from payoff.explanations import with_explanations

            rows = with_explanations(rows, reward, signal)
        count = write_rows(out, tally.passing(rows), overwrite=overwrite)
        return Answer(
            text=tally.told(reward, out),
            results={"rows": count, "out": str(out), "mean": tally.means()},
            counts={"valid": dict(tally.valid), "invalid": dict(tally.invalid), "by_reason": dict(tally.reasons.most_common(20))},
            artifacts=[str(out)],
            next=f"payoff validate --reward {shlex.quote(reward)} --data {shlex.quote(data)}",
        )

    run_command("score", work, as_json)


@app.command()
def validate(
    reward: Reward,
    data: Data,
    gold: Annotated[str, typer.Option("--gold", help="the field that holds the right answer")] = "reference",
    template: Annotated[str, typer.Option("--template", help="how an answer is phrased as a response")] = "{reference}",
    channel: Annotated[str | None, typer.Option("--channel", help="which channel, where the reward gives several")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="rows that are tried")] = 200,
    show: Annotated[int, typer.Option("--show", min=0, help="examples of each mistake")] = 1,
    workers: Workers = 0,
    deadline: Deadline = None,
    mapped: Mapped = None,
    as_json: Json = False,
) -> None:
    """Right answers must score 1, and empty, wrong and junk answers 0, before anything is spent. Exit code 1 when they do not."""

    def work() -> Answer:
        from payoff.scoring import validate as validated
        from payoff.validation import told

        signal = reward_named(reward, workers, deadline, False)
        rows = rows_of(data, mapped)
        report = validated(signal, rows, gold_field=gold, template=template, channel=channel, limit=limit, source=data)
        code = {"holds": 0, "fails": 1, "inconclusive": 3}[report.verdict]
        text = told(report, shown=show)
        if report.refused.value == 1 and template == "{reference}":
            text += '  if right answers are phrased otherwise than in the rows, say how: --template "Answer: {reference}"\n'
        return Answer(text=text, results=report.as_json(), exit_code=code, verdict=report.verdict)

    run_command("validate", work, as_json)


class _Tally:
    """Counts what passes by, and says how far it has come every two seconds."""

    def __init__(self, quiet: bool) -> None:
        import time

        self.quiet, self.clock, self.rows = quiet, time.monotonic, 0
        self.started = self.said = self.clock()
        self.valid: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.total: defaultdict[str, float] = defaultdict(float)
        self.reasons: Counter[str] = Counter()
        self.explained: list[str] = []  # of the first rows

    def passing(self, rows: Any) -> Any:
        for row in rows:
            self.rows += 1
            for name, value in row["reward"].items():
                if isinstance(value, int | float):
                    self.valid[name] += 1
                    self.total[name] += value
                else:
                    self.invalid[name] += 1
            self.reasons.update(row["reason"].values())
            if "explanation" in row and len(self.explained) < 3:
                self.explained.append(f"  row {self.rows}: {row['explanation']}")
            if self.clock() - self.said > 2:
                self.said = self.clock()
                invalid = sum(self.invalid.values())
                event("rows", scored=self.rows, invalid=invalid)
                if not self.quiet:
                    say(f"{self.rows} rows, {self.rows / (self.said - self.started):.0f} a second, {invalid} invalid")
            yield row

    def means(self) -> dict[str, float | None]:
        return {name: self.total[name] / n if (n := self.valid[name]) else None for name in self.names()}

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.valid, *self.invalid]))

    def told(self, reward: str, out: Path) -> str:
        lines = [f"{self.rows} rows scored by {reward} into {out}"]
        for name, mean in self.means().items():
            shown = "no verdict on any row" if mean is None else f"mean {mean:.4g} over {self.valid[name]} verdicts"
            lines.append(f"  {name}: {shown}, {self.invalid[name]} invalid")
        lines += [f"  {count} x {reason}" for reason, count in self.reasons.most_common(5)] + self.explained
        return "\n".join(lines) + "\n"


def reward_named(spec: str, workers: int, deadline: float | None, cache: bool) -> Any:
    from payoff.scoring import resolve_reward

    return resolve_reward(spec, run=_of_run_file, workers=workers, deadline=deadline, cache=cache)


def _of_run_file(path: Path) -> Any:
    """The signal and shapings of a run file, as one signal."""
    from payoff.build import build
    from payoff.config import load_run
    from payoff.pipeline import chain

    loaded = load_run(path)
    parts, _ = build(loaded, "" if loaded.run.terms else next(iter(loaded.run.arms), ""))
    return chain(parts.signal, *parts.shapings)


def rows_of(data: str, mapped: list[str] | None, damaged: Any = None) -> Any:
    """The rows of a file or data set; or two hundred questions of reasoning-gym, each with its right answer as response."""
    prefix, colon, name = data.partition(":")
    if colon and prefix == "reasoning-gym":
        import torch

        from payoff.rewards import RewardError
        from payoff.tasks.reasoning_gym import ReasoningGym

        try:
            starts = ReasoningGym(name, size=200, held_out=0.0).starts(200, torch.Generator().manual_seed(0))
        except ValueError as error:
            raise RewardError(f"--data {data}: {error}") from None
        return ({**start.fields, "response": start.fields["reference"] or ""} for start in starts)
    from payoff.row_files import read_rows

    return read_rows(data, fields=_fields(mapped), damaged=damaged)


def _fields(mapped: list[str] | None) -> dict[str, str]:
    fields = {}
    for pair in mapped or []:
        field, equals, column = pair.partition("=")
        if not equals or not field or not column:
            raise LookupError(f"--map {pair!r}: write FIELD=COLUMN, such as reference=answer")
        fields[field] = column
    return fields
