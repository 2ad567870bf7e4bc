"""Taking back: the ban first, then the catalog, then every later night; and `lift` undoes it without a new picture."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assetmill.operate.lock import AlreadyRunning, hold_lock
from assetmill.operate.query import Question, query
from assetmill.operate.recall import VERSIONS_LOCK, hold_versions, recall, resolve_hash, roll_back
from assetmill.records import InputError
from assetmill.storage.bans import Ban, ban, lift, open_bans
from assetmill.storage.catalog import Catalog, CatalogHeld
from assetmill.storage.decisions import Draft, decide
from assetmill.storage.folder import FolderStore
from productions import NAME, Production, rows
from storage_samples import Died, entry, sha

OTHER = "---\nrank_text: a {{ thing }}\n---\nanother {{ colour }} {{ thing }}\n"


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(3), {"candidates": 3, "publish": {"columns": ["colour"]}})


def take_back(toys: Production, kind: str, value: str, **options: Any) -> Any:
    return recall(toys.store, NAME, kind, value, **options)


def lift_all(toys: Production) -> None:
    lift(toys.store, NAME, [b.id for b in open_bans(toys.store, NAME).bans])


def entries(toys: Production) -> set[tuple[str, int]]:
    return set(toys.published())


# --- a recall and what follows from it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"), [("model", "simulated"), ("licence", "Apache-*"), ("template", "main"), ("model", "*/sim*")]
)
def test_recall_of_all(toys: Production, kind: str, value: str) -> None:
    """What all assets have in common takes all out; the next night makes nothing and leaves them out; lifted, all is
    published again without a new picture."""
    toys.run()
    before = toys.published()
    found = take_back(toys, kind, value, reason="a letter came", by="ann", base_url="https://cdn.example/x/")
    assert (found.assets, found.variants, found.version) == (("000", "001", "002"), 3, 2)
    assert {t.key for t in found.takedown} == {e.object_key for e in toys.catalog.iter_entries(1)}
    assert all(t.live and t.versions == (1, 1) for t in found.takedown)
    assert found.takedown[0].url == f"https://cdn.example/x/{found.takedown[0].key}"
    assert (toys.published(), toys.states()) == ({}, {"banned": 3})
    assert toys.catalog.versions()[1].action == "recall"
    assert "a letter came" in toys.catalog.versions()[1].note
    plan = toys.plan()
    assert all("a letter came" in p.reason and "by ann" in p.reason for p in plan.assets)
    report = toys.run()
    assert (report["pictures"], report["published"], report["catalog_version"]) == (0, 0, 2)
    lift_all(toys)
    report = toys.run()
    assert (report["pictures"], toys.published()) == (0, before)
    toys.check_whole()


def test_recall_of_one_asset(toys: Production) -> None:
    """Others stay as they are, and a corrected row does not bring it back."""
    toys.run()
    found = take_back(toys, "asset", "001")
    assert (found.assets, entries(toys)) == (("001",), {("000", 1), ("002", 1)})
    toys.sheet[1]["colour"] = "green"
    toys.write_sheet()
    assert toys.states() == {"banned": 1, "unchanged": 2}
    assert toys.run(force=True)["pictures"] == 0


def test_recall_of_a_template(toys: Production) -> None:
    """The banned template's pictures go; the asset is chosen again from the others, and back after a lift."""
    toys.templates = {"main.j2": toys.templates["main.j2"], "other.j2": OTHER}
    toys.change(select={"keep": 3, "near_duplicate": 1.0})
    toys.run()
    before = toys.published()
    found = take_back(toys, "template", "oth*")
    left = {(e.asset_id, e.rank) for e in toys.catalog.iter_entries(1) if e.template == "main"}
    assert entries(toys) == left, "ranks stay what they were"
    assert found.variants == len(before) - len(left)
    assert sum(toys.states()[state] for state in ("new", "changed")) == 3, "new: it had pictures of that template only"
    report = toys.run()
    assert (report["pictures"], {e.template for e in toys.catalog.iter_entries()}) == (0, {"main"})
    assert toys.states() == {"unchanged": 3}
    lift_all(toys)
    assert toys.run()["pictures"] == 0
    assert toys.published() == before


