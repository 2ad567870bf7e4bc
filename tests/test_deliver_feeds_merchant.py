"""Google product data: well-formed, with every attribute it requires, and generated texts and pictures declared."""

from __future__ import annotations

import csv
import io
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.deliver.feeds.items import Written
from assetmill.deliver.feeds.merchant import MOST_ADDITIONAL, NAMESPACE, write_merchant_tsv, write_merchant_xml
from feed_samples import BASE, entry, feed, file

FIELDS = {
    "title": "{name}", "description": "A mug: {name}", "link": "https://shop.example/{id}", "price": "{price} EUR",
    "availability": "in_stock", "google_product_category": "2169",
}  # fmt: skip
G = f"{{{NAMESPACE}}}"


def write_xml(entries: Any, **spec: Any) -> tuple[list[Element], Written]:
    out = io.BytesIO()
    written = write_merchant_xml(entries, feed("merchant-xml", **spec), out)
    root = fromstring(out.getvalue())
    assert (root.tag, root.get("version")) == ("rss", "2.0")
    items = root.findall("channel/item")
    assert len(items) == written.num_rows
    return items, written


def write_tsv(entries: Any, **spec: Any) -> tuple[list[dict[str, str]], Written]:
    out = io.BytesIO()
    written = write_merchant_tsv(entries, feed("merchant-tsv", **spec), out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline=""), delimiter="\t"))
    assert len(rows) == written.num_rows
    return rows, written


def test_an_asset_is_an_item() -> None:
    """Its best picture is the image, the others additional ones; attributes lie in Google's namespace."""
    (mug, hat), written = write_xml([entry("M1"), entry("M1", 2), entry("M1", 3), entry("H1")], fields=FIELDS)
    assert written.problems == ()
    assert mug.findtext(f"{G}id") == "M1"
    assert mug.findtext(f"{G}title") == "Mug M1"
    assert mug.findtext(f"{G}price") == "9.90 EUR"
    assert mug.findtext(f"{G}image_link") == f"{BASE}/published/shop/M1/M1_1-square.webp"
    assert [e.text for e in mug.findall(f"{G}additional_image_link")] == [
        f"{BASE}/published/shop/M1/M1_{n}-square.webp" for n in (2, 3)
    ]
    assert hat.find(f"{G}additional_image_link") is None


def test_text_and_xml_say_the_same() -> None:
    """Both forms of one feed hold the same values."""
    entries = [entry("M1"), entry("M1", 2), entry("H,1", renditions=(file("H,1", 1),)), entry("H,1", 2)]
    items, _ = write_xml(entries, fields=FIELDS)
    rows, _ = write_tsv(entries, fields=FIELDS)
    for item, row in zip(items, rows, strict=True):
        for name in ("id", *FIELDS, "image_link"):
            assert row[name] == item.findtext(f"{G}{name}")
        more = [e.text for e in item.findall(f"{G}additional_image_link")]
        assert [u.replace("%252C", "%2C") for u in row["additional_image_link"].split(",")] == more


def test_generated_texts_are_declared() -> None:
    """As structured attributes with their digital source type; the plain attribute is not there."""
    spec = {"fields": FIELDS, "generated": ["title", "description"]}
    (item,), _ = write_xml([entry("M1")], **spec)
    assert item.find(f"{G}title") is None
    assert item.findtext(f"{G}structured_title/{G}digital_source_type") == "trained_algorithmic_media"
    assert item.findtext(f"{G}structured_title/{G}content") == "Mug M1"
    (row,), _ = write_tsv([entry("M1")], **spec)
    assert "title" not in row
    assert row["structured_title"] == "trained_algorithmic_media:Mug M1"
    assert row["structured_description"] == 'trained_algorithmic_media:"A mug: Mug M1"'


def test_supplemental_feeds_hold_ids_and_pictures() -> None:
    """For products that another feed describes; the id may be another column's."""
    rows, _ = write_tsv([entry("M1")], supplemental=True, fields={"id": "sku-{id}"})
    assert rows == [
        {"id": "sku-M1", "image_link": f"{BASE}/published/shop/M1/M1_1-square.webp", "additional_image_link": ""}
    ]


def test_no_more_pictures_than_google_takes() -> None:
    """The best ten beside the first."""
    (item,), _ = write_xml([entry("M1", n) for n in range(1, 15)], fields=FIELDS)
    assert len(item.findall(f"{G}additional_image_link")) == MOST_ADDITIONAL


@pytest.mark.parametrize(
    ("bad", "column", "says"),
    [
        ({"columns": {"name": "x", "price": ""}}, "price", ""),
        ({"columns": {"name": "", "price": "1"}}, "title", "requires"),
        ({"columns": {"name": "x" * 151, "price": "1"}}, "title", "157"),
        ({"columns": {"name": "+x", "price": "1"}}, "title", "formula"),
        ({"digital_source": ""}, "image_link", "digital source type"),
        ({"renditions": (file("bad", 1, media_type="image/avif"),)}, "", "image/avif"),
        ({"renditions": (file("bad", 1, width=64, height=64),)}, "", "64 × 64"),
        ({"renditions": ()}, "", "has no file"),
    ],
)
def test_what_google_would_refuse_is_left_out_and_named(bad: dict[str, Any], column: str, says: str) -> None:
    """The asset is named with attribute and way out; the others go out."""
    fields = {**FIELDS, "price": "{price}", "title": "{name}" if says != "157" else "A {name} mug"}
    rows, written = write_tsv([entry("bad", **bad), entry("good")], fields=fields)
    assert [r["id"] for r in rows] == ["good"]
    assert written.num_left_out == 1
    problem = written.problems[0]
    assert (problem.column, "asset 'bad'" in problem.message, bool(problem.way_out)) == (column, True, True)
    assert says in problem.message


def test_a_bad_picture_leaves_the_asset_its_others() -> None:
    """What cannot be named is named as a problem; the next in rank takes its place."""
    rows, written = write_tsv([entry("M1", renditions=()), entry("M1", 2)], fields=FIELDS)
    assert rows[0]["image_link"].endswith("M1_2-square.webp")
    assert (written.num_left_out, len(written.problems)) == (0, 1)


def test_ids_must_differ() -> None:
    """Two assets with the id of one product: the second is named."""
    rows, written = write_tsv([entry("a"), entry("b")], fields={**FIELDS, "id": "{style}"})
    assert [r["id"] for r in rows] == ["mugs"]
    assert written.problems[0].column == "id"


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_makes_a_whole_file(text: str) -> None:
    """Whatever a sheet holds, the XML is well-formed and a line of text is one line."""
    given = [entry("a", columns={"name": f"x{text}", "price": "1"})]
    out = io.BytesIO()
    write_merchant_xml(given, feed("merchant-xml", fields=FIELDS), out)
    (item,) = fromstring(out.getvalue()).findall("channel/item")
    out = io.BytesIO()
    write_merchant_tsv(given, feed("merchant-tsv", fields=FIELDS), out)
    assert out.getvalue().count(b"\n") == 2
    (row,) = csv.DictReader(io.StringIO(out.getvalue().decode(), newline=""), delimiter="\t")
    assert row["title"] == item.findtext(f"{G}title")
