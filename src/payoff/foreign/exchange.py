"""One question to a server and its answer as JSON: bounded in time and size, asked again where that may help, never redirected."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import functools
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from payoff.worker_process import explain, visible

AGAIN = (408, 425, 429, 500, 502, 503, 504)  # what may pass
LONGEST_WAIT = 60.0


class ExchangeError(Exception):
    """No answer that can be read, and why, in one line. charged: whether the server may have done the work, and charge for it."""

    def __init__(self, why: str, *, charged: bool = True) -> None:
        super().__init__(why)
        self.charged = charged


class _Passing(ExchangeError):
    """One that may not be there the next time; `after` seconds where the server says so."""

    def __init__(self, why: str, after: float | None = None, *, charged: bool = True) -> None:
        super().__init__(why, charged=charged)
        self.after = after


@dataclass
class Exchange:
    """POST of JSON to one address.

    timeout: seconds for one try, connection and answer in all
    tries:   of one question: again after 408, 425, 429, 5xx, a cut or refused connection and a timeout, after `wait` seconds,
             twice that and so on, at random up to half less, or what Retry-After asks for, at most a minute
    largest: bytes of an answer
    key_from: the environment variable that holds the key, sent as bearer token; nothing is sent where it is not set

    Once a question has failed in every try, the next ones are tried once, until one is answered: a dead server costs little.
    Proxies are those of the environment. Redirections are errors, so neither data nor key go elsewhere.
    """

    url: str
    timeout: float = 60.0
    tries: int = 4
    wait: float = 0.5
    largest: int = 16 << 20
    key_from: str = ""
    counts: dict[str, int | float] = field(default_factory=lambda: {"requests": 0, "retries": 0})
    dead: bool = False

    def __post_init__(self) -> None:
        checked_address(self.url)
        for name, least in (("timeout", 0), ("tries", 0), ("largest", 0), ("wait", -1)):
            if not least < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be {'above 0' if least == 0 else 'at least 0'}, is {getattr(self, name)}")
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def ask(self, body: bytes, send: Callable[[Callable[[], Any]], Any] | None = None) -> Any:
        """The answer to `body`, parsed.

        send: given what sends one request and returns its answer, for every try; calls it, or raises ExchangeError instead
        """
        tries = 1 if self.dead else self.tries
        for k in range(tries):
            try:
                answer = self._once(body) if send is None else send(lambda: self._once(body))
            except _Passing as error:
                if k + 1 == tries:
                    self.dead = True
                    raise ExchangeError(self._shown(error) + (f" ({tries} tries)" if tries > 1 else "")) from None
                self._count("retries")
                pause = self.wait * 2**k * random.uniform(0.5, 1.0) if error.after is None else error.after
                time.sleep(min(pause, LONGEST_WAIT))
            except ExchangeError as error:
                raise ExchangeError(self._shown(error)) from None
            else:
                self.dead = False
                return answer
        raise ExchangeError("was not asked")

    def _shown(self, error: ExchangeError) -> str:
        """Its words, without the key, which some servers repeat."""
        key = self._key()
        return str(error).replace(key, "***") if key else str(error)

    def _key(self) -> str:
        return os.environ.get(self.key_from, "") if self.key_from else ""

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def _once(self, body: bytes) -> Any:
        self._count("requests")
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "payoff"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        lines: list[socket.socket] = []
        late = threading.Event()

        def cut() -> None:
            late.set()
            for line in lines:
                with contextlib.suppress(OSError, ValueError):
                    line.shutdown(socket.SHUT_RDWR)

        # A socket's own timeout begins anew with every byte, so that a server which drips could hold a caller for ever.
        watch = threading.Timer(self.timeout, cut)
        watch.daemon = True
        watch.start()
        try:
            opener = urllib.request.build_opener(_Here, _plain(lines), _secured(lines))
            with opener.open(request, timeout=self.timeout) as response:
                data = response.read(self.largest + 1)
                length = response.headers.get("Content-Length", "")
                if length.isdecimal() and len(data) < min(int(length), self.largest):
                    raise ConnectionError("the connection was cut in the middle of the answer")
        except urllib.error.HTTPError as error:
            raise _of_status(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if late.is_set() or isinstance(cause, TimeoutError):
                raise _Passing(f"no answer within {self.timeout:g} s") from None
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ExchangeError(f"the server's certificate is not to be trusted: {explain(cause)}", charged=False) from None
            unheard = isinstance(cause, ConnectionRefusedError | socket.gaierror)
            why = explain(cause) if isinstance(cause, BaseException) else visible(str(cause))
            raise _Passing(why, charged=not unheard) from None
        finally:
            watch.cancel()
        if late.is_set():
            raise _Passing(f"no answer within {self.timeout:g} s")
        if len(data) > self.largest:
            raise ExchangeError(f"the answer is larger than {self.largest} bytes")
        return parsed(data)


def parsed(data: bytes | str) -> Any:
    """JSON where no name stands twice in an object; ExchangeError for everything else."""
    try:
        return json.loads(data, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        shown = f", begins {visible(text[:60], 60)!r}" if text else ", is empty"
        raise ExchangeError(f"the answer is not JSON ({explain(error)}){shown}") from None


def checked_address(url: str) -> str:
    """The address itself. Raises ValueError for one that is none, or that holds a password, which would end up in reports."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address; write http://HOST[:PORT]/PATH or https://...")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address is shown in reports, so it must hold no user or password; put the key into the environment")
    _ = parts.port  # raises ValueError where it is no number
    return url


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _of_status(error: urllib.error.HTTPError) -> ExchangeError:
    with error:
        if 300 <= error.code < 400:
            return ExchangeError(
                f"answers {error.code}, go to {visible(str(error.headers.get('Location')), 100)}: name that instead", charged=False
            )
        try:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())
        except (OSError, http.client.HTTPException):
            said = ""
    why = f"answers {error.code} {visible(str(error.reason), 60)}" + (f": {visible(said, 120)}" if said else "")
    if error.code not in AGAIN:
        return ExchangeError(why, charged=False)
    return _Passing(why, retry_after(error.headers.get("Retry-After", "")), charged=False)


def retry_after(text: str) -> float | None:
    """The seconds that a Retry-After asks for, which is a number of them or a date; None where it is neither.

    >>> retry_after("2"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after("soon")
    (2.0, 0.0, None)
    """
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text, flags=re.ASCII):
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=datetime.UTC)
    return max(then.timestamp() - time.time(), 0.0)


@functools.cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a redirection is the answer, and the caller sees its status."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _plain(lines: list[socket.socket]) -> urllib.request.HTTPHandler:
    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(functools.partial(_watched, http.client.HTTPConnection, lines), req)  # type: ignore[arg-type]

    return Handler()


def _secured(lines: list[socket.socket]) -> urllib.request.HTTPSHandler:
    class Handler(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            make = functools.partial(_watched, http.client.HTTPSConnection, lines)
            return self.do_open(make, req, context=_trusted())  # type: ignore[arg-type]

    return Handler(context=_trusted())


def _watched(kind: type[http.client.HTTPConnection], lines: list[socket.socket], host: str, **options: Any) -> Any:
    """A connection that puts its socket into `lines` as soon as it has one."""

    class Connection(kind):  # type: ignore[valid-type,misc]
        def connect(self) -> None:
            super().connect()
            lines.append(self.sock)

    return Connection(host, **options)
