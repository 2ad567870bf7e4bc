"""Taking recalled variants out of a catalog: which rows bans cover, and what is left of their assets."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from assetmill.storage.bans import Bans
from assetmill.storage.table import Manifest, VersionedTable

if TYPE_CHECKING:
    import pyarrow as pa


def find_covered(table: VersionedTable, manifest: Manifest, bans: Bans) -> dict[str, set[int]]:
    """Asset keys and ranks of a version's rows that bans cover. Reads only the columns that these bans look at.

    Nothing is read of a version that says it was made under the same bans.
    """
    found: dict[str, set[int]] = {}
    if not bans or manifest.meta.get("bans") == bans.digest:
        return found
    for rows in table.iter_shards(manifest, ["asset_key", "rank", *bans.row_columns]):
        for key, rank, reason in zip(
            rows["asset_key"].to_pylist(), rows["rank"].to_pylist(), bans.reasons(rows), strict=True
        ):
            if reason:
                found.setdefault(key, set()).add(rank)
    return found


def what_is_left(table: VersionedTable, manifest: Manifest, covered: dict[str, set[int]]) -> tuple[pa.Table, set[str]]:
    """The rows that stay of assets with covered rows, and the keys of assets of which none stays."""
    import pyarrow as pa

    rows = table.read(manifest, shards_for=set(covered))
    pairs = zip(rows["asset_key"].to_pylist(), rows["rank"].to_pylist(), strict=True)
    left = rows.filter(pa.array([rank not in covered[key] for key, rank in pairs], pa.bool_()))
    return left, covered.keys() - set(left["asset_key"].to_pylist())


def rows_without(rows: pa.Table, asset_keys: Collection[str]) -> pa.Table:
    """The rows of a table that belong to none of these assets."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return rows.filter(pc.invert(pc.is_in(rows["asset_key"], value_set=pa.array(sorted(asset_keys), pa.string()))))


def concat_rows(first: pa.Table, second: pa.Table) -> pa.Table:
    """The rows of two tables with the same columns."""
    import pyarrow as pa

    return pa.concat_tables([first, second.select(first.column_names)])
