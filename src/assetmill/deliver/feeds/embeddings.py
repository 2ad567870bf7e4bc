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


def write_embeddings(
    entries: Iterable[CatalogEntry], vectors: Vectors, size: int, judge: str, out: IO[bytes]
) -> Written:
    """Writes vectors of `size` numbers; entries without one are left out and named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        [("asset_id", text), ("rank", pa.int32()), ("blob", text), ("master", text), ("judge", text),
         ("embedding", pa.list_(pa.float32(), size))]
    )  # fmt: skip
    omissions, count, waiting = Omissions(), 0, iter(entries)
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while batch := list(islice(waiting, _ROWS)):
            known, missing = vectors(batch)
            for entry in batch:
                if entry.master not in known:
                    reason = missing.get(entry.master, "it was not given")
                    omissions.note(entry.asset_id, [Problem(f"picture {entry.rank} has no embedding: {reason}")])
            rows = [
                {"asset_id": e.asset_id, "rank": e.rank, "blob": e.blob, "master": e.master, "judge": judge,
                 "embedding": known[e.master]}
                for e in batch
                if e.master in known
            ]  # fmt: skip
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return omissions.written(count)
