"""A small HTTP server on loopback that serves pictures, redirects and bad manners."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class PictureServer:
    """`answers` maps paths to what is done for them; `asked` are the paths and headers of requests so far."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def serve(self, path: str, data: bytes, kind: str = "image/png", **headers: str) -> str:
        """Answers a path with these bytes, or 304 where the asker knows their ETag; gives the URL."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            etag = headers.get("ETag")
            if etag and handler.headers.get("If-None-Match") == etag:
                handler.send_response(304)
                handler.end_headers()
                return
            handler.send_response(200)
            handler.send_header("Content-Type", kind)
            if "Content-Length" not in headers:
                handler.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(data)

        self.answers[path] = answer
        return self.url + path

    def redirect(self, path: str, target: str, status: int = 302) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Location", target)
            handler.end_headers()

        self.answers[path] = answer
        return self.url + path

    def status(self, path: str, status: int) -> str:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.end_headers()

        self.answers[path] = answer
        return self.url + path

    def drip(self, path: str, seconds: float) -> str:
        """Sends a byte of the body every so often, for ever."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", "image/png")
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
            for _ in range(200):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(seconds)

        self.answers[path] = answer
        return self.url + path


@contextmanager
def picture_server() -> Iterator[PictureServer]:
    """A server on a free port of 127.0.0.1, for as long as the block lasts."""
    site = PictureServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, dict(self.headers.items())))
            try:
                site.answers.get(self.path, lambda h: h.send_error(404))(self)
            except OSError:
                pass  # the asker hung up, as it should

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def png(width: int = 8, height: int = 8, colour: tuple[int, ...] = (200, 30, 60), **options: Any) -> bytes:
    """A PNG of one colour; four numbers make it RGBA, one makes it grey."""
    from PIL import Image

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[len(colour)]
    out = io.BytesIO()
    Image.new(mode, (width, height), colour if len(colour) > 1 else colour[0]).save(out, "PNG", **options)
    return out.getvalue()
