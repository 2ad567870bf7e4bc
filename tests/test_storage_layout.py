"""Keys: what may be one, and how each is spelt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.records import asset_key, blob_key
from assetmill.storage import layout

SHA = blob_key(b"x")


def test_every_kind_of_key_has_its_golden_spelling() -> None:
    """Keys are a contract with every store that exists: none may change by accident."""
    assert layout.blob_path(SHA, "png") == f"blobs/{SHA[:2]}/{SHA}.png"
    assert layout.segment_path("rpg", "c" * 8, 3) == "records/rpg/cccccccc/000003.jsonl"
    assert layout.segment_path("rpg", "c" * 8, "01hx") == "records/rpg/cccccccc/01hx.jsonl"
    assert layout.segments_prefix("rpg") == "records/rpg/"
    assert layout.run_path("rpg", "r1", "snapshot/sheet.csv") == "runs/rpg/r1/snapshot/sheet.csv"
    assert layout.runs_prefix("rpg") == "runs/rpg/"
    assert layout.index_prefix("rpg") == "index/rpg/"
    assert layout.catalog_prefix("rpg") == "catalogs/rpg/"
    assert layout.decisions_prefix("rpg") == "decisions/rpg/"
    assert layout.lock_path("rpg") == "locks/rpg.json"
    assert layout.published_path("master", "sword", "sword_1", "0a1b2c3d", "png") == (
        "published/master/sword/sword_1-0a1b2c3d.png"
    )
    assert layout.aside_path("a/b.png", "0a1b2c3d") == "aside/a/b.png.0a1b2c3d"


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.assetmill/x", "a\0b", "a\nb", "a\\b",
     "a" * 256, "/".join(["a" * 200] * 6), "\ud800", "é" * 128],
)  # fmt: skip
def test_keys_that_some_store_cannot_hold_are_refused(key: str) -> None:
    """Climbing, absolute, hidden, control-character, over-long and non-Unicode keys never reach a store."""
    with pytest.raises(ValueError, match="cannot be a key"):
        layout.check_key(key)


def test_the_store_prefix_counts_towards_the_limit() -> None:
    """A key that fits alone but not behind the store's prefix is refused before the server would."""
    key = "/".join(["a" * 204] * 5)
    assert len(key) == 1024
    assert layout.check_key(key) == key
    with pytest.raises(ValueError, match="1025 bytes"):
        layout.check_key(key, prefix="p")


@pytest.mark.parametrize(
    "call",
    [
        lambda: layout.blob_path("../" + SHA, "png"),
        lambda: layout.blob_path(SHA.upper(), "png"),
        lambda: layout.blob_path(SHA, ".png"),
        lambda: layout.blob_path(SHA, "../x"),
        lambda: layout.segments_prefix("../other"),
        lambda: layout.segments_prefix("Rpg"),
        lambda: layout.segment_path("rpg", "a/b", 1),
        lambda: layout.run_path("rpg", "..", "plan.json"),
        lambda: layout.run_path("rpg", "r", "../plan.json"),
        lambda: layout.published_path("master", "a/b", "n", "0a1b2c3d", "png"),
        lambda: layout.published_path("master", "a", "CON/..", "0a1b2c3d", "png"),
        lambda: layout.published_path("master", "a", "n", "0a1b", "png"),
        lambda: layout.published_path("master", "a", "n" * 250, "0a1b2c3d", "png"),
    ],
)
def test_no_part_of_a_key_can_break_out_of_its_place(call) -> None:
    """A hostile id, name or hash raises instead of becoming a path."""
    with pytest.raises(ValueError, match="cannot be"):
        call()


@given(st.text(max_size=200))
def test_any_text_has_a_safe_name(text: str) -> None:
    """A safe name is 1 to 80 printable ASCII bytes, a valid key, no device, and its own safe name."""
    name = layout.safe_name(text)
    assert 1 <= len(name.encode("ascii")) <= layout.MAX_NAME_BYTES
    assert layout.check_key(name) == name
    assert not set(name) & set('/\\:*?"<>| \0')
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}
    assert name[-1] not in ". "
    assert layout.safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sword_01", "sword_01"),
        ("Größe 42", "Grosse-42"),
        ("Crème brûlée/№7", "Creme-brulee-No7"),
        ("../../etc/passwd", "etc-passwd"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("console", "console"),
        ("剣", "unnamed"),
        ("...", "unnamed"),
        ("", "unnamed"),
        ("a" * 1025, "a" * 80),
    ],
)
def test_safe_names_stay_readable(text: str, name: str) -> None:
    """People recognise their ids in the names of files."""
    assert layout.safe_name(text) == name


@given(st.text(max_size=40), st.sampled_from(["png", "webp", "tar.gz"]))
def test_published_files_of_any_id_have_valid_keys(asset_id: str, ext: str) -> None:
    """Whatever the sheet calls an asset, its published file has a key below its channel."""
    key = layout.published_path(
        "master", layout.safe_name(asset_id), layout.safe_name(asset_id), asset_key(asset_id)[:8], ext
    )
    assert key.startswith("published/master/")
    assert key.count("/") == 3
    assert layout.check_key(key) == key


@given(st.text(alphabet="ab/.-\0\\é\ud800", max_size=12))
def test_accepted_keys_stay_inside_the_folder(key: str) -> None:
    """No accepted key leaves the store's folder or has two spellings."""
    import posixpath

    try:
        layout.check_key(key)
    except ValueError:
        return
    assert posixpath.normpath(key) == key
    assert not key.startswith(("..", "/"))


def test_json_documents_are_commit_marks_and_pictures_are_not() -> None:
    """What is synced last: segments and manifests vouch for blobs and shards; locks vouch for nothing."""
    assert layout.is_commit("records/a/b/000001.jsonl")
    assert layout.is_commit("catalogs/a/versions/1.json")
    assert not layout.is_commit(layout.blob_path(SHA, "png"))
    assert not layout.is_commit("index/a/shards/x.parquet")
    assert not layout.is_commit("locks/a.json")
