"""Fills an index with synthetic rows, as a compaction would, without a segment per chunk.

By hand, the size the issue asks for:  python tests/storage_filled.py FOLDER [ASSETS]
"""

from __future__ import annotations

import gzip
import hashlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from assetmill.records import asset_key, record_line
from assetmill.storage.folder import FolderStore
from assetmill.storage.index import OK, Index, open_index
from assetmill.storage.store import Store
from storage_samples import candidate, finished, gate, outcome, request_of, score, sha


def fill_index(store: Store, config_name: str, num_assets: int, num_candidates: int) -> None:
    """Commits one version with `num_candidates` finished requests for each of `num_assets` assets.

    Request keys are `sha("request", asset number, candidate number)`, ids `asset-<number>`.
    """
    names = sorted((asset_key(f"asset-{n}"), n) for n in range(num_assets))
    old = request_of("template").key
    lines = [record_line(r) for r in finished("template", 1)[:1]]
    lines += [record_line(r) for r in (candidate(old), gate(old), gate(old, name="flat"), score(old))]
    text = "\n".join(lines)
    table = Index(store, config_name)._table

    def batches() -> Iterator[pa.Table]:
        for start in range(0, num_assets, 1000):
            columns: dict[str, list[object]] = {name: [] for name in table.schema.names}
            for name, n in names[start : start + 1000]:
                for c in range(num_candidates):
                    key = sha("request", n, c)
                    new = text.replace(old, key).replace(sha("blob", old, 0), sha("blob", key, 0))
                    row = (name, "request", bytes.fromhex(key), OK, None, new.encode())
                    for column, value in zip(columns.values(), row, strict=True):
                        column.append(value)
                line = record_line(outcome(f"asset-{n}", n)).encode()
                for column, value in zip(
                    columns.values(), (name, "outcome", bytes.fromhex(name), 0, line, None), strict=True
                ):
                    column.append(value)
            yield pa.table(columns, schema=table.schema)

    data = gzip.compress(b"", mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    file = f"{table.prefix}/segments/{digest}.txt.gz"
    store.put_if_absent(file, data)
    table.commit(batches(), base=0, meta={"segments": {"file": file, "sha256": digest, "count": 0}})


def main(folder: str, num_assets: int) -> None:
    store = FolderStore(Path(folder))
    if not list(store.list("index/measured/0")):
        fill_index(store, "measured", num_assets, 8)
    sizes = [i.size for i in store.list("index/measured/shards/")]
    keys = [bytes.fromhex(sha("request", a, n)) for a in range(num_assets) for n in range(8)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    statuses = open_index(store, "measured").statuses()
    read = time.perf_counter() - start
    start = time.perf_counter()
    found = sum(key in statuses for key in keys)
    print(f"{len(sizes)} files of {sum(sizes) >> 20} MiB; {len(statuses)} statuses in {read:.2f} s")
    print(f"{found} look-ups in {time.perf_counter() - start:.2f} s")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB, {before >> 10} before reading")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
