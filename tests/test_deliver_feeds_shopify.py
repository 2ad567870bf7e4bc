"""Shopify's product CSV: products, variants and pictures stand where its import looks for them."""

from __future__ import annotations

import csv
import io
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.deliver.feeds.items import Written, in_order
from assetmill.deliver.feeds.shopify import handle_of, write_shopify
from feed_samples import BASE, entry, feed, file

TITLE = {"Title": "{name}"}
VARIANTS = {
    "Title": "{style}",
    "Option1 name": "Colour",
    "Option1 value": "{colour}",
    "SKU": "{id}",
    "Price": "{price}",
}


def write(entries: Any, **spec: Any) -> tuple[list[dict[str, str]], Written]:
    out = io.BytesIO()
    written = write_shopify(in_order(entries), feed("shopify", **{"fields": TITLE, **spec}), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))
    assert len(rows) == written.num_rows
    return rows, written


def test_an_asset_is_a_product_with_its_pictures() -> None:
    """One handle, the texts in the first row only, every picture with position, address and alternative text."""
    rows, written = write([entry("MUG-1"), entry("MUG-1", 2), entry("hat")], locale="de")
    assert written.problems == ()
    assert list(rows[0]) == ["Title", "URL handle", "Product image URL", "Image position", "Image alt text"]
    assert [(r["URL handle"], r["Title"], r["Image position"]) for r in rows] == [
        ("mug-1", "Mug MUG-1", "1"), ("mug-1", "", "2"), ("hat", "Mug hat", "1"),
    ]  # fmt: skip
    assert rows[1]["Product image URL"] == f"{BASE}/published/shop/MUG-1/MUG-1_2-square.webp"
    assert rows[1]["Image alt text"] == "Bild von MUG-1"


def test_single_variants_are_called_as_shopify_calls_them() -> None:
    """Columns of a variant need its option: without options that is `Title`, `Default Title`."""
    rows, _ = write([entry("a"), entry("a", 2)], fields={**TITLE, "Price": "{price}", "Vendor": "Us"})
    assert list(rows[0])[:3] == ["Title", "URL handle", "Vendor"]
    assert (rows[0]["Option1 name"], rows[0]["Option1 value"], rows[0]["Price"]) == ("Title", "Default Title", "9.90")
    assert (rows[1]["Option1 name"], rows[1]["Price"], rows[1]["Vendor"]) == ("", "", "")


def test_assets_of_a_group_are_variants() -> None:
    """Rows of a product stand together however ids are ordered; each variant has its picture, positions go on."""
    entries = [
        entry("a", columns={"style": "mugs", "colour": "red", "price": "1"}),
        entry("b", columns={"style": "hats", "colour": "red", "price": "2"}),
        entry("c", columns={"style": "mugs", "colour": "blue", "price": "3"}),
        entry("a", 2, columns={"style": "mugs", "colour": "red", "price": "1"}),
        entry("d", columns={"style": "", "colour": "red", "price": "4"}),
    ]
    rows, written = write(entries, fields={**VARIANTS, "Title": "All {style}"}, group="{style}")
    assert written.problems == ()
    assert [(r["URL handle"], r["SKU"], r["Option1 value"], r["Image position"], r["Title"]) for r in rows] == [
        ("d", "d", "red", "1", "All"),
        ("hats", "b", "red", "1", "All hats"),
        ("mugs", "a", "red", "1", "All mugs"),
        ("mugs", "", "", "2", ""),
        ("mugs", "c", "blue", "3", ""),
    ]
    assert [bool(r["Variant image URL"]) for r in rows] == [True, True, True, False, True]
    assert rows[4]["Variant image URL"] == rows[4]["Product image URL"]


@pytest.mark.parametrize(
    ("bad", "column", "says"),
    [
        ({"columns": {"name": " ", "style": "s", "colour": "x"}}, "Title", "has no title"),
        ({"columns": {"name": "=1+1", "style": "s", "colour": "x"}}, "Title", "formula"),
        ({"alt": {"": "@x"}}, "Image alt text", "formula"),
        ({"alt": {"": "x" * 513}}, "Image alt text", "513"),
        ({"renditions": (file("bad", 1, media_type="image/tiff"),)}, "", "takes no image/tiff"),
        ({"renditions": (file("bad", 1, width=6000, height=6000),)}, "", "6000"),
        ({"renditions": (file("bad", 1, size=21 * 2**20),)}, "", "bytes"),
        ({"renditions": ()}, "", "has no file"),
    ],
)
def test_what_shopify_would_not_take_is_left_out_and_named(bad: dict[str, Any], column: str, says: str) -> None:
    """The asset is named with column and way out; the others go out."""
    rows, written = write([entry("bad", **bad), entry("good")])
    assert [r["URL handle"] for r in rows] == ["good"]
    assert written.num_left_out == 1
    (problem,) = written.problems
    assert problem.column == column
    assert "asset 'bad'" in problem.message
    assert says in problem.message
    assert problem.way_out


def test_a_bad_picture_leaves_the_asset_its_others() -> None:
    """What cannot be named is named as a problem; positions have no gap."""
    rows, written = write([entry("a"), entry("a", 2, renditions=()), entry("a", 3)])
    assert [r["Image position"] for r in rows] == ["1", "2"]
    assert (written.num_left_out, len(written.problems)) == (0, 1)


def test_variants_must_differ_and_products_agree() -> None:
    """Two variants of the same options, one without, and one whose product says otherwise."""
    red = {"style": "mugs", "colour": "red", "price": "1", "name": "Mug"}
    entries = [
        entry("a", columns=red),
        entry("b", columns=red),
        entry("c", columns={**red, "colour": ""}),
        entry("d", columns={**red, "colour": "blue", "name": "Cup"}),
    ]
    rows, written = write(entries, fields={**VARIANTS, "Description": "{name}"}, group="{style}")
    assert [r["SKU"] for r in rows] == ["a"]
    assert [p.column for p in written.problems] == ["Option1 value", "Option1 value", "Description"]
    assert written.num_left_out == 3


def test_handles_do_not_collide() -> None:
    """Ids that lose letters get digits of their hash; a given handle that is taken is a problem, not a merger."""
    rows, written = write([entry("mug 1"), entry("mug/1"), entry("mug-1")])
    assert written.problems == ()
    assert len({r["URL handle"] for r in rows}) == 3
    rows, written = write([entry("a"), entry("b")], fields={**TITLE, "URL handle": "{style}"})
    assert [r["URL handle"] for r in rows] == ["mugs"]
    assert written.problems[0].column == "URL handle"


@settings(max_examples=200, deadline=None)
@given(value=st.text(max_size=40))
def test_handles_are_what_a_url_may_hold(value: str) -> None:
    """Small letters, digits and hyphens, never empty, the same for equal values."""
    handle = handle_of(value)
    assert handle
    assert set(handle) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert handle == handle_of(value)
    assert not handle.startswith("-")


def test_pandas_opens_it() -> None:
    """Texts with commas, quotes and lines come back as they were."""
    out = io.BytesIO()
    name = 'A "large", red\nmug ä'
    write_shopify([entry("a", columns={"name": name})], feed("shopify", fields=TITLE), out)
    frame = pd.read_csv(io.BytesIO(out.getvalue()), dtype=str, keep_default_na=False)
    assert frame.iloc[0]["Title"] == name