@pytest.mark.parametrize("what", ["blob", "master"])
def test_recall_of_a_picture(toys: Production, what: str) -> None:
    """By the hash of a candidate or of a published master: the next-ranked is chosen, and nothing new is made."""
    toys.run()
    old = toys.catalog.show("001")[0]
    found = take_back(toys, "blob", getattr(old, what)[:10])
    assert found.ban is not None
    assert old.blob in found.ban.blobs
    assert (found.ban.assets, found.assets) == (("001",), ("001",))
    assert entries(toys) == {("000", 1), ("002", 1)}
    assert toys.states() == {"new": 1, "unchanged": 2}
    assert toys.run()["pictures"] == 0
    (new,) = toys.catalog.show("001")
    assert new.blob != old.blob
    assert toys.states() == {"unchanged": 3}
    lift_all(toys)
    toys.run()
    assert toys.catalog.show("001")[0].blob == old.blob
    toys.check_whole()


def test_recall_of_every_picture_of_an_asset(toys: Production) -> None:
    """With nothing left to choose an asset is exhausted, and says why; further seeds are made within the budget."""
    toys.change(gates={"regenerate": 0})
    toys.run()
    history = toys.index.history(["001"])["001"]
    for candidate in history.candidates.values():
        take_back(toys, "blob", candidate.blob)
    report = toys.run()
    assert (report["pictures"], report["outcomes"]) == (0, {"exhausted": 1})
    assert toys.index.history(["001"])["001"].outcome.reason == "none of 3 candidates passed: 3 × recalled"  # type: ignore[union-attr]
    toys.change(gates={"regenerate": 0.4})
    report = toys.run()
    assert (report["pictures"], report["outcomes"]) == (1, {"chosen": 3})


def approve(toys: Production, asset_id: str, blob: str) -> None:
    decide(toys.store, NAME, Draft(asset_id=asset_id, kind="approve", by="ann", blob=blob), seen=0)


def test_recall_of_a_reviewer(toys: Production) -> None:
    """Approvals of that person count for nothing: the asset is chosen by rank again, and pinned again after a lift."""
    toys.run()
    best = toys.catalog.show("001")[0].blob
    other = next(c.blob for c in toys.index.history(["001"])["001"].candidates.values() if c.blob != best)
    approve(toys, "001", other)
    toys.run()
    (entry_of,) = toys.catalog.show("001")
    assert (entry_of.blob, entry_of.reviewer) == (other, "ann")
    assert take_back(toys, "reviewer", "ann").assets == ("001",)
    assert toys.run()["pictures"] == 0
    (entry_of,) = toys.catalog.show("001")
    assert (entry_of.blob, entry_of.reviewer) == (best, "")
    assert toys.states() == {"unchanged": 3}
    lift_all(toys)
    toys.run()
    assert toys.catalog.show("001")[0].blob == other


def test_approved_pictures_are_no_way_around(toys: Production) -> None:
    """An approved picture stays when its template leaves the config; a ban on the template takes it all the same."""
    toys.templates = {"main.j2": toys.templates["main.j2"], "other.j2": OTHER}
    toys.write()
    toys.run()
    history = toys.index.history(["001"])["001"]
    key = next(r.key for r in history.requests.values() if r.template == "other")
    approve(toys, "001", history.candidates[key].blob)
    toys.change(prompts={"templates": ["main.j2"]})
    toys.run()
    assert toys.catalog.show("001")[0].template == "other"
    found = take_back(toys, "template", "other.j2")
    assert found.ban is not None
    assert found.ban.assets == ("001",)
    toys.run()
    assert toys.catalog.show("001")[0].template == "main"
    assert toys.states() == {"unchanged": 3}


def test_a_candidate_nobody_published(toys: Production) -> None:
    """A picture that was never published can be taken back too: it is never chosen afterwards."""
    toys.run(publish_now=False)
    chosen = toys.index.history(["002"])["002"]
    best = next(iter(chosen.variants.values())).blob
    found = take_back(toys, "blob", best)
    assert (found.takedown, found.ban.assets) == ((), ("002",))  # type: ignore[union-attr]
    toys.run()
    assert toys.catalog.show("002")[0].blob != best


