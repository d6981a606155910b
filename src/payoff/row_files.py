"""Files of rows: JSONL, CSV, Parquet and Hugging Face data sets, read one row at a time and written atomically.

Whatever can be wrong with a file is a `RowError`: one line that names the file and the line or row.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from payoff._extras import require
from payoff.files import replacing

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]

_LISTS = {"tokens", "actions", "mask", "step", "logp", "extras", "own", "steps", "reward", "reason", "reward_steps"}
_NUMBERS = {"id", "group", "parent", "fork"}
_ALSO_CALLED = {
    "prompt": ("question", "problem", "query", "instruction", "input"),
    "response": ("completion", "output", "generation", "solution_str"),
    "reference": ("answer", "gold", "ground_truth", "solution", "target", "label"),
}
_KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_ALLOWED = "allowed are .jsonl, .ndjson, .json, .csv, .tsv (each also .gz) and .parquet"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_CHUNK = 8192  # rows per Arrow table while Parquet is written


Damaged = Callable[[str], None] | None


class RowError(ValueError):
    """What is wrong with a file of rows or with one of them, in one line."""


def read_rows(
    path: str | os.PathLike[str],
    *,
    fields: Mapping[str, str] | None = None,
    required: Sequence[str] = (),
    split: str | None = None,
    damaged: Callable[[str], None] | None = None,
) -> Iterator[Row]:
    """The rows of a file, one at a time, each as a dict of its fields.

    path:     JSONL (also .ndjson), one JSON array (.json), CSV, TSV, each also gzipped; Parquet; a folder saved by `datasets`; or
              a data set's name on the hub, `owner/name` or `owner/name:configuration`
    fields:   gives a column another name: {"reference": "answer"} adds `reference`, `answer` stays too
    required: fields that every row must have
    split:    of a data set that has several; without it the only one, or "train"
    damaged:  told what is wrong with a line of JSONL or CSV, or with a row that lacks a field, which then costs that row alone;
              without it the first one ends the reading

    Cells of a CSV stay text. Blank lines of JSONL are skipped. What does not exist raises RowError at once, what cannot be read
    when the reading gets there.
    """
    name = os.fspath(path)
    kind = _kind_of(name)
    readers: dict[str, Callable[[], Numbered]] = {
        "json": lambda: _read_json(name, damaged),
        "csv": lambda: _read_csv(name, damaged),
        "parquet": lambda: _read_parquet(name),
        "dataset": lambda: _read_dataset(name, split),
    }
    return _with_fields(name, "line" if kind in ("json", "csv") else "row", readers[kind](), fields or {}, required, damaged)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]], *, overwrite: bool = False) -> int:
    """Write rows as JSONL, CSV or Parquet, by the suffix (.gz for the first two); returns how many.

    Atomic: a reader sees the old file or the whole new one; an error or an interruption leaves the old one as it was.
    JSONL is written as the rows come; CSV and Parquet must know all columns first and hold the rows in memory. Not-a-number is
    written as null. Raises RowError for a file that exists (unless `overwrite`), a full disk, no permission, an unknown suffix.
    """
    name = os.fspath(path)
    check_writable(name, overwrite=overwrite)
    try:
        with replacing(name) as file:
            if name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    count = _WRITERS[_KINDS[_suffix(name)]](name, packed, rows)
            else:
                count = _WRITERS[_KINDS[_suffix(name)]](name, file, rows)
            check_writable(name, overwrite=overwrite)  # someone else may have written it meanwhile
    except OSError as error:
        raise RowError(f"{name}: cannot be written: {_why(error)}; nothing was overwritten") from None
    return count


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """RowError where `write_rows` would refuse to begin; called before long work whose result goes there."""
    name = os.fspath(path)
    target = os.path.realpath(name)
    if _KINDS.get(_suffix(name)) is None or _suffix(name) == ".json" or name.endswith(".parquet.gz"):
        raise RowError(f"{name}: its suffix names no format to write; use .jsonl, .csv, .tsv or .parquet")
    if os.path.isdir(target):
        raise RowError(f"{name}: is a folder, and a file is to be written")
    if not os.path.isdir(os.path.dirname(target)):
        raise RowError(f"{name}: there is no folder {os.path.dirname(name)} to write into")
    if not os.access(os.path.dirname(target), os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise RowError(f"{name}: no permission to write into {os.path.dirname(name) or 'this folder'}")
    if os.path.exists(target) and not overwrite:
        raise RowError(f"{name}: exists, and is only overwritten when asked to (--overwrite)")


# --- reading


def _kind_of(name: str) -> str:
    if os.path.isdir(name):
        if any(os.path.exists(os.path.join(name, mark)) for mark in ("state.json", "dataset_dict.json")):
            return "dataset"
        raise RowError(f"{name}: is a folder, and not one saved by `datasets`; name a file in it: {_ALLOWED}")
    kind = _KINDS.get(_suffix(name))
    if os.path.exists(name):
        if kind is None or name.endswith(".parquet.gz"):
            raise RowError(f"{name}: the suffix names no format known here; {_ALLOWED}")
        return kind
    if kind is None and _HUB_NAME.fullmatch(name) and not os.path.isdir(name.partition("/")[0]):
        return "dataset"
    folder = os.path.dirname(name)
    if folder and not os.path.isdir(folder):
        raise RowError(f"{name}: no such file; there is no folder {folder}")
    like = difflib.get_close_matches(os.path.basename(name), os.listdir(folder or "."), n=1)
    raise RowError(f"{name}: no such file" + (f"; did you mean {os.path.join(folder, like[0])}?" if like else ""))


def _with_fields(
    name: str, unit: str, rows: Numbered, fields: Mapping[str, str], required: Sequence[str], damaged: Damaged
) -> Iterator[Row]:
    count = 0
    for number, row in rows:
        place = f"{name} {unit} {number}"
        lacking = [
            (found, f" (asked for as {wanted!r})" * (wanted != found)) for wanted, found in fields.items() if found not in row
        ]
        lacking += [(wanted, "") for wanted in required if wanted not in row and wanted not in fields]
        if lacking:
            _cost(_missing(place, lacking[0][0], row, lacking[0][1]), damaged)
            continue
        count += 1
        yield row | {wanted: row[found] for wanted, found in fields.items()}
    if not count:
        raise RowError(f"{name}: holds no rows")


def _cost(fault: str, damaged: Damaged) -> None:
    """One row, where faults are counted; else the whole reading."""
    if damaged is None:
        raise RowError(fault)
    damaged(fault)


def _missing(place: str, wanted: str, row: Mapping[str, Any], note: str = "") -> str:
    known = [other for other in _ALSO_CALLED.get(wanted, ()) if other in row]
    like = difflib.get_close_matches(wanted, list(row), n=1)
    hint = f"; did you mean {like[0]!r}?" if like else f"; try --map {wanted}={known[0]}" if known else ""
    return f"{place}: has no field {wanted!r}{note}; it has: {', '.join(row)}{hint}"


def _lines(name: str, damaged: Damaged = None) -> Iterator[tuple[int, str]]:
    """The lines of a text file, numbered from 1, with their line ends."""
    number = 0
    try:
        with gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    found = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
                    _cost(f"{name} line {number}: is not UTF-8 ({found}); save the file as UTF-8", damaged)
                    continue
                yield number, text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RowError(f"{name}: is damaged after line {number}: {error}") from None
    except OSError as error:
        raise RowError(f"{name}: cannot be read: {_why(error)}") from None


def _read_json(name: str, damaged: Damaged) -> Numbered:
    numbered: Iterator[tuple[int, str]] = ((number, text) for number, text in _lines(name, damaged) if text.strip())
    if _suffix(name) == ".json":
        lines = list(numbered)
        if lines and lines[0][1].lstrip().startswith("["):
            whole = _parse(f"{name}", "".join(text for _, text in lines))
            yield from ((k, _object(f"{name} item {k}", item)) for k, item in enumerate(whole, 1))
            return
        numbered = iter(lines)
    for number, text in numbered:
        place = f"{name} line {number}"
        try:
            row = _object(place, _parse(place, text))
        except RowError as error:
            _cost(str(error), damaged)
            continue
        yield number, row


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = error.pos
        excerpt = text[max(at - 20, 0) : at + 20].strip()
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        raise RowError(f"{place}: is not JSON: {error.msg} at {line}column {error.colno}, near {excerpt!r}") from None
    except RecursionError:
        raise RowError(f"{place}: is nested too deeply") from None


def _object(place: str, value: Any) -> Row:
    if isinstance(value, dict):
        return value
    kinds = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    hint = "; one JSON array of rows goes into a .json file" if isinstance(value, list) else ""
    raise RowError(f"{place}: must be an object {{...}}, is {kinds[type(value)]}{hint}")


def _read_csv(name: str, damaged: Damaged) -> Numbered:
    csv.field_size_limit(max(csv.field_size_limit(), 2**30))  # the limit is the process's; long prompts are no error
    reader = csv.reader(
        (text for _, text in _lines(name, damaged)), delimiter="\t" if _suffix(name) == ".tsv" else ",", strict=True
    )
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = cells
                if len(set(header)) < len(header) or "" in header:
                    odd = next((h for h in header if header.count(h) > 1 or not h), "")
                    raise RowError(
                        f"{name} line 1: the header names {'a column twice: ' + repr(odd) if odd else 'a column by nothing'}"
                    )
            elif cells and len(cells) != len(header):
                _cost(f"{name} line {reader.line_num}: has {len(cells)} cells, the header has {len(header)}", damaged)
            elif cells:
                recorded = "tokens" in header or "actions" in header
                yield reader.line_num, {h: _cell(h, c, recorded) for h, c in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise RowError(f"{name} line {reader.line_num}: is not CSV: {error}") from None


def _cell(column: str, text: str, recorded: bool) -> Any:
    """A cell as text, but lists and numbers in the columns that `write_rows` fills with them."""
    if column in _LISTS and text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    if recorded and column in _NUMBERS and re.fullmatch(r"-?\d+", text):
        return int(text)
    return text


def _read_parquet(name: str) -> Numbered:
    parquet = require("pyarrow.parquet", f"reading {name}")
    arrow = require("pyarrow", f"reading {name}")
    try:
        with parquet.ParquetFile(name) as file:
            batches = file.iter_batches(batch_size=1024)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except arrow.ArrowException as error:
        raise RowError(f"{name}: is not Parquet: {_first_line(error)}") from None
    except OSError as error:
        raise RowError(f"{name}: cannot be read: {_why(error)}") from None


def _read_dataset(name: str, split: str | None) -> Numbered:
    datasets = require("datasets", f"reading the data set {name}")
    try:
        if os.path.isdir(name):
            data = datasets.load_from_disk(name)
        else:
            owner_and_name, _, configuration = name.partition(":")
            data = datasets.load_dataset(owner_and_name, configuration or None)
    except Exception as error:  # the package raises what it likes: ValueError, ConnectionError, its own ...
        place = "" if os.path.isdir(name) else " is no file here, and as a data set of the hub it"
        raise RowError(f"{name}{place or ':'} cannot be loaded: {_first_line(error)}") from None
    if isinstance(data, Mapping):
        splits = list(data)
        chosen = split or (splits[0] if len(splits) == 1 else "train")
        if chosen not in data:
            raise RowError(f"{name}: has no split {chosen!r}; it has: {', '.join(splits)}")
        data = data[chosen]
    yield from ((number, dict(row)) for number, row in enumerate(data, 1))


# --- writing


def _write_json(name: str, file: io.BufferedIOBase, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for count, row in enumerate(rows, 1):
        text = _json(f"{name} row {count}", row)
        try:
            file.write(text.encode() + b"\n")
        except UnicodeEncodeError:  # half a surrogate pair, which has no UTF-8
            file.write(json.dumps(json.loads(text)).encode() + b"\n")
    return count


def _write_csv(name: str, file: io.BufferedIOBase, rows: Iterable[Mapping[str, Any]]) -> int:
    kept = list(rows)
    columns = list(dict.fromkeys(column for row in kept for column in row))
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)  # type: ignore[type-var]
    writer = csv.writer(text, delimiter="\t" if _suffix(name) == ".tsv" else ",", lineterminator="\n")
    writer.writerow(columns)
    for k, row in enumerate(kept, 1):
        values = ((column, row.get(column)) for column in columns)
        writer.writerow(
            "" if v is None else v if isinstance(v, str) else _json(f"{name} row {k} field {c!r}", v) for c, v in values
        )
    text.detach()
    return len(kept)


def _write_parquet(name: str, file: io.BufferedIOBase, rows: Iterable[Mapping[str, Any]]) -> int:
    arrow = require("pyarrow", f"writing {name}")
    parquet = require("pyarrow.parquet", f"writing {name}")
    tables, count, source = [], 0, iter(rows)
    while chunk := list(islice(source, _CHUNK)):
        columns = dict.fromkeys(column for row in chunk for column in row)
        arrays = {column: [_storable(row.get(column)) for row in chunk] for column in columns}
        for column, values in arrays.items():
            try:
                arrays[column] = arrow.array(values)
            except arrow.ArrowException as error:
                why = _first_line(error)
                raise RowError(f"{name}: Parquet cannot hold field {column!r} ({why}); write .jsonl instead") from None
        tables.append(arrow.table(arrays))
        count += len(chunk)
    try:
        table = arrow.concat_tables(tables, promote_options="permissive") if tables else arrow.table({})
        parquet.write_table(table, file)
    except arrow.ArrowException as error:
        raise RowError(f"{name}: Parquet cannot hold these rows ({_first_line(error)}); write .jsonl instead") from None
    return count


_WRITERS: dict[str, Callable[[str, io.BufferedIOBase, Iterable[Mapping[str, Any]]], int]] = {
    "json": _write_json,
    "csv": _write_csv,
    "parquet": _write_parquet,
}


def _storable(value: Any) -> Any:
    """A value as Arrow takes it: Parquet has no structure without fields, so an empty one is nothing."""
    if isinstance(value, Mapping):
        return {str(k): _storable(v) for k, v in value.items()} or None
    if isinstance(value, list | tuple):
        return [_storable(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _json(place: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError:  # not-a-number somewhere, which JSON does not have
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=_as_json)
    except TypeError as error:
        raise RowError(f"{place}: cannot be written as JSON: {error}") from None


def _as_json(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} has no JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _suffix(name: str) -> str:
    return os.path.splitext(name.removesuffix(".gz"))[1].lower()


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
