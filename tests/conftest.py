"""Fixtures that several rooms share, and the environment every test runs in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# One torch thread: with two beside other work a step can take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["fixtures_s3"] if (Path(__file__).parent / "fixtures_s3.py").exists() else []


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes are named by their length: a time stamp within would give each process of a test run another name."""
    return f"{argname}-{len(val)}" if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test go first: where files run side by side, none is left alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _plain_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs in this process draw plots and contact sheets in tests marked `draws` only: a third of a second for each."""
    with pytest.MonkeyPatch.context() as patch:
        if "productions" in sys.modules and request.node.get_closest_marker("draws") is None:
            patch.setattr("assetmill.pipeline.draw_run_sheet", lambda *_: None)
            for name in ("draw_nights", "draw_stages"):
                patch.setattr(f"assetmill.operate.morning.writing.{name}", lambda *_: [])
        yield
