"""The catalog: published versions that are never torn, never lost in a race, and can be taken back."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from assetmill.records import InputError, asset_key, blob_key, request_from_json
from assetmill.storage.catalog import Catalog, CatalogDiff, CatalogHeld, open_catalog
from assetmill.storage.entries import CatalogEntry, Rendition, entry_from_json
from assetmill.storage.folder import FolderStore
from assetmill.storage.store import CorruptObject, Store, open_store, put_blob
from fixtures_s3 import make_bucket
from servers.ceph_gateway import Endpoint
from storage_samples import Died, damage, entry, sha


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", sync=False)


def catalog_of(store: Store, **options: int) -> Catalog:
    return Catalog(store, "c", **{"shard_rows": 8, **options})


def content(catalog: Catalog, version: int | None = None) -> dict[tuple[str, int], CatalogEntry]:
    return {(e.asset_id, e.rank): e for e in catalog.iter_entries(version)}


def published(store: Store, asset_id: str) -> CatalogEntry:
    """An entry whose pictures are really there."""
    blob = put_blob(store, b"candidate of " + asset_id.encode(), "png", "image/png")
    master = put_blob(store, b"master of " + asset_id.encode(), "webp", "image/webp")
    key = f"published/master/{asset_id}/x-{master[:8]}.webp"
    store.put_if_absent(key, b"master of " + asset_id.encode())
    return entry(asset_id, blob=blob, master=master, object_key=key)


def test_entries_come_back_as_they_were(store: FolderStore) -> None:
    """Every field of an entry survives, and its request makes the same key again."""
    catalog = catalog_of(store)
    entries = [
        entry("a"),
        entry("a", 2, score=None, commercial=True),
        entry("Ünïcode/…", columns={"z": "1", "a": None}),
    ]
    assert catalog.commit(entries, run="run-1", note="first") == 1
    assert content(catalog) == {(e.asset_id, e.rank): e for e in entries}
    assert catalog.show("a") == entries[:2]
    assert catalog.show("nobody") == []
    assert list(catalog.show("Ünïcode/…")[0].columns) == ["z", "a"]
    again = catalog.show("a")[0]
    assert request_from_json(again.request).key == again.request_key
    assert catalog.entries(columns=["asset_id", "rank"]).num_rows == 3
    assert catalog.fingerprints()[asset_key("a")] == (again.work_key, again.select_key, again.meta_key)


def test_files_and_sidecars_are_verified(store: FolderStore) -> None:
    """Each rendition is held to its own hash, and so is the file beside it; entries of before have their master."""
    old = published(store, "old")
    assert [(f.object_key, f.sha256, f.name) for f in old.files] == [(old.object_key, old.master, "image")]
    keys = ["published/shop/a/x-0a1b2c3d.webp", "published/shop/a/x-1a1b2c3d.json"]
    for key in keys:
        store.put_if_absent(key, key.encode())
    file = Rendition(
        channel="shop", name="image", object_key=keys[0], sha256=blob_key(keys[0].encode()), size=33, width=1,
        height=1, media_type="image/webp", sidecar=keys[1], sidecar_sha256=blob_key(keys[1].encode()),
    )  # fmt: skip
    catalog = catalog_of(store)
    catalog.commit([old, replace(published(store, "new"), object_key=keys[0], renditions=(file,))], run="r")
    assert catalog.verify().passed
    assert catalog.verify().objects == 7
    for key in keys:
        damage(store.root / key)
    assert catalog.verify().corrupt == sorted(keys)


def test_versions_replace_whole_assets(store: FolderStore) -> None:
    """A version replaces all entries of its assets, removes what is asked, and leaves older versions as they were."""
    catalog = catalog_of(store)
    catalog.commit([entry("a"), entry("a", 2), entry("b"), entry("c")], run="r1")
    catalog.commit([entry("a", seed=9), entry("d")], ["b", "never there"], run="r2", note="why")
    assert set(content(catalog)) == {("a", 1), ("c", 1), ("d", 1)}
    assert set(content(catalog, 1)) == {("a", 1), ("a", 2), ("b", 1), ("c", 1)}
    assert catalog.diff(1, 2) == CatalogDiff(("d",), ("a",), ("b",))
    assert catalog.diff(2, 1) == CatalogDiff(("b",), ("a",), ("d",))
    one, two = catalog.versions()
    assert (one.assets, one.variants, one.parent) == (3, 4, 0)
    assert (two.assets, two.variants, two.parent, two.run, two.note, two.action) == (3, 3, 1, "r2", "why", "publish")


def test_nothing_to_do_makes_no_version(store: FolderStore) -> None:
    """An empty commit leaves the newest version the newest; what only another run made is no change."""
    catalog = catalog_of(store)
    assert catalog.commit([], run="r0") == 0
    catalog.commit([entry("a")], run="r1")
    assert catalog.commit([], run="r2") == 1
    catalog.commit([entry("a", run="r3", created="later")], run="r3")
    assert catalog.diff(1, 2) == CatalogDiff((), (), ())


def test_two_configs_do_not_see_each_other(store: FolderStore) -> None:
    """Catalogs belong to a store and a config's name."""
    open_catalog(store, "one").commit([entry("a")], run="r")
    assert open_catalog(store, "two").latest() == 0
    assert list(open_catalog(store, "two").iter_entries()) == []