def test_dry_run_changes_nothing(toys: Production) -> None:
    """A dry run lists what would go, and writes neither ban nor version."""
    toys.run()
    before = {i.key for i in toys.store.list("")}
    found = take_back(toys, "asset", "001", dry_run=True)
    assert (found.ban, found.version, found.assets, len(found.takedown)) == (None, 1, ("001",), 1)
    assert {i.key for i in toys.store.list("")} == before


def test_again_changes_nothing(toys: Production) -> None:
    """The same recall again writes nothing, and lists the same files."""
    toys.run()
    first = take_back(toys, "asset", "001")
    before = {i.key for i in toys.store.list("")}
    again = take_back(toys, "asset", "001")
    assert (again.ban, again.version) == (first.ban, first.version)
    assert [replace(t, live=True) for t in again.takedown] == list(first.takedown)
    assert {i.key for i in toys.store.list("")} == before


def test_older_versions_are_listed(toys: Production) -> None:
    """Files of earlier versions are to be taken down as well, marked as no longer shown."""
    toys.run()
    toys.change(publish={"name": "{id}_by_{seed}"})
    toys.run()
    found = take_back(toys, "asset", "000")
    assert [(t.live, t.versions) for t in found.takedown] == [(True, (2, 2)), (False, (1, 1))]


# --- rollback, races, kills ---------------------------------------------------------------------------------


def test_rollback_does_not_bring_it_back(toys: Production) -> None:
    """A version from before the recall is restored without what was recalled; the hold stays until released."""
    toys.run()
    take_back(toys, "asset", "001")
    assert roll_back(toys.store, NAME, 1, reason="a mistake", by="bob") == 3
    assert entries(toys) == {("000", 1), ("002", 1)}
    held = toys.catalog.held()
    assert held is not None
    assert (held["reason"], held["by"]) == ("a mistake", "bob")
    toys.sheet[0]["colour"] = "green"
    toys.write_sheet()
    assert toys.run()["catalog_version"] == 3, "held"
    lift_all(toys)
    assert toys.run()["catalog_version"] == 3, "a lift is no release"
    toys.catalog.release(reason="looked at")
    assert entries(toys) == {("000", 1), ("002", 1)}
    toys.run()
    assert len(entries(toys)) == 3


def test_recall_goes_through_a_hold(toys: Production) -> None:
    """A held catalog publishes nothing, and still what is recalled goes at once."""
    toys.run()
    toys.catalog.rollback(1)
    take_back(toys, "asset", "001")
    assert entries(toys) == {("000", 1), ("002", 1)}
    assert toys.catalog.held()
    with pytest.raises(CatalogHeld):
        toys.catalog.commit([entry("x")], run="r")


