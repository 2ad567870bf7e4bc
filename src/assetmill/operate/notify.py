"""Tells a webhook how a night ended: in full, in part, or not at all. It never decides how a run ends.

The address is a secret: it comes from the environment or a file, goes into no log, and is never part of a message.
Messages hold counts, names and places, no prompts and no rows; texts of errors go through the same redaction as logs.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from assetmill.config import Config
from assetmill.config.operation import NotifyConfig
from assetmill.operate.lock import AlreadyRunning
from assetmill.operate.logs import Redactor
from assetmill.operate.nights import NightDone
from assetmill.operate.summary import places_of
from assetmill.storage.store import Store

log = logging.getLogger(__name__)

Ending = Literal["success", "partial", "failure"]

TRIES = 3
TIMEOUT = 10.0
"""Seconds for each try."""

_PAUSES = (1.0, 4.0)
_MAX_TEXT = 2000
_SIGNS: Mapping[Ending, str] = {"success": "✅", "partial": "⚠️", "failure": "❌"}


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told of a run."""

    config: str
    ending: Ending
    status: str
    run: str = ""
    night: str = ""
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def notice_of_report(report: Mapping[str, Any], places: Mapping[str, str]) -> Notice:
    """How a run ended that has a report: `success` with exit code 0, else `partial`."""
    counts = {
        "images": report["pictures"],
        "published": report["published"],
        "troubled": len(report["troubled"]),
        "bad rows": len(report["bad_rows"]),
        "assets left": report["left"],
        "images left": report["images_left"],
    }
    return Notice(
        config=report["config"],
        ending="success" if report["exit_code"] == 0 else "partial",
        status=report["status"],
        run=report["run"],
        night=report.get("night", ""),
        reason=report["reason"],
        counts={name: count for name, count in counts.items() if count},
        places=dict(places),
    )


def notice_of_crash(config_name: str, error: BaseException | str, night: str = "") -> Notice:
    """How a run ended that has none: by an error, or by the death of its process."""
    what = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return Notice(config_name, "failure", "no report", night=night, reason=what)


@dataclass
class Ended:
    """What is known so far of a run whose end will be told; filled in by who makes it."""

    path: Path
    config: Config | None = None
    night: str = ""
    store: Store | None = None
    report: Mapping[str, Any] | None = None


@contextmanager
def told(path: Path) -> Iterator[Ended]:
    """Tells how the block ended that makes a run of the config at `path`: by its report, or by what left none.

    A run that was not started, because another one works or its night is done, is nobody's news.
    """
    ended = Ended(path)
    try:
        yield ended
    except (AlreadyRunning, NightDone):
        raise
    except Exception as error:
        name = ended.config.name if ended.config is not None else path.stem
        tell(notice_of_crash(name, error, ended.night), ended.config)
        raise
    if ended.report is not None and ended.config is not None and ended.store is not None:
        tell(notice_of_report(ended.report, places_of(ended.store, ended.config, ended.report)), ended.config)


def tell(notice: Notice, config: Config | None = None, *, pause: Callable[[float], None] = time.sleep) -> bool:
    """Sends a notice to the config's webhook; gives whether it arrived. Without one, or unwanted, nothing is sent.

    Without a config (it could not be read) the default variable names the address. Problems are logged, never raised.
    """
    settings = config.notify if config is not None else NotifyConfig()
    if notice.ending not in settings.on:
        return False
    try:
        url = _address(settings, config)
        if not url:
            return False
        problem = refuse_address(url)
        if problem:
            log.error("nobody was told how %s ended: %s", notice.config, problem)
            return False
        data = json.dumps(_payload(_without_secrets(notice, url), settings.format), ensure_ascii=False).encode()
        return _post(url, data, notice.config, pause)
    except Exception as error:  # noqa: BLE001 - whatever happens here, the run has ended as it has
        log.error(
            "nobody was told how %s ended: %s", notice.config, type(error).__name__
        )  # a text may hold the address
        return False


def refuse_address(url: str) -> str:
    """Why an address is not posted to, without repeating it; empty for https, and for http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "the webhook's address is no URL"
    if parts.scheme == "https" and host:
        return ""
    if parts.scheme == "http" and _is_here(host):
        return ""
    return "the webhook's address must begin with https:// (http:// only for this machine)"


# --- inside -------------------------------------------------------------------------------------------------------


def _address(settings: NotifyConfig, config: Config | None) -> str:
    url = os.environ.get(settings.url_env, "").strip()
    if not url and settings.url_file is not None and config is not None:
        url = config.resolve(settings.url_file).read_text("utf-8").strip()
    return url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_secrets(notice: Notice, url: str) -> Notice:
    hidden = Redactor.from_environment()
    hidden.hide(url)
    return Notice(
        config=notice.config,
        ending=notice.ending,
        status=hidden.redact(notice.status),
        run=notice.run,
        night=notice.night,
        reason=hidden.redact(notice.reason)[:_MAX_TEXT],
        counts=notice.counts,
        places={name: hidden.redact(place) for name, place in notice.places.items()},
    )


def _payload(notice: Notice, form: str) -> dict[str, Any]:
    if form == "json":
        return {
            "schema": 1, "config": notice.config, "ending": notice.ending, "status": notice.status, "run": notice.run,
            "night": notice.night, "reason": notice.reason, "counts": dict(notice.counts),
            "places": dict(notice.places),
        }  # fmt: skip
    return {"text": slack_text(notice)}


def slack_text(notice: Notice) -> str:
    """A notice as a few lines; `&`, `<` and `>` are escaped as Slack wants it, so that no text makes a link."""

    def plain(text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")

    night = f", night of {notice.night}" if notice.night else ""
    lines = [f"{_SIGNS[notice.ending]} *{plain(notice.config)}*{night}: {plain(notice.status)}"]
    if notice.reason:
        lines.append(plain(notice.reason))
    if notice.counts:
        lines.append(" · ".join(f"{count} {name}" for name, count in notice.counts.items()))
    lines += [f"{name}: `{plain(place)}`" for name, place in notice.places.items()]
    if notice.run:
        lines.append(f"run `{notice.run}`")
    return "\n".join(lines)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An address is where its owner said, nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(url: str, data: bytes, config_name: str, pause: Callable[[float], None]) -> bool:
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "assetmill"}, method="POST"
    )
    why = ""
    for number in range(TRIES):
        if number:
            pause(_PAUSES[number - 1])
        try:
            with opener.open(request, timeout=TIMEOUT):
                return True
        except urllib.error.HTTPError as error:
            why = f"the webhook answered {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:
                break  # it will not take this one however often
        except (urllib.error.URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            why = f"the webhook did not answer ({type(reason).__name__})"
    log.error("nobody was told how %s ended: %s", config_name, why)
    return False
