"""Fixtures that several rooms share, and the environment every test runs in."""

from __future__ import annotations

import os
import sys
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold a slow test go first: where files run side by side, none is left alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
