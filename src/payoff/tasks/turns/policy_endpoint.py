"""A policy behind a local OpenAI-compatible endpoint: what a program asks there is a question, and waits for the turn written.

For environments that take a model as an address. Every rollout has an address of its own and is one conversation, which goes on
from what was said: the policy's tokens are kept as they were sampled, so a program that rewrites its past cannot be followed.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MOST = 64 << 20  # bytes of a request
_RETRIES = "x-stainless-retry-count"  # what OpenAI's clients count their attempts in

Answerer = Callable[[Sequence[Mapping[str, Any]]], str]


class BrokenConversationError(ValueError):
    """A request that does not go on from what was said at its address before."""


def said(message: Any) -> str:
    """The text of a message: of a mapping or an object with `content`, which may be a list of parts.

    >>> said({"content": [{"type": "text", "text": "a"}, "b"]}), said("c"), said({"content": None})
    ('ab', 'c', '')
    """
    if isinstance(message, str):
        return message
    content = message.get("content") if isinstance(message, Mapping) else getattr(message, "content", "")
    if isinstance(content, str) or content is None:
        return content or ""
    parts = [part if isinstance(part, str) else part.get("text", "") for part in content]
    return "".join(text for text in parts if text)


class Conversation:
    """One rollout at an endpoint. answer: blocks until the policy has replied to a list of messages.

    failure: why the requests could not be followed, where they could not
    """

    def __init__(self, url: str, answer: Answerer) -> None:
        self.url, self.answer = url, answer
        self.failure: BrokenConversationError | None = None
        self._guard = threading.Lock()
        self._messages: list[tuple[str, str]] = []
        self._reply: Future[str] | None = None

    def ask(self, messages: Sequence[Mapping[str, Any]], retried: bool = False) -> str:
        """The reply to these messages; the last one again for a request that is repeated because its answer was lost.

        Raises BrokenConversationError for messages that do not begin with those before and the reply to them, that bring nothing
        new, and for a second question while one waits.
        """
        plain = [(str(message.get("role", "user")), said(message)) for message in messages]
        with self._guard:
            if self._reply is not None and plain == self._messages and (retried or not self._reply.done()):
                reply, mine = self._reply, False
            else:
                self._follow(plain)
                self._messages, self._reply = plain, Future()
                reply, mine = self._reply, True
        if mine:
            try:
                reply.set_result(self.answer(messages))
            except BaseException as error:  # whoever repeats the question hears of it as well
                reply.set_exception(error)
        return reply.result()

    def _follow(self, plain: Sequence[tuple[str, str]]) -> None:
        known = len(self._messages)
        why = ""
        if self._reply is not None and not self._reply.done():
            why = "asks a second question while one waits; a rollout is one conversation"
        elif self._reply is None:
            why = "" if plain else "asks without a message"
        elif list(plain[:known]) != self._messages:
            why = "changes what was said before; a rollout is one conversation that only grows"
        elif len(plain) < known + 2 or plain[known][0] != "assistant" or any(role == "assistant" for role, _ in plain[known + 1 :]):
            why = "does not go on with the reply that it was given and something new"
        elif plain[known][1].strip() != self._reply.result().strip():
            why = "changes the reply that it was given"
        if why:
            self.failure = BrokenConversationError(f"the environment's program {why}")
            raise self.failure


class PolicyEndpoint:
    """A server on 127.0.0.1 and a free port, with one random token, whose model is whoever answers.

    Understands POST .../chat/completions, whole or as a stream of one piece, and GET .../models; a policy's own sampling settings
    hold, whatever a request says. What cannot be read is answered with 400, a wrong token with 401, an address that is over with
    410, a conversation that cannot be followed with 409, and a policy that does not answer any more with 503.

    >>> import json, urllib.request
    >>> endpoint = PolicyEndpoint()
    >>> with endpoint.conversation(lambda messages: messages[-1]["content"].upper()) as talk:
    ...     body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    ...     request = urllib.request.Request(talk.url + "/chat/completions", body, {"Authorization": f"Bearer {endpoint.token}"})
    ...     json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
    'HELLO'
    >>> endpoint.close()
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._talks: dict[str, Conversation] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.endpoint = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True, name="payoff-endpoint")
        self._thread.start()

    @contextmanager
    def conversation(self, answer: Answerer) -> Iterator[Conversation]:
        """An address of its own for one rollout, for as long as this lasts."""
        key = secrets.token_urlsafe(12)
        talk = self._talks[key] = Conversation(f"http://127.0.0.1:{self._server.server_address[1]}/{key}/v1", answer)
        try:
            yield talk
        finally:
            del self._talks[key]

    def find(self, path: str) -> tuple[Conversation | None, str]:
        """The conversation at this path, None where it is over, and what is asked of it."""
        key, _, rest = path.strip("/").partition("/")
        return self._talks.get(key), rest.removeprefix("v1/")

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    endpoint: PolicyEndpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the caller's to repeat."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """The list of models, of which there is one."""
        if self._admitted() is not None:
            self._send(200, {"object": "list", "data": [{"id": "payoff", "object": "model", "owned_by": "payoff"}]})

    def do_POST(self) -> None:
        """A question, answered when the policy has written its turn."""
        size = self.headers.get("content-length", "")
        if not size.isdigit() or int(size) > _MOST:
            self.close_connection = True
            return self._refuse(400, f"a request has a length of at most {_MOST} bytes")
        body = self.rfile.read(int(size))
        found = self._admitted()
        if found is None:
            return None
        if found[1] != "chat/completions":
            return self._refuse(404, f"there is no {found[1]!r} here, only chat/completions")
        try:
            asked = json.loads(body)
            messages = asked["messages"]
            if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
                raise TypeError("messages must be a list of objects")
            if asked.get("n") not in (None, 1):
                raise ValueError("one reply at a time: n must be 1")
            retries = self.headers.get(_RETRIES, "0")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return self._refuse(400, f"{type(error).__name__}: {error}")
        try:
            reply = found[0].ask(messages, retries.isdigit() and int(retries) > 0)
        except BrokenConversationError as error:
            return self._refuse(409, str(error))
        except BaseException as error:  # the rollout is over, whatever the reason: no answer will come
            return self._refuse(503, f"the policy answers no more: {type(error).__name__}")
        return self._complete(reply, str(asked.get("model", "payoff")), bool(asked.get("stream")))

    def log_message(self, format: str, *given: Any) -> None:
        """Nothing is logged: addresses are secrets."""

    def _admitted(self) -> tuple[Conversation, str] | None:
        given = self.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.endpoint.token}".encode()):
            self._refuse(401, "the token is wrong")
            return None
        talk, rest = self.server.endpoint.find(self.path.partition("?")[0])
        if talk is None:
            self._refuse(410, "this rollout is over")
            return None
        return talk, rest

    def _complete(self, reply: str, model: str, stream: bool) -> None:
        head = {"id": f"payoff-{secrets.token_hex(8)}", "created": int(time.time()), "model": model}
        message = {"role": "assistant", "content": reply}
        if not stream:
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            return self._send(200, {**head, "object": "chat.completion", "choices": [choice]})
        piece = {"index": 0, "delta": message, "finish_reason": "stop"}
        chunk = json.dumps({**head, "object": "chat.completion.chunk", "choices": [piece]})
        return self._write(200, "text/event-stream", f"data: {chunk}\n\ndata: [DONE]\n\n".encode())

    def _refuse(self, status: int, why: str) -> None:
        self._send(status, {"error": {"message": why, "type": "invalid_request_error", "code": status}})

    def _send(self, status: int, content: Mapping[str, Any]) -> None:
        self._write(status, "application/json", json.dumps(content).encode())

    def _write(self, status: int, kind: str, body: bytes) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
