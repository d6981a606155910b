"""How numbers and foreign text are written, in the page and in the terminal alike. All text of tasks and models is hostile."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

MINUS = "−"
# Controls, direction marks, zero-width and other characters that hide or reorder text, and halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def plain(text: object) -> str:
    """Text for one terminal line: whatever steers a terminal, hides or reorders is spelled out, line breaks become spaces.

    >>> plain("a\\x1b[31m b\\nc")
    'a<U+001B>[31m b c'
    """
    return _HIDDEN.sub(lambda m: f"<U+{ord(m[0]):04X}>", re.sub(r"[\t\n]", " ", str(text).replace("\r\n", "\n")))


def markup(text: object) -> str:
    """Text as HTML that shows exactly that text: escaped, hidden characters spelled out in a marked span.

    >>> markup("</script>&")
    '&lt;/script&gt;&amp;'
    >>> markup("a\u202eb")
    'a<span class="hid">U+202E</span>b'
    """
    escaped = html.escape(str(text).replace("\r\n", "\n"), quote=True)
    return _HIDDEN.sub(lambda m: f'<span class="hid">U+{ord(m[0]):04X}</span>', escaped)


def prose(text: str) -> str:
    """A sentence as HTML whose names with hyphens and numbers with units are not torn apart at the end of a line.

    >>> prose("soft-min: 5 seeds")
    '<span class="nw">soft-min:</span> 5&nbsp;seeds'
    """
    pieces = re.split(r"((?<!\S)(?=\S{3,24}(?!\S))\S*\w-\w\S*)", text)
    joined = [
        f'<span class="nw">{markup(p)}</span>' if i % 2 else markup(re.sub(r"(?<=\d) (?=[\w%])", "\xa0", p))
        for i, p in enumerate(pieces)
    ]
    return "".join(joined).replace("\xa0", "&nbsp;")


def attribute(text: object) -> str:
    """Text for a quoted HTML attribute."""
    return html.escape(plain(text), quote=True)


def cut(text: str, limit: int) -> str:
    """The text, or its first `limit` characters and how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]} [{len(text) - limit:,} more characters]".replace(",", " ")


def label(text: str, most: int) -> str:
    """A name that fits beside a line, cut with an ellipsis.

    >>> label("soft-min", 24), label("a rather long name", 9)
    ('soft-min', 'a rather…')
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def whole(number: int | float) -> str:
    """A count with spaces between thousands.

    >>> whole(51200)
    '51 200'
    """
    return f"{round(number):,}".replace(",", " ")


def decimals(widths: Sequence[int | float], values: Sequence[int | float] = ()) -> int:
    """Places after the point that intervals of these widths support (at most two significant digits in the usual one).

    Without widths the size of the values decides: two places up to 10, fewer above.

    >>> decimals([0.08, 0.28]), decimals([0.004]), decimals([], [11.6]), decimals([30])
    (2, 3, 1, 0)
    """
    usual = sorted(w for w in widths if w > 0)
    if usual:
        width = usual[len(usual) // 2]
        return next((places for places, least in enumerate((20, 2, 0.02, 0.002)) if width >= least), 4)
    size = max((abs(v) for v in values), default=0.0)
    return 2 if size < 10 else 1 if size < 1000 else 0


def fixed(value: int | float | None, places: int, *, sign: bool = False) -> str:
    """A number with that many places, a true minus sign, never a negative zero; a dash where there is none.

    >>> fixed(-0.19, 2), fixed(0.08, 2, sign=True), fixed(-0.001, 2), fixed(None, 2)
    ('−0.19', '+0.08', '0.00', '–')
    """
    if value is None:
        return "–"
    text = f"{abs(value):.{places}f}"
    if not float(text):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def short(value: int | float | None, *, sign: bool = False) -> str:
    """A number with three significant digits, for values of unknown size.

    >>> short(11.64), short(0.001234), short(-2e-9), short(0.0), short(123456.0), short(1e7)
    ('11.6', '0.00123', '−2e-9', '0', '123 456', '1e7')
    """
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    mark = MINUS if value < 0 else "+" if sign else ""
    if 1000 <= size < 1e6:
        return mark + whole(size)
    if not 1e-4 <= size < 1e6:
        mantissa, _, power = f"{size:.2e}".partition("e")
        return f"{mark}{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    digits = f"{size:.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return mark + (digits.rstrip("0").rstrip(".") if "." in digits else digits)


def percent(share: int | float | None) -> str:
    """A share as a percentage; what is not exactly 0 never reads as 0.

    >>> percent(0.062), percent(0.0), percent(0.00001), percent(None)
    ('6.2 %', '0.0 %', '< 0.1 %', '–')
    """
    if share is None:
        return "–"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def duration(seconds: int | float | None) -> str:
    """Seconds as people say them.

    >>> duration(8.4), duration(125), duration(7330), duration(None)
    ('8.4 s', '2 min 05 s', '2 h 02 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listed(words: Sequence[str]) -> str:
    """Words joined as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def plural(n: int, word: str) -> str:
    """A count with its noun.

    >>> plural(1, "seed"), plural(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{whole(n)} {word}" if n == 1 else f"{whole(n)} {word}s"
