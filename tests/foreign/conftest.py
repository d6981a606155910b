"""A local HTTP server that answers as a test has scripted it, faults included."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Scripted:
    """`answer(body, number)` gives (status, headers, bytes), or "cut", "half", "drip" or "hang"; `seen` holds what was asked."""

    def __init__(self, answer):
        self.answer, self.seen, self.headers, self.at_once, self.most = answer, [], [], 0, 0
        self.lock, self.over = threading.Lock(), threading.Event()
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                with script.lock:
                    script.at_once += 1
                    script.most = max(script.most, script.at_once)
                    number = len(script.seen)
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    script.seen.append(body)
                    script.headers.append({name.lower(): value for name, value in self.headers.items()})
                try:
                    self.reply(script.answer(body, number))
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with script.lock:
                        script.at_once -= 1

            def do_GET(self):
                raise AssertionError("nothing is ever fetched with GET")

            def reply(self, said):
                if said == "cut":
                    self.connection.close()
                elif said == "hang":
                    script.over.wait(10)
                elif said == "drip":
                    self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                    for _ in range(200):
                        if script.over.wait(0.05):
                            return
                        self.wfile.write(b"X-Drip: 1\r\n")
                        self.wfile.flush()
                elif said == "half":
                    self.wfile.write(b'HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n{"rewards": [1')
                else:
                    status, headers, data = said
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def as_json(value, status=200, **headers):
    return status, headers, json.dumps(value).encode()


@pytest.fixture
def serve(monkeypatch):
    """serve(answer) starts a scripted server, which ends with the test."""
    for name in ("http_proxy", "HTTP_PROXY", "PAYOFF_REWARD_KEY", "PAYOFF_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    started = []

    def start(answer):
        started.append(Scripted(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def scores():
    """scores(signal, rows) -> (numbers with None where there is no verdict, reasons in the order of the rows)."""
    from payoff.scoring import score_rows

    def of(signal, rows):
        scored = list(score_rows(rows, signal))
        return [row["reward"][signal.name] for row in scored], [row["reason"].get(signal.name) for row in scored]

    return of


@pytest.fixture
def quick():
    """Seconds since the fixture was made."""
    start = time.monotonic()
    return lambda: time.monotonic() - start
