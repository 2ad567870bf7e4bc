"""Markers of begun chunks: an asset that kills the process is found, tried alone and set aside; others never are."""

from __future__ import annotations

from pathlib import Path

import pytest

from assetmill.intake.plan import AssetPlan, chunk_key
from assetmill.operate.attempts import MAX_TRIES, Attempts
from assetmill.records import Asset
from assetmill.storage.folder import FolderStore


def plan(name: str, work: str = "1") -> AssetPlan:
    return AssetPlan(Asset(name, {}), "new", "", (), 4, 4, work, "s", "m", to_choose=True)


PLANS = tuple(plan(name) for name in "abcdef")
CULPRIT = PLANS[2]


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    store = FolderStore(tmp_path, sync=False)
    store.prepare()
    return Attempts(store, "toys")


def die_of(attempts: Attempts, run: int, culprit: AssetPlan | None) -> list[str]:
    """One run that begins three chunks ahead, finishes them in order, and dies when it makes the culprit."""
    arranged = attempts.arrange(PLANS, 8)
    finished: list[str] = []
    streams = [arranged.chunks[i : i + 3] for i in range(0, len(arranged.chunks), 3)]
    for stream in streams:
        for chunk in stream:
            attempts.note(chunk, f"run{run}")
        for chunk in stream:
            if culprit in chunk:
                return finished
            attempts.clear(chunk_key(chunk))
            finished += [p.asset.id for p in chunk]
    for one in arranged.alone:
        attempts.note((one,), f"run{run}", alone=True)
        if one == culprit:
            return finished
        attempts.clear(chunk_key((one,)))
        finished.append(one.asset.id)
    return finished


def test_nothing_noted(attempts: Attempts) -> None:
    """Where no run ever died, work is cut into chunks and nothing is suspected."""
    arranged = attempts.arrange(PLANS, 8)
    assert [[p.asset.id for p in c] for c in arranged.chunks] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert arranged.alone == arranged.set_aside == ()


def test_crashing_asset_is_set_aside_alone(attempts: Attempts) -> None:
    """After two crashes among others and three alone the culprit, and nobody else, is set aside."""
    for run in range(5):
        assert not attempts.arrange(PLANS, 8).set_aside
        die_of(attempts, run, CULPRIT)
    arranged = attempts.arrange(PLANS, 8)
    assert arranged.set_aside == ("c",)
    rest = {p.asset.id for chunk in arranged.chunks for p in chunk} | {p.asset.id for p in arranged.alone}
    assert rest == {"a", "b", "d", "e", "f"}
    assert sorted(die_of(attempts, 9, CULPRIT)) == ["a", "b", "d", "e", "f"]


def test_single_asset_chunks_are_no_proof(attempts: Attempts) -> None:
    """An asset in a chunk of its own, begun beside the culprit's, is not blamed for the culprit's crashes."""
    for run in range(2):
        for one in PLANS[:3]:
            attempts.note((one,), f"run{run}")
    arranged = attempts.arrange(PLANS, 4)
    assert [p.asset.id for p in arranged.alone] == ["a", "b", "c"]
    for run in range(2, 5):
        attempts.note((CULPRIT,), f"run{run}", alone=True)
    arranged = attempts.arrange(PLANS, 4)
    assert arranged.set_aside == ("c",)
    assert [p.asset.id for p in arranged.alone] == ["a", "b"]


def test_suspicion_survives_other_chunks(attempts: Attempts) -> None:
    """Assets stay suspected when chunks are cut otherwise, and the least tried ones come first."""
    for run in range(2):
        attempts.note(PLANS[:3], f"run{run}")
    attempts.note((PLANS[0],), "run2", alone=True)
    arranged = attempts.arrange(PLANS, 4)
    assert [p.asset.id for p in arranged.alone] == ["b", "c", "a"]
    assert [len(c) for c in arranged.chunks] == [1, 1, 1]


def test_one_death_is_no_suspicion(attempts: Attempts) -> None:
    """A single dead run, a kill say, changes nothing."""
    attempts.note(PLANS[:3], "run0")
    assert attempts.arrange(PLANS, 8).alone == ()


def test_dropped_chunks_are_forgotten(attempts: Attempts) -> None:
    """A run that ends alive takes back what it begun, and leaves the marks of runs that died."""
    for run in range(4):
        attempts.note(PLANS[:2], f"run{run}")
        attempts.forget(chunk_key(PLANS[:2]), f"run{run}")
    assert attempts.arrange(PLANS, 8).alone == ()
    attempts.note(PLANS[:2], "dead1")
    attempts.note(PLANS[:2], "dead2")
    attempts.note(PLANS[:2], "alive")
    attempts.forget(chunk_key(PLANS[:2]), "alive")
    assert [p.asset.id for p in attempts.arrange(PLANS, 8).alone] == ["a", "b"]


def test_changed_work_is_tried_again(attempts: Attempts) -> None:
    """What was set aside comes back when its work changes, or when it is forced."""
    for run in range(MAX_TRIES):
        attempts.note((CULPRIT,), f"run{run}", alone=True)
    assert attempts.arrange([CULPRIT], 8).set_aside == ("c",)
    assert attempts.arrange([plan("c", work="2")], 8).chunks == ((plan("c", work="2"),),)
    assert attempts.arrange([CULPRIT], 8, force=True).chunks == ((CULPRIT,),)


def test_damaged_marker(attempts: Attempts, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged marker counts for nothing and is told of."""
    for run in range(3):
        attempts.note(PLANS[:2], f"run{run}")
    for file in tmp_path.glob("runs/toys/begun/*/*"):
        file.write_text("{")
    assert attempts.arrange(PLANS, 8).alone == ()
    assert "is damaged or gone" in caplog.text
