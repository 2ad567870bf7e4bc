"""Model folders before loading: fingerprints that follow the bytes, and unfit folders refused with the way out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from assetmill.engines.folders import (
    cache_folder,
    check_weights,
    fingerprint_folder,
    hash_files,
    model_files,
    read_card,
    safetensors_header,
)
from assetmill.records import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_safetensors(path: Path, data: bytes = b"\0" * 16) -> Path:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def make_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_safetensors(folder / "unet" / "weights.safetensors")
    (folder / "model_index.json").write_text("{}")
    return folder


def test_fingerprint_follows_what_decides_pictures(tmp_path: Path) -> None:
    """Content and names of files change the fingerprint; place, model card, samples and hidden files don't."""
    folder = make_folder(tmp_path)
    first = fingerprint_folder(folder)
    (folder / "README.md").write_text("about")
    (folder / "grid.png").write_bytes(b"png")
    (folder / "assetmill.json").write_text("{}")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    assert fingerprint_folder(folder) == first
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint_folder(moved) == first
    (moved / "model_index.json").write_text("{ }")
    second = fingerprint_folder(moved)
    assert second != first
    (moved / "model_index.json").rename(moved / "other.json")
    assert fingerprint_folder(moved) not in (first, second)


def test_hashes_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the size and times of last time is not read again, unless the cache is not to be trusted."""
    import assetmill.engines.folders as folders

    file = write_safetensors(tmp_path / "w.safetensors")
    read: list[Path] = []
    real = folders._sha256
    monkeypatch.setattr(folders, "_sha256", lambda path: read.append(path) or real(path))
    first = hash_files([file])
    assert hash_files([file]) == first
    assert read == [file]
    assert hash_files([file], trust_cache=False) == first
    assert len(read) == 2
    write_safetensors(file, b"\1" * 16)
    assert hash_files([file]) != first


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": [1, 2]}', "\0"])
def test_a_broken_cache_costs_only_time(tmp_path: Path, content: str) -> None:
    """A torn or foreign cache file is ignored and written anew."""
    file = write_safetensors(tmp_path / "w.safetensors")
    expected = hash_files([file])
    path = cache_folder() / "files.json"
    path.write_text(content)
    assert hash_files([file]) == expected
    assert json.loads(path.read_text())


def test_an_unwritable_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache folder cannot be made, hashing still works."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = write_safetensors(tmp_path / "w.safetensors")
    assert len(hash_files([file])[file]) == 64


def test_pointers_and_cut_off_weights(tmp_path: Path) -> None:
    """Pointer files, cut-off files, foreign bytes and missing shards are each named with what to do."""
    folder = make_folder(tmp_path)
    good = folder / "unet" / "weights.safetensors"
    whole = good.read_bytes()
    pointer = folder / "vae" / "p.safetensors"
    pointer.parent.mkdir()
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    (folder / "vae" / "cut.safetensors").write_bytes(whole[:-3])
    (folder / "vae" / "foreign.safetensors").write_bytes(b"PK\x03\x04" + b"x" * 100)
    (folder / "vae" / "short.safetensors").write_bytes(b"abc")
    index = folder / "vae" / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    problems = {Path(p.file).name: p for p in check_weights(model_files(folder), folder)}
    assert set(problems) == {
        "p.safetensors", "cut.safetensors", "foreign.safetensors", "short.safetensors", "w.safetensors.index.json"
    }  # fmt: skip
    assert "Git LFS pointer" in problems["p.safetensors"].message
    assert "git lfs pull" in problems["p.safetensors"].way_out
    assert "cut off" in problems["cut.safetensors"].message
    assert "gone.safetensors" in problems["w.safetensors.index.json"].message
    assert safetensors_header(good)["a"]["shape"] == [4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\n# A", {"license": "mit"}),
        ("# no front matter", {}),
        ("---\nlicense: [\n---\n", {}),
        ("---\njust text\n---\n", {}),
        ("---\nnever closed", {}),
    ],
)
def test_model_cards(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    """The front matter of a model card is read where it is a mapping, and nothing else is an error."""
    (tmp_path / "README.md").write_text(text)
    assert read_card(tmp_path) == expected


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without files that matter is an error, not a fingerprint of nothing."""
    with pytest.raises(InputError, match="empty"):
        fingerprint_folder(tmp_path)