def test_killed_after_the_ban(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ban outlives a recall that died before the catalog; the next run takes out what is still in, held or not."""
    toys.run()
    toys.catalog.rollback(1)
    monkeypatch.setattr(Catalog, "withdraw", lambda *_, **__: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        take_back(toys, "asset", "001")
    monkeypatch.undo()
    assert len(entries(toys)) == 3
    assert toys.states() == {"banned": 1, "unchanged": 2}
    report = toys.run()
    assert (report["pictures"], entries(toys)) == (0, {("000", 1), ("002", 1)})
    assert toys.run()["catalog_version"] == report["catalog_version"], "once"


def test_recalled_while_a_run_is_under_way(toys: Production) -> None:
    """A recall does not wait for a run, and that run does not publish what was recalled meanwhile."""
    toys.run(only=["000"])
    report = toys.run(on_run=lambda _: take_back(toys, "asset", "001"))
    assert report["pictures"] == 6
    assert entries(toys) == {("000", 1), ("002", 1)}
    assert toys.run()["pictures"] == 0


def test_publisher_that_had_not_seen_the_ban(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that read the bans before the recall loses the race for its version, looks again, and leaves it out."""
    store = FolderStore(tmp_path, sync=False)
    catalog = Catalog(store, "c")
    commit, raced = catalog._table.commit, []

    def slow(*args: Any, **options: Any) -> int:
        if not raced:
            raced.append(recall(store, "c", "asset", "bad").version)
        return commit(*args, **options)

    monkeypatch.setattr(catalog._table, "commit", slow)
    assert catalog.commit([entry("good"), entry("bad")], run="r") == 2
    assert raced == [1]
    assert [e.asset_id for e in catalog.iter_entries()] == ["good"]


def test_new_entries_under_a_ban(tmp_path: Path) -> None:
    """Whatever is committed, no version holds what a ban covers: not the new entries, not those there were."""
    store = FolderStore(tmp_path, sync=False)
    catalog = Catalog(store, "c", shard_rows=8)
    catalog.commit([entry(f"a{n}", r, reviewer="ann" if r == 2 else "bob") for n in range(30) for r in (1, 2)], run="1")
    ban(store, "c", "reviewer", "ann")
    ban(store, "c", "asset", "a3")
    catalog.commit([entry("new", reviewer="ann"), entry("a1", 1, reviewer="ann"), entry("a2", seed=4)], ["a4"], run="2")
    found = {(e.asset_id, e.rank): e for e in catalog.iter_entries()}
    assert set(found) == {(f"a{n}", 1) for n in range(30) if n not in (1, 3, 4)}
    assert found["a2", 1].seed == 4
    assert catalog.withdraw(always=False) == 2, "nothing is left to take out"


def test_expiry_and_recall_wait_for_each_other(tmp_path: Path) -> None:
    """Versions are made and expired by one at a time; who waits too long says for whom."""
    store = FolderStore(tmp_path, sync=False)
    with hold_versions(store, "c", "gc"):
        with pytest.raises(AlreadyRunning, match="command gc"), hold_versions(store, "c", "recall", patience=0.2):
            pass
        with hold_lock(store, "c"):  # a run does not mind
            late = threading.Thread(target=lambda: recall(store, "c", "asset", "x"))
            late.start()
            late.join(0.3)
            assert late.is_alive()
            assert open_bans(store, "c"), "the ban does not wait"
    late.join(10)
    assert store.stat(f"locks/c.{VERSIONS_LOCK}.json")
    assert Catalog(store, "c").latest() == 1


# --- finding ------------------------------------------------------------------------------------------------


def test_query(toys: Production) -> None:
    """Entries are found by every key and by columns that left; with all versions also what is gone."""
    toys.run()
    toys.change(publish={"name": "{id}_by_{seed}"})
    toys.run()
    take_back(toys, "asset", "001")
    catalog = toys.catalog
    assert [f.asset_id for f in query(catalog, Question({"model": ["simulated"]}))] == ["000", "002"]
    assert query(catalog, Question({"model": ["simulated"], "asset": ["001"]})) == []
    gone = query(catalog, Question({"asset": ["001"]}), all_versions=True, base_url="s3://b")
    assert [(f.live, f.versions) for f in gone] == [(False, (1, 1)), (False, (2, 2))]
    assert gone[0].urls == (f"s3://b/{gone[0].files[0]}",)
    (red,) = query(catalog, Question(columns={"colour": ["*2", "blue"]}))
    assert (red.asset_id, red.versions, red.live) == ("002", (3, 3), True)
    assert len(query(catalog, Question())) == 2
    with pytest.raises(InputError, match="no entry has a column 'price'; columns that may leave are colour"):
        query(catalog, Question(columns={"price": ["1"]}))
    with pytest.raises(InputError, match="nothing is found by 'size'"):
        query(catalog, Question({"size": ["1"]}))


def test_hashes_by_their_beginning(tmp_path: Path) -> None:
    """A hash is given whole, by its beginning where one published thing has it, or as a file; else an error says so."""
    catalog = Catalog(FolderStore(tmp_path / "s", sync=False), "c")
    one, other = entry("a"), entry("b")
    catalog.commit([one, other], run="r")
    assert resolve_hash(catalog, "blob", one.blob[:8]) == one.blob
    assert resolve_hash(catalog, "blob", sha("anything")) == sha("anything")
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"weights")
    assert len(resolve_hash(catalog, "adapter", str(file))) == 64
    for value, message in (
        ("0123456789", "no hash that was published begins with 0123456789"),
        ("style", "no adapter is named so .*; give its file"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_hash(catalog, "adapter", value)


def test_reason_of_a_ban_is_readable() -> None:
    """The text that plans and logs show says what, who, when and why."""
    text = str(Ban("01J", "licence", "cc-by-nc-4.0", "not for sale", "ann", "2026-11-27T03:00:00+00:00"))
    assert text == "licence 'cc-by-nc-4.0' was recalled by ann on 2026-11-27, because: not for sale (ban 01J)"
