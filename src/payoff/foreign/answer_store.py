"""Answers of a paid server on disk, by everything that was asked: what was paid for once is not paid for again."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
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
