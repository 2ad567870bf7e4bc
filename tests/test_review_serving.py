"""`assetmill review` starts a page on loopback, says where, refuses what is not safe, and ends when told to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from assetmill.records import InputError
from assetmill.review.security import open_door
from assetmill.review.serving import PORT, listen, page_url
from productions import NAME, Production, rows
from review_pages import desk_over, served

TOKEN = "a-token-of-enough-letters"


def test_a_port_that_is_taken_is_not_shared() -> None:
    """Asked for, it is an error with the way out; not asked for, a free one is taken."""
    with listen("127.0.0.1", None) as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match="another --port"):
            listen("127.0.0.1", port)
        with listen("127.0.0.1", None) as second:
            assert second.getsockname()[1] not in (port, PORT)


def test_the_address_is_one_that_a_browser_can_open() -> None:
    """Every address of this machine is reached by loopback; the token comes along, escaped."""
    assert page_url(open_door(port=8765)) == "http://127.0.0.1:8765/"
    assert page_url(open_door("::1", 8765)) == "http://[::1]:8765/"
    assert page_url(open_door("0.0.0.0", 8765, "token/with&signs=1")) == (
        "http://127.0.0.1:8765/?token=token%2Fwith%26signs%3D1"
    )
    assert page_url(open_door("studio.local", 80, TOKEN)) == f"http://studio.local:80/?token={TOKEN}"


def test_answers_do_not_wait_for_acknowledgements(tmp_path: Path) -> None:
    """Small answers leave at once: with Nagle's algorithm on, each takes 40 ms, 200 thumbnails over a second."""
    production = Production(tmp_path, rows(1))
    production.run()
    with served(desk_over(production)) as url:
        connection = http.client.HTTPConnection(url[7:-1])
        took = []
        for _ in range(12):
            began = time.perf_counter()
            connection.request("GET", "/static/icon.svg")
            connection.getresponse().read()
            took.append(time.perf_counter() - began)
        connection.close()
    assert min(took) < 0.03


def command(config: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "assetmill", "review", str(config), "--no-browser", "--json", *options]


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    """It prints its address once the page answers, and Ctrl+C ends it without a trace."""
    production = Production(tmp_path, rows(1))
    production.run()
    process = subprocess.Popen(
        command(production.path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    text = ""
    try:
        while not text.endswith("}\n"):
            text += process.stdout.readline() or pytest.fail(process.communicate()[1])
        url = json.loads(text)["url"]
        with urllib.request.urlopen(url) as answer:
            assert NAME in answer.read().decode()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Traceback" not in errors
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_the_command_refuses_to_be_open(tmp_path: Path) -> None:
    """Another host without a token is bad input, before the store is read."""
    production = Production(tmp_path, rows(1))
    done = subprocess.run(command(production.path, "--host", "0.0.0.0"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "ASSETMILL_REVIEW_TOKEN" in done.stdout
