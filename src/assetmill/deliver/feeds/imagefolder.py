"""A data set of the published pictures with captions, as Hugging Face's `imagefolder` reads it.

    DIR/train/<id>_<rank>.png …     DIR/train/metadata.jsonl
    DIR/test/<id>_<rank>.png …      DIR/test/metadata.jsonl

Every split has its own metadata, whose `file_name` is relative to it; beside it stand `text` and what the catalog says.
`load_dataset("imagefolder", data_dir=DIR)` finds splits by their folders. All pictures of an asset are in one split,
and stay there whatever comes or goes. Source: datasets' documentation, "Create an image dataset".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from assetmill.deliver.export import ExportReport, export_catalog
from assetmill.records import InputError, Problem
from assetmill.storage.entries import CatalogEntry

_SPLIT = "\0split"
"""Stands among an entry's columns while names are made; no sheet has a column of that name."""

_TEXTS = ("rank_text", "positive")


def export_imagefolder(
    entries: Iterable[CatalogEntry],
    read_object: Callable[[str], bytes],
    folder: Path | str,
    *,
    channel: str = "",
    text: str = "alt",
    test_share: float = 0.0,
) -> ExportReport:
    """Writes pictures and metadata like `export_catalog`: again and again into one folder, unchanged files left alone.

    `text` is the caption: `alt`, `alt.<locale>`, `rank_text`, `positive`, or a published column. `test_share` of the
    assets form a split of their own. Raises InputError besides when a picture has no such text.
    """
    entries = [replace(e, columns={**e.columns, _SPLIT: split_of(e, test_share)}) for e in entries]
    captions = {(e.asset_id, e.rank): caption_of(e, text) for e in entries}
    missing = sorted({asset_id for (asset_id, _), caption in captions.items() if not caption})
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise InputError(
            Problem(
                f"{len(missing)} assets have no {text!r} for a caption: {shown}",
                "set publish.alt and publish again, or choose another --text: alt.<locale>, rank_text, positive or a "
                "published column",
            )
        )
    splits = sorted({e.columns[_SPLIT] for e in entries})
    lists = {f"{split}/metadata.jsonl": partial(_metadata, split, captions) for split in splits}
    name = "{" + _SPLIT + "}/{id}_{rank}"
    return export_catalog(entries, read_object, folder, name=name, channel=channel, lists=lists)


def split_of(entry: CatalogEntry, test_share: float) -> str:
    """`train` or `test`, by the asset alone."""
    return "test" if int(entry.asset_key[:8], 16) < test_share * 2**32 else "train"


def caption_of(entry: CatalogEntry, text: str) -> str:
    """An entry's caption; empty where it has none."""
    if text == "alt" or text.startswith("alt."):
        return entry.alt.get(text.partition(".")[2], "")
    return str(getattr(entry, text) if text in _TEXTS else entry.columns.get(text) or "").strip()


def _metadata(split: str, captions: Mapping[tuple[str, int], str], lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A JSON line for every picture of a split."""
    out = []
    for line in lines:
        columns = dict(line["columns"])
        if columns.pop(_SPLIT) != split:
            continue
        row = {
            "file_name": line["file"].removeprefix(f"{split}/"),
            "text": captions[line["asset_id"], line["rank"]],
            **{n: line[n] for n in ("asset_id", "rank", "width", "height", "score", "seed", "model", "licence")},
        }
        row |= {f"column.{n}" if n in row else n: v for n, v in columns.items()}
        out.append(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n")
    return "".join(out).encode("utf-8", "replace")
