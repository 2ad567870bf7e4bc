"""The versioned table: equal to a dict, split by hash, shared between versions, torn by nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetmill.records import asset_key
from assetmill.storage.folder import FolderStore
from assetmill.storage.store import CorruptObject
from assetmill.storage.table import Conflict, MissingVersion, VersionedTable

SCHEMA = pa.schema([("asset_key", pa.string()), ("rank", pa.int32()), ("value", pa.int64()), ("text", pa.string())])
NAMES = [asset_key(f"asset-{n}") for n in range(40)]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", sync=False)


def make_table(store: FolderStore, **options: object) -> VersionedTable:
    options = {"shard_rows": 8, "parts": {"small": ["asset_key", "rank", "value"], "wide": ["text"]}, **options}
    return VersionedTable(store, "t/one", SCHEMA, ("asset_key", "rank"), **options)  # type: ignore[arg-type]


def rows_of(model: Mapping[str, list[int]]) -> pa.Table:
    rows = [(key, rank, value) for key, values in model.items() for rank, value in enumerate(values)]
    return pa.table(
        {
            "asset_key": [r[0] for r in rows],
            "rank": [r[1] for r in rows],
            "value": [r[2] for r in rows],
            "text": [f"text {r[2]}" for r in rows],
        },
        schema=SCHEMA,
    )


def model_of(table: pa.Table) -> dict[str, list[int]]:
    model: dict[str, list[int]] = {}
    for row in table.to_pylist():
        assert row["rank"] == len(model.setdefault(row["asset_key"], []))
        assert row["text"] == f"text {row['value']}"
        model[row["asset_key"]].append(row["value"])
    return model


changes = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.lists(st.integers(0, 99), min_size=1, max_size=4), max_size=15),
        st.sets(st.sampled_from(NAMES), max_size=6),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_table_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[dict[str, list[int]], set[str], int]],
) -> None:
    """After any upserts and deletes, in one batch or several in any order, every version equals a dict's."""
    table = make_table(FolderStore(tmp_path_factory.mktemp("model"), sync=False))
    model: dict[str, list[int]] = {}
    versions = [dict(model)]
    for number, (upserts, gone, batches) in enumerate(steps):
        names = list(upserts)
        given_rows = [rows_of({n: upserts[n] for n in names[i::batches]}) for i in range(batches)]
        table.commit(given_rows if number % 2 else rows_of(upserts), gone, base=number, meta={"step": number})
        model = {k: v for k, v in model.items() if k not in gone} | upserts
        versions.append(dict(model))
        manifest = table.manifest()
        assert (manifest.rows, manifest.assets) == (sum(map(len, model.values())), len(model))
        assert all(shard.rows <= 8 for shard in manifest.shards.values())
        assert not any(a != b and b.startswith(a) for a in manifest.shards for b in manifest.shards)
    for version, expected in enumerate(versions):
        assert model_of(table.read(version)) == dict(sorted(expected.items()))
    some = NAMES[::3]
    assert model_of(table.read(shards_for=some)) == {k: v for k, v in sorted(model.items()) if k in some}


def test_a_commit_rewrites_touched_shards_only(store: FolderStore) -> None:
    """A version shares with its parent all shards that no changed asset lies in."""
    table = make_table(store)
    table.commit(rows_of({n: [1, 2] for n in NAMES}), base=0, meta={})
    table.commit(rows_of({NAMES[0]: [7]}), base=1, meta={})
    old, new = table.manifest(1).shards, table.manifest(2).shards
    touched = table.manifest(2).prefix_of(NAMES[0])
    assert [p for p in new if new[p] != old.get(p)] == [touched]
    assert len(new) > 4


def test_equal_rows_give_equal_files(store: FolderStore) -> None:
    """Shards are named by their content: the same rows in another order and another version are the same file."""
    table = make_table(store)
    table.commit(rows_of({n: [1] for n in NAMES}), base=0, meta={})
    table.commit(rows_of({n: [1] for n in reversed(NAMES)}), base=1, meta={})
    assert table.manifest(1).shards == table.manifest(2).shards


def test_only_the_shards_and_files_asked_for_are_read(store: FolderStore) -> None:
    """A read of small columns for some assets opens only the small files of those assets' shards."""
    table = make_table(store, cache_bytes=0)
    table.commit(rows_of({n: [1] for n in NAMES}), base=0, meta={})
    shards = table.manifest().shards
    mine = shards[table.manifest().prefix_of(NAMES[0]) or ""]
    for shard in shards.values():
        store.delete(shard.parts["wide"].file)
        if shard != mine:
            store.delete(shard.parts["small"].file)
    assert table.read(columns=["value"], shards_for=[NAMES[0]]).to_pylist() == [{"value": 1}]


def test_the_loser_of_a_race_is_told(store: FolderStore) -> None:
    """Of two commits on one base the second raises Conflict and leaves nothing visible."""
    table = make_table(store)
    table.commit(rows_of({NAMES[0]: [1]}), base=0, meta={})
    with pytest.raises(Conflict, match="version 1 already"):
        table.commit(rows_of({NAMES[1]: [2]}), base=0, meta={})
    assert table.latest() == 1
    assert model_of(table.read()) == {NAMES[0]: [1]}


