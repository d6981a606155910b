"""One expression, in LaTeX or as people type it, to exact algebra: a parser that reads all of a text or refuses it."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from payoff.signals.math_algebra import (
    Expression,
    TooLargeError,
    add,
    divide,
    letter,
    logarithm,
    multiply,
    negative,
    number,
    power,
    root_power,
    written,
)

_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\dA-Za-z]))?", re.ASCII)
_NAME = re.compile(r"\\[A-Za-z]+|[A-Za-z]+", re.ASCII)
_SUBSCRIPT = re.compile(r"\s*_\s*(?:\{([A-Za-z0-9]+)\}|([A-Za-z0-9]))", re.ASCII)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", re.ASCII)
_FUNCTIONS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
    *("ln", "log", "exp", "sqrt"),
}
_GREEK = {
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa", "lambda"),
    *("mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega"),
}
_DEEPEST, _LONGEST = 40, 400


class UnreadableError(ValueError):
    """Text that is no expression this parser knows."""


def expression(text: str) -> Expression:
    r"""The whole text as one expression. Raises UnreadableError, and TooLargeError for what no answer is.

    Multiplication may be left out; a whole number before a smaller fraction of numbers is a mixed number; a percent sign, units
    and relations belong to whoever calls.

    >>> expression(r"3\frac{1}{2}").rational, expression("2^{-3}").rational, expression("sqrt(2)*sqrt(8)").rational
    (Fraction(7, 2), Fraction(1, 8), Fraction(4, 1))
    """
    if len(text) > _LONGEST:
        raise UnreadableError("too long")
    parser = _Parser(text)
    found = parser.sum()
    parser.space()
    if parser.at < len(text):
        raise UnreadableError(f"{text[parser.at :]!r} is left over")
    return found


class _Parser:
    """Recursive descent over the characters of one text."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("too deep")
        total = self.product()
        while sign := self.one_of("+-"):
            term = self.product()
            total = add(total, term if sign == "+" else negative(term))
        self.depth -= 1
        return total

    def product(self) -> Expression:
        total = self.signed()
        while True:
            if sign := self.one_of("*/"):
                factor = self.signed()
                total = multiply(total, factor) if sign == "*" else divide(total, factor)
            elif self.starts_factor():
                if self.text[self.at].isdigit() and self.text[self.at - 1] not in ")}*":
                    raise UnreadableError("a number after something else")  # "3 4" or "x2": whatever it means, no product
                total = multiply(total, self.raised())
            else:
                return total

    def signed(self) -> Expression:
        sign = self.one_of("+-")
        if not sign:
            return self.raised()
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadableError("too deep")
        found = self.signed()
        self.depth -= 1
        return negative(found) if sign == "-" else found

    def raised(self) -> Expression:
        base = self.factor()
        while self.one_of("!"):
            n = base.rational
            if n is not None and n > 300:
                raise TooLargeError("too many digits")
            base = letter(f"@fact({written(base)})") if n is None or n.denominator != 1 or n < 0 else number(math.factorial(int(n)))
        if self.text.startswith("**", self.at):
            self.at += 2
        elif not self.one_of("^"):
            return base
        return power(base, self.exponent())

    def exponent(self) -> Expression:
        self.space()
        if self.text[self.at : self.at + 1] in ("{", "("):
            return self.raised() if self.text[self.at] == "(" else self.factor()
        sign = self.one_of("-+")
        found = self.raised()
        return negative(found) if sign == "-" else found

    def factor(self) -> Expression:
        self.space()
        if match := _REPEATING.match(self.text, self.at):
            self.at = match.end()
            whole, fixed, repeated = match.groups()
            before = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
            return number(before + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed)))
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            return self.mixed(match[0])
        opening = self.one_of("({[|√")
        if opening == "√":
            return root_power(self.factor(), Fraction(1, 2))
        if opening == "|":
            return self.absolute()
        if opening:
            found = self.sum()
            self.expect({"(": ")", "{": "}", "[": "]"}[opening])
            return found
        if match := _NAME.match(self.text, self.at):
            return self.name(match[0])
        if self.one_of("π"):
            return letter("π")
        if self.one_of("∞"):
            return letter("∞")
        raise UnreadableError(f"{self.text[self.at : self.at + 10]!r} is no expression")

    def mixed(self, digits: str) -> Expression:
        """The number, and the proper fraction right after it where it is a whole one: 3\\frac{1}{2}."""
        mantissa, _, scale = digits.lower().partition("e")
        found = Fraction(mantissa.rstrip(".") or "0")
        if len(scale) > 4:
            raise TooLargeError("too many digits")
        if scale:
            found *= Fraction(10) ** int(scale)
        part = re.compile(r"\s*\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))|\s+(\d+)\s*/\s*(\d+)", re.ASCII).match(
            self.text, self.at
        )
        if part and digits.isdigit():
            top, bottom = (int(d) for d in part.groups() if d is not None)
            if top < bottom:
                self.at = part.end()
                found += Fraction(top, bottom)
        return number(found)

    def name(self, name: str) -> Expression:
        known = name.removeprefix("\\")
        if known in ("frac", "binom") and name[0] == "\\":
            self.at += len(name)
            top, bottom = self.argument(), self.argument()
            return divide(top, bottom) if known == "frac" else _binomial(top, bottom)
        if known in _FUNCTIONS:
            self.at += len(name)
            return self.function(known)
        if known == "pi":
            self.at += len(name)
            return letter("π")
        if name[0] == "\\":
            if known not in _GREEK:
                raise UnreadableError(f"{name} is not known")
            self.at += len(name)
            return self.subscripted(known)
        # Letters side by side are a product; words are not.
        if len(name) > 3 or any(name.startswith(function) for function in _FUNCTIONS):
            raise UnreadableError(f"{name!r} is a word")
        self.at += 1
        return self.subscripted(name[0])

    def subscripted(self, name: str) -> Expression:
        if match := _SUBSCRIPT.match(self.text, self.at):
            self.at = match.end()
            name = f"{name}_{match[1] or match[2]}"
        return letter(name)

    def function(self, name: str) -> Expression:
        if name == "sqrt":
            degree = number(2)
            if self.one_of("["):
                degree = self.sum()
                self.expect("]")
            inside, n = self.argument(), degree.rational
            return root_power(inside, 1 / n) if n else letter(f"@root({written(degree)},{written(inside)})")
        base = None
        if name == "log" and self.one_of("_"):
            base = self.argument()
        raised = self.exponent() if self.one_of("^") else None
        inside = self.applied()
        if name == "exp":
            found = power(letter("e"), inside)
        elif base is not None:
            found = divide(logarithm(inside), logarithm(base))
        else:
            found = logarithm(inside) if name == "ln" else letter(f"@{name}({written(inside)})")
        if raised is not None and raised.rational == -1:
            raise UnreadableError("an inverse function")
        return found if raised is None else power(found, raised)

    def applied(self) -> Expression:
        """What a function without parentheses reaches: \\sin 2x, but not the next function or sum."""
        self.space()
        if self.text.startswith(("(", "{"), self.at):
            return self.factor()
        found = self.raised()
        while self.starts_factor() and not self.text.startswith(("(", "\\sin", "\\cos", "\\tan", "\\ln", "\\log"), self.at):
            found = multiply(found, self.raised())
        return found

    def absolute(self) -> Expression:
        inside = self.sum()
        self.expect("|")
        value = inside.rational
        return number(abs(value)) if value is not None else letter(f"@abs({written(inside)})")

    def argument(self) -> Expression:
        r"""What a command takes: a group in braces, or the one digit or letter after it (\frac12)."""
        self.space()
        if self.at < len(self.text) and self.text[self.at].isdigit() and self.text[self.at].isascii():
            self.at += 1
            return number(int(self.text[self.at - 1]))
        return self.factor()

    def starts_factor(self) -> bool:
        self.space()
        here = self.text[self.at : self.at + 1]
        return bool(here) and (here in "({√π∞.\\" or (here.isascii() and here.isalnum()))

    def one_of(self, characters: str) -> str:
        self.space()
        here = self.text[self.at : self.at + 1]
        if here and here in characters and not self.text.startswith("**", self.at):
            self.at += 1
            return here
        return ""

    def expect(self, character: str) -> None:
        if not self.one_of(character):
            raise UnreadableError(f"{character} is missing")

    def space(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1


def _binomial(n: Expression, k: Expression) -> Expression:
    a, b = n.rational, k.rational
    if a is None or b is None or a.denominator != 1 or b.denominator != 1 or not 0 <= a <= 1000 or not b >= 0:
        return letter(f"@binom({written(n)},{written(k)})")
    return number(math.comb(int(a), int(b)))


__all__ = ["UnreadableError", "expression"]
