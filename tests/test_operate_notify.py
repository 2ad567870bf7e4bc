"""Whoever wants to know is told how a night ended, and told nothing else; that no one listens ends no run."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from assetmill.operate.notify import Notice, notice_of_crash, notice_of_report, refuse_address, slack_text, tell
from productions import Production, rows

CANARY = "hunter2-canary-9731"


class Webhook:
    """A listener on this machine; `codes` are its next answers, then 200."""

    def __init__(self) -> None:
        self.posts: list[Any] = []
        self.codes: list[int] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.posts.append(json.loads(body))
                code = owner.codes.pop(0) if owner.codes else 200
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{CANARY}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    found = Webhook()
    monkeypatch.setenv("ASSETMILL_NOTIFY_URL", found.url)
    yield found
    found.server.shutdown()
    found.server.server_close()


NOTICE = Notice("toys", "partial", "done, some items failed", "01RUN", "2026-11-27", counts={"images": 3})


def test_the_report_decides_what_is_told(tmp_path: Path, webhook: Webhook) -> None:
    """Success, a budget, nothing to do: texts with counts and what is left, no prompts."""
    toys = Production(tmp_path, rows(6), {"run": {"chunk": 4, "budget": {"images": 8}}})
    config = toys.job().config
    assert tell(notice_of_report(toys.run(), {"contact sheet": "/out/sheet.png"}), config)
    assert tell(notice_of_report(toys.run(limit=2), {}), config)
    first, second = (post["text"] for post in webhook.posts)
    assert first.startswith("⚠️ *toys*: budget reached")
    assert "8 images · 2 published · 4 assets left" in first
    assert "contact sheet: `/out/sheet.png`" in first
    assert second.startswith("✅ *toys*: nothing to do")
    assert "red1" not in first + second


def test_a_crash_is_told_without_secrets(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without report, without config even: what happened, but no value of a secret and never the address."""
    monkeypatch.setenv("STUDIO_TOKEN", "s3cr3t-value-77")
    error = RuntimeError(f"no device; token s3cr3t-value-77, hook {webhook.url}, password=abcdefgh1234")
    assert tell(notice_of_crash("toys", error, "2026-11-27"))
    text = webhook.posts[0]["text"]
    assert text.startswith("❌ *toys*, night of 2026-11-27: no report\nRuntimeError: no device")
    for secret in ("s3cr3t-value-77", CANARY, "abcdefgh1234"):
        assert secret not in text


def test_what_is_not_wanted_is_not_sent(tmp_path: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on` chooses the ends; without an address nobody is told; a file can hold it; `json` sends the counts."""
    toys = Production(tmp_path, settings={"notify": {"on": ["failure"], "format": "json"}})
    config = toys.job().config
    assert not tell(NOTICE, config)
    assert tell(notice_of_crash("toys", "its process died"), config)
    assert (webhook.posts[0]["ending"], webhook.posts[0]["reason"]) == ("failure", "its process died")
    monkeypatch.delenv("ASSETMILL_NOTIFY_URL")
    assert not tell(notice_of_crash("toys", "gone"), config)
    (tmp_path / "hook.txt").write_text(f"{webhook.url}\n")
    toys.change(notify={"url_file": "hook.txt"})
    assert tell(notice_of_crash("toys", "gone"), toys.job().config)
    assert len(webhook.posts) == 2


@pytest.mark.parametrize(
    ("codes", "arrives", "posts"), [([503, 429], True, 3), ([500, 500, 500], False, 3), ([404], False, 1),
                                    ([302], False, 1)]
)  # fmt: skip
def test_tries_are_bounded(
    webhook: Webhook, codes: list[int], arrives: bool, posts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A webhook that is busy gets three tries, one that refuses or points elsewhere one; the log keeps its address."""
    webhook.codes = codes
    pauses: list[float] = []
    with caplog.at_level(logging.INFO):
        assert tell(NOTICE, pause=pauses.append) is arrives
    assert (len(webhook.posts), len(pauses)) == (posts, posts - 1)
    assert CANARY not in caplog.text
    assert arrives or "nobody was told how toys ended" in caplog.text


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A closed port, a missing file, nonsense: said in the log, raised nowhere."""
    monkeypatch.setenv("ASSETMILL_NOTIFY_URL", f"http://127.0.0.1:9/{CANARY}")
    assert not tell(NOTICE, pause=lambda _: None)
    for nonsense in ("http://hooks.example.com/x", "ftp://localhost/x", "nonsense", "http://[::1", "https://"):
        monkeypatch.setenv("ASSETMILL_NOTIFY_URL", nonsense)
        assert not tell(NOTICE, pause=lambda _: None)
    monkeypatch.delenv("ASSETMILL_NOTIFY_URL")
    config = Production(tmp_path, settings={"notify": {"url_file": "missing.txt"}}).job().config
    assert not tell(NOTICE, config)
    assert CANARY not in caplog.text
    assert caplog.text.count("nobody was told") == 7


def test_addresses() -> None:
    """https anywhere, http on this machine alone."""
    for good in ("https://hooks.slack.com/services/T/B/x", "http://127.0.0.1:80/x", "http://localhost/x",
                 "http://[::1]:9/x"):  # fmt: skip
        assert refuse_address(good) == ""
    for bad in ("http://10.0.0.1/x", "http://localhost.example.com/x", "file:///etc/passwd", ""):
        assert refuse_address(bad)


def test_texts_make_no_links() -> None:
    """What an error or a name says is shown as it is, and never as a mention or a link."""
    text = slack_text(Notice("toys", "failure", "no report", reason="<!channel> & <https://x|y> `code`"))
    assert "&lt;!channel&gt; &amp; &lt;https://x|y&gt; 'code'" in text
