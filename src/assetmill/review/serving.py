"""Starting the review page: a free port, the server, and the browser once it answers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from assetmill.config import Config
from assetmill.records import InputError, Problem
from assetmill.review.security import Door, is_loopback, open_door
from assetmill.storage.reviews import Draft
from assetmill.storage.store import Store

PORT = 8765
"""The port that is tried first when none is asked for: an address that can be kept."""


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket; without a port PORT, or any free one where that is taken. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (PORT, 0) if port is None else (port,):
        # The protocol must be named: asyncio turns Nagle's algorithm off only where it is, and each answer would wait
        # 40 ms for the acknowledgement of its header.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host.strip("[]"), candidate))
            sock.listen(128)
            return sock
        except (OSError, OverflowError) as error:
            sock.close()
            problem = error
    where = f"--host {host} --port {port or PORT}"
    raise InputError(Problem(f"{where}: cannot listen there ({problem})", "choose another --port, or leave it out"))


def page_url(door: Door) -> str:
    """Where the page is, for a browser on this machine; holds the token where there is one."""
    name = door.host if is_loopback(door.host) or door.host not in ("0.0.0.0", "::") else "127.0.0.1"
    host = f"[{name.strip('[]')}]" if ":" in name else name
    return f"http://{host}:{door.port}/" + (f"?token={quote(door.token, safe='')}" if door.token else "")


def serve(
    store: Store,
    config: Config,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str = "",
    check_wish: Callable[[Draft], None] | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves the page until it is interrupted. `on_ready` is told its address once it answers; `check_wish` as in Desk.

    Raises InputError for a host that needs a token and has none, or a port that is taken.
    """
    import uvicorn

    from assetmill.review.desk import Desk
    from assetmill.review.server import make_app

    open_door(host, token=token)  # refuses before the store is read
    with listen(host, port) as sock:
        door = open_door(host, sock.getsockname()[1], token)
        app = make_app(Desk(store, config, check_wish=check_wish), door)
        server = uvicorn.Server(uvicorn.Config(app, **server_options()))
        server_started(server, lambda: on_ready(page_url(door)))
        server.run([sock])


def server_options() -> Mapping[str, Any]:
    """How uvicorn serves the page: quiet, without its name, trusting no proxy's headers, no websockets."""
    return {
        "log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False, "ws": "none",
        "lifespan": "on", "timeout_keep_alive": 75, "timeout_graceful_shutdown": 3, "log_config": None,
    }  # fmt: skip


def server_started(server: Any, tell: Callable[[], None]) -> None:
    """Calls `tell` in a thread of its own when the server has started."""
    import threading
    import time

    def wait() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.02)
        if server.started:
            tell()

    threading.Thread(target=wait, name="ready", daemon=True).start()