def test_racing_commits_land_exactly_once(store: FolderStore) -> None:
    """Twenty threads that rebase on Conflict all land, each in a version of its own."""

    def work(n: int) -> None:
        table = make_table(store)
        while True:
            base = table.latest()
            try:
                table.commit(rows_of({NAMES[n]: [n]}), base=base, meta={"n": n})
                return
            except Conflict:
                continue

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = make_table(store)
    assert table.latest() == 20
    assert sorted(table.manifest(v).meta["n"] for v in range(1, 21)) == list(range(20))
    assert model_of(table.read()) == dict(sorted((NAMES[n], [n]) for n in range(20)))


def damage(path: Path) -> None:
    """Flips one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_named(store: FolderStore, how: str) -> None:
    """A flipped bit, a truncated or a missing shard is found by its hash, and the error names the file."""
    table = make_table(store, shard_rows=1000)
    table.commit(rows_of({NAMES[0]: [1]}), base=0, meta={})
    key = table.manifest().shards[""].parts["small"].file
    path = store.local_path(key)
    if how == "flip":
        damage(path)
    elif how == "truncate":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.unlink()
    with pytest.raises(CorruptObject, match=r"shards/[0-9a-f]{64}\.parquet"):
        table.read()


def test_writing_the_same_rows_heals_a_damaged_shard(store: FolderStore) -> None:
    """A commit that meets its own shard damaged sets that aside and stores it whole."""
    table = make_table(store, shard_rows=1000)
    table.commit(rows_of({NAMES[0]: [1]}), base=0, meta={})
    damage(store.local_path(table.manifest().shards[""].parts["wide"].file))
    table.commit(rows_of({NAMES[0]: [1]}), base=0, meta={}, number=2)
    assert model_of(table.read(2)) == {NAMES[0]: [1]}
    assert [i.key for i in store.list("aside/")]


def test_a_damaged_manifest_is_named_and_can_be_passed(store: FolderStore) -> None:
    """A manifest carries its own hash; a commit may skip over one that cannot be read."""
    table = make_table(store)
    table.commit(rows_of({NAMES[0]: [1]}), base=0, meta={})
    table.commit(rows_of({NAMES[1]: [2]}), base=1, meta={})
    path = store.local_path(table.manifest_path(2))
    path.write_text(path.read_text().replace('"rows": 2', '"rows": 3'))
    with pytest.raises(CorruptObject, match=r"t/one/00000002\.json"):
        table.manifest()
    table.commit(rows_of({NAMES[1]: [3]}), base=1, number=3, meta={})
    assert model_of(table.read()) == dict(sorted({NAMES[0]: [1], NAMES[1]: [3]}.items()))


def test_missing_versions_and_wrong_keys_are_refused(store: FolderStore) -> None:
    """A version that never was and an asset key that is no hash raise errors that say so."""
    table = make_table(store)
    assert table.latest() == 0
    assert table.read().num_rows == 0
    with pytest.raises(MissingVersion, match="no version 3"):
        table.read(3)
    with pytest.raises(ValueError, match="64 hex digits"):
        table.commit(rows_of({"../up": [1]}), base=0, meta={})


def test_columns_that_came_later_read_as_null(store: FolderStore) -> None:
    """A shard written before a column existed reads as null there, and keeps it through a rewrite of its neighbours."""
    old = VersionedTable(store, "t/grow", SCHEMA)
    old.commit(rows_of({NAMES[0]: [1]}), base=0, meta={})
    grown = VersionedTable(store, "t/grow", SCHEMA.append(pa.field("new", pa.float64())))
    assert grown.read(columns=["value", "new"]).to_pylist() == [{"value": 1, "new": None}]
    rows = rows_of({NAMES[1]: [2]}).append_column("new", pa.array([0.5]))
    grown.commit(rows, base=1, meta={})
    assert {r["value"]: r["new"] for r in grown.read().to_pylist()} == {1: None, 2: 0.5}


class Died(BaseException):
    """What no `except Exception` catches."""


class MortalStore(FolderStore):
    """A store that dies at the n-th call that writes (0 to never), before or after the call had its effect."""

    calls = 0
    dies_at = 0
    after = False

    def put_if_absent(self, key: str, data: bytes, **options: str) -> bool:
        self.calls += 1
        if self.calls == self.dies_at and not self.after:
            raise Died
        done = super().put_if_absent(key, data, **options)
        if self.calls == self.dies_at:
            raise Died
        return done


@pytest.mark.parametrize("after", [False, True])
def test_death_at_any_write_leaves_a_whole_version(tmp_path: Path, after: bool) -> None:
    """Killed at any store call, a table shows the old version or the new one, whole; a retry then succeeds."""
    old, new = {n: [1] for n in NAMES}, {n: [2, 3] for n in NAMES[:20]}
    for dies_at in range(1, 200):
        store = MortalStore(tmp_path / f"{after}-{dies_at}", sync=False)
        table = make_table(store, threads=1)
        table.commit(rows_of(old), base=0, meta={})
        store.calls, store.dies_at, store.after = 0, dies_at, after
        try:
            table.commit(rows_of(new), base=1, meta={})
        except Died:
            pass
        else:
            assert dies_at > 5
            return
        store.dies_at = 0
        latest = table.latest()
        assert model_of(table.read()) == dict(sorted((old if latest == 1 else old | new).items()))
        if latest == 1:
            table.commit(rows_of(new), base=1, meta={})
        assert model_of(table.read(2)) == dict(sorted((old | new).items()))
    pytest.fail("the commit never ran to its end")
