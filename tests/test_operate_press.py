"""The press: files by channel, what is in them, what is made again and what is not, what a gate refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assetmill.deliver.credentials import check_credentials
from assetmill.deliver.metadata import read_back
from assetmill.deliver.picture import measure
from assetmill.pipeline import check_job
from assetmill.records import GateRecord, InputError
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.store import open_store
from certificates import issue
from fixtures_s3 import make_bucket
from productions import Production, rows
from servers.ceph_gateway import Endpoint

WEB = {
    "name": "{colour}-{id}",
    "renditions": [
        {"name": "image", "format": "webp", "quality": 80},
        {"name": "thumb", "size": 16, "format": "jpeg"},
    ],
}
STUDIO = {"embed": "full", "sidecar": True, "renditions": [{"name": "image", "format": "png"}]}


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    publish = {"columns": ["colour"], "channels": {"web": WEB, "studio": STUDIO}}
    return Production(tmp_path / "p", rows(2), {"candidates": 2, "publish": publish})


def entry_of(toys: Production, asset_id: str = "000") -> CatalogEntry:
    (entry,) = toys.catalog.show(asset_id)
    return entry


def files_of(toys: Production, asset_id: str = "000") -> dict[str, str]:
    """Keys of an asset's files by channel and rendition."""
    return {f"{f.channel}/{f.name}": f.object_key for f in entry_of(toys, asset_id).renditions}


def test_files_of_every_channel(toys: Production) -> None:
    """Each channel has its renditions, under its own names, as large and in the format that it asks for."""
    report = toys.run()
    assert (report["exit_code"], report["published"], report["files"]) == (0, 2, 6)
    files = {f"{f.channel}/{f.name}": f for f in entry_of(toys).renditions}
    assert list(files) == ["web/image", "web/thumb", "studio/image"]
    folder = files["web/image"].object_key.split("/")[2]
    for name, stem, media_type, edge in (
        ("web/image", f"published/web/{folder}/red0-000-", "image/webp", 32),
        ("web/thumb", f"published/web/{folder}/red0-000-thumb-", "image/jpeg", 16),
        ("studio/image", f"published/studio/{folder}/000_1-", "image/png", 32),
    ):
        file = files[name]
        data = toys.store.get(file.object_key)
        assert file.object_key.startswith(stem)
        assert measure(data) == (file.media_type, file.width, file.height) == (media_type, edge, edge)
        assert (file.size, file.alpha, file.signed) == (len(data), False, False)
    assert entry_of(toys).object_key == files["web/image"].object_key
    toys.check_whole()


def test_what_files_say(toys: Production) -> None:
    """A model made it, says every file; prompts and settings stand only where the channel wants them."""
    toys.change(publish={"alt": {"": "a {colour} thing", "de": "{id}"}, "provenance": {"creator": "ACME"}})
    toys.run()
    entry = entry_of(toys)
    assert entry.alt == {"": "a red0 thing", "de": "000"}
    assert entry.digital_source.endswith("/trainedAlgorithmicMedia")
    for file in entry.renditions:
        found = read_back(toys.store.get(file.object_key))
        assert entry.digital_source in str(found["xmp"])
        assert "ACME" in str(found["xmp"])
        assert "a red0 thing" in str(found["xmp"])
        full = file.channel == "studio"
        assert (entry.positive in found["parameters"]) is full
        assert (entry.positive.encode() in toys.store.get(file.object_key)) is full
    (file,) = [f for f in entry.renditions if f.channel == "studio"]
    assert file.sidecar.startswith(file.object_key.rpartition("-")[0])
    beside = json.loads(toys.store.get(file.sidecar))
    assert (beside["picture"], beside["ai_generated"]) == (file.sha256, True)
    assert [f.sidecar for f in entry.renditions if f.channel == "web"] == ["", ""]


def test_only_what_changed_is_made_again(toys: Production) -> None:
    """A new column changes what embeds columns, a new creator all files; a new channel leaves the others alone."""
    toys.run()
    first = entry_of(toys).renditions
    toys.change(publish={"columns": ["colour", "thing"]})
    report = toys.run()
    assert (report["pictures"], report["files"], report["files_made"]) == (0, 6, 0)
    second = entry_of(toys).renditions
    assert [f.object_key for f in first] == [f.object_key for f in second]
    assert [a.sidecar == b.sidecar for a, b in zip(first, second, strict=True)] == [True, True, False]
    icons = {"renditions": [{"name": "image", "size": 8}]}
    toys.change(publish={"channels": {"web": WEB, "studio": STUDIO, "icons": icons}})
    report = toys.run()
    assert (report["files"], report["files_made"]) == (8, 2)
    toys.change(publish={"provenance": {"creator": "ACME"}})
    report = toys.run()
    assert (report["files"], report["files_made"]) == (8, 8)
    toys.change(publish={"cache_control": "no-cache"})
    assert toys.run()["status"] == "nothing to do"
    assert all(toys.catalog.verify(version).passed for version in range(1, 5))


