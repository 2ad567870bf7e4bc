"""Letting go: what nothing needs goes, what anything needs stays, and no later night makes it again."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import Config, RetentionConfig, read_config
from assetmill.operate.gc import RUNS_KEPT, Collected, collect, configs_in
from assetmill.operate.lock import AlreadyRunning, hold_lock
from assetmill.operate.recall import recall, roll_back
from assetmill.operate.runs import new_run_id
from assetmill.records import InputError
from assetmill.storage.decisions import Draft, decide
from assetmill.storage.folder import FolderStore
from assetmill.storage.layout import thumbnail_path
from assetmill.storage.store import put_blob
from fixtures_s3 import make_bucket
from productions import NAME, Production, rows
from servers.ceph_gateway import Endpoint
from storage_samples import Died, damage

DAY = 86_400.0
LATER = 400 * DAY
AT_ONCE = RetentionConfig(losers=0, versions=1, version_days=0, runs=0, orphans=0, aside=0, embeddings=0, grace_hours=0)


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    toys = Production(tmp_path / "p", rows(3), {"candidates": 3})
    toys.run()
    return toys


def config(toys: Production, **retention: Any) -> Config:
    keep = AT_ONCE.model_copy(update=retention)
    return read_config(toys.path).model_copy(update={"retention": keep})


def let_go(toys: Production, *, delete: bool = True, later: float = LATER, **retention: Any) -> dict[str, int]:
    """What went, by kind."""
    return counts(collect(toys.store, config(toys, **retention), delete=delete, now=time.time() + later))


def counts(found: Collected) -> dict[str, int]:
    return {s.kind: len(s.keys) for s in found.sweeps}


def everything(toys: Production) -> dict[str, int]:
    return {i.key: i.size for i in toys.store.list("") if not i.key.startswith("locks/")}


def check_sound(toys: Production) -> None:
    """All that is still there is whole, and a night finds nothing to make."""
    for version in toys.catalog.versions():
        assert toys.catalog.verify(version.version).passed
    assert not toys.index.problems


# --- pictures -----------------------------------------------------------------------------------------------


def test_losers_go_and_are_not_made_again(toys: Production) -> None:
    """The next night makes nothing; a later choice does without what is gone, and still makes nothing."""
    before = toys.published()
    assert let_go(toys)["losers"] == 6
    check_sound(toys)
    assert toys.run()["pictures"] == 0
    assert (toys.states(), toys.published()) == ({"unchanged": 3}, before)
    toys.change(upscale={"scale": 3}, gates={"regenerate": 0})
    report = toys.run()
    assert (report["pictures"], report["outcomes"]) == (0, {"chosen": 3})
    assert {e.blob for e in toys.catalog.iter_entries()} == {e.blob for e in toys.catalog.iter_entries(1)}
    assert let_go(toys) == {"versions": 1, "shards": 2, "published": 3, "spare": 3}
    check_sound(toys)


def test_a_second_time_nothing_goes(toys: Production) -> None:
    """What went does not come up again, and no second record says so."""
    let_go(toys)
    before = everything(toys)
    assert let_go(toys) == {}
    assert everything(toys) == before


def test_looking_changes_nothing(toys: Production) -> None:
    """Without `delete` nothing is written, and the same is found as then goes."""
    before = everything(toys)
    planned = let_go(toys, delete=False)
    assert everything(toys) == before
    assert not toys.store.stat(f"locks/{NAME}.versions.json")
    assert let_go(toys) == planned


def test_young_things_stay(toys: Production) -> None:
    """Days and hours of grace count from when the store got an object."""
    put_blob(toys.store, b"nobody's", "png", "image/png")
    assert let_go(toys, later=0.0, grace_hours=1) == {}
    assert let_go(toys, later=9 * DAY, losers=10, orphans=10) == {}
    assert let_go(toys, later=9 * DAY, losers=None, orphans=None) == {}
    assert let_go(toys, later=11 * DAY, losers=10, orphans=12, delete=False) == {"losers": 6}
    assert let_go(toys, later=11 * DAY, losers=None, orphans=10) == {"orphans": 1}


def test_what_waits_for_people_stays(tmp_path: Path) -> None:
    """All candidates of an asset that waits for review are kept, and so is what somebody approved."""
    toys = Production(tmp_path / "p", rows(2), {"candidates": 3, "publish": {"policy": "approved"}})
    toys.run()
    assert toys.states() == {"pending_review": 2}
    assert let_go(toys) == {}


def test_what_people_approved_stays(toys: Production) -> None:
    """An approved loser is kept; a rejected one may go."""
    history = toys.index.history(["000"])["000"]
    chosen = {v.blob for v in history.variants.values()}
    one, other = [c.blob for c in history.candidates.values() if c.blob not in chosen]
    decide(toys.store, NAME, Draft(asset_id="000", kind="approve", by="ann", blob=one), seen=0)
    decide(toys.store, NAME, Draft(asset_id="000", kind="reject", by="ann", blob=other, reason="dull"), seen=1)
    assert let_go(toys)["losers"] == 5
    left = {i.key.rpartition("/")[2].partition(".")[0] for i in toys.store.list("blobs/")}
    assert one in left
    assert other not in left


def test_approved_at_the_last_moment(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who approves a picture while its expiry is being recorded keeps its bytes."""
    from assetmill.operate import gc

    history = toys.index.history(["000"])["000"]
    chosen = {v.blob for v in history.variants.values()}
    blob = next(c.blob for c in history.candidates.values() if c.blob not in chosen)
    record = gc._Collection._record_expiry

    def approve_then(self: Any, keys: Any) -> None:
        decide(toys.store, NAME, Draft(asset_id="000", kind="approve", by="ann", blob=blob), seen=0)
        record(self, keys)

    monkeypatch.setattr(gc._Collection, "_record_expiry", approve_then)
    assert let_go(toys)["losers"] == 5
    assert any(blob in i.key for i in toys.store.list("blobs/"))


