"""Tables in pages of docs/ that a command makes: what stands between two marks is exchanged, the rest is written by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from payoff.files import replacing

END = "<!-- end of what is made -->"


def begin(module: str, page: str) -> str:
    """The mark that opens what `python -m MODULE PAGE` makes.

    >>> begin("payoff.exact_table", "docs/exact-lab.md")
    '<!-- made by: python -m payoff.exact_table docs/exact-lab.md -->'
    """
    return f"<!-- made by: python -m {module} {page} -->"


def rewritten(page: str, table: str, mark: str) -> str:
    r"""The page with what lies between its marks exchanged; ValueError where a mark is missing.

    >>> rewritten(f"above\n<!-- here -->\nold\n{END}\nbelow", "new", "<!-- here -->").splitlines()[2:-2]
    ['', 'new', '']
    """
    before, opened, rest = page.partition(mark)
    _, closed, after = rest.partition(END)
    if not opened or not closed:
        raise ValueError(f"the page lacks the mark {END if opened else mark}")
    return f"{before}{mark}\n\n{table}\n\n{END}{after}"


def make(tables: Callable[[Callable[[str], None]], str], mark: str, arguments: Sequence[str]) -> None:
    """Print the tables, or write them into the page that is named; progress goes to standard error."""
    table = tables(lambda what: print(what, file=sys.stderr))
    if not arguments:
        print(table)
        return
    page = Path(arguments[0])
    text = rewritten(page.read_text(encoding="utf-8"), table, mark)
    with replacing(page) as file:
        file.write(text.encode())
