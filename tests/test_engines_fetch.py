"""A URL of a sheet reaches public hosts only, and what comes from there is read within limits."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from assetmill.engines.fetch import Fetched, FetchError, Guard, check_host, check_url, fetch, is_public
from picture_server import PictureServer, picture_server, png

LOOPBACK = Guard(networks=(ipaddress.ip_network("127.0.0.0/8"),), timeout=5.0)


@pytest.fixture
def site() -> Iterator[PictureServer]:
    with picture_server() as server:
        yield server


def names(monkeypatch: pytest.MonkeyPatch, **hosts: list[str]) -> list[str]:
    """Makes names resolve to given addresses, one list per lookup, the last one again and again; gives the lookups."""
    real, asked = socket.getaddrinfo, []
    answers = {host.replace("_", "."): list(addresses) for host, addresses in hosts.items()}

    def look_up(host: str, port: Any, *args: Any, **options: Any) -> Any:
        asked.append(host)
        if host not in answers:
            return real(host, port, *args, **options)
        given = answers[host]
        address = given.pop(0) if len(given) > 1 else given[0]
        return [i for a in address.split() for i in real(a, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses(address: str) -> None:
    """Ordinary addresses of the Internet may be asked."""
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1",
        "192.0.2.1", "192.88.99.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::",
        "2002:808:808::1", "2001::1", "2001:db8::1", "3fff::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%1", "fec0::1",
        "ff02::1", "100::1", "5f00::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1",
    ],
)  # fmt: skip
def test_other_addresses(address: str) -> None:
    """Private, link-local, shared, multicast, NAT64, 6to4, Teredo, mapped and unassigned addresses are not public."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://2130706433/a.png", "written as a number"),
        ("http://0x7f000001/a.png", "written as a number"),
        ("http://127.1/a.png", "written as a number"),
        ("http://0x7f.0.0.1/", "written as a number"),
        ("http://017700000001/", "written as a number"),
        ("ftp://example.com/a.png", "not http or https"),
        ("file:///etc/passwd", "not http or https"),
        ("http:///a.png", "not http or https"),
        ("http://user:word@example.com/a.png", "holds a user name"),
        ("http://example.com\\@127.0.0.1/a.png", "backslash"),
        ("http://example.com/a b.png", "space"),
        ("http://example.com/\r\nX: y", "control character"),
        ("http://example.com:99999/", "cannot be read"),
        ("http://[::1/", "cannot be read"),
    ],
)
def test_forms_of_urls_are_refused(url: str, message: str) -> None:
    """What is no plain http or https URL is refused before any name is looked up."""
    with pytest.raises(FetchError, match=message) as caught:
        check_url(url, Guard())
    assert caught.value.way_out


def test_hosts_can_be_named() -> None:
    """With `hosts` others are refused; a star holds for what lies below it."""
    guard = Guard(hosts=("cdn.example.com", "*.shop.example"))
    for url in ("https://cdn.example.com/a", "https://CDN.example.com./a", "http://img.eu.shop.example/a"):
        check_url(url, guard)
    for url in ("https://example.com/a", "https://shop.example/a", "https://cdn.example.com.evil.example/a"):
        with pytest.raises(FetchError, match="not among references.hosts"):
            check_url(url, guard)


def test_loopback_is_refused(site: PictureServer) -> None:
    """By default nothing on this machine is asked: the server never hears of it."""
    url = site.serve("/a.png", png())
    for address in (url, url.replace("127.0.0.1", "localhost"), url.replace("127.0.0.1", "[::ffff:7f00:1]")):
        with pytest.raises(FetchError, match="not a public address"):
            fetch(address, Guard())
    assert not site.asked


def test_every_address_of_a_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a private address is refused."""
    names(monkeypatch, mixed_example=["8.8.8.8 10.0.0.1"])
    with pytest.raises(FetchError, match=r"mixed.example is at 10.0.0.1, which is not a public address"):
        check_host(check_url("http://mixed.example/a.png", Guard()), Guard())
    names(monkeypatch, public_example=["8.8.8.8"])
    with pytest.raises(FetchError, match="asked at port 6379"):
        check_host(check_url("http://public.example:6379/", Guard()), Guard())


def test_a_second_answer_of_the_name_server_changes_nothing(
    site: PictureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was checked: a name is looked up once."""
    url = site.serve("/a.png", png()).replace("127.0.0.1", "rebound.example")
    asked = names(monkeypatch, rebound_example=["127.0.0.1", "127.9.9.9"])
    assert fetch(url, LOOPBACK).data == png()
    assert asked.count("rebound.example") == 1
    assert site.asked[0][1]["Host"].startswith("rebound.example:")


