r"""Edits of text: those that add nothing (repeats, invisible characters, look-alikes) and those that change nothing (other forms of
the same answer, blank space, the order of a set, the names of a program's own variables).

Each gives pairs (variant, text), never the text it was given, and nothing where it does not apply.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

Edits = list[tuple[str, str]]
_ALIKE = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")  # Latin letters as Cyrillic ones
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d{1,18})\}\{(\d{1,18})\}|(-?\d{1,18})\s*/\s*(\d{1,18})")
_WHOLE = re.compile(r"-?(?:\d{1,18}|\d{1,3}(?:,\d{3}){1,5})")
_DECIMAL = re.compile(r"-?\d{0,18}\.\d{1,18}")
_SET = re.compile(r"(\\?\{)([^{}]*,[^{}]*?)(\\?\})")
_TRUTHS = {"yes", "no", "true", "false"}
_FENCE = re.compile(r"(```(?:python|py)?[ \t]*\n)(.*?)(\n?```)", re.DOTALL)
_REFLECTION = {"locals", "vars", "eval", "exec", "globals", "dir"}


# --- edits that add nothing


def invisible(text: str) -> Edits:
    """The text with characters that show nothing: zero-width ones between letters, a reversed direction, tags behind.

    >>> [len(edited) for _, edited in invisible("ab")]
    [3, 4, 5]
    """
    if not text:
        return []
    return [
        ("zero-width space", "\u200b".join(text) if len(text) > 1 else f"{text}\u200b"),
        ("right-to-left override", f"\u202e{text}\u202c"),
        ("tag characters", text + "".join(chr(0xE0000 + ord(c)) for c in "yes")),
    ]


def confusable(text: str) -> Edits:
    """The text in letters that look the same: Cyrillic for Latin, and full-width forms."""
    made = [("cyrillic letters", text.translate(_ALIKE)), ("full-width letters", text.translate(_WIDE))]
    return [(variant, edited) for variant, edited in made if edited != text]


def steps_in(text: str) -> list[str]:
    """A response cut into its steps, separators included: at blank lines, else at line ends, else at `;`, else at sentence ends.

    >>> steps_in("3-7=6;6+7=3;#3."), steps_in("One. Two."), "".join(steps_in("a\\nb"))
    (['3-7=6;', '6+7=3;', '#3.'], ['One. ', 'Two.'], 'a\\nb')
    """
    for end in (r"\n\s*\n", r"\n", r";", r"(?<=[.!?])\s+"):
        pieces = re.split(f"({end})", text)
        steps = [piece + (pieces[i + 1] if i + 1 < len(pieces) else "") for i, piece in enumerate(pieces) if i % 2 == 0]
        steps = [step for step in steps if step]
        if len(steps) > 1:
            return steps
    return [text] if text else []


def repeated(steps: Sequence[str], times: int = 10) -> list[tuple[str, list[str]]]:
    """A response's steps with some of them said again, the last one, which holds the answer, still at the end.

    >>> dict(repeated(["a;", "b;", "#"], times=2))
    {'first step again': ['a;', 'a;', 'a;', 'b;', '#'], 'all steps again': ['a;', 'b;', 'a;', 'b;', 'a;', 'b;', '#']}
    """
    if len(steps) < 2:
        return []
    *body, last = steps
    return [
        ("first step again", [body[0]] * (times + 1) + body[1:] + [last]),
        ("all steps again", body * (times + 1) + [last]),
    ]


# --- edits that change nothing


def number_forms(answer: str) -> Edits:
    r"""Other ways of writing the same number; nothing for what is no single number.

    >>> [form for _, form in number_forms("1/2")], [form for _, form in number_forms("1000")]
    (['\\frac{1}{2}', '\\dfrac{1}{2}', '0.5', '$1/2$'], ['1,000', '1000.0', '$1000$'])
    >>> [form for _, form in number_forms("-0.25")]
    ['-1/4', '-0.250', '$-0.25$', '\u22120.25']
    """
    text = answer.strip()
    made: Edits = []
    if found := _FRACTION.fullmatch(text):
        sign, above, below, plain_above, plain_below = found.groups()
        top, bottom = (int(sign + above), int(below)) if above else (int(plain_above), int(plain_below))
        if not bottom:
            return []
        minus = "-" if top < 0 else ""
        made += [("latex fraction", f"{minus}\\frac{{{abs(top)}}}{{{bottom}}}"), ("fraction", f"{top}/{bottom}")]
        made += [("display fraction", f"{minus}\\dfrac{{{abs(top)}}}{{{bottom}}}")]
        if decimal := _decimal(Fraction(top, bottom)):
            made.append(("decimal", decimal))
    elif _WHOLE.fullmatch(text):
        whole = int(text.replace(",", ""))
        made += [("thousands", f"{whole:,}"), ("plain digits", str(whole)), ("decimal", f"{whole}.0")]
    elif _DECIMAL.fullmatch(text):
        value = Fraction(text)
        if value.denominator > 1:
            made.append(("fraction", f"{value.numerator}/{value.denominator}"))
        made.append(("trailing zero", f"{text}0"))
    else:
        return []
    made.append(("dollar signs", f"${text}$"))
    if text.startswith("-"):
        made.append(("minus sign", f"\u2212{text[1:]}"))
    return [(variant, form) for variant, form in made if form != text]


def _decimal(value: Fraction) -> str | None:
    """A fraction as a decimal where that ends within six places."""
    for places in range(7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = f"{abs(scaled.numerator):0{places + 1}d}"
            sign = "-" if value < 0 else ""
            return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"
    return None


def case_forms(answer: str) -> Edits:
    """A choice or a truth value in other letters; nothing for other text, where case may matter.

    >>> case_forms("B"), case_forms("Co")
    ([('lower case', 'b'), ('in parentheses', '(B)')], [])
    """
    text = answer.strip()
    if text.casefold() in _TRUTHS:
        made = [("lower case", text.lower()), ("upper case", text.upper()), ("capitalised", text.capitalize())]
    elif re.fullmatch(r"[A-E]", text):
        made = [("lower case", text.lower()), ("in parentheses", f"({text})")]
    else:
        return []
    return [(variant, form) for variant, form in made if form != text]


def set_orders(answer: str) -> Edits:
    r"""The elements of a set in other orders; only what stands in braces is taken for a set.

    >>> set_orders("{1, 2, 3}"), set_orders("(1, 2)")
    ([('reversed', '{3, 2, 1}'), ('rotated', '{2, 3, 1}')], [])
    """
    found = _SET.fullmatch(answer.strip())
    if found is None:
        return []
    opening, inside, closing = found.groups()
    elements = [element.strip() for element in inside.split(",")]
    made = [("reversed", elements[::-1]), ("rotated", elements[1:] + elements[:1])]
    texts: dict[str, str] = {}  # of equal texts the first name
    for variant, order in made:
        texts.setdefault(f"{opening}{', '.join(order)}{closing}", variant)
    return [(variant, text) for text, variant in texts.items() if text != answer.strip()]


def spaced(text: str) -> Edits:
    """Blank space before, after, and at line ends, where no reader sees it."""
    made = [("newline after", f"{text}\n"), ("spaces after", f"{text}   "), ("newline before", f"\n{text}")]
    return made + ([("windows line ends", text.replace("\n", "\r\n"))] if "\n" in text and "\r" not in text else [])


def wrapped(answer: str) -> Edits:
    """An answer as one says it."""
    return [
        ("sentence", f"The answer is {answer}."),
        ("box", f"\\boxed{{{answer}}}"),
        ("label", f"Answer: {answer}"),
        ("final answer", f"After working it through, the final answer is {answer}."),
    ]


def renamed(text: str) -> Edits:
    """A response that is, or fences, Python code: the local variables of its functions under other names; the rest untouched.

    Parameters, attributes and what functions share with their surroundings keep their names, so that every call still works.

    >>> renamed("def add(a, b):\\n    total = a + b\\n    return total")
    [('local variables', 'def add(a, b):\\n    value_0 = a + b\\n    return value_0')]
    """
    fenced = list(_FENCE.finditer(text))
    if not fenced:
        changed = _renamed(text)
        return [] if changed is None else [("local variables", changed)]
    pieces, last, any_changed = [], 0, False
    for match in fenced:
        changed = _renamed(match[2])
        any_changed = any_changed or changed is not None
        pieces += [text[last : match.start()], match[1], changed or match[2], match[3]]
        last = match.end()
    return [("local variables", "".join([*pieces, text[last:]]))] if any_changed else []


class _Names(NamedTuple):
    """Names of one function: those it alone assigns, in order, and those that are fixed."""

    own: list[str]
    fixed: set[str]


def _renamed(code: str) -> str | None:
    """None where it does not parse, looks at its own names, or has no local variable."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if used & _REFLECTION:
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    outside = {node.id for node in _outside(tree) if isinstance(node, ast.Name)}
    fixed = outside.union(*(_names(function).fixed for function in functions), *map(_borrowed, _outermost(tree)))
    own = dict.fromkeys(name for function in functions for name in _names(function).own if name not in fixed)
    fresh = (f"value_{k}" for k in range(len(own) + len(used | fixed)) if f"value_{k}" not in used | fixed)
    names = dict(zip(own, fresh))
    if not names:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = names[node.id]
    return ast.unparse(tree)


def _names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> _Names:
    own, fixed = [], set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.append(node.id)
        elif isinstance(node, ast.arg):
            fixed.add(node.arg)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            fixed.update(node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            fixed.add(node.name)
            if isinstance(node, ast.ClassDef):  # what its body assigns are attributes
                fixed.update(inner.id for inner in _outside(node) if isinstance(inner, ast.Name))
        elif isinstance(node, ast.alias):
            fixed.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            fixed.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            fixed.add(node.rest)
    return _Names(own, fixed)


def _borrowed(function: ast.AST) -> set[str]:
    """Names that a function reads and never assigns: they are somebody else's."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    return {node.id for node in names} - {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _outermost(node: ast.AST) -> Iterator[ast.AST]:
    """Functions and methods that lie in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _outermost(child)


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that lies in no function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside(child)


ANSWER_FORMS: dict[str, Callable[[str], Edits]] = {"number-forms": number_forms, "case": case_forms, "set-order": set_orders}