def test_forced_made_again(toys: Production) -> None:
    """With nothing left to choose an asset is exhausted; forced, what expired is made again and counts again."""
    toys.change(gates={"regenerate": 0})
    toys.run()
    let_go(toys)
    recall(toys.store, NAME, "blob", toys.catalog.show("001")[0].blob)
    report = toys.run()
    assert (report["pictures"], report["outcomes"]) == (0, {"exhausted": 1})
    outcome = toys.index.history(["001"])["001"].outcome
    assert outcome is not None
    assert outcome.reason == "none of 3 candidates passed: 2 × expired, 1 × recalled"
    report = toys.run(force=True)
    assert (report["pictures"], report["outcomes"]) == (2, {"chosen": 1})
    check_sound(toys)
    assert toys.run()["pictures"] == 0


def test_thumbnails_go_with_their_pictures(toys: Production) -> None:
    """Small copies go when what they show is not needed; those of chosen pictures stay."""
    blobs = [c.blob for c in toys.candidates()]
    for blob in blobs:
        toys.store.put_if_absent(thumbnail_path(blob), b"small")
    assert let_go(toys) == {"losers": 6, "thumbnails": 6}
    assert len(list(toys.store.list("thumbnails/"))) == 3


def test_two_configs_share_a_picture(tmp_path: Path) -> None:
    """What one config lets go stays while another needs it; when both let it go it goes."""
    store = {"store": {"url": str(tmp_path / "s")}, "candidates": 3}
    one = Production(tmp_path / "a", rows(2), store)
    other = Production(tmp_path / "b", rows(2), {**store, "name": "games", "select": {"keep": 3, "near_duplicate": 1}})
    one.run()
    assert other.run()["pictures"] == 6
    assert configs_in(other_store(one)) == ["games", NAME]
    assert "losers" not in let_go(one)
    other.change(select={"keep": 1})
    other.run()
    found = collect(other_store(other), config(other), delete=True, now=time.time() + LATER)
    assert "losers" not in counts(found), "they count as needed for the first config"
    assert one.run()["pictures"] == other.run()["pictures"] == 0


def other_store(toys: Production) -> FolderStore:
    return FolderStore(toys.folder.parent / "s", sync=False)


def test_documents_of_strangers_keep_their_pictures(toys: Production) -> None:
    """A document that this version knows nothing of keeps the pictures it names."""
    kept = put_blob(toys.store, b"a baseline", "png", "image/png")
    put_blob(toys.store, b"nobody's", "png", "image/png")
    toys.store.put_if_absent("baselines/toys/1.json", json.dumps({"pictures": [kept]}).encode())
    assert let_go(toys, losers=None) == {"orphans": 1}
    assert any(kept in i.key for i in toys.store.list("blobs/"))


