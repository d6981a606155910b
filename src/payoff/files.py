"""Writing files so that a reader, or a machine that stops, sees the old one or the whole new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BufferedWriter]:
    """A file to write into, which takes the place of `path` when everything is written and on the disk; else nothing changes.

    Its mode follows the umask, as that of any new file; a link is followed, so that what it points to is replaced.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with replacing(place) as file:
    ...     _ = file.write(b"1 2 3")
    >>> place.read_bytes()
    b'1 2 3'
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
