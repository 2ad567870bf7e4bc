"""Google product data, as Merchant Center reads it: tab-separated text, or RSS 2.0 with the `g:` namespace.

An asset is an item: its first picture is the `image_link`, those of higher rank are `additional_image_link`. Google
asks that pictures of generative models keep their IPTC DigitalSourceType in the file (published files have one), and
that texts a language model wrote are declared: they go out as `structured_title` and `structured_description`, and the
plain attribute is left out, as it would win. There is no attribute for alternative texts.

Source: Merchant Center Help, "Product data specification", "Structured title", "AI-generated content".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from assetmill.deliver.feeds.items import Feed, Item, Omissions, PictureRules, Written, formula_problem, item_of
from assetmill.records import Problem
from assetmill.storage.entries import CatalogEntry

NAMESPACE = "http://base.google.com/ns/1.0"
MOST_ADDITIONAL = 10
"""Additional pictures that an item may have; those of the best ranks are named."""

_GENERATED = "trained_algorithmic_media"
_PICTURES = PictureRules(
    "Google",
    ("image/png", "image/jpeg", "image/webp"),
    shortest_edge=100,
    num_pixels=64_000_000,
    largest=16 * 2**20,
)
_LONGEST: Mapping[str, int] = {"id": 50, "title": 150, "description": 5000, "link": 2000, "image_link": 2000}
"""Most characters of an attribute."""

_PLAIN: AttributesImpl[str] = AttributesImpl({})

Attributes = dict[str, str | tuple[str, ...] | Mapping[str, str]]
"""An item's attributes by name: a text, several, or sub-attributes."""


def write_merchant_tsv(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """Tab-separated text, UTF-8, one item a line; values hold neither tabs nor line ends."""
    text = io.TextIOWrapper(out, "utf-8", errors="replace", newline="", write_through=True)
    names = _names(feed)
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(names)
    omissions, count = Omissions(), 0
    for attributes in _items(entries, feed, omissions):
        writer.writerow([_flat(attributes.get(name, "")) for name in names])
        count += 1
    text.flush()
    text.detach()
    return omissions.written(count)


def write_merchant_xml(entries: Iterable[CatalogEntry], feed: Feed, out: IO[bytes]) -> Written:
    """An RSS 2.0 document, UTF-8, one item per asset."""
    xml = XMLGenerator(out, "utf-8", short_empty_elements=True)
    omissions, count = Omissions(), 0
    xml.startDocument()
    xml.startElement("rss", AttributesImpl({"version": "2.0", "xmlns:g": NAMESPACE}))
    xml.characters("\n")
    xml.startElement("channel", _PLAIN)
    about = {"title": feed.title, "link": feed.base_url, "description": f"Products of {feed.title}"}
    for name, text in about.items():
        _element(xml, name, text)
    for attributes in _items(entries, feed, omissions):
        xml.characters("\n")
        xml.startElement("item", _PLAIN)
        for name, value in attributes.items():
            for each in value if isinstance(value, tuple) else (value,):
                _element(xml, f"g:{name}", each)
        xml.endElement("item")
        count += 1
    xml.characters("\n")
    xml.endElement("channel")
    xml.endElement("rss")
    xml.characters("\n")
    xml.endDocument()
    return omissions.written(count)


def _items(entries: Iterable[CatalogEntry], feed: Feed, omissions: Omissions) -> Iterator[Attributes]:
    ids: set[str] = set()
    for asset_id, asset in groupby(entries, key=lambda e: e.asset_id):
        items = []
        for entry in asset:
            item = item_of(entry, feed)
            problems = [item] if isinstance(item, Problem) else list(_check_picture(item))
            omissions.note(asset_id, problems)
            if isinstance(item, Item) and not problems:
                items.append(item)
        if not items:
            omissions.leave_out(asset_id)
            continue
        items = items[: MOST_ADDITIONAL + 1]
        texts = {"id": asset_id} | {n: _clean(items[0].field(p)) for n, p in feed.spec.fields.items()}
        problems = _check_texts({**texts, "image_link": items[0].url}, feed)
        if texts["id"] in ids:
            problems.append(
                Problem("another item has this id", "make `id` tell them apart", column="id", value=texts["id"])
            )
        if problems:
            omissions.leave_out(asset_id, problems)
            continue
        ids.add(texts["id"])
        yield _attributes(texts, items, feed)


def _attributes(texts: Mapping[str, str], items: Sequence[Item], feed: Feed) -> Attributes:
    found: Attributes = {"id": texts["id"]}
    for name, value in texts.items():
        if name in feed.spec.generated:
            found[f"structured_{name}"] = {"digital_source_type": _GENERATED, "content": value}
        elif value:
            found[name] = value
    found["image_link"] = items[0].url
    if len(items) > 1:
        found["additional_image_link"] = tuple(i.url for i in items[1:])
    return found


def _names(feed: Feed) -> list[str]:
    """The columns of the text feed."""
    own = [f"structured_{n}" if n in feed.spec.generated else n for n in feed.spec.fields if n != "id"]
    return ["id", *own, "image_link", "additional_image_link"]


def _flat(value: str | tuple[str, ...] | Mapping[str, str]) -> str:
    """A value as text feeds write it: several separated by commas, sub-attributes by colons, quoted as need be."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ",".join(url.replace(",", "%2C") for url in value)
    return ":".join(_quoted(text) for text in value.values())


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(':"') else text


def _element(xml: XMLGenerator, name: str, value: str | Mapping[str, str]) -> None:
    xml.startElement(name, _PLAIN)
    if isinstance(value, str):
        xml.characters(value)
    else:
        for inner, text in value.items():
            _element(xml, f"g:{inner}", text)
    xml.endElement(name)


def _clean(text: str) -> str:
    """Without control characters, which XML cannot hold, and without line ends and tabs, which text feeds cannot."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())


def _check_picture(item: Item) -> Iterator[Problem]:
    if problem := _PICTURES.problem(item.file):
        yield problem
    if not item.entry.digital_source:
        yield Problem(
            "the file carries no digital source type, which Google asks for of generated pictures",
            "publish it again, which writes one",
            column="image_link",
        )


def _check_texts(texts: Mapping[str, str], feed: Feed) -> list[Problem]:
    problems = [p for name, value in texts.items() if (p := formula_problem(name, value))]
    needed = ("id",) if feed.spec.supplemental else ("id", *feed.spec.required)
    problems += [
        Problem("has no value, and Google requires one", "fill the columns of its pattern", column=name)
        for name in needed
        if not texts.get(name)
    ]
    problems += [
        Problem(f"has {len(texts[name])} characters, Google takes {most}", "shorten it", column=name, value=texts[name])
        for name, most in _LONGEST.items()
        if len(texts.get(name, "")) > most
    ]
    return problems
