"""The embeddings file: for every published picture the vector that the judge sees it as.

Parquet with `asset_id`, `rank`, `blob` (the candidate), `master` (the picture that was embedded), `judge` (the key of
the judge's weights and preprocessing) and `embedding`, a unit vector of float32 of one length. Vectors of one judge
compare by their dot product; those of two judges do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING

from assetmill.deliver.feeds.items import Omissions, Written
from assetmill.records import Problem
from assetmill.storage.entries import CatalogEntry

if TYPE_CHECKING:
    import numpy as np

Vectors = Callable[[Sequence[CatalogEntry]], tuple[Mapping[str, "np.ndarray"], Mapping[str, str]]]
"""Gives the vectors, float32 (D,), of some entries by the hash of their master, and why there is none."""

_ROWS = 512


def write_embeddings(entries: Iterable[CatalogEntry], vectors: Vectors, judge: str, out: IO[bytes]) -> Written:
    """Writes the vectors of entries, all of one length; entries without one are left out and named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def schema(kind: pa.DataType) -> pa.Schema:
        text = pa.string()
        names = {"asset_id": text, "rank": pa.int32(), "blob": text, "master": text, "judge": text, "embedding": kind}
        return pa.schema(list(names.items()))

    omissions, count, waiting = Omissions(), 0, iter(entries)
    writer: pq.ParquetWriter | None = None
    try:
        while batch := list(islice(waiting, _ROWS)):
            known, missing = vectors(batch)
            rows = []
            for e in batch:
                if e.master in known:
                    rows.append(
                        {"asset_id": e.asset_id, "rank": e.rank, "blob": e.blob, "master": e.master, "judge": judge,
                         "embedding": known[e.master]}
                    )  # fmt: skip
                else:
                    reason = missing.get(e.master, "it was not given")
                    omissions.note(e.asset_id, [Problem(f"picture {e.rank} has no embedding: {reason}")])
            if not rows:
                continue
            if writer is None:  # the vectors say how long they are
                length = len(next(iter(known.values())))
                writer = pq.ParquetWriter(out, schema(pa.list_(pa.float32(), length)), compression="zstd")
            writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
            count += len(rows)
        if writer is None:
            writer = pq.ParquetWriter(out, schema(pa.list_(pa.float32())), compression="zstd")
    finally:
        if writer is not None:
            writer.close()
    return omissions.written(count)
