"""Plain feeds: other programs read them, spreadsheets run nothing in them, prompts stay inside, memory stays flat."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from dataclasses import replace
from typing import IO, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.deliver.feeds import plain
from assetmill.deliver.feeds.formats import FORMATS
from assetmill.deliver.feeds.items import Written, in_order
from feed_samples import BASE, entry, feed, file, many


def write(form: str, entries: Any, **spec: Any) -> tuple[bytes, Written]:
    out, given = io.BytesIO(), feed(form, **spec)
    writer = FORMATS[form].write
    assert writer is not None
    written = writer(entries, given, out)
    return out.getvalue(), written


ENTRIES = [
    entry("A1"),
    entry("A1", 2, score=None, commercial=None),
    entry("B2", renditions=(file("B2", 1), file("B2", 1, "game", "icon", width=64, height=64))),
]


def test_jsonl_has_a_row_for_every_file() -> None:
    """Every file of every variant, its address, its texts by locale, the columns that may leave; no prompt."""
    data, written = write("jsonl", ENTRIES, fields={"gtin": "00{colour}"}, locale="de")
    rows = [json.loads(line) for line in data.splitlines()]
    assert written.num_rows == len(rows) == 4
    assert rows[0]["url"] == f"{BASE}/published/shop/A1/A1_1-square.webp"
    assert (rows[0]["alt"], rows[0]["alt.de"], rows[0]["gtin"]) == ("Bild von A1", "Bild von A1", "00A1")
    assert rows[0]["columns"] == {"name": "Mug A1", "price": "9.90", "style": "mugs", "colour": "A1"}
    assert [(r["asset_id"], r["channel"], r["width"]) for r in rows[2:]] == [("B2", "shop", 800), ("B2", "game", 64)]
    assert b"secret" not in data


def test_channel_and_rendition_choose_files() -> None:
    """A feed of a channel names its files only."""
    data, written = write("jsonl", ENTRIES, channel="game", rendition="icon")
    assert written.num_rows == 1
    assert json.loads(data)["rendition"] == "icon"


def test_csv_opens_in_pandas_as_it_was() -> None:
    """Text by text what the catalog says, whatever a cell holds."""
    odd = 'comma, "quote"\nline and ä 漢'
    data, _ = write("csv", [entry("0001", columns={"name": odd, "price": "1E5", "style": "", "colour": "NA"})])
    assert data.startswith(b"\xef\xbb\xbf")
    frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    row = frame.iloc[0]
    assert (row["asset_id"], row["name"], row["price"], row["colour"]) == ("0001", odd, "1E5", "NA")
    assert (row["commercial"], row["score"], row["size"]) == ("true", "0.25", "5000")
    assert "secret" not in data.decode()


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_csv_runs_nothing(text: str) -> None:
    """No cell begins as a formula does, also behind spaces, in the header neither."""
    data, _ = write("csv", [entry("a", columns={"name": text}, alt={"": text})], fields={"=f": "{name}"})
    for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")):
        for cell in row:
            assert not cell.lstrip(" \u00a0\u3000").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_parquet_has_types_and_the_same_rows() -> None:
    """Numbers are numbers, nothing is nothing, and rows are those of the CSV."""
    data, written = write("parquet", ENTRIES)
    table = pq.read_table(io.BytesIO(data))
    assert table.num_rows == written.num_rows == 4
    rows = table.to_pylist()
    assert (rows[0]["score"], rows[1]["score"], rows[1]["commercial"]) == (0.25, None, None)
    frame = pd.read_csv(io.BytesIO(write("csv", ENTRIES)[0]), dtype=str, keep_default_na=False)
    assert list(frame.columns) == table.column_names
    assert list(frame["object_key"]) == [r["object_key"] for r in rows]


def test_a_column_of_a_known_name_stands_beside_it() -> None:
    """A sheet's column `rank` does not hide the catalog's; a field of the feed replaces what has its name."""
    given = replace(feed("csv", fields={"model": "ours"}), columns=("rank",))
    out = io.BytesIO()
    writer = FORMATS["csv"].write
    assert writer is not None
    writer([entry("a", columns={"rank": "gold"})], given, out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue().decode("utf-8-sig")))
    assert (row["rank"], row["column.rank"], row["model"]) == ("1", "gold", "ours")


def test_entries_from_before_renditions_have_their_master() -> None:
    """Their only file is the one under `object_key`."""
    old = entry("a", renditions=(), object_key="published/master/a/a-1.png")
    data, _ = write("jsonl", [old])
    row = json.loads(data)
    assert (row["channel"], row["rendition"], row["sha256"], row["size"]) == ("master", "image", old.master, None)


def test_entries_come_in_order() -> None:
    """By id and rank, whatever order the catalog keeps them in; with a key, by that first."""
    mixed = [entry("b"), entry("a", 2), entry("C"), entry("a", 10), entry("a", 1)]
    assert [(e.asset_id, e.rank) for e in in_order(mixed)] == [("C", 1), ("a", 1), ("a", 2), ("a", 10), ("b", 1)]
    assert next(in_order(mixed, lambda e: "0" if e.asset_id == "b" else "1")).asset_id == "b"
    assert list(in_order(mixed))[-1] == mixed[0]


class Sink(io.RawIOBase):
    """Counts what is written and keeps nothing."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "shopify", "merchant-tsv", "merchant-xml"])
def test_memory_stays_flat(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times the entries need hardly more memory: entries pass through one by one, Parquet's by batches."""
    monkeypatch.setattr(plain, "_ROWS", 64)
    wanted: dict[str, Any] = {"shopify": {"fields": {"Title": "{name}"}}}.get(form, {})
    if form.startswith("merchant"):
        wanted = {"supplemental": True}
    writer = FORMATS[form].write
    assert writer is not None

    def peak(count: int) -> int:
        sink: IO[bytes] = Sink()  # type: ignore[assignment]
        tracemalloc.start()
        try:
            assert writer(in_order(many(count)), feed(form, **wanted), sink).num_rows == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(100), peak(500)
    assert large - small < 300_000  # of more than 1 MB of entries' text
