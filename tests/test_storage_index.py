"""The index: what exists, from segments that may be damaged, through compactions that lose nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.records import Record, asset_key, record_line, segment_bytes
from assetmill.storage import index as index_module
from assetmill.storage import spill as spill_module
from assetmill.storage.folder import FolderStore
from assetmill.storage.index import CUT, OK, POISON, REJECTED, TRANSIENT, Index, open_index, write_segment
from assetmill.storage.segments import read_segment
from assetmill.storage.store import CorruptObject, open_store
from fixtures_s3 import make_bucket
from servers.ceph_gateway import Endpoint
from storage_samples import (
    Died,
    candidate,
    cut,
    damage,
    failure,
    finished,
    gate,
    outcome,
    request_of,
    requested,
    score,
    sha,
    variant,
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", sync=False)


def write(store: FolderStore, *records: Record, chunk: str = "", attempt: int = 1) -> str:
    return write_segment(store, "c", chunk or sha("chunk", time.time_ns()), attempt, records)


def both(store: FolderStore) -> list[Index]:
    """The index before and after a compaction: all that follows must hold for either."""
    before = open_index(store, "c")
    before.statuses()
    after = Index(store, "c", shard_rows=8)
    assert after.compact(1) is not None
    assert after.num_tail == 0
    return [before, after, open_index(store, "c")]


def status_of(index: Index, request_key: str) -> int | None:
    return index.statuses().get(bytes.fromhex(request_key))


def plain(history: object) -> object:
    """A history in a form to compare: what records there are, whatever their order."""
    values = dataclasses.asdict(history)  # type: ignore[call-overload]
    values["gates"] = sorted(map(str, values["gates"]))
    return values


# --- segments ---


def test_a_segment_gives_its_records_back(store: FolderStore) -> None:
    """What was written is read, with texts that hold line separators and lone surrogates."""
    records = [requested("odd", 0, "one\u2028two\x85three\nfour \ud800"), *finished("a")]
    segment = read_segment(store, write(store, *records))
    assert list(segment.lines) == [record_line(r) for r in records]


@pytest.mark.parametrize("how", ["flip", "truncate line", "truncate byte", "empty", "unsealed"])
def test_a_damaged_segment_is_set_aside_and_named(store: FolderStore, how: str) -> None:
    """A segment with a flipped bit, cut short anywhere or never sealed is reported; all others count."""
    whole, bad = write(store, *finished("whole")), write(store, *finished("bad"))
    path = store.local_path(bad)
    assert path is not None
    data = path.read_bytes()
    if how == "flip":
        damage(path)
    elif how == "truncate line":
        path.write_bytes(data[: data.rfind(b"\n", 0, -1) + 1])
    elif how == "truncate byte":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(segment_bytes(finished("bad")))
    with pytest.raises(CorruptObject, match=bad):
        read_segment(store, bad)
    for index in (open_index(store, "c"), Index(store, "c")):
        assert set(index.outcomes()) == {asset_key("whole")}
        assert len(index.statuses()) == 2
        assert [bad in problem for problem in index.problems] == [True]
        index.compact(1)
        assert index.num_tail == 1  # what was damaged is never counted as taken in
    assert read_segment(store, whole).key == whole


def test_the_place_of_a_damaged_segment_is_not_needed(store: FolderStore) -> None:
    """Work done again goes to the next free attempt; the same records again to the place they have."""
    first = write(store, *finished("a"), chunk="k")
    assert write(store, *finished("a"), chunk="k") == first
    assert write(store, *finished("b"), chunk="k") != first
    damage(store.local_path(first) or Path())
    again = write(store, *finished("a"), chunk="k")
    assert again not in (first, "")
    assert set(open_index(store, "c").outcomes()) == {asset_key("a"), asset_key("b")}


def test_records_without_a_home_are_refused(store: FolderStore) -> None:
    """A record of a request that the segment does not hold raises an error, and nothing is stored."""
    with pytest.raises(ValueError, match="write the RequestRecord"):
        write(store, candidate(sha("unknown")))
    assert not list(store.list(""))


# --- what counts ---


def test_statuses_and_histories(store: FolderStore) -> None:
    """Every kind of record is brought home to its asset, in the tail and after a compaction."""
    keys = [request_of("a", n).key for n in range(6)]
    write(
        store,
        *(requested("a", n) for n in range(6)),
        candidate(keys[0]), gate(keys[0]), score(keys[0]),
        candidate(keys[1]), gate(keys[1], False),
        failure(keys[2], "poison"), failure(keys[3]), cut(keys[4]),
        variant("a", keys[0]), gate(sha("variant", keys[0]), stage="variant"),
        gate(sha("master", keys[0]), stage="rendition"),
        outcome("a"),
    )  # fmt: skip
    for index in both(store):
        assert [status_of(index, k) for k in keys] == [OK, REJECTED, POISON, TRANSIENT, CUT, None]
        history = index.history(["a", "never heard of"])["a"]
        assert set(history.requests) == set(keys)
        assert history.requests[keys[0]] == requested("a", 0)
        assert history.candidates == {k: candidate(k) for k in keys[:2]}
        assert history.scores == {s.key: s for s in [score(keys[0])]}
        assert set(history.failures) == set(keys[2:4])
        assert set(history.cuts) == {keys[4]}
        assert list(history.variants.values()) == [variant("a", keys[0])]
        assert sorted(g.stage for g in history.gates) == ["candidate", "candidate", "rendition", "variant"]
        assert history.outcome == outcome("a") == index.outcomes()[asset_key("a")]
        assert index.history(["never heard of"])["never heard of"].outcome is None
        found = index.find([keys[1], sha("unknown")])
        assert set(found) == {keys[1]}
        assert found[keys[1]].candidates[keys[1]] == candidate(keys[1])


@pytest.mark.parametrize("compact_between", [False, True])
def test_which_of_two_records_counts(store: FolderStore, compact_between: bool) -> None:
    """First candidate, latest everything else; a failure undoes nothing, a loss does, a check replaces the last one."""
    a, b, c, d = (request_of("a", n).key for n in range(4))
    head = [requested("a", n) for n in range(4)]
    write(store, *head, candidate(a, 1), gate(a), failure(b), candidate(c, 1), gate(c, False), candidate(d, 1), gate(d))
    if compact_between:
        open_index(store, "c").compact(1)
    write(store, *head, candidate(a, 2), failure(a, "poison"), candidate(b, 2), gate(b), gate(c, name="other"))
    if compact_between:
        open_index(store, "c").compact(1)
    write(store, *head, failure(d, "lost"), outcome("a", 1))
    for index in both(store):
        assert [status_of(index, k) for k in (a, b, c, d)] == [OK, OK, OK, TRANSIENT]
        history = index.history(["a"])["a"]
        assert history.candidates == {a: candidate(a, 1), b: candidate(b, 2), c: candidate(c, 1)}
        assert [g.gate for g in history.gates if g.subject == c] == ["other"]
    write(store, *head, candidate(d, 3), gate(d), outcome("a", 2))
    for index in both(store):
        assert status_of(index, d) == OK
        assert index.history(["a"])["a"].candidates[d] == candidate(d, 3)
        assert index.outcomes()[asset_key("a")] == outcome("a", 2)


def test_two_assets_may_share_a_request(store: FolderStore) -> None:
    """Equal prompts and seeds are one request: what it gave belongs to both assets."""
    one, two = requested("one", 0, "same"), requested("two", 0, "same")
    assert one.key == two.key
    chosen = [variant("one", one.key), variant("two", two.key)]
    assert chosen[0].key == chosen[1].key
    write(store, one, two, candidate(one.key), gate(one.key), *chosen, gate(chosen[0].key, stage="variant"))
    write(store, requested("three", 0, "same"), outcome("three"))
    for index in both(store):
        assert status_of(index, one.key) == OK
        histories = index.history(["one", "two", "three"])
        assert histories["one"].candidates == histories["two"].candidates == {one.key: candidate(one.key)}
        assert index.find([one.key])[one.key].candidates == {one.key: candidate(one.key)}
        for record in chosen:
            history = histories[record.asset_id]
            assert history.variants == {record.key: record}
            assert [g.stage for g in history.gates] == ["candidate", "variant"]


facts = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.lists(
            st.tuples(
                st.integers(0, 2), st.sampled_from(["candidate", "pass", "fail", "poison", "lost", "cut", "score"])
            ),
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(facts, st.sets(st.integers(0, 8)))
def test_compactions_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    segments: Sequence[tuple[str, list[tuple[int, str]]]],
    compact_after: set[int],
) -> None:
    """Whenever compactions happen, statuses, outcomes and histories are those of the bare segments."""
    bare = FolderStore(tmp_path_factory.mktemp("bare"), sync=False)
    folded = FolderStore(tmp_path_factory.mktemp("folded"), sync=False)
    make = {
        "candidate": lambda k, n: candidate(k, n), "pass": lambda k, n: gate(k), "fail": lambda k, n: gate(k, False),
        "poison": lambda k, n: failure(k, "poison"), "lost": lambda k, n: failure(k, "lost"),
        "cut": lambda k, n: cut(k), "score": lambda k, n: score(k, n / 8),
    }  # fmt: skip
    for number, (asset_id, events) in enumerate(segments):
        records: list[Record] = [requested(asset_id, n) for n in range(3)]
        records += [make[what](request_of(asset_id, n).key, number) for n, what in events]
        records.append(outcome(asset_id, number))
        for store in (bare, folded):
            write_segment(store, "c", f"chunk-{number}", 1, records)
        if number in compact_after:
            Index(folded, "c", shard_rows=4).compact(1)
    one, two = open_index(bare, "c"), open_index(folded, "c")
    assert one.statuses() == two.statuses()
    assert one.outcomes() == two.outcomes()
    first, second = one.history("abcde"), two.history("abcde")
    assert {k: plain(v) for k, v in first.items()} == {k: plain(v) for k, v in second.items()}


# --- compaction ---


def test_an_index_in_a_bucket(moto_endpoint: Endpoint) -> None:
    """Segments, compaction and tail work in a bucket as in a folder."""
    config = make_bucket(moto_endpoint)
    store = open_store(config, config.url)
    for n in range(3):
        write_segment(store, "c", f"chunk-{n}", 0, finished(f"asset-{n}"))
    assert Index(store, "c", shard_rows=4).compact(1) == 1
    write_segment(store, "c", "chunk-3", 0, finished("asset-3"))
    index = open_index(store, "c")
    assert (index.version, index.num_tail, index.problems) == (1, 1, [])
    assert len(index.statuses()) == 8
    assert set(index.outcomes()) == {asset_key(f"asset-{n}") for n in range(4)}
    assert len(index.history(["asset-1"])["asset-1"].candidates) == 2


def test_compaction_takes_each_segment_once(store: FolderStore) -> None:
    """Segments stay where they are, are taken in once, and short tails are left alone."""
    for n in range(5):
        write(store, *finished(f"asset-{n}"))
    index = open_index(store, "c")
    assert index.compact(6) is None
    assert index.compact(5) == 1
    assert index.compact(1) is None
    write(store, *finished("later"))
    assert open_index(store, "c").num_tail == 1
    assert open_index(store, "c").compact(1) == 2
    assert len(open_index(store, "c").outcomes()) == 6
    assert len(list(store.list("records/"))) == 6


def test_compaction_beside_another_one(store: FolderStore) -> None:
    """Two compactions of one tail give one version; the loser starts over and finds nothing left to do."""
    write(store, *finished("a"))
    one, two = open_index(store, "c"), open_index(store, "c")
    assert one.compact(1) == 1
    assert two.compact(1) is None
    assert two.version == 1
    assert set(two.outcomes()) == {asset_key("a")}


def test_a_damaged_index_is_rebuilt(store: FolderStore) -> None:
    """With any object of the index damaged, nothing is lost: it is reported, and the next compaction makes it anew."""
    for n in range(3):
        write(store, *finished(f"asset-{n}"))
    open_index(store, "c").compact(1)
    expected = open_index(store, "c").statuses()
    for info in list(store.list("index/")):
        path = store.local_path(info.key)
        assert path is not None
        good = path.read_bytes()
        damage(path)
        index = open_index(store, "c")
        assert index.statuses() == expected
        assert len(index.outcomes()) == 3
        assert len(index.history(["asset-1"])["asset-1"].candidates) == 2
        assert any("index/c/" in problem for problem in index.problems), info.key
        path.write_bytes(good)
    damage(store.local_path("index/c/00000001.json") or Path())
    assert open_index(store, "c").compact(1) == 2
    assert open_index(store, "c").problems == []
    assert open_index(store, "c").statuses() == expected


@pytest.mark.parametrize("after", [False, True])
def test_death_in_a_compaction_loses_nothing(tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any write of a compaction, the index shows the same as before, and the next compaction succeeds."""
    real = FolderStore.put_if_absent
    for dies_at in range(1, 30):
        store = FolderStore(tmp_path / f"{after}-{dies_at}", sync=False)
        for n in range(4):
            write(store, *finished(f"asset-{n}"))
        expected = open_index(store, "c").statuses()
        calls = 0

        def put(self: FolderStore, key: str, data: bytes, n: int = dies_at, **options: str) -> bool:
            nonlocal calls
            calls += 1
            if calls == n and not after:
                raise Died
            done = real(self, key, data, **options)
            if calls == n:
                raise Died
            return done

        monkeypatch.setattr(FolderStore, "put_if_absent", put)
        try:
            Index(store, "c", shard_rows=4, threads=1).compact(1)
            done = True
        except Died:
            done = False
        monkeypatch.setattr(FolderStore, "put_if_absent", real)
        if not done:
            open_index(store, "c").compact(1)
        assert open_index(store, "c").num_tail == 0
        assert open_index(store, "c").statuses() == expected
        if done:
            assert dies_at > 3
            return
    pytest.fail("the compaction never ran to its end")


