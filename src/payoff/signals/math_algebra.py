"""Exact arithmetic on what short answers are made of: numbers, roots, logarithms, constants and letters. No floating point.

An expression is a quotient of sums of monomials. A monomial is a product of generators with rational exponents: letters, pi and e;
primes, with exponents between 0 and 1 only; the imaginary unit; logarithms of primes. Roots of different primes are linearly
independent, so two such quotients are equal where their cross products are the same sums. What else there is (a sine, the root of
a sum) is an opaque generator, whose name starts with "@": equal sums are equal, but different ones may be equal all the same.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

Monomial = tuple[tuple[str, Fraction], ...]
Sum = dict[Monomial, Fraction]

ONE: Sum = {(): Fraction(1)}
_MOST_TERMS, _MOST_BITS, _LARGEST_FACTORED = 2000, 4000, 10**10
_POSITIVE = {"π", "e", "∞"}


class TooLargeError(ArithmeticError):
    """An expression that no answer is: too many terms, or digits, or a division by zero."""


class Expression(NamedTuple):
    """top / bottom, two sums of monomials; the bottom is not zero, and 1 where it was a single monomial."""

    top: Sum
    bottom: Sum = ONE

    @property
    def opaque(self) -> bool:
        """Whether it holds something whose equality sums cannot decide."""
        return any(name.startswith("@") for part in self for monomial in part for name, _ in monomial)

    @property
    def rational(self) -> Fraction | None:
        """The rational number that it is, or None."""
        if self.bottom != ONE or any(self.top):
            return None
        return self.top.get((), Fraction(0))


def number(value: Fraction | int) -> Expression:
    """A rational number."""
    return Expression({(): Fraction(value)} if value else {})


def letter(name: str) -> Expression:
    """A generator: a letter, pi, e, i, or an opaque one."""
    return Expression({((name, Fraction(1)),): Fraction(1)})


def add(a: Expression, b: Expression) -> Expression:
    """a + b."""
    if a.bottom == b.bottom:
        return Expression(_plus(a.top, b.top), a.bottom)
    return Expression(_plus(_times(a.top, b.bottom), _times(b.top, a.bottom)), _times(a.bottom, b.bottom))


def multiply(a: Expression, b: Expression) -> Expression:
    """a * b."""
    return _quotient(_times(a.top, b.top), a.bottom if b.bottom is ONE else _times(a.bottom, b.bottom))


def divide(a: Expression, b: Expression) -> Expression:
    """a / b; TooLargeError where b is 0."""
    if not b.top:
        raise TooLargeError("a division by zero")
    return _quotient(_times(a.top, b.bottom), _times(a.bottom, b.top))


def negative(a: Expression) -> Expression:
    """-a."""
    return Expression({monomial: -c for monomial, c in a.top.items()}, a.bottom)


def power(base: Expression, exponent: Expression) -> Expression:
    """base to the power of exponent: real roots of numbers, sums in the exponent taken apart, the rest opaque."""
    n = exponent.rational
    if n is None:
        return _symbolic_power(base, exponent)
    if n.denominator == 1:
        return _whole_power(base, int(n))
    return root_power(base, n)


def root_power(base: Expression, n: Fraction) -> Expression:
    """base to a fractional power: real odd roots, square roots of negative numbers as multiples of i."""
    if not base.top:
        return number(0)
    if base.bottom != ONE and len(base.top) == 1:
        return divide(root_power(Expression(base.top), n), root_power(Expression(base.bottom), n))
    if base.bottom == ONE and len(base.top) == 1:
        (monomial, coefficient), *_ = base.top.items()
        # The square root of a square is an absolute value: only first powers are taken apart.
        if all(name in _POSITIVE or name.startswith("#") or (e == 1 and name != "i") for name, e in monomial):
            found = _number_root(coefficient, n)
            if found is not None:
                rest = _reduced({name: e * n for name, e in monomial})
                return multiply(found, Expression({rest[0]: rest[1]}))
    return letter(f"@({written(base)})^{n}")


def logarithm(a: Expression) -> Expression:
    """The natural logarithm: of a positive rational number as logarithms of primes, of e as 1, opaque otherwise."""
    value = a.rational
    if value is not None and value > 0:
        factors = _factors(value)
        if factors is not None:
            total = number(0)
            for prime, e in factors.items():
                total = add(total, multiply(number(e), letter(f"ln{prime}")))
            return total
    if a.bottom == ONE and len(a.top) == 1:
        (monomial, coefficient), *_ = a.top.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][0] == "e":
            return number(monomial[0][1])
    return letter(f"@ln({written(a)})")


def equal(a: Expression, b: Expression) -> bool | None:
    """Whether a = b; None where it cannot be said, because something opaque is in them.

    >>> half = number(Fraction(1, 2))
    >>> equal(divide(number(1), power(number(2), half)), divide(power(number(2), half), number(2)))
    True
    """
    same = a == b or _times(a.top, b.bottom) == _times(b.top, a.bottom)
    return True if same else None if a.opaque or b.opaque else False


def proportional(a: Expression, b: Expression) -> int | None:
    """The sign of the rational c for which a = c b, up to powers of letters and what is divided by; None where there is none."""
    one, two = _primitive(a.top), _primitive(b.top)
    if one is None or two is None or one[0] != two[0]:
        return None
    return one[1] * two[1]


def letters(a: Expression) -> set[str]:
    """The letters in it that stand for something unknown."""
    names = {name for part in a for monomial in part for name, _ in monomial}
    return {name for name in names if name not in _POSITIVE | {"i"} and not name.startswith(("#", "ln", "@"))}


def written(a: Expression) -> str:
    """A name that equal sums share."""
    return "/".join(";".join(sorted(f"{c}*{m}" for m, c in part.items())) for part in a)


def _plus(a: Sum, b: Sum) -> Sum:
    total = dict(a)
    for monomial, c in b.items():
        c += total.get(monomial, 0)
        if c:
            total[monomial] = c
        else:
            total.pop(monomial, None)
    return total


def _times(a: Sum, b: Sum) -> Sum:
    if a is ONE:
        return b
    if b is ONE:
        return a
    if len(a) * len(b) > _MOST_TERMS:
        raise TooLargeError("too many terms")
    total: Sum = {}
    for m, c in a.items():
        for n, d in b.items():
            monomial, factor = _product(m, n)
            c_d = total.get(monomial, Fraction(0)) + c * d * factor
            if max(c_d.numerator.bit_length(), c_d.denominator.bit_length()) > _MOST_BITS:
                raise TooLargeError("too many digits")
            if c_d:
                total[monomial] = c_d
            else:
                total.pop(monomial, None)
    return total


def _product(m: Monomial, n: Monomial) -> tuple[Monomial, Fraction]:
    if not m or not n:
        return m or n, Fraction(1)
    exponents = dict(m)
    for name, e in n:
        exponents[name] = exponents.get(name, Fraction(0)) + e
    return _reduced(exponents)


def _reduced(exponents: dict[str, Fraction]) -> tuple[Monomial, Fraction]:
    """A monomial in its one form, and the rational factor that came out of primes and of the imaginary unit."""
    factor, kept = Fraction(1), []
    for name, e in exponents.items():
        if name.startswith("#"):
            whole = math.floor(e)
            if abs(whole) > _MOST_BITS:
                raise TooLargeError("too many digits")
            factor *= Fraction(int(name[1:])) ** whole
            e -= whole
        elif name == "i" and e.denominator == 1:
            factor *= 1 if e % 4 < 2 else -1
            e = Fraction(e % 2)
        if e:
            kept.append((name, e))
    return tuple(sorted(kept)), factor


def _quotient(top: Sum, bottom: Sum) -> Expression:
    if bottom is ONE or bottom == ONE:
        return Expression(top)
    if len(bottom) > 1:
        return Expression(top, bottom)
    (monomial, c), *_ = bottom.items()
    inverse, factor = _reduced({name: -e for name, e in monomial})
    return Expression(_times(top, {inverse: factor / c}))


def _whole_power(base: Expression, n: int) -> Expression:
    if n < 0:
        return divide(number(1), _whole_power(base, -n))
    if base.bottom == ONE and len(base.top) == 1:
        (monomial, c), *_ = base.top.items()
        if n * max(c.numerator.bit_length(), c.denominator.bit_length()) > _MOST_BITS and c not in (1, -1):
            raise TooLargeError("too many digits")
        rest, factor = _reduced({name: e * n for name, e in monomial})
        return Expression({rest: c**n * factor})
    if n > 30:
        raise TooLargeError("too many terms")
    total = number(1)
    for _ in range(n):
        total = multiply(total, base)
    return total


def _symbolic_power(base: Expression, exponent: Expression) -> Expression:
    """2^(n+1) as 2 * 2^n, and e^(x+y) as e^x e^y: each term of the exponent is a generator's exponent."""
    value = base.rational
    names: dict[str, Fraction] | None = None
    if value is not None and value > 0:
        factors = _factors(value)
        names = None if factors is None else {f"#{prime}": Fraction(e) for prime, e in factors.items()}
    elif base.bottom == ONE and len(base.top) == 1:
        (monomial, c), *_ = base.top.items()
        names = dict(monomial) if c == 1 and len(monomial) == 1 else None
    unusual = exponent.opaque or any(name in ("i", "π") or name.startswith("ln") for m in exponent.top for name, _ in m)
    if names is None or exponent.bottom != ONE or unusual:
        return letter(f"@({written(base)})^({written(exponent)})")
    total = number(1)
    for name, e in names.items():
        for m, c in exponent.top.items():
            generator = name if not m else f"{name.replace('#', '')}^{m}"
            rest, factor = _reduced({generator: e * c})
            total = multiply(total, Expression({rest: factor}))
    return total