# --- versions, runs, files ----------------------------------------------------------------------------------


def publish_versions(toys: Production, count: int) -> None:
    for number in range(count):
        toys.change(publish={"name": "{id}_v" + str(number)})
        toys.run()


def test_old_versions_go_with_their_files(toys: Production) -> None:
    """The newest stay whole; the others' manifests, shards and files go, and can no longer be shown or restored."""
    publish_versions(toys, 4)
    found = let_go(toys, versions=2, losers=None, runs=None)
    assert (found["versions"], found["published"]) == (3, 9)
    assert [v.version for v in toys.catalog.versions()] == [4, 5]
    check_sound(toys)
    assert len(list(toys.store.list("published/"))) == 6
    with pytest.raises(InputError, match="no version 2; versions go up to 5, old ones may have expired"):
        toys.catalog.show("000", 2)
    with pytest.raises(InputError, match="no version 2"):
        roll_back(toys.store, NAME, 2)
    assert toys.catalog.held() is None
    assert roll_back(toys.store, NAME, 4) == 6
    toys.catalog.release()
    toys.sheet[0]["colour"] = "green"
    toys.write_sheet()
    assert toys.run()["catalog_version"] == 7
    check_sound(toys)


def test_held_versions_stay(toys: Production) -> None:
    """The version that a held catalog was rolled back to, and the one it came from, are kept."""
    publish_versions(toys, 3)
    toys.catalog.rollback(2)
    let_go(toys)
    assert [v.version for v in toys.catalog.versions()] == [2, 4, 5]
    check_sound(toys)


def test_versions_by_age(toys: Production) -> None:
    """A version that was the newest until lately is kept, however old it is."""
    publish_versions(toys, 2)
    assert "versions" not in let_go(toys, later=5 * DAY, version_days=6)
    assert "versions" not in let_go(toys, version_days=None)
    assert let_go(toys, later=7 * DAY, version_days=6)["versions"] == 2


def test_files_that_no_version_named(toys: Production) -> None:
    """Files of a run that died before its catalog go; those that belong to no asset are left alone."""
    entry = toys.catalog.show("000")[0]
    stray = entry.object_key.replace("000_1", "000_9")
    toys.store.put_if_absent(stray, b"x")
    toys.store.put_if_absent("published/master/atlas/sheet-00000000.png", b"x")
    assert let_go(toys, losers=None) == {"published": 1}
    assert toys.store.stat(stray) is None
    check_sound(toys)


def test_runs(toys: Production) -> None:
    """Folders of old runs go but for the newest, the report last; the sheets that only they named go with them."""
    for day in range(RUNS_KEPT + 2):
        run = new_run_id(time.time() - (day + 10) * DAY)
        sheet = put_blob(toys.store, f"sheet {day}".encode(), "csv", "text/csv")
        for name in ("snapshot.json", "report.json", "plan.json"):
            toys.store.put_if_absent(f"runs/{NAME}/{run}/{name}", json.dumps({"sheet": sheet}).encode())
    found = collect(toys.store, config(toys, losers=None, runs=30), delete=False, now=time.time())
    assert {s.kind: len(s.keys) for s in found.sweeps if s.kind in ("runs", "orphans")} == {"runs": 6, "orphans": 2}
    runs = next(s for s in found.sweeps if s.kind == "runs")
    assert runs.keys[2].endswith("/report.json")
    assert let_go(toys, losers=None)["runs"] == 9
    assert len({i.key.split("/")[2] for i in toys.store.list(f"runs/{NAME}/0")}) == RUNS_KEPT


def test_index_versions(toys: Production) -> None:
    """Of the index a few versions stay; it reads as before."""
    for _ in range(5):
        toys.sheet[0]["colour"] += "x"
        toys.write_sheet()
        toys.run()
        toys.index.compact(min_segments=1)
    before = toys.index.statuses()
    assert let_go(toys, losers=None)["index"] > 2
    assert len(toys.index.table.versions()) == 3
    assert toys.index.statuses() == before
    check_sound(toys)


