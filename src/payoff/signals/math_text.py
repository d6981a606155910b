"""Answers as people and models decorate them, to plain text: commands to signs, no dollar signs around, no spacing."""

from __future__ import annotations

import re

_ODD = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u2217": "*",
        "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2264": "≤", "\u2265": "≥",
        "\u2a7d": "≤", "\u2a7e": "≥", "\u2260": "≠", "\u00b0": "°", "\u00ba": "°", "\u20ac": "$", "\u00a3": "$",
        "\n": " ", "\t": " ",
    }
)  # fmt: skip
_SMALL = {"⁰": "0", "¹": "1", "²": "2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9", "⁻": "-", "ⁿ": "n"}
_RAISED = re.compile(f"[{''.join(_SMALL)}]+")
_HALVES = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
_HALF = re.compile(rf"(\d*)\s*([{''.join(_HALVES)}])", re.ASCII)
_SIGNS = {
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("degree", "circ"), "°"),
    **dict.fromkeys(("langle",), "("),
    **dict.fromkeys(("rangle",), ")"),
    **dict.fromkeys(("quad", "qquad", "displaystyle", "textstyle", "limits", "left", "right", "bigl", "bigr", "Bigl", "Bigr"), " "),
    **dict.fromkeys(("big", "Big", "bigg", "Bigg"), " "),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("approx", "simeq", "sim"), "≈"),
    **dict.fromkeys(("implies", "Rightarrow", "Longrightarrow", "therefore"), " ⇒ "),
    "div": "/", "lt": "<", "gt": ">", "infty": "∞", "cup": "∪", "in": "∈", "pm": "±", "pi": "π", "emptyset": "∅", "varnothing": "∅",
    "lbrace": "⦃", "rbrace": "⦄", "colon": ":", "dots": "…", "ldots": "…", "cdots": "…",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)", re.ASCII)
_STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|bm|boldsymbol)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def plain(text: str) -> str:
    r"""An answer without decoration: signs for commands, no dollar signs, no spacing, no full stop at its end.

    >>> plain(r"$\left( 1{,}000 , \dfrac{1}{2} \right).$"), plain(r"5\text{ cm}"), plain("x²")
    ('( 1000 , \\frac{1}{2} )', '5 cm', 'x^{2}')
    """
    text = text.translate(_ODD)
    text = _RAISED.sub(lambda m: "^{" + "".join(_SMALL[c] for c in m[0]) + "}", text)
    text = _HALF.sub(lambda m: f"({m[1]}+{_HALVES[m[2]]})" if m[1] else f"({_HALVES[m[2]]})", text)
    text = text.replace("{,}", "").replace("\\!", "").replace("\\$", "$").replace("\\%", "%")
    text = (
        text.replace("\\{", "⦃").replace("\\}", "⦄").replace("**", "^") if "**" not in (text[:2], text[-2:]) else text.strip("* ")
    )
    text = text.replace("\\{", "⦃").replace("\\}", "⦄")
    text = re.sub(r"\\[,;:> ]|~|\\\(|\\\)|\\\[|\\\]", " ", text)
    while (styled := _STYLED.sub(r" \1 ", text)) != text:
        text = styled
    text = _BOXED.sub("{", text)
    text = _COMMAND.sub(lambda m: _SIGNS.get(m[1], m[0]), text)
    text = re.sub(r"\^\s*(?:\{\s*°\s*\}|°)", "°", text).replace("<=", "≤").replace(">=", "≥").replace("!=", "≠")
    text = re.sub(r"(?<![A-Za-z\\])(?:infinity|oo)(?![A-Za-z])", "∞", text)
    text = re.sub(r"\s+", " ", text).strip(" `'\"")
    text = re.sub(r"(?<=[\d\s])\$|\$(?=[\s,.]*$)|(?<![\d-])\$(?!\s*\d)", " ", text) if text.count("$") != 1 else text
    if text.count("$") > 1 or (text.startswith("$") and text.endswith("$")):
        text = text.replace("$", " ")
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").strip(" *,") if not text.endswith("...") else text