def _number_root(value: Fraction, n: Fraction) -> Expression | None:
    sign = number(1)
    if value < 0:
        if n.denominator == 2:
            sign = _whole_power(letter("i"), n.numerator)
        elif n.denominator % 2:
            sign = number((-1) ** n.numerator)
        else:
            return None
    factors = _factors(abs(value))
    if factors is None:
        return None
    rest, factor = _reduced({f"#{prime}": e * n for prime, e in factors.items()})
    return multiply(sign, Expression({rest: factor}))


def _factors(value: Fraction) -> dict[int, int] | None:
    """Primes and their exponents; None for numbers too large to take apart quickly."""
    if max(value.numerator, value.denominator) > _LARGEST_FACTORED:
        return None
    found: dict[int, int] = {}
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        divisor = 2
        while divisor * divisor <= part:
            while part % divisor == 0:
                found[divisor] = found.get(divisor, 0) + sign
                part //= divisor
            divisor += 1 if divisor == 2 else 2
        if part > 1:
            found[part] = found.get(part, 0) + sign
    return found


def _primitive(a: Sum) -> tuple[Sum, int] | None:
    """The sum over its first coefficient and over the powers of letters that all its terms share, and that coefficient's sign."""
    if not a:
        return None
    shared: dict[str, Fraction] = {}
    for name in {name for monomial in a for name, _ in monomial if not name.startswith("#") and name != "i"}:
        shared[name] = min(dict(monomial).get(name, Fraction(0)) for monomial in a)
    moved: Sum = {}
    for monomial, c in a.items():
        rest, factor = _product(monomial, tuple(sorted((name, -e) for name, e in shared.items() if e)))
        moved[rest] = c * factor
    first = moved[min(moved, key=repr)]
    return {monomial: c / first for monomial, c in moved.items()}, 1 if first > 0 else -1
