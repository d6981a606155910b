"""The report of a run: one page that opens without a network, its figures as PNG, and its summary as rows and as text.

Everything is made from `results.json` and the files it names, so an old run can be rendered again and the same files give the
same page. The parts live in `payoff.report_page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from payoff.files import replacing
from payoff.report_page.findings import rows
from payoff.report_page.page import page
from payoff.report_page.png import png
from payoff.report_page.runs import Run, load_run
from payoff.report_page.sentences import headline, sentences, table_text

__all__ = ["Run", "headline", "load_run", "render_summary", "summary_table", "verdicts", "write_report"]


def write_report(folder: Path | str) -> Path:
    """Write FOLDER/report.html and FOLDER/figures/*.png from FOLDER/results.json; returns the path of the page.

    Each file appears whole or not at all. Raises FileNotFoundError or ValueError where the folder holds no readable run.
    """
    run = load_run(Path(folder))
    found = summary_table(run)
    document, drawn = page(run, found)
    for figure in drawn:
        _write(run.folder / "figures" / f"{figure.name}.png", png(figure))
    path = run.folder / "report.html"
    _write(path, document.encode("utf-8"))
    return path


def summary_table(run: Run | Path | str) -> list[dict[str, Any]]:
    """One JSON-ready row per arm of a run, or of a run folder: estimates with interval and n, verdict, parting, invalid share.

    An estimate is {value, low, high, n, level, sd, p, method, unit}; what is not known is None.
    """
    return rows(_loaded(run))


def verdicts(run: Run | Path | str) -> list[tuple[str, str]]:
    """(word, sentence) for every finding of a run, as the page and the terminal say them."""
    run = _loaded(run)
    return sentences(run, rows(run))


def render_summary(run: Run | Path | str, found: Sequence[dict[str, Any]] | None = None, *, width: int | None = None) -> str:
    """The final table and its sentences as plain text, without a last line break.

    `found` are rows already made by `summary_table`; a `width` too small for every column drops the least important ones.
    """
    run = _loaded(run)
    return table_text(run, rows(run) if found is None else found, width=width)


def _loaded(run: Run | Path | str) -> Run:
    return run if isinstance(run, Run) else load_run(Path(run))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data)
