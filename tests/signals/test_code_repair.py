"""Repairs judged by tests first and by likeness of what is said second."""

import pytest
import torch

from payoff.sandbox import Ended, Result, Sandbox, SandboxError
from payoff.signals.code_repair import secrepair, similarity

BEHAVIOUR = {"entry_point": "at", "cases": [{"args": [[7, 8], 1], "returns": 8}]}
EXPLOITS = {"entry_point": "at", "cases": [{"args": [[7, 8], -1], "returns": None}, {"args": [[7, 8], 2], "returns": None}]}
REPAIR = {"description": "Indices outside the list are refused.", "behaviour": BEHAVIOUR, "exploits": EXPLOITS}
FIXED = "def at(x, k): return x[k] if 0 <= k < len(x) else None"


def said(text, code):
    return f"{text}\n```python\n{code}\n```\n"


def grade(response, reference=REPAIR, **options):
    return secrepair(response, reference, isolation="process", **options)


def test_similarity_by_hand():
    assert similarity("a b c d", "a b") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert similarity("a b", "A, b!") == 1.0
    assert similarity("a", "b") == similarity("", "b") == 0.0


def test_similarity_of_embeddings():
    table = {"x": [1.0, 0.0], "y": [0.0, 2.0], "z": [3.0, 4.0], "w": [-1.0, 0.0]}
    encode = lambda text: torch.tensor([table[c] for c in text])
    # cosines of z with x and y: 0.6 and 0.8. P of "z" in "xy" is 0.8, R is (0.6 + 0.8) / 2
    assert similarity("z", "xy", encode) == pytest.approx(2 * 0.8 * 0.7 / 1.5)
    assert similarity("xy", "z", encode) == pytest.approx(similarity("z", "xy", encode))
    assert similarity("xyz", "zyx", encode) == pytest.approx(1.0)
    assert similarity("w", "x", encode) == 0.0
    assert similarity(" ", "x", encode) == 0.0
    with pytest.raises(ValueError, match="must give embeddings"):
        similarity("x", "x", lambda text: torch.zeros(3))
    assert secrepair("z", "xy", encode=encode, unlike=0.5).value == pytest.approx((2 * 0.8 * 0.7 / 1.5 - 0.5) / 0.5)
    assert secrepair("z", "x", encode=encode, unlike=0.9).value == 0.0


def test_a_repair_that_holds_is_ahead_of_every_other():
    well = grade(said(REPAIR["description"], FIXED)).value
    badly = grade(said("Done!", FIXED)).value
    assert (well, badly) == (1.0, 0.5)
    wrong = {
        "exploits: test 1 of 2: returned 8, not None": "def at(x, k): return x[k]",
        "behaviour: test 1 of 1: returned None, not 8": "def at(x, k): return None",
    }
    for reason, code in wrong.items():
        assert grade(said(REPAIR["description"], code)) == (0.0, True, reason)
    assert grade(REPAIR["description"]) == (0.0, True, "no code: no complete fenced block")
    assert grade(said("Done!", FIXED), repaired=0.9).value == 0.9


def test_only_what_is_around_the_code_is_a_description():
    copied = said("", f"# {REPAIR['description']}\n{FIXED}")
    assert grade(copied).value == 0.5


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\ndef at(x, k): sys.exit(0)",
        "def at(x, k):\n    while True: pass",
        "def at(x, k): return type('N', (), {'__eq__': lambda s, o: True})()",
        "print('x' * 10**8)",
    ],
)
def test_hostile_repairs_get_nothing(code):
    quick = {**REPAIR, "behaviour": {**BEHAVIOUR, "seconds": 0.5}}
    verdict = grade(said(REPAIR["description"], code), quick)
    assert (verdict.value, verdict.valid) == (0.0, True)


def test_what_cannot_be_judged_has_no_verdict(monkeypatch):
    for reference in (None, "", {"exploits": EXPLOITS}, {"description": " "}, {"description": "x", "exploits": {"cases": []}}):
        assert not grade(said("x", FIXED), reference).valid
    lost = Result(Ended.LOST, None, "", "", 0.0, 0.0, 0, False, "process", (), "the sandbox's server died", b"")
    monkeypatch.setattr(Sandbox, "run", lambda self, *a, **k: lost)
    assert grade(said("x", FIXED)) == (0.0, False, "lost: the sandbox's server died")

    def refuse(self, *a, **k):
        raise SandboxError("no namespaces")

    monkeypatch.setattr(Sandbox, "run", refuse)
    assert grade(said("x", FIXED)) == (0.0, False, "cannot be judged here: no namespaces")


def test_options_out_of_range_are_refused():
    for options in ({"unlike": 1.0}, {"repaired": 1.1}):
        with pytest.raises(ValueError, match="must hold"):
            grade("x", "x", **options)
