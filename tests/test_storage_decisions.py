"""Decisions: bound to bytes that are there, numbered so that stale and doubled posts are refused, never edited; the
log reads alike however it is read, and a damaged record costs only itself.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from assetmill.records import CandidateRecord, InputError, asset_key, blob_key
from assetmill.storage.bans import ban, lift
from assetmill.storage.catalog import open_catalog
from assetmill.storage.decisions import (
    NOTHING,
    Decision,
    Draft,
    StaleDecision,
    decide,
    read_decisions,
)
from assetmill.storage.folder import FolderStore
from assetmill.storage.index import open_index, write_segment
from assetmill.storage.layout import blob_path, decision_path, decisions_prefix
from assetmill.storage.reviews import decision_bytes
from assetmill.storage.store import put_blob
from assetmill.storage.ulid import new_ulid, ulid_time
from storage_samples import entry, requested

NAME = "toys"


def store_candidates(store: FolderStore, *asset_ids: str, count: int = 3) -> dict[str, list[str]]:
    """Candidates with bytes and records for some assets; gives their blobs."""
    blobs: dict[str, list[str]] = {}
    records = []
    for asset_id in asset_ids:
        for index in range(count):
            made = requested(asset_id, index)
            blob = put_blob(store, f"{asset_id} {index}".encode(), "png", "image/png")
            records += [made, CandidateRecord(made.key, blob, "image/png", 8, 8)]
            blobs.setdefault(asset_id, []).append(blob)
    write_segment(store, NAME, "c" * 64, 0, records)
    return blobs


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path, sync=False)
    store.prepare()
    return store


@pytest.fixture
def blobs(store: FolderStore) -> list[str]:
    return store_candidates(store, "mug")["mug"]


def approve(blob: str, by: str = "ada", asset: str = "mug") -> Draft:
    return Draft(asset_id=asset, kind="approve", by=by, blob=blob)


def test_a_decision_is_on_record_with_all_that_was_said(store: FolderStore, blobs: list[str]) -> None:
    shown = {"judge": "clip", "blind": False, "ranking": [[blobs[0], 0.4], [blobs[1], None]]}
    draft = Draft(
        asset_id="mug", kind="reject", by="ada", blob=blobs[1], reason="cropped", note="left", shown=shown, run="R"
    )
    decision = decide(store, NAME, draft, 0)
    assert (decision.number, decision.template, dict(decision.cell)) == (1, "main", {"style": "plain"})
    assert decision.request_key == requested("mug", 1).key
    assert abs(ulid_time(decision.id) - time.time()) < 60
    log = read_decisions(store, NAME)
    assert list(log) == [decision]
    state = log.of(asset_key("mug"))
    assert state.number == 1
    assert dict(state.rejected) == {blobs[1]: "cropped"}
    assert log.of(asset_key("hat")) is NOTHING


@pytest.mark.parametrize(
    ("kind", "value"),
    [("model", "tiny"), ("licence", "cc-by-nc*"), ("template", "main"), ("asset", "mug"), ("reviewer", "ada")],
)
def test_what_was_taken_back_cannot_be_approved(store: FolderStore, blobs: list[str], kind: str, value: str) -> None:
    """Whatever a ban is by; it can still be rejected, and approved once the ban is lifted."""
    request = requested("mug").request
    catalog = open_catalog(store, NAME)
    catalog.commit([entry("hat", licence="cc-by-nc-4.0", model=request.model, revision=request.revision)], [], run="R")
    made = ban(store, NAME, kind, value, reason="withdrawn", by="bob")
    catalog.withdraw()
    with pytest.raises(InputError, match=f"{kind} .* was recalled by bob .*withdrawn.*approve another picture"):
        decide(store, NAME, approve(blobs[0]), 0)
    decide(store, NAME, Draft(asset_id="mug", kind="reject", by="ada", blob=blobs[1]), 0)
    lift(store, NAME, [made.id])
    assert decide(store, NAME, approve(blobs[0]), 1).number == 2


def test_a_picture_that_was_taken_back_cannot_be_approved(store: FolderStore, blobs: list[str]) -> None:
    """Neither a banned one, nor one that another ban took from its approval; others of the asset can."""
    ban(store, NAME, "blob", blobs[0])
    ban(store, NAME, "licence", "proprietary", blobs=[blobs[1]], assets=["mug"])
    for blob in blobs[:2]:
        with pytest.raises(InputError, match="was recalled"):
            decide(store, NAME, approve(blob), 0)
    assert decide(store, NAME, approve(blobs[2]), 0).number == 1


def test_stale_and_doubled_posts_are_refused_and_say_what_was_decided(store: FolderStore, blobs: list[str]) -> None:
    first = decide(store, NAME, approve(blobs[0]), 0)
    for draft in (approve(blobs[0]), approve(blobs[1], by="bob")):
        with pytest.raises(StaleDecision, match="approve by ada") as caught:
            decide(store, NAME, draft, 0)
        assert (caught.value.number, caught.value.taken) == (1, first)
    with pytest.raises(InputError, match="has 1 decisions, not 7"):
        decide(store, NAME, approve(blobs[1]), 7)
    assert len(read_decisions(store, NAME)) == 1


def test_a_log_that_lags_behind_lets_nothing_through(store: FolderStore, blobs: list[str]) -> None:
    log = read_decisions(store, NAME)
    decide(store, NAME, approve(blobs[0]), 0)
    with pytest.raises(StaleDecision):
        decide(store, NAME, approve(blobs[1]), 0, log=log)
    log = read_decisions(store, NAME)
    decide(store, NAME, Draft(asset_id="mug", kind="reopen", by="bob"), 1)
    decide(store, NAME, approve(blobs[1]), 2, log=log)
    assert log.of(asset_key("mug")).approved == (blobs[1],)
    assert log.digest == read_decisions(store, NAME).digest


def test_of_many_at_once_one_gets_each_number(store: FolderStore, blobs: list[str]) -> None:
    index = open_index(store, NAME)
    results: list[str] = []

    def post(by: str) -> None:
        try:
            decide(store, NAME, approve(blobs[0], by=by), 0, index=index)
            results.append(by)
        except StaleDecision:
            results.append("")

    threads = [threading.Thread(target=post, args=(f"person {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [name for name in results if name]
    assert [d.by for d in read_decisions(store, NAME)] == winners
    assert len(winners) == 1


def test_a_decision_binds_to_bytes_that_are_there(store: FolderStore, blobs: list[str]) -> None:
    with pytest.raises(InputError, match="no candidate with the picture"):
        decide(store, NAME, approve("0" * 64), 0)
    with pytest.raises(InputError, match="no candidate with the picture"):
        decide(store, NAME, approve(blobs[0], asset="hat"), 0)  # another asset's picture
    store.delete(blob_path(blobs[0], "png"))
    with pytest.raises(InputError, match="gone or damaged"):
        decide(store, NAME, approve(blobs[0]), 0)
    store.put_if_absent(blob_path(blobs[0], "png"), b"something else")
    with pytest.raises(InputError, match="gone or damaged"):
        decide(store, NAME, approve(blobs[0]), 0)
    # What is refused needs no bytes: a lost picture may be rejected.
    assert decide(store, NAME, Draft(asset_id="mug", kind="reject", by="ada", blob=blobs[0]), 0).number == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "burn"}, "there is no decision 'burn'"),
        ({"kind": "approve"}, "approve needs a picture"),
        ({"kind": "approve", "blob": "../../etc"}, "64 hex digits"),
        ({"kind": "undo", "undoes": 3}, "no decision 3 to undo"),
        ({"kind": "reopen"}, "nothing to reopen"),
        ({"kind": "note", "note": " "}, "the note is empty"),
        ({"kind": "note", "note": "x", "by": "a\nb"}, "name of who decides"),
        ({"kind": "note", "note": "x", "by": " "}, "name of who decides"),
        ({"kind": "note", "note": "x", "shown": {"a": float("nan")}}, "no JSON"),
        ({"kind": "note", "note": "x", "override": {"seeds": 1}}, "asks for no pictures"),
        ({"kind": "reroll"}, "asks for nothing"),
        ({"kind": "reroll", "override": {"seeds": 0}}, "asks for nothing"),
        ({"kind": "reroll", "override": {"seed": 1}}, "has no 'seed'"),
        ({"kind": "reroll", "override": {"steps": 0}}, "from 1 to 1000"),
        ({"kind": "reroll", "override": {"strength": 0}}, "above 0 up to 1"),
        ({"kind": "reroll", "override": {"width": 64}}, "width without height"),
        ({"kind": "reroll", "override": {"positive": "x", "cell": {}}}, "give the template too"),
        ({"kind": "reroll", "override": {"image": "/etc/passwd"}}, "stored picture"),
        ({"kind": "vary", "override": {"seeds": 2}}, "vary needs a picture"),
        ({"kind": "vary", "override": {"seeds": 2, "operation": "variation", "strength": 0.5}}, "no meaning"),
        ({"kind": "vary", "override": {"seeds": 2, "weight": 0.5, "strength": 0.5}}, "give one of them"),
    ],
)
def test_what_says_nothing_is_refused(store: FolderStore, values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decide(store, NAME, Draft(**{"asset_id": "mug", "by": "ada", **values}), 0)
    assert not list(store.list(decisions_prefix(NAME)))


def test_more_is_not_asked_of_what_is_pinned(store: FolderStore, blobs: list[str]) -> None:
    decide(store, NAME, approve(blobs[0]), 0)
    more = Draft(asset_id="mug", kind="reroll", by="ada", override={"seeds": 2})
    with pytest.raises(InputError, match="reopen it"):
        decide(store, NAME, more, 1)
    decide(store, NAME, Draft(asset_id="mug", kind="reopen", by="ada"), 1)
    assert decide(store, NAME, more, 2).number == 3


def test_a_damaged_record_costs_only_itself_and_keeps_its_number(store: FolderStore, blobs: list[str]) -> None:
    for number, blob in enumerate(blobs):
        decide(store, NAME, approve(blob), number)
    path = Path(store.local_path(decision_path(NAME, asset_key("mug"), 2)) or "")
    path.write_bytes(path.read_bytes().replace(b'"ada"', b'"eve"'))
    log = read_decisions(store, NAME)
    state = log.of(asset_key("mug"))
    assert state.approved == (blobs[0], blobs[2])
    assert "hash in its seal" in log.problems[0]
    assert "000002.json" in log.problems[0]
    Path(store.local_path(decision_path(NAME, asset_key("mug"), 3)) or "").write_bytes(b"")
    assert read_decisions(store, NAME).of(asset_key("mug")).number == 3
    assert decide(store, NAME, Draft(asset_id="mug", kind="note", by="ada", note="hm"), 3).number == 4


def test_a_record_in_anothers_place_does_not_count(store: FolderStore, blobs: list[str]) -> None:
    decision = decide(store, NAME, approve(blobs[0]), 0)
    store.put_if_absent(decision_path(NAME, asset_key("hat"), 1), decision_bytes(decision))
    log = read_decisions(store, NAME)
    assert log.of(asset_key("hat")).approved == ()
    assert "another decision's place" in log.problems[0]


def test_a_folded_log_reads_as_the_records_do(store: FolderStore) -> None:
    blobs = store_candidates(store, "mug", "hat", "key")
    for asset, own in blobs.items():
        decide(store, NAME, approve(own[0], asset=asset), 0)
    log = read_decisions(store, NAME)
    assert log.fold(min_tail=4) is None
    key = log.fold(min_tail=1)
    assert key is not None
    decide(store, NAME, Draft(asset_id="hat", kind="reopen", by="bob"), 1, log=log)
    read = read_decisions(store, NAME)
    assert (read.num_tail, read.digest, list(read)) == (1, log.digest, list(log))
    assert read.of(asset_key("hat")).status == "open"
    # Damaged or deleted, it is done without; and what it says of records that are gone does not count.
    store.delete(decision_path(NAME, asset_key("key"), 1))
    assert asset_key("key") not in read_decisions(store, NAME).assets()
    store.replace(key, b"junk")
    assert [d.id for d in read_decisions(store, NAME)] == [d.id for d in log if d.asset_id != "key"]
    store.delete(key)
    assert len(read_decisions(store, NAME)) == 3


def test_folding_again_leaves_one_older_object(store: FolderStore, blobs: list[str]) -> None:
    log = read_decisions(store, NAME)
    for number in range(4):
        decide(store, NAME, Draft(asset_id="mug", kind="note", by="ada", note=str(number)), number, log=log)
        log.fold(min_tail=1)
        log.refresh()
    folded = [i.key for i in store.list(decisions_prefix(NAME) + "folded/")]
    assert len(folded) == 2
    assert read_decisions(store, NAME).num_tail == 0


def test_many_decisions_are_read_at_once(store: FolderStore) -> None:
    blob = blob_key(b"")
    for n in range(2_000):
        asset = f"asset-{n // 2}"
        decision = Decision(
            asset_id=asset, kind="approve", by="ada", blob=blob, number=n % 2 + 1, id=new_ulid(), at="2026-01-01",
            shown={"judge": "clip", "blind": False, "ranking": [[blob, 0.5]] * 4},
        )  # fmt: skip
        store.put_if_absent(decision_path(NAME, asset_key(asset), decision.number), decision_bytes(decision))
    assert read_decisions(store, NAME).fold() is not None
    start = time.perf_counter()
    log = read_decisions(store, NAME)
    states = [log.of(key) for key in log.assets()]
    seconds = time.perf_counter() - start
    assert len(states) == 1_000
    assert log.num_tail == 0
    # 20,000 within 2 s is the claim; five times that, since the machine may be shared.
    assert seconds < 1, f"{seconds:.1f} s"
