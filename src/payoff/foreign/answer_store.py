"""Answers of a paid server on disk, by everything that was asked: what was paid for once is not paid for again.

An `AnswerStore` saves money; a `Recording` is a text file that repeats one run exactly, failures included, without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any


def default_store() -> Path:
    """Where answers are kept unless one says otherwise: `payoff/judge.sqlite` in the user's folder for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "payoff" / "judge.sqlite"


class AnswerStore:
    """A file of answers by the hash of address and body. A write is there whole or not at all, also with several processes.

    Raises ValueError where the file cannot be opened or is something else.

    >>> import tempfile
    >>> store = AnswerStore(Path(tempfile.mkdtemp()) / "answers.sqlite")
    >>> store["http://host", b"question"] = "answer"
    >>> store.get(("http://host", b"question")), store.get(("http://host", b"another"))
    ('answer', None)
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path, timeout=30.0, check_same_thread=False, isolation_level=None)
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise ValueError(f"answers cannot be kept in {self.path}: {error}") from None

    def get(self, asked: tuple[str, bytes]) -> str | None:
        """The answer that was kept, or None."""
        with self._lock:
            found = self._file.execute("SELECT answer FROM answers WHERE key = ?", (_key(asked),)).fetchone()
        return None if found is None else found[0]

    def __setitem__(self, asked: tuple[str, bytes], answer: str) -> None:
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_key(asked), answer))

    def __len__(self) -> int:
        with self._lock:
            return self._file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def _key(asked: tuple[str, bytes]) -> bytes:
    url, body = asked
    return hashlib.sha256(url.encode() + b"\n" + body).digest()


class Recording:
    """A text file of requests and what was said to each, one JSON object a line, to be read, kept with the code and replayed.

    {"request": {...}, "answer": "what was written"} or {"request": {...}, "failure": "why there was none"}; the last line of a
    request holds. A line is written whole, and the last one is passed over where a process was killed while it wrote.

    Raises ValueError where the file cannot be read or a line is something else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "answers.jsonl"
    >>> Recording(path, new=True).add(b'{"model": "m"}', "good")
    >>> Recording(path).get(b'{"model": "m"}'), Recording(path).get(b'{"model": "other"}')
    (('good', ''), None)
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._told: dict[bytes, tuple[str | None, str]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = b"" if new and not self.path.exists() else self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"recording {self.path}: {error}") from None
        *lines, last = data.split(b"\n")
        self._whole = len(data) - len(last)  # bytes of whole lines
        for number, line in enumerate(lines, 1):
            if line.strip():
                body, told = _recorded(line, f"recording {self.path}:{number}")
                self._told[body] = told
        with suppress(ValueError):  # the last line without its end was written by hand, or torn
            body, told = _recorded(last, "")
            self._told[body], self._whole = told, len(data)
        self._torn = self._whole < len(data)
        self._mend = b"" if self._torn or not last else b"\n"

    def get(self, body: bytes) -> tuple[str | None, str] | None:
        """The answer, or None and why there was none; None where the request is not in the file."""
        return self._told.get(_canonical(json.loads(body)))

    def add(self, body: bytes, answer: str | None, failure: str = "") -> None:
        """Write what was said to `body`, a JSON object, unless the file says so already. Raises OSError where that fails."""
        request = json.loads(body)
        told = (answer, "" if answer is not None else failure)
        line = {"request": request, **({"failure": failure} if answer is None else {"answer": answer})}
        with self._lock:
            key = _canonical(request)
            if self._told.get(key) == told:
                return
            with self.path.open("ab") as file:
                if self._torn:
                    file.truncate(self._whole)
                file.write(self._mend + json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            self._mend, self._torn = b"", False
            self._told[key] = told

    def __len__(self) -> int:
        return len(self._told)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], new=True)  # type: ignore[misc]


def _recorded(line: bytes, where: str) -> tuple[bytes, tuple[str | None, str]]:
    try:
        found = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    request = found.get("request") if isinstance(found, dict) else None
    told = [found[name] for name in ("answer", "failure") if name in found] if isinstance(request, dict) else []
    if not isinstance(request, dict) or len(told) != 1 or not isinstance(told[0], str):
        raise ValueError(f'{where}: not {{"request": {{...}}, "answer": text}} or {{"request": {{...}}, "failure": text}}')
    return _canonical(request), ((told[0], "") if "answer" in found else (None, told[0]))


def _canonical(request: Any) -> bytes:
    return json.dumps(request, sort_keys=True).encode()