def test_damage_keeps_pictures(toys: Production) -> None:
    """While a record cannot be read nobody knows what it named: pictures are left alone, and the problem is told."""
    (segment,) = toys.store.list(f"records/{NAME}/")
    damage(toys.store.root / segment.key)
    found = collect(toys.store, config(toys), delete=True, now=time.time() + LATER)
    assert not {"losers", "orphans", "published", "spare"} & set(counts(found))
    assert any(segment.key in problem for problem in found.problems)


# --- together with others -----------------------------------------------------------------------------------


def test_not_while_a_run_is_under_way(tmp_path: Path, toys: Production) -> None:
    """Nothing is deleted while any config of the store runs; looking is allowed."""
    toys.store.put_if_absent("records/other/x/000000.jsonl", b"")
    for name in (NAME, "other"):
        with hold_lock(toys.store, name), pytest.raises(AlreadyRunning):
            let_go(toys)
        with hold_lock(toys.store, name):
            let_go(toys, delete=False)


class Fragile:
    """A store that dies at its n-th change."""

    def __init__(self, store: FolderStore, changes: int) -> None:
        self.store, self.left = store, changes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def _change(self, key: str) -> None:
        if not key.startswith("locks/"):
            self.left -= 1
            if self.left < 0:
                raise Died

    def delete(self, key: str) -> None:
        self._change(key)
        self.store.delete(key)

    def put_if_absent(self, key: str, data: bytes, **options: Any) -> bool:
        self._change(key)
        return self.store.put_if_absent(key, data, **options)


@pytest.mark.parametrize("tenths", range(10))
def test_killed_at_any_moment(tmp_path: Path, tenths: int) -> None:
    """Whatever was deleted, all that is named is whole, no night makes anything again, and the rest goes next time."""
    toys = Production(tmp_path / "p", rows(2), {"candidates": 3})
    toys.run()
    publish_versions(toys, 2)
    put_blob(toys.store, b"nobody's", "png", "image/png")
    published = toys.published()
    whole = collect(toys.store, config(toys), now=time.time() + LATER).objects
    with pytest.raises(Died):
        collect(Fragile(toys.store, whole * tenths // 10), config(toys), delete=True, now=time.time() + LATER)  # type: ignore[arg-type]
    for version in toys.catalog.versions():
        found = toys.catalog.verify(version.version)
        assert version.version < 3 or found.passed
    assert toys.run()["pictures"] == 0
    assert toys.published() == published
    rest = collect(toys.store, config(toys), delete=True, now=time.time() + LATER)
    assert rest.objects <= whole + 2
    check_sound(toys)
    assert let_go(toys) == {}
    toys.change(upscale={"scale": 3}, gates={"regenerate": 0})
    assert toys.run()["pictures"] == 0


def test_in_a_bucket(tmp_path: Path, moto_endpoint: Endpoint) -> None:
    """A bucket is swept as a folder is: the same goes, the rest is whole, a later night makes nothing."""
    bucket = make_bucket(moto_endpoint)
    where = {"url": bucket.url, "endpoint_url": bucket.endpoint_url, "region": bucket.region}
    toys = Production(tmp_path / "p", rows(2), {"candidates": 2, "store": {**where, "options": {}}})
    toys.run()
    store = toys.job().store
    now = time.time() + LATER
    before = {i.key for i in store.list("")}
    gone = collect(store, config(toys), delete=True, now=now)
    assert counts(gone)["losers"] == 2
    left = {i.key for i in store.list("")}
    assert {key for sweep in gone.sweeps for key in sweep.keys} == before - left
    assert toys.job().catalog.verify().passed
    assert toys.run()["pictures"] == 0


def test_retention_of_the_config_file(toys: Production) -> None:
    """The config's own keys decide; by default a fresh store loses nothing."""
    assert collect(toys.store, read_config(toys.path)).objects == 0
    toys.change(retention={"losers": 0, "grace_hours": 0})
    found = collect(toys.store, read_config(toys.path), now=time.time() + 1)
    assert counts(found) == {"losers": 6}
    assert found.as_json()["bytes"] == sum(s.size for s in found.sweeps)
    assert replace(found, deleted=True).as_json()["deleted"]
