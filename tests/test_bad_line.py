"""Whole productions into a bucket over a line that drops, delays, cuts and breaks what is sent."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import StoreConfig
from assetmill.pipeline import open_job, run_job
from assetmill.storage import s3
from assetmill.storage.catalog import open_catalog
from assetmill.storage.store import Store, StoreUnavailable, open_store
from fixtures_s3 import make_bucket
from productions import NAME, Production, rows
from servers.ceph_gateway import Endpoint
from servers.faulty_proxy import Faults, faulty_proxy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries without their waits, and half a second's patience for answers."""
    monkeypatch.setattr(s3, "pause", lambda attempt: None)
    monkeypatch.setattr("botocore.retries.standard.RetryPolicy.compute_retry_delay", lambda self, context: 0)
    monkeypatch.setattr(s3, "READ_TIMEOUT", 0.5)
    s3._client.cache_clear()
    yield
    s3._client.cache_clear()


@contextmanager
def production_over(
    endpoint: Endpoint, folder: Path, count: int = 6
) -> Iterator[tuple[Production, StoreConfig, Faults]]:
    """A production that stores in a new bucket behind a proxy; the bucket's own config, and the proxy's faults."""
    made = make_bucket(endpoint, "studio/toys")
    with faulty_proxy(endpoint.url) as (url, faults):
        place = {"url": made.url, "endpoint_url": url, "region": made.region, "options": {}}
        production = Production(folder, rows(count), {"store": place, "publish": {"name": "{id}_{rank}"}})
        yield production, made, faults


def content_of(store: Store) -> dict[str, tuple[Any, ...]]:
    """What a catalog shows, by asset: pictures, prompts, scores."""
    entries = open_catalog(store, NAME).iter_entries()
    return {e.asset_id: (e.rank, e.blob, e.master, e.positive, e.score, e.object_key) for e in entries}


def test_a_night_over_a_bad_line_publishes_the_same(moto_endpoint: Endpoint, tmp_path: Path, quick: None) -> None:
    """With one request in eight going wrong, every asset is published, whole, as over a good line."""
    with production_over(moto_endpoint, tmp_path / "good") as (production, made, _):
        run_job(open_job(production.path))
        wanted = content_of(open_store(made, made.url))
    with production_over(moto_endpoint, tmp_path / "bad") as (production, made, faults):
        faults.dice, faults.rate = random.Random(11), 1 / 8
        for _ in range(4):  # a server that fails five times in a row ends a run; the next one resumes
            try:
                if run_job(open_job(production.path))["exit_code"] == 0:
                    break
            except StoreUnavailable:
                pass
        faults.dice = None
        assert sum(faults.happened.values()) >= 10
        assert len([kind for kind, count in faults.happened.items() if kind and count]) >= 4
        store = open_store(made, made.url)
        assert content_of(store) == wanted
        assert open_catalog(store, NAME).verify().passed


def test_late_answers_are_asked_for_again(moto_endpoint: Endpoint, tmp_path: Path, quick: None) -> None:
    """An answer that comes too late counts as lost; what was stored counts as ours."""
    with production_over(moto_endpoint, tmp_path) as (production, made, faults):
        job = open_job(production.path)
        faults.delay, faults.on_put = 1.0, ["late", "", "", "late"]
        assert run_job(job)["exit_code"] == 0
        assert faults.happened["late"] == 2
        assert open_catalog(open_store(made, made.url), NAME).verify().passed


def test_credentials_that_expire_stop_the_night_and_renewed_ones_resume(
    moto_endpoint: Endpoint, tmp_path: Path, quick: None
) -> None:
    """The error says to renew and run again; nothing made before is made again, the catalog is complete then."""
    with production_over(moto_endpoint, tmp_path) as (production, made, faults):
        # In a process of its own, which then is dead: with expired credentials its lock cannot be released.
        faults.on_put = [""] * 16 + ["expired"] * 500
        command = [sys.executable, "-m", "assetmill", "run", str(production.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 5
        assert "renew the credentials, then run again: it resumes" in done.stderr
        faults.on_put = []
        store = open_store(made, made.url)
        assert open_catalog(store, NAME).latest() == 0
        before = {info.key for info in store.list("blobs/")}
        assert before
        report = run_job(open_job(production.path))
        assert report["exit_code"] == 0
        assert before <= {info.key for info in store.list("blobs/")}
        assert len(content_of(store)) == 6
        assert open_catalog(store, NAME).verify().passed


def test_an_object_costs_one_request(moto_endpoint: Endpoint, tmp_path: Path) -> None:
    """A new object is one PUT, nothing else; looking whether one is there is one HEAD; a list of 1,000 one GET."""
    with production_over(moto_endpoint, tmp_path) as (production, _, faults):
        config = open_job(production.path).config.store
        store = open_store(config, config.url)
        faults.seen.clear()
        store.put_if_absent("published/a.png", b"1" * 1000, media_type="image/png")
        assert dict(faults.seen) == {"PUT": 1}
        faults.seen.clear()
        store.stat("published/a.png")
        list(store.list("published/"))
        assert dict(faults.seen) == {"HEAD": 1, "GET": 1}


@pytest.mark.skipif(shutil.which("aws") is None, reason="the AWS command line is not installed")
def test_aws_s3_ls_shows_sensible_names(moto_endpoint: Endpoint, tmp_path: Path) -> None:
    """Whoever looks into the bucket with Amazon's own tool finds the pictures by asset and name."""
    with production_over(moto_endpoint, tmp_path, 2) as (production, made, _):
        assert run_job(open_job(production.path))["exit_code"] == 0
        done = subprocess.run(
            ["aws", "--endpoint-url", moto_endpoint.url, "s3", "ls", "--recursive", f"{made.url}/published/"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    if "No module named" in done.stderr or "ImportError" in done.stderr:
        pytest.skip("the AWS command line is broken here")
    names = sorted(line.split()[3] for line in done.stdout.splitlines())
    pattern = r"studio/toys/published/master/{0}-[0-9a-f]{{6}}/{0}_1-[0-9a-f]{{8}}\.png"
    assert len(names) == 2
    assert all(re.fullmatch(pattern.format(n), name) for n, name in zip(("000", "001"), names, strict=True)), names
