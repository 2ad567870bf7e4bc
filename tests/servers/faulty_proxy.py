"""An HTTP proxy on loopback that misbehaves on request: lost and late answers, cut connections, refusals, broken bytes,
ignored conditions."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
CONFLICT = b"<?xml version='1.0'?><Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"


@dataclass
class Faults:
    """What goes wrong. Each PUT takes the next of `on_put`; when there is none, it goes through. POSTs take `on_post`.

    `lose` forwards the request and drops the answer; `drop` closes the connection and forwards nothing; `half` sends
    half of the body on, then cuts both connections; `late` waits `delay` seconds before it answers; `503`, `409` and
    `expired` answer so without forwarding; `break` flips a bit of the body on its way. `ignore` names request headers
    that never arrive. `on_get` knows `cut`: the answer's body ends early. `dice` and `rate` make the faults of
    `at_random` happen to that share of all requests. `forwarded` counts the PUTs that reached the server, `seen` all
    requests by method, `happened` what went wrong.
    """

    on_put: list[str] = field(default_factory=list)
    on_get: list[str] = field(default_factory=list)
    on_post: list[str] = field(default_factory=list)
    dice: random.Random | None = None
    rate: float = 0.0
    delay: float = 0.0
    seen: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    ignore: tuple[str, ...] = ()
    forwarded: int = 0

    def take(self, method: str) -> str:
        """What goes wrong with the next request of this method; empty when nothing does."""
        self.seen[method] += 1
        waiting = {"PUT": self.on_put, "GET": self.on_get, "POST": self.on_post}.get(method, [])
        fault = waiting.pop(0) if waiting else ""
        if not fault and self.dice is not None and self.dice.random() < self.rate:
            fault = self.dice.choice(AT_RANDOM[method])
        self.happened[fault] += bool(fault)
        return fault


AT_RANDOM = {
    "PUT": ("lose", "drop", "half", "503", "409", "break"),
    "GET": ("cut", "drop", "503"),
    "HEAD": ("drop", "503"),
    "POST": ("lose", "drop", "503"),
    "DELETE": ("lose", "drop", "503"),
}
"""Faults by method for `dice`."""


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[tuple[str, Faults]]:
    """Runs a proxy before the server at `upstream` while the block runs; gives its URL and its faults."""
    faults = Faults()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(upstream, faults))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _handler(upstream: str, faults: Faults) -> type[http.server.BaseHTTPRequestHandler]:
    where = urlsplit(upstream)
    deciding = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with deciding:
                fault = faults.take(self.command)
            if fault in ("503", "409", "expired"):
                body_of = {"409": CONFLICT, "expired": EXPIRED}
                self.answer(400 if fault == "expired" else int(fault), [], body_of.get(fault, b""))
                return
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "half":
                self.send_half(body)
                return
            if fault == "break" and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            drop = {"expect", *faults.ignore}
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in drop}
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                data = reply.read()
            finally:
                connection.close()
            if self.command == "PUT":
                faults.forwarded += 1
            if fault == "lose":
                self.close_connection = True
                return
            if fault == "late":
                time.sleep(faults.delay)
            length = reply.getheader("Content-Length") or str(len(data))
            kept = [
                (name, value)
                for name, value in reply.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
            ]
            if fault == "cut":
                data = data[: len(data) // 2]
                self.close_connection = True
            self.answer(reply.status, kept, data, length)

        def send_half(self, body: bytes) -> None:
            """Begins the request with its full length, sends half of the body and hangs up on both sides."""
            self.close_connection = True
            with socket.create_connection((where.hostname or "", where.port or 80), 30) as upstream:
                lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers.items())]
                lines = [line for line in lines if not line.lower().startswith("expect:")]
                upstream.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body[: len(body) // 2])

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: str = "") -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(data)))
            with contextlib.suppress(OSError):  # a client that gave up on a late answer
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    for verb in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler.forward)
    return Handler
