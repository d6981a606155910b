"""Rows kept on disk and read when they are asked for: evidence of any size in a few megabytes of memory."""

from __future__ import annotations

import hashlib
import itertools
import marshal
import pickle
import sys
import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, overload

from payoff.audit.scorer import Row
from payoff.rows import group_key

BLOCK = 256  # rows that are read together
HELD = 8  # blocks that stay in memory
SINGLE, PAIR = 1, 2
LONG = 64  # characters of a prompt above which its hash stands for it


class StoredRows(Sequence[Row]):
    """A sequence of rows in a temporary file, which ends with the object.

    digest: a hash of all rows in their order, by which the same evidence is known again
    kinds:  for every row what `kind_of` says of it
    Rows come back as plain data; one that is asked for twice may be two equal objects.

    >>> rows = StoredRows({"prompt": str(k), "response": "x" * k} for k in range(1000))
    >>> len(rows), rows[999]["prompt"], [row["response"] for row in rows[2:4]], rows[-1] == rows[999]
    (1000, '999', ['xx', 'xxx'], True)
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._file = tempfile.TemporaryFile(prefix="payoff-rows-")  # noqa: SIM115 - it lives as long as this object
        self.kinds = bytearray()
        self._ends = array("q", [0])
        self._blocks: OrderedDict[int, ReadTogether] = OrderedDict()
        self._length = 0
        hashed = hashlib.blake2b(digest_size=16)
        source = iter(rows)
        while block := list(itertools.islice(source, BLOCK)):
            data = _packed([row if type(row) is dict else dict(row) for row in block])
            hashed.update(data)
            self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))
            self._length += len(block)
            self.kinds.extend(map(kind_of, block))
        self._file.flush()
        self.digest = hashed.hexdigest()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            start, stop, step = place.indices(self._length)
            if step != 1:
                return [self[k] for k in range(start, stop, step)]
            found = ReadTogether()
            for number in range(start // BLOCK, -(-stop // BLOCK)):
                found.add(self._block(number), max(0, start - number * BLOCK), max(0, stop - number * BLOCK))
            return found
        k = place + self._length if place < 0 else place
        if not 0 <= k < self._length:
            raise IndexError(f"there is no row {place} of {self._length}")
        return self._block(k // BLOCK)[k % BLOCK]

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._ends) - 1):
            yield from self._block(number)

    def _block(self, number: int) -> ReadTogether:
        found = self._blocks.get(number)
        if found is None:
            self._file.seek(self._ends[number])
            found = _unpacked(self._file.read(self._ends[number + 1] - self._ends[number]))
            self._blocks[number] = found
            while len(self._blocks) > HELD:
                self._blocks.popitem(last=False)
        return found


class ReadTogether(list[Row]):
    """Rows in a list, and their fields as columns as well, where all of them have the same fields; else no columns."""

    columns: Mapping[str, list[Any]] = MappingProxyType({})

    def add(self, block: ReadTogether, start: int, stop: int) -> None:
        """Add the rows of a block from start to stop, and what is known of their columns."""
        part = {name: values[start:stop] for name, values in block.columns.items()}
        if not self:
            self.columns = part
        elif self.columns.keys() == part.keys():
            for name, values in self.columns.items():
                values += part[name]
        else:
            self.columns = {}
        self += block[start:stop]


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """A field of every row, None where a row lacks it; rows that were `ReadTogether` are not looked at one by one.

    >>> column(StoredRows([{"x": 1}, {"x": 2}])[:2], "x"), column([{"x": 1}, {}], "x"), column(StoredRows([{"x": 1}])[:], "y")
    ([1, 2], [1, None], [None])
    """
    if isinstance(rows, ReadTogether) and rows.columns:
        return rows.columns.get(name) or [None] * len(rows)
    return [row.get(name) for row in rows]


class Responses(Sequence[Row]):
    """Rows of one response each, seen through rows of which some are pairs: one of `chosen` and `rejected` counts as two.

    label: the field that says which of a pair was chosen, 1.0 or 0.0; rows without any response are left out
    """

    def __init__(self, rows: Sequence[Row], places: array, label: str) -> None:
        self.rows, self.label = rows, label
        self._places = (
            places  # 3 times the row's place, plus 0 for the row as it is, 1 for what was chosen, 2 for what was rejected
        )

    @classmethod
    def of(cls, rows: Sequence[Row], label: str) -> Responses:
        """All responses of some rows.

        >>> pairs = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "response": "c"}, {"prompt": "r"}]
        >>> [(row["response"], row.get("gold")) for row in Responses.of(pairs, "gold")]
        [('a', 1.0), ('b', 0.0), ('c', None)]
        """
        kinds = rows.kinds if isinstance(rows, StoredRows) else bytes(map(kind_of, rows))
        places = array("q")
        for k, kind in enumerate(kinds):
            if kind == SINGLE:
                places.append(3 * k)
            elif kind == PAIR:
                places.extend((3 * k + 1, 3 * k + 2))
        return cls(rows, places, label)

    def only(self, places: Iterable[int]) -> Responses:
        """Those at the given places."""
        return Responses(self.rows, array("q", [self._places[k] for k in places]), self.label)

    @property
    def paired(self) -> bool:
        """Whether any of them comes from a pair."""
        return any(code % 3 for code in self._places)

    @property
    def pairs(self) -> tuple[list[int], list[int]]:
        """The places of what was chosen, and of what was rejected instead of each."""
        place = {code: k for k, code in enumerate(self._places)}
        both = [(k, place[code + 1]) for code, k in place.items() if code % 3 == 1 and code + 1 in place]
        return [better for better, _ in both], [worse for _, worse in both]

    def source(self, place: int) -> int:
        """The place, among the rows, of the row that a response stands in."""
        return self._places[place] // 3

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            codes = self._places[place]
            if len(codes) and codes[-1] - codes[0] == 3 * (len(codes) - 1) and not any(code % 3 for code in codes):
                return self.rows[codes[0] // 3 : codes[-1] // 3 + 1]  # rows that follow one another as they are
            return [self._row(code) for code in codes]
        return self._row(self._places[place])

    def __iter__(self) -> Iterator[Row]:
        if len(self._places) == len(self.rows) and not self.paired:
            return iter(self.rows)
        return map(self._row, self._places)

    def _row(self, code: int) -> Row:
        row = self.rows[code // 3]
        if code % 3 == 0:
            return row
        name = "chosen" if code % 3 == 1 else "rejected"
        return {**row, "response": row[name], self.label: float(name == "chosen")}


def kind_of(row: Row) -> int:
    """Whether a row has a response (SINGLE), a chosen and a rejected one (PAIR), or none."""
    if row.get("response") is not None:
        return SINGLE
    return PAIR if row.get("chosen") is not None and row.get("rejected") is not None else 0


def prompt_name(row: Row, place: int) -> Hashable:
    """What rows that belong together have in common, short enough for a million of them; a row that names nothing stands alone."""
    found = group_key(row)
    if found is None:
        return place
    name, value = found
    return (
        (name, value)
        if len(value) <= LONG
        else hashlib.blake2b(f"{name} {value}".encode(errors="replace"), digest_size=16).digest()
    )


def _packed(rows: list[dict[str, Any]]) -> bytes:
    """Rows as bytes, column by column where they have the same fields; the same bytes for equal rows.

    Version 2 of marshal, because later ones also write which objects are shared, which is not the same from run to run.
    """
    names = tuple(rows[0])
    content = (
        [names, [[row[name] for row in rows] for name in names]]
        if names and all(tuple(row) == names for row in rows)
        else [(), rows]
    )
    try:
        return b"m" + marshal.dumps(content, 2)
    except ValueError:  # something beyond plain data: a date of a Parquet file, an array
        return b"p" + pickle.dumps(content, protocol=5)


def _unpacked(data: bytes) -> ReadTogether:
    names, content = marshal.loads(data[1:]) if data[:1] == b"m" else pickle.loads(data[1:])
    if not names:
        return ReadTogether(content)
    keys = [sys.intern(name) if type(name) is str else name for name in names]
    rows = ReadTogether([dict(zip(keys, values)) for values in zip(*content)])
    rows.columns = dict(zip(keys, content))
    return rows