def test_bad_input_is_refused(store: FolderStore) -> None:
    """Two entries of one rank, a version that is not there: errors that say what to do."""
    catalog = catalog_of(store)
    with pytest.raises(ValueError, match="two entries of rank 1"):
        catalog.commit([entry("a"), entry("a", seed=3)], run="r")
    for call in (lambda: catalog.entries(4), lambda: catalog.rollback(4), lambda: catalog.rollback(0)):
        with pytest.raises(InputError, match="version"):
            call()


def test_twenty_racing_publishers_all_land(store: FolderStore) -> None:
    """Twenty publishers at once make twenty versions, each on top of the one before; none is lost or doubled."""
    catalog_of(store).commit([entry("start")], run="r")
    failures: list[BaseException] = []

    def publish(n: int) -> None:
        try:
            catalog_of(store, threads=2).commit([entry(f"asset-{n}"), entry("shared", seed=n)], run=f"run-{n}")
        except BaseException as error:  # noqa: BLE001 (shown by the test)
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catalog = catalog_of(store)
    assert failures == []
    assert catalog.latest() == 21
    assert sorted(v.run for v in catalog.versions()[1:]) == sorted(f"run-{n}" for n in range(20))
    assert set(content(catalog)) == {(f"asset-{n}", 1) for n in range(20)} | {("start", 1), ("shared", 1)}
    assert catalog.show("shared")[0].seed == int(catalog.versions()[-1].run.removeprefix("run-"))
    assert json.loads(store.get("catalogs/c/latest.json"))["version"] == 21


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("act", ["publish", "rollback", "release"])
def test_death_at_any_store_call(tmp_path: Path, act: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any store call, before or after its effect, the catalog is the old one or the new one, whole.

    A rollback that shows is always held. The same command again comes to its end.
    """
    names = ("get", "put_if_absent", "replace", "swap", "stat", "delete", "list")
    real = {name: getattr(FolderStore, name) for name in names}
    for dies_at in range(1, 100):
        store = FolderStore(tmp_path / f"{dies_at}", sync=False)
        catalog = catalog_of(store, threads=1, shard_rows=3)
        catalog.commit([published(store, f"a{n}") for n in range(2)], run="r1")
        catalog.commit([published(store, f"b{n}") for n in range(2)], ["a0"], run="r2")
        if act == "release":
            catalog.rollback(1)
        before, newest = content(catalog), catalog.latest()
        new = [published(store, "a1"), published(store, "new")]
        calls = 0

        def mortal(name: str, n: int) -> object:
            def call(self: FolderStore, *args: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls == n and not after:
                    raise Died
                done = real[name](self, *args, **options)
                if calls == n:
                    raise Died
                return done

            return call

        def command(catalog: Catalog, new: list[CatalogEntry] = new) -> object:
            if act == "publish":
                return catalog.commit(new, run="r3")
            return catalog.rollback(1) if act == "rollback" else catalog.release()

        for name in names:
            monkeypatch.setattr(FolderStore, name, mortal(name, dies_at))
        try:
            command(catalog)
            died = False
        except Died:
            died = True
        for name in names:
            monkeypatch.setattr(FolderStore, name, real[name])
        catalog = catalog_of(store)
        changed = catalog.latest() > newest
        expected = {"publish": before | {(e.asset_id, 1): e for e in new}, "rollback": content(catalog, 1)}
        assert content(catalog) == (expected[act] if changed else before)
        assert catalog.verify().passed
        if act == "rollback" and changed:
            assert catalog.held()
        if not died:
            assert dies_at > 2
            return
        command(catalog)
        assert content(catalog) == expected.get(act, before)
        assert json.loads(store.get("catalogs/c/latest.json"))["version"] == catalog.latest()
        assert bool(catalog.held()) == (act == "rollback")
    pytest.fail("the command never ran to its end")


def test_a_catalog_in_a_bucket(moto_endpoint: Endpoint) -> None:
    """Publishing, racing, rolling back and verifying work in a bucket as in a folder."""
    config = make_bucket(moto_endpoint)
    store = open_store(config, config.url)
    catalog = catalog_of(store, threads=4)
    catalog.commit([published(store, f"a{n}") for n in range(10)], run="r1")
    entries = [[published(store, f"b{n}")] for n in range(6)]
    threads = [
        threading.Thread(target=catalog_of(store).commit, args=(some,), kwargs={"run": "r2"}) for some in entries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert catalog.latest() == 7
    assert len(content(catalog)) == 16
    assert catalog.rollback(1) == 8
    assert catalog.held()
    found = catalog.verify()
    assert (found.objects, found.passed) == (30, True)
    store.delete(catalog.show("a0")[0].object_key)
    assert catalog.verify().missing == [catalog.show("a0")[0].object_key]


def test_rollback_holds_until_released(store: FolderStore) -> None:
    """A rollback shows the old content as a new version and stops publishing until it is released."""
    catalog = catalog_of(store)
    catalog.commit([entry("a")], run="r1")
    catalog.commit([entry("a", seed=5), entry("b")], run="r2")
    assert catalog.held() is None
    assert catalog.release() is False
    assert catalog.rollback(1, reason="wrong logo", by="ann") == 3
    assert content(catalog) == content(catalog, 1)
    assert (catalog.versions()[-1].action, catalog.versions()[-1].note) == ("rollback", "wrong logo")
    held = catalog.held()
    assert held is not None
    assert (held["to"], held["from"], held["reason"], held["by"]) == (1, 2, "wrong logo", "ann")
    for entries in ([entry("c")], []):
        with pytest.raises(CatalogHeld, match=r"wrong logo.*catalog release CONFIG"):
            catalog.commit(entries, run="r3")
    assert catalog.rollback(2) == 4  # going elsewhere is allowed; it stays held
    assert catalog.release() is True
    assert catalog.release() is False
    assert catalog.commit([entry("c")], run="r3") == 5
    assert len(list(store.list("catalogs/c/hold/"))) == 3


def test_a_publisher_cannot_slip_past_a_rollback(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that looked before the rollback, and writes after it, is refused on rebasing."""
    catalog = catalog_of(store)
    catalog.commit([entry("a")], run="r1")
    catalog.commit([entry("b")], run="r2")
    slow = catalog_of(store)
    inner = slow._table.commit

    def late(*args: object, **options: object) -> int:
        if catalog.held() is None:
            catalog.rollback(1)
        return inner(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(slow._table, "commit", late)
    with pytest.raises(CatalogHeld):
        slow.commit([entry("c")], run="r3")
    assert content(catalog) == content(catalog, 1)


def test_an_unreadable_hold_stops_publishing(store: FolderStore) -> None:
    """A damaged hold counts as a hold, names its file, and a release passes it."""
    catalog = catalog_of(store)
    catalog.commit([entry("a")], run="r1")
    catalog.rollback(1)
    path = store.local_path("catalogs/c/hold/00000001.json")
    assert path is not None
    path.write_bytes(b"{")
    with pytest.raises(CorruptObject, match=r"hold/00000001\.json.*release"):
        catalog.commit([entry("b")], run="r2")
    assert catalog.release() is True
    assert catalog.commit([entry("b")], run="r2") == 3


@pytest.mark.parametrize("how", ["missing", "behind", "damaged", "ahead"])
def test_latest_json_is_a_repairable_hint(store: FolderStore, how: str) -> None:
    """No reader of ours trusts latest.json; wrong in any way, it is made right."""
    catalog = catalog_of(store)
    catalog.commit([entry("a")], run="r1")
    path = store.local_path("catalogs/c/latest.json")
    assert path is not None
    old = path.read_text()
    assert json.loads(old)["manifest"] == "catalogs/c/versions/00000001.json"
    catalog.commit([entry("b")], run="r2")
    assert catalog.repair_latest() is False
    if how == "missing":
        path.unlink()
    else:
        path.write_text({"behind": old, "damaged": "{", "ahead": old.replace("1", "7")}[how])
    assert catalog.latest() == 2
    assert catalog.repair_latest() is True
    assert json.loads(path.read_text())["version"] == 2


def test_verify_reads_every_picture(store: FolderStore) -> None:
    """Verification finds each missing and each damaged blob, master and published file, and names its key."""
    catalog = catalog_of(store)
    entries = [published(store, name) for name in ("a", "b", "c", "d")]
    catalog.commit(entries, run="r1")
    seen: list[int] = []
    whole = catalog.verify(progress=seen.append)
    assert (whole.objects, whole.missing, whole.corrupt, whole.passed) == (12, [], [], True)
    assert seen == list(range(1, 13))
    damage(store.local_path(entries[0].object_key) or Path())
    master = f"blobs/{entries[1].master[:2]}/{entries[1].master}.webp"
    damage(store.local_path(master) or Path())
    store.delete(f"blobs/{entries[2].blob[:2]}/{entries[2].blob}.png")
    store.delete(entries[3].object_key)
    found = catalog.verify()
    assert found.objects == 12
    assert found.corrupt == sorted([entries[0].object_key, master])
    assert found.missing == sorted([f"blobs/{entries[2].blob[:2]}/{entries[2].blob}.", entries[3].object_key])
    assert not found.passed


def test_verify_lists_damaged_shards(store: FolderStore) -> None:
    """A damaged shard is one more corrupt object, and what the others name is still checked."""
    catalog = catalog_of(store)
    catalog.commit([published(store, f"a{n}") for n in range(12)], run="r1")
    shards = list(store.list("catalogs/c/versions/shards/"))
    assert len(shards) > 4
    damage(store.local_path(shards[0].key) or Path())
    found = catalog.verify()
    assert found.corrupt == [shards[0].key]
    assert 0 < found.objects < 36


def test_rollback_passes_a_damaged_version(store: FolderStore) -> None:
    """When the newest manifest or a shard of it is damaged, errors name it, and a rollback shows a whole version."""
    catalog = catalog_of(store, shard_rows=100)
    catalog.commit([entry("a")], run="r1")
    catalog.commit([entry("b")], run="r2")
    damage(store.local_path("catalogs/c/versions/00000002.json") or Path())
    with pytest.raises(CorruptObject, match=r"versions/00000002\.json.*rollback"):
        catalog.entries()
    assert "00000002" in catalog.versions()[1].problem
    assert catalog.rollback(1) == 3
    assert set(content(catalog)) == {("a", 1)}
    catalog.release()
    catalog.commit([entry("b")], run="r3")
    for info in store.list("catalogs/c/versions/shards/"):
        if info.key not in str(catalog._table.manifest(3).shards):
            damage(store.local_path(info.key) or Path())
    with pytest.raises(CorruptObject, match=r"shards/.*rollback"):
        catalog.entries()
    assert catalog.rollback(3) == 5
    with pytest.raises(CorruptObject):
        catalog.rollback(4)
    assert catalog.latest() == 5


def test_exports(store: FolderStore, tmp_path: Path) -> None:
    """JSON lines and Parquet hold all fields of all entries, and appear whole or not at all."""
    catalog = catalog_of(store)
    entries = [entry(f"a{n}") for n in range(20)]
    catalog.commit(entries, run="r1")
    assert catalog.export_jsonl(tmp_path / "x" / "catalog.jsonl") == 20
    lines = [json.loads(line) for line in (tmp_path / "x" / "catalog.jsonl").read_text("utf-8").splitlines()]
    assert {line["asset_id"]: entry_from_json(line) for line in lines} == {e.asset_id: e for e in entries}
    assert catalog.export_parquet(tmp_path / "x" / "catalog.parquet") == 20
    table = pq.read_table(tmp_path / "x" / "catalog.parquet")
    assert table.num_rows == 20
    assert json.loads(table["columns"][0].as_py())["price"] == "1E5"
    damage(store.local_path(next(iter(store.list("catalogs/c/versions/shards/"))).key) or Path())
    with pytest.raises(CorruptObject):
        open_catalog(store, "c").export_jsonl(tmp_path / "x" / "catalog.jsonl")
    assert len((tmp_path / "x" / "catalog.jsonl").read_text("utf-8").splitlines()) == 20
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["catalog.jsonl", "catalog.parquet"]


def test_an_entry_says_its_own_key() -> None:
    """Entries are found by the key of their asset."""
    assert entry("a").asset_key == asset_key("a")
    assert entry("a").as_json()["master"] == sha("master", "a", 1)
