"""Review pages over small productions: a desk, a client that speaks as a browser does, and a server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from assetmill.config import read_config
from assetmill.review.desk import Desk
from assetmill.review.security import CSRF_HEADER, Door, open_door
from assetmill.review.server import make_app
from assetmill.review.serving import listen, server_options
from productions import Production

HOST = "127.0.0.1:8765"
ORIGIN = f"http://{HOST}"


def desk_over(production: Production) -> Desk:
    return Desk(production.store, read_config(production.path))


class Browser:
    """A client with what a browser sends: cookies, Host, Origin and Sec-Fetch headers, and the page's token."""

    def __init__(self, desk: Desk, door: Door | None = None, *, name: str = "Mia") -> None:
        self.desk = desk
        self.door = door or open_door(port=8765)
        self.app = make_app(desk, self.door)
        self.cookies: dict[str, str] = {}
        self.csrf = ""
        if name:
            self.enter(name)

    def enter(self, name: str) -> None:
        page = self.get("/")
        self.csrf = page.text.partition('name="csrf" content="')[2].partition('"')[0]
        assert self.post("/api/name", {"name": name}).status_code == 200

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.send("GET", path, headers={"sec-fetch-site": "same-origin", **headers})

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.send("POST", path, json=body, headers={**self.trusted(), **headers})

    def trusted(self) -> dict[str, str]:
        """The headers of a post that the page itself makes."""
        return {"origin": ORIGIN, "sec-fetch-site": "same-origin", CSRF_HEADER: self.csrf}

    def send(self, method: str, path: str, *, headers: dict[str, str] | None = None, **rest: Any) -> httpx.Response:
        import anyio

        wanted = {"host": HOST, **(headers or {})}
        sent = {k: v for k, v in wanted.items() if v is not None}
        if self.cookies and "cookie" not in sent:
            sent["cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(method, path, headers={k: v.encode() for k, v in sent.items()}, **rest)

        answer = anyio.run(go)
        for line in answer.headers.get_list("set-cookie"):
            cookie, _, value = line.partition(";")[0].partition("=")
            self.cookies[cookie] = value
        return answer

    # --- what a person does ---

    def cards(self, **query: str) -> list[dict[str, Any]]:
        found = self.send("GET", "/api/assets", params=query).json()
        return found["cards"]

    def decide(self, card: dict[str, Any], kind: str, **values: Any) -> httpx.Response:
        return self.post(f"/api/assets/{card['key']}/decide", {"kind": kind, "seen": card["number"], **values})


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The page on a real server, at its address."""
    with listen("127.0.0.1", None) as sock:
        door = open_door(port=sock.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(make_app(desk, door), **server_options()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{door.port}/"
        finally:
            server.should_exit = True
            thread.join(10)
