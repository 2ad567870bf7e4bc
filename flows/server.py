"""A real Prefect server on this machine, for runs and nights that are not given one.

Prefect's own ephemeral server never fires a schedule and can stop while a flow still reports to it; so ours is a
process of its own, started before it is needed and stopped when everything has been said.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import TracebackType

START_SECONDS = 300.0
"""How long a server may take to answer: 12 to 17 s on two idle cores, minutes on busy ones."""

_FLUSH_SECONDS = 3.0
"""Time left to the server after the last task, so that events under way arrive."""


_DIE_WITH_PARENT = (
    "import ctypes, runpy, signal, sys;"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM) if sys.platform == 'linux' else None;"
    "sys.argv[0] = 'prefect';"
    "runpy.run_module('prefect', run_name='__main__', alter_sys=True)"
)
"""Prefect's command line, ended by the kernel when we end: a killed run leaves no server (PR_SET_PDEATHSIG)."""


class ServerError(RuntimeError):
    """The Prefect server did not start, or does not answer."""


class LocalServer:
    """A Prefect server as a child process; `url` is its API. Use as a context manager."""

    def __init__(self, port: int | None = None, *, services: bool = False) -> None:
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._services = services
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalServer:
        command = [
            sys.executable,
            "-c",
            _DIE_WITH_PARENT,
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        if not self._services:
            command.append("--no-services")
        environment = {
            **os.environ,
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        }
        environment.pop("PREFECT_API_URL", None)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if kind is None:
            time.sleep(_FLUSH_SECONDS)
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self, seconds: float = START_SECONDS) -> str:
        """Waits until the server answers and gives its URL. Raises ServerError."""
        assert self._process is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise ServerError(
                    f"the Prefect server on port {self.port} ended with code {self._process.returncode}: "
                    "run `prefect server start` by hand to see why (a newer fastapi breaks it)"
                )
            if answers(self.url):
                return self.url
            time.sleep(0.3)
        raise ServerError(f"the Prefect server on port {self.port} did not answer within {seconds:.0f} s")


def answers(url: str, timeout: float = 5.0) -> bool:
    """Whether a Prefect API answers at this URL."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=timeout) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
