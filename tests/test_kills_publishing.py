"""SIGKILL while files are published: the catalog is the old one or the new one, and names nothing that is not there.

`ASSETMILL_PUBLISH_KILLS` says how often (10 if not set, `make publish-kills` 200); one kill in five hits a bucket.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import StoreConfig
from assetmill.storage.catalog import Catalog, open_catalog
from assetmill.storage.store import Store, open_store
from fixtures_s3 import make_bucket
from productions import NAME, Production, rows
from servers.ceph_gateway import Endpoint
from test_kills import WARM, kill_after

KILLS = int(os.environ.get("ASSETMILL_PUBLISH_KILLS", "10"))
CHANNELS = {
    "web": {
        "renditions": [{"name": "image", "format": "webp"}, {"name": "thumb", "size": 16, "format": "jpeg"}],
        "atlas": {"rendition": "image", "size": 256},
    },
    "studio": {"embed": "full", "sidecar": True},
}
WARMER = (
    "assetmill.deliver.renditions",
    "assetmill.deliver.encoding",
    "assetmill.deliver.credentials",
    "pandas",
    "boto3",
)
FILES = 4
"""Of each asset: three renditions and a sidecar."""


def run_warm(command: str, config: str, environment: dict[str, str]) -> None:
    """`assetmill COMMAND CONFIG` in a forked process. What it says goes into the file `said` beside the config."""
    from assetmill import cli

    said = os.open(Path(config).parent / "said", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for stream in (0, 1, 2):
        os.dup2(said, stream)
    os.environ.update(environment)  # the mother of all may be older than a bucket's credentials
    sys.argv = ["assetmill", command, config]
    cli.main()


class Shop:
    """A production with two channels in a store of either kind, and what must hold of it at any moment."""

    def __init__(self, folder: Path, assets: int, store: StoreConfig | None = None) -> None:
        settings: dict[str, Any] = {
            "candidates": 2, "model": {"options": {"seconds": 0.001}}, "run": {"chunk": 8},
            "publish": {"channels": CHANNELS, "columns": ["colour"], "feeds": {"list": {"format": "jsonl"}}},
        }  # fmt: skip
        if store is not None:
            settings["store"] = {**store.model_dump(mode="json", exclude_none=True), "options": {}}
        self.toys = Production(folder, rows(assets), settings)
        self.config = store
        self.versions = 0
        """Versions checked so far."""

    @property
    def store(self) -> Store:
        return self.toys.store if self.config is None else open_store(self.config, self.config.url)

    @property
    def catalog(self) -> Catalog:
        return open_catalog(self.store, NAME)

    def num_published(self) -> int:
        return sum(1 for _ in self.store.list("published/"))

    def check(self) -> int:
        """Every version there is names whole files only; gives the newest one's number."""
        newest = self.catalog.latest()
        for version in range(max(self.versions, 1), newest + 1):
            found = self.catalog.verify(version)
            assert found.passed, (version, found)
        self.versions = newest
        return newest

    def complete(self) -> None:
        """The next run ends well; what is there then is all that any version names, once."""
        report = self.toys.run()
        assert report["exit_code"] == 0, report
        catalog = self.catalog
        newest = self.check()
        assert report["outlet_problems"] == []
        for outlet in (f"feeds/{NAME}/list", f"atlases/{NAME}/web"):
            assert json.loads(self.store.get(f"{outlet}/latest.json"))["version"] == newest
        entries = list(catalog.iter_entries())
        assert len(entries) == len(self.toys.sheet)
        assert Counter((e.asset_id, f.channel, f.name) for e in entries for f in e.renditions).most_common(1)[0][1] == 1
        assert sum(len(e.renditions) + sum(bool(f.sidecar) for f in e.renditions) for e in entries) == FILES * len(
            entries
        )


@pytest.mark.timeout(180 + 10 * KILLS)
def test_no_catalog_is_torn(tmp_path: Path, moto_endpoint: Endpoint) -> None:
    """After each kill all versions verify, and the next run completes it all, atlas and feed too; no file is left."""
    chance = random.Random(int(os.environ.get("ASSETMILL_KILLS_SEED", "17")))
    mother = multiprocessing.get_context("forkserver")
    mother.set_forkserver_preload([*WARM, *WARMER])
    shops = [Shop(tmp_path / "folder", 20), Shop(tmp_path / "bucket", 6, make_bucket(moto_endpoint))]
    for shop in shops:
        shop.complete()
    hits: Counter[str] = Counter()
    night = 0
    while hits.total() < KILLS:
        night += 1
        assert night < 5 * KILLS + 20, "publishing is over before it can be killed"
        shop = shops[night % 5 == 0]
        # Most nights publish what is there with other metadata; some make new pictures, published as they come.
        command = "run" if night % 3 == 0 else "publish"
        change: dict[str, Any] = {"seed": night} if command == "run" else {}
        shop.toys.change(publish={"provenance": {"creator": f"night {night}"}}, **change)
        before, files = shop.check(), shop.num_published()
        begun = _some_file(shop, files) if chance.random() < 0.8 else None
        process = mother.Process(target=run_warm, args=(command, str(shop.toys.path), dict(os.environ)))
        process.start()
        try:
            killed = kill_after(process, chance.uniform(0, 0.25 if begun else 0.5), begun)
        except AssertionError as error:
            raise AssertionError((shop.toys.folder / "said").read_text()) from error
        after = shop.check()
        assert after in (before, before + 1)
        if killed:
            new = shop.num_published() - files
            hits["committed" if after > before else "between files" if new else "before the first file"] += 1
        shop.complete()
    for shop in shops:
        named = set()
        for version in range(1, shop.check() + 1):
            for entry in shop.catalog.iter_entries(version):
                named |= {key for f in entry.renditions for key in (f.object_key, f.sidecar) if key}
        assert {i.key for i in shop.store.list("published/")} == named, "files of dead runs were used, not doubled"
    print(f"{hits.total()} kills ({dict(hits)}) over {night} nights, {sum(s.versions for s in shops)} versions, 0 torn")
    assert hits["between files"] > KILLS / 4


def _some_file(shop: Shop, files: int) -> Callable[[], bool]:
    """Says whether a night has published anything yet."""

    def begun() -> bool:
        time.sleep(0.005)
        return shop.num_published() > files

    return begun
