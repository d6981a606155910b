# ruff: noqa
# tries: computes with decimals, fractions and dates
# reference: {"entry_point": "solve", "cases": [{"args": [], "returns": ["0.3", "1/3", "2024-02-29", "b"]}]}

from datetime import date
from decimal import Decimal
from fractions import Fraction
import heapq, bisect, collections, itertools, math, re, string, statistics, random, hashlib, json


def solve():
    return [str(Decimal("0.1") + Decimal("0.2")), str(Fraction(1, 3)), str(date(2024, 2, 29)), re.search("[b-z]", "ab")[0]]
