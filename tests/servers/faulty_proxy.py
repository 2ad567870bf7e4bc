"""An HTTP proxy on loopback that misbehaves on request: lost answers, refusals, broken bytes, ignored conditions."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CONFLICT = b"<?xml version='1.0'?><Error><Code>ConditionalRequestConflict</Code><Message>try again</Message></Error>"


@dataclass
class Faults:
    """What goes wrong. Each PUT takes the next of `on_put`; when there is none, it goes through.

    `lose` forwards the request and drops the answer; `503` and `409` answer so without forwarding; `break` flips a
    bit of the body on its way. `ignore` names request headers that never arrive. `on_get` knows `cut`: the
    answer's body ends early. `forwarded` counts the PUTs that reached the server.
    """

    on_put: list[str] = field(default_factory=list)
    on_get: list[str] = field(default_factory=list)
    ignore: tuple[str, ...] = ()
    forwarded: int = 0


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

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = ""
            if self.command == "PUT":
                fault = faults.on_put.pop(0) if faults.on_put else ""
            elif self.command == "GET":
                fault = faults.on_get.pop(0) if faults.on_get else ""
            if fault in ("503", "409"):
                self.answer(int(fault), [], CONFLICT if fault == "409" else b"")
                return
            if fault == "break":
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

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, length: str = "") -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    for verb in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler.forward)
    return Handler
