"""The tools of `turns-tools`: plain Python functions, whose source is what the sandbox runs. Each imports inside what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def gcd(a, b):
    """The greatest common divisor of two whole numbers."""
    import math

    return math.gcd(a, b)


def lcm(a, b):
    """The least common multiple of two whole numbers."""
    import math

    return math.lcm(a, b)


def factorise(n):
    """The prime factors of a whole number from 2 on, in order, with repeats."""
    found, divisor = [], 2
    while n > 1:
        while n % divisor == 0:
            found.append(divisor)
            n //= divisor
        divisor += 1
    return found


def to_base(n, base):
    """A whole number from 0 on in another base, 2 to 16, as text."""
    digits = ""
    while n or not digits:
        digits = "0123456789abcdef"[n % base] + digits
        n //= base
    return digits


def from_base(text, base):
    """The whole number that a text in some base stands for."""
    return int(text, base)


def days_between(first, second):
    """Days from the first date to the second, both written YYYY-MM-DD."""
    from datetime import date

    return (date.fromisoformat(second) - date.fromisoformat(first)).days


def weekday(day):
    """The English name of the weekday of a date written YYYY-MM-DD."""
    from datetime import date

    return date.fromisoformat(day).strftime("%A")


def checksum(text):
    """The CRC-32 of a text, as a whole number."""
    import zlib

    return zlib.crc32(text.encode())


_ALL: tuple[Callable[..., Any], ...] = (gcd, lcm, factorise, to_base, from_base, days_between, weekday, checksum)
TOOLS = {tool.__name__: tool for tool in _ALL}
