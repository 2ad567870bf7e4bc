"""Fetching a file from a URL that someone wrote into a sheet, without becoming their way into this network.

Only public addresses are asked: the name is resolved once, every address it has is checked, and the connection goes to
a checked address itself, so that a second answer of the name server changes nothing. Each redirect is checked in the
same way. No proxy is used (it would resolve names itself), nothing is sent but the request, and an answer is read
within limits of size and time.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from assetmill import __version__

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_REDIRECTS = 5
PORTS = (80, 443)
"""Ports asked at public addresses: a URL is no way to scan others. Networks a guard allows may use any."""

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/avif", "application/octet-stream", "binary/octet-stream")
"""What a server may call an image; some stores give all files the general names at the end."""

_PIECE = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_PUBLIC_V6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48"))
)
"""Inside 2000::/3 (the only public space, RFC 4291): Teredo and other special uses, documentation, 6to4, AS112."""
_RELAY_V4 = ipaddress.IPv4Network("192.88.99.0/24")
"""Anycast of 6to4 relays (RFC 7526)."""


class FetchError(RuntimeError):
    """A URL cannot be fetched, or may not be. `gone`: only now (the server or the network does not answer)."""

    def __init__(self, message: str, way_out: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.way_out = way_out
        self.gone = gone


@dataclass(frozen=True, slots=True)
class Guard:
    """What may be fetched. `hosts`: the only ones, where any are given (`*.example.com` for those below).

    `networks` are addresses that may be asked although they are not public. `timeout` in seconds, for all of a fetch.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    max_bytes: int = 32 * 2**20
    timeout: float = 30.0
    media_types: tuple[str, ...] = IMAGE_TYPES


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server gave. `data` is None where it says that nothing changed; `etag` and `modified` ask so next time."""

    data: bytes | None
    etag: str = ""
    modified: str = ""


def fetch(url: str, guard: Guard, *, etag: str = "", modified: str = "") -> Fetched:
    """The bytes at an http or https URL, or that they are still those of `etag` and `modified`.

    Raises FetchError for everything refused (see the module's text) or failed. Messages name the host, never the whole
    URL, whose query may hold a secret.
    """
    deadline = time.monotonic() + guard.timeout
    known = {name: text for name, text in (("If-None-Match", etag), ("If-Modified-Since", modified)) if text}
    for _ in range(MAX_REDIRECTS + 1):
        target = check_url(url, guard)
        addresses = check_host(target, guard)
        with _asked(target, addresses, deadline, guard, known) as answer:
            if answer.status in _REDIRECTS:
                url = _next_url(target, answer.getheader("Location", ""))
                continue
            if answer.status == 304 and known:
                return Fetched(None, etag, modified)
            data = _read(target, answer, deadline, guard)
            return Fetched(data, _kept(answer.getheader("ETag", "")), _kept(answer.getheader("Last-Modified", "")))
    raise FetchError(f"{_host(url)} redirects more than {MAX_REDIRECTS} times", "give the address of the file itself")


def check_url(url: str, guard: Guard) -> SplitResult:
    """The parts of a URL whose form is allowed: http or https, a host that is a name or a plain address."""
    way_out = "give an http or https URL as https://host/path.png"
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise FetchError("the URL holds a space, a control character or a backslash", "write them as %20 and so on")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        name = host.encode("idna").decode("ascii") if not host.isascii() else host
    except (ValueError, UnicodeError) as error:
        raise FetchError(f"the URL cannot be read ({error})", way_out) from error
    if parts.scheme not in ("http", "https") or not name:
        raise FetchError(f"the URL is not http or https ({parts.scheme or 'no scheme'})", way_out)
    if parts.username is not None or parts.password is not None:
        raise FetchError("the URL holds a user name", "give a URL that needs no login, or download the file")
    if re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)\.?", name.rpartition(".")[2] or name, re.IGNORECASE) and not _is_ipv4(name):
        # browsers and libc read 2130706433, 0x7f.1 and 127.1 as addresses
        raise FetchError(f"{name} is an address written as a number", "write the host's name")
    if guard.hosts and not any(_matches(name, pattern) for pattern in guard.hosts):
        raise FetchError(f"{name} is not among references.hosts", "add the host there, if its pictures are wanted")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    shown = f"[{name}]" if ":" in name else name
    return parts._replace(netloc=shown + (f":{port}" if port else ""), path=path, query=query, fragment="")


def check_host(target: SplitResult, guard: Guard) -> list[Address]:
    """The addresses of a URL's host, all of them public or in the guard's networks; asked of the resolver once."""
    host, port = target.hostname or "", _port(target)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"{host} has no address ({error})", "check the host's name", gone=True) from error
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(info[4][0])) for info in found))
    for address in addresses:
        allowed = any(address in network for network in guard.networks if network.version == address.version)
        if not allowed and not is_public(address):
            raise FetchError(
                f"{host} is at {address}, which is not a public address",
                "use a public host; a network of your own can be allowed by references.networks",
            )
        if not allowed and port not in PORTS:
            raise FetchError(f"{host} is asked at port {port}", "use the usual ports, 80 and 443")
    return addresses


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public Internet, however it is written.

    Stricter than `is_global`, which lets multicast, NAT64, 6to4 and the rest of the unassigned IPv6 space pass.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved or address in _RELAY_V4)
    if address.scope_id or address.ipv4_mapped is not None or address not in ipaddress.IPv6Network("2000::/3"):
        return False
    isatap = int(address) >> 32 & 0xFDFFFFFF == 0x5EFE  # an IPv4 address in the last 32 bits (RFC 5214)
    return address.is_global and not isatap and not any(address in network for network in _NOT_PUBLIC_V6)


# --- inside -------------------------------------------------------------------------------------------------


class _Pinned(http.client.HTTPConnection):
    """A connection to a given address, whatever the host's name resolves to by now; `tls` None for plain http."""

    def __init__(self, host: str, port: int, address: Address, timeout: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=timeout)
        self.default_port = 443 if tls else 80  # decides whether the Host header names the port
        self.address = address
        self.tls = tls
        self.raw: socket.socket | None = None

    def connect(self) -> None:
        self.raw = self.sock = socket.create_connection((str(self.address), self.port), self.timeout)
        if self.tls is not None:
            self.sock = self.tls.wrap_socket(self.raw, server_hostname=self.host)


@contextmanager
def _asked(
    target: SplitResult, addresses: list[Address], deadline: float, guard: Guard, headers: Mapping[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """The answer of the first of a host's addresses that takes the connection; cut off at the deadline."""
    host = target.hostname or ""
    tls = ssl.create_default_context() if target.scheme == "https" else None
    sent = {"Accept": ", ".join(guard.media_types), "Accept-Encoding": "identity", "Connection": "close"}
    connection, watch = None, None
    try:
        for number, address in enumerate(addresses):
            left = max(deadline - time.monotonic(), 0.01)
            connection = _Pinned(host, _port(target), address, left, tls)
            # A server that sends a byte now and then never runs into a socket's time-out.
            watch = threading.Timer(left, _cut, [connection])
            watch.daemon = True
            watch.start()
            try:
                connection.connect()
                break
            except OSError:
                connection.close()
                watch.cancel()
                if number + 1 == len(addresses) or time.monotonic() >= deadline:
                    raise
        assert connection is not None
        path = target.path + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers={**sent, "User-Agent": f"assetmill/{__version__}", **headers})
        answer = connection.getresponse()
        try:
            yield answer
        finally:
            answer.close()  # it outlives its connection
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise _too_slow(host, guard) from error
        reason = str(error) or type(error).__name__
        raise FetchError(f"{host} could not be asked ({reason})", "try again later, or check it", gone=True) from error
    finally:
        if watch is not None:
            watch.cancel()
        if connection is not None:
            connection.close()


def _cut(connection: _Pinned) -> None:
    if connection.raw is not None:
        try:
            connection.raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already


def _read(target: SplitResult, answer: http.client.HTTPResponse, deadline: float, guard: Guard) -> bytes:
    host = target.hostname or ""
    if answer.status != 200:
        raise FetchError(
            f"{host} answers {answer.status} {answer.reason}",
            "check the URL" if 400 <= answer.status < 500 else "try again later",
            gone=answer.status >= 500 or answer.status in (404, 410, 429),
        )
    kind = (answer.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind and kind not in guard.media_types:
        raise FetchError(f"{host} gives {kind[:60]}, not an image", "give the URL of a PNG, JPEG, WebP or AVIF file")
    if (answer.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise FetchError(f"{host} sends the file packed, unasked", "give the URL of the file itself")
    told = answer.getheader("Content-Length") or ""
    if told.isdigit() and int(told) > guard.max_bytes:
        raise _too_large(host, guard)
    pieces, size = [], 0
    while piece := answer.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > guard.max_bytes:
            raise _too_large(host, guard)
        if time.monotonic() >= deadline:
            raise _too_slow(host, guard)
    if told.isdigit() and size != int(told):
        if time.monotonic() >= deadline:
            raise _too_slow(host, guard)
        raise FetchError(f"{host} sent {size} bytes of {told}", "try again later", gone=True)
    if time.monotonic() >= deadline:  # the end may be the watch's cut, not the server's
        raise _too_slow(host, guard)
    return b"".join(pieces)


def _too_slow(host: str, guard: Guard) -> FetchError:
    return FetchError(
        f"{host} took longer than {guard.timeout:g} s", "try again later, or raise references.timeout", gone=True
    )


def _too_large(host: str, guard: Guard) -> FetchError:
    return FetchError(
        f"the file at {host} is larger than {guard.max_bytes:,} bytes", "make it smaller, or raise references.max_bytes"
    )


def _next_url(target: SplitResult, location: str) -> str:
    url = urljoin(target.geturl(), location.strip())
    if not location:
        raise FetchError(f"{target.hostname} redirects to nowhere", "give the address of the file itself")
    if target.scheme == "https" and not url.startswith("https://"):
        raise FetchError(f"{target.hostname} redirects from https to {url.partition(':')[0]}", "give an https URL")
    return url


def _port(target: SplitResult) -> int:
    return target.port or (443 if target.scheme == "https" else 80)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the server"


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.lower().rstrip("."), pattern.lower().rstrip(".")
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _kept(text: str) -> str:
    """A validator as it can be sent back: short, printable ASCII, else none."""
    return text if len(text) <= 256 and text.isascii() and text.isprintable() else ""
