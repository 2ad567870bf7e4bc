"""The embeddings file: a vector for every picture, typed, in the catalog's order; what has none is named."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq

from assetmill.deliver.feeds.embeddings import write_embeddings
from assetmill.storage.entries import CatalogEntry
from feed_samples import entry


def test_vectors_come_back() -> None:
    """Asset, rank, both hashes, the judge's key and the numbers as float32 of one length."""
    entries = [entry("a"), entry("a", 2), entry("b")]
    known = {e.master: np.arange(4, dtype=np.float32) + n for n, e in enumerate(entries) if e.asset_id == "a"}

    def vectors(batch: Sequence[CatalogEntry]) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
        return known, {e.master: "cannot be read" for e in batch if e.master not in known}

    out = io.BytesIO()
    written = write_embeddings(entries, vectors, "f" * 64, out)
    table = pq.read_table(io.BytesIO(out.getvalue()))
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    assert [(r["asset_id"], r["rank"], r["blob"], r["master"]) for r in table.to_pylist()] == [
        (e.asset_id, e.rank, e.blob, e.master) for e in entries[:2]
    ]
    assert table["embedding"].to_pylist()[1] == [1.0, 2.0, 3.0, 4.0]
    assert set(table["judge"].to_pylist()) == {"f" * 64}
    assert (written.num_rows, len(written.problems)) == (2, 1)
    assert "asset 'b': picture 1 has no embedding: cannot be read" in str(written.problems[0])


def test_an_empty_catalog_gives_an_empty_file() -> None:
    """Readable, with its columns and no rows."""
    out = io.BytesIO()
    assert write_embeddings([], lambda batch: ({}, {}), "f" * 64, out).num_rows == 0
    assert pq.read_table(io.BytesIO(out.getvalue())).num_rows == 0