def test_redirects_are_checked(site: PictureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect to a private address, another scheme or in a circle is refused; an honest one is followed."""
    data = png()
    site.serve("/a.png", data)
    assert fetch(site.redirect("/moved", "/a.png", 301), LOOPBACK).data == data
    asked = len(site.asked)
    for number, target in enumerate(
        ("http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/a.png", "http://[::1]/a.png", "http://127.1/")
    ):
        with pytest.raises(FetchError, match="not a public address|written as a number"):
            fetch(site.redirect(f"/{number}", target), LOOPBACK)
    with pytest.raises(FetchError, match="not http or https"):
        fetch(site.redirect("/file", "file:///etc/passwd"), LOOPBACK)
    with pytest.raises(FetchError, match="redirects more than 5 times"):
        fetch(site.redirect("/round", "/round"), LOOPBACK)
    assert len(site.asked) == asked + 5 + 6
    names(monkeypatch, rebound_example=["127.0.0.1", "10.9.9.9"])
    again = site.redirect("/again", site.url.replace("127.0.0.1", "rebound.example") + "/a.png")
    with pytest.raises(FetchError, match=r"rebound.example is at 10.9.9.9"):
        fetch(again.replace("127.0.0.1", "rebound.example"), LOOPBACK)


def test_size_type_and_packing_are_limited(site: PictureServer) -> None:
    """Too many bytes (told or not), a page, a packed body and an error status are refused."""
    guard = Guard(networks=LOOPBACK.networks, max_bytes=1000, timeout=5.0)
    large = b"x" * 5000
    for url, message in (
        (site.serve("/told", large), "larger than 1,000 bytes"),
        (site.serve("/untold", large, Content_Length_="no", **{"Content-Length": "none"}), "larger than 1,000 bytes"),
        (site.serve("/page", b"<html>", "text/html; charset=utf-8"), "gives text/html, not an image"),
        (site.serve("/svg", b"<svg/>", "image/svg+xml"), "not an image"),
        (site.serve("/packed", b"x", Content_Encoding="gzip"), "packed, unasked"),
        (site.url + "/nothing", "answers 404"),
        (site.status("/broken", 503), "answers 503"),
        (site.serve("/short", b"x" * 10, **{"Content-Length": "900"}), "sent 10 bytes of 900"),
    ):
        with pytest.raises(FetchError, match=message) as caught:
            fetch(url, guard)
        assert caught.value.way_out
    assert fetch(site.serve("/fits", b"x" * 1000), guard).data == b"x" * 1000


def test_a_slow_body_is_cut_off(site: PictureServer) -> None:
    """A server that sends a byte now and then has as long as `timeout`, no longer."""
    start = time.monotonic()
    with pytest.raises(FetchError, match=r"took longer than 0.6 s") as caught:
        fetch(site.drip("/slow", 0.1), Guard(networks=LOOPBACK.networks, timeout=0.6))
    assert caught.value.gone
    assert time.monotonic() - start < 4


def test_unchanged_files_are_not_sent_again(site: PictureServer) -> None:
    """With the validators of an earlier answer the server may say that nothing changed."""
    url = site.serve("/a.png", png(), ETag='"v1"')
    first = fetch(url, LOOPBACK)
    assert (first.data, first.etag) == (png(), '"v1"')
    assert fetch(url, LOOPBACK, etag=first.etag) == Fetched(None, '"v1"', "")
    assert "If-None-Match" in site.asked[-1][1]


def test_no_secret_of_a_url_is_told(site: PictureServer) -> None:
    """Messages name the host, never the query."""
    with pytest.raises(FetchError) as caught:
        fetch(site.url + "/nothing?token=canary", LOOPBACK)
    assert "canary" not in str(caught.value) + caught.value.way_out


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and a name without address are said as such, and as passing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match="could not be asked") as caught:
        fetch(f"http://127.0.0.1:{port}/a.png", LOOPBACK)
    assert caught.value.gone
    with pytest.raises(FetchError, match="has no address") as caught:
        fetch("http://no-such-host.invalid/a.png", LOOPBACK)
    assert caught.value.gone