def test_a_refused_file_blocks_no_other(toys: Production) -> None:
    """A rendition larger than the master is refused, on record and in the report; the others go out."""
    large = {"name": "poster", "size": 64, "format": "jpeg"}
    toys.change(publish={"channels": {"web": WEB, "print": {"renditions": [large, {"name": "card", "size": 16}]}}})
    (remark,) = [r for r in check_job(toys.job())["remarks"] if "refused" in r]
    assert remark.startswith("print/poster will be refused of 2 assets: ")
    assert remark.endswith(" (of 32x32)")
    report = toys.run()
    assert (report["exit_code"], report["status"], report["files"]) == (1, "done, some items failed", 6)
    assert list(report["refused_files"]) == ["000", "001"]
    assert report["refused_files"]["000"][0].startswith("print/poster: ")
    assert "print/card" in files_of(toys)
    gates = [r for r in toys.records() if isinstance(r, GateRecord) and r.stage == "rendition"]
    assert {(g.subject, g.gate, g.passed) for g in gates} == {
        (entry_of(toys, i).variant_key, "print/poster", False) for i in ("000", "001")
    }
    before = len(gates)
    toys.change(publish={"provenance": {"creator": "ACME"}})
    assert toys.run()["exit_code"] == 1
    assert len([r for r in toys.records() if isinstance(r, GateRecord) and r.stage == "rendition"]) == before
    toys.change(publish={"channels": {"web": WEB, "print": {"renditions": [{**large, "size": 32}]}}})
    assert toys.run()["exit_code"] == 0
    history = toys.index.history(["000"])["000"]
    assert [g.passed for g in history.gates if g.stage == "rendition"] == [True]


def test_an_asset_without_any_file_is_not_published(tmp_path: Path) -> None:
    """Where every file is refused there is nothing to show: the asset stays out, and is tried again the next time."""
    huge = {"huge": {"renditions": [{"name": "image", "size": 512}]}}
    toys = Production(tmp_path / "p", rows(1), {"candidates": 2, "publish": {"channels": huge}})
    for pictures in (2, 0):
        report = toys.run()
        assert (report["exit_code"], report["pictures"], report["published"]) == (1, pictures, 0)
        assert report["troubled"]["000"].startswith("not published: no channel takes it: huge/image: ")
    assert toys.catalog.latest() == 0


def test_a_lost_master_is_made_again(toys: Production) -> None:
    """A master that is gone when its files are to be made: its asset stays out, and the next run makes it anew."""
    toys.run()
    entry = entry_of(toys)
    toys.store.delete(f"blobs/{entry.master[:2]}/{entry.master}.png")
    toys.change(publish={"provenance": {"creator": "ACME"}})
    report = toys.run()
    assert (report["exit_code"], list(report["troubled"])) == (1, ["000"])
    report = toys.run()
    assert (report["exit_code"], report["pictures"], report["published"]) == (0, 0, 1)
    toys.check_whole()


def test_signed_files(toys: Production) -> None:
    """Credentials hold in the store; what was signed is not signed again; a missing certificate is told."""
    identity = issue()
    (toys.folder / "chain.pem").write_bytes(identity.chain)
    (toys.folder / "key.pem").write_bytes(identity.key_pem())
    web = {**WEB, "sign": True}
    toys.change(
        publish={"credentials": {"certificate": "chain.pem", "key": "key.pem"}, "channels": {"web": web, "own": STUDIO}}
    )
    assert toys.run()["files"] == 6
    files = entry_of(toys).renditions
    assert [f.signed for f in files] == [True, True, False]
    for file in files:
        found = check_credentials(toys.store.get(file.object_key), trust=identity.root)
        assert (found.present, found.trusted, found.tampered) == (file.signed, file.signed, False)
    toys.change(publish={"columns": ["colour", "thing"]})
    assert toys.run()["files_made"] == 0
    assert [f.object_key for f in entry_of(toys).renditions] == [f.object_key for f in files]
    toys.check_whole()
    made = len(toys.candidates())
    (toys.folder / "key.pem").rename(toys.folder / "elsewhere.pem")
    toys.change(seed=9)
    with pytest.raises(InputError, match=r"publish.credentials.key: No such file"):
        toys.run()
    assert len(toys.candidates()) == made, "told before anything is made"
    (toys.folder / "chain.pem").unlink()
    with pytest.raises(InputError, match=r"publish.credentials.certificate: No such file"):
        toys.plan()


def test_headers_in_a_bucket(moto_endpoint: Endpoint, tmp_path: Path) -> None:
    """Files in a bucket say what they are and how long they keep."""
    config = make_bucket(moto_endpoint)
    store: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
    publish = {"channels": {"web": WEB, "studio": STUDIO}, "cache_control": "public, max-age=60", "columns": ["colour"]}
    toys = Production(tmp_path / "p", rows(1), {"candidates": 1, "publish": publish})
    toys.settings["store"] = {**store, "options": {}}
    toys.write()
    assert toys.run()["exit_code"] == 0
    bucket: Any = open_store(config, config.url)
    told = set()
    for found in bucket.list("published/"):
        head = bucket._client.head_object(Bucket=bucket._bucket, Key=bucket._key(found.key))
        told.add((found.key.rpartition(".")[2], head["ContentType"], head.get("CacheControl")))
    assert told == {
        (extension, kind, "public, max-age=60")
        for extension, kind in (
            ("webp", "image/webp"), ("jpg", "image/jpeg"), ("png", "image/png"), ("json", "application/json"),
        )
    }  # fmt: skip
