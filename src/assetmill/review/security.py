"""Who may speak with the page: hosts, origins, tokens and headers, checked before any route is asked.

The page listens on loopback and has no password there, so a browser is the way in for others: a page from elsewhere
that posts to it, a name that is made to point at 127.0.0.1 (DNS rebinding), a frame around it. Against these stand the
Host header, which must name this server; Origin and Sec-Fetch-Site, which browsers send and scripts cannot forge; a
token in every post that only our own page can read; and a policy under which no foreign code runs. Another host than
loopback needs a token besides.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assetmill.records import InputError, Problem

CSRF_HEADER = "x-csrf-token"
MIN_TOKEN = 16
"""Fewest characters of a token: it is all that stands between the network and the page."""

_SAFE_METHODS = ("GET", "HEAD")
_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "manifest-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: under that, browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
"""Headers of every answer."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where the page listens, and what opens it. `token` is empty on loopback, unless one was asked for."""

    host: str
    port: int
    token: str = ""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @property
    def cookie(self) -> str:
        """Cookies are shared by all ports of a host: the port in the name keeps two pages apart."""
        return f"assetmill_{self.port}"

    def csrf_token(self, session: str) -> str:
        """What posts of this session must carry; worth nothing in another session or after a restart."""
        return hmac.new(self.secret, f"csrf {session}".encode(), hashlib.sha256).hexdigest()

    def blind_seed(self, session: str) -> str:
        """The seed that this session's blind mode shuffles by; not the session itself, which is secret."""
        return hmac.new(self.secret, f"blind {session}".encode(), hashlib.sha256).hexdigest()[:16]

    def pass_of(self, session: str) -> str:
        """Proof, in a cookie, that this session has shown the token."""
        return hmac.new(self.secret, f"pass {session} {self.token}".encode(), hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """Compared in constant time."""
        return bool(self.token) and hmac.compare_digest(text.encode(), self.token.encode())


def open_door(host: str = "127.0.0.1", port: int = 0, token: str = "") -> Door:
    """Checks where the page would listen. Raises InputError for another host than loopback without a good token."""
    if token and len(token) < MIN_TOKEN:
        raise InputError(Problem(f"the token has {len(token)} characters", f"give at least {MIN_TOKEN} hard to guess"))
    if token and not token.isascii():
        raise InputError(Problem("the token has characters beyond ASCII", "use letters, digits and punctuation"))
    if not token and not is_loopback(host):
        way_out = "give --token, or set ASSETMILL_REVIEW_TOKEN; or leave --host out and use an SSH tunnel"
        raise InputError(Problem(f"--host {host}: whoever reaches this machine could decide", way_out))
    return Door(host, port, token)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(header: str, door: Door) -> bool:
    """Whether a Host header names this server.

    On loopback: the addresses of loopback and `localhost`, with our port. Elsewhere: any literal address, which no name
    can be made to point at, the machine's own names and the one it was told to listen on.
    """
    found = _HOST.fullmatch(header)
    if not found or int(found["port"] or 80) != door.port:
        return False
    name = found["name"].strip("[]").casefold()
    if is_loopback(name):
        return True
    if is_loopback(door.host):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {door.host.casefold(), socket.gethostname().casefold(), socket.getfqdn().casefold()}
    return True


def read_cookies(headers: Headers) -> dict[str, str]:
    """The cookies of a request; none where they are malformed."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def write_name(name: str) -> str:
    """A person's name as a cookie can hold it."""
    return quote(name, safe="")


def read_name(text: str) -> str:
    """A person's name as `write_name` wrote it, made fit to be shown and kept."""
    return clean_name(unquote(text))


def clean_name(text: str) -> str:
    """A name on one line: printable, no outer spaces, at most 80 characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:80].strip()


class Guard:
    """The first thing every request meets. `scope["state"]` gets `session`, and answers get their headers."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets here: the connection is closed
        headers = Headers(scope=scope)
        cookies = read_cookies(headers)
        session = cookies.get(self.door.cookie, "")
        new = not _SESSION.fullmatch(session)
        if new:
            session = secrets.token_urlsafe(32)
        scope.setdefault("state", {})
        scope["state"]["session"] = session
        answer = self._refuse(scope, headers, "" if new else session) or self._admit(scope, cookies, session, new)

        async def decorate(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out[name] = value
                out.setdefault("cache-control", "no-store")
                # Only a page starts a session: pictures that load side by side would each start their own.
                if new and scope["path"] == "/" and message["status"] < 400:
                    out.append("set-cookie", f"{self.door.cookie}={session}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await (answer or self.app)(scope, receive, decorate)

    def _refuse(self, scope: Scope, headers: Headers, session: str) -> Response | None:
        """Why a request is not even looked at."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not check_host(hosts[0], self.door):
            return _error(421, "this server does not go by that name")
        method, site = scope["method"], headers.get("sec-fetch-site", "")
        if method in _SAFE_METHODS:
            followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if site in ("cross-site", "same-site") and not (followed and scope["path"] == "/"):
                return _error(403, "the page's parts are not for other sites")
            return None
        if site not in ("", "same-origin") or headers.get("origin") != f"http://{hosts[0]}":
            return _error(403, "posts are taken from the page itself only")
        sent = headers.get(CSRF_HEADER, "")
        if scope["path"] != "/enter" and not (
            session and hmac.compare_digest(sent.encode(), self.door.csrf_token(session).encode())
        ):
            return _error(403, "this page is out of date: reload it", reload=True)
        return None

    def _admit(self, scope: Scope, cookies: dict[str, str], session: str, new: bool) -> Response | None:
        """The way past the token, where there is one."""
        door, path = self.door, scope["path"]
        if not door.token or path.startswith("/static/") or path == "/enter":
            return None
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if path == "/" and door.is_token(shown):
            # A clean address: the token must not stay in the history of the browser.
            answer: Response = RedirectResponse("/", 303)
            give_pass(answer, door, session)
            return answer
        proof = cookies.get(f"{door.cookie}_pass", "")
        if not new and hmac.compare_digest(proof.encode(), door.pass_of(session).encode()):
            return None
        return RedirectResponse("/enter", 303) if path == "/" else _error(401, "enter the token first", reload=True)


def give_pass(answer: Response, door: Door, session: str) -> None:
    """Lets this session in from now on."""
    for name, value in ((door.cookie, session), (f"{door.cookie}_pass", door.pass_of(session))):
        answer.headers.append("set-cookie", f"{name}={value}; Path=/; HttpOnly; SameSite=Strict")


def _error(status: int, message: str, **more: Any) -> Response:
    if more:
        return JSONResponse({"error": message, **more}, status)
    return PlainTextResponse(message + "\n", status)