def test_a_newer_version_s_records_wait(store: FolderStore) -> None:
    """A segment with records of a newer schema is reported and left in the tail for a version that can read it."""
    data = record_line(requested("a")).replace('"schema":1', '"schema":99')
    body = (data + "\n").encode()
    seal = {"schema": 1, "record": "seal", "sha256": hashlib.sha256(body).hexdigest(), "written": "2030"}
    store.put_if_absent("records/c/new/000001.jsonl", body + json.dumps(seal).encode() + b"\n")
    index = open_index(store, "c")
    assert index.compact(1) is None
    assert "update assetmill" in index.problems[0]


def test_compaction_spills(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tail larger than the memory it may use goes through temporary files, with the same result."""
    for n in range(30):
        write(store, *finished(f"asset-{n}"), *finished(f"asset-{n + 1}", 3, work=n))
    bare = open_index(store, "c")
    expected = bare.statuses(), bare.outcomes(), bare.history(["asset-7"])["asset-7"]
    monkeypatch.setattr(spill_module, "SPILL_BYTES", 2000)
    monkeypatch.setattr(index_module, "_ASSETS_AT_ONCE", 2)
    assert open_index(store, "c").compact(1) == 1
    index = open_index(store, "c")
    assert index.num_tail == 0
    assert (index.statuses(), index.outcomes()) == expected[:2]
    assert plain(index.history(["asset-7"])["asset-7"]) == plain(expected[2])


def test_a_filled_index_reads_fast_and_small(store: FolderStore) -> None:
    """20,000 assets × 8 requests: statuses and outcomes come in seconds and a fraction of the index's size."""
    from storage_filled import fill_index

    fill_index(store, "c", num_assets=20_000, num_candidates=8)
    tracemalloc.start()
    start = time.process_time()
    index = open_index(store, "c")
    statuses, outcomes = index.statuses(), index.outcomes()
    seconds, (held, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(statuses), len(outcomes)) == (160_000, 20_000)
    assert index.problems == []
    assert seconds < 20  # of processor time: about 1, and several times that while memory is traced
    assert peak < 120 << 20
    assert held < 80 << 20
    start = time.process_time()
    assert sum(statuses[bytes.fromhex(sha("request", a, n))] for a in range(2000) for n in range(8)) > 0
    assert time.process_time() - start < 2
