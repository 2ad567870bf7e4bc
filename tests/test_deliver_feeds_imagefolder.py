"""A data set on disk, read by the rules of Hugging Face's `imagefolder`: splits by folder, captions by file name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.deliver.feeds.imagefolder import export_imagefolder, split_of
from assetmill.deliver.picture import decode, encode_png
from assetmill.records import InputError
from assetmill.storage.entries import CatalogEntry
from feed_samples import entry, file

Stock = dict[str, bytes]


def stocked(count: int, ranks: int = 2) -> tuple[list[CatalogEntry], Stock]:
    """Entries with real pictures."""
    entries, stock = [], {}
    for n in range(count):
        for rank in range(1, ranks + 1):
            data = encode_png(np.full((8, 8, 3), n * 4 + rank, np.uint8))
            made = file(f"A{n:02d}", rank, media_type="image/png", sha256=hashlib.sha256(data).hexdigest())
            stock[made.object_key] = data
            entries.append(entry(f"A{n:02d}", rank, renditions=(made,)))
    return entries, stock


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """As the loader does: the folder's name is the split, every picture needs a line, every line a picture."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        assert split.name in ("train", "test")
        lines = [json.loads(line) for line in (split / "metadata.jsonl").read_text("utf-8").splitlines()]
        assert len({tuple(line) for line in lines}) == 1, "all lines have the same columns"
        pictures = {p.relative_to(split).as_posix() for p in split.rglob("*") if p.suffix == ".png"}
        assert {line["file_name"] for line in lines} == pictures
        found[split.name] = [{**line, "image": decode((split / line["file_name"]).read_bytes())} for line in lines]
    return found


def test_pictures_and_captions_come_back(tmp_path: Path) -> None:
    """Each picture with its caption and the published columns; no prompt."""
    entries, stock = stocked(3)
    report = export_imagefolder(entries, stock.__getitem__, tmp_path)
    assert not report.problems
    rows = load(tmp_path)["train"]
    assert [(r["asset_id"], r["rank"], r["text"]) for r in rows][:2] == [
        ("A00", 1, "picture of A00"), ("A00", 2, "picture of A00"),
    ]  # fmt: skip
    assert rows[3]["image"][0, 0, 0] == 1 * 4 + 2
    assert rows[0]["name"] == "Mug A00"
    assert b"secret" not in (tmp_path / "train" / "metadata.jsonl").read_bytes()


def test_splits_hold_whole_assets(tmp_path: Path) -> None:
    """About the share that was asked for, all pictures of an asset together, and the same ones with more assets."""
    entries, stock = stocked(40)
    export_imagefolder(entries, stock.__getitem__, tmp_path, test_share=0.3)
    found = load(tmp_path)
    ids = {split: {r["asset_id"] for r in rows} for split, rows in found.items()}
    assert not ids["train"] & ids["test"]
    assert 4 <= len(ids["test"]) <= 20
    assert sum(map(len, found.values())) == 80
    assert {e.asset_id for e in entries[:20] if split_of(e, 0.3) == "test"} <= ids["test"]


def test_exporting_again_follows_the_catalog(tmp_path: Path) -> None:
    """What is gone from the catalog goes from the folder; what is unchanged is not written again."""
    entries, stock = stocked(4)
    export_imagefolder(entries, stock.__getitem__, tmp_path)
    report = export_imagefolder(entries[2:], stock.__getitem__, tmp_path)
    assert report.written == ("train/metadata.jsonl",)
    assert len(load(tmp_path)["train"]) == 6


@pytest.mark.parametrize(
    ("text", "caption"),
    [("alt.de", "Bild von A00"), ("rank_text", "a mug"), ("positive", "a secret prompt"), ("name", "Mug A00")],
)
def test_other_captions(text: str, caption: str, tmp_path: Path) -> None:
    """Another locale, the rank text, the prompt where the owner asks for it, a published column."""
    entries, stock = stocked(1)
    export_imagefolder([replace(e, rank_text="a mug") for e in entries], stock.__getitem__, tmp_path, text=text)
    assert {r["text"] for r in load(tmp_path)["train"]} == {caption}


def test_a_missing_caption_is_named(tmp_path: Path) -> None:
    """Before anything is written, with the way out."""
    entries, stock = stocked(2)
    silent = [replace(e, alt={}) if e.asset_id == "A00" else e for e in entries]
    with pytest.raises(InputError, match=r"1 assets have no 'alt'.*'A00'.*--text"):
        export_imagefolder(silent, stock.__getitem__, tmp_path)
    assert not list(tmp_path.iterdir())
