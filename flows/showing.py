"""What Prefect's UI shows of a run: progress while it goes on, counts, places and the contact sheet when it has ended.

All of it is for people. A server that does not answer costs these pictures and nothing else.
"""

from __future__ import annotations

import base64
import io
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from assetmill.operate.summary import left_text, places_of
from assetmill.pipeline import Run

INTERVAL = 5.0
"""Seconds between two looks at the progress."""

_SHEET_WIDTH = 1200
"""Pixels; the contact sheet in the UI is a small copy, kept in Prefect's database."""

log = logging.getLogger("assetmill.flows")


class Counter:
    """A progress that counts images made and expected. Called by many threads."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self._lock = threading.Lock()

    def start(self, stage: str, total: int) -> None:
        with self._lock:
            self.total += total if stage == "images" else 0

    def advance(self, stage: str, count: int = 1) -> None:
        with self._lock:
            self.done += count if stage == "images" else 0

    @property
    def percent(self) -> float:
        return min(100.0, 100.0 * self.done / self.total) if self.total else 0.0


class Window:
    """One run in Prefect's UI. After the first thing that the server does not take, nothing more is shown."""

    def __init__(self) -> None:
        self._open = True

    @contextmanager
    def progress(self, run: Run, counter: Counter) -> Iterator[None]:
        """A bar that moves while the block runs."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        made: list[Any] = []
        about = f"run {run.id}"
        self._show(lambda: made.append(create_progress_artifact(0.0, key="progress", description=about)))
        ended, last = threading.Event(), 0.0

        def show_progress() -> None:
            nonlocal last
            if made and counter.percent != last:
                last = counter.percent
                text = f"{about}: {counter.done} of {counter.total} images"
                self._show(lambda: update_progress_artifact(made[0], last, description=text))

        def follow() -> None:
            while not ended.wait(INTERVAL):
                show_progress()

        thread = threading.Thread(target=copy_context().run, args=(follow,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(INTERVAL)
            show_progress()

    def report(self, run: Run, report: Mapping[str, Any]) -> None:
        """Counts as a table, where things are as text, the contact sheet as a picture."""
        from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

        about = f"run {run.id}"
        text, rows = summary_text(run, report), count_rows(report)
        self._show(lambda: create_markdown_artifact(text, key="run", description=about))
        self._show(lambda: create_table_artifact(rows, key="counts", description=about))
        if report["troubled"]:
            troubled = [{"asset": a, "status": s} for a, s in list(report["troubled"].items())[:200]]
            self._show(lambda: create_table_artifact(troubled, key="troubled-assets", description=about))
        if report["contact_sheet"]:
            url = small_copy(run.job.store.get(report["contact_sheet"]))
            self._show(lambda: create_image_artifact(url, key="contact-sheet", description=about))

    def _show(self, show: Callable[[], Any]) -> None:
        if not self._open:
            return
        try:
            show()
        except Exception as error:  # noqa: BLE001 - whatever a server does, the work goes on
            self._open = False
            log.warning("Prefect's server takes no more of what it could show; the work goes on: %s", error)


def summary_text(run: Run, report: Mapping[str, Any]) -> str:
    """The report's head as Markdown: status, why, what is left, where things are."""
    lines = [f"# {report['config']}: {report['status']}", ""]
    if report.get("night"):
        missed = f", which makes up for {', '.join(report['missed'])}" if report.get("missed") else ""
        lines.append(f"- the night of {report['night']}{missed}")
    lines += [f"- {report['reason']}"] if report["reason"] else []
    lines += [f"- left for the next run: {left_text(report)}"] if report["left"] else []
    lines += [f"- {name}: `{place}`" for name, place in places_of(run.job.store, run.job.config, report).items()]
    return "\n".join(lines)


def count_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """States of assets and counts of pictures, one row each."""
    rows = [{"what": f"assets {k.replace('_', ' ')}", "count": v} for k, v in report["states"].items() if v]
    names = ("pictures", "rejected", "chosen", "files", "left", "images_left")
    return rows + [{"what": k.replace("_", " "), "count": report[k]} for k in names]


def small_copy(png: bytes) -> str:
    """A contact sheet as a data URI of a WebP, at most 1,200 pixels wide: what a browser shows without our store."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as sheet:
        picture = sheet.convert("RGB")
    picture.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH))
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
